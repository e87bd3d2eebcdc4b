//! What every model of the list gives to the trainer and to those who ask it.
//!
//! A [`Network`] is weights and a loss; a [`Ranker`] made of it answers. The trainer, the validation, the generator
//! folder and the evaluation know only these two, so a model is one file (or folder) and one line of the list.

use std::fmt::Debug;
use std::path::Path;

use candle_core::{Device, Tensor};
use sidereal_core::{Catalog, CodeVocab, Embeddings, Error as CoreError, ItemIndex};
use sidereal_nn::kernels::Precision;
use sidereal_nn::params::Params;

use crate::Result;
use crate::ranker::Ranker;

/// The name of the file that holds a network's weights.
pub const WEIGHTS_FILE: &str = "model.safetensors";

/// What a network is made for: the items, and what is known of them beside their codes.
#[derive(Debug, Clone, Copy)]
pub struct Materials<'a> {
    /// The items and their semantic IDs.
    pub catalog: &'a Catalog,
    /// A vector an item in catalog order, `[N, D]`, where the run has them.
    pub vectors: Option<&'a Embeddings>,
    /// The codebooks that made the codes, one a level, `[K, d]`, where the tokenizer has them.
    pub codebooks: Option<&'a [Embeddings]>,
    /// How often the training holds each item, `[N]`; the trainer fills it in.
    pub training_counts: Option<&'a [u32]>,
    /// Where to compute.
    pub device: &'a Device,
    /// What the ranker multiplies; weights are kept and trained in f32 whatever this is.
    pub precision: Precision,
}

impl<'a> Materials<'a> {
    /// A catalog alone.
    pub fn of_catalog(catalog: &'a Catalog, device: &'a Device) -> Self {
        Self { catalog, vectors: None, codebooks: None, training_counts: None, device, precision: Precision::F32 }
    }

    /// How the catalog's codes are numbered as tokens.
    pub fn vocab(&self) -> CodeVocab {
        CodeVocab::new(CodeVocab::FIRST_CODE, self.catalog.codes_per_level())
    }

    /// The vectors of a network that cannot do without; `who` is the recipe's key that asks for them.
    ///
    /// # Errors
    /// There are none, or not one an item.
    pub fn need_vectors(&self, who: &str) -> Result<&'a Embeddings> {
        let Some(vectors) = self.vectors else {
            let problem = "it looks at item vectors, but the run has none";
            return Err(CoreError::config(who, problem, "embed the run first, or switch this key off").into());
        };
        if vectors.rows() != self.catalog.len() {
            let problem = format!("{} item vectors, but the catalog has {} items", vectors.rows(), self.catalog.len());
            return Err(CoreError::mismatch(problem, "give one vector an item, in catalog order").into());
        }
        Ok(vectors)
    }

    /// The codebooks of a network that cannot do without.
    ///
    /// # Errors
    /// There are none, or other codes than the catalog's.
    pub fn need_codebooks(&self, who: &str) -> Result<&'a [Embeddings]> {
        let Some(codebooks) = self.codebooks else {
            let problem = "it begins with the tokenizer's codebooks, but the run has none";
            let mend = "use a tokenizer with codebooks (rq-kmeans, rq-vae, opq, ...), or switch this key off";
            return Err(CoreError::config(who, problem, mend).into());
        };
        let codes = self.catalog.codes_per_level();
        let fits = codebooks.iter().zip(codes).all(|(book, &codes)| book.rows() == codes as usize);
        if !fits || codebooks.is_empty() || codebooks.len() > codes.len() {
            let rows: Vec<usize> = codebooks.iter().map(Embeddings::rows).collect();
            let problem = format!("codebooks of {rows:?} codewords, but the catalog has {codes:?} codes per level");
            return Err(CoreError::mismatch(problem, "use the tokenizer that made the catalog").into());
        }
        Ok(codebooks)
    }
}

/// What one training sample is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SampleUnit {
    /// A prefix of a history and the one item after it; every position of every history is such a target.
    NextItem,
    /// A stretch of a history, every item of which but the first is a target of those before it.
    WholeHistory,
}

/// One row of a training batch.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    /// Who it is of, see [`user_key`].
    pub user: u64,
    /// What was there, oldest first, the last a target: `[H + 1]`.
    pub items: &'a [ItemIndex],
}

/// A number for a user's id that is the same everywhere (FNV-1a, 64 bits).
pub fn user_key(id: &str) -> u64 {
    id.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Weights, and what is learned with them.
pub trait Network: Debug + Send + Sync {
    /// The variables, in a fixed order.
    fn params(&self) -> &Params;

    /// The mean loss over the rows' targets; `noise` decides dropout masks and drawn negatives, without it there is no
    /// noise.
    ///
    /// # Errors
    /// Whatever the device says.
    fn loss(&self, rows: &[Row<'_>], noise: Option<u64>) -> Result<Tensor>;

    /// Rows that go forward and backward together on one thread of the CPU. A constant of the model, so that bytes do
    /// not depend on threads.
    fn part_rows(&self) -> usize {
        32
    }

    /// Whether its rankers answer in other precisions than f32 too.
    fn has_precisions(&self) -> bool {
        false
    }

    /// The weights as they are now, ready to answer over these materials.
    ///
    /// # Errors
    /// Materials that do not fit the weights.
    fn ranker(&self, materials: &Materials<'_>) -> Result<Box<dyn Ranker>>;

    /// A vector for every item in catalog order, `[N, D]`, where the model has learnt such: for tokenizers that make
    /// semantic IDs of behaviour.
    ///
    /// # Errors
    /// Whatever the device says.
    fn item_vectors(&self) -> Result<Option<Embeddings>> {
        Ok(None)
    }

    /// Writes the weights to any file.
    ///
    /// # Errors
    /// Whatever the device or the file system says.
    fn save_weights(&self, path: &Path) -> Result<()> {
        self.params().save(path)
    }

    /// Reads weights back from a file of [`Network::save_weights`].
    ///
    /// # Errors
    /// A damaged file; a parameter that is missing, unknown or misshapen, by name.
    fn load_weights(&mut self, path: &Path) -> Result<()> {
        self.params().load(path)
    }

    /// Writes everything that a folder needs beside `generator.json`.
    ///
    /// # Errors
    /// Whatever the file system says.
    fn save(&self, dir: &Path) -> Result<()> {
        self.save_weights(&dir.join(WEIGHTS_FILE))
    }
}
