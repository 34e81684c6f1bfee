//! Interception against the running kernel, in namespaces of the test's own.

mod connect;
mod iptables;
mod kernel;
mod mixed;
mod rules;
mod survive;
mod traffic;
mod translated;
