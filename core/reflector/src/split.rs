//! Cuts JSON that arrives in pieces into its values, so that no more than one object is held at a time.

/// Largest object. etcd refuses requests above 1.5 MiB (`--max-request-bytes`), and JSON is larger than what etcd keeps.
pub const MAX_OBJECT: usize = 4 << 20;

/// Largest value beside the items: `metadata` of a list, `message` of a Status.
const MAX_MEMBER: usize = 64 << 10;

/// Deepest nesting. Objects of the mesh's kinds nest a dozen levels; serde_json stops at 128.
const MAX_DEPTH: usize = 128;

/// Why a text is no JSON of the expected shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    /// It does not begin as a JSON object: HTML, most often.
    #[error("the answer is no JSON (a proxy or a portal answers instead of the API server)")]
    NotJson,
    /// It breaks the grammar.
    #[error("the answer is malformed JSON")]
    Malformed,
    /// One value is larger than anything an API server stores.
    #[error("an object is larger than {} MiB", MAX_OBJECT >> 20)]
    TooLarge,
    /// It nests deeper than any object.
    #[error("an object nests deeper than {MAX_DEPTH} levels")]
    TooDeep,
    /// It ends before its last bracket.
    #[error("the answer is cut off")]
    Truncated,
}

impl SplitError {
    /// The log word and metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotJson => "not_json",
            Self::Malformed => "malformed",
            Self::TooLarge => "too_large",
            Self::TooDeep => "too_deep",
            Self::Truncated => "truncated",
        }
    }
}

/// What the text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// One object whose member `items` is cut up (`ServiceList`), or that has none (`Status`).
    List,
    /// Objects one after the other (a watch).
    Stream,
}

/// Where in the text the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Before the first `{`, or between the objects of a stream.
    Start,
    /// Inside the outermost object: before a member's name.
    Name,
    /// Behind a member's name.
    Colon,
    /// Before a member's value.
    Value,
    /// Behind a member's value.
    Comma,
    /// Inside `items`: before an item.
    Item,
    /// Inside `items`: behind an item.
    ItemComma,
    /// Behind the outermost object of a list.
    End,
}

/// What the value that is being read is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Name,
    Member,
    Item,
    Object,
}

/// A value that is being read.
#[derive(Debug)]
struct Reading {
    r#use: Use,
    depth: usize,
    string: bool,
    escaped: bool,
    /// A number, `true`, `false` or `null`: it ends where something else begins.
    scalar: bool,
}

/// The members of a list besides its items, or of a Status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// `metadata`, as JSON.
    pub metadata: Vec<u8>,
    /// `kind`, as a JSON string.
    pub kind: Vec<u8>,
    /// `code` of a Status, as JSON.
    pub code: Vec<u8>,
    /// `reason` of a Status, as a JSON string.
    pub reason: Vec<u8>,
    /// `message` of a Status, as a JSON string.
    pub message: Vec<u8>,
    /// `details` of a Status, as JSON.
    pub details: Vec<u8>,
    /// Whether there was a member `items`.
    pub items: bool,
}

/// Cuts a text into values as its bytes come in; holds one value at a time.
#[derive(Debug)]
pub struct Splitter {
    shape: Shape,
    at: At,
    reading: Option<Reading>,
    /// The bytes so far of the value that is being read.
    held: Vec<u8>,
    name: Vec<u8>,
    members: Members,
}

impl Splitter {
    /// For the answer to a list: an object with `items`, or a Status.
    pub fn list() -> Self {
        Self::new(Shape::List)
    }

    /// For the answer to a watch: objects one after the other.
    pub fn stream() -> Self {
        Self::new(Shape::Stream)
    }

    fn new(shape: Shape) -> Self {
        Self {
            shape,
            at: At::Start,
            reading: None,
            held: Vec::new(),
            name: Vec::new(),
            members: Members::default(),
        }
    }

    /// Takes in bytes and calls `item` for each item or object that they complete.
    pub fn push(&mut self, bytes: &[u8], item: &mut impl FnMut(&[u8])) -> Result<(), SplitError> {
        let mut at = 0;
        while at < bytes.len() {
            at +=
                if self.reading.is_some() { self.read(&bytes[at..], item)? } else { self.begin(bytes[at])? };
        }
        Ok(())
    }

    /// Whether a value has begun that has not ended yet.
    pub fn is_inside(&self) -> bool {
        self.reading.is_some()
    }

    /// The members of the list, once its last byte was pushed.
    pub fn finish(self) -> Result<Members, SplitError> {
        let complete = match self.shape {
            Shape::List => self.at == At::End,
            Shape::Stream => self.at == At::Start && self.reading.is_none(),
        };
        if complete { Ok(self.members) } else { Err(SplitError::Truncated) }
    }

    /// Looks at one byte outside of values; how many bytes are done with.
    fn begin(&mut self, byte: u8) -> Result<usize, SplitError> {
        if byte.is_ascii_whitespace() {
            return Ok(1);
        }
        match (self.at, byte) {
            (At::Start, b'{') if self.shape == Shape::List => self.at = At::Name,
            (At::Start, b'{') => return self.start(Use::Object, byte),
            (At::Start, _) => return Err(SplitError::NotJson),
            (At::Name, b'"') => return self.start(Use::Name, byte),
            (At::Name | At::Comma, b'}') => self.at = At::End,
            (At::Colon, b':') => self.at = At::Value,
            (At::Value, b'[') if self.name == b"\"items\"" => {
                self.members.items = true;
                self.at = At::Item;
            }
            (At::Value, _) => return self.start(Use::Member, byte),
            (At::Comma, b',') => self.at = At::Name,
            (At::Item | At::ItemComma, b']') => self.at = At::Comma,
            (At::Item, _) => return self.start(Use::Item, byte),
            (At::ItemComma, b',') => self.at = At::Item,
            _ => return Err(SplitError::Malformed),
        }
        Ok(1)
    }

    fn start(&mut self, r#use: Use, byte: u8) -> Result<usize, SplitError> {
        if !matches!(byte, b'{' | b'[' | b'"' | b'-' | b'0'..=b'9' | b't' | b'f' | b'n') {
            return Err(SplitError::Malformed);
        }
        let scalar = !matches!(byte, b'{' | b'[' | b'"');
        self.held.clear();
        self.reading = Some(Reading { r#use, depth: 0, string: false, escaped: false, scalar });
        Ok(0)
    }

    /// Reads on in a value; how many bytes are done with.
    fn read(&mut self, bytes: &[u8], item: &mut impl FnMut(&[u8])) -> Result<usize, SplitError> {
        let Some(reading) = &mut self.reading else { return Ok(0) };
        let end = reading.scan(bytes)?;
        let piece = &bytes[..end.unwrap_or(bytes.len())];
        let limit = match reading.r#use {
            Use::Name | Use::Member => MAX_MEMBER,
            Use::Item | Use::Object => MAX_OBJECT,
        };
        if self.held.len() + piece.len() > limit {
            return Err(SplitError::TooLarge);
        }
        let (done, r#use) = (end.is_some(), reading.r#use);
        // A value that lies in one piece is not copied.
        let whole = done && self.held.is_empty() && matches!(r#use, Use::Item | Use::Object);
        if !whole {
            self.held.extend_from_slice(piece);
        }
        if done {
            self.reading = None;
            match r#use {
                Use::Item | Use::Object if whole => item(piece),
                Use::Item | Use::Object => item(&self.held),
                Use::Name => std::mem::swap(&mut self.name, &mut self.held),
                Use::Member => self.keep()?,
            }
            self.at = match r#use {
                Use::Name => At::Colon,
                Use::Member => At::Comma,
                Use::Item => At::ItemComma,
                Use::Object => At::Start,
            };
            self.held.clear();
        }
        Ok(piece.len())
    }

    fn keep(&mut self) -> Result<(), SplitError> {
        let slot = match self.name.as_slice() {
            b"\"metadata\"" => &mut self.members.metadata,
            b"\"kind\"" => &mut self.members.kind,
            b"\"code\"" => &mut self.members.code,
            b"\"reason\"" => &mut self.members.reason,
            b"\"message\"" => &mut self.members.message,
            b"\"details\"" => &mut self.members.details,
            // Go writes an empty list as `null` now and then; nothing else is one.
            b"\"items\"" if self.held == b"null" => {
                self.members.items = true;
                return Ok(());
            }
            b"\"items\"" => return Err(SplitError::Malformed),
            _ => return Ok(()),
        };
        slot.clone_from(&self.held);
        Ok(())
    }
}

impl Reading {
    /// The index behind the value's last byte, or `None` when it goes on.
    fn scan(&mut self, bytes: &[u8]) -> Result<Option<usize>, SplitError> {
        if self.scalar {
            return Ok(bytes.iter().position(|byte| !byte.is_ascii_alphanumeric() && !b"+-.".contains(byte)));
        }
        for (index, byte) in bytes.iter().enumerate() {
            if self.string {
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => {
                        self.string = false;
                        if self.depth == 0 {
                            return Ok(Some(index + 1));
                        }
                    }
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' => self.string = true,
                b'{' | b'[' => {
                    self.depth += 1;
                    if self.depth > MAX_DEPTH {
                        return Err(SplitError::TooDeep);
                    }
                }
                b'}' | b']' => {
                    let Some(depth) = self.depth.checked_sub(1) else { return Err(SplitError::Malformed) };
                    self.depth = depth;
                    if depth == 0 {
                        return Ok(Some(index + 1));
                    }
                }
                _ => {}
            }
        }
        Ok(None)
    }
}
