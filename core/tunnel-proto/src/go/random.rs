//! The generator of Go's `math/rand`: an additive lagged Fibonacci generator (x^607 + x^273 + 1) over 64 bits.

use std::sync::LazyLock;

const LENGTH: usize = 607;
const TAP: usize = 273;

/// The multiplicative congruential generator that fills the state: Lehmer's with the modulus 2^31 - 1.
const MODULUS: i64 = (1 << 31) - 1;
const MULTIPLIER: i64 = 48_271;

/// What stands for the seed 0, of which that generator would make nothing but zeros.
const ZERO_SEED: i64 = 89_482_311;

/// Draws of that generator before the first one that is used.
const WARM_UP: usize = 20;

/// Every seed's state is mixed with the state that the generator seeded with 1 has after so many steps.
const MIXED_STEPS: u64 = 7_800_000_000_000;

static MIXED: LazyLock<[u64; LENGTH]> = LazyLock::new(mixed);

/// A generator seeded as `rand.NewSource` does.
pub(super) struct Random {
    state: [u64; LENGTH],
    tap: usize,
    feed: usize,
}

impl Random {
    pub(super) fn new(seed: i64) -> Self {
        let mut state = fill(seed, 40, 20);
        for (word, mixed) in state.iter_mut().zip(MIXED.iter()) {
            *word ^= mixed;
        }
        Self { state, tap: 0, feed: LENGTH - TAP }
    }

    fn next(&mut self) -> u64 {
        self.tap = self.tap.checked_sub(1).unwrap_or(LENGTH - 1);
        self.feed = self.feed.checked_sub(1).unwrap_or(LENGTH - 1);
        let sum = self.state[self.feed].wrapping_add(self.state[self.tap]);
        self.state[self.feed] = sum;
        sum
    }

    /// As `Rand.Read`: seven bytes of each draw, the lowest first.
    pub(super) fn read<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        for chunk in out.chunks_mut(7) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
        out
    }
}

/// A state of three draws for each word, shifted so that they overlap.
fn fill(seed: i64, first: u32, second: u32) -> [u64; LENGTH] {
    let seed = match seed % MODULUS {
        0 => ZERO_SEED,
        seed if seed < 0 => seed + MODULUS,
        seed => seed,
    };
    let mut draws = seed as u64;
    let mut draw = || {
        draws = draws * MULTIPLIER as u64 % MODULUS as u64;
        draws
    };
    for _ in 0..WARM_UP {
        draw();
    }
    std::array::from_fn(|_| draw() << first ^ draw() << second ^ draw())
}

/// The state after [`MIXED_STEPS`], without taking them: the sum z(n) = z(n-607) + z(n-273) is linear, so z(N) is
/// the sum of the first 607 words weighted by the coefficients of x^N modulo x^607 - x^334 - 1.
fn mixed() -> [u64; LENGTH] {
    // In the order in which the generator replaces them: step k replaces word 334 - k, and begins anew at the end.
    let place = |index: usize, steps: usize| (3 * LENGTH - TAP - 1 - index - steps) % LENGTH;
    let start = fill(1, 20, 10);
    let mut words: Vec<u64> = (0..LENGTH).map(|index| start[place(index, 0)]).collect();
    for index in LENGTH..2 * LENGTH {
        words.push(words[index - LENGTH].wrapping_add(words[index - TAP]));
    }
    let weights = power(MIXED_STEPS);
    let turned = (MIXED_STEPS % LENGTH as u64) as usize;
    let mut state = [0; LENGTH];
    for index in 0..LENGTH {
        let terms = weights.iter().zip(&words[index..]).map(|(weight, word)| weight.wrapping_mul(*word));
        state[place(index, turned)] = terms.fold(0, u64::wrapping_add);
    }
    state
}

/// The coefficients of x^exponent, by squaring.
fn power(exponent: u64) -> Vec<u64> {
    let mut result = vec![0u64; LENGTH];
    result[0] = 1;
    for bit in (0..u64::BITS - exponent.leading_zeros()).rev() {
        let mut product = vec![0u64; 2 * LENGTH];
        let shift = usize::from(exponent >> bit & 1 == 1);
        for (low, left) in result.iter().enumerate().filter(|(_, left)| **left != 0) {
            for (sum, right) in product[low + shift..].iter_mut().zip(&result) {
                *sum = sum.wrapping_add(left.wrapping_mul(*right));
            }
        }
        for high in (LENGTH..2 * LENGTH).rev() {
            let value = product[high];
            product[high - LENGTH] = product[high - LENGTH].wrapping_add(value);
            product[high - TAP] = product[high - TAP].wrapping_add(value);
        }
        product.truncate(LENGTH);
        result = product;
    }
    result
}
