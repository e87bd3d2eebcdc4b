//! Vectors to semantic IDs.
//!
//! Item embeddings [N, D] go through recorded [`pre_step`]s and a quantizer ([`quantizers`]: one file a method, behind
//! one list) and come out as semantic IDs [N, L]. An [`ItemTokenizer`] is both together (or an [`item_table`], for methods
//! that list items one by one): [`ItemTokenizer::train`] fits it, [`ItemTokenizer::encode`] replays it on any items to
//! come, [`report`] says how good the codes are, for imported catalogs too, and [`life`] is what happens to them later.
//! Trained nets may be drawn towards what users did ([`align`], [`behaviour`]). Underneath lie products and
//! decompositions, clustering, and the exact search of the nearest codeword.
//!
//! Absent on purpose: reading of tables (`sidereal-embed`, `sidereal-data`), the manifest of a stage (the facade writes
//! it), what happens to items that share a semantic ID (the catalog of `sidereal-core`), and text tokenizers.

pub mod codes;
pub mod training_items;

mod algebra;
mod clustering;
mod codebooks;

pub mod behaviour;

pub mod arrays;

pub mod pre_step;

mod mlp;

mod checkpoints;

pub mod align;

pub mod quantizers;

mod encode;

mod reconstruction;

pub mod item_table;

mod tokenizer;

pub mod life;

pub mod report;

pub mod bench;

pub use encode::LARGEST;
pub use item_table::ItemTable;
pub use quantizers::{LevelsSee, Method, Model, TOKENIZERS, TokenizerConfig, Training};
pub use sidereal_nn::{Error, Result};
pub use tokenizer::{ARRAYS_FILE, DESCRIPTION_FILE, Description, ITEMS_FILE, ItemTokenizer};
pub use training_items::{TrainingHistories, TrainingItems};
