//! Follows one kind of an API server: what to list, when to watch, how long to wait, and what an answer is worth.
//!
//! No I/O and no clock. `edge/metadata` sends the requests this crate asks for and feeds the bytes that come back:
//! [`Reflector::next`] says what to do; [`Reflector::list_item`] and [`Reflector::list_end`], or
//! [`Reflector::watch_event`] and [`Reflector::watch_end`], or [`Reflector::failed`] take in what came of it.
//! [`Splitter`] cuts an answer into objects while it arrives, so that no more than one object is held as text.

mod failure;
mod intern;
mod item;
mod reflector;
mod resource;
mod schedule;
mod split;
mod status;

pub use failure::{Failure, FailureReason};
pub use intern::Interner;
pub use item::{percent_encode, share};
pub use reflector::{Consistency, ListEnd, Reflector, ReflectorSpec, Request, Step, WatchFlow};
pub use resource::Resource;
pub use schedule::{MAX_BACKOFF, backoff};
pub use split::{MAX_OBJECT, Members, SplitError, Splitter};
pub use status::{KindState, KindStatus};
