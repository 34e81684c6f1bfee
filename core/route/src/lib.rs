//! Decides where a connection goes, and what a peer may reach.

mod access;
mod admit;
mod candidates;
mod eligible;
mod explain;
mod reach;
mod router;
mod target;

pub use access::{Access, Direction, Observe, Outcome};
pub use admit::{Admission, Asker, admission, admit};
pub use candidates::{Candidates, Origin, candidates, candidates_from};
pub use explain::{Candidate, Explanation, Verdict};
pub use reach::{ProxyReason, Via, reach};
pub use router::{Conn, Decision, Router};
pub use target::{DialError, Hop, RejectReason, Target};
