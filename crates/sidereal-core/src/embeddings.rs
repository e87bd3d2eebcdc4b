//! Item embeddings in memory.

use crate::error::{Error, Result};

/// Item vectors, row-major.
///
/// # Shapes
/// `values`: [N, D]
#[derive(Debug, Clone, PartialEq)]
pub struct Embeddings {
    rows: usize,
    width: usize,
    values: Vec<f32>,
}

impl Embeddings {
    /// Wraps a row-major matrix.
    ///
    /// # Errors
    /// A length that is not `rows * width`, a width of 0, and rows that hold NaN or infinity (the first few named).
    pub fn new(rows: usize, width: usize, values: Vec<f32>) -> Result<Self> {
        if width == 0 || rows.checked_mul(width) != Some(values.len()) {
            let problem = format!("{} values are not {rows} rows of width {width}", values.len());
            return Err(Error::input("embeddings", problem, "give one vector of the same width for each item"));
        }
        let bad: Vec<usize> =
            (0..rows).filter(|&r| values[r * width..(r + 1) * width].iter().any(|v| !v.is_finite())).collect();
        if let Some(first) = bad.first() {
            let named: Vec<String> = bad.iter().take(5).map(ToString::to_string).collect();
            let problem = format!("{} of {rows} rows hold NaN or infinity (rows {})", bad.len(), named.join(", "));
            let mend = "encode these items again (half-precision encoders overflow: use f32 or bf16) or drop them";
            return Err(Error::input(format!("embeddings, row {first}"), problem, mend));
        }
        Ok(Self { rows, width, values })
    }

    /// N.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// D.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The vector of item `i`, `[D]`.
    ///
    /// # Panics
    /// If `i` is not below [`Embeddings::rows`].
    pub fn row(&self, i: usize) -> &[f32] {
        &self.values[i * self.width..(i + 1) * self.width]
    }

    /// The whole matrix, [N, D].
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Takes the matrix out, [N, D].
    pub fn into_values(self) -> Vec<f32> {
        self.values
    }
}
