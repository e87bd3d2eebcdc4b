//! A matrix in a mapped file.

use std::ops::Range;

use memmap2::Mmap;

use crate::precision::Precision;

/// # Shapes
/// [N, D], stored row by row, or column by column as Fortran does.
pub(super) struct Matrix {
    pub(super) map: Mmap,
    /// Where the numbers begin; the file holds all of them from there on.
    pub(super) start: usize,
    pub(super) rows: usize,
    pub(super) width: usize,
    pub(super) precision: Precision,
    pub(super) big_endian: bool,
    pub(super) by_columns: bool,
}

impl Matrix {
    /// Rows of the matrix, row-major, [rows, D].
    pub(super) fn read(&self, rows: Range<usize>) -> Vec<f32> {
        let mut values = Vec::with_capacity(rows.len() * self.width);
        if !self.by_columns {
            self.decode(rows.start * self.width, rows.len() * self.width, &mut values);
            return values;
        }
        values.resize(rows.len() * self.width, 0.0);
        let mut column = Vec::with_capacity(rows.len());
        for d in 0..self.width {
            column.clear();
            self.decode(d * self.rows + rows.start, rows.len(), &mut column);
            for (row, value) in column.iter().enumerate() {
                values[row * self.width + d] = *value;
            }
        }
        values
    }

    fn decode(&self, first: usize, count: usize, out: &mut Vec<f32>) {
        let size = self.precision.bytes();
        let from = self.start + first * size;
        let bytes = self.map.get(from..from + count * size).unwrap_or(&[]);
        self.precision.decode(bytes, self.big_endian, out);
    }
}
