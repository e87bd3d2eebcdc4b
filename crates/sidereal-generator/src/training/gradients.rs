//! Loss and gradients of one step, parts of the batch side by side.
//!
//! A small model's operations are too short to be worth splitting one by one, so the batch is: every part of
//! [`PART_ROWS`] rows goes forward and backward on one thread, and the parts' gradients are added in their order. The
//! parts do not depend on the number of threads, so neither do the bytes.

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;
use sidereal_nn::rng::Rng;

use crate::Result;
use crate::batches::Batch;
use crate::models::t5::{Dropout, T5};

/// Rows of a part on the CPU: enough for products to run at full speed.
const PART_ROWS: usize = 32;

/// How many rows a part has: a GPU takes the whole batch at once.
pub(crate) fn part_rows(device: &Device, batch: usize) -> usize {
    if device.is_cpu() { PART_ROWS } else { batch.max(1) }
}

/// The mean loss over all rows of the parts, and its gradients; `mask_seed` decides the dropout masks.
///
/// # Errors
/// Whatever the device says. A loss that is not finite is returned, not refused.
pub(crate) fn gradients(
    model: &T5,
    parts: &[Batch],
    label_smoothing: f32,
    dropout_rate: f32,
    mask_seed: u64,
) -> Result<(f64, GradStore)> {
    let rows: usize = parts.iter().map(|part| part.rows).sum();
    let of_part = |(number, part): (usize, &Batch)| -> Result<(f64, GradStore)> {
        let seed = Rng::new(mask_seed, &format!("part {number}")).next_u64();
        let loss = model.loss(part, label_smoothing, &Dropout::new(dropout_rate, seed))?;
        let share = part.rows as f64 / rows.max(1) as f64;
        let weighted = (loss * share)?;
        let value = f64::from(weighted.to_dtype(DType::F32)?.to_scalar::<f32>()?);
        Ok((value, weighted.backward()?))
    };
    let mut found = parts.par_iter().enumerate().map(of_part).collect::<Result<Vec<_>>>()?.into_iter();
    let Some((mut value, mut grads)) = found.next() else {
        let mend = "this is a defect: report it";
        return Err(sidereal_core::Error::input("training step", "a batch without rows", mend).into());
    };
    let others: Vec<(f64, GradStore)> = found.collect();
    value += others.iter().fold(0.0, |sum, (part, _)| sum + part);
    if !others.is_empty() {
        let sum = |var: &Tensor| -> Result<Option<Tensor>> {
            let mut parts =
                std::iter::once(&grads).chain(others.iter().map(|(_, grads)| grads)).filter_map(|g| g.get(var));
            let Some(first) = parts.next() else { return Ok(None) };
            Ok(Some(parts.try_fold(first.clone(), |sum, part| sum + part)?))
        };
        let vars = model.params().vars();
        let sums = vars.par_iter().map(|(_, var)| sum(var.as_tensor())).collect::<Result<Vec<_>>>()?;
        for ((_, var), total) in vars.iter().zip(sums) {
            if let Some(total) = total {
                grads.insert(var.as_tensor(), total);
            }
        }
    }
    Ok((value, grads))
}
