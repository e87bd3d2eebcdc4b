//! Neighbours: co-occurrence within five steps with the most recent items of the history.
//!
//! A pair counts 1/distance forwards and half of that backwards; a column is divided by popularity^0.3, so that what
//! stands beside everything counts for less; the last ten items of the history weigh 0.6^age. Popularity breaks ties.

use sidereal_core::{Histories, ItemIndex, Split};

use crate::baselines::cooccurrence::Cooccurrence;
use crate::baselines::{BaselineMethod, Statistics};
use crate::models::Status;

pub(super) const METHOD: BaselineMethod = BaselineMethod {
    name: "neighbours",
    paper: "item-based neighbours damped by popularity, Deshpande and Karypis, TOIS 2004; distance and recency weights ours",
    status: Status::Stable,
    summary: "co-occurrence within 5 steps with the last 10 items, recent ones first",
    needs_embeddings: false,
    score,
};

/// Items of the history that are looked at.
const RECENT: usize = 10;

/// What an item weighs against the one after it.
const DECAY: f64 = 0.6;

/// Power of the popularity by which a column is divided.
const DAMPING: f64 = 0.3;

fn score(statistics: &Statistics, histories: &[&[ItemIndex]], scores: &mut [f32]) {
    let mut sums = Sums::new(&statistics.neighbours);
    for (history, scores) in histories.iter().zip(scores.chunks_exact_mut(statistics.items())) {
        scores.iter_mut().zip(&statistics.tie_break).for_each(|(score, &tie)| *score = tie as f32);
        for (item, sum) in sums.of(history) {
            scores[item as usize] = (sum + statistics.tie_break[item as usize]) as f32;
        }
    }
}

/// Steps between two items of a history that still count as neighbours.
const REACH: usize = 5;

/// Which items stand within [`REACH`] steps of each other, and how much each column is damped.
#[derive(Debug)]
pub(crate) struct Neighbours {
    counts: Cooccurrence,
    /// The factor of an item's column, `[N]`.
    damping: Vec<f64>,
}

impl Neighbours {
    /// Counts the training parts; `popularity` is that of the same parts, `[N]`.
    pub(crate) fn new(histories: &Histories, split: &Split, popularity: &[u32]) -> Self {
        let training = || (0..histories.len()).map(|user| split.training_items(histories, user));
        Self {
            counts: Cooccurrence::count(training, REACH, popularity.len()),
            damping: popularity.iter().map(|&count| f64::from(count.max(1)).powf(-DAMPING)).collect(),
        }
    }
}

/// The most recent items and their weights, newest first.
pub(crate) fn recent(history: &[ItemIndex]) -> impl Iterator<Item = (ItemIndex, f64)> {
    history.iter().rev().take(RECENT).zip(0i32..).map(|(&item, age)| (item, DECAY.powi(age)))
}

/// Adds up rows of co-occurrence; its memory is used again for the next history.
pub(crate) struct Sums<'a> {
    neighbours: &'a Neighbours,
    /// Zero between calls, `[N]`.
    dense: Vec<f64>,
    touched: Vec<ItemIndex>,
}

impl<'a> Sums<'a> {
    pub(crate) fn new(neighbours: &'a Neighbours) -> Self {
        Self { neighbours, dense: vec![0.0; neighbours.damping.len()], touched: Vec::new() }
    }

    /// The items that occur near recent ones, ascending, with their scores.
    pub(crate) fn of(&mut self, history: &[ItemIndex]) -> Vec<(ItemIndex, f64)> {
        for (near, weight) in recent(history) {
            for (item, count) in self.neighbours.counts.row(near) {
                let sum = &mut self.dense[item as usize];
                if *sum == 0.0 {
                    self.touched.push(item);
                }
                *sum += weight * count;
            }
        }
        self.touched.sort_unstable();
        let damping = &self.neighbours.damping;
        self.touched
            .drain(..)
            .map(|item| (item, std::mem::take(&mut self.dense[item as usize]) * damping[item as usize]))
            .collect()
    }
}
