//! Recall, NDCG and MRR of one held-out target per user.

use std::fmt;
use std::str::FromStr;

use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::error::{Error, Result};

/// The cut-offs that are reported.
pub const DEFAULT_KS: &[usize] = &[1, 5, 10, 20, 50];

/// A metric of one rank. With one target per user Recall@K is the hit rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Metric {
    /// 1 if the target is among the first K.
    Recall(usize),
    /// 1 / log2(rank + 2) if the target is among the first K: the ideal list has the target first, so its gain is 1.
    Ndcg(usize),
    /// 1 / (rank + 1) if the target is among the first K.
    MrrAt(usize),
    /// 1 / (rank + 1), however late the target comes.
    Mrr,
}

impl Metric {
    /// All metrics at the given cut-offs, in the order of reports.
    pub fn all(ks: &[usize]) -> Vec<Self> {
        let at = |make: fn(usize) -> Self| ks.iter().map(move |&k| make(k));
        at(Self::Recall).chain(at(Self::Ndcg)).chain(at(Self::MrrAt)).chain([Self::Mrr]).collect()
    }

    /// The value for one user.
    pub fn of_rank(self, rank: Option<u32>) -> f64 {
        let Some(rank) = rank else { return 0.0 };
        let within = |k: usize, value: f64| if (rank as usize) < k { value } else { 0.0 };
        match self {
            Self::Recall(k) => within(k, 1.0),
            Self::Ndcg(k) => within(k, discount(rank as usize)),
            Self::MrrAt(k) => within(k, 1.0 / (f64::from(rank) + 1.0)),
            Self::Mrr => 1.0 / (f64::from(rank) + 1.0),
        }
    }

    /// The mean over users; 0 of no users.
    pub fn mean(self, ranks: &[Option<u32>]) -> f64 {
        total(ranks.iter().map(|&rank| self.of_rank(rank))) / ranks.len().max(1) as f64
    }
}

/// A sum whose value for nothing is 0, and not the -0 of [`Iterator::sum`].
pub(super) fn total(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, |sum, value| sum + value)
}

/// The weight of a 0-based place in DCG.
pub(super) fn discount(place: usize) -> f64 {
    1.0 / (place as f64 + 2.0).log2()
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Recall(k) => write!(f, "recall@{k}"),
            Self::Ndcg(k) => write!(f, "ndcg@{k}"),
            Self::MrrAt(k) => write!(f, "mrr@{k}"),
            Self::Mrr => write!(f, "mrr"),
        }
    }
}

impl FromStr for Metric {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parsed = match text.split_once('@') {
            None if text == "mrr" => Some(Self::Mrr),
            None => None,
            Some((name, k)) => k.parse().ok().filter(|&k| k > 0).and_then(|k| match name {
                "recall" => Some(Self::Recall(k)),
                "ndcg" => Some(Self::Ndcg(k)),
                "mrr" => Some(Self::MrrAt(k)),
                _ => None,
            }),
        };
        parsed.ok_or_else(|| {
            Error::input("metric", format!("{text:?} is not a metric"), "write recall@K, ndcg@K, mrr@K or mrr")
        })
    }
}

/// Means over users of Recall, NDCG and MRR; in JSON a flat map: `{"recall@1": .., "ndcg@1": .., "mrr": ..}`.
#[derive(Debug, Clone, PartialEq)]
pub struct RankingMetrics {
    users: usize,
    values: Vec<(Metric, f64)>,
}

impl RankingMetrics {
    /// Means of the ranks of all users, at the cut-offs `ks` (see [`DEFAULT_KS`]).
    pub fn from_ranks(ranks: &[Option<u32>], ks: &[usize]) -> Self {
        let values = Metric::all(ks).into_iter().map(|metric| (metric, metric.mean(ranks))).collect();
        Self { users: ranks.len(), values }
    }

    /// How many users they are over.
    pub fn users(&self) -> usize {
        self.users
    }

    /// The mean of one metric, if it was asked for.
    pub fn get(&self, metric: Metric) -> Option<f64> {
        self.values.iter().find(|entry| entry.0 == metric).map(|entry| entry.1)
    }

    /// All means in the order of reports.
    pub fn values(&self) -> &[(Metric, f64)] {
        &self.values
    }

    pub(super) fn serialize_into<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        self.values.iter().try_for_each(|(metric, value)| map.serialize_entry(&metric.to_string(), value))
    }
}

impl Serialize for RankingMetrics {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.values.len()))?;
        self.serialize_into(&mut map)?;
        map.end()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_target_that_was_not_returned_gains_nothing() {
        let metrics = RankingMetrics::from_ranks(&[Some(0), None, Some(4), Some(5)], &[1, 5]);
        assert_eq!(metrics.get(Metric::Recall(1)), Some(0.25));
        assert_eq!(metrics.get(Metric::Recall(5)), Some(0.5));
        assert_eq!(metrics.get(Metric::Mrr), Some((1.0 + 1.0 / 5.0 + 1.0 / 6.0) / 4.0));
        assert_eq!(metrics.get(Metric::MrrAt(5)), Some((1.0 + 1.0 / 5.0) / 4.0));
        let nobody = RankingMetrics::from_ranks(&[], &[5]).get(Metric::Ndcg(5)).unwrap();
        assert_eq!(nobody.to_string(), "0", "and not -0, which would be printed");
    }

    #[test]
    fn json_is_a_flat_map_in_the_order_of_reports() {
        let json = serde_json::to_string(&RankingMetrics::from_ranks(&[Some(0), None], &[5, 10])).unwrap();
        let flat = r#"{"recall@5":0.5,"recall@10":0.5,"ndcg@5":0.5,"ndcg@10":0.5,"mrr@5":0.5,"mrr@10":0.5,"mrr":0.5}"#;
        assert_eq!(json, flat);
    }

    #[test]
    fn names_are_read_back_and_others_refused() {
        for metric in Metric::all(DEFAULT_KS) {
            assert_eq!(metric.to_string().parse::<Metric>().unwrap(), metric);
        }
        for wrong in ["", "recall", "recall@", "recall@0", "recall@-1", "map@5", "mrr@x"] {
            assert!(wrong.parse::<Metric>().unwrap_err().to_string().contains("recall@K"), "{wrong}");
        }
    }
}
