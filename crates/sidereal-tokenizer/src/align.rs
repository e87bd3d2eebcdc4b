//! Losses that pull codes towards behaviour while a net is trained.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use sidereal_nn::params::Params;
use sidereal_nn::rng::Rng;

use crate::Result;
use crate::training_items::TrainingItems;

/// Which alignments a training uses; in a recipe the table `[tokenizer.rq-vae.align]`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AlignConfig {}

impl AlignConfig {
    /// Checks every setting; `method` is the table that it stands in.
    ///
    /// # Errors
    /// Names the key.
    pub fn check(&self, _method: &str) -> Result<()> {
        Ok(())
    }
}

/// The alignments of one training, with what they learn.
pub(crate) struct Aligner {}

/// What a step has to say of its batch.
pub(crate) struct AlignedBatch<'a> {
    /// Rows of the training items, `[B]`.
    pub(crate) items: &'a [usize],
    /// Straight-through sum of codewords, [B, d]; gradients go to the encoder.
    pub(crate) quantized: &'a Tensor,
    /// Codes of each level, u32 `[B]`.
    pub(crate) codes: &'a [Tensor],
    /// Codebooks of each level with gradients, [K, d].
    pub(crate) codebooks: &'a [Tensor],
}

impl Aligner {
    /// None when nothing is asked for. Parameters of its own are added to `params` under `align.`.
    ///
    /// # Errors
    /// Something that an alignment needs is absent.
    pub(crate) fn new(
        _config: &AlignConfig,
        _items: &TrainingItems<'_>,
        _latent: usize,
        _params: &mut Params,
        _rng: &mut Rng,
    ) -> Result<Option<Self>> {
        Ok(None)
    }

    /// Called before every epoch, with the codebooks as they are, each [K, d].
    pub(crate) fn start_epoch(&mut self, _seed: u64, _epoch: usize, _codebooks: &[Vec<f32>]) -> Result<()> {
        Ok(())
    }

    /// The batch that a step trains on: `items`, with partners added where pairs are contrasted.
    pub(crate) fn extend_batch(&self, items: &[usize], _rng: &mut Rng) -> Vec<usize> {
        items.to_vec()
    }

    /// The weighted sum of all alignment losses of a batch, a scalar.
    pub(crate) fn loss(&self, batch: &AlignedBatch<'_>) -> Result<Tensor> {
        Ok(batch.quantized.zeros_like()?.sum_all()?)
    }
}
