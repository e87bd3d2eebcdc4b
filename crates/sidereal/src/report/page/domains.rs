//! The users of each domain: ranked for among all items, and among the domain's alone.

use serde::Serialize;

use super::{Table, TableRow};
use crate::evaluation::{DomainFigures, DomainRow, Evaluation, Metrics, Modes};
use crate::report::numbers::{metric, plural};
use crate::report::verdict::MODES;

/// What is shown of each ranking.
const COLUMNS: [&str; 2] = ["recall@10", "ndcg@10"];

#[derive(Debug, Serialize)]
pub(super) struct DomainsView {
    tables: Vec<Table>,
}

/// The section; nothing where items are of one domain.
pub(super) fn view(evaluation: &Evaluation) -> Option<DomainsView> {
    let names: Vec<&str> = evaluation.rows().into_iter().map(|(name, _)| name).collect();
    let tables = evaluation
        .domains
        .iter()
        .flat_map(|domain| (0..MODES.len()).map(|mode| table(domain, &names, mode)))
        .collect::<Vec<_>>();
    (!tables.is_empty()).then_some(DomainsView { tables })
}

fn table(domain: &DomainFigures, names: &[&str], mode: usize) -> Table {
    let of = |modes: &Modes<Metrics>, column: &str| {
        let metrics = if mode == 0 { &modes.no_filter } else { &modes.seen_removed };
        metric(metrics.get(column).copied())
    };
    let cells = |row: &DomainRow| {
        [&row.whole, &row.within].into_iter().flat_map(|modes| COLUMNS.map(|column| of(modes, column))).collect()
    };
    let rows = names
        .iter()
        .filter_map(|name| domain.rows.get(*name).map(|row| TableRow { name: (*name).to_owned(), cells: cells(row) }));
    let among = |items: &str| COLUMNS.map(|column| format!("{column}, {items}"));
    Table {
        title: format!(
            "{}: {} and {}. {}",
            domain.name,
            plural(domain.users as u64, "user"),
            plural(domain.items as u64, "item"),
            MODES[mode].2
        ),
        columns: [among("all items"), among("its items")].concat(),
        rows: rows.collect(),
    }
}
