//! The net in training: projections, nearest codewords with straight-through gradients, gate, decoder.

use candle_core::{D, Tensor};

use sidereal_nn::ops;
use sidereal_nn::optimizer::AdamW;
use sidereal_nn::params::{Init, Params};
use sidereal_nn::rng::Rng;

use super::super::net_training::Net;
use super::{Expert, ParallelMoe, ParallelMoeConfig, codebook_name, expert_name};
use crate::Result;
use crate::clustering::seeding::seed_rows;
use crate::codebooks::nearest::NearestCodeword;
use crate::mlp::TrainableMlp;
use crate::quantizers::{Quantizer, Training};

/// Candidates for each k-means++ seed.
const SEED_TRIALS: usize = 4;

/// Experts, gate and decoder as parameters: `experts.{m}`, `codebooks.{m}`, `gate`, `dec`.
pub(super) struct MoeNet {
    params: Params,
    projections: Vec<TrainableMlp>,
    /// [K_m, d] each.
    codebooks: Vec<Tensor>,
    gate: TrainableMlp,
    decoder: TrainableMlp,
    /// Codes that the epoch used so far, by expert.
    used: Vec<Vec<bool>>,
    config: ParallelMoeConfig,
}

impl MoeNet {
    pub(super) fn new(config: &ParallelMoeConfig, width: usize, training: &Training<'_>) -> Result<Self> {
        let mut params = Params::new(&training.device);
        let mut rng = Rng::new(training.seed, "parallel-moe parameters");
        let (mut projections, mut codebooks) = (Vec::new(), Vec::new());
        for (m, &codes) in config.codes.iter().enumerate() {
            projections.push(TrainableMlp::new(
                &expert_name(m),
                &[width, config.latent],
                false,
                &mut params,
                &mut rng,
            )?);
            let shape = [codes as usize, config.latent];
            codebooks.push(params.var(&codebook_name(m), &shape, Init::Zeros, &mut rng)?);
        }
        let gate = TrainableMlp::new("gate", &config.gate_widths(), false, &mut params, &mut rng)?;
        let decoder = TrainableMlp::new("dec", &config.decoder_widths(width), false, &mut params, &mut rng)?;
        let used = unused(config);
        Ok(Self { params, projections, codebooks, gate, decoder, used, config: config.clone() })
    }

    /// Replaces an expert's codewords, [K, d].
    fn set_codebook(&self, m: usize, values: Vec<f32>) -> Result<()> {
        if let Some(var) = self.params.get(&codebook_name(m)) {
            var.set(&Tensor::from_vec(values, var.dims(), var.device())?)?;
        }
        Ok(())
    }

    /// An expert's projections of rows, [n, d].
    fn projected(&self, m: usize, rows: &Tensor) -> Result<Vec<f32>> {
        values(&self.projections[m].forward_by_layers(rows)?.detach())
    }
}

fn unused(config: &ParallelMoeConfig) -> Vec<Vec<bool>> {
    config.codes.iter().map(|&codes| vec![false; codes as usize]).collect()
}

fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.flatten_all()?.to_vec1::<f32>()?)
}

/// The squared coefficient of variation of the mean gate: 0 when all experts count alike, M - 1 when one counts alone.
///
/// # Shapes
/// [B, M] to a scalar
fn imbalance(gates: &Tensor) -> Result<Tensor> {
    let experts = gates.dim(1)? as f64;
    // The mean over the experts is 1 / M.
    let excess = ((gates.mean(0)? * experts)? - 1.0)?; // [M]
    Ok(excess.sqr()?.mean_all()?)
}

impl Net for MoeNet {
    const NAME: &'static str = "parallel-moe";

    fn params(&self) -> &Params {
        &self.params
    }

    fn loss(&mut self, x: &Tensor) -> Result<Tensor> {
        let mut codewords = Vec::new();
        let mut quantization = Vec::new();
        for (m, (projection, codebook)) in self.projections.iter().zip(&self.codebooks).enumerate() {
            let latent = projection.forward_by_layers(x)?; // [B, d]
            let fixed = latent.detach();
            // Found on the host, so that codes are exactly those of encoding on any device.
            let search = NearestCodeword::new(values(&codebook.detach())?, self.config.latent);
            let mut codes = Vec::with_capacity(x.dim(0)?);
            search.search(&values(&fixed)?, &mut Default::default(), |_, code| codes.push(u32::from(code)));
            codes.iter().for_each(|&code| self.used[m][code as usize] = true);
            let count = codes.len();
            let chosen = ops::embedding(&Tensor::from_vec(codes, count, x.device())?, codebook)?; // [B, d]
            let codebook_loss = (&chosen - &fixed)?.sqr()?.mean_all()?;
            let commitment = (&latent - chosen.detach())?.sqr()?.mean_all()?;
            quantization.push((codebook_loss + (commitment * self.config.commitment)?)?);
            codewords.push((&latent + (chosen.detach() - &fixed)?)?);
        }
        let (rows, experts) = (x.dim(0)?, codewords.len());
        let side_by_side = Tensor::cat(&codewords, 1)?; // [B, M d]
        let logits = (self.gate.forward_by_layers(&side_by_side)? / self.config.gate_temperature)?; // [B, M]
        let exponentials = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?.detach())?.exp()?;
        let gates = exponentials.broadcast_div(&exponentials.sum_keepdim(D::Minus1)?)?;
        let weights = (gates.reshape((rows, experts, 1))? * experts as f64)?;
        let weighted = side_by_side.reshape((rows, experts, self.config.latent))?.broadcast_mul(&weights)?;
        let decoded = self.decoder.forward_by_layers(&weighted.reshape((rows, experts * self.config.latent))?)?;
        let reconstruction = (decoded - x)?.sqr()?.mean_all()?;
        let quantization = Tensor::stack(&quantization, 0)?.mean_all()?;
        let balance = (imbalance(&gates)? * self.config.balance_weight)?;
        Ok(((reconstruction + quantization)? + balance)?)
    }

    fn to_quantizer(&self) -> Result<Box<dyn Quantizer>> {
        let experts = self.projections.iter().zip(&self.codebooks).map(|(projection, codebook)| {
            let search = NearestCodeword::new(values(codebook)?, self.config.latent);
            Ok(Expert { projection: projection.to_mlp()?, search })
        });
        let experts = experts.collect::<Result<_>>()?;
        Ok(Box::new(ParallelMoe::new(&self.config, experts, self.gate.to_mlp()?, self.decoder.to_mlp()?)))
    }

    fn sample_size(&self) -> usize {
        let most = self.config.codes.iter().copied().max().unwrap_or(1) as usize;
        (10 * most).max(self.config.batch)
    }

    fn start(&mut self, sample: &Tensor, rng: &mut Rng) -> Result<()> {
        let width = self.config.latent;
        for (m, &codes) in self.config.codes.iter().enumerate() {
            let projected = self.projected(m, sample)?;
            let seeds = seed_rows(&projected, width, codes as usize, SEED_TRIALS, rng);
            let mut codewords: Vec<f32> =
                seeds.iter().flat_map(|&row| &projected[row * width..][..width]).copied().collect();
            // Fewer distinct items than codes: the rest waits beside the items.
            while codewords.len() < codes as usize * width {
                let from = rng.below(seeds.len().max(1)) * width;
                let near: Vec<f32> = codewords[from..from + width].to_vec();
                codewords.extend(near.iter().map(|v| v + 0.01 * rng.normal() as f32));
            }
            self.set_codebook(m, codewords)?;
        }
        Ok(())
    }

    fn between_epochs(&mut self, sample: &Tensor, rng: &mut Rng, optimizer: &mut AdamW) -> Result<()> {
        let used = std::mem::replace(&mut self.used, unused(&self.config));
        if !self.config.restart_dead_codes {
            return Ok(());
        }
        let width = self.config.latent;
        for (m, used) in used.iter().enumerate() {
            let dead: Vec<usize> = (0..used.len()).filter(|&code| !used[code]).collect();
            if dead.is_empty() {
                continue;
            }
            let projected = self.projected(m, sample)?;
            let mut sources: Vec<usize> = (0..projected.len() / width).collect();
            rng.shuffle(&mut sources);
            let mut codewords = values(&self.codebooks[m].detach())?;
            for (&code, &source) in dead.iter().zip(&sources) {
                for (v, z) in codewords[code * width..][..width].iter_mut().zip(&projected[source * width..]) {
                    *v = z + 1e-4 * rng.normal() as f32;
                }
            }
            self.set_codebook(m, codewords)?;
            optimizer.forget_rows(&codebook_name(m), &dead)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use candle_core::Device;
    use sidereal_core::{Embeddings, NoProgress, SemanticIds};

    use super::*;
    use crate::encode::encode_prepared;
    use crate::quantizers::{MethodConfig, Model};
    use crate::report::structure;
    use crate::training_items::TrainingItems;

    /// 400 items around 40 centres.
    fn clustered() -> Embeddings {
        let mut rng = Rng::new(8, "clusters");
        let centres: Vec<f64> = (0..40 * 12).map(|_| rng.normal()).collect();
        let values = (0..400 * 12).map(|at| (centres[at / 12 % 40 * 12 + at % 12] + 0.1 * rng.normal()) as f32);
        Embeddings::new(400, 12, values.collect()).unwrap()
    }

    fn config() -> ParallelMoeConfig {
        ParallelMoeConfig {
            codes: vec![16; 4],
            latent: 6,
            hidden: vec![24],
            batch: 100,
            epochs: 40,
            evaluate_every: 5,
            learning_rate: 0.01,
            ..ParallelMoeConfig::default()
        }
    }

    #[test]
    fn every_expert_uses_nine_tenths_of_its_codes_on_clustered_data() {
        let rows = clustered();
        let trained = config().train(&TrainingItems::new(&rows), &Training::new(3, &NoProgress)).unwrap();
        let Model::Quantizer(quantizer) = trained.model else { panic!("experts make a quantizer") };
        let ids = encode_prepared(&*quantizer, &rows).unwrap();
        for (m, level) in structure(&ids, &[16; 4]).unwrap().levels.iter().enumerate() {
            assert!(level.used >= 15, "expert {m} uses {} of 16", level.used);
        }
    }

    #[test]
    fn imbalance_is_the_squared_coefficient_of_variation_of_the_mean_gate() {
        let gates = [0.7f32, 0.2, 0.1, 0.3, 0.3, 0.4];
        let tensor = Tensor::from_slice(&gates, (2, 3), &Device::Cpu).unwrap();
        let mean: Vec<f64> = (0..3).map(|m| f64::from(gates[m] + gates[3 + m]) / 2.0).collect();
        let centre = mean.iter().sum::<f64>() / 3.0;
        let variance = mean.iter().map(|g| (g - centre).powi(2)).sum::<f64>() / 3.0;
        let want = variance / centre.powi(2);
        assert!((f64::from(imbalance(&tensor).unwrap().to_scalar::<f32>().unwrap()) - want).abs() < 1e-6);
    }

    #[test]
    fn gates_count_up_to_one_and_the_fitted_net_decodes_as_the_one_in_training() {
        let rows = clustered();
        let mut net = MoeNet::new(&config(), 12, &Training::new(3, &NoProgress)).unwrap();
        let x = Tensor::from_slice(rows.values(), (400, 12), &Device::Cpu).unwrap();
        net.start(&x, &mut Rng::new(1, "start")).unwrap();
        net.config.commitment = 0.0;
        net.config.balance_weight = 0.0;
        let quantizer = net.to_quantizer().unwrap();
        let ids = encode_prepared(&*quantizer, &rows).unwrap();
        let back = quantizer.reconstruct(&ids).unwrap();
        let mean_error = |a: &[f32], b: &[f32]| -> f64 {
            a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>() / a.len() as f64
        };
        let energy = quantizer.residual_energy(&rows, &ids).unwrap().unwrap();
        let codebook_loss = energy[4] / (400.0 * 24.0);
        let want = mean_error(rows.values(), back.values()) + codebook_loss;
        let found = f64::from(net.loss(&x).unwrap().to_scalar::<f32>().unwrap());
        assert!((found - want).abs() < 1e-4 * want, "{found} in training, {want} fitted");
        let gradients = net.loss(&x).unwrap().backward().unwrap();
        for (name, var) in net.params.vars() {
            assert!(gradients.get(var).is_some(), "{name} has no gradient");
        }
        let experts = net.projections.iter().zip(&net.codebooks).map(|(projection, codebook)| Expert {
            projection: projection.to_mlp().unwrap(),
            search: NearestCodeword::new(values(codebook).unwrap(), 6),
        });
        let fitted =
            ParallelMoe::new(&config(), experts.collect(), net.gate.to_mlp().unwrap(), net.decoder.to_mlp().unwrap());
        let gates = fitted.gates(&SemanticIds::new(4, vec![0, 1, 2, 3, 15, 15, 15, 15]).unwrap()).unwrap();
        assert!(
            gates.chunks(4).all(|row| (row.iter().sum::<f32>() - 1.0).abs() < 1e-6 && row.iter().all(|g| *g > 0.0))
        );
    }
}
