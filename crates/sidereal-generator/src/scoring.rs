//! What models of the next item can do: write codes, or score the whole catalog.

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use sidereal_core::{CodeVocab, ItemIndex};

use crate::Result;
use crate::pool::Buffer;

/// Over which tokens a code's probability is normalised (methods: scores).
///
/// The choice changes scores and, because prefixes are normalised separately, rankings; so every ranking names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScoreNorm {
    /// The whole vocabulary, as Hugging Face's `generate` sums it. For checkpoints trained with a full softmax.
    Full,
    /// The codes of the level at hand. The default of small generators: only that slice of the head is computed.
    #[default]
    Level,
    /// The alive children of the node at hand: scores are then a distribution over the alive leaves, and a forced
    /// code costs nothing.
    Children,
}

impl ScoreNorm {
    /// The name in files and answers: `full`, `level` or `children`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Level => "level",
            Self::Children => "children",
        }
    }
}

/// Log-probabilities of the codes of one level, a row for each prefix.
///
/// # Shapes
/// `values`: `[R, K]`, R prefixes, K the level's codes
#[derive(Debug, Clone, PartialEq)]
pub struct CodeScores {
    values: Buffer<f32>,
    codes: usize,
}

impl CodeScores {
    /// Rows of `codes` log-probabilities.
    ///
    /// # Panics
    /// If `values` is not whole rows.
    pub fn new(values: Vec<f32>, codes: usize) -> Self {
        Self::pooled(values.into(), codes)
    }

    /// The same, of a buffer that goes back to its pool.
    pub(crate) fn pooled(values: Buffer<f32>, codes: usize) -> Self {
        assert!(codes > 0 && values.len().is_multiple_of(codes), "{} values are not rows of {codes}", values.len());
        Self { values, codes }
    }

    /// R.
    pub fn rows(&self) -> usize {
        self.values.len() / self.codes
    }

    /// The log-probabilities after prefix `row`, `[K]`.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.codes..(row + 1) * self.codes]
    }
}

/// A model that writes semantic IDs code by code.
///
/// A state holds everything about a group of requests after some codes: it is never changed, so one state can be
/// continued in many ways (the beam search does it once, the exact scorer once per chunk of the trie).
pub trait NextCodeModel: Sync {
    /// What is kept between codes.
    type State: Send + Sync;

    /// How codes are numbered as tokens.
    fn vocab(&self) -> &CodeVocab;

    /// How many requests a state should hold. A constant of the model and device, never of the number of threads.
    fn requests_per_state(&self) -> usize;

    /// Reads histories (token ids, oldest first, each `[T]`) and scores the codes of level 0, a row per history.
    ///
    /// With [`ScoreNorm::Children`] a model normalises over the level: the search, which knows the trie, does the rest.
    ///
    /// # Errors
    /// A token that the model does not have; whatever the device says.
    fn begin(&self, histories: &[&[u32]], norm: ScoreNorm) -> Result<(Self::State, CodeScores)>;

    /// Scores the codes of the next level, a row per prefix: prefix `r` is that of row `parents[r]` of `state` and
    /// then `codes[r]`. Rows of one request stand together, requests in order.
    ///
    /// # Errors
    /// As [`NextCodeModel::begin`]; a state whose prefixes are whole semantic IDs already.
    fn step(
        &self,
        state: &Self::State,
        parents: &[u32],
        codes: &[u16],
        norm: ScoreNorm,
    ) -> Result<(Self::State, CodeScores)>;

    /// The same model for a search that stays on its device, where it has one.
    fn on_device(&self) -> Option<&dyn DeviceCodes> {
        None
    }
}

/// A code model on a device, for a search that stays there: no number comes back between two codes.
pub trait DeviceCodes: Sync {
    /// How codes are numbered as tokens.
    fn vocab(&self) -> &CodeVocab;

    /// Where its weights are, and its scores come to be.
    fn device(&self) -> &Device;

    /// Reads histories and scores the codes of level 0, as [`NextCodeModel::begin`]: f32, `[B, K]`.
    ///
    /// # Errors
    /// A token that the model does not have; whatever the device says.
    fn write(&self, histories: &[&[u32]], norm: ScoreNorm) -> Result<(Box<dyn DeviceWriter + '_>, Tensor)>;
}

/// What a [`DeviceCodes`] has written of some requests.
pub trait DeviceWriter {
    /// Writes a code to each prefix and scores those of the next level: f32, `[R, K]`. The requests have the same number of
    /// prefixes, those of a request stand together, and row `r` goes on from row `parents[r]` of the step before.
    ///
    /// # Shapes
    /// `parents`, `codes`: u32, `[R]`
    ///
    /// # Errors
    /// Whatever the device says.
    fn step(&mut self, parents: &Tensor, codes: &Tensor) -> Result<Tensor>;
}

/// A model that gives every item of the catalog a score.
pub trait ItemScorer: Sync {
    /// The name in reports.
    fn name(&self) -> &str;

    /// N.
    fn items(&self) -> usize;

    /// Scores of several histories (each oldest first, `[H]`, perhaps empty), higher is better. Faster than one at a
    /// time where vectors are multiplied; the scores are the same.
    ///
    /// # Shapes
    /// `scores`: `[B, N]`
    ///
    /// # Errors
    /// Whatever keeps the model from an answer.
    ///
    /// # Panics
    /// If `scores` has another size.
    fn score_block(&self, histories: &[&[ItemIndex]], scores: &mut [f32]) -> Result<()>;

    /// Scores of one history: `[N]`.
    ///
    /// # Errors
    /// As [`ItemScorer::score_block`].
    fn score_all(&self, history: &[ItemIndex]) -> Result<Vec<f32>> {
        let mut scores = vec![0.0; self.items()];
        self.score_block(&[history], &mut scores)?;
        Ok(scores)
    }
}
