//! The best of long rows, by sorts that a device can do.

use candle_core::{DType, Tensor};

use super::places::Places;
use crate::Result;

/// Columns that one sort takes: 2^13 numbers fill the memory that a block of a GPU's threads shares.
pub(crate) const LONGEST_SORT: usize = 8192;

/// As many can be chosen: half of a sort, so that sorting what was chosen makes the row shorter.
pub(crate) const MOST: usize = LONGEST_SORT / 2;

/// The places of the `k` largest of each row, largest first. Long rows are cut into pieces whose best are sorted again.
///
/// # Shapes
/// `keys`: f64, `[B, N]`, no two of a row equal where it matters; result: u32, `[B, min(k, N)]`
pub(crate) fn top(keys: &Tensor, k: usize, numbers: &Places) -> Result<Tensor> {
    let (rows, mut length) = keys.dims2()?;
    let k = k.min(length);
    let mut keys = keys.clone();
    let mut places: Option<Tensor> = None; // [B, length], where these keys stood at first
    loop {
        // Short pieces sort fastest, as long as sorting them leaves out most.
        let piece = (4 * k).next_power_of_two().clamp(1024, LONGEST_SORT);
        if length <= piece {
            let order = keys.contiguous()?.arg_sort_last_dim(false)?.narrow(1, 0, k)?.contiguous()?;
            return Ok(match places {
                Some(places) => places.gather(&order, 1)?,
                None => order,
            });
        }
        let pieces = length.div_ceil(piece);
        let missing = pieces * piece - length;
        if missing > 0 {
            let least = Tensor::full(f64::MIN, (rows, missing), keys.device())?;
            keys = Tensor::cat(&[&keys, &least], 1)?;
        }
        let cut = keys.contiguous()?.reshape((rows * pieces, piece))?;
        let order = cut.arg_sort_last_dim(false)?.narrow(1, 0, k)?.contiguous()?; // [B * pieces, k]
        let firsts = numbers.multiples(pieces, piece, keys.device())?.reshape((1, pieces, 1))?;
        let found = order.reshape((rows, pieces, k))?.broadcast_add(&firsts)?.reshape((rows, pieces * k))?;
        places = Some(match places {
            // Where a row was filled up there is no place: the last one stands in, and its key is never chosen.
            Some(places) => {
                let last = Tensor::full(length as u32 - 1, (1, 1), keys.device())?;
                places.gather(&found.broadcast_minimum(&last)?.contiguous()?, 1)?
            }
            None => found,
        });
        keys = cut.gather(&order, 1)?.reshape((rows, pieces * k))?;
        length = pieces * k;
    }
}

/// Keys by which scores are sorted so that ties are decided by place: the larger score first, and of equal ones the one
/// that stands before.
///
/// Between two neighbours of f32 there are 2^29 of f64, so a score less a part of 2^50 of itself for each place before is
/// still between its neighbours, as long as there are fewer than [`MOST_PLACES`] places.
///
/// # Shapes
/// `scores`: f32, `[B, N]`, minus infinity for what is no candidate; result: f64, `[B, N]`, below [`NOTHING`] for those
pub(crate) fn keys(scores: &Tensor, numbers: &Places) -> Result<Tensor> {
    let (_, columns) = scores.dims2()?;
    let places = numbers.first(columns, scores.device())?.to_dtype(DType::F64)?.unsqueeze(0)?;
    // Infinity less a part of infinity is no number: what is no candidate becomes a score below all others.
    let wide = scores.to_dtype(DType::F64)?.maximum(&Tensor::full(2.0 * NOTHING, scores.dims(), scores.device())?)?;
    let apart = wide.abs()?.broadcast_mul(&(&places * 2f64.powi(-50))?)?;
    // A score of exactly 0 has no part: a step that is nothing beside any other score.
    Ok((wide - apart)?.broadcast_sub(&(places * 1e-200)?)?)
}

/// Keys below this are of no candidate.
pub(crate) const NOTHING: f64 = -1e300;
/// Places that [`keys`] can tell apart.
pub(crate) const MOST_PLACES: usize = 1 << 24;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use candle_core::Device;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_best_are_those_of_a_stable_sort(
            rows in 1usize..4,
            columns in prop_oneof![1usize..40, 1000usize..1100, 9000usize..9100],
            k in prop_oneof![1usize..60, 1000usize..1030],
            levels in 1u32..400,
            seed in any::<u64>(),
        ) {
            // Scores of few values, so that there are ties, exact zeros, and neighbours in f32 among them.
            let mut state = seed | 1;
            let scores: Vec<f32> = (0..rows * columns).map(|_| {
                state = state.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23);
                match (state >> 33) as u32 % (levels + 2) {
                    0 => f32::NEG_INFINITY,
                    1 => 0.0,
                    step => f32::from_bits((-7.5f32).to_bits() + step / 2),
                }
            }).collect();
            let tensor = Tensor::from_slice(&scores, (rows, columns), &Device::Cpu).unwrap();
            let numbers = Places::default();
            let keys = keys(&tensor, &numbers).unwrap();
            let found: Vec<Vec<u32>> = top(&keys, k, &numbers).unwrap().to_vec2().unwrap();
            for (row, found) in scores.chunks(columns).zip(found) {
                let mut order: Vec<u32> = (0..columns as u32).collect();
                order.sort_by(|&a, &b| row[b as usize].total_cmp(&row[a as usize]));
                let alive = |place: &u32| row[*place as usize] > f32::NEG_INFINITY;
                let expected: Vec<u32> = order.into_iter().take(k).filter(alive).collect();
                prop_assert_eq!(found.into_iter().filter(alive).collect::<Vec<_>>(), expected);
            }
        }
    }
}
