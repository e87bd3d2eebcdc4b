//! The answer to a request: catalog items, each once, best first.

use sidereal_core::{Catalog, ItemIndex, LeafFilter};

use crate::scoring::ScoreNorm;

/// An item and its score.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScoredItem {
    /// The item.
    pub item: ItemIndex,
    /// Sum of the log-probabilities of its codes.
    pub score: f32,
}

/// A leaf of the trie (a semantic ID) and its score.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScoredLeaf {
    /// The leaf.
    pub leaf: u32,
    /// Sum of the log-probabilities of its codes.
    pub score: f32,
}

/// What a search did for one request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SearchStats {
    /// Children that were scored, over all levels.
    pub candidates: u64,
    /// Beams kept after each level, `[L]`. All zero: the filter leaves no item.
    pub beams: Vec<u32>,
    /// Beams whose children were passed over, over all levels, because none could be among the best.
    pub pruned: u64,
}

/// The items of one request by (score descending, semantic ID ascending, order of postings).
#[derive(Debug, Clone, PartialEq)]
pub struct Ranking {
    /// Alive catalog items, each once. Items that share a semantic ID share its score.
    pub items: Vec<ScoredItem>,
    /// The semantic IDs behind them, in the same order.
    pub leaves: Vec<ScoredLeaf>,
    /// Over which tokens the scores are normalised.
    pub norm: ScoreNorm,
    /// What the search did.
    pub stats: SearchStats,
}

impl Ranking {
    /// Lists the alive items of leaves that are in order already.
    pub(crate) fn of_leaves(
        catalog: &Catalog,
        filter: &LeafFilter,
        leaves: Vec<ScoredLeaf>,
        norm: ScoreNorm,
        stats: SearchStats,
    ) -> Self {
        let items = leaves
            .iter()
            .flat_map(|l| catalog.items_of(l.leaf).map(|item| ScoredItem { item, score: l.score }))
            .filter(|scored| catalog.is_alive(scored.item) && filter.item_alive(scored.item))
            .collect();
        Self { items, leaves, norm, stats }
    }

    /// Items that are in order already, each with a score of its own. A leaf has the score of its best item.
    pub(crate) fn of_items(catalog: &Catalog, items: Vec<ScoredItem>, candidates: u64) -> Self {
        let mut leaves: Vec<ScoredLeaf> = Vec::with_capacity(items.len());
        let mut listed = std::collections::HashSet::new();
        for scored in &items {
            if let Some(leaf) = catalog.leaf_of(scored.item).filter(|&leaf| listed.insert(leaf)) {
                leaves.push(ScoredLeaf { leaf, score: scored.score });
            }
        }
        Self { items, leaves, norm: ScoreNorm::Children, stats: SearchStats { candidates, ..SearchStats::default() } }
    }

    /// The 0-based rank of an item, ties counted against it: how many other items score at least as much. `None` if
    /// the item is not in the ranking.
    pub fn rank_of(&self, target: ItemIndex) -> Option<u32> {
        let score = self.items.iter().find(|scored| scored.item == target)?.score;
        Some(self.items.iter().take_while(|scored| scored.score >= score).count() as u32 - 1)
    }
}
