//! The feed-forward block of a transformer as one op: its widest activations never become nodes of the graph.

use candle_core::Tensor;

use super::{check, composed};
use crate::error::Result;

/// `dropout(relu(x * up)) * down`.
///
/// # Shapes
/// x `[.., D]`, up `[D, F]`, down `[F, D]` -> `[.., D]`
///
/// # Errors
/// Shapes that do not fit; a probability outside `[0, 1)`.
pub fn feed_forward_relu(x: &Tensor, up: &Tensor, down: &Tensor, dropout: Option<(f32, u64)>) -> Result<Tensor> {
    const OP: &str = "feed_forward_relu";
    let width = check::last_dim(OP, "x", x)?;
    let (_, hidden) = check::matrix(OP, "up", up)?;
    check::shape(OP, "up", up, &[width, hidden])?;
    let (_, outputs) = check::matrix(OP, "down", down)?;
    check::shape(OP, "down", down, &[hidden, outputs])?;
    if let Some((p, _)) = dropout {
        check::drop_probability(OP, p)?;
    }
    composed::feed_forward_relu(x, up, down, dropout)
}
