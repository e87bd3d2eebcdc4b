//! Whether items that are near as vectors are near as codes.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use sidereal_core::{Embeddings, SemanticIds};
use sidereal_nn::rng::Rng;

use super::structure::shared_prefix;
use crate::algebra::product::{product, squared_distance, transposed};
use crate::clustering::kmeans::{normalise, sample_rows};

/// Most items whose neighbours are looked at.
const SAMPLE: usize = 1000;
const NEIGHBOURS: usize = 10;

/// Overlap of an item's nearest neighbours by cosine of the embeddings with those by shared prefix, then latent
/// distance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NeighbourPreservation {
    /// Neighbours of an item.
    pub k: usize,
    /// Items looked at; a seeded sample when there are many.
    pub sampled_items: usize,
    /// Mean share of neighbours kept.
    pub overlap: f64,
}

pub(super) fn preservation(
    ids: &SemanticIds,
    embeddings: &Embeddings,
    latents: &Embeddings,
    seed: u64,
) -> NeighbourPreservation {
    let count = embeddings.rows();
    let k = NEIGHBOURS.min(count.saturating_sub(1));
    let sample = sample_rows(count, SAMPLE.min(count), &mut Rng::new(seed, "neighbour preservation"));
    let width = embeddings.width();
    let mut unit = embeddings.values().to_vec();
    unit.par_chunks_mut(width).for_each(|row| {
        normalise(row);
    });
    let shares: Vec<f64> = sample
        .par_chunks(16)
        .flat_map_iter(|items| {
            let queries: Vec<f32> = items.iter().flat_map(|&i| &unit[i * width..(i + 1) * width]).copied().collect();
            let columns = transposed(&queries, width); // [D, Q]
            let mut cosines = vec![0f32; count * items.len()];
            product(&unit, width, &columns, items.len(), &mut cosines); // [N, Q]
            let overlap = |(q, &item): (usize, &usize)| {
                let others: Vec<usize> = (0..count).filter(|&other| other != item).collect();
                let by_cosine = smallest(&others, k, |other| -f64::from(cosines[other * items.len() + q]));
                let by_code = nearest_by_code(ids, latents, item, k);
                by_cosine.iter().filter(|other| by_code.contains(other)).count() as f64 / k.max(1) as f64
            };
            items.iter().enumerate().map(overlap).collect::<Vec<_>>()
        })
        .collect();
    let overlap = shares.iter().sum::<f64>() / shares.len().max(1) as f64;
    NeighbourPreservation { k, sampled_items: sample.len(), overlap }
}

/// The `k` other items that share the longest prefixes, nearer latents first.
fn nearest_by_code(ids: &SemanticIds, latents: &Embeddings, item: usize, k: usize) -> Vec<usize> {
    let depths: Vec<usize> = ids.rows().map(|row| shared_prefix(ids.row(item), row)).collect();
    let at_least = |depth: usize| depths.iter().filter(|&&d| d >= depth).count() - 1;
    let cut = (0..=ids.levels()).rev().find(|&depth| at_least(depth) >= k).unwrap_or(0);
    // Those deeper than the cut are in; distances decide only among those at the cut.
    let mut found: Vec<usize> = (0..depths.len()).filter(|&other| other != item && depths[other] > cut).collect();
    let at_cut: Vec<usize> = (0..depths.len()).filter(|&other| other != item && depths[other] == cut).collect();
    let wanted = k.saturating_sub(found.len());
    found.extend(smallest(&at_cut, wanted, |other| squared_distance(latents.row(item), latents.row(other))));
    found
}

/// The `k` items with the smallest keys, equal ones by item.
fn smallest(items: &[usize], k: usize, key: impl Fn(usize) -> f64) -> Vec<usize> {
    let mut keyed: Vec<(f64, usize)> = items.iter().map(|&item| (key(item), item)).collect();
    if k < keyed.len() {
        keyed.select_nth_unstable_by(k, |a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        keyed.truncate(k);
    }
    keyed.into_iter().map(|(_, item)| item).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn codes_that_follow_the_vectors_keep_all_neighbours_and_codes_that_cross_them_keep_none() {
        // Two directions of 11 items each.
        let row = |i: usize| if i.is_multiple_of(2) { [1.0, 0.01 * i as f32] } else { [0.01 * i as f32, 1.0] };
        let vectors = Embeddings::new(22, 2, (0..22).flat_map(row).collect()).unwrap();
        let following = SemanticIds::new(1, (0..22).map(|i| i % 2).collect()).unwrap();
        let found = preservation(&following, &vectors, &vectors, 1);
        assert_eq!((found.k, found.sampled_items, found.overlap), (10, 22, 1.0));
        let far =
            Embeddings::new(22, 2, (0..22).flat_map(|i| [(i % 2) as f32 * 9.0 * i as f32, 0.0]).collect()).unwrap();
        let crossing = SemanticIds::new(1, (0..22).map(|i| i / 11).collect()).unwrap();
        assert!(preservation(&crossing, &vectors, &far, 1).overlap < 0.7);
    }

    #[test]
    fn one_item_has_no_neighbours() {
        let vectors = Embeddings::new(1, 2, vec![1.0, 2.0]).unwrap();
        let found = preservation(&SemanticIds::new(1, vec![0]).unwrap(), &vectors, &vectors, 1);
        assert_eq!((found.k, found.overlap), (0, 0.0));
    }
}
