//! Embeddings -> codebooks, and how good they are.

use std::path::{Path, PathBuf};

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
use crate::stages::{inputs, resolved};

/// Trains the item tokenizer on the run's embeddings.
///
/// # Errors
/// No embeddings; a configuration that does not fit them.
pub fn make(
    run: &Run,
    config: &TokenizerConfig,
    seed: u64,
    device: DeviceChoice,
    progress: &dyn Progress,
) -> Result<Outcome> {
    let place = Place { dir: run.dir(Stage::Tokenizer), work: run.work_dir(Stage::Tokenizer) };
    make_at(run, &place, config, seed, device, progress)
}

/// Where a tokenizer is written.
pub(crate) struct Place {
    /// Its folder.
    pub(crate) dir: PathBuf,
    /// Where unfinished work is kept between two tries.
    pub(crate) work: PathBuf,
}

/// [`make`], into any place.
pub(crate) fn make_at(
    run: &Run,
    place: &Place,
    config: &TokenizerConfig,
    seed: u64,
    device: DeviceChoice,
    progress: &dyn Progress,
) -> Result<Outcome> {
    config.check()?;
    let mut stages = vec![Stage::Embeddings];
    stages.extend([Stage::Data, Stage::Split].into_iter().filter(|&stage| run.has(stage)));
    let wanted = Manifest::new(Stage::Tokenizer.name(), Some(seed), resolved(config), inputs(run, &stages)?);
    let work_dir = &place.work;
    let outcome = keep_or_make(&place.dir, wanted, |out| {
        let embeddings = run.embeddings()?;
        std::fs::create_dir_all(work_dir).map_err(|e| Error::io("create", work_dir, e))?;
        let training = Training { device: device.open()?, work: Some(work_dir), ..Training::new(seed, progress) };
        let known = Known::of(run)?;
        let tokenizer = ItemTokenizer::train_with(config, &known.training_items(&embeddings), &training)?;
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
}

impl Known {
    pub(crate) fn of(run: &Run) -> Result<Self> {
        let data = if run.has(Stage::Data) { Some(run.data()?) } else { None };
        let split = match &data {
            Some(data) if run.has(Stage::Split) => Some(run.split(&data.histories)?),
            _ => None,
        };
        let categories = data.as_ref().and_then(|data| category_paths(&data.items));
        Ok(Self { data, split, categories })
    }

    fn training_items<'a>(&'a self, vectors: &'a Embeddings) -> TrainingItems<'a> {
        let learned = self.data.as_ref().zip(self.split.as_ref());
        TrainingItems {
            ids: self.data.as_ref().map(|data| data.items.ids()),
            categories: self.categories.as_deref(),
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
fn category_paths(items: &Items) -> Option<Vec<Vec<String>>> {
    let column = ["category", "categories", "genres", "genre"].iter().find_map(|name| items.attributes().get(*name))?;
    Some(match column {
        Attribute::Text(values) => {
            let parts = |path: &String| path.split(['>', '|']).map(|part| part.trim().to_owned()).collect();
            values.iter().map(|path| path.as_ref().map(parts).unwrap_or_default()).collect()
        }
        Attribute::TextList(values) => values.clone(),
        Attribute::Number(_) => return None,
    })
}
