//! Baselines that need no training: what any model has to beat.
//!
//! [`statistics`] counts what the training histories and the item vectors say; every method is one file that turns it
//! into scores of the whole catalog, and one line of [`BASELINES`]; [`full_ranking`] asks a method for all users.
//! `benches/peers/floors.py` defines them: the figures are equal to its own.
//!
//! Scores are worked out in f64, in a fixed order, and rounded to f32 once: items that deserve the same score get it,
//! and ties are counted against the method.

pub mod statistics;

pub(crate) mod cooccurrence;
pub(crate) mod unit_vectors;

pub mod popularity;

pub mod last_item;

pub mod text;

pub mod neighbours;

pub mod fused;

pub mod full_ranking;

use std::sync::Arc;

use serde::Serialize;
use sidereal_core::ItemIndex;

pub use full_ranking::{BothModes, rank_examples};
pub use statistics::Statistics;

use crate::models::Status;
use crate::scoring::ItemScorer;
use crate::{Error, Result};

/// A line of the list of baselines.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct BaselineMethod {
    /// The name in reports and on the command line.
    pub name: &'static str,
    /// Where it is described.
    pub paper: &'static str,
    /// How far it is.
    pub status: Status,
    /// One sentence.
    pub summary: &'static str,
    /// Whether it needs item vectors.
    pub needs_embeddings: bool,
    /// Writes the scores of histories (whose items are in the catalog), `[B, N]`.
    #[serde(skip)]
    score: fn(&Statistics, &[&[ItemIndex]], &mut [f32]),
}

/// All baselines, simplest first.
pub const BASELINES: &[BaselineMethod] =
    &[popularity::METHOD, last_item::METHOD, text::METHOD, neighbours::METHOD, fused::METHOD];

/// A baseline over the statistics of a data set.
#[derive(Debug, Clone)]
pub struct Baseline {
    method: &'static BaselineMethod,
    statistics: Arc<Statistics>,
}

impl Baseline {
    /// All baselines that these statistics allow: those over item vectors only where there are vectors.
    pub fn all(statistics: &Arc<Statistics>) -> Vec<Self> {
        let allowed = BASELINES.iter().filter(|method| !method.needs_embeddings || statistics.vectors.is_some());
        allowed.map(|method| Self { method, statistics: Arc::clone(statistics) }).collect()
    }

    /// Its line in [`BASELINES`].
    pub fn method(&self) -> &'static BaselineMethod {
        self.method
    }
}

impl ItemScorer for Baseline {
    fn name(&self) -> &str {
        self.method.name
    }

    fn items(&self) -> usize {
        self.statistics.items()
    }

    fn score_block(&self, histories: &[&[ItemIndex]], scores: &mut [f32]) -> Result<()> {
        let items = self.items();
        assert_eq!(scores.len(), histories.len() * items, "scores must be [B, N]");
        if let Some(item) = histories.iter().copied().flatten().find(|&&item| item as usize >= items) {
            let problem = format!("item {item} is not in the catalog of {items} items");
            let mend = "rank histories over the catalog that the baselines were made for";
            return Err(Error::Core(sidereal_core::Error::mismatch(problem, mend)));
        }
        (self.method.score)(&self.statistics, histories, scores);
        if !self.statistics.removed.is_empty() {
            for scores in scores.chunks_exact_mut(items) {
                self.statistics.removed.iter().for_each(|&item| scores[item as usize] = f32::NEG_INFINITY);
            }
        }
        Ok(())
    }
}
