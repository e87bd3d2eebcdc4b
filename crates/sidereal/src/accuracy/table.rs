//! Rows of several trainings -> means, deviations and paired tests.

use std::collections::BTreeMap;

use serde::Serialize;
use sidereal_core::Progress;
use sidereal_core::metrics::{Bootstrap, DEFAULT_KS, Metric, Row, RowReport, of_means, paired_values};
use sidereal_generator::Widths;

use crate::Result;
use crate::evaluate::groups::Groups;
use crate::evaluate::{COMPARED, comparison, metrics};
use crate::evaluation::{Comparison, Metrics, Modes, RowDetail};

/// A row of the table in one mode.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AccuracyRow {
    /// Its name.
    pub name: String,
    /// Whether anything was trained.
    pub trained: bool,
    /// The model's or baseline's name.
    pub method: String,
    /// `no_filter` or `seen_removed`.
    pub mode: &'static str,
    /// Trainings that the figures are means of; 1 of a row that is not trained.
    pub seeds: usize,
    /// Means over the seeds.
    pub metrics: Metrics,
    /// Standard deviations over the seeds (of a sample, n - 1); empty of one seed, whose deviation nobody knows.
    pub deviation: Metrics,
    /// Means over the seeds by popularity, history and set, and 95 % bootstrap intervals over users.
    #[serde(flatten)]
    pub detail: RowDetail,
    /// The metrics of each training, by its seed.
    pub by_seed: BTreeMap<u64, Metrics>,
    /// Beam width W.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beam: Option<Widths>,
    /// Numbers that the model holds; absent where a fusion leaves its generator out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters: Option<usize>,
    /// Training and fitting, means over the seeds: `seconds`, `cpu_seconds`, `samples_per_s`, `peak_memory_bytes`. Of a fusion
    /// that leaves its generator out they are the fusion's alone.
    #[serde(flatten)]
    pub measured: Metrics,
}

/// What one row did with every seed.
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) method: String,
    pub(super) trained: bool,
    pub(super) beam: Option<Widths>,
    pub(super) parameters: Option<usize>,
    pub(super) runs: Vec<(u64, Modes<Row>)>,
    pub(super) measured: Vec<Metrics>,
}

/// The table and the paired tests between any two rows.
pub(super) fn table(
    entries: &[Entry],
    groups: &Groups,
    seed: u64,
    progress: &dyn Progress,
) -> Result<(Vec<AccuracyRow>, Vec<Comparison>)> {
    let bootstrap = Bootstrap { seed, ..Bootstrap::default() };
    progress.start("accuracy table", Some(entries.len() as u64), "rows");
    let mut rows = Vec::new();
    for entry in entries {
        for mode in 0..2 {
            rows.push(row(entry, mode, groups, &bootstrap));
        }
        progress.advance(1);
    }
    let mut comparisons = Vec::new();
    for (at, ours) in entries.iter().enumerate() {
        for theirs in &entries[at + 1..] {
            for (mode, name) in MODES.into_iter().enumerate() {
                for metric in COMPARED {
                    let (first, second) = (ours.values(mode, &[metric]), theirs.values(mode, &[metric]));
                    let test = paired_values(&first, &second, metric, &bootstrap)?;
                    comparisons.push(comparison(&ours.name, &theirs.name, name, &test));
                }
            }
        }
    }
    progress.finish();
    Ok((rows, comparisons))
}

const MODES: [&str; 2] = ["no_filter", "seen_removed"];

fn row(entry: &Entry, mode: usize, groups: &Groups, bootstrap: &Bootstrap) -> AccuracyRow {
    // Intervals are of the mean over the seeds, further down.
    let none = Bootstrap { resamples: 0, ..*bootstrap };
    let judged: Vec<(u64, Metrics, RowDetail)> = entry
        .runs
        .iter()
        .map(|(seed, modes)| {
            let row = modes.each()[mode].1;
            let report = RowReport::new(row, &groups.targets, &groups.buckets, DEFAULT_KS, &none);
            (*seed, metrics(&report), groups.detail(row, &report))
        })
        .collect();
    let measured = Metric::all(DEFAULT_KS);
    let intervals = of_means(&entry.values(mode, &measured), measured.len(), bootstrap);
    let named = measured.iter().zip(intervals).map(|(metric, i)| (metric.to_string(), [i.low, i.high]));
    let means_of = |part: fn(&RowDetail) -> &BTreeMap<String, Metrics>| -> BTreeMap<String, Metrics> {
        let groups = judged.first().map(|(.., detail)| part(detail).keys()).into_iter().flatten();
        let mean = |group: &String| means(judged.iter().filter_map(|(.., detail)| part(detail).get(group)));
        groups.map(|group| (group.clone(), mean(group))).collect()
    };
    AccuracyRow {
        name: entry.name.clone(),
        trained: entry.trained,
        method: entry.method.clone(),
        mode: MODES[mode],
        seeds: judged.len(),
        metrics: means(judged.iter().map(|(_, metrics, _)| metrics)),
        deviation: deviations(&judged.iter().map(|(_, metrics, _)| metrics).collect::<Vec<_>>()),
        detail: RowDetail {
            intervals: named.collect(),
            buckets: means_of(|detail| &detail.buckets),
            history: means_of(|detail| &detail.history),
            sets: means_of(|detail| &detail.sets),
        },
        by_seed: judged.iter().map(|(seed, metrics, _)| (*seed, metrics.clone())).collect(),
        beam: entry.beam.clone(),
        parameters: entry.parameters,
        measured: means(entry.measured.iter()),
    }
}

impl Entry {
    /// Each user's values, means over the seeds, [users, metrics].
    fn values(&self, mode: usize, metrics: &[Metric]) -> Vec<f64> {
        let users = self.runs.first().map_or(0, |(_, modes)| modes.no_filter.ranks.len());
        let mut sums = vec![0.0; users * metrics.len()];
        for (_, modes) in &self.runs {
            let row = modes.each()[mode].1;
            let values = row.ranks.iter().flat_map(|&rank| metrics.iter().map(move |metric| metric.of_rank(rank)));
            sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
        }
        let seeds = self.runs.len().max(1) as f64;
        sums.iter_mut().for_each(|sum| *sum /= seeds);
        sums
    }
}

/// Means by name, of those that have the name.
fn means<'a>(maps: impl Iterator<Item = &'a Metrics>) -> Metrics {
    let mut sums: BTreeMap<&String, (f64, f64)> = BTreeMap::new();
    for (name, value) in maps.flatten() {
        let (sum, number) = sums.entry(name).or_default();
        (*sum, *number) = (*sum + value, *number + 1.0);
    }
    sums.into_iter().map(|(name, (sum, number))| (name.clone(), sum / number)).collect()
}

/// Standard deviations of a sample, by name; none of fewer than two values.
fn deviations(maps: &[&Metrics]) -> Metrics {
    if maps.len() < 2 {
        return Metrics::new();
    }
    let mean = means(maps.iter().copied());
    let deviation = |(name, mean): (&String, &f64)| {
        let squares: Vec<f64> = maps.iter().filter_map(|map| map.get(name)).map(|v| (v - mean).powi(2)).collect();
        let variance = squares.iter().sum::<f64>() / (squares.len().max(2) - 1) as f64;
        (name.clone(), variance.sqrt())
    };
    mean.iter().map(deviation).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deviations_are_those_of_a_sample_and_one_seed_has_none() {
        let map = |value: f64| Metrics::from([("recall@10".to_owned(), value)]);
        let (a, b, c) = (map(0.1), map(0.2), map(0.6));
        assert_eq!(deviations(&[&a]), Metrics::new());
        let of_three = deviations(&[&a, &b, &c])["recall@10"];
        assert!((of_three - 0.07f64.sqrt()).abs() < 1e-12, "{of_three}");
        assert!((means([&a, &b, &c].into_iter())["recall@10"] - 0.3).abs() < 1e-12);
    }
}
