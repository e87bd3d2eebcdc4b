//! Judges a run's generator beside the baselines that need no training, over the same users.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use sidereal_core::metrics::{
    Bootstrap, DEFAULT_KS, Metric, PairedTest, PopularityBuckets, RankedLists, Row, RowReport, paired_test,
};
use sidereal_core::{Catalog, Embeddings, Example, Histories, ItemIndex, LeafFilter, Progress, Split};
use sidereal_data::PreparedData;
use sidereal_generator::baselines::{Baseline, Statistics, rank_examples};
use sidereal_generator::fusion::{FitJob, FusedRanker, Fusion, FusionConfig};
use sidereal_generator::{Question as Asked, Ranker};
use sidereal_nn::device::DeviceChoice;
use sidereal_nn::rng::Rng;

use crate::Result;
use crate::evaluation::{Comparison, Evaluation, Metrics, Modes, RowDetail};
use crate::recommend::{Query, Recommender};
use crate::run::{Run, Stage};
use crate::stages;

/// Users whose beams are searched together; between two of these the progress moves.
const USERS_PER_ROUND: usize = 256;
/// Length of the lists that coverage and exposure are counted on.
const LIST: usize = 50;
/// Metrics that rows are compared by.
const COMPARED: [Metric; 2] = [Metric::Recall(10), Metric::Ndcg(10)];

/// The row of a fusion without its generator.
const FUSION_ALONE: &str = "fusion without generator";

/// What to judge.
#[derive(Debug, Clone, Copy)]
pub struct Question {
    /// The validation targets instead of the test targets.
    pub validation: bool,
    /// Beam width W.
    pub beam: usize,
    /// A seeded sample of this many users instead of all.
    pub users: Option<usize>,
    /// Without the generator.
    pub baselines_only: bool,
    /// Seed of the sample, the intervals and the tests.
    pub seed: u64,
}

/// What every row is judged on.
struct Exam<'a> {
    histories: &'a Histories,
    split: &'a Split,
    catalog: &'a Catalog,
    embeddings: Option<&'a Embeddings>,
    /// The time of every event, at least roughly.
    times: Option<Vec<i64>>,
    examples: &'a [Example],
    buckets: PopularityBuckets,
    bootstrap: Bootstrap,
    progress: &'a dyn Progress,
}

/// Evaluates a run.
///
/// # Errors
/// A stage that has not run; no user with a target; a beam width of 0.
pub fn evaluate(run: &Run, question: Question, device: DeviceChoice, progress: &dyn Progress) -> Result<Evaluation> {
    let began = Instant::now();
    let data = run.data()?;
    let catalog = run.catalog()?;
    run.check_items(&catalog, &data)?;
    let split = run.split(&data.histories)?;
    let embeddings = if run.has(Stage::Embeddings) { Some(run.catalog_embeddings(&catalog)?) } else { None };
    let examples = sample(if question.validation { &split.validation } else { &split.test }, question)?;
    let popularity = split.training_popularity(&data.histories, catalog.len());
    let exam = Exam {
        histories: &data.histories,
        split: &split,
        catalog: &catalog,
        embeddings: embeddings.as_ref(),
        times: data.rough_times(),
        examples: &examples,
        buckets: PopularityBuckets::new(&popularity),
        bootstrap: Bootstrap { seed: question.seed, ..Bootstrap::default() },
        progress,
    };
    let mut rows: Vec<(String, Modes<Row>)> = Vec::new();
    if !question.baselines_only {
        let recommender = Recommender::load(run, device, false)?;
        let name = recommender.generator().info().method.clone();
        if let Some(fusion) = recommender.fusion() {
            rows.push((format!("{name} + fusion"), exam.generator_row(&recommender, question.beam)?));
            let alone = Recommender::load_generator(run, device, false)?;
            rows.push((name, exam.generator_row(&alone, question.beam)?));
            rows.push((FUSION_ALONE.to_owned(), exam.fusion_alone_row(run, &data, fusion.config, question)?));
        } else {
            rows.push((name, exam.generator_row(&recommender, question.beam)?));
        }
    }
    let generator = rows.first().map(|(name, _)| name.clone());
    rows.extend(exam.baseline_rows()?);
    let mut evaluation = exam.judge(&rows, generator.as_deref())?;
    evaluation.split = if question.validation { "validation" } else { "test" }.to_owned();
    evaluation.beam = question.beam;
    evaluation.seconds = began.elapsed().as_secs_f64();
    Ok(evaluation)
}

fn sample(examples: &[Example], question: Question) -> Result<Vec<Example>> {
    let mut chosen = examples.to_vec();
    if let Some(users) = question.users.filter(|&users| users < chosen.len()) {
        Rng::new(question.seed, "evaluate sample").shuffle(&mut chosen);
        chosen.truncate(users);
        chosen.sort_by_key(|example| example.user);
    }
    if chosen.is_empty() {
        let mend = "give users with at least three events, another split rule, or --users above 0";
        return Err(sidereal_core::Error::input("split", "there is no user to judge by", mend).into());
    }
    Ok(chosen)
}

impl Exam<'_> {
    /// The moment of a question: that of the event before its target.
    fn time_before(&self, example: &Example) -> Option<i64> {
        let target = self.histories.offsets()[example.user as usize] as usize + example.position as usize;
        self.times.as_ref().filter(|_| example.position > 0).map(|times| times[target - 1])
    }

    fn targets(&self) -> Vec<ItemIndex> {
        self.examples.iter().map(|example| example.target(self.histories)).collect()
    }

    /// The generator by beam search: once over the whole catalog, once with each user's history denied in the trie.
    fn generator_row(&self, recommender: &Recommender, beam: usize) -> Result<Modes<Row>> {
        let empty = || Row { ranks: Vec::with_capacity(self.examples.len()), lists: RankedLists::new(LIST) };
        let mut rows = Modes { no_filter: empty(), seen_removed: empty() };
        self.progress.start("evaluate generator", Some(self.examples.len() as u64), "users");
        for round in self.examples.chunks(USERS_PER_ROUND) {
            for (row, remove_seen) in [(&mut rows.no_filter, false), (&mut rows.seen_removed, true)] {
                let queries: Vec<Query<'_>> = round
                    .iter()
                    .map(|example| {
                        let history = example.history(self.histories);
                        let user = Some(self.histories.user(example.user as usize));
                        let deny: &[ItemIndex] = if remove_seen { history } else { &[] };
                        Query { history, deny, user, time: self.time_before(example) }
                    })
                    .collect();
                let rankings = recommender.rank(&queries, beam)?;
                for (example, ranking) in round.iter().zip(&rankings) {
                    row.ranks.push(ranking.rank_of(example.target(self.histories)));
                    row.lists.push(ranking.items.iter().map(|scored| scored.item));
                }
            }
            self.progress.advance(round.len() as u64);
        }
        self.progress.finish();
        Ok(rows)
    }

    /// The fusion's counts without its generator, fitted anew: what is left of it when the generator is taken away.
    fn fusion_alone_row(
        &self,
        run: &Run,
        data: &PreparedData,
        config: FusionConfig,
        question: Question,
    ) -> Result<Modes<Row>> {
        let knowledge = Arc::new(stages::fusion::knowledge(run, data, self.split, self.catalog)?);
        let fusion = Fusion::fit(&FitJob {
            config,
            generator: None,
            knowledge: &knowledge,
            catalog: self.catalog,
            histories: self.histories,
            times: self.times.as_deref(),
            examples: &self.split.validation,
            seed: question.seed,
            progress: self.progress,
        })?;
        let ranker = FusedRanker::new(None, knowledge, fusion)?;
        let (deny_nothing, everything) = (LeafFilter::allow_all(), question.beam);
        let empty = || Row { ranks: Vec::with_capacity(self.examples.len()), lists: RankedLists::new(LIST) };
        let mut rows = Modes { no_filter: empty(), seen_removed: empty() };
        for round in self.examples.chunks(USERS_PER_ROUND) {
            let histories: Vec<&[ItemIndex]> = round.iter().map(|example| example.history(self.histories)).collect();
            let seen: Vec<LeafFilter> =
                histories.iter().map(|history| LeafFilter::deny_items(self.catalog, history)).collect();
            for (row, remove_seen) in [(&mut rows.no_filter, false), (&mut rows.seen_removed, true)] {
                let asked = round.iter().zip(histories.iter().zip(&seen));
                let asked: Vec<Asked<'_>> = asked
                    .map(|(example, (history, seen))| Asked {
                        history,
                        filter: if remove_seen { seen } else { &deny_nothing },
                        user: None,
                        time: self.time_before(example),
                    })
                    .collect();
                for (example, ranking) in round.iter().zip(ranker.rank(self.catalog, &asked, everything)?) {
                    row.ranks.push(ranking.rank_of(example.target(self.histories)));
                    row.lists.push(ranking.items.iter().map(|scored| scored.item));
                }
            }
        }
        Ok(rows)
    }

    /// Every baseline that the run's data allows: those over item vectors only where the run has them.
    fn baseline_rows(&self) -> Result<Vec<(String, Modes<Row>)>> {
        let statistics = Statistics::new(self.histories, self.split, self.catalog.len(), self.embeddings)?;
        let statistics = Arc::new(statistics.without(self.catalog.removed())?);
        let rows = Baseline::all(&statistics).into_iter().map(|baseline| {
            let both = rank_examples(&baseline, self.histories, self.examples, LIST, self.progress)?;
            let modes = Modes { no_filter: both.no_filter, seen_removed: both.seen_removed };
            Ok((baseline.method().name.to_owned(), modes))
        });
        rows.collect()
    }

    fn judge(&self, rows: &[(String, Modes<Row>)], generator: Option<&str>) -> Result<Evaluation> {
        let targets = self.targets();
        let mut evaluation = Evaluation {
            users: self.examples.len(),
            items: self.catalog.alive(),
            generator: generator.map(str::to_owned),
            catalog_version: self.catalog.version().to_owned(),
            ..Evaluation::default()
        };
        let events: usize = self.examples.iter().map(|example| example.position as usize).sum();
        evaluation.mean_history_length = events as f64 / self.examples.len() as f64;
        self.progress.start("evaluate intervals", Some(rows.len() as u64), "rows");
        for (name, modes) in rows {
            let report = |row: &Row| RowReport::new(row, &targets, &self.buckets, DEFAULT_KS, &self.bootstrap);
            let reports = Modes { no_filter: report(&modes.no_filter), seen_removed: report(&modes.seen_removed) };
            let detail = Modes { no_filter: detail(&reports.no_filter), seen_removed: detail(&reports.seen_removed) };
            evaluation.details.insert(name.clone(), detail);
            let metrics =
                Modes { no_filter: metrics(&reports.no_filter), seen_removed: metrics(&reports.seen_removed) };
            if generator == Some(name) {
                let both = [&reports.no_filter.audit, &reports.seen_removed.audit];
                evaluation.invalid_rate = both.iter().map(|audit| audit.invalid_rate()).fold(0.0, f64::max);
                evaluation.duplicate_rate = both.iter().map(|audit| audit.duplicate_rate()).fold(0.0, f64::max);
                evaluation.no_filter = Some(metrics.no_filter);
                evaluation.seen_removed = Some(metrics.seen_removed);
            } else {
                evaluation.baselines.insert(name.clone(), metrics);
            }
            self.progress.advance(1);
        }
        self.progress.finish();
        evaluation.comparisons = self.compare(rows)?;
        evaluation.verdict = generator.map(|name| verdict(name, &evaluation.comparisons)).unwrap_or_default();
        Ok(evaluation)
    }

    /// Paired tests between any two rows.
    fn compare(&self, rows: &[(String, Modes<Row>)]) -> Result<Vec<Comparison>> {
        let mut comparisons = Vec::new();
        for (at, (row, ours)) in rows.iter().enumerate() {
            for (with, theirs) in &rows[at + 1..] {
                for ((mode, ours), (_, theirs)) in ours.each().into_iter().zip(theirs.each()) {
                    for metric in COMPARED {
                        let test = paired_test(&ours.ranks, &theirs.ranks, metric, &self.bootstrap)?;
                        comparisons.push(comparison(row, with, mode, &test));
                    }
                }
            }
        }
        Ok(comparisons)
    }
}

fn comparison(row: &str, with: &str, mode: &str, test: &PairedTest) -> Comparison {
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

fn metrics(report: &RowReport) -> Metrics {
    let mut all: Metrics = report.metrics.values().iter().map(|(metric, value)| (metric.to_string(), *value)).collect();
    for (name, values) in [("coverage", &report.coverage), ("gini", &report.gini)] {
        all.extend(values.iter().map(|(k, value)| (format!("{name}@{k}"), *value)));
    }
    all
}

fn detail(report: &RowReport) -> RowDetail {
    let intervals =
        report.intervals.iter().map(|(metric, interval)| (metric.to_string(), [interval.low, interval.high])).collect();
    let buckets = report.buckets.iter().map(|part| {
        let values = BTreeMap::from([
            ("users".to_owned(), part.users as f64),
            ("items".to_owned(), part.items as f64),
            ("recall@10".to_owned(), part.recall_10),
            ("ndcg@10".to_owned(), part.ndcg_10),
        ]);
        (part.bucket.name().to_owned(), values)
    });
    RowDetail { intervals, buckets: buckets.collect() }
}

/// Says, for each baseline and mode, whether the generator beats it, by NDCG@10 and its paired test.
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
