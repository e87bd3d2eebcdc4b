//! Losses.

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp2, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::embedding::id_slice;
use super::{check, composed, cpu, vector};
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
    let (rows, vocab) = check::matrix(OP, "logits", logits)?;
    check::shape(OP, "targets", targets, &[rows])?;
    check::ids(OP, "targets", targets)?;
    if !(args.temperature > 0.0 && args.temperature.is_finite()) {
        return check::refuse(OP, format!("the temperature is {}", args.temperature), "choose a positive one");
    }
    if !(0.0..=1.0).contains(&args.label_smoothing) {
        return check::refuse(OP, format!("label smoothing is {}", args.label_smoothing), "choose one in [0, 1]");
    }
    if vocab == 0 || !cpu::is_fused(&[logits]) || !targets.device().is_cpu() {
        return composed::cross_entropy(logits, targets, args);
    }
    let targets = targets.contiguous()?;
    let kept = check_targets(&targets.to_vec1::<u32>()?, vocab, args.ignore)?;
    let op = Fused { args: *args, kept, track: logits.track_op(), gradient: OnceLock::new() };
    Ok(logits.contiguous()?.apply_op2(&targets, op)?)
}

/// Checks all targets that count, and counts them.
fn check_targets(targets: &[u32], vocab: usize, ignore: Option<u32>) -> Result<usize> {
    let mut kept = 0;
    for (row, &target) in targets.iter().enumerate().filter(|(_, target)| Some(**target) != ignore) {
        if target as usize >= vocab {
            let problem = format!("target {target} of row {row} is outside the vocabulary of {vocab}");
            return check::refuse("cross_entropy", problem, "use targets of this vocabulary, or name it as `ignore`");
        }
        kept += 1;
    }
    Ok(kept)
}

struct Fused {
    args: CrossEntropy,
    kept: usize,
    track: bool,
    /// The loss's gradient by the logits, from the forward.
    gradient: OnceLock<Vec<f32>>,
}

/// Factors of one row.
#[derive(Clone, Copy)]
struct Row {
    inverse_temperature: f32,
    smoothing: f32,
    inverse_kept: f32,
}

cpu::vectorised! {
    /// The loss of one row; `p` becomes its gradient.
    fn row_loss(p: &mut [f32], x: &[f32], target: usize, row: Row) -> f64 {
        let top = vector::max(x) * row.inverse_temperature;
        for (p, x) in p.iter_mut().zip(x) {
            *p = vector::exp(x * row.inverse_temperature - top);
        }
        let sum = vector::sum(p);
        let log_sum = sum.ln() + top;
        let right = x[target] * row.inverse_temperature;
        let mut loss = f64::from(log_sum - right) * f64::from(1.0 - row.smoothing);
        let spread = row.smoothing / x.len() as f32;
        if row.smoothing > 0.0 {
            let mean = vector::sum(x) * row.inverse_temperature / x.len() as f32;
            loss += f64::from(log_sum - mean) * f64::from(row.smoothing);
        }
        let factor = row.inverse_kept * row.inverse_temperature;
        let scale = factor / sum;
        for p in p.iter_mut() {
            *p = *p * scale - spread * factor;
        }
        p[target] -= (1.0 - row.smoothing) * factor;
        loss
    }
}

impl CustomOp2 for Fused {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn cpu_fwd(
        &self,
        logits: &CpuStorage,
        logits_layout: &Layout,
        targets: &CpuStorage,
        targets_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (rows, vocab) = logits_layout.shape().dims2()?;
        let x = cpu::slice(logits, logits_layout)?;
        let targets = id_slice(targets, targets_layout)?;
        let factors = Row {
            inverse_temperature: 1.0 / self.args.temperature,
            smoothing: self.args.label_smoothing,
            inverse_kept: 1.0 / self.kept.max(1) as f32,
        };
        let one = |p: &mut [f32], row: usize| {
            if Some(targets[row]) == self.args.ignore {
                p.fill(0.0);
                return 0.0;
            }
            row_loss(p, &x[row * vocab..(row + 1) * vocab], targets[row] as usize, factors)
        };
        let mut losses = vec![0f64; rows];
        let per_task = cpu::row_chunk(vocab) / vocab;
        if self.track {
            let mut gradient = cpu::unfilled(x.len());
            let tasks = gradient.par_chunks_mut(per_task * vocab).zip(losses.par_chunks_mut(per_task)).enumerate();
            tasks.for_each(|(task, (p, losses))| {
                for (i, (p, loss)) in p.chunks_exact_mut(vocab).zip(losses).enumerate() {
                    *loss = one(p, task * per_task + i);
                }
            });
            self.gradient.get_or_init(|| gradient);
        } else {
            losses.par_chunks_mut(per_task).enumerate().for_each(|(task, losses)| {
                let mut p = cpu::unfilled(vocab);
                for (i, loss) in losses.iter_mut().enumerate() {
                    *loss = one(&mut p, task * per_task + i);
                }
            });
        }
        let mean = losses.iter().sum::<f64>() / self.kept.max(1) as f64;
        Ok((CpuStorage::F32(vec![mean as f32]), Shape::from(())))
    }

    fn bwd(
        &self,
        logits: &Tensor,
        _targets: &Tensor,
        _loss: &Tensor,
        g: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((Some(kept_gradient(self.name(), &self.gradient, logits, g)?), None))
    }
}

/// The gradient by its logits that a loss kept in its forward, times the gradient of the loss.
pub(super) fn kept_gradient(
    op: &str,
    gradient: &OnceLock<Vec<f32>>,
    logits: &Tensor,
    g: &Tensor,
) -> candle_core::Result<Tensor> {
    let Some(gradient) = gradient.get() else {
        candle_core::bail!("{op} was asked for a gradient that its forward did not expect")
    };
    let g = g.to_scalar::<f32>()?;
    let mut scaled = cpu::unfilled(gradient.len());
    cpu::fill_chunks(&mut scaled, cpu::CHUNK, |offset, scaled| {
        for (s, v) in scaled.iter_mut().zip(&gradient[offset..]) {
            *s = v * g;
        }
    });
    cpu::tensor(scaled, logits.shape())
}
