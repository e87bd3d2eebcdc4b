//! Activations.

use candle_core::Tensor;

use super::composed;
use crate::error::Result;

/// `max(x, 0)`.
///
/// # Shapes
/// any -> the same
///
/// # Errors
/// A tensor that candle refuses.
pub fn relu(x: &Tensor) -> Result<Tensor> {
    Ok(x.relu()?)
}

/// The tanh form of GELU (Hendrycks and Gimpel, arXiv:1606.08415), as T5 v1.1 uses it.
///
/// # Shapes
/// any -> the same
///
/// # Errors
/// A tensor that candle refuses.
pub fn gelu_tanh(x: &Tensor) -> Result<Tensor> {
    composed::gelu_tanh(x)
}

/// `x * sigmoid(x)`.
///
/// # Shapes
/// any -> the same
///
/// # Errors
/// A tensor that candle refuses.
pub fn silu(x: &Tensor) -> Result<Tensor> {
    composed::silu(x)
}
