//! Fixtures are lines: `node NAME`, `svc NAME VIP,… [local]`, `port NAME PORT/PROTOCOL`, and below a port its
//! endpoints `ep ADDR:PORT [@NODE] [ready|notready|leaving]`.

mod compile;
mod diff;
mod fixture;
mod follow;
mod render;
