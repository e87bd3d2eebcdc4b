//! The beam search of some questions as a search that goes on a level at a time.

use std::fmt;

use sidereal_core::{Catalog, LeafFilter};

use super::{GroupSearch, Setting};
use crate::Result;
use crate::ranking::Ranking;
use crate::scoring::{NextCodeModel, ScoreNorm};
use crate::search::Search;
use crate::under_way::UnderWay;

/// A question as the model reads it.
#[derive(Debug)]
pub(crate) struct Asked<'a> {
    /// `[T]`
    pub(crate) history: Vec<u32>,
    pub(crate) filter: &'a LeafFilter,
}

/// Histories of so many tokens count as alike, whatever their ratio: reading them costs little beside the levels.
const SHORT: usize = 32;

/// The groups of some questions, one after another: what is kept between two levels is the state of one group.
pub(crate) struct BeamsUnderWay<'a, M: NextCodeModel> {
    setting: Setting<'a, M>,
    /// Questions that have not begun and their numbers; that with the shortest history is the last.
    waiting: Vec<(usize, Asked<'a>)>,
    group: Option<Group<'a, M::State>>,
}

/// A group that has begun.
struct Group<'a, S> {
    /// The question of each place; none where it was given up.
    numbers: Vec<Option<usize>>,
    search: GroupSearch<'a, S>,
}

impl<'a, M: NextCodeModel> BeamsUnderWay<'a, M> {
    /// # Errors
    /// As [`Setting::new`].
    pub(crate) fn new(
        model: &'a M,
        catalog: &'a Catalog,
        asked: Vec<Asked<'a>>,
        search: &'a Search,
        norm: ScoreNorm,
    ) -> Result<Self> {
        let setting = Setting::new(model, catalog, search, norm)?;
        let mut waiting: Vec<(usize, Asked<'a>)> = asked.into_iter().enumerate().collect();
        waiting.sort_by_key(|(number, asked)| std::cmp::Reverse((asked.history.len(), *number)));
        Ok(Self { setting, waiting, group: None })
    }

    /// Questions that begin together: the shortest, and those that are not much longer, so that a short one does not wait
    /// until a long one is read.
    fn next_group(&mut self) -> Vec<(usize, Asked<'a>)> {
        let shortest = self.waiting.last().map_or(0, |(_, asked)| asked.history.len());
        let is_long = |(_, asked): &(usize, Asked<'_>)| asked.history.len() > (2 * shortest).max(SHORT);
        let most = self.setting.model.requests_per_state().max(1);
        let first = self.waiting.partition_point(is_long);
        let first = first.max(self.waiting.len().saturating_sub(most));
        self.waiting.drain(first..).rev().collect()
    }

    fn begin(&mut self) -> Result<Option<Group<'a, M::State>>> {
        let asked = self.next_group();
        if asked.is_empty() {
            return Ok(None);
        }
        let histories: Vec<&[u32]> = asked.iter().map(|(_, asked)| asked.history.as_slice()).collect();
        let filters: Vec<&'a LeafFilter> = asked.iter().map(|(_, asked)| asked.filter).collect();
        let search = GroupSearch::begin(&self.setting, &histories, &filters)?;
        Ok(Some(Group { numbers: asked.iter().map(|(number, _)| Some(*number)).collect(), search }))
    }
}

impl<M: NextCodeModel> UnderWay for BeamsUnderWay<'_, M> {
    fn step(&mut self) -> Result<Option<Vec<(usize, Ranking)>>> {
        let group = match self.group.take() {
            Some(mut group) => {
                group.search.step(&self.setting)?;
                Some(group)
            }
            None => self.begin()?,
        };
        let Some(group) = group else { return Ok(None) };
        if !group.search.is_done(&self.setting) {
            self.group = Some(group);
            return Ok(Some(Vec::new()));
        }
        let rankings = group.search.finish(&self.setting);
        Ok(Some(group.numbers.into_iter().zip(rankings).filter_map(|(number, found)| Some((number?, found))).collect()))
    }

    fn give_up(&mut self, question: usize) {
        self.waiting.retain(|(number, _)| *number != question);
        let Some(group) = &mut self.group else { return };
        if let Some(at) = group.numbers.iter().position(|number| *number == Some(question)) {
            group.numbers[at] = None;
            group.search.give_up(at);
        }
        if group.numbers.iter().all(Option::is_none) {
            self.group = None;
        }
    }

    fn rows_left(&self) -> u64 {
        let Setting { catalog, search, .. } = self.setting;
        match (&self.group, self.waiting.last()) {
            (Some(group), _) => rows_from(catalog, search, group.search.depth()),
            (None, Some((_, asked))) => rows(catalog, search, asked.history.len()),
            (None, None) => 0,
        }
    }
}

impl<M: NextCodeModel> fmt::Debug for BeamsUnderWay<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let levels = self.group.as_ref().map(|group| group.search.depth());
        f.debug_struct("BeamsUnderWay").field("waiting", &self.waiting.len()).field("levels", &levels).finish()
    }
}

/// Rows that a model computes for one question at most: the tokens of its history, and the beams before each level.
pub(crate) fn rows(catalog: &Catalog, search: &Search, tokens: usize) -> u64 {
    (tokens as u64).saturating_add(rows_from(catalog, search, 1))
}

/// Those of the levels from `depth` on, the first of which is 1.
fn rows_from(catalog: &Catalog, search: &Search, depth: usize) -> u64 {
    let (mut prefixes, mut rows) = (1u64, 0u64);
    for (level, &codes) in (1..catalog.levels()).zip(catalog.codes_per_level()) {
        prefixes = prefixes.saturating_mul(u64::from(codes)).min(catalog.len() as u64);
        if level >= depth {
            rows = rows.saturating_add(prefixes.min(search.widths.at(level - 1) as u64));
        }
    }
    rows
}
