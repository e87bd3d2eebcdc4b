//! Parallel experts: every level is an expert with a projection and a codebook of its own, and a gate weighs them. The
//! codes of an item have no order.
//!
//! *Paper*: REG4Rec (Xing et al., arXiv 2508.15308), its quantization by parallel codebooks of a mixture of experts.
//! *Chosen here*, since no equations or constants were to be had: expert m makes z_m = W_m x + b_m and takes the
//! nearest of its K_m codewords, q_m (straight-through gradients; codebook loss and commitment as in RQ-VAE, a mean
//! over the experts); gate = softmax(G [q_1, ..., q_M] / temperature), a function of the codes alone, so that vectors
//! can be put together again from codes; the decoder takes the M gate_m q_m side by side; load balance is the squared
//! coefficient of variation of the batch's mean gate (Shazeer et al., arXiv 1701.06538). Codebooks start at k-means++
//! seeds of the projections, and codes that an epoch never used restart at projections of random items.
//! *Checked against*: the formula of the load balance, and the use of the codes on clustered data.
//!
//! # Shapes
//! Embeddings [N, D] to M projections [N, d], side by side the latents [N, M d]; codebooks [K_m, d]; semantic IDs
//! [N, M]; weighted codewords [N, M d] to [N, D] by the decoder.

use serde::{Deserialize, Serialize};

use sidereal_core::{Embeddings, SemanticIds};
use sidereal_nn::schedule::Schedule;

use super::net_training::{self, check_hidden, check_not_negative, check_positive, check_sizes, loop_settings};
use super::sliced::{SlicedCodebooks, in_blocks};
use super::{LevelsSee, MethodConfig, MethodKind, Quantizer, Scratch, Status, Trained, Training};
use crate::Result;
use crate::arrays::{ArraySet, NamedArray};
use crate::codebooks::nearest::NearestCodeword;
use crate::encode::check_width;
use crate::mlp::Mlp;
use crate::pre_step::PreStep;
use crate::training_items::TrainingItems;

mod net;

/// Settings of parallel experts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ParallelMoeConfig {
    /// K of every expert. Default: eight of 256.
    pub codes: Vec<u32>,
    /// What is done to embeddings first, in order. Default: standardise.
    pub pre_steps: Vec<PreStep>,
    /// d, the width of an expert. Default: 8; wide experts see nearly the same directions and agree on their codes,
    /// which makes collisions.
    pub latent: usize,
    /// Widths of the decoder between the codewords and D.
    pub hidden: Vec<usize>,
    /// Weight of the commitment beside the codebook loss. Default: 0.25, as RQ-VAE.
    pub commitment: f64,
    /// Weight of the load balance.
    pub balance_weight: f64,
    /// Divides the logits of the gate.
    pub gate_temperature: f64,
    /// Moves codes that an epoch never used to projections of random items.
    pub restart_dead_codes: bool,
    /// AdamW's base rate.
    pub learning_rate: f64,
    /// AdamW's decay.
    pub weight_decay: f64,
    /// How the rate changes over the steps.
    pub schedule: Schedule,
    /// Largest norm of a step's gradient.
    pub clip_norm: f64,
    /// Items of a step.
    pub batch: usize,
    /// Most passes over the items.
    pub epochs: usize,
    /// Epochs between evaluations: all items are encoded, and the best net so far is kept.
    pub evaluate_every: usize,
    /// Ends after this many evaluations without a gain; 0 never ends early.
    pub patience: usize,
}

impl Default for ParallelMoeConfig {
    fn default() -> Self {
        Self {
            codes: vec![256; 8],
            pre_steps: vec![PreStep::Standardise],
            latent: 8,
            hidden: vec![512],
            commitment: 0.25,
            balance_weight: 0.01,
            gate_temperature: 1.0,
            restart_dead_codes: true,
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

impl MethodKind for ParallelMoeConfig {
    const PAPER: &'static str = "REG4Rec, arXiv 2508.15308 (parallel codebooks)";
    const STATUS: Status = Status::Experimental;

    fn with_codes(codes: Vec<u32>) -> Self {
        Self { codes, ..Self::default() }
    }
}

impl ParallelMoeConfig {
    /// M d, the width of all codewords side by side.
    fn all(&self) -> usize {
        self.codes.len() * self.latent
    }

    /// M d, M.
    fn gate_widths(&self) -> [usize; 2] {
        [self.all(), self.codes.len()]
    }

    /// M d, hidden widths, D.
    fn decoder_widths(&self, width: usize) -> Vec<usize> {
        [self.all()].into_iter().chain(self.hidden.iter().copied()).chain([width]).collect()
    }
}

impl MethodConfig for ParallelMoeConfig {
    fn codes(&self) -> &[u32] {
        &self.codes
    }

    fn pre_steps(&self) -> &[PreStep] {
        &self.pre_steps
    }

    fn check(&self) -> Result<()> {
        const NAME: &str = "parallel-moe";
        check_hidden(NAME, &self.hidden)?;
        check_sizes(NAME, &[("latent", self.latent)])?;
        check_not_negative(NAME, &[("commitment", self.commitment), ("balance_weight", self.balance_weight)])?;
        check_positive(NAME, &[("gate_temperature", self.gate_temperature)])?;
        loop_settings!(self).check(NAME)
    }

    fn train(&self, items: &TrainingItems<'_>, training: &Training<'_>) -> Result<Trained> {
        let net = net::MoeNet::new(self, items.vectors.width(), training)?;
        net_training::train(net, self, loop_settings!(self), items.vectors, training)
    }

    fn load(&self, width: usize, arrays: &mut ArraySet) -> Result<Box<dyn Quantizer>> {
        let expert = |(m, &codes): (usize, &u32)| {
            let projection = Mlp::load(&expert_name(m), &[width, self.latent], false, arrays)?;
            let codewords = arrays.take(&codebook_name(m), &[codes as usize, self.latent])?;
            Ok(Expert { projection, search: NearestCodeword::new(codewords, self.latent) })
        };
        let experts = self.codes.iter().enumerate().map(expert).collect::<Result<_>>()?;
        let gate = Mlp::load("gate", &self.gate_widths(), false, arrays)?;
        let decoder = Mlp::load("dec", &self.decoder_widths(width), false, arrays)?;
        Ok(Box::new(ParallelMoe::new(self, experts, gate, decoder)))
    }
}

fn expert_name(m: usize) -> String {
    format!("experts.{m}")
}

fn codebook_name(m: usize) -> String {
    format!("codebooks.{m}")
}

/// Fitted experts, gate and decoder.
#[derive(Debug, Clone)]
pub struct ParallelMoe {
    experts: Vec<Expert>,
    gate: Mlp,
    decoder: Mlp,
    temperature: f32,
    latent: usize,
    codebooks: SlicedCodebooks,
}

#[derive(Debug, Clone)]
struct Expert {
    projection: Mlp,
    search: NearestCodeword,
}

impl ParallelMoe {
    fn new(config: &ParallelMoeConfig, experts: Vec<Expert>, gate: Mlp, decoder: Mlp) -> Self {
        let books = experts.iter().map(|expert| (config.latent, expert.search.codewords().clone()));
        let codebooks = SlicedCodebooks::new(books);
        let temperature = config.gate_temperature as f32;
        Self { experts, gate, decoder, temperature, latent: config.latent, codebooks }
    }

    /// How much each code of a semantic ID counts: positive, 1 in sum.
    ///
    /// # Errors
    /// Semantic IDs of other sizes.
    ///
    /// # Shapes
    /// [N, M] to [N, M]
    pub fn gates(&self, ids: &SemanticIds) -> Result<Vec<f32>> {
        Ok(self.gates_of(&self.codebooks.side_by_side(ids)?))
    }

    /// # Shapes
    /// [N, M d] to [N, M]
    fn gates_of(&self, codewords: &[f32]) -> Vec<f32> {
        let mut gates = self.gate.forward_all(codewords);
        for row in gates.chunks_exact_mut(self.experts.len()) {
            let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            row.iter_mut().for_each(|v| *v = ((*v - top) / self.temperature).exp());
            let sum: f32 = row.iter().sum();
            row.iter_mut().for_each(|v| *v /= sum);
        }
        gates
    }
}

impl Quantizer for ParallelMoe {
    fn width(&self) -> usize {
        self.decoder.outputs()
    }

    fn codes_per_level(&self) -> &[u32] {
        self.codebooks.codes()
    }

    fn encode_rows(&self, rows: &[f32], scratch: &mut Scratch, codes: &mut [u16]) {
        let experts = self.experts.len();
        for (m, expert) in self.experts.iter().enumerate() {
            scratch.residuals.clear();
            expert.projection.forward_rows(rows, &mut scratch.hidden, &mut scratch.residuals); // [M, d]
            expert.search.search(&scratch.residuals, &mut scratch.search, |row, code| codes[row * experts + m] = code);
        }
    }

    fn reconstruct(&self, ids: &SemanticIds) -> Result<Embeddings> {
        let mut codewords = self.codebooks.side_by_side(ids)?; // [N, M d]
        let gates = self.gates_of(&codewords);
        let experts = self.experts.len() as f32;
        for (codeword, gate) in codewords.chunks_exact_mut(self.latent).zip(gates) {
            codeword.iter_mut().for_each(|v| *v *= experts * gate);
        }
        Ok(Embeddings::new(ids.len(), self.width(), self.decoder.forward_all(&codewords))?)
    }

    fn latents(&self, rows: &Embeddings) -> Result<Embeddings> {
        check_width(self.width(), rows)?;
        let width = self.codebooks.width();
        let latents = in_blocks(rows.values(), self.width(), |rows, out| {
            let (mut hidden, mut part) = (Default::default(), Vec::new());
            out.resize(rows.len() / self.width() * width, 0.0);
            for (m, expert) in self.experts.iter().enumerate() {
                part.clear();
                expert.projection.forward_rows(rows, &mut hidden, &mut part);
                for (from, to) in part.chunks_exact(self.latent).zip(out.chunks_exact_mut(width)) {
                    to[m * self.latent..][..self.latent].copy_from_slice(from);
                }
            }
        });
        Ok(Embeddings::new(rows.rows(), width, latents)?)
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
        let mut arrays = Vec::new();
        for (m, expert) in self.experts.iter().enumerate() {
            arrays.extend(expert.projection.arrays(&expert_name(m)));
            let shape = [expert.search.codes(), self.latent];
            arrays.push(NamedArray::new(codebook_name(m), &shape, expert.search.codewords().to_vec()));
        }
        arrays.extend(self.gate.arrays("gate"));
        arrays.extend(self.decoder.arrays("dec"));
        arrays
    }
}
