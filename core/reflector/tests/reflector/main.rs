//! What a reflector asks for and tells, against servers that answer well, badly, late or not at all.

mod cached;
mod driver;
mod failures;
mod ingress;
mod lists;
mod objects;
mod splitter;
mod watches;
