//! The net in training: forward, quantization and the loss.

use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor};
use sidereal_nn::ops::LearntLayers;
use sidereal_nn::params::Params;
use sidereal_nn::rng::Rng;

use super::codebooks::Codebooks;
use super::input_norm::TrainableInputNorm;
use super::options::{InputNorm, Reduction};
use super::quantise::{Quantized, quantise};
use super::{Plan, RqVae};
use crate::Result;
use crate::codebooks::residual::ResidualCodebooks;
use crate::mlp::{Mlp, TrainableMlp};

/// Encoder, decoder and codebooks as parameters: `enc.*`, `dec.*`, those of [`Codebooks`] and `input_norm.*`.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) params: Params,
    input_norm: Option<TrainableInputNorm>,
    encoder: TrainableMlp,
    decoder: TrainableMlp,
    pub(super) codebooks: Codebooks,
    plan: Plan,
}

/// The parts of a step's loss, scalars.
pub(super) struct Loss {
    pub(super) total: Tensor,
    #[cfg_attr(not(test), allow(dead_code))]
    pub(super) reconstruction: Tensor,
    pub(super) quantized: Quantized,
    /// The codebooks that quantized, with gradients, [K_l, d].
    pub(super) codebooks: Vec<Tensor>,
    learnt: Vec<LearntLayers>,
}

impl Loss {
    /// The gradients of the total, and what was quantized.
    pub(super) fn backward(self) -> Result<(GradStore, Quantized)> {
        let mut gradients = self.total.backward()?;
        for learnt in self.learnt {
            learnt.insert_into(&mut gradients)?;
        }
        Ok((gradients, self.quantized))
    }
}

impl Model {
    /// A net for inputs of `width`; codebooks are 0 until they are set.
    pub(super) fn new(plan: &Plan, width: usize, seed: u64, device: &Device) -> Result<Self> {
        let config = &plan.config;
        let mut params = Params::new(device);
        let mut rng = Rng::new(seed, &format!("{} parameters", plan.method));
        let mut widths = config.widths(width);
        let encoder = TrainableMlp::new("enc", &widths, plan.residual, &mut params, &mut rng)?;
        widths.reverse();
        let decoder = TrainableMlp::new("dec", &widths, plan.residual, &mut params, &mut rng)?;
        let [encoder, decoder] = [encoder, decoder].map(|net| net.in_precision(config.precision));
        let codebooks = Codebooks::new(config, &mut params, &mut rng)?;
        let input_norm = match config.input_norm {
            InputNorm::None => None,
            kind => Some(TrainableInputNorm::new(kind, width, &mut params, &mut rng)?),
        };
        Ok(Self { params, input_norm, encoder, decoder, codebooks, plan: plan.clone() })
    }

    /// # Shapes
    /// [B, D] to [B, d]
    fn encode(&self, x: &Tensor) -> Result<(Tensor, LearntLayers)> {
        match &self.input_norm {
            None => self.encoder.forward(x, false),
            Some(norm) => self.encoder.forward(&norm.forward(x)?, true),
        }
    }

    /// The loss of a batch; `noise` is drawn from where the estimator has any.
    ///
    /// # Shapes
    /// `x`: [B, D]
    pub(super) fn loss(&self, x: &Tensor, noise: &mut Rng) -> Result<Loss> {
        let config = &self.plan.config;
        let (latent, learnt_encoder) = self.encode(x)?; // [B, d]
        let codebooks = self.codebooks.tensors()?;
        let quantized = quantise(config, &latent, &codebooks, noise)?;
        let (squares, learnt_decoder) = self.decoder.squared_error(&quantized.through, x)?;
        let values = match config.reduction {
            Reduction::Mean => x.elem_count(),
            Reduction::Sum => x.dim(0)?,
        };
        let reconstruction = (squares / values.max(1) as f64)?;
        let mut total = reconstruction.clone();
        if let Some((first, rest)) = quantized.losses.split_first() {
            let mut levels = rest.iter().try_fold(first.clone(), |sum, next| sum + next)?;
            if config.reduction == Reduction::Mean {
                levels = (levels / quantized.losses.len() as f64)?;
            }
            total = (total + (levels * config.quantization_weight)?)?;
        }
        Ok(Loss { total, reconstruction, quantized, codebooks, learnt: vec![learnt_encoder, learnt_decoder] })
    }

    /// What the codebooks make of rows beside a batch, which only the encoder learns from: every level takes the nearest
    /// codeword as in encoding, and codebooks get no gradients.
    ///
    /// # Shapes
    /// `x`: [M, D] to [M, d]
    pub(super) fn quantize_beside(&self, x: &Tensor, loss: &mut Loss, noise: &mut Rng) -> Result<Tensor> {
        let (latent, learnt) = match &self.input_norm {
            None => self.encoder.forward(x, false)?,
            Some(norm) => self.encoder.forward(&norm.forward_as_encoding(x)?, true)?,
        };
        loss.learnt.push(learnt);
        let codebooks: Vec<Tensor> = loss.codebooks.iter().map(Tensor::detach).collect();
        let mut config = self.plan.config.clone();
        config.sinkhorn.levels.clear();
        Ok(quantise(&config, &latent, &codebooks, noise)?.through)
    }

    /// Takes running statistics and running means further, after a step on this batch.
    pub(super) fn observe(&self, x: &Tensor, quantized: &Quantized) -> Result<()> {
        if let Some(norm) = &self.input_norm {
            norm.observe(x)?;
        }
        self.codebooks.observe(quantized)
    }

    /// Makes running statistics those of these rows.
    pub(super) fn start_input_norm(&self, rows: &[f32]) -> Result<()> {
        match &self.input_norm {
            Some(norm) => norm.start(rows),
            None => Ok(()),
        }
    }

    /// A copy of the encoder to run on rows.
    pub(super) fn to_encoder(&self) -> Result<Mlp> {
        let encoder = self.encoder.to_mlp()?;
        match &self.input_norm {
            Some(norm) => norm.fold_into(encoder),
            None => Ok(encoder),
        }
    }

    /// A copy to run on rows.
    pub(super) fn to_quantizer(&self) -> Result<RqVae> {
        let mut codebooks = ResidualCodebooks::new(self.plan.config.latent);
        for codebook in self.codebooks.values()? {
            codebooks.push(codebook, None);
        }
        Ok(RqVae { encoder: self.to_encoder()?, decoder: self.decoder.to_mlp()?, codebooks, retrained: false })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::Path;

    use super::super::RqVaeConfig;
    use super::super::options::{CodebookUpdate, Ema, Estimator, Gumbel, Sinkhorn};
    use super::*;
    use crate::quantizers::{Quantizer, Scratch};
    use sidereal_core::Embeddings;
    use sidereal_core::array_file::ArrayFile;

    fn file(name: &str) -> ArrayFile {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/rqvae");
        ArrayFile::open(&dir.join(name)).unwrap()
    }

    fn values(file: &ArrayFile, name: &str) -> Vec<f32> {
        file.column::<f32>(name).unwrap().to_vec()
    }

    /// The fixture sums over levels; a weight of 3 on the mean of three is that sum.
    fn config() -> RqVaeConfig {
        RqVaeConfig {
            codes: vec![32; 3],
            hidden: vec![32, 24],
            latent: 8,
            quantization_weight: 3.0,
            ..RqVaeConfig::default()
        }
    }

    fn noise() -> Rng {
        Rng::new(1, "noise")
    }

    fn reference_model() -> Model {
        let weights = file("weights.safetensors");
        let model = Model::new(&Plan::rq_vae(&config()), 48, 1, &Device::Cpu).unwrap();
        let codebooks = values(&weights, "codebooks");
        for (name, var) in model.params.vars() {
            let data = match name.strip_prefix("codebooks.") {
                Some(level) => codebooks[level.parse::<usize>().unwrap() * 32 * 8..][..32 * 8].to_vec(),
                // The fixture holds [O, I].
                None if name.ends_with("weight") => {
                    crate::algebra::product::transposed(&values(&weights, name), var.dims()[0])
                }
                None => values(&weights, name),
            };
            var.set(&Tensor::from_vec(data, var.dims(), &Device::Cpu).unwrap()).unwrap();
        }
        model
    }

    fn close(found: &Tensor, want: &[f32], what: &str) {
        let found = found.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(found.len(), want.len(), "{what}");
        for (i, (a, b)) in found.iter().zip(want).enumerate() {
            assert!((a - b).abs() <= 1e-5 + 1e-4 * b.abs(), "{what}, value {i}: {a} here, {b} in PyTorch");
        }
    }

    #[test]
    fn forward_and_losses_equal_those_of_pytorch() {
        let (io, model) = (file("io.safetensors"), reference_model());
        let x = Tensor::from_vec(values(&io, "x"), (200, 48), &Device::Cpu).unwrap();
        let latent = model.encode(&x).unwrap().0;
        close(&latent, &values(&io, "latent"), "latent");
        let loss = model.loss(&x, &mut noise()).unwrap();
        let quantized = &loss.quantized;
        close(&quantized.sum, &values(&io, "quantised"), "quantised");
        let decoded = model.decoder.forward(&quantized.sum, false).unwrap().0;
        close(&decoded, &values(&io, "recon"), "recon");
        let losses = Tensor::stack(&quantized.losses, 0).unwrap();
        close(&losses, &values(&io, "loss_quant_per_level"), "loss_quant_per_level");
        close(&loss.reconstruction, &values(&io, "loss_recon"), "loss_recon");
        close(&loss.total, &values(&io, "loss_total"), "loss_total");
        let codes = Tensor::stack(&loss.quantized.codes, 1).unwrap().flatten_all().unwrap().to_vec1::<u32>().unwrap();
        let want: Vec<u32> = io.column::<i64>("codes").unwrap().iter().map(|&c| c as u32).collect();
        assert_eq!(codes, want);
    }

    #[test]
    fn gradients_equal_those_of_pytorch() {
        let (io, grads, model) = (file("io.safetensors"), file("grads.safetensors"), reference_model());
        let x = Tensor::from_vec(values(&io, "x"), (200, 48), &Device::Cpu).unwrap();
        let found = model.loss(&x, &mut noise()).unwrap().backward().unwrap().0;
        let codebooks = values(&grads, "codebooks");
        for (name, var) in model.params.vars() {
            let grad = found.get(var).unwrap_or_else(|| panic!("{name} has no gradient"));
            match name.strip_prefix("codebooks.") {
                Some(level) => close(grad, &codebooks[level.parse::<usize>().unwrap() * 256..][..256], name),
                None if name.ends_with("weight") => close(&grad.t().unwrap(), &values(&grads, name), name),
                None => close(grad, &values(&grads, name), name),
            }
        }
    }

    #[test]
    fn the_quantizer_gives_the_codes_of_pytorch_on_the_fixture() {
        let (io, model) = (file("io.safetensors"), reference_model());
        let quantizer = model.to_quantizer().unwrap();
        let mut codes = vec![0u16; 600];
        quantizer.encode_rows(&values(&io, "x"), &mut Scratch::default(), &mut codes);
        let want: Vec<u16> = io.column::<i64>("codes").unwrap().iter().map(|&c| c as u16).collect();
        assert_eq!(codes, want);
        let rows = Embeddings::new(200, 48, values(&io, "x")).unwrap();
        let latents = Tensor::from_slice(quantizer.latents(&rows).unwrap().values(), (200, 8), &Device::Cpu).unwrap();
        close(&latents, &values(&io, "latent"), "latent");
    }

    #[test]
    fn the_sum_reduction_is_the_mean_times_dimensions_and_levels() {
        let io = file("io.safetensors");
        let x = Tensor::from_vec(values(&io, "x"), (200, 48), &Device::Cpu).unwrap();
        let mut model = reference_model();
        model.plan.config.reduction = Reduction::Sum;
        model.plan.config.quantization_weight = 1.0;
        let loss = model.loss(&x, &mut noise()).unwrap();
        let scalar = |name: &str| values(&io, name)[0];
        let want = 48.0 * scalar("loss_recon") + 8.0 * scalar("loss_quant_sum");
        close(&loss.total, &[want], "total");
    }

    fn modes() -> Vec<(&'static str, RqVaeConfig)> {
        let base = || RqVaeConfig { codes: vec![6, 5], hidden: vec![7], latent: 4, ..RqVaeConfig::default() };
        vec![
            ("straight-through", base()),
            ("sum", RqVaeConfig { reduction: Reduction::Sum, ..base() }),
            ("rotation", RqVaeConfig { estimator: Estimator::Rotation, ..base() }),
            ("gumbel", RqVaeConfig { estimator: Estimator::Gumbel(Gumbel { temperature: 1.0 }), ..base() }),
            ("ema", RqVaeConfig { codebook_update: CodebookUpdate::Ema(Ema::default()), ..base() }),
            ("sim-vq", RqVaeConfig { sim_vq: true, ..base() }),
            ("sinkhorn", RqVaeConfig { sinkhorn: Sinkhorn { levels: vec![1], ..Sinkhorn::default() }, ..base() }),
            ("batch", RqVaeConfig { input_norm: InputNorm::Batch, ..base() }),
            ("layer", RqVaeConfig { input_norm: InputNorm::Layer, ..base() }),
        ]
    }

    /// A net with codebooks of noise, and a batch.
    fn random_model(plan: &Plan, width: usize) -> (Model, Tensor) {
        let model = Model::new(plan, width, 1, &Device::Cpu).unwrap();
        let mut rng = Rng::new(2, "test");
        for (level, &k) in plan.config.codes.iter().enumerate() {
            let values = (0..k as usize * plan.config.latent).map(|_| rng.normal() as f32).collect();
            model.codebooks.set(level, values).unwrap();
        }
        let rows: Vec<f32> = (0..40 * width).map(|i| (rng.normal() * 2.0) as f32 + (i % width) as f32).collect();
        model.start_input_norm(&rows).unwrap();
        (model, Tensor::from_vec(rows, (40, width), &Device::Cpu).unwrap())
    }

    #[test]
    fn every_parameter_that_learns_has_a_gradient_in_every_mode() {
        for (name, config) in modes() {
            let (model, x) = random_model(&Plan::rq_vae(&config), 9);
            let grads = model.loss(&x, &mut noise()).unwrap().backward().unwrap().0;
            for (parameter, var) in model.params.vars() {
                let observed = parameter.starts_with("ema.")
                    || ["input_norm.mean", "input_norm.variance"].contains(&parameter.as_str())
                    || parameter.starts_with("codebooks.") && ["ema", "sim-vq"].contains(&name);
                match grads.get(var) {
                    Some(_) if observed => panic!("{name}: {parameter} has a gradient, but is not learnt by it"),
                    None if !observed => panic!("{name}: {parameter} has no gradient"),
                    None => {}
                    Some(grad) => {
                        let values = grad.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                        assert!(values.iter().all(|v| v.is_finite()), "{name}: {parameter}");
                        assert!(values.iter().any(|v| *v != 0.0), "{name}: the gradient of {parameter} is 0");
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_exported_encodes_as_the_net_in_training() {
        for (name, config) in modes() {
            let (model, x) = random_model(&Plan::rq_vae(&config), 9);
            let want = model.encode(&x).unwrap().0.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let rows = Embeddings::new(40, 9, x.flatten_all().unwrap().to_vec1::<f32>().unwrap()).unwrap();
            let found = model.to_quantizer().unwrap().latents(&rows).unwrap();
            for (a, b) in found.values().iter().zip(&want) {
                assert!((a - b).abs() < 1e-4 * (1.0 + b.abs()), "{name}: {a} {b}");
            }
        }
    }

    #[test]
    fn a_residual_net_starts_as_plain_residual_quantization() {
        let config = RqVaeConfig { codes: vec![6, 5], hidden: vec![7], latent: 9, ..RqVaeConfig::default() };
        let plan = Plan { residual: true, ..Plan::rq_vae(&config) };
        let (model, x) = random_model(&plan, 9);
        let loss = model.loss(&x, &mut noise()).unwrap();
        let quantizer = model.to_quantizer().unwrap();
        let rows = Embeddings::new(40, 9, x.flatten_all().unwrap().to_vec1::<f32>().unwrap()).unwrap();
        assert_eq!(quantizer.latents(&rows).unwrap().values(), rows.values());
        let codes = Tensor::stack(&loss.quantized.codes, 1).unwrap().flatten_all().unwrap().to_vec1::<u32>().unwrap();
        let ids = sidereal_core::SemanticIds::new(2, codes.iter().map(|&c| c as u16).collect()).unwrap();
        let sums = loss.quantized.sum.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(quantizer.reconstruct(&ids).unwrap().values(), sums);
    }
}
