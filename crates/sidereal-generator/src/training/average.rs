//! Averaged weights: a running mean of all steps' weights, which validations ask and the generator is.
//!
//! Steps of a noisy gradient walk around a minimum; their mean is nearer to it than the last of them. After each step the
//! mean keeps a share d of what it was and takes 1 - d of the weights. d rises with the steps, min(decay, (1 + t) /
//! (10 + t)), so that the first weights, which are drawn, are soon forgotten.
//!
//! *Source*: Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", 1992; as an exponential mean that
//! validations ask, Szegedy et al., arXiv 1512.00567, section 8; the rising decay is TensorFlow's
//! `ExponentialMovingAverage` with `num_updates`; how it compares with other means, Morales-Brotons et al., arXiv 2411.18704.

use candle_core::Tensor;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sidereal_nn::params::{Params, Snapshot};

use crate::Result;

/// How weights are averaged.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AverageConfig {
    /// Share of the mean that a step keeps, above 0 and below 1; 0.999 looks back over about a thousand steps.
    pub decay: f64,
}

/// The mean so far, in the order of the parameters.
#[derive(Debug)]
pub(super) struct Average {
    decay: f64,
    means: Vec<Tensor>,
}

impl Average {
    /// Beginning with the weights as they are.
    pub(super) fn new(config: AverageConfig, params: &Params) -> Result<Self> {
        let means = params.vars().iter().map(|(_, var)| Ok(var.as_tensor().copy()?)).collect::<Result<_>>()?;
        Ok(Self { decay: config.decay, means })
    }

    /// Takes in the weights after step `step`, the first of which is 1.
    pub(super) fn step(&mut self, params: &Params, step: u64) -> Result<()> {
        let kept = self.decay.min((1 + step) as f64 / (10 + step) as f64);
        let both = self.means.par_iter_mut().zip(params.vars());
        both.try_for_each(|(mean, (_, var))| {
            *mean = (mean.affine(kept, 0.0)? + var.as_tensor().affine(1.0 - kept, 0.0)?)?;
            Ok(())
        })
    }

    /// Puts the mean into the parameters and keeps what they were; a second time puts it back.
    pub(super) fn exchange(&mut self, params: &Params) -> Result<()> {
        for (mean, (_, var)) in self.means.iter_mut().zip(params.vars()) {
            let weights = var.as_tensor().copy()?;
            var.set(mean)?;
            *mean = weights;
        }
        Ok(())
    }

    /// A copy on the host, for a checkpoint.
    pub(super) fn snapshot(&mut self, params: &Params) -> Result<Snapshot> {
        self.exchange(params)?;
        let snapshot = params.snapshot();
        self.exchange(params)?;
        snapshot
    }

    /// Puts a checkpoint's mean back.
    ///
    /// # Errors
    /// A parameter that is missing, of another shape, or unknown; it is named.
    pub(super) fn restore(&mut self, params: &Params, snapshot: &Snapshot) -> Result<()> {
        self.exchange(params)?;
        params.restore(snapshot)?;
        self.exchange(params)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use candle_core::Device;

    #[test]
    fn the_mean_keeps_its_share_of_every_step_and_comes_back_from_a_snapshot() {
        let mut params = Params::new(&Device::Cpu);
        params.insert("a", &[2], vec![1.0, -2.0]).unwrap();
        params.insert("b", &[1], vec![8.0]).unwrap();
        let (config, a) = (AverageConfig { decay: 0.5 }, params.get("a").unwrap());
        let mut average = Average::new(config, &params).unwrap();
        let mut expected = [1.0, -2.0];
        for step in 1..=20u64 {
            let weights = [step as f32, 3.0 * step as f32];
            a.set(&Tensor::new(&weights, &Device::Cpu).unwrap()).unwrap();
            average.step(&params, step).unwrap();
            let kept = 0.5f64.min((1.0 + step as f64) / (10.0 + step as f64));
            for (mean, weight) in expected.iter_mut().zip(weights) {
                *mean = kept * *mean + (1.0 - kept) * f64::from(weight);
            }
        }
        // Of the first step the mean keeps two parts of eleven, from the eighth on one half.
        average.exchange(&params).unwrap();
        let mean = a.to_vec1::<f32>().unwrap();
        assert!(mean.iter().zip(expected).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-5), "{mean:?} {expected:?}");
        assert_eq!(params.get("b").unwrap().to_vec1::<f32>().unwrap(), [8.0]);
        average.exchange(&params).unwrap();
        assert_eq!(a.to_vec1::<f32>().unwrap(), [20.0, 60.0]);

        let snapshot = average.snapshot(&params).unwrap();
        assert_eq!(a.to_vec1::<f32>().unwrap(), [20.0, 60.0], "a snapshot leaves the weights as they are");
        let mut other = Average::new(config, &params).unwrap();
        other.restore(&params, &snapshot).unwrap();
        assert_eq!(a.to_vec1::<f32>().unwrap(), [20.0, 60.0]);
        assert_eq!(other.snapshot(&params).unwrap(), snapshot);
    }
}
