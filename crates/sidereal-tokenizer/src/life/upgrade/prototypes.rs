//! Frozen codewords as the classes of an encoder in training.
//!
//! At level l the encoder's latent, less the published codewords of the levels before (teacher forcing), is held against
//! all codewords of the level: cross-entropy of the published code over -|r - e|^2 / t. The temperature t is a set share
//! of the distance between neighbouring codewords, so that a residual on its codeword is sure of it whatever the scale
//! of the level: a flatter softmax would push residuals beyond their codewords and away from the next level's.
//!
//! # Shapes
//! Latents [B, d], published codes [B, L]; L codebooks [K_l, d]; the loss is a scalar.

use candle_core::{Device, Tensor};
use rayon::prelude::*;
use sidereal_nn::ops::{CrossEntropy, cross_entropy, linear_bias};

use crate::Result;
use crate::algebra::product::{squared_distance, squared_norm, transposed};
use crate::quantizers::Quantizer;
use crate::quantizers::rq_vae::RqVae;

/// How many nats a codeword itself is closer than its nearest neighbour, for the median codeword.
const MARGIN: f64 = 8.0;
/// Codewords whose nearest neighbour is looked for.
const MEASURED: usize = 256;

/// The codebooks of a net that stay as they are.
pub(super) struct Prototypes {
    width: usize,
    levels: Vec<Level>,
}

struct Level {
    /// [K, d]
    codewords: Vec<f32>,
    /// 2 e / t, [d, K]
    weight: Tensor,
    /// -|e|^2 / t, `[K]`
    bias: Tensor,
}

impl Prototypes {
    pub(super) fn new(net: &RqVae, device: &Device) -> Result<Self> {
        let width = net.latent();
        let level = |level: usize| -> Result<Level> {
            let codewords = net.codebook(level).to_vec();
            let count = codewords.len() / width;
            let temperature = neighbour_distance(&codewords, width) / MARGIN;
            let weight = transposed(&codewords, width).into_iter().map(|v| (2.0 * f64::from(v) / temperature) as f32);
            let bias = codewords.chunks_exact(width).map(|row| (-squared_norm(row) / temperature) as f32);
            Ok(Level {
                weight: Tensor::from_vec(weight.collect::<Vec<f32>>(), (width, count), device)?,
                bias: Tensor::from_vec(bias.collect::<Vec<f32>>(), count, device)?,
                codewords,
            })
        };
        Ok(Self { width, levels: (0..net.levels()).map(level).collect::<Result<_>>()? })
    }

    /// The mean over levels of the cross-entropy of the published codes.
    ///
    /// # Shapes
    /// `latents`: [B, d]; `published`: B rows of `[L]`
    pub(super) fn loss(&self, latents: &Tensor, published: &[&[u16]]) -> Result<Tensor> {
        let device = latents.device();
        let mut before = vec![0f32; published.len() * self.width]; // [B, d]
        let mut total: Option<Tensor> = None;
        for (l, level) in self.levels.iter().enumerate() {
            let known = Tensor::from_slice(&before, (published.len(), self.width), device)?;
            let residuals = (latents - known)?; // [B, d]
            let closeness = linear_bias(&residuals, &level.weight, &level.bias)?; // [B, K]
            let codes: Vec<u32> = published.iter().map(|codes| codes[l].into()).collect();
            let codes = Tensor::from_vec(codes, published.len(), device)?;
            let loss = cross_entropy(&closeness, &codes, &CrossEntropy::default())?;
            total = Some(match total {
                None => loss,
                Some(total) => (total + loss)?,
            });
            for (before, codes) in before.chunks_exact_mut(self.width).zip(published) {
                let codeword = &level.codewords[usize::from(codes[l]) * self.width..][..self.width];
                before.iter_mut().zip(codeword).for_each(|(sum, c)| *sum += c);
            }
        }
        let total = match total {
            Some(total) => total,
            None => latents.sum_all()?,
        };
        Ok((total / self.levels.len().max(1) as f64)?)
    }
}

/// The median squared distance of a codeword to the nearest other one; 1 where no two differ.
fn neighbour_distance(codewords: &[f32], width: usize) -> f64 {
    let count = codewords.len() / width;
    let measured = count.min(MEASURED);
    let nearest = |i: usize| {
        let own = &codewords[i * count / measured * width..][..width];
        let distances = codewords.chunks_exact(width).map(|other| squared_distance(own, other));
        distances.filter(|&distance| distance > 0.0).fold(f64::INFINITY, f64::min)
    };
    let mut found: Vec<f64> = (0..measured).into_par_iter().map(nearest).filter(|d| d.is_finite()).collect();
    found.sort_unstable_by(f64::total_cmp);
    found.get(found.len() / 2).copied().unwrap_or(1.0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use candle_core::Var;

    /// Two levels of two and three codewords in the plane.
    fn prototypes() -> Prototypes {
        let level = |codewords: &[f32]| {
            let temperature = neighbour_distance(codewords, 2) / MARGIN;
            let count = codewords.len() / 2;
            let weight: Vec<f32> = transposed(codewords, 2).iter().map(|v| 2.0 * v / temperature as f32).collect();
            let bias: Vec<f32> =
                codewords.chunks(2).map(|c| -(c[0] * c[0] + c[1] * c[1]) / temperature as f32).collect();
            Level {
                codewords: codewords.to_vec(),
                weight: Tensor::from_vec(weight, (2, count), &Device::Cpu).unwrap(),
                bias: Tensor::from_vec(bias, count, &Device::Cpu).unwrap(),
            }
        };
        let levels = vec![level(&[4.0, 0.0, -4.0, 0.0]), level(&[0.0, 1.0, 0.0, -1.0, 1.0, 0.0])];
        Prototypes { width: 2, levels }
    }

    #[test]
    fn the_loss_is_the_cross_entropy_of_residuals_that_were_teacher_forced() {
        let latents = [[3.0f32, 0.5], [3.0, -0.4]];
        let published: [&[u16]; 2] = [&[0, 0], &[1, 2]];
        let mut want = 0.0;
        let books: [&[[f64; 2]]; 2] = [&[[4.0, 0.0], [-4.0, 0.0]], &[[0.0, 1.0], [0.0, -1.0], [1.0, 0.0]]];
        // Squared distances to the nearest other codeword: 64 and 64; 2, 2 and 2.
        for (latent, codes) in latents.iter().zip(published) {
            let mut left = latent.map(f64::from);
            for ((book, &code), near) in books.iter().zip(codes).zip([64.0, 2.0]) {
                let closeness: Vec<f64> = book
                    .iter()
                    .map(|e| -((left[0] - e[0]).powi(2) + (left[1] - e[1]).powi(2)) * MARGIN / near)
                    .collect();
                let sum: f64 = closeness.iter().map(|c| c.exp()).sum();
                want += (sum.ln() - closeness[usize::from(code)]) / 4.0;
                left = [left[0] - book[usize::from(code)][0], left[1] - book[usize::from(code)][1]];
            }
        }
        let tensor = Tensor::new(&latents, &Device::Cpu).unwrap();
        let found = f64::from(prototypes().loss(&tensor, &published).unwrap().to_scalar::<f32>().unwrap());
        assert!((found - want).abs() < 1e-4 * want, "{found} {want}");
    }

    #[test]
    fn its_gradient_vanishes_on_the_sum_of_the_published_codewords_alone() {
        let length = |latent: [f32; 2]| {
            let latent = Var::new(&[latent], &Device::Cpu).unwrap();
            let published: [&[u16]; 1] = [&[0, 1]];
            let grads = prototypes().loss(&latent, &published).unwrap().backward().unwrap();
            grads.get(&latent).unwrap().sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt()
        };
        let (there, elsewhere) = (length([4.0, -1.0]), length([-4.0, 1.0]));
        assert!(there < 0.02 && elsewhere > 1.0, "{there} {elsewhere}");
    }

    #[test]
    fn codebooks_of_one_codeword_have_a_scale_too() {
        assert_eq!(neighbour_distance(&[3.0, 4.0], 2), 1.0);
        assert_eq!(neighbour_distance(&[1.0, 1.0, 3.0], 1), 4.0);
    }
}
