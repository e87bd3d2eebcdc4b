//! SETRec: an item is a set of vectors without order, and so is the question for the next one.
//!
//! One vector of an item is learnt for it alone (what behaviour says), the others are what an encoder makes of its item
//! vector (what content says); a decoder has to find the item vector again in those. In the history the vectors of an item
//! stand side by side at one place, seeing all items before but not each other. After every item as many learnt questions
//! are asked as an item has vectors, all at once; an item's score is the weighted sum of the products of each question's
//! answer with the item's vector of that kind. Nothing is generated step by step, and items without behaviour are scored by
//! their content.
//!
//! *Paper*: Lin et al., "Order-agnostic Identifier for Large Language Model-based Generative Recommendation" (SETRec),
//! arXiv 2502.10833, section 3: 3.1 for the vectors, 3.2 for the sparse attention and the questions.
//! *Differs from the paper*: a transformer of its own instead of a language model; the vector of behaviour is learnt here
//! and not taken from another model; every place of a history is trained in one pass; a learnt start stands before every
//! history.
//! *Checked against*: central differences for the whole loss; what is seen of what ([`super::causal`]'s tests); that another
//! order of an item's vectors changes no score.
//!
//! # Shapes
//! history `[B, H]` -> positions `[B, (H + 1) * 2 * n, D]` -> answers `[R, n, D]` -> scores `[R, N]`, n vectors an item

use std::path::Path;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use sidereal_core::array_file::ArrayFile;
use sidereal_core::{Error as CoreError, ItemIndex};
use sidereal_nn::ops;
use sidereal_nn::params::{Init, Params};
use sidereal_nn::rng::Rng;

use super::blocks::{block_rows, in_blocks};
use super::causal::{CausalSizes, CausalStart, CausalTransformer, Positions, Sees};
use super::dense::{DenseReader, DenseScorer, Started, check_items};
use super::unit_length::unit_values;
use super::{Cost, ModelConfig, ModelKind, Needs, Role, Shape, Status};
use crate::Result;
use crate::dropout::Dropout;
use crate::network::{Materials, Network, Row, SampleUnit, WEIGHTS_FILE};
use crate::ranker::{ItemRanker, Ranker};
use crate::training::TrainingConfig;

/// The name of the learnt vectors, whose number a file says.
const BEHAVIOUR: &str = "behaviour";

/// The `[generator.setrec]` table of a recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SetrecConfig {
    /// Width of an item's vectors and of the stream, D.
    pub d_model: usize,
    /// Width inside the perceptron.
    pub d_ff: usize,
    /// Attention heads.
    pub heads: usize,
    /// Blocks.
    pub layers: usize,
    /// Chance that a value is dropped in training.
    pub dropout: f32,
    /// Vectors that the encoder makes of an item's vector.
    pub content_tokens: usize,
    /// Width inside encoder and decoder.
    pub encoder_width: usize,
    /// What content counts for in an item's score, from 0 to 1; behaviour counts for the rest.
    pub content_weight: f32,
    /// Weight of the decoder's squared error.
    pub reconstruction: f64,
    /// Most recent items that the model sees.
    pub max_history: usize,
    /// How it is trained.
    pub training: TrainingConfig,
}

impl Default for SetrecConfig {
    fn default() -> Self {
        Self {
            d_model: 64,
            d_ff: 256,
            heads: 2,
            layers: 2,
            dropout: 0.3,
            content_tokens: 3,
            encoder_width: 256,
            content_weight: 0.5,
            reconstruction: 0.7,
            max_history: 20,
            training: TrainingConfig { batch_size: 128, warmup_steps: 200, ..TrainingConfig::default() },
        }
    }
}

impl ModelKind for SetrecConfig {
    const PAPER: &'static str =
        "Lin et al., Order-agnostic Identifier for LLM-based Generative Recommendation, arXiv 2502.10833";
    const STATUS: Status = Status::Experimental;
    const ROLE: Role = Role::Generator;
    const SUMMARY: &'static str = "items as sets of vectors without order, all asked for at once; no codes";
}

impl SetrecConfig {
    /// n: vectors of an item.
    fn tokens(&self) -> usize {
        1 + self.content_tokens
    }

    fn sizes(&self) -> CausalSizes {
        CausalSizes {
            d_model: self.d_model,
            d_ff: self.d_ff,
            heads: self.heads,
            layers: self.layers,
            places: self.max_history + 1,
            sees: Sees::Sets(self.tokens()),
            positions: Positions::Absolute,
        }
    }

    /// For `learnt` items with a vector of behaviour; more items than that live by their content.
    fn network(&self, materials: &Materials<'_>, seed: u64, learnt: usize) -> Result<Setrec> {
        self.check(materials.catalog.codes_per_level())?;
        let vectors = materials.need_vectors("generator.setrec")?;
        let (d, n, width, inner) = (self.d_model, self.tokens(), vectors.width(), self.encoder_width);
        let mut rng = Rng::new(seed, "setrec");
        let (mut params, rng) = (Params::new(materials.device), &mut rng);
        let std = |input: usize| Init::Normal((input as f64).powf(-0.5));
        let start = params.var("start", &[n, d], std(d), rng)?;
        let questions = params.var("questions", &[n, d], std(d), rng)?;
        let behaviour = params.var(BEHAVIOUR, &[learnt, d], std(d), rng)?;
        // Vectors of length one are short in every feature: the first layer gives them the deviation of its outputs.
        let up = params.var("encoder.up", &[width, inner], Init::Normal(1.0), rng)?;
        let down = params.var("encoder.down", &[inner, (n - 1) * d], std(inner * d), rng)?;
        let decoder_up = params.var("decoder.up", &[(n - 1) * d, inner], std(n), rng)?;
        let decoder_down = params.var("decoder.down", &[inner, width], std(inner * width), rng)?;
        let mut values = vectors.values().to_vec();
        unit_values(&mut values, width);
        let vectors = Tensor::from_vec(values, (vectors.rows(), width), materials.device)?;
        let body = CausalTransformer::new(self.sizes(), CausalStart::default(), &mut params, rng)?;
        let items = materials.catalog.len();
        let weights = Weights { start, questions, behaviour, up, down, decoder_up, decoder_down, body };
        Ok(Setrec { config: self.clone(), items, vectors, params, weights })
    }
}

impl ModelConfig for SetrecConfig {
    super::shared_keys!();

    fn unit(&self) -> SampleUnit {
        SampleUnit::WholeHistory
    }

    fn needs(&self) -> Needs {
        Needs { vectors: true, codebooks: false }
    }

    fn check(&self, _codes_per_level: &[u32]) -> Result<()> {
        self.sizes().check("generator.setrec")?;
        let fail = |key: &str, problem: String, mend: &str| {
            Err(CoreError::config(format!("generator.setrec.{key}"), problem, mend).into())
        };
        if !(0.0..1.0).contains(&self.dropout) {
            return fail("dropout", format!("{} is not in [0, 1)", self.dropout), "use 0 for none, or 0.3");
        }
        for (key, size, most) in
            [("content_tokens", self.content_tokens, 64), ("encoder_width", self.encoder_width, 1 << 16)]
        {
            if !(1..=most).contains(&size) {
                return fail(key, format!("{size} is not between 1 and {most}"), "leave it out for the default");
            }
        }
        if !(0.0..=1.0).contains(&self.content_weight) {
            return fail("content_weight", format!("{} is not in [0, 1]", self.content_weight), "use 0.5");
        }
        if !(self.reconstruction >= 0.0 && self.reconstruction.is_finite()) {
            let problem = format!("{} is not a number from 0 up", self.reconstruction);
            return fail("reconstruction", problem, "use 0.7, or 0 for none");
        }
        Ok(())
    }

    fn cost(&self, shape: &Shape<'_>) -> Cost {
        let (d, n, items) = (self.d_model as f64, self.tokens() as f64, shape.items as f64);
        let (width, inner) = (shape.vector_width as f64, self.encoder_width as f64);
        let encoder = 2.0 * inner * (width + (n - 1.0) * d);
        let place = 2.0 * n * self.sizes().operations(2.0 * n * shape.mean_history / 2.0);
        let scores = 2.0 * n * d * items;
        Cost {
            parameters: self.sizes().parameters() + items * d + 2.0 * inner * (width + (n - 1.0) * d),
            train_target: 3.0 * (place + scores + encoder),
            answer: shape.mean_history * place + scores,
            activations: 2.0 * n * (self.layers as f64 * (12.0 * d + 3.0 * self.d_ff as f64) + items),
        }
    }

    fn build(&self, materials: &Materials<'_>, seed: u64) -> Result<Box<dyn Network>> {
        Ok(Box::new(self.network(materials, seed, materials.catalog.len())?))
    }

    fn load(&self, dir: &Path, materials: &Materials<'_>) -> Result<Box<dyn Network>> {
        let path = dir.join(WEIGHTS_FILE);
        let learnt = ArrayFile::open(&path)?.shape(BEHAVIOUR)?.first().copied().unwrap_or(0);
        let items = materials.catalog.len();
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

#[derive(Debug)]
struct Weights {
    start: Tensor,        // [n, D]
    questions: Tensor,    // [n, D]
    behaviour: Tensor,    // [learnt, D]
    up: Tensor,           // [width, inner]
    down: Tensor,         // [inner, (n - 1) * D]
    decoder_up: Tensor,   // [(n - 1) * D, inner]
    decoder_down: Tensor, // [inner, width]
    body: CausalTransformer,
}

/// Weights over a catalog.
#[derive(Debug)]
struct Setrec {
    config: SetrecConfig,
    /// N.
    items: usize,
    vectors: Tensor, // [N, width], rows of length one
    params: Params,
    weights: Weights,
}

impl Setrec {
    /// The same weights without a record of gradients.
    fn detached(&self) -> Self {
        let w = &self.weights;
        Self {
            config: self.config.clone(),
            items: self.items,
            vectors: self.vectors.clone(),
            params: Params::new(self.params.device()),
            weights: Weights {
                start: w.start.detach(),
                questions: w.questions.detach(),
                behaviour: w.behaviour.detach(),
                up: w.up.detach(),
                down: w.down.detach(),
                decoder_up: w.decoder_up.detach(),
                decoder_down: w.decoder_down.detach(),
                body: w.body.detached(),
            },
        }
    }

    /// What the encoder makes of item vectors: `[R, width]` -> `[R, (n - 1) * D]`.
    fn content(&self, vectors: &Tensor) -> Result<Tensor> {
        ops::linear(&ops::relu(&ops::linear(vectors, &self.weights.up)?)?, &self.weights.down)
    }

    /// All vectors of all items, `[N, n * D]`.
    fn item_sets(&self) -> Result<Tensor> {
        let learnt = self.weights.behaviour.dim(0)?;
        let mut behaviour = self.weights.behaviour.clone();
        if learnt < self.items {
            let (rows, d) = (self.items - learnt, self.config.d_model);
            let missing = Tensor::zeros((rows, d), behaviour.dtype(), behaviour.device())?;
            behaviour = Tensor::cat(&[&behaviour, &missing], 0)?;
        }
        Ok(Tensor::cat(&[&behaviour, &self.content(&self.vectors)?], 1)?)
    }

    /// The mean squared error of the decoder over the batch's items.
    fn reconstruction(&self, items: &[u32]) -> Result<Tensor> {
        let mut items = items.to_vec();
        items.sort_unstable();
        items.dedup();
        let count = items.len();
        let vectors = self.vectors.index_select(&Tensor::from_vec(items, count, self.params.device())?, 0)?;
        let inside = ops::relu(&ops::linear(&self.content(&vectors)?, &self.weights.decoder_up)?)?;
        let found = ops::linear(&inside, &self.weights.decoder_down)?;
        // Summed over features, as rows have length one.
        Ok((found - vectors)?.sqr()?.sum(1)?.mean(0)?)
    }
}

impl DenseReader for Setrec {
    fn method(&self) -> &'static str {
        "setrec"
    }

    fn items(&self) -> usize {
        self.items
    }

    fn max_history(&self) -> usize {
        self.config.max_history
    }

    fn table(&self) -> Result<Tensor> {
        self.item_sets()
    }

    /// What the questions are answered with; E is n * D.
    fn states(&self, table: &Tensor, rows: &[&[ItemIndex]], dropout: &Dropout) -> Result<Tensor> {
        let (d, n) = (self.config.d_model, self.config.tokens());
        let device = self.params.device();
        let Started { ids, width, places } = Started::new(rows);
        let inputs = Tensor::cat(&[&self.weights.start.reshape((1, n * d))?, table], 0)?; // [N + 1, n * D]
        let count = ids.len();
        let known = ops::embedding(&Tensor::from_vec(ids, count, device)?, &inputs)?; // [B * T, n * D]
        let asked = self.weights.questions.reshape((1, n * d))?.broadcast_as((count, n * d))?.contiguous()?;
        let x = (Tensor::cat(&[&known, &asked], 1)? * (d as f64).sqrt())?; // [B * T, 2 * n * D]
        let x = x.reshape((rows.len(), width * 2 * n, d))?;
        let states = self.weights.body.forward(&x, dropout)?.reshape((count, 2 * n * d))?;
        let answers = states.narrow(1, n * d, n * d)?.contiguous()?; // [B * T, n * D]
        let kept = places.len();
        ops::embedding(&Tensor::from_vec(places, kept, device)?, &answers)
    }

    /// The sum over the questions, each times what it counts for.
    fn logits(&self, states: &Tensor, table: &Tensor) -> Result<Tensor> {
        let config = &self.config;
        let content = config.content_weight / config.content_tokens as f32;
        let of = |token: usize| if token == 0 { 1.0 - config.content_weight } else { content };
        let counts: Vec<f32> = (0..config.tokens()).flat_map(|token| vec![of(token); config.d_model]).collect();
        let width = counts.len();
        let counts = Tensor::from_vec(counts, (1, width), table.device())?;
        ops::tied_head(&states.broadcast_mul(&counts)?, table)
    }
}

impl Network for Setrec {
    fn params(&self) -> &Params {
        &self.params
    }

    fn loss(&self, rows: &[Row<'_>], noise: Option<u64>) -> Result<Tensor> {
        let longest = self.config.max_history + 1;
        let rows: Vec<&[ItemIndex]> =
            rows.iter().map(|row| &row.items[row.items.len().saturating_sub(longest)..]).collect();
        let targets: Vec<u32> = rows.concat();
        let sets = self.item_sets()?;
        let answers = self.states(&sets, &rows, &Dropout::of_step(self.config.dropout, noise))?; // [R, n * D]
        let (d, n) = (self.config.d_model, self.config.tokens());
        let args = ops::CrossEntropy { label_smoothing: self.config.training.label_smoothing, ..Default::default() };
        let mut loss = (self.reconstruction(&targets)? * self.config.reconstruction)?;
        let device = self.params.device();
        for token in 0..n {
            let answer = answers.narrow(1, token * d, d)?.contiguous()?; // [R, D]
            let kind = sets.narrow(1, token * d, d)?.contiguous()?; // [N, D]
            let one = in_blocks(&answer, &[&kind], block_rows(self.items), |answer, kind, rows| {
                let targets = Tensor::new(&targets[rows], device)?;
                ops::cross_entropy(&ops::tied_head(answer, kind[0])?, &targets, &args)
            })?;
            loss = (loss + (one / n as f64)?)?;
        }
        Ok(loss)
    }

    /// The sets of all items are made once a part: many rows share them.
    fn part_rows(&self) -> usize {
        128
    }

    fn ranker(&self, materials: &Materials<'_>) -> Result<Box<dyn Ranker>> {
        check_items(self.items, materials)?;
        Ok(Box::new(ItemRanker(DenseScorer::new(self.detached())?)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use candle_core::Device;
    use sidereal_core::{Catalog, CollisionPolicy, Embeddings, ItemId, SemanticIds};

    const ITEMS: usize = 9;
    const D: usize = 8;

    /// Vectors of an item: one of behaviour and three of content.
    const KINDS: usize = 4;

    fn setrec() -> Setrec {
        let ids: Vec<ItemId> = (0..ITEMS).map(|i| ItemId::from(format!("item {i}"))).collect();
        let sids = SemanticIds::new(2, (0..ITEMS as u16).flat_map(|i| [i / 3, i % 3]).collect()).unwrap();
        let catalog = Catalog::build(&ids, &sids, &[3, 3], CollisionPolicy::Postings, None).unwrap();
        let vectors = Embeddings::new(ITEMS, 5, (0..ITEMS * 5).map(|i| (i as f32 * 0.7).sin()).collect()).unwrap();
        let materials = Materials { vectors: Some(&vectors), ..Materials::of_catalog(&catalog, &Device::Cpu) };
        let config =
            SetrecConfig { d_model: D, d_ff: 16, encoder_width: 6, content_tokens: KINDS - 1, ..Default::default() };
        config.network(&materials, 3, ITEMS).unwrap()
    }

    /// `[R, n * D]` with each row's vectors in the order that it is given.
    fn ordered(table: &Tensor, order_of_row: impl Fn(usize) -> [usize; KINDS]) -> Tensor {
        let rows = table.to_vec2::<f32>().unwrap();
        let row = |(at, row): (usize, &Vec<f32>)| order_of_row(at).map(|kind| row[kind * D..][..D].to_vec()).concat();
        let values: Vec<f32> = rows.iter().enumerate().flat_map(row).collect();
        Tensor::from_vec(values, table.dims(), &Device::Cpu).unwrap()
    }

    fn differs(a: &Tensor, b: &Tensor) -> f32 {
        (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
    }

    #[test]
    fn another_order_of_the_vectors_of_an_item_changes_no_score() {
        let network = setrec();
        let table = network.item_sets().unwrap();
        let histories: [&[ItemIndex]; 2] = [&[1, 4, 2, 0], &[8, 3, 0]];
        let answers = |network: &Setrec, table: &Tensor| network.states(table, &histories, &Dropout::none()).unwrap();
        let before = answers(&network, &table);
        let scores = network.logits(&before, &table).unwrap();

        // In histories every item may have an order of its own: nothing there looks at places inside a set.
        const ORDERS: [[usize; KINDS]; 3] = [[0, 2, 3, 1], [0, 3, 2, 1], [0, 1, 3, 2]];
        let mixed = ordered(&table, |item| ORDERS[item % ORDERS.len()]);
        assert!(differs(&mixed, &table) > 0.1);
        assert!(differs(&answers(&network, &mixed), &before) < 1e-4);

        // Where the questions are asked in another order, items must have theirs in the same, and score as before.
        let order = [0, 2, 3, 1];
        let questions = network.weights.questions.reshape((1, KINDS * D)).unwrap();
        let questions = ordered(&questions, |_| order).reshape((KINDS, D)).unwrap();
        let asked = Setrec { weights: Weights { questions, ..setrec().weights }, ..setrec() };
        let after = answers(&asked, &table);
        let turned = ordered(&table, |_| order);
        assert!(differs(&asked.logits(&after, &turned).unwrap(), &scores) < 1e-4);
        assert!(differs(&asked.logits(&after, &table).unwrap(), &scores) > 1e-2, "other vectors would be other scores");

        // Places between items do matter.
        let back: [&[ItemIndex]; 2] = [&[4, 1, 2, 0], &[3, 8, 0]];
        assert!(differs(&network.states(&table, &back, &Dropout::none()).unwrap(), &before) > 1e-2);
    }
}
