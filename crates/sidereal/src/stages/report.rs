//! The last stage: the evaluation as JSON and the page that shows the run.

use std::path::Path;

use serde_json::json;
use sidereal_core::artifact::{Manifest, read_json, write_atomic, write_json};
use sidereal_core::{Catalog, Histories, ItemIndex, Progress};
use sidereal_generator::training::{Event, METRICS_FILE, read_metrics};
use sidereal_nn::device::DeviceChoice;
use sidereal_tokenizer::report::QualityReport;

use crate::Result;
use crate::evaluate::{Question, evaluate};
use crate::evaluation::Evaluation;
use crate::recipe::Recipe;
use crate::recommend::{Query, Recommender};
use crate::report::{ItemView, LevelView, ReportData, ScoredView, TokenizerView, TrainingPoint, UserStory, render};
use crate::run::{Outcome, Run, Stage};
use crate::stages::{inputs, resolved};

/// The evaluation's file in the stage's folder.
pub const EVALUATION_FILE: &str = "evaluation.json";
/// The quality report's file.
pub const TOKENIZER_FILE: &str = "tokenizer.json";
/// The page's file.
pub const PAGE_FILE: &str = "report.html";
/// Items of a user's recommendations that the page shows.
const STORY_ITEMS: usize = 10;

/// Evaluates the run on its test split and draws its page.
///
/// # Errors
/// A stage before it has not run; whatever the device says.
pub fn make(run: &Run, recipe: &Recipe, device: DeviceChoice, progress: &dyn Progress) -> Result<Outcome> {
    let mut stages = vec![Stage::Data, Stage::Embeddings, Stage::Split, Stage::Catalog, Stage::Generator];
    stages.extend(run.has(Stage::Tokenizer).then_some(Stage::Tokenizer));
    let config = json!({ "evaluate": resolved(&recipe.evaluate), "description": recipe.description });
    let wanted = Manifest::new(Stage::Report.name(), Some(recipe.seed), config, inputs(run, &stages)?);
    run.stage(Stage::Report, wanted, |out| {
        let question = Question {
            validation: false,
            beam: recipe.evaluate.beam.clone(),
            users: recipe.evaluate.users,
            exact_users: recipe.evaluate.exact_users,
            mean_scores: false,
            baselines_only: false,
            seed: recipe.seed,
        };
        let evaluation = evaluate(run, question, device, progress)?;
        write_json(&out.path(EVALUATION_FILE), &evaluation)?;
        let quality = super::tokenizer::report(run, progress)?;
        write_json(&out.path(TOKENIZER_FILE), &quality)?;
        let page = render(&page_data(run, recipe, evaluation, quality, device)?)?;
        write_atomic(&out.path(PAGE_FILE), |file| file.write_all(page.as_bytes()))?;
        Ok(json!({}))
    })
}

/// The evaluation that the stage keeps.
///
/// # Errors
/// The stage has not run.
pub fn evaluation(run: &Run) -> Result<Evaluation> {
    run.manifest(Stage::Report)?;
    Ok(read_json(&run.dir(Stage::Report).join(EVALUATION_FILE))?)
}

fn page_data(
    run: &Run,
    recipe: &Recipe,
    evaluation: Evaluation,
    quality: QualityReport,
    device: DeviceChoice,
) -> Result<ReportData> {
    let data = run.data()?;
    let recommender = Recommender::load(run, device, false)?;
    let catalog = recommender.catalog();
    let split = run.split(&data.histories)?;
    let info = recommender.generator().info();
    let facts = [
        ("users", data.histories.len().to_string()),
        ("items", data.items.len().to_string()),
        ("interactions", data.histories.events().to_string()),
        ("mean history", format!("{:.1}", data.histories.mean_len())),
        (
            "training samples up to",
            split.train_end.iter().map(|&end| u64::from(end.saturating_sub(1))).sum::<u64>().to_string(),
        ),
        ("catalog version", catalog.version().to_owned()),
        ("generator", format!("{}, {} parameters, weights of step {}", info.method, info.parameters, info.step)),
        ("seed", recipe.seed.to_string()),
    ];
    let name = run.root().file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let title = if recipe.description.is_empty() { name } else { recipe.description.clone() };
    let chosen = evenly(split.test.len(), recipe.evaluate.stories);
    let examples: Vec<_> = chosen.into_iter().map(|at| split.test[at]).collect();
    let queries: Vec<Query<'_>> = examples
        .iter()
        .map(|example| {
            let history = example.history(&data.histories);
            Query { history, deny: history, user: Some(data.histories.user(example.user as usize)), time: None }
        })
        .collect();
    let rankings = recommender.rank(&queries, &recipe.evaluate.beam.clone().into())?;
    let view = |item: ItemIndex| ItemView {
        item_id: catalog.item_id(item).to_owned(),
        title: data.items.title(item).map(str::to_owned),
    };
    let users = examples.iter().zip(&rankings).map(|(example, ranking)| {
        let target = example.target(&data.histories);
        let recommendations = ranking.items.iter().take(STORY_ITEMS).map(|scored| ScoredView {
            item: view(scored.item),
            score: f64::from(scored.score),
            is_target: scored.item == target,
            semantic_id: catalog.semantic_id(scored.item).to_vec(),
        });
        UserStory {
            user: user_name(&data.histories, example.user),
            history: example.history(&data.histories).iter().map(|&item| view(item)).collect(),
            target: Some(view(target)),
            recommendations: recommendations.collect(),
        }
    });
    Ok(ReportData {
        title,
        facts: facts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        recipe_toml: recipe.to_toml(),
        evaluation: Some(evaluation),
        accuracy: None,
        tokenizer: Some(tokenizer_view(quality, catalog)),
        training: training_points(&run.dir(Stage::Generator))?,
        users: users.collect(),
    })
}

fn user_name(histories: &Histories, user: u32) -> String {
    histories.user(user as usize).to_owned()
}

/// `wanted` places spread evenly over `len`.
fn evenly(len: usize, wanted: usize) -> Vec<usize> {
    let wanted = wanted.min(len);
    (0..wanted).map(|i| i * len / wanted).collect()
}

/// What a generator's folder says of its training.
pub(crate) fn training_points(generator: &Path) -> Result<Vec<TrainingPoint>> {
    let events = read_metrics(&generator.join(METRICS_FILE))?;
    let points = events.into_iter().map(|event| match event {
        Event::Train { step, loss, learning_rate, samples_per_s, .. } => TrainingPoint {
            step,
            loss: Some(loss),
            learning_rate: Some(learning_rate),
            samples_per_s: Some(samples_per_s),
            validation: None,
        },
        Event::Validation { step, metrics, .. } => TrainingPoint {
            step,
            loss: None,
            learning_rate: None,
            samples_per_s: None,
            validation: serde_json::to_value(metrics).ok().and_then(|value| serde_json::from_value(value).ok()),
        },
    });
    Ok(points.collect())
}

fn tokenizer_view(quality: QualityReport, catalog: &Catalog) -> TokenizerView {
    let levels = catalog.tokenizer_levels();
    let mut code_counts: Vec<Vec<u32>> =
        catalog.codes_per_level()[..levels].iter().map(|&codes| vec![0; codes as usize]).collect();
    for item in 0..catalog.len() as u32 {
        for (counts, &code) in code_counts.iter_mut().zip(catalog.semantic_id(item)) {
            counts[code as usize] += 1;
        }
    }
    let mut bucket_sizes = std::collections::BTreeMap::new();
    for leaf in 0..catalog.trie().leaves() {
        *bucket_sizes.entry(catalog.postings(leaf).len()).or_insert(0usize) += 1;
    }
    TokenizerView {
        items: quality.items,
        unique_ids: quality.unique_ids,
        collision_rate: quality.collision_rate,
        max_bucket: quality.max_bucket,
        levels: quality
            .levels
            .iter()
            .map(|level| LevelView { used: level.used, codes: level.codes as usize, perplexity: level.perplexity })
            .collect(),
        prefixes: quality.prefixes,
        code_counts,
        bucket_sizes: bucket_sizes.into_iter().collect(),
    }
}
