//! RecGPT: a causal transformer over the tokens of items, whose tokens see each other, and which says all tokens of the
//! next item from those of the last.
//!
//! A token's input is the embedding of its code and a projection of its part of the item's vector, each normed; the
//! vector's part lets the model read codes that it has hardly seen. A token sees all tokens of its own item and of the
//! items before. What stands at token l of item t says which code item t + 1 has at level l; the codes of an item are
//! guessed without each other, so one forward is enough and items are found along the trie, or all scored.
//!
//! *Paper*: Jiang et al., "RecGPT: A Foundation Model for Sequential Recommendation", arXiv 2506.06270, sections 3.1 to
//! 3.3; its tokens are those of `fsq` over four sub-vectors.
//! *Differs from the paper*: a level has its own codes and its own part of the head; by default the whole catalog is scored
//! and not only what a beam reaches; the temperature of its decoding (0.1) changes no ranking of independent levels' sums
//! and is left out; a loss over items and a number for repeats can be switched on (`models/parallel`).
//! *Checked against*: central differences for the whole loss; that nothing after an item changes what is said after it;
//! exact scores against the walk along the trie.
//!
//! # Shapes
//! codes and vectors of a history `[B, H, L]` -> tokens `[B, H * L, D]` -> code scores `[R, V]`

use std::path::Path;

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use sidereal_core::{Error as CoreError, ItemIndex};
use sidereal_nn::ops;
use sidereal_nn::params::{Init, Params};
use sidereal_nn::rng::Rng;

use super::causal::{CausalSizes, CausalStart, CausalTransformer, Norm, Positions, Sees};
pub use super::parallel::Decoding;
use super::parallel::items::Items;
use super::parallel::network::Parallel;
use super::parallel::{CodeReader, Settings, filled, without_empty};
use super::repeats::Repeats;
use super::{Cost, GeneratorConfig, ModelConfig, ModelKind, Needs, Preset, Role, Shape, Status};
use crate::Result;
use crate::dropout::Dropout;
use crate::network::{Materials, Network, SampleUnit, WEIGHTS_FILE};
use crate::scoring::ScoreNorm;
use crate::training::TrainingConfig;

/// The key that asks for the items' vectors.
const VECTORS_FOR: &str = "generator.recgpt.item_vectors";
/// Deviation of a code's embedding at the beginning.
const CODE_DEVIATION: f64 = 0.05;

/// The `[generator.recgpt]` table of a recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RecgptConfig {
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
    /// Whether a token reads its part of the item's vector.
    pub item_vectors: bool,
    /// Divides the scores of codes.
    pub temperature: f32,
    /// Weight of a second loss, over items instead of codes; 0 for none.
    pub item_loss: f64,
    /// Items that the second loss tells targets from, besides the other targets at hand; 0: all.
    pub item_negatives: usize,
    /// Whether a learnt number is added to the scores of items that the history has. Only with a loss over items, and not
    /// with the trie.
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

impl Default for RecgptConfig {
    /// Narrower than the paper's model, for one data set on a CPU; the paper's sizes are the preset `recgpt-paper`.
    fn default() -> Self {
        Self {
            d_model: 128,
            d_ff: 512,
            heads: 4,
            layers: 3,
            dropout: 0.2,
            item_vectors: true,
            temperature: 1.0,
            item_loss: 0.0,
            item_negatives: 0,
            repeats: false,
            max_history: 20,
            decoding: Decoding::Exact,
            graph_beams: 20,
            graph_edges: 200,
            graph_steps: 3,
            training: TrainingConfig { batch_size: 128, warmup_steps: 200, ..TrainingConfig::default() },
        }
    }
}

/// The paper's sizes (section 4.1): GPT-2's width over 256 items, with the trie.
fn paper() -> GeneratorConfig {
    let training = TrainingConfig { batch_size: 40, learning_rate: 1e-4, max_epochs: 5, ..TrainingConfig::default() };
    GeneratorConfig::Recgpt(RecgptConfig {
        d_model: 768,
        d_ff: 3072,
        heads: 12,
        dropout: 0.1,
        max_history: 256,
        decoding: Decoding::Trie,
        training,
        ..RecgptConfig::default()
    })
}

impl RecgptConfig {
    fn body(&self, levels: usize) -> CausalSizes {
        CausalSizes {
            d_model: self.d_model,
            d_ff: self.d_ff,
            heads: self.heads,
            layers: self.layers,
            places: self.max_history * levels,
            sees: Sees::Blocks(levels),
            positions: Positions::Absolute,
        }
    }

    fn settings(&self) -> Settings {
        Settings {
            method: "recgpt",
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

    fn network(&self, materials: &Materials<'_>, seed: u64) -> Result<Parallel> {
        let codes = materials.catalog.codes_per_level();
        self.check(codes)?;
        let vectors_for = self.item_vectors.then_some(VECTORS_FOR);
        let items = Items::new(materials, vectors_for)?;
        let (d, levels) = (self.d_model, codes.len());
        let codes: Vec<usize> = codes.iter().map(|&codes| codes as usize).collect();
        let mut rng = Rng::new(seed, "recgpt");
        let (mut params, rng) = (Params::new(materials.device), &mut rng);
        let table = params.var("codes", &[codes.iter().sum(), d], Init::Normal(CODE_DEVIATION), rng)?;
        let code_norm = Norm::new(&mut params, "code_norm", d, rng)?;
        let vectors = match items.vector_width() {
            0 => None,
            width => {
                let part = width.div_ceil(levels);
                let projection = params.var("vectors", &[part, d], Init::Normal((part as f64).powf(-0.5)), rng)?;
                Some(Vectors { part, projection, norm: Norm::new(&mut params, "vector_norm", d, rng)? })
            }
        };
        let body = CausalTransformer::new(self.body(levels), CausalStart::default(), &mut params, rng)?;
        let repeats = if self.repeats { Some(Repeats::new(&mut params, rng)?) } else { None };
        let reader = Recgpt { config: self.clone(), codes, table, code_norm, vectors, body, repeats };
        Ok(Parallel::new(params, Box::new(reader), items, vectors_for))
    }
}

impl ModelKind for RecgptConfig {
    const PAPER: &'static str =
        "Jiang et al., RecGPT: A Foundation Model for Sequential Recommendation, arXiv 2506.06270";
    const STATUS: Status = Status::Experimental;
    const ROLE: Role = Role::Generator;
    const SUMMARY: &'static str =
        "a causal transformer over items' tokens, which see each other; all codes of the next item at once";
    const PRESETS: &'static [Preset] = &[Preset { name: "recgpt-paper", paper: Self::PAPER, config: paper }];
}

impl ModelConfig for RecgptConfig {
    super::shared_keys!();

    fn unit(&self) -> SampleUnit {
        SampleUnit::WholeHistory
    }

    fn score_norm(&self) -> ScoreNorm {
        self.decoding.score_norm()
    }

    fn needs(&self) -> Needs {
        Needs { vectors: self.item_vectors, codebooks: false }
    }

    fn check(&self, codes_per_level: &[u32]) -> Result<()> {
        self.body(codes_per_level.len()).check("generator.recgpt")?;
        self.settings().check()?;
        let tokens = self.max_history.saturating_mul(codes_per_level.len());
        if tokens > 1 << 16 {
            let problem = format!("{} items of {} levels are {tokens} tokens", self.max_history, codes_per_level.len());
            return Err(CoreError::config("generator.recgpt.max_history", problem, "read fewer items").into());
        }
        Ok(())
    }

    fn cost(&self, shape: &Shape<'_>) -> Cost {
        let (d, levels) = (self.d_model as f64, shape.codes_per_level.len() as f64);
        let codes: f64 = shape.codes_per_level.iter().copied().map(f64::from).sum();
        let history = shape.mean_history.min(self.max_history as f64);
        let body = self.body(shape.codes_per_level.len());
        let item = levels * body.operations(history * levels / 2.0);
        let head = 2.0 * d * codes;
        let sums = levels * shape.items as f64;
        Cost {
            parameters: body.parameters() + (codes + self.max_history as f64 * levels) * d,
            train_target: 3.0 * (item + head) + if self.item_loss > 0.0 { 2.0 * sums } else { 0.0 },
            answer: history * item + head + sums,
            activations: levels * self.layers as f64 * (10.0 * d + self.d_ff as f64 * 2.0) + 2.0 * codes,
        }
    }

    fn build(&self, materials: &Materials<'_>, seed: u64) -> Result<Box<dyn Network>> {
        Ok(Box::new(self.network(materials, seed)?))
    }

    fn load(&self, dir: &Path, materials: &Materials<'_>) -> Result<Box<dyn Network>> {
        self.network(materials, 0)?.loaded(&dir.join(WEIGHTS_FILE))
    }
}

/// What makes a token's input of its part of the item's vector.
#[derive(Debug)]
struct Vectors {
    /// Width of a part; the last one is filled up with zeros.
    part: usize,
    projection: Tensor, // [part, D]
    norm: Norm,
}

/// The weights.
#[derive(Debug)]
struct Recgpt {
    config: RecgptConfig,
    /// K of each level.
    codes: Vec<usize>,
    table: Tensor, // [V, D]
    code_norm: Norm,
    vectors: Option<Vectors>,
    body: CausalTransformer,
    repeats: Option<Repeats>,
}

impl Recgpt {
    /// Tokens as the transformer sees them, without their places: `[B * T * L, D]`.
    fn tokens(&self, items: &Items, filled: &[ItemIndex]) -> Result<Tensor> {
        let (levels, device) = (items.levels(), self.device());
        let count = filled.len() * levels;
        let places: Vec<u32> = filled.iter().flat_map(|&item| items.places(item)).copied().collect();
        let x = self.code_norm.forward(&ops::embedding(&Tensor::from_vec(places, count, device)?, &self.table)?)?;
        let Some(vectors) = &self.vectors else { return Ok(x) };
        let width = levels * vectors.part;
        let mut parts = Vec::with_capacity(filled.len() * width);
        for &item in filled {
            let vector = items.vector(item);
            parts.extend_from_slice(vector);
            parts.extend(std::iter::repeat_n(0.0, width - vector.len()));
        }
        let parts = Tensor::from_vec(parts, (count, vectors.part), device)?;
        Ok((x + vectors.norm.forward(&ops::linear(&parts, &vectors.projection)?)?)?)
    }
}

impl CodeReader for Recgpt {
    fn settings(&self) -> Settings {
        self.config.settings()
    }

    fn codes(&self) -> &[usize] {
        &self.codes
    }

    fn device(&self) -> &Device {
        self.table.device()
    }

    /// E is L * D: what stands at the tokens of an item.
    fn positions(&self, items: &Items, histories: &[&[ItemIndex]], dropout: &Dropout) -> Result<Tensor> {
        let longest = histories.iter().map(|history| history.len()).max().unwrap_or(0).max(1);
        let (rows, levels, d) = (histories.len(), items.levels(), self.config.d_model);
        let x = self.tokens(items, &filled(histories, longest))?.reshape((rows * longest, levels * d))?;
        let x = without_empty(x, histories, longest)?.reshape((rows, longest * levels, d))?; // [B, T * L, D]
        Ok(self.body.forward(&x, dropout)?.reshape((rows, longest, levels * d))?)
    }

    fn code_scores(&self, vectors: &Tensor, table: &Tensor) -> Result<Tensor> {
        let d = self.config.d_model;
        let mut first = 0;
        let mut scores = Vec::with_capacity(self.codes.len());
        for (level, &codes) in self.codes.iter().enumerate() {
            let at = vectors.narrow(1, level * d, d)?.contiguous()?; // [R, D]
            scores.push(ops::tied_head(&at, &table.narrow(0, first, codes)?.contiguous()?)?); // [R, K]
            first += codes;
        }
        Ok(Tensor::cat(&scores, 1)?)
    }

    fn code_table(&self) -> Result<Tensor> {
        Ok(self.table.clone())
    }

    fn repeats(&self) -> Option<&Repeats> {
        self.repeats.as_ref()
    }

    fn frozen(&self) -> Box<dyn CodeReader> {
        let vectors = self.vectors.as_ref().map(|vectors| Vectors {
            part: vectors.part,
            projection: vectors.projection.detach(),
            norm: vectors.norm.detached(),
        });
        Box::new(Self {
            config: self.config.clone(),
            codes: self.codes.clone(),
            table: self.table.detach(),
            code_norm: self.code_norm.detached(),
            vectors,
            body: self.body.detached(),
            repeats: self.repeats.as_ref().map(Repeats::detached),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use sidereal_core::{Catalog, CollisionPolicy, ItemId, LeafFilter, SemanticIds};

    use crate::ranker::Question;

    fn catalog() -> Catalog {
        let ids: Vec<ItemId> = (0..20).map(|i| ItemId::from(format!("item {i}"))).collect();
        // Items 2i and 2i + 1 differ in their last code alone.
        let codes = (0..20u16).flat_map(|i| [i / 6, i / 2 % 3, i % 2]).collect();
        let sids = SemanticIds::new(3, codes).unwrap();
        Catalog::build(&ids, &sids, &[4, 3, 2], CollisionPolicy::Postings, None).unwrap()
    }

    #[test]
    fn tokens_see_their_own_item_and_those_before_and_nothing_behind() {
        let catalog = catalog();
        let materials = Materials::of_catalog(&catalog, &Device::Cpu);
        let config = RecgptConfig { d_model: 8, d_ff: 16, heads: 2, item_vectors: false, ..RecgptConfig::default() };
        let network = config.network(&materials, 3).unwrap();
        let (reader, items) = (network.reader(), Items::new(&materials, None).unwrap());
        let after = |history: &[ItemIndex], longer: &[ItemIndex]| {
            let positions = reader.positions(&items, &[history, longer], &Dropout::none()).unwrap();
            positions.get(0).unwrap().to_vec2::<f32>().unwrap()
        };
        let (short, long) = (after(&[4, 9], &[1]), after(&[4, 9, 17], &[1, 2, 3, 5]));
        for (a, b) in short.iter().zip(&long) {
            assert_eq!((a.len(), b.len()), (24, 24));
            assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5));
        }
        // Another last code of the last item is seen at its first token, and not at the item before.
        let other = after(&[4, 8], &[1]);
        assert_eq!(other[0], short[0]);
        assert!(other[1][..8].iter().zip(&short[1][..8]).any(|(a, b)| (a - b).abs() > 1e-4));
    }

    #[test]
    fn scores_of_one_pass_are_those_of_the_walk_along_the_trie() {
        let catalog = catalog();
        let materials = Materials::of_catalog(&catalog, &Device::Cpu);
        let ranker = |decoding| {
            let config =
                RecgptConfig { d_model: 8, d_ff: 16, heads: 2, item_vectors: false, decoding, ..Default::default() };
            let network = config.build(&materials, 3).unwrap();
            // Larger codes, so that levels are told apart by more than a hair.
            let table = network.params().get("codes").unwrap();
            table.set(&(table.as_tensor() * 40.0).unwrap()).unwrap();
            network.ranker(&materials).unwrap()
        };
        let (exact, trie) = (ranker(Decoding::Exact), ranker(Decoding::Trie));
        let filter = LeafFilter::deny_items(&catalog, &[7]);
        for history in [&[][..], &[4], &[4, 9, 17, 3]] {
            let question = Question::new(history, &filter);
            let scores = exact.score_all(&catalog, &question).unwrap();
            let walked = trie.score_all(&catalog, &question).unwrap();
            assert_eq!((scores[7], walked[7]), (f32::NEG_INFINITY, f32::NEG_INFINITY));
            // The one is normalised over the catalog's items, the other over all that codes could say.
            let shift = walked[0] - scores[0];
            for (item, (score, walked)) in scores.iter().zip(&walked).enumerate().filter(|(item, _)| *item != 7) {
                assert!((walked - score - shift).abs() < 1e-4, "item {item}: {score}, {walked}, {shift}");
            }
            let spread = scores.iter().fold(f32::NEG_INFINITY, |top, score| top.max(*score)) - scores[0];
            assert!(spread.abs() > 0.1, "scores that are all alike show nothing: {scores:?}");
            let of = |ranker: &dyn crate::Ranker| -> Vec<ItemIndex> {
                let ranking = ranker.rank(&catalog, &[question], 20).unwrap().remove(0);
                ranking.items.iter().map(|scored| scored.item).collect()
            };
            let (exact, trie) = (of(exact.as_ref()), of(trie.as_ref()));
            assert_eq!((exact.len(), &exact), (19, &trie));
        }
    }

    #[test]
    fn more_tokens_than_can_be_counted_are_refused() {
        let config = RecgptConfig { max_history: 60_000, ..RecgptConfig::default() };
        assert!(config.check(&[8; 4]).unwrap_err().to_string().contains("generator.recgpt.max_history"));
    }
}
