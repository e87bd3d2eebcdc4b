//! Tables that people have -> items and histories that a run works on.
//!
//! The modules, in the order of the data: a file of any format that [`sources`] lists becomes a plain
//! [`ItemTable`] or [`InteractionTable`], its columns found by a
//! [`ColumnMap`]; [`prepare`](mod@prepare) joins both, drops what an optional [`k_core`] drops and
//! [`order`]s every user's events; [`stage`] puts the result on disk and reads it back. [`folder`] finds the files of a
//! data folder; [`domains`] names several of them, which [`mod@join`] makes one.
//!
//! Absent on purpose: tensors, splits (those are words of the core), guesses. What is missing or contradictory is an
//! error that names the file and row; what was decided (the order, the ties) is in the [`Facts`].

pub mod columns;
pub mod domains;
pub mod folder;

mod attributes;
mod names;
mod numbers;
pub mod parquet_file;
pub mod ranges;
pub mod sources;
pub mod table;

pub mod k_core;
pub mod order;

pub mod facts;
pub mod join;
pub mod prepare;
pub mod stage;

pub use columns::ColumnMap;
pub use domains::{DataSource, DomainFolder};
pub use facts::Facts;
pub use folder::DataFolder;
pub use join::{Domain, join};
pub use prepare::{ItemRows, PreparedData, prepare, prepare_files};
pub use sources::{interactions_from, interactions_from_format, items_from, items_from_format};
pub use table::{InteractionTable, ItemTable};
