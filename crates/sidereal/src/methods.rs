//! The methods there are, read from the lists of the crates that hold them.

use serde::Serialize;
use sidereal_core::method::Status;
use sidereal_generator::GENERATORS;
use sidereal_generator::baselines::BASELINES;
use sidereal_generator::models::{Role, presets};
use sidereal_tokenizer::TOKENIZERS;

/// A method as `sidereal methods --json` lists it.
#[derive(Debug, Clone, Serialize)]
pub struct Method {
    /// Its name on the command line and in recipes.
    pub name: &'static str,
    /// Where it was published.
    pub paper: &'static str,
    /// How far it is.
    pub status: Status,
}

/// A recipe with a source's constants, as `sidereal methods --json` lists it.
#[derive(Debug, Clone, Serialize)]
pub struct PresetRecipe {
    /// Its name for `sidereal generator train --recipe`.
    pub name: &'static str,
    /// The generator or trained baseline that it is a recipe of.
    pub method: &'static str,
    /// Where its constants are from.
    pub paper: &'static str,
}

/// All methods by what they do.
#[derive(Debug, Clone, Serialize)]
pub struct Methods {
    /// Embeddings to semantic IDs.
    pub tokenizers: Vec<Method>,
    /// Histories to the next semantic ID.
    pub generators: Vec<Method>,
    /// What they must beat.
    pub baselines: Vec<Method>,
    /// Recipes of papers and repositories.
    pub presets: Vec<PresetRecipe>,
}

/// The lists. Trained baselines are trained as generators are, and listed with what generators must beat.
pub fn methods() -> Methods {
    let tokenizers = TOKENIZERS.iter().map(|m| Method { name: m.name, paper: m.paper, status: m.status }).collect();
    let trained = |role| {
        let of_role = GENERATORS.iter().filter(move |m| m.role == role);
        of_role.map(|m| Method { name: m.name, paper: m.paper, status: m.status })
    };
    let untrained = BASELINES.iter().map(|m| Method { name: m.name, paper: m.paper, status: m.status });
    let baselines = untrained.chain(trained(Role::Baseline)).collect();
    let presets = presets().map(|p| PresetRecipe { name: p.name, method: (p.config)().method(), paper: p.paper });
    let (generators, presets) = (trained(Role::Generator).collect(), presets.collect());
    Methods { tokenizers, generators, baselines, presets }
}
