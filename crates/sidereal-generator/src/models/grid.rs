//! Prefixes on a device: as many places for each request, whatever their number, and their scores.

use candle_core::Tensor;

use crate::Result;
use crate::scoring::{CodeScores, ScoreNorm};

/// Prefixes laid out as `[B, W]`, W the most prefixes of a request; places without one repeat row 0.
pub(super) struct Places {
    pub(super) row_at: Vec<u32>,   // [B * W]
    pub(super) place_of: Vec<u32>, // [R]
}

impl Places {
    pub(super) fn new(request_of: &[u32], requests: usize) -> Self {
        let mut counts = vec![0usize; requests];
        let within: Vec<usize> = request_of
            .iter()
            .map(|&request| {
                counts[request as usize] += 1;
                counts[request as usize] - 1
            })
            .collect();
        let width = counts.iter().copied().max().unwrap_or(0).max(1);
        let place_of: Vec<u32> =
            request_of.iter().zip(&within).map(|(&request, at)| (request as usize * width + at) as u32).collect();
        let mut row_at = vec![0; requests * width];
        for (row, &place) in (0u32..).zip(&place_of) {
            row_at[place as usize] = row;
        }
        Self { row_at, place_of }
    }
}

/// Log-probabilities of a level's codes from logits of these and of all tokens: `[R, K]`.
pub(super) fn normalised(codes: &Tensor, all: &Tensor, norm: ScoreNorm) -> Result<Tensor> {
    let counted = match norm {
        ScoreNorm::Full => all,
        ScoreNorm::Level | ScoreNorm::Children => codes,
    };
    let most = counted.max_keepdim(1)?;
    let total = (counted.broadcast_sub(&most)?.exp()?.sum_keepdim(1)?.log()? + most)?; // [R, 1]
    Ok(codes.broadcast_sub(&total)?)
}

/// The log-probabilities of some rows, on the host.
pub(super) fn rows_of(values: &Tensor, rows: &[u32]) -> Result<CodeScores> {
    let codes = values.dim(1)?;
    let values: Vec<f32> = values.flatten_all()?.to_vec1()?;
    let row = |&row: &u32| values[row as usize * codes..(row as usize + 1) * codes].iter().copied();
    Ok(CodeScores::new(rows.iter().flat_map(row).collect(), codes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_its_own_place_in_its_request() {
        let places = Places::new(&[0, 0, 0, 2, 2], 3);
        assert_eq!(places.place_of, [0, 1, 2, 6, 7]);
        assert_eq!(places.row_at, [0, 1, 2, 0, 0, 0, 3, 4, 0]);
    }
}
