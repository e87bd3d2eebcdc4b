//! Loss and gradients of one step, parts of the batch side by side.
//!
//! A small model's operations are too short to be worth splitting one by one, so the batch is: every part of
//! rows ([`Network::part_rows`]) goes forward and backward on one thread, and the parts' gradients are added in their order. The
//! parts do not depend on the number of threads, so neither do the bytes.

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;
use sidereal_nn::params::Params;
use sidereal_nn::rng::Rng;

use crate::Result;
use crate::network::{Network, Row};

/// How many rows a part has: a GPU takes the whole batch at once.
pub(crate) fn part_rows(network: &dyn Network, device: &Device, batch: usize) -> usize {
    if device.is_cpu() { network.part_rows().max(1) } else { batch.max(1) }
}

/// Some rows of a batch that go forward and backward together.
pub(crate) struct Part<'a> {
    /// The rows.
    pub(crate) rows: Vec<Row<'a>>,
    /// How many targets they have, which is what the mean is over.
    pub(crate) targets: usize,
}

/// What a part counts for in the mean.
pub(crate) trait Weighted: Sync {
    /// Its targets.
    fn targets(&self) -> usize;
}

impl Weighted for Part<'_> {
    fn targets(&self) -> usize {
        self.targets
    }
}

/// The mean loss over all targets of the parts, and its gradients; `noise` decides the dropout masks.
///
/// # Errors
/// Whatever the device says. A loss that is not finite is returned, not refused.
pub(crate) fn gradients<P: Weighted>(
    params: &Params,
    parts: &[P],
    noise: u64,
    loss: impl Fn(&P, u64) -> Result<Tensor> + Sync,
) -> Result<(f64, GradStore)> {
    let targets: usize = parts.iter().map(Weighted::targets).sum();
    let of_part = |(number, part): (usize, &P)| -> Result<(f64, GradStore)> {
        let noise = Rng::new(noise, &format!("part {number}")).next_u64();
        let share = part.targets() as f64 / targets.max(1) as f64;
        let weighted = (loss(part, noise)? * share)?;
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
        let vars = params.vars();
        let sums = vars.par_iter().map(|(_, var)| sum(var.as_tensor())).collect::<Result<Vec<_>>>()?;
        for ((_, var), total) in vars.iter().zip(sums) {
            if let Some(total) = total {
                grads.insert(var.as_tensor(), total);
            }
        }
    }
    Ok((value, grads))
}
