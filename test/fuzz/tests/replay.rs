//! Replays the committed corpus, and a bounded number of seeded mutations of it, through every target. What a longer
//! run of the fuzzer finds is committed to the corpus and stays found.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

/// Mutations of every corpus file: enough to walk through each length field and flip each of the first bytes.
const MUTATIONS: u32 = 400;

/// SplitMix64: a fixed stream, so that a failure replays.
struct Draws(u64);

impl Draws {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound.max(1)).unwrap()).unwrap()
    }
}

fn mutate(seed: &[u8], draws: &mut Draws) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=draws.below(3) {
        let at = draws.below(bytes.len());
        match draws.below(6) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at.min(bytes.len()), draws.next().to_le_bytes()[0]),
            2 if !bytes.is_empty() => bytes[at] ^= 1 << draws.below(8),
            3 if !bytes.is_empty() => bytes[at] = [0, 1, 0x7f, 0x80, 0xc0, 0xff][draws.below(6)],
            4 => {
                let tail = bytes[at.min(bytes.len())..].to_vec();
                bytes.extend(tail.into_iter().take(300));
            }
            _ if bytes.len() > 1 => {
                let other = draws.below(bytes.len());
                bytes.swap(at, other);
            }
            _ => {}
        }
    }
    bytes
}

#[test]
fn corpus_and_mutations_never_panic() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (name, target) in edgemesh_fuzz::TARGETS {
        let mut files: Vec<_> = fs::read_dir(corpus.join(name))
            .unwrap_or_else(|error| panic!("the corpus of {name}: {error}"))
            .map(|entry| entry.unwrap().path())
            .collect();
        files.sort();
        assert!(!files.is_empty(), "the corpus of {name} is empty");
        for file in files {
            let seed = fs::read(&file).unwrap();
            let mut draws = Draws(u64::try_from(seed.len()).unwrap());
            for round in 0..=MUTATIONS {
                let bytes = if round == 0 { seed.clone() } else { mutate(&seed, &mut draws) };
                assert!(
                    catch_unwind(|| target(&bytes)).is_ok(),
                    "{name} panics on mutation {round} of {}: {bytes:02x?}",
                    file.display()
                );
            }
        }
    }
}
