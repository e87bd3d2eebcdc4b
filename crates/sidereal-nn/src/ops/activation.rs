//! Activations.

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};

use super::{composed, cpu, vector};
use crate::error::Result;

/// `max(x, 0)`.
///
/// # Shapes
/// any -> the same
///
/// # Errors
/// A tensor that candle refuses.
pub fn relu(x: &Tensor) -> Result<Tensor> {
    if !cpu::is_fused(&[x]) {
        return Ok(x.relu()?);
    }
    Ok(x.contiguous()?.apply_op1(Activation { name: "relu", forward: relu_forward, backward: relu_backward })?)
}

/// The tanh form of GELU (Hendrycks and Gimpel, arXiv:1606.08415), as T5 v1.1 uses it.
///
/// # Shapes
/// any -> the same
///
/// # Errors
/// A tensor that candle refuses.
pub fn gelu_tanh(x: &Tensor) -> Result<Tensor> {
    if !cpu::is_fused(&[x]) {
        return composed::gelu_tanh(x);
    }
    let op = Activation { name: "gelu_tanh", forward: gelu_tanh_forward, backward: gelu_tanh_backward };
    Ok(x.contiguous()?.apply_op1(op)?)
}

/// `x * Phi(x)` with the normal distribution's Phi: the exact form of GELU, as BERT uses it.
///
/// # Shapes
/// any -> the same
///
/// # Errors
/// A tensor that candle refuses.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    if !cpu::is_fused(&[x]) {
        return composed::gelu(x);
    }
    Ok(x.contiguous()?.apply_op1(Activation { name: "gelu", forward: gelu_forward, backward: gelu_backward })?)
}

/// `x * sigmoid(x)`.
///
/// # Shapes
/// any -> the same
///
/// # Errors
/// A tensor that candle refuses.
pub fn silu(x: &Tensor) -> Result<Tensor> {
    if !cpu::is_fused(&[x]) {
        return composed::silu(x);
    }
    Ok(x.contiguous()?.apply_op1(Activation { name: "silu", forward: silu_forward, backward: silu_backward })?)
}

/// An element-wise op of one argument.
struct Activation {
    name: &'static str,
    /// y, x
    forward: fn(&mut [f32], &[f32]),
    /// dx, x, g
    backward: fn(&mut [f32], &[f32], &[f32]),
}

impl CustomOp1 for Activation {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let x = cpu::slice(x, layout)?;
        let mut y = cpu::unfilled(x.len());
        cpu::fill_chunks(&mut y, cpu::CHUNK, |offset, y| (self.forward)(y, &x[offset..offset + y.len()]));
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, g: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let g = g.contiguous()?;
        let (g_storage, g_layout) = g.storage_and_layout();
        let (x_storage, x_layout) = x.storage_and_layout();
        let (g, xs) = (cpu::values(&g_storage, g_layout)?, cpu::values(&x_storage, x_layout)?);
        let mut dx = cpu::unfilled(xs.len());
        cpu::fill_chunks(&mut dx, cpu::CHUNK, |offset, dx| {
            let range = offset..offset + dx.len();
            (self.backward)(dx, &xs[range.clone()], &g[range]);
        });
        Ok(Some(cpu::tensor(dx, x.shape())?))
    }
}

cpu::vectorised! {
    fn relu_forward(y: &mut [f32], x: &[f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            // Not `max`, which would turn NaN into 0.
            *y = if *x < 0.0 { 0.0 } else { *x };
        }
    }
}

cpu::vectorised! {
    fn relu_backward(dx: &mut [f32], x: &[f32], g: &[f32]) {
        for ((dx, x), g) in dx.iter_mut().zip(x).zip(g) {
            *dx = if *x > 0.0 { *g } else { 0.0 };
        }
    }
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + vector::exp(-x))
}

const TWO_ROOT_TWO_OVER_PI: f32 = 1.595_769;
const CUBIC: f32 = 0.044_715;

cpu::vectorised! {
    fn gelu_tanh_forward(y: &mut [f32], x: &[f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            // (1 + tanh(u)) / 2 is the sigmoid of 2u.
            *y = x * sigmoid(TWO_ROOT_TWO_OVER_PI * (x + CUBIC * x * x * x));
        }
    }
}

cpu::vectorised! {
    fn gelu_tanh_backward(dx: &mut [f32], x: &[f32], g: &[f32]) {
        for ((dx, &x), g) in dx.iter_mut().zip(x).zip(g) {
            let s = sigmoid(TWO_ROOT_TWO_OVER_PI * (x + CUBIC * x * x * x));
            let slope = TWO_ROOT_TWO_OVER_PI * (1.0 + 3.0 * CUBIC * x * x);
            *dx = g * (s + x * s * (1.0 - s) * slope);
        }
    }
}

/// `1 - Phi(|x|)` to 8e-8 (Abramowitz and Stegun, 7.1.26), and `e^(-x^2 / 2)`.
#[inline(always)]
fn tail(x: f32) -> (f32, f32) {
    let a = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * a);
    let p = t * (0.127_414_8 + t * (-0.142_248_36 + t * (0.710_706_9 + t * (-0.726_576 + t * 0.530_702_7))));
    let density = vector::exp(-a * a);
    (p * density, density)
}

cpu::vectorised! {
    fn gelu_forward(y: &mut [f32], x: &[f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            let (tail, _) = tail(x);
            *y = if x < 0.0 { x * tail } else { x - x * tail };
        }
    }
}

cpu::vectorised! {
    fn gelu_backward(dx: &mut [f32], x: &[f32], g: &[f32]) {
        // 1 / sqrt(2 pi)
        const SCALE: f32 = 0.398_942_3;
        for ((dx, &x), g) in dx.iter_mut().zip(x).zip(g) {
            let (tail, density) = tail(x);
            let phi = if x < 0.0 { tail } else { 1.0 - tail };
            *dx = g * (phi + x * density * SCALE);
        }
    }
}

cpu::vectorised! {
    fn silu_forward(y: &mut [f32], x: &[f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = x * sigmoid(x);
        }
    }
}

cpu::vectorised! {
    fn silu_backward(dx: &mut [f32], x: &[f32], g: &[f32]) {
        for ((dx, &x), g) in dx.iter_mut().zip(x).zip(g) {
            let s = sigmoid(x);
            *dx = g * s * (1.0 + x * (1.0 - s));
        }
    }
}
