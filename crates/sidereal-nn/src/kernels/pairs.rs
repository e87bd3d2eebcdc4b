//! Matrices as words of bf16, fast enough to be made anew for every product of a training.
//!
//! A word holds two neighbours along the dimension that a product sums over. A matrix whose rows run along it is rounded
//! row by row; of one whose rows run across it, two rows make one row of words. Where the words stand the wrong way round
//! they are turned in squares that fit the cache.

use super::bf16;
use super::instructions::vectorised;
use super::tile::{LANES, Line};

/// Words of one row of a square.
const SQUARE: usize = 16;

vectorised! {
    /// A block of up to 16 columns of a matrix `[I, O]`: its lines, from column `first` on.
    ///
    /// # Shapes
    /// `values`: `[I, O]`; `lines`: I / 2, rounded up
    pub(super) fn lines_of_rows(lines: &mut [Line], values: &[f32], output: usize, first: usize) {
        let columns = LANES.min(output - first);
        for (line, rows) in lines.iter_mut().zip(values.chunks(2 * output)) {
            let (upper, lower) = rows.split_at(output);
            match (upper[first..].first_chunk::<LANES>(), lower.get(first..).and_then(|row| row.first_chunk::<LANES>())) {
                (Some(upper), Some(lower)) => {
                    for c in 0..LANES {
                        line.0[c] = bf16::word(upper[c], lower[c]);
                    }
                }
                // The last columns, or the last row of an odd number.
                _ => {
                    for c in 0..columns {
                        line.0[c] = bf16::word(upper[first + c], lower.get(first + c).copied().unwrap_or(0.0));
                    }
                }
            }
        }
    }
}

/// The same of a matrix whose columns are given as rows; `space` is for its words.
///
/// # Shapes
/// `columns`: `[O, I]`; `lines`: I / 2, rounded up
pub(super) fn lines_of_columns(lines: &mut [Line], columns: &[f32], input: usize, first: usize, space: &mut Vec<u32>) {
    let depth = lines.len();
    // What stays there from another block is of columns that nobody reads.
    grow(space, LANES * depth);
    for (words, column) in space.chunks_exact_mut(depth.max(1)).zip(columns[first * input..].chunks_exact(input)) {
        bf16::round_row(bytemuck::cast_slice_mut(words), column);
    }
    turn(bytemuck::cast_slice_mut(lines), LANES, space, depth, LANES, depth);
}

/// Rows of the transposed matrix: those of `count` columns from column `first` on. `space` is for words the wrong way
/// round.
///
/// # Shapes
/// `values`: `[I, O]`; `out`: `[count, I / 2, rounded up]`
pub(super) fn rows_of_columns(
    out: &mut [u32],
    values: &[f32],
    output: usize,
    [first, count]: [usize; 2],
    space: &mut Vec<u32>,
) {
    let depth = out.len().checked_div(count).unwrap_or(0);
    grow(space, depth * count);
    let none = vec![0.0; count];
    for (words, rows) in space.chunks_exact_mut(count.max(1)).zip(values.chunks(2 * output)) {
        let (upper, lower) = rows.split_at(output);
        let lower = if lower.is_empty() { none.as_slice() } else { &lower[first..first + count] };
        join_rows(words, &upper[first..first + count], lower);
    }
    turn(out, depth, space, count, depth, count);
}

fn grow(words: &mut Vec<u32>, count: usize) {
    if words.len() < count {
        words.resize(count, 0);
    }
}

vectorised! {
    /// Words of the elements of two rows; what `out` has beyond them is left.
    fn join_rows(out: &mut [u32], upper: &[f32], lower: &[f32]) {
        for ((out, upper), lower) in out.iter_mut().zip(upper).zip(lower) {
            *out = bf16::word(*upper, *lower);
        }
    }
}

vectorised! {
    /// `out[j][i] = x[i][j]` for `rows` rows of `columns`, each side with its own distance between rows.
    fn turn(out: &mut [u32], out_step: usize, x: &[u32], step: usize, rows: usize, columns: usize) {
        for i in (0..rows).step_by(SQUARE) {
            for j in (0..columns).step_by(SQUARE) {
                let (height, width) = (SQUARE.min(rows - i), SQUARE.min(columns - j));
                let mut square = [[0; SQUARE]; SQUARE];
                for (r, square) in square.iter_mut().enumerate().take(height) {
                    square[..width].copy_from_slice(&x[(i + r) * step + j..][..width]);
                }
                for c in 0..width {
                    let out = &mut out[(j + c) * out_step + i..][..height];
                    for (out, square) in out.iter_mut().zip(&square) {
                        *out = square[c];
                    }
                }
            }
        }
    }
}
