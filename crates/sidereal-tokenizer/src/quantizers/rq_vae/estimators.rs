//! How gradients pass the choice of codewords: straight through, turned, or by a softmax with noise.

use candle_core::{D, Tensor};
use sidereal_nn::rng::Rng;

use crate::Result;

/// Lengths below this have no direction.
const DEGENERATE: f64 = 1e-6;

/// Value of `sum`, gradient to `latent` as it is.
///
/// # Shapes
/// [B, d] each
pub(super) fn straight_through(latent: &Tensor, sum: &Tensor) -> Result<Tensor> {
    Ok((latent + (sum - latent.detach())?)?)
}

/// Value of `sum`, by the rotation in the plane of both and the scaling that take `latent` there; these are constants
/// for the gradient, which they turn and scale too. With r^ and q^ the directions of latent and sum, and w that of
/// their bisector: (|q| / |r|) (r - 2 (r.w) w + 2 (r.r^) q^).
///
/// Rows without a direction, or with opposite ones, go straight through.
///
/// # Shapes
/// [B, d] each
pub(super) fn rotated(latent: &Tensor, sum: &Tensor) -> Result<Tensor> {
    let (rows, width) = latent.dims2()?;
    let from = latent.detach().flatten_all()?.to_vec1::<f32>()?;
    let to = sum.detach().flatten_all()?.to_vec1::<f32>()?;
    let mut turn = Turn::default();
    for (from, to) in from.chunks_exact(width).zip(to.chunks_exact(width)) {
        turn.push(from, to);
    }
    let tensor = |values: Vec<f32>| Tensor::from_vec(values, (rows, width), latent.device());
    let scale = Tensor::from_vec(turn.scale, (rows, 1), latent.device())?;
    let (bisector, direction, target) = (tensor(turn.bisector)?, tensor(turn.direction)?, tensor(turn.target)?);
    let along_bisector = (latent * &bisector)?.sum_keepdim(D::Minus1)?; // [B, 1]
    let along_direction = (latent * &direction)?.sum_keepdim(D::Minus1)?; // [B, 1]
    let reflected = (latent - bisector.broadcast_mul(&(along_bisector * 2.0)?)?)?;
    let turned = (reflected + target.broadcast_mul(&(along_direction * 2.0)?)?)?;
    Ok((turned.broadcast_mul(&scale)? + tensor(turn.offset)?)?)
}

/// The constants of every row's turn.
#[derive(Default)]
struct Turn {
    scale: Vec<f32>,
    bisector: Vec<f32>,
    direction: Vec<f32>,
    target: Vec<f32>,
    offset: Vec<f32>,
}

impl Turn {
    fn push(&mut self, from: &[f32], to: &[f32]) {
        let length = |row: &[f32]| row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
        let (from_length, to_length) = (length(from), length(to));
        let sums = from.iter().zip(to).map(|(&r, &q)| f64::from(r) / from_length + f64::from(q) / to_length);
        let sums: Vec<f64> = sums.collect();
        let bisector_length = sums.iter().map(|v| v * v).sum::<f64>().sqrt();
        if from_length < DEGENERATE || to_length < DEGENERATE || bisector_length < DEGENERATE {
            self.scale.push(1.0);
            for values in [&mut self.bisector, &mut self.direction, &mut self.target] {
                values.resize(values.len() + from.len(), 0.0);
            }
            self.offset.extend(from.iter().zip(to).map(|(r, q)| q - r));
            return;
        }
        self.scale.push((to_length / from_length) as f32);
        self.bisector.extend(sums.iter().map(|v| (v / bisector_length) as f32));
        self.direction.extend(from.iter().map(|&v| (f64::from(v) / from_length) as f32));
        self.target.extend(to.iter().map(|&v| (f64::from(v) / to_length) as f32));
        self.offset.resize(self.offset.len() + from.len(), 0.0);
    }
}

/// A mixture of codewords for every row, with gradients to both.
///
/// # Shapes
/// `residual`: [B, d]; `codebook`: [K, d]; the mixture: [B, d]
pub(super) fn gumbel_mixture(residual: &Tensor, codebook: &Tensor, temperature: f64, rng: &mut Rng) -> Result<Tensor> {
    let (rows, codes) = (residual.dim(0)?, codebook.dim(0)?);
    // |r|^2 is the same for all codewords, which a softmax does not see.
    let norms = codebook.sqr()?.sum(1)?; // [K]
    let closeness = (residual.matmul(&codebook.t()?)? * 2.0)?.broadcast_sub(&norms)?; // [B, K]
    let noise: Vec<f32> = (0..rows * codes).map(|_| gumbel(rng)).collect();
    let noise = Tensor::from_vec(noise, (rows, codes), residual.device())?;
    let logits = ((closeness + noise)? / temperature)?;
    let most = logits.max_keepdim(D::Minus1)?.detach();
    let powers = logits.broadcast_sub(&most)?.exp()?;
    let weights = powers.broadcast_div(&powers.sum_keepdim(D::Minus1)?)?;
    Ok(weights.matmul(codebook)?)
}

/// -ln(-ln u), u in (0, 1).
fn gumbel(rng: &mut Rng) -> f32 {
    let u = rng.uniform().max(f64::MIN_POSITIVE);
    -(-u.ln()).max(f64::MIN_POSITIVE).ln() as f32
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use candle_core::{Device, Var};

    use super::*;

    fn values(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    }

    fn random(rows: usize, width: usize, seed: u64) -> Var {
        let mut rng = Rng::new(seed, "rows");
        let values: Vec<f32> = (0..rows * width).map(|_| rng.normal() as f32).collect();
        Var::from_vec(values, (rows, width), &Device::Cpu).unwrap()
    }

    #[test]
    fn the_rotation_gives_the_code_vector_and_turns_the_gradient() {
        let (latent, sum) = (random(40, 8, 1), random(40, 8, 2));
        let through = rotated(&latent, &sum).unwrap();
        for (a, b) in values(&through).iter().zip(values(&sum)) {
            assert!((a - b).abs() < 1e-5, "{a} {b}");
        }
        // The map is linear and orthogonal up to the scale: the gradient g becomes (|q| / |r|) R^T g, whose length is
        // known, and the gradient of |out|^2 / 2 points along the latent.
        let grads = (through.sqr().unwrap().sum_all().unwrap() / 2.0).unwrap().backward().unwrap();
        let grad = values(grads.get(&latent).unwrap());
        let (r, q) = (values(&latent), values(&sum));
        for row in 0..40 {
            let square = |v: &[f32]| v[row * 8..][..8].iter().map(|x| x * x).sum::<f32>();
            let factor = square(&q) / square(&r);
            for i in row * 8..row * 8 + 8 {
                assert!((grad[i] - factor * r[i]).abs() < 1e-4 * (1.0 + factor * r[i].abs()), "{} {}", grad[i], r[i]);
            }
        }
    }

    #[test]
    fn rows_without_a_rotation_go_straight_through() {
        let latent = Var::new(&[[0f32, 0.0], [1.0, 2.0], [3.0, 4.0]], &Device::Cpu).unwrap();
        let sum = Tensor::new(&[[1f32, -1.0], [-2.0, -4.0], [0.0, 0.0]], &Device::Cpu).unwrap();
        let through = rotated(&latent, &sum).unwrap();
        assert_eq!(values(&through), values(&sum));
        let grads = through.sum_all().unwrap().backward().unwrap();
        assert_eq!(values(grads.get(&latent).unwrap()), [1.0; 6]);
    }

    #[test]
    fn the_mixture_approaches_the_nearest_codeword_as_the_temperature_falls() {
        let (residual, codebook) = (random(30, 6, 3), random(5, 6, 4));
        let far_apart = (codebook.as_tensor() * 50.0).unwrap();
        let near = (residual.as_tensor() * 50.0).unwrap();
        let mixed = values(&gumbel_mixture(&near, &far_apart, 0.01, &mut Rng::new(1, "noise")).unwrap());
        let search = crate::codebooks::nearest::NearestCodeword::new(values(&far_apart), 6);
        search.search(&values(&near), &mut Default::default(), |row, code| {
            for (a, b) in mixed[row * 6..][..6].iter().zip(search.codeword(code)) {
                assert!((a - b).abs() < 1e-2, "{a} {b}");
            }
        });
        let grads = gumbel_mixture(&residual, &codebook, 1.0, &mut Rng::new(1, "noise"))
            .unwrap()
            .sqr()
            .unwrap()
            .sum_all()
            .unwrap()
            .backward()
            .unwrap();
        for var in [&residual, &codebook] {
            assert!(values(grads.get(var).unwrap()).iter().any(|g| g.abs() > 1e-3));
        }
    }
}
