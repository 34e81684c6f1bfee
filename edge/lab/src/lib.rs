//! A laboratory of network namespaces: sites, NATs, links, nodes and pods without root.

mod assertions;
mod cli;
mod control;
mod daemon;
mod demo;
mod lab;
mod manifests;
mod nat;
pub mod plan;
pub mod site;
mod state;
mod topology;

pub use cli::run;
