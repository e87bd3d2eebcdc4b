//! A decoder's weights: what learns, and what answers.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use sidereal_core::{CodeVocab, Error as CoreError};
use sidereal_nn::decoder::{Decoder, DecoderConfig, DecoderWeights, Slot};
use sidereal_nn::kernels::Precision;
use sidereal_nn::kernels::loops::MAX_POSITIONS;
use sidereal_nn::ops::{self, composed};
use sidereal_nn::params::Params;
use sidereal_nn::pretrained::{ModelFolder, WeightFiles, write_weights};
use sidereal_nn::rng::Rng;

use super::cpu::{CpuDecoder, CpuState};
use super::device::{DeviceDecoder, DeviceState};
use super::prompt::CodeTokens;
use crate::Result;
use crate::models::placed::{Placed, PlacedState};
use crate::scoring::{CodeScores, DeviceCodes, NextCodeModel, ScoreNorm};

/// Under which name a whole language model's files have the decoder.
const ROOT: &str = "model.";

/// A decoder and its head.
#[derive(Debug)]
pub struct DecoderModel {
    pub(super) config: DecoderConfig,
    pub(super) params: Params,
    /// They share memory with the parameters.
    weights: DecoderWeights,
    slots: Vec<Slot>,
}

impl DecoderModel {
    fn build(
        config: DecoderConfig,
        device: &Device,
        root: &str,
        mut add: impl FnMut(&mut Params, &Slot) -> sidereal_nn::Result<Tensor>,
    ) -> Result<Self> {
        let (mut params, mut slots) = (Params::new(device), Vec::new());
        let weights = DecoderWeights::build(&config, root, true, |slot| {
            slots.push(slot.clone());
            add(&mut params, slot)
        })?;
        Ok(Self { config, params, weights, slots })
    }

    /// With first weights, which the seed and each parameter's own name decide.
    ///
    /// # Errors
    /// Whatever the device says.
    pub fn new(config: DecoderConfig, seed: u64, device: &Device) -> Result<Self> {
        Self::build(config, device, ROOT, |params, slot| {
            let mut rng = Rng::new(seed, &format!("init {}", slot.name));
            params.var(&slot.name, &slot.shape, slot.init, &mut rng)
        })
    }

    /// Reads a folder in Hugging Face's layout; halves become f32.
    ///
    /// # Errors
    /// Files that are missing or damaged; a model of another family; a tensor that is missing, unexpected, misshapen or not
    /// finite, by name.
    pub fn read(folder: &ModelFolder, device: &Device) -> Result<Self> {
        let files = WeightFiles::open(folder, &folder.weight_files()?, DType::F32, &Device::Cpu)?;
        Self::of_files(&files, DecoderConfig::read(folder)?, device)
    }

    /// Reads the weights of one file.
    ///
    /// # Errors
    /// As [`DecoderModel::read`].
    pub(super) fn read_file(path: &Path, config: DecoderConfig, device: &Device) -> Result<Self> {
        let folder = ModelFolder::local(path.parent().unwrap_or(Path::new(".")));
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Self::of_files(&WeightFiles::open(&folder, &[name], DType::F32, &Device::Cpu)?, config, device)
    }

    fn of_files(files: &WeightFiles, config: DecoderConfig, device: &Device) -> Result<Self> {
        let root = files.prefix(&[ROOT, ""], "embed_tokens.weight")?;
        let model = Self::build(config, device, root, |params, slot| {
            let values: Vec<f32> = slot.read(files)?.flatten_all()?.to_vec1()?;
            if let Some(at) = values.iter().position(|value| !value.is_finite()) {
                let problem = format!("tensor {:?} holds {} at place {at}", slot.name, values[at]);
                let mend = "the training diverged: use another checkpoint";
                return Err(CoreError::input(files.place(), problem, mend).into());
            }
            params.insert(&slot.name, &slot.shape, values)
        })?;
        let known = |name: &String| model.slots.iter().any(|slot| slot.name == *name) || is_spare(name, &model.config);
        if let Some(name) = files.names("").into_iter().filter(|name| !known(name)).min() {
            let problem = format!("there is a tensor {name:?} that a decoder of this config.json does not have");
            return Err(CoreError::input(files.place(), problem, "use the config.json of these weights").into());
        }
        Ok(model)
    }

    /// Writes the weights in Hugging Face's layout.
    ///
    /// # Errors
    /// Whatever the device or the file system says.
    pub(super) fn save_weights(&self, path: &Path) -> Result<()> {
        let tensor = |(slot, (_, var)): (&Slot, &(String, candle_core::Var))| {
            Ok::<_, crate::Error>((slot.name.clone(), slot.to_file(var.as_tensor())?))
        };
        let tensors: Vec<(String, Tensor)> =
            self.slots.iter().zip(self.params.vars()).map(tensor).collect::<Result<_>>()?;
        write_weights(path, &tensors)
    }

    /// Sizes.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// States of texts that begin at position 0, padded behind their ends.
    ///
    /// # Shapes
    /// `ids`: u32 `[B, T]` -> `[B, T, D]`
    ///
    /// # Errors
    /// A token that the model does not have; whatever the device says.
    pub(super) fn states(&self, ids: &Tensor, dropout: Option<(f32, u64)>) -> Result<Tensor> {
        let x = ops::embedding(ids, &self.weights.embedding)?; // [B, T, D]
        Decoder { dropout, ..Decoder::new(&self.config, &self.weights) }.forward(&x)
    }

    /// Logits of all tokens: `[R, D]` -> `[R, V]`.
    pub(super) fn head(&self, states: &Tensor) -> Result<Tensor> {
        match &self.weights.head {
            Some(head) => ops::linear(states, head),
            None => ops::tied_head(states, &self.weights.embedding),
        }
    }

    /// Logits of all tokens at every place, for comparison: u32 `[B, T]` -> `[B * T, V]`.
    ///
    /// # Errors
    /// A token that the model does not have; whatever the device says.
    pub fn logits(&self, ids: &Tensor) -> Result<Tensor> {
        let states = self.states(ids, None)?;
        self.head(&states.reshape((ids.elem_count(), self.config.width))?)
    }

    /// The weights as they are now, ready to write codes: on the CPU packed for its kernels, elsewhere shared. `full`: with
    /// what normalisation over all tokens needs.
    ///
    /// # Errors
    /// Tokens that the model does not have; more levels than inference supports; bytes on another device than the CPU.
    pub fn inference(
        &self,
        vocab: &CodeVocab,
        codes: &CodeTokens,
        precision: Precision,
        full: bool,
    ) -> Result<DecoderInference> {
        self.check(vocab, codes)?;
        if !self.params.device().is_cpu() || composed::is_everywhere() {
            return self.device_inference(vocab, codes, precision);
        }
        let engine = Engine::Cpu(Box::new(CpuDecoder::new(&self.config, &self.weights, codes, precision, full)?));
        Ok(DecoderInference { vocab: vocab.clone(), engine })
    }

    /// Inference by the path that other devices take, on any device.
    ///
    /// # Errors
    /// As [`DecoderModel::inference`].
    pub fn device_inference(
        &self,
        vocab: &CodeVocab,
        codes: &CodeTokens,
        precision: Precision,
    ) -> Result<DecoderInference> {
        self.check(vocab, codes)?;
        let engine = Engine::Device(Box::new(self.on_device(vocab, codes, precision)?));
        Ok(DecoderInference { vocab: vocab.clone(), engine })
    }

    fn check(&self, vocab: &CodeVocab, codes: &CodeTokens) -> Result<()> {
        if vocab.levels() == 0 || vocab.levels() > MAX_POSITIONS {
            let problem = format!("semantic IDs of {} levels", vocab.levels());
            return Err(CoreError::mismatch(problem, format!("use 1 to {MAX_POSITIONS} levels")).into());
        }
        let most = codes.levels().iter().flatten().flatten().max();
        if let Some(token) = most.filter(|&&token| token as usize >= self.config.vocab) {
            let problem = format!("token {token} stands for a code, but the model has {}", self.config.vocab);
            let mend = "use the catalog, the text tokenizer and the weights of one training";
            return Err(CoreError::mismatch(problem, mend).into());
        }
        Ok(())
    }

    fn on_device(&self, vocab: &CodeVocab, codes: &CodeTokens, precision: Precision) -> Result<DeviceDecoder> {
        let dtype = match precision {
            Precision::F32 => DType::F32,
            Precision::Bf16 => DType::BF16,
            Precision::Int8 => {
                let problem = "int8 is for the CPU, but the generator is elsewhere";
                return Err(CoreError::config("precision", problem, "use f32 or bf16, or --device cpu").into());
            }
        };
        let weights = self.weights.map(&self.config, |tensor| Ok(tensor.detach().to_dtype(dtype)?))?;
        let head = match &self.weights.head {
            Some(head) => head.detach(),
            None => self.weights.embedding.detach().t()?,
        };
        DeviceDecoder::new(&self.config, weights, &head, vocab, codes)
    }
}

/// Tensors that older files have beside the parameters.
fn is_spare(name: &str, config: &DecoderConfig) -> bool {
    name.ends_with(".rotary_emb.inv_freq") || (config.tied && name == "lm_head.weight")
}

/// A decoder that writes codes.
#[derive(Debug)]
pub struct DecoderInference {
    vocab: CodeVocab,
    engine: Engine,
}

type Engine = Placed<CpuDecoder, DeviceDecoder>;

/// Requests after some codes.
#[derive(Debug)]
pub struct DecoderState(PlacedState<CpuState, DeviceState>);

impl NextCodeModel for DecoderInference {
    type State = DecoderState;

    fn vocab(&self) -> &CodeVocab {
        &self.vocab
    }

    fn requests_per_state(&self) -> usize {
        match self.engine {
            // Prompts are long enough for a product to be efficient with few of them.
            Engine::Cpu(_) => 4,
            Engine::Device(_) => 32,
        }
    }

    fn begin(&self, prompts: &[&[u32]], norm: ScoreNorm) -> Result<(DecoderState, CodeScores)> {
        self.engine.begin(prompts, norm).map(|(state, scores)| (DecoderState(state), scores))
    }

    fn step(
        &self,
        state: &DecoderState,
        parents: &[u32],
        codes: &[u16],
        norm: ScoreNorm,
    ) -> Result<(DecoderState, CodeScores)> {
        self.engine.step(&state.0, parents, codes, norm).map(|(state, scores)| (DecoderState(state), scores))
    }

    fn on_device(&self) -> Option<&dyn DeviceCodes> {
        self.engine.on_device()
    }
}
