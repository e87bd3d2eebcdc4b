//! Contrasts within a batch: every query tells its own key from the keys of the others.

use candle_core::{D, Tensor};
use sidereal_nn::ops::{self, CrossEntropy};

use crate::Result;

/// Added to the logit of a key that a query must not be told from.
pub(super) const BARRED: f32 = -1e9;
/// The target of a row that is left out.
pub(super) const NOBODY: u32 = u32::MAX;

/// The mean negative log-likelihood of key i for query i, over the queries that count (InfoNCE; van den Oord et al.,
/// arXiv 1807.03748). A key that does not count, or is `barred` to a query, is not among those that it is told from.
/// 0 when no query counts.
///
/// # Shapes
/// `logits`: [B, B], a row a query; `counts`: `[B]`
pub(super) fn contrast(
    logits: &Tensor,
    counts: &[bool],
    barred: impl Fn(usize, usize) -> bool,
    temperature: f32,
) -> Result<Tensor> {
    let n = counts.len();
    let mut bars = vec![0f32; n * n];
    for (query, row) in bars.chunks_exact_mut(n.max(1)).enumerate() {
        for (key, bar) in row.iter_mut().enumerate().filter(|&(key, _)| key != query) {
            if !counts[key] || barred(query, key) {
                *bar = BARRED;
            }
        }
    }
    let targets: Vec<u32> =
        counts.iter().enumerate().map(|(i, &counts)| if counts { i as u32 } else { NOBODY }).collect();
    masked_cross_entropy(logits, bars, targets, temperature)
}

/// Cross-entropy of logits to which bars were added; rows without a target are left out.
///
/// # Shapes
/// `logits` and `bars`: [B, V]; `targets`: `[B]`
pub(super) fn masked_cross_entropy(
    logits: &Tensor,
    bars: Vec<f32>,
    targets: Vec<u32>,
    temperature: f32,
) -> Result<Tensor> {
    let rows = targets.len();
    let targets = Tensor::from_vec(targets, rows, logits.device())?;
    let logits = match bars.iter().any(|&bar| bar != 0.0) {
        true => (logits + Tensor::from_vec(bars, logits.dims2()?, logits.device())?)?,
        false => logits.clone(),
    };
    ops::cross_entropy(&logits, &targets, &CrossEntropy { temperature, ignore: Some(NOBODY), ..Default::default() })
}

/// Rows of length 1; a row of zeros stays.
///
/// # Shapes
/// [B, d] to [B, d]
pub(super) fn unit(rows: &Tensor) -> Result<Tensor> {
    let lengths = (rows.sqr()?.sum_keepdim(D::Minus1)? + 1e-12)?.sqrt()?; // [B, 1]
    Ok(rows.broadcast_div(&lengths)?)
}

/// The sum of scalars; 0 of none.
pub(super) fn sum(losses: Vec<Tensor>, like: &Tensor) -> Result<Tensor> {
    let mut losses = losses.into_iter();
    let first = match losses.next() {
        Some(first) => first,
        None => Tensor::zeros((), like.dtype(), like.device())?,
    };
    losses.try_fold(first, |sum, loss| Ok((sum + loss)?))
}
