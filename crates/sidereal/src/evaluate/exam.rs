//! The questions that every row of a table answers: the same users, in both modes.

use std::sync::Arc;

use sidereal_core::filter::Allowed;
use sidereal_core::metrics::{RankedLists, Row};
use sidereal_core::{Embeddings, Example, Histories, ItemIndex, Progress, Split};
use sidereal_data::PreparedData;
use sidereal_generator::baselines::{Baseline, Statistics, rank_examples};
use sidereal_generator::scoring::ItemScorer;
use sidereal_generator::{Search, Widths};
use sidereal_nn::rng::Rng;

use crate::Result;
use crate::evaluate::Question;
use crate::evaluation::Modes;
use crate::recommend::{Query, Recommender};

/// Users whose beams are searched together; between two of these the progress moves.
pub(crate) const USERS_PER_ROUND: usize = 256;
/// Length of the lists that coverage and exposure are counted on.
pub(crate) const LIST: usize = 50;

/// Users and their targets.
pub(crate) struct Exam<'a> {
    pub(crate) histories: &'a Histories,
    pub(crate) split: &'a Split,
    pub(crate) examples: Vec<Example>,
    /// The time of every event, at least roughly, where it is known.
    times: Option<Arc<[i64]>>,
    pub(crate) progress: &'a dyn Progress,
}

impl<'a> Exam<'a> {
    /// The users that a question asks about.
    ///
    /// # Errors
    /// There are none.
    pub(crate) fn new(
        data: &'a PreparedData,
        split: &'a Split,
        question: &Question,
        progress: &'a dyn Progress,
    ) -> Result<Self> {
        let all = if question.validation { &split.validation } else { &split.test };
        Ok(Self {
            histories: &data.histories,
            split,
            examples: sample(all, question)?,
            times: data.rough_times().map(Arc::from),
            progress,
        })
    }

    /// The questions at some places alone.
    pub(crate) fn of(&self, places: &[usize]) -> Self {
        let examples = places.iter().map(|&at| self.examples[at]).collect();
        Self { examples, times: self.times.clone(), ..*self }
    }

    /// The users' targets.
    pub(crate) fn targets(&self) -> Vec<ItemIndex> {
        self.examples.iter().map(|example| example.target(self.histories)).collect()
    }

    /// Some users' questions, with or without their histories among the answers.
    pub(crate) fn queries<'q>(&'q self, round: &[Example], remove_seen: bool) -> Vec<Query<'q>> {
        let query = |example: &Example| {
            let history = example.history(self.histories);
            let user = Some(self.histories.user(example.user as usize));
            let time = self.times.as_ref().and_then(|times| example.time_before(self.histories, times));
            let deny: &[ItemIndex] = if remove_seen { history } else { &[] };
            Query { history, deny, user, time }
        };
        round.iter().map(query).collect()
    }

    /// A trained model by beam search: once over the whole catalog, or over what of it is allowed, and once with each
    /// user's history denied in the trie.
    pub(crate) fn trained_row(
        &self,
        name: &str,
        recommender: &Recommender,
        beam: &Widths,
        within: Option<&Allowed>,
    ) -> Result<Modes<Row>> {
        let search = Search::from(beam.clone());
        let empty = || Row { ranks: Vec::with_capacity(self.examples.len()), lists: RankedLists::new(LIST) };
        let mut rows = Modes { no_filter: empty(), seen_removed: empty() };
        self.progress.start(&format!("evaluate {name}"), Some(self.examples.len() as u64), "users");
        for round in self.examples.chunks(USERS_PER_ROUND) {
            for (row, remove_seen) in [(&mut rows.no_filter, false), (&mut rows.seen_removed, true)] {
                let queries = self.queries(round, remove_seen);
                let rankings = match within {
                    Some(allowed) => recommender.rank_within(allowed, &queries, &search)?,
                    None => recommender.rank(&queries, &search)?,
                };
                for (example, ranking) in round.iter().zip(&rankings) {
                    row.ranks.push(ranking.rank_of(example.target(self.histories)));
                    row.lists.push(ranking.items.iter().map(|scored| scored.item));
                }
            }
            self.progress.advance(round.len() as u64);
        }
        self.progress.finish();
        Ok(rows)
    }

    /// Every baseline that needs no training and that the run's data allows: those over item vectors only where there
    /// are some.
    pub(crate) fn baselines(
        &self,
        items: usize,
        removed: impl IntoIterator<Item = ItemIndex>,
        embeddings: Option<&Embeddings>,
    ) -> Result<Vec<Baseline>> {
        let statistics = Statistics::new(self.histories, self.split, items, embeddings)?;
        Ok(Baseline::all(&Arc::new(statistics.without(removed)?)))
    }

    /// What scores all items.
    pub(crate) fn untrained_row(&self, scorer: &dyn ItemScorer) -> Result<Modes<Row>> {
        let both = rank_examples(scorer, self.histories, &self.examples, LIST, self.progress)?;
        Ok(Modes { no_filter: both.no_filter, seen_removed: both.seen_removed })
    }

    /// The rows of all [`Exam::baselines`].
    pub(crate) fn untrained_rows(
        &self,
        items: usize,
        removed: impl IntoIterator<Item = ItemIndex>,
        embeddings: Option<&Embeddings>,
    ) -> Result<Vec<(String, Modes<Row>)>> {
        let baselines = self.baselines(items, removed, embeddings)?;
        let row = |baseline: &Baseline| Ok((baseline.method().name.to_owned(), self.untrained_row(baseline)?));
        baselines.iter().map(row).collect()
    }
}

fn sample(examples: &[Example], question: &Question) -> Result<Vec<Example>> {
    let mut chosen = examples.to_vec();
    if let Some(users) = question.users.filter(|&users| users < chosen.len()) {
        Rng::new(question.seed, "evaluate sample").shuffle(&mut chosen);
        chosen.truncate(users);
        chosen.sort_by_key(|example| example.user);
    }
    if chosen.is_empty() {
        let mend = "give users with at least three events, another split rule, or --users above 0";
        return Err(sidereal_core::Error::input("split", "there is no user to judge by", mend).into());
    }
    Ok(chosen)
}
