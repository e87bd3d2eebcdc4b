//! f32 on the CPU: slices of candle's storages, outputs that are not filled first, fixed chunks, products.
//!
//! Nothing here depends on the number of threads: work is cut into chunks and blocks by size alone, and sums over chunks
//! are added in their order.

use candle_core::{CpuStorage, DType, Device, Layout, Result, Shape, Storage, Tensor};
use rayon::prelude::*;

/// Elements that one task works on.
pub(crate) const CHUNK: usize = 1 << 15;

pub(crate) use crate::kernels::instructions::vectorised;

/// Whether all tensors are f32 on the CPU, where the fused kernels run.
pub(crate) fn is_fused(tensors: &[&Tensor]) -> bool {
    !super::composed::is_everywhere()
        && tensors.iter().all(|t| t.dtype() == DType::F32 && matches!(t.device(), Device::Cpu))
}

/// The elements of a contiguous storage.
pub(crate) fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => candle_core::bail!("a fused op was given a tensor that is not contiguous"),
    }
}

/// The elements of a contiguous storage, to be changed.
pub(crate) fn slice_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    match (layout.contiguous_offsets(), storage) {
        (Some((start, end)), CpuStorage::F32(values)) => Ok(&mut values[start..end]),
        _ => candle_core::bail!("an op in place was given a tensor that is not contiguous f32"),
    }
}

/// The elements of a contiguous tensor, from what [`Tensor::storage_and_layout`] gives.
pub(crate) fn values<'a>(storage: &'a Storage, layout: &Layout) -> Result<&'a [f32]> {
    match storage {
        Storage::Cpu(storage) => slice(storage, layout),
        _ => candle_core::bail!("a fused op was given a tensor on another device"),
    }
}

/// A vector whose elements the caller overwrites, all of them, before it reads one.
///
/// Filling with zeros first would be a third of the time of the small ops.
pub(crate) fn unfilled(count: usize) -> Vec<f32> {
    let mut values = Vec::with_capacity(count);
    // SAFETY: the capacity is there, f32 has no drop, and the callers, all in this module tree, write every element
    // before they read it.
    #[allow(clippy::uninit_vec)]
    unsafe {
        values.set_len(count);
    }
    values
}

/// A CPU tensor of these elements.
pub(crate) fn tensor(values: Vec<f32>, shape: &Shape) -> Result<Tensor> {
    Tensor::from_vec(values, shape, &Device::Cpu)
}

/// Fills `out` in chunks of `chunk` elements; `fill` gets the offset of its chunk. One chunk stays on this thread.
pub(crate) fn fill_chunks(out: &mut [f32], chunk: usize, fill: impl Fn(usize, &mut [f32]) + Sync) {
    if out.len() <= chunk {
        fill(0, out);
    } else {
        out.par_chunks_mut(chunk).enumerate().for_each(|(i, out)| fill(i * chunk, out));
    }
}

/// Elements of as many whole rows as make about one chunk.
pub(crate) fn row_chunk(width: usize) -> usize {
    (CHUNK / width.max(1)).max(1) * width.max(1)
}

/// Sums the columns of rows, chunk by chunk, in the order of the chunks.
pub(crate) fn column_sums(rows: &[f32], width: usize) -> Vec<f32> {
    let parts: Vec<Vec<f32>> = rows.par_chunks(row_chunk(width)).map(|rows| column_sums_chunk(rows, width)).collect();
    sum_parts(parts, width)
}

/// Adds vectors in their order.
pub(crate) fn sum_parts(parts: Vec<Vec<f32>>, width: usize) -> Vec<f32> {
    let mut parts = parts.into_iter();
    let mut sum = parts.next().unwrap_or_else(|| vec![0.0; width]);
    for part in parts {
        add(&mut sum, &part);
    }
    sum
}

vectorised! {
    fn column_sums_chunk(rows: &[f32], width: usize) -> Vec<f32> {
        let mut sums = vec![0.0; width];
        for row in rows.chunks_exact(width) {
            for (sum, v) in sums.iter_mut().zip(row) {
                *sum += v;
            }
        }
        sums
    }
}

vectorised! {
    /// `sum += values`.
    pub(crate) fn add(sum: &mut [f32], values: &[f32]) {
        for (sum, v) in sum.iter_mut().zip(values) {
            *sum += v;
        }
    }
}

/// `factor * tensor`.
pub(crate) fn scaled(tensor: &Tensor, factor: f64) -> Result<Tensor> {
    if !is_fused(&[tensor]) {
        return tensor.affine(factor, 0.0);
    }
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    let from = values(&storage, layout)?;
    let mut out = unfilled(from.len());
    fill_chunks(&mut out, CHUNK, |start, out| scale_chunk(out, &from[start..start + out.len()], factor as f32));
    self::tensor(out, tensor.shape())
}

vectorised! {
    fn scale_chunk(out: &mut [f32], from: &[f32], factor: f32) {
        for (out, from) in out.iter_mut().zip(from) {
            *out = factor * from;
        }
    }
}

/// The sum of squares of a tensor, in f64.
pub(crate) fn sum_of_squares(tensor: &Tensor) -> Result<f64> {
    if !is_fused(&[tensor]) {
        return tensor.sqr()?.sum_all()?.to_dtype(DType::F64)?.to_scalar::<f64>();
    }
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    let sums: Vec<f64> = values(&storage, layout)?.par_chunks(CHUNK).map(sum_of_squares_chunk).collect();
    Ok(sums.iter().sum())
}

vectorised! {
    fn sum_of_squares_chunk(values: &[f32]) -> f64 {
        let mut lanes = [0f64; 16];
        let chunks = values.chunks_exact(16);
        let rest = chunks.remainder();
        for chunk in chunks {
            for (lane, v) in lanes.iter_mut().zip(chunk) {
                *lane += f64::from(*v) * f64::from(*v);
            }
        }
        lanes.iter().sum::<f64>() + rest.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>()
    }
}
