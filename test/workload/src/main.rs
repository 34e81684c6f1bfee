//! Servers and clients that run as pods in the laboratory.

fn main() {}
