//! A T5 encoder-decoder that reads a history's codes and writes the next item's.
//!
//! RMSNorm without bias before every sub-layer, no biases, attention scores not divided by sqrt(dk), relative
//! positions in buckets whose table the blocks share, one embedding table for encoder, decoder and (if tied) the head.
//!
//! *Paper*: Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer",
//! 1910.10683, section 2.1; the gated feed-forward is that of Shazeer, "GLU Variants Improve Transformer", 2002.05202.
//! *Differs from the paper*: trained from a random start on codes; the encoder may see an empty history.
//! *Checked against*: Hugging Face's T5ForConditionalGeneration (three variants: logits, encoder states, loss, all
//! gradients, constrained beams), `tests/fixtures/t5_*`, made by `benches/peers/make_fixtures.py`.
//!
//! # Shapes
//! histories u32 `[B, T]` -> encoder states `[B, T, D]` -> logits `[B * L, V]`

mod config;
mod cost;
mod cpu;
mod device;
mod forward;
mod kernels;
mod packed;
mod pool;
mod position;
mod weights;

use std::path::Path;

use candle_core::{Device, Tensor};
use sidereal_core::{CodeVocab, Error as CoreError};
use sidereal_nn::ops;
use sidereal_nn::params::Params;

pub use config::{FeedForward, T5Config};

use crate::Result;
use crate::batches::Batch;
use crate::dropout::Dropout;
use crate::network::WEIGHTS_FILE;
use crate::scoring::{CodeScores, NextCodeModel, ScoreNorm};
use forward::{Forward, Padding};
use weights::{Model, Weights};

/// The name of the sizes' file in a model's folder, as Hugging Face has it.
pub const CONFIG_FILE: &str = "config.json";

/// A trainable T5.
#[derive(Debug)]
pub struct T5 {
    config: T5Config,
    device: Device,
    model: Model,
}

impl T5 {
    /// A model with random weights, deviations as Hugging Face begins them.
    ///
    /// # Errors
    /// Sizes that no model can have; whatever the device says.
    pub fn new(config: T5Config, seed: u64, device: &Device) -> Result<Self> {
        config.check("T5")?;
        let model = weights::create(&config, device, |slot| Ok(slot.first_values(seed)))?;
        Ok(Self { config, device: device.clone(), model })
    }

    /// Loads a folder in Hugging Face's layout: `config.json` and `model.safetensors`.
    ///
    /// # Errors
    /// Files that are missing or damaged; a tensor that is missing, unexpected, misshapen, not f32 or not finite.
    pub fn load(dir: &Path, device: &Device) -> Result<Self> {
        let config = T5Config::read(&dir.join(CONFIG_FILE))?;
        let model = weights::read(&dir.join(WEIGHTS_FILE), &config, device)?;
        Ok(Self { config, device: device.clone(), model })
    }

    /// Writes `config.json` and `model.safetensors` in Hugging Face's layout into an existing folder.
    ///
    /// # Errors
    /// Whatever the device or the file system says.
    pub fn save(&self, dir: &Path) -> Result<()> {
        self.config.write(&dir.join(CONFIG_FILE))?;
        self.save_weights(&dir.join(WEIGHTS_FILE))
    }

    /// Writes only the weights, to any file.
    ///
    /// # Errors
    /// Whatever the device or the file system says.
    pub fn save_weights(&self, path: &Path) -> Result<()> {
        weights::write(path, &self.model)
    }

    /// A model of these sizes with the weights of a file from [`T5::save_weights`].
    ///
    /// # Errors
    /// As [`T5::load`].
    pub fn load_weights(config: T5Config, path: &Path, device: &Device) -> Result<Self> {
        let model = weights::read(path, &config, device)?;
        Ok(Self { config, device: device.clone(), model })
    }

    /// Sizes.
    pub fn config(&self) -> &T5Config {
        &self.config
    }

    /// Where the weights are.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The variables by our names, in a fixed order.
    pub fn params(&self) -> &Params {
        &self.model.params
    }

    /// How many numbers the model holds.
    pub fn parameter_count(&self) -> usize {
        self.model.params.count()
    }

    /// Gradients by Hugging Face's names and in its layout, for comparison.
    ///
    /// # Errors
    /// A parameter without gradient, by name.
    pub fn hugging_face_gradients(&self, grads: &candle_core::backprop::GradStore) -> Result<Vec<(String, Tensor)>> {
        let mut all = Vec::new();
        for (slot, (name, var)) in self.model.slots.iter().zip(self.model.params.vars()) {
            let gradient = grads.get(var.as_tensor()).ok_or_else(|| {
                CoreError::input("T5", format!("parameter {name:?} has no gradient"), "this is a defect: report it")
            })?;
            all.extend(slot.to_parts(gradient)?);
        }
        Ok(all)
    }

    /// Encoder states of padded histories, for comparison.
    ///
    /// # Shapes
    /// `ids`: u32 `[B, T]`; `lengths`: `[B]`; result: `[B, T, D]`
    ///
    /// # Errors
    /// Whatever the device says.
    pub fn encoder_states(&self, ids: &Tensor, lengths: &[u32], dropout: &Dropout) -> Result<Tensor> {
        let padding = Padding::new(lengths, ids.dim(1)?, ids)?;
        self.forward(dropout).encode(ids, &padding)
    }

    /// Logits of a batch's targets, each code given those before it.
    ///
    /// # Shapes
    /// result: `[B * L, V]`
    ///
    /// # Errors
    /// Whatever the device says.
    pub fn logits(&self, batch: &Batch, dropout: &Dropout) -> Result<Tensor> {
        let forward = self.forward(dropout);
        let history = Tensor::from_slice(&batch.history, (batch.rows, batch.width), &self.device)?; // [B, T]
        let padding = Padding::new(&batch.lengths, batch.width, &history)?;
        let states = forward.encode(&history, &padding)?; // [B, T, D]
        // Shifted to the right behind the start token.
        let mut inputs = Vec::with_capacity(batch.target.len());
        for target in batch.target.chunks_exact(batch.levels) {
            inputs.push(self.config.decoder_start_token_id);
            inputs.extend_from_slice(&target[..batch.levels - 1]);
        }
        let inputs = Tensor::from_vec(inputs, (batch.rows, batch.levels), &self.device)?; // [B, L]
        forward.decode(&inputs, &states, &padding)
    }

    /// Mean cross-entropy of a batch's target codes over the whole vocabulary.
    ///
    /// # Errors
    /// Whatever the device says.
    pub fn loss(&self, batch: &Batch, label_smoothing: f32, dropout: &Dropout) -> Result<Tensor> {
        let logits = self.logits(batch, dropout)?; // [B * L, V]
        let targets = Tensor::from_slice(&batch.target, batch.target.len(), &self.device)?; // [B * L]
        let args = ops::CrossEntropy { label_smoothing, temperature: 1.0, ignore: None };
        ops::cross_entropy(&logits, &targets, &args)
    }

    /// The weights as they are now, ready to write codes: on the CPU copied into a layout of its own, elsewhere shared.
    ///
    /// # Errors
    /// A code vocabulary that is larger than V, or has more levels than inference supports.
    pub fn inference(&self, vocab: &CodeVocab) -> Result<T5Inference> {
        self.check_vocab(vocab)?;
        let path = if self.device.is_cpu() {
            Engine::Cpu(cpu::CpuT5::new(&self.config, vocab, &self.model.weights)?)
        } else {
            Engine::Device(device::DeviceT5::new(&self.config, vocab, self.frozen()?))
        };
        Ok(T5Inference { vocab: vocab.clone(), engine: path })
    }

    /// Inference by the path that other devices take, on any device.
    ///
    /// # Errors
    /// As [`T5::inference`].
    pub fn device_inference(&self, vocab: &CodeVocab) -> Result<T5Inference> {
        self.check_vocab(vocab)?;
        let engine = Engine::Device(device::DeviceT5::new(&self.config, vocab, self.frozen()?));
        Ok(T5Inference { vocab: vocab.clone(), engine })
    }

    fn check_vocab(&self, vocab: &CodeVocab) -> Result<()> {
        let (needed, has) = (vocab.size() as usize, self.config.vocab_size);
        if needed > has {
            let problem = format!("the catalog's codes need {needed} tokens, but the generator has {has}");
            return Err(CoreError::mismatch(problem, "use the catalog that the generator was trained on").into());
        }
        if vocab.levels() == 0 || vocab.levels() > kernels::MAX_LEVELS {
            let problem = format!("semantic IDs of {} levels", vocab.levels());
            return Err(CoreError::mismatch(problem, format!("use 1 to {} levels", kernels::MAX_LEVELS)).into());
        }
        Ok(())
    }

    fn forward<'a>(&'a self, dropout: &'a Dropout) -> Forward<'a> {
        Forward { config: &self.config, weights: &self.model.weights, dropout }
    }

    /// The same weights without the record of gradients.
    fn frozen(&self) -> Result<Weights> {
        let mut vars = self.model.params.vars().iter();
        Weights::build(&self.config, |slot| {
            let (_, var) = vars.next().ok_or_else(|| {
                CoreError::input("T5", format!("parameter {:?} is missing", slot.name), "this is a defect: report it")
            })?;
            Ok(var.as_detached_tensor())
        })
    }
}

/// A T5 that writes codes.
#[derive(Debug)]
pub struct T5Inference {
    vocab: CodeVocab,
    engine: Engine,
}

#[derive(Debug)]
enum Engine {
    Cpu(cpu::CpuT5),
    Device(device::DeviceT5),
}

/// Requests after some codes.
#[derive(Debug)]
pub struct T5State(StateOf);

#[derive(Debug)]
enum StateOf {
    Cpu(cpu::CpuState),
    Device(device::DeviceState),
}

impl NextCodeModel for T5Inference {
    type State = T5State;

    fn vocab(&self) -> &CodeVocab {
        &self.vocab
    }

    fn requests_per_state(&self) -> usize {
        match self.engine {
            // Enough rows for a product to be efficient at the first step too, few enough to stay in a core's cache.
            Engine::Cpu(_) => 4,
            Engine::Device(_) => 64,
        }
    }

    fn begin(&self, histories: &[&[u32]], norm: ScoreNorm) -> Result<(T5State, CodeScores)> {
        match &self.engine {
            Engine::Cpu(model) => model.begin(histories, norm).map(|(s, scores)| (T5State(StateOf::Cpu(s)), scores)),
            Engine::Device(model) => {
                model.begin(histories, norm).map(|(s, scores)| (T5State(StateOf::Device(s)), scores))
            }
        }
    }

    fn step(&self, state: &T5State, parents: &[u32], codes: &[u16], norm: ScoreNorm) -> Result<(T5State, CodeScores)> {
        match (&self.engine, &state.0) {
            (Engine::Cpu(model), StateOf::Cpu(state)) => {
                model.step(state, parents, codes, norm).map(|(s, scores)| (T5State(StateOf::Cpu(s)), scores))
            }
            (Engine::Device(model), StateOf::Device(state)) => {
                model.step(state, parents, codes, norm).map(|(s, scores)| (T5State(StateOf::Device(s)), scores))
            }
            _ => Err(CoreError::input("beam", "a state of another model", "this is a defect: report it").into()),
        }
    }
}
