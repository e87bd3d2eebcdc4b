//! T5 inference on the CPU, without tensors in between.
//!
//! # What makes it fast?
//! Weights are packed for the kernels once, in the precision that was asked for; queries, keys and values of a block in
//! one matrix. Histories are not padded: a group of requests is one matrix of all its tokens. What the first block makes
//! of a token is looked up where it depends on nothing but the token. Cross-attention keys and values are computed and
//! packed once a request and shared by its beams. The keys and values of a prefix stay where the step that made them wrote
//! them; a prefix is a list of rows, one for each step, so nothing is copied when the beam search reorders its beams. The
//! first step has one row a request. Memory comes from a pool and goes back to it.

use std::ops::Range;
use std::sync::Arc;

use sidereal_core::{CodeVocab, Error as CoreError};
use sidereal_nn::kernels::attention::{Bias, Head};
use sidereal_nn::kernels::loops::{MAX_POSITIONS, attend_prefix, gelu_gate, rms_norm};
use sidereal_nn::kernels::{Instructions, Line, Precision, Rows, Write};

use super::config::T5Config;
use super::extensions::Extensions;
use super::frozen::Frozen;
use super::position::buckets;
use super::weights::Weights;
use crate::Result;
use crate::history_layout::split_marks;
use crate::models::packed::{Workspace, continued, row_of, segments};
use crate::models::placed::CodeEngine;
use crate::pool::{Buffer, Pool};
use crate::scoring::{CodeScores, ScoreNorm};

mod packed;

use packed::{FeedForwardBlock, PackedT5, SelfAttention, flat};

/// A T5 that answers on the CPU.
#[derive(Debug)]
pub(super) struct CpuT5 {
    config: T5Config,
    vocab: CodeVocab,
    precision: Precision,
    instructions: Instructions,
    packed: PackedT5,
    /// What the first blocks' queries, keys and values are by token, where they depend on nothing else.
    encoder_tokens: Option<Vec<f32>>, // [V, 3 * H * dk]
    decoder_tokens: Option<Vec<f32>>, // [V, 3 * H * dk]
    /// What begins with more than rows of the table, if anything does.
    extended: Option<Box<Frozen>>,
    numbers: Pool<f32>,
    lines: Pool<Line>,
}

/// A group of requests after some codes.
#[derive(Debug)]
pub(super) struct CpuState {
    encoded: Arc<Encoded>,
    steps: Vec<Arc<StepRows>>,
    /// For each step but the last, which of its rows each prefix went through; `[steps - 1]` of `[R]`.
    through: Vec<Vec<u32>>,
    /// The request of each prefix, `[R]`.
    request_of: Vec<u32>,
    /// The tokens of each prefix, `[R, steps]`.
    prefixes: Vec<u32>,
}

/// What the decoder needs of the histories.
#[derive(Debug)]
struct Encoded {
    /// Each request's tokens among all tokens.
    spans: Vec<Range<usize>>,
    /// Each request's keys and values by decoder block, head after head, packed.
    cross: Vec<Vec<Buffer<Line>>>,
}

/// Queries, keys and values that one step computed for its rows.
#[derive(Debug)]
struct StepRows {
    qkv: Vec<Buffer<f32>>, // by decoder block: [R, 3 * H * dk]
}

impl CpuT5 {
    /// Packs weights for inference; `extended` makes the inputs where a table alone does not.
    pub(super) fn new(
        config: &T5Config,
        vocab: &CodeVocab,
        weights: &Weights,
        extended: Option<Box<Frozen>>,
        precision: Precision,
    ) -> Result<Self> {
        let packed = PackedT5::new(config, vocab, weights, precision)?;
        let changed = |what: fn(&Extensions) -> bool| extended.as_ref().is_some_and(|model| model.has(what));
        let eps = config.layer_norm_epsilon as f32;
        let of_tokens = |block: Option<&SelfAttention>, changed: bool| {
            block.filter(|_| !changed).and_then(|block| block.of_tokens(&packed.embedding, eps))
        };
        let first = packed.encoder.first().map(|block| &block.attention);
        let encoder_tokens = of_tokens(first, changed(Extensions::change_histories));
        let first = packed.decoder.first().map(|block| &block.attention);
        let decoder_tokens = of_tokens(first, changed(Extensions::change_prefixes));
        Ok(Self {
            config: config.clone(),
            vocab: vocab.clone(),
            precision,
            instructions: Instructions::current(),
            packed,
            encoder_tokens,
            decoder_tokens,
            extended,
            numbers: Pool::default(),
            lines: Pool::default(),
        })
    }

    /// What the heads see after the start token, `[B, D]`.
    pub(super) fn start_states(&self, histories: &[&[u32]]) -> Result<Vec<f32>> {
        Ok(self.first(histories)?.1.to_vec())
    }

    fn first(&self, histories: &[&[u32]]) -> Result<(CpuState, Buffer<f32>)> {
        let encoded = Arc::new(self.encode(histories)?);
        let before = CpuState {
            encoded,
            steps: Vec::new(),
            through: Vec::new(),
            request_of: (0..histories.len() as u32).collect(),
            prefixes: Vec::new(),
        };
        let parents: Vec<u32> = (0..histories.len() as u32).collect();
        let tokens = vec![self.config.decoder_start_token_id; histories.len()];
        self.advance(&before, &parents, &tokens)
    }

    /// What the encoder begins with, one history after the other without padding: `[tokens, D]`.
    fn history_rows(&self, histories: &[&[u32]], rows: usize) -> Result<Buffer<f32>> {
        let d = self.config.d_model;
        let mut x = self.numbers.take(rows * d);
        if let Some(model) = self.extended.as_ref().filter(|m| m.has(Extensions::change_histories)) {
            x.copy_from_slice(&model.history_rows(histories)?);
            return Ok(x);
        }
        let tokens = histories.iter().flat_map(|history| split_marks(history).1);
        for (row, &token) in x.chunks_exact_mut(d).zip(tokens) {
            row.copy_from_slice(self.embed(token)?);
        }
        Ok(x)
    }

    /// What the decoder begins with at the last token of each prefix: `[R, D]`.
    fn prefix_rows(&self, prefixes: &[u32], len: usize) -> Result<Buffer<f32>> {
        let (d, rows) = (self.config.d_model, prefixes.len() / len);
        let mut x = self.numbers.take(rows * d);
        if let Some(model) = self.extended.as_ref().filter(|m| m.has(Extensions::change_prefixes)) {
            x.copy_from_slice(&flat(&model.last_rows(&model.ids(prefixes, rows, len)?)?)?);
            return Ok(x);
        }
        for (row, prefix) in x.chunks_exact_mut(d).zip(prefixes.chunks_exact(len)) {
            row.copy_from_slice(self.embed(prefix[len - 1])?);
        }
        Ok(x)
    }

    /// Encoder states of histories, one after the other without padding: `[tokens, D]`.
    fn encoder_states(&self, histories: &[&[u32]], spans: &[Range<usize>]) -> Result<Buffer<f32>> {
        let c = &self.config;
        let (d, inner, dk, eps) = (c.d_model, c.inner(), c.d_kv, c.layer_norm_epsilon as f32);
        let rows = spans.last().map_or(0, |span| span.end);
        let longest = spans.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
        let bias = self.offset_bias(longest);
        let mut x = self.history_rows(histories, rows)?;
        let mut work = self.workspace(rows);
        let mut normed = self.numbers.take(rows * d);
        let mut qkv = self.numbers.take(rows * 3 * inner);
        let mut attended = self.numbers.take(rows * inner);
        let mut lines = self.lines.take(self.head(longest).lines());
        let mut space = self.numbers.take(self.head(longest).space());
        for (layer, block) in self.packed.encoder.iter().enumerate() {
            match self.encoder_tokens.as_ref().filter(|_| layer == 0) {
                Some(table) => {
                    let tokens = histories.iter().flat_map(|history| split_marks(history).1);
                    for (row, &token) in qkv.chunks_exact_mut(3 * inner).zip(tokens) {
                        row.copy_from_slice(row_of(table, token as usize, 3 * inner));
                    }
                }
                None => {
                    rms_norm(&mut normed, &x, &block.attention.norm, eps);
                    let operand = work.rows(&normed, rows, d);
                    block.attention.qkv.product(&mut qkv, 3 * inner, operand, Write::Set);
                }
            }
            for span in spans.iter().filter(|span| !span.is_empty()) {
                let head = self.head(span.len());
                for h in 0..c.num_heads {
                    let part = |part: usize| {
                        let first = span.start * 3 * inner + part * inner + h * dk;
                        Rows { data: &qkv[first..], step: 3 * inner }
                    };
                    head.pack(&mut lines, part(1), part(2));
                    // Row i needs the biases of offsets -i .. T - i, which stand together.
                    let values = &bias[h * (2 * longest - 1)..(h + 1) * (2 * longest - 1)];
                    let bias = Bias { values, start: longest - 1, back: 1 };
                    let out = &mut attended[span.start * inner + h * dk..];
                    let count = span.len();
                    head.attend(out, inner, part(0), count, &lines, Some(bias), &mut space, self.instructions);
                }
            }
            block.attention.o.product(&mut x, d, work.rows(&attended, rows, inner), Write::Add);
            self.feed_forward(&mut x, &mut normed, rows, &block.ff, &mut work);
        }
        rms_norm(&mut normed, &x, &self.packed.encoder_norm, eps);
        Ok(normed)
    }

    fn encode(&self, histories: &[&[u32]]) -> Result<Encoded> {
        let mut spans = Vec::with_capacity(histories.len());
        let mut rows = 0;
        for history in histories {
            let tokens = split_marks(history).1.len();
            spans.push(rows..rows + tokens);
            rows += tokens;
        }
        let (d, inner, dk) = (self.config.d_model, self.config.inner(), self.config.d_kv);
        let states = self.encoder_states(histories, &spans)?;
        let mut work = self.workspace(rows);
        let operand = work.rows(&states, rows, d);
        let mut kv = self.numbers.take(rows * 2 * inner);
        let mut cross = Vec::with_capacity(self.packed.decoder.len());
        for block in &self.packed.decoder {
            block.cross_kv.product(&mut kv, 2 * inner, operand, Write::Set);
            let of_request = spans.iter().map(|span| {
                let head = self.head(span.len());
                let mut lines = self.lines.take(self.config.num_heads * head.lines());
                for h in (0..self.config.num_heads).filter(|_| !span.is_empty()) {
                    let part = |part: usize| {
                        let first = span.start * 2 * inner + part * inner + h * dk;
                        Rows { data: &kv[first..], step: 2 * inner }
                    };
                    head.pack(&mut lines[h * head.lines()..], part(0), part(1));
                }
                lines
            });
            cross.push(of_request.collect());
        }
        Ok(Encoded { cross, spans })
    }

    /// Keys and values of one head over `tokens`.
    fn head(&self, tokens: usize) -> Head {
        Head { precision: self.precision.at_least_bf16(), tokens, width: self.config.d_kv }
    }

    /// Space for the operands of products of `rows`.
    fn workspace(&self, rows: usize) -> Workspace {
        let c = &self.config;
        Workspace::new(&self.numbers, self.precision, rows, &[c.d_model, c.inner(), c.d_ff])
    }

    /// One decoder step: row `r` continues row `parents[r]` with `tokens[r]`. Also what the heads see: `[R, D]`.
    fn advance(&self, state: &CpuState, parents: &[u32], tokens: &[u32]) -> Result<(CpuState, Buffer<f32>)> {
        let c = &self.config;
        let (d, inner, rows) = (c.d_model, c.inner(), tokens.len());
        let level = state.steps.len();
        let through = continued(&state.through, parents, level);
        let request_of: Vec<u32> = parents.iter().map(|&p| state.request_of[p as usize]).collect();
        let segments = segments(&request_of);
        let bias = self.causal_bias(level);
        let eps = c.layer_norm_epsilon as f32;

        let prefixes = longer(&state.prefixes, level, parents, tokens);
        let mut x = self.prefix_rows(&prefixes, level + 1)?;
        let mut work = self.workspace(rows);
        let mut normed = self.numbers.take(rows * d);
        let mut attended = self.numbers.take(rows * inner);
        let mut queries = self.numbers.take(rows * inner);
        let mut computed = Vec::with_capacity(self.packed.decoder.len());
        for (layer, block) in self.packed.decoder.iter().enumerate() {
            let mut qkv = self.numbers.take(rows * 3 * inner);
            match self.decoder_tokens.as_ref().filter(|_| layer == 0) {
                Some(table) => {
                    for (row, &token) in qkv.chunks_exact_mut(3 * inner).zip(tokens) {
                        row.copy_from_slice(row_of(table, token as usize, 3 * inner));
                    }
                }
                None => {
                    rms_norm(&mut normed, &x, &block.attention.norm, eps);
                    let operand = work.rows(&normed, rows, d);
                    block.attention.qkv.product(&mut qkv, 3 * inner, operand, Write::Set);
                }
            }
            for (row, out) in attended.chunks_exact_mut(inner).enumerate() {
                let mut positions: [&[f32]; MAX_POSITIONS] = [&[]; MAX_POSITIONS];
                for ((slot, step), of) in positions.iter_mut().zip(&state.steps).zip(&through) {
                    *slot = row_of(&step.qkv[layer], of[row] as usize, 3 * inner);
                }
                positions[level] = row_of(&qkv, row, 3 * inner);
                attend_prefix(out, &positions[..=level], &bias, c.d_kv);
            }
            computed.push(qkv);
            block.attention.o.product(&mut x, d, work.rows(&attended, rows, inner), Write::Add);

            rms_norm(&mut normed, &x, &block.cross_norm, eps);
            block.cross_q.product(&mut queries, inner, work.rows(&normed, rows, d), Write::Set);
            self.attend_history(&mut attended, &queries, &state.encoded, layer, &segments);
            block.cross_o.product(&mut x, d, work.rows(&attended, rows, inner), Write::Add);

            self.feed_forward(&mut x, &mut normed, rows, &block.ff, &mut work);
        }
        rms_norm(&mut normed, &x, &self.packed.decoder_norm, eps);
        let mut steps = state.steps.clone();
        steps.push(Arc::new(StepRows { qkv: computed }));
        Ok((CpuState { encoded: Arc::clone(&state.encoded), steps, through, request_of, prefixes }, normed))
    }

    /// Cross-attention: all prefixes of a request look at that request's keys and values.
    fn attend_history(
        &self,
        out: &mut [f32],
        queries: &[f32],
        encoded: &Encoded,
        layer: usize,
        segments: &[(usize, Range<usize>)],
    ) {
        let (inner, dk) = (self.config.inner(), self.config.d_kv);
        let longest = encoded.spans.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
        let mut space = self.numbers.take(self.head(longest).space());
        for (request, rows) in segments {
            // An empty history contributes nothing.
            let head = self.head(encoded.spans[*request].len());
            for h in 0..self.config.num_heads {
                let lines = &encoded.cross[layer][*request][h * head.lines()..];
                let queries = Rows { data: &queries[rows.start * inner + h * dk..], step: inner };
                let out = &mut out[rows.start * inner + h * dk..];
                head.attend(out, inner, queries, rows.len(), lines, None, &mut space, self.instructions);
            }
        }
    }

    /// `x += ff(norm(x))`; `normed` is overwritten.
    fn feed_forward(
        &self,
        x: &mut [f32],
        normed: &mut [f32],
        rows: usize,
        ff: &FeedForwardBlock,
        work: &mut Workspace,
    ) {
        let (d, f) = (self.config.d_model, self.config.d_ff);
        rms_norm(normed, x, &ff.norm, self.config.layer_norm_epsilon as f32);
        // Rows that are a power of two apart would share the same few places of a cache.
        let apart = f + LINE;
        let mut inside = self.numbers.take(rows * apart);
        let operand = work.rows(normed, rows, d);
        match &ff.gate {
            None => ff.up.product(&mut inside, apart, operand, Write::Relu), // [rows, F]
            Some(gate) => {
                let mut gated = self.numbers.take(rows * apart);
                ff.up.product(&mut inside, apart, operand, Write::Set);
                gate.product(&mut gated, apart, operand, Write::Set);
                gelu_gate(&mut inside, &gated);
            }
        }
        ff.down.product(x, d, work.rows_apart(&inside, apart, rows, f), Write::Add);
    }

    fn embed(&self, token: u32) -> Result<&[f32]> {
        let (d, v) = (self.config.d_model, self.config.vocab_size);
        if token as usize >= v {
            return Err(unknown_token(token, v));
        }
        Ok(row_of(&self.packed.embedding, token as usize, d))
    }

    /// The encoder's bias by offset (key position less query position), from `1 - T` to `T - 1`: `[H, 2 T - 1]`.
    fn offset_bias(&self, longest: usize) -> Vec<f32> {
        if longest == 0 {
            return Vec::new();
        }
        // Seen from the last of T positions the offsets are 1 - T ..= 0, from the first 0 ..= T - 1.
        let mut of_offset = buckets(&self.config, longest - 1, 1, longest, true);
        of_offset.extend(&buckets(&self.config, 0, 1, longest, true)[1..]);
        by_head(&self.packed.encoder_bias, &of_offset, self.config.num_heads)
    }

    /// The decoder's bias of the positions up to `level`, seen from it: `[H, level + 1]`.
    fn causal_bias(&self, level: usize) -> Vec<f32> {
        let of_position = buckets(&self.config, level, 1, level + 1, false);
        by_head(&self.packed.decoder_bias, &of_position, self.config.num_heads)
    }
}

impl CodeEngine for CpuT5 {
    type State = CpuState;

    fn begin(&self, histories: &[&[u32]], norm: ScoreNorm) -> Result<(CpuState, CodeScores)> {
        let (state, seen) = self.first(histories)?;
        let scores = self.packed.heads.scores(&self.numbers, &seen, histories.len(), 0, norm);
        Ok((state, scores))
    }

    fn step(
        &self,
        state: &CpuState,
        parents: &[u32],
        codes: &[u16],
        norm: ScoreNorm,
    ) -> Result<(CpuState, CodeScores)> {
        let level = state.steps.len() - 1;
        if level + 1 >= self.vocab.levels() {
            let problem = format!("a semantic ID of {} codes is whole already", self.vocab.levels());
            return Err(CoreError::input("beam", problem, "this is a defect: report it").into());
        }
        let tokens: Vec<u32> = codes.iter().map(|&code| self.vocab.token(level, code)).collect();
        let (next, seen) = self.advance(state, parents, &tokens)?;
        let scores = self.packed.heads.scores(&self.numbers, &seen, tokens.len(), level + 1, norm);
        Ok((next, scores))
    }
}

/// The error for a token that the embedding table does not have.
pub(super) fn unknown_token(token: u32, vocabulary: usize) -> crate::Error {
    let problem = format!("token {token} is not below {vocabulary}");
    CoreError::input("history", problem, "use the catalog that the generator was trained on").into()
}

fn by_head(table: &[f32], buckets: &[u32], heads: usize) -> Vec<f32> {
    (0..heads).flat_map(|head| buckets.iter().map(move |&b| table[b as usize * heads + head])).collect()
}

/// Numbers of a cache line.
const LINE: usize = 16;

/// The prefixes of `parents`, each of `len` tokens, with one more.
fn longer(prefixes: &[u32], len: usize, parents: &[u32], tokens: &[u32]) -> Vec<u32> {
    let mut longer = Vec::with_capacity(tokens.len() * (len + 1));
    for (&parent, &token) in parents.iter().zip(tokens) {
        longer.extend_from_slice(&prefixes[parent as usize * len..(parent as usize + 1) * len]);
        longer.push(token);
    }
    longer
}
