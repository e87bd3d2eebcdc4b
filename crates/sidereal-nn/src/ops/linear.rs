//! Products with weights.

use candle_core::Tensor;

use super::{check, composed};
use crate::error::Result;

/// `x * weight`.
///
/// # Shapes
/// x `[.., I]`, weight `[I, O]` -> `[.., O]`
///
/// # Errors
/// Shapes that do not fit.
pub fn linear(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    check_linear("linear", x, weight)?;
    composed::linear(x, weight)
}

/// `x * weight + bias`.
///
/// # Shapes
/// x `[.., I]`, weight `[I, O]`, bias `[O]` -> `[.., O]`
///
/// # Errors
/// Shapes that do not fit.
pub fn linear_bias(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    check_linear("linear_bias", x, weight)?;
    check::shape("linear_bias", "bias", bias, &weight.dims()[1..])?;
    composed::linear_bias(x, weight, bias)
}

/// `x * table^T`: logits over a vocabulary whose embeddings are the head.
///
/// # Shapes
/// x `[.., D]`, table `[V, D]` -> `[.., V]`
///
/// # Errors
/// Shapes that do not fit.
pub fn tied_head(x: &Tensor, table: &Tensor) -> Result<Tensor> {
    let (_, width) = check::matrix("tied_head", "table", table)?;
    let last = check::last_dim("tied_head", "x", x)?;
    if last != width {
        let problem = format!("x has {last} features and the table {width}");
        return check::refuse("tied_head", problem, "give x the table's width");
    }
    composed::tied_head(x, table)
}

fn check_linear(op: &str, x: &Tensor, weight: &Tensor) -> Result<()> {
    let (inputs, _) = check::matrix(op, "weight", weight)?;
    let last = check::last_dim(op, "x", x)?;
    if last == inputs {
        return Ok(());
    }
    let problem = format!("x has {last} features, but the weight is {:?}", weight.dims());
    check::refuse(op, problem, "weights are [inputs, outputs]: give x as many features as the weight has inputs")
}
