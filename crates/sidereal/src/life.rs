//! The life of a run after it was made: its catalog changes and its tokenizer is carried over to new embeddings.
//!
//! [`change`] adds and removes items: published semantic IDs never move, and the generator goes on as it is.
//! [`versions`] keeps every catalog that was, and goes back to one. [`migration`] says what differs between two.
//! [`upgrade`] makes a run of it for vectors of another model. [`added`] is what a catalog folder knows of items that the data does not have.

pub mod added;
pub mod change;
pub mod migration;
pub(crate) mod new_items;
pub mod upgrade;
pub mod versions;
