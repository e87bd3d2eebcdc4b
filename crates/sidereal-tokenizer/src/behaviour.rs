//! What users did, as vectors and as trees: co-occurrences, item2vec in closed form, semantic IDs from clusters of them.

pub(crate) mod cooccurrence;

pub mod collaborative_vectors;

pub(crate) mod code_tree;
