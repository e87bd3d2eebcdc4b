//! Recall, NDCG and MRR of ranked lists with several targets per user.

use std::collections::HashSet;

use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::error::{Error, Result};
use crate::item::ItemIndex;
use crate::metrics::lists::RankedLists;
use crate::metrics::ranking::{Metric, discount};

/// Means over the users that have a target; in JSON a flat map as [`crate::metrics::RankingMetrics`].
#[derive(Debug, Clone, PartialEq)]
pub struct MultiTargetMetrics {
    /// How many users they are over.
    pub users: usize,
    /// Means in the order of reports.
    pub values: Vec<(Metric, f64)>,
}

impl MultiTargetMetrics {
    /// The mean of one metric, if it was asked for.
    pub fn get(&self, metric: Metric) -> Option<f64> {
        self.values.iter().find(|entry| entry.0 == metric).map(|entry| entry.1)
    }
}

impl Serialize for MultiTargetMetrics {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.values.len()))?;
        self.values.iter().try_for_each(|(metric, value)| map.serialize_entry(&metric.to_string(), value))?;
        map.end()
    }
}

/// Judges ranked lists by sets of targets, one set per list.
///
/// Recall@K is the share of a user's targets among the first K. NDCG@K divides by the gain of the ideal list, which
/// has min(K, number of targets) hits at its head (as scikit-learn's `ndcg_score` on 0/1 relevance). MRR takes the
/// first hit; without a cut-off it looks at the whole list. An item that is listed twice counts at its first place,
/// a target that is named twice counts once, and a user without targets is left out of the means.
///
/// # Errors
/// Other numbers of lists and target sets.
pub fn multi_target_metrics(
    lists: &RankedLists,
    targets: &[Vec<ItemIndex>],
    ks: &[usize],
) -> Result<MultiTargetMetrics> {
    if lists.len() != targets.len() {
        let problem = format!("{} ranked lists, but {} sets of targets", lists.len(), targets.len());
        return Err(Error::mismatch(problem, "give one set of targets per user"));
    }
    let metrics = Metric::all(ks);
    let mut sums = vec![0.0; metrics.len()];
    let mut users = 0;
    for (list, targets) in lists.iter().zip(targets) {
        let mut missing: HashSet<ItemIndex> = targets.iter().copied().collect();
        let relevant = missing.len();
        if relevant == 0 {
            continue;
        }
        users += 1;
        let hits: Vec<usize> = (0..list.len()).filter(|&place| missing.remove(&list[place])).collect();
        for (sum, &metric) in sums.iter_mut().zip(&metrics) {
            *sum += of_hits(metric, &hits, relevant);
        }
    }
    let values = metrics.into_iter().zip(sums).map(|(metric, sum)| (metric, sum / f64::from(users.max(1)))).collect();
    Ok(MultiTargetMetrics { users: users as usize, values })
}

/// One user's value; `hits` are the places of targets, ascending.
fn of_hits(metric: Metric, hits: &[usize], relevant: usize) -> f64 {
    let within = |k: usize| hits.iter().copied().take_while(move |&place| place < k);
    match metric {
        Metric::Recall(k) => within(k).count() as f64 / relevant as f64,
        Metric::Ndcg(0) => 0.0,
        Metric::Ndcg(k) => within(k).map(discount).sum::<f64>() / (0..k.min(relevant)).map(discount).sum::<f64>(),
        Metric::MrrAt(k) => within(k).next().map_or(0.0, |place| 1.0 / (place as f64 + 1.0)),
        Metric::Mrr => hits.first().map_or(0.0, |&place| 1.0 / (place as f64 + 1.0)),
    }
}
