//! What a method may learn from: vectors always, and whatever else is known of the items.

use serde::{Deserialize, Serialize};
use sidereal_core::{Embeddings, Error, Histories, ItemId, ItemIndex, Result};

/// Items whose vectors a method is fitted to; all are encoded. Pre-steps are fitted to all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FitOn {
    /// Every item.
    #[default]
    All,
    /// Items that the training histories have, as RPG (Hou et al., arXiv 2506.05781) in its code: what nobody takes
    /// costs no codewords.
    Seen,
}

impl FitOn {
    /// Whether it is what happens where nothing is said.
    pub fn is_usual(&self) -> bool {
        *self == Self::default()
    }
}

/// Items to train on. Everything but the vectors may be absent; a method that needs it says so.
///
/// # Shapes
/// N items; every part that is there has N entries.
#[derive(Debug, Clone, Copy)]
pub struct TrainingItems<'a> {
    /// Their vectors, [N, D].
    pub vectors: &'a Embeddings,
    /// The user's ids, `[N]`.
    pub ids: Option<&'a [ItemId]>,
    /// Each item's path of categories, outermost first; empty where unknown. `[N]`
    pub categories: Option<&'a [Vec<String>]>,
    /// Each item's domain, for catalogs of several. `[N]`
    pub domains: Option<&'a [u32]>,
    /// Vectors learnt from behaviour, [N, C]; a row of zeros where nothing is known.
    pub collaborative: Option<&'a Embeddings>,
    /// What users did, training parts only.
    pub histories: Option<TrainingHistories<'a>>,
}

impl<'a> TrainingItems<'a> {
    /// Vectors and nothing else.
    pub fn new(vectors: &'a Embeddings) -> Self {
        Self { vectors, ids: None, categories: None, domains: None, collaborative: None, histories: None }
    }

    /// N.
    pub fn len(&self) -> usize {
        self.vectors.rows()
    }

    /// Whether there are no items.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The ids, for a method that cannot do without.
    ///
    /// # Errors
    /// They are absent.
    pub fn needed_ids(&self, method: &str) -> Result<&'a [ItemId]> {
        let mend = "train it in a run that has data (`sidereal data prepare`)";
        self.ids.ok_or_else(|| absent(method, "item ids", mend))
    }

    /// The category paths, for a method that cannot do without.
    ///
    /// # Errors
    /// They are absent.
    pub fn needed_categories(&self, method: &str) -> Result<&'a [Vec<String>]> {
        let mend = "prepare data whose items have a column category, categories, genre or genres";
        self.categories.ok_or_else(|| absent(method, "item categories", mend))
    }

    /// The histories, for a method that cannot do without.
    ///
    /// # Errors
    /// They are absent.
    pub fn needed_histories(&self, method: &str) -> Result<TrainingHistories<'a>> {
        let mend = "train it in a run that has interactions and their split";
        self.histories.ok_or_else(|| absent(method, "training histories", mend))
    }

    /// The collaborative vectors, for a method that cannot do without.
    ///
    /// # Errors
    /// They are absent.
    pub fn needed_collaborative(&self, method: &str) -> Result<&'a Embeddings> {
        let mend = "give the recipe a table [collaborative]";
        self.collaborative.ok_or_else(|| absent(method, "collaborative vectors", mend))
    }

    /// The domains, for a method that cannot do without.
    ///
    /// # Errors
    /// They are absent.
    pub fn needed_domains(&self, method: &str) -> Result<&'a [u32]> {
        let mend = "give every item a domain";
        self.domains.ok_or_else(|| absent(method, "domains", mend))
    }

    /// The vectors of the items that the training histories have, in their order, [M, D].
    ///
    /// # Errors
    /// No histories, or none with an event.
    pub fn seen(&self, method: &str) -> Result<Embeddings> {
        let mut seen = vec![false; self.len()];
        for &item in self.needed_histories(method)?.iter().flatten() {
            // Histories were checked against the vectors.
            if let Some(seen) = seen.get_mut(item as usize) {
                *seen = true;
            }
        }
        let rows: Vec<usize> = (0..self.len()).filter(|&item| seen[item]).collect();
        if rows.is_empty() {
            return Err(absent(method, "items that are seen in training", "use fit = \"all\""));
        }
        let values = rows.iter().flat_map(|&item| self.vectors.row(item)).copied().collect();
        Embeddings::new(rows.len(), self.vectors.width(), values)
    }

    /// Checks that all parts are about the same items.
    ///
    /// # Errors
    /// Names the part of another length, or the event of an item that is not there.
    pub fn check(&self) -> Result<()> {
        let lengths = [
            ("item ids", self.ids.map(<[_]>::len)),
            ("category paths", self.categories.map(<[_]>::len)),
            ("domains", self.domains.map(<[_]>::len)),
            ("collaborative vectors", self.collaborative.map(Embeddings::rows)),
        ];
        for (what, count) in lengths {
            if let Some(count) = count.filter(|&count| count != self.len()) {
                let problem = format!("{count} {what}, but {} vectors", self.len());
                return Err(Error::mismatch(problem, "give both for the same items, in the same order"));
            }
        }
        let unknown = self.histories.iter().flat_map(TrainingHistories::iter).flatten();
        match unknown.copied().find(|&item| item as usize >= self.len()) {
            Some(item) => {
                let problem = format!("a history names item {item}, but there are {} vectors", self.len());
                Err(Error::mismatch(problem, "give histories and vectors of the same items"))
            }
            None => Ok(()),
        }
    }
}

fn absent(method: &str, what: &str, mend: &str) -> Error {
    Error::input(method, format!("it needs {what}, and there are none"), mend)
}

/// The part of every user's history that training may see.
#[derive(Debug, Clone, Copy)]
pub struct TrainingHistories<'a> {
    histories: &'a Histories,
    ends: &'a [u32],
}

impl<'a> TrainingHistories<'a> {
    /// The first `ends[user]` events of each user.
    pub fn new(histories: &'a Histories, ends: &'a [u32]) -> Self {
        Self { histories, ends }
    }

    /// Every user's items, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &'a [ItemIndex]> + use<'a> {
        let histories = *self;
        (0..histories.histories.len().min(histories.ends.len())).map(move |user| histories.items_of(user))
    }

    /// A user's items, oldest first; none of a user that there is not.
    pub fn items_of(&self, user: usize) -> &'a [ItemIndex] {
        let Some(&end) = self.ends.get(user).filter(|_| user < self.histories.len()) else { return &[] };
        let items = self.histories.items_of(user);
        &items[..items.len().min(end as usize)]
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn seen_items_are_those_of_the_training_parts() {
        let vectors = Embeddings::new(4, 1, vec![0.0, 1.0, 2.0, 3.0]).unwrap();
        let histories = Histories::new(vec!["u".to_owned()], vec![0, 4], vec![3, 1, 3, 0], None, None).unwrap();
        let items = TrainingItems::new(&vectors);
        let with = |ends| TrainingItems { histories: Some(TrainingHistories::new(&histories, ends)), ..items };
        assert_eq!(with(&[3]).seen("pq").unwrap().values(), [1.0, 3.0]);
        assert!(with(&[0]).seen("pq").unwrap_err().to_string().contains("seen in training"));
        assert!(items.seen("pq").unwrap_err().to_string().contains("training histories"));
    }

    #[test]
    fn parts_about_other_items_are_named() {
        let vectors = Embeddings::new(2, 1, vec![0.0, 1.0]).unwrap();
        let items = TrainingItems::new(&vectors);
        items.check().unwrap();
        let error = TrainingItems { domains: Some(&[1]), ..items }.check().unwrap_err().to_string();
        assert!(error.contains("1 domains, but 2 vectors"), "{error}");
        let histories = Histories::new(vec!["u".to_owned()], vec![0, 3], vec![0, 1, 2], None, None).unwrap();
        let told = |ends| TrainingItems { histories: Some(TrainingHistories::new(&histories, ends)), ..items }.check();
        told(&[2]).unwrap();
        assert!(told(&[3]).unwrap_err().to_string().contains("item 2"));
    }
}
