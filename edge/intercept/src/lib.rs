//! Brings the kernel to the ruleset, and removes exactly what it brought.
