//! A loss over the whole catalog, some rows at a time: the scores of all rows are never held together.
//!
//! Of a batch of long histories `[R, N]` scores are the largest tensor by far, and a backward pass over all of them holds
//! several such. A block's gradients are therefore taken as soon as its loss is there, and its scores forgotten. What
//! comes back is a tensor with the loss as its value and these gradients behind it, so that the rest of the network goes
//! backward as usual. No score is computed twice.

use std::ops::Range;

use candle_core::{Tensor, Var};

use crate::Result;

/// Scores of one block, about: 16 MiB.
const SCORES: usize = 1 << 22;
/// Rows of a block at least: fewer would make slow products.
const LEAST_ROWS: usize = 64;

/// Rows whose scores of all items are held together.
pub(super) fn block_rows(items: usize) -> usize {
    (SCORES / items.max(1)).max(LEAST_ROWS)
}

/// The mean of a loss over rows, `rows_at_once` at a time. `loss` is the mean over a block: of its states, of the
/// `shared` tensors that all rows look at, and of which rows it is; it may look at no other tensor that learns.
///
/// # Shapes
/// states `[R, E]` -> a scalar
///
/// # Errors
/// Whatever the device says.
pub(super) fn in_blocks(
    states: &Tensor,
    shared: &[&Tensor],
    rows_at_once: usize,
    loss: impl Fn(&Tensor, &[&Tensor], Range<usize>) -> Result<Tensor>,
) -> Result<Tensor> {
    let rows = states.dim(0)?;
    if rows <= rows_at_once {
        return loss(states, shared, 0..rows);
    }
    // Where the blocks' own graphs end.
    let ends = shared.iter().map(|tensor| Ok(Var::from_tensor(&tensor.detach())?)).collect::<Result<Vec<Var>>>()?;
    let ends: Vec<&Tensor> = ends.iter().map(Var::as_tensor).collect();
    let mut sums: Vec<Option<Tensor>> = vec![None; ends.len()];
    let (mut value, mut of_states) = (None, Vec::with_capacity(rows.div_ceil(rows_at_once)));
    for first in (0..rows).step_by(rows_at_once) {
        let count = rows_at_once.min(rows - first);
        let block = Var::from_tensor(&states.narrow(0, first, count)?.detach())?;
        let part = (loss(block.as_tensor(), &ends, first..first + count)? * (count as f64 / rows as f64))?;
        let mut grads = part.backward()?;
        of_states.push(match grads.remove(&block) {
            Some(gradient) => gradient,
            None => block.zeros_like()?,
        });
        for (sum, end) in sums.iter_mut().zip(&ends) {
            let gradient = grads.remove(end);
            *sum = match (sum.take(), gradient) {
                (Some(sum), Some(gradient)) => Some((sum + gradient)?),
                (one, other) => one.or(other),
            };
        }
        let part = part.detach();
        value = Some(match value {
            Some(value) => (value + part)?,
            None => part,
        });
    }
    let mut slope = (states * Tensor::cat(&of_states, 0)?.detach())?.sum_all()?;
    for (tensor, sum) in shared.iter().zip(sums) {
        if let Some(sum) = sum {
            slope = (slope + (*tensor * sum.detach())?.sum_all()?)?;
        }
    }
    // Nothing but a slope: its value is taken away.
    let slope = (&slope - slope.detach())?;
    Ok(match value {
        Some(value) => (value + slope)?,
        None => slope,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use candle_core::Device;
    use sidereal_nn::ops;
    use sidereal_nn::rng::Rng;

    #[test]
    fn blocks_have_the_loss_and_the_gradients_of_all_rows_together() {
        let mut rng = Rng::new(3, "blocks");
        let mut drawn = |shape: (usize, usize)| {
            let values: Vec<f32> = (0..shape.0 * shape.1).map(|_| rng.normal() as f32).collect();
            Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu).unwrap()).unwrap()
        };
        let (rows, items) = (23, 11);
        let (before, table, unused) = (drawn((rows, 6)), drawn((items, 6)), drawn((2, 2)));
        let targets: Vec<u32> = (0..rows as u32).map(|row| row * 5 % items as u32).collect();
        let of = |rows_at_once| {
            // What lies before the states and the table gets its gradients through them.
            let states = (before.as_tensor() * 2.0).unwrap();
            let vectors = table.as_tensor().sqr().unwrap();
            let loss = in_blocks(&states, &[&vectors, &unused], rows_at_once, |states, shared, rows| {
                let scores = ops::tied_head(states, shared[0])?;
                let targets = Tensor::new(&targets[rows], &Device::Cpu)?;
                ops::cross_entropy(&scores, &targets, &ops::CrossEntropy::default())
            })
            .unwrap();
            let grads = (&loss * 3.0).unwrap().backward().unwrap();
            let flat = |var: &Var| grads.get(var).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            (loss.to_scalar::<f32>().unwrap(), [flat(&before), flat(&table)].concat(), grads.get(&unused).is_some())
        };
        let (loss, gradients, _) = of(rows);
        assert!(gradients.iter().any(|gradient| gradient.abs() > 1e-3));
        for rows_at_once in [1, 7, 22] {
            let (value, found, unused) = of(rows_at_once);
            assert!((value - loss).abs() < 1e-5 * loss, "{value} {loss}");
            let close = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-6 + 1e-4 * b.abs();
            assert!(found.len() == gradients.len() && found.iter().zip(&gradients).all(close), "{rows_at_once}");
            assert!(!unused);
        }
    }
}
