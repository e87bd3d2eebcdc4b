//! Latents through the codebooks, level by level, with what a loss needs to know of it.

use candle_core::{D, Device, Tensor};
use rayon::prelude::*;
use sidereal_nn::ops;
use sidereal_nn::rng::Rng;

use super::RqVaeConfig;
use super::estimators::{gumbel_mixture, rotated, straight_through};
use super::options::{CodebookUpdate, Estimator, Gumbel, Reduction, Sinkhorn};
use crate::Result;
use crate::algebra::product::{product, squared_norm, transposed};
use crate::clustering::sinkhorn;
use crate::codebooks::nearest::NearestCodeword;
use crate::codebooks::search::SearchScratch;

/// Rows that one thread searches; fixed, though a row's code does not depend on it.
const BLOCK: usize = 512;

/// What the codebooks make of latents.
pub(super) struct Quantized {
    /// u32 `[B]`, one tensor a level.
    pub(super) codes: Vec<Tensor>,
    /// What each level was asked to quantize, without gradients, [B, d].
    pub(super) residuals: Vec<Tensor>,
    /// Sum of the codewords without gradients, [B, d].
    #[cfg_attr(not(test), allow(dead_code))]
    pub(super) sum: Tensor,
    /// Its value with the estimator's gradients, [B, d].
    pub(super) through: Tensor,
    /// Codebook loss plus weighted commitment, a scalar a level.
    pub(super) losses: Vec<Tensor>,
}

/// Quantizes level by level. The codeword is detached where the residual is passed on, so that gradients of later
/// levels reach the encoder but no earlier codebook.
///
/// # Shapes
/// `latent`: [B, d]; `codebooks`: [K, d] a level
pub(super) fn quantise(
    config: &RqVaeConfig,
    latent: &Tensor,
    codebooks: &[Tensor],
    noise: &mut Rng,
) -> Result<Quantized> {
    let learns = config.codebook_update == CodebookUpdate::Gradient;
    let mut residual = latent.clone();
    let (mut sum, mut mixture) = (None, None);
    let (mut codes, mut residuals, mut losses) = (Vec::new(), Vec::new(), Vec::new());
    for (level, codebook) in codebooks.iter().enumerate() {
        let (fixed, fixed_codebook) = (residual.detach(), codebook.detach());
        let chosen = match config.sinkhorn.levels.contains(&level) {
            true => spread_codes(&fixed, &fixed_codebook, &config.sinkhorn)?,
            false => nearest_codes(&fixed, &fixed_codebook)?, // [B]
        };
        let codeword = match config.estimator {
            Estimator::Gumbel(Gumbel { temperature }) => {
                let mixed = gumbel_mixture(&residual, codebook, temperature, noise)?;
                mixture = Some(add(mixture, mixed.clone())?);
                mixed
            }
            _ => ops::embedding(&chosen, codebook)?, // [B, d]
        };
        let next = (&residual - codeword.detach())?;
        let commitment = (reduce(config.reduction, &next)? * config.commitment)?;
        losses.push(match learns {
            true => (reduce(config.reduction, &(&codeword - &fixed)?)? + commitment)?,
            false => commitment,
        });
        sum = Some(add(sum, codeword.detach())?);
        residual = next;
        codes.push(chosen);
        residuals.push(fixed);
    }
    let sum = match sum {
        Some(sum) => sum,
        None => latent.zeros_like()?,
    };
    let through = match (config.estimator, mixture) {
        (Estimator::Gumbel(_), Some(mixture)) => mixture,
        (Estimator::Rotation, _) => rotated(latent, &sum)?,
        _ => straight_through(latent, &sum)?,
    };
    Ok(Quantized { codes, residuals, sum, through, losses })
}

fn add(sum: Option<Tensor>, next: Tensor) -> Result<Tensor> {
    Ok(match sum {
        None => next,
        Some(sum) => (sum + next)?,
    })
}

/// Squares of differences to one number, [B, _] to a scalar.
pub(super) fn reduce(reduction: Reduction, difference: &Tensor) -> Result<Tensor> {
    let squares = difference.sqr()?;
    Ok(match reduction {
        Reduction::Mean => squares.mean_all()?,
        Reduction::Sum => (squares.sum_all()? / difference.dim(0)?.max(1) as f64)?,
    })
}

/// The code of every row: exact on the CPU, as encoding finds them; by candle's ops elsewhere.
///
/// # Shapes
/// [B, d] and [K, d] to u32 `[B]`
fn nearest_codes(residual: &Tensor, codebook: &Tensor) -> Result<Tensor> {
    if let Device::Cpu = residual.device() {
        let (rows, width) = residual.dims2()?;
        let search = NearestCodeword::new(codebook.flatten_all()?.to_vec1::<f32>()?, width);
        let values = residual.flatten_all()?.to_vec1::<f32>()?;
        let mut codes = vec![0u32; rows];
        let blocks = codes.par_chunks_mut(BLOCK).zip(values.par_chunks(BLOCK * width));
        blocks.for_each_init(SearchScratch::default, |scratch, (codes, rows)| {
            search.search(rows, scratch, |row, code| codes[row] = code.into());
        });
        return Ok(Tensor::from_vec(codes, rows, residual.device())?);
    }
    let norms = codebook.sqr()?.sum(1)?; // [K]
    let scores = (residual.matmul(&codebook.t()?)? * -2.0)?.broadcast_add(&norms)?; // [B, K]
    Ok(scores.argmin(D::Minus1)?)
}

/// The codes of a batch spread evenly by Sinkhorn's mapping, on the CPU.
///
/// # Shapes
/// [B, d] and [K, d] to u32 `[B]`
fn spread_codes(residual: &Tensor, codebook: &Tensor, settings: &Sinkhorn) -> Result<Tensor> {
    let ((rows, width), codes) = (residual.dims2()?, codebook.dim(0)?);
    let values = residual.flatten_all()?.to_vec1::<f32>()?;
    let codewords = codebook.flatten_all()?.to_vec1::<f32>()?;
    let norms: Vec<f64> = codewords.chunks_exact(width).map(squared_norm).collect();
    let mut distances = vec![0f32; rows * codes];
    product(&values, width, &transposed(&codewords, width), codes, &mut distances);
    for (row, distances) in values.chunks_exact(width).zip(distances.chunks_exact_mut(codes)) {
        let length = squared_norm(row);
        for (distance, norm) in distances.iter_mut().zip(&norms) {
            *distance = (length + norm - 2.0 * f64::from(*distance)) as f32;
        }
    }
    let chosen = sinkhorn::assign(&distances, codes, settings.epsilon, settings.iterations);
    let chosen: Vec<u32> = chosen.into_iter().map(u32::from).collect();
    Ok(Tensor::from_vec(chosen, rows, residual.device())?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use sidereal_core::Embeddings;

    #[test]
    fn spread_codes_use_the_codebook_more_evenly_than_nearest_ones() {
        let mut rng = Rng::new(5, "rows");
        let mut draw = |count: usize, width: usize| {
            let values: Vec<f32> = (0..count * width).map(|_| rng.normal() as f32).collect();
            Tensor::from_vec(values, (count, width), &Device::Cpu).unwrap()
        };
        let (rows, codebook) = (draw(128, 4), draw(16, 4));
        let most = |codes: Tensor| {
            let mut counts = [0; 16];
            codes.to_vec1::<u32>().unwrap().into_iter().for_each(|code| counts[code as usize] += 1);
            counts.into_iter().max().unwrap()
        };
        let spread =
            most(spread_codes(&rows, &codebook, &Sinkhorn { iterations: 200, ..Sinkhorn::default() }).unwrap());
        let nearest = most(nearest_codes(&rows, &codebook).unwrap());
        assert!(spread <= 11 && spread < nearest, "{spread} {nearest}");
    }

    #[test]
    fn codes_in_blocks_are_those_of_encoding() {
        let mut rng = Rng::new(6, "rows");
        let values: Vec<f32> = (0..1300 * 3).map(|_| rng.normal() as f32).collect();
        let codewords: Vec<f32> = (0..9 * 3).map(|_| rng.normal() as f32).collect();
        let rows = Tensor::from_slice(&values, (1300, 3), &Device::Cpu).unwrap();
        let codebook = Tensor::from_slice(&codewords, (9, 3), &Device::Cpu).unwrap();
        let found = nearest_codes(&rows, &codebook).unwrap().to_vec1::<u32>().unwrap();
        let rows = Embeddings::new(1300, 3, values).unwrap();
        let mut want = vec![0; 1300];
        NearestCodeword::new(codewords, 3)
            .search(rows.values(), &mut Default::default(), |row, code| want[row] = code.into());
        assert_eq!(found, want);
    }
}
