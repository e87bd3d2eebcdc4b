//! bf16: the upper half of an f32, 8 bits of significand.
//!
//! Rounding to the nearest changes a value by at most 2^-8 of it, and by 2^-9.3 in the root mean square. The product adds
//! in f32. Its instruction takes two neighbouring elements at a time, treats subnormal numbers as zero and rounds to
//! nearest, so a sum of D products is off by at most (D + 2) 2^-24 of the sum of their magnitudes, plus one smallest
//! normal number for each that underflows.

use super::instructions::vectorised;

/// The nearest bf16, ties to even; subnormal numbers become zero.
#[inline(always)]
pub fn rounded(value: f32) -> u16 {
    let bits = value.to_bits();
    let nearest = (bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16;
    if bits & 0x7f80_0000 == 0 { 0 } else { nearest }
}

/// The f32 that a bf16 stands for.
#[inline(always)]
pub fn widened(value: u16) -> f32 {
    f32::from_bits(u32::from(value) << 16)
}

/// Two neighbours in the word that a kernel reads.
#[inline(always)]
pub(crate) fn word(first: f32, second: f32) -> u32 {
    let ([a, b], [c, d]) = (rounded(first).to_ne_bytes(), rounded(second).to_ne_bytes());
    u32::from_ne_bytes([a, b, c, d])
}

/// The two neighbours of a word.
#[inline(always)]
pub(crate) fn of_word(word: u32) -> [f32; 2] {
    let [a, b, c, d] = word.to_ne_bytes();
    [widened(u16::from_ne_bytes([a, b])), widened(u16::from_ne_bytes([c, d]))]
}

vectorised! {
    /// Rounds a row; what `out` has beyond it becomes 0.
    pub(crate) fn round_row(out: &mut [u16], row: &[f32]) {
        let (head, tail) = out.split_at_mut(row.len());
        for (out, value) in head.iter_mut().zip(row) {
            *out = rounded(*value);
        }
        tail.fill(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_takes_the_nearest_and_ties_to_even() {
        for (value, want) in [
            (1.0, 1.0),
            (1.0 + 1.0 / 256.0, 1.0),
            (1.0 + 3.0 / 256.0, 1.0 + 4.0 / 256.0),
            (1.0 + 1.01 / 256.0, 1.0 + 2.0 / 256.0),
            (-3.0e-39, 0.0),
            (0.0, 0.0),
            (3.4e38, f32::INFINITY),
        ] {
            assert_eq!(widened(rounded(value)), want, "{value}");
        }
        assert!(widened(rounded(f32::NAN)).is_nan());
        assert_eq!(of_word(word(1.5, -2.0)), [1.5, -2.0]);
    }
}
