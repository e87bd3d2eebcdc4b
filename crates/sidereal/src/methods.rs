//! The methods there are, read from the lists of the crates that hold them.

use serde::Serialize;
use sidereal_core::method::Status;
use sidereal_generator::GENERATORS;
use sidereal_generator::baselines::BASELINES;
use sidereal_generator::models::Role;
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

/// All methods by what they do.
#[derive(Debug, Clone, Serialize)]
pub struct Methods {
    /// Embeddings to semantic IDs.
    pub tokenizers: Vec<Method>,
    /// Histories to the next semantic ID.
    pub generators: Vec<Method>,
    /// What they must beat.
    pub baselines: Vec<Method>,
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
    Methods { tokenizers, generators: trained(Role::Generator).collect(), baselines }
}
