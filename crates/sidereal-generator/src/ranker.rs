//! Trained networks as those who ask them see them: histories in, rankings of catalog items out.
//!
//! Two kinds of network answer through one trait: those that write codes are asked by the beam search
//! ([`CodeRanker`]), those that score items are asked for the whole catalog ([`ItemRanker`]). Scores are
//! log-probabilities in both, so that they can be compared and blended.

use std::fmt::Debug;

use rayon::prelude::*;
use sidereal_core::metrics::top_k;
use sidereal_core::{Catalog, ItemIndex, LeafFilter};

use crate::Result;
use crate::beam::{Asked, BeamOptions, BeamsUnderWay, Request, Searcher, check_fit, rows};
use crate::exact::ExactScorer;
use crate::history_layout::HistoryLayout;
use crate::ranking::{Ranking, ScoredItem};
use crate::scoring::{ItemScorer, NextCodeModel, ScoreNorm};
use crate::search::Search;
use crate::under_way::{AtOnce, UnderWay};

/// One question: what comes after this history?
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// Items that were there, oldest first; may be empty: `[H]`.
    pub history: &'a [ItemIndex],
    /// What may be answered.
    pub filter: &'a LeafFilter,
    /// Who asks ([`crate::network::user_key`]), where it is known.
    pub user: Option<u64>,
    /// When: the time of the history's last event in the data's own unit, where it is known.
    pub time: Option<i64>,
}

impl<'a> Question<'a> {
    /// Nobody in particular asks.
    pub fn new(history: &'a [ItemIndex], filter: &'a LeafFilter) -> Self {
        Self { history, filter, user: None, time: None }
    }
}

/// A trained network that ranks catalog items.
pub trait Ranker: Debug + Send + Sync {
    /// At least the best min(`beam`, allowed) items of each question; the answer to question `i` is at place `i`.
    ///
    /// # Errors
    /// A beam width of 0; a catalog that does not fit; a score that is not finite; whatever the device says.
    fn rank(&self, catalog: &Catalog, questions: &[Question<'_>], beam: usize) -> Result<Vec<Ranking>>;

    /// The same with a width a level, and with a quota: at least min(k, what the quota allows) items that fit it are among
    /// those of each ranking, where no width is below k.
    ///
    /// A ranker without a beam a level takes the last width, and looks at more of the catalog until the quota is met.
    ///
    /// # Errors
    /// As [`Ranker::rank`] and [`Search::check`].
    fn search(&self, catalog: &Catalog, questions: &[Question<'_>], search: &Search) -> Result<Vec<Ranking>> {
        search.check(catalog.levels())?;
        let mut width = search.widths.last();
        let mut rankings = self.rank(catalog, questions, width)?;
        let Some(quota) = search.quota else { return Ok(rankings) };
        loop {
            // A ranking shorter than it could be has all allowed items.
            let lacks = |ranking: &Ranking| ranking.items.len() >= width && !quota.is_met(catalog, &ranking.items);
            let open: Vec<usize> = (0..rankings.len()).filter(|&at| lacks(&rankings[at])).collect();
            if open.is_empty() || width >= catalog.len() {
                return Ok(rankings);
            }
            width = width.saturating_mul(4).min(catalog.len());
            let asked: Vec<Question<'_>> = open.iter().map(|&at| questions[at]).collect();
            for (at, found) in open.into_iter().zip(self.rank(catalog, &asked, width)?) {
                rankings[at] = found;
            }
        }
    }

    /// Begins a search that goes on a step at a time; its rankings are those of [`Ranker::search`]. It computes nothing
    /// yet. A ranker that cannot stop between two levels takes one step.
    ///
    /// Steps run one after another, whatever the number of threads: it is for those who have one thread a search.
    ///
    /// # Errors
    /// As [`Search::check`]; a catalog that does not fit.
    fn begin<'a>(
        &'a self,
        catalog: &'a Catalog,
        questions: &[Question<'a>],
        search: &'a Search,
    ) -> Result<Box<dyn UnderWay + 'a>> {
        Ok(Box::new(AtOnce::new(self, catalog, questions, search)?))
    }

    /// How long a question takes, in rows that a network computes: the codes of a history of so many items, and the beams
    /// before each level, at most. None where a search is one step ([`Ranker::begin`]).
    fn rows(&self, _catalog: &Catalog, _history: usize, _search: &Search) -> Option<u64> {
        None
    }

    /// Log-probabilities of all items, however many: minus infinity for those that the question's filter denies and
    /// those that the catalog has removed.
    ///
    /// # Shapes
    /// result: `[N]`
    ///
    /// # Errors
    /// As [`Ranker::rank`].
    fn score_all(&self, catalog: &Catalog, question: &Question<'_>) -> Result<Vec<f32>>;

    /// [`Ranker::score_all`] of several questions, faster where vectors are multiplied.
    ///
    /// # Shapes
    /// result: `[B, N]`
    ///
    /// # Errors
    /// As [`Ranker::rank`].
    fn score_each(&self, catalog: &Catalog, questions: &[Question<'_>]) -> Result<Vec<f32>> {
        let each = questions.iter().map(|question| self.score_all(catalog, question));
        Ok(each.collect::<Result<Vec<_>>>()?.concat())
    }

    /// Whether [`Ranker::score_all`] costs no more than a ranking.
    fn scores_all_cheaply(&self) -> bool;

    /// Over which tokens scores are normalised, where codes are written.
    fn norm(&self) -> ScoreNorm;
}

/// What a model reads of a question.
pub trait Reader: Debug + Send + Sync {
    /// The tokens, item marks among them where the model looks at item vectors.
    ///
    /// # Errors
    /// A text that cannot be written in the model's tokens.
    fn read(&self, catalog: &Catalog, question: &Question<'_>) -> Result<Vec<u32>>;

    /// Most recent items that are read.
    fn max_history(&self) -> usize;
}

impl Reader for HistoryLayout {
    fn read(&self, catalog: &Catalog, question: &Question<'_>) -> Result<Vec<u32>> {
        Ok(self.tokens(catalog, question.history, question.user))
    }

    fn max_history(&self) -> usize {
        self.max_history
    }
}

/// A model that writes codes, asked by constrained beam search.
#[derive(Debug)]
pub struct CodeRanker<M> {
    searcher: Searcher<M>,
    norm: ScoreNorm,
    reader: Box<dyn Reader>,
}

impl<M: NextCodeModel> CodeRanker<M> {
    /// Histories are the codes of their most recent `max_history` items.
    pub fn new(model: M, norm: ScoreNorm, max_history: usize) -> Self {
        let layout = HistoryLayout::plain(model.vocab(), max_history);
        Self::with_reader(model, norm, Box::new(layout))
    }

    /// Questions are read as the model learnt them.
    pub fn with_reader(model: M, norm: ScoreNorm, reader: Box<dyn Reader>) -> Self {
        Self { searcher: Searcher::new(model), norm, reader }
    }

    /// The model.
    pub(crate) fn model(&self) -> &M {
        self.searcher.model()
    }

    /// What the model reads of a question.
    pub(crate) fn tokens(&self, catalog: &Catalog, question: &Question<'_>) -> Result<Vec<u32>> {
        self.reader.read(catalog, question)
    }
}

impl<M: NextCodeModel + Debug + Send> Ranker for CodeRanker<M> {
    fn rank(&self, catalog: &Catalog, questions: &[Question<'_>], beam: usize) -> Result<Vec<Ranking>> {
        self.search(catalog, questions, &beam.into())
    }

    fn search(&self, catalog: &Catalog, questions: &[Question<'_>], search: &Search) -> Result<Vec<Ranking>> {
        check_fit(self.model().vocab(), catalog)?;
        let tokens = questions.iter().map(|question| self.tokens(catalog, question));
        let tokens: Vec<Vec<u32>> = tokens.collect::<Result<_>>()?;
        let requests: Vec<Request<'_>> = tokens
            .iter()
            .zip(questions)
            .map(|(history, question)| Request { history, filter: question.filter })
            .collect();
        self.searcher.search(catalog, &requests, &BeamOptions::new(search.clone(), self.norm))
    }

    fn begin<'a>(
        &'a self,
        catalog: &'a Catalog,
        questions: &[Question<'a>],
        search: &'a Search,
    ) -> Result<Box<dyn UnderWay + 'a>> {
        if !self.searcher.is_by_levels(catalog, search) {
            return Ok(Box::new(AtOnce::new(self, catalog, questions, search)?));
        }
        check_fit(self.model().vocab(), catalog)?;
        let asked = |question: &Question<'a>| -> Result<Asked<'a>> {
            Ok(Asked { history: self.tokens(catalog, question)?, filter: question.filter })
        };
        let asked = questions.iter().map(asked).collect::<Result<_>>()?;
        Ok(Box::new(BeamsUnderWay::new(self.model(), catalog, asked, search, self.norm)?))
    }

    fn rows(&self, catalog: &Catalog, history: usize, search: &Search) -> Option<u64> {
        let tokens = history.min(self.reader.max_history()).saturating_mul(catalog.levels());
        self.searcher.is_by_levels(catalog, search).then(|| rows(catalog, search, tokens))
    }

    fn score_all(&self, catalog: &Catalog, question: &Question<'_>) -> Result<Vec<f32>> {
        let scorer = ExactScorer::new(self.model(), catalog, self.norm, self.reader.max_history())?;
        scorer.item_scores(&self.tokens(catalog, question)?, question.filter)
    }

    fn scores_all_cheaply(&self) -> bool {
        false
    }

    fn norm(&self) -> ScoreNorm {
        self.norm
    }
}

/// Questions whose scores are held at once, at most.
const BLOCK_QUESTIONS: usize = 64;
/// Scores of one block at most: 16 MiB.
const BLOCK_SCORES: usize = 1 << 22;

/// A scorer of the whole catalog as a ranker: its best items.
#[derive(Debug)]
pub struct ItemRanker<S>(pub S);

impl<S: ItemScorer + Debug> ItemRanker<S> {
    /// Scores of a block of questions with what may not be answered taken out, `[B, N]`.
    fn block(&self, catalog: &Catalog, questions: &[Question<'_>]) -> Result<Vec<f32>> {
        let items = self.0.items();
        if items != catalog.len() {
            let problem = format!("the generator scores {items} items, but the catalog has {}", catalog.len());
            let mend = "use the catalog that the generator was loaded with";
            return Err(sidereal_core::Error::mismatch(problem, mend).into());
        }
        let histories: Vec<&[ItemIndex]> = questions.iter().map(|question| question.history).collect();
        let mut scores = vec![0.0; histories.len() * items];
        self.0.score_block(&histories, &mut scores)?;
        for (question, scores) in questions.iter().zip(scores.chunks_exact_mut(items.max(1))) {
            if let Some(item) = scores.iter().position(|score| score.is_nan() || *score == f32::INFINITY) {
                let problem = format!("the score of item {item} is {}, not a finite number", scores[item]);
                let mend = "the weights are damaged or the training diverged: load another checkpoint, or train with \
                            a lower learning rate";
                return Err(sidereal_core::Error::input("generator", problem, mend).into());
            }
            for (item, score) in (0..).zip(scores.iter_mut()) {
                if !question.filter.item_alive(item) || !catalog.is_alive(item) {
                    *score = f32::NEG_INFINITY;
                }
            }
        }
        Ok(scores)
    }
}

impl<S: ItemScorer + Debug + Send> Ranker for ItemRanker<S> {
    fn rank(&self, catalog: &Catalog, questions: &[Question<'_>], beam: usize) -> Result<Vec<Ranking>> {
        if beam == 0 {
            let mend = "ask for at least as many as are wanted";
            return Err(sidereal_core::Error::config("beam", "0 items find nothing", mend).into());
        }
        let items = catalog.len();
        let block = (BLOCK_SCORES / items.max(1)).clamp(1, BLOCK_QUESTIONS);
        let blocks: Vec<Vec<Ranking>> = questions
            .par_chunks(block)
            .map(|questions| {
                let scores = self.block(catalog, questions)?;
                let best = |scores: &[f32]| -> Vec<ScoredItem> {
                    let found = top_k(scores, beam, None).into_iter();
                    let alive = found.filter(|(_, score)| *score != f32::NEG_INFINITY);
                    alive.map(|(item, score)| ScoredItem { item, score }).collect()
                };
                let rankings = scores
                    .chunks_exact(items.max(1))
                    .map(|scores| Ranking::of_items(catalog, best(scores), items as u64));
                Ok(rankings.collect())
            })
            .collect::<Result<_>>()?;
        Ok(blocks.into_iter().flatten().collect())
    }

    fn score_all(&self, catalog: &Catalog, question: &Question<'_>) -> Result<Vec<f32>> {
        self.block(catalog, std::slice::from_ref(question))
    }

    fn score_each(&self, catalog: &Catalog, questions: &[Question<'_>]) -> Result<Vec<f32>> {
        self.block(catalog, questions)
    }

    fn scores_all_cheaply(&self) -> bool {
        true
    }

    fn norm(&self) -> ScoreNorm {
        ScoreNorm::Children
    }
}
