//! The fit: a listwise softmax over each user's candidates, by Newton's method.
//!
//! With x the terms of a candidate (its standardised features, and products of two of them), the loss of a user is
//! log(sum over candidates of exp(w x)) - w x(target), summed over users, plus half of each term's penalty times its
//! squared weight. It is convex, its gradient is E[x] - x(target) and its Hessian Cov[x], both under the softmax: few
//! numbers, so Newton's method ends in a handful of rounds. Sums run over users in order, in f64, so the weights do not
//! depend on threads.
//!
//! Which terms there are is the form; where the recipe leaves it open, each form is fitted on one half of the users and
//! judged on the other, and the one that does best is fitted on all of them.

use rayon::prelude::*;
use sidereal_core::metrics::Metric;
use sidereal_core::{Error as CoreError, ItemIndex};

use super::candidates::Found;
use super::features::FEATURES;
use super::terms::{Form, Scale, Term, standardised};
use super::{Fusion, FusionConfig, HeldOut, Weight};
use crate::{Result, newton};

/// Rounds at most; a handful is enough.
const ROUNDS: usize = 50;
/// The fit ends when a step promises less than this share of the first loss.
const PRECISION: f64 = 1e-6;
/// Users whose sums are made on one thread. A constant, so that sums are added in one order.
const BLOCK: usize = 64;

/// The candidates of all users whose target is among them.
pub(super) struct Lists {
    config: FusionConfig,
    lists: Vec<List>,
}

struct List {
    /// `[C, F]`; standardised before the fit.
    features: Vec<f32>,
    target: usize,
}

/// Loss, gradient `[P]` and Hessian `[P, P]`.
struct Sums {
    loss: f64,
    gradient: Vec<f64>,
    hessian: Vec<f64>,
}

/// Weights of a form's terms.
struct Fitted {
    weights: Vec<f64>,
    /// Mean over users before and after, penalties left out of the first.
    loss: [f64; 2],
}

impl Lists {
    pub(super) fn new(config: FusionConfig) -> Self {
        Self { config, lists: Vec::new() }
    }

    /// Adds a user; one whose target is no candidate says nothing about the order of candidates.
    pub(super) fn add(&mut self, found: Found, target: ItemIndex) {
        if let Ok(target) = found.items.binary_search(&target) {
            self.lists.push(List { features: found.features, target });
        }
    }

    pub(super) fn fit(mut self, users: usize) -> Result<Fusion> {
        if self.lists.is_empty() {
            let problem = format!("of {users} validation targets none is among its candidates");
            let mend = "give more validation users, or raise fusion.candidates";
            return Err(CoreError::input("fusion", problem, mend).into());
        }
        let scales = Scale::all(self.lists.iter().map(|list| list.features.as_slice()));
        self.lists.par_iter_mut().for_each(|list| standardised(&mut list.features, &scales));
        let (form, held_out) = match self.config.form {
            Some(form) => (form, Vec::new()),
            None => self.best_form(users)?,
        };
        let all: Vec<&List> = self.lists.iter().collect();
        let terms = form.terms(self.config.without);
        let Fitted { weights, loss } = self.fitted(&all, &terms)?;
        let name = |feature: usize| FEATURES[feature].name.to_owned();
        let weight = |(term, weight): (&Term, f64)| Weight {
            features: [Some(term.0), term.1].into_iter().flatten().map(name).collect(),
            weight,
        };
        Ok(Fusion {
            config: self.config,
            form,
            scales,
            weights: terms.iter().zip(weights).map(weight).collect(),
            reached: self.lists.len(),
            users,
            loss,
            held_out,
        })
    }

    /// Fits every form on each half of the users and judges it on the other.
    fn best_form(&self, users: usize) -> Result<(Form, Vec<HeldOut>)> {
        let half = |half: usize| -> Vec<&List> { self.lists.iter().skip(half).step_by(2).collect() };
        let halves = [half(0), half(1)];
        let mut held_out = Vec::new();
        for form in Form::ALL {
            let terms = form.terms(self.config.without);
            let (mut loss, mut ndcg) = (0.0, 0.0);
            for (fitted, asked) in [(&halves[0], &halves[1]), (&halves[1], &halves[0])] {
                let weights = self.fitted(fitted, &terms)?.weights;
                let judged: Vec<(f64, f64)> = asked.par_iter().map(|list| list.judged(&terms, &weights)).collect();
                loss += judged.iter().map(|each| each.0).sum::<f64>() / self.lists.len() as f64;
                ndcg += judged.iter().map(|each| each.1).sum::<f64>() / users as f64;
            }
            held_out.push(HeldOut { form, loss, ndcg_10: ndcg });
        }
        let best = held_out.iter().max_by(|a, b| a.ndcg_10.total_cmp(&b.ndcg_10)).map_or(Form::Plain, |best| best.form);
        Ok((best, held_out))
    }

    /// # Errors
    /// Scores that are no numbers.
    fn fitted(&self, lists: &[&List], terms: &[Term]) -> Result<Fitted> {
        let mut weights = vec![0.0; terms.len()];
        let mut now = self.sums(lists, terms, &weights);
        let first = now.loss;
        for _ in 0..ROUNDS {
            let step = newton::step(&now.hessian, &now.gradient);
            let slope: f64 = step.iter().zip(&now.gradient).map(|(s, g)| s * g).sum();
            if !slope.is_finite() {
                let problem = "its candidates' scores are no usable numbers";
                return Err(CoreError::input("fusion", problem, "train the generator again").into());
            }
            if slope < PRECISION * first.abs().max(1.0) {
                break;
            }
            // Halved until the loss falls: far from the end the quadratic model promises too much.
            let mut length = 1.0;
            let next = loop {
                let moved: Vec<f64> = weights.iter().zip(&step).map(|(w, s)| w - length * s).collect();
                let sums = self.sums(lists, terms, &moved);
                if sums.loss <= now.loss - 1e-4 * length * slope || length < 1e-6 {
                    weights = moved;
                    break sums;
                }
                length /= 2.0;
            };
            now = next;
            if length < 1e-6 {
                break;
            }
        }
        let users = lists.len().max(1) as f64;
        Ok(Fitted { weights, loss: [first / users, now.loss / users] })
    }

    fn sums(&self, lists: &[&List], terms: &[Term], weights: &[f64]) -> Sums {
        let blocks: Vec<Sums> = lists.par_chunks(BLOCK).map(|lists| block_sums(lists, terms, weights)).collect();
        let count = terms.len();
        let mut all = Sums { loss: 0.0, gradient: vec![0.0; count], hessian: vec![0.0; count * count] };
        for block in &blocks {
            all.loss += block.loss;
            all.gradient.iter_mut().zip(&block.gradient).for_each(|(sum, part)| *sum += part);
            all.hessian.iter_mut().zip(&block.hessian).for_each(|(sum, part)| *sum += part);
        }
        for (at, term) in terms.iter().enumerate() {
            let penalty = if term.1.is_some() { self.config.product_penalty } else { self.config.penalty };
            all.loss += penalty / 2.0 * weights[at] * weights[at];
            all.gradient[at] += penalty * weights[at];
            all.hessian[at * count + at] += penalty;
        }
        all
    }
}

impl List {
    fn scores(&self, terms: &[Term], weights: &[f64]) -> Vec<f64> {
        let score =
            |features: &[f32]| -> f64 { terms.iter().zip(weights).map(|(term, w)| w * term.of(features)).sum() };
        self.features.chunks_exact(FEATURES.len()).map(score).collect()
    }

    /// Loss and NDCG@10 of the target, ties counted against it.
    fn judged(&self, terms: &[Term], weights: &[f64]) -> (f64, f64) {
        let scores = self.scores(terms, weights);
        let target = scores[self.target];
        let rank = scores.iter().filter(|&&score| score >= target).count() as u32 - 1;
        let (most, total) = softmax(&scores);
        (most + total.ln() - target, Metric::Ndcg(10).of_rank(Some(rank)))
    }
}

/// The largest score, and the sum of exponents of what each is above it.
fn softmax(scores: &[f64]) -> (f64, f64) {
    let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    (most, scores.iter().map(|score| (score - most).exp()).sum())
}

/// Candidates with less of the probability than this are left out of the Hessian, not of the gradient.
const NEGLIGIBLE: f64 = 1e-6;

fn block_sums(lists: &[&List], terms: &[Term], weights: &[f64]) -> Sums {
    let count = terms.len();
    let mut sums = Sums { loss: 0.0, gradient: vec![0.0; count], hessian: vec![0.0; count * count] };
    let (mut rows, mut mean, mut target) = (Vec::new(), vec![0.0; count], vec![0.0; count]);
    for list in lists {
        let scores = list.scores(terms, weights);
        let (most, total) = softmax(&scores);
        sums.loss += most + total.ln() - scores[list.target];
        // Terms times the root of the probability: their products are then weighted by it.
        rows.clear();
        mean.fill(0.0);
        for (features, score) in list.features.chunks_exact(FEATURES.len()).zip(&scores) {
            let share = (score - most).exp() / total;
            let values = terms.iter().map(|term| term.of(features));
            if share < NEGLIGIBLE {
                values.zip(&mut mean).for_each(|(value, mean)| *mean += share * value);
                continue;
            }
            let root = share.sqrt();
            for (value, mean) in values.zip(&mut mean) {
                *mean += share * value;
                rows.push(root * value);
            }
        }
        let features = &list.features[list.target * FEATURES.len()..][..FEATURES.len()];
        terms.iter().zip(&mut target).for_each(|(term, value)| *value = term.of(features));
        add_squares(&rows, count, &mut sums.hessian);
        for i in 0..count {
            sums.gradient[i] += mean[i] - target[i];
            for j in 0..count {
                sums.hessian[i * count + j] -= mean[i] * mean[j];
            }
        }
    }
    sums
}

/// `out += rows^T rows` on the calling thread.
///
/// # Shapes
/// `rows`: `[C, P]`, `out`: `[P, P]`
fn add_squares(rows: &[f64], count: usize, out: &mut [f64]) {
    let candidates = rows.len().checked_div(count).unwrap_or(0);
    assert_eq!((rows.len(), out.len()), (candidates * count, count * count), "sizes of a product");
    // SAFETY: the assertion above says that with these strides every element lies inside its slice, and `out` is a
    // unique borrow, so it overlaps neither input.
    unsafe {
        gemm::gemm(
            count,
            count,
            candidates,
            out.as_mut_ptr(),
            1,
            count as isize,
            true,
            rows.as_ptr(),
            count as isize,
            1,
            rows.as_ptr(),
            1,
            count as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::fusion::Without;

    fn lists(seed: u64, users: usize) -> Vec<List> {
        let mut rng = sidereal_nn::rng::Rng::new(seed, "lists");
        (0..users)
            .map(|_| {
                let candidates = 3 + rng.below(6);
                let features = (0..candidates * FEATURES.len()).map(|_| rng.normal() as f32).collect();
                List { features, target: rng.below(candidates) }
            })
            .collect()
    }

    #[test]
    fn gradient_and_hessian_follow_finite_differences_of_the_loss() {
        let lists = lists(3, 9);
        let lists: Vec<&List> = lists.iter().collect();
        let terms = Form::Pairs.terms(Without::default());
        let count = terms.len();
        let weights: Vec<f64> = (0..count).map(|at| (at as f64 * 0.7).sin() * 0.1).collect();
        let sums = block_sums(&lists, &terms, &weights);
        for at in (0..count).step_by(5) {
            let moved = |by: f64| {
                let mut weights = weights.clone();
                weights[at] += by;
                block_sums(&lists, &terms, &weights)
            };
            let (up, down) = (moved(1e-5), moved(-1e-5));
            assert!(((up.loss - down.loss) / 2e-5 - sums.gradient[at]).abs() < 1e-4);
            for other in 0..count {
                let measured = (up.gradient[other] - down.gradient[other]) / 2e-5;
                assert!((measured - sums.hessian[at * count + other]).abs() < 1e-3);
            }
        }
    }

    #[test]
    fn a_step_solves_its_equations() {
        let lists = lists(5, 300);
        let lists: Vec<&List> = lists.iter().collect();
        let terms = Form::ByPopularity.terms(Without::default());
        let count = terms.len();
        let sums = block_sums(&lists, &terms, &vec![0.0; count]);
        let step = newton::step(&sums.hessian, &sums.gradient);
        for i in 0..count {
            let product: f64 = (0..count).map(|j| sums.hessian[i * count + j] * step[j]).sum();
            assert!((product - sums.gradient[i]).abs() < 1e-7, "{product} {}", sums.gradient[i]);
        }
    }
}
