//! Benchmarks: each runs its baseline and ours in turns in one run.
