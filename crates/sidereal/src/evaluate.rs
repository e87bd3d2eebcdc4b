//! Judges trained models beside the baselines that need no training, over the same users.

use std::time::Instant;

use sidereal_core::metrics::{Bootstrap, DEFAULT_KS, Metric, PairedTest, Row, RowReport, paired_test};
use sidereal_core::{Catalog, Error, ItemIndex, Progress};
use sidereal_generator::Widths;
use sidereal_nn::device::DeviceChoice;
use sidereal_nn::kernels::Precision;

use crate::Result;
use crate::evaluation::{Comparison, Evaluation, Metrics, Modes};
use crate::recommend::{Compute, Recommender};
use crate::run::{Run, Stage};
use crate::stages::fusion::Known;

mod by_domain;
mod content;
pub(crate) mod exact;
pub(crate) mod exam;
pub(crate) mod groups;
mod mean_scores;

use by_domain::ByDomain;
use content::Content;
use exact::ExactExam;
use exam::Exam;
use groups::Groups;
use mean_scores::MeanScores;

/// Metrics that rows are compared by.
pub(crate) const COMPARED: [Metric; 2] = [Metric::Recall(10), Metric::Ndcg(10)];

/// What to judge.
#[derive(Debug, Clone)]
pub struct Question {
    /// The validation targets instead of the test targets.
    pub validation: bool,
    /// Beam width W, or one a level.
    pub beam: Widths,
    /// A seeded sample of this many users instead of all.
    pub users: Option<usize>,
    /// Compare generators' decodings with exact scores of all items for a seeded draw of this many of these users.
    pub exact_users: Option<usize>,
    /// A further row: the mean of what the generators of all runs say of every item.
    pub mean_scores: bool,
    /// Without the generator.
    pub baselines_only: bool,
    /// Seed of the sample, the intervals and the tests.
    pub seed: u64,
}

/// Evaluates a run.
///
/// # Errors
/// A stage that has not run; no user with a target; a beam width of 0; exact scores to compare with asked of generators that
/// score all items anyway; a mean of scores of one generator, or of such as do not score all items.
pub fn evaluate(run: &Run, question: Question, device: DeviceChoice, progress: &dyn Progress) -> Result<Evaluation> {
    evaluate_with(run, &[], question, &[device.into()], progress)
}

/// Evaluates a run, and beside it the trained models of other runs over the same data and split; with several ways to compute a
/// row for each, so that what a coarser precision costs is told by a paired test.
///
/// # Errors
/// As [`evaluate`]; a run over other items, events or held-out targets, or with other items in its catalog: it would be
/// asked other questions.
pub fn evaluate_with(
    run: &Run,
    others: &[Run],
    question: Question,
    computes: &[Compute],
    progress: &dyn Progress,
) -> Result<Evaluation> {
    let began = Instant::now();
    let data = run.data()?;
    let catalog = run.catalog()?;
    run.check_items(&catalog, &data)?;
    let split = run.split(&data.histories)?;
    others.iter().try_for_each(|other| check_same_questions(run, &catalog, other))?;
    let content = Content::of(run, &catalog)?;
    let exam = Exam::new(&data, &split, &question, progress)?;
    let mut by_domain = ByDomain::new(&data.items, &catalog, &exam);
    let exact = question.exact_users.map(|users| ExactExam::new(&exam, users, question.seed));
    let mut exact = exact.transpose()?;
    let mut rows: Vec<(String, Modes<Row>)> = Vec::new();
    let mut mean = question.mean_scores.then(MeanScores::default);
    if !question.baselines_only {
        for run in std::iter::once(run).chain(others) {
            for (at, &compute) in computes.iter().enumerate() {
                for (kind, recommender) in recommenders(run, &question, compute, progress)? {
                    let generator = recommender.generator();
                    let precision = match generator.precision() {
                        Precision::F32 => String::new(),
                        other => format!(" in {}", other.name()),
                    };
                    let name = row_name(&rows, &format!("{}{kind}{precision}", generator.info().method), run);
                    if let Some(exact) = exact.as_mut().filter(|_| recommender.fusion().is_none()) {
                        exact.ask(&name, &recommender, &question.beam)?;
                    }
                    let row = exam.trained_row(&name, &recommender, &question.beam, None)?;
                    if let Some(by_domain) = &mut by_domain {
                        by_domain.ask(&name, &recommender, &question.beam)?;
                    }
                    // Of several precisions the first stands for its run.
                    if let Some(mean) = mean.as_mut().filter(|_| recommender.fusion().is_none() && at == 0) {
                        mean.add(&name, recommender)?;
                    }
                    rows.push((name, row));
                }
            }
        }
    }
    if let Some(mean) = mean {
        rows.push((mean.name().to_owned(), mean.row(&exam, &question.beam)?));
    }
    let exact = exact.map_or(Ok(Vec::new()), ExactExam::figures)?;
    let trained = rows.len();
    let vectors = content.as_ref().map(|content| &content.vectors);
    for baseline in exam.baselines(catalog.len(), catalog.removed(), vectors)? {
        let name = content::row_name(baseline.method(), content.as_ref());
        rows.push((name.clone(), exam.untrained_row(&baseline)?));
        if let Some(by_domain) = &mut by_domain {
            by_domain.ask_untrained(&name, &baseline)?;
        }
    }
    let mut evaluation = judge(&exam, &catalog, &rows, trained, question.seed)?;
    evaluation.split = if question.validation { "validation" } else { "test" }.to_owned();
    evaluation.beam = question.beam.clone();
    evaluation.domains = by_domain.map(|by_domain| by_domain.figures(&rows)).unwrap_or_default();
    evaluation.exact = exact.into_iter().collect();
    evaluation.precision = computes.first().map(|compute| compute.precision).unwrap_or_default();
    evaluation.seconds = began.elapsed().as_secs_f64();
    Ok(evaluation)
}

/// Who answers in a run: its generator, or where it has a fusion that, the generator alone, and the fusion fitted without
/// the generator, so that what each adds can be seen. A fusion that is asked for validation targets knows none of them.
fn recommenders(
    run: &Run,
    question: &Question,
    compute: Compute,
    progress: &dyn Progress,
) -> Result<Vec<(&'static str, Recommender)>> {
    let alone = Recommender::load_generator(run, compute, false)?;
    if !run.has(Stage::Fusion) {
        return Ok(vec![("", alone)]);
    }
    let known = if question.validation { Known::Training } else { Known::BeforeTest };
    let fused = alone.fused(run, known)?;
    let without = alone.without_generator(run, known, progress)?;
    Ok(vec![(" + fusion", fused), ("", alone), (" taken out of its fusion", without)])
}

/// A name that no row has: the method's, with the run's folder and a number where that is needed.
fn row_name(rows: &[(String, Modes<Row>)], method: &str, run: &Run) -> String {
    let folder = run.root().canonicalize().unwrap_or_else(|_| run.root().to_path_buf());
    let folder = folder.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let numbered = (2..).map(|number| format!("{method}, {folder} ({number})"));
    let mut names = [method.to_owned(), format!("{method}, {folder}")].into_iter().chain(numbered);
    names.find(|name| rows.iter().all(|(taken, _)| taken != name)).unwrap_or_default()
}

/// Refuses a run whose users would be asked something else.
fn check_same_questions(run: &Run, catalog: &Catalog, other: &Run) -> Result<()> {
    let (ours, theirs) = (run.root().display(), other.root().display());
    let refuse = |what: &str, mend: &str| Err(Error::mismatch(format!("{theirs} has {what} than {ours}"), mend).into());
    if run.manifest(Stage::Data)?.files != other.manifest(Stage::Data)?.files {
        return refuse("other items or interactions", "prepare both runs from the same data in the same way");
    }
    if run.manifest(Stage::Split)?.files != other.manifest(Stage::Split)?.files {
        return refuse("another split", "give both recipes the same `split`");
    }
    let theirs_catalog = other.catalog()?;
    let ids = |catalog: &Catalog| -> Vec<Option<String>> {
        let id = |item: ItemIndex| catalog.is_alive(item).then(|| catalog.item_id(item).to_owned());
        (0..catalog.len() as ItemIndex).map(id).collect()
    };
    if ids(catalog) != ids(&theirs_catalog) {
        return refuse("other items in its catalog", "add or remove the same items in both, or roll one back");
    }
    Ok(())
}

/// All figures of rows of which the first `trained` are trained models, and the very first is the run's own.
fn judge(
    exam: &Exam<'_>,
    catalog: &Catalog,
    rows: &[(String, Modes<Row>)],
    trained: usize,
    seed: u64,
) -> Result<Evaluation> {
    let groups = Groups::new(exam, catalog.len());
    let bootstrap = Bootstrap { seed, ..Bootstrap::default() };
    let mut evaluation = Evaluation {
        users: exam.examples.len(),
        items: catalog.alive(),
        generator: rows.first().filter(|_| trained > 0).map(|(name, _)| name.clone()),
        catalog_version: catalog.version().to_owned(),
        mean_history_length: groups.mean_history_length(),
        ..Evaluation::default()
    };
    exam.progress.start("evaluate intervals", Some(rows.len() as u64), "rows");
    for (at, (name, modes)) in rows.iter().enumerate() {
        let reports = modes.map(|row| RowReport::new(row, &groups.targets, &groups.buckets, DEFAULT_KS, &bootstrap));
        let detail = Modes {
            no_filter: groups.detail(&modes.no_filter, &reports.no_filter),
            seen_removed: groups.detail(&modes.seen_removed, &reports.seen_removed),
        };
        evaluation.details.insert(name.clone(), detail);
        let metrics = reports.map(metrics);
        if at < trained {
            for (_, RowReport { audit, .. }) in reports.each() {
                evaluation.invalid_rate = evaluation.invalid_rate.max(audit.invalid_rate());
                evaluation.duplicate_rate = evaluation.duplicate_rate.max(audit.duplicate_rate());
            }
        }
        match at {
            0 if trained > 0 => {
                evaluation.no_filter = Some(metrics.no_filter);
                evaluation.seen_removed = Some(metrics.seen_removed);
            }
            at if at < trained => _ = evaluation.trained.insert(name.clone(), metrics),
            _ => _ = evaluation.baselines.insert(name.clone(), metrics),
        }
        exam.progress.advance(1);
    }
    exam.progress.finish();
    evaluation.comparisons = compare(rows, &bootstrap)?;
    evaluation.verdict =
        evaluation.generator.as_deref().map(|name| verdict(name, &evaluation.comparisons)).unwrap_or_default();
    Ok(evaluation)
}

/// Paired tests between any two rows.
fn compare(rows: &[(String, Modes<Row>)], bootstrap: &Bootstrap) -> Result<Vec<Comparison>> {
    let mut comparisons = Vec::new();
    for (at, (row, ours)) in rows.iter().enumerate() {
        for (with, theirs) in &rows[at + 1..] {
            for ((mode, ours), (_, theirs)) in ours.each().into_iter().zip(theirs.each()) {
                for metric in COMPARED {
                    let test = paired_test(&ours.ranks, &theirs.ranks, metric, bootstrap)?;
                    comparisons.push(comparison(row, with, mode, &test));
                }
            }
        }
    }
    Ok(comparisons)
}

pub(crate) fn comparison(row: &str, with: &str, mode: &str, test: &PairedTest) -> Comparison {
    Comparison {
        row: row.to_owned(),
        with: with.to_owned(),
        mode: mode.to_owned(),
        metric: test.metric.to_string(),
        difference: test.difference,
        interval: [test.interval.low, test.interval.high],
        p_value: test.p_value,
    }
}

pub(crate) fn metrics(report: &RowReport) -> Metrics {
    let mut all: Metrics = report.metrics.values().iter().map(|(metric, value)| (metric.to_string(), *value)).collect();
    for (name, values) in [("coverage", &report.coverage), ("gini", &report.gini)] {
        all.extend(values.iter().map(|(k, value)| (format!("{name}@{k}"), *value)));
    }
    all
}

/// Says, for each other row and mode, whether the generator beats it, by NDCG@10 and its paired test.
fn verdict(generator: &str, comparisons: &[Comparison]) -> Vec<String> {
    let ours = comparisons.iter().filter(|c| c.row == generator && c.metric == Metric::Ndcg(10).to_string());
    ours.map(|c| {
        let what = match (c.interval[0] > 0.0, c.interval[1] < 0.0) {
            (true, _) => "beats",
            (_, true) => "does NOT beat",
            _ => "is not told apart from",
        };
        let where_ = if c.mode == "no_filter" { "on the whole catalog" } else { "with the history removed" };
        let p = if c.p_value < 0.001 { "p < 0.001".to_owned() } else { format!("p = {:.3}", c.p_value) };
        format!(
            "{generator} {what} {} {where_}: NDCG@10 {:+.4} [{:+.4}, {:+.4}], {p}",
            c.with, c.difference, c.interval[0], c.interval[1]
        )
    })
    .collect()
}
