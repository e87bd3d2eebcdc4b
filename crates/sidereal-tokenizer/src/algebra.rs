//! Products, exact distances and decompositions, with the same bytes for any number of threads.

pub(crate) mod bf16;
pub(crate) mod linear_algebra;
pub(crate) mod product;
pub(crate) mod rotation;
pub(crate) mod spectrum;
