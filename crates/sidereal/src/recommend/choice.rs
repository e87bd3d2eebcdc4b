//! What an answer is made of, of all that a ranking holds: quotas, likeness, confidence.

use serde::Serialize;
use sidereal_core::{Catalog, Error, ItemIndex};
use sidereal_generator::Ranking;
use sidereal_generator::diversity::{Diversity, ItemVectors, Mmr};

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
    pub(super) calibration: Option<Calibration>,
    /// What likeness goes by: `codebooks` or `embeddings`.
    pub(super) likeness: Option<&'static str>,
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
        let calibration = if run.has(Stage::Calibration) { Some(calibration::load(run)?) } else { None };
        if let Some(least) = choice.min_confidence {
            if !(0.0..=1.0).contains(&least) {
                let problem = format!("{least} is no probability");
                return Err(Error::config("min_confidence", problem, "give a number from 0 to 1").into());
            }
            if calibration.is_none() {
                let problem = "the run does not say how sure it is: nothing was calibrated";
                let mend = "calibrate it first (`sidereal calibrate RUN`), or leave the least confidence out";
                return Err(Error::config("min_confidence", problem, mend).into());
            }
        }
        Ok(Self { choice, diversity, calibration, likeness })
    }

    /// Up to `k` items of a ranking; where none is sure enough, how sure the best is.
    pub(super) fn choose(
        &self,
        catalog: &Catalog,
        ranking: &Ranking,
        asked: &Asked<'_>,
        k: usize,
    ) -> (Vec<Chosen>, Option<String>) {
        let Some(calibration) = &self.calibration else {
            let chosen = self.diversity.choose(catalog, &ranking.items, asked.shown, k).into_iter();
            return (chosen.map(|s| Chosen { item: s.item, score: s.score, confidence: None }).collect(), None);
        };
        let scores: Vec<f32> = ranking.items.iter().map(|scored| scored.score).collect();
        let calibrator = if asked.seen_removed { &calibration.seen_removed } else { &calibration.no_filter };
        let confidences = calibrator.calibrator.confidences(&scores, asked.history);
        let least = self.choice.min_confidence.unwrap_or(0.0);
        // Confidence never rises down a ranking.
        let sure = confidences.partition_point(|&confidence| confidence >= least);
        let chosen = self.diversity.choose(catalog, &ranking.items[..sure], asked.shown, k);
        let confidence_of = |item: ItemIndex| {
            ranking.items.iter().zip(&confidences).find(|(scored, _)| scored.item == item).map(|(_, c)| *c)
        };
        let chosen: Vec<Chosen> = chosen
            .into_iter()
            .map(|s| Chosen { item: s.item, score: s.score, confidence: confidence_of(s.item) })
            .collect();
        let best = confidences.first().filter(|_| sure == 0);
        (chosen, best.map(|best| format!("no item is likely enough: the best has confidence {best:.4}, not {least}")))
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
