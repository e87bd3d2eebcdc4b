//! What an answer is made of, of all that a ranking holds: quotas, likeness, confidence.

use serde::Serialize;
use sidereal_core::{Catalog, Error, ItemIndex};
use sidereal_generator::calibration::Sureness;
use sidereal_generator::diversity::{Diversity, ItemVectors, Mmr};
use sidereal_generator::{Ranking, ScoredItem};

use crate::Result;
use crate::materials::codebooks;
use crate::recommend::answer::Chosen;
use crate::run::{Run, Stage};
use crate::stages::calibration::{self, Calibration};

/// What answers are chosen by beside scores. By default nothing: the best are shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Choice {
    /// Items with the same code at level 0, at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quota: Option<usize>,
    /// Lambda of [`Mmr`]: 1 is likely, 0 unlike. Items are as alike as what their codes stand for (the sums of their
    /// codewords), or where a run has no codebooks, as their embeddings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mmr: Option<f64>,
    /// Items of less confidence are left out, so that there may be fewer than are wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_confidence: Option<f64>,
}

/// A choice with what it needs of the run.
#[derive(Debug, Clone, Default)]
pub(super) struct Chooser {
    pub(super) choice: Choice,
    pub(super) diversity: Diversity,
    pub(super) sureness: Option<BothSureness>,
    /// What likeness goes by: `codebooks` or `embeddings`.
    pub(super) likeness: Option<&'static str>,
}

/// How sure answers must be, by what they were searched among.
#[derive(Debug, Clone)]
pub(super) struct BothSureness {
    no_filter: Sureness,
    seen_removed: Sureness,
}

impl Chooser {
    pub(super) fn new(run: &Run, catalog: &Catalog, choice: Choice) -> Result<Self> {
        let mut likeness = None;
        let mmr = match choice.mmr {
            Some(lambda) => {
                let (name, vectors) = vectors(run, catalog)?;
                likeness = Some(name);
                Some(Mmr::new(lambda, vectors)?)
            }
            None => None,
        };
        let diversity = Diversity::new(choice.quota, mmr)?;
        let sureness = if run.has(Stage::Calibration) {
            let Calibration { no_filter, seen_removed, .. } = calibration::load(run)?;
            let of = |calibrator| Sureness::new(calibrator, choice.min_confidence);
            Some(BothSureness { no_filter: of(no_filter.calibrator)?, seen_removed: of(seen_removed.calibrator)? })
        } else {
            None
        };
        if choice.min_confidence.is_some() && sureness.is_none() {
            let problem = "the run does not say how sure it is: nothing was calibrated";
            let mend = "calibrate it first (`sidereal calibrate RUN`), or leave the least confidence out";
            return Err(Error::config("min_confidence", problem, mend).into());
        }
        Ok(Self { choice, diversity, sureness, likeness })
    }

    /// Up to `k` items of a ranking; where none is sure enough, how sure the best is.
    pub(super) fn choose(
        &self,
        catalog: &Catalog,
        ranking: &Ranking,
        asked: &Asked<'_>,
        k: usize,
    ) -> (Vec<Chosen>, Option<String>) {
        let chosen = |items: &[ScoredItem]| self.diversity.choose(catalog, items, asked.shown, k);
        let Some(sureness) = &self.sureness else {
            let chosen = chosen(&ranking.items).into_iter();
            return (chosen.map(|s| Chosen { item: s.item, score: s.score, confidence: None }).collect(), None);
        };
        let sureness = if asked.seen_removed { &sureness.seen_removed } else { &sureness.no_filter };
        let judged = sureness.judge(&ranking.items, asked.history);
        let of = |s: ScoredItem| Chosen { item: s.item, score: s.score, confidence: judged.confidence(s.item) };
        (chosen(judged.items).into_iter().map(of).collect(), judged.reason.clone())
    }
}

/// What a choice depends on beside the ranking.
pub(super) struct Asked<'a> {
    /// Items that were shown before.
    pub(super) shown: &'a [ItemIndex],
    /// H, the items of the history.
    pub(super) history: usize,
    /// Whether these are left out.
    pub(super) seen_removed: bool,
}

/// Vectors by which items of a run are alike, and what they are.
fn vectors(run: &Run, catalog: &Catalog) -> Result<(&'static str, ItemVectors)> {
    let books = if run.has(Stage::Tokenizer) { codebooks(&run.tokenizer()?)? } else { None };
    match books {
        Some(books) => Ok(("codebooks", ItemVectors::Codewords(books))),
        None if run.has(Stage::Embeddings) => {
            Ok(("embeddings", ItemVectors::OfItems(run.catalog_embeddings(catalog)?)))
        }
        None => {
            let problem = "the run has neither codebooks nor embeddings, so nothing says which items are alike";
            let mend = "give it embeddings (`sidereal embed`), or ask for a quota of first codes instead";
            Err(Error::config("mmr", problem, mend).into())
        }
    }
}
