//! Bytes around the router: TCP connections and UDP sessions.
