//! Generator, counts and what was learnt from them in closed form -> the weights that fuse them into one score.
//!
//! Everything is counted twice: over the training parts, for the fit and for questions about validation targets, and over
//! all that lies before the test targets, for all other questions.

use serde_json::json;
use sidereal_core::artifact::{Manifest, read_json, write_json};
use sidereal_core::{Attribute, Catalog, Error, Progress, Split};
use sidereal_data::PreparedData;
use sidereal_generator::fusion::{
    FitJob, Fusion, FusionConfig, Knowledge, KnowledgeJob, Learnt, LinearConfig, LinearModel,
};
use sidereal_generator::training::meter::Stopwatch;
use sidereal_nn::device::DeviceChoice;
use sidereal_tokenizer::TrainingHistories;
use sidereal_tokenizer::behaviour::collaborative_vectors::{CollaborativeConfig, collaborative_vectors};
use sidereal_tokenizer::behaviour::user_item_vectors::user_item_vectors;

use crate::Result;
use crate::life::added::AddedItems;
use crate::recommend::Recommender;
use crate::run::{Outcome, Run, Stage};
use crate::stages::{inputs, resolved};

/// The weights' file in the stage's folder.
pub const FUSION_FILE: &str = "fusion.json";
/// Width of learnt item vectors.
const WIDTH: usize = 128;

/// Which events are known when a question is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// Those of the training parts: validation targets are asked for, or weights are fitted on them.
    Training,
    /// All before the test targets.
    BeforeTest,
}

impl Known {
    /// The file of what was learnt from them, in the stage's folder.
    fn file(self) -> &'static str {
        match self {
            Self::Training => "learnt.safetensors",
            Self::BeforeTest => "learnt-before-test.safetensors",
        }
    }

    fn split(self, data: &PreparedData, split: Split) -> Split {
        match self {
            Self::Training => split,
            Self::BeforeTest => split.before_test(&data.histories),
        }
    }
}

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
        let watch = Stopwatch::begin();
        let recommender = Recommender::load_generator(run, device, false)?;
        let data = run.data()?;
        let split = run.split(&data.histories)?;
        let learnt = learn(&data, &split, config, seed, progress)?;
        learnt.save(&out.path(Known::Training.file()))?;
        let knowledge = counted(run, &data, &split, recommender.catalog(), learnt)?;
        let fusion = fitted(&data, &split, &recommender, &knowledge, *config, seed, progress)?;
        if config.recount {
            let known = split.before_test(&data.histories);
            learn(&data, &known, config, seed, progress)?.save(&out.path(Known::BeforeTest.file()))?;
        }
        write_json(&out.path(FUSION_FILE), &fusion)?;
        out.measured(watch.figures(), [] as [&str; 0]);
        let form = resolved(&fusion.form);
        Ok(json!({ "users": fusion.users, "reached": fusion.reached, "loss": fusion.loss, "form": form }))
    })
}

/// What is learnt in closed form from the training parts of a split.
fn learn(
    data: &PreparedData,
    split: &Split,
    config: &FusionConfig,
    seed: u64,
    progress: &dyn Progress,
) -> Result<Learnt> {
    let (items, wanted) = (data.items.len(), |name: &str| !config.without.names(name));
    let histories = TrainingHistories::new(&data.histories, &split.train_end);
    let mut learnt = Learnt::default();
    if wanted("linear") && config.linear_items > 0 {
        let linear = LinearConfig { items: config.linear_items, ..LinearConfig::default() };
        learnt.linear = Some(LinearModel::fit(&data.histories, split, items, linear, progress)?);
    }
    if wanted("item2vec") {
        let width = CollaborativeConfig { width: WIDTH, ..CollaborativeConfig::default() };
        // Histories in which no item stands near another say nothing here, and that is no error.
        learnt.item2vec = collaborative_vectors(&histories, items, &width, seed, progress).ok();
    }
    if wanted("user-item") {
        learnt.user_item = Some(user_item_vectors(&histories, items, WIDTH, seed, progress)?);
    }
    Ok(learnt)
}

/// Fits weights on a run's validation targets, with the generator or, where `config` leaves it out, without.
///
/// # Errors
/// As [`make`].
pub(crate) fn fit(
    run: &Run,
    recommender: &Recommender,
    config: FusionConfig,
    seed: u64,
    progress: &dyn Progress,
) -> Result<Fusion> {
    let data = run.data()?;
    let split = run.split(&data.histories)?;
    let knowledge = knowledge(run, recommender.catalog(), Known::Training)?;
    fitted(&data, &split, recommender, &knowledge, config, seed, progress)
}

fn fitted(
    data: &PreparedData,
    split: &Split,
    recommender: &Recommender,
    knowledge: &Knowledge,
    config: FusionConfig,
    seed: u64,
    progress: &dyn Progress,
) -> Result<Fusion> {
    let times = data.rough_times();
    Fusion::fit(&FitJob {
        config,
        generator: Some(recommender.generator().ranker()),
        knowledge,
        catalog: recommender.catalog(),
        histories: &data.histories,
        times: times.as_deref(),
        examples: &split.validation,
        seed,
        progress,
    })
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

/// What a run knows beside its generator, as its fusion stage learnt it; where that did not recount, always the training
/// parts.
///
/// # Errors
/// A stage that is missing or damaged.
pub fn knowledge(run: &Run, catalog: &Catalog, known: Known) -> Result<Knowledge> {
    let dir = run.dir(Stage::Fusion);
    let known = if dir.join(Known::BeforeTest.file()).exists() { known } else { Known::Training };
    let data = run.data()?;
    let split = known.split(&data, run.split(&data.histories)?);
    counted(run, &data, &split, catalog, Learnt::open(&dir.join(known.file()))?)
}

fn counted(run: &Run, data: &PreparedData, split: &Split, catalog: &Catalog, learnt: Learnt) -> Result<Knowledge> {
    let vectors = if run.has(Stage::Embeddings) { Some(run.catalog_embeddings(catalog)?) } else { None };
    let removed: Vec<u32> = catalog.removed().collect();
    let mut texts: Vec<String> = (0..data.items.len()).map(|item| text(data, item)).collect();
    if texts.len() < catalog.len() {
        let added = AddedItems::load(&run.dir(Stage::Catalog), catalog)?;
        let title = |item: usize| added.title(catalog, item as u32).unwrap_or_default().to_owned();
        texts.extend((texts.len()..catalog.len()).map(title));
    }
    let times = data.rough_times();
    Knowledge::new(KnowledgeJob {
        histories: &data.histories,
        split,
        items: catalog.len(),
        removed: &removed,
        vectors: vectors.as_ref(),
        texts: Some(&texts),
        times: times.as_deref(),
        learnt,
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
