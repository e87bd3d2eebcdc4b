//! What a model's work costs, counted from shapes.

/// The sizes that decide a model's cost.
#[derive(Debug, Clone, Copy)]
pub struct Shape<'a> {
    /// N.
    pub items: usize,
    /// K of each level, `[L]`.
    pub codes_per_level: &'a [u32],
    /// D of the item vectors; 0 without.
    pub vector_width: usize,
    /// Mean number of items of a history that the model sees.
    pub mean_history: f64,
    /// W of a search.
    pub beam: usize,
}

/// Arithmetic operations (a multiplication and an addition are two) and sizes.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Cost {
    /// How many numbers are learnt.
    pub parameters: f64,
    /// Forward and backward for one target.
    pub train_target: f64,
    /// One answer over a history.
    pub answer: f64,
    /// Numbers that training keeps for each target until the backward.
    pub activations: f64,
}
