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

/// How a batch is cut: rows of a part, and parts that are computed side by side and held at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) part_rows: usize,
    pub(crate) at_once: usize,
}

impl Cut {
    /// Of a batch that is taken in `accumulation` turns. On the CPU the parts are always the network's own; a device
    /// takes a turn's rows together.
    pub(crate) fn new(network: &dyn Network, device: &Device, batch: usize, accumulation: usize) -> Self {
        let turns = accumulation.max(1);
        if !device.is_cpu() {
            return Self { part_rows: batch.div_ceil(turns).max(1), at_once: 1 };
        }
        let part_rows = network.part_rows().max(1);
        Self { part_rows, at_once: batch.div_ceil(part_rows).div_ceil(turns).max(1) }
    }
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

/// The mean loss over all targets of the parts, and its gradients; `noise` decides the dropout masks. Of the parts
/// `at_once` are held at a time; the sums do not depend on it.
///
/// # Errors
/// Whatever the device says. A loss that is not finite is returned, not refused.
pub(crate) fn gradients<P: Weighted>(
    params: &Params,
    parts: &[P],
    at_once: usize,
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
    let at_once = at_once.max(1);
    let mut value = 0.0;
    let mut sum: Option<GradStore> = None;
    for (turn, parts) in parts.chunks(at_once).enumerate() {
        let numbered = parts.par_iter().enumerate().map(|(at, part)| (turn * at_once + at, part));
        let found = numbered.map(of_part).collect::<Result<Vec<_>>>()?;
        value = found.iter().fold(value, |sum, (part, _)| sum + part);
        let mut found = found.into_iter().map(|(_, grads)| grads);
        let Some(first) = sum.take().or_else(|| found.next()) else { break };
        sum = Some(added(params, first, &found.collect::<Vec<_>>())?);
    }
    let Some(grads) = sum else {
        let mend = "this is a defect: report it";
        return Err(sidereal_core::Error::input("training step", "a batch without rows", mend).into());
    };
    Ok((value, grads))
}

/// Gradients and then others, added in their order.
fn added(params: &Params, mut grads: GradStore, others: &[GradStore]) -> Result<GradStore> {
    if others.is_empty() {
        return Ok(grads);
    }
    let sum = |var: &Tensor| -> Result<Option<Tensor>> {
        let mut parts = std::iter::once(&grads).chain(others).filter_map(|grads| grads.get(var));
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
    Ok(grads)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use sidereal_nn::params::Init;

    /// A row is a number x; its loss is the mean of (x w)^2 over w.
    struct Rows(Vec<f32>);

    impl Weighted for Rows {
        fn targets(&self) -> usize {
            self.0.len()
        }
    }

    fn step(numbers: &[f32], part_rows: usize, at_once: usize) -> (f64, Vec<f32>) {
        let mut params = Params::new(&Device::Cpu);
        let w = params.var("w", &[7], Init::Normal(1.0), &mut Rng::new(3, "w")).unwrap();
        let parts: Vec<Rows> = numbers.chunks(part_rows).map(|part| Rows(part.to_vec())).collect();
        let loss = |part: &Rows, _| -> Result<Tensor> {
            let x = Tensor::new(part.0.as_slice(), &Device::Cpu)?.unsqueeze(1)?;
            Ok(x.broadcast_mul(&w)?.sqr()?.mean_all()?)
        };
        let (value, grads) = gradients(&params, &parts, at_once, 1, loss).unwrap();
        (value, grads.get(&w).unwrap().to_vec1().unwrap())
    }

    #[test]
    fn turns_of_the_same_parts_change_no_bit() {
        let numbers: Vec<f32> = (0..37).map(|i| (i as f32 * 0.7).sin()).collect();
        let whole = step(&numbers, 4, usize::MAX);
        for at_once in [1, 2, 3, 9, 10] {
            assert_eq!(step(&numbers, 4, at_once), whole, "{at_once} parts at once");
        }
    }

    #[test]
    fn a_batch_in_other_parts_has_the_same_gradient_but_for_rounding() {
        let numbers: Vec<f32> = (0..37).map(|i| (i as f32 * 0.7).sin()).collect();
        let whole = step(&numbers, 37, 1);
        for part_rows in [1, 5, 10, 19] {
            let parts = step(&numbers, part_rows, 1);
            assert!((parts.0 - whole.0).abs() < 1e-6 * whole.0);
            assert!(parts.1.iter().zip(&whole.1).all(|(a, b)| (a - b).abs() <= 1e-6 + 1e-5 * b.abs()), "{part_rows}");
        }
    }
}
