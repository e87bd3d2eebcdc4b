//! What is known beside the generator: counts over training parts, item vectors, the items' words, and when items were
//! wanted.

use std::collections::HashMap;

use sidereal_core::{Embeddings, Error as CoreError, Histories, ItemIndex, Split};

use super::recency::Recency;
use super::words::Words;
use crate::Result;
use crate::baselines::Statistics;
use crate::baselines::cooccurrence::{Cooccurrence, Direction};
use crate::baselines::neighbours::{Sums, recent};

/// Steps between two items of a history that still count.
const REACH: usize = 5;

/// What counts are made of.
#[derive(Clone, Copy)]
pub struct KnowledgeJob<'a> {
    /// All users' events.
    pub histories: &'a Histories,
    /// Which of them may be counted.
    pub split: &'a Split,
    /// Items of the catalog, N.
    pub items: usize,
    /// Items that no ranking may hold.
    pub removed: &'a [ItemIndex],
    /// A vector an item, where there are some.
    pub vectors: Option<&'a Embeddings>,
    /// A text an item (empty where there is none), where there are some: `[N]`.
    pub texts: Option<&'a [String]>,
    /// The time of every event in the histories' order, where it is known at least roughly.
    pub times: Option<&'a [i64]>,
}

/// Counts, vectors, words and times, ready to be asked.
#[derive(Debug)]
pub struct Knowledge {
    statistics: Statistics,
    /// Directly after.
    after: Cooccurrence,
    /// Within [`REACH`] steps before.
    before: Cooccurrence,
    words: Option<Words>,
    recency: Option<Recency>,
    /// The most popular first, removed items left out.
    by_popularity: Vec<ItemIndex>,
}

impl Knowledge {
    /// Counts the training parts.
    ///
    /// # Errors
    /// Parts of different catalogs or histories.
    pub fn new(job: &KnowledgeJob<'_>) -> Result<Self> {
        let statistics = Statistics::new(job.histories, job.split, job.items, job.vectors)?;
        let statistics = statistics.without(job.removed.iter().copied())?;
        if let Some(texts) = job.texts.filter(|texts| texts.len() != job.items) {
            let problem = format!("{} texts, but the catalog has {} items", texts.len(), job.items);
            return Err(CoreError::mismatch(problem, "give one text an item, in catalog order").into());
        }
        if let Some(times) = job.times.filter(|times| times.len() != job.histories.events()) {
            let problem = format!("{} times, but the histories have {} events", times.len(), job.histories.events());
            return Err(CoreError::mismatch(problem, "give one time an event").into());
        }
        let training = || (0..job.histories.len()).map(|user| job.split.training_items(job.histories, user));
        let mut by_popularity: Vec<ItemIndex> = (0..job.items as ItemIndex).collect();
        by_popularity.sort_by_key(|&item| std::cmp::Reverse(statistics.popularity[item as usize]));
        by_popularity.retain(|item| !job.removed.contains(item));
        Ok(Self {
            after: Cooccurrence::directed(training, 1, job.items, Direction::After),
            before: Cooccurrence::directed(training, REACH, job.items, Direction::Before),
            words: job.texts.map(Words::new),
            recency: job.times.map(|times| Recency::new(job.histories, job.split, times, job.items)),
            by_popularity,
            statistics,
        })
    }

    /// N.
    pub fn items(&self) -> usize {
        self.statistics.items()
    }

    /// Training interactions of an item.
    pub(super) fn popularity(&self, item: ItemIndex) -> f64 {
        f64::from(self.statistics.popularity[item as usize])
    }

    /// The most popular first.
    pub(super) fn by_popularity(&self) -> &[ItemIndex] {
        &self.by_popularity
    }

    /// The sums of the baseline `neighbours`.
    pub(super) fn neighbours(&self, history: &[ItemIndex]) -> HashMap<ItemIndex, f64> {
        Sums::new(&self.statistics).of(history).into_iter().collect()
    }

    /// How often items came directly after the history's last.
    pub(super) fn after(&self, history: &[ItemIndex]) -> HashMap<ItemIndex, f64> {
        history.last().map_or_else(HashMap::new, |&last| self.after.row(last).collect())
    }

    /// How often items stood shortly before recent ones, 1/distance each.
    pub(super) fn before(&self, history: &[ItemIndex]) -> HashMap<ItemIndex, f64> {
        let mut sums = HashMap::new();
        for (near, weight) in recent(history) {
            self.before.row(near).for_each(|(item, count)| *sums.entry(item).or_insert(0.0) += weight * count);
        }
        sums
    }

    /// Cosines to recent items, weighted and added, of all items: `[N]`.
    pub(super) fn similarity(&self, history: &[ItemIndex]) -> Option<Vec<f32>> {
        let vectors = self.statistics.vectors.as_ref()?;
        let mut query = vec![0.0; vectors.width()];
        recent(history).for_each(|(item, weight)| vectors.add_to(&mut query, item, weight));
        let mut all = Vec::with_capacity(self.items());
        vectors.products(&query, |_, products| all.extend(products.iter().map(|&product| product as f32)));
        Some(all)
    }

    /// The largest cosine to one of some items, of all items: `[N]`.
    pub(super) fn most_similar(&self, to: &[ItemIndex]) -> Option<Vec<f32>> {
        let vectors = self.statistics.vectors.as_ref()?;
        let mut all = vec![0f32; self.items()];
        let mut queries = vec![0.0; to.len() * vectors.width()];
        for (query, &item) in queries.chunks_exact_mut(vectors.width()).zip(to) {
            vectors.add_to(query, item, 1.0);
        }
        vectors.products(&queries, |first, products| {
            let tile = products.len() / to.len().max(1);
            for products in products.chunks_exact(tile.max(1)) {
                let all = &mut all[first..first + tile];
                all.iter_mut().zip(products).for_each(|(most, &product)| *most = most.max(product as f32));
            }
        });
        Some(all)
    }

    /// Shared words with recent items: cosines of their words' weights, weighted and added.
    pub(super) fn words(&self, history: &[ItemIndex]) -> HashMap<ItemIndex, f64> {
        self.words.as_ref().map_or_else(HashMap::new, |words| words.similar(recent(history)))
    }

    /// What is known of the time of the history's end.
    pub(super) fn recency(&self) -> Option<&Recency> {
        self.recency.as_ref()
    }
}
