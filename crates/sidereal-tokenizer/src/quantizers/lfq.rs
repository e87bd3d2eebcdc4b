//! LFQ, lookup-free quantization: a code is the signs of a few numbers, so there is no codebook to search or learn.
//!
//! *Paper*: MAGVIT-v2 (Yu et al., arXiv 2310.05737), section 3.1: signs, a commitment, and an entropy loss that wants
//! every item's code certain and all codes used.
//! *Differs from the paper*: an encoder makes one latent and level l takes the next log2 K_l numbers of it (slices,
//! not residuals: a sign has no scale to leave a residual behind); commitment and weights of the entropy are those of
//! vector-quantize-pytorch; probabilities are softmax(2 z c / temperature), and a level of more than 1,024 codes takes
//! its entropy in groups of at most ten bits, whose sum is an upper bound on that of the level (as in Zhao et al.,
//! arXiv 2406.07548); the net of the least reconstruction error is kept.
//! *Checked against*: the entropies' definition, by brute force (`lfq/net.rs`).
//!
//! # Shapes
//! Embeddings [N, D] to latents [N, d] by the encoder, d = sum of log2 K_l; codewords [K_l, log2 K_l] of -1 and 1;
//! semantic IDs [N, L]; codewords side by side [N, d] back to [N, D] by the decoder.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use sidereal_core::{Embeddings, Error, SemanticIds};
use sidereal_nn::schedule::Schedule;

use super::net_training::{self, check_hidden, check_not_negative, check_positive, loop_settings};
use super::sliced::SlicedCodebooks;
use super::{LevelsSee, MethodConfig, MethodKind, Quantizer, Scratch, Status, Trained, Training};
use crate::Result;
use crate::arrays::{ArraySet, NamedArray};
use crate::encode::check_width;
use crate::mlp::Mlp;
use crate::pre_step::PreStep;
use crate::training_items::TrainingItems;

mod net;

/// Settings of LFQ.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LfqConfig {
    /// K of every level, powers of two. Default: three levels of 256.
    pub codes: Vec<u32>,
    /// What is done to embeddings first, in order. Default: standardise.
    pub pre_steps: Vec<PreStep>,
    /// Widths between D and d; the decoder mirrors them.
    pub hidden: Vec<usize>,
    /// Weight of the squared distance between latents and their signs. Default: 0.25 (vector-quantize-pytorch).
    pub commitment: f64,
    /// Weight of the entropy loss beside the reconstruction. Default: 0.1 (vector-quantize-pytorch).
    pub entropy_weight: f64,
    /// How much the use of all codes counts beside the certainty of each. Default: 1 (the paper).
    pub diversity: f64,
    /// Divides the logits of the entropy loss.
    pub temperature: f64,
    /// AdamW's base rate.
    pub learning_rate: f64,
    /// AdamW's decay.
    pub weight_decay: f64,
    /// How the rate changes over the steps.
    pub schedule: Schedule,
    /// Largest norm of a step's gradient.
    pub clip_norm: f64,
    /// Items of a step; the use of codes is judged within it.
    pub batch: usize,
    /// Most passes over the items.
    pub epochs: usize,
    /// Epochs between evaluations: all items are encoded, and the best net so far is kept.
    pub evaluate_every: usize,
    /// Ends after this many evaluations without a gain; 0 never ends early.
    pub patience: usize,
}

impl Default for LfqConfig {
    fn default() -> Self {
        Self {
            codes: vec![256; 3],
            pre_steps: vec![PreStep::Standardise],
            hidden: vec![512, 256, 128],
            commitment: 0.25,
            entropy_weight: 0.1,
            diversity: 1.0,
            temperature: 1.0,
            learning_rate: 1e-3,
            weight_decay: 1e-4,
            schedule: Schedule::Constant { warmup_steps: 0 },
            clip_norm: 1.0,
            batch: 1024,
            epochs: 200,
            evaluate_every: 10,
            patience: 10,
        }
    }
}

impl MethodKind for LfqConfig {
    const PAPER: &'static str = "LFQ in MAGVIT-v2, arXiv 2310.05737";
    const STATUS: Status = Status::Experimental;

    fn with_codes(codes: Vec<u32>) -> Self {
        Self { codes, ..Self::default() }
    }
}

/// Bits of every level, `[L]`.
fn bits(codes: &[u32]) -> Vec<usize> {
    codes.iter().map(|codes| codes.trailing_zeros() as usize).collect()
}

impl LfqConfig {
    /// D, hidden widths, d.
    fn widths(&self, width: usize) -> Vec<usize> {
        [width].into_iter().chain(self.hidden.iter().copied()).chain([bits(&self.codes).iter().sum()]).collect()
    }
}

impl MethodConfig for LfqConfig {
    fn codes(&self) -> &[u32] {
        &self.codes
    }

    fn pre_steps(&self) -> &[PreStep] {
        &self.pre_steps
    }

    fn check(&self) -> Result<()> {
        let odd = self.codes.iter().enumerate().find(|(_, codes)| **codes < 2 || !codes.is_power_of_two());
        if let Some((level, codes)) = odd {
            let problem = format!("level {level} has {codes} codes, but the codes of lfq are bits");
            let near = codes.checked_next_power_of_two().unwrap_or(65_536).clamp(2, 65_536);
            return Err(Error::config("lfq.codes", problem, format!("give powers of two, such as {near}")).into());
        }
        check_hidden("lfq", &self.hidden)?;
        let weights =
            [("commitment", self.commitment), ("entropy_weight", self.entropy_weight), ("diversity", self.diversity)];
        check_not_negative("lfq", &weights)?;
        check_positive("lfq", &[("temperature", self.temperature)])?;
        loop_settings!(self).check("lfq")
    }

    fn train(&self, items: &TrainingItems<'_>, training: &Training<'_>) -> Result<Trained> {
        let net = net::LfqNet::new(self, items.vectors.width(), training)?;
        net_training::train(net, self, loop_settings!(self), items.vectors, training)
    }

    fn load(&self, width: usize, arrays: &mut ArraySet) -> Result<Box<dyn Quantizer>> {
        let mut widths = self.widths(width);
        let encoder = Mlp::load("enc", &widths, false, arrays)?;
        widths.reverse();
        let decoder = Mlp::load("dec", &widths, false, arrays)?;
        Ok(Box::new(Lfq::new(&self.codes, encoder, decoder)))
    }
}

/// The codeword of a code: bit i of it is the sign of number i, `[b]`.
fn codeword(code: u32, bits: usize) -> impl Iterator<Item = f32> {
    (0..bits).map(move |bit| if code >> bit & 1 == 1 { 1.0 } else { -1.0 })
}

/// A fitted encoder and decoder.
#[derive(Debug, Clone)]
pub struct Lfq {
    encoder: Mlp,
    decoder: Mlp,
    bits: Vec<usize>,
    codebooks: SlicedCodebooks,
}

impl Lfq {
    fn new(codes: &[u32], encoder: Mlp, decoder: Mlp) -> Self {
        let bits = bits(codes);
        let mut books: Vec<(usize, Arc<[f32]>)> = Vec::new();
        for (&codes, &bits) in codes.iter().zip(&bits) {
            let known = books.iter().find(|(width, _)| *width == bits).map(|(_, book)| book.clone());
            let book = known.unwrap_or_else(|| (0..codes).flat_map(|code| codeword(code, bits)).collect());
            books.push((bits, book));
        }
        Self { encoder, decoder, bits, codebooks: SlicedCodebooks::new(books) }
    }
}

impl Quantizer for Lfq {
    fn width(&self) -> usize {
        self.encoder.inputs()
    }

    fn codes_per_level(&self) -> &[u32] {
        self.codebooks.codes()
    }

    fn encode_rows(&self, rows: &[f32], scratch: &mut Scratch, codes: &mut [u16]) {
        scratch.residuals.clear();
        self.encoder.forward_rows(rows, &mut scratch.hidden, &mut scratch.residuals); // [M, d]
        let latents = scratch.residuals.chunks_exact(self.codebooks.width());
        for (latent, codes) in latents.zip(codes.chunks_exact_mut(self.bits.len())) {
            let mut rest = latent;
            for (code, &bits) in codes.iter_mut().zip(&self.bits) {
                let (slice, after) = rest.split_at(bits);
                *code = slice.iter().enumerate().fold(0, |code, (bit, &v)| code | u16::from(v > 0.0) << bit);
                rest = after;
            }
        }
    }

    fn reconstruct(&self, ids: &SemanticIds) -> Result<Embeddings> {
        let codewords = self.codebooks.side_by_side(ids)?; // [N, d]
        Ok(Embeddings::new(ids.len(), self.width(), self.decoder.forward_all(&codewords))?)
    }

    fn latents(&self, rows: &Embeddings) -> Result<Embeddings> {
        check_width(self.width(), rows)?;
        Ok(Embeddings::new(rows.rows(), self.codebooks.width(), self.encoder.forward_all(rows.values()))?)
    }

    fn residual_energy(&self, rows: &Embeddings, ids: &SemanticIds) -> Result<Option<Vec<f64>>> {
        Ok(Some(self.codebooks.residual_energy(self.latents(rows)?.values(), ids)?))
    }

    fn codebook(&self, level: usize) -> &[f32] {
        self.codebooks.codebook(level)
    }

    fn levels_see(&self) -> LevelsSee {
        LevelsSee::SubVectors
    }

    fn arrays(&self) -> Vec<NamedArray> {
        let mut arrays = self.encoder.arrays("enc");
        arrays.extend(self.decoder.arrays("dec"));
        arrays
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn sizes_that_are_no_powers_of_two_are_refused_with_the_next() {
        LfqConfig::with_codes(vec![2, 65_536]).check().unwrap();
        for (codes, near) in [(7, "such as 8"), (1, "such as 2"), (300, "such as 512")] {
            let error = LfqConfig::with_codes(vec![4, codes]).check().unwrap_err().to_string();
            assert!(error.contains("level 1") && error.contains(near) && error.contains("lfq.codes"), "{error}");
        }
    }

    #[test]
    fn a_code_is_the_signs_of_its_codeword() {
        for code in 0..256u32 {
            let signs: Vec<f32> = codeword(code, 8).collect();
            assert_eq!(signs.iter().enumerate().fold(0, |back, (bit, &v)| back | u32::from(v > 0.0) << bit), code);
        }
    }
}
