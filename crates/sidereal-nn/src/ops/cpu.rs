//! f32 on the CPU: slices of candle's storages, outputs that are not filled first, fixed chunks, products.
//!
//! Nothing here depends on the number of threads: work is cut into chunks and blocks by size alone, and sums over chunks
//! are added in their order.

use candle_core::{CpuStorage, DType, Device, Layout, Result, Storage, Tensor};
use rayon::prelude::*;

/// Elements that one task works on.
pub(crate) const CHUNK: usize = 1 << 15;

/// Compiles a kernel twice, for any processor and for AVX2, and chooses at run time. Products and sums are not contracted,
/// so both give the same bytes.
macro_rules! vectorised {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn portable($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2")]
                fn avx2($($arg: $ty),*) $(-> $ret)? {
                    portable($($arg),*)
                }
                if std::arch::is_x86_feature_detected!("avx2") {
                    // SAFETY: the processor has AVX2, as just checked.
                    return unsafe { avx2($($arg),*) };
                }
            }
            portable($($arg),*)
        }
    };
}
pub(crate) use vectorised;

/// Whether all tensors are f32 on the CPU, where the fused kernels run.
pub(crate) fn is_fused(tensors: &[&Tensor]) -> bool {
    tensors.iter().all(|t| t.dtype() == DType::F32 && matches!(t.device(), Device::Cpu))
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

/// Reads the elements of a contiguous f32 tensor on the CPU.
pub(crate) fn read<R>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> R) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => Ok(f(slice(storage, layout)?)),
        _ => candle_core::bail!("a fused op was given a tensor on another device"),
    }
}

/// The sum of squares of a tensor, in f64.
pub(crate) fn sum_of_squares(tensor: &Tensor) -> Result<f64> {
    if !is_fused(&[tensor]) {
        return Ok(tensor.sqr()?.sum_all()?.to_dtype(DType::F64)?.to_scalar::<f64>()?);
    }
    read(&tensor.contiguous()?, |values| {
        let sums: Vec<f64> = values.par_chunks(CHUNK).map(sum_of_squares_chunk).collect();
        sums.iter().sum()
    })
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
