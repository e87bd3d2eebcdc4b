//! A linear model from recent items to the next ones, solved in closed form.
//!
//! Every place of every training part is a row: S holds the items before it, most recent first with the weights 1, 0.6,
//! 0.36, ..., and Y the items from it on with 1, 0.5, 0.25. B minimises |S B - Y|^2 + penalty |B|^2, so
//!
//! B = (S^T S + penalty I)^-1 S^T Y
//!
//! and the score of a history is its weighted recent items times B. Counts of transitions say how often; this says what
//! each item adds to what the others beside it have said already.
//!
//! *Paper*: Choi, Kim, Lee, Shim and Lee, *Session-aware Linear Item-Item Models for Session-based Recommendation*,
//! WWW 2021, section 3.2 (its transition model, SLIT).
//! *Differs from the paper*: windows on both sides, geometric weights, and the similarity model of whole sessions left out.
//! *Checked against*: the normal equations, solved densely in the tests.
//!
//! The matrix is dense: [`LinearConfig::items`] bounds it, and of every row only the strongest entries are kept.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt::{factor, solve};
use faer::{Mat, Par};
use rayon::prelude::*;
use sidereal_core::{Error as CoreError, Histories, ItemIndex, Progress, Split};

use crate::Result;

/// How much is learnt and kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LinearConfig {
    /// The most popular items of the model, M: memory is 4 M^2 bytes, time grows with M^3.
    pub items: usize,
    /// Pulls entries towards 0.
    pub penalty: f32,
    /// Entries of a row that are kept.
    pub kept: usize,
}

impl Default for LinearConfig {
    fn default() -> Self {
        Self { items: 12_500, penalty: 20.0, kept: 200 }
    }
}

/// Items before a place that are looked at.
const BEFORE: usize = 5;
/// What one of them weighs against the one after it.
const DECAY: f32 = 0.6;
/// Weights of the items from the place on.
const TARGETS: [f32; 3] = [1.0, 0.5, 0.25];
/// Columns that are solved at once.
const BLOCK: usize = 256;
/// In place of an item that is not in the model.
const OUTSIDE: u32 = u32::MAX;

/// The strongest entries of B, by row.
#[derive(Debug, Clone, PartialEq)]
pub struct LinearModel {
    /// Where each row begins, `[N + 1]`.
    pub(super) offsets: Vec<u64>,
    /// Ascending within a row.
    pub(super) columns: Vec<ItemIndex>,
    pub(super) values: Vec<f32>,
}

impl LinearModel {
    /// Learns from the training parts over `items` items.
    ///
    /// # Errors
    /// A penalty too small for items that always stand together.
    pub fn fit(
        histories: &Histories,
        split: &Split,
        items: usize,
        config: LinearConfig,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let mut problem = Problem::new(histories, split, items, config);
        let size = problem.chosen.len();
        progress.start("linear model", Some(size as u64), "items");
        let factor = problem.factor(config.penalty)?;
        let mut rows: Vec<Vec<(u32, f32)>> = vec![Vec::new(); size];
        let blocks: Vec<usize> = (0..size).step_by(BLOCK).collect();
        // As many blocks at once as there are threads; what is kept of a row does not depend on how many that is.
        for round in blocks.chunks(rayon::current_num_threads().max(1)) {
            let solved: Vec<Mat<f32>> = round.par_iter().map(|&first| problem.solved(&factor, first)).collect();
            rows.par_iter_mut().enumerate().for_each(|(row, kept)| {
                for (&first, block) in round.iter().zip(&solved) {
                    let entries = (0..block.ncols()).map(|column| ((first + column) as u32, block[(row, column)]));
                    kept.extend(entries.filter(|entry| entry.1 != 0.0));
                    strongest(kept, config.kept);
                }
            });
            progress.advance(solved.iter().map(|block| block.ncols() as u64).sum());
        }
        progress.finish();
        Ok(problem.model(rows, items))
    }

    /// N.
    pub fn items(&self) -> usize {
        self.offsets.len() - 1
    }

    /// What an item says of others; nothing of an item that the model does not have.
    pub(super) fn row(&self, item: ItemIndex) -> impl Iterator<Item = (ItemIndex, f32)> {
        let bound = |at: usize| self.offsets.get(at).copied().unwrap_or(self.columns.len() as u64) as usize;
        let range = bound(item as usize)..bound(item as usize + 1);
        self.columns[range.clone()].iter().copied().zip(self.values[range].iter().copied())
    }
}

/// Keeps the entries of the largest size; of equal ones those of the first columns.
fn strongest(entries: &mut Vec<(u32, f32)>, kept: usize) {
    if entries.len() > kept {
        entries.select_nth_unstable_by(kept, |a, b| b.1.abs().total_cmp(&a.1.abs()).then(a.0.cmp(&b.0)));
        entries.truncate(kept);
    }
}

/// The normal equations over the chosen items.
struct Problem {
    /// Ascending: `[M]`.
    chosen: Vec<ItemIndex>,
    /// S^T S, its lower half: `[M, M]`.
    gram: Mat<f32>,
    /// S^T Y by column: rows and values, `[M]`.
    cross: Vec<Vec<(u32, f32)>>,
}

impl Problem {
    fn new(histories: &Histories, split: &Split, items: usize, config: LinearConfig) -> Self {
        let popularity = split.training_popularity(histories, items);
        let mut chosen: Vec<ItemIndex> = (0..items as ItemIndex).filter(|&i| popularity[i as usize] > 0).collect();
        chosen.sort_by_key(|&item| std::cmp::Reverse(popularity[item as usize]));
        chosen.truncate(config.items);
        chosen.sort_unstable();
        let mut place = vec![OUTSIDE; items];
        (0..).zip(&chosen).for_each(|(at, &item)| place[item as usize] = at);
        let mut gram = Mat::<f32>::zeros(chosen.len(), chosen.len());
        let mut cross: Vec<Vec<(u32, f32)>> = vec![Vec::new(); chosen.len()];
        for user in 0..histories.len() {
            let history = split.training_items(histories, user);
            for at in 1..history.len() {
                let known = |(item, weight): (&ItemIndex, f32)| {
                    let place = place[*item as usize];
                    (place != OUTSIDE).then_some((place, weight))
                };
                let powers = (0..BEFORE as i32).map(|age| DECAY.powi(age));
                let before: Vec<(u32, f32)> = history[..at].iter().rev().zip(powers).filter_map(known).collect();
                for &(i, a) in &before {
                    for &(j, b) in before.iter().filter(|other| other.0 <= i) {
                        gram[(i as usize, j as usize)] += a * b;
                    }
                }
                for (target, weight) in history[at..].iter().zip(TARGETS).filter_map(known) {
                    cross[target as usize].extend(before.iter().map(|&(i, a)| (i, a * weight)));
                }
            }
        }
        Self { chosen, gram, cross }
    }

    /// The Cholesky factor of S^T S + penalty I, its lower half, in the memory of S^T S.
    fn factor(&mut self, penalty: f32) -> Result<Mat<f32>> {
        let size = self.chosen.len();
        let mut factor = std::mem::replace(&mut self.gram, Mat::new());
        (0..size).for_each(|at| factor[(at, at)] += penalty);
        let mut memory = MemBuffer::new(factor::cholesky_in_place_scratch::<f32>(size, Par::Seq, Default::default()));
        let stack = MemStack::new(&mut memory);
        let done = factor::cholesky_in_place(factor.as_mut(), Default::default(), Par::Seq, stack, Default::default());
        done.map_err(|_| {
            let problem = "the linear model's equations have no single solution";
            CoreError::config("fusion.without", problem, "leave the feature \"linear\" out")
        })?;
        Ok(factor)
    }

    /// Columns of B from `first` on: `[M, at most BLOCK]`.
    fn solved(&self, factor: &Mat<f32>, first: usize) -> Mat<f32> {
        let size = self.chosen.len();
        let mut block = Mat::<f32>::zeros(size, BLOCK.min(size - first));
        for (column, entries) in self.cross[first..].iter().take(block.ncols()).enumerate() {
            entries.iter().for_each(|&(row, value)| block[(row as usize, column)] += value);
        }
        let mut memory = MemBuffer::new(solve::solve_in_place_scratch::<f32>(size, block.ncols(), Par::Seq));
        solve::solve_in_place(factor.as_ref(), block.as_mut(), Par::Seq, MemStack::new(&mut memory));
        block
    }

    /// Rows of all items, of which most of a large catalog have none.
    fn model(&self, rows: Vec<Vec<(u32, f32)>>, items: usize) -> LinearModel {
        let mut model = LinearModel { offsets: vec![0], columns: Vec::new(), values: Vec::new() };
        let mut next = self.chosen.iter().zip(rows).peekable();
        for item in 0..items as ItemIndex {
            if let Some((_, mut row)) = next.next_if(|(chosen, _)| **chosen == item) {
                row.sort_unstable_by_key(|entry| entry.0);
                model.columns.extend(row.iter().map(|entry| self.chosen[entry.0 as usize]));
                model.values.extend(row.iter().map(|entry| entry.1));
            }
            model.offsets.push(model.columns.len() as u64);
        }
        model
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use sidereal_core::{NoProgress, SplitRule};
    use sidereal_nn::rng::Rng;

    const ITEMS: usize = 40;

    fn walks(users: usize) -> (Histories, Split) {
        let mut rng = Rng::new(4, "walks");
        let (mut offsets, mut events) = (vec![0], Vec::new());
        for _ in 0..users {
            // Item 39 is never seen.
            events.extend((0..3 + rng.below(9)).map(|_| rng.below(ITEMS - 1).min(rng.below(ITEMS - 1)) as u32));
            offsets.push(events.len() as u64);
        }
        let names = (0..users).map(|user| user.to_string()).collect();
        let histories = Histories::new(names, offsets, events, None, None).unwrap();
        let split = Split::new(&histories, SplitRule::LeaveOneOut).unwrap();
        (histories, split)
    }

    fn learn(config: LinearConfig) -> LinearModel {
        let (histories, split) = walks(120);
        LinearModel::fit(&histories, &split, ITEMS, config, &NoProgress).unwrap()
    }

    #[test]
    fn entries_solve_the_normal_equations_written_out() {
        let (histories, split) = walks(120);
        let (mut gram, mut cross) = (vec![0f64; ITEMS * ITEMS], vec![0f64; ITEMS * ITEMS]);
        for user in 0..histories.len() {
            let history = split.training_items(&histories, user);
            for at in 1..history.len() {
                let (mut source, mut target) = ([0f64; ITEMS], [0f64; ITEMS]);
                (0..at.min(5)).for_each(|age| source[history[at - 1 - age] as usize] += 0.6f64.powi(age as i32));
                (at..history.len().min(at + 3))
                    .for_each(|t| target[history[t] as usize] += 0.5f64.powi((t - at) as i32));
                for i in 0..ITEMS {
                    for j in 0..ITEMS {
                        gram[i * ITEMS + j] += source[i] * source[j];
                        cross[i * ITEMS + j] += source[i] * target[j];
                    }
                }
            }
        }
        let model = learn(LinearConfig { penalty: 3.0, ..LinearConfig::default() });
        let mut found = vec![0f64; ITEMS * ITEMS];
        for item in 0..ITEMS {
            model.row(item as u32).for_each(|(to, value)| found[item * ITEMS + to as usize] = f64::from(value));
        }
        for i in 0..ITEMS {
            for j in 0..ITEMS {
                let product: f64 = (0..ITEMS).map(|k| gram[i * ITEMS + k] * found[k * ITEMS + j]).sum();
                assert!((product + 3.0 * found[i * ITEMS + j] - cross[i * ITEMS + j]).abs() < 1e-3, "{i} {j}");
            }
        }
        assert_eq!(model.row(39).count() + model.row(400).count(), 0);
    }

    #[test]
    fn the_strongest_entries_are_kept_and_a_bound_takes_the_most_popular_items() {
        let (all, few) = (learn(LinearConfig::default()), learn(LinearConfig { kept: 5, ..LinearConfig::default() }));
        for item in 0..ITEMS as u32 {
            let mut strong: Vec<f32> = all.row(item).map(|entry| entry.1.abs()).collect();
            strong.sort_by(|a, b| b.total_cmp(a));
            strong.truncate(5);
            let mut kept: Vec<f32> = few.row(item).map(|entry| entry.1.abs()).collect();
            kept.sort_by(|a, b| b.total_cmp(a));
            assert_eq!(kept, strong, "item {item}");
        }
        let bounded = learn(LinearConfig { items: 7, ..LinearConfig::default() });
        let (histories, split) = walks(120);
        let popularity = split.training_popularity(&histories, ITEMS);
        let least = (0..ITEMS).filter(|&i| bounded.row(i as u32).count() > 0).map(|i| popularity[i]).min().unwrap();
        assert_eq!((0..ITEMS).filter(|&i| bounded.row(i as u32).count() > 0).count(), 7);
        assert!(popularity.iter().filter(|&&count| count > least).count() < 7);
    }

    #[test]
    fn the_same_model_comes_out_for_one_and_three_threads() {
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| learn(LinearConfig { kept: 9, ..LinearConfig::default() }))
        };
        assert_eq!(run(1), run(3));
    }
}
