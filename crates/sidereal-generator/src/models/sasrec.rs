//! SASRec: a causal transformer over items, scored against all items at once. The trained baseline.
//!
//! An item's vector is a learnt one, a projection of its frozen item vector, or their sum; the same vectors are read
//! and scored with. The loss is a softmax over the whole catalog or over drawn negatives, at every position.
//!
//! *Paper*: Kang and McAuley, "Self-Attentive Sequential Recommendation", arXiv 1808.09781, section III; the softmax
//! losses: Klenitskiy and Vasilev, "Turning Dross Into Gold Loss", arXiv 2309.07602.
//! *Differs from the paper*: what users do with an item they know is one learnt number, if wanted (`models/repeats.rs`);
//! softmax instead of one negative's binary cross-entropy, which is what makes it strong; a
//! learnt start vector stands before every history, so the first item is a target too and an empty history has an
//! answer; pre-norm blocks with GELU ([`super::causal`]).
//!
//! # Shapes
//! items `[B, T]` -> states `[B, T, D]` -> log-probabilities `[B, N]`

use std::path::Path;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use sidereal_core::array_file::ArrayFile;
use sidereal_core::{Embeddings, Error as CoreError, ItemIndex};
use sidereal_nn::ops::{self, Marked};
use sidereal_nn::params::{Init, Params};
use sidereal_nn::rng::Rng;

use super::blocks::{block_rows, in_blocks};
use super::causal::{CausalSizes, CausalStart, CausalTransformer, Positions, Sees};
use super::dense::{DenseReader, DenseScorer, Started, check_items};
use super::repeats::Repeats;
use super::unit_length::{unit_rows, unit_values};
use super::{Cost, ModelConfig, ModelKind, Needs, Role, Shape, Status, is_default};
use crate::Result;
use crate::dropout::Dropout;
use crate::network::{Materials, Network, Row, SampleUnit, WEIGHTS_FILE};
use crate::ranker::{ItemRanker, Ranker};
use crate::training::TrainingConfig;

/// What the softmax of the loss runs over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Softmax {
    /// All items.
    #[default]
    Full,
    /// The target and `negatives` items drawn evenly, the same for all positions of a part.
    Sampled {
        /// How many are drawn.
        negatives: usize,
    },
}

/// The `[generator.sasrec]` table of a recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SasrecConfig {
    /// Width of an item's vector and of the stream, D.
    pub d_model: usize,
    /// Width inside the perceptron.
    pub d_ff: usize,
    /// Attention heads.
    pub heads: usize,
    /// Blocks.
    pub layers: usize,
    /// Chance that a value is dropped in training.
    pub dropout: f32,
    /// How places are told.
    pub positions: Positions,
    /// Most recent items that the model sees.
    pub max_history: usize,
    /// Whether every item has a learnt vector.
    pub item_embeddings: bool,
    /// Whether the run's item vectors are projected into the model.
    pub item_vectors: bool,
    /// Chance that an item's learnt vector is left out of a training step's inputs and targets, so that the projection
    /// learns to do without. Only with both kinds of vectors.
    pub embedding_dropout: f32,
    /// Divides the logits.
    pub temperature: f32,
    /// Whether logits are cosines (divided by the temperature) instead of products.
    pub cosine: bool,
    /// Whether a learnt number is added to the scores of items that the history has. Only with the full softmax.
    #[serde(skip_serializing_if = "is_default")]
    pub repeats: bool,
    /// What the loss runs over.
    pub softmax: Softmax,
    /// How it is trained.
    pub training: TrainingConfig,
}

impl Default for SasrecConfig {
    fn default() -> Self {
        Self {
            d_model: 128,
            d_ff: 512,
            heads: 2,
            layers: 2,
            dropout: 0.5,
            positions: Positions::Absolute,
            max_history: 50,
            item_embeddings: true,
            item_vectors: false,
            embedding_dropout: 0.0,
            temperature: 1.0,
            cosine: false,
            repeats: false,
            softmax: Softmax::Full,
            training: TrainingConfig {
                max_epochs: 60,
                learning_rate: 1e-3,
                warmup_steps: 200,
                weight_decay: 0.01,
                validate_users: 0,
                patience: 8,
                ..TrainingConfig::default()
            },
        }
    }
}

impl ModelKind for SasrecConfig {
    const PAPER: &'static str = "Kang and McAuley, Self-Attentive Sequential Recommendation, arXiv 1808.09781";
    const STATUS: Status = Status::Stable;
    const ROLE: Role = Role::Baseline;
    const SUMMARY: &'static str = "a causal transformer over items with a softmax over the catalog";
}

impl SasrecConfig {
    fn sizes(&self) -> CausalSizes {
        CausalSizes {
            d_model: self.d_model,
            d_ff: self.d_ff,
            heads: self.heads,
            layers: self.layers,
            places: self.max_history + 1,
            sees: Sees::Before,
            positions: self.positions,
        }
    }

    /// A network for `learnt` items with vectors of their own; more items than that live by their frozen vectors.
    fn network(&self, materials: &Materials<'_>, seed: u64, learnt: usize) -> Result<Sasrec> {
        self.check(materials.catalog.codes_per_level())?;
        let items = materials.catalog.len();
        let mut rng = Rng::new(seed, "sasrec");
        let mut params = Params::new(materials.device);
        let std = Init::Normal((self.d_model as f64).powf(-0.5));
        let start = params.var("start", &[self.d_model], std, &mut rng)?;
        let table = match self.item_embeddings {
            true => Some(params.var(ITEM_TABLE, &[learnt, self.d_model], std, &mut rng)?),
            false => None,
        };
        let frozen = match self.item_vectors {
            true => {
                let vectors = materials.need_vectors("generator.sasrec.item_vectors")?;
                // Vectors of length one: the projection's rows then have the deviation of learnt vectors.
                let projection = params.var("projection", &[vectors.width(), self.d_model], std, &mut rng)?;
                let mut values = vectors.values().to_vec();
                unit_values(&mut values, vectors.width());
                let vectors = Tensor::from_vec(values, (vectors.rows(), vectors.width()), materials.device)?;
                Some(Frozen { vectors, projection })
            }
            false => None,
        };
        let body = CausalTransformer::new(self.sizes(), CausalStart::default(), &mut params, &mut rng)?;
        let repeats = if self.repeats { Some(Repeats::new(&mut params, &mut rng)?) } else { None };
        Ok(Sasrec { config: self.clone(), items, learnt, params, start, table, frozen, body, repeats })
    }
}

const ITEM_TABLE: &str = "items";

impl ModelConfig for SasrecConfig {
    super::shared_keys!();

    fn unit(&self) -> SampleUnit {
        SampleUnit::WholeHistory
    }

    fn needs(&self) -> Needs {
        Needs { vectors: self.item_vectors, codebooks: false }
    }

    fn check(&self, _codes_per_level: &[u32]) -> Result<()> {
        self.sizes().check("generator.sasrec")?;
        let fail = |key: &str, problem: String, mend: &str| {
            Err(CoreError::config(format!("generator.sasrec.{key}"), problem, mend).into())
        };
        for (key, share) in [("dropout", self.dropout), ("embedding_dropout", self.embedding_dropout)] {
            if !(0.0..1.0).contains(&share) {
                return fail(key, format!("{share} is not in [0, 1)"), "use 0 for none, or 0.2");
            }
        }
        if !(self.temperature > 0.0 && self.temperature.is_finite()) {
            return fail("temperature", format!("{} is not above 0", self.temperature), "use 1, or 0.05 with cosines");
        }
        if !self.item_embeddings && !self.item_vectors {
            let problem = "without learnt and without frozen vectors an item has none".to_owned();
            return fail("item_embeddings", problem, "switch item_embeddings or item_vectors on");
        }
        if self.embedding_dropout > 0.0 && !(self.item_embeddings && self.item_vectors) {
            let problem = "there is nothing to fall back on".to_owned();
            return fail("embedding_dropout", problem, "switch item_embeddings and item_vectors on, or use 0");
        }
        match self.softmax {
            Softmax::Sampled { .. } if self.repeats => fail(
                "repeats",
                "drawn negatives say little of the few items of a history".to_owned(),
                "use softmax = \"full\", or leave it out",
            ),
            Softmax::Sampled { negatives: 0 } => fail(
                "softmax.sampled.negatives",
                "0 negatives teach nothing".to_owned(),
                "use 256, or softmax = \"full\"",
            ),
            _ => Ok(()),
        }
    }

    fn cost(&self, shape: &Shape<'_>) -> Cost {
        let (d, items) = (self.d_model as f64, shape.items as f64);
        let scored = match self.softmax {
            Softmax::Full => items,
            Softmax::Sampled { negatives } => negatives as f64,
        };
        let table = if self.item_embeddings { items * d } else { 0.0 };
        let position = self.sizes().operations(shape.mean_history);
        Cost {
            parameters: self.sizes().parameters() + table + shape.vector_width as f64 * d,
            train_target: 3.0 * (position + 2.0 * scored * d),
            answer: shape.mean_history * position + 2.0 * items * d,
            activations: scored * 2.0 + self.layers as f64 * (12.0 * d + 3.0 * self.d_ff as f64),
        }
    }

    fn build(&self, materials: &Materials<'_>, seed: u64) -> Result<Box<dyn Network>> {
        Ok(Box::new(self.network(materials, seed, materials.catalog.len())?))
    }

    fn load(&self, dir: &Path, materials: &Materials<'_>) -> Result<Box<dyn Network>> {
        let path = dir.join(WEIGHTS_FILE);
        let items = materials.catalog.len();
        // Items that were added to the catalog after the training have no learnt vector.
        let learnt = match self.item_embeddings {
            true => ArrayFile::open(&path)?.shape(ITEM_TABLE)?.first().copied().unwrap_or(0),
            false => items,
        };
        if learnt > items {
            let problem = format!("{} has vectors of {learnt} items, but the catalog has {items}", path.display());
            let mend = "use the catalog that it was trained on, or one that came from it";
            return Err(CoreError::mismatch(problem, mend).into());
        }
        let mut network = self.network(materials, 0, learnt)?;
        network.load_weights(&path)?;
        Ok(Box::new(network))
    }
}

/// The run's item vectors and what projects them.
#[derive(Debug)]
struct Frozen {
    vectors: Tensor,    // [N, width], rows of length one
    projection: Tensor, // [width, D]
}

/// Weights of a SASRec.
#[derive(Debug)]
struct Sasrec {
    config: SasrecConfig,
    /// N.
    items: usize,
    /// Items with a learnt vector.
    learnt: usize,
    params: Params,
    start: Tensor,         // [D]
    table: Option<Tensor>, // [learnt, D]
    frozen: Option<Frozen>,
    body: CausalTransformer,
    repeats: Option<Repeats>,
}

impl Sasrec {
    /// The same weights without a record of gradients.
    fn detached(&self) -> Self {
        Self {
            config: self.config.clone(),
            items: self.items,
            learnt: self.learnt,
            params: Params::new(self.params.device()),
            start: self.start.detach(),
            table: self.table.as_ref().map(Tensor::detach),
            frozen: self
                .frozen
                .as_ref()
                .map(|frozen| Frozen { vectors: frozen.vectors.clone(), projection: frozen.projection.detach() }),
            body: self.body.detached(),
            repeats: self.repeats.as_ref().map(Repeats::detached),
        }
    }

    /// The vectors of all items, `[N, D]`.
    fn item_table(&self, noise: Option<u64>) -> Result<Tensor> {
        let learnt = match (&self.table, noise) {
            (Some(table), Some(noise)) if self.config.embedding_dropout > 0.0 => Some(self.without_some(table, noise)?),
            (Some(table), _) if self.learnt < self.items => {
                let missing =
                    Tensor::zeros((self.items - self.learnt, self.config.d_model), table.dtype(), table.device())?;
                Some(Tensor::cat(&[table, &missing], 0)?)
            }
            (table, _) => table.clone(),
        };
        let projected = match &self.frozen {
            Some(frozen) => Some(ops::linear(&frozen.vectors, &frozen.projection)?),
            None => None,
        };
        let table = match (learnt, projected) {
            (Some(learnt), Some(projected)) => (learnt + projected)?,
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => {
                let problem = "a SASRec without item vectors";
                return Err(CoreError::input("generator", problem, "this is a defect: report it").into());
            }
        };
        if !self.config.cosine {
            return Ok(table);
        }
        unit_rows(&table)
    }

    /// The learnt vectors with whole rows left out.
    fn without_some(&self, table: &Tensor, noise: u64) -> Result<Tensor> {
        let mut rng = Rng::new(noise, "left out items");
        let share = f64::from(self.config.embedding_dropout);
        let kept: Vec<f32> = (0..self.learnt).map(|_| if rng.uniform() < share { 0.0 } else { 1.0 }).collect();
        Ok(table.broadcast_mul(&Tensor::from_vec(kept, (self.learnt, 1), table.device())?)?)
    }

    /// The target's logit, then those of drawn items, which stand for all others: each counts for as many as it was
    /// drawn from. An item drawn against itself does not count.
    fn sampled_logits(
        &self,
        states: &Tensor,
        table: &Tensor,
        targets: Vec<u32>,
        negatives: usize,
        noise: Option<u64>,
    ) -> Result<Tensor> {
        let mut rng = Rng::new(noise.unwrap_or_default(), "negatives");
        let drawn: Vec<u32> = (0..negatives).map(|_| rng.below(self.items) as u32).collect();
        let stands_for = (self.items as f32 / negatives as f32).ln();
        let of_pair =
            |&target: &u32| drawn.iter().map(move |&item| if item == target { f32::NEG_INFINITY } else { stands_for });
        let rows = targets.len();
        let device = self.params.device();
        let correction: Vec<f32> = targets.iter().flat_map(of_pair).collect();
        let correction = Tensor::from_vec(correction, (rows, negatives), device)?; // [R, negatives]
        let others = ops::embedding(&Tensor::from_vec(drawn, negatives, device)?, table)?;
        let others = (self.logits(states, &others)? + correction)?;
        let own = ops::embedding(&Tensor::from_vec(targets, rows, device)?, table)?; // [R, D]
        let states = if self.config.cosine { unit_rows(states)? } else { states.clone() };
        let own = ((states * own)?.sum_keepdim(1)? / f64::from(self.config.temperature))?; // [R, 1]
        Ok(Tensor::cat(&[&own, &others], 1)?)
    }
}

impl DenseReader for Sasrec {
    fn method(&self) -> &'static str {
        "sasrec"
    }

    fn items(&self) -> usize {
        self.items
    }

    fn max_history(&self) -> usize {
        self.config.max_history
    }

    fn table(&self) -> Result<Tensor> {
        self.item_table(None)
    }

    fn states(&self, table: &Tensor, rows: &[&[ItemIndex]], dropout: &Dropout) -> Result<Tensor> {
        let (d, device) = (self.config.d_model, self.params.device());
        let Started { ids, width, places } = Started::new(rows);
        let inputs = Tensor::cat(&[&self.start.reshape((1, d))?, table], 0)?; // [N + 1, D]
        let ids = Tensor::from_vec(ids, (rows.len(), width), device)?;
        let scale = if self.config.cosine { 1.0 } else { (d as f64).sqrt() };
        let x = (ops::embedding(&ids, &inputs)? * scale)?; // [B, T, D]
        let states = self.body.forward(&x, dropout)?.reshape((rows.len() * width, d))?;
        let count = places.len();
        ops::embedding(&Tensor::from_vec(places, count, device)?, &states)
    }

    fn logits(&self, states: &Tensor, table: &Tensor) -> Result<Tensor> {
        let states = if self.config.cosine { unit_rows(states)? } else { states.clone() };
        Ok((ops::tied_head(&states, table)? / f64::from(self.config.temperature))?)
    }

    fn repeats(&self) -> Option<&Repeats> {
        self.repeats.as_ref()
    }
}

impl Network for Sasrec {
    fn params(&self) -> &Params {
        &self.params
    }

    fn loss(&self, rows: &[Row<'_>], noise: Option<u64>) -> Result<Tensor> {
        let rows: Vec<&[ItemIndex]> = rows.iter().map(|row| row.items).collect();
        let targets: Vec<u32> = rows.concat();
        let table = self.item_table(noise)?;
        let states = self.states(&table, &rows, &Dropout::of_step(self.config.dropout, noise))?; // [R, D]
        let count = targets.len();
        let device = self.params.device();
        let args = ops::CrossEntropy { label_smoothing: self.config.training.label_smoothing, ..Default::default() };
        match self.config.softmax {
            Softmax::Full => {
                let histories: Vec<&[ItemIndex]> =
                    rows.iter().flat_map(|row| (0..row.len()).map(|place| &row[..place])).collect();
                let bonus = self.repeats.as_ref().map(Repeats::bonus).transpose()?;
                let shared: Vec<&Tensor> = [&table].into_iter().chain(&bonus).collect();
                in_blocks(&states, &shared, block_rows(self.items), |states, shared, rows| {
                    let mut logits = self.logits(states, shared[0])?; // [block, N]
                    if let Some(bonus) = shared.get(1) {
                        let marked = Marked::new(histories[rows.clone()].iter().copied());
                        logits = ops::add_marked(&logits, bonus, &marked)?;
                    }
                    ops::cross_entropy(&logits, &Tensor::new(&targets[rows], device)?, &args)
                })
            }
            Softmax::Sampled { negatives } => {
                let logits = self.sampled_logits(&states, &table, targets, negatives, noise)?; // [R, 1 + negatives]
                ops::cross_entropy(&logits, &Tensor::zeros(count, candle_core::DType::U32, device)?, &args)
            }
        }
    }

    /// The table of all items is made once a part: many rows share it.
    fn part_rows(&self) -> usize {
        128
    }

    fn item_vectors(&self) -> Result<Option<Embeddings>> {
        let table = self.item_table(None)?.flatten_all()?.to_vec1::<f32>()?;
        Ok(Some(Embeddings::new(self.items, self.config.d_model, table)?))
    }

    fn ranker(&self, materials: &Materials<'_>) -> Result<Box<dyn Ranker>> {
        check_items(self.items, materials)?;
        Ok(Box::new(ItemRanker(DenseScorer::new(self.detached())?)))
    }
}
