//! T5 inference on the CPU in f32, without tensors in between.
//!
//! # What makes it fast?
//! Weights are stored [in, out], ready for the product, queries, keys and values of a block in one matrix. Histories
//! are not padded: a group of requests is one matrix of all its tokens. Cross-attention keys and values are computed
//! once a request and shared by its beams, keys as `[H * dk, T]` so that queries meet them in their natural order. The
//! keys and values of a prefix stay where the step that made them wrote them; a prefix is a list of rows, one for each
//! step, so nothing is copied when the beam search reorders its beams. The first step has one row a request.

use std::ops::Range;
use std::sync::Arc;

use candle_core::Tensor;
use sidereal_core::{CodeVocab, Error as CoreError};

use super::config::{FeedForward, T5Config};
use super::device::longer;
use super::extensions::Extensions;
use super::frozen::Frozen;
use super::kernels::{
    MAX_LEVELS, Output, View, attend_prefix, gelu_gate, log_sum_exp, matmul, relu, rms_norm, softmax,
};
use super::packed::Packed;
use super::pool::{Buffer, Pool};
use super::position::buckets;
use super::weights::{self, Weights};
use crate::Result;
use crate::history_layout::split_marks;
use crate::scoring::{CodeScores, ScoreNorm};

/// Weights in the order and layout of their use.
#[derive(Debug)]
pub(super) struct CpuT5 {
    config: T5Config,
    vocab: CodeVocab,
    embedding: Vec<f32>,    // [V, D]
    heads: Vec<Packed>,     // by level: [D, K], the output scale multiplied in
    other_head: Packed,     // [D, tokens of no level]
    level_heads: bool,      // whether each level's head is over its own codes alone
    encoder_bias: Vec<f32>, // [buckets, H]
    decoder_bias: Vec<f32>, // [buckets, H]
    encoder: Vec<EncoderBlock>,
    decoder: Vec<DecoderBlock>,
    encoder_norm: Vec<f32>, // [D]
    decoder_norm: Vec<f32>, // [D]
    /// What begins with more than rows of the table, if anything does.
    extended: Option<Box<Frozen>>,
    pool: Pool,
}

#[derive(Debug)]
struct EncoderBlock {
    norm: Vec<f32>,
    qv: Packed,  // [D, 2 * H * dk]
    k: Vec<f32>, // [D, H * dk]
    o: Packed,   // [H * dk, D]
    ff: FeedForwardBlock,
}

#[derive(Debug)]
struct DecoderBlock {
    norm: Vec<f32>,
    qkv: Packed, // [D, 3 * H * dk]
    o: Packed,   // [H * dk, D]
    cross_norm: Vec<f32>,
    cross_q: Packed,   // [D, H * dk]
    cross_k: Vec<f32>, // [D, H * dk]
    cross_v: Packed,   // [D, H * dk]
    cross_o: Packed,   // [H * dk, D]
    ff: FeedForwardBlock,
}

#[derive(Debug)]
struct FeedForwardBlock {
    norm: Vec<f32>,
    up: Packed,           // [D, F]
    gate: Option<Packed>, // [D, F]
    down: Packed,         // [F, D]
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
    cross: Vec<CrossKeysValues>, // by decoder block
}

#[derive(Debug)]
struct CrossKeysValues {
    keys: Buffer,   // [H * dk, tokens]
    values: Buffer, // [tokens, H * dk]
}

/// Queries, keys and values that one step computed for its rows.
#[derive(Debug)]
struct StepRows {
    qkv: Vec<Buffer>, // by decoder block: [R, 3 * H * dk]
}

impl CpuT5 {
    /// Copies weights into their layout for inference; `extended` makes the inputs where a table alone does not.
    pub(super) fn new(
        config: &T5Config,
        vocab: &CodeVocab,
        weights: &Weights,
        extended: Option<Box<Frozen>>,
    ) -> Result<Self> {
        let embedding = flat(&weights.embedding)?;
        let separate = weights.head.as_ref().map(flat).transpose()?;
        let (d, v, scale) = (config.d_model, config.vocab_size, config.output_scale() as f32);
        let head_of = |tokens: &[u32]| {
            let mut columns = Vec::with_capacity(d * tokens.len());
            for i in 0..d {
                columns.extend(tokens.iter().map(|&token| match &separate {
                    Some(head) => head[i * v + token as usize] * scale,
                    None => embedding[token as usize * d + i] * scale,
                }));
            }
            Packed::new(&columns, tokens.len())
        };
        let levels: Vec<Vec<u32>> = (0..vocab.levels()).map(|level| vocab.level_range(level).collect()).collect();
        let others: Vec<u32> = (0..v as u32).filter(|&token| vocab.code(token).is_none()).collect();
        let (heads, other_head) = match weights.added.level_heads.as_slice() {
            [] => (levels.iter().map(|tokens| head_of(tokens)).collect(), head_of(&others)),
            own => {
                let scaled = |head: &Tensor| Ok(Packed::new(&flat(&(head * f64::from(scale))?)?, head.dim(1)?));
                // A head of a level knows no other tokens.
                (own.iter().map(scaled).collect::<Result<_>>()?, Packed::new(&[], 0))
            }
        };
        Ok(Self {
            config: config.clone(),
            vocab: vocab.clone(),
            embedding,
            heads,
            other_head,
            level_heads: !weights.added.level_heads.is_empty(),
            encoder_bias: flat(&weights.encoder_bias)?,
            decoder_bias: flat(&weights.decoder_bias)?,
            encoder: weights.encoder.iter().map(|b| EncoderBlock::new(config, b)).collect::<Result<_>>()?,
            decoder: weights.decoder.iter().map(|b| DecoderBlock::new(config, b)).collect::<Result<_>>()?,
            encoder_norm: flat(&weights.encoder_norm)?,
            decoder_norm: flat(&weights.decoder_norm)?,
            extended,
            pool: Pool::default(),
        })
    }

    pub(super) fn begin(&self, histories: &[&[u32]], norm: ScoreNorm) -> Result<(CpuState, CodeScores)> {
        let (state, seen) = self.first(histories)?;
        let scores = self.code_scores(&seen, histories.len(), 0, norm);
        Ok((state, scores))
    }

    /// What the heads see after the start token, `[B, D]`.
    pub(super) fn start_states(&self, histories: &[&[u32]]) -> Result<Vec<f32>> {
        Ok(self.first(histories)?.1.to_vec())
    }

    fn first(&self, histories: &[&[u32]]) -> Result<(CpuState, Buffer)> {
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

    pub(super) fn step(
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
        let scores = self.code_scores(&seen, tokens.len(), level + 1, norm);
        Ok((next, scores))
    }

    /// What the encoder begins with, one history after the other without padding: `[tokens, D]`.
    fn history_rows(&self, histories: &[&[u32]], rows: usize) -> Result<Buffer> {
        let d = self.config.d_model;
        let mut x = self.pool.take(rows * d);
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
    fn prefix_rows(&self, prefixes: &[u32], len: usize) -> Result<Buffer> {
        let (d, rows) = (self.config.d_model, prefixes.len() / len);
        let mut x = self.pool.take(rows * d);
        if let Some(model) = self.extended.as_ref().filter(|m| m.has(Extensions::change_prefixes)) {
            x.copy_from_slice(&flat(&model.last_rows(prefixes, rows, len)?)?);
            return Ok(x);
        }
        for (row, prefix) in x.chunks_exact_mut(d).zip(prefixes.chunks_exact(len)) {
            row.copy_from_slice(self.embed(prefix[len - 1])?);
        }
        Ok(x)
    }

    /// Encoder states of histories that begin with `x`, one after the other without padding: `[tokens, D]`.
    fn encoder_states(&self, mut x: Buffer, spans: &[Range<usize>]) -> Buffer {
        let c = &self.config;
        let (d, inner, dk, heads) = (c.d_model, c.inner(), c.d_kv, c.num_heads);
        let rows = spans.last().map_or(0, |span| span.end);
        let longest = spans.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
        let bias = self.offset_bias(longest);
        let mut normed = self.pool.take(rows * d);
        let mut qv = self.pool.take(rows * 2 * inner);
        let mut keys = self.pool.take(rows * inner);
        let mut attended = self.pool.take(rows * inner);
        let mut scores = self.pool.take(longest * longest);
        for block in &self.encoder {
            rms_norm(&mut normed, &x, &block.norm, c.layer_norm_epsilon as f32);
            block.qv.product(&mut qv, 2 * inner, &normed, rows, false);
            let by_column = Output { data: &mut keys, row_step: 1, column_step: rows, add: false };
            let n = View::new(&normed, rows, d, d);
            matmul(by_column, n, View::new(&block.k, d, inner, inner)); // [H * dk, tokens]
            for span in spans.iter().filter(|span| !span.is_empty()) {
                let t = span.len();
                for head in 0..heads {
                    let q = View::new(&qv[span.start * 2 * inner + head * dk..], t, dk, 2 * inner);
                    let k = View::new(&keys[head * dk * rows + span.start..], dk, t, rows);
                    let scores = &mut scores[..t * t];
                    matmul(Output::write(scores, t), q, k); // [T, T]
                    // Row i needs the biases of offsets -i .. T - i, which stand together.
                    let bias = &bias[head * (2 * longest - 1)..(head + 1) * (2 * longest - 1)];
                    softmax(scores, t, bias, longest - 1, 1);
                    let v = View::new(&qv[span.start * 2 * inner + inner + head * dk..], t, dk, 2 * inner);
                    let out = Output::write(&mut attended[span.start * inner + head * dk..], inner);
                    matmul(out, View::new(scores, t, t, t), v); // [T, dk]
                }
            }
            block.o.product(&mut x, d, &attended, rows, true);
            self.feed_forward(&mut x, &mut normed, rows, &block.ff);
        }
        rms_norm(&mut normed, &x, &self.encoder_norm, c.layer_norm_epsilon as f32);
        normed
    }

    fn encode(&self, histories: &[&[u32]]) -> Result<Encoded> {
        let mut spans = Vec::with_capacity(histories.len());
        let mut rows = 0;
        for history in histories {
            let tokens = split_marks(history).1.len();
            spans.push(rows..rows + tokens);
            rows += tokens;
        }
        let (d, inner) = (self.config.d_model, self.config.inner());
        let states = self.encoder_states(self.history_rows(histories, rows)?, &spans);
        let cross = self.decoder.iter().map(|block| {
            let mut keys = self.pool.take(inner * rows);
            let by_column = Output { data: &mut keys, row_step: 1, column_step: rows, add: false };
            let view = View::new(&states, rows, d, d);
            matmul(by_column, view, View::new(&block.cross_k, d, inner, inner));
            let mut values = self.pool.take(rows * inner);
            block.cross_v.product(&mut values, inner, &states, rows, false);
            CrossKeysValues { keys, values }
        });
        Ok(Encoded { cross: cross.collect(), spans })
    }

    /// One decoder step: row `r` continues row `parents[r]` with `tokens[r]`. Also what the heads see: `[R, D]`.
    fn advance(&self, state: &CpuState, parents: &[u32], tokens: &[u32]) -> Result<(CpuState, Buffer)> {
        let c = &self.config;
        let (d, inner, rows) = (c.d_model, c.inner(), tokens.len());
        let level = state.steps.len();
        // At the first step `parents` are requests, and there is no earlier row to go through.
        let mut through: Vec<Vec<u32>> =
            state.through.iter().map(|of| parents.iter().map(|&p| of[p as usize]).collect()).collect();
        if level > 0 {
            through.push(parents.to_vec());
        }
        let request_of: Vec<u32> = parents.iter().map(|&p| state.request_of[p as usize]).collect();
        let segments = segments(&request_of);
        let bias = self.causal_bias(level);
        let eps = c.layer_norm_epsilon as f32;

        let prefixes = longer(&state.prefixes, level, parents, tokens);
        let mut x = self.prefix_rows(&prefixes, level + 1)?;
        let mut normed = self.pool.take(rows * d);
        let mut attended = self.pool.take(rows * inner);
        let mut queries = self.pool.take(rows * inner);
        let mut computed = Vec::with_capacity(self.decoder.len());
        for (layer, block) in self.decoder.iter().enumerate() {
            rms_norm(&mut normed, &x, &block.norm, eps);
            let mut qkv = self.pool.take(rows * 3 * inner);
            block.qkv.product(&mut qkv, 3 * inner, &normed, rows, false);
            for (row, out) in attended.chunks_exact_mut(inner).enumerate() {
                let mut positions: [&[f32]; MAX_LEVELS] = [&[]; MAX_LEVELS];
                for ((slot, step), of) in positions.iter_mut().zip(&state.steps).zip(&through) {
                    *slot = row_of(&step.qkv[layer], of[row] as usize, 3 * inner);
                }
                positions[level] = row_of(&qkv, row, 3 * inner);
                attend_prefix(out, &positions[..=level], &bias, c.d_kv);
            }
            computed.push(qkv);
            block.o.product(&mut x, d, &attended, rows, true);

            rms_norm(&mut normed, &x, &block.cross_norm, eps);
            block.cross_q.product(&mut queries, inner, &normed, rows, false);
            self.attend_history(&mut attended, &queries, &state.encoded, layer, &segments);
            block.cross_o.product(&mut x, d, &attended, rows, true);

            self.feed_forward(&mut x, &mut normed, rows, &block.ff);
        }
        rms_norm(&mut normed, &x, &self.decoder_norm, eps);
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
        let all = encoded.spans.last().map_or(0, |span| span.end);
        let cross = &encoded.cross[layer];
        let widest = segments.iter().map(|(request, rows)| rows.len() * encoded.spans[*request].len()).max();
        let mut scores = self.pool.take(widest.unwrap_or(0));
        for (request, rows) in segments {
            let span = &encoded.spans[*request];
            let (w, t) = (rows.len(), span.len());
            if t == 0 {
                // Nothing to look at: an empty history contributes nothing.
                out[rows.start * inner..rows.end * inner].fill(0.0);
                continue;
            }
            for head in 0..self.config.num_heads {
                let q = View::new(&queries[rows.start * inner + head * dk..], w, dk, inner);
                let k = View::new(&cross.keys[head * dk * all + span.start..], dk, t, all);
                let scores = &mut scores[..w * t];
                matmul(Output::write(scores, t), q, k); // [W, T]
                softmax(scores, t, &[], 0, 0);
                let v = View::new(&cross.values[span.start * inner + head * dk..], t, dk, inner);
                let out = Output::write(&mut out[rows.start * inner + head * dk..], inner);
                matmul(out, View::new(scores, w, t, t), v); // [W, dk]
            }
        }
    }

    /// `x += ff(norm(x))`; `normed` is overwritten.
    fn feed_forward(&self, x: &mut [f32], normed: &mut [f32], rows: usize, ff: &FeedForwardBlock) {
        let (d, f) = (self.config.d_model, self.config.d_ff);
        rms_norm(normed, x, &ff.norm, self.config.layer_norm_epsilon as f32);
        let mut inside = self.pool.take(rows * f);
        ff.up.product(&mut inside, f, normed, rows, false); // [rows, F]
        match &ff.gate {
            None => relu(&mut inside),
            Some(gate) => {
                let mut gated = self.pool.take(rows * f);
                gate.product(&mut gated, f, normed, rows, false);
                gelu_gate(&mut inside, &gated);
            }
        }
        ff.down.product(x, d, &inside, rows, true);
    }

    fn code_scores(&self, states: &[f32], rows: usize, level: usize, norm: ScoreNorm) -> CodeScores {
        let head = &self.heads[level];
        let codes = head.output();
        let mut values = vec![0.0; rows * codes];
        head.product(&mut values, codes, states, rows, false);
        let mut totals: Vec<f32> = values.chunks_exact(codes).map(log_sum_exp).collect();
        if norm == ScoreNorm::Full && !self.level_heads {
            let others = self.heads.iter().enumerate().filter(|(other, _)| *other != level).map(|(_, head)| head);
            for head in others.chain([&self.other_head]).filter(|head| head.output() > 0) {
                let mut logits = self.pool.take(rows * head.output());
                head.product(&mut logits, head.output(), states, rows, false);
                for (total, row) in totals.iter_mut().zip(logits.chunks_exact(head.output())) {
                    let (a, b) = (*total, log_sum_exp(row));
                    *total = a.max(b) + (-(a - b).abs()).exp().ln_1p();
                }
            }
        }
        for (row, total) in values.chunks_exact_mut(codes).zip(totals) {
            row.iter_mut().for_each(|logit| *logit -= total);
        }
        CodeScores::new(values, codes)
    }

    fn embed(&self, token: u32) -> Result<&[f32]> {
        let (d, v) = (self.config.d_model, self.config.vocab_size);
        if token as usize >= v {
            return Err(unknown_token(token, v));
        }
        Ok(row_of(&self.embedding, token as usize, d))
    }

    /// The encoder's bias by offset (key position less query position), from `1 - T` to `T - 1`: `[H, 2 T - 1]`.
    fn offset_bias(&self, longest: usize) -> Vec<f32> {
        if longest == 0 {
            return Vec::new();
        }
        // Seen from the last of T positions the offsets are 1 - T ..= 0, from the first 0 ..= T - 1.
        let mut of_offset = buckets(&self.config, longest - 1, 1, longest, true);
        of_offset.extend(&buckets(&self.config, 0, 1, longest, true)[1..]);
        by_head(&self.encoder_bias, &of_offset, self.config.num_heads)
    }

    /// The decoder's bias of the positions up to `level`, seen from it: `[H, level + 1]`.
    fn causal_bias(&self, level: usize) -> Vec<f32> {
        let of_position = buckets(&self.config, level, 1, level + 1, false);
        by_head(&self.decoder_bias, &of_position, self.config.num_heads)
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

fn row_of(data: &[f32], row: usize, width: usize) -> &[f32] {
    &data[row * width..(row + 1) * width]
}

/// Consecutive rows of one request.
fn segments(request_of: &[u32]) -> Vec<(usize, Range<usize>)> {
    let mut start = 0;
    request_of
        .chunk_by(|a, b| a == b)
        .map(|rows| {
            let range = start..start + rows.len();
            start = range.end;
            (rows[0] as usize, range)
        })
        .collect()
}

fn flat(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.flatten_all()?.to_vec1()?)
}

/// Matrices of equally many rows side by side: `[R, sum of widths]`.
fn side_by_side(parts: &[(&[f32], usize)]) -> Vec<f32> {
    let rows = parts.first().map_or(0, |(data, width)| data.len() / width);
    let mut joined = Vec::with_capacity(parts.iter().map(|(data, _)| data.len()).sum());
    for row in 0..rows {
        for (data, width) in parts {
            joined.extend_from_slice(row_of(data, row, *width));
        }
    }
    joined
}

/// Keys and values of a `[D, 2 * inner]` matrix as two matrices.
fn halves(kv: &[f32], inner: usize) -> (Vec<f32>, Vec<f32>) {
    let half = |from: usize| kv.chunks_exact(2 * inner).flat_map(|row| row[from..from + inner].to_vec()).collect();
    (half(0), half(inner))
}

impl EncoderBlock {
    fn new(config: &T5Config, block: &weights::EncoderBlock) -> Result<Self> {
        let inner = config.inner();
        let (k, v) = halves(&flat(&block.attention.kv)?, inner);
        Ok(Self {
            norm: flat(&block.norm)?,
            qv: Packed::new(&side_by_side(&[(&flat(&block.attention.q)?, inner), (&v, inner)]), 2 * inner),
            k,
            o: Packed::new(&flat(&block.attention.o)?, config.d_model),
            ff: FeedForwardBlock::new(config, &block.ff)?,
        })
    }
}

impl DecoderBlock {
    fn new(config: &T5Config, block: &weights::DecoderBlock) -> Result<Self> {
        let inner = config.inner();
        let q = flat(&block.attention.q)?;
        let (cross_k, cross_v) = halves(&flat(&block.cross.kv)?, inner);
        Ok(Self {
            norm: flat(&block.norm)?,
            qkv: Packed::new(&side_by_side(&[(&q, inner), (&flat(&block.attention.kv)?, 2 * inner)]), 3 * inner),
            o: Packed::new(&flat(&block.attention.o)?, config.d_model),
            cross_norm: flat(&block.cross_norm)?,
            cross_q: Packed::new(&flat(&block.cross.q)?, inner),
            cross_k,
            cross_v: Packed::new(&cross_v, inner),
            cross_o: Packed::new(&flat(&block.cross.o)?, config.d_model),
            ff: FeedForwardBlock::new(config, &block.ff)?,
        })
    }
}

impl FeedForwardBlock {
    fn new(config: &T5Config, ff: &weights::FeedForwardBlock) -> Result<Self> {
        let (d, f) = (config.d_model, config.d_ff);
        let gate = ff.gate.as_ref().map(|gate| Ok::<_, crate::Error>(Packed::new(&flat(gate)?, f))).transpose()?;
        debug_assert_eq!(gate.is_some(), config.feed_forward_proj == FeedForward::GatedGelu);
        let (up, down) = (Packed::new(&flat(&ff.up)?, f), Packed::new(&flat(&ff.down)?, d));
        Ok(Self { norm: flat(&ff.norm)?, up, gate, down })
    }
}
