//! The image tower of SigLIP and SigLIP 2 (fixed resolution).
//!
//! *Paper*: Zhai et al., Sigmoid loss for language image pre-training, arXiv:2303.15343; Tschannen et al., SigLIP 2,
//! arXiv:2502.14786.
//! *Differs from the paper*: inference only; the text tower is not read.
//! *Checked against*: transformers, `tests/fixtures/siglip_tiny`, made by `benches/peers/make_encoder_fixtures.py`.
//!
//! # Shapes
//! pixels [B, 3, S, S] -> patch vectors [B, P, D] -> attention-pooled [B, D]

use std::collections::HashMap;

use candle_core::{DType, Tensor};
use candle_nn::{Module, VarBuilder};
use candle_transformers::models::siglip::{VisionConfig, VisionModel};
use serde::Deserialize;
use sidereal_core::Error;
use sidereal_nn::Result;
use sidereal_nn::pretrained::{ModelFolder, WeightFiles};

use super::layers::{check_heads, check_sizes};
use super::{Content, Embedder, EncoderFacts, EncoderOptions, Family, Input, Modality};
use crate::pictures::PictureRules;

pub(crate) const FAMILY: Family = Family {
    name: "siglip",
    about: "the image tower of SigLIP and SigLIP 2 of fixed resolution",
    model_types: &["siglip", "siglip_vision_model"],
    modality: Modality::Picture,
    open,
};

#[derive(Deserialize)]
struct Config {
    /// Absent in a folder that holds the image tower alone.
    vision_config: Option<VisionConfig>,
}

struct SigLip {
    facts: EncoderFacts,
    model: VisionModel,
    rules: PictureRules,
    dtype: DType,
    options: EncoderOptions,
}

fn open(folder: &ModelFolder, options: &EncoderOptions) -> Result<Box<dyn Embedder>> {
    if options.max_tokens.is_some() || options.instruction.is_some() {
        let problem = "an image tower reads no text";
        return Err(Error::config("--max-tokens, --instruction", problem, "leave them out").into());
    }
    let config = match folder.json::<Config>("config.json")?.vision_config {
        Some(config) => config,
        None => folder.json("config.json")?,
    };
    let place = folder.path("config.json").display().to_string();
    check_sizes(
        &place,
        &[
            ("hidden_size", config.hidden_size, 1 << 15),
            ("intermediate_size", config.intermediate_size, 1 << 18),
            ("num_hidden_layers", config.num_hidden_layers, 512),
            ("image_size", config.image_size, 4096),
            ("patch_size", config.patch_size, config.image_size),
        ],
    )?;
    check_heads(&place, config.hidden_size, config.num_attention_heads)?;
    if config.num_channels != 3 {
        return Err(
            Error::input(place, "its pictures do not have three channels", "use a model of RGB pictures").into()
        );
    }
    let rules = PictureRules::load(folder, config.image_size)?;
    let weights = WeightFiles::open(folder, &folder.weight_files()?, options.dtype.candle(), &options.device)?;
    let names = weights.names("vision_model.");
    let tensors: HashMap<String, Tensor> = names
        .into_iter()
        .map(|name| weights.shape(&name).and_then(|shape| weights.get(&name, shape)).map(|tensor| (name, tensor)))
        .collect::<Result<_>>()?;
    let builder = VarBuilder::from_tensors(tensors, options.dtype.candle(), &options.device);
    let model = VisionModel::new(&config, true, builder.pp("vision_model")).map_err(|e| {
        let place = folder.path("model.safetensors").display().to_string();
        Error::input(place, e.to_string(), "config.json and the weights must be of one model")
    })?;
    let facts = EncoderFacts {
        family: FAMILY.name.to_owned(),
        model: folder.id().to_owned(),
        revision: folder.revision().map(str::to_owned),
        sha256: folder.digest()?,
        width: config.hidden_size,
        pooling: "attention".to_owned(),
        normalised: false,
        dtype: options.dtype,
        max_tokens: None,
        instruction: None,
    };
    let dtype = options.dtype.candle();
    Ok(Box::new(SigLip { facts, model, rules, dtype, options: options.clone() }))
}

impl Embedder for SigLip {
    fn facts(&self) -> &EncoderFacts {
        &self.facts
    }

    fn prepare(&self, content: Content<'_>) -> Result<Input> {
        match content {
            Content::Picture(bytes) => Ok(self.rules.pixels(bytes).map(Input::Pixels)?),
            Content::Text(_) => Err(super::wrong_content(&self.facts, "texts").into()),
        }
    }

    fn embed(&self, batch: &[&Input]) -> Result<Tensor> {
        let rows: Vec<&[f32]> = batch.iter().filter_map(|input| input.pixels()).collect();
        if rows.len() != batch.len() {
            return Err(super::wrong_content(&self.facts, "texts").into());
        }
        let side = self.rules.side();
        let pixels = Tensor::from_vec(rows.concat(), (rows.len(), 3, side, side), &self.options.device)?;
        Ok(self.model.forward(&pixels.to_dtype(self.dtype)?)?.to_dtype(DType::F32)?) // [B, D]
    }
}
