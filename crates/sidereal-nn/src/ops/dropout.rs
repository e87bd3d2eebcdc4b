//! Dropout (Srivastava et al., 2014) with a mask that is a function of seed and position: nothing is stored, the backward
//! computes it again, and every device and thread count drops the same elements.

use candle_core::Tensor;

use super::{check, composed};
use crate::error::Result;

/// Sets each element to 0 with probability `p` and scales the others by `1 / (1 - p)`; `p = 0` is the identity.
///
/// # Shapes
/// any -> the same
///
/// # Errors
/// A probability outside `[0, 1)`.
pub fn dropout(x: &Tensor, p: f32, seed: u64) -> Result<Tensor> {
    check::drop_probability("dropout", p)?;
    composed::dropout(x, p, seed)
}

/// `residual + dropout(x)` in one pass.
///
/// # Shapes
/// residual and x of one shape -> the same
///
/// # Errors
/// Shapes that differ; a probability outside `[0, 1)`.
pub fn add_dropout(residual: &Tensor, x: &Tensor, p: f32, seed: u64) -> Result<Tensor> {
    check::drop_probability("add_dropout", p)?;
    check::shape("add_dropout", "x", x, residual.dims())?;
    Ok((residual + composed::dropout(x, p, seed)?)?)
}

/// The mask that goes with a seed: 32 random bits for every element index.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mask {
    low: u32,
    high: u32,
    /// An element is dropped when its bits are below.
    threshold: u32,
    /// `1 / (1 - p)`.
    pub(crate) scale: f32,
}

impl Mask {
    /// The mask of a seed for the elements from `block << 32` on.
    pub(crate) fn new(p: f32, seed: u64, block: u64) -> Self {
        let key = split_mix(seed ^ split_mix(block));
        // f32 below 1 times 2^32 is below 2^32.
        let threshold = (f64::from(p) * 4_294_967_296.0) as u32;
        Self { low: key as u32, high: (key >> 32) as u32, threshold, scale: 1.0 / (1.0 - p) }
    }

    /// Whether element `index` (modulo 2^32) is kept. A bijection of the index, mixed with two keys of the seed, with the
    /// multipliers of MurmurHash3's finaliser.
    #[inline(always)]
    pub(crate) fn keeps(self, index: u32) -> bool {
        let mut x = index ^ self.low;
        x = (x ^ (x >> 16)).wrapping_mul(0x85eb_ca6b);
        x = (x ^ (x >> 13)).wrapping_add(self.high).wrapping_mul(0xc2b2_ae35);
        x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
        x ^ (x >> 16) >= self.threshold
    }
}

/// SplitMix64's finaliser (Steele et al., 2014).
fn split_mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// 1 where an element is kept, 0 where it is dropped.
pub(crate) fn keep_mask(count: usize, p: f32, seed: u64) -> Vec<u8> {
    let mut kept = Vec::with_capacity(count);
    for start in (0..count).step_by(super::cpu::CHUNK) {
        let mask = Mask::new(p, seed, start as u64 >> 32);
        let end = count.min(start + super::cpu::CHUNK);
        kept.extend((start..end).map(|i| u8::from(mask.keeps(i as u32))));
    }
    kept
}
