//! Recipes trained with several seeds and judged side by side: what an accuracy table is made with, in one command.
//!
//! Every row is a run of its own below `OUT/rows/NAME/seed-S`, made by the pipeline as `sidereal run` makes one, so that
//! a comparison that was killed goes on where it was and every row can be asked and looked at afterwards. Stages that
//! rows have in common are computed once and lent (`lend.rs`): data, embeddings and split by all, tokenizer and catalog by
//! rows whose recipes say the same of them. All rows answer the same questions, beside the baselines that need no
//! training; ranks are kept too, and the table is means over seeds with paired tests over users.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Value, json};
use sidereal_core::Progress;
use sidereal_core::artifact::{MANIFEST, Manifest, write_atomic, write_json};
use sidereal_data::DataSource;
use sidereal_generator::Widths;
use sidereal_nn::device::DeviceChoice;

use crate::Result;
use crate::evaluate::Question;
use crate::evaluate::exam::Exam;
use crate::evaluate::groups::Groups;
use crate::evaluation::{Comparison, Evaluation, Modes};
use crate::lend::lend;
use crate::pipeline::{self, Finished, Setting};
use crate::recipe::{EmbeddingsRecipe, Recipe};
use crate::recommend::Recommender;
use crate::report::{AccuracyView, LearningCurve, ReportData, TrainingPoint, render};
use crate::run::{Run, Stage};
use crate::stages::report::training_points;
use crate::stages::{inputs, resolved};

mod ranks;
mod suite;
mod table;

use ranks::RANKS;
use table::{Entry, table};

pub use suite::{Suite, SuiteRow};
pub use table::AccuracyRow;

/// The table's file.
pub const ACCURACY_FILE: &str = "accuracy.json";
/// The page's file.
pub const PAGE_FILE: &str = "accuracy.html";
/// The run of what all rows share, with the baselines' ranks.
const SHARED: &str = "shared";

/// What is wanted besides the rows.
#[derive(Clone, Copy)]
pub struct Wish<'a> {
    /// Folders with items, interactions and embeddings, and the files that rows import.
    pub data: &'a DataSource,
    /// The folder to write.
    pub out: &'a Path,
    /// Trainings of each row instead of the suite's number.
    pub seeds: Option<u64>,
    /// Where tensors live.
    pub device: DeviceChoice,
    /// Who watches.
    pub progress: &'a dyn Progress,
}

/// The table, as `accuracy.json` has it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Accuracy {
    /// What the suite says it is for.
    pub description: String,
    /// Two for each row: one a mode.
    pub rows: Vec<AccuracyRow>,
    /// Paired tests between any two rows, on each user's mean over the seeds.
    pub comparisons: Vec<Comparison>,
    /// On what: counts and digests.
    pub data: BTreeMap<String, Value>,
    /// Trainings that could not be done.
    pub failed: Vec<Failed>,
}

/// A training that could not be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failed {
    /// The row.
    pub name: String,
    /// The training's seed.
    pub seed: u64,
    /// The error.
    pub error: String,
}

/// Trains every row with every seed, judges all of them alike, and writes table, page and manifest.
///
/// A training that cannot be done is listed with its error, and the others go on. `told` hears of every stage.
///
/// # Errors
/// Data that cannot be read; no user with a target; a folder that cannot be written.
pub fn compare(suite: &Suite, wish: Wish<'_>, mut told: impl FnMut(&str, u64, Finished)) -> Result<Accuracy> {
    let Some(first) = suite.rows.first() else {
        return Err(sidereal_core::Error::config("row", "there are none", "give a [[row]]").into());
    };
    let setting = Setting { data: Some(wish.data), device: wish.device, progress: wish.progress };
    let shared = Run::create(&wish.out.join(SHARED))?;
    pipeline::run(&shared, &first.recipe, setting, Stage::Split, |stage| told(SHARED, first.recipe.seed, stage))?;
    let data = shared.data()?;
    let split = shared.split(&data.histories)?;
    let question = |beam: Widths| Question {
        validation: false,
        beam,
        users: first.recipe.evaluate.users,
        exact_users: None,
        mean_scores: false,
        baselines_only: false,
        seed: first.recipe.seed,
    };
    let exam = Exam::new(&data, &split, &question(first.recipe.evaluate.beam.clone()), wish.progress)?;
    let mut maker = Maker { wish, setting, shared: &shared, exam: &exam, lenders: BTreeMap::new() };
    let mut entries: Vec<Option<Entry>> = suite.rows.iter().map(|_| None).collect();
    let mut digests = inputs(&shared, &[Stage::Data, Stage::Embeddings, Stage::Split])?;
    let (mut failed, mut curves) = (Vec::new(), BTreeMap::new());
    // Every row once, then every row again: a comparison that is looked at early has all rows.
    for number in 0..wish.seeds.unwrap_or(suite.seeds).max(1) {
        for (row, entry) in suite.rows.iter().zip(&mut entries) {
            let mut row = row.clone();
            row.recipe.seed = row.recipe.seed.wrapping_add(number);
            let seed = row.recipe.seed;
            match maker.trained(&row, question(row.recipe.evaluate.beam.clone()), |stage| told(&row.name, seed, stage))
            {
                Ok(made) => {
                    digests.insert(format!("{}, seed {seed}", row.name), made.digest.clone());
                    if number == 0 {
                        // Rows that fuse the same generator in several ways have it in common.
                        let curve = || LearningCurve { name: row.name.clone(), training: made.training.clone() };
                        curves.entry(made.digest.clone()).or_insert_with(curve);
                    }
                    made.join(entry, &row);
                }
                Err(error) => failed.push(Failed { name: row.name, seed, error: error.to_string() }),
            }
        }
    }
    let mut entries: Vec<Entry> = entries.into_iter().flatten().collect();
    entries.extend(maker.untrained(question(Widths::default()))?);
    let (rows, comparisons) = table(&entries, &Groups::new(&exam, data.items.len()), first.recipe.seed, wish.progress)?;
    let mut about = BTreeMap::from([
        ("users".to_owned(), json!(data.histories.len())),
        ("items".to_owned(), json!(data.items.len())),
        ("interactions".to_owned(), json!(data.histories.events())),
        ("judged_users".to_owned(), json!(exam.examples.len())),
        ("split".to_owned(), resolved(&first.recipe.split)),
    ]);
    for stage in [Stage::Data, Stage::Embeddings, Stage::Split] {
        about.insert(format!("{}_digest", stage.name()), json!(digests.get(stage.name())));
    }
    let found = Accuracy { description: suite.description.clone(), rows, comparisons, data: about, failed };
    let place = |curve: &LearningCurve| suite.rows.iter().position(|row| row.name == curve.name);
    let mut curves: Vec<LearningCurve> = curves.into_values().collect();
    curves.sort_by_key(place);
    write(suite, wish, &found, curves, digests)?;
    Ok(found)
}

/// What trains rows and asks them.
struct Maker<'a> {
    wish: Wish<'a>,
    setting: Setting<'a>,
    shared: &'a Run,
    exam: &'a Exam<'a>,
    /// Runs that have a stage, by what their recipes say about it.
    lenders: BTreeMap<(Stage, String), Run>,
}

/// A row trained with one seed and asked.
struct Made {
    seed: u64,
    digest: String,
    modes: Modes<sidereal_core::metrics::Row>,
    method: String,
    /// Of the generator, where it has a part in the row.
    parameters: Option<usize>,
    measured: BTreeMap<String, f64>,
    training: Vec<TrainingPoint>,
}

/// What a row cost: its generator, where it has a part in it, and what was fitted over it. Times add up; of memory it is the
/// higher peak. A fusion that was fitted before fusions were measured adds nothing.
fn total(generator: Option<BTreeMap<String, f64>>, fusion: Option<BTreeMap<String, f64>>) -> BTreeMap<String, f64> {
    let mut sums = BTreeMap::new();
    for (name, value) in generator.into_iter().chain(fusion).flatten() {
        let sum: &mut f64 = sums.entry(name.clone()).or_default();
        *sum = if name == "peak_memory_bytes" { sum.max(value) } else { *sum + value };
    }
    sums
}

impl Maker<'_> {
    fn trained(&mut self, row: &SuiteRow, question: Question, told: impl FnMut(Finished)) -> Result<Made> {
        let SuiteRow { name, learnt_by, recipe } = row;
        let folder = |row: &str| self.wish.out.join("rows").join(row).join(format!("seed-{}", recipe.seed));
        let run = Run::create(&folder(name))?;
        // Whole, so that the row's own recipe.toml finds it from where it is.
        let whole = |path: PathBuf| std::path::absolute(&path).map_err(|e| sidereal_core::Error::io("find", &path, e));
        let learnt_by = learnt_by.as_deref().map(|row| whole(folder(row))).transpose()?;
        let learnt_by = learnt_by.map(|learnt_by| EmbeddingsRecipe { learnt_by });
        let recipe = &Recipe { embeddings: learnt_by.or_else(|| recipe.embeddings.clone()), ..recipe.clone() };
        let toml = recipe.to_toml();
        write_atomic(&run.root().join("recipe.toml"), |out| out.write_all(toml.as_bytes()))?;
        let mut lent = vec![Stage::Data, Stage::Split];
        lent.extend(recipe.embeddings.is_none().then_some(Stage::Embeddings));
        for stage in lent {
            lend(self.shared, &run, stage)?;
        }
        // A tokenizer is its recipe and seed; a catalog a tokenizer and its own recipe; a generator all that and its own.
        let tokenizer = recipe
            .tokenizer
            .as_ref()
            .map(|tokenizer| (tokenizer, &recipe.embeddings, &recipe.collaborative, recipe.seed));
        let tokenizer = resolved(&tokenizer).to_string();
        let catalog = format!("{tokenizer} {}", resolved(&recipe.catalog));
        let keys = [
            (Stage::Tokenizer, tokenizer),
            (Stage::Catalog, catalog.clone()),
            (Stage::Generator, format!("{catalog} {} {}", resolved(&recipe.generator), recipe.seed)),
        ];
        for (stage, key) in &keys {
            if let Some(lender) = self.lenders.get(&(*stage, key.clone())).filter(|lender| lender.has(*stage)) {
                lend(lender, &run, *stage)?;
            }
        }
        if recipe.tokenizer.is_none() && run.has(Stage::Tokenizer) {
            // The row had a tokenizer when the suite was another.
            let dir = run.dir(Stage::Tokenizer);
            std::fs::remove_dir_all(&dir).map_err(|e| sidereal_core::Error::io("remove", &dir, e))?;
        }
        pipeline::run(&run, recipe, self.setting, Stage::Fusion, told)?;
        for key in keys {
            self.lenders.entry(key).or_insert_with(|| run.clone());
        }
        let mut asked = vec![Stage::Data, Stage::Split, Stage::Catalog, Stage::Generator];
        asked.extend(recipe.fusion.map(|_| Stage::Fusion));
        let wanted = Manifest::new(
            RANKS,
            Some(question.seed),
            json!({ "beam": question.beam, "users": question.users }),
            inputs(&run, &asked)?,
        );
        let (exam, device) = (self.exam, self.wish.device);
        let rows = ranks::kept(&run.root().join(RANKS), wanted, || {
            let recommender = Recommender::load(&run, device, false)?;
            Ok(vec![(name.clone(), exam.trained_row(name, &recommender, &question.beam, None)?)])
        })?;
        let manifest = run.manifest(Stage::Generator)?;
        let info = sidereal_generator::Generator::read_info(&run.dir(Stage::Generator))?;
        let modes = rows.into_iter().map(|(_, modes)| modes).next();
        let Some(modes) = modes else {
            let mend = "remove the folder and compare again";
            return Err(sidereal_core::Error::artifact(run.root().join(RANKS), "it has no row", mend).into());
        };
        let digest = manifest.digest();
        let takes_part = recipe.fusion.is_none_or(|fusion| !fusion.without.names("generator"));
        let fitted = recipe.fusion.map(|_| run.manifest(Stage::Fusion)).transpose()?;
        let measured =
            total(takes_part.then_some(manifest.measured.figures), fitted.map(|manifest| manifest.measured.figures));
        let parameters = takes_part.then_some(info.parameters);
        let training = if takes_part { training_points(&run.dir(Stage::Generator))? } else { Vec::new() };
        Ok(Made { seed: recipe.seed, digest, modes, method: info.method, parameters, measured, training })
    }

    fn untrained(&self, question: Question) -> Result<Vec<Entry>> {
        let wanted = Manifest::new(
            RANKS,
            Some(question.seed),
            json!({ "users": question.users }),
            inputs(self.shared, &[Stage::Data, Stage::Embeddings, Stage::Split])?,
        );
        let rows = ranks::kept(&self.shared.root().join(RANKS), wanted, || {
            let (data, embeddings) = (self.shared.data()?, self.shared.embeddings()?);
            self.exam.untrained_rows(data.items.len(), [], Some(&embeddings))
        })?;
        let entry = |(name, modes): (String, _)| Entry {
            method: name.clone(),
            name,
            trained: false,
            beam: None,
            parameters: None,
            runs: vec![(question.seed, modes)],
            measured: Vec::new(),
        };
        Ok(rows.into_iter().map(entry).collect())
    }
}

impl Made {
    /// Adds this training to those of its row.
    fn join(self, entry: &mut Option<Entry>, row: &SuiteRow) {
        let entry = entry.get_or_insert_with(|| Entry {
            name: row.name.clone(),
            method: self.method,
            trained: true,
            beam: Some(row.recipe.evaluate.beam.clone()),
            parameters: self.parameters,
            runs: Vec::new(),
            measured: Vec::new(),
        });
        entry.runs.push((self.seed, self.modes));
        entry.measured.push(self.measured);
    }
}

/// Table, page, and what they were made from.
fn write(
    suite: &Suite,
    wish: Wish<'_>,
    found: &Accuracy,
    curves: Vec<LearningCurve>,
    digests: BTreeMap<String, String>,
) -> Result<()> {
    write_json(&wish.out.join(ACCURACY_FILE), found)?;
    let page = render(&page(suite, found, curves))?;
    write_atomic(&wish.out.join(PAGE_FILE), |out| out.write_all(page.as_bytes()))?;
    // Table and page tell seconds: they are not what the manifest's files are, which are the same for the same work.
    let seeds = wish.seeds.unwrap_or(suite.seeds);
    let config = json!({ "rows": resolved(&suite.rows), "seeds": seeds });
    let manifest = Manifest::new("accuracy", None, config, digests);
    Ok(write_json(&wish.out.join(MANIFEST), &manifest)?)
}

fn page(suite: &Suite, found: &Accuracy, curves: Vec<LearningCurve>) -> ReportData {
    let mut evaluation = Evaluation { split: "test".to_owned(), ..Evaluation::default() };
    let of = |name: &str| found.data.get(name).and_then(Value::as_u64).unwrap_or(0) as usize;
    (evaluation.users, evaluation.items) = (of("judged_users"), of("items"));
    for both in found.rows.chunks_exact(2) {
        let [no_filter, seen_removed] = both else { continue };
        let modes = Modes { no_filter: no_filter.metrics.clone(), seen_removed: seen_removed.metrics.clone() };
        let rows = if no_filter.trained { &mut evaluation.trained } else { &mut evaluation.baselines };
        rows.insert(no_filter.name.clone(), modes);
        let detail = Modes { no_filter: no_filter.detail.clone(), seen_removed: seen_removed.detail.clone() };
        evaluation.details.insert(no_filter.name.clone(), detail);
    }
    evaluation.comparisons.clone_from(&found.comparisons);
    let mut facts: Vec<(String, String)> = found
        .data
        .iter()
        .map(|(name, value)| (name.replace('_', " "), value.as_str().map_or_else(|| value.to_string(), str::to_owned)))
        .collect();
    let failed = |failed: &Failed| (format!("{}, seed {} failed", failed.name, failed.seed), failed.error.clone());
    facts.extend(found.failed.iter().map(failed));
    let title = if suite.description.is_empty() { "Accuracy".to_owned() } else { suite.description.clone() };
    let recipes: Vec<String> =
        suite.rows.iter().map(|row| format!("# {}\n{}", row.name, row.recipe.to_toml())).collect();
    ReportData {
        title,
        facts,
        recipe_toml: recipes.join("\n"),
        evaluation: Some(evaluation),
        accuracy: Some(AccuracyView { rows: found.rows.clone(), curves }),
        ..ReportData::default()
    }
}
