//! The DNS server on real sockets of the loopback interface.

#[cfg(test)]
mod fixture;
mod forward;
#[cfg(test)]
mod listen;
#[cfg(test)]
mod namespace;
