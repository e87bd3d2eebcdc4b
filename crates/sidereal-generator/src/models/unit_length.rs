//! Vectors of length one.

use candle_core::{D, Tensor};

use crate::Result;

/// Divides each row of `width` numbers by its length; rows of zeros stay.
pub(crate) fn unit_values(values: &mut [f32], width: usize) {
    for row in values.chunks_exact_mut(width.max(1)) {
        let length = row.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt();
        if length > 0.0 {
            row.iter_mut().for_each(|v| *v = (f64::from(*v) / length) as f32);
        }
    }
}

/// Divides each row by its length, differentiably.
///
/// # Shapes
/// `[R, D]` -> `[R, D]`
///
/// # Errors
/// Whatever the device says.
pub(crate) fn unit_rows(x: &Tensor) -> Result<Tensor> {
    let length = (x.sqr()?.sum_keepdim(D::Minus1)? + 1e-12)?.sqrt()?; // [R, 1]
    Ok(x.broadcast_div(&length)?)
}
