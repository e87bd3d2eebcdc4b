//! What a T5 over codes may have beyond Hugging Face's: parts of other papers, each of which can be left out.
//!
//! Their parameters stand behind Hugging Face's in `model.safetensors`, under names of ours. Without any, the model and
//! its files are a plain T5's.

use sidereal_core::{CodeVocab, Error as CoreError};

use crate::Result;
use crate::history_layout::HistoryLayout;

/// The parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extensions {
    /// What a history's tokens are.
    pub layout: HistoryLayout,
    /// A learnt vector for each place in an item, added to the inputs (DiscRec, 2506.15576).
    pub in_item_positions: bool,
    /// An attention among the tokens of one item beside the embeddings, and a gate between both (DiscRec).
    pub dual_branch: bool,
    /// A head of its own for each level, over that level's codes alone (GRID, 2507.22224).
    pub level_heads: bool,
    /// The items' vectors, projected and added to the inputs of their tokens (LIGER, 2411.18814).
    pub item_vectors: bool,
    /// A head that says the next item's vector (LIGER).
    pub vector_head: bool,
    /// Width of item vectors; 0 where neither of the two looks at them.
    pub vector_width: usize,
}

impl Extensions {
    /// None, over a layout.
    pub fn none(layout: HistoryLayout) -> Self {
        Self {
            layout,
            in_item_positions: false,
            dual_branch: false,
            level_heads: false,
            item_vectors: false,
            vector_head: false,
            vector_width: 0,
        }
    }

    /// Whether the encoder begins with more than rows of the embedding table.
    pub(super) fn change_histories(&self) -> bool {
        self.change_prefixes() || self.item_vectors
    }

    /// Whether the decoder does.
    pub(super) fn change_prefixes(&self) -> bool {
        self.in_item_positions || self.dual_branch
    }

    pub(super) fn vocab(&self) -> &CodeVocab {
        &self.layout.vocab
    }

    /// Refuses what no model can have; `place` is the file or key that says it.
    ///
    /// # Errors
    /// A width that two heads cannot share; vectors without width.
    pub(super) fn check(&self, place: &str, d_model: usize) -> Result<()> {
        if self.dual_branch && !d_model.is_multiple_of(LOCAL_HEADS) {
            let problem = format!("the dual branch has {LOCAL_HEADS} heads, which cannot share a width of {d_model}");
            return Err(CoreError::config(format!("{place}, d_model"), problem, "give an even width").into());
        }
        if (self.item_vectors || self.vector_head) && self.vector_width == 0 {
            let mend = "embed the run first, or switch item_vectors and contrastive off";
            return Err(CoreError::config(place, "it looks at item vectors of width 0", mend).into());
        }
        Ok(())
    }
}

/// Heads of the attention within an item (DiscRec's repository).
pub(super) const LOCAL_HEADS: usize = 2;
/// Width inside the feed-forward sub-layer of the dual branch (DiscRec's repository).
pub(super) const LOCAL_FF: usize = 1024;
