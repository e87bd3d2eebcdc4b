//! The candidates of a question: the best items of every source, and their features.

use std::collections::{BTreeSet, HashMap};

use rayon::prelude::*;
use sidereal_core::metrics::top_k;
use sidereal_core::{Catalog, ItemIndex};

use super::features::{Evidence, FEATURES, GeneratorScores};
use super::knowledge::Knowledge;
use crate::Result;
use crate::ranker::{Question, Ranker};
use crate::ranking::Ranking;

/// How much less than the last item that a search reached all others are given.
const UNREACHED: f32 = 1.0;

/// Items of the history that the largest cosine looks at.
const MOST_SIMILAR_TO: usize = 6;

/// Where candidates come from.
#[derive(Clone, Copy)]
pub(super) struct Candidates<'a> {
    pub(super) knowledge: &'a Knowledge,
    pub(super) catalog: &'a Catalog,
    pub(super) generator: Option<&'a dyn Ranker>,
}

/// The candidates of one question.
pub(super) struct Found {
    /// Allowed items, ascending: `[C]`.
    pub(super) items: Vec<ItemIndex>,
    /// `[C, F]`
    pub(super) features: Vec<f32>,
}

impl Candidates<'_> {
    /// Candidates of every question: at least min(`per_source`, allowed) of them.
    pub(super) fn of_all(&self, questions: &[Question<'_>], per_source: usize) -> Result<Vec<Found>> {
        let searched = match self.generator {
            Some(generator) if !generator.scores_all_cheaply() => {
                generator.rank(self.catalog, questions, per_source)?.into_iter().map(Some).collect()
            }
            _ => questions.iter().map(|_| None).collect::<Vec<_>>(),
        };
        let of_one = |(question, ranking): (&Question<'_>, Option<Ranking>)| self.of(question, ranking, per_source);
        questions.par_iter().zip(searched).map(of_one).collect()
    }

    fn of(&self, question: &Question<'_>, ranking: Option<Ranking>, per_source: usize) -> Result<Found> {
        let allowed = |item: ItemIndex| question.filter.item_alive(item) && self.catalog.is_alive(item);
        let evidence = self.evidence(question, ranking)?;
        let mut items = BTreeSet::new();
        match &evidence.generator {
            GeneratorScores::None => {}
            GeneratorScores::All(scores) => items.extend(top_k(scores, per_source, None).into_iter().map(|e| e.0)),
            GeneratorScores::Reached(scores, _) => items.extend(scores.keys()),
        }
        for counts in [&evidence.neighbours, &evidence.words] {
            let mut best: Vec<(ItemIndex, f64)> = counts.iter().map(|(&item, &count)| (item, count)).collect();
            best.retain(|entry| allowed(entry.0));
            best.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            items.extend(best.iter().take(per_source).map(|entry| entry.0));
        }
        if let Some(similarity) = &evidence.similarity {
            let mut scores = similarity.clone();
            (0..).zip(&mut scores).for_each(|(item, score)| {
                if !allowed(item) {
                    *score = f32::NEG_INFINITY;
                }
            });
            items.extend(top_k(&scores, per_source, None).into_iter().map(|entry| entry.0));
        }
        // Where nothing is known of the history, and to fill up to what was promised.
        let popular = self.knowledge.by_popularity().iter().copied().filter(|&item| allowed(item));
        for item in popular.take(per_source) {
            if items.len() >= per_source {
                break;
            }
            items.insert(item);
        }
        items.retain(|&item| allowed(item));
        let items: Vec<ItemIndex> = items.into_iter().collect();
        let mut features = Vec::with_capacity(items.len() * FEATURES.len());
        items.iter().for_each(|&item| features.extend(evidence.features(item)));
        Ok(Found { items, features })
    }

    fn evidence<'a>(&'a self, question: &Question<'a>, ranking: Option<Ranking>) -> Result<Evidence<'a>> {
        let generator = match (self.generator, ranking) {
            (None, _) => GeneratorScores::None,
            (Some(_), Some(ranking)) => {
                let last = ranking.items.last().map_or(0.0, |scored| scored.score);
                let scores: HashMap<ItemIndex, f32> =
                    ranking.items.iter().map(|scored| (scored.item, scored.score)).collect();
                GeneratorScores::Reached(scores, last - UNREACHED)
            }
            (Some(generator), None) => GeneratorScores::All(generator.score_all(self.catalog, question)?),
        };
        let history = question.history;
        let knowledge = self.knowledge;
        Ok(Evidence {
            knowledge,
            history,
            generator,
            neighbours: knowledge.neighbours(history),
            after: knowledge.after(history),
            before: knowledge.before(history),
            words: knowledge.words(history),
            time: question.time,
            similarity: knowledge.similarity(history),
            most_similar: knowledge.most_similar(&history[history.len().saturating_sub(MOST_SIMILAR_TO)..]),
        })
    }
}
