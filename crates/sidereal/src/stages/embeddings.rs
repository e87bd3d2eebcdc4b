//! Files of ready vectors and items through models -> the run's item embeddings.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sidereal_core::artifact::{Manifest, sha256_file};
use sidereal_core::{Embeddings, Error, Items, Progress};
use sidereal_data::{DataFolder, DataSource, DomainFolder, PreparedData};
use sidereal_embed::encoders::{self, Family};
use sidereal_embed::pictures::{picture_paths, pictures_digest};
use sidereal_embed::{
    BATCH_TOKENS, ComputeType, Contents, EncodeWork, EncoderOptions, Hub, Modality, ModelFolder, Template, VectorCache,
    VectorFile, Vectors, cache_name, encode_items, one_below_the_other, parts, side_by_side,
};
use sidereal_generator::Generator;
use sidereal_nn::device::DeviceChoice;

use crate::Result;
use crate::materials::RunMaterials;
use crate::recipe::EmbeddingsRecipe;
use crate::run::{Outcome, Run, Stage};
use crate::stages::numbered;
use crate::vectors::Input;

/// A source of vectors; several stand side by side in the embeddings.
#[derive(Debug, Clone)]
pub enum Part {
    /// Ready vectors, one row an item of the items file in its order (or by item id where the file has ids).
    File {
        /// The file.
        path: PathBuf,
        /// Name of the tensor or column, where it is not the usual one.
        name: Option<String>,
    },
    /// Items through a model.
    Model(ModelPart),
    /// What the generator of another run has learnt of the items, found by their ids.
    Learnt {
        /// The run.
        run: PathBuf,
    },
}

impl From<Input> for Part {
    fn from(Input { location, name }: Input) -> Self {
        Self::File { path: location, name }
    }
}

/// How items go through a model.
#[derive(Debug, Clone)]
pub struct ModelPart {
    /// A folder, or a repository of the hub as `org/name[@revision]`.
    pub model: String,
    /// What a text model reads of an item.
    pub template: Template,
    /// What an image tower reads of it: a column with paths, or a folder.
    pub images: Option<String>,
    /// Where texts are cut; by default the model's own limit.
    pub max_tokens: Option<usize>,
    /// Padded tokens of a batch.
    pub batch_tokens: usize,
    /// The type the model computes in.
    pub dtype: ComputeType,
    /// The task, for models that take one.
    pub instruction: Option<String>,
    /// Where vectors are kept by content; by default `embeddings.cache` in the run.
    pub cache: Option<PathBuf>,
    /// Where the model computes.
    pub device: DeviceChoice,
}

impl ModelPart {
    /// A model with every setting as it is by default.
    pub fn new(model: &str) -> Self {
        Self {
            model: model.to_owned(),
            template: Template::default(),
            images: None,
            max_tokens: None,
            batch_tokens: BATCH_TOKENS,
            dtype: ComputeType::default(),
            instruction: None,
            cache: None,
            device: DeviceChoice::default(),
        }
    }
}

/// What a model had to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Work {
    /// The model.
    pub model: String,
    /// Items encoded and reused.
    pub items: EncodeWork,
    /// Damaged records of the cache that were made again.
    pub dropped: u64,
}

/// What a recipe says of the vectors: those that another run's generator has learnt, or those of the data folders.
///
/// # Errors
/// As [`from_parts`] and [`from_source`].
pub fn make(
    run: &Run,
    recipe: Option<&EmbeddingsRecipe>,
    source: Option<&DataSource>,
    progress: &dyn Progress,
) -> Result<Outcome> {
    match recipe {
        Some(EmbeddingsRecipe { learnt_by }) => {
            let part = Part::Learnt { run: learnt_by.clone() };
            Ok(from_parts(run, &[part], &Hub::default(), progress)?.0)
        }
        None => from_source(run, source, progress),
    }
}

/// Takes the vectors of a data folder, or those of several, one below the other; without any, what the run has is kept.
///
/// # Errors
/// As [`from_file`]; vectors of different widths; other data sets than the run's data was made of.
pub fn from_source(run: &Run, source: Option<&DataSource>, progress: &dyn Progress) -> Result<Outcome> {
    match source {
        None => super::data::kept(run, Stage::Embeddings),
        Some(DataSource::Folder(folder)) => from_file(run, &DataFolder::find(folder)?.embeddings, None, progress),
        Some(DataSource::Domains(domains)) => from_domains(run, domains, progress),
    }
}

/// The vectors of every data set, by its own items file and ids.
fn from_domains(run: &Run, domains: &[DomainFolder], progress: &dyn Progress) -> Result<Outcome> {
    let mut inputs = BTreeMap::from([(Stage::Data.name().to_owned(), run.digest(Stage::Data)?)]);
    let mut files = Vec::new();
    for DomainFolder { name, folder } in domains {
        let file = DataFolder::find(folder)?.embeddings;
        inputs.insert(format!("{name}/vectors"), sha256_file(&file)?);
        files.push(file);
    }
    let names: Vec<&str> = domains.iter().map(|domain| domain.name.as_str()).collect();
    let wanted = Manifest::new(Stage::Embeddings.name(), None, json!({ "domains": names }), inputs);
    run.stage(Stage::Embeddings, wanted, |out| {
        let data = run.data()?;
        let there = data.domains()?;
        if !there.iter().map(|domain| domain.name.as_str()).eq(names.iter().copied()) {
            let there: Vec<&str> = there.iter().map(|domain| domain.name.as_str()).collect();
            let problem = format!("vectors of {names:?}, but the data is of {there:?}");
            return Err(Error::mismatch(problem, "name the data sets that the data was prepared from").into());
        }
        progress.start("read vectors", Some(data.items.len() as u64), "items");
        let mut parts = Vec::new();
        for (domain, file) in there.iter().zip(&files) {
            let items = data.own_items(domain)?;
            let vectors = sidereal_embed::vectors_for_items(file, None, &items, &domain.rows)?;
            progress.advance(items.len() as u64);
            parts.push((domain.name.clone(), vectors));
        }
        let joined = one_below_the_other(parts)?;
        joined.save_into(out.dir())?;
        progress.finish();
        Ok(joined.facts.to_json())
    })
}

/// Takes a file of vectors, one row an item of the items file in its order (or by item id where the file has ids).
///
/// # Errors
/// No prepared data; a file that is damaged or does not fit the items.
pub fn from_file(run: &Run, file: &Path, name: Option<&str>, progress: &dyn Progress) -> Result<Outcome> {
    let part = Part::File { path: file.to_path_buf(), name: name.map(str::to_owned) };
    Ok(from_parts(run, &[part], &Hub::default(), progress)?.0)
}

/// Makes the embeddings of one part or several, which then stand side by side.
///
/// # Shapes
/// parts of [N, D1], [N, D2], .. -> [N, D1 + D2 + ..]
///
/// # Errors
/// No prepared data; files that are damaged or do not fit the items; models that are missing, damaged or not supported.
pub fn from_parts(run: &Run, parts: &[Part], hub: &Hub, progress: &dyn Progress) -> Result<(Outcome, Vec<Work>)> {
    let mut inputs = BTreeMap::from([(Stage::Data.name().to_owned(), run.digest(Stage::Data)?)]);
    // A kept file needs no items.
    let with_models = parts.iter().any(|part| matches!(part, Part::Model(_)));
    let loaded = if with_models { Some(run.data()?) } else { None };
    let mut models: Vec<Option<Opened<'_>>> = Vec::new();
    for (i, part) in parts.iter().enumerate() {
        match part {
            Part::File { path, name } => {
                inputs.insert(numbered("vectors", i), VectorFile::open(path, name.as_deref())?.digest()?);
                models.push(None);
            }
            Part::Learnt { run } => {
                inputs.insert(numbered("generator", i), Run::open(run)?.digest(Stage::Generator)?);
                models.push(None);
            }
            Part::Model(part) => {
                let Some(data) = &loaded else { return Err(no_model(part)) };
                let opened = Opened::find(part, hub, &data.items)?;
                inputs.insert(numbered("model", i), opened.sha256.clone());
                if let Contents::Pictures(paths) = &opened.contents {
                    inputs.insert(numbered("pictures", i), pictures_digest(paths)?);
                }
                models.push(Some(opened));
            }
        }
    }
    let configs: Vec<Value> = parts.iter().zip(&models).map(|(part, model)| config(part, model.as_ref())).collect();
    let config = match &configs[..] {
        [config] => config.clone(),
        _ => json!({ "parts": configs }),
    };
    let wanted = Manifest::new(Stage::Embeddings.name(), None, config, inputs);
    let mut done = Vec::new();
    let outcome = run.stage(Stage::Embeddings, wanted, |out| {
        let data = match loaded {
            Some(data) => data,
            None => run.data()?,
        };
        let mut vectors = Vec::new();
        let mut about = Vec::new();
        for (part, model) in parts.iter().zip(&models) {
            let (made, facts) = match (part, model) {
                (Part::Model(_), Some(model)) => model.encode(run, &data, &mut done, progress)?,
                (Part::Model(part), None) => return Err(no_model(part)),
                (Part::File { path, name }, _) => read(path, name.as_deref(), &data, progress)?,
                (Part::Learnt { run }, _) => learnt(run, &data.items)?,
            };
            about.push(facts);
            vectors.push(made);
        }
        let joined = side_by_side(vectors)?;
        joined.save_into(out.dir())?;
        let mut facts = joined.facts.to_json();
        if let (Value::Object(facts), true) = (&mut facts, parts.len() > 1 || !done.is_empty()) {
            facts.insert("parts".to_owned(), Value::Array(about));
        }
        Ok(facts)
    })?;
    Ok((outcome, done))
}

fn no_model(part: &ModelPart) -> crate::Error {
    Error::config("--model", format!("{} was not found", part.model), "name a folder or a repository").into()
}

/// What a part was asked to be, as the manifest keeps it.
fn config(part: &Part, model: Option<&Opened<'_>>) -> Value {
    match (part, model) {
        (Part::File { name, .. }, _) => json!({ "name": name }),
        (Part::Learnt { .. }, _) => json!({ "learnt": true }),
        (Part::Model(part), model) => json!({
            "model": model.map(|model| model.folder.id()),
            "revision": model.and_then(|model| model.folder.revision()),
            "template": model.and_then(Opened::template).map(Template::source),
            "template_sha256": model.and_then(Opened::template).map(Template::digest),
            "images": part.images.as_ref().filter(|_| model.is_some_and(|model| model.template().is_none())),
            "max_tokens": part.max_tokens,
            "dtype": part.dtype,
            "instruction": part.instruction,
        }),
    }
}

fn read(path: &Path, name: Option<&str>, data: &PreparedData, progress: &dyn Progress) -> Result<(Vectors, Value)> {
    progress.start("read vectors", Some(data.items.len() as u64), "items");
    let vectors = sidereal_embed::vectors_for_items(path, name, &data.items, &data.item_rows)?;
    progress.advance(data.items.len() as u64);
    progress.finish();
    let file = path.file_name().map(|name| name.to_string_lossy().into_owned());
    let about =
        json!({ "kind": "file", "name": file, "width": vectors.embeddings.width(), "facts": vectors.facts.to_json() });
    Ok((vectors, about))
}

/// The vectors that a run's generator has learnt, in the order of `items`.
fn learnt(run: &Path, items: &Items) -> Result<(Vectors, Value)> {
    let run = Run::open(run)?;
    let place = run.dir(Stage::Generator);
    let info = Generator::read_info(&place)?;
    let materials = RunMaterials::load(&run, info.recipe.model().needs(), DeviceChoice::Cpu.into())?;
    let generator = Generator::load(&place, &materials.as_materials(), false)?;
    let Some(vectors) = generator.network().item_vectors()? else {
        let problem = format!("{} learns no vectors of items", info.method);
        let mend = "name a run whose generator does, such as sasrec";
        return Err(Error::artifact(&place, problem, mend).into());
    };
    let catalog = materials.catalog();
    let row_of: HashMap<&str, usize> = (0..catalog.len()).map(|row| (catalog.item_id(row as u32), row)).collect();
    let mut values = Vec::with_capacity(items.len() * vectors.width());
    for id in items.ids() {
        let Some(&row) = row_of.get(id.as_str()) else {
            let problem = format!("its generator knows no item {}", id.as_str());
            return Err(Error::mismatch(problem, "name a run over the same items").into());
        };
        values.extend_from_slice(vectors.row(row));
    }
    let about = json!({ "kind": "learnt", "name": info.method, "width": vectors.width() });
    Ok((parts::made(Embeddings::new(items.len(), vectors.width(), values)?), about))
}

/// A model's folder and what the items give it; its weights are not read before they are needed.
struct Opened<'a> {
    part: &'a ModelPart,
    folder: ModelFolder,
    family: &'static Family,
    sha256: String,
    contents: Contents,
}

impl<'a> Opened<'a> {
    fn find(part: &'a ModelPart, hub: &Hub, items: &Items) -> Result<Self> {
        let folder = hub.model(&part.model)?;
        let family = encoders::family(&folder)?;
        let contents = match (family.modality, &part.images) {
            (Modality::Text, _) => Contents::Texts(part.template.texts(items)?),
            (Modality::Picture, Some(source)) => Contents::Pictures(picture_paths(items, source)?),
            (Modality::Picture, None) => {
                let problem = format!("{} reads pictures, and none are named", folder.id());
                let mend = "name a column with paths, or a folder with a file for each item id";
                return Err(Error::config("--images", problem, mend).into());
            }
        };
        let sha256 = folder.digest()?;
        Ok(Self { part, folder, family, sha256, contents })
    }

    /// What a text model reads; `None` for an image tower.
    fn template(&self) -> Option<&Template> {
        (self.family.modality == Modality::Text).then_some(&self.part.template)
    }

    fn encode(
        &self,
        run: &Run,
        data: &PreparedData,
        done: &mut Vec<Work>,
        progress: &dyn Progress,
    ) -> Result<(Vectors, Value)> {
        let part = self.part;
        let options = EncoderOptions {
            device: part.device.open()?,
            dtype: part.dtype,
            max_tokens: part.max_tokens,
            instruction: part.instruction.clone(),
        };
        progress.start("open model", None, "files");
        let embedder = encoders::open(&self.folder, &options)?;
        progress.finish();
        let facts = embedder.facts();
        let dir = part.cache.clone().unwrap_or_else(|| run.root().join("embeddings.cache"));
        let mut cache = VectorCache::open(&dir, &cache_name(embedder.as_ref()), facts.width)?;
        let (embeddings, counts, items) = encode_items(
            embedder.as_ref(),
            &options.device,
            &data.items,
            &self.contents,
            part.batch_tokens,
            Some(&mut cache),
            progress,
        )?;
        done.push(Work { model: facts.model.clone(), items, dropped: cache.dropped() });
        let template = self.template().map(Template::digest);
        let about = json!({
            "kind": "model",
            "name": facts.model,
            "width": facts.width,
            "empty_items": counts.empty,
            "template_sha256": template,
            "facts": facts,
        });
        Ok((parts::made(embeddings), about))
    }
}
