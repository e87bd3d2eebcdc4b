//! LIGER: a TIGER that also reads the items' vectors and says the next item's, so that items without history are found.
//!
//! Codes are learnt from interactions, and an item that nobody met gets none of their probability. The vector that the
//! decoder says needs no interactions. So the answer has a head, in which the best items by codes and all cold items are
//! ranked together by that vector, and behind it the other items that the beam search found, in its order.
//!
//! *Paper*: Yang et al., "Unifying Generative and Dense Retrieval for Sequential Recommendation", 2411.18814.
//! *Differs from the paper*: see [`super::t5`] for the loss; the vector is said by what follows the decoder's start
//! token; an item is cold if the training part of the split does not hold it, which is counted and saved with the
//! weights, so that items that a catalog adds later are cold too.
//! *Checked against*: [`super::tiger`], which is the whole network; brute force over the catalog.
//!
//! # What are the scores?
//! In the head, log-probabilities among the items of the head: the cosine over the training's temperature, normalised.
//! Behind it, the last score of the head and the distance by which the item's codes are less probable than those of the
//! last item that came into the head by its codes. So scores fall along the list, and are comparable within it alone.
//!
//! # Shapes
//! history -> codes `[B, L]` and vector `[B, D]` -> items

use std::path::Path;

use candle_core::Tensor;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sidereal_core::array_file::{Array, ArrayFile, Entry, write_arrays};
use sidereal_core::{Catalog, CodeVocab, Error as CoreError, ItemIndex, LeafFilter};
use sidereal_nn::params::Params;

use super::t5::{CONTRAST_TEMPERATURE, T5Inference};
use super::tiger::{Tiger, TigerConfig};
use super::{Cost, ModelConfig, ModelKind, Needs, Role, Shape, Status};
use crate::Result;
use crate::exact::ExactScorer;
use crate::models::unit_length::unit_values;
use crate::network::{Materials, Network, Row};
use crate::ranker::{CodeRanker, Question, Ranker};
use crate::ranking::{Ranking, ScoredItem};
use crate::scoring::{NextCodeModel, ScoreNorm};
use crate::training::TrainingConfig;

/// The file of the training counts.
const COUNTS_FILE: &str = "training_counts.safetensors";
const COUNTS: &str = "training_counts";

/// The `[generator.liger]` table of a recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LigerConfig {
    /// Items that come into the head by their codes (the paper's 20).
    pub candidates: usize,
    /// Weight of the contrast that teaches to say the next item's vector.
    pub contrastive: f32,
    /// The network, with the keys of `[generator.tiger]`; `item_vectors` is on.
    pub network: TigerConfig,
}

impl Default for LigerConfig {
    fn default() -> Self {
        Self { candidates: 20, contrastive: 1.0, network: TigerConfig::default() }
    }
}

impl LigerConfig {
    fn whole_network(&self) -> TigerConfig {
        TigerConfig { item_vectors: true, contrastive: self.contrastive, ..self.network.clone() }
    }
}

impl ModelKind for LigerConfig {
    const PAPER: &'static str =
        "Yang et al., Unifying Generative and Dense Retrieval for Sequential Recommendation, arXiv 2411.18814";
    const STATUS: Status = Status::Experimental;
    const ROLE: Role = Role::Generator;
    const SUMMARY: &'static str = "TIGER over codes and item vectors; its best and all cold items ranked by vectors";
}

const PLACE: &str = "generator.liger.network";

impl ModelConfig for LigerConfig {
    fn training(&self) -> &TrainingConfig {
        &self.network.training
    }

    fn training_mut(&mut self) -> &mut TrainingConfig {
        &mut self.network.training
    }

    fn training_table(&self) -> &'static str {
        "network.training"
    }

    fn max_history(&self) -> usize {
        self.network.max_history
    }

    fn score_norm(&self) -> ScoreNorm {
        self.network.score_norm
    }

    fn needs(&self) -> Needs {
        self.whole_network().needs()
    }

    fn check(&self, codes_per_level: &[u32]) -> Result<()> {
        if self.candidates == 0 {
            let mend = "give 20, or use tiger, which ranks by codes alone";
            return Err(CoreError::config("generator.liger.candidates", "0 items", mend).into());
        }
        if !(self.contrastive.is_finite() && self.contrastive > 0.0) {
            let problem = format!("{}, so nothing learns to say the next item's vector", self.contrastive);
            return Err(CoreError::config("generator.liger.contrastive", problem, "give a weight such as 1").into());
        }
        if self.network.contrastive != 0.0 {
            let mend = "give it as generator.liger.contrastive";
            return Err(CoreError::config(format!("{PLACE}.contrastive"), "this table has no such key", mend).into());
        }
        self.whole_network().t5_at(PLACE, &CodeVocab::new(CodeVocab::FIRST_CODE, codes_per_level)).map(drop)
    }

    fn cost(&self, shape: &Shape<'_>) -> Cost {
        let cost = self.whole_network().cost(shape);
        // The vectors of the head are looked at once; those of cold items are not known here.
        let head = 2.0 * (self.candidates * shape.vector_width) as f64;
        Cost { answer: cost.answer + head, ..cost }
    }

    fn build(&self, materials: &Materials<'_>, seed: u64) -> Result<Box<dyn Network>> {
        let tiger = self.whole_network().build_at(PLACE, materials, seed)?;
        let Some(counts) = materials.training_counts else {
            let problem = "it has to know which items the training holds, but was given no counts";
            return Err(CoreError::input("generator.liger", problem, "this is a defect: report it").into());
        };
        Ok(Box::new(Liger { candidates: self.candidates, tiger, counts: counts.to_vec() }))
    }

    fn load(&self, dir: &Path, materials: &Materials<'_>) -> Result<Box<dyn Network>> {
        let tiger = self.whole_network().load_at(PLACE, dir, materials)?;
        let counts = ArrayFile::open(&dir.join(COUNTS_FILE))?.column::<u32>(COUNTS)?.to_vec();
        Ok(Box::new(Liger { candidates: self.candidates, tiger, counts }))
    }
}

#[derive(Debug)]
struct Liger {
    candidates: usize,
    tiger: Tiger,
    /// How often the training holds each item, `[N]` at that time.
    counts: Vec<u32>,
}

impl Network for Liger {
    fn params(&self) -> &Params {
        self.tiger.params()
    }

    fn loss(&self, rows: &[Row<'_>], noise: Option<u64>) -> Result<Tensor> {
        self.tiger.loss(rows, noise)
    }

    fn has_precisions(&self) -> bool {
        true
    }

    fn ranker(&self, materials: &Materials<'_>) -> Result<Box<dyn Ranker>> {
        let vectors = materials.need_vectors(PLACE)?;
        let met = |item: &ItemIndex| self.counts.get(*item as usize).is_some_and(|&count| count > 0);
        let mut unit = vectors.values().to_vec();
        unit_values(&mut unit, vectors.width());
        Ok(Box::new(LigerRanker {
            candidates: self.candidates,
            codes: self.tiger.code_ranker(materials)?,
            cold: (0..vectors.rows() as ItemIndex).filter(|item| !met(item)).collect(),
            vectors: unit,
            width: vectors.width(),
        }))
    }

    fn save_weights(&self, path: &Path) -> Result<()> {
        self.tiger.save_weights(path)
    }

    fn load_weights(&mut self, path: &Path) -> Result<()> {
        self.tiger.load_weights(path)
    }

    fn save(&self, dir: &Path) -> Result<()> {
        self.tiger.save(dir)?;
        let entries = [Entry::flat(COUNTS, Array::U32(&self.counts))];
        Ok(write_arrays(&dir.join(COUNTS_FILE), &entries, &Default::default())?)
    }
}

/// Ranks by codes, then the head by vectors.
#[derive(Debug)]
struct LigerRanker {
    candidates: usize,
    codes: CodeRanker<T5Inference>,
    cold: Vec<ItemIndex>,
    /// Of length 1, `[N, width]`.
    vectors: Vec<f32>,
    width: usize,
}

impl LigerRanker {
    fn check_fit(&self, catalog: &Catalog) -> Result<()> {
        let (vectors, items) = (self.vectors.len() / self.width.max(1), catalog.len());
        if vectors == items {
            return Ok(());
        }
        let problem = format!("the generator has vectors of {vectors} items, but the catalog has {items}");
        Err(CoreError::mismatch(problem, "use the catalog that the generator was loaded with").into())
    }

    /// The vectors that the network says for questions, each of length 1.
    fn said(&self, catalog: &Catalog, questions: &[Question<'_>]) -> Result<Vec<Vec<f32>>> {
        let model = self.codes.model();
        let groups: Vec<Vec<f32>> = questions
            .par_chunks(model.requests_per_state().max(1))
            .map(|group| {
                let tokens = group.iter().map(|question| self.codes.tokens(catalog, question));
                let tokens: Vec<Vec<u32>> = tokens.collect::<Result<_>>()?;
                let histories: Vec<&[u32]> = tokens.iter().map(Vec::as_slice).collect();
                model.next_vectors(&histories)?.ok_or_else(|| {
                    let problem = "the network has no vector head";
                    CoreError::input("generator.liger", problem, "train it again with contrastive above 0").into()
                })
            })
            .collect::<Result<_>>()?;
        Ok(groups.iter().flat_map(|group| group.chunks_exact(self.width)).map(<[f32]>::to_vec).collect())
    }

    /// The whole list: `found` are items by codes, best first.
    fn join(&self, catalog: &Catalog, filter: &LeafFilter, found: &[ScoredItem], said: &[f32]) -> Vec<ScoredItem> {
        let (into_head, behind) = found.split_at(found.len().min(self.candidates));
        let allowed = |item: &ItemIndex| catalog.is_alive(*item) && filter.item_alive(*item);
        let cold = self.cold.iter().copied().filter(allowed);
        let mut head: Vec<ItemIndex> = into_head.iter().map(|scored| scored.item).chain(cold).collect();
        head.sort_unstable();
        head.dedup();
        let logit = |&item: &ItemIndex| {
            let vector = &self.vectors[item as usize * self.width..(item as usize + 1) * self.width];
            vector.iter().zip(said).map(|(a, b)| a * b).sum::<f32>() / CONTRAST_TEMPERATURE
        };
        let logits: Vec<f32> = head.iter().map(logit).collect();
        let total = crate::beam::log_sum_exp(logits.iter().copied());
        let scored = head.iter().zip(&logits).map(|(&item, logit)| ScoredItem { item, score: logit - total });
        let mut list: Vec<ScoredItem> = scored.collect();
        list.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.item.cmp(&b.item)));
        let (Some(last), Some(last_by_codes)) = (list.last().copied(), into_head.last()) else { return list };
        for scored in behind.iter().filter(|scored| head.binary_search(&scored.item).is_err()) {
            list.push(ScoredItem { item: scored.item, score: last.score + (scored.score - last_by_codes.score) });
        }
        list
    }
}

impl Ranker for LigerRanker {
    fn rank(&self, catalog: &Catalog, questions: &[Question<'_>], beam: usize) -> Result<Vec<Ranking>> {
        self.check_fit(catalog)?;
        // A beam of 0 is an error, which the search below knows how to say.
        let beam = if beam == 0 { 0 } else { beam.max(self.candidates) };
        let found = self.codes.rank(catalog, questions, beam)?;
        let said = self.said(catalog, questions)?;
        let one = |((question, found), said): ((&Question<'_>, Ranking), Vec<f32>)| {
            let items = self.join(catalog, question.filter, &found.items, &said);
            let stats = found.stats;
            Ranking { norm: found.norm, stats, ..Ranking::of_items(catalog, items, 0) }
        };
        Ok(questions.iter().zip(found).zip(said).map(one).collect())
    }

    fn score_all(&self, catalog: &Catalog, question: &Question<'_>) -> Result<Vec<f32>> {
        self.check_fit(catalog)?;
        let tokens = self.codes.tokens(catalog, question)?;
        let scorer = ExactScorer::new(self.codes.model(), catalog, self.codes.norm(), tokens.len())?;
        let found = scorer.ranking(&tokens, question.filter)?;
        let mut scores = vec![f32::NEG_INFINITY; catalog.len()];
        for said in self.said(catalog, std::slice::from_ref(question))? {
            for scored in self.join(catalog, question.filter, &found.items, &said) {
                scores[scored.item as usize] = scored.score;
            }
        }
        Ok(scores)
    }

    fn scores_all_cheaply(&self) -> bool {
        false
    }

    fn norm(&self) -> ScoreNorm {
        self.codes.norm()
    }
}
