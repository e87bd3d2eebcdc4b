//! Shape checks: every message names the op, what came and what fits.

use candle_core::{DType, Tensor};
use sidereal_core::Error as CoreError;

use crate::error::Result;

/// Refuses the arguments of an op.
pub(crate) fn refuse<T>(op: &str, problem: String, mend: &str) -> Result<T> {
    Err(CoreError::input(format!("op {op}"), problem, mend).into())
}

/// The last dimension of a tensor that must have one.
pub(crate) fn last_dim(op: &str, name: &str, x: &Tensor) -> Result<usize> {
    match x.dims().last() {
        Some(&d) => Ok(d),
        None => refuse(op, format!("{name} is a scalar"), "give it a last dimension of features"),
    }
}

/// A tensor of exactly this shape.
pub(crate) fn shape(op: &str, name: &str, x: &Tensor, expected: &[usize]) -> Result<()> {
    if x.dims() == expected {
        return Ok(());
    }
    refuse(op, format!("{name} has shape {:?}, not {expected:?}", x.dims()), "make the shapes fit each other")
}

/// A matrix; returns its two sizes.
pub(crate) fn matrix(op: &str, name: &str, x: &Tensor) -> Result<(usize, usize)> {
    match *x.dims() {
        [rows, columns] => Ok((rows, columns)),
        _ => refuse(op, format!("{name} has shape {:?}, not two dimensions", x.dims()), "give it as a matrix"),
    }
}

/// Token ids or classes.
pub(crate) fn ids(op: &str, name: &str, x: &Tensor) -> Result<()> {
    if x.dtype() == DType::U32 {
        return Ok(());
    }
    refuse(op, format!("{name} is {:?}, not u32", x.dtype()), "convert it with to_dtype(DType::U32)")
}

/// A probability of dropping: `[0, 1)`.
pub(crate) fn drop_probability(op: &str, p: f32) -> Result<()> {
    if (0.0..1.0).contains(&p) {
        return Ok(());
    }
    refuse(op, format!("the dropout probability is {p}"), "choose one in [0, 1)")
}
