//! The generator beside its baselines: verdict, tables, differences, paired tests.

use serde::Serialize;

use super::Chart;
use super::popularity::{BucketsView, view as buckets};
use crate::Result;
use crate::evaluation::{Agreement, Comparison, Evaluation, Metrics, RowDetail};
use crate::report::numbers::{figure, metric, p_value, percent, plural, range, seconds, signed};
use crate::report::plots::{self, Difference};
use crate::report::verdict::{Duel, MODES, Outcome, Verdict, verdict};

/// Columns of the tables, where a row has them.
const COLUMNS: [&str; 6] = ["recall@5", "recall@10", "ndcg@5", "ndcg@10", "mrr", "coverage@10"];
/// What rows are ordered by: the first that one has.
const ORDER: [&str; 3] = ["ndcg@10", "recall@10", "mrr"];

#[derive(Debug, Serialize)]
pub(super) struct EvaluationView {
    verdict: Option<VerdictView>,
    about: String,
    faults: Option<String>,
    modes: Vec<ModeView>,
    exact: Vec<ExactRow>,
    differences: Vec<Chart>,
    tests: Vec<TestsView>,
    sentences: Vec<String>,
    pub(super) buckets: Option<BucketsView>,
}

#[derive(Debug, Serialize)]
struct VerdictView {
    outcome: Outcome,
    sign: &'static str,
    headline: String,
    lines: Vec<String>,
    basis: String,
}

#[derive(Debug, Serialize)]
struct ModeView {
    title: &'static str,
    explanation: String,
    columns: Vec<&'static str>,
    rows: Vec<RowView>,
}

#[derive(Debug, Serialize)]
struct RowView {
    key: usize,
    series: usize,
    name: String,
    ours: bool,
    cells: Vec<Cell>,
    duel: Option<Said>,
}

#[derive(Debug, Serialize)]
struct Cell {
    value: String,
    range: Option<String>,
    best: bool,
}

/// How far a row's decoding agrees with exact scoring.
#[derive(Debug, Serialize)]
struct ExactRow {
    name: String,
    items: usize,
    share: String,
    range: Option<String>,
    users: String,
}

#[derive(Debug, Serialize)]
struct Said {
    outcome: Outcome,
    sign: &'static str,
    word: String,
}

#[derive(Debug, Serialize)]
struct TestsView {
    title: String,
    open: bool,
    columns: Vec<String>,
    rows: Vec<TestRow>,
}

/// Two rows, compared by every metric in every mode.
#[derive(Debug, Serialize)]
struct TestRow {
    row: String,
    with: String,
    cells: Vec<Option<TestCell>>,
}

#[derive(Debug, Serialize)]
struct TestCell {
    difference: String,
    interval: String,
    p: String,
    said: Option<Said>,
}

/// A row of the table. Its place is its number and colour in all charts.
#[derive(Debug)]
pub(super) struct Row<'a> {
    pub(super) name: &'a str,
    pub(super) ours: bool,
    /// Figures by mode, as [`MODES`].
    pub(super) metrics: [&'a Metrics; 2],
    /// Intervals and buckets by mode.
    pub(super) details: [Option<&'a RowDetail>; 2],
}

impl Row<'_> {
    fn value(&self, mode: usize, metric: &str) -> Option<f64> {
        self.metrics[mode].get(metric).copied().filter(|value| value.is_finite())
    }
}

/// The generator, then the baselines, best first.
fn rows(evaluation: &Evaluation) -> Vec<Row<'_>> {
    let rows = evaluation.rows().into_iter();
    let mut rows: Vec<Row<'_>> = rows
        .map(|(name, modes)| {
            let details = evaluation.details.get(name);
            Row {
                name,
                ours: evaluation.generator.as_deref() == Some(name),
                metrics: [modes.no_filter, modes.seen_removed],
                details: [details.map(|both| &both.no_filter), details.map(|both| &both.seen_removed)],
            }
        })
        .collect();
    if let Some(order) = ORDER.into_iter().find(|name| rows.iter().any(|row| row.value(0, name).is_some())) {
        let value = |row: &Row<'_>| row.value(0, order).unwrap_or(f64::NEG_INFINITY);
        rows.sort_by(|a, b| b.ours.cmp(&a.ours).then(value(b).total_cmp(&value(a))));
    }
    rows
}

/// The section; nothing where no row was evaluated.
pub(super) fn view(evaluation: &Evaluation) -> Result<Option<EvaluationView>> {
    let rows = rows(evaluation);
    if rows.is_empty() {
        return Ok(None);
    }
    let judged = verdict(evaluation);
    let modes = (0..MODES.len()).map(|mode| mode_view(&rows, mode, judged.as_ref()));
    let (differences, tests) = (differences(judged.as_ref())?, tests(evaluation, &rows));
    Ok(Some(EvaluationView {
        verdict: verdict_view(evaluation, &rows, judged.as_ref()),
        about: about(evaluation),
        faults: faults(evaluation),
        modes: modes.filter(|mode| !mode.columns.is_empty()).collect(),
        exact: exact(evaluation),
        differences,
        tests,
        sentences: evaluation.verdict.clone(),
        buckets: buckets(&rows)?,
    }))
}

fn about(evaluation: &Evaluation) -> String {
    let mut parts = vec![format!("{} of the {} split", plural(evaluation.users as u64, "user"), evaluation.split)];
    if evaluation.split.is_empty() {
        parts = vec![plural(evaluation.users as u64, "user")];
    }
    parts.push(format!("ranked over {}", plural(evaluation.items as u64, "item")));
    if evaluation.generator.is_some() {
        parts.push(format!("beam width {}", evaluation.beam));
        parts.push(format!("invalid rate {}", percent(evaluation.invalid_rate)));
        parts.push(format!("duplicate rate {}", percent(evaluation.duplicate_rate)));
    }
    // A table over several runs has neither.
    if evaluation.mean_history_length > 0.0 {
        parts.push(format!("mean history {} events", figure(evaluation.mean_history_length, 1)));
    }
    if evaluation.seconds > 0.0 {
        parts.push(format!("evaluated in {}", seconds(evaluation.seconds)));
    }
    if !evaluation.catalog_version.is_empty() {
        parts.push(format!("catalog {}", evaluation.catalog_version));
    }
    format!("{}.", parts.join(", "))
}

fn faults(evaluation: &Evaluation) -> Option<String> {
    // Not a number is a fault too.
    let sound = evaluation.invalid_rate == 0.0 && evaluation.duplicate_rate == 0.0;
    (!sound).then(|| {
        "\u{26a0} Rankings hold items that are not in the catalog, or hold one twice: this is a defect, and the \
         figures below cannot be trusted."
            .to_owned()
    })
}

fn mode_view(rows: &[Row<'_>], mode: usize, judged: Option<&Verdict>) -> ModeView {
    let (key, title, explanation) = MODES[mode];
    let measured = |column: &&str| rows.iter().any(|row| row.metrics[mode].contains_key(*column));
    let columns: Vec<&'static str> = COLUMNS.into_iter().filter(measured).collect();
    let best: Vec<Option<f64>> = columns
        .iter()
        .map(|column| rows.iter().filter_map(|row| row.value(mode, column)).reduce(f64::max))
        .map(|best| best.filter(|_| rows.len() > 1))
        .collect();
    let view = |(at, row): (usize, &Row<'_>)| RowView {
        key: at + 1,
        series: plots::series(at),
        name: row.name.to_owned(),
        ours: row.ours,
        cells: columns
            .iter()
            .zip(&best)
            .map(|(column, best)| Cell {
                value: metric(row.value(mode, column)),
                range: range(row.details[mode].and_then(|detail| detail.intervals.get(*column)), |v| figure(v, 4)),
                best: best.is_some() && row.value(mode, column) == *best,
            })
            .collect(),
        duel: judged.and_then(|judged| judged.against(row.name, key)).map(|duel| said(duel.outcome)),
    };
    let mut explanation = explanation.to_owned();
    if let Some(judged) = judged {
        explanation +=
            &format!(" Below a baseline\u{2019}s name: whether {} beats it, by {}.", judged.generator, judged.metric);
    }
    ModeView { title, explanation, rows: rows.iter().enumerate().map(view).collect(), columns }
}

fn exact(evaluation: &Evaluation) -> Vec<ExactRow> {
    let row = |(name, agreement): (&String, &Agreement)| ExactRow {
        name: name.clone(),
        items: agreement.items,
        share: figure(agreement.share, 4),
        range: range(Some(&agreement.interval), |share| figure(share, 4)),
        users: plural(agreement.users as u64, "user"),
    };
    evaluation.exact.iter().map(row).collect()
}

fn said(outcome: Outcome) -> Said {
    let word = match outcome {
        Outcome::Beaten => "beaten",
        Outcome::NotToldApart => "not told apart",
        Outcome::Ahead => "not beaten",
        Outcome::Unknown => "no figures",
    };
    Said { outcome, sign: sign(outcome), word: word.to_owned() }
}

fn sign(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Beaten => "\u{2713}",
        Outcome::NotToldApart => "\u{2248}",
        Outcome::Ahead => "\u{2717}",
        Outcome::Unknown => "?",
    }
}

fn verdict_view(evaluation: &Evaluation, rows: &[Row<'_>], judged: Option<&Verdict>) -> Option<VerdictView> {
    let Some(judged) = judged else {
        if !evaluation.trained.is_empty() {
            return None;
        }
        let best = rows.first().filter(|row| !row.ours)?;
        return Some(VerdictView {
            outcome: Outcome::Unknown,
            sign: "\u{25b8}",
            headline: format!("Baselines only. The best of them: {}", best.name),
            lines: Vec::new(),
            basis: "No generator was evaluated: these figures are what one has to beat.".to_owned(),
        });
    };
    let outcome = judged.worst();
    let name = &judged.generator;
    let headline = match outcome {
        Outcome::Beaten => format!("{name} beats every baseline in both modes"),
        Outcome::Ahead if judged.duels.iter().all(|duel| duel.outcome == Outcome::Ahead) => {
            format!("{name} does not beat any baseline")
        }
        Outcome::Ahead => format!("{name} does not beat every baseline"),
        Outcome::NotToldApart => format!("{name} is behind no baseline, but not told apart from every one"),
        Outcome::Unknown => format!("{name} cannot be judged: figures are missing"),
    };
    let lines = MODES.iter().filter_map(|(key, title, _)| mode_line(judged, key, title)).collect();
    let metric = judged.metric;
    let basis = match judged.tested() {
        true => format!(
            "By {metric}, paired over the same users: told apart where the 95 % interval of the difference leaves out zero."
        ),
        false => format!("By {metric}. Not every pair has a paired test: without one, the bare figures are compared."),
    };
    Some(VerdictView { outcome, sign: sign(outcome), headline, lines, basis })
}

/// `Whole catalog: beats 4 of 5 baselines; does not beat fused (-0.0123).`
fn mode_line(judged: &Verdict, key: &str, title: &str) -> Option<String> {
    let duels: Vec<&Duel> = judged.of_mode(key).collect();
    if duels.is_empty() {
        return None;
    }
    let named = |outcome: Outcome, words: &str| {
        let names: Vec<String> = duels
            .iter()
            .filter(|duel| duel.outcome == outcome)
            .map(|duel| format!("{} ({})", duel.baseline, signed(duel.difference)))
            .collect();
        (!names.is_empty()).then(|| format!("{words} {}", names.join(", ")))
    };
    let beaten = duels.iter().filter(|duel| duel.outcome == Outcome::Beaten).count();
    let mut parts = vec![format!("beats {beaten} of {}", plural(duels.len() as u64, "baseline"))];
    parts.extend(named(Outcome::Ahead, "does not beat"));
    parts.extend(named(Outcome::NotToldApart, "is not told apart from"));
    parts.extend(named(Outcome::Unknown, "has no figures to judge by against"));
    Some(format!("{title}: {}.", parts.join("; ")))
}

fn differences(judged: Option<&Verdict>) -> Result<Vec<Chart>> {
    let Some(judged) = judged else { return Ok(Vec::new()) };
    let mut charts = Vec::new();
    for (key, title, _) in MODES {
        let shown = |duel: &Duel| {
            let interval = duel.interval?;
            [duel.difference, interval[0], interval[1]].into_iter().all(plots::drawable).then(|| Difference {
                name: duel.baseline.clone(),
                value: duel.difference,
                interval,
            })
        };
        let mut rows: Vec<Difference> = judged.of_mode(key).filter_map(shown).collect();
        if rows.is_empty() {
            continue;
        }
        rows.sort_by(|a, b| a.value.total_cmp(&b.value));
        let metric = judged.metric;
        let told: Vec<String> = rows.iter().map(|row| format!("{} {}", row.name, signed(row.value))).collect();
        let name = format!("{title}: {metric} of {} minus each baseline: {}", judged.generator, told.join(", "));
        let caption = format!("{metric} of {} minus the baseline\u{2019}s, with 95 % intervals", judged.generator);
        let svg = plots::differences(&name, &rows, "baseline better", "generator better")?;
        charts.push(Chart::new(format!("{title}:"), caption, svg));
    }
    Ok(charts)
}

fn tests(evaluation: &Evaluation, rows: &[Row<'_>]) -> Vec<TestsView> {
    let generator = evaluation.generator.as_deref();
    let of_generator = |test: &&Comparison| generator.is_some_and(|name| test.row == name || test.with == name);
    let (mut ours, mut others): (Vec<&Comparison>, Vec<&Comparison>) =
        evaluation.comparisons.iter().partition(of_generator);
    // In the order of the tables: who is hardest to beat comes first.
    let place = |name: &str| rows.iter().position(|row| row.name == name).unwrap_or(rows.len());
    for tests in [&mut ours, &mut others] {
        tests.sort_by_key(|test| {
            let (a, b) = (place(&test.row), place(&test.with));
            (a.min(b), a.max(b))
        });
    }
    let mut tables = Vec::new();
    if !ours.is_empty() {
        tables.push(tests_view("Paired tests of the generator", true, &ours, generator));
    }
    if !others.is_empty() {
        let title = if evaluation.trained.is_empty() { "Paired tests between baselines" } else { "Paired tests" };
        tables.push(tests_view(title, false, &others, None));
    }
    tables
}

/// One line for two rows, one column for a metric in a mode.
fn tests_view(title: &str, open: bool, tests: &[&Comparison], generator: Option<&str>) -> TestsView {
    let mut columns: Vec<(&str, &str)> = Vec::new();
    let mut pairs: Vec<(&str, &str)> = Vec::new();
    for test in tests {
        let (column, pair) = ((test.mode.as_str(), test.metric.as_str()), (test.row.as_str(), test.with.as_str()));
        if !columns.contains(&column) {
            columns.push(column);
        }
        if !pairs.contains(&pair) {
            pairs.push(pair);
        }
    }
    let place = |mode: &str| MODES.iter().position(|known| known.0 == mode).unwrap_or(MODES.len());
    columns.sort_by_key(|(mode, _)| place(mode));
    let cell = |pair: (&str, &str), column: (&str, &str)| {
        let same = |test: &&&Comparison| {
            (test.row.as_str(), test.with.as_str()) == pair && (test.mode.as_str(), test.metric.as_str()) == column
        };
        tests.iter().find(same).map(|test| test_cell(test, generator))
    };
    let row = |&(row, with): &(&str, &str)| TestRow {
        row: row.to_owned(),
        with: with.to_owned(),
        cells: columns.iter().map(|&column| cell((row, with), column)).collect(),
    };
    TestsView {
        title: format!("{title} ({})", tests.len()),
        open,
        rows: pairs.iter().map(row).collect(),
        columns: columns
            .iter()
            .map(|(mode, metric)| format!("{}, {metric}", MODES.get(place(mode)).map_or(*mode, |known| known.1)))
            .collect(),
    }
}

fn test_cell(test: &Comparison, generator: Option<&str>) -> TestCell {
    let [low, high] = test.interval;
    let outcome = match (low.is_finite() && high.is_finite(), low > 0.0, high < 0.0) {
        (false, ..) => Outcome::Unknown,
        (_, true, _) => Outcome::Beaten,
        (_, _, true) => Outcome::Ahead,
        _ => Outcome::NotToldApart,
    };
    let outcome = match outcome {
        Outcome::Beaten if generator != Some(test.row.as_str()) => Outcome::Ahead,
        Outcome::Ahead if generator != Some(test.row.as_str()) => Outcome::Beaten,
        outcome => outcome,
    };
    TestCell {
        difference: signed(test.difference),
        interval: range(Some(&test.interval), signed).unwrap_or_else(|| metric(None)),
        p: p_value(test.p_value),
        said: generator.map(|_| said(outcome)),
    }
}
