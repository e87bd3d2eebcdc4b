//! Neighbours: co-occurrence within five steps with the most recent items of the history.
//!
//! A pair counts 1/distance forwards and half of that backwards; a column is divided by popularity^0.3, so that what
//! stands beside everything counts for less; the last ten items of the history weigh 0.6^age. Popularity breaks ties.

use sidereal_core::ItemIndex;

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
    let mut sums = Sums::new(statistics);
    for (history, scores) in histories.iter().zip(scores.chunks_exact_mut(statistics.items())) {
        scores.iter_mut().zip(&statistics.tie_break).for_each(|(score, &tie)| *score = tie as f32);
        for (item, sum) in sums.of(history) {
            scores[item as usize] = (sum + statistics.tie_break[item as usize]) as f32;
        }
    }
}

/// The factor of a column whose item occurs `popularity` times.
pub(super) fn damping(popularity: u32) -> f64 {
    f64::from(popularity.max(1)).powf(-DAMPING)
}

/// The most recent items and their weights, newest first.
pub(crate) fn recent(history: &[ItemIndex]) -> impl Iterator<Item = (ItemIndex, f64)> {
    history.iter().rev().take(RECENT).zip(0i32..).map(|(&item, age)| (item, DECAY.powi(age)))
}

/// Adds up rows of co-occurrence; its memory is used again for the next history.
pub(crate) struct Sums<'a> {
    statistics: &'a Statistics,
    /// Zero between calls, `[N]`.
    dense: Vec<f64>,
    touched: Vec<ItemIndex>,
}

impl<'a> Sums<'a> {
    pub(crate) fn new(statistics: &'a Statistics) -> Self {
        Self { statistics, dense: vec![0.0; statistics.items()], touched: Vec::new() }
    }

    /// The items that occur near recent ones, ascending, with their scores.
    pub(crate) fn of(&mut self, history: &[ItemIndex]) -> Vec<(ItemIndex, f64)> {
        for (near, weight) in recent(history) {
            for (item, count) in self.statistics.neighbours.row(near) {
                let sum = &mut self.dense[item as usize];
                if *sum == 0.0 {
                    self.touched.push(item);
                }
                *sum += weight * count;
            }
        }
        self.touched.sort_unstable();
        let damping = &self.statistics.damping;
        self.touched
            .drain(..)
            .map(|item| (item, std::mem::take(&mut self.dense[item as usize]) * damping[item as usize]))
            .collect()
    }
}
