//! A decoder's answers on any device, of the ops that training uses.
//!
//! A prompt's keys and values are computed once a request and shared by its beams, which look at them and at the few
//! positions of their own with one softmax over both. Prompts are padded behind their end.

use candle_core::{D, DType, Device, Tensor};
use sidereal_core::{CodeVocab, Error as CoreError};
use sidereal_nn::decoder::{Decoder, DecoderConfig, DecoderWeights, Heads, Rotation};
use sidereal_nn::ops;

use super::prompt::{CodeTokens, check_prompts};
use crate::Result;
use crate::models::grid::{Places, normalised, rows_of};
use crate::models::placed::CodeEngine;
use crate::scoring::{CodeScores, DeviceCodes, DeviceWriter, ScoreNorm};

/// Weights that record no gradients.
#[derive(Debug)]
pub(super) struct DeviceDecoder {
    vocab: CodeVocab,
    codes: CodeTokens,
    config: DecoderConfig,
    weights: DecoderWeights,
    /// Scores are differences of large numbers: f32 whatever the type of the rest. `[D, V]`
    head: Tensor,
    /// By level: the token of each code, 0 for those without one, u32 `[K]`.
    tokens: Vec<Tensor>,
    /// By level: 0, or minus infinity for codes without a token, `[1, K]`.
    known: Vec<Tensor>,
}

/// A group of requests after some codes, each with as many prefixes.
#[derive(Debug)]
struct Grid {
    /// Tokens of each prompt.
    lengths: Vec<usize>,
    level: usize,
    prompts: Vec<[Tensor; 2]>, // by layer, keys and values: [B, Hk, T, dk]
    /// 0, or minus infinity behind a prompt's end: f32 `[B, 1, 1, T]`.
    mask: Tensor,
    own: Vec<[Tensor; 2]>, // by layer: [B * W, level, Hk, dk]
}

/// The same where requests have their own numbers of prefixes.
#[derive(Debug)]
pub(super) struct DeviceState {
    grid: Grid,
    request_of: Vec<u32>, // [R]
    place_of: Vec<u32>,   // the row in the grid: [R]
}

impl DeviceDecoder {
    /// Weights in a type; `head` is `[D, V]`.
    pub(super) fn new(
        config: &DecoderConfig,
        weights: DecoderWeights,
        head: &Tensor,
        vocab: &CodeVocab,
        codes: &CodeTokens,
    ) -> Result<Self> {
        let device = head.device();
        let of_levels = |of: &dyn Fn(&[Option<u32>]) -> candle_core::Result<Tensor>| {
            codes.levels().iter().map(|tokens| of(tokens)).collect::<candle_core::Result<Vec<_>>>()
        };
        let tokens = of_levels(&|tokens| {
            Tensor::from_vec(tokens.iter().map(|token| token.unwrap_or(0)).collect(), tokens.len(), device)
        })?;
        let known = of_levels(&|tokens| {
            let known = tokens.iter().map(|token| if token.is_some() { 0.0 } else { f32::NEG_INFINITY });
            Tensor::from_vec(known.collect(), (1, tokens.len()), device)
        })?;
        let head = head.to_dtype(DType::F32)?.contiguous()?;
        Ok(Self { vocab: vocab.clone(), codes: codes.clone(), config: config.clone(), weights, head, tokens, known })
    }

    /// The level that comes after what a state has written.
    fn next_level(&self, state: &Grid) -> Result<usize> {
        if state.level + 1 >= self.vocab.levels() {
            let problem = format!("a semantic ID of {} codes is whole already", self.vocab.levels());
            return Err(CoreError::input("beam", problem, "this is a defect: report it").into());
        }
        Ok(state.level + 1)
    }

    fn decoder(&self) -> Decoder<'_> {
        Decoder::new(&self.config, &self.weights)
    }

    /// Reads prompts: what their tokens are looked at by, and the state of each one's last token, f32 `[B, D]`.
    fn read(&self, prompts: &[&[u32]]) -> Result<(Grid, Tensor)> {
        let device = self.device();
        let lengths: Vec<usize> = prompts.iter().map(|prompt| prompt.len()).collect();
        let (rows, tokens) = (prompts.len(), lengths.iter().copied().max().unwrap_or(0));
        check_prompts(&self.config, self.vocab.levels(), prompts)?;
        let (mut ids, mut mask) = (vec![0u32; rows * tokens], vec![f32::NEG_INFINITY; rows * tokens]);
        for (row, prompt) in prompts.iter().enumerate() {
            ids[row * tokens..][..prompt.len()].copy_from_slice(prompt);
            mask[row * tokens..][..prompt.len()].fill(0.0);
        }
        let ids = Tensor::from_vec(ids, rows * tokens, device)?;
        let x = self.weights.embedding.index_select(&ids, 0)?.reshape((rows, tokens, self.config.width))?;
        let mut read = Vec::with_capacity(self.config.layers);
        let states = self.decoder().forward_with(&x, |heads| read.push([heads.key, heads.value]))?; // [B, T, D]
        let by_head = |x: &Tensor| x.transpose(1, 2)?.contiguous(); // [B, Hk, T, dk]
        let prompts = read.iter().map(|[key, value]| Ok([by_head(key)?, by_head(value)?])).collect::<Result<_>>()?;
        let ends = lengths.iter().enumerate().map(|(row, &len)| (row * tokens + len - 1) as u32);
        let ends = Tensor::from_vec(ends.collect(), rows, device)?;
        let states = states.reshape((rows * tokens, self.config.width))?.index_select(&ends, 0)?;
        let mask = Tensor::from_vec(mask, (rows, 1, 1, tokens), device)?;
        Ok((Grid { lengths, level: 0, prompts, mask, own: Vec::new() }, states.to_dtype(DType::F32)?))
    }

    /// The state after the tokens of rows that go on from `parents`, and what the heads see there: f32 `[B * W, D]`.
    fn advance(&self, state: &Grid, parents: &Tensor, tokens: &Tensor) -> Result<(Grid, Tensor)> {
        let (rows, requests) = (tokens.elem_count(), state.lengths.len());
        let width = rows / requests.max(1);
        let mut x = self.weights.embedding.index_select(tokens, 0)?.unsqueeze(1)?; // [R, 1, D]
        let positions = state.lengths.iter().flat_map(|len| std::iter::repeat_n(len + state.level, width));
        let rotation = Rotation::of(&self.config, positions, [rows, 1], x.dtype(), self.device())?;
        let mut own = Vec::with_capacity(self.config.layers);
        for (number, layer) in self.weights.layers.iter().enumerate() {
            let Heads { query, key, value } = self.decoder().heads(layer, &x, &rotation)?;
            let longer = |now: Tensor, before: usize| match state.own.get(number) {
                Some(of) => Tensor::cat(&[&of[before].index_select(parents, 0)?, &now], 1),
                None => Ok(now),
            };
            let key_value = [longer(key, 0)?, longer(value, 1)?]; // [R, level + 1, Hk, dk]
            let attended = self.attend(state, number, &query, &key_value, requests)?;
            x = self.decoder().behind_attention(number, &x, &attended)?;
            own.push(key_value);
        }
        let x = ops::rms_norm(&x.to_dtype(DType::F32)?, &self.weights.norm.to_dtype(DType::F32)?, self.config.eps)?;
        let grid = Grid {
            lengths: state.lengths.clone(),
            level: state.level + 1,
            prompts: state.prompts.clone(),
            mask: state.mask.clone(),
            own,
        };
        Ok((grid, x.reshape((rows, self.config.width))?))
    }

    /// One softmax over a prompt's tokens and a prefix's own positions: `[R, 1, H * dk]`.
    fn attend(&self, state: &Grid, layer: usize, query: &Tensor, own: &[Tensor; 2], requests: usize) -> Result<Tensor> {
        let c = &self.config;
        let (rows, dtype) = (query.dim(0)?, query.dtype());
        let (few, group, dk, width) = (c.key_heads, c.heads / c.key_heads, c.head_width, rows / requests.max(1));
        // Prefixes of a request, then the heads of queries that share keys: [B, Hk, W * G, ..] and [R, Hk, G, ..].
        let by_request = |x: &Tensor| {
            let last = x.dim(D::Minus1)?;
            let x = x.reshape((requests, width, few, group, last))?.transpose(1, 2)?;
            x.contiguous()?.reshape((requests, few, width * group, last))
        };
        let by_row = |x: &Tensor| {
            let last = x.dim(D::Minus1)?;
            let x = x.reshape((requests, few, width, group, last))?.transpose(1, 2)?;
            x.contiguous()?.reshape((rows, few, group, last))
        };
        let [keys, values] = &state.prompts[layer];
        let [own_keys, own_values] = [&own[0], &own[1]].map(|x| x.transpose(1, 2)?.contiguous()); // [R, Hk, P, dk]
        let (own_keys, own_values) = (own_keys?, own_values?);
        let query = (query.reshape((rows, few, group, dk))? * f64::from(c.scale()))?;
        let of_prompt = by_request(&query)?.matmul(&keys.t()?)?.to_dtype(DType::F32)?; // [B, Hk, W * G, T]
        let of_prompt = of_prompt.broadcast_add(&state.mask)?;
        let of_own = by_request(&query.matmul(&own_keys.t()?)?)?.to_dtype(DType::F32)?; // [B, Hk, W * G, P]
        let scores = Tensor::cat(&[&of_prompt, &of_own], 3)?;
        let parts = scores.broadcast_sub(&scores.max_keepdim(3)?)?.exp()?;
        let weights = parts.broadcast_div(&parts.sum_keepdim(3)?)?.to_dtype(dtype)?;
        let (tokens, positions) = (of_prompt.dim(3)?, of_own.dim(3)?);
        let from_prompt = weights.narrow(3, 0, tokens)?.contiguous()?.matmul(values)?;
        let from_own = by_row(&weights.narrow(3, tokens, positions)?)?.matmul(&own_values)?; // [R, Hk, G, dk]
        Ok((by_row(&from_prompt)? + from_own)?.reshape((rows, 1, c.inner()))?)
    }

    /// Log-probabilities of a level's codes: f32 `[R, K]`.
    fn log_probs(&self, x: &Tensor, level: usize, norm: ScoreNorm) -> Result<Tensor> {
        let tokens = &self.tokens[level];
        let (codes, all) = match norm {
            ScoreNorm::Full => {
                let all = x.matmul(&self.head)?; // [R, V]
                (all.index_select(tokens, 1)?, Some(all))
            }
            ScoreNorm::Level | ScoreNorm::Children => (x.matmul(&self.head.index_select(tokens, 1)?)?, None),
        };
        let codes = codes.broadcast_add(&self.known[level])?;
        normalised(&codes, all.as_ref().unwrap_or(&codes), norm)
    }
}

impl CodeEngine for DeviceDecoder {
    type State = DeviceState;

    fn begin(&self, prompts: &[&[u32]], norm: ScoreNorm) -> Result<(DeviceState, CodeScores)> {
        let (grid, x) = self.read(prompts)?;
        let rows: Vec<u32> = (0..prompts.len() as u32).collect();
        let scores = rows_of(&self.log_probs(&x, 0, norm)?, &rows)?;
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
        let places = Places::new(&request_of, state.grid.lengths.len());
        let cells = places.row_at.len();
        let of_cell = |row: &u32| state.place_of[parents[*row as usize] as usize];
        let parents = Tensor::from_vec(places.row_at.iter().map(of_cell).collect(), cells, self.device())?;
        let tokens = places.row_at.iter().map(|&row| self.codes.token(level - 1, codes[row as usize]));
        let tokens = Tensor::from_vec(tokens.collect::<Result<Vec<u32>>>()?, cells, self.device())?;
        let (grid, x) = self.advance(&state.grid, &parents, &tokens)?;
        let scores = rows_of(&self.log_probs(&x, level, norm)?, &places.place_of)?;
        Ok((DeviceState { grid, request_of, place_of: places.place_of }, scores))
    }
}

impl DeviceCodes for DeviceDecoder {
    fn vocab(&self) -> &CodeVocab {
        &self.vocab
    }

    fn device(&self) -> &Device {
        self.head.device()
    }

    fn write(&self, prompts: &[&[u32]], norm: ScoreNorm) -> Result<(Box<dyn DeviceWriter + '_>, Tensor)> {
        let (grid, x) = self.read(prompts)?;
        let scores = self.log_probs(&x, 0, norm)?;
        Ok((Box::new(Writer { model: self, grid, norm }), scores))
    }
}

/// Requests that are being answered.
struct Writer<'a> {
    model: &'a DeviceDecoder,
    grid: Grid,
    norm: ScoreNorm,
}

impl DeviceWriter for Writer<'_> {
    fn step(&mut self, parents: &Tensor, codes: &Tensor) -> Result<Tensor> {
        let level = self.model.next_level(&self.grid)?;
        let tokens = self.model.tokens[level - 1].index_select(codes, 0)?;
        let (grid, x) = self.model.advance(&self.grid, parents, &tokens)?;
        self.grid = grid;
        self.model.log_probs(&x, level, self.norm)
    }
}
