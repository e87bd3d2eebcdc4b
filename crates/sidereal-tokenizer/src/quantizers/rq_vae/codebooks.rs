//! The codebooks as parameters: learnt by gradients, by running means, or (SimVQ) through one map a level.
//!
//! Parameters: `codebooks.{l}` [K_l, d]; with running means `ema.{l}.counts` `[K_l]` and `ema.{l}.sums` [K_l, d], which get
//! no gradients; with SimVQ (Zhu et al., arXiv 2411.02038) `maps.{l}` [d, d], while `codebooks.{l}` stays as it started.
//! Everybody outside sees the codebooks that encoding will use.

use candle_core::{Tensor, Var};
use sidereal_nn::ops;
use sidereal_nn::params::{Init, Params};
use sidereal_nn::rng::Rng;

use super::RqVaeConfig;
use super::options::{CodebookUpdate, Ema};
use super::quantise::Quantized;
use crate::Result;

#[derive(Debug)]
pub(super) struct Codebooks {
    width: usize,
    codes: Vec<u32>,
    /// [K_l, d] each.
    base: Vec<Var>,
    /// [d, d] each; none without SimVQ.
    maps: Vec<Var>,
    /// None without running means.
    means: Vec<Means>,
    update: CodebookUpdate,
}

#[derive(Debug)]
struct Means {
    /// `[K_l]`
    counts: Var,
    /// [K_l, d]
    sums: Var,
}

/// A parameter some of whose rows were moved by hand.
pub(super) type MovedRows = (String, Vec<usize>);

impl Codebooks {
    /// Codebooks of 0, until they are set.
    pub(super) fn new(config: &RqVaeConfig, params: &mut Params, rng: &mut Rng) -> Result<Self> {
        let (width, codes) = (config.latent, config.codes.clone());
        let mut var = |name: String, shape: &[usize]| -> Result<Var> {
            params.var(&name, shape, Init::Zeros, rng)?;
            match params.get(&name) {
                Some(var) => Ok(var.clone()),
                // It was made just now.
                None => Ok(Var::zeros(shape, candle_core::DType::F32, params.device())?),
            }
        };
        let mut base = Vec::new();
        for (level, &k) in codes.iter().enumerate() {
            base.push(var(format!("codebooks.{level}"), &[k as usize, width])?);
        }
        let (mut maps, mut means) = (Vec::new(), Vec::new());
        for (level, &k) in codes.iter().enumerate() {
            if config.sim_vq {
                maps.push(var(format!("maps.{level}"), &[width, width])?);
            }
            if config.codebook_update != CodebookUpdate::Gradient {
                let counts = var(format!("ema.{level}.counts"), &[k as usize])?;
                means.push(Means { counts, sums: var(format!("ema.{level}.sums"), &[k as usize, width])? });
            }
        }
        Ok(Self { width, codes, base, maps, means, update: config.codebook_update })
    }

    /// The codebooks with whatever gradients they have, [K_l, d] each.
    pub(super) fn tensors(&self) -> Result<Vec<Tensor>> {
        let codebook = |(level, base): (usize, &Var)| -> Result<Tensor> {
            Ok(match (self.maps.get(level), self.update) {
                (Some(map), _) => ops::linear(&base.detach(), map)?,
                (None, CodebookUpdate::Gradient) => base.as_tensor().clone(),
                (None, CodebookUpdate::Ema(_)) => base.detach(),
            })
        };
        self.base.iter().enumerate().map(codebook).collect()
    }

    /// The codebooks on the host, [K_l, d] each.
    pub(super) fn values(&self) -> Result<Vec<Vec<f32>>> {
        self.tensors()?.iter().map(|codebook| Ok(codebook.flatten_all()?.to_vec1::<f32>()?)).collect()
    }

    /// Starts a level at these codewords, [K, d].
    pub(super) fn set(&self, level: usize, values: Vec<f32>) -> Result<()> {
        if let Some(means) = self.means.get(level) {
            // As if each codeword had been seen once.
            set(&means.counts, vec![1.0; self.codes[level] as usize])?;
            set(&means.sums, values.clone())?;
        }
        if let Some(map) = self.maps.get(level) {
            set(map, identity(self.width))?;
        }
        set(&self.base[level], values)
    }

    /// Moves codewords of a level; answers the rows of parameters whose moments no longer mean anything.
    pub(super) fn replace(&self, level: usize, moved: &[(usize, Vec<f32>)]) -> Result<Vec<MovedRows>> {
        let mut values = self.values()?.swap_remove(level);
        for (code, codeword) in moved {
            values[code * self.width..][..self.width].copy_from_slice(codeword);
        }
        let mut forgotten = vec![(format!("codebooks.{level}"), moved.iter().map(|(code, _)| *code).collect())];
        if let Some(map) = self.maps.get(level) {
            // The map so far goes into the codebook; from here on it is the identity again.
            set(map, identity(self.width))?;
            forgotten.push((format!("maps.{level}"), (0..self.width).collect()));
        }
        if let Some(means) = self.means.get(level) {
            let mut counts = means.counts.to_vec1::<f32>()?;
            let mut sums = means.sums.flatten_all()?.to_vec1::<f32>()?;
            for (code, codeword) in moved {
                counts[*code] = 1.0;
                sums[code * self.width..][..self.width].copy_from_slice(codeword);
            }
            set(&means.counts, counts)?;
            set(&means.sums, sums)?;
        }
        set(&self.base[level], values)?;
        Ok(forgotten)
    }

    /// Moves codewords towards the means of the residuals that chose them, where running means do that.
    pub(super) fn observe(&self, quantized: &Quantized) -> Result<()> {
        let CodebookUpdate::Ema(Ema { decay, smoothing }) = self.update else { return Ok(()) };
        let width = self.width;
        for (level, means) in self.means.iter().enumerate() {
            let codes = quantized.codes[level].to_vec1::<u32>()?;
            let residuals = quantized.residuals[level].flatten_all()?.to_vec1::<f32>()?;
            let count = self.codes[level] as usize;
            let (mut counts, mut sums) = (vec![0f64; count], vec![0f64; count * width]);
            for (&code, residual) in codes.iter().zip(residuals.chunks_exact(width)) {
                let code = code as usize;
                counts[code] += 1.0;
                sums[code * width..][..width].iter_mut().zip(residual).for_each(|(s, &r)| *s += f64::from(r));
            }
            let mix = |old: Vec<f32>, new: &mut [f64]| {
                new.iter_mut().zip(old).for_each(|(new, old)| *new = decay * f64::from(old) + (1.0 - decay) * *new);
            };
            mix(means.counts.to_vec1::<f32>()?, &mut counts);
            mix(means.sums.flatten_all()?.to_vec1::<f32>()?, &mut sums);
            let total: f64 = counts.iter().sum();
            let share = total / (total + count as f64 * smoothing);
            let codewords = sums
                .chunks_exact(width)
                .zip(&counts)
                .flat_map(|(sum, n)| sum.iter().map(move |s| (s / ((n + smoothing) * share)) as f32));
            set(&self.base[level], codewords.collect())?;
            set(&means.counts, counts.into_iter().map(|n| n as f32).collect())?;
            set(&means.sums, sums.into_iter().map(|s| s as f32).collect())?;
        }
        Ok(())
    }
}

fn set(var: &Var, values: Vec<f32>) -> Result<()> {
    Ok(var.set(&Tensor::from_vec(values, var.dims(), var.device())?)?)
}

fn identity(width: usize) -> Vec<f32> {
    (0..width * width).map(|at| if at / width == at % width { 1.0 } else { 0.0 }).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use candle_core::Device;

    use super::*;

    fn codebooks(config: &RqVaeConfig) -> (Params, Codebooks) {
        let mut params = Params::new(&Device::Cpu);
        let codebooks = Codebooks::new(config, &mut params, &mut Rng::new(1, "test")).unwrap();
        codebooks.set(0, vec![0.0, 0.0, 10.0, 10.0]).unwrap();
        (params, codebooks)
    }

    fn config() -> RqVaeConfig {
        RqVaeConfig { codes: vec![2], latent: 2, ..RqVaeConfig::default() }
    }

    #[test]
    fn running_means_go_to_the_means_of_their_rows() {
        let update = CodebookUpdate::Ema(Ema { decay: 0.5, ..Ema::default() });
        let (_, codebooks) = codebooks(&RqVaeConfig { codebook_update: update, ..config() });
        let rows = Tensor::new(&[[1f32, 0.0], [3.0, 0.0], [8.0, 9.0], [2.0, 3.0]], &Device::Cpu).unwrap();
        let codes = Tensor::new(&[0u32, 0, 1, 0], &Device::Cpu).unwrap();
        let seen = Quantized {
            codes: vec![codes],
            residuals: vec![rows.clone()],
            sum: rows.clone(),
            through: rows,
            losses: Vec::new(),
        };
        codebooks.observe(&seen).unwrap();
        // Counts 0.5 + 0.5 * 3 = 2 and 1; sums 0.5 * 0 + 0.5 * (6, 3) and 0.5 * (10, 10) + 0.5 * (8, 9).
        let close = |want: &[f32]| {
            let found = codebooks.values().unwrap().swap_remove(0);
            assert!(found.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-3), "{found:?} {want:?}");
        };
        close(&[1.5, 0.75, 9.0, 9.5]);
        for _ in 0..40 {
            codebooks.observe(&seen).unwrap();
        }
        close(&[2.0, 1.0, 8.0, 9.0]);
    }

    #[test]
    fn a_map_goes_into_the_codebook_when_codewords_are_moved() {
        let (params, codebooks) = codebooks(&RqVaeConfig { sim_vq: true, ..config() });
        assert_eq!(codebooks.values().unwrap()[0], [0.0, 0.0, 10.0, 10.0]);
        set(params.get("maps.0").unwrap(), vec![1.0, 2.0, 0.0, 1.0]).unwrap();
        assert_eq!(codebooks.values().unwrap()[0], [0.0, 0.0, 10.0, 30.0]);
        let forgotten = codebooks.replace(0, &[(0, vec![4.0, 5.0])]).unwrap();
        assert_eq!(codebooks.values().unwrap()[0], [4.0, 5.0, 10.0, 30.0]);
        assert_eq!(params.get("maps.0").unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap(), [1., 0., 0., 1.]);
        assert_eq!(forgotten, [("codebooks.0".to_owned(), vec![0]), ("maps.0".to_owned(), vec![0, 1])]);
    }
}
