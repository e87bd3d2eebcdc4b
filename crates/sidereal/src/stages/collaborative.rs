//! Vectors learnt from behaviour, for tokenizers that learn from them.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sidereal_core::artifact::sha256_file;
use sidereal_core::{Embeddings, Error, Progress};
use sidereal_tokenizer::TrainingHistories;
use sidereal_tokenizer::behaviour::collaborative_vectors::{CollaborativeConfig, collaborative_vectors};

use crate::Result;
use crate::stages::tokenizer::Known;

/// Where collaborative vectors come from; in a recipe the table `[collaborative.item2vec]` or `[collaborative.file]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CollaborativeRecipe {
    /// Learnt from the run's training histories.
    #[serde(rename = "item2vec")]
    Item2vec(CollaborativeConfig),
    /// Made elsewhere: SASRec, LightGCN, ...
    File(CollaborativeFile),
}

/// A file of collaborative vectors, one row an item.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CollaborativeFile {
    /// .npy, .safetensors or .parquet; rows as those of the embeddings.
    pub path: PathBuf,
    /// The tensor or column, where the file holds several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl CollaborativeRecipe {
    /// Checks every setting.
    ///
    /// # Errors
    /// Names the key.
    pub fn check(&self) -> Result<()> {
        match self {
            Self::Item2vec(config) => Ok(config.check()?),
            Self::File(_) => Ok(()),
        }
    }

    /// The file that the vectors depend on, with its hash.
    pub(crate) fn digest(&self) -> Result<Option<String>> {
        match self {
            Self::Item2vec(_) => Ok(None),
            Self::File(file) => Ok(Some(sha256_file(&file.path)?)),
        }
    }

    /// The vectors of a run's items, [N, C].
    ///
    /// # Errors
    /// A run without histories or split to learn from; a file that does not fit the items.
    pub(crate) fn vectors(&self, known: &Known, seed: u64, progress: &dyn Progress) -> Result<Embeddings> {
        let Some(data) = &known.data else {
            let mend = "prepare items and interactions first (`sidereal data prepare`)";
            return Err(Error::mismatch("collaborative vectors need a run with data", mend).into());
        };
        match self {
            Self::File(CollaborativeFile { path, name }) => {
                let vectors = sidereal_embed::vectors_for_items(path, name.as_deref(), &data.items, &data.item_rows)?;
                Ok(vectors.embeddings)
            }
            Self::Item2vec(config) => {
                let histories = known.histories()?;
                Ok(collaborative_vectors(&histories, data.items.len(), config, seed, progress)?)
            }
        }
    }
}

impl Known {
    /// The training parts of the run's histories.
    ///
    /// # Errors
    /// A run without data or split.
    pub(crate) fn histories(&self) -> Result<TrainingHistories<'_>> {
        match (&self.data, &self.split) {
            (Some(data), Some(split)) => Ok(TrainingHistories::new(&data.histories, &split.train_end)),
            _ => {
                let problem = "the run has no split, so it is not known which events may be learnt from";
                let mend = "run the recipe to its stage `split` (`sidereal run RECIPE --until split`)";
                Err(Error::mismatch(problem, mend).into())
            }
        }
    }
}

/// Makes a relative path of a recipe relative to the recipe's folder.
pub(crate) fn resolve(recipe: &mut Option<CollaborativeRecipe>, folder: &Path) {
    if let Some(CollaborativeRecipe::File(file)) = recipe
        && file.path.is_relative()
    {
        file.path = folder.join(&file.path);
    }
}
