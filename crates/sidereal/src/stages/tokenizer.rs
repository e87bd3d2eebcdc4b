//! Embeddings -> codebooks, and how good they are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::json;
use sidereal_core::artifact::Manifest;
use sidereal_core::{Attribute, Embeddings, Error, Items, Progress, Split};
use sidereal_data::PreparedData;
use sidereal_nn::device::DeviceChoice;
use sidereal_tokenizer::report::QualityReport;
use sidereal_tokenizer::{ItemTokenizer, TokenizerConfig, Training, TrainingHistories, TrainingItems};

use crate::Result;
use crate::quality::side_by_side;
use crate::run::{Outcome, Run, Stage, keep_or_make};
use crate::stages::collaborative::CollaborativeRecipe;
use crate::stages::{inputs, resolved};

/// What a tokenizer is made by.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    /// Method and settings.
    pub config: &'a TokenizerConfig,
    /// Where vectors learnt from behaviour come from, for methods that learn from them.
    pub collaborative: Option<&'a CollaborativeRecipe>,
    /// The one seed.
    pub seed: u64,
    /// Where nets are trained.
    pub device: DeviceChoice,
}

/// What a run's tokenizer was asked to be, as its manifest keeps it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Asked {
    pub(crate) tokenizer: TokenizerConfig,
    #[serde(default)]
    pub(crate) collaborative: Option<CollaborativeRecipe>,
}

/// Trains the item tokenizer on the run's embeddings.
///
/// # Errors
/// No embeddings; a configuration that does not fit them.
pub fn make(run: &Run, wish: Wish<'_>, progress: &dyn Progress) -> Result<Outcome> {
    let place = Place { dir: run.dir(Stage::Tokenizer), work: run.work_dir(Stage::Tokenizer) };
    make_at(run, &place, wish, progress)
}

/// Where a tokenizer is written.
pub(crate) struct Place {
    /// Its folder.
    pub(crate) dir: PathBuf,
    /// Where unfinished work is kept between two tries.
    pub(crate) work: PathBuf,
}

/// [`make`], into any place.
pub(crate) fn make_at(run: &Run, place: &Place, wish: Wish<'_>, progress: &dyn Progress) -> Result<Outcome> {
    let Wish { config, collaborative, seed, device } = wish;
    config.check()?;
    collaborative.map_or(Ok(()), CollaborativeRecipe::check)?;
    let mut stages = vec![Stage::Embeddings];
    stages.extend([Stage::Data, Stage::Split].into_iter().filter(|&stage| run.has(stage)));
    let mut inputs = inputs(run, &stages)?;
    if let Some(digest) = collaborative.map_or(Ok(None), CollaborativeRecipe::digest)? {
        inputs.insert("collaborative".to_owned(), digest);
    }
    let asked = Asked { tokenizer: config.clone(), collaborative: collaborative.cloned() };
    let wanted = Manifest::new(Stage::Tokenizer.name(), Some(seed), resolved(&asked), inputs);
    let work_dir = &place.work;
    let outcome = keep_or_make(&place.dir, wanted, |out| {
        let embeddings = run.embeddings()?;
        std::fs::create_dir_all(work_dir).map_err(|e| Error::io("create", work_dir, e))?;
        let training = Training { device: device.open()?, work: Some(work_dir), ..Training::new(seed, progress) };
        let known = Known::of(run)?;
        let learnt = match collaborative {
            Some(recipe) => Some(recipe.vectors(&known, seed, progress)?),
            None => None,
        };
        let items = TrainingItems { collaborative: learnt.as_ref(), ..known.training_items(&embeddings) };
        let tokenizer = ItemTokenizer::train_with(config, &items, &training)?;
        tokenizer.save(out.dir())?;
        Ok(json!({ "items": embeddings.rows(), "width": embeddings.width() }))
    })?;
    if work_dir.exists() {
        std::fs::remove_dir_all(work_dir).map_err(|e| Error::io("remove", work_dir, e))?;
    }
    Ok(outcome)
}

/// What a run knows of its items besides their vectors.
pub(crate) struct Known {
    pub(crate) data: Option<PreparedData>,
    pub(crate) split: Option<Split>,
    /// Each item's path of categories, outermost first; empty where unknown.
    pub(crate) categories: Option<Vec<Vec<String>>>,
    /// Each item's domain, by number.
    pub(crate) domains: Option<Vec<u32>>,
}

impl Known {
    pub(crate) fn of(run: &Run) -> Result<Self> {
        let data = if run.has(Stage::Data) { Some(run.data()?) } else { None };
        let split = match &data {
            Some(data) if run.has(Stage::Split) => Some(run.split(&data.histories)?),
            _ => None,
        };
        let categories = data.as_ref().and_then(|data| category_paths(data.items.attributes()));
        let domains = data.as_ref().and_then(|data| domains(&data.items));
        Ok(Self { data, split, categories, domains })
    }

    /// What is known of the items that these vectors belong to.
    pub(crate) fn training_items<'a>(&'a self, vectors: &'a Embeddings) -> TrainingItems<'a> {
        let learned = self.data.as_ref().zip(self.split.as_ref());
        TrainingItems {
            ids: self.data.as_ref().map(|data| data.items.ids()),
            categories: self.categories.as_deref(),
            domains: self.domains.as_deref(),
            histories: learned.map(|(data, split)| TrainingHistories::new(&data.histories, &split.train_end)),
            ..TrainingItems::new(vectors)
        }
    }
}

/// How good the run's semantic IDs are, by whatever the run has beside them.
///
/// # Errors
/// No catalog, or a damaged stage.
pub fn report(run: &Run, progress: &dyn Progress) -> Result<QualityReport> {
    let none: [&Path; 0] = [];
    let mut subjects = side_by_side(run, &none, false, progress)?;
    // The first is the run itself.
    Ok(subjects.swap_remove(0).report)
}

/// A report for a person.
pub fn sentence(report: &QualityReport) -> String {
    let levels: Vec<String> = report
        .levels
        .iter()
        .enumerate()
        .map(|(l, level)| {
            format!("  level {l}: {} of {} codes used, perplexity {:.1}", level.used, level.codes, level.perplexity)
        })
        .collect();
    format!(
        "{} items, {} distinct semantic IDs, collision rate {:.4}, largest bucket {}\n{}\n  prefixes by depth: {:?}",
        report.items,
        report.unique_ids,
        report.collision_rate,
        report.max_bucket,
        levels.join("\n"),
        report.prefixes
    )
}

/// The items' category column, whatever it is called, as paths, outermost first ("Toys > Puzzles").
pub(crate) fn category_paths(attributes: &BTreeMap<String, Attribute>) -> Option<Vec<Vec<String>>> {
    let column = ["category", "categories", "genres", "genre"].iter().find_map(|name| attributes.get(*name))?;
    Some(match column {
        Attribute::Text(values) => {
            let parts = |path: &String| path.split(['>', '|']).map(|part| part.trim().to_owned()).collect();
            values.iter().map(|path| path.as_ref().map(parts).unwrap_or_default()).collect()
        }
        Attribute::TextList(values) => values.clone(),
        Attribute::Number(_) => return None,
    })
}

/// The items' column `domain`, its values numbered in the order of their first item; items without one are a domain of
/// their own.
fn domains(items: &Items) -> Option<Vec<u32>> {
    let Attribute::Text(values) = items.attributes().get("domain")? else { return None };
    let mut known: BTreeMap<Option<&str>, u32> = BTreeMap::new();
    let mut numbers = Vec::with_capacity(values.len());
    for value in values.iter().map(Option::as_deref) {
        let next = known.len() as u32;
        numbers.push(*known.entry(value).or_insert(next));
    }
    Some(numbers)
}
