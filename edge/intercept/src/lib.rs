//! Brings the kernel to the ruleset, and removes exactly what it brought.
//!
//! [`Interceptor::install`] makes the device, [`Interceptor::apply`] brings table and routes to a [`Ruleset`] and reads
//! them back, [`Interceptor::verify`] repairs what somebody else changed, [`Interceptor::remove`] takes all of it away,
//! and [`cleanup()`] does the same for an agent that was killed. All calls block for the milliseconds that the kernel
//! takes, and work in the network namespace of the thread that called `install` or `cleanup`.
//!
//! nftables carries the rules where the kernel takes all of them, iptables elsewhere: [`Interceptor::backend`] says which
//! and why. iptables needs the programs `iptables-restore`, `iptables-save` and `ipset`. Where nf_tables cannot even look
//! at packets from bridges, Pods on them do not reach the listener while `bridge-nf-call-iptables` is on.
//!
//! [`Ruleset`]: edgemesh_ruleset::Ruleset

mod choice;
mod cleanup;
mod connect;
mod device;
mod error;
mod facts;
mod flows;
mod interceptor;
mod iptables;
mod nftables;
mod readback;
mod routes;
mod table;

pub use cleanup::{CleanupReport, cleanup};
pub use error::InterceptError;
pub use interceptor::{Applied, Change, Interceptor};
