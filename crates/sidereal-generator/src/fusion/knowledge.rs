//! What is known beside the generator: counts over training parts, what was learnt from them, item vectors, the items'
//! words, and when items were wanted.

use sidereal_core::{Embeddings, Error as CoreError, Histories, ItemIndex, Split};

use super::learnt::Learnt;
use super::linear::LinearModel;
use super::recency::Recency;
use super::sums::SparseSums;
use super::words::Words;
use crate::Result;
use crate::baselines::cooccurrence::{Cooccurrence, Direction};
use crate::baselines::neighbours::{Neighbours, Sums, recent};
use crate::baselines::statistics::check;
use crate::baselines::unit_vectors::UnitVectors;

/// Steps between two items of a history that still count.
const REACH: usize = 5;

/// What counts are made of.
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
    /// What was learnt from the same training parts; items beyond those that it knows are new since then.
    pub learnt: Learnt,
}

/// Counts, vectors, words and times, ready to be asked.
#[derive(Debug)]
pub struct Knowledge {
    /// Training interactions of each item, `[N]`.
    popularity: Vec<u32>,
    neighbours: Neighbours,
    /// Directly after.
    after: Cooccurrence,
    /// Within [`REACH`] steps before.
    before: Cooccurrence,
    vectors: Option<UnitVectors>,
    linear: Option<LinearModel>,
    item2vec: Option<UnitVectors>,
    user_item: Option<UnitVectors>,
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
    pub fn new(job: KnowledgeJob<'_>) -> Result<Self> {
        check(job.histories, job.items, job.vectors)?;
        let popularity = job.split.training_popularity(job.histories, job.items);
        if let Some(texts) = job.texts.filter(|texts| texts.len() != job.items) {
            let problem = format!("{} texts, but the catalog has {} items", texts.len(), job.items);
            return Err(CoreError::mismatch(problem, "give one text an item, in catalog order").into());
        }
        if let Some(times) = job.times.filter(|times| times.len() != job.histories.events()) {
            let problem = format!("{} times, but the histories have {} events", times.len(), job.histories.events());
            return Err(CoreError::mismatch(problem, "give one time an event").into());
        }
        if job.learnt.items() > job.items {
            let problem =
                format!("the fusion learnt from {} items, but the catalog has {}", job.learnt.items(), job.items);
            return Err(CoreError::mismatch(problem, "fit the fusion again").into());
        }
        let Learnt { linear, item2vec, user_item } = job.learnt;
        let unit = |vectors: Option<Embeddings>| vectors.map(|vectors| padded(&vectors, job.items)).transpose();
        let training = || (0..job.histories.len()).map(|user| job.split.training_items(job.histories, user));
        let mut by_popularity: Vec<ItemIndex> = (0..job.items as ItemIndex).collect();
        by_popularity.sort_by_key(|&item| std::cmp::Reverse(popularity[item as usize]));
        by_popularity.retain(|item| !job.removed.contains(item));
        Ok(Self {
            after: Cooccurrence::directed(training, 1, job.items, Direction::After),
            before: Cooccurrence::directed(training, REACH, job.items, Direction::Before),
            words: job.texts.map(Words::new),
            recency: job.times.map(|times| Recency::new(job.histories, job.split, times, job.items)),
            linear,
            item2vec: unit(item2vec)?,
            user_item: unit(user_item)?,
            by_popularity,
            neighbours: Neighbours::new(job.histories, job.split, &popularity),
            vectors: job.vectors.map(UnitVectors::new),
            popularity,
        })
    }

    /// N.
    pub fn items(&self) -> usize {
        self.popularity.len()
    }

    /// Training interactions of an item.
    pub(super) fn popularity(&self, item: ItemIndex) -> f64 {
        f64::from(self.popularity[item as usize])
    }

    /// The most popular first.
    pub(super) fn by_popularity(&self) -> &[ItemIndex] {
        &self.by_popularity
    }

    /// Adds up rows of counts for the baseline `neighbours`.
    pub(super) fn neighbour_sums(&self) -> Sums<'_> {
        Sums::new(&self.neighbours)
    }

    /// How often items came directly after the history's last.
    pub(super) fn after(&self, history: &[ItemIndex], sums: &mut SparseSums) {
        let row = history.last().into_iter().flat_map(|&last| self.after.row(last));
        row.for_each(|(item, count)| sums.add(item, count as f32));
    }

    /// How often items stood shortly before recent ones, 1/distance each.
    pub(super) fn before(&self, history: &[ItemIndex], sums: &mut SparseSums) {
        for (near, weight) in recent(history) {
            self.before.row(near).for_each(|(item, count)| sums.add(item, (weight * count) as f32));
        }
    }

    /// What the linear model says of recent items, weighted and added.
    pub(super) fn linear(&self, history: &[ItemIndex], sums: &mut SparseSums) {
        let Some(linear) = &self.linear else { return };
        for (near, weight) in recent(history) {
            linear.row(near).for_each(|(item, value)| sums.add(item, weight as f32 * value));
        }
    }

    /// Shared words with recent items: cosines of their words' weights, weighted and added.
    pub(super) fn words(&self, history: &[ItemIndex], sums: &mut SparseSums) {
        if let Some(words) = &self.words {
            words.similar(recent(history), sums);
        }
    }

    /// The items' own vectors.
    pub(super) fn vectors(&self) -> Option<&UnitVectors> {
        self.vectors.as_ref()
    }

    /// Vectors of items that stand near the same items.
    pub(super) fn item2vec(&self) -> Option<&UnitVectors> {
        self.item2vec.as_ref()
    }

    /// Vectors of items that the same users have.
    pub(super) fn user_item(&self) -> Option<&UnitVectors> {
        self.user_item.as_ref()
    }

    /// What is known of the time of the history's end.
    pub(super) fn recency(&self) -> Option<&Recency> {
        self.recency.as_ref()
    }
}

/// Vectors of length one, of zeros for items that were not there when they were learnt.
fn padded(vectors: &Embeddings, items: usize) -> Result<UnitVectors> {
    let mut values = vectors.values().to_vec();
    values.resize(items * vectors.width(), 0.0);
    Ok(UnitVectors::new(&Embeddings::new(items, vectors.width(), values)?))
}
