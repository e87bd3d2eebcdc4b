//! Seeded random numbers: one generator for each named purpose, so that a draw more in one place moves no other.

use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// A ChaCha8 generator of one seed and one named stream.
///
/// The same seed and name give the same numbers on every machine.
#[derive(Debug, Clone)]
pub struct Rng {
    seed: u64,
    stream: u64,
    inner: ChaCha8Rng,
}

/// Where a generator stands; 24 bytes that a checkpoint keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RngState {
    seed: u64,
    stream: u64,
    /// Words of 32 bits drawn so far.
    position: u64,
}

impl Rng {
    /// The generator of a seed and a purpose ("init", "epoch 3", "dropout").
    pub fn new(seed: u64, stream: &str) -> Self {
        Self::at(seed, fnv1a(stream.as_bytes()))
    }

    fn at(seed: u64, stream: u64) -> Self {
        let mut inner = ChaCha8Rng::seed_from_u64(seed);
        inner.set_stream(stream);
        Self { seed, stream, inner }
    }

    /// Where the generator stands.
    pub fn state(&self) -> RngState {
        // 2^64 words are never drawn: at one a nanosecond they would last five centuries.
        RngState { seed: self.seed, stream: self.stream, position: self.inner.get_word_pos() as u64 }
    }

    /// A generator that goes on where [`Rng::state`] was taken.
    pub fn from_state(state: RngState) -> Self {
        let mut rng = Self::at(state.seed, state.stream);
        rng.inner.set_word_pos(u128::from(state.position));
        rng
    }

    /// 64 random bits; also a seed for [`crate::ops::dropout()`].
    pub fn next_u64(&mut self) -> u64 {
        self.inner.next_u64()
    }

    /// Uniform in `[0, 1)`, 53 bits.
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Standard normal (Box and Muller, 1958; the second value is not kept, so that the state stays a position).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// Uniform below `limit`; 0 when `limit` is 0.
    pub fn below(&mut self, limit: usize) -> usize {
        // A 64 x 64 bit product: its bias is below limit / 2^64.
        ((u128::from(self.next_u64()) * limit as u128) >> 64) as usize
    }

    /// Shuffles in place (Fisher and Yates).
    pub fn shuffle<T>(&mut self, values: &mut [T]) {
        for i in (1..values.len()).rev() {
            values.swap(i, self.below(i + 1));
        }
    }
}

/// FNV-1a: the stream of a name, the same on every machine and version.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_state_goes_on_where_it_was_taken() {
        let mut rng = Rng::new(7, "init");
        for _ in 0..1001 {
            rng.normal();
        }
        let text = serde_json::to_string(&rng.state()).unwrap();
        let mut again = Rng::from_state(serde_json::from_str(&text).unwrap());
        for _ in 0..100 {
            assert_eq!(rng.next_u64(), again.next_u64());
        }
    }

    #[test]
    fn streams_and_seeds_do_not_repeat_each_other() {
        let first = |seed, name| Rng::new(seed, name).next_u64();
        assert_eq!(first(1, "a"), first(1, "a"));
        assert_ne!(first(1, "a"), first(1, "b"));
        assert_ne!(first(1, "a"), first(2, "a"));
    }

    #[test]
    fn numbers_never_change_between_versions() {
        let mut rng = Rng::new(42, "golden");
        let drawn: Vec<u64> = (0..3).map(|_| rng.next_u64()).collect();
        assert_eq!(drawn, [13219497134826386224, 15712607297167470177, 7852087740441253258]);
    }

    #[test]
    fn normals_have_their_moments_and_uniforms_their_range() {
        let mut rng = Rng::new(3, "moments");
        let n = 100_000;
        let draws: Vec<f64> = (0..n).map(|_| rng.normal()).collect();
        let mean = draws.iter().sum::<f64>() / n as f64;
        let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n as f64;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
        assert!((0..n).all(|_| (0.0..1.0).contains(&rng.uniform())));
        assert!((0..n).all(|_| rng.below(3) < 3));
    }

    #[test]
    fn a_shuffle_is_a_permutation() {
        let mut values: Vec<usize> = (0..100).collect();
        Rng::new(1, "shuffle").shuffle(&mut values);
        assert_ne!(values, (0..100).collect::<Vec<_>>());
        values.sort_unstable();
        assert_eq!(values, (0..100).collect::<Vec<_>>());
        Rng::new(1, "shuffle").shuffle::<u8>(&mut []);
    }
}
