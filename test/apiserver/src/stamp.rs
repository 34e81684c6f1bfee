//! What a server writes into the metadata of an object.

use std::hash::{BuildHasher as _, RandomState};
use std::time::{SystemTime, UNIX_EPOCH};

/// Numbers that differ in every life of a store.
#[derive(Debug)]
pub(crate) struct Uids {
    seed: RandomState,
    count: u64,
}

impl Uids {
    pub(crate) fn new() -> Self {
        Self { seed: RandomState::new(), count: 0 }
    }

    /// The next one, in the form of a UUID.
    pub(crate) fn next(&mut self) -> String {
        self.count += 1;
        let (high, low) = (self.seed.hash_one((self.count, 0)), self.seed.hash_one((self.count, 1)));
        format!(
            "{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}",
            high >> 32,
            high >> 16 & 0xffff,
            high & 0xfff,
            low >> 52,
            low & 0xffff_ffff_ffff
        )
    }
}

/// The time of day as Kubernetes writes it.
pub(crate) fn now() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    rfc3339(seconds)
}

fn rfc3339(seconds: u64) -> String {
    let (mut days, clock) = (seconds / 86_400, seconds % 86_400);
    let mut year = 1970;
    let leap = |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let mut month = 1;
    for length in [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let (hour, minute, second) = (clock / 3600, clock / 60 % 60, clock % 60);
    format!("{year:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}Z", days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_rfc_3339() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(seconds), expected, "{seconds}");
        }
    }

    #[test]
    fn uids_differ() {
        let (mut one, mut other) = (Uids::new(), Uids::new());
        let uids = [one.next(), one.next(), other.next(), other.next()];
        for (position, uid) in uids.iter().enumerate() {
            assert!(uid.len() == 36 && !uids[..position].contains(uid), "{uids:?}");
        }
    }
}
