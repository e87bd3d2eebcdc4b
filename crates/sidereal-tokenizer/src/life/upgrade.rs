//! A tokenizer carried over to another embedding model, or retrained, with as many semantic IDs kept as can be.
//!
//! Cheapest first: [`bridge`] maps vectors of the new model into the old space and keeps tokenizer, catalog and generator
//! as they are; [`encoder`] trains a new encoder before the published codebooks; [`relabel`] takes a tokenizer that was
//! trained anew and names its codes after the old ones that they resemble most, by Hungarian matching. How often both
//! name a code alike is an [`Agreement`].

use serde::{Deserialize, Serialize};

use sidereal_core::{Error, SemanticIds};

use crate::Result;
use crate::quantizers::Model;
use crate::tokenizer::ItemTokenizer;

pub mod bridge;
pub mod encoder;
mod matching;
mod prototypes;
pub mod relabel;

/// The ways by which a tokenizer can be carried over to vectors of another model, cheapest first: `map`, `encoder`,
/// `relabel`. None for a method that lists items, whose codes come from no vector.
pub fn ways(tokenizer: &ItemTokenizer) -> Vec<&'static str> {
    let Model::Quantizer(quantizer) = tokenizer.model() else { return Vec::new() };
    let mut ways = vec!["map"];
    if tokenizer.description().config.method().encoder_plan(quantizer.width()).is_some() {
        ways.push("encoder");
    }
    if relabel::has_codebooks(&**quantizer) {
        ways.push("relabel");
    }
    ways
}

/// How far two lists of semantic IDs of the same items agree.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agreement {
    /// Items that were compared.
    pub items: usize,
    /// Share of items whose code is the same, by level, `[L]`.
    pub levels: Vec<f64>,
    /// Share of items whose whole semantic ID is the same.
    pub whole: f64,
}

impl Agreement {
    /// Compares them.
    ///
    /// # Errors
    /// Other numbers of items or levels.
    ///
    /// # Shapes
    /// [N, L] both
    pub fn of(a: &SemanticIds, b: &SemanticIds) -> Result<Self> {
        if a.len() != b.len() || a.levels() != b.levels() {
            let problem =
                format!("{} semantic IDs of {} levels beside {} of {}", a.len(), a.levels(), b.len(), b.levels());
            return Err(Error::mismatch(problem, "compare semantic IDs of the same items and levels").into());
        }
        let share = |count: usize| count as f64 / a.len().max(1) as f64;
        let level = |level: usize| share(a.rows().zip(b.rows()).filter(|(a, b)| a[level] == b[level]).count());
        Ok(Self {
            items: a.len(),
            levels: (0..a.levels()).map(level).collect(),
            whole: share(a.rows().zip(b.rows()).filter(|(a, b)| a == b).count()),
        })
    }
}
