//! Normalisation.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::{check, composed, cpu, vector};
use crate::error::Result;

/// `x / sqrt(mean(x^2) + eps) * weight` over the last dimension (Zhang and Sennrich, arXiv:1910.07467).
///
/// # Shapes
/// x `[.., D]`, weight `[D]` -> `[.., D]`
///
/// # Errors
/// Shapes that do not fit.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let width = check::last_dim("rms_norm", "x", x)?;
    check::shape("rms_norm", "weight", weight, &[width])?;
    if width == 0 || !cpu::is_fused(&[x, weight]) {
        return composed::rms_norm(x, weight, eps);
    }
    Ok(x.contiguous()?.apply_op2(&weight.contiguous()?, RmsNorm { eps: eps as f32 })?)
}

/// `(x - mean) / sqrt(variance + eps) * weight + bias` over the last dimension (Ba et al., arXiv:1607.06450).
///
/// # Shapes
/// x `[.., D]`, weight `[D]`, bias `[D]` -> `[.., D]`
///
/// # Errors
/// Shapes that do not fit.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let width = check::last_dim("layer_norm", "x", x)?;
    check::shape("layer_norm", "weight", weight, &[width])?;
    check::shape("layer_norm", "bias", bias, &[width])?;
    if width == 0 || !cpu::is_fused(&[x, weight, bias]) {
        return composed::layer_norm(x, weight, bias, eps);
    }
    let op = LayerNorm { eps: eps as f32 };
    Ok(x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, op)?)
}

struct LayerNorm {
    eps: f32,
}

/// Mean, and `1 / sqrt(variance + eps)`.
#[inline(always)]
fn moments(row: &[f32], eps: f32) -> (f32, f32) {
    let mean = vector::sum(row) / row.len() as f32;
    let variance = vector::square_sum_around(row, mean) / row.len() as f32;
    (mean, 1.0 / (variance + eps).sqrt())
}

cpu::vectorised! {
    fn layer_forward(y: &mut [f32], x: &[f32], weight: &[f32], bias: &[f32], eps: f32) {
        let width = weight.len();
        for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
            let (mean, scale) = moments(x, eps);
            for ((y, x), (w, b)) in y.iter_mut().zip(x).zip(weight.iter().zip(bias)) {
                *y = (x - mean) * scale * w + b;
            }
        }
    }
}

cpu::vectorised! {
    /// Writes dx and returns the chunk's share of the gradients of weight and bias, one behind the other.
    fn layer_backward(dx: &mut [f32], x: &[f32], g: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
        let width = weight.len();
        let mut sums = vec![0.0; 2 * width];
        let (dw, db) = sums.split_at_mut(width);
        for ((dx, x), g) in dx.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(g.chunks_exact(width)) {
            let (mean, scale) = moments(x, eps);
            // With z = (x - mean) * scale: dx = scale * (g w - mean(g w) - z * mean(g w z))
            let (mut plain, mut along) = (0.0, 0.0);
            for (i, (x, g)) in x.iter().zip(g).enumerate() {
                let (z, push) = ((x - mean) * scale, g * weight[i]);
                dw[i] += g * z;
                db[i] += g;
                dx[i] = push;
                plain += push;
                along += push * z;
            }
            let (plain, along) = (plain / width as f32, along / width as f32);
            for (dx, x) in dx.iter_mut().zip(x) {
                *dx = scale * (*dx - plain - (x - mean) * scale * along);
            }
        }
        sums
    }
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (x, weight) = (cpu::slice(x, x_layout)?, cpu::slice(weight, weight_layout)?);
        let bias = cpu::slice(bias, bias_layout)?;
        let mut y = cpu::unfilled(x.len());
        cpu::fill_chunks(&mut y, cpu::row_chunk(weight.len()), |offset, y| {
            layer_forward(y, &x[offset..offset + y.len()], weight, bias, self.eps);
        });
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _y: &Tensor,
        g: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let g = g.contiguous()?;
        let (g_storage, g_layout) = g.storage_and_layout();
        let (x_storage, x_layout) = x.storage_and_layout();
        let (w_storage, w_layout) = weight.storage_and_layout();
        let (g, xs) = (cpu::values(&g_storage, g_layout)?, cpu::values(&x_storage, x_layout)?);
        let ws = cpu::values(&w_storage, w_layout)?;
        let mut dx = cpu::unfilled(xs.len());
        let chunk = cpu::row_chunk(ws.len());
        let chunks = dx.par_chunks_mut(chunk).zip(xs.par_chunks(chunk)).zip(g.par_chunks(chunk));
        let parts: Vec<Vec<f32>> = chunks.map(|((dx, x), g)| layer_backward(dx, x, g, ws, self.eps)).collect();
        let mut dw = cpu::sum_parts(parts, 2 * ws.len());
        let db = dw.split_off(ws.len());
        Ok((
            Some(cpu::tensor(dx, x.shape())?),
            Some(cpu::tensor(dw, weight.shape())?),
            Some(cpu::tensor(db, bias.shape())?),
        ))
    }
}

struct RmsNorm {
    eps: f32,
}

/// `1 / sqrt(mean(x^2) + eps)`.
#[inline(always)]
fn inverse_root(row: &[f32], eps: f32) -> f32 {
    1.0 / (vector::square_sum(row) / row.len() as f32 + eps).sqrt()
}

cpu::vectorised! {
    fn forward(y: &mut [f32], x: &[f32], weight: &[f32], eps: f32) {
        let width = weight.len();
        for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
            let scale = inverse_root(x, eps);
            for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
                *y = x * scale * w;
            }
        }
    }
}

cpu::vectorised! {
    /// Writes dx and returns the chunk's share of the weight's gradient.
    fn backward(dx: &mut [f32], x: &[f32], g: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
        let width = weight.len();
        let mut dw = vec![0.0; width];
        for ((dx, x), g) in dx.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(g.chunks_exact(width)) {
            let scale = inverse_root(x, eps);
            // dx = scale * (g w) - x * scale^3 / D * sum(g w x)
            for (((dx, dw), (x, g)), w) in dx.iter_mut().zip(&mut dw).zip(x.iter().zip(g)).zip(weight) {
                *dw += g * x * scale;
                *dx = g * w;
            }
            let pull = vector::dot(dx, x) * scale * scale * scale / width as f32;
            for (dx, x) in dx.iter_mut().zip(x) {
                *dx = *dx * scale - x * pull;
            }
        }
        dw
    }
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (x, weight) = (cpu::slice(x, x_layout)?, cpu::slice(weight, weight_layout)?);
        let mut y = cpu::unfilled(x.len());
        cpu::fill_chunks(&mut y, cpu::row_chunk(weight.len()), |offset, y| {
            forward(y, &x[offset..offset + y.len()], weight, self.eps);
        });
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _y: &Tensor,
        g: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let g = g.contiguous()?;
        let (g_storage, g_layout) = g.storage_and_layout();
        let (x_storage, x_layout) = x.storage_and_layout();
        let (w_storage, w_layout) = weight.storage_and_layout();
        let (g, xs) = (cpu::values(&g_storage, g_layout)?, cpu::values(&x_storage, x_layout)?);
        let ws = cpu::values(&w_storage, w_layout)?;
        let mut dx = cpu::unfilled(xs.len());
        let chunk = cpu::row_chunk(ws.len());
        let chunks = dx.par_chunks_mut(chunk).zip(xs.par_chunks(chunk)).zip(g.par_chunks(chunk));
        let parts: Vec<Vec<f32>> = chunks.map(|((dx, x), g)| backward(dx, x, g, ws, self.eps)).collect();
        let dw = cpu::sum_parts(parts, ws.len());
        Ok((Some(cpu::tensor(dx, x.shape())?), Some(cpu::tensor(dw, weight.shape())?)))
    }
}
