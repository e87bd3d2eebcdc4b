//! What the baselines know: counts over the training histories, and item vectors.

use sidereal_core::{Embeddings, Error as CoreError, Histories, ItemIndex, Split};

use crate::Result;
use crate::baselines::cooccurrence::Cooccurrence;
use crate::baselines::neighbours::Neighbours;
use crate::baselines::unit_vectors::UnitVectors;

/// Counts over the training parts of all histories, and item vectors of length one.
#[derive(Debug)]
pub struct Statistics {
    /// Training interactions of each item, `[N]`.
    pub(super) popularity: Vec<u32>,
    /// What popularity adds where it only breaks ties: less than a thousandth, `[N]`.
    pub(super) tie_break: Vec<f64>,
    /// Items next to each other.
    pub(super) transitions: Cooccurrence,
    /// Items that stand near each other.
    pub(super) neighbours: Neighbours,
    /// Item vectors, `[N, D]`.
    pub(super) vectors: Option<UnitVectors>,
    /// Items that no baseline may rank.
    pub(super) removed: Vec<ItemIndex>,
}

impl Statistics {
    /// Counts the training parts of `split` over a catalog of `items` items.
    ///
    /// # Errors
    /// A history item outside the catalog; embeddings of another number of items.
    pub fn new(histories: &Histories, split: &Split, items: usize, embeddings: Option<&Embeddings>) -> Result<Self> {
        check(histories, items, embeddings)?;
        let popularity = split.training_popularity(histories, items);
        let above_all = f64::from(popularity.iter().copied().max().unwrap_or(0)) + 1.0;
        let training = || (0..histories.len()).map(|user| split.training_items(histories, user));
        Ok(Self {
            tie_break: popularity.iter().map(|&count| f64::from(count) / above_all * 1e-3).collect(),
            transitions: Cooccurrence::count(training, 1, items),
            neighbours: Neighbours::new(histories, split, &popularity),
            vectors: embeddings.map(UnitVectors::new),
            popularity,
            removed: Vec::new(),
        })
    }

    /// Takes items out of every ranking, as a catalog has removed them; histories may name them still.
    ///
    /// # Errors
    /// An item that is not in the catalog.
    pub fn without(mut self, removed: impl IntoIterator<Item = ItemIndex>) -> Result<Self> {
        self.removed.extend(removed);
        match self.removed.iter().find(|&&item| item as usize >= self.items()) {
            None => Ok(self),
            Some(item) => {
                let problem = format!("item {item} was removed, but the catalog has {} items", self.items());
                Err(CoreError::mismatch(problem, "use the catalog that the statistics were made for").into())
            }
        }
    }

    /// N.
    pub fn items(&self) -> usize {
        self.popularity.len()
    }
}

/// Histories and vectors have to be of one catalog of `items` items.
///
/// # Errors
/// They are not.
pub(crate) fn check(histories: &Histories, items: usize, embeddings: Option<&Embeddings>) -> Result<()> {
    if let Some(item) = histories.items().iter().find(|&&item| item as usize >= items) {
        let problem = format!("the histories name item {item}, but the catalog has {items} items");
        return Err(CoreError::mismatch(problem, "use the histories and the catalog of one run").into());
    }
    if let Some(embeddings) = embeddings.filter(|embeddings| embeddings.rows() != items) {
        let problem = format!("{} embeddings, but the catalog has {items} items", embeddings.rows());
        return Err(CoreError::mismatch(problem, "give one vector per item, in catalog order").into());
    }
    Ok(())
}
