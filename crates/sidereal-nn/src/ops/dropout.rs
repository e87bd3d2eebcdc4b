//! Dropout (Srivastava et al., 2014) with a mask that is a function of seed and position: nothing is stored, the backward
//! computes it again, and every device and thread count drops the same elements.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::{check, composed, cpu};
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
    if p == 0.0 {
        return Ok(x.clone());
    }
    if !cpu::is_fused(&[x]) {
        return composed::dropout(x, p, seed);
    }
    Ok(x.contiguous()?.apply_op1(Dropout { p, seed })?)
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
    if p == 0.0 {
        return Ok((residual + x)?);
    }
    if !cpu::is_fused(&[residual, x]) {
        return Ok((residual + composed::dropout(x, p, seed)?)?);
    }
    Ok(residual.contiguous()?.apply_op2(&x.contiguous()?, AddDropout(Dropout { p, seed }))?)
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
    let mut kept = vec![0u8; count];
    // A device waits for it, so all cores draw.
    kept.par_chunks_mut(cpu::CHUNK).enumerate().for_each(|(chunk, kept)| {
        let start = chunk * cpu::CHUNK;
        let mask = Mask::new(p, seed, start as u64 >> 32);
        kept.iter_mut().zip(start..).for_each(|(kept, i)| *kept = u8::from(mask.keeps(i as u32)));
    });
    kept
}

#[derive(Clone, Copy)]
struct Dropout {
    p: f32,
    seed: u64,
}

impl Dropout {
    /// `x` where it is kept, scaled, else 0. Forward and backward are the same function.
    fn run(self, x: &[f32]) -> Vec<f32> {
        let mut y = cpu::unfilled(x.len());
        cpu::fill_chunks(&mut y, cpu::CHUNK, |offset, y| {
            drop_into(y, &x[offset..offset + y.len()], self.mask(offset), offset as u32);
        });
        y
    }

    /// The mask of the chunk at an offset. Chunks divide 2^32, so one never spans two blocks.
    fn mask(self, offset: usize) -> Mask {
        Mask::new(self.p, self.seed, offset as u64 >> 32)
    }
}

cpu::vectorised! {
    fn drop_into(y: &mut [f32], x: &[f32], mask: Mask, first: u32) {
        for (i, (y, x)) in y.iter_mut().zip(x).enumerate() {
            *y = if mask.keeps(first.wrapping_add(i as u32)) { x * mask.scale } else { 0.0 };
        }
    }
}

cpu::vectorised! {
    fn add_dropped(y: &mut [f32], residual: &[f32], x: &[f32], mask: Mask, first: u32) {
        for (i, ((y, r), x)) in y.iter_mut().zip(residual).zip(x).enumerate() {
            *y = r + if mask.keeps(first.wrapping_add(i as u32)) { x * mask.scale } else { 0.0 };
        }
    }
}

impl CustomOp1 for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(self.run(cpu::slice(x, layout)?)), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, g: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let g = g.contiguous()?;
        let (storage, layout) = g.storage_and_layout();
        Ok(Some(cpu::tensor(self.run(cpu::values(&storage, layout)?), x.shape())?))
    }
}

struct AddDropout(Dropout);

impl CustomOp2 for AddDropout {
    fn name(&self) -> &'static str {
        "add_dropout"
    }

    fn cpu_fwd(
        &self,
        residual: &CpuStorage,
        residual_layout: &Layout,
        x: &CpuStorage,
        x_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (residual, x) = (cpu::slice(residual, residual_layout)?, cpu::slice(x, x_layout)?);
        let mut y = cpu::unfilled(x.len());
        cpu::fill_chunks(&mut y, cpu::CHUNK, |offset, y| {
            let range = offset..offset + y.len();
            add_dropped(y, &residual[range.clone()], &x[range], self.0.mask(offset), offset as u32);
        });
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        residual: &Tensor,
        x: &Tensor,
        y: &Tensor,
        g: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let dx = if x.track_op() { CustomOp1::bwd(&self.0, x, y, g)? } else { None };
        Ok((residual.track_op().then(|| g.clone()), dx))
    }
}
