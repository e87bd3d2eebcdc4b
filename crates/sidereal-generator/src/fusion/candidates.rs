//! The candidates of a question: the best items of every source, and their features.
//!
//! Questions are taken in blocks, whose cosines are products of matrices; what a history's items say of few others is
//! added up question by question. A block's size depends on the catalog alone.

use std::collections::HashMap;

use rayon::prelude::*;
use sidereal_core::metrics::top_k;
use sidereal_core::{Catalog, ItemIndex};

use super::features::{Evidence, FEATURES, GeneratorScores, HistorySums};
use super::knowledge::Knowledge;
use super::sums::SparseSums;
use crate::Result;
use crate::baselines::neighbours::{Sums, recent};
use crate::baselines::unit_vectors::UnitVectors;
use crate::ranker::{Question, Ranker};
use crate::ranking::Ranking;

/// How much less than the last item that a search reached all others are given.
const UNREACHED: f32 = 1.0;
/// Items of the history that the largest cosine looks at.
const MOST_SIMILAR_TO: usize = 6;
/// Questions of one block at most.
const BLOCK_QUESTIONS: usize = 32;
/// Numbers of one source in a block at most: 4 MiB.
const BLOCK_NUMBERS: usize = 1 << 20;

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

/// Memory that is used again from question to question.
struct Scratch<'a> {
    neighbours: Sums<'a>,
    sums: HistorySums,
    allowed: Vec<bool>,
}

impl<'a> Scratch<'a> {
    fn new(knowledge: &'a Knowledge) -> Self {
        let sums = || SparseSums::new(knowledge.items());
        Self {
            neighbours: knowledge.neighbour_sums(),
            sums: HistorySums { neighbours: sums(), after: sums(), before: sums(), linear: sums(), words: sums() },
            allowed: vec![true; knowledge.items()],
        }
    }

    /// Adds up what is known of a history's items.
    fn add_up(&mut self, knowledge: &Knowledge, history: &[ItemIndex]) {
        let Self { neighbours, sums, .. } = self;
        for sums in [&mut sums.neighbours, &mut sums.after, &mut sums.before, &mut sums.linear, &mut sums.words] {
            sums.clear();
        }
        neighbours.of(history).into_iter().for_each(|(item, sum)| sums.neighbours.add(item, sum as f32));
        knowledge.after(history, &mut sums.after);
        knowledge.before(history, &mut sums.before);
        knowledge.linear(history, &mut sums.linear);
        knowledge.words(history, &mut sums.words);
    }
}

/// Cosines of a block's questions to all items, `[B, N]` each; empty where there are no vectors.
struct Cosines {
    similarity: Vec<f32>,
    most_similar: Vec<f32>,
    item2vec: Vec<f32>,
    user_item: Vec<f32>,
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
        let block = (BLOCK_NUMBERS / self.knowledge.items().max(1)).clamp(1, BLOCK_QUESTIONS);
        let of_block = |scratch: &mut Scratch<'_>, (questions, searched): (&[Question<'_>], &[Option<Ranking>])| {
            self.of_block(scratch, questions, searched, per_source)
        };
        let blocks: Vec<Vec<Found>> = questions
            .par_chunks(block)
            .zip(searched.par_chunks(block))
            .map_init(|| Scratch::new(self.knowledge), of_block)
            .collect::<Result<_>>()?;
        Ok(blocks.into_iter().flatten().collect())
    }

    fn of_block(
        &self,
        scratch: &mut Scratch<'_>,
        questions: &[Question<'_>],
        searched: &[Option<Ranking>],
        per_source: usize,
    ) -> Result<Vec<Found>> {
        let (knowledge, items) = (self.knowledge, self.knowledge.items());
        let scores = match self.generator {
            Some(generator) if generator.scores_all_cheaply() => generator.score_each(self.catalog, questions)?,
            _ => Vec::new(),
        };
        let cosines = Cosines {
            similarity: knowledge.vectors().map_or_else(Vec::new, |vectors| similarity(vectors, questions, items)),
            most_similar: knowledge.vectors().map_or_else(Vec::new, |vectors| most_similar(vectors, questions, items)),
            item2vec: knowledge.item2vec().map_or_else(Vec::new, |vectors| similarity(vectors, questions, items)),
            user_item: knowledge.user_item().map_or_else(Vec::new, |vectors| similarity(vectors, questions, items)),
        };
        let mut found = Vec::with_capacity(questions.len());
        for (at, question) in questions.iter().enumerate() {
            let row = |all: &[f32]| if all.is_empty() { 0..0 } else { at * items..(at + 1) * items };
            scratch.add_up(knowledge, question.history);
            let allowed = |item: ItemIndex| question.filter.item_alive(item) && self.catalog.is_alive(item);
            (0..).zip(&mut scratch.allowed).for_each(|(item, may)| *may = allowed(item));
            let generator = match &searched[at] {
                Some(ranking) => {
                    let last = ranking.items.last().map_or(0.0, |scored| scored.score);
                    let reached: HashMap<ItemIndex, f32> =
                        ranking.items.iter().map(|scored| (scored.item, scored.score)).collect();
                    GeneratorScores::Reached(reached, last - UNREACHED)
                }
                None if scores.is_empty() => GeneratorScores::None,
                None => GeneratorScores::All(&scores[row(&scores)]),
            };
            let dense = [&cosines.similarity, &cosines.item2vec].map(|all| &all[row(all)]);
            let candidates = self.candidates(scratch, &generator, dense, per_source);
            let evidence = Evidence {
                knowledge,
                history: question.history,
                generator,
                sums: &scratch.sums,
                time: question.time,
                similarity: &cosines.similarity[row(&cosines.similarity)],
                most_similar: &cosines.most_similar[row(&cosines.most_similar)],
                item2vec: &cosines.item2vec[row(&cosines.item2vec)],
                user_item: &cosines.user_item[row(&cosines.user_item)],
            };
            let mut features = Vec::with_capacity(candidates.len() * FEATURES.len());
            candidates.iter().for_each(|&item| features.extend(evidence.features(item)));
            found.push(Found { items: candidates, features });
        }
        Ok(found)
    }

    /// The best allowed items of every source, ascending.
    fn candidates(
        &self,
        scratch: &mut Scratch<'_>,
        generator: &GeneratorScores<'_>,
        dense: [&[f32]; 2],
        per_source: usize,
    ) -> Vec<ItemIndex> {
        let allowed = &scratch.allowed;
        let mut items = Vec::new();
        let HistorySums { neighbours, linear, words, .. } = &mut scratch.sums;
        for sums in [neighbours, linear, words] {
            sums.best(per_source, allowed, &mut items);
        }
        let best = |scores: &[f32], items: &mut Vec<ItemIndex>| {
            let may = scores.iter().zip(allowed).map(|(&score, &may)| if may { score } else { f32::NEG_INFINITY });
            items.extend(top_k(&may.collect::<Vec<_>>(), per_source, None).into_iter().map(|entry| entry.0));
        };
        match generator {
            GeneratorScores::None => {}
            GeneratorScores::All(scores) => best(scores, &mut items),
            GeneratorScores::Reached(scores, _) => items.extend(scores.keys()),
        }
        dense.iter().for_each(|scores| best(scores, &mut items));
        items.sort_unstable();
        items.dedup();
        items.retain(|&item| allowed[item as usize]);
        // Where nothing is known of the history, and to fill up to what was promised.
        if items.len() < per_source {
            let known = items.clone();
            let popular = self.knowledge.by_popularity().iter().copied();
            let others = popular.filter(|&item| allowed[item as usize] && known.binary_search(&item).is_err());
            items.extend(others.take(per_source - known.len()));
            items.sort_unstable();
        }
        items
    }
}

/// Cosines to recent items, weighted and added: `[B, N]`.
fn similarity(vectors: &UnitVectors, questions: &[Question<'_>], items: usize) -> Vec<f32> {
    let width = vectors.width();
    let mut queries = vec![0f32; questions.len() * width];
    for (question, query) in questions.iter().zip(queries.chunks_exact_mut(width)) {
        for (item, weight) in recent(question.history) {
            query.iter_mut().zip(vectors.of(item)).for_each(|(q, &v)| *q += weight as f32 * v);
        }
    }
    let mut all = vec![0f32; questions.len() * items];
    vectors.products_f32(&queries, |first, products| {
        let tile = products.len() / questions.len().max(1);
        for (all, products) in all.chunks_exact_mut(items).zip(products.chunks_exact(tile)) {
            all[first..first + tile].copy_from_slice(products);
        }
    });
    all
}

/// The largest cosine to one of the last items, or 0: `[B, N]`.
fn most_similar(vectors: &UnitVectors, questions: &[Question<'_>], items: usize) -> Vec<f32> {
    let last = |history: &[ItemIndex]| history.len().saturating_sub(MOST_SIMILAR_TO);
    let recent: Vec<&[ItemIndex]> =
        questions.iter().map(|question| &question.history[last(question.history)..]).collect();
    let queries: Vec<f32> = recent.iter().copied().flatten().flat_map(|&item| vectors.of(item)).copied().collect();
    let mut all = vec![0f32; questions.len() * items];
    vectors.products_f32(&queries, |first, products| {
        let tile = products.len() / (queries.len() / vectors.width()).max(1);
        let mut products = products.chunks_exact(tile.max(1));
        for (all, recent) in all.chunks_exact_mut(items).zip(&recent) {
            for products in products.by_ref().take(recent.len()) {
                all[first..first + tile]
                    .iter_mut()
                    .zip(products)
                    .for_each(|(most, &product)| *most = most.max(product));
            }
        }
    });
    all
}
