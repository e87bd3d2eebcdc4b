//! A row's figures apart: by how well the target is known, by how much is known of the user, and whether training could
//! have seen the target at all.

use std::collections::BTreeMap;

use sidereal_core::ItemIndex;
use sidereal_core::metrics::{Bucket, HistoryGroups, Length, Metric, PopularityBuckets, Row, RowReport};

use crate::evaluate::exam::Exam;
use crate::evaluation::{Metrics, RowDetail};

/// Which group each user falls into.
pub(crate) struct Groups {
    pub(crate) targets: Vec<ItemIndex>,
    pub(crate) buckets: PopularityBuckets,
    /// Events before the target.
    lengths: Vec<usize>,
    history: HistoryGroups,
}

impl Groups {
    /// The groups of an exam's users over a catalog of `items`.
    pub(crate) fn new(exam: &Exam<'_>, items: usize) -> Self {
        let popularity = exam.split.training_popularity(exam.histories, items);
        let lengths: Vec<usize> = exam.examples.iter().map(|example| example.position as usize).collect();
        Self {
            targets: exam.targets(),
            buckets: PopularityBuckets::new(&popularity),
            history: HistoryGroups::new(&lengths),
            lengths,
        }
    }

    /// Mean number of events before the target.
    pub(crate) fn mean_history_length(&self) -> f64 {
        self.lengths.iter().sum::<usize>() as f64 / self.lengths.len().max(1) as f64
    }

    /// Everything about a row beside its metrics.
    pub(crate) fn detail(&self, row: &Row, report: &RowReport) -> RowDetail {
        let intervals = report.intervals.iter();
        let buckets = report.buckets.iter().map(|part| {
            let values = figures(part.users, part.recall_10, part.ndcg_10);
            (part.bucket.name().to_owned(), with(values, "items", part.items as f64))
        });
        RowDetail {
            intervals: intervals.map(|(metric, i)| (metric.to_string(), [i.low, i.high])).collect(),
            buckets: buckets.collect(),
            history: self.by_history(row),
            sets: self.by_set(row),
        }
    }

    fn by_history(&self, row: &Row) -> BTreeMap<String, Metrics> {
        let of = |group: Length| {
            let members = |(_, length): &(&Option<u32>, &usize)| self.history.of(**length) == group;
            let (ranks, lengths): (Vec<Option<u32>>, Vec<usize>) =
                row.ranks.iter().zip(&self.lengths).filter(members).map(|(&rank, &length)| (rank, length)).unzip();
            let mut values = means(&ranks);
            if let (Some(&shortest), Some(&longest)) = (lengths.iter().min(), lengths.iter().max()) {
                values = with(with(values, "from", shortest as f64), "to", longest as f64);
            }
            (group.name().to_owned(), values)
        };
        Length::ALL.into_iter().map(of).collect()
    }

    fn by_set(&self, row: &Row) -> BTreeMap<String, Metrics> {
        let of = |(name, cold): (&str, bool)| {
            let is_cold = |item: ItemIndex| self.buckets.of(item) == Bucket::Cold;
            let members = row.ranks.iter().zip(&self.targets).filter(|(_, target)| is_cold(**target) == cold);
            let ranks: Vec<Option<u32>> = members.map(|(&rank, _)| rank).collect();
            let cold_items = self.buckets.items(Bucket::Cold);
            let items = if cold { cold_items } else { self.buckets.len() - cold_items };
            (name.to_owned(), with(means(&ranks), "items", items as f64))
        };
        [("in_set", false), ("cold", true)].into_iter().map(of).collect()
    }
}

fn means(ranks: &[Option<u32>]) -> Metrics {
    figures(ranks.len(), Metric::Recall(10).mean(ranks), Metric::Ndcg(10).mean(ranks))
}

fn figures(users: usize, recall_10: f64, ndcg_10: f64) -> Metrics {
    let values = [("users", users as f64), ("recall@10", recall_10), ("ndcg@10", ndcg_10)];
    values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn with(mut values: Metrics, name: &str, value: f64) -> Metrics {
    values.insert(name.to_owned(), value);
    values
}
