//! What the resolver answers, over a small world of Services.

mod cluster;
#[cfg(test)]
mod fixture;
mod forward;
mod properties;
mod wire;
