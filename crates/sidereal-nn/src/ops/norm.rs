//! Normalisation.

use candle_core::Tensor;

use super::{check, composed};
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
    composed::rms_norm(x, weight, eps)
}
