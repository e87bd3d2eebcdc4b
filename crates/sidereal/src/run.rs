//! A run: one folder, a sub-folder for every stage that has run.

use std::path::{Path, PathBuf};

use sidereal_core::artifact::{self, Manifest, StageWriter};
use sidereal_core::{Catalog, Embeddings, Histories, Split};
use sidereal_data::PreparedData;
use sidereal_tokenizer::ItemTokenizer;

use crate::life::added::{AddedItems, extended};
use crate::{Error, Result};

/// The stages of a run, in the order of the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Items and interactions, prepared.
    Data,
    /// A vector for every item.
    Embeddings,
    /// Training parts and held-out targets.
    Split,
    /// Codebooks.
    Tokenizer,
    /// Items, semantic IDs and trie.
    Catalog,
    /// Weights.
    Generator,
    /// Weights of the generator's score and of plain counts in one score; only where a recipe asks for it.
    Fusion,
    /// How sure answers are.
    Calibration,
    /// Metrics and the page.
    Report,
}

impl Stage {
    /// All stages in the order in which they run.
    pub const ALL: [Self; 9] = [
        Self::Data,
        Self::Embeddings,
        Self::Split,
        Self::Tokenizer,
        Self::Catalog,
        Self::Generator,
        Self::Fusion,
        Self::Calibration,
        Self::Report,
    ];

    /// The stage's folder in a run, and its kind in a manifest.
    pub fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Embeddings => "embeddings",
            Self::Split => "split",
            Self::Tokenizer => "tokenizer",
            Self::Catalog => "catalog",
            Self::Generator => "generator",
            Self::Fusion => "fusion",
            Self::Calibration => "calibration",
            Self::Report => "report",
        }
    }
}

impl std::str::FromStr for Stage {
    type Err = sidereal_core::Error;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|stage| stage.name() == name).ok_or_else(|| {
            let known: Vec<&str> = Self::ALL.iter().map(|stage| stage.name()).collect();
            let problem = format!("no stage is named {name:?}");
            sidereal_core::Error::config("stage", problem, format!("use one of: {}", known.join(", ")))
        })
    }
}

/// Whether a stage had to work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Its inputs, configuration and seed are those of the folder that is there.
    Kept,
    /// It was made now.
    Made,
}

/// A run folder.
#[derive(Debug, Clone)]
pub struct Run {
    root: PathBuf,
}

impl Run {
    /// A run that is there.
    ///
    /// # Errors
    /// A path that is not a folder.
    pub fn open(root: &Path) -> Result<Self> {
        if root.is_dir() {
            return Ok(Self { root: root.to_path_buf() });
        }
        let mend = "check the path, or make a run with `sidereal run` or `sidereal data prepare`";
        Err(sidereal_core::Error::artifact(root, "there is no run folder here", mend).into())
    }

    /// A run to be made; an existing folder is continued.
    ///
    /// # Errors
    /// A folder that cannot be made.
    pub fn create(root: &Path) -> Result<Self> {
        std::fs::create_dir_all(root).map_err(|e| sidereal_core::Error::io("create", root, e))?;
        Ok(Self { root: root.to_path_buf() })
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A stage's folder, there or not.
    pub fn dir(&self, stage: Stage) -> PathBuf {
        self.root.join(stage.name())
    }

    /// Where unfinished work of a stage is kept between two tries.
    pub fn work_dir(&self, stage: Stage) -> PathBuf {
        self.root.join(format!("{}.partial", stage.name()))
    }

    /// Whether the stage has run.
    pub fn has(&self, stage: Stage) -> bool {
        self.dir(stage).join(artifact::MANIFEST).is_file()
    }

    /// The stage's manifest.
    ///
    /// # Errors
    /// The stage has not run; its manifest is damaged.
    pub fn manifest(&self, stage: Stage) -> Result<Manifest> {
        artifact::recover(&self.dir(stage))?;
        Ok(artifact::read_manifest(&self.dir(stage), stage.name())?)
    }

    /// One hash of what the stage holds.
    ///
    /// # Errors
    /// As [`Run::manifest`].
    pub fn digest(&self, stage: Stage) -> Result<String> {
        Ok(self.manifest(stage)?.digest())
    }

    /// Makes a stage unless the folder that is there was made from the same inputs with the same configuration and seed.
    ///
    /// `make` writes the files and returns the manifest's facts: what it found out (counts, rules that applied).
    ///
    /// # Errors
    /// Whatever `make` or the file system says; then an older folder is still there.
    pub fn stage(
        &self,
        stage: Stage,
        wanted: Manifest,
        make: impl FnOnce(&StageWriter) -> Result<serde_json::Value>,
    ) -> Result<Outcome> {
        keep_or_make(&self.dir(stage), wanted, make)
    }

    /// The prepared items and interactions.
    ///
    /// # Errors
    /// The stage has not run or is damaged; so for the loaders below.
    pub fn data(&self) -> Result<PreparedData> {
        self.manifest(Stage::Data)?;
        Ok(PreparedData::load(&self.dir(Stage::Data))?)
    }

    /// The item embeddings, [N, D].
    ///
    /// # Errors
    /// As [`Run::data`].
    pub fn embeddings(&self) -> Result<Embeddings> {
        self.manifest(Stage::Embeddings)?;
        Ok(sidereal_embed::load(&self.dir(Stage::Embeddings))?)
    }

    /// The item tokenizer.
    ///
    /// # Errors
    /// As [`Run::data`].
    pub fn tokenizer(&self) -> Result<ItemTokenizer> {
        self.manifest(Stage::Tokenizer)?;
        ItemTokenizer::load(&self.dir(Stage::Tokenizer))
    }

    /// The catalog, read whole: stages build on it.
    ///
    /// # Errors
    /// As [`Run::data`].
    pub fn catalog(&self) -> Result<Catalog> {
        self.manifest(Stage::Catalog)?;
        Ok(Catalog::open_verified(&self.dir(Stage::Catalog))?)
    }

    /// The split of the run's histories.
    ///
    /// # Errors
    /// As [`Run::data`].
    pub fn split(&self, histories: &Histories) -> Result<Split> {
        self.manifest(Stage::Split)?;
        Ok(Split::open(&self.dir(Stage::Split), histories)?)
    }

    /// The vectors of all items of the run's catalog: those of the embeddings stage, then those of items added later.
    ///
    /// # Errors
    /// As [`Run::data`]; added vectors of another width.
    ///
    /// # Shapes
    /// [N, D], N items of the catalog
    pub fn catalog_embeddings(&self, catalog: &Catalog) -> Result<Embeddings> {
        let built = self.embeddings()?;
        match AddedItems::load(&self.dir(Stage::Catalog), catalog)?.vectors {
            Some(added) => extended(built, &added),
            None => Ok(built),
        }
    }

    /// Refuses a catalog that was not built of exactly the run's items; it may have lived since.
    ///
    /// # Errors
    /// Names the first item that differs.
    pub fn check_items(&self, catalog: &Catalog, data: &PreparedData) -> Result<()> {
        let items = &data.items;
        let built = catalog.built_items();
        let differs =
            |i: usize| i >= built || i >= items.len() || catalog.item_id(i as u32) != items.id(i as u32).as_str();
        let first = (0..built.max(items.len())).find(|&i| differs(i));
        first.map_or(Ok(()), |i| {
            let problem = format!(
                "the catalog of {built} items and the data of {} items in {} differ from item {i} on",
                items.len(),
                self.root.display()
            );
            Err(Error::from(sidereal_core::Error::mismatch(problem, "build the catalog again from this run's data")))
        })
    }
}

/// Refuses a name that cannot be a folder's.
pub(crate) fn check_folder_name(key: &str, name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+');
    if name.is_empty() || !name.chars().all(plain) || name.starts_with('.') || name.len() > 100 {
        let mend = "use letters, digits, '-', '_', '+' and '.', not first: it names a folder";
        return Err(sidereal_core::Error::config(key, format!("{name:?} cannot name a folder"), mend).into());
    }
    Ok(())
}

/// Makes a folder of the kind that `wanted` says, unless what is there was asked to be the same; see [`Run::stage`].
pub(crate) fn keep_or_make(
    dir: &Path,
    mut wanted: Manifest,
    make: impl FnOnce(&StageWriter) -> Result<serde_json::Value>,
) -> Result<Outcome> {
    artifact::recover(dir)?;
    if dir.join(artifact::MANIFEST).is_file() {
        let found = artifact::read_manifest(dir, &wanted.kind)?;
        if found.same_request(&wanted) {
            artifact::verify_files(dir, &found)?;
            return Ok(Outcome::Kept);
        }
    }
    let writer = StageWriter::begin(dir)?;
    wanted.facts = make(&writer)?;
    writer.finish(wanted)?;
    Ok(Outcome::Made)
}
