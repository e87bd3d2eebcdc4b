//! A language model that was trained elsewhere -> the generator of a run.

use std::path::Path;

use serde_json::json;
use sidereal_core::Error;
use sidereal_core::artifact::{Manifest, write_json};
use sidereal_embed::ModelFolder;
use sidereal_generator::GeneratorConfig;
use sidereal_generator::generator::{FORMAT_VERSION, GENERATOR_FILE, GeneratorInfo};
use sidereal_generator::models::llm::{LlmConfig, PromptConfig, TEXT_TOKENIZER_FILE};
use sidereal_generator::models::t5::CONFIG_FILE;
use sidereal_nn::device::DeviceChoice;

use crate::Result;
use crate::materials::RunMaterials;
use crate::recipe::parsed;
use crate::run::{Outcome, Run, Stage};
use crate::stages::{inputs, resolved};

/// Reads the table of a prompt from a TOML file.
///
/// # Errors
/// A file that cannot be read; a key or a value that is not known, with its line.
pub fn read_prompt(path: &Path) -> Result<PromptConfig> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
    parsed(&text, &path.display().to_string())
}

/// Takes over a model's folder: its sizes, weights (as they are) and text tokenizer, and the prompt that it was trained with.
///
/// Everything is read once before the run has a new generator: a model that does not know the catalog's codes is refused.
///
/// # Errors
/// A run without catalog; a model of another kind, damaged, or without a token for a code of the catalog; a full disk.
pub fn bring(
    run: &Run,
    folder: &ModelFolder,
    prompt: &PromptConfig,
    max_history: usize,
    device: DeviceChoice,
) -> Result<Outcome> {
    let config = GeneratorConfig::Llm(LlmConfig::of_folder(folder, prompt.clone(), max_history)?);
    let before = [Stage::Data, Stage::Split, Stage::Catalog];
    let there: Vec<Stage> = before.into_iter().filter(|&stage| run.has(stage) || stage == Stage::Catalog).collect();
    let mut inputs = inputs(run, &there)?;
    inputs.insert("model".to_owned(), folder.digest()?);
    let wanted = Manifest::new(Stage::Generator.name(), None, resolved(&config), inputs);
    run.stage(Stage::Generator, wanted, |out| {
        let materials = RunMaterials::load(run, config.model().needs(), device.into())?;
        let materials = materials.as_materials();
        config.check(materials.catalog.codes_per_level())?;
        let mut names = folder.weight_files()?;
        names.extend([CONFIG_FILE, TEXT_TOKENIZER_FILE, INDEX_FILE].map(str::to_owned));
        for name in names.iter().filter(|name| folder.has(name) || *name == TEXT_TOKENIZER_FILE) {
            copy(&folder.path(name), &out.path(name))?;
        }
        let network = config.model().load(out.dir(), &materials)?;
        let parameters = network.params().count();
        let info = GeneratorInfo {
            format_version: FORMAT_VERSION,
            method: config.method().to_owned(),
            vocab: materials.vocab(),
            catalog_version: materials.catalog.version().to_owned(),
            max_history,
            score_norm: config.model().score_norm(),
            seed: 0,
            parameters,
            step: 0,
            recipe: config.clone(),
        };
        write_json(&out.path(GENERATOR_FILE), &info)?;
        Ok(json!({ "model": folder.id(), "revision": folder.revision(), "parameters": parameters }))
    })
}

/// The list of shards, where weights are in several files.
const INDEX_FILE: &str = "model.safetensors.index.json";

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::copy(from, to).map_err(|e| Error::io("copy", from, e))?;
    // Files of a model hub may be write-protected; those of a run are its own.
    let mut rights = std::fs::metadata(to).map_err(|e| Error::io("read", to, e))?.permissions();
    #[allow(clippy::permissions_set_readonly_false)]
    rights.set_readonly(false);
    Ok(std::fs::set_permissions(to, rights).map_err(|e| Error::io("change", to, e))?)
}
