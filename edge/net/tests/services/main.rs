//! What Services at kernel speed need of netlink, with real packets in namespaces of the tests' own.

mod conntrack;
mod lan;
mod learned;
mod packets;
mod sets;
mod watch;
