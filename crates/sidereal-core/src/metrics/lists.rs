//! What was shown: ranked lists, and figures of them that need no target.

use std::collections::HashSet;

use serde::Serialize;

use crate::item::ItemIndex;

/// Ranked lists of many users, best first, each at most `limit` long (compressed rows).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RankedLists {
    limit: usize,
    ends: Vec<usize>,
    items: Vec<ItemIndex>,
}

impl RankedLists {
    /// No lists yet. Longer lists are cut to `limit`, and cut-offs above it are not reported.
    pub fn new(limit: usize) -> Self {
        Self { limit, ends: Vec::new(), items: Vec::new() }
    }

    /// Adds the next user's list.
    pub fn push(&mut self, list: impl IntoIterator<Item = ItemIndex>) {
        self.items.extend(list.into_iter().take(self.limit));
        self.ends.push(self.items.len());
    }

    /// Adds all lists of `other` behind these, cut to this limit.
    pub fn append(&mut self, other: &Self) {
        other.iter().for_each(|list| self.push(list.iter().copied()));
    }

    /// The longest that a list may be.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Number of users.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are no users.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// User `u`'s list, best first.
    ///
    /// # Panics
    /// If `u` is not below [`RankedLists::len`].
    pub fn of(&self, u: usize) -> &[ItemIndex] {
        let begin = if u == 0 { 0 } else { self.ends[u - 1] };
        &self.items[begin..self.ends[u]]
    }

    /// All lists in order.
    pub fn iter(&self) -> impl Iterator<Item = &[ItemIndex]> {
        (0..self.len()).map(|u| self.of(u))
    }

    /// How often each item stands among the first `k` of a list, `[N]`. Entries outside the catalog are not counted.
    pub fn exposure(&self, k: usize, items: usize) -> Vec<u32> {
        let mut counts = vec![0; items];
        for &item in self.iter().flat_map(|list| list.iter().take(k)) {
            if let Some(count) = counts.get_mut(item as usize) {
                *count += 1;
            }
        }
        counts
    }

    /// Counts entries that are no items of a catalog of `items`, and entries that repeat an earlier one of their list.
    pub fn audit(&self, items: usize) -> ListAudit {
        let mut audit = ListAudit { lists: self.len(), entries: self.items.len(), ..ListAudit::default() };
        let mut before = HashSet::new();
        for list in self.iter() {
            before.clear();
            for &item in list {
                audit.invalid += usize::from(item as usize >= items);
                audit.duplicates += usize::from(!before.insert(item));
            }
        }
        audit
    }
}

/// Entries of ranked lists that should not be there. Zero by construction, and counted all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct ListAudit {
    /// Lists looked at.
    pub lists: usize,
    /// Entries in them.
    pub entries: usize,
    /// Entries that are no items of the catalog.
    pub invalid: usize,
    /// Entries that repeat an earlier one of the same list.
    pub duplicates: usize,
}

impl ListAudit {
    /// Share of entries that are no items of the catalog.
    pub fn invalid_rate(&self) -> f64 {
        self.invalid as f64 / self.entries.max(1) as f64
    }

    /// Share of entries that repeat an earlier one of the same list.
    pub fn duplicate_rate(&self) -> f64 {
        self.duplicates as f64 / self.entries.max(1) as f64
    }
}

/// Share of the catalog that was shown to anybody.
///
/// # Shapes
/// `exposure`: `[N]`
pub fn coverage(exposure: &[u32]) -> f64 {
    exposure.iter().filter(|&&count| count > 0).count() as f64 / exposure.len().max(1) as f64
}

/// Gini coefficient of exposure over the whole catalog: 0 if all items are shown equally often, (N - 1)/N if only one
/// is shown; 0 of nothing shown.
///
/// With counts x ascending and i from 1: sum((2i - N - 1) x_i) / (N sum(x_i)).
///
/// # Shapes
/// `exposure`: `[N]`
pub fn gini(exposure: &[u32]) -> f64 {
    let mut sorted = exposure.to_vec();
    sorted.sort_unstable();
    let n = sorted.len() as i128;
    let total: i128 = sorted.iter().map(|&count| i128::from(count)).sum();
    let weighted: i128 = (1i128..).zip(&sorted).map(|(i, &count)| (2 * i - n - 1) * i128::from(count)).sum();
    if total == 0 { 0.0 } else { weighted as f64 / (n as f64 * total as f64) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_cut_to_their_limit_and_invalid_and_repeated_entries_are_counted() {
        let mut lists = RankedLists::new(3);
        lists.push([4, 1, 4, 9]);
        lists.push([]);
        lists.push([7, 2]);
        assert_eq!(lists.iter().collect::<Vec<_>>(), [&[4, 1, 4][..], &[], &[7, 2]]);
        let audit = lists.audit(5);
        assert_eq!(audit, ListAudit { lists: 3, entries: 5, invalid: 1, duplicates: 1 });
        assert_eq!((audit.invalid_rate(), audit.duplicate_rate()), (0.2, 0.2));
        assert_eq!(lists.exposure(1, 5), [0, 0, 0, 0, 1]);
        assert_eq!(lists.exposure(3, 5), [0, 1, 1, 0, 2]);
        assert_eq!(coverage(&lists.exposure(3, 5)), 0.6);
    }

    #[test]
    fn gini_is_the_mean_absolute_difference_over_twice_the_mean() {
        let counts = [5u32, 0, 3, 3, 9, 1];
        let n = counts.len() as f64;
        let pairs = counts.iter().flat_map(|a| counts.iter().map(move |b| a.abs_diff(*b)));
        let slow = f64::from(pairs.sum::<u32>()) / (2.0 * n * f64::from(counts.iter().sum::<u32>()));
        assert!((gini(&counts) - slow).abs() < 1e-12);
        assert_eq!(gini(&[4; 10]), 0.0);
        assert_eq!(gini(&[0, 0, 0, 8]), 0.75);
        assert_eq!(gini(&[0, 0]), 0.0);
    }
}
