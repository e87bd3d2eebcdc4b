//! Vectors of items from the matrix of users and items: who had both, wherever in their histories.
//!
//! Entry (u, i) is 1 / sqrt(items of u * users of i) where user u has item i, so that neither long histories nor popular
//! items prevail; an item's vector is its row of V S of the matrix's truncated singular value decomposition. Products of
//! such vectors are those of walks from an item over a user to another item.
//!
//! *Paper*: Peng, Sugiyama and Mine, *SVD-GCN: A Simplified Graph Convolution Paradigm for Recommendation*, CIKM 2022
//! (spectral factors of the normalised matrix without training).
//! *Differs from the paper*: singular values weigh linearly, not by their exponential.
//! *Checked against*: the written-out matrix, in the tests.
//!
//! # Shapes
//! Histories of N items; vectors [N, C], rows of zeros for items that nobody has.

use rayon::prelude::*;
use sidereal_core::{Embeddings, ItemIndex, Progress, Result};
use sidereal_nn::rng::Rng;

use crate::algebra::spectrum::{Effort, leading_eigenpairs};
use crate::training_items::TrainingHistories;

/// Directions carried beside those wanted, and products with the matrix.
const SURPLUS: usize = 16;
const ITERATIONS: usize = 12;

/// Factors of the training parts of histories, C wide. Same histories and seed give the same bytes.
///
/// # Errors
/// A width of 0.
///
/// # Shapes
/// to [items, C]
pub fn user_item_vectors(
    histories: &TrainingHistories<'_>,
    items: usize,
    width: usize,
    seed: u64,
    progress: &dyn Progress,
) -> Result<Embeddings> {
    let matrix = Matrix::new(histories, items);
    progress.start("user-item vectors", None, "products");
    let apply = |block: &[f32], width: usize| {
        progress.advance(1);
        matrix.times(block, width)
    };
    let effort = Effort { count: width.max(1), surplus: SURPLUS, iterations: ITERATIONS };
    let (squares, mut vectors) = leading_eigenpairs(&apply, items, effort, &mut Rng::new(seed, "user-item vectors"))?;
    let strengths: Vec<f32> = squares.iter().map(|square| square.max(0.0).sqrt() as f32).collect();
    for (row, users) in vectors.chunks_exact_mut(effort.count).zip(&matrix.users_of) {
        row.iter_mut().zip(&strengths).for_each(|(v, s)| *v *= if users.is_empty() { 0.0 } else { *s });
    }
    progress.finish();
    Embeddings::new(items, width, vectors)
}

/// Who has what, both ways.
struct Matrix<'a> {
    items_of: Vec<&'a [ItemIndex]>,
    users_of: Vec<Vec<u32>>,
}

impl<'a> Matrix<'a> {
    fn new(histories: &TrainingHistories<'a>, items: usize) -> Self {
        let items_of: Vec<&[ItemIndex]> = histories.iter().collect();
        let mut users_of = vec![Vec::new(); items];
        for (user, items) in (0u32..).zip(&items_of) {
            items.iter().for_each(|&item| users_of[item as usize].push(user));
        }
        Self { items_of, users_of }
    }

    /// The matrix's transpose times itself times a block.
    ///
    /// # Shapes
    /// [N, w] to [N, w]
    fn times(&self, block: &[f32], width: usize) -> Vec<f32> {
        let root = |count: usize| (count.max(1) as f32).sqrt().recip();
        let mut of_users = vec![0f32; self.items_of.len() * width];
        of_users.par_chunks_mut(width).zip(&self.items_of).for_each(|(sum, items)| {
            for &item in *items {
                let scale = root(self.users_of[item as usize].len()) / items.len() as f32;
                let row = &block[item as usize * width..][..width];
                sum.iter_mut().zip(row).for_each(|(sum, v)| *sum += scale * v);
            }
        });
        let mut out = vec![0f32; block.len()];
        out.par_chunks_mut(width).zip(&self.users_of).for_each(|(sum, users)| {
            for &user in users {
                let row = &of_users[user as usize * width..][..width];
                sum.iter_mut().zip(row).for_each(|(sum, v)| *sum += v);
            }
            sum.iter_mut().for_each(|sum| *sum *= root(users.len()));
        });
        out
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use sidereal_core::{Histories, NoProgress};

    #[test]
    fn products_of_vectors_are_those_of_the_written_out_matrix() {
        let (users, items) = (60usize, 25usize);
        let mut rng = Rng::new(8, "users");
        let (mut offsets, mut events) = (vec![0], Vec::new());
        for _ in 0..users {
            let mut mine: Vec<u32> = (0..items as u32 - 1).collect();
            rng.shuffle(&mut mine);
            events.extend(&mine[..2 + rng.below(6)]);
            offsets.push(events.len() as u64);
        }
        let names = (0..users).map(|u| u.to_string()).collect();
        let histories = Histories::new(names, offsets, events, None, None).unwrap();
        let ends: Vec<u32> = (0..users).map(|u| histories.items_of(u).len() as u32).collect();
        let training = TrainingHistories::new(&histories, &ends);
        let vectors = user_item_vectors(&training, items, items, 1, &NoProgress).unwrap();
        let count = |item: u32| training.iter().filter(|history| history.contains(&item)).count() as f64;
        for i in 0..items as u32 {
            for j in 0..items as u32 {
                let both = training.iter().filter(|history| history.contains(&i) && history.contains(&j));
                let walks: f64 = both.map(|history| 1.0 / history.len() as f64).sum();
                let want = walks / (count(i) * count(j)).sqrt().max(1.0);
                let found: f32 = vectors.row(i as usize).iter().zip(vectors.row(j as usize)).map(|(a, b)| a * b).sum();
                assert!((f64::from(found) - want).abs() < 1e-3, "{i} {j}: {found} {want}");
            }
        }
        assert!(vectors.row(items - 1).iter().all(|&v| v == 0.0));
        assert!(user_item_vectors(&training, items, 0, 1, &NoProgress).is_err());
    }
}
