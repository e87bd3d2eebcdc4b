//! Batch or layer norm of the encoder's inputs.
//!
//! Inputs get no gradients, so statistics are constants. For encoding everything but the row's own statistics goes into
//! the first layer's weights: a batch norm leaves nothing to do, a layer norm the bare normalisation of a row.

use candle_core::{D, Tensor, Var};
use sidereal_nn::params::{Init, Params};
use sidereal_nn::rng::Rng;

use super::options::InputNorm;
use crate::Result;
use crate::mlp::{Mlp, NORM_EPSILON};

/// Share of a batch's statistics in the running ones (PyTorch's default).
const MOMENTUM: f64 = 0.1;

/// Parameters `input_norm.gain` and `input_norm.shift`; for a batch norm also `input_norm.mean` and
/// `input_norm.variance`, which get no gradients; all `[D]`.
#[derive(Debug)]
pub(super) struct TrainableInputNorm {
    gain: Tensor,
    shift: Tensor,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    mean: Var,
    variance: Var,
}

impl TrainableInputNorm {
    pub(super) fn new(kind: InputNorm, width: usize, params: &mut Params, rng: &mut Rng) -> Result<Self> {
        let gain = params.var("input_norm.gain", &[width], Init::Ones, rng)?;
        let shift = params.var("input_norm.shift", &[width], Init::Zeros, rng)?;
        let mut running = None;
        if kind == InputNorm::Batch {
            params.var("input_norm.mean", &[width], Init::Zeros, rng)?;
            params.var("input_norm.variance", &[width], Init::Ones, rng)?;
            if let (Some(mean), Some(variance)) = (params.get("input_norm.mean"), params.get("input_norm.variance")) {
                running = Some(Running { mean: mean.clone(), variance: variance.clone() });
            }
        }
        Ok(Self { gain, shift, running })
    }

    /// With the statistics of this batch.
    ///
    /// # Shapes
    /// [B, D] to [B, D]
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let over = if self.running.is_some() { 0 } else { 1 };
        let x = x.detach();
        let centred = x.broadcast_sub(&x.mean_keepdim(over)?)?;
        let variance = centred.sqr()?.mean_keepdim(over)?;
        self.scaled(&centred, variance)
    }

    /// With the statistics that encoding uses: running ones of a batch norm, the row's own of a layer norm.
    ///
    /// # Shapes
    /// [B, D] to [B, D]
    pub(super) fn forward_as_encoding(&self, x: &Tensor) -> Result<Tensor> {
        match &self.running {
            Some(running) => self.scaled(&x.detach().broadcast_sub(&running.mean.detach())?, running.variance.detach()),
            None => self.forward(x),
        }
    }

    fn scaled(&self, centred: &Tensor, variance: Tensor) -> Result<Tensor> {
        let normal = centred.broadcast_div(&(variance + NORM_EPSILON)?.sqrt()?)?;
        Ok(normal.broadcast_mul(&self.gain)?.broadcast_add(&self.shift)?)
    }

    /// Makes the running statistics those of these rows.
    pub(super) fn start(&self, rows: &[f32]) -> Result<()> {
        match &self.running {
            Some(running) => running.mix(rows, self.gain.elem_count(), 1.0, false),
            None => Ok(()),
        }
    }

    /// Takes the running statistics towards those of a batch, [B, D].
    pub(super) fn observe(&self, x: &Tensor) -> Result<()> {
        match &self.running {
            Some(running) => running.mix(&x.flatten_all()?.to_vec1::<f32>()?, x.dim(D::Minus1)?, MOMENTUM, true),
            None => Ok(()),
        }
    }

    /// The encoder for inputs that are not normalised.
    pub(super) fn fold_into(&self, encoder: Mlp) -> Result<Mlp> {
        let read =
            |tensor: &Tensor| -> Result<Vec<f64>> { Ok(tensor.to_vec1::<f32>()?.into_iter().map(f64::from).collect()) };
        let (mut scale, mut shift) = (read(&self.gain)?, read(&self.shift)?);
        let Some(running) = &self.running else { return Ok(encoder.after(&scale, &shift).normalising()) };
        let (means, variances) = (read(&running.mean)?, read(&running.variance)?);
        for (((scale, shift), mean), variance) in scale.iter_mut().zip(&mut shift).zip(means).zip(variances) {
            *scale /= (variance + NORM_EPSILON).sqrt();
            *shift -= mean * *scale;
        }
        Ok(encoder.after(&scale, &shift))
    }
}

impl Running {
    /// `share` of the rows' statistics and the rest of the old ones. Variances of batches are unbiased, as PyTorch's.
    fn mix(&self, rows: &[f32], width: usize, share: f64, unbiased: bool) -> Result<()> {
        let count = (rows.len() / width).max(1) as f64;
        let mut means = vec![0f64; width];
        for row in rows.chunks_exact(width) {
            means.iter_mut().zip(row).for_each(|(mean, &v)| *mean += f64::from(v));
        }
        means.iter_mut().for_each(|mean| *mean /= count);
        let mut variances = vec![0f64; width];
        for row in rows.chunks_exact(width) {
            let columns = variances.iter_mut().zip(&means).zip(row);
            columns.for_each(|((variance, mean), &v)| *variance += (f64::from(v) - mean).powi(2));
        }
        let divisor = if unbiased { (count - 1.0).max(1.0) } else { count };
        variances.iter_mut().for_each(|variance| *variance /= divisor);
        for (var, new) in [(&self.mean, means), (&self.variance, variances)] {
            let old = var.to_vec1::<f32>()?;
            let mixed = old.iter().zip(&new).map(|(&old, new)| ((1.0 - share) * f64::from(old) + share * new) as f32);
            var.set(&Tensor::from_vec(mixed.collect::<Vec<_>>(), width, var.device())?)?;
        }
        Ok(())
    }
}
