//! Validation by constrained beam search on a sample of users: what the model is chosen by is what it is used for.

use serde::{Deserialize, Serialize};
use sidereal_core::{Catalog, Example, Histories, LeafFilter};
use sidereal_nn::rng::Rng;

use super::TrainJob;
use super::config::TrainingConfig;
use crate::Result;
use crate::network::user_key;
use crate::ranker::{Question, Ranker};

/// Item-level figures over the validation sample, no history filtered.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Validation {
    /// Users asked.
    pub users: usize,
    /// Beam width.
    pub beam: usize,
    /// Share of users whose target is among the first ten items.
    #[serde(rename = "recall@10")]
    pub recall_at_10: f64,
    /// Mean of 1 / log2(rank + 2) over users, 0 beyond the first ten (rank from 0).
    #[serde(rename = "ndcg@10")]
    pub ndcg_at_10: f64,
}

impl Validation {
    /// By NDCG@10, then Recall@10.
    pub(super) fn better_than(&self, other: &Self) -> bool {
        (self.ndcg_at_10, self.recall_at_10) > (other.ndcg_at_10, other.recall_at_10)
    }
}

/// The questions of all validations of a run.
#[derive(Debug)]
pub(super) struct Validator<'a> {
    histories: &'a Histories,
    catalog: &'a Catalog,
    examples: Vec<Example>,
    beam: usize,
    filter: LeafFilter,
}

impl<'a> Validator<'a> {
    /// Draws the sample; in the order of the split, so that the draw alone depends on the seed. Rankings hold what the
    /// filter lets through.
    pub(super) fn new(job: &TrainJob<'a>, config: &TrainingConfig, filter: LeafFilter) -> Self {
        let mut examples = job.split.validation.clone();
        if config.validate_users > 0 && config.validate_users < examples.len() {
            Rng::new(job.seed, "validation users").shuffle(&mut examples);
            examples.truncate(config.validate_users);
            examples.sort_by_key(|example| (example.user, example.position));
        }
        let (histories, catalog) = (job.histories, job.materials.catalog);
        Self { histories, catalog, examples, beam: config.validate_beam, filter }
    }

    /// Whether nobody can be asked.
    pub(super) fn is_empty(&self) -> bool {
        self.examples.is_empty()
    }

    /// Asks a model.
    pub(super) fn run(&self, ranker: &dyn Ranker) -> Result<Validation> {
        let question = |example: &Example| Question {
            history: example.history(self.histories),
            filter: &self.filter,
            user: Some(user_key(self.histories.user(example.user as usize))),
            time: None,
        };
        let questions: Vec<Question<'_>> = self.examples.iter().map(question).collect();
        let beam = self.beam.max(10);
        let rankings = ranker.rank(self.catalog, &questions, beam)?;
        let (mut hits, mut gain) = (0u64, 0.0);
        for (ranking, example) in rankings.iter().zip(&self.examples) {
            if let Some(rank) = ranking.rank_of(example.target(self.histories)).filter(|&rank| rank < 10) {
                hits += 1;
                gain += 1.0 / (f64::from(rank) + 2.0).log2();
            }
        }
        let users = self.examples.len();
        let mean = |sum: f64| sum / users.max(1) as f64;
        let (recall_at_10, ndcg_at_10) = (mean(hits as f64), mean(gain));
        Ok(Validation { users, beam, recall_at_10, ndcg_at_10 })
    }
}
