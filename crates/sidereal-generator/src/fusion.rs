//! Fusion: what a generator says, what plain counts say and what closed-form models learnt from them, in one score.
//!
//! The candidates of a question are the union of every source's best; each has a handful of features ([`FEATURES`]),
//! standardised; the score is a weighted sum of them and of products of two of them ([`Form`]).
//!
//! The weights maximise the likelihood of the validation targets among their candidates (a listwise softmax, ListNet's
//! top-one loss: Cao et al., ICML 2007, section 4.2), which is convex: [`Fusion::fit`]. A target that no source names is
//! not put among them. What the fit is made of comes from training parts alone, so the validation targets are as new to it as
//! the test targets will be.
//!
//! Once the weights are fitted, counts and closed-form models may be made again with the validation targets in them
//! ([`FusionConfig::recount`]): when test targets are asked for, or a user comes back, those events lie in the past.
//! Questions about validation targets are answered with those of the training parts alone.
//!
//! # Shapes
//! candidates C, features F, terms P: `[C, F]` -> `[C, P]` -> scores `[C]`

mod candidates;
mod features;
mod fit;
mod knowledge;
mod learnt;
mod linear;
mod recency;
mod sums;
mod terms;
mod words;

use std::fmt;
use std::sync::Arc;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sidereal_core::{Catalog, Error as CoreError, Example, Histories, LeafFilter, Progress};
use sidereal_nn::rng::Rng;

use crate::Result;
use crate::beam::log_sum_exp;
use crate::network::user_key;
use crate::ranker::{Question, Ranker};
use crate::ranking::{Ranking, ScoredItem};
use crate::scoring::ScoreNorm;
use candidates::Candidates;
pub use features::FEATURES;
use features::GENERATOR;
use fit::Lists;
pub use knowledge::{Knowledge, KnowledgeJob};
pub use learnt::Learnt;
pub use linear::{LinearConfig, LinearModel};
pub use terms::{Form, Scale};
use terms::{Term, standardised};

/// The `[fusion]` table of a recipe.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FusionConfig {
    /// The best items of each source that become candidates.
    pub candidates: usize,
    /// Validation users that the weights are fitted on, drawn by the seed; 0: all.
    pub users: usize,
    /// The terms of the score; without it, the form that does best on validation users that it was not fitted on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub form: Option<Form>,
    /// Pulls weights of features towards 0: half of this times their squared sum is added to the summed loss.
    pub penalty: f64,
    /// The same for weights of products.
    pub product_penalty: f64,
    /// The most popular items that the linear model is of: memory is 4 times their number squared, in bytes.
    pub linear_items: usize,
    /// Whether counts and models are made again with the validation targets once the weights are fitted.
    pub recount: bool,
    /// Features to leave out, by name: for ablations. Without `generator` its candidates are left out too.
    pub without: Without,
}

/// Features that are left out, a bit each in the order of [`FEATURES`]; a list of names in files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct Without(u32);

impl Without {
    /// With the generator left out too.
    pub fn and_generator(self) -> Self {
        Self(self.0 | 1 << GENERATOR)
    }

    /// Whether this feature is left out, by its place in [`FEATURES`].
    pub fn has(self, feature: usize) -> bool {
        self.0 >> feature & 1 == 1
    }

    /// Whether the feature of this name is left out.
    pub fn names(self, name: &str) -> bool {
        FEATURES.iter().position(|feature| feature.name == name).is_some_and(|feature| self.has(feature))
    }
}

impl TryFrom<Vec<String>> for Without {
    type Error = String;

    fn try_from(names: Vec<String>) -> std::result::Result<Self, String> {
        names.iter().try_fold(Self::default(), |without, name| {
            match FEATURES.iter().position(|feature| feature.name == name) {
                Some(at) => Ok(Self(without.0 | 1 << at)),
                None => {
                    let known: Vec<&str> = FEATURES.iter().map(|feature| feature.name).collect();
                    Err(format!("no feature is named {name:?}: use some of {}", known.join(", ")))
                }
            }
        })
    }
}

impl From<Without> for Vec<String> {
    fn from(without: Without) -> Self {
        let left_out = FEATURES.iter().enumerate().filter(|(at, _)| without.has(*at));
        left_out.map(|(_, feature)| feature.name.to_owned()).collect()
    }
}

impl Default for FusionConfig {
    fn default() -> Self {
        Self {
            candidates: 200,
            users: 12_000,
            form: None,
            penalty: 5.0,
            product_penalty: 400.0,
            linear_items: LinearConfig::default().items,
            recount: true,
            without: Without::default(),
        }
    }
}

impl FusionConfig {
    /// Refuses values that no fit can have, by key.
    ///
    /// # Errors
    /// The first such key.
    pub fn check(&self) -> Result<()> {
        if self.candidates == 0 || self.candidates > 1 << 16 {
            let problem = format!("{} candidates a source", self.candidates);
            return Err(
                CoreError::config("fusion.candidates", problem, "give between 1 and 65536; 200 is usual").into()
            );
        }
        for (key, value) in [("penalty", self.penalty), ("product_penalty", self.product_penalty)] {
            if !(value.is_finite() && value > 0.0) {
                let problem = format!("{value} is not above 0");
                let mend = "leave the key out; smaller trusts few users more";
                return Err(CoreError::config(format!("fusion.{key}"), problem, mend).into());
            }
        }
        if self.linear_items > 1 << 16 {
            let problem = format!("{} items would need {} GiB", self.linear_items, self.linear_items.pow(2) >> 28);
            return Err(CoreError::config("fusion.linear_items", problem, "give at most 65536; 0 for none").into());
        }
        Ok(())
    }
}

/// Fitted weights. In a file `fusion.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fusion {
    /// How they were fitted.
    pub config: FusionConfig,
    /// The score's terms.
    pub form: Form,
    /// Of each feature in [`FEATURES`].
    pub scales: Vec<Scale>,
    /// Of each term.
    pub weights: Vec<Weight>,
    /// Users whose target was among its candidates, of those asked.
    pub reached: usize,
    /// Users asked.
    pub users: usize,
    /// Mean loss before the fit (all candidates alike) and after it, in nats.
    pub loss: [f64; 2],
    /// What each form did on users that it was not fitted on, where the form was not given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held_out: Vec<HeldOut>,
}

/// What a form did on users that it was not fitted on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeldOut {
    /// The form.
    pub form: Form,
    /// Mean loss of those whose target was among its candidates, in nats.
    pub loss: f64,
    /// Over all users, the whole catalog ranked.
    pub ndcg_10: f64,
}

/// What one term counts for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weight {
    /// Names in [`FEATURES`]: one, or the two that are multiplied.
    pub features: Vec<String>,
    /// w.
    pub weight: f64,
}

/// Validation questions that the weights are fitted on.
#[derive(Clone, Copy)]
pub struct FitJob<'a> {
    /// How.
    pub config: FusionConfig,
    /// The generator, if it is to count.
    pub generator: Option<&'a dyn Ranker>,
    /// What is known beside the generator.
    pub knowledge: &'a Knowledge,
    /// The items.
    pub catalog: &'a Catalog,
    /// All users' events.
    pub histories: &'a Histories,
    /// The time of every event, where the knowledge has times.
    pub times: Option<&'a [i64]>,
    /// The questions.
    pub examples: &'a [Example],
    /// Draws the users.
    pub seed: u64,
    /// Who watches.
    pub progress: &'a dyn Progress,
}

impl Fusion {
    /// Fits the weights.
    ///
    /// # Errors
    /// No questions, or none whose target is among its candidates; whatever the generator says.
    pub fn fit(job: &FitJob<'_>) -> Result<Self> {
        job.config.check()?;
        let mut examples = job.examples.to_vec();
        if job.config.users > 0 && job.config.users < examples.len() {
            Rng::new(job.seed, "fusion users").shuffle(&mut examples);
            examples.truncate(job.config.users);
            examples.sort_by_key(|example| (example.user, example.position));
        }
        let generator = job.generator.filter(|_| !job.config.without.has(GENERATOR));
        let source = Candidates { knowledge: job.knowledge, catalog: job.catalog, generator };
        job.progress.start("fit fusion", Some(examples.len() as u64), "users");
        let filter = LeafFilter::allow_all();
        let mut lists = Lists::new(job.config);
        for round in examples.chunks(ROUND) {
            let questions: Vec<Question<'_>> = round
                .iter()
                .map(|example| Question {
                    history: example.history(job.histories),
                    filter: &filter,
                    user: Some(user_key(job.histories.user(example.user as usize))),
                    time: job.times.and_then(|times| example.time_before(job.histories, times)),
                })
                .collect();
            let found = source.of_all(&questions, job.config.candidates)?;
            for (example, candidates) in round.iter().zip(found) {
                lists.add(candidates, example.target(job.histories));
            }
            job.progress.advance(round.len() as u64);
        }
        job.progress.finish();
        lists.fit(examples.len())
    }

    /// The terms and their weights, by places in [`FEATURES`]; none if a name or number of them is not ours.
    fn terms(&self) -> Option<Vec<(Term, f64)>> {
        let place = |name: &String| FEATURES.iter().position(|feature| feature.name == name);
        let term = |weight: &Weight| match weight.features.as_slice() {
            [one] => Some((Term(place(one)?, None), weight.weight)),
            [one, other] => Some((Term(place(one)?, Some(place(other)?)), weight.weight)),
            _ => None,
        };
        (self.scales.len() == FEATURES.len()).then(|| self.weights.iter().map(term).collect()).flatten()
    }
}

/// Questions whose candidates are looked for together.
const ROUND: usize = 256;

/// A generator with fitted weights: a ranker of its own.
pub struct FusedRanker {
    generator: Option<Arc<dyn Ranker>>,
    knowledge: Arc<Knowledge>,
    fusion: Fusion,
    terms: Vec<(Term, f64)>,
}

impl fmt::Debug for FusedRanker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FusedRanker").field("generator", &self.generator).field("fusion", &self.fusion).finish()
    }
}

impl FusedRanker {
    /// Joins what a fit was made of.
    ///
    /// # Errors
    /// Weights of features that this program does not have.
    pub fn new(generator: Option<Arc<dyn Ranker>>, knowledge: Arc<Knowledge>, fusion: Fusion) -> Result<Self> {
        let Some(terms) = fusion.terms() else {
            let problem = "its weights are of other features than this program knows";
            return Err(CoreError::mismatch(problem, "fit the fusion again").into());
        };
        let generator = generator.filter(|_| !fusion.config.without.has(GENERATOR));
        Ok(Self { generator, knowledge, fusion, terms })
    }

    /// The weights.
    pub fn fusion(&self) -> &Fusion {
        &self.fusion
    }

    fn rank_with(&self, catalog: &Catalog, questions: &[Question<'_>], candidates: usize) -> Result<Vec<Ranking>> {
        let generator = self.generator.as_deref();
        let source = Candidates { knowledge: &self.knowledge, catalog, generator };
        let found = source.of_all(questions, candidates)?;
        let rank = |mut candidates: candidates::Found| {
            standardised(&mut candidates.features, &self.fusion.scales);
            let score = |features: &[f32]| -> f64 { self.terms.iter().map(|(term, w)| w * term.of(features)).sum() };
            let each = candidates.items.iter().zip(candidates.features.chunks_exact(FEATURES.len()));
            let mut items: Vec<ScoredItem> =
                each.map(|(&item, features)| ScoredItem { item, score: score(features) as f32 }).collect();
            // Items are ascending, so equal scores stay in the catalog's order.
            items.sort_by(|a, b| b.score.total_cmp(&a.score));
            let total = log_sum_exp(items.iter().map(|scored| scored.score));
            items.iter_mut().for_each(|scored| scored.score -= total);
            let count = items.len() as u64;
            Ranking::of_items(catalog, items, count)
        };
        Ok(found.into_par_iter().map(rank).collect())
    }
}

impl Ranker for FusedRanker {
    fn rank(&self, catalog: &Catalog, questions: &[Question<'_>], beam: usize) -> Result<Vec<Ranking>> {
        let mut rankings = Vec::with_capacity(questions.len());
        for round in questions.chunks(ROUND) {
            rankings.extend(self.rank_with(catalog, round, self.fusion.config.candidates.max(beam))?);
        }
        Ok(rankings)
    }

    fn score_all(&self, catalog: &Catalog, question: &Question<'_>) -> Result<Vec<f32>> {
        let mut scores = vec![f32::NEG_INFINITY; catalog.len()];
        for ranking in self.rank_with(catalog, std::slice::from_ref(question), catalog.len())? {
            ranking.items.iter().for_each(|scored| scores[scored.item as usize] = scored.score);
        }
        Ok(scores)
    }

    fn scores_all_cheaply(&self) -> bool {
        false
    }

    fn norm(&self) -> ScoreNorm {
        ScoreNorm::Children
    }
}
