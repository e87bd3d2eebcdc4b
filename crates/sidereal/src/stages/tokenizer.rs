//! Embeddings -> codebooks, and how good they are.

use serde_json::json;
use sidereal_core::artifact::Manifest;
use sidereal_core::{Attribute, Embeddings, Error, Items, Progress, SemanticIds, Split};
use sidereal_data::PreparedData;
use sidereal_nn::device::DeviceChoice;
use sidereal_tokenizer::report::{Evidence, QualityReport, consecutive_pairs, report as quality};
use sidereal_tokenizer::{ItemTokenizer, TokenizerConfig, Training, TrainingHistories, TrainingItems};

use crate::Result;
use crate::run::{Outcome, Run, Stage};
use crate::stages::{inputs, resolved};

/// Seed of the report's samples: a report of the same catalog is the same.
const REPORT_SEED: u64 = 0;

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
    config.check()?;
    let mut stages = vec![Stage::Embeddings];
    stages.extend([Stage::Data, Stage::Split].into_iter().filter(|&stage| run.has(stage)));
    let wanted = Manifest::new(Stage::Tokenizer.name(), Some(seed), resolved(config), inputs(run, &stages)?);
    let work_dir = run.work_dir(Stage::Tokenizer);
    let outcome = run.stage(Stage::Tokenizer, wanted, |out| {
        let embeddings = run.embeddings()?;
        std::fs::create_dir_all(&work_dir).map_err(|e| Error::io("create", &work_dir, e))?;
        let training = Training { device: device.open()?, work: Some(&work_dir), ..Training::new(seed, progress) };
        let known = Known::of(run)?;
        let tokenizer = ItemTokenizer::train_with(config, &known.training_items(&embeddings), &training)?;
        tokenizer.save(out.dir())?;
        Ok(json!({ "items": embeddings.rows(), "width": embeddings.width() }))
    })?;
    if work_dir.exists() {
        std::fs::remove_dir_all(&work_dir).map_err(|e| Error::io("remove", &work_dir, e))?;
    }
    Ok(outcome)
}

/// What a run knows of its items besides their vectors.
struct Known {
    data: Option<PreparedData>,
    split: Option<Split>,
    categories: Option<Vec<Vec<String>>>,
}

impl Known {
    fn of(run: &Run) -> Result<Self> {
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
    let catalog = run.catalog()?;
    let built = catalog.built_items();
    progress.start("tokenizer report", Some(catalog.len() as u64), "items");
    let Known { data, split, categories } = Known::of(run)?;
    let tokenizer = if run.has(Stage::Tokenizer) { Some(run.tokenizer()?) } else { None };
    // An imported catalog's codes are not those of a tokenizer that happens to be beside it.
    let tokenizer =
        tokenizer.filter(|t| t.codes_per_level() == &catalog.codes_per_level()[..catalog.tokenizer_levels()]);
    let embeddings = if run.has(Stage::Embeddings) { Some(run.embeddings()?) } else { None };
    let learned = data.as_ref().zip(split.as_ref());
    let popularity = learned.map(|(data, split)| split.training_popularity(&data.histories, built));
    let co_purchases = learned.map(|(data, split)| consecutive_pairs(&data.histories, &split.train_end));
    // Of a path, its first part.
    let categories: Option<Vec<Option<String>>> =
        categories.map(|paths| paths.into_iter().map(|path| path.into_iter().next()).collect());
    let evidence = Evidence {
        embeddings: embeddings.as_ref(),
        tokenizer: tokenizer.as_ref(),
        popularity: popularity.as_deref(),
        categories: categories.as_deref(),
        co_purchases: co_purchases.as_deref(),
        seed: REPORT_SEED,
    };
    // Of a catalog that has lived, the items that it was built of: the run's vectors and histories are theirs.
    let sids = catalog.tokenizer_semantic_ids()?;
    let sids = SemanticIds::new(sids.levels(), sids.codes()[..built * sids.levels()].to_vec())?;
    let found = quality(&sids, &catalog.codes_per_level()[..catalog.tokenizer_levels()], &evidence)?;
    progress.advance(catalog.len() as u64);
    progress.finish();
    Ok(found)
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
