//! Everything that reads bytes from outside, callable on any bytes.
