//! A model's folder: one on disk, or the needed files of a repository of the model hub, kept in the hub's own cache.
//!
//! Nothing is downloaded but configurations, the text tokenizer and safetensors. The revision is pinned by the first
//! file, so that all files are of one commit. Environment variables are read by [`Hub::from_env`] alone.

use std::path::{Path, PathBuf};

use hf_hub::{HFClientBuilder, HFClientSync, HFError, HFRepositorySync, RepoTypeModel};
use sidereal_core::{Error, Result};
use sidereal_nn::pretrained::ModelFolder;

/// The configuration, which every model has.
const CONFIG: &str = "config.json";
/// Small files that a model may have.
const OPTIONAL: &[&str] = &[
    "tokenizer.json",
    "tokenizer_config.json",
    "modules.json",
    "sentence_bert_config.json",
    "preprocessor_config.json",
];
const WEIGHTS: &str = "model.safetensors";
const WEIGHTS_INDEX: &str = "model.safetensors.index.json";

/// How the hub is reached.
#[derive(Debug, Clone, Default)]
pub struct Hub {
    /// Instead of the hub itself: a mirror.
    pub endpoint: Option<String>,
    /// Where files are kept; by default where every program of the hub keeps them.
    pub cache_dir: Option<PathBuf>,
    /// Use only files that are there.
    pub offline: bool,
}

/// The name of a repository of the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubId {
    /// Before the slash.
    pub owner: String,
    /// Behind it.
    pub name: String,
    /// Branch, tag or commit.
    pub revision: Option<String>,
}

impl HubId {
    /// Reads `org/name` or `org/name@revision`.
    pub fn parse(text: &str) -> Option<Self> {
        let (path, revision) = text.split_once('@').map_or((text, None), |(path, revision)| (path, Some(revision)));
        let (owner, name) = path.split_once('/')?;
        let word = |word: &str| {
            let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            !word.is_empty()
                && word.len() <= 96
                && !word.starts_with('.')
                && !word.contains("..")
                && word.chars().all(allowed)
        };
        let revision_is_fine = revision.is_none_or(|revision| revision.split('/').all(word));
        let fine = word(owner) && word(name) && revision_is_fine;
        fine.then(|| Self { owner: owner.to_owned(), name: name.to_owned(), revision: revision.map(str::to_owned) })
    }
}

impl std::fmt::Display for HubId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.owner, self.name)?;
        self.revision.as_ref().map_or(Ok(()), |revision| write!(f, "@{revision}"))
    }
}

impl Hub {
    /// What the environment says: `HF_HUB_OFFLINE` and `TRANSFORMERS_OFFLINE`, `HF_ENDPOINT`, `HF_HUB_CACHE` and `HF_HOME`.
    pub fn from_env() -> Self {
        let set = |name: &str| {
            std::env::var(name).is_ok_and(|value| matches!(value.to_lowercase().as_str(), "1" | "true" | "yes" | "on"))
        };
        // The client reads the others itself.
        Self { endpoint: None, cache_dir: None, offline: set("HF_HUB_OFFLINE") || set("TRANSFORMERS_OFFLINE") }
    }

    /// A folder on disk, or the files of a repository.
    ///
    /// # Errors
    /// Neither a folder nor a name of a repository; a repository that is missing, gated, or not cached when offline; a
    /// model without safetensors; a full disk.
    pub fn model(&self, name: &str) -> Result<ModelFolder> {
        if Path::new(name).is_dir() {
            return Ok(ModelFolder::local(Path::new(name)));
        }
        let Some(id) = HubId::parse(name) else {
            let problem = format!("{name:?} is neither a folder nor the name of a repository");
            return Err(Error::config(
                "--model",
                problem,
                "name a folder with a config.json, or a repository as org/name",
            ));
        };
        self.download(&id)
    }

    /// The files of a repository.
    ///
    /// # Errors
    /// As [`Hub::model`].
    pub fn download(&self, id: &HubId) -> Result<ModelFolder> {
        let mut builder = HFClientBuilder::new();
        if let Some(endpoint) = &self.endpoint {
            builder = builder.endpoint(endpoint);
        }
        if let Some(cache_dir) = &self.cache_dir {
            builder = builder.cache_dir(cache_dir);
        }
        let refuse =
            |e: HFError| Error::config("--model", format!("the model hub cannot be used: {e}"), "check HF_ENDPOINT");
        let client: HFClientSync = builder.build_sync().map_err(refuse)?;
        let repository = client.model(id.owner.as_str(), id.name.as_str());
        let mut fetch = Fetch { id, repository, offline: self.offline, revision: id.revision.clone() };
        let config = fetch.needed(CONFIG)?;
        let dir = config.parent().unwrap_or(Path::new(".")).to_path_buf();
        // The cache keeps files as `snapshots/COMMIT/NAME`.
        let commit = dir.file_name().map(|name| name.to_string_lossy().into_owned());
        if !self.offline {
            fetch.revision.clone_from(&commit);
        }
        for name in OPTIONAL {
            fetch.optional(name)?;
        }
        let folder = ModelFolder::hub(&dir, &format!("{}/{}", id.owner, id.name), commit);
        fetch.module_files(&folder)?;
        fetch.weights(&folder)?;
        Ok(folder)
    }
}

/// One download.
struct Fetch<'a> {
    id: &'a HubId,
    repository: HFRepositorySync<RepoTypeModel>,
    offline: bool,
    revision: Option<String>,
}

impl Fetch<'_> {
    fn file(&self, name: &str) -> Result<PathBuf, HFError> {
        let download = self.repository.download_file().filename(name).local_files_only(self.offline);
        download.maybe_revision(self.revision.clone()).send()
    }

    fn needed(&self, name: &str) -> Result<PathBuf> {
        self.file(name).map_err(|e| self.told(name, e))
    }

    /// A file that need not be there; offline, one that was not cached counts as missing.
    fn optional(&self, name: &str) -> Result<Option<PathBuf>> {
        match self.file(name) {
            Ok(path) => Ok(Some(path)),
            Err(HFError::EntryNotFound { .. } | HFError::LocalEntryNotFound { .. }) => Ok(None),
            Err(e) => Err(self.told(name, e)),
        }
    }

    /// Configurations and weights of the modules behind the model.
    fn module_files(&self, folder: &ModelFolder) -> Result<()> {
        for module in folder.modules()?.unwrap_or_default().iter().filter(|module| !module.path.is_empty()) {
            if module.is("Normalize") {
                continue;
            }
            self.needed(&format!("{}/config.json", module.path))?;
            if module.is("Dense") {
                self.needed(&format!("{}/{WEIGHTS}", module.path))?;
            }
        }
        Ok(())
    }

    fn weights(&self, folder: &ModelFolder) -> Result<()> {
        if self.optional(WEIGHTS)?.is_some() {
            return Ok(());
        }
        if self.optional(WEIGHTS_INDEX)?.is_none() {
            if self.offline {
                return Err(self.told(WEIGHTS, HFError::LocalEntryNotFound { path: WEIGHTS.to_owned() }));
            }
            let problem = format!("the repository has no {WEIGHTS}");
            let mend = "only safetensors are read: weights in pytorch_model.bin are a program; use a revision that has safetensors (often refs/pr/N), or convert the model with save_pretrained";
            return Err(Error::input(self.id.to_string(), problem, mend));
        }
        for shard in folder.weight_files()? {
            self.needed(&shard)?;
        }
        Ok(())
    }

    fn told(&self, name: &str, error: HFError) -> Error {
        let place = format!("{}, {name}", self.id);
        match error {
            HFError::LocalEntryNotFound { .. } => Error::input(
                place,
                "it is not in the hub's cache, and HF_HUB_OFFLINE forbids to download it",
                "run once with a network and without HF_HUB_OFFLINE, or name a folder",
            ),
            HFError::RepoNotFound { .. } => Error::input(
                place,
                "the hub has no such repository, or it is private",
                "check the name; for a private one set HF_TOKEN",
            ),
            HFError::RevisionNotFound { revision, .. } => Error::input(
                place,
                format!("the repository has no revision {revision:?}"),
                "check the name behind the @",
            ),
            // The hub answers alike for all of these.
            HFError::EntryNotFound { .. } => Error::input(
                place,
                "there is no such file: the repository or its revision does not exist, or it holds no model in the layout of transformers",
                "check the name, and what stands behind the @",
            ),
            HFError::AuthRequired { .. } | HFError::Forbidden { .. } => Error::input(
                place,
                "the hub refuses access: the repository is private or gated",
                "accept its terms on its page, and set HF_TOKEN to a token that may read it",
            ),
            HFError::Io(e) => Error::io("write", name, e),
            HFError::Request { .. } => Error::input(
                place,
                format!("the hub cannot be reached: {error}"),
                "check the network and HF_ENDPOINT, or name a folder on disk",
            ),
            other => {
                Error::input(place, format!("the download failed: {other}"), "try again, or name a folder on disk")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_of_repositories_cannot_leave_them() {
        let id = HubId::parse("Qwen/Qwen3-Embedding-0.6B@refs/pr/2").unwrap();
        assert_eq!((id.owner.as_str(), id.name.as_str()), ("Qwen", "Qwen3-Embedding-0.6B"));
        assert_eq!(id.revision.as_deref(), Some("refs/pr/2"));
        assert_eq!(id.to_string(), "Qwen/Qwen3-Embedding-0.6B@refs/pr/2");
        for wrong in ["", "name", "/a/b", "a/b/c", "../b", "a/..", "a/b@", "a/b@../x", "a/b?x", "a b/c", "a/b@x//y"] {
            assert_eq!(HubId::parse(wrong), None, "{wrong}");
        }
    }
}
