//! T5 inference on any device, of the same ops as training.
//!
//! Cross-attention keys and values are computed once a request; the beams of a request stand in one row of the batch
//! and share them. The cache of a prefix is at most L positions long and is gathered by its parents at each step.

use candle_core::Tensor;
use sidereal_core::{CodeVocab, Error as CoreError};
use sidereal_nn::kernels::loops::log_sum_exp;
use sidereal_nn::ops;

use super::forward::Padding;
use super::frozen::Frozen;
use crate::Result;
use crate::batches::Batch;
use crate::dropout::Dropout;
use crate::scoring::{CodeScores, ScoreNorm};

/// Weights that record no gradients.
#[derive(Debug)]
pub(super) struct DeviceT5 {
    vocab: CodeVocab,
    model: Frozen,
}

/// A group of requests after some codes.
#[derive(Debug)]
pub(super) struct DeviceState {
    requests: usize,
    level: usize,
    padding: Padding,
    cross: Vec<Tensor>,   // by decoder block: [B, T, 2 * H * dk]
    cache: Vec<Tensor>,   // by decoder block: [R, level, 2 * H * dk]
    request_of: Vec<u32>, // [R]
    prefixes: Vec<u32>,   // tokens so far: [R, level]
}

impl DeviceT5 {
    pub(super) fn new(vocab: &CodeVocab, model: Frozen) -> Self {
        Self { vocab: vocab.clone(), model }
    }

    pub(super) fn begin(&self, histories: &[&[u32]], norm: ScoreNorm) -> Result<(DeviceState, CodeScores)> {
        let (state, x) = self.first(histories)?;
        let scores = self.code_scores(&x, 0, norm)?;
        Ok((state, scores))
    }

    /// What the heads see after the start token, `[B, D]`, row-major.
    pub(super) fn start_states(&self, histories: &[&[u32]]) -> Result<Vec<f32>> {
        Ok(self.first(histories)?.1.flatten_all()?.to_vec1()?)
    }

    fn first(&self, histories: &[&[u32]]) -> Result<(DeviceState, Tensor)> {
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
        let before = DeviceState {
            requests: histories.len(),
            level: 0,
            padding,
            cross: cross.collect::<Result<_>>()?,
            cache: Vec::new(),
            request_of: (0..histories.len() as u32).collect(),
            prefixes: Vec::new(),
        };
        let parents: Vec<u32> = before.request_of.clone();
        let tokens = vec![config.decoder_start_token_id; histories.len()];
        self.advance(&before, &parents, &tokens)
    }

    pub(super) fn step(
        &self,
        state: &DeviceState,
        parents: &[u32],
        codes: &[u16],
        norm: ScoreNorm,
    ) -> Result<(DeviceState, CodeScores)> {
        if state.level >= self.vocab.levels() {
            let problem = format!("a semantic ID of {} codes is whole already", self.vocab.levels());
            return Err(CoreError::input("beam", problem, "this is a defect: report it").into());
        }
        let tokens: Vec<u32> = codes.iter().map(|&code| self.vocab.token(state.level - 1, code)).collect();
        let (next, x) = self.advance(state, parents, &tokens)?;
        let scores = self.code_scores(&x, state.level, norm)?;
        Ok((next, scores))
    }

    /// The state after the tokens, and what the heads see there: `[R, D]`.
    fn advance(&self, state: &DeviceState, parents: &[u32], tokens: &[u32]) -> Result<(DeviceState, Tensor)> {
        let dropout = Dropout::none();
        let (forward, config, weights) = (self.model.forward(&dropout), &self.model.config, &self.model.weights);
        let device = weights.embedding.device();
        let (rows, inner, positions) = (tokens.len(), config.inner(), state.level + 1);
        let prefixes = longer(&state.prefixes, state.level, parents, tokens);
        let request_of: Vec<u32> = parents.iter().map(|&p| state.request_of[p as usize]).collect();
        let places = Places::new(&request_of, state.requests);
        let to_places = Tensor::from_vec(places.row_at, state.requests * places.width, device)?;
        let to_rows = Tensor::from_vec(places.place_of, rows, device)?;
        let parents = Tensor::from_vec(parents.to_vec(), rows, device)?;
        let bias = forward.bias(&weights.decoder_bias, state.level, 1, positions, false)?; // [H, 1, P]
        let args = forward.attention_args(None, false);
        let cross_args = forward.attention_args(state.padding.key_mask.as_ref(), false);

        let mut x = self.model.last_rows(&prefixes, rows, positions)?; // [R, 1, D]
        let mut cache = Vec::with_capacity(weights.decoder.len());
        for (layer, block) in weights.decoder.iter().enumerate() {
            let n = forward.norm(&x, &block.norm)?;
            let mut kv = ops::linear(&n, &block.attention.kv)?; // [R, 1, 2 * H * dk]
            if let Some(before) = state.cache.get(layer) {
                kv = Tensor::cat(&[&before.index_select(&parents, 0)?, &kv], 1)?.contiguous()?; // [R, P, 2 * H * dk]
            }
            let attended = ops::attention(&ops::linear(&n, &block.attention.q)?, &kv, Some(&bias), &args)?;
            x = (x + ops::linear(&attended, &block.attention.o)?)?;
            cache.push(kv);

            let n = forward.norm(&x, &block.cross_norm)?;
            let q = ops::linear(&n, &block.cross.q)?.reshape((rows, inner))?;
            let q = q.index_select(&to_places, 0)?.reshape((state.requests, places.width, inner))?; // [B, W, H * dk]
            let attended = ops::attention(&q, &state.cross[layer], None, &cross_args)?;
            let attended = attended.reshape((state.requests * places.width, inner))?.index_select(&to_rows, 0)?;
            x = (x + ops::linear(&attended.reshape((rows, 1, inner))?, &block.cross.o)?)?;
            x = forward.feed_forward(&x, &block.ff)?;
        }
        let x = forward.norm(&x, &weights.decoder_norm)?.reshape((rows, config.d_model))?;
        let next = DeviceState {
            requests: state.requests,
            level: positions,
            padding: state.padding.clone(),
            cross: state.cross.clone(),
            cache,
            request_of,
            prefixes,
        };
        Ok((next, x))
    }

    fn code_scores(&self, x: &Tensor, level: usize, norm: ScoreNorm) -> Result<CodeScores> {
        let dropout = Dropout::none();
        let forward = self.model.forward(&dropout);
        let (logits, range) = match forward.level_logits(x, level)? {
            Some(logits) => (logits, 0..self.vocab.codes_per_level()[level] as usize), // [R, K]
            None => {
                let range = self.vocab.level_range(level);
                (forward.logits(x)?, range.start as usize..range.end as usize) // [R, V]
            }
        };
        let row_scores = |row: &Vec<f32>| {
            let slice = &row[range.clone()];
            let total = match norm {
                ScoreNorm::Full => log_sum_exp(row, &[]),
                ScoreNorm::Level | ScoreNorm::Children => log_sum_exp(slice, &[]),
            };
            slice.iter().map(|logit| logit - total).collect::<Vec<f32>>()
        };
        let values = logits.to_vec2::<f32>()?.iter().flat_map(row_scores).collect();
        Ok(CodeScores::new(values, range.len()))
    }
}

/// The prefixes of `parents`, each of `len` tokens, with one more.
pub(super) fn longer(prefixes: &[u32], len: usize, parents: &[u32], tokens: &[u32]) -> Vec<u32> {
    let mut longer = Vec::with_capacity(tokens.len() * (len + 1));
    for (&parent, &token) in parents.iter().zip(tokens) {
        longer.extend_from_slice(&prefixes[parent as usize * len..(parent as usize + 1) * len]);
        longer.push(token);
    }
    longer
}

/// Prefixes laid out as `[B, W]`, W the most prefixes of a request; places without one repeat row 0.
struct Places {
    width: usize,
    row_at: Vec<u32>,   // [B * W]
    place_of: Vec<u32>, // [R]
}

impl Places {
    fn new(request_of: &[u32], requests: usize) -> Self {
        let mut counts = vec![0usize; requests];
        let within: Vec<usize> = request_of
            .iter()
            .map(|&request| {
                counts[request as usize] += 1;
                counts[request as usize] - 1
            })
            .collect();
        let width = counts.iter().copied().max().unwrap_or(0).max(1);
        let place_of: Vec<u32> =
            request_of.iter().zip(&within).map(|(&request, at)| (request as usize * width + at) as u32).collect();
        let mut row_at = vec![0; requests * width];
        for (row, &place) in (0u32..).zip(&place_of) {
            row_at[place as usize] = row;
        }
        Self { width, row_at, place_of }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_its_own_place_in_its_request() {
        let places = Places::new(&[0, 0, 0, 2, 2], 3);
        assert_eq!(places.width, 3);
        assert_eq!(places.place_of, [0, 1, 2, 6, 7]);
        assert_eq!(places.row_at, [0, 1, 2, 0, 0, 0, 3, 4, 0]);
    }
}
