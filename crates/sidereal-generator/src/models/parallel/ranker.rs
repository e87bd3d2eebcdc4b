//! Asking a parallel decoder: log-probabilities of all codes after a history, and what items make of them.

use candle_core::Tensor;
use rayon::prelude::*;
use sidereal_core::{Catalog, CodeVocab, ItemIndex};

use super::items::Items;
use super::{CodeReader, Settings, gather};
use crate::Result;
use crate::beam::{BeamOptions, Request, beam_search, not_finite};
use crate::dropout::Dropout;
use crate::exact::ExactScorer;
use crate::models::repeats::{Repeats, add_to_scores};
use crate::ranker::{Question, Ranker};
use crate::ranking::Ranking;
use crate::scoring::{CodeScores, ItemScorer, NextCodeModel, ScoreNorm};
use crate::search::Search;

/// Questions that are answered together.
pub(super) const BLOCK: usize = 64;
/// Of these, histories that the transformer reads together.
const GROUP: usize = 16;

/// Weights that no longer change, and the items.
#[derive(Debug)]
pub(super) struct Oracle {
    reader: Box<dyn CodeReader>,
    settings: Settings,
    /// The codes as scores are made with them: `[V, D]`.
    table: Tensor,
    /// Added to items of the history.
    pub(super) repeats: f32,
    pub(super) items: Items,
}

impl Oracle {
    /// Of frozen weights.
    ///
    /// # Errors
    /// Whatever the device says.
    pub(super) fn new(reader: Box<dyn CodeReader>, items: Items) -> Result<Self> {
        let table = reader.code_table()?;
        let repeats = reader.repeats().map_or(Ok(0.0), Repeats::value)?;
        Ok(Self { settings: reader.settings(), reader, table, repeats, items })
    }

    /// V.
    pub(super) fn vocab(&self) -> usize {
        self.codes().iter().sum()
    }

    /// K of each level.
    pub(super) fn codes(&self) -> &[usize] {
        self.reader.codes()
    }

    /// The codes as scores are made with them: `[V, D]`.
    pub(super) fn table(&self) -> &Tensor {
        &self.table
    }

    /// Log-probabilities of the codes of all levels after each history, `[B, V]`: each level's add up to 1.
    pub(super) fn log_probs(&self, histories: &[&[ItemIndex]]) -> Result<Vec<f32>> {
        if histories.is_empty() {
            return Ok(Vec::new());
        }
        let longest = self.settings.max_history;
        let recent: Vec<&[ItemIndex]> =
            histories.iter().map(|history| &history[history.len().saturating_sub(longest)..]).collect();
        // Histories of about one length together, so that little of a group is padding; heads for all at once.
        let mut order: Vec<usize> = (0..recent.len()).collect();
        order.sort_by_key(|&row| recent[row].len());
        let groups = order.chunks(GROUP).map(|rows| {
            let histories: Vec<&[ItemIndex]> = rows.iter().map(|&row| recent[row]).collect();
            self.last_vectors(&histories)
        });
        let vectors = Tensor::cat(&groups.collect::<Result<Vec<_>>>()?, 0)?; // [B, E], in that order
        let ordered = self.reader.code_scores(&vectors, &self.table)?.flatten_all()?.to_vec1::<f32>()?; // [B, V]
        let vocab = self.vocab();
        let mut scores = vec![0.0; ordered.len()];
        for (&row, ordered) in order.iter().zip(ordered.chunks_exact(vocab)) {
            scores[row * vocab..][..vocab].copy_from_slice(ordered);
        }
        let inverse = 1.0 / self.settings.temperature;
        for mut row in scores.chunks_exact_mut(self.vocab()) {
            for &codes in self.codes() {
                let (level, rest) = row.split_at_mut(codes);
                log_softmax(level, inverse);
                row = rest;
            }
        }
        Ok(scores)
    }

    /// The vectors of the last positions of some histories: `[B, E]`.
    fn last_vectors(&self, histories: &[&[ItemIndex]]) -> Result<Tensor> {
        let positions = self.reader.positions(&self.items, histories, &Dropout::none())?; // [B, T, E]
        let width = positions.dim(1)?;
        let last = |(row, history): (usize, &&[ItemIndex])| (row * width + history.len().saturating_sub(1)) as u32;
        gather(&positions, histories.iter().enumerate().map(last).collect())
    }

    /// Refuses log-probabilities that are no numbers, by level and code.
    pub(super) fn check_finite(&self, log_probs: &[f32]) -> Result<()> {
        let Some(at) = log_probs.iter().position(|value| !value.is_finite()) else { return Ok(()) };
        let place = (at % self.vocab()) as u32;
        let level = self.items.firsts().partition_point(|&first| first <= place) - 1;
        Err(not_finite(level, (place - self.items.firsts()[level]) as u16, log_probs[at]))
    }

    /// The sum of the log-probabilities of an item's codes.
    pub(super) fn score(&self, log_probs: &[f32], item: ItemIndex) -> f32 {
        self.items.places(item).iter().map(|&place| log_probs[place as usize]).sum()
    }
}

/// `x * factor` less the logarithm of the sum of its exponentials.
fn log_softmax(values: &mut [f32], factor: f32) {
    let top = values.iter().fold(f32::NEG_INFINITY, |top, v| top.max(v * factor));
    let sum: f64 = values.iter().map(|v| f64::from((v * factor - top).exp())).sum();
    let log_sum = top + sum.ln() as f32;
    values.iter_mut().for_each(|v| *v = *v * factor - log_sum);
}

/// Exact scores of the whole catalog: sums over the items' codes, less what makes them add up to 1.
#[derive(Debug)]
pub(super) struct ItemSums {
    oracle: Oracle,
    /// Whether the catalog has removed the item: `[N]`.
    removed: Vec<bool>,
}

impl ItemSums {
    /// Over a catalog, which is the oracle's.
    pub(super) fn new(oracle: Oracle, catalog: &Catalog) -> Self {
        let removed = (0..catalog.len() as ItemIndex).map(|item| !catalog.is_alive(item)).collect();
        Self { oracle, removed }
    }
}

impl ItemScorer for ItemSums {
    fn name(&self) -> &str {
        self.oracle.settings.method
    }

    fn items(&self) -> usize {
        self.oracle.items.len()
    }

    fn score_block(&self, histories: &[&[ItemIndex]], scores: &mut [f32]) -> Result<()> {
        assert_eq!(scores.len(), histories.len() * self.items(), "scores must be [B, N]");
        let log_probs = self.oracle.log_probs(histories)?;
        let rows = scores.chunks_exact_mut(self.items().max(1)).zip(log_probs.chunks_exact(self.oracle.vocab()));
        for ((scores, log_probs), history) in rows.zip(histories) {
            self.oracle.items.by_level.sums(log_probs, scores);
            add_to_scores(self.oracle.repeats, history, scores);
            let alive = || scores.iter().zip(&self.removed).filter(|(_, removed)| !**removed).map(|(score, _)| *score);
            let top = alive().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = alive().map(|score| f64::from((score - top).exp())).sum();
            let log_sum = top + sum.ln() as f32;
            scores.iter_mut().for_each(|score| *score -= log_sum);
        }
        Ok(())
    }
}

/// The beam search over codes whose scores are there already.
#[derive(Debug)]
pub(super) struct TrieRanker {
    oracle: Oracle,
    vocab: CodeVocab,
}

impl TrieRanker {
    /// Over a catalog, which is the oracle's.
    pub(super) fn new(oracle: Oracle, catalog: &Catalog) -> Self {
        Self { oracle, vocab: CodeVocab::new(CodeVocab::FIRST_CODE, catalog.codes_per_level()) }
    }

    fn model<'a>(&'a self, log_probs: &'a [f32]) -> Known<'a> {
        Known { log_probs, width: self.oracle.vocab(), codes: self.oracle.codes(), vocab: &self.vocab }
    }
}

impl Ranker for TrieRanker {
    fn rank(&self, catalog: &Catalog, questions: &[Question<'_>], beam: usize) -> Result<Vec<Ranking>> {
        self.search(catalog, questions, &beam.into())
    }

    fn search(&self, catalog: &Catalog, questions: &[Question<'_>], search: &Search) -> Result<Vec<Ranking>> {
        let options = BeamOptions::new(search.clone(), ScoreNorm::Level);
        let of_block = |questions: &[Question<'_>]| -> Result<Vec<Ranking>> {
            let histories: Vec<&[ItemIndex]> = questions.iter().map(|question| question.history).collect();
            let log_probs = self.oracle.log_probs(&histories)?;
            let numbers: Vec<[u32; 1]> = (0..questions.len() as u32).map(|number| [number]).collect();
            let requests: Vec<Request<'_>> = numbers
                .iter()
                .zip(questions)
                .map(|(number, question)| Request { history: number, filter: question.filter })
                .collect();
            beam_search(&self.model(&log_probs), catalog, &requests, &options)
        };
        let blocks: Vec<Vec<Ranking>> = questions.par_chunks(BLOCK).map(of_block).collect::<Result<_>>()?;
        Ok(blocks.into_iter().flatten().collect())
    }

    fn score_all(&self, catalog: &Catalog, question: &Question<'_>) -> Result<Vec<f32>> {
        let log_probs = self.oracle.log_probs(&[question.history])?;
        let model = self.model(&log_probs);
        ExactScorer::new(&model, catalog, ScoreNorm::Level, 1)?.item_scores(&[0], question.filter)
    }

    fn scores_all_cheaply(&self) -> bool {
        false
    }

    fn norm(&self) -> ScoreNorm {
        ScoreNorm::Level
    }
}

/// Log-probabilities of some questions as a model that writes codes; a "history" is a question's number alone.
struct Known<'a> {
    /// `[B, V]`
    log_probs: &'a [f32],
    /// V.
    width: usize,
    codes: &'a [usize],
    vocab: &'a CodeVocab,
}

/// Which question each row is of, and where the codes of its next level begin.
struct Rows {
    questions: Vec<u32>,
    level: usize,
    first: usize,
}

impl Known<'_> {
    fn scores(&self, rows: &Rows) -> CodeScores {
        let codes = self.codes[rows.level];
        let row = |&question: &u32| &self.log_probs[question as usize * self.width + rows.first..][..codes];
        CodeScores::new(rows.questions.iter().flat_map(row).copied().collect(), codes)
    }
}

impl NextCodeModel for Known<'_> {
    type State = Rows;

    fn vocab(&self) -> &CodeVocab {
        self.vocab
    }

    fn requests_per_state(&self) -> usize {
        BLOCK
    }

    fn begin(&self, histories: &[&[u32]], _norm: ScoreNorm) -> Result<(Rows, CodeScores)> {
        let questions = histories.iter().map(|history| history[0]).collect();
        let rows = Rows { questions, level: 0, first: 0 };
        let scores = self.scores(&rows);
        Ok((rows, scores))
    }

    fn step(&self, state: &Rows, parents: &[u32], _codes: &[u16], _norm: ScoreNorm) -> Result<(Rows, CodeScores)> {
        if state.level + 1 == self.codes.len() {
            let mend = "this is a defect: report it";
            return Err(sidereal_core::Error::input("generator", "there is no level after the last", mend).into());
        }
        let questions = parents.iter().map(|&parent| state.questions[parent as usize]).collect();
        let rows = Rows { questions, level: state.level + 1, first: state.first + self.codes[state.level] };
        let scores = self.scores(&rows);
        Ok((rows, scores))
    }
}
