//! Which items of a ranking are shown, where the best alone would be too much of the same.

use std::collections::HashMap;

use sidereal_core::{Catalog, Embeddings, Error as CoreError, ItemIndex};

use crate::Result;
use crate::ranking::ScoredItem;
use crate::search::Quota;

/// Vectors that say how alike two items are: the cosine of the angle between them.
#[derive(Debug, Clone)]
pub enum ItemVectors {
    /// What the codes stand for: an item's vector is the sum of its codewords. `[K, d]` a level; codes of further levels
    /// (suffixes) stand for nothing.
    Codewords(Vec<Embeddings>),
    /// A vector an item, `[N, D]`; items beyond are like no other.
    OfItems(Embeddings),
}

impl ItemVectors {
    /// An item's vector, scaled to length 1; zeros where nothing is known of it.
    ///
    /// # Shapes
    /// result: `[d]` or `[D]`
    fn unit(&self, catalog: &Catalog, item: ItemIndex) -> Vec<f32> {
        let mut vector = match self {
            Self::Codewords(codebooks) => {
                let mut sum = vec![0.0; codebooks.first().map_or(0, Embeddings::width)];
                for (book, &code) in codebooks.iter().zip(catalog.semantic_id(item)) {
                    if usize::from(code) < book.rows() {
                        sum.iter_mut().zip(book.row(code.into())).for_each(|(sum, value)| *sum += value);
                    }
                }
                sum
            }
            Self::OfItems(vectors) if (item as usize) < vectors.rows() => vectors.row(item as usize).to_vec(),
            Self::OfItems(vectors) => vec![0.0; vectors.width()],
        };
        let length = vector.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        if length > 0.0 {
            vector.iter_mut().for_each(|v| *v = (f64::from(*v) / length) as f32);
        }
        vector
    }
}

/// Maximal marginal relevance: each place goes to the item with the largest
/// `lambda * relevance - (1 - lambda) * (its likeness to the most alike item that has a place)`.
///
/// Carbonell and Goldstein, "The use of MMR, diversity-based reranking for reordering documents and producing summaries",
/// SIGIR 1998. Relevance is the score, moved linearly so that a ranking's best item has 1 and its last 0.
#[derive(Debug, Clone)]
pub struct Mmr {
    lambda: f64,
    vectors: ItemVectors,
}

impl Mmr {
    /// With `lambda` 1 the ranking stays as it is, with 0 it counts for nothing but ties.
    ///
    /// # Errors
    /// A lambda outside 0 to 1.
    pub fn new(lambda: f64, vectors: ItemVectors) -> Result<Self> {
        if !(0.0..=1.0).contains(&lambda) {
            let problem = format!("a lambda of {lambda} weighs nothing against anything");
            return Err(CoreError::config("mmr", problem, "give a number from 0 (unlike) to 1 (likely)").into());
        }
        Ok(Self { lambda, vectors })
    }
}

/// What an answer is chosen by beside scores. By default nothing: the best are shown.
#[derive(Debug, Clone, Default)]
pub struct Diversity {
    per_code: Option<usize>,
    mmr: Option<Mmr>,
}

impl Diversity {
    /// At most `per_code` items with the same code at level 0, and those that `mmr` prefers.
    ///
    /// # Errors
    /// A quota of 0.
    pub fn new(per_code: Option<usize>, mmr: Option<Mmr>) -> Result<Self> {
        Quota::check(per_code)?;
        Ok(Self { per_code, mmr })
    }

    /// The quota that a search for `k` items needs.
    pub fn quota(&self, k: usize) -> Option<Quota> {
        self.per_code.map(|per_code| Quota { per_code, wanted: k })
    }

    /// Up to `k` items of a ranking, in the order of their places: fewer only where fewer fit the quota. Of items that are
    /// as good, the one that the ranking has first comes first.
    ///
    /// Items that were `shown` before count as having places where likeness is asked for, but not in the quota, which is
    /// one of each answer.
    pub fn choose(&self, catalog: &Catalog, ranked: &[ScoredItem], shown: &[ItemIndex], k: usize) -> Vec<ScoredItem> {
        if self.per_code.is_none() && self.mmr.is_none() {
            return ranked.iter().take(k).copied().collect();
        }
        let mut places = Places { most: self.per_code.unwrap_or(usize::MAX), of_code: HashMap::new() };
        let Some(mmr) = &self.mmr else {
            return ranked.iter().filter(|scored| places.take(catalog, scored.item)).take(k).copied().collect();
        };
        let best = ranked.iter().map(|scored| f64::from(scored.score)).fold(f64::NEG_INFINITY, f64::max);
        let worst = ranked.iter().map(|scored| f64::from(scored.score)).fold(f64::INFINITY, f64::min);
        let relevance = |score: f32| if best > worst { (f64::from(score) - worst) / (best - worst) } else { 1.0 };
        let mut open: Vec<Candidate> = ranked
            .iter()
            .map(|&scored| Candidate {
                scored,
                relevance: relevance(scored.score),
                vector: mmr.vectors.unit(catalog, scored.item),
                likeness: None,
            })
            .collect();
        for &item in shown {
            let vector = mmr.vectors.unit(catalog, item);
            open.iter_mut().for_each(|candidate| candidate.see(&vector));
        }
        let mut chosen = Vec::with_capacity(k.min(open.len()));
        while chosen.len() < k {
            let mut first: Option<(usize, f64)> = None;
            for (at, candidate) in open.iter().enumerate() {
                let value = mmr.lambda * candidate.relevance - (1.0 - mmr.lambda) * candidate.likeness.unwrap_or(0.0);
                if first.is_none_or(|(_, other)| value > other) {
                    first = Some((at, value));
                }
            }
            let Some((at, _)) = first else { break };
            let taken = open.remove(at);
            if places.take(catalog, taken.scored.item) {
                open.iter_mut().for_each(|candidate| candidate.see(&taken.vector));
                chosen.push(taken.scored);
            }
        }
        chosen
    }
}

/// An item that has no place yet.
struct Candidate {
    scored: ScoredItem,
    relevance: f64,
    vector: Vec<f32>,
    /// To the most alike item that has a place; none has one yet.
    likeness: Option<f64>,
}

impl Candidate {
    fn see(&mut self, vector: &[f32]) {
        let cosine: f64 = self.vector.iter().zip(vector).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        self.likeness = Some(self.likeness.map_or(cosine, |likeness| likeness.max(cosine)));
    }
}

/// The places of an answer, counted by first code.
struct Places {
    most: usize,
    of_code: HashMap<u16, usize>,
}

impl Places {
    /// Gives an item a place, if its first code has one left.
    fn take(&mut self, catalog: &Catalog, item: ItemIndex) -> bool {
        let Some(&first) = catalog.semantic_id(item).first() else { return true };
        let taken = self.of_code.entry(first).or_default();
        let left = *taken < self.most;
        *taken += usize::from(left);
        left
    }
}
