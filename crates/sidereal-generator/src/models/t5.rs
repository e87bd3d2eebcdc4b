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
mod extensions;
mod first_embeddings;
mod forward;
mod frozen;
mod inputs;
mod objective;
mod position;
mod weights;

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use sidereal_core::{CodeVocab, Embeddings, Error as CoreError};
use sidereal_nn::kernels::loops::MAX_POSITIONS;
use sidereal_nn::kernels::{self, Precision, Write};
use sidereal_nn::ops::composed;
use sidereal_nn::params::Params;

pub use config::{FeedForward, T5Config};
pub use extensions::Extensions;
pub(super) use objective::CONTRAST_TEMPERATURE;
pub use objective::Objective;

use crate::Result;
use crate::batches::Batch;
use crate::dropout::Dropout;
use crate::models::placed::{Placed, PlacedState};
use crate::models::unit_length::unit_values;
use crate::network::WEIGHTS_FILE;
use crate::scoring::{CodeScores, DeviceCodes, NextCodeModel, ScoreNorm};
use forward::{Forward, Padding};
use frozen::Frozen;
use weights::{Model, Weights};

/// The name of the sizes' file in a model's folder, as Hugging Face has it.
pub const CONFIG_FILE: &str = "config.json";

/// A trainable T5.
#[derive(Debug)]
pub struct T5 {
    config: T5Config,
    extensions: Option<Extensions>,
    /// Item vectors of mean square 1, a row of zeros behind the last: `[N + 1, width]`.
    vectors: Option<Tensor>,
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
        let model = weights::create(&config, None, device, |slot| Ok(slot.first_values(seed)))?;
        Ok(Self { config, extensions: None, vectors: None, device: device.clone(), model })
    }

    /// A model with random weights and more than Hugging Face's parts; `vectors`, in catalog order, for those that look
    /// at any.
    ///
    /// # Errors
    /// As [`T5::new`].
    pub fn extended(
        config: T5Config,
        extensions: Extensions,
        vectors: Option<&Embeddings>,
        seed: u64,
        device: &Device,
    ) -> Result<Self> {
        config.check("T5")?;
        extensions.check("T5", config.d_model)?;
        let model = weights::create(&config, Some(&extensions), device, |slot| Ok(slot.first_values(seed)))?;
        let vectors = vectors.map(|vectors| level_vectors(vectors, device)).transpose()?;
        Ok(Self { config, extensions: Some(extensions), vectors, device: device.clone(), model })
    }

    /// Loads a folder in Hugging Face's layout: `config.json` and `model.safetensors`.
    ///
    /// # Errors
    /// Files that are missing or damaged; a tensor that is missing, unexpected, misshapen, not f32 or not finite.
    pub fn load(dir: &Path, device: &Device) -> Result<Self> {
        let config = T5Config::read(&dir.join(CONFIG_FILE))?;
        let model = weights::read(&dir.join(WEIGHTS_FILE), &config, None, device)?;
        Ok(Self { config, extensions: None, vectors: None, device: device.clone(), model })
    }

    /// Loads a folder of [`T5::save`] with these extensions.
    ///
    /// # Errors
    /// As [`T5::load`].
    pub fn load_extended(
        dir: &Path,
        extensions: Extensions,
        vectors: Option<&Embeddings>,
        device: &Device,
    ) -> Result<Self> {
        let config = T5Config::read(&dir.join(CONFIG_FILE))?;
        extensions.check(&dir.display().to_string(), config.d_model)?;
        let model = weights::read(&dir.join(WEIGHTS_FILE), &config, Some(&extensions), device)?;
        let vectors = vectors.map(|vectors| level_vectors(vectors, device)).transpose()?;
        Ok(Self { config, extensions: Some(extensions), vectors, device: device.clone(), model })
    }

    /// Writes `config.json` and `model.safetensors` in Hugging Face's layout into an existing folder; extensions stand
    /// behind Hugging Face's tensors.
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

    /// Takes the weights of a file from [`T5::save_weights`].
    ///
    /// # Errors
    /// As [`T5::load`].
    pub fn load_weights(&mut self, path: &Path) -> Result<()> {
        self.model = weights::read(path, &self.config, self.extensions.as_ref(), &self.device)?;
        Ok(())
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

    /// Encoder states of a batch's histories, for comparison.
    ///
    /// # Shapes
    /// result: `[B, T, D]`
    ///
    /// # Errors
    /// Whatever the device says.
    pub fn encoder_states(&self, batch: &Batch, dropout: &Dropout) -> Result<Tensor> {
        let padding = Padding::new(&batch.lengths, batch.width, &self.model.weights.embedding)?;
        self.forward(dropout).encode(batch, &padding)
    }

    /// Logits of a batch's targets over the whole vocabulary, each code given those before it.
    ///
    /// # Shapes
    /// result: `[B * L, V]`
    ///
    /// # Errors
    /// Whatever the device says.
    pub fn logits(&self, batch: &Batch, dropout: &Dropout) -> Result<Tensor> {
        let forward = self.forward(dropout);
        let x = self.decoder_states(&forward, batch)?; // [B, L, D]
        forward.logits(&x.reshape((batch.rows * batch.levels, self.config.d_model))?)
    }

    /// What the heads see at a batch's targets, each code given those before it: `[B, L, D]`.
    fn decoder_states(&self, forward: &Forward<'_>, batch: &Batch) -> Result<Tensor> {
        let padding = Padding::new(&batch.lengths, batch.width, &self.model.weights.embedding)?;
        let states = forward.encode(batch, &padding)?; // [B, T, D]
        // Shifted to the right behind the start token.
        let mut inputs = Vec::with_capacity(batch.target.len());
        for target in batch.target.chunks_exact(batch.levels) {
            inputs.push(self.config.decoder_start_token_id);
            inputs.extend_from_slice(&target[..batch.levels - 1]);
        }
        forward.decode(&inputs, batch.levels, &states, &padding)
    }

    /// The weights as they are now, ready to write codes: on the CPU packed for its kernels, elsewhere shared.
    ///
    /// # Errors
    /// A code vocabulary that is larger than V, or has more levels than inference supports; bytes on another device than
    /// the CPU.
    pub fn inference(&self, vocab: &CodeVocab, precision: Precision) -> Result<T5Inference> {
        self.inference_over(vocab, None, precision)
    }

    /// As [`T5::inference`], over other items than those of the training where `vectors` are given.
    ///
    /// # Errors
    /// As [`T5::inference`]; vectors of another width than the training's.
    pub fn inference_over(
        &self,
        vocab: &CodeVocab,
        vectors: Option<&Embeddings>,
        precision: Precision,
    ) -> Result<T5Inference> {
        if !self.device.is_cpu() || composed::is_everywhere() {
            return self.device_inference_over(vocab, vectors, precision);
        }
        self.check_vocab(vocab)?;
        let extended = match &self.extensions {
            Some(extensions) if extensions.change_histories() => Some(Box::new(self.frozen(vectors, Share::Copied)?)),
            _ => None,
        };
        let cpu = cpu::CpuT5::new(&self.config, vocab, &self.model.weights, extended, precision)?;
        self.asked(vocab, Engine::Cpu(Box::new(cpu)))
    }

    /// Inference by the path that other devices take, on any device.
    ///
    /// # Errors
    /// As [`T5::inference`].
    pub fn device_inference(&self, vocab: &CodeVocab, precision: Precision) -> Result<T5Inference> {
        self.device_inference_over(vocab, None, precision)
    }

    fn device_inference_over(
        &self,
        vocab: &CodeVocab,
        vectors: Option<&Embeddings>,
        precision: Precision,
    ) -> Result<T5Inference> {
        self.check_vocab(vocab)?;
        let dtype = match precision {
            Precision::F32 => DType::F32,
            Precision::Bf16 => DType::BF16,
            Precision::Int8 => {
                let problem = "int8 is for the CPU, but the generator is elsewhere";
                return Err(CoreError::config("precision", problem, "use f32 or bf16, or --device cpu").into());
            }
        };
        // Heads look at no item vectors: those of the training are shared, and no second copy is made.
        let heads = self.frozen(None, Share::As(DType::F32))?;
        let device = device::DeviceT5::new(vocab, self.frozen(vectors, Share::As(dtype))?, heads);
        self.asked(vocab, Engine::Device(Box::new(device)))
    }

    fn asked(&self, vocab: &CodeVocab, engine: Engine) -> Result<T5Inference> {
        let head = self.model.weights.added.vector_head.as_ref();
        let pack = |head: &Tensor| {
            let values = head.flatten_all()?.to_vec1()?;
            Ok::<_, crate::Error>(kernels::Weights::new(&values, head.dim(1)?, Precision::F32))
        };
        let head = head.map(pack);
        Ok(T5Inference { vocab: vocab.clone(), engine, vector_head: head.transpose()? })
    }

    fn check_vocab(&self, vocab: &CodeVocab) -> Result<()> {
        let (needed, has) = (vocab.size() as usize, self.config.vocab_size);
        if needed > has {
            let problem = format!("the catalog's codes need {needed} tokens, but the generator has {has}");
            return Err(CoreError::mismatch(problem, "use the catalog that the generator was trained on").into());
        }
        if vocab.levels() == 0 || vocab.levels() > MAX_POSITIONS {
            let problem = format!("semantic IDs of {} levels", vocab.levels());
            return Err(CoreError::mismatch(problem, format!("use 1 to {} levels", MAX_POSITIONS)).into());
        }
        Ok(())
    }

    fn forward<'a>(&'a self, dropout: &'a Dropout) -> Forward<'a> {
        Forward {
            config: &self.config,
            weights: &self.model.weights,
            extensions: self.extensions.as_ref(),
            vectors: self.vectors.as_ref(),
            dropout,
        }
    }

    /// The same weights without the record of gradients.
    fn frozen(&self, vectors: Option<&Embeddings>, share: Share) -> Result<Frozen> {
        let mut vars = self.model.params.vars().iter();
        let weights = Weights::build(&self.config, self.extensions.as_ref(), |slot| {
            let (_, var) = vars.next().ok_or_else(|| {
                CoreError::input("T5", format!("parameter {:?} is missing", slot.name), "this is a defect: report it")
            })?;
            let shared = var.as_detached_tensor();
            Ok(match share {
                Share::Copied => shared.copy()?,
                Share::As(dtype) => shared.to_dtype(dtype)?,
            })
        })?;
        let extensions = self.extensions.clone();
        let width = extensions.as_ref().map_or(0, |extensions| extensions.vector_width);
        let vectors = match vectors {
            Some(vectors) if vectors.width() != width => {
                let problem =
                    format!("item vectors of width {}, but the generator learnt with {width}", vectors.width());
                return Err(CoreError::mismatch(problem, "use the embeddings of its training").into());
            }
            Some(vectors) => Some(level_vectors(vectors, &self.device)?),
            None => self.vectors.clone(),
        };
        let vectors = match share {
            Share::Copied => vectors,
            Share::As(dtype) => vectors.map(|vectors| vectors.to_dtype(dtype)).transpose()?,
        };
        Ok(Frozen { config: self.config.clone(), weights, extensions, vectors })
    }
}

/// What becomes of a model's weights where it no longer learns.
#[derive(Debug, Clone, Copy)]
enum Share {
    /// Copied, apart from what training goes on to change.
    Copied,
    /// The same numbers where they have this type already.
    As(DType),
}

/// Vectors of mean square 1 on the device, and one of zeros for no item: `[N + 1, width]`.
fn level_vectors(vectors: &Embeddings, device: &Device) -> Result<Tensor> {
    let (rows, width) = (vectors.rows(), vectors.width());
    let mut values = Vec::with_capacity((rows + 1) * width);
    for row in (0..rows).map(|i| vectors.row(i)) {
        let mean_square = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / width.max(1) as f64;
        let scale = if mean_square > 0.0 { mean_square.powf(-0.5) } else { 0.0 };
        values.extend(row.iter().map(|v| (f64::from(*v) * scale) as f32));
    }
    values.resize((rows + 1) * width, 0.0);
    Ok(Tensor::from_vec(values, (rows + 1, width), device)?)
}

/// A T5 that writes codes.
#[derive(Debug)]
pub struct T5Inference {
    vocab: CodeVocab,
    engine: Engine,
    vector_head: Option<kernels::Weights>, // [D, width of item vectors]
}

impl T5Inference {
    /// The next item's vector as the vector head says it, of length 1; `None` without such a head.
    ///
    /// # Shapes
    /// result: `[B, width of item vectors]`
    ///
    /// # Errors
    /// As [`NextCodeModel::begin`].
    pub fn next_vectors(&self, histories: &[&[u32]]) -> Result<Option<Vec<f32>>> {
        let Some(head) = &self.vector_head else { return Ok(None) };
        let states = match &self.engine {
            Engine::Cpu(model) => model.start_states(histories)?,
            Engine::Device(model) => model.start_states(histories)?,
        };
        let width = head.output();
        let mut vectors = vec![0.0; histories.len() * width];
        let states = kernels::Rows { data: &states, step: head.input() };
        let rows = kernels::prepare(Precision::F32, states, histories.len(), head.input(), &mut []);
        head.product(&mut vectors, width, rows, Write::Set);
        unit_values(&mut vectors, width);
        Ok(Some(vectors))
    }
}

type Engine = Placed<cpu::CpuT5, device::DeviceT5>;

/// Requests after some codes.
#[derive(Debug)]
pub struct T5State(PlacedState<cpu::CpuState, device::DeviceState>);

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
        self.engine.begin(histories, norm).map(|(state, scores)| (T5State(state), scores))
    }

    fn step(&self, state: &T5State, parents: &[u32], codes: &[u16], norm: ScoreNorm) -> Result<(T5State, CodeScores)> {
        self.engine.step(&state.0, parents, codes, norm).map(|(state, scores)| (T5State(state), scores))
    }

    fn on_device(&self) -> Option<&dyn DeviceCodes> {
        self.engine.on_device()
    }
}
