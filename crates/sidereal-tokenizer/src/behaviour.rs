//! What users did, as vectors and as trees: co-occurrences, item2vec in closed form, factors of the
//! user-item matrix, semantic IDs from clusters of them.

pub(crate) mod cooccurrence;

pub mod collaborative_vectors;

pub mod user_item_vectors;

pub(crate) mod code_tree;
