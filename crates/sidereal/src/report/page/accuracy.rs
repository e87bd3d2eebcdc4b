//! Trained rows beside untrained ones: bars with intervals, means with deviations over seeds, what training cost.

use serde::Serialize;

use super::training::{CURVES, validations};
use super::{Chart, Table, TableRow};
use crate::Result;
use crate::accuracy::AccuracyRow;
use crate::report::AccuracyView;
use crate::report::numbers::{count, figure, metric, seconds};
use crate::report::plots::{self, IntervalBar};
use crate::report::verdict::MODES;

/// What is drawn.
const CHARTED: [&str; 2] = ["recall@10", "ndcg@10"];
/// Columns of the tables, where a row has them.
const COLUMNS: [&str; 6] = ["recall@5", "recall@10", "ndcg@5", "ndcg@10", "mrr", "coverage@10"];

#[derive(Debug, Serialize)]
pub(super) struct AccuracySection {
    about: String,
    charts: Vec<Chart>,
    tables: Vec<Table>,
}

/// The section; nothing where there are no rows.
pub(super) fn view(data: &AccuracyView) -> Result<Option<AccuracySection>> {
    if data.rows.is_empty() {
        return Ok(None);
    }
    let (mut charts, mut tables) = (Vec::new(), Vec::new());
    for (mode, title, _) in MODES {
        let mut rows: Vec<&AccuracyRow> = data.rows.iter().filter(|row| row.mode == mode).collect();
        let place = |row: &AccuracyRow| row.metrics.get("ndcg@10").copied().unwrap_or(f64::NEG_INFINITY);
        rows.sort_by(|a, b| place(b).total_cmp(&place(a)));
        for charted in CHARTED {
            charts.push(chart(title, charted, &rows)?);
        }
        let columns: Vec<&'static str> =
            COLUMNS.into_iter().filter(|column| rows.iter().any(|row| row.metrics.contains_key(*column))).collect();
        tables.push(Table {
            title: format!("{title}: means over seeds, with the standard deviation where there are two or more"),
            rows: rows.iter().map(|row| figures(row, &columns)).collect(),
            columns: std::iter::once("Seeds").chain(columns).map(str::to_owned).collect(),
        });
    }
    if let Some((metric, curves)) = validations(&data.curves) {
        for curves in curves.chunks(CURVES) {
            let named: Vec<&str> = curves.iter().map(|curve| curve.name.as_str()).collect();
            let caption = format!("{metric} of validation users by step, of the first seed: {}", named.join(", "));
            let name = format!("Learning, {caption}");
            charts.push(Chart::new("Learning,", caption, plots::curves(&name, curves, None)?));
        }
    }
    tables.push(Table {
        title: "Training and fitting, means over seeds; memory without what the idle process has".to_owned(),
        columns: ["Method", "Parameters", "Wall time", "Processor time", "Samples a second", "Peak memory, MiB"]
            .map(str::to_owned)
            .to_vec(),
        rows: data.rows.iter().filter(|row| row.trained && row.mode == MODES[0].0).map(cost).collect(),
    });
    let about = "Rows are ordered by NDCG@10. Whiskers: 95 % bootstrap interval over users of the mean over seeds. Blue \
                 rows are trained.";
    Ok(Some(AccuracySection { about: about.to_owned(), charts, tables }))
}

fn chart(title: &str, charted: &str, rows: &[&AccuracyRow]) -> Result<Chart> {
    let bar = |row: &&AccuracyRow| {
        Some(IntervalBar {
            name: row.name.clone(),
            value: *row.metrics.get(charted)?,
            interval: row.detail.intervals.get(charted).copied(),
            ours: row.trained,
        })
    };
    let bars: Vec<IntervalBar> = rows.iter().filter_map(bar).collect();
    let told: Vec<String> = bars.iter().map(|bar| format!("{} {}", bar.name, figure(bar.value, 4))).collect();
    let name = format!("{title}, {charted}: {}", told.join(", "));
    Ok(Chart::new(format!("{title}:"), charted, plots::interval_bars(&name, &bars)?))
}

fn figures(row: &AccuracyRow, columns: &[&str]) -> TableRow {
    let cell = |column: &&str| {
        let mean = metric(row.metrics.get(*column).copied());
        match row.deviation.get(*column) {
            Some(&deviation) => format!("{mean} \u{b1} {}", figure(deviation, 4)),
            None => mean,
        }
    };
    let seeds = if row.trained { count(row.seeds as u64) } else { "not trained".to_owned() };
    TableRow { name: row.name.clone(), cells: std::iter::once(seeds).chain(columns.iter().map(cell)).collect() }
}

fn cost(row: &AccuracyRow) -> TableRow {
    // A fusion without its generator trains on no samples.
    let measured = |name: &str| row.measured.get(name).copied().unwrap_or(f64::NAN);
    let parameters = row.parameters.map_or_else(String::new, |parameters| count(parameters as u64));
    TableRow {
        name: row.name.clone(),
        cells: vec![
            row.method.clone(),
            parameters,
            seconds(measured("seconds")),
            seconds(measured("cpu_seconds")),
            figure(measured("samples_per_s"), 0),
            figure(measured("peak_memory_bytes") / f64::from(1 << 20), 0),
        ],
    }
}
