//! Sockets, netlink and namespaces: the only crate with `unsafe`, and the traits edge crates meet through.

pub mod bpf;
pub mod inotify;
pub mod limits;
pub mod meet;
pub mod netlink;
pub mod netns;
pub mod socket;
pub mod splice;
pub mod wire;
pub mod xtables;
