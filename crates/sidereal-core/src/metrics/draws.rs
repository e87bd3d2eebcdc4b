//! Random draws for resampling.
//!
//! SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): a counter that steps by the golden ratio and is then mixed. Every
//! resample has its own stream, so resamples can be drawn in any order, on any thread, with the same result.

/// A stream of 64-bit draws.
pub(super) struct Draws(u64);

impl Draws {
    /// The stream of resample `number` under `seed`.
    pub(super) fn new(seed: u64, number: u64) -> Self {
        // Both pass the mixer, so that neighbouring seeds and numbers begin far apart.
        Self(mix(seed).wrapping_add(mix(number.wrapping_mul(GOLDEN) ^ 0x5bf0_3635_1c6e_a1b5)))
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        mix(self.0)
    }

    /// A draw below `n`, by the high half of a product: its bias is below n / 2^64.
    pub(super) fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_is_splitmix64() {
        // The published first outputs for state 1234567.
        let mut draws = Draws(1_234_567);
        let first = [draws.next(), draws.next(), draws.next()];
        assert_eq!(first, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn draws_below_n_are_even_and_streams_differ() {
        let mut counts = [0u32; 7];
        let mut draws = Draws::new(3, 0);
        (0..70_000).for_each(|_| counts[draws.below(7)] += 1);
        assert!(counts.iter().all(|&count| count.abs_diff(10_000) < 400), "{counts:?}");
        let firsts: std::collections::HashSet<u64> =
            (0..100).flat_map(|seed| (0..100).map(move |number| Draws::new(seed, number).next())).collect();
        assert_eq!(firsts.len(), 10_000);
    }
}
