//! The net in training: forward, quantization with straight-through gradients, and the loss.

use candle_core::{D, Device, Tensor};
use sidereal_nn::ops;
use sidereal_nn::params::{Init, Params};

use super::{Reduction, RqVae, RqVaeConfig};
use crate::Result;
use crate::mlp::TrainableMlp;
use crate::nearest::NearestCodeword;
use crate::residual::ResidualCodebooks;
use sidereal_nn::rng::Rng;

/// Encoder, decoder and codebooks as parameters: `enc.*`, `dec.*`, `codebooks.{l}`.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) params: Params,
    encoder: TrainableMlp,
    decoder: TrainableMlp,
    /// [K_l, d] each.
    codebooks: Vec<Tensor>,
    config: RqVaeConfig,
}

/// What the codebooks make of latents.
pub(super) struct Quantized {
    /// u32 `[B]`, one tensor a level.
    pub(super) codes: Vec<Tensor>,
    /// Sum of the codewords, [B, d].
    pub(super) sum: Tensor,
    /// Codebook loss plus weighted commitment, a scalar a level.
    pub(super) losses: Vec<Tensor>,
}

/// The parts of a step's loss, scalars.
pub(super) struct Loss {
    pub(super) total: Tensor,
    #[cfg_attr(not(test), allow(dead_code))]
    pub(super) reconstruction: Tensor,
    pub(super) quantized: Quantized,
}

impl Model {
    /// A net for inputs of `width`; codebooks are 0 until they are set.
    pub(super) fn new(config: &RqVaeConfig, width: usize, seed: u64, device: &Device) -> Result<Self> {
        let mut params = Params::new(device);
        let mut rng = Rng::new(seed, "rq-vae parameters");
        let mut widths = config.widths(width);
        let encoder = TrainableMlp::new("enc", &widths, &mut params, &mut rng)?;
        widths.reverse();
        let decoder = TrainableMlp::new("dec", &widths, &mut params, &mut rng)?;
        let codebook = |(level, &k): (usize, &u32)| {
            params.var(&format!("codebooks.{level}"), &[k as usize, config.latent], Init::Zeros, &mut rng)
        };
        let codebooks = config.codes.iter().enumerate().map(codebook).collect::<Result<_>>()?;
        Ok(Self { params, encoder, decoder, codebooks, config: config.clone() })
    }

    /// # Shapes
    /// [B, D] to [B, d]
    pub(super) fn encode(&self, x: &Tensor) -> Result<Tensor> {
        self.encoder.forward(x)
    }

    /// # Shapes
    /// [B, d] to [B, D]
    pub(super) fn decode(&self, latent: &Tensor) -> Result<Tensor> {
        self.decoder.forward(latent)
    }

    /// Quantizes level by level. The codeword is detached where the residual is passed on, so that gradients of later
    /// levels reach the encoder but no earlier codebook.
    ///
    /// # Shapes
    /// `latent`: [B, d]
    pub(super) fn quantize(&self, latent: &Tensor) -> Result<Quantized> {
        let mut residual = latent.clone();
        let mut sum: Option<Tensor> = None;
        let (mut codes, mut losses) = (Vec::new(), Vec::new());
        for codebook in &self.codebooks {
            let chosen = nearest_codes(&residual.detach(), &codebook.detach())?; // [B]
            let codeword = ops::embedding(&chosen, codebook)?; // [B, d]
            let codebook_loss = self.reduce(&(&codeword - residual.detach())?)?;
            let next = (&residual - codeword.detach())?;
            let commitment = self.reduce(&next)?;
            losses.push((codebook_loss + (commitment * self.config.commitment)?)?);
            sum = Some(match sum {
                None => codeword.detach(),
                Some(sum) => (sum + codeword.detach())?,
            });
            residual = next;
            codes.push(chosen);
        }
        let sum = match sum {
            Some(sum) => sum,
            None => latent.zeros_like()?,
        };
        Ok(Quantized { codes, sum, losses })
    }

    /// The loss of a batch.
    ///
    /// # Shapes
    /// `x`: [B, D]
    pub(super) fn loss(&self, x: &Tensor) -> Result<Loss> {
        let latent = self.encode(x)?; // [B, d]
        let quantized = self.quantize(&latent)?;
        // Straight through: the value is the sum of codewords, the gradient goes to the latent.
        let through = (&latent + (&quantized.sum - latent.detach())?)?;
        let reconstruction = self.reduce(&(self.decode(&through)? - x)?)?;
        let mut levels = quantized.losses.iter().sum_tensors()?;
        if self.config.reduction == Reduction::Mean {
            levels = (levels / quantized.losses.len() as f64)?;
        }
        let total = (&reconstruction + (levels * self.config.quantization_weight)?)?;
        Ok(Loss { total, reconstruction, quantized })
    }

    /// Squares of differences to one number, [B, _] to a scalar.
    fn reduce(&self, difference: &Tensor) -> Result<Tensor> {
        let squares = difference.sqr()?;
        Ok(match self.config.reduction {
            Reduction::Mean => squares.mean_all()?,
            Reduction::Sum => (squares.sum_all()? / difference.dim(0)?.max(1) as f64)?,
        })
    }

    /// A copy to run on rows.
    pub(super) fn to_quantizer(&self) -> Result<RqVae> {
        let mut codebooks = ResidualCodebooks::new(self.config.latent);
        for codebook in &self.codebooks {
            codebooks.push(codebook.flatten_all()?.to_vec1::<f32>()?, None);
        }
        Ok(RqVae { encoder: self.encoder.to_mlp()?, decoder: self.decoder.to_mlp()?, codebooks })
    }

    /// Replaces a codebook's values, [K, d].
    pub(super) fn set_codebook(&self, level: usize, values: Vec<f32>) -> Result<()> {
        if let Some(var) = self.params.get(&format!("codebooks.{level}")) {
            var.set(&Tensor::from_vec(values, var.dims(), var.device())?)?;
        }
        Ok(())
    }
}

/// The code of every row: exact on the CPU, as encoding finds them; by candle's ops elsewhere.
///
/// # Shapes
/// [B, d] and [K, d] to u32 `[B]`
fn nearest_codes(residual: &Tensor, codebook: &Tensor) -> Result<Tensor> {
    if let Device::Cpu = residual.device() {
        let search = NearestCodeword::new(codebook.flatten_all()?.to_vec1::<f32>()?, codebook.dim(1)?);
        let rows = residual.flatten_all()?.to_vec1::<f32>()?;
        let mut codes = Vec::with_capacity(residual.dim(0)?);
        search.search(&rows, &mut Vec::new(), |_, code| codes.push(u32::from(code)));
        let count = codes.len();
        return Ok(Tensor::from_vec(codes, count, residual.device())?);
    }
    let norms = codebook.sqr()?.sum(1)?; // [K]
    let scores = (residual.matmul(&codebook.t()?)? * -2.0)?.broadcast_add(&norms)?; // [B, K]
    Ok(scores.argmin(D::Minus1)?)
}

trait SumTensors {
    fn sum_tensors(self) -> Result<Tensor>;
}

impl<'a, I: Iterator<Item = &'a Tensor>> SumTensors for I {
    fn sum_tensors(mut self) -> Result<Tensor> {
        let first = self.next().cloned();
        let first = first.ok_or_else(|| candle_core::Error::Msg("a net without levels has no loss".to_owned()))?;
        self.try_fold(first, |sum, next| Ok((sum + next)?))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::Path;

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

    fn reference_model() -> Model {
        let weights = file("weights.safetensors");
        let model = Model::new(&config(), 48, 1, &Device::Cpu).unwrap();
        let codebooks = values(&weights, "codebooks");
        for (name, var) in model.params.vars() {
            let data = match name.strip_prefix("codebooks.") {
                Some(level) => codebooks[level.parse::<usize>().unwrap() * 32 * 8..][..32 * 8].to_vec(),
                // The fixture holds [O, I].
                None if name.ends_with("weight") => crate::product::transposed(&values(&weights, name), var.dims()[0]),
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
        let latent = model.encode(&x).unwrap();
        close(&latent, &values(&io, "latent"), "latent");
        let quantized = model.quantize(&latent).unwrap();
        close(&quantized.sum, &values(&io, "quantised"), "quantised");
        close(&model.decode(&quantized.sum).unwrap(), &values(&io, "recon"), "recon");
        let losses = Tensor::stack(&quantized.losses, 0).unwrap();
        close(&losses, &values(&io, "loss_quant_per_level"), "loss_quant_per_level");
        let loss = model.loss(&x).unwrap();
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
        let found = model.loss(&x).unwrap().total.backward().unwrap();
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
        model.config.reduction = Reduction::Sum;
        model.config.quantization_weight = 1.0;
        let loss = model.loss(&x).unwrap();
        let scalar = |name: &str| values(&io, name)[0];
        let want = 48.0 * scalar("loss_recon") + 8.0 * scalar("loss_quant_sum");
        close(&loss.total, &[want], "total");
    }
}
