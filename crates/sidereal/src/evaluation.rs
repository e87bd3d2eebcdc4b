//! The figures of an evaluation: one table in which the generator stands beside the baselines that need no training.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sidereal_generator::Widths;
use sidereal_nn::kernels::Precision;

/// Metrics by name: `recall@10`, `ndcg@10`, `mrr`, `coverage@10`, ...
pub type Metrics = BTreeMap<String, f64>;

/// Both ways of ranking: the whole catalog (what papers print) and without the user's own history (what a shop does).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Modes<T> {
    /// The whole catalog is ranked.
    pub no_filter: T,
    /// The user's whole history is taken out of the ranking.
    pub seen_removed: T,
}

impl<T> Modes<T> {
    /// Both modes with their names.
    pub fn each(&self) -> [(&'static str, &T); 2] {
        [("no_filter", &self.no_filter), ("seen_removed", &self.seen_removed)]
    }

    /// Something of either mode.
    pub fn map<U>(&self, mut make: impl FnMut(&T) -> U) -> Modes<U> {
        Modes { no_filter: make(&self.no_filter), seen_removed: make(&self.seen_removed) }
    }
}

/// What is known of one row of the table beside its metrics.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RowDetail {
    /// 95 % bootstrap intervals over users, by metric.
    pub intervals: BTreeMap<String, [f64; 2]>,
    /// Metrics by the target's training popularity: `head`, `mid`, `tail`, `cold`; each also has `users`.
    pub buckets: BTreeMap<String, Metrics>,
    /// Metrics by the length of the user's history: `short`, `mid`, `long`; each also has `users`, and `from` and `to`
    /// in events.
    #[serde(default)]
    pub history: BTreeMap<String, Metrics>,
    /// Metrics of targets that training has seen (`in_set`) and of those that it has not (`cold`).
    #[serde(default)]
    pub sets: BTreeMap<String, Metrics>,
}

/// The users of one domain: how well each row ranks for them, among all items and among the domain's alone.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DomainFigures {
    /// The domain.
    pub name: String,
    /// Users whose target is of it.
    pub users: usize,
    /// Its items.
    pub items: usize,
    /// Figures by row name.
    pub rows: BTreeMap<String, DomainRow>,
}

/// What one row did for the users of a domain.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DomainRow {
    /// All items of the catalog are ranked.
    pub whole: Modes<Metrics>,
    /// The domain's items are ranked.
    pub within: Modes<Metrics>,
}

/// How far a decoding that looks at a part of the catalog agrees with scoring all of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Agreement {
    /// Users for whom all items were scored.
    pub users: usize,
    /// First items of each list that were compared.
    pub items: usize,
    /// Share of them that both lists have, a mean over users.
    pub share: f64,
    /// 95 % bootstrap interval of the share over users.
    pub interval: [f64; 2],
}

/// A paired test of two rows over the same users.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The row that is compared.
    pub row: String,
    /// The row it is compared with.
    pub with: String,
    /// `no_filter` or `seen_removed`.
    pub mode: String,
    /// The metric.
    pub metric: String,
    /// Mean of row minus with.
    pub difference: f64,
    /// 95 % bootstrap interval of the difference.
    pub interval: [f64; 2],
    /// Two-sided p-value of the paired test.
    pub p_value: f64,
}

/// An evaluation, as `sidereal evaluate --json` prints it and the report stage keeps it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// `validation` or `test`.
    pub split: String,
    /// Users with a target in the split.
    pub users: usize,
    /// N.
    pub items: usize,
    /// Beam width W, or one a level.
    pub beam: Widths,
    /// What the generator's first row multiplied; rows of others say so in their names.
    #[serde(default)]
    pub precision: Precision,
    /// The generator's method name; absent where only baselines were evaluated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generator: Option<String>,
    /// The catalog that was ranked.
    pub catalog_version: String,
    /// The generator over the whole catalog.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_filter: Option<Metrics>,
    /// The generator without the user's history.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seen_removed: Option<Metrics>,
    /// Trained models of other runs, as `evaluate --with` asks for them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub trained: BTreeMap<String, Modes<Metrics>>,
    /// The untrained rows.
    pub baselines: BTreeMap<String, Modes<Metrics>>,
    /// Intervals and buckets by row name.
    pub details: BTreeMap<String, Modes<RowDetail>>,
    /// Where items are of several domains: figures by the domain of the target, in the order of the items.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub domains: Vec<DomainFigures>,
    /// Where it was asked for: how far each generator's decoding agrees with exact scoring, by row name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub exact: BTreeMap<String, Agreement>,
    /// Paired tests between rows.
    pub comparisons: Vec<Comparison>,
    /// What the table says, in sentences: whether the generator beats each baseline.
    pub verdict: Vec<String>,
    /// Share of ranked items that are not in the catalog: zero by construction, counted all the same.
    pub invalid_rate: f64,
    /// Share of ranked items that the same ranking holds twice: zero by construction, counted all the same.
    pub duplicate_rate: f64,
    /// Mean number of events before the target.
    pub mean_history_length: f64,
    /// Wall time.
    pub seconds: f64,
}

impl Evaluation {
    /// All rows of the table: the generator, other trained models, the untrained ones.
    pub fn rows(&self) -> Vec<(&str, Modes<&Metrics>)> {
        let mut rows = Vec::new();
        if let (Some(name), Some(no_filter), Some(seen_removed)) =
            (&self.generator, &self.no_filter, &self.seen_removed)
        {
            rows.push((name.as_str(), Modes { no_filter, seen_removed }));
        }
        rows.extend(self.trained.iter().chain(&self.baselines).map(|(name, modes)| {
            (name.as_str(), Modes { no_filter: &modes.no_filter, seen_removed: &modes.seen_removed })
        }));
        rows
    }
}
