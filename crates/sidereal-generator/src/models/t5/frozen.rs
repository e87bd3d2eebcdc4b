//! Weights that record no gradients, and what inference needs beside them.

use candle_core::Tensor;

use super::config::T5Config;
use super::extensions::Extensions;
use super::forward::Forward;
use super::weights::Weights;
use crate::Result;
use crate::batches::Batch;
use crate::dropout::Dropout;

/// A model that no longer learns.
#[derive(Debug)]
pub(super) struct Frozen {
    pub(super) config: T5Config,
    pub(super) weights: Weights,
    pub(super) extensions: Option<Extensions>,
    pub(super) vectors: Option<Tensor>, // [N + 1, width]
}

impl Frozen {
    /// Whether it has an extension of which `what` is true.
    pub(super) fn has(&self, what: impl FnOnce(&Extensions) -> bool) -> bool {
        self.extensions.as_ref().is_some_and(what)
    }

    pub(super) fn forward<'a>(&'a self, dropout: &'a Dropout) -> Forward<'a> {
        Forward {
            config: &self.config,
            weights: &self.weights,
            extensions: self.extensions.as_ref(),
            vectors: self.vectors.as_ref(),
            dropout,
        }
    }

    /// What the encoder begins with, without padding, row-major: `[tokens, D]`.
    pub(super) fn history_rows(&self, histories: &[&[u32]]) -> Result<Vec<f32>> {
        let batch = Batch::of_histories(histories);
        if batch.width == 0 {
            return Ok(Vec::new());
        }
        let dropout = Dropout::none();
        let padded = self.forward(&dropout).embed_histories(&batch)?.flatten_all()?.to_vec1::<f32>()?;
        let d = self.config.d_model;
        let of_row = padded.chunks_exact(batch.width * d).zip(&batch.lengths);
        Ok(of_row.flat_map(|(row, &length)| &row[..length as usize * d]).copied().collect())
    }

    /// What the decoder begins with at the last token of each prefix.
    ///
    /// # Shapes
    /// `prefixes`: u32 `[R, P]`; result: `[R, 1, D]`
    pub(super) fn last_rows(&self, prefixes: &Tensor) -> Result<Tensor> {
        let dropout = Dropout::none();
        let (forward, last) = (self.forward(&dropout), prefixes.dim(1)? - 1);
        if self.has(Extensions::change_prefixes) {
            return Ok(forward.embed_prefixes(prefixes)?.narrow(1, last, 1)?.contiguous()?);
        }
        forward.embed_prefixes(&prefixes.narrow(1, last, 1)?.contiguous()?)
    }

    /// Tokens for [`Frozen::last_rows`], `[R, P]`.
    pub(super) fn ids(&self, tokens: &[u32], rows: usize, width: usize) -> Result<Tensor> {
        self.forward(&Dropout::none()).ids(tokens, rows, width)
    }
}
