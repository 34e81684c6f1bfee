use edgemesh_api::Kind;

use crate::Failure;

/// How a kind is followed at this moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KindState {
    /// Nothing was heard yet.
    #[default]
    Starting,
    /// The first list is under way, or lists are all there is: a watch could do harm.
    Listing,
    /// Changes come by a watch.
    Watching,
    /// The last attempt failed; what is known is kept.
    Failing,
    /// The server does not have the kind; asked again slowly.
    Absent,
    /// The role does not allow it; asked again slowly.
    Forbidden,
    /// The server answers with a list that says nothing: what is known is kept.
    Unknown,
    /// Another kind serves in its place.
    Unused,
}

impl KindState {
    /// The word for status, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Listing => "listing",
            Self::Watching => "watching",
            Self::Failing => "failing",
            Self::Absent => "absent",
            Self::Forbidden => "forbidden",
            Self::Unknown => "unknown",
            Self::Unused => "unused",
        }
    }
}

/// How a kind is followed, for status and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KindStatus {
    /// The kind.
    pub kind: Kind,
    /// The state.
    pub state: KindState,
    /// Why, when it fails.
    pub failure: Option<Failure>,
    /// Attempts in a row that failed.
    pub failures: u32,
    /// Objects of the last complete listing.
    pub listed: usize,
    /// Complete listings.
    pub lists: u64,
    /// Events that changed or deleted an object.
    pub events: u64,
    /// Events without an object, of an unknown type, or with an object that cannot be decoded.
    pub odd_events: u64,
    /// Objects that a list had in a form that cannot be true, and that stay as they were known.
    pub corrupt: u64,
    /// Changes that a listing showed and the watch before it had not told.
    pub missed: u64,
    /// The last object that could not be decoded, with the reason.
    pub undecodable: Option<String>,
}

impl KindStatus {
    /// Nothing heard yet.
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            state: KindState::Starting,
            failure: None,
            failures: 0,
            listed: 0,
            lists: 0,
            events: 0,
            odd_events: 0,
            corrupt: 0,
            missed: 0,
            undecodable: None,
        }
    }
}
