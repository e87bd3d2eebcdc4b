//! LETTER's collaborative loss: an item's quantized latent finds the item's collaborative vector in its batch.
//!
//! Cross-entropy over the products of quantized latents and collaborative vectors of a batch, target the item's own.
//! Items without a collaborative vector are left out, as queries and as keys.
//!
//! *Paper*: Wang et al., *Learnable Item Tokenization for Generative Recommendation*, arXiv 2405.07314, section 3.2
//! (weight 0.01 in its scripts).
//! *Differs from the paper*: where the widths differ, a linear map takes latents to the width of the vectors.
//!
//! # Shapes
//! Quantized latents [B, d], collaborative vectors [N, C].

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use sidereal_nn::ops;
use sidereal_nn::params::{Init, Params};
use sidereal_nn::rng::Rng;

use super::contrast::contrast;
use super::{AlignedBatch, Behaviour, check_weight};
use crate::Result;
use crate::training_items::TrainingItems;

/// Settings of LETTER's collaborative loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LetterConfig {
    /// Weight in the training's loss. Default: 0.01, LETTER's alpha.
    pub weight: f64,
}

impl Default for LetterConfig {
    fn default() -> Self {
        Self { weight: 0.01 }
    }
}

impl LetterConfig {
    pub(super) fn check(&self, key: &str) -> Result<()> {
        check_weight(key, self.weight)
    }
}

pub(super) struct Letter {
    weight: f64,
    behaviour: Behaviour,
    /// [d, C], where d is not C.
    map: Option<Tensor>,
}

impl Letter {
    pub(super) fn new(
        config: &LetterConfig,
        items: &TrainingItems<'_>,
        latent: usize,
        params: &mut Params,
        rng: &mut Rng,
    ) -> Result<Self> {
        let vectors = items.needed_collaborative("align.letter")?;
        let map = match vectors.width() == latent {
            true => None,
            false => Some(params.var("align.letter.map", &[latent, vectors.width()], Init::XavierNormal, rng)?),
        };
        Ok(Self { weight: config.weight, behaviour: Behaviour::new(vectors.clone(), "align.letter")?, map })
    }

    pub(super) fn loss(&self, batch: &AlignedBatch<'_>) -> Result<Tensor> {
        let keys = self.behaviour.rows(batch.items, batch.quantized)?; // [B, C]
        let queries = match &self.map {
            Some(map) => ops::linear(batch.quantized, map)?,
            None => batch.quantized.clone(),
        };
        let same = |i: usize, j: usize| batch.items[i] == batch.items[j];
        let logits = ops::tied_head(&queries, &keys)?; // [B, B]
        Ok((contrast(&logits, &self.behaviour.known(batch.items), same, 1.0)? * self.weight)?)
    }
}
