//! The exact scorer: every item of the catalog, for one history.
//!
//! It walks the whole trie depth by depth in chunks of consecutive nodes, which the model sees as so many prefixes of
//! one request. A chunk's children are finished before the next chunk begins, so memory holds one chunk per level.
//! It is the oracle of the beam search, and the better choice where the trie is small.

use sidereal_core::catalog::Node;
use sidereal_core::{Catalog, ItemIndex, LeafFilter};

use crate::Result;
use crate::beam::{check_fit, log_prob, log_sum_exp, not_finite};
use crate::ranking::{Ranking, ScoredLeaf, SearchStats};
use crate::scoring::{CodeScores, ItemScorer, NextCodeModel, ScoreNorm};

/// Prefixes that the model sees at once.
const CHUNK: usize = 1024;

/// A model and a catalog as an [`ItemScorer`].
#[derive(Debug)]
pub struct ExactScorer<'a, M> {
    model: &'a M,
    catalog: &'a Catalog,
    norm: ScoreNorm,
    max_history: usize,
}

impl<'a, M: NextCodeModel> ExactScorer<'a, M> {
    /// Scores with `model` over `catalog`; histories are cut to their most recent `max_history` items.
    ///
    /// # Errors
    /// A model that does not fit the catalog.
    pub fn new(model: &'a M, catalog: &'a Catalog, norm: ScoreNorm, max_history: usize) -> Result<Self> {
        check_fit(model.vocab(), catalog)?;
        Ok(Self { model, catalog, norm, max_history })
    }

    /// Scores of all leaves ([`Catalog::leaf`]), dead ones minus infinity: `[leaves]`.
    ///
    /// # Errors
    /// A log-probability that is not finite; whatever the model says.
    pub fn leaf_scores(&self, history: &[u32], filter: &LeafFilter) -> Result<Vec<f32>> {
        let filter = &*filter.for_catalog(self.catalog)?;
        let mut scores = vec![f32::NEG_INFINITY; self.catalog.leaves() as usize];
        if filter.alive(0, self.catalog.root()) {
            let (state, level) = self.model.begin(&[history], self.norm)?;
            let root = Chunk { state, scores: level, nodes: vec![Prefix { node: self.catalog.root(), score: 0.0 }] };
            self.descend(0, &root, filter, &mut scores)?;
        }
        Ok(scores)
    }

    /// Scores of all items, denied and removed ones minus infinity: `[N]`.
    ///
    /// # Errors
    /// As [`ExactScorer::leaf_scores`].
    pub fn item_scores(&self, history: &[u32], filter: &LeafFilter) -> Result<Vec<f32>> {
        let leaves = self.leaf_scores(history, filter)?;
        let leaf = |item: ItemIndex| filter.item_alive(item).then(|| self.catalog.leaf_of(item)).flatten();
        let score = |item: ItemIndex| leaf(item).map_or(f32::NEG_INFINITY, |leaf| leaves[leaf as usize]);
        Ok((0..self.catalog.len() as ItemIndex).map(score).collect())
    }

    /// The exact ranking of all alive items.
    ///
    /// # Errors
    /// As [`ExactScorer::leaf_scores`].
    pub fn ranking(&self, history: &[u32], filter: &LeafFilter) -> Result<Ranking> {
        let scores = self.leaf_scores(history, filter)?;
        let mut leaves: Vec<ScoredLeaf> = (0u32..)
            .zip(&scores)
            .filter(|(_, score)| **score != f32::NEG_INFINITY)
            .map(|(leaf, &score)| ScoredLeaf { leaf, score })
            .collect();
        leaves.sort_by(|a, b| {
            let by_score = b.score.partial_cmp(&a.score).unwrap_or(std::cmp::Ordering::Equal);
            by_score.then_with(|| self.catalog.compare_leaves(a.leaf, b.leaf))
        });
        let stats = SearchStats { candidates: leaves.len() as u64, ..SearchStats::default() };
        Ok(Ranking::of_leaves(self.catalog, filter, leaves, self.norm, stats))
    }

    fn descend(&self, depth: usize, chunk: &Chunk<M::State>, filter: &LeafFilter, out: &mut [f32]) -> Result<()> {
        let mut children: Vec<(u32, u16, Prefix)> = Vec::new();
        for (row, prefix) in chunk.nodes.iter().enumerate() {
            let log_probs = chunk.scores.row(row);
            let children_of = self.catalog.children(depth, prefix.node);
            let alive = children_of.filter(|&(_, node)| filter.alive(depth + 1, node));
            let base = match self.norm {
                ScoreNorm::Children => {
                    prefix.score
                        - log_sum_exp(alive.clone().filter_map(|(code, _)| log_probs.get(usize::from(code)).copied()))
                }
                ScoreNorm::Full | ScoreNorm::Level => prefix.score,
            };
            for (code, node) in alive {
                let score = base + log_prob(depth, code, log_probs)?;
                if !score.is_finite() {
                    return Err(not_finite(depth, code, score));
                }
                children.push((row as u32, code, Prefix { node, score }));
            }
        }
        if depth + 1 == self.catalog.levels() {
            for (_, _, leaf) in children {
                out[self.catalog.leaf(leaf.node) as usize] = leaf.score;
            }
            return Ok(());
        }
        for part in children.chunks(CHUNK) {
            let parents: Vec<u32> = part.iter().map(|child| child.0).collect();
            let codes: Vec<u16> = part.iter().map(|child| child.1).collect();
            let (state, scores) = self.model.step(&chunk.state, &parents, &codes, self.norm)?;
            let nodes = part.iter().map(|child| child.2).collect();
            self.descend(depth + 1, &Chunk { state, scores, nodes }, filter, out)?;
        }
        Ok(())
    }
}

/// Prefixes that the model has seen together, and its scores for their next codes.
struct Chunk<S> {
    state: S,
    scores: CodeScores,
    nodes: Vec<Prefix>,
}

#[derive(Clone, Copy)]
struct Prefix {
    node: Node,
    score: f32,
}

impl<M: NextCodeModel> ItemScorer for ExactScorer<'_, M> {
    fn name(&self) -> &str {
        "exact"
    }

    fn items(&self) -> usize {
        self.catalog.len()
    }

    fn score_block(&self, histories: &[&[ItemIndex]], scores: &mut [f32]) -> Result<()> {
        let items = self.items();
        assert_eq!(scores.len(), histories.len() * items, "scores must be [B, N]");
        for (history, scores) in histories.iter().zip(scores.chunks_exact_mut(items.max(1))) {
            let tokens = crate::batches::history_tokens(self.catalog, self.model.vocab(), history, self.max_history);
            scores.copy_from_slice(&self.item_scores(&tokens, &LeafFilter::allow_all())?);
        }
        Ok(())
    }
}
