//! The server, asked by a plain HTTP client.

mod control;
mod faults;
mod serving;
mod support;
mod tls;
mod watching;
