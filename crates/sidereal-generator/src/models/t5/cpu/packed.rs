//! A T5's weights in the order of their use, packed for the kernels.

use candle_core::Tensor;
use sidereal_core::CodeVocab;
use sidereal_nn::kernels::loops::rms_norm;
use sidereal_nn::kernels::{Precision, Rows, Weights as Packed, Write, operand_words, prepare};

use crate::Result;
use crate::models::packed::CodeHeads;
use crate::models::t5::config::{FeedForward, T5Config};
use crate::models::t5::weights::{self, Weights};

/// Packed weights.
#[derive(Debug)]
pub(super) struct PackedT5 {
    pub(super) embedding: Vec<f32>,    // [V, D]
    pub(super) heads: CodeHeads,       // the output scale multiplied in
    pub(super) encoder_bias: Vec<f32>, // [buckets, H]
    pub(super) decoder_bias: Vec<f32>, // [buckets, H]
    pub(super) encoder: Vec<EncoderBlock>,
    pub(super) decoder: Vec<DecoderBlock>,
    pub(super) encoder_norm: Vec<f32>, // [D]
    pub(super) decoder_norm: Vec<f32>, // [D]
}

#[derive(Debug)]
pub(super) struct EncoderBlock {
    pub(super) attention: SelfAttention,
    pub(super) ff: FeedForwardBlock,
}

#[derive(Debug)]
pub(super) struct DecoderBlock {
    pub(super) attention: SelfAttention,
    pub(super) cross_norm: Vec<f32>,
    pub(super) cross_q: Packed,  // [D, H * dk]
    pub(super) cross_kv: Packed, // [D, 2 * H * dk]
    pub(super) cross_o: Packed,  // [H * dk, D]
    pub(super) ff: FeedForwardBlock,
}

#[derive(Debug)]
pub(super) struct SelfAttention {
    pub(super) norm: Vec<f32>,
    pub(super) qkv: Packed, // [D, 3 * H * dk]
    pub(super) o: Packed,   // [H * dk, D]
}

#[derive(Debug)]
pub(super) struct FeedForwardBlock {
    pub(super) norm: Vec<f32>,
    pub(super) up: Packed,           // [D, F]
    pub(super) gate: Option<Packed>, // [D, F]
    pub(super) down: Packed,         // [F, D]
}

impl PackedT5 {
    pub(super) fn new(config: &T5Config, vocab: &CodeVocab, weights: &Weights, precision: Precision) -> Result<Self> {
        let embedding = flat(&weights.embedding)?;
        let separate = weights.head.as_ref().map(flat).transpose()?;
        let (d, v, scale) = (config.d_model, config.vocab_size, config.output_scale() as f32);
        let of_heads = precision.at_least_bf16();
        let head_of = |tokens: &[u32]| {
            let mut columns = Vec::with_capacity(d * tokens.len());
            for i in 0..d {
                columns.extend(tokens.iter().map(|&token| match &separate {
                    Some(head) => head[i * v + token as usize] * scale,
                    None => embedding[token as usize * d + i] * scale,
                }));
            }
            Packed::new(&columns, tokens.len(), of_heads)
        };
        let levels: Vec<Vec<u32>> = (0..vocab.levels()).map(|level| vocab.level_range(level).collect()).collect();
        let others: Vec<u32> = (0..v as u32).filter(|&token| vocab.code(token).is_none()).collect();
        let (levels, others) = match weights.added.level_heads.as_slice() {
            [] => (levels.iter().map(|tokens| head_of(tokens)).collect(), Some(head_of(&others))),
            own => {
                let scaled =
                    |head: &Tensor| Ok(Packed::new(&flat(&(head * f64::from(scale))?)?, head.dim(1)?, of_heads));
                // A head of a level knows no other tokens.
                (own.iter().map(scaled).collect::<Result<_>>()?, None)
            }
        };
        let encoder = weights.encoder.iter().map(|b| EncoderBlock::new(config, b, precision));
        let decoder = weights.decoder.iter().map(|b| DecoderBlock::new(config, b, precision));
        Ok(Self {
            heads: CodeHeads { levels, others, missing: Vec::new() },
            encoder_bias: flat(&weights.encoder_bias)?,
            decoder_bias: flat(&weights.decoder_bias)?,
            encoder: encoder.collect::<Result<_>>()?,
            decoder: decoder.collect::<Result<_>>()?,
            encoder_norm: flat(&weights.encoder_norm)?,
            decoder_norm: flat(&weights.decoder_norm)?,
            embedding,
        })
    }
}

impl SelfAttention {
    fn new(config: &T5Config, norm: &Tensor, attention: &weights::Attention, precision: Precision) -> Result<Self> {
        let inner = config.inner();
        let qkv = side_by_side(&flat(&attention.q)?, inner, &flat(&attention.kv)?, 2 * inner);
        let qkv = Packed::new(&qkv, 3 * inner, precision);
        Ok(Self { norm: flat(norm)?, qkv, o: Packed::new(&flat(&attention.o)?, config.d_model, precision) })
    }

    /// What it makes of every token of an embedding table, if that is small: `[V, 3 * H * dk]`.
    pub(super) fn of_tokens(&self, embedding: &[f32], eps: f32) -> Option<Vec<f32>> {
        let (d, width) = (self.qkv.input(), self.qkv.output());
        let rows = embedding.len() / d.max(1);
        if rows * width > MOST_OF_TOKENS {
            return None;
        }
        let mut normed = vec![0.0; rows * d];
        rms_norm(&mut normed, embedding, &self.norm, eps);
        let precision = self.qkv.precision();
        let mut space = vec![0.0; operand_words(precision, rows, d)];
        let mut made = vec![0.0; rows * width];
        self.qkv.product(
            &mut made,
            width,
            prepare(precision, Rows { data: &normed, step: d }, rows, d, &mut space),
            Write::Set,
        );
        Some(made)
    }
}

/// Numbers that are looked up by token, at most: 32 MiB.
const MOST_OF_TOKENS: usize = 1 << 23;

impl EncoderBlock {
    fn new(config: &T5Config, block: &weights::EncoderBlock, precision: Precision) -> Result<Self> {
        Ok(Self {
            attention: SelfAttention::new(config, &block.norm, &block.attention, precision)?,
            ff: FeedForwardBlock::new(config, &block.ff, precision)?,
        })
    }
}

impl DecoderBlock {
    fn new(config: &T5Config, block: &weights::DecoderBlock, precision: Precision) -> Result<Self> {
        let inner = config.inner();
        let pack = |tensor: &Tensor, output| Ok::<_, crate::Error>(Packed::new(&flat(tensor)?, output, precision));
        Ok(Self {
            attention: SelfAttention::new(config, &block.norm, &block.attention, precision)?,
            cross_norm: flat(&block.cross_norm)?,
            cross_q: pack(&block.cross.q, inner)?,
            cross_kv: pack(&block.cross.kv, 2 * inner)?,
            cross_o: pack(&block.cross.o, config.d_model)?,
            ff: FeedForwardBlock::new(config, &block.ff, precision)?,
        })
    }
}

impl FeedForwardBlock {
    fn new(config: &T5Config, ff: &weights::FeedForwardBlock, precision: Precision) -> Result<Self> {
        let (d, f) = (config.d_model, config.d_ff);
        let pack = |tensor: &Tensor, output| Ok::<_, crate::Error>(Packed::new(&flat(tensor)?, output, precision));
        let gate = ff.gate.as_ref().map(|gate| pack(gate, f)).transpose()?;
        debug_assert_eq!(gate.is_some(), config.feed_forward_proj == FeedForward::GatedGelu);
        Ok(Self { norm: flat(&ff.norm)?, up: pack(&ff.up, f)?, gate, down: pack(&ff.down, d)? })
    }
}

pub(super) fn flat(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.flatten_all()?.to_vec1()?)
}

/// Two matrices of equally many rows side by side.
fn side_by_side(left: &[f32], left_width: usize, right: &[f32], right_width: usize) -> Vec<f32> {
    let rows = left.chunks_exact(left_width).zip(right.chunks_exact(right_width));
    rows.flat_map(|(left, right)| left.iter().chain(right)).copied().collect()
}
