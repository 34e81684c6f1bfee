//! Interception against the running kernel, in namespaces of the test's own.

mod kernel;
mod rules;
mod survive;
mod traffic;
mod translated;
