//! Embeddings -> codebooks, and how good they are.

use serde_json::json;
use sidereal_core::artifact::Manifest;
use sidereal_core::{Attribute, Error, Items, Progress};
use sidereal_nn::device::DeviceChoice;
use sidereal_tokenizer::report::{Evidence, QualityReport, consecutive_pairs, report as quality};
use sidereal_tokenizer::{ItemTokenizer, TokenizerConfig, Training};

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
    let wanted =
        Manifest::new(Stage::Tokenizer.name(), Some(seed), resolved(config), inputs(run, &[Stage::Embeddings])?);
    let work_dir = run.work_dir(Stage::Tokenizer);
    let outcome = run.stage(Stage::Tokenizer, wanted, |out| {
        let embeddings = run.embeddings()?;
        std::fs::create_dir_all(&work_dir).map_err(|e| Error::io("create", &work_dir, e))?;
        let training = Training { device: device.open()?, work: Some(&work_dir), ..Training::new(seed, progress) };
        let tokenizer = ItemTokenizer::train_with(config, &embeddings, &training)?;
        tokenizer.save(out.dir())?;
        Ok(json!({ "items": embeddings.rows(), "width": embeddings.width() }))
    })?;
    if work_dir.exists() {
        std::fs::remove_dir_all(&work_dir).map_err(|e| Error::io("remove", &work_dir, e))?;
    }
    Ok(outcome)
}

/// How good the run's semantic IDs are, by whatever the run has beside them.
///
/// # Errors
/// No catalog, or a damaged stage.
pub fn report(run: &Run, progress: &dyn Progress) -> Result<QualityReport> {
    let catalog = run.catalog()?;
    progress.start("tokenizer report", Some(catalog.len() as u64), "items");
    let data = if run.has(Stage::Data) { Some(run.data()?) } else { None };
    let split = match &data {
        Some(data) if run.has(Stage::Split) => Some(run.split(&data.histories)?),
        _ => None,
    };
    let tokenizer = if run.has(Stage::Tokenizer) { Some(run.tokenizer()?) } else { None };
    // An imported catalog's codes are not those of a tokenizer that happens to be beside it.
    let tokenizer =
        tokenizer.filter(|t| t.codes_per_level() == &catalog.codes_per_level()[..catalog.tokenizer_levels()]);
    let embeddings = if run.has(Stage::Embeddings) { Some(run.embeddings()?) } else { None };
    let learned = data.as_ref().zip(split.as_ref());
    let popularity = learned.map(|(data, split)| split.training_popularity(&data.histories, catalog.len()));
    let co_purchases = learned.map(|(data, split)| consecutive_pairs(&data.histories, &split.train_end));
    let categories = data.as_ref().and_then(|data| categories(&data.items));
    let evidence = Evidence {
        embeddings: embeddings.as_ref(),
        tokenizer: tokenizer.as_ref(),
        popularity: popularity.as_deref(),
        categories: categories.as_deref(),
        co_purchases: co_purchases.as_deref(),
        seed: REPORT_SEED,
    };
    let sids = catalog.tokenizer_semantic_ids()?;
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

/// The items' category column, whatever it is called; of a path ("Toys > Puzzles") or list, its first part.
fn categories(items: &Items) -> Option<Vec<Option<String>>> {
    let column = ["category", "categories", "genres", "genre"].iter().find_map(|name| items.attributes().get(*name))?;
    Some(match column {
        Attribute::Text(values) => {
            let first = |path: &String| path.split(['>', '|']).next().map(|part| part.trim().to_owned());
            values.iter().map(|path| path.as_ref().and_then(first)).collect()
        }
        Attribute::TextList(values) => values.iter().map(|list| list.first().cloned()).collect(),
        Attribute::Number(_) => return None,
    })
}
