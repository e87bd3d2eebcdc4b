//! The fit: a listwise softmax over each user's candidates, by Newton's method.
//!
//! With x the features of a candidate (and, below them, the features times p), the loss of a user is
//! log(sum over candidates of exp(w x)) - w x(target), summed over users, plus penalty/2 |w|^2. It is convex, its
//! gradient is E[x] - x(target) and its Hessian Cov[x], both under the softmax: few numbers, so Newton's method ends
//! in a handful of rounds. Sums run over users in order, in f64, so the weights do not depend on threads.

use rayon::prelude::*;
use sidereal_core::{Error as CoreError, ItemIndex};

use super::candidates::Found;
use super::features::{FEATURES, popularity};
use super::knowledge::Knowledge;
use super::{Fusion, FusionConfig, Weight};
use crate::Result;

/// Rounds at most; a handful is enough.
const ROUNDS: usize = 50;
/// Users whose sums are made on one thread. A constant, so that sums are added in one order.
const BLOCK: usize = 64;

/// The candidates of all users whose target is among them.
pub(super) struct Lists<'a> {
    config: FusionConfig,
    knowledge: &'a Knowledge,
    lists: Vec<List>,
}

struct List {
    /// `[C, F]`
    features: Vec<f32>,
    /// p of every candidate, `[C]`.
    popularity: Vec<f32>,
    target: usize,
}

/// Loss, gradient `[P]` and Hessian `[P, P]`.
struct Sums {
    loss: f64,
    gradient: Vec<f64>,
    hessian: Vec<f64>,
}

impl<'a> Lists<'a> {
    pub(super) fn new(config: FusionConfig, knowledge: &'a Knowledge) -> Self {
        Self { config, knowledge, lists: Vec::new() }
    }

    /// Adds a user; one whose target is no candidate says nothing about the order of candidates.
    pub(super) fn add(&mut self, found: &Found, target: ItemIndex) {
        let Ok(target) = found.items.binary_search(&target) else { return };
        let popularity = found.items.iter().map(|&item| popularity(self.knowledge, item) as f32).collect();
        self.lists.push(List { features: found.features.clone(), popularity, target });
    }

    pub(super) fn fit(self, users: usize) -> Result<Fusion> {
        if self.lists.is_empty() {
            let problem = format!("of {users} validation targets none is among its candidates");
            let mend = "give more validation users, or raise fusion.candidates";
            return Err(CoreError::input("fusion", problem, mend).into());
        }
        let count = 2 * FEATURES.len();
        let used: Vec<bool> = (0..count).map(|at| self.used(at)).collect();
        let mut weights = vec![0.0; count];
        let mut now = self.sums(&weights, &used);
        let first = now.loss;
        for _ in 0..ROUNDS {
            let step = newton_step(&now, count);
            let slope: f64 = step.iter().zip(&now.gradient).map(|(s, g)| s * g).sum();
            // Halved until the loss falls: far from the end the quadratic model promises too much.
            let mut length = 1.0;
            let next = loop {
                let moved: Vec<f64> = weights.iter().zip(&step).map(|(w, s)| w - length * s).collect();
                let sums = self.sums(&moved, &used);
                if sums.loss <= now.loss - 1e-4 * length * slope || length < 1e-6 {
                    weights = moved;
                    break sums;
                }
                length /= 2.0;
            };
            let gain = now.loss - next.loss;
            now = next;
            if gain.abs() < 1e-9 * first.abs().max(1.0) {
                break;
            }
        }
        if let Some(weight) = weights.iter().find(|weight| !weight.is_finite()) {
            let problem = format!("a weight became {weight}: the generator's scores are no usable numbers");
            return Err(CoreError::input("fusion", problem, "train the generator again").into());
        }
        let (plain, by_popularity) = weights.split_at(FEATURES.len());
        let each = FEATURES.iter().zip(plain.iter().zip(by_popularity));
        let reached = self.lists.len();
        Ok(Fusion {
            config: self.config,
            weights: each
                .map(|(feature, (&weight, &by_popularity))| Weight {
                    feature: feature.name.to_owned(),
                    weight,
                    by_popularity,
                })
                .collect(),
            reached,
            users,
            loss: [first / reached as f64, now.loss / reached as f64],
        })
    }

    fn used(&self, at: usize) -> bool {
        let feature = at % FEATURES.len();
        (at < FEATURES.len() || self.config.by_popularity) && !self.config.without.has(feature)
    }

    fn sums(&self, weights: &[f64], used: &[bool]) -> Sums {
        let blocks: Vec<Sums> = self.lists.par_chunks(BLOCK).map(|lists| block_sums(lists, weights)).collect();
        let count = weights.len();
        let mut all = Sums { loss: 0.0, gradient: vec![0.0; count], hessian: vec![0.0; count * count] };
        for block in &blocks {
            all.loss += block.loss;
            all.gradient.iter_mut().zip(&block.gradient).for_each(|(sum, part)| *sum += part);
            all.hessian.iter_mut().zip(&block.hessian).for_each(|(sum, part)| *sum += part);
        }
        for at in 0..count {
            all.loss += self.config.penalty / 2.0 * weights[at] * weights[at];
            all.gradient[at] += self.config.penalty * weights[at];
            all.hessian[at * count + at] += self.config.penalty;
            if !used[at] {
                all.gradient[at] = 0.0;
                for other in 0..count {
                    (all.hessian[at * count + other], all.hessian[other * count + at]) = (0.0, 0.0);
                }
                all.hessian[at * count + at] = 1.0;
            }
        }
        all
    }
}

fn block_sums(lists: &[List], weights: &[f64]) -> Sums {
    let (features, count) = (FEATURES.len(), weights.len());
    let mut sums = Sums { loss: 0.0, gradient: vec![0.0; count], hessian: vec![0.0; count * count] };
    let mut x = vec![0.0; count];
    let (mut mean, mut square) = (vec![0.0; count], vec![0.0; count * count]);
    for list in lists {
        let row = |at: usize, x: &mut [f64]| {
            let p = f64::from(list.popularity[at]);
            for (j, &feature) in list.features[at * features..(at + 1) * features].iter().enumerate() {
                x[j] = f64::from(feature);
                x[features + j] = f64::from(feature) * p;
            }
        };
        let mut scores = Vec::with_capacity(list.popularity.len());
        for at in 0..list.popularity.len() {
            row(at, &mut x);
            scores.push(x.iter().zip(weights).map(|(x, w)| x * w).sum::<f64>());
        }
        let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = scores.iter().map(|score| (score - most).exp()).sum();
        sums.loss += most + total.ln() - scores[list.target];
        mean.fill(0.0);
        square.fill(0.0);
        for (at, score) in scores.iter().enumerate() {
            let share = (score - most).exp() / total;
            row(at, &mut x);
            for i in 0..count {
                mean[i] += share * x[i];
                let weighted = share * x[i];
                if weighted != 0.0 {
                    for j in 0..=i {
                        square[i * count + j] += weighted * x[j];
                    }
                }
            }
        }
        row(list.target, &mut x);
        for i in 0..count {
            sums.gradient[i] += mean[i] - x[i];
            for j in 0..=i {
                let covariance = square[i * count + j] - mean[i] * mean[j];
                sums.hessian[i * count + j] += covariance;
                if i != j {
                    sums.hessian[j * count + i] += covariance;
                }
            }
        }
    }
    sums
}

/// The solution of Hessian x step = gradient, by Cholesky's decomposition; the penalty keeps the Hessian positive.
fn newton_step(sums: &Sums, count: usize) -> Vec<f64> {
    let mut lower = sums.hessian.clone();
    for i in 0..count {
        for j in 0..=i {
            let known: f64 = (0..j).map(|k| lower[i * count + k] * lower[j * count + k]).sum();
            let rest = lower[i * count + j] - known;
            lower[i * count + j] = if i == j { rest.max(1e-12).sqrt() } else { rest / lower[j * count + j] };
        }
    }
    let mut step = sums.gradient.clone();
    for i in 0..count {
        let known: f64 = (0..i).map(|k| lower[i * count + k] * step[k]).sum();
        step[i] = (step[i] - known) / lower[i * count + i];
    }
    for i in (0..count).rev() {
        let known: f64 = (i + 1..count).map(|k| lower[k * count + i] * step[k]).sum();
        step[i] = (step[i] - known) / lower[i * count + i];
    }
    step
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn lists(seed: u64, users: usize) -> Vec<List> {
        let mut rng = sidereal_nn::rng::Rng::new(seed, "lists");
        (0..users)
            .map(|_| {
                let candidates = 3 + rng.below(6);
                List {
                    features: (0..candidates * FEATURES.len()).map(|_| rng.normal() as f32).collect(),
                    popularity: (0..candidates).map(|_| rng.normal() as f32).collect(),
                    target: rng.below(candidates),
                }
            })
            .collect()
    }

    #[test]
    fn gradient_and_hessian_follow_finite_differences_of_the_loss() {
        let lists = lists(3, 9);
        let count = 2 * FEATURES.len();
        let weights: Vec<f64> = (0..count).map(|at| (at as f64 * 0.7).sin() * 0.3).collect();
        let sums = block_sums(&lists, &weights);
        for at in 0..count {
            let moved = |by: f64| {
                let mut weights = weights.clone();
                weights[at] += by;
                block_sums(&lists, &weights)
            };
            let (up, down) = (moved(1e-5), moved(-1e-5));
            assert!(((up.loss - down.loss) / 2e-5 - sums.gradient[at]).abs() < 1e-5);
            for other in 0..count {
                let measured = (up.gradient[other] - down.gradient[other]) / 2e-5;
                assert!((measured - sums.hessian[at * count + other]).abs() < 1e-4);
            }
        }
    }

    #[test]
    fn a_step_solves_its_equations() {
        let sums = block_sums(&lists(5, 300), &vec![0.0; 2 * FEATURES.len()]);
        let count = 2 * FEATURES.len();
        let step = newton_step(&sums, count);
        for i in 0..count {
            let product: f64 = (0..count).map(|j| sums.hessian[i * count + j] * step[j]).sum();
            assert!((product - sums.gradient[i]).abs() < 1e-8, "{product} {}", sums.gradient[i]);
        }
    }
}
