//! Rows to codewords at the least total distance, when every codeword must get its share of rows.
//!
//! With N rows and K codewords each codeword gets floor(N / K) rows, at most one less or one more: the bounds of
//! MiniOneRec (arXiv 2510.24431, its constrained residual k-means). Up to [`EXACT_ROWS`] rows the least total is found
//! exactly ([`crate::clustering::transport`]); more rows are dealt out into parts like cards, whose bounds add up to the same, and
//! each part is solved exactly.

use rayon::prelude::*;

use crate::algebra::product::{product, squared_norm, transposed};
use crate::clustering::transport::transport;

/// Most rows that are assigned in one problem.
pub(crate) const EXACT_ROWS: usize = 20_480;
/// Most codewords: the work of moving a row grows with their square.
pub(crate) const MOST_CODES: u32 = 2048;
/// Rows of one product; fixed, so that costs do not depend on the number of threads.
const BLOCK: usize = 512;

/// Assignments under capacities, each starting from the prices of the one before.
#[derive(Debug, Default)]
pub(crate) struct Balancing {
    /// `[K]`; empty before the first assignment.
    prices: Vec<f64>,
}

impl Balancing {
    /// Assigns every row; codewords not in use get none.
    ///
    /// # Shapes
    /// `rows`: [N, d]; `codewords`: [K, d]; `used`: `[K]`; the answer: `[N]`
    pub(crate) fn assign(&mut self, rows: &[f32], width: usize, codewords: &[f32], used: &[bool]) -> Vec<u32> {
        let names: Vec<u32> = (0..used.len() as u32).filter(|&k| used[k as usize]).collect();
        let kept: Vec<f32> = names.iter().flat_map(|&k| &codewords[k as usize * width..][..width]).copied().collect();
        if self.prices.len() != names.len() {
            self.prices = vec![0.0; names.len()];
        }
        let count = rows.len() / width;
        let costs = Costs::new(&kept, width);
        let parts = parts(count, names.len());
        let solved: Vec<(Vec<u32>, Vec<f64>)> = parts
            .par_iter()
            .map(|part| {
                let costs = costs.of(rows, &part.rows);
                let mut prices = self.prices.clone();
                (transport(&costs, (part.least, part.most), &mut prices), prices)
            })
            .collect();
        let mut assignment = vec![0; count];
        for (part, (codes, _)) in parts.iter().zip(&solved) {
            part.rows.iter().zip(codes).for_each(|(&row, &code)| assignment[row] = names[code as usize]);
        }
        self.prices = solved.into_iter().next().map(|(_, prices)| prices).unwrap_or_default();
        assignment
    }
}

/// Rows that are assigned together, and the bounds of a codeword's share of them.
#[derive(Debug, PartialEq)]
struct Part {
    rows: Vec<usize>,
    least: usize,
    most: usize,
}

/// All parts but the last hold a multiple of K rows, so that together they leave each codeword floor(N / K) rows, one
/// more or less.
fn parts(count: usize, codes: usize) -> Vec<Part> {
    let wanted = count.div_ceil(EXACT_ROWS).max(1);
    let dealt: Vec<usize> = (0..wanted).flat_map(|first| (first..count).step_by(wanted)).collect();
    let size = (count / wanted / codes * codes).max(codes);
    let mut parts = Vec::new();
    let mut rest = &dealt[..];
    while rest.len() > EXACT_ROWS.max(size) {
        let (now, later) = rest.split_at(size);
        parts.push(Part { rows: now.to_vec(), least: size / codes, most: size / codes });
        rest = later;
    }
    let share = rest.len() / codes;
    // Every codeword gets a row where there are enough.
    let least = if share == 0 { 0 } else { (share - 1).max(1) };
    parts.push(Part { rows: rest.to_vec(), least, most: share + 1 });
    parts
}

/// What makes costs: |c|^2 - 2 x.c, which is the squared distance but for a number that is the same for all codewords.
struct Costs {
    width: usize,
    /// [d, K]
    columns: Vec<f32>,
    /// `[K]`
    squared_norms: Vec<f32>,
}

impl Costs {
    fn new(codewords: &[f32], width: usize) -> Self {
        let squared_norms = codewords.chunks_exact(width).map(|c| squared_norm(c) as f32).collect();
        Self { width, columns: transposed(codewords, width), squared_norms }
    }

    /// [M, K] for the rows named. Values beyond the range of f32 count as its largest number.
    fn of(&self, all: &[f32], rows: &[usize]) -> Vec<f32> {
        let codes = self.squared_norms.len();
        let mut costs = vec![0f32; rows.len() * codes];
        costs.par_chunks_mut(BLOCK * codes).zip(rows.par_chunks(BLOCK)).for_each_init(
            Vec::new,
            |block, (costs, rows)| {
                block.clear();
                block.extend(rows.iter().flat_map(|&row| &all[row * self.width..(row + 1) * self.width]));
                product(block, self.width, &self.columns, codes, costs);
                for costs in costs.chunks_exact_mut(codes) {
                    for (cost, norm) in costs.iter_mut().zip(&self.squared_norms) {
                        let value = norm - 2.0 * *cost;
                        *cost =
                            if value.is_nan() { f32::MAX / 4.0 } else { value.clamp(-f32::MAX / 4.0, f32::MAX / 4.0) };
                    }
                }
            },
        );
        costs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_hold_every_row_once_and_their_bounds_add_up() {
        for (count, codes) in
            [(10, 3), (2, 5), (20_480, 256), (20_481, 256), (100_003, 7), (50_000, 2048), (61_000, 20_000)]
        {
            let parts = parts(count, codes);
            let mut rows: Vec<usize> = parts.iter().flat_map(|part| part.rows.clone()).collect();
            rows.sort_unstable();
            assert_eq!(rows, (0..count).collect::<Vec<_>>());
            let least: usize = parts.iter().map(|part| part.least).sum();
            let most: usize = parts.iter().map(|part| part.most).sum();
            assert!(least + 1 >= count / codes && most <= count / codes + 1, "{count} {codes}: {least} {most}");
            for part in &parts {
                assert!(part.least * codes <= part.rows.len() && part.rows.len() <= part.most * codes);
                assert!(part.rows.len() <= EXACT_ROWS + codes);
            }
        }
    }

    #[test]
    fn extreme_rows_get_codes_all_the_same() {
        let rows = [1e30f32, -1e30, 0.0, 1e30];
        let codes = Balancing::default().assign(&rows, 1, &[1e30, -1e30], &[true, true]);
        assert!(codes.iter().all(|&code| code < 2));
    }
}
