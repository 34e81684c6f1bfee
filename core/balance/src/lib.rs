//! Picks endpoints of a set: round robin, random, source hash, session persistence, and what just failed last.
//!
//! One [`Balancer`] serves the whole node. [`Balancer::pick`] answers which endpoints a connection tries in which
//! order; [`Balancer::feedback`] tells it how the tries went. Time and randomness come with the question.

mod balancer;
mod recent;

pub use balancer::{Ask, Balancer, Eligible, Feedback, MAX_CANDIDATES, Pick, PickCtx, Picks, PortKey};
pub use recent::Recent;
