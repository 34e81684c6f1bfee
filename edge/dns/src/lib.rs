//! DNS sockets around the resolver.
