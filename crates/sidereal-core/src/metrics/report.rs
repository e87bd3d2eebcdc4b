//! All figures of one row of a table: one method in one mode.

use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::item::ItemIndex;
use crate::metrics::bootstrap::{Bootstrap, Interval, intervals};
use crate::metrics::lists::{ListAudit, RankedLists, coverage, gini};
use crate::metrics::popularity::{BucketMetrics, PopularityBuckets};
use crate::metrics::ranking::{Metric, RankingMetrics};

/// What one method did for every user.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Rank of each user's target, `None` where it was not returned.
    pub ranks: Vec<Option<u32>>,
    /// What each user was shown.
    pub lists: RankedLists,
}

/// The figures of a [`Row`]. In JSON one flat map: `{"recall@1": .., "ndcg@10": .., "mrr": .., "users": ..,
/// "coverage@10": .., "gini@10": .., "invalid_rate": .., "duplicate_rate": .., "buckets": {"head": {..}, ..},
/// "intervals": {"recall@10": {"low": .., "high": ..}, ..}}`.
#[derive(Debug, Clone, PartialEq)]
pub struct RowReport {
    /// Recall, NDCG and MRR.
    pub metrics: RankingMetrics,
    /// Share of the catalog among the first K of all lists, for each K that the lists reach.
    pub coverage: Vec<(usize, f64)>,
    /// Inequality of exposure among the first K of all lists, for each K that the lists reach.
    pub gini: Vec<(usize, f64)>,
    /// Entries that should not be there.
    pub audit: ListAudit,
    /// By popularity of the target.
    pub buckets: Vec<BucketMetrics>,
    /// Bootstrap intervals of all [`RowReport::metrics`].
    pub intervals: Vec<(Metric, Interval)>,
}

impl RowReport {
    /// Works out all figures. `targets` are the users' targets, in the order of the ranks.
    pub fn new(
        row: &Row,
        targets: &[ItemIndex],
        buckets: &PopularityBuckets,
        ks: &[usize],
        bootstrap: &Bootstrap,
    ) -> Self {
        let metrics = Metric::all(ks);
        let shown = ks.iter().filter(|&&k| k <= row.lists.limit());
        let exposures: Vec<(usize, Vec<u32>)> = shown.map(|&k| (k, row.lists.exposure(k, buckets.len()))).collect();
        Self {
            metrics: RankingMetrics::from_ranks(&row.ranks, ks),
            coverage: exposures.iter().map(|(k, exposure)| (*k, coverage(exposure))).collect(),
            gini: exposures.iter().map(|(k, exposure)| (*k, gini(exposure))).collect(),
            audit: row.lists.audit(buckets.len()),
            buckets: buckets.metrics(&row.ranks, targets),
            intervals: metrics.iter().copied().zip(intervals(&row.ranks, &metrics, bootstrap)).collect(),
        }
    }

    /// The interval of one metric, if it was asked for.
    pub fn interval(&self, metric: Metric) -> Option<Interval> {
        self.intervals.iter().find(|entry| entry.0 == metric).map(|entry| entry.1)
    }
}

impl Serialize for RowReport {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        self.metrics.serialize_into(&mut map)?;
        map.serialize_entry("users", &self.metrics.users())?;
        for (name, values) in [("coverage", &self.coverage), ("gini", &self.gini)] {
            values.iter().try_for_each(|(k, value)| map.serialize_entry(&format!("{name}@{k}"), value))?;
        }
        map.serialize_entry("invalid_rate", &self.audit.invalid_rate())?;
        map.serialize_entry("duplicate_rate", &self.audit.duplicate_rate())?;
        map.serialize_entry("buckets", &Named(self.buckets.iter().map(|part| (part.bucket.name(), part)).collect()))?;
        let intervals = self.intervals.iter().map(|(metric, interval)| (metric.to_string(), interval)).collect();
        map.serialize_entry("intervals", &Named(intervals))?;
        map.end()
    }
}

/// Pairs as a JSON map in their own order.
struct Named<'a, K, V>(Vec<(K, &'a V)>);

impl<K: Serialize, V: Serialize> Serialize for Named<'_, K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, *value)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_report_is_one_flat_map_with_the_names_that_others_read() {
        let mut lists = RankedLists::new(10);
        lists.push([1, 2]);
        lists.push([1, 0]);
        let row = Row { ranks: vec![Some(1), None], lists };
        let buckets = PopularityBuckets::new(&[0, 5, 3, 1]);
        let report = RowReport::new(&row, &[2, 0], &buckets, &[5, 10, 20], &Bootstrap::default());
        let json: serde_json::Value = serde_json::to_value(&report).unwrap();
        assert_eq!(json["recall@5"], 0.5);
        assert_eq!(json["ndcg@10"].as_f64().unwrap(), 0.5 / 3f64.log2());
        assert_eq!(json["coverage@10"], 0.75);
        assert!(json.get("coverage@20").is_none(), "the lists end at 10");
        assert_eq!(json["invalid_rate"], 0.0);
        assert_eq!(json["buckets"]["mid"]["recall@10"], 1.0);
        assert_eq!(json["buckets"]["cold"]["users"], 1);
        assert_eq!(json["intervals"]["mrr"]["low"], 0.0);
        assert_eq!(report.interval(Metric::Recall(20)).unwrap().high, 1.0);
    }
}
