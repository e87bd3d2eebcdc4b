//! T5 inference on any device, of the same ops as training.
//!
//! Cross-attention keys and values are computed once a request; the beams of a request stand in one row of the batch
//! and share them. The cache of a prefix is at most L positions long and is gathered by its parents at each step.
//!
//! A search that stays on the device asks through [`DeviceCodes`]: its requests have equally many beams, and tokens never
//! leave the device. The host's search and the exact scorer have as many prefixes as they like: these are laid out alike.

use candle_core::{DType, Device, Tensor};
use sidereal_core::{CodeVocab, Error as CoreError};
use sidereal_nn::ops;

use super::forward::Padding;
use super::frozen::Frozen;
use crate::Result;
use crate::batches::Batch;
use crate::dropout::Dropout;
use crate::models::grid::{Places, normalised, rows_of};
use crate::models::placed::CodeEngine;
use crate::scoring::{CodeScores, DeviceCodes, DeviceWriter, ScoreNorm};

/// Weights that record no gradients.
#[derive(Debug)]
pub(super) struct DeviceT5 {
    vocab: CodeVocab,
    model: Frozen,
    /// The same in f32, which the last norm and the heads are computed in whatever the type of the rest: scores are
    /// differences of large numbers.
    heads: Frozen,
}

/// A group of requests after some codes, each with as many prefixes.
#[derive(Debug)]
struct Grid {
    requests: usize,
    level: usize,
    padding: Padding,
    cross: Vec<Tensor>, // by decoder block: [B, T, 2 * H * dk]
    cache: Vec<Tensor>, // by decoder block: [B * W, level, 2 * H * dk]
    prefixes: Tensor,   // tokens so far: u32 [B * W, level]
}

/// The same where requests have their own numbers of prefixes.
#[derive(Debug)]
pub(super) struct DeviceState {
    grid: Grid,
    request_of: Vec<u32>, // [R]
    place_of: Vec<u32>,   // the row in the grid: [R]
}

impl DeviceT5 {
    pub(super) fn new(vocab: &CodeVocab, model: Frozen, heads: Frozen) -> Self {
        Self { vocab: vocab.clone(), model, heads }
    }

    /// What the heads see after the start token, `[B, D]`, row-major.
    pub(super) fn start_states(&self, histories: &[&[u32]]) -> Result<Vec<f32>> {
        Ok(self.first(histories)?.1.flatten_all()?.to_vec1()?)
    }

    fn first(&self, histories: &[&[u32]]) -> Result<(Grid, Tensor)> {
        let dropout = Dropout::none();
        let (forward, config) = (self.model.forward(&dropout), &self.model.config);
        let mut batch = Batch::of_histories(histories);
        if batch.width == 0 {
            // An empty history is one padding token: attention over nothing but padding gives zeros.
            (batch.width, batch.history) = (1, vec![config.pad_token_id; batch.rows]);
        }
        let padding = Padding::new(&batch.lengths, batch.width, &self.model.weights.embedding)?;
        let states = forward.encode(&batch, &padding)?; // [B, T, D]
        let cross = self.model.weights.decoder.iter().map(|block| ops::linear(&states, &block.cross.kv));
        let requests = histories.len();
        let before = Grid {
            requests,
            level: 0,
            padding,
            cross: cross.collect::<Result<_>>()?,
            cache: Vec::new(),
            prefixes: Tensor::zeros((requests, 0), DType::U32, self.device())?,
        };
        let start = Tensor::full(config.decoder_start_token_id, requests, self.device())?;
        self.advance(&before, None, &start)
    }

    /// The level that comes after what a state has written.
    fn next_level(&self, state: &Grid) -> Result<usize> {
        if state.level >= self.vocab.levels() {
            let problem = format!("a semantic ID of {} codes is whole already", self.vocab.levels());
            return Err(CoreError::input("beam", problem, "this is a defect: report it").into());
        }
        Ok(state.level)
    }

    /// The state after the tokens of rows that go on from `parents` (each from itself, without), and what the heads see
    /// there: `[B * W, D]`.
    fn advance(&self, state: &Grid, parents: Option<&Tensor>, tokens: &Tensor) -> Result<(Grid, Tensor)> {
        let dropout = Dropout::none();
        let (forward, config, weights) = (self.model.forward(&dropout), &self.model.config, &self.model.weights);
        let (rows, inner, positions) = (tokens.elem_count(), config.inner(), state.level + 1);
        let width = rows / state.requests.max(1);
        let of_parents = |before: &Tensor| match parents {
            Some(parents) => before.index_select(parents, 0),
            None => Ok(before.clone()),
        };
        let tokens = tokens.reshape((rows, 1))?;
        let prefixes = match state.level {
            0 => tokens,
            _ => Tensor::cat(&[&of_parents(&state.prefixes)?, &tokens], 1)?,
        };
        let bias = forward.bias(&weights.decoder_bias, state.level, 1, positions, false)?; // [H, 1, P]
        let args = forward.attention_args(None, false);
        let cross_args = forward.attention_args(state.padding.key_mask.as_ref(), false);

        let mut x = self.model.last_rows(&prefixes)?.to_dtype(DType::F32)?; // [R, 1, D]
        let mut cache = Vec::with_capacity(weights.decoder.len());
        for (layer, block) in weights.decoder.iter().enumerate() {
            let n = forward.norm(&x, &block.norm)?;
            let mut kv = ops::linear(&n, &block.attention.kv)?; // [R, 1, 2 * H * dk]
            if let Some(before) = state.cache.get(layer) {
                kv = Tensor::cat(&[&of_parents(before)?, &kv], 1)?.contiguous()?; // [R, P, 2 * H * dk]
            }
            let attended = ops::attention(&ops::linear(&n, &block.attention.q)?, &kv, Some(&bias), &args)?;
            x = forward.add(&x, &ops::linear(&attended, &block.attention.o)?)?;
            cache.push(kv);

            let n = forward.norm(&x, &block.cross_norm)?;
            let q = ops::linear(&n, &block.cross.q)?.reshape((state.requests, width, inner))?; // [B, W, H * dk]
            let attended = ops::attention(&q, &state.cross[layer], None, &cross_args)?;
            x = forward.add(&x, &ops::linear(&attended.reshape((rows, 1, inner))?, &block.cross.o)?)?;
            x = forward.feed_forward(&x, &block.ff)?;
        }
        let x = self.heads.forward(&dropout).norm(&x, &self.heads.weights.decoder_norm)?;
        let x = x.reshape((rows, config.d_model))?; // f32
        let (padding, cross) = (state.padding.clone(), state.cross.clone());
        Ok((Grid { requests: state.requests, level: positions, padding, cross, cache, prefixes }, x))
    }

    /// Log-probabilities of a level's codes: f32 `[R, K]`.
    fn log_probs(&self, x: &Tensor, level: usize, norm: ScoreNorm) -> Result<Tensor> {
        let dropout = Dropout::none();
        let forward = self.heads.forward(&dropout);
        let range = self.vocab.level_range(level);
        let (all, codes) = match forward.level_logits(x, level)? {
            Some(logits) => (logits.clone(), logits), // [R, K]
            None => {
                let logits = forward.logits(x)?; // [R, V]
                let codes = logits.narrow(1, range.start as usize, range.len())?.contiguous()?;
                (logits, codes)
            }
        };
        normalised(&codes, &all, norm)
    }

    /// The log-probabilities of some rows, on the host.
    fn scores_of(&self, x: &Tensor, level: usize, norm: ScoreNorm, rows: &[u32]) -> Result<CodeScores> {
        rows_of(&self.log_probs(x, level, norm)?, rows)
    }
}

impl CodeEngine for DeviceT5 {
    type State = DeviceState;

    fn begin(&self, histories: &[&[u32]], norm: ScoreNorm) -> Result<(DeviceState, CodeScores)> {
        let (grid, x) = self.first(histories)?;
        let rows: Vec<u32> = (0..histories.len() as u32).collect();
        let scores = self.scores_of(&x, 0, norm, &rows)?;
        Ok((DeviceState { grid, request_of: rows.clone(), place_of: rows }, scores))
    }

    fn step(
        &self,
        state: &DeviceState,
        parents: &[u32],
        codes: &[u16],
        norm: ScoreNorm,
    ) -> Result<(DeviceState, CodeScores)> {
        let level = self.next_level(&state.grid)?;
        let request_of: Vec<u32> = parents.iter().map(|&parent| state.request_of[parent as usize]).collect();
        let places = Places::new(&request_of, state.grid.requests);
        let cells = places.row_at.len();
        let of_cell = |row: &u32| state.place_of[parents[*row as usize] as usize];
        let parents = Tensor::from_vec(places.row_at.iter().map(of_cell).collect(), cells, self.device())?;
        let token = |row: &u32| self.vocab.token(level - 1, codes[*row as usize]);
        let tokens = Tensor::from_vec(places.row_at.iter().map(token).collect(), cells, self.device())?;
        let (grid, x) = self.advance(&state.grid, Some(&parents), &tokens)?;
        let scores = self.scores_of(&x, level, norm, &places.place_of)?;
        Ok((DeviceState { grid, request_of, place_of: places.place_of }, scores))
    }
}

impl DeviceCodes for DeviceT5 {
    fn vocab(&self) -> &CodeVocab {
        &self.vocab
    }

    fn device(&self) -> &Device {
        self.model.weights.embedding.device()
    }

    fn write(&self, histories: &[&[u32]], norm: ScoreNorm) -> Result<(Box<dyn DeviceWriter + '_>, Tensor)> {
        let (grid, x) = self.first(histories)?;
        let scores = self.log_probs(&x, 0, norm)?;
        Ok((Box::new(Writer { model: self, grid, norm }), scores))
    }
}

/// Requests that are being answered.
struct Writer<'a> {
    model: &'a DeviceT5,
    grid: Grid,
    norm: ScoreNorm,
}

impl DeviceWriter for Writer<'_> {
    fn step(&mut self, parents: &Tensor, codes: &Tensor) -> Result<Tensor> {
        let level = self.model.next_level(&self.grid)?;
        let first = self.model.vocab.level_range(level - 1).start;
        let tokens = (codes + Tensor::full(first, codes.elem_count(), codes.device())?)?;
        let (grid, x) = self.model.advance(&self.grid, Some(parents), &tokens)?;
        self.grid = grid;
        self.model.log_probs(&x, level, self.norm)
    }
}
