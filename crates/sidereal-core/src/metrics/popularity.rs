//! Targets by how often their item was seen in training.

use serde::Serialize;

use crate::item::ItemIndex;
use crate::metrics::ranking::Metric;

/// How well known an item is. Items with at least one training interaction are sorted by their count (ties by item):
/// the first 20 % of them are the head, the next 40 % the mid, the rest the tail. Items without any are cold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bucket {
    /// The most popular fifth of the items with interactions.
    Head,
    /// The next two fifths.
    Mid,
    /// The least popular two fifths.
    Tail,
    /// Items without a training interaction: no collaborative signal can find them.
    Cold,
}

impl Bucket {
    /// All buckets, most popular first.
    pub const ALL: [Self; 4] = [Self::Head, Self::Mid, Self::Tail, Self::Cold];

    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Head => "head",
            Self::Mid => "mid",
            Self::Tail => "tail",
            Self::Cold => "cold",
        }
    }
}

/// The bucket of every item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PopularityBuckets {
    of: Vec<Bucket>,
}

impl PopularityBuckets {
    /// Sorts items into buckets by their training counts.
    ///
    /// # Shapes
    /// `training_popularity`: `[N]`, see [`crate::Split::training_popularity`]
    pub fn new(training_popularity: &[u32]) -> Self {
        let mut warm: Vec<usize> = (0..training_popularity.len()).filter(|&i| training_popularity[i] > 0).collect();
        warm.sort_by_key(|&item| std::cmp::Reverse(training_popularity[item]));
        let (head, mid) = (warm.len().div_ceil(5), (warm.len() * 3).div_ceil(5));
        let mut of = vec![Bucket::Cold; training_popularity.len()];
        for (place, item) in warm.into_iter().enumerate() {
            of[item] = match place {
                _ if place < head => Bucket::Head,
                _ if place < mid => Bucket::Mid,
                _ => Bucket::Tail,
            };
        }
        Self { of }
    }

    /// The bucket of an item.
    ///
    /// # Panics
    /// If the item is not below N.
    pub fn of(&self, item: ItemIndex) -> Bucket {
        self.of[item as usize]
    }

    /// How many items a bucket holds.
    pub fn items(&self, bucket: Bucket) -> usize {
        self.of.iter().filter(|&&b| b == bucket).count()
    }

    /// N.
    pub fn len(&self) -> usize {
        self.of.len()
    }

    /// Whether there are no items.
    pub fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    /// Means of the users whose target falls in each bucket, most popular first. Users beyond the shorter of the two
    /// columns are not looked at.
    pub fn metrics(&self, ranks: &[Option<u32>], targets: &[ItemIndex]) -> Vec<BucketMetrics> {
        let mut ranks_of: [Vec<Option<u32>>; 4] = Default::default();
        for (&rank, &target) in ranks.iter().zip(targets) {
            ranks_of[self.of(target) as usize].push(rank);
        }
        Bucket::ALL
            .iter()
            .zip(ranks_of)
            .map(|(&bucket, ranks)| BucketMetrics {
                bucket,
                items: self.items(bucket),
                users: ranks.len(),
                recall_10: Metric::Recall(10).mean(&ranks),
                ndcg_10: Metric::Ndcg(10).mean(&ranks),
            })
            .collect()
    }
}

/// Means over the users whose target is in one bucket; 0 of no users.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct BucketMetrics {
    /// Which one.
    pub bucket: Bucket,
    /// Catalog items in it.
    pub items: usize,
    /// Users whose target is in it.
    pub users: usize,
    /// Recall@10.
    #[serde(rename = "recall@10")]
    pub recall_10: f64,
    /// NDCG@10.
    #[serde(rename = "ndcg@10")]
    pub ndcg_10: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifth_is_head_two_fifths_are_mid_and_items_without_interactions_are_cold() {
        let buckets = PopularityBuckets::new(&[0, 9, 1, 5, 0, 5, 2]);
        let names: String = (0..7).map(|item| &buckets.of(item).name()[..1]).collect();
        assert_eq!(names, "chtmcmt", "five items have interactions: one head, two mid, two tail");
        assert_eq!(Bucket::ALL.map(|bucket| buckets.items(bucket)), [1, 2, 2, 2]);
        let equal = PopularityBuckets::new(&[3; 10]);
        assert_eq!(Bucket::ALL.map(|bucket| equal.items(bucket)), [2, 4, 4, 0]);
        assert_eq!(equal.of(1), Bucket::Head, "equal counts: the first items come first");
    }

    #[test]
    fn bucket_means_add_up_to_the_mean_over_all_users() {
        let buckets = PopularityBuckets::new(&[0, 9, 1, 5, 0, 5, 2]);
        let targets = [0, 1, 1, 2, 3, 5, 6, 4, 1];
        let ranks = [Some(3), Some(0), None, Some(11), Some(9), Some(2), None, Some(0), Some(700)];
        let parts = buckets.metrics(&ranks, &targets);
        assert_eq!(parts.iter().map(|part| part.users).sum::<usize>(), targets.len());
        let whole = parts.iter().map(|part| part.ndcg_10 * part.users as f64).sum::<f64>() / targets.len() as f64;
        assert!((whole - Metric::Ndcg(10).mean(&ranks)).abs() < 1e-12);
    }
}
