//! Finding items along a graph of neighbours, for catalogs too large to score whole.
//!
//! Items whose codes have similar embeddings get similar scores, so good items are near good items. The search keeps the
//! best few, scores their neighbours, and again (2506.05781, section 3.3). What it has not come across it cannot answer
//! with, so its rankings are a part of the exact ones; how large a part is measured by a test.

use std::collections::HashSet;
use std::sync::OnceLock;

use rayon::prelude::*;
use sidereal_core::metrics::top_k;
use sidereal_core::{Catalog, Error as CoreError, ItemIndex};
use sidereal_nn::rng::Rng;

use super::ranker::{BLOCK, Oracle};
use crate::Result;
use crate::models::repeats::add_to_scores;
use crate::models::unit_length::unit_rows;
use crate::ranker::{Question, Ranker};
use crate::ranking::{Ranking, ScoredItem};
use crate::scoring::ScoreNorm;

/// Items up to which all pairs are compared for the lists of neighbours.
const ALL_PAIRS: usize = 1 << 14;
/// In a larger catalog, items compared for each neighbour that is kept.
const COMPARED: usize = 8;
/// What the starts are drawn by. One number for all questions, so that an answer depends on its question alone.
const START_SEED: u64 = 0x5250_4721;

/// RPG's graph search as a ranker.
#[derive(Debug)]
pub(super) struct GraphRanker {
    oracle: Oracle,
    beams: usize,
    edges: usize,
    steps: usize,
    /// Made when it is first asked.
    graph: OnceLock<Graph>,
}

/// Every item's neighbours, and where searches start.
#[derive(Debug)]
struct Graph {
    /// The most similar items of each, most similar first: `[N][E]`.
    neighbours: Vec<Vec<ItemIndex>>,
    starts: Vec<ItemIndex>,
    /// Items that can be found.
    alive: Vec<ItemIndex>,
}

impl GraphRanker {
    /// Over the oracle's items.
    pub(super) fn new(oracle: Oracle, [beams, edges, steps]: [usize; 3]) -> Self {
        Self { oracle, beams, edges, steps, graph: OnceLock::new() }
    }

    fn graph(&self, catalog: &Catalog) -> Result<&Graph> {
        if let Some(graph) = self.graph.get() {
            return Ok(graph);
        }
        if catalog.len() != self.oracle.items.len() {
            let problem =
                format!("the generator knows {} items, the catalog has {}", self.oracle.items.len(), catalog.len());
            return Err(CoreError::mismatch(problem, "use the catalog that the generator was loaded with").into());
        }
        let graph = Graph::new(&self.oracle, catalog, self.edges, self.beams, ALL_PAIRS)?;
        Ok(self.graph.get_or_init(|| graph))
    }

    /// The best `wanted` of the allowed items that a search comes across, and how many items it scored.
    fn search(
        &self,
        graph: &Graph,
        log_probs: &[f32],
        question: &Question<'_>,
        wanted: usize,
    ) -> (Vec<ScoredItem>, u64) {
        let history: HashSet<ItemIndex> = match self.oracle.repeats {
            0.0 => HashSet::new(),
            _ => question.history.iter().copied().collect(),
        };
        let mut search = Search { oracle: &self.oracle, log_probs, history, seen: HashSet::new(), found: Vec::new() };
        search.visit(graph.starts.iter().copied());
        for _ in 0..self.steps {
            search.expand(graph, self.beams);
        }
        // Too few are allowed of what was found: look further, twice as far each time, and everywhere in the end.
        let mut beams = self.beams;
        let allowed = |found: &[ScoredItem]| found.iter().filter(|s| question.filter.item_alive(s.item)).count();
        while search.found.len() < graph.alive.len() && allowed(&search.found) < wanted {
            beams = beams.saturating_mul(2);
            if !search.expand(graph, beams) {
                let unseen: Vec<ItemIndex> =
                    graph.alive.iter().copied().filter(|item| !search.seen.contains(item)).take(beams).collect();
                search.visit(unseen.into_iter());
            }
        }
        let scored = search.found.len() as u64;
        let mut found = search.found;
        found.retain(|scored| question.filter.item_alive(scored.item));
        found.sort_unstable_by(order);
        found.truncate(wanted);
        (found, scored)
    }
}

/// Best first, and then by number.
fn order(a: &ScoredItem, b: &ScoredItem) -> std::cmp::Ordering {
    b.score.partial_cmp(&a.score).unwrap_or(std::cmp::Ordering::Equal).then(a.item.cmp(&b.item))
}

struct Search<'a> {
    oracle: &'a Oracle,
    log_probs: &'a [f32],
    /// Items whose score says that they were had before.
    history: HashSet<ItemIndex>,
    seen: HashSet<ItemIndex>,
    /// All that was scored.
    found: Vec<ScoredItem>,
}

impl Search<'_> {
    fn visit(&mut self, items: impl Iterator<Item = ItemIndex>) {
        for item in items {
            if self.seen.insert(item) {
                let repeats = if self.history.contains(&item) { self.oracle.repeats } else { 0.0 };
                self.found.push(ScoredItem { item, score: self.oracle.score(self.log_probs, item) + repeats });
            }
        }
    }

    /// Scores the neighbours of the best; whether there were new ones.
    fn expand(&mut self, graph: &Graph, beams: usize) -> bool {
        let before = self.found.len();
        if beams < before {
            self.found.select_nth_unstable_by(beams - 1, order);
        }
        let best: Vec<ItemIndex> = self.found[..beams.min(before)].iter().map(|scored| scored.item).collect();
        for item in best {
            self.visit(graph.neighbours[item as usize].iter().copied());
        }
        self.found.len() > before
    }
}

impl Graph {
    /// Lists of `edges` neighbours, of all items where there are at most `all_pairs`, else of those beside each other.
    fn new(oracle: &Oracle, catalog: &Catalog, edges: usize, starts: usize, all_pairs: usize) -> Result<Self> {
        let alive: Vec<ItemIndex> = (0..catalog.len() as ItemIndex).filter(|&item| catalog.is_alive(item)).collect();
        let similar = Similarities::new(oracle)?;
        let mut neighbours = vec![Vec::new(); catalog.len()];
        if alive.len() <= all_pairs {
            let of = |&item: &ItemIndex| {
                let mut scores = vec![0.0; catalog.len()];
                oracle.items.by_level.sums(&similar.to(oracle, item), &mut scores);
                (0..).zip(&mut scores).filter(|(i, _)| *i == item || !catalog.is_alive(*i)).for_each(|(_, score)| {
                    *score = f32::NEG_INFINITY;
                });
                let best = top_k(&scores, edges, None).into_iter().filter(|(_, score)| *score != f32::NEG_INFINITY);
                best.map(|(item, _)| item).collect::<Vec<_>>()
            };
            let lists: Vec<Vec<ItemIndex>> = alive.par_iter().map(of).collect();
            alive.iter().zip(lists).for_each(|(&item, list)| neighbours[item as usize] = list);
        } else {
            let candidates = beside_each_other(oracle, &alive, edges);
            let of = |(item, candidates): (&ItemIndex, Vec<ItemIndex>)| {
                let values = similar.to(oracle, *item);
                let mut scored: Vec<ScoredItem> = candidates
                    .into_iter()
                    .map(|other| ScoredItem { item: other, score: oracle.score(&values, other) })
                    .collect();
                scored.sort_unstable_by(order);
                scored.truncate(edges);
                scored.into_iter().map(|scored| scored.item).collect::<Vec<_>>()
            };
            let lists: Vec<Vec<ItemIndex>> = alive.par_iter().zip(candidates).map(of).collect();
            alive.iter().zip(lists).for_each(|(&item, list)| neighbours[item as usize] = list);
        }
        let mut drawn = alive.clone();
        Rng::new(START_SEED, "starts").shuffle(&mut drawn);
        drawn.truncate(starts);
        Ok(Self { neighbours, starts: drawn, alive })
    }
}

/// Items that stand near each other when they are sorted by their codes, once from each level on: `[N][..]`, without
/// the item itself.
fn beside_each_other(oracle: &Oracle, alive: &[ItemIndex], edges: usize) -> Vec<Vec<ItemIndex>> {
    let levels = oracle.items.levels();
    let window = (COMPARED * edges).div_ceil(2 * levels).max(1);
    let orders: Vec<Vec<u32>> = (0..levels)
        .into_par_iter()
        .map(|level| {
            let from = |place: u32| {
                let codes = oracle.items.places(alive[place as usize]);
                codes[level..].iter().chain(&codes[..level])
            };
            let mut sorted: Vec<u32> = (0..alive.len() as u32).collect();
            sorted.sort_unstable_by(|&a, &b| from(a).cmp(from(b)).then(a.cmp(&b)));
            sorted
        })
        .collect();
    let mut candidates: Vec<Vec<ItemIndex>> = vec![Vec::with_capacity(2 * window * levels); alive.len()];
    for sorted in &orders {
        for (at, &place) in sorted.iter().enumerate() {
            let near = sorted[at.saturating_sub(window)..at].iter().chain(sorted[at + 1..].iter().take(window));
            candidates[place as usize].extend(near.map(|&place| alive[place as usize]));
        }
    }
    candidates.par_iter_mut().for_each(|list| {
        list.sort_unstable();
        list.dedup();
    });
    candidates
}

/// Cosines between the codes of each level.
struct Similarities {
    /// `[K, K]` of each level.
    levels: Vec<Vec<f32>>,
}

impl Similarities {
    fn new(oracle: &Oracle) -> Result<Self> {
        let table = unit_rows(oracle.table())?;
        let level = |(&first, &codes): (&u32, &usize)| -> Result<Vec<f32>> {
            let rows = table.narrow(0, first as usize, codes)?;
            Ok(rows.matmul(&rows.t()?.contiguous()?)?.flatten_all()?.to_vec1::<f32>()?)
        };
        Ok(Self { levels: oracle.items.firsts().iter().zip(oracle.codes()).map(level).collect::<Result<_>>()? })
    }

    /// How similar each code of each level is to that of an item: `[V]`. Two items are as similar as the sum over levels.
    fn to(&self, oracle: &Oracle, item: ItemIndex) -> Vec<f32> {
        let codes = oracle.items.codes(item).zip(&self.levels).zip(oracle.codes());
        codes.flat_map(|((code, level), &codes)| &level[code as usize * codes..][..codes]).copied().collect()
    }
}

impl Ranker for GraphRanker {
    fn rank(&self, catalog: &Catalog, questions: &[Question<'_>], beam: usize) -> Result<Vec<Ranking>> {
        if beam == 0 {
            let mend = "ask for at least as many as are wanted";
            return Err(CoreError::config("beam", "0 items find nothing", mend).into());
        }
        let graph = self.graph(catalog)?;
        let of_block = |questions: &[Question<'_>]| -> Result<Vec<Ranking>> {
            let histories: Vec<&[ItemIndex]> = questions.iter().map(|question| question.history).collect();
            let log_probs = self.oracle.log_probs(&histories)?;
            self.oracle.check_finite(&log_probs)?;
            let answer = |(question, log_probs): (&Question<'_>, &[f32])| {
                let (items, scored) = self.search(graph, log_probs, question, beam);
                Ranking { norm: ScoreNorm::Level, ..Ranking::of_items(catalog, items, scored) }
            };
            Ok(questions.iter().zip(log_probs.chunks_exact(self.oracle.vocab())).map(answer).collect())
        };
        let blocks: Vec<Vec<Ranking>> = questions.par_chunks(BLOCK).map(of_block).collect::<Result<_>>()?;
        Ok(blocks.into_iter().flatten().collect())
    }

    fn score_all(&self, catalog: &Catalog, question: &Question<'_>) -> Result<Vec<f32>> {
        let log_probs = self.oracle.log_probs(&[question.history])?;
        self.oracle.check_finite(&log_probs)?;
        let mut scores = vec![0.0; self.oracle.items.len()];
        self.oracle.items.by_level.sums(&log_probs, &mut scores);
        add_to_scores(self.oracle.repeats, question.history, &mut scores);
        for (item, score) in (0..).zip(&mut scores) {
            if !question.filter.item_alive(item) || !catalog.is_alive(item) {
                *score = f32::NEG_INFINITY;
            }
        }
        Ok(scores)
    }

    fn scores_all_cheaply(&self) -> bool {
        false
    }

    fn norm(&self) -> ScoreNorm {
        ScoreNorm::Level
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use candle_core::Device;
    use sidereal_core::{CollisionPolicy, ItemId, SemanticIds};

    use crate::models::rpg::RpgConfig;
    use crate::network::Materials;

    /// Items in groups that differ from each other in a few of their codes.
    fn grouped(items: usize, levels: usize) -> Catalog {
        let mut rng = Rng::new(4, "grouped");
        let centers: Vec<Vec<u16>> =
            (0..items / 20).map(|_| (0..levels).map(|_| rng.below(32) as u16).collect()).collect();
        let mut codes = Vec::new();
        for item in 0..items {
            for &code in &centers[item % centers.len()] {
                codes.push(if rng.below(4) == 0 { rng.below(32) as u16 } else { code });
            }
        }
        let ids: Vec<ItemId> = (0..items).map(|i| ItemId::from(format!("item {i}"))).collect();
        let sids = SemanticIds::new(levels, codes).unwrap();
        Catalog::build(&ids, &sids, &vec![32; levels], CollisionPolicy::Postings, None).unwrap()
    }

    #[test]
    fn neighbours_found_beside_each_other_are_those_of_all_pairs() {
        let catalog = grouped(1000, 16);
        let materials = Materials::of_catalog(&catalog, &Device::Cpu);
        let config = RpgConfig { d_model: 32, ..RpgConfig::default() };
        let oracle = config.network(&materials, 1000, 1).unwrap().oracle(&materials).unwrap();
        let lists = |all_pairs| Graph::new(&oracle, &catalog, 10, 5, all_pairs).unwrap().neighbours;
        let (exact, near) = (lists(1000), lists(999));
        let similar = Similarities::new(&oracle).unwrap();
        let (mut shared, mut listed) = (0, 0);
        for (item, (exact, near)) in (0..).zip(exact.iter().zip(&near)) {
            assert_eq!((exact.len(), near.len()), (10, 10));
            assert!(!exact.contains(&item) && !near.contains(&item));
            shared += exact.iter().filter(|other| near.contains(other)).count();
            listed += exact.len();
            // Most similar first, and nothing more similar is left out of the lists of all pairs.
            let values = similar.to(&oracle, item);
            let scores: Vec<f32> = exact.iter().map(|&other| oracle.score(&values, other)).collect();
            assert!(scores.windows(2).all(|pair| pair[0] >= pair[1] - 1e-4));
            let better = (0..1000).filter(|&other| other != item && oracle.score(&values, other) > scores[9] + 1e-4);
            assert!(better.count() <= 9);
        }
        assert!(shared * 10 >= listed * 8, "{shared} of {listed}");
    }
}
