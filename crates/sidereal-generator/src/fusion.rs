//! Fusion: what a generator says and what plain counts say, in one score.
//!
//! The candidates of a question are the union of the generator's, the neighbours' and the similar items' best; each
//! has a handful of features ([`FEATURES`]); the score is linear in them, and every feature's weight may depend on how popular the
//! item is:
//!
//! s(u, i) = sum over j of f_j(u, i) * (w_j + v_j * p(i)),   p(i) = ln(1 + popularity) - 2
//!
//! The weights maximise the likelihood of the validation targets among their candidates (a listwise softmax, ListNet's
//! top-one loss: Cao et al., ICML 2007, section 4.2), which is convex: [`Fusion::fit`]. Counts come from training parts alone,
//! so the validation targets are as new to them as the test targets will be.
//!
//! # Shapes
//! candidates C, features F: `[C, F]` -> scores `[C]`

mod candidates;
mod features;
mod fit;
mod knowledge;
mod recency;
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

/// The `[fusion]` table of a recipe.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FusionConfig {
    /// The best items of each source that become candidates.
    pub candidates: usize,
    /// Validation users that the weights are fitted on, drawn by the seed; 0: all.
    pub users: usize,
    /// Whether weights depend on popularity.
    pub by_popularity: bool,
    /// Pulls all weights towards 0: half of this times their squared sum is added to the summed loss.
    pub penalty: f64,
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

    /// Whether this feature is left out.
    pub fn has(self, feature: usize) -> bool {
        self.0 >> feature & 1 == 1
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
        Self { candidates: 200, users: 6000, by_popularity: true, penalty: 20.0, without: Without::default() }
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
        if !(self.penalty.is_finite() && self.penalty > 0.0) {
            let problem = format!("{} is not above 0", self.penalty);
            return Err(CoreError::config("fusion.penalty", problem, "use 20; smaller trusts few users more").into());
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
    /// Of each feature.
    pub weights: Vec<Weight>,
    /// Users whose target was among its candidates, of those asked.
    pub reached: usize,
    /// Users asked.
    pub users: usize,
    /// Mean loss before the fit (all candidates alike) and after it, in nats.
    pub loss: [f64; 2],
}

/// What one feature counts for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weight {
    /// Its name in [`FEATURES`].
    pub feature: String,
    /// w.
    pub weight: f64,
    /// v.
    pub by_popularity: f64,
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
        let mut lists = Lists::new(job.config, job.knowledge);
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
            for (example, candidates) in round.iter().zip(&found) {
                lists.add(candidates, example.target(job.histories));
            }
            job.progress.advance(round.len() as u64);
        }
        job.progress.finish();
        lists.fit(examples.len())
    }

    /// s of the module's text.
    fn score(&self, features: &[f32], popularity: f64) -> f64 {
        let each = self.weights.iter().zip(features);
        each.map(|(weight, &feature)| f64::from(feature) * (weight.weight + weight.by_popularity * popularity)).sum()
    }
}

/// Questions whose candidates are looked for together.
const ROUND: usize = 256;

/// A generator with fitted weights: a ranker of its own.
pub struct FusedRanker {
    generator: Option<Arc<dyn Ranker>>,
    knowledge: Arc<Knowledge>,
    fusion: Fusion,
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
        let ours = FEATURES.iter().map(|feature| feature.name);
        if !fusion.weights.iter().map(|weight| weight.feature.as_str()).eq(ours) {
            let problem = "its weights are of other features than this program knows";
            return Err(CoreError::mismatch(problem, "fit the fusion again").into());
        }
        let generator = generator.filter(|_| !fusion.config.without.has(GENERATOR));
        Ok(Self { generator, knowledge, fusion })
    }

    /// The weights.
    pub fn fusion(&self) -> &Fusion {
        &self.fusion
    }

    fn rank_with(&self, catalog: &Catalog, questions: &[Question<'_>], candidates: usize) -> Result<Vec<Ranking>> {
        let generator = self.generator.as_deref();
        let source = Candidates { knowledge: &self.knowledge, catalog, generator };
        let found = source.of_all(questions, candidates)?;
        let rank = |candidates: &candidates::Found| {
            let mut items: Vec<ScoredItem> = candidates
                .items
                .iter()
                .zip(candidates.features.chunks_exact(FEATURES.len()))
                .map(|(&item, features)| {
                    let score = self.fusion.score(features, features::popularity(&self.knowledge, item));
                    ScoredItem { item, score: score as f32 }
                })
                .collect();
            // Items are ascending, so equal scores stay in the catalog's order.
            items.sort_by(|a, b| b.score.total_cmp(&a.score));
            let total = log_sum_exp(items.iter().map(|scored| scored.score));
            items.iter_mut().for_each(|scored| scored.score -= total);
            let count = items.len() as u64;
            Ranking::of_items(catalog, items, count)
        };
        Ok(found.par_iter().map(rank).collect())
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
