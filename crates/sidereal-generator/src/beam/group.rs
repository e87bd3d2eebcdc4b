//! The search of one group of requests, a level at a time.

use std::borrow::Cow;

use sidereal_core::{Catalog, LeafFilter};

use super::{Beam, Best, check_fit, log_prob, log_sum_exp, not_finite, places};
use crate::Result;
use crate::ranking::{Ranking, ScoredLeaf, SearchStats};
use crate::scoring::{CodeScores, NextCodeModel, ScoreNorm};
use crate::search::Search;

/// What all groups of a search share.
#[derive(Debug)]
pub(crate) struct Setting<'a, M> {
    pub(crate) model: &'a M,
    pub(crate) catalog: &'a Catalog,
    pub(crate) search: &'a Search,
    pub(crate) norm: ScoreNorm,
}

impl<'a, M: NextCodeModel> Setting<'a, M> {
    /// # Errors
    /// A search that finds nothing or has other levels than the catalog; a model that does not fit the catalog.
    pub(crate) fn new(model: &'a M, catalog: &'a Catalog, search: &'a Search, norm: ScoreNorm) -> Result<Self> {
        search.check(catalog.levels())?;
        check_fit(model.vocab(), catalog)?;
        Ok(Self { model, catalog, search, norm })
    }
}

/// A group of requests whose semantic IDs are written up to some level. Each method is handed the setting that it began
/// with.
pub(crate) struct GroupSearch<'a, S> {
    filters: Vec<Cow<'a, LeafFilter>>,
    state: S,
    scores: CodeScores,
    /// Beams of each request, best first.
    beams: Vec<Vec<Beam>>,
    stats: Vec<SearchStats>,
    /// Levels that are written.
    depth: usize,
}

impl<'a, S> GroupSearch<'a, S> {
    /// Reads the histories and writes the first level.
    ///
    /// # Errors
    /// A filter of another version of the catalog; as [`GroupSearch::step`].
    pub(crate) fn begin<M: NextCodeModel<State = S>>(
        setting: &Setting<'_, M>,
        histories: &[&[u32]],
        filters: &[&'a LeafFilter],
    ) -> Result<Self> {
        let filters: Vec<Cow<'a, LeafFilter>> =
            filters.iter().map(|filter| filter.for_catalog(setting.catalog)).collect::<Result<_, _>>()?;
        let (state, scores) = setting.model.begin(histories, setting.norm)?;
        let beams = vec![vec![Beam::root(setting.catalog)]; histories.len()];
        let stats = vec![SearchStats::default(); histories.len()];
        let mut group = Self { filters, state, scores, beams, stats, depth: 0 };
        if !group.is_done(setting) {
            group.choose(setting)?;
        }
        Ok(group)
    }

    /// Whether the semantic IDs are whole.
    pub(crate) fn is_done<M>(&self, setting: &Setting<'_, M>) -> bool {
        self.depth >= setting.catalog.levels()
    }

    /// Levels that are written.
    pub(crate) fn depth(&self) -> usize {
        self.depth
    }

    /// Nothing more is computed for the request at a place; its ranking will be empty.
    pub(crate) fn give_up(&mut self, at: usize) {
        if let Some(beams) = self.beams.get_mut(at) {
            beams.clear();
        }
    }

    /// Writes the next level.
    ///
    /// # Errors
    /// A log-probability that is not finite, among those that are looked at; whatever the model says.
    pub(crate) fn step<M: NextCodeModel<State = S>>(&mut self, setting: &Setting<'_, M>) -> Result<()> {
        let parents: Vec<u32> = self.beams.iter().flatten().map(|beam| beam.parent).collect();
        let codes: Vec<u16> = self.beams.iter().flatten().map(|beam| beam.code).collect();
        if !parents.is_empty() {
            (self.state, self.scores) = setting.model.step(&self.state, &parents, &codes, setting.norm)?;
        }
        self.choose(setting)
    }

    /// Keeps the best beams of a level whose scores are there.
    fn choose<M>(&mut self, setting: &Setting<'_, M>) -> Result<()> {
        let Setting { catalog, search, norm, .. } = *setting;
        let (depth, width) = (self.depth, search.widths.at(self.depth));
        let mut first_row = 0;
        for ((filter, kept), stats) in self.filters.iter().zip(&mut self.beams).zip(&mut self.stats) {
            let mut best = Best::new(width, search.quota.map(|quota| quota.beams(width)));
            let level = LevelView { catalog, depth, filter, norm };
            for (at, (beam, place)) in kept.iter().zip(places(kept)).enumerate() {
                if best.is_beyond(beam.score) {
                    stats.pruned += (kept.len() - at) as u64;
                    break;
                }
                let row = first_row + at;
                stats.candidates += level.expand(*beam, place, row as u32, self.scores.row(row), &mut best)?;
            }
            first_row += kept.len();
            *kept = best.into_sorted();
            stats.beams.push(kept.len() as u32);
        }
        debug_assert!(first_row == self.scores.rows() || first_row == 0);
        self.depth += 1;
        Ok(())
    }

    /// The ranking of each request.
    pub(crate) fn finish<M>(self, setting: &Setting<'_, M>) -> Vec<Ranking> {
        let Setting { catalog, norm, .. } = *setting;
        let rankings = self.filters.iter().zip(self.beams).zip(self.stats).map(|((filter, beams), stats)| {
            let leaf = |beam: &Beam| ScoredLeaf { leaf: catalog.leaf(beam.node), score: beam.score };
            Ranking::of_leaves(catalog, filter, beams.iter().map(leaf).collect(), norm, stats)
        });
        rankings.collect()
    }
}

/// One level of the catalog as one request sees it.
struct LevelView<'a> {
    catalog: &'a Catalog,
    depth: usize,
    filter: &'a LeafFilter,
    norm: ScoreNorm,
}

impl LevelView<'_> {
    /// Offers all alive children of a beam; how many children there were.
    fn expand(&self, beam: Beam, place: u32, row: u32, log_probs: &[f32], best: &mut Best) -> Result<u64> {
        let children = self.catalog.children(self.depth, beam.node);
        let base = match self.norm {
            ScoreNorm::Children => {
                let alive = children.clone().filter(|&(_, node)| self.filter.alive(self.depth + 1, node));
                beam.score - log_sum_exp(alive.filter_map(|(code, _)| log_probs.get(usize::from(code)).copied()))
            }
            ScoreNorm::Full | ScoreNorm::Level => beam.score,
        };
        let mut candidates = 0;
        for (code, node) in children {
            candidates += 1;
            let score = base + log_prob(self.depth, code, log_probs)?;
            let order = u64::from(place) << 16 | u64::from(code);
            let first = if self.depth == 0 { code } else { beam.first };
            let candidate = Beam { score, node, order, parent: row, code, first };
            // The filter is asked last: few candidates are so good that its answer matters.
            if (score.is_finite() && !best.admits(&candidate)) || !self.filter.alive(self.depth + 1, node) {
                continue;
            }
            if !score.is_finite() {
                return Err(not_finite(self.depth, code, score));
            }
            best.keep(candidate);
        }
        Ok(candidates)
    }
}
