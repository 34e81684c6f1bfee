//! Fixtures are lines: `node NAME`, `svc NAME VIP,… [local|outlocal|hash|affinity|external=IP,…|lb=IP,…|from=RANGE,…]`,
//! `port PORT/PROTOCOL [NODEPORT]`, and below a port its endpoints `ep ADDR:PORT [@NODE] [ready|notready|leaving]`. Of the host: `host ADDR`, `route PREFIX
//! [gateway|pods|overlay|filtered|discards]`, `noforward`, `filtered-bridges`, `path NODE KIND [ADDR]`, `range NODE PREFIX`.

mod compile;
mod connect;
mod diff;
mod fixture;
mod follow;
mod iptables;
mod kernel;
mod outer;
mod render;
