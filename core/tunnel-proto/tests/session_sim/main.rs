//! Two sessions in virtual time: seeded histories of everything that carriers and applications do, and scenarios with
//! bounds. `EDGEMESH_HISTORIES` sets the number of histories, `EDGEMESH_SEED` runs one.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test that uses it")]

mod app;
mod draws;
mod history;
mod scenarios;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

/// What an ordinary run has time for.
const HISTORIES: u64 = 1500;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

#[test]
fn histories() {
    let seeds = match number("EDGEMESH_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("EDGEMESH_HISTORIES").unwrap_or(HISTORIES),
    };
    for seed in seeds {
        let outcome = catch_unwind(AssertUnwindSafe(|| history::run(seed)));
        assert!(outcome.is_ok(), "the history of EDGEMESH_SEED={seed} went wrong");
    }
}
