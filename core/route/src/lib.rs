//! Decides where a connection goes, and what a peer may reach.

mod access;
mod admit;
mod eligible;
mod explain;
mod router;
mod target;

pub use access::{Access, Direction, Observe, Outcome};
pub use admit::admit;
pub use explain::{Candidate, Explanation, Verdict};
pub use router::{Conn, Decision, Router};
pub use target::{DialError, Hop, RejectReason, Target};
