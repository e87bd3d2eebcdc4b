//! Models that say all codes of the next item at once: what they share once a history has become vectors.
//!
//! Such a model ([`CodeReader`]) gives, after every item of a history, a score to every code of every level, none of
//! which waits for another. An item's score is the sum over its codes, so a small catalog is scored whole by looking
//! codes up, a large one along a graph of neighbours or by a beam search over scores that are there already. The loss is
//! the mean over levels of the target's codes, and if wanted a softmax over items besides.

use std::fmt::Debug;

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use sidereal_core::{Error as CoreError, ItemIndex};
use sidereal_nn::ops;

use super::repeats::Repeats;
use crate::Result;
use crate::dropout::Dropout;
use crate::scoring::ScoreNorm;

mod graph;
pub(super) mod items;
pub(super) mod network;
mod ranker;

use items::Items;

/// How items are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decoding {
    /// Every item of the catalog is scored.
    #[default]
    Exact,
    /// Items are walked along lists of neighbours: for catalogs too large to be scored whole.
    Graph,
    /// Constrained beam search along the trie, over scores that do not depend on the prefix.
    Trie,
}

impl Decoding {
    /// What scores are normalised over.
    pub(super) fn score_norm(self) -> ScoreNorm {
        match self {
            Self::Exact => ScoreNorm::Children,
            Self::Graph | Self::Trie => ScoreNorm::Level,
        }
    }
}

/// What a recipe says of the loss and the decoding.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    /// The method's name.
    pub(super) method: &'static str,
    /// Chance that a value is dropped in training.
    pub(super) dropout: f32,
    /// Divides the scores of codes.
    pub(super) temperature: f32,
    /// Share of the target that is spread over all codes of its level.
    pub(super) label_smoothing: f32,
    /// Weight of the loss over items.
    pub(super) item_loss: f64,
    /// Items that this loss tells targets from; 0: all.
    pub(super) item_negatives: usize,
    /// Whether items of the history have a learnt number.
    pub(super) repeats: bool,
    /// Most recent items that are read.
    pub(super) max_history: usize,
    /// How items are found.
    pub(super) decoding: Decoding,
    /// Items that the graph search keeps, neighbours of each item, steps.
    pub(super) graph: [usize; 3],
}

impl Settings {
    /// Refuses values that no model can have, by key.
    ///
    /// # Errors
    /// The first such key.
    pub(super) fn check(&self) -> Result<()> {
        let fail = |key: &str, problem: String, mend: &str| {
            Err(CoreError::config(format!("generator.{}.{key}", self.method), problem, mend).into())
        };
        let most = [("graph_beams", 1 << 20), ("graph_edges", 1 << 16), ("graph_steps", 1 << 16)];
        if let Some(((key, most), size)) =
            most.iter().zip(self.graph).find(|((_, most), size)| !(1..=*most).contains(size))
        {
            return fail(key, format!("{size} is not between 1 and {most}"), "leave it out for the default");
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return fail("dropout", format!("{} is not in [0, 1)", self.dropout), "use 0.5, or 0 for none");
        }
        if !(self.temperature > 0.0 && self.temperature.is_finite()) {
            return fail("temperature", format!("{} is not above 0", self.temperature), "leave it out for the default");
        }
        if !(self.item_loss >= 0.0 && self.item_loss.is_finite()) {
            return fail("item_loss", format!("{} is not a number from 0 up", self.item_loss), "use 0 for none, or 1");
        }
        if self.repeats && (self.item_loss == 0.0 || self.decoding == Decoding::Trie) {
            let problem = "only a loss over items teaches it, and the trie does not know items before its leaves";
            let mend = "give item_loss = 1 and another decoding, or leave it out";
            return fail("repeats", problem.to_owned(), mend);
        }
        Ok(())
    }
}

/// Weights that read histories and score codes.
///
/// # Shapes
/// E is whatever the model keeps of a position, V the codes of all levels.
pub(super) trait CodeReader: Debug + Send + Sync {
    /// What the recipe says.
    fn settings(&self) -> Settings;

    /// K of each level.
    fn codes(&self) -> &[usize];

    /// Where the weights are.
    fn device(&self) -> &Device;

    /// A vector for each position: `[B, T, E]`, T the longest history and at least 1. Position t has seen the items up
    /// to t; those behind a history's end mean nothing. An empty history is one position that has seen no item.
    ///
    /// # Errors
    /// Whatever the device says.
    fn positions(&self, items: &Items, histories: &[&[ItemIndex]], dropout: &Dropout) -> Result<Tensor>;

    /// Scores of the codes of all levels after vectors `[R, E]`, not yet divided by the temperature: `[R, V]`.
    ///
    /// # Errors
    /// Whatever the device says.
    fn code_scores(&self, vectors: &Tensor, table: &Tensor) -> Result<Tensor>;

    /// The codes as scores are made with them, `[V, D]`.
    ///
    /// # Errors
    /// Whatever the device says.
    fn code_table(&self) -> Result<Tensor>;

    /// The number of items that the history has.
    fn repeats(&self) -> Option<&Repeats>;

    /// The same weights without a record of gradients, for answering.
    fn frozen(&self) -> Box<dyn CodeReader>;
}

/// Items of histories one below the other, all histories as long as the longest: what stands behind a history's end is
/// never looked at, so any item will do there.
///
/// # Shapes
/// `[B * T]`
pub(super) fn filled(histories: &[&[ItemIndex]], longest: usize) -> Vec<ItemIndex> {
    let row = |history: &&[ItemIndex]| {
        let last = history.last().copied().unwrap_or(0);
        history.iter().copied().chain(std::iter::repeat_n(last, longest - history.len())).collect::<Vec<_>>()
    };
    histories.iter().flat_map(row).collect()
}

/// Puts zeros in the place of what empty histories were filled with.
///
/// # Shapes
/// x `[B * T, D]` -> `[B * T, D]`
pub(super) fn without_empty(x: Tensor, histories: &[&[ItemIndex]], longest: usize) -> Result<Tensor> {
    if histories.iter().all(|history| !history.is_empty()) {
        return Ok(x);
    }
    let seen = histories.iter().flat_map(|history| vec![f32::from(u8::from(!history.is_empty())); longest]);
    let (count, device) = (histories.len() * longest, x.device().clone());
    Ok(x.broadcast_mul(&Tensor::from_vec(seen.collect(), (count, 1), &device)?)?)
}

/// The vectors at these places of `positions` (row * T + position): `[R, E]`.
pub(super) fn gather(positions: &Tensor, places: Vec<u32>) -> Result<Tensor> {
    let (rows, longest, width) = positions.dims3()?;
    let count = places.len();
    let places = Tensor::from_vec(places, count, positions.device())?;
    ops::embedding(&places, &positions.reshape((rows * longest, width))?)
}
