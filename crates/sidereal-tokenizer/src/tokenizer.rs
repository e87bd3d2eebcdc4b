//! An item tokenizer: a pre-step, a quantizer and how both were made, trained once and used on every item to come.
//!
//! On disk it is two files in a folder: `tokenizer.json` (method, sizes, settings, seed, what training saw) and
//! `codebooks.safetensors` (`codebooks.{l}` [K_l, d], nets, pre-step). Sizes come from the files; nothing is asked
//! again.

use std::path::Path;

use serde::{Deserialize, Serialize};

use sidereal_core::artifact::{read_json, write_json};
use sidereal_core::{Embeddings, Error, Progress, SemanticIds};

use crate::Result;
use crate::arrays::{ArraySet, save_arrays};
use crate::encode::{check_range, check_width, encode};
use crate::pre_step::FittedPreStep;
use crate::quantizers::{Quantizer, TokenizerConfig, Training};

/// The description's file name.
pub const DESCRIPTION_FILE: &str = "tokenizer.json";
/// The arrays' file name.
pub const ARRAYS_FILE: &str = "codebooks.safetensors";

const FORMAT_VERSION: u32 = 1;
/// Widest embeddings that a file may claim.
const MAX_WIDTH: usize = 1 << 20;

/// What `tokenizer.json` holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// Version of this format.
    pub format_version: u32,
    /// D.
    pub width: usize,
    /// K of every level, `[L]`.
    pub codes_per_level: Vec<u32>,
    /// The seed of its training.
    pub seed: u64,
    /// Method and settings.
    pub config: TokenizerConfig,
    /// Number of items that it was trained on.
    pub items: usize,
    /// What the method recorded of its training.
    pub training: serde_json::Value,
}

/// A trained tokenizer of item vectors.
#[derive(Debug)]
pub struct ItemTokenizer {
    description: Description,
    step: FittedPreStep,
    quantizer: Box<dyn Quantizer>,
}

impl ItemTokenizer {
    /// Trains on the CPU, without checkpoints.
    ///
    /// # Errors
    /// As [`ItemTokenizer::train_with`].
    pub fn train(
        config: &TokenizerConfig,
        embeddings: &Embeddings,
        seed: u64,
        progress: &dyn Progress,
    ) -> Result<Self> {
        Self::train_with(config, embeddings, &Training::new(seed, progress))
    }

    /// Trains a tokenizer. Same settings, vectors and seed give the same bytes, whatever the number of threads.
    ///
    /// # Errors
    /// Impossible settings, no items, values beyond 1e30, and what the method itself can meet.
    ///
    /// # Shapes
    /// `embeddings`: [N, D]
    pub fn train_with(config: &TokenizerConfig, embeddings: &Embeddings, training: &Training<'_>) -> Result<Self> {
        config.check()?;
        if embeddings.rows() == 0 {
            let mend = "give a table with at least one item";
            return Err(Error::input("embeddings", "there are no items to train a tokenizer on", mend).into());
        }
        check_range(embeddings)?;
        let step = config.pre_step().fit(embeddings);
        let trained = match &step {
            FittedPreStep::None => config.method().train(embeddings, training)?,
            step => config.method().train(&prepared(step, embeddings)?, training)?,
        };
        let description = Description {
            format_version: FORMAT_VERSION,
            width: embeddings.width(),
            codes_per_level: trained.quantizer.codes_per_level().to_vec(),
            seed: training.seed,
            config: config.clone(),
            items: embeddings.rows(),
            training: trained.record,
        };
        Ok(Self { description, step, quantizer: trained.quantizer })
    }

    /// Semantic IDs of any items. A row's codes do not depend on the other rows or the number of threads.
    ///
    /// # Errors
    /// Vectors of another width than the tokenizer was trained on; values beyond 1e30.
    ///
    /// # Shapes
    /// [N, D] to [N, L]
    pub fn encode(&self, embeddings: &Embeddings) -> Result<SemanticIds> {
        Ok(encode(&*self.quantizer, &self.step, embeddings)?)
    }

    /// Vectors as the quantizer sees them: after the pre-step, [N, D].
    ///
    /// # Errors
    /// As [`ItemTokenizer::encode`].
    pub fn prepare(&self, embeddings: &Embeddings) -> Result<Embeddings> {
        check_width(self.description.width, embeddings)?;
        check_range(embeddings)?;
        prepared(&self.step, embeddings)
    }

    /// The fitted quantizer; it works on prepared vectors.
    pub fn quantizer(&self) -> &dyn Quantizer {
        &*self.quantizer
    }

    /// K of every level, `[L]`.
    pub fn codes_per_level(&self) -> &[u32] {
        &self.description.codes_per_level
    }

    /// What it is and how it was made.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// Writes both files into a folder that exists, each atomically.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn save(&self, dir: &Path) -> Result<()> {
        let mut arrays = self.quantizer.arrays();
        arrays.extend(self.step.arrays());
        save_arrays(&dir.join(ARRAYS_FILE), &arrays)?;
        Ok(write_json(&dir.join(DESCRIPTION_FILE), &self.description)?)
    }

    /// Reads a tokenizer.
    ///
    /// # Errors
    /// Files that are missing, damaged, of another version or that contradict each other; the tensor or key is named.
    pub fn load(dir: &Path) -> Result<Self> {
        let path = dir.join(DESCRIPTION_FILE);
        let description: Description = read_json(&path)?;
        let mend = "train the tokenizer again with this version";
        if description.format_version != FORMAT_VERSION {
            let problem = format!("format version {}, this is version {FORMAT_VERSION}", description.format_version);
            return Err(Error::artifact(&path, problem, mend).into());
        }
        description.config.check()?;
        if description.width == 0 || description.width > MAX_WIDTH {
            let problem = format!("width {} is not between 1 and {MAX_WIDTH}", description.width);
            return Err(Error::artifact(&path, problem, mend).into());
        }
        if description.codes_per_level != description.config.codes() {
            let problem = format!(
                "codes_per_level is {:?}, but its settings say {:?}",
                description.codes_per_level,
                description.config.codes()
            );
            return Err(Error::artifact(&path, problem, mend).into());
        }
        let mut arrays = ArraySet::open(&dir.join(ARRAYS_FILE))?;
        let step = description.config.pre_step().load(description.width, &mut arrays)?;
        let quantizer = description.config.method().load(description.width, &mut arrays)?;
        arrays.finish()?;
        Ok(Self { description, step, quantizer })
    }
}

fn prepared(step: &FittedPreStep, embeddings: &Embeddings) -> Result<Embeddings> {
    use rayon::prelude::*;
    let width = embeddings.width();
    let mut values = embeddings.values().to_vec();
    values.par_chunks_mut(crate::encode::BLOCK * width).for_each(|rows| step.apply(rows, width));
    Ok(Embeddings::new(embeddings.rows(), width, values)?)
}
