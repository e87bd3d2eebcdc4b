//! Rows to clusters: seeds, k-means and its balanced and mini-batch forms, uniform mapping, spectral clusters of graphs.

pub(crate) mod seeding;

pub(crate) mod capacity;
pub(crate) mod kmeans;
pub(crate) mod mini_batch;
pub(crate) mod transport;

pub(crate) mod sinkhorn;

pub(crate) mod spectral;
