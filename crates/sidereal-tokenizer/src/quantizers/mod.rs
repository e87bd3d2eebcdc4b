//! The methods that turn vectors into codes: one file each, and one line each in the list below.
//!
//! To add a method: write its file with a configuration that implements [`MethodConfig`] and [`MethodKind`] and a
//! [`Quantizer`]; declare the module; add a line to `methods!`. The conformance test walks [`TOKENIZERS`].

use std::path::Path;

use candle_core::Device;
use serde::{Deserialize, Serialize};

pub use sidereal_core::method::Status;
use sidereal_core::{Embeddings, Progress, SemanticIds};

use crate::Result;
use crate::arrays::{ArraySet, NamedArray};
use crate::codebooks::search::SearchScratch;
use crate::item_table::ItemTable;
use crate::life::growth::Growth;
use crate::pre_step::PreStep;
use crate::training_items::{FitOn, TrainingItems};

pub mod category_tree;
pub mod collaborative;
pub mod fsq;
pub mod hybrid;
pub mod lfq;
pub mod opq;
pub mod parallel_moe;
pub mod pq;
pub mod random;
pub mod rq_kmeans;
pub mod rq_kmeans_plus;
pub mod rq_vae;
pub mod sequential;
pub mod vq;

mod net_training;
mod sliced;

use rq_vae::Plan;

/// Writes the list of methods and everything that has one arm a method.
macro_rules! methods {
    ($($(#[$doc:meta])* $variant:ident($config:ty) = $name:literal,)*) => {
        /// Every method there is.
        pub const TOKENIZERS: &[Method] = &[$(Method {
            name: $name,
            paper: <$config as MethodKind>::PAPER,
            status: <$config as MethodKind>::STATUS,
            defaults: |codes| TokenizerConfig::$variant(<$config as MethodKind>::with_codes(codes)),
        },)*];

        /// A method and its settings; in a recipe the table `[tokenizer.NAME]`.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        pub enum TokenizerConfig {
            $($(#[$doc])* #[serde(rename = $name)] $variant($config),)*
        }

        impl TokenizerConfig {
            /// The method's name.
            pub fn name(&self) -> &'static str {
                match self { $(Self::$variant(_) => $name,)* }
            }

            pub(crate) fn method(&self) -> &dyn MethodConfig {
                match self { $(Self::$variant(config) => config,)* }
            }
        }
    };
}

methods! {
    /// k-means on residuals, level by level.
    RqKmeans(rq_kmeans::RqKmeansConfig) = "rq-kmeans",
    /// A residual-quantized autoencoder.
    RqVae(rq_vae::RqVaeConfig) = "rq-vae",
    /// Residual k-means that goes on as a net, which starts as the identity.
    RqKmeansPlus(rq_kmeans_plus::RqKmeansPlusConfig) = "rq-kmeans-plus",
    /// k-means, one level.
    Vq(vq::VqConfig) = "vq",
    /// k-means on sub-vectors, side by side.
    Pq(pq::PqConfig) = "pq",
    /// k-means on sub-vectors of rotated vectors.
    Opq(opq::OpqConfig) = "opq",
    /// Numbers rounded to bins.
    Fsq(fsq::FsqConfig) = "fsq",
    /// Signs of a latent.
    Lfq(lfq::LfqConfig) = "lfq",
    /// Parallel experts, each with a codebook.
    ParallelMoe(parallel_moe::ParallelMoeConfig) = "parallel-moe",
    /// Codes drawn from the item's id.
    Random(random::RandomConfig) = "random",
    /// The item's number, in digits.
    Sequential(sequential::SequentialConfig) = "sequential",
    /// Places in the tree of categories.
    CategoryTree(category_tree::CategoryTreeConfig) = "category-tree",
    /// Recursive clusters of items that users have together.
    Collaborative(collaborative::CollaborativeConfig) = "collaborative",
    /// Collaborative prefixes and a number for every item.
    Hybrid(hybrid::HybridConfig) = "hybrid",
}

impl TokenizerConfig {
    /// A method's defaults for these numbers of codes.
    ///
    /// # Errors
    /// A name that is not in [`TOKENIZERS`]; sizes that [`crate::codes::check_codes`] refuses.
    pub fn with_defaults(name: &str, codes: Vec<u32>) -> Result<Self> {
        let Some(method) = TOKENIZERS.iter().find(|m| m.name == name) else {
            let names: Vec<&str> = TOKENIZERS.iter().map(|m| m.name).collect();
            let mend = format!("use one of: {}", names.join(", "));
            let problem = format!("there is no method {name:?}");
            return Err(sidereal_core::Error::config("tokenizer method", problem, mend).into());
        };
        let config = (method.defaults)(codes);
        config.check()?;
        Ok(config)
    }

    /// Checks every setting.
    ///
    /// # Errors
    /// Names the first key whose value is impossible.
    pub fn check(&self) -> Result<()> {
        crate::codes::check_codes(self.codes())?;
        crate::pre_step::check(self.pre_steps())?;
        self.method().check()
    }

    /// K of every level, `[L]`.
    pub fn codes(&self) -> &[u32] {
        self.method().codes()
    }

    /// What is done to embeddings first, in order.
    pub fn pre_steps(&self) -> &[PreStep] {
        self.method().pre_steps()
    }

    /// Whether the trained method is a list of items and not a quantizer.
    pub fn lists_items(&self) -> bool {
        self.method().lists_items()
    }
}

/// A line of the list of methods.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Method {
    /// Its name on the command line and in recipes.
    pub name: &'static str,
    /// Where it comes from.
    pub paper: &'static str,
    /// How settled it is.
    pub status: Status,
    #[serde(skip)]
    defaults: fn(Vec<u32>) -> TokenizerConfig,
}

/// What a training run is given besides data and settings.
pub struct Training<'a> {
    /// Same seed, same bytes.
    pub seed: u64,
    /// Where nets are trained. k-means always runs on the CPU.
    pub device: Device,
    /// Who watches.
    pub progress: &'a dyn Progress,
    /// A folder for checkpoints: a killed run that finds them there continues, bit for bit. Empty it to start anew.
    pub work: Option<&'a Path>,
}

impl<'a> Training<'a> {
    /// Training on the CPU, without checkpoints.
    pub fn new(seed: u64, progress: &'a dyn Progress) -> Self {
        Self { seed, device: Device::Cpu, progress, work: None }
    }
}

/// What training gives.
pub struct Trained {
    /// Ready to encode.
    pub model: Model,
    /// What is worth knowing about the run, for `tokenizer.json`.
    pub record: serde_json::Value,
}

/// How a trained method finds semantic IDs.
#[derive(Debug)]
pub enum Model {
    /// From an item's vector.
    Quantizer(Box<dyn Quantizer>),
    /// From a list of items.
    Table(ItemTable),
}

/// The settings of one method.
pub trait MethodConfig {
    /// K of every level, `[L]`.
    fn codes(&self) -> &[u32];

    /// What is done to embeddings first, in order; nothing where a method takes no vectors.
    fn pre_steps(&self) -> &[PreStep] {
        &[]
    }

    /// Whether the trained method is a list of items ([`Model::Table`]) and not a quantizer.
    fn lists_items(&self) -> bool {
        false
    }

    /// Which items it is fitted on; all but for methods that learn from vectors alone and have a key for it.
    fn fit_on(&self) -> FitOn {
        FitOn::All
    }

    /// Checks the settings beyond the numbers of codes.
    ///
    /// # Errors
    /// Names the key.
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// Fits a model to items whose vectors went through the pre-steps.
    ///
    /// # Errors
    /// Something absent that the method needs, training that diverges, a device that fails, checkpoints that cannot be
    /// read or written.
    fn train(&self, items: &TrainingItems<'_>, training: &Training<'_>) -> Result<Trained>;

    /// Semantic IDs for the new items of a list, which move no old ones; asked only of a method that lists items.
    ///
    /// # Errors
    /// No room left; something absent that the method needs.
    ///
    /// # Shapes
    /// to [M, L], flat, in the order of `growth.new`
    fn extend(&self, _growth: &Growth<'_>, _seed: u64) -> Result<Vec<u16>> {
        let mend = "encode them by their vectors";
        Err(sidereal_core::Error::mismatch("this method does not list items", mend).into())
    }

    /// The training that made the encoder, for methods whose codebooks quantize an encoder's latents residual by
    /// residual: such an encoder can be trained anew before codebooks that stay. `width` is that of the prepared vectors
    /// that the codebooks were trained on.
    fn encoder_plan(&self, _width: usize) -> Option<Plan> {
        None
    }

    /// Builds the quantizer of these settings for inputs of `width` from its arrays; never asked of a method that
    /// lists items.
    ///
    /// # Errors
    /// Names the array that is missing or does not fit.
    fn load(&self, _width: usize, _arrays: &mut ArraySet) -> Result<Box<dyn Quantizer>> {
        let mend = "look items up by their ids";
        Err(sidereal_core::Error::mismatch("this method lists items and has no arrays", mend).into())
    }
}

/// What a method says about itself.
pub trait MethodKind: MethodConfig + Sized {
    /// Where it comes from.
    const PAPER: &'static str;
    /// How settled it is.
    const STATUS: Status;

    /// Defaults for these numbers of codes.
    fn with_codes(codes: Vec<u32>) -> Self;
}

/// Turns vectors into codes and codes back into vectors.
///
/// Legend: N items, M rows of a block, D input width, d latent width, L levels, K codes of a level.
pub trait Quantizer: std::fmt::Debug + Send + Sync {
    /// D, the width of its inputs.
    fn width(&self) -> usize;

    /// K of every level, `[L]`.
    fn codes_per_level(&self) -> &[u32];

    /// L.
    fn levels(&self) -> usize {
        self.codes_per_level().len()
    }

    /// Encodes a block on the calling thread. A row's codes must not depend on the other rows.
    ///
    /// # Shapes
    /// `rows`: [M, D]; `codes`: [M, L]
    fn encode_rows(&self, rows: &[f32], scratch: &mut Scratch, codes: &mut [u16]);

    /// Vectors from codes, in the space of the inputs after the pre-step (but see
    /// [`Quantizer::reconstructs_inputs`]).
    ///
    /// # Errors
    /// Another number of levels, or codes that the codebooks do not have.
    ///
    /// # Shapes
    /// [N, L] to [N, D]
    fn reconstruct(&self, ids: &SemanticIds) -> Result<Embeddings>;

    /// Whether [`Quantizer::reconstruct`] leads back into the space of the inputs: not behind an encoder that was
    /// retrained for vectors of another model, whose decoder is the old one.
    fn reconstructs_inputs(&self) -> bool {
        true
    }

    /// The vectors that codewords are compared with at level 0: the inputs themselves, or what an encoder makes of
    /// them.
    ///
    /// # Errors
    /// A width that is not [`Quantizer::width`].
    ///
    /// # Shapes
    /// [N, D] to [N, d]
    fn latents(&self, rows: &Embeddings) -> Result<Embeddings>;

    /// The length of what is left when only the first l codes are known, summed in squares over the items: entry 0 is
    /// that of the latents. None where a method's codes do not refine one another.
    ///
    /// # Errors
    /// Shapes that do not fit.
    ///
    /// # Shapes
    /// [N, D] and [N, L] to [L + 1]
    fn residual_energy(&self, rows: &Embeddings, ids: &SemanticIds) -> Result<Option<Vec<f64>>>;

    /// The codewords of a level, [K, d]; where levels quantize sub-vectors, d is the sub-vector's width.
    fn codebook(&self, level: usize) -> &[f32];

    /// What a level's codewords are compared with.
    fn levels_see(&self) -> LevelsSee {
        LevelsSee::SomethingElse
    }

    /// Everything that [`MethodConfig::load`] needs, under stable names.
    fn arrays(&self) -> Vec<NamedArray>;
}

/// What the codewords of a level are compared with, given the latents: it tells what else can choose codes for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LevelsSee {
    /// What the codewords of the levels before left of the latents.
    Residuals {
        /// Whether it is scaled to length 1 before each level.
        normalised: bool,
    },
    /// A stretch of the latents' columns, as wide as the level's codewords, one after another.
    SubVectors,
    /// Neither.
    SomethingElse,
}

/// Buffers that a thread keeps from block to block.
#[derive(Debug, Default)]
pub struct Scratch {
    pub(crate) residuals: Vec<f32>,
    pub(crate) scores: Vec<f32>,
    pub(crate) search: SearchScratch,
    pub(crate) hidden: [Vec<f32>; 3],
}
