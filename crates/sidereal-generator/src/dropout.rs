//! Dropout of one training step: each use has a mask of its own, which a seed decides.

use std::cell::Cell;

use candle_core::Tensor;
use sidereal_nn::ops;

use crate::Result;

/// The dropout of one forward pass.
#[derive(Debug)]
pub struct Dropout {
    rate: f32,
    seed: u64,
    uses: Cell<u64>,
}

impl Dropout {
    /// For one training step; another seed gives other masks.
    pub fn new(rate: f32, seed: u64) -> Self {
        Self { rate, seed, uses: Cell::new(0) }
    }

    /// For inference.
    pub fn none() -> Self {
        Self::new(0.0, 0)
    }

    /// At `rate` for the seed of a step, or none where there is none.
    pub fn of_step(rate: f32, seed: Option<u64>) -> Self {
        seed.map_or_else(Self::none, |seed| Self::new(rate, seed))
    }

    fn next(&self) -> u64 {
        let uses = self.uses.get() + 1;
        self.uses.set(uses);
        // Odd multiplier (the golden ratio in 64 bits): uses and seeds never meet in the same number.
        self.seed.wrapping_add(uses.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    /// `dropout(x)`
    pub(crate) fn apply(&self, x: &Tensor) -> Result<Tensor> {
        if self.rate == 0.0 { Ok(x.clone()) } else { Ok(ops::dropout(x, self.rate, self.next())?) }
    }

    /// `residual + dropout(x)`
    pub(crate) fn add(&self, residual: &Tensor, x: &Tensor) -> Result<Tensor> {
        if self.rate == 0.0 { Ok((residual + x)?) } else { Ok(ops::add_dropout(residual, x, self.rate, self.next())?) }
    }

    /// For ops that drop inside.
    pub(crate) fn of_op(&self) -> Option<(f32, u64)> {
        (self.rate > 0.0).then(|| (self.rate, self.next()))
    }
}
