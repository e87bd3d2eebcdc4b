//! A decoder's answers on the CPU, without tensors in between.
//!
//! A prompt is read once; its keys and values are packed for the attention kernel and shared by its beams, which keep only
//! the few positions that they wrote themselves: a prefix is a list of rows, one for each step, so nothing is copied when
//! the beam search reorders its beams. Prompts are not padded. Of the last layer only each prompt's last token is computed:
//! nothing else is looked at behind it. Weights are packed once, in the precision that was asked for.

use std::ops::Range;
use std::sync::Arc;

use candle_core::Tensor;
use rayon::prelude::*;
use sidereal_core::Error as CoreError;
use sidereal_nn::decoder::{DecoderConfig, DecoderWeights, LayerWeights, Projection};
use sidereal_nn::kernels::attention::{Bias, Head};
use sidereal_nn::kernels::loops::{rms_norm, silu_gate, turn_heads};
use sidereal_nn::kernels::{Instructions, Line, Precision, Rows, Weights as Packed, Write};

use super::prompt::{CodeTokens, check_prompts};
use crate::Result;
use crate::models::packed::{CodeHeads, Workspace, continued, row_of, segments};
use crate::models::placed::CodeEngine;
use crate::pool::{Buffer, Pool};
use crate::scoring::{CodeScores, ScoreNorm};

/// A decoder that answers on the CPU.
#[derive(Debug)]
pub(super) struct CpuDecoder {
    config: DecoderConfig,
    codes: CodeTokens,
    precision: Precision,
    instructions: Instructions,
    embedding: Vec<f32>, // [V, D]
    layers: Vec<Layer>,
    norm: Vec<f32>, // [D]
    heads: CodeHeads,
    numbers: Pool<f32>,
    lines: Pool<Line>,
}

#[derive(Debug)]
struct Layer {
    norm: Vec<f32>,
    qkv: Affine, // [D, (H + 2 * Hk) * dk]
    head_norms: Option<[Vec<f32>; 2]>,
    output: Affine, // [H * dk, D]
    ff_norm: Vec<f32>,
    gate: Packed, // [D, F]
    up: Packed,   // [D, F]
    down: Packed, // [F, D]
}

/// A product and what is added to it.
#[derive(Debug)]
struct Affine {
    weights: Packed,
    bias: Option<Vec<f32>>,
}

/// A group of requests after some codes.
#[derive(Debug)]
pub(super) struct CpuState {
    prompts: Arc<Vec<PromptKeys>>,
    steps: Vec<Arc<StepRows>>,
    /// For each step but the last, which of its rows each prefix went through; `[steps - 1]` of `[R]`.
    through: Vec<Vec<u32>>,
    /// The request of each prefix, `[R]`.
    request_of: Vec<u32>,
}

/// What a prompt's tokens are looked at by.
#[derive(Debug)]
struct PromptKeys {
    tokens: usize,
    layers: Vec<Buffer<Line>>, // by layer: keys and values, head after head, packed
}

/// Keys and values that one step computed for its rows.
#[derive(Debug)]
struct StepRows {
    kv: Vec<Buffer<f32>>, // by layer: [R, 2 * Hk * dk]
}

/// Products of at least so many multiplications are shared by the threads that are free.
const TOGETHER: usize = 1 << 25;

impl CpuDecoder {
    /// Packs weights; with `full` also the heads that full normalisation needs.
    pub(super) fn new(
        config: &DecoderConfig,
        weights: &DecoderWeights,
        codes: &CodeTokens,
        precision: Precision,
        full: bool,
    ) -> Result<Self> {
        let embedding = flat(&weights.embedding)?;
        let head = weights.head.as_ref().map(flat).transpose()?;
        let (d, v, of_heads) = (config.width, config.vocab, precision.at_least_bf16());
        let head_of = |tokens: &[Option<u32>]| {
            let column = |token: Option<u32>, i: usize| match (token, &head) {
                (None, _) => 0.0,
                (Some(token), Some(head)) => head[i * v + token as usize],
                (Some(token), None) => embedding[token as usize * d + i],
            };
            let columns: Vec<f32> = (0..d).flat_map(|i| tokens.iter().map(move |&token| column(token, i))).collect();
            Packed::new(&columns, tokens.len(), of_heads)
        };
        let missing =
            |tokens: &Vec<Option<u32>>| (0u16..).zip(tokens).filter(|(_, t)| t.is_none()).map(|(c, _)| c).collect();
        let others = full.then(|| {
            let mut is_code = vec![false; v];
            codes.levels().iter().flatten().flatten().for_each(|&token| is_code[token as usize] = true);
            let others: Vec<Option<u32>> = (0..v as u32).filter(|&t| !is_code[t as usize]).map(Some).collect();
            head_of(&others)
        });
        let heads = CodeHeads {
            levels: codes.levels().iter().map(|tokens| head_of(tokens)).collect(),
            others,
            missing: codes.levels().iter().map(missing).collect(),
        };
        let layers = weights.layers.iter().map(|layer| Layer::new(layer, precision));
        Ok(Self {
            config: config.clone(),
            codes: codes.clone(),
            precision,
            instructions: Instructions::current(),
            layers: layers.collect::<Result<_>>()?,
            norm: flat(&weights.norm)?,
            heads,
            embedding,
            numbers: Pool::default(),
            lines: Pool::default(),
        })
    }

    /// Reads prompts: what their tokens are looked at by, and the state of each one's last token, `[B, D]`.
    fn read(&self, prompts: &[&[u32]]) -> Result<(Vec<PromptKeys>, Buffer<f32>)> {
        check_prompts(&self.config, self.heads.levels.len(), prompts)?;
        let c = &self.config;
        let (d, inner, key_inner) = (c.width, c.inner(), c.key_inner());
        let mut spans: Vec<Range<usize>> = Vec::with_capacity(prompts.len());
        for prompt in prompts {
            let start = spans.last().map_or(0, |span| span.end);
            spans.push(start..start + prompt.len());
        }
        let mut rows = spans.last().map_or(0, |span| span.end);
        let longest = prompts.iter().map(|prompt| prompt.len()).max().unwrap_or(0);
        // Row r of a prompt looks at tokens 0 to r: its biases begin with r + 1 zeros.
        let mut causal = vec![0.0; 2 * longest];
        causal[longest..].fill(f32::NEG_INFINITY);
        let [cos, sin] = c.turns(0..longest);
        let mut x = self.numbers.take(rows * d);
        for (row, &token) in x.chunks_exact_mut(d).zip(prompts.iter().copied().flatten()) {
            row.copy_from_slice(self.embed(token));
        }
        let mut keys: Vec<PromptKeys> =
            prompts.iter().map(|prompt| PromptKeys { tokens: prompt.len(), layers: Vec::new() }).collect();
        let width = inner + 2 * key_inner;
        let mut space = self.numbers.take(self.head(longest).space());
        for (number, layer) in self.layers.iter().enumerate() {
            let mut normed = self.numbers.take(rows * d);
            let mut qkv = self.numbers.take(rows * width);
            rms_norm(&mut normed, &x, &layer.norm, c.eps as f32);
            self.affine(&layer.qkv, &mut qkv, &normed, rows, Write::Set);
            for span in &spans {
                for (position, row) in qkv[span.start * width..span.end * width].chunks_exact_mut(width).enumerate() {
                    self.turn(
                        layer,
                        row,
                        row_of(&cos, position, c.head_width / 2),
                        row_of(&sin, position, c.head_width / 2),
                    );
                }
            }
            let last = number + 1 == self.layers.len();
            // What goes on: all rows, or each prompt's last.
            let queries = |span: &Range<usize>| if last { span.end - 1..span.end } else { span.clone() };
            let going: usize = spans.iter().map(|span| queries(span).len()).sum();
            let mut attended = self.numbers.take(going * inner);
            let mut first = 0;
            for (span, keys) in spans.iter().zip(&mut keys) {
                let head = self.head(span.len());
                let mut lines = self.lines.take(c.key_heads * head.lines());
                let asked = queries(span);
                for k in 0..c.key_heads {
                    let lines = &mut lines[k * head.lines()..(k + 1) * head.lines()];
                    let part =
                        |at: usize| Rows { data: &qkv[span.start * width + at + k * c.head_width..], step: width };
                    head.pack(lines, part(inner), part(inner + key_inner));
                    let group = c.heads / c.key_heads;
                    for h in k * group..(k + 1) * group {
                        let query = Rows { data: &qkv[asked.start * width + h * c.head_width..], step: width };
                        let bias = Bias { values: &causal, start: longest - 1 - (asked.start - span.start), back: 1 };
                        let out = &mut attended[first * inner + h * c.head_width..];
                        head.attend(out, inner, query, asked.len(), lines, Some(bias), &mut space, self.instructions);
                    }
                }
                keys.layers.push(lines);
                first += asked.len();
            }
            if last {
                let mut ends = self.numbers.take(going * d);
                for (row, span) in ends.chunks_exact_mut(d).zip(&spans) {
                    row.copy_from_slice(row_of(&x, span.end - 1, d));
                }
                (x, rows) = (ends, going);
            }
            self.behind_attention(layer, &mut x, &attended, rows);
        }
        let mut states = self.numbers.take(rows * d);
        rms_norm(&mut states, &x, &self.norm, c.eps as f32);
        Ok((keys, states))
    }

    /// One step: row `r` continues row `parents[r]` with `tokens[r]`. Also what the heads see: `[R, D]`.
    fn advance(&self, state: &CpuState, parents: &[u32], tokens: &[u32]) -> Result<(CpuState, Buffer<f32>)> {
        let c = &self.config;
        let (d, inner, key_inner, dk) = (c.width, c.inner(), c.key_inner(), c.head_width);
        let (rows, level, width) = (tokens.len(), state.steps.len(), inner + 2 * key_inner);
        let through = continued(&state.through, parents, level);
        let request_of: Vec<u32> = parents.iter().map(|&parent| state.request_of[parent as usize]).collect();
        let segments = segments(&request_of);
        let position = |(request, _): &(usize, Range<usize>)| state.prompts[*request].tokens + level;
        let turns: Vec<[Vec<f32>; 2]> = segments.iter().map(position).map(|at| c.turns(at..at + 1)).collect();
        let mut x = self.numbers.take(rows * d);
        for (row, &token) in x.chunks_exact_mut(d).zip(tokens) {
            row.copy_from_slice(self.embed(token));
        }
        let longest = state.prompts.iter().map(|prompt| prompt.tokens).max().unwrap_or(0);
        let mut space = self.numbers.take(self.head(longest).space());
        let mut normed = self.numbers.take(rows * d);
        let mut qkv = self.numbers.take(rows * width);
        let mut attended = self.numbers.take(rows * inner);
        let mut computed = Vec::with_capacity(self.layers.len());
        for (number, layer) in self.layers.iter().enumerate() {
            rms_norm(&mut normed, &x, &layer.norm, c.eps as f32);
            self.affine(&layer.qkv, &mut qkv, &normed, rows, Write::Set);
            let mut kv = self.numbers.take(rows * 2 * key_inner);
            for ((_, of), [cos, sin]) in segments.iter().zip(&turns) {
                for row in of.clone() {
                    let qkv = &mut qkv[row * width..(row + 1) * width];
                    self.turn(layer, qkv, cos, sin);
                    kv[row * 2 * key_inner..(row + 1) * 2 * key_inner].copy_from_slice(&qkv[inner..]);
                }
            }
            for (request, of) in &segments {
                let prompt = &state.prompts[*request];
                let head = self.head(prompt.tokens);
                for h in 0..c.heads {
                    let k = h / (c.heads / c.key_heads);
                    let lines = &prompt.layers[number][k * head.lines()..(k + 1) * head.lines()];
                    let own = |row: usize, position: usize| {
                        let row = of.start + row;
                        let (kv, row) = match state.steps.get(position) {
                            Some(step) => (&step.kv[number], through[position][row] as usize),
                            None => (&kv, row),
                        };
                        let both = row_of(kv, row, 2 * key_inner);
                        [&both[k * dk..(k + 1) * dk], &both[key_inner + k * dk..key_inner + (k + 1) * dk]]
                    };
                    let queries = Rows { data: &qkv[of.start * width + h * dk..], step: width };
                    let out = &mut attended[of.start * inner + h * dk..];
                    let count = of.len();
                    head.attend_beside(
                        out,
                        inner,
                        queries,
                        count,
                        lines,
                        level + 1,
                        &own,
                        &mut space,
                        self.instructions,
                    );
                }
            }
            computed.push(kv);
            self.behind_attention(layer, &mut x, &attended, rows);
        }
        rms_norm(&mut normed, &x, &self.norm, c.eps as f32);
        let mut steps = state.steps.clone();
        steps.push(Arc::new(StepRows { kv: computed }));
        Ok((CpuState { prompts: Arc::clone(&state.prompts), steps, through, request_of }, normed))
    }

    /// Keys and values of one head over `tokens`.
    fn head(&self, tokens: usize) -> Head {
        Head { precision: self.precision.at_least_bf16(), tokens, width: self.config.head_width }
    }

    /// Norms and turns of the queries and keys of one row; queries take the attention's scale along.
    fn turn(&self, layer: &Layer, qkv: &mut [f32], cos: &[f32], sin: &[f32]) {
        let c = &self.config;
        let (queries, rest) = qkv.split_at_mut(c.inner());
        let keys = &mut rest[..c.key_inner()];
        if let Some([of_queries, of_keys]) = &layer.head_norms {
            for (heads, norm) in [(&mut *queries, of_queries), (&mut *keys, of_keys)] {
                for head in heads.chunks_exact_mut(c.head_width) {
                    let mean = head.iter().map(|v| v * v).sum::<f32>() / c.head_width as f32;
                    let scale = 1.0 / (mean + c.eps as f32).sqrt();
                    head.iter_mut().zip(norm).for_each(|(v, norm)| *v *= scale * norm);
                }
            }
        }
        turn_heads(queries, cos, sin, c.scale());
        turn_heads(keys, cos, sin, 1.0);
    }

    /// `x += o(attended)`, then `x += ff(norm(x))`.
    fn behind_attention(&self, layer: &Layer, x: &mut [f32], attended: &[f32], rows: usize) {
        let (d, f) = (self.config.width, self.config.inside);
        self.affine(&layer.output, x, attended, rows, Write::Add);
        let mut normed = self.numbers.take(rows * d);
        rms_norm(&mut normed, x, &layer.ff_norm, self.config.eps as f32);
        let (mut gate, mut up) = (self.numbers.take(rows * f), self.numbers.take(rows * f));
        self.product(&layer.gate, &mut gate, &normed, rows, Write::Set);
        self.product(&layer.up, &mut up, &normed, rows, Write::Set);
        silu_gate(&mut gate, &up);
        self.product(&layer.down, x, &gate, rows, Write::Add);
    }

    fn affine(&self, affine: &Affine, out: &mut [f32], x: &[f32], rows: usize, write: Write) {
        self.product(&affine.weights, out, x, rows, write);
        if let Some(bias) = &affine.bias {
            for row in out.chunks_exact_mut(bias.len()) {
                row.iter_mut().zip(bias).for_each(|(value, bias)| *value += bias);
            }
        }
    }

    /// `[rows, I]` -> `[rows, O]`; rows do not depend on one another, so large products are cut into groups of them.
    fn product(&self, weights: &Packed, out: &mut [f32], x: &[f32], rows: usize, write: Write) {
        let (input, output) = (weights.input(), weights.output());
        let threads = rayon::current_num_threads();
        let parts = if rows * input * output < TOGETHER { 1 } else { threads.min(rows.div_ceil(ROWS)) };
        let part = rows.div_ceil(parts.max(1)).next_multiple_of(ROWS);
        let one = |(out, x): (&mut [f32], &[f32])| {
            let rows = x.len() / input;
            let mut work = Workspace::new(&self.numbers, self.precision, rows, &[input]);
            weights.product(out, output, work.rows(x, rows, input), write);
        };
        let (out, x) = (&mut out[..rows * output], &x[..rows * input]);
        if parts <= 1 {
            one((out, x));
        } else {
            out.par_chunks_mut(part * output).zip(x.par_chunks(part * input)).for_each(one);
        }
    }

    fn embed(&self, token: u32) -> &[f32] {
        row_of(&self.embedding, token as usize, self.config.width)
    }
}

impl CodeEngine for CpuDecoder {
    type State = CpuState;

    fn begin(&self, prompts: &[&[u32]], norm: ScoreNorm) -> Result<(CpuState, CodeScores)> {
        let (keys, states) = self.read(prompts)?;
        let scores = self.heads.scores(&self.numbers, &states, prompts.len(), 0, norm);
        let request_of = (0..prompts.len() as u32).collect();
        Ok((CpuState { prompts: Arc::new(keys), steps: Vec::new(), through: Vec::new(), request_of }, scores))
    }

    fn step(
        &self,
        state: &CpuState,
        parents: &[u32],
        codes: &[u16],
        norm: ScoreNorm,
    ) -> Result<(CpuState, CodeScores)> {
        let level = state.steps.len();
        if level + 1 >= self.heads.levels.len() {
            let problem = format!("a semantic ID of {} codes is whole already", self.heads.levels.len());
            return Err(CoreError::input("beam", problem, "this is a defect: report it").into());
        }
        let tokens: Vec<u32> = codes.iter().map(|&code| self.codes.token(level, code)).collect::<Result<_>>()?;
        let (next, states) = self.advance(state, parents, &tokens)?;
        let scores = self.heads.scores(&self.numbers, &states, tokens.len(), level + 1, norm);
        Ok((next, scores))
    }
}

/// Rows that a thread takes of a shared product, or a multiple: those of a tile.
const ROWS: usize = 12;

impl Layer {
    fn new(layer: &LayerWeights, precision: Precision) -> Result<Self> {
        let pack = |weight: &Tensor| Ok::<_, crate::Error>(Packed::new(&flat(weight)?, weight.dim(1)?, precision));
        let head_norms = match &layer.head_norms {
            Some([queries, keys]) => Some([flat(queries)?, flat(keys)?]),
            None => None,
        };
        Ok(Self {
            norm: flat(&layer.norm)?,
            qkv: Affine::joined(&[&layer.query, &layer.key, &layer.value], precision)?,
            head_norms,
            output: Affine::joined(&[&layer.output], precision)?,
            ff_norm: flat(&layer.ff_norm)?,
            gate: pack(&layer.gate)?,
            up: pack(&layer.up)?,
            down: pack(&layer.down)?,
        })
    }
}

impl Affine {
    /// Projections of one input side by side.
    fn joined(parts: &[&Projection], precision: Precision) -> Result<Self> {
        let weights: Vec<&Tensor> = parts.iter().map(|part| &part.weight).collect();
        let weights = Tensor::cat(&weights, 1)?;
        let biases: Vec<&Tensor> = parts.iter().filter_map(|part| part.bias.as_ref()).collect();
        let bias = if biases.is_empty() { None } else { Some(flat(&Tensor::cat(&biases, 0)?)?) };
        Ok(Self { weights: Packed::new(&flat(&weights)?, weights.dim(1)?, precision), bias })
    }
}

fn flat(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.flatten_all()?.to_vec1()?)
}
