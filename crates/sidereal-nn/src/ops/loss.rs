//! Losses.

use candle_core::Tensor;

use super::{check, composed};
use crate::error::Result;

/// How to score.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CrossEntropy {
    /// Share of the target that is spread over the whole vocabulary (Szegedy et al., arXiv:1512.00567).
    pub label_smoothing: f32,
    /// Divides the logits.
    pub temperature: f32,
    /// Rows with this target are left out (padding).
    pub ignore: Option<u32>,
}

impl Default for CrossEntropy {
    fn default() -> Self {
        Self { label_smoothing: 0.0, temperature: 1.0, ignore: None }
    }
}

/// Mean negative log-likelihood over the kept rows, a scalar; 0 when no row is kept.
///
/// # Shapes
/// logits `[N, V]`, targets `[N]` (u32) -> `[]`
///
/// # Errors
/// Shapes that do not fit, a target outside the vocabulary, a temperature that is not positive, a smoothing outside `[0, 1]`.
pub fn cross_entropy(logits: &Tensor, targets: &Tensor, args: &CrossEntropy) -> Result<Tensor> {
    const OP: &str = "cross_entropy";
    let (rows, _) = check::matrix(OP, "logits", logits)?;
    check::shape(OP, "targets", targets, &[rows])?;
    check::ids(OP, "targets", targets)?;
    if !(args.temperature > 0.0 && args.temperature.is_finite()) {
        return check::refuse(OP, format!("the temperature is {}", args.temperature), "choose a positive one");
    }
    if !(0.0..=1.0).contains(&args.label_smoothing) {
        return check::refuse(OP, format!("label smoothing is {}", args.label_smoothing), "choose one in [0, 1]");
    }
    composed::cross_entropy(logits, targets, args)
}
