//! A node's source of objects against an API server and its faults: what worked goes on working, and what changed
//! meanwhile is right within seconds of the server's return.

mod access;
mod away;
mod fixture;
mod ingress;
mod kinds;
mod light;
mod link;
mod metaserver;
mod watches;
mod world;
