//! Compiles a snapshot into kernel rules as one comparable value.
