//! Figures by the popularity of the target and the length of the history: whether a row lives on head items and on users
//! who are well known.

use std::collections::BTreeMap;

use serde::Serialize;

use super::evaluation::Row;
use super::{Chart, Table, TableRow};
use crate::Result;
use crate::evaluation::{Metrics, RowDetail};
use crate::report::numbers::{figure, metric, plural};
use crate::report::plots;
use crate::report::verdict::MODES;

/// One way of sorting users into groups.
struct Grouping {
    groups: &'static [&'static str],
    of: fn(&RowDetail) -> &BTreeMap<String, Metrics>,
    /// Behind "by" in captions.
    by: &'static str,
}

const GROUPINGS: [Grouping; 3] = [
    Grouping { groups: &["head", "mid", "tail", "cold"], of: |detail| &detail.buckets, by: "popularity of the target" },
    Grouping { groups: &["short", "mid", "long"], of: |detail| &detail.history, by: "length of the history" },
    Grouping { groups: &["in_set", "cold"], of: |detail| &detail.sets, by: "whether training saw the target" },
];
/// What is charted: the first that a bucket has.
const CHARTED: [&str; 4] = ["recall@10", "ndcg@10", "recall@5", "ndcg@5"];

#[derive(Debug, Serialize)]
pub(super) struct BucketsView {
    about: String,
    legend: Vec<LegendRow>,
    charts: Vec<Chart>,
    tables: Vec<Table>,
}

#[derive(Debug, Serialize)]
struct LegendRow {
    key: usize,
    series: usize,
    name: String,
}

/// The section; nothing where no row has buckets.
pub(super) fn view(rows: &[Row<'_>]) -> Result<Option<BucketsView>> {
    let has = |name: &str| all(rows).any(|(_, bucket)| bucket.contains_key(name));
    let Some(charted) = CHARTED.into_iter().find(|name| has(name)) else { return Ok(None) };
    let mut view = BucketsView {
        about: format!(
            "{charted} by the target\u{2019}s training interactions: head holds the most popular items, cold those that \
             training never saw (in_set is all others). By history: short, mid and long are a third of the users each, \
             as far as users of one length allow. Numbers under the bars are those of the rows."
        ),
        legend: rows
            .iter()
            .enumerate()
            .map(|(at, row)| LegendRow { key: at + 1, series: plots::series(at), name: row.name.to_owned() })
            .collect(),
        charts: Vec::new(),
        tables: Vec::new(),
    };
    for (grouping, (mode, (_, title, _))) in
        GROUPINGS.iter().flat_map(|grouping| MODES.into_iter().enumerate().map(move |mode| (grouping, mode)))
    {
        let of = |row: &Row<'_>, group: &str| row.details[mode].and_then(|d| (grouping.of)(d).get(group)).cloned();
        let named = grouping.groups.iter().copied();
        let names: Vec<&str> = named.filter(|group| rows.iter().any(|row| of(row, group).is_some())).collect();
        if names.is_empty() {
            continue;
        }
        let users = |bucket: &str| rows.iter().find_map(|row| of(row, bucket)?.get("users").copied());
        let value = |row: &Row<'_>, bucket: &str| {
            // A mean over no users is not a figure.
            let bucket = of(row, bucket).filter(|bucket| bucket.get("users") != Some(&0.0))?;
            bucket.get(charted).copied().filter(|value| value.is_finite())
        };
        let groups: Vec<(String, String)> = names
            .iter()
            .map(|name| {
                let below = users(name).filter(|users| users.is_finite());
                (name.replace('_', " "), below.map_or_else(String::new, |users| plural(users as u64, "user")))
            })
            .collect();
        let values: Vec<Vec<Option<f64>>> =
            rows.iter().map(|row| names.iter().map(|name| value(row, name)).collect()).collect();
        let table = Table {
            title: format!("{title}: {charted} by {}", grouping.by),
            columns: groups.iter().map(|(name, users)| format!("{name} ({users})")).collect(),
            rows: rows
                .iter()
                .zip(&values)
                .map(|(row, values)| TableRow {
                    name: row.name.to_owned(),
                    cells: values.iter().map(|&value| metric(value)).collect(),
                })
                .collect(),
        };
        let told: Vec<String> = rows
            .iter()
            .zip(&values)
            .map(|(row, values)| {
                let cells: Vec<String> = names
                    .iter()
                    .zip(values)
                    .map(|(name, value)| format!("{name} {}", figure(value.unwrap_or(f64::NAN), 3)))
                    .collect();
                format!("{}: {}", row.name, cells.join(", "))
            })
            .collect();
        let caption = format!("{charted} by {}", grouping.by);
        let name = format!("{title}, {caption}. {}", told.join("; "));
        view.charts.push(Chart::new(format!("{title}:"), caption, plots::grouped_bars(&name, &groups, &values)?));
        view.tables.push(table);
    }
    Ok((!view.charts.is_empty()).then_some(view))
}

fn all<'a>(rows: &'a [Row<'_>]) -> impl Iterator<Item = (&'a String, &'a Metrics)> {
    rows.iter().flat_map(|row| row.details.iter().flatten()).flat_map(|detail| &detail.buckets)
}
