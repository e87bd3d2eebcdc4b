//! A matrix that stands in a file as plain numbers.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use sidereal_data::ranges::ReadRanges;

use crate::precision::Precision;

/// # Shapes
/// [N, D], stored row by row, or column by column as Fortran does.
pub(super) struct Matrix {
    pub(super) bytes: Arc<dyn ReadRanges>,
    /// Where the numbers begin; the file holds all of them from there on.
    pub(super) start: u64,
    pub(super) rows: usize,
    pub(super) width: usize,
    pub(super) precision: Precision,
    pub(super) big_endian: bool,
    pub(super) by_columns: bool,
}

impl Matrix {
    /// Rows of the matrix, row-major, [rows, D].
    pub(super) fn read(&self, rows: Range<usize>) -> io::Result<Vec<f32>> {
        let mut values = Vec::with_capacity(rows.len() * self.width);
        if !self.by_columns {
            self.decode(rows.start * self.width, rows.len() * self.width, &mut values)?;
            return Ok(values);
        }
        values.resize(rows.len() * self.width, 0.0);
        let mut column = Vec::with_capacity(rows.len());
        for d in 0..self.width {
            column.clear();
            self.decode(d * self.rows + rows.start, rows.len(), &mut column)?;
            for (row, value) in column.iter().enumerate() {
                values[row * self.width + d] = *value;
            }
        }
        Ok(values)
    }

    fn decode(&self, first: usize, count: usize, out: &mut Vec<f32>) -> io::Result<()> {
        let size = self.precision.bytes();
        let bytes = self.bytes.read(self.start + (first * size) as u64, count * size)?;
        self.precision.decode(&bytes, self.big_endian, out);
        Ok(())
    }
}
