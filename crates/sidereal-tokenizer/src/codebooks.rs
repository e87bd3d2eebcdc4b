//! Codebooks put together: the exact nearest codeword, stacks of residual codebooks with and without a beam, and
//! codebooks of sub-vectors side by side.

pub(crate) mod screen;

pub(crate) mod search;

pub(crate) mod nearest;

pub(crate) mod beam;
pub(crate) mod residual;

pub(crate) mod product_codebooks;
