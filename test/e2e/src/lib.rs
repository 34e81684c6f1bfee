//! Tests of the real binary in network namespaces.
