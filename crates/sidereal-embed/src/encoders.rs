//! Models that make vectors of texts or pictures, one file a family. [`ENCODERS`] is the list: the choice by
//! `config.json` and the errors walk it.

mod bert;
mod qwen3;
mod siglip;
mod t5;

mod head;
mod layers;
mod text;

use std::fmt;
use std::str::FromStr;

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use sidereal_core::Error;
use sidereal_nn::Result;
use sidereal_nn::pretrained::ModelFolder;

/// What a model reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Modality {
    /// Words.
    Text,
    /// Pictures.
    Picture,
}

/// What one item gives a model.
#[derive(Debug, Clone, Copy)]
pub enum Content<'a> {
    /// A text.
    Text(&'a str),
    /// A picture's file: jpeg, png or webp.
    Picture(&'a [u8]),
}

/// What a model is given.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// Token ids, at least one.
    Tokens(Vec<u32>),
    /// [3, S, S], row-major.
    Pixels(Vec<f32>),
}

impl Input {
    /// What it adds to a batch, in tokens or in thousands of pixels.
    pub fn cost(&self) -> usize {
        match self {
            Self::Tokens(ids) => ids.len(),
            Self::Pixels(values) => values.len().div_ceil(1024),
        }
    }

    fn tokens(&self) -> Option<&[u32]> {
        match self {
            Self::Tokens(ids) => Some(ids),
            Self::Pixels(_) => None,
        }
    }

    fn pixels(&self) -> Option<&[f32]> {
        match self {
            Self::Pixels(values) => Some(values),
            Self::Tokens(_) => None,
        }
    }
}

/// The type a model computes in. Half precision (f16) is none of them: T5 overflows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ComputeType {
    /// IEEE single.
    #[default]
    F32,
    /// The upper half of an f32: for GPUs; on a CPU it is slower than f32.
    Bf16,
}

impl ComputeType {
    fn candle(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
        }
    }
}

impl FromStr for ComputeType {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "f32" => Ok(Self::F32),
            "bf16" => Ok(Self::Bf16),
            "f16" | "fp16" => {
                Err(Error::config("--dtype", "f16 overflows in T5 and others", "use bf16, which is as small, or f32"))
            }
            _ => Err(Error::config("--dtype", format!("{text:?} is not known"), "use f32 or bf16")),
        }
    }
}

impl fmt::Display for ComputeType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::F32 { "f32" } else { "bf16" })
    }
}

/// How a model is to be used.
#[derive(Debug, Clone)]
pub struct EncoderOptions {
    /// Where it computes.
    pub device: Device,
    /// In which type.
    pub dtype: ComputeType,
    /// Texts are cut to this many tokens; by default the model's own limit.
    pub max_tokens: Option<usize>,
    /// The task, for models that take one.
    pub instruction: Option<String>,
}

impl Default for EncoderOptions {
    fn default() -> Self {
        Self { device: Device::Cpu, dtype: ComputeType::F32, max_tokens: None, instruction: None }
    }
}

/// What an opened model is and does, for manifests and for the key of cached vectors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncoderFacts {
    /// Name in [`ENCODERS`].
    pub family: String,
    /// The repository, or the folder's name.
    pub model: String,
    /// The commit, where it came from the hub.
    pub revision: Option<String>,
    /// Of its configuration, text tokenizer and weights.
    pub sha256: String,
    /// D.
    pub width: usize,
    /// How token or patch vectors become one.
    pub pooling: String,
    /// Whether vectors have length 1.
    pub normalised: bool,
    /// The type it computes in.
    pub dtype: ComputeType,
    /// Where texts are cut.
    pub max_tokens: Option<usize>,
    /// The task it was told.
    pub instruction: Option<String>,
}

/// A model that makes vectors.
pub trait Embedder: Send + Sync {
    /// What it is.
    fn facts(&self) -> &EncoderFacts;

    /// Makes a model's input of an item's content.
    ///
    /// # Errors
    /// Content of the other modality; a picture that cannot be read; a text tokenizer that does not fit.
    fn prepare(&self, content: Content<'_>) -> Result<Input>;

    /// The vectors of a batch, f32. What an input gives does not depend on the others beyond rounding.
    ///
    /// # Shapes
    /// B inputs -> [B, D]
    ///
    /// # Errors
    /// Whatever the device says.
    fn embed(&self, batch: &[&Input]) -> Result<Tensor>;
}

/// A family of models.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// Its name.
    pub name: &'static str,
    /// Which models.
    pub about: &'static str,
    /// Values of `model_type` in `config.json`.
    pub model_types: &'static [&'static str],
    /// What they read.
    pub modality: Modality,
    open: fn(&ModelFolder, &EncoderOptions) -> Result<Box<dyn Embedder>>,
}

/// All families.
pub const ENCODERS: &[Family] = &[bert::FAMILY, t5::FAMILY, qwen3::FAMILY, siglip::FAMILY];

/// The family of a folder, by its `config.json`.
///
/// # Errors
/// No configuration; a model of no listed family.
pub fn family(folder: &ModelFolder) -> Result<&'static Family> {
    #[derive(Deserialize)]
    struct Config {
        model_type: Option<String>,
        #[serde(default)]
        architectures: Vec<String>,
    }
    let place = folder.path("config.json").display().to_string();
    if !folder.has("config.json") {
        let mend = "name a folder with config.json, tokenizer.json and model.safetensors, as save_pretrained writes it";
        return Err(Error::input(place, "there is no model here", mend).into());
    }
    let config: Config = folder.json("config.json")?;
    let model_type = config.model_type.unwrap_or_default();
    ENCODERS.iter().find(|family| family.model_types.contains(&model_type.as_str())).ok_or_else(|| {
        let problem = format!("no encoder reads a model of type {model_type:?} ({})", config.architectures.join(", "));
        let known: Vec<String> =
            ENCODERS.iter().map(|family| format!("{} ({})", family.model_types.join(", "), family.about)).collect();
        Error::input(place, problem, format!("use one of: {}", known.join("; "))).into()
    })
}

/// Opens a model.
///
/// # Errors
/// As [`family`]; files that are missing, damaged or do not fit each other; options that the model does not take.
pub fn open(folder: &ModelFolder, options: &EncoderOptions) -> Result<Box<dyn Embedder>> {
    (family(folder)?.open)(folder, options)
}

fn wrong_content(facts: &EncoderFacts, given: &str) -> Error {
    let problem = format!("{} models do not read {given}", facts.family);
    Error::config("--model", problem, "use a text model for texts and an image tower for pictures")
}
