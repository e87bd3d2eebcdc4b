//! Spectral clustering of the items of a co-occurrence graph.
//!
//! Items are embedded by the leading eigenvectors of the normalised adjacency, rows are scaled to length 1 and k-means
//! finds the clusters (Ng, Jordan and Weiss, NeurIPS 2001). A small constant is added to all weights first (Zhang and
//! Rohe, NeurIPS 2018): without it every small component of the graph takes an eigenvector of its own, and none are
//! left for the structure inside the large one. It is never written out; the adjacency stays sparse.

use rayon::prelude::*;

use sidereal_core::Result;
use sidereal_nn::rng::Rng;

use crate::algebra::spectrum::{Effort, leading_eigenpairs};
use crate::behaviour::cooccurrence::CoOccurrences;
use crate::clustering::kmeans::{KMeansOptions, fit, normalise};
use crate::codebooks::nearest::NearestCodeword;

/// Directions carried beside the wanted ones.
const SURPLUS: usize = 8;
/// Products with the adjacency; clusters stop changing long before eigenvectors do.
const ITERATIONS: usize = 40;
const KMEANS_ITERATIONS: usize = 50;

/// Splits the items of a graph into at most `clusters` groups, each ascending, in the order of their first items. Items
/// that stand near no other are the last group.
///
/// # Errors
/// Eigenvectors that cannot be found.
pub(crate) fn clusters(graph: &CoOccurrences, clusters: usize, rng: &mut Rng) -> Result<Vec<Vec<u32>>> {
    let (known, alone): (Vec<u32>, Vec<u32>) =
        (0..graph.items() as u32).partition(|&i| graph.row(i as usize).len() > 0);
    if known.is_empty() || clusters < 2 {
        return Ok(vec![(0..graph.items() as u32).collect()]);
    }
    if alone.is_empty() {
        return connected(graph, clusters, rng);
    }
    let mut groups = connected(&graph.among(&known), clusters - 1, rng)?;
    groups.iter_mut().flatten().for_each(|item| *item = known[*item as usize]);
    groups.push(alone);
    Ok(groups)
}

/// The same where every item stands near another.
fn connected(graph: &CoOccurrences, clusters: usize, rng: &mut Rng) -> Result<Vec<Vec<u32>>> {
    let n = graph.items();
    if clusters < 2 {
        return Ok(vec![(0..n as u32).collect()]);
    }
    let clusters = clusters.min(n);
    let adjacency = Adjacency::new(graph);
    let effort = Effort { count: clusters, surplus: SURPLUS, iterations: ITERATIONS };
    let apply = |block: &[f32], width: usize| adjacency.times(block, width);
    let (_, mut rows) = leading_eigenpairs(&apply, n, effort, rng)?;
    rows.par_chunks_mut(clusters).for_each(|row| {
        normalise(row);
    });
    let options = KMeansOptions {
        codes: clusters,
        max_iterations: KMEANS_ITERATIONS,
        tolerance: 1e-4,
        spherical: false,
        seeding_rows: n,
    };
    let fitted = fit(&rows, clusters, &options, rng, &mut |_, _| {});
    let search = NearestCodeword::new(fitted.codewords, clusters);
    let mut groups = vec![Vec::new(); clusters];
    search.search(&rows, &mut Default::default(), |item, code| groups[usize::from(code)].push(item as u32));
    groups.retain(|group| !group.is_empty());
    groups.sort_by_key(|group| group[0]);
    Ok(groups)
}

/// The adjacency with its constant, normalised and moved: (D^-1/2 (A + t 11^T / n) D^-1/2 + I) / 2, whose eigenvalues
/// lie in [0, 1].
struct Adjacency<'a> {
    graph: &'a CoOccurrences,
    /// `[n]`
    scale: Vec<f32>,
    /// t / n.
    constant: f64,
}

impl<'a> Adjacency<'a> {
    fn new(graph: &'a CoOccurrences) -> Self {
        let n = graph.items();
        let degrees: Vec<f64> = (0..n).map(|item| graph.total_of(item) as f64).collect();
        let mean = degrees.iter().sum::<f64>() / n as f64;
        let scale = degrees.iter().map(|degree| (degree + mean).sqrt().recip() as f32).collect();
        Self { graph, scale, constant: mean / n as f64 }
    }

    fn times(&self, block: &[f32], width: usize) -> Vec<f32> {
        let mut sums = vec![0f64; width];
        for (row, &scale) in block.chunks_exact(width).zip(&self.scale) {
            sums.iter_mut().zip(row).for_each(|(sum, &v)| *sum += f64::from(scale * v));
        }
        let mut out = vec![0f32; block.len()];
        out.par_chunks_mut(width).enumerate().for_each(|(item, out)| {
            out.iter_mut().zip(&sums).for_each(|(o, sum)| *o = (self.constant * sum) as f32);
            for (other, count) in self.graph.row(item) {
                let weight = count as f32 * self.scale[other as usize];
                let row = &block[other as usize * width..][..width];
                out.iter_mut().zip(row).for_each(|(o, v)| *o += weight * v);
            }
            let own = &block[item * width..][..width];
            out.iter_mut().zip(own).for_each(|(o, v)| *o = 0.5 * (*o * self.scale[item] + v));
        });
        out
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::training_items::TrainingHistories;
    use sidereal_core::Histories;

    #[test]
    fn communities_are_found_beside_isolated_pairs_and_items_of_nobody() {
        // Three communities of 60 items, five pairs that know only each other, and items that nobody knows.
        let mut rng = Rng::new(5, "users");
        let (mut offsets, mut events) = (vec![0], Vec::new());
        for user in 0..600 {
            let home = user % 3;
            events.extend((0..6).map(|_| (home * 60 + rng.below(60)) as u32));
            // A few stray.
            if user % 20 == 0 {
                events.push(rng.below(180) as u32);
            }
            offsets.push(events.len() as u64);
        }
        for pair in 0..5u32 {
            events.extend([180 + 2 * pair, 181 + 2 * pair]);
            offsets.push(events.len() as u64);
        }
        let users = (0..605).map(|u| u.to_string()).collect();
        let histories = Histories::new(users, offsets, events, None, None).unwrap();
        let ends = vec![99; 605];
        let graph = CoOccurrences::count(&TrainingHistories::new(&histories, &ends), 200, 5);
        let groups = clusters(&graph, 4, &mut Rng::new(1, "clusters")).unwrap();
        for home in 0..3 {
            let of = |item: u32| groups.iter().position(|group| group.contains(&item)).unwrap();
            let first = of(home * 60);
            assert!((0..60).all(|i| of(home * 60 + i) == first), "{groups:?}");
        }
        assert_eq!(groups.iter().map(Vec::len).sum::<usize>(), 200);
        assert_eq!((groups.len(), &groups[3]), (4, &(190..200).collect::<Vec<u32>>()));
        let nobody = CoOccurrences::count(&TrainingHistories::new(&histories, &[]), 7, 5);
        assert_eq!(clusters(&nobody, 3, &mut Rng::new(1, "clusters")).unwrap().len(), 1);
    }
}
