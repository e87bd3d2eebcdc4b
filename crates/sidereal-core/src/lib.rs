//! Words and formats of generative recommendation.
//!
//! The modules, in the order of the data: [`item`]s with [`attributes`] and [`embeddings`] come in, a tokenizer gives
//! every item a [`semantic_id`], the [`catalog`] joins both and holds the prefix [`trie`] (which a [`filter`], perhaps of
//! a [`predicate`], narrows for one request), [`history`] and [`split`] say what a model may learn from, [`vocab`] numbers
//! the codes for it, and [`metrics`] judges its rankings. [`artifact`] and [`array_file`] put all of it on disk.
//!
//! Absent on purpose: tensors, network, threads of its own, printing. Everything here runs on any machine.

pub mod error;
pub mod method;
pub mod progress;

pub mod item;

pub mod embeddings;

pub mod attributes;

pub mod semantic_id;

pub mod catalog;
pub mod collision;
pub mod filter;
pub mod lc_rec;
pub mod predicate;
pub mod trie;

pub mod history;
pub mod split;
pub mod vocab;

pub mod metrics;

pub mod array_file;
pub mod artifact;

pub use catalog::Catalog;
pub use collision::CollisionPolicy;
pub use embeddings::Embeddings;
pub use error::{Error, Result};
pub use filter::LeafFilter;
pub use history::Histories;
pub use item::{Attribute, ItemId, ItemIndex, Items};
pub use progress::{NoProgress, Progress};
pub use semantic_id::SemanticIds;
pub use split::{Example, Split, SplitRule};
pub use trie::{Codes, Trie};
pub use vocab::CodeVocab;
