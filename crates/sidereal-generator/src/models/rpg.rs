//! RPG: all codes of the next item at once, from one vector, and items ranked by their codes.
//!
//! An item of the history is one position: the mean of its codes' embeddings. A causal transformer reads the positions,
//! and at each of them one head a level says which code the next item has there. The codes of a level are guessed
//! without those of the levels before, so the whole catalog is scored by looking codes up, without a beam search; the
//! IDs may be long (16 to 64 levels), which is what makes them tell items apart.
//!
//! *Paper*: Hou et al., "Generating Long Semantic IDs in Parallel for Recommendation", 2506.05781: section 3.1 for the
//! item's vector, 3.2 for heads and loss, 3.3 for the decoding along a graph of items.
//! *Differs from the paper*: no tokens but the codes; the first weights let the item through and little else, so that
//! learning starts from items like the last one; scores over the catalog are log-probabilities that add up to one
//! (exact), so that they can be compared; the graph search widens until it has as many allowed items as were asked for,
//! and its lists of neighbours are found among items next to each other by their codes where there are too many to
//! compare all; a loss over items, item vectors and learnt items can be switched on.
//! *Checked against*: composed ops and central differences (sidereal-nn's gradients test) for the ops of its own; exact
//! scores against the exact scorer's walk along the trie; the beam search over its codes against the exact ranking.
//!
//! # Shapes
//! history `[B, H, L]` -> `[B, H, D]` -> code scores `[R, V]`, R the positions that are asked, V the codes of all levels

mod forward;
mod weights;

use std::path::Path;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use sidereal_core::array_file::ArrayFile;
use sidereal_core::{Embeddings, Error as CoreError};
use sidereal_nn::params::Params;

use super::causal::{CausalSizes, Positions, Sees};
pub use super::parallel::Decoding;
use super::parallel::Settings;
use super::parallel::items::Items;
use super::parallel::network::Parallel;
use super::{Cost, GeneratorConfig, ModelConfig, ModelKind, Needs, Preset, Role, Shape, Status, is_default};
use crate::Result;
use crate::network::{Materials, Network, SampleUnit, WEIGHTS_FILE};
use crate::scoring::ScoreNorm;
use crate::training::TrainingConfig;
use forward::Forward;
use weights::{CODES, ITEMS, Sizes, Weights};

/// How the embeddings of an item's codes become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pooling {
    /// Their mean.
    #[default]
    Mean,
    /// Their sum.
    Sum,
}

/// The `[generator.rpg]` table of a recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RpgConfig {
    /// Width of the residual stream.
    pub d_model: usize,
    /// Width inside the feed-forward sub-layer.
    pub d_ff: usize,
    /// Attention heads.
    pub heads: usize,
    /// Blocks.
    pub layers: usize,
    /// Chance that a value is dropped in training.
    pub dropout: f32,
    /// How the embeddings of an item's codes become one vector.
    pub pooling: Pooling,
    /// Whether code embeddings begin as the tokenizer's codewords.
    #[serde(skip_serializing_if = "is_default")]
    pub codebook_embeddings: bool,
    /// Whether the model sees the items' vectors too, through a learnt projection.
    pub item_vectors: bool,
    /// Whether every item has a learnt vector of its own too. Items that come to the catalog later have none.
    pub item_embedding: bool,
    /// Whether a code's score is a cosine, or a plain product.
    pub cosine: bool,
    /// Divides the scores of codes. Give 1 or so where they are no cosines.
    pub temperature: f32,
    /// Weight of a second loss, over items instead of codes; 0 for none.
    pub item_loss: f64,
    /// Items that the second loss tells targets from, besides the other targets at hand; 0: all.
    pub item_negatives: usize,
    /// Whether a learnt number is added to the scores of items that the history has. Only with a loss over items, which
    /// teaches it, and not with the trie, which knows no items before its leaves.
    #[serde(skip_serializing_if = "is_default")]
    pub repeats: bool,
    /// Most recent items that the model sees.
    pub max_history: usize,
    /// How items are found.
    pub decoding: Decoding,
    /// Items that the graph search keeps after each step, and starts from.
    pub graph_beams: usize,
    /// Neighbours of each item.
    pub graph_edges: usize,
    /// Steps of the graph search.
    pub graph_steps: usize,
    /// How it is trained.
    pub training: TrainingConfig,
}

impl Default for RpgConfig {
    /// Narrower than the paper's, with a softer temperature and the loss over items: what goes furthest in the hours of a
    /// CPU. The paper's sizes are the preset `rpg-paper`.
    fn default() -> Self {
        Self {
            d_model: 256,
            d_ff: 1024,
            heads: 4,
            layers: 2,
            dropout: 0.3,
            pooling: Pooling::Mean,
            codebook_embeddings: false,
            item_vectors: false,
            item_embedding: false,
            cosine: true,
            temperature: 0.07,
            item_loss: 1.0,
            item_negatives: 512,
            repeats: false,
            max_history: 50,
            decoding: Decoding::Exact,
            graph_beams: 20,
            graph_edges: 200,
            graph_steps: 3,
            training: TrainingConfig { batch_size: 128, warmup_steps: 200, ..TrainingConfig::default() },
        }
    }
}

/// The sizes of the paper and its rate for Beauty, whose tokenizer is `opq` with 32 levels of 256 codes.
fn paper() -> GeneratorConfig {
    let training = TrainingConfig { batch_size: 256, learning_rate: 1e-2, ..TrainingConfig::default() };
    GeneratorConfig::Rpg(RpgConfig {
        d_model: 448,
        dropout: 0.5,
        temperature: 0.03,
        item_loss: 0.0,
        training,
        ..RpgConfig::default()
    })
}

impl RpgConfig {
    fn check_values(&self, codes_per_level: &[u32]) -> Result<()> {
        let fail = |key: &str, problem: String, mend: &str| {
            Err(CoreError::config(format!("generator.rpg.{key}"), problem, mend).into())
        };
        self.body().check("generator.rpg")?;
        self.settings().check()?;
        let codes: f64 = codes_per_level.iter().copied().map(f64::from).sum();
        let heads = codes_per_level.len() as f64 * (self.d_model as f64 + 1.0);
        let numbers = (codes + heads) * self.d_model as f64;
        if numbers > f64::from(1u32 << 31) {
            let problem =
                format!("{} levels over {} features are {numbers} numbers", codes_per_level.len(), self.d_model);
            return fail("d_model", problem, "use a smaller width, or fewer levels");
        }
        Ok(())
    }

    fn settings(&self) -> Settings {
        Settings {
            method: "rpg",
            dropout: self.dropout,
            temperature: self.temperature,
            label_smoothing: self.training.label_smoothing,
            item_loss: self.item_loss,
            item_negatives: self.item_negatives,
            repeats: self.repeats,
            max_history: self.max_history,
            decoding: self.decoding,
            graph: [self.graph_beams, self.graph_edges, self.graph_steps],
        }
    }

    /// With first weights; `learnt` items have vectors of their own, where items have.
    pub(super) fn network(&self, materials: &Materials<'_>, learnt: usize, seed: u64) -> Result<Parallel> {
        self.check_values(materials.catalog.codes_per_level())?;
        let vectors_for = self.item_vectors.then_some("generator.rpg.item_vectors");
        let items = Items::new(materials, vectors_for)?;
        let sizes = Sizes::new(self, materials.catalog.codes_per_level(), items.vector_width(), learnt);
        let mut params = Params::new(materials.device);
        let weights = Weights::make(&sizes, &mut params, seed)?;
        let forward = Forward { config: self.clone(), sizes, weights };
        Ok(Parallel::new(params, Box::new(forward), items, vectors_for))
    }

    /// Puts the codebooks, one a level from level 0 on, in the place of the codes' first embeddings.
    fn begin_with(&self, codebooks: &[Embeddings], network: &Parallel, codes: &[u32], seed: u64) -> Result<()> {
        let Some(table) = network.params().get(CODES) else { return Ok(()) };
        let values = table.flatten_all()?.to_vec1::<f32>()?;
        let values = Sizes::new(self, codes, 0, 0).codewords(codebooks, values, seed);
        Ok(table.set(&Tensor::from_vec(values, table.dims(), table.device())?)?)
    }

    fn body(&self) -> CausalSizes {
        CausalSizes {
            d_model: self.d_model,
            d_ff: self.d_ff,
            heads: self.heads,
            layers: self.layers,
            places: self.max_history,
            sees: Sees::Before,
            positions: Positions::Absolute,
        }
    }
}

impl ModelKind for RpgConfig {
    const PAPER: &'static str =
        "Hou et al., Generating Long Semantic IDs in Parallel for Recommendation, arXiv 2506.05781";
    const STATUS: Status = Status::Stable;
    const ROLE: Role = Role::Generator;
    const SUMMARY: &'static str = "all codes of the next item at once, one head a level; items ranked by their codes";
    const PRESETS: &'static [Preset] = &[Preset { name: "rpg-paper", paper: Self::PAPER, config: paper }];
}

impl ModelConfig for RpgConfig {
    super::shared_keys!();

    fn unit(&self) -> SampleUnit {
        SampleUnit::WholeHistory
    }

    fn score_norm(&self) -> ScoreNorm {
        self.decoding.score_norm()
    }

    fn needs(&self) -> Needs {
        Needs { vectors: self.item_vectors, codebooks: self.codebook_embeddings }
    }

    fn check(&self, codes_per_level: &[u32]) -> Result<()> {
        self.check_values(codes_per_level)
    }

    fn cost(&self, shape: &Shape<'_>) -> Cost {
        let (d, levels) = (self.d_model as f64, shape.codes_per_level.len() as f64);
        let codes: f64 = shape.codes_per_level.iter().copied().map(f64::from).sum();
        let heads = 2.0 * d * (levels * d + codes);
        let history = shape.mean_history.min(self.max_history as f64);
        let sums = levels * shape.items as f64;
        let told_apart = if self.item_negatives == 0 { shape.items } else { self.item_negatives.min(shape.items) };
        let item_loss = if self.item_loss > 0.0 { 2.0 * levels * told_apart as f64 } else { 0.0 };
        let sizes = Sizes::new(self, shape.codes_per_level, shape.vector_width, shape.items);
        let found = match self.decoding {
            Decoding::Exact => sums,
            Decoding::Graph => levels * (self.graph_beams * self.graph_edges * self.graph_steps) as f64,
            Decoding::Trie => levels * (shape.beam * 256) as f64,
        };
        Cost {
            parameters: sizes.parameters(),
            train_target: 3.0 * (self.body().operations(history / 2.0) + heads) + item_loss,
            answer: history * self.body().operations(history / 2.0) + heads + found,
            activations: self.layers as f64 * (10.0 * d + self.d_ff as f64 * 2.0) + levels * d + 2.0 * codes,
        }
    }

    fn build(&self, materials: &Materials<'_>, seed: u64) -> Result<Box<dyn Network>> {
        let catalog = materials.catalog;
        let network = self.network(materials, catalog.len(), seed)?;
        if self.codebook_embeddings {
            let codebooks = materials.need_codebooks("generator.rpg.codebook_embeddings")?;
            self.begin_with(codebooks, &network, catalog.codes_per_level(), seed)?;
        }
        Ok(Box::new(network))
    }

    fn load(&self, dir: &Path, materials: &Materials<'_>) -> Result<Box<dyn Network>> {
        let path = dir.join(WEIGHTS_FILE);
        let mut items = materials.catalog.len();
        if self.item_embedding {
            // As many as there were: the catalog may have grown since.
            let file = ArrayFile::open(&path)?;
            items = file.shape(ITEMS)?.first().copied().unwrap_or(0).min(items);
        }
        self.network(materials, items, 0)?.loaded(&path)
    }
}
