//! The net in training: encoder, signs with straight-through gradients, entropies, decoder.

use candle_core::{D, Tensor};

use sidereal_nn::ops;
use sidereal_nn::params::Params;
use sidereal_nn::rng::Rng;

use super::super::net_training::Net;
use super::{Lfq, LfqConfig, bits, codeword};
use crate::Result;
use crate::mlp::TrainableMlp;
use crate::quantizers::{Quantizer, Training};

/// Most bits whose codes are counted together.
const GROUP_BITS: usize = 10;

/// Encoder and decoder as parameters: `enc`, `dec`.
pub(super) struct LfqNet {
    params: Params,
    encoder: TrainableMlp,
    decoder: TrainableMlp,
    groups: Vec<Group>,
    config: LfqConfig,
}

/// Neighbouring bits of one level.
struct Group {
    start: usize,
    bits: usize,
    /// Their codewords as columns, [b, 2^b].
    columns: Tensor,
}

impl LfqNet {
    pub(super) fn new(config: &LfqConfig, width: usize, training: &Training<'_>) -> Result<Self> {
        let mut params = Params::new(&training.device);
        let mut rng = Rng::new(training.seed, "lfq parameters");
        let mut widths = config.widths(width);
        let encoder = TrainableMlp::new("enc", &widths, false, &mut params, &mut rng)?;
        widths.reverse();
        let decoder = TrainableMlp::new("dec", &widths, false, &mut params, &mut rng)?;
        let mut groups = Vec::new();
        let mut start = 0;
        for level in bits(&config.codes) {
            let end = start + level;
            while start < end {
                let bits = (end - start).min(GROUP_BITS);
                let rows: Vec<f32> = (0..1u32 << bits).flat_map(|code| codeword(code, bits)).collect();
                let columns = crate::algebra::product::transposed(&rows, bits);
                let columns = Tensor::from_vec(columns, (bits, 1 << bits), &training.device)?;
                groups.push(Group { start, bits, columns });
                start = end.min(start + bits);
            }
        }
        Ok(Self { params, encoder, decoder, groups, config: config.clone() })
    }

    /// Mean entropy of each item's codes less `diversity` times the entropy of the batch's, a mean over the levels.
    ///
    /// # Shapes
    /// `latent`: [B, d]
    fn entropy(&self, latent: &Tensor) -> Result<Tensor> {
        let mut total = latent.sum_all()?.affine(0.0, 0.0)?;
        for group in &self.groups {
            let slice = latent.narrow(1, group.start, group.bits)?.contiguous()?;
            let (of_items, of_batch) = entropies(&slice, &group.columns, self.config.temperature)?;
            total = ((total + of_items)? - (of_batch * self.config.diversity)?)?;
        }
        Ok((total / self.config.codes.len() as f64)?)
    }
}

/// The mean entropy of the items' distributions over codes, and the entropy of their mean distribution, in nats.
///
/// # Shapes
/// `latent`: [B, b]; `columns`: [b, 2^b]; scalars
fn entropies(latent: &Tensor, columns: &Tensor, temperature: f64) -> Result<(Tensor, Tensor)> {
    // Codewords have the same length, so squared distances differ by -2 z c alone.
    let logits = (ops::linear(latent, columns)? * (2.0 / temperature))?; // [B, 2^b]
    let top = logits.max_keepdim(D::Minus1)?.detach();
    let shifted = logits.broadcast_sub(&top)?;
    let exponentials = shifted.exp()?;
    let sums = exponentials.sum_keepdim(D::Minus1)?; // [B, 1]
    let probabilities = exponentials.broadcast_div(&sums)?;
    let logs = shifted.broadcast_sub(&sums.log()?)?;
    let of_items = (&probabilities * logs)?.sum(D::Minus1)?.mean_all()?.neg()?;
    let mean = probabilities.mean(0)?; // [2^b]
    let of_batch = (&mean * (&mean + 1e-12)?.log()?)?.sum_all()?.neg()?;
    Ok((of_items, of_batch))
}

impl Net for LfqNet {
    const NAME: &'static str = "lfq";

    fn params(&self) -> &Params {
        &self.params
    }

    fn loss(&mut self, x: &Tensor) -> Result<Tensor> {
        let latent = self.encoder.forward_by_layers(x)?; // [B, d]
        let fixed = latent.detach();
        let signs = ((fixed.gt(0.0)?.to_dtype(fixed.dtype())? * 2.0)? - 1.0)?;
        // The value is the sign, the gradient goes to the latent.
        let through = (&latent + (&signs - &fixed)?)?;
        let reconstruction = (self.decoder.forward_by_layers(&through)? - x)?.sqr()?.mean_all()?;
        let commitment = (&latent - &signs)?.sqr()?.mean_all()?;
        let entropy = self.entropy(&latent)?;
        let loss = (reconstruction + (commitment * self.config.commitment)?)?;
        Ok((loss + (entropy * self.config.entropy_weight)?)?)
    }

    fn to_quantizer(&self) -> Result<Box<dyn Quantizer>> {
        Ok(Box::new(Lfq::new(&self.config.codes, self.encoder.to_mlp()?, self.decoder.to_mlp()?)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use candle_core::{Device, Var};
    use sidereal_core::NoProgress;

    use super::*;

    #[test]
    fn entropies_equal_their_definition_over_all_codes() {
        let mut rng = Rng::new(5, "latents");
        let (rows, bits, temperature) = (7, 3, 0.7);
        let z: Vec<f32> = (0..rows * bits).map(|_| rng.normal() as f32).collect();
        let mut of_items = 0.0;
        let mut mean = vec![0f64; 1 << bits];
        for row in z.chunks_exact(bits) {
            let weight = |code: u32| -> f64 {
                let distance: f64 = row.iter().zip(codeword(code, bits)).map(|(z, c)| f64::from(z - c).powi(2)).sum();
                (-distance / temperature).exp()
            };
            let total: f64 = (0..8).map(weight).sum();
            for (code, mean) in mean.iter_mut().enumerate() {
                let p = weight(code as u32) / total;
                of_items -= p * p.ln() / rows as f64;
                *mean += p / rows as f64;
            }
        }
        let of_batch: f64 = -mean.iter().map(|p| p * p.ln()).sum::<f64>();
        let columns: Vec<f32> = (0..8).flat_map(|code| codeword(code, bits)).collect();
        let columns =
            Tensor::from_vec(crate::algebra::product::transposed(&columns, bits), (bits, 8), &Device::Cpu).unwrap();
        let latent = Var::from_vec(z, (rows, bits), &Device::Cpu).unwrap();
        let (items, batch) = entropies(&latent, &columns, temperature).unwrap();
        assert!((f64::from(items.to_scalar::<f32>().unwrap()) - of_items).abs() < 1e-5);
        assert!((f64::from(batch.to_scalar::<f32>().unwrap()) - of_batch).abs() < 1e-5);
        let gradients = (items - batch).unwrap().backward().unwrap();
        assert!(gradients.get(&latent).unwrap().abs().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap() > 0.0);
    }

    #[test]
    fn large_levels_are_counted_in_groups_of_bits_that_cover_them() {
        let config = LfqConfig { codes: vec![8, 1 << 13, 1 << 10], hidden: vec![4], ..LfqConfig::default() };
        let mut net = LfqNet::new(&config, 5, &Training::new(1, &NoProgress)).unwrap();
        let groups: Vec<(usize, usize)> = net.groups.iter().map(|group| (group.start, group.bits)).collect();
        assert_eq!(groups, [(0, 3), (3, 10), (13, 3), (16, 10)]);
        let x = Tensor::from_vec((0..10).map(|v| v as f32).collect(), (2, 5), &Device::Cpu).unwrap();
        let gradients = net.loss(&x).unwrap().backward().unwrap();
        for (name, var) in net.params.vars() {
            assert!(gradients.get(var).is_some(), "{name} has no gradient");
        }
    }
}
