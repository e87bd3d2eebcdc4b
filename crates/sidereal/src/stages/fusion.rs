//! Generator and counts -> the weights that fuse them into one score.

use serde_json::json;
use sidereal_core::artifact::{Manifest, read_json, write_json};
use sidereal_core::{Attribute, Catalog, Error, Progress, Split};
use sidereal_data::PreparedData;
use sidereal_generator::fusion::{FitJob, Fusion, FusionConfig, Knowledge, KnowledgeJob};
use sidereal_nn::device::DeviceChoice;

use crate::Result;
use crate::life::added::AddedItems;
use crate::recommend::Recommender;
use crate::run::{Outcome, Run, Stage};
use crate::stages::{inputs, resolved};

/// The weights' file in the stage's folder.
pub const FUSION_FILE: &str = "fusion.json";

/// Fits the fusion on the validation targets.
///
/// # Errors
/// A stage before it has not run; no validation user whose target is among its candidates.
pub fn make(
    run: &Run,
    config: &FusionConfig,
    seed: u64,
    device: DeviceChoice,
    progress: &dyn Progress,
) -> Result<Outcome> {
    config.check()?;
    let mut stages = vec![Stage::Data, Stage::Split, Stage::Catalog, Stage::Generator];
    stages.extend(run.has(Stage::Embeddings).then_some(Stage::Embeddings));
    let wanted = Manifest::new(Stage::Fusion.name(), Some(seed), resolved(config), inputs(run, &stages)?);
    run.stage(Stage::Fusion, wanted, |out| {
        let recommender = Recommender::load_generator(run, device, false)?;
        let (fusion, _) = fit(run, &recommender, config, seed, progress)?;
        write_json(&out.path(FUSION_FILE), &fusion)?;
        Ok(json!({ "users": fusion.users, "reached": fusion.reached, "loss": fusion.loss }))
    })
}

/// Fits weights on a run's validation targets.
///
/// # Errors
/// As [`make`].
pub(crate) fn fit(
    run: &Run,
    recommender: &Recommender,
    config: &FusionConfig,
    seed: u64,
    progress: &dyn Progress,
) -> Result<(Fusion, Knowledge)> {
    let data = run.data()?;
    let split = run.split(&data.histories)?;
    let knowledge = knowledge(run, &data, &split, recommender.catalog())?;
    let times = data.rough_times();
    let fusion = Fusion::fit(&FitJob {
        config: *config,
        generator: Some(recommender.generator().ranker()),
        knowledge: &knowledge,
        catalog: recommender.catalog(),
        histories: &data.histories,
        times: times.as_deref(),
        examples: &split.validation,
        seed,
        progress,
    })?;
    Ok((fusion, knowledge))
}

/// The fitted weights of a run, checked against its generator.
///
/// # Errors
/// A damaged file; weights that were fitted for another generator.
pub fn load(run: &Run) -> Result<Fusion> {
    let manifest = run.manifest(Stage::Fusion)?;
    let name = Stage::Generator.name();
    if manifest.inputs.get(name) != Some(&run.digest(Stage::Generator)?) {
        let problem = format!("{} was fitted for another generator", run.dir(Stage::Fusion).display());
        let mend =
            "fit it again (`sidereal run` with the recipe does), or remove the folder to ask the generator alone";
        return Err(Error::mismatch(problem, mend).into());
    }
    Ok(read_json(&run.dir(Stage::Fusion).join(FUSION_FILE))?)
}

/// What a run knows beside its generator.
///
/// # Errors
/// A stage that is damaged.
pub fn knowledge(run: &Run, data: &PreparedData, split: &Split, catalog: &Catalog) -> Result<Knowledge> {
    let vectors = if run.has(Stage::Embeddings) { Some(run.catalog_embeddings(catalog)?) } else { None };
    let removed: Vec<u32> = catalog.removed().collect();
    let mut texts: Vec<String> = (0..data.items.len()).map(|item| text(data, item)).collect();
    if texts.len() < catalog.len() {
        let added = AddedItems::load(&run.dir(Stage::Catalog), catalog)?;
        let title = |item: usize| added.title(catalog, item as u32).unwrap_or_default().to_owned();
        texts.extend((texts.len()..catalog.len()).map(title));
    }
    let times = data.rough_times();
    Knowledge::new(&KnowledgeJob {
        histories: &data.histories,
        split,
        items: catalog.len(),
        removed: &removed,
        vectors: vectors.as_ref(),
        texts: Some(&texts),
        times: times.as_deref(),
    })
}

/// Everything that is written about an item.
fn text(data: &PreparedData, item: usize) -> String {
    let mut parts: Vec<&str> = data.items.title(item as u32).into_iter().collect();
    for attribute in data.items.attributes().values() {
        match attribute {
            Attribute::Text(values) => parts.extend(values[item].as_deref()),
            Attribute::TextList(values) => parts.extend(values[item].iter().map(String::as_str)),
            Attribute::Number(_) => {}
        }
    }
    parts.join(" ")
}
