//! Searches that can stop between two levels: so that whoever answers many at once can look meanwhile who came, who left and
//! whose time is over.

use std::fmt::Debug;

use sidereal_core::Catalog;

use crate::Result;
use crate::ranker::{Question, Ranker};
use crate::ranking::Ranking;
use crate::search::Search;

/// The search of some questions, which [`Ranker::begin`] begins. Its questions are numbered as they were asked.
pub trait UnderWay: Debug {
    /// Asks the model once: reads the histories of some questions, or writes one level of them. The rankings that this made
    /// whole, with the numbers of their questions; none once nothing is left to do.
    ///
    /// # Errors
    /// As [`Ranker::rank`]; then nothing more comes of the search.
    fn step(&mut self) -> Result<Option<Vec<(usize, Ranking)>>>;

    /// Computes nothing more for a question, from the next step on. It gets no ranking.
    fn give_up(&mut self, question: usize);

    /// Rows that are still to be computed for each of the questions that come next, as [`Ranker::rows`] counts them; 0 where
    /// that is not known.
    fn rows_left(&self) -> u64;
}

/// A search that is one step.
#[derive(Debug)]
pub(crate) struct AtOnce<'a, R: ?Sized> {
    ranker: &'a R,
    catalog: &'a Catalog,
    questions: Vec<(usize, Question<'a>)>,
    search: &'a Search,
}

impl<'a, R: Ranker + ?Sized> AtOnce<'a, R> {
    /// # Errors
    /// As [`Search::check`].
    pub(crate) fn new(
        ranker: &'a R,
        catalog: &'a Catalog,
        questions: &[Question<'a>],
        search: &'a Search,
    ) -> Result<Self> {
        search.check(catalog.levels())?;
        Ok(Self { ranker, catalog, questions: questions.iter().copied().enumerate().collect(), search })
    }
}

impl<R: Ranker + ?Sized> UnderWay for AtOnce<'_, R> {
    fn step(&mut self) -> Result<Option<Vec<(usize, Ranking)>>> {
        if self.questions.is_empty() {
            return Ok(None);
        }
        let (numbers, questions): (Vec<usize>, Vec<Question<'_>>) =
            std::mem::take(&mut self.questions).into_iter().unzip();
        let rankings = self.ranker.search(self.catalog, &questions, self.search)?;
        Ok(Some(numbers.into_iter().zip(rankings).collect()))
    }

    fn give_up(&mut self, question: usize) {
        self.questions.retain(|(number, _)| *number != question);
    }

    fn rows_left(&self) -> u64 {
        0
    }
}
