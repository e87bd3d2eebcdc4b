//! A folder with a model as transformers and sentence-transformers write it: small JSON files, a text tokenizer, weights.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use sidereal_core::artifact::{sha256_bytes, sha256_file};
use sidereal_core::{Error, Result};

/// Largest JSON file that is read.
const MAX_JSON_BYTES: u64 = 64 << 20;
/// Most weight files of a model.
const MAX_WEIGHT_FILES: usize = 512;

/// A model's folder and where it came from.
#[derive(Debug, Clone)]
pub struct ModelFolder {
    dir: PathBuf,
    id: String,
    revision: Option<String>,
}

/// A module of `modules.json`, by which sentence-transformers says what follows the transformer.
#[derive(Debug, Clone, Deserialize)]
pub struct SentenceModule {
    /// Its folder.
    pub path: String,
    /// Its Python class.
    #[serde(rename = "type")]
    pub class: String,
}

impl SentenceModule {
    /// Whether its class has this name.
    pub fn is(&self, name: &str) -> bool {
        self.class.rsplit('.').next() == Some(name)
    }
}

impl ModelFolder {
    /// A folder on disk; its name is its id.
    pub fn local(dir: &Path) -> Self {
        let id = dir.file_name().map_or_else(|| dir.display().to_string(), |name| name.to_string_lossy().into_owned());
        Self { dir: dir.to_path_buf(), id, revision: None }
    }

    /// A folder of the hub's cache.
    pub fn hub(dir: &Path, id: &str, revision: Option<String>) -> Self {
        Self { dir: dir.to_path_buf(), id: id.to_owned(), revision }
    }

    /// The repository, or the folder's name.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The commit, where it came from the hub.
    pub fn revision(&self) -> Option<&str> {
        self.revision.as_deref()
    }

    /// A file in it, there or not.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Whether it has a file.
    pub fn has(&self, name: &str) -> bool {
        self.path(name).is_file()
    }

    /// A JSON file that must be there.
    ///
    /// # Errors
    /// A file that is missing, too large, or does not hold such a value.
    pub fn json<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        let bytes = self.read(name)?;
        serde_json::from_slice(&bytes).map_err(|e| {
            Error::input(self.path(name).display().to_string(), e.to_string(), "download or export the model again")
        })
    }

    /// A JSON file that may be missing.
    ///
    /// # Errors
    /// As [`ModelFolder::json`], but for a missing one.
    pub fn json_if_there<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        if self.has(name) { self.json(name).map(Some) } else { Ok(None) }
    }

    /// The bytes of a small file.
    ///
    /// # Errors
    /// A file that is missing or too large.
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.path(name);
        let about = std::fs::metadata(&path).map_err(|e| Error::io("read", &path, e))?;
        if about.len() > MAX_JSON_BYTES {
            let problem = format!("{} bytes, more than such a file has ({MAX_JSON_BYTES})", about.len());
            return Err(Error::input(path.display().to_string(), problem, "download or export the model again"));
        }
        std::fs::read(&path).map_err(|e| Error::io("read", &path, e))
    }

    /// The modules of sentence-transformers, if the folder has such a list.
    ///
    /// # Errors
    /// A list that is damaged or names folders outside.
    pub fn modules(&self) -> Result<Option<Vec<SentenceModule>>> {
        let modules: Option<Vec<SentenceModule>> = self.json_if_there("modules.json")?;
        for module in modules.iter().flatten().filter(|module| !module.path.is_empty()) {
            safe_name(&self.path("modules.json"), &module.path)?;
        }
        Ok(modules)
    }

    /// The weight files: `model.safetensors`, or the shards that its index names.
    ///
    /// # Errors
    /// No safetensors; an index that is damaged or names files outside the folder.
    pub fn weight_files(&self) -> Result<Vec<String>> {
        #[derive(Deserialize)]
        struct Index {
            weight_map: BTreeMap<String, String>,
        }
        if self.has("model.safetensors") {
            return Ok(vec!["model.safetensors".to_owned()]);
        }
        let index = "model.safetensors.index.json";
        if !self.has(index) {
            let place = self.dir.display().to_string();
            let pickled = self.has("pytorch_model.bin") || self.has("pytorch_model.bin.index.json");
            let (problem, mend) = if pickled {
                let mend = "convert them: AutoModel.from_pretrained(DIR).save_pretrained(OUT) writes model.safetensors";
                ("its weights are in pytorch_model.bin, which is a program and is not read", mend)
            } else {
                ("there is no model.safetensors", "name the folder that holds config.json and model.safetensors")
            };
            return Err(Error::input(place, problem, mend));
        }
        let shards: BTreeSet<String> = self.json::<Index>(index)?.weight_map.into_values().collect();
        if shards.len() > MAX_WEIGHT_FILES {
            let problem = format!("{} weight files, more than {MAX_WEIGHT_FILES}", shards.len());
            return Err(Error::input(self.path(index).display().to_string(), problem, "use a model with fewer"));
        }
        for shard in &shards {
            safe_name(&self.path(index), shard)?;
        }
        Ok(shards.into_iter().collect())
    }

    /// One hash of the files that decide what the model makes of an input.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn digest(&self) -> Result<String> {
        let mut names = self.weight_files()?;
        let small =
            ["config.json", "tokenizer.json", "modules.json", "sentence_bert_config.json", "preprocessor_config.json"];
        names.extend(small.map(str::to_owned));
        for module in self.modules()?.unwrap_or_default().iter().filter(|module| !module.path.is_empty()) {
            names.extend(["config.json", "model.safetensors"].map(|name| format!("{}/{name}", module.path)));
        }
        let there = names.into_iter().filter(|name| self.has(name));
        let digests: BTreeMap<String, String> =
            there.map(|name| sha256_file(&self.path(&name)).map(|digest| (name, digest))).collect::<Result<_>>()?;
        // A map of strings is JSON.
        Ok(sha256_bytes(serde_json::to_string(&digests).unwrap_or_default().as_bytes()))
    }
}

/// Refuses a name that leads out of its folder.
fn safe_name(named_by: &Path, name: &str) -> Result<()> {
    let inside = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
    if inside && !name.is_empty() && !name.contains('\\') {
        return Ok(());
    }
    let problem = format!("it names {name:?}, outside the model's folder");
    Err(Error::input(
        named_by.display().to_string(),
        problem,
        "use another copy of the model: this one was tampered with",
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn weights_are_safetensors_inside_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let folder = ModelFolder::local(dir.path());
        let error = |folder: &ModelFolder| folder.weight_files().unwrap_err().to_string();
        assert!(error(&folder).contains("no model.safetensors"));
        std::fs::write(folder.path("pytorch_model.bin"), "x").unwrap();
        assert!(error(&folder).contains("save_pretrained"));
        let index = |shard: &str| {
            std::fs::write(
                folder.path("model.safetensors.index.json"),
                format!(r#"{{"weight_map": {{"a": {shard:?}, "b": "m.safetensors"}}}}"#),
            )
            .unwrap()
        };
        for outside in ["../x", "/etc/passwd", "a/../../b", ""] {
            index(outside);
            assert!(error(&folder).contains("outside"), "{outside}");
        }
        index("l.safetensors");
        assert_eq!(folder.weight_files().unwrap(), ["l.safetensors", "m.safetensors"]);
        std::fs::write(folder.path("modules.json"), r#"[{"path": "../1_Pooling", "type": "x.Pooling"}]"#).unwrap();
        assert!(folder.modules().unwrap_err().to_string().contains("outside"));
    }
}
