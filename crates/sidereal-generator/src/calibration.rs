//! How likely an answer's items are to be the next one: a score as a probability that means what it says.
//!
//! Scores are log-probabilities of a model that is surer than it should be, or of a search that has seen only part of the
//! catalog. A logistic regression (Platt, "Probabilistic outputs for support vector machines", 1999) maps them to how
//! often such items were the next one for users that were held out. It looks at an item's score, how far that is behind
//! the answer's best, how far the best is ahead of the next, and how long the history is. The last two are the same for
//! all items of an answer and the weights of the first two are never negative, so within an answer a better score never
//! gives less confidence.

use serde::{Deserialize, Serialize};
use sidereal_core::{Error as CoreError, ItemIndex};

use crate::ranking::ScoredItem;
use crate::{Result, newton};

/// What the regression looks at, in the order of its weights.
pub const FEATURES: [&str; 4] = ["score", "behind the best", "lead of the best", "log history"];
/// Features whose weights must not be negative: the first ones.
const RISING: usize = 2;
/// Half the penalty on squared weights, in samples: what is known before anything is seen.
const PENALTY: f64 = 1.0;
/// The same of the constant, which is all but free.
const PENALTY_OF_BIAS: f64 = 1e-6;
/// Rows of a table of reliability.
const BINS: usize = 10;

/// An answer and what came next.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    /// Scores of the answer's items, best first.
    pub scores: Vec<f32>,
    /// H, the items of the history.
    pub history: usize,
    /// The place of the item that came next, where it is in the answer.
    pub hit: Option<usize>,
}

/// A fitted map from scores to probabilities.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibrator {
    /// By [`FEATURES`], after `means` and `scales`.
    weights: [f64; 4],
    bias: f64,
    means: [f64; 4],
    scales: [f64; 4],
}

/// How well confidences of answers agree with what came next.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reliability {
    /// Users.
    pub answers: usize,
    /// Items of their answers.
    pub items: usize,
    /// Answers that hold the item that came next.
    pub hits: usize,
    /// Mean squared difference between a confidence and what came (Brier, 1950).
    pub brier: f64,
    /// The same of the one confidence that all items would have if nothing but the share of hits were known.
    pub brier_of_share: f64,
    /// Expected calibration error: the mean difference between confidence and share of hits in the rows of `table`, by
    /// items (Naeini et al., 2015).
    pub ece: f64,
    /// Items by confidence, in rows of as many items each.
    pub table: Vec<ReliabilityRow>,
}

/// Items of about the same confidence.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReliabilityRow {
    /// The least confidence.
    pub from: f64,
    /// The greatest.
    pub to: f64,
    /// How many items.
    pub items: usize,
    /// Their mean confidence.
    pub confidence: f64,
    /// The share of them that came next.
    pub hits: f64,
}

/// How sure answers must be.
#[derive(Debug, Clone, PartialEq)]
pub struct Sureness {
    calibrator: Calibrator,
    least: f64,
}

impl Sureness {
    /// Items of less confidence than `least` are not answered; without it all are, and their confidence is told.
    ///
    /// # Errors
    /// A least confidence that is no probability.
    pub fn new(calibrator: Calibrator, least: Option<f64>) -> Result<Self> {
        let least = least.unwrap_or(0.0);
        if !(0.0..=1.0).contains(&least) {
            let problem = format!("{least} is no probability");
            return Err(CoreError::config("min_confidence", problem, "give a number from 0 to 1").into());
        }
        Ok(Self { calibrator, least })
    }

    /// The items of a ranking that are sure enough.
    pub fn judge<'a>(&self, ranked: &'a [ScoredItem], history: usize) -> Judged<'a> {
        let scores: Vec<f32> = ranked.iter().map(|scored| scored.score).collect();
        let confidences = self.calibrator.confidences(&scores, history);
        // Confidence never rises down a ranking.
        let sure = confidences.partition_point(|&confidence| confidence >= self.least);
        let best = confidences.first().filter(|_| sure == 0);
        let reason =
            best.map(|best| format!("no item is likely enough: the best has confidence {best:.4}, not {}", self.least));
        Judged { items: &ranked[..sure], confidences, reason }
    }
}

/// What [`Sureness`] leaves of a ranking.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged<'a> {
    /// The items that are sure enough, best first.
    pub items: &'a [ScoredItem],
    /// Of each item of the ranking, also of those that are not.
    confidences: Vec<f64>,
    /// Where the ranking has items but none that is sure enough: how sure the best is.
    pub reason: Option<String>,
}

impl Judged<'_> {
    /// How sure an item is that was left.
    pub fn confidence(&self, item: ItemIndex) -> Option<f64> {
        self.items.iter().zip(&self.confidences).find(|(scored, _)| scored.item == item).map(|(_, sure)| *sure)
    }
}

/// What the regression sees of each item of an answer.
fn features(scores: &[f32], history: usize) -> impl Iterator<Item = [f64; 4]> + '_ {
    let at = |place: usize| scores.get(place).map(|&score| f64::from(score));
    let best = at(0).unwrap_or(0.0);
    let lead = best - at(1).unwrap_or(best);
    scores.iter().map(move |&score| [f64::from(score), f64::from(score) - best, lead, (history as f64).ln_1p()])
}

fn sigmoid(z: f64) -> f64 {
    1.0 / (1.0 + (-z).exp())
}

/// A feature vector after means and scales, a constant behind it, and whether the item came next.
struct Sample {
    x: [f64; 5],
    hit: bool,
}

impl Calibrator {
    /// Fits the map to answers of users that nothing else was fitted on.
    ///
    /// # Errors
    /// No answer holds what came next; scores that are not finite.
    pub fn fit(observed: &[Observed]) -> Result<Self> {
        let mut rows: Vec<([f64; 4], bool)> = Vec::new();
        for answer in observed {
            let seen = features(&answer.scores, answer.history).enumerate();
            rows.extend(seen.map(|(place, x)| (x, answer.hit == Some(place))));
        }
        if rows.iter().any(|(x, _)| x.iter().any(|value| !value.is_finite())) {
            let mend = "the weights are damaged or the training diverged: train the generator again";
            return Err(CoreError::input("calibration", "a score is no finite number", mend).into());
        }
        if !rows.iter().any(|(_, hit)| *hit) {
            let problem = format!("none of {} answers holds the item that came next", observed.len());
            let mend = "look at more items of each answer, give more users, or train the generator further";
            return Err(CoreError::input("calibration", problem, mend).into());
        }
        let count = rows.len() as f64;
        let means: [f64; 4] = std::array::from_fn(|f| rows.iter().map(|(x, _)| x[f]).sum::<f64>() / count);
        let scales: [f64; 4] = std::array::from_fn(|f| {
            let variance = rows.iter().map(|(x, _)| (x[f] - means[f]).powi(2)).sum::<f64>() / count;
            // A feature that is always the same says nothing, whatever its scale.
            if variance > 1e-12 { variance.sqrt() } else { 1.0 }
        });
        let standard = |x: &[f64; 4], f: usize| if f < 4 { (x[f] - means[f]) / scales[f] } else { 1.0 };
        let samples: Vec<Sample> =
            rows.iter().map(|(x, hit)| Sample { x: std::array::from_fn(|f| standard(x, f)), hit: *hit }).collect();
        // The loss is convex: the best weights under the condition are the best with some of them held at 0.
        let mut best: Option<(f64, [f64; 5])> = None;
        for held in 0..1usize << RISING {
            let (loss, weights) = fitted(&samples, |f| f >= RISING || held >> f & 1 == 0);
            let allowed = weights[..RISING].iter().all(|weight| *weight >= 0.0);
            if allowed && best.is_none_or(|(other, _)| loss < other) {
                best = Some((loss, weights));
            }
        }
        // With both held at 0 the condition holds, so there is one.
        let (_, [a, b, c, d, bias]) = best.unwrap_or_default();
        Ok(Self { weights: [a, b, c, d], bias, means, scales })
    }

    /// Refuses numbers that no fit gives.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn check(&self) -> std::result::Result<(), String> {
        let all = [self.weights, self.means, self.scales].concat();
        if !all.iter().chain([&self.bias]).all(|value| value.is_finite()) || self.scales.iter().any(|s| *s <= 0.0) {
            return Err("it holds numbers that no fit gives".to_owned());
        }
        match self.weights[..RISING].iter().position(|weight| *weight < 0.0) {
            Some(f) => Err(format!("the weight of {:?} is negative", FEATURES[f])),
            None => Ok(()),
        }
    }

    /// For each item of an answer the probability that it is the next one, none larger than those before.
    ///
    /// # Shapes
    /// `scores`, best first, and result: `[k]`
    pub fn confidences(&self, scores: &[f32], history: usize) -> Vec<f64> {
        let value = |x: [f64; 4]| -> f64 {
            (0..4).map(|f| self.weights[f] * (x[f] - self.means[f]) / self.scales[f]).sum::<f64>() + self.bias
        };
        features(scores, history).map(|x| sigmoid(value(x))).collect()
    }

    /// How well it does on answers.
    pub fn reliability(&self, observed: &[Observed]) -> Reliability {
        let mut all: Vec<(f64, bool)> = Vec::new();
        for answer in observed {
            let confidences = self.confidences(&answer.scores, answer.history).into_iter().enumerate();
            all.extend(confidences.map(|(place, confidence)| (confidence, answer.hit == Some(place))));
        }
        all.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mean = |sum: f64, count: usize| if count == 0 { 0.0 } else { sum / count as f64 };
        let hit = |hit: bool| f64::from(u8::from(hit));
        let brier_of = |confidence: &dyn Fn(f64) -> f64| {
            mean(all.iter().map(|&(c, h)| (confidence(c) - hit(h)).powi(2)).sum(), all.len())
        };
        let hits = all.iter().filter(|(_, hit)| *hit).count();
        let share = mean(hits as f64, all.len());
        let row = |items: &[(f64, bool)]| ReliabilityRow {
            from: items.first().map_or(0.0, |item| item.0),
            to: items.last().map_or(0.0, |item| item.0),
            items: items.len(),
            confidence: mean(items.iter().map(|item| item.0).sum(), items.len()),
            hits: mean(items.iter().map(|item| hit(item.1)).sum(), items.len()),
        };
        let bound = |bin: usize| all.len() * bin / BINS;
        let rows = (0..BINS).map(|bin| row(&all[bound(bin)..bound(bin + 1)])).filter(|row| row.items > 0);
        let table: Vec<ReliabilityRow> = rows.collect();
        let off = |row: &ReliabilityRow| (row.confidence - row.hits).abs() * row.items as f64;
        Reliability {
            answers: observed.len(),
            items: all.len(),
            hits,
            brier: brier_of(&|confidence| confidence),
            brier_of_share: brier_of(&|_| share),
            ece: mean(table.iter().map(off).sum(), all.len()),
            table,
        }
    }
}

/// The weights of least loss among those whose features are `free`, by Newton's method: loss and weights.
fn fitted(samples: &[Sample], free: impl Fn(usize) -> bool) -> (f64, [f64; 5]) {
    let places: Vec<usize> = (0..5).filter(|&f| free(f)).collect();
    let penalty = |f: usize| if f < 4 { PENALTY } else { PENALTY_OF_BIAS };
    let value = |weights: &[f64; 5], x: &[f64; 5]| -> f64 { weights.iter().zip(x).map(|(w, x)| w * x).sum() };
    let loss = |weights: &[f64; 5]| -> f64 {
        let of_sample = |sample: &Sample| {
            let z = value(weights, &sample.x);
            // ln(1 + e^z) without overflow, less z where the item came next.
            z.max(0.0) + (-z.abs()).exp().ln_1p() - if sample.hit { z } else { 0.0 }
        };
        let squares: f64 = (0..5).map(|f| penalty(f) * weights[f] * weights[f]).sum();
        samples.iter().map(of_sample).sum::<f64>() + squares / 2.0
    };
    let mut weights = [0.0; 5];
    let mut now = loss(&weights);
    for _ in 0..100 {
        let mut gradient: Vec<f64> = places.iter().map(|&f| penalty(f) * weights[f]).collect();
        let mut hessian = vec![0.0; places.len() * places.len()];
        for (at, &f) in places.iter().enumerate() {
            hessian[at * places.len() + at] = penalty(f);
        }
        for sample in samples {
            let p = sigmoid(value(&weights, &sample.x));
            let (error, slope) = (p - if sample.hit { 1.0 } else { 0.0 }, p * (1.0 - p));
            for (at, &f) in places.iter().enumerate() {
                gradient[at] += error * sample.x[f];
                for (other, &g) in places.iter().enumerate() {
                    hessian[at * places.len() + other] += slope * sample.x[f] * sample.x[g];
                }
            }
        }
        let step = newton::step(&hessian, &gradient);
        let moved = |by: f64| {
            let mut moved = weights;
            places.iter().zip(&step).for_each(|(&f, step)| moved[f] -= by * step);
            moved
        };
        let tries = (0..30).map(|halvings| moved(0.5f64.powi(halvings)));
        let Some((next, at)) = tries.map(|weights| (loss(&weights), weights)).find(|(next, _)| *next < now) else {
            break;
        };
        let gained = now - next;
        (now, weights) = (next, at);
        if gained < 1e-10 * now.abs().max(1.0) {
            break;
        }
    }
    (now, weights)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use sidereal_nn::rng::Rng;

    use super::*;

    /// Answers of five items whose hits follow a known map of the score: p = sigmoid(steepness * score + 1).
    fn world(seed: u64, users: usize, steepness: f64) -> Vec<Observed> {
        let mut rng = Rng::new(seed, "calibration test");
        let mut answer = || {
            let mut scores: Vec<f32> = (0..5).map(|_| (rng.normal() * 1.5 - 3.0) as f32).collect();
            scores.sort_by(|a, b| b.total_cmp(a));
            let uniform = |rng: &mut Rng| rng.below(1 << 20) as f64 / f64::from(1 << 20);
            let hit = (0..5).find(|&place| {
                let p = sigmoid(steepness * f64::from(scores[place]) + 1.0);
                uniform(&mut rng) < p
            });
            Observed { scores, history: 3 + rng.below(10), hit }
        };
        (0..users).map(|_| answer()).collect()
    }

    #[test]
    fn confidences_come_near_the_shares_that_hit_and_beat_the_share_alone() {
        let calibrator = Calibrator::fit(&world(1, 4000, 1.0)).unwrap();
        calibrator.check().unwrap();
        let told = calibrator.reliability(&world(2, 4000, 1.0));
        assert!(told.ece < 0.02, "{told:?}");
        assert!(told.brier < 0.8 * told.brier_of_share, "{told:?}");
        assert_eq!(told.table.iter().map(|row| row.items).sum::<usize>(), 20_000);
        assert!(told.table.windows(2).all(|rows| rows[0].to <= rows[1].from));
        // Against the definition.
        let answers = world(2, 4000, 1.0);
        let squares = answers.iter().flat_map(|answer| {
            let confidences = calibrator.confidences(&answer.scores, answer.history).into_iter().enumerate();
            confidences.map(|(place, c)| (c - f64::from(u8::from(answer.hit == Some(place)))).powi(2))
        });
        assert!((squares.sum::<f64>() / 20_000.0 - told.brier).abs() < 1e-9);
    }

    #[test]
    fn confidence_never_rises_down_an_answer_even_where_worse_scores_hit_more_often() {
        for steepness in [1.0, 0.0, -1.0] {
            let calibrator = Calibrator::fit(&world(3, 1000, steepness)).unwrap();
            calibrator.check().unwrap();
            for answer in world(4, 200, 1.0) {
                let confidences = calibrator.confidences(&answer.scores, answer.history);
                assert!(confidences.iter().all(|c| (0.0..=1.0).contains(c)));
                assert!(confidences.windows(2).all(|pair| pair[0] >= pair[1]), "{confidences:?}");
            }
        }
    }

    #[test]
    fn no_small_change_of_the_weights_loses_less() {
        let observed = world(5, 500, 1.0);
        let calibrator = Calibrator::fit(&observed).unwrap();
        let loss = |calibrator: &Calibrator| -> f64 {
            let of_answer = |answer: &Observed| -> f64 {
                let confidences = calibrator.confidences(&answer.scores, answer.history).into_iter().enumerate();
                confidences.map(|(place, c)| -(if answer.hit == Some(place) { c } else { 1.0 - c }).ln()).sum()
            };
            let squares: f64 = calibrator.weights.iter().map(|w| w * w).sum();
            observed.iter().map(of_answer).sum::<f64>() + PENALTY * squares / 2.0
        };
        let best = loss(&calibrator);
        for (f, name) in FEATURES.iter().enumerate() {
            for by in [-0.01, 0.01] {
                let mut moved = calibrator.clone();
                moved.weights[f] += by;
                // A weight that is held at 0 may not go below.
                assert!(moved.check().is_err() || loss(&moved) > best, "{name} by {by}");
            }
        }
    }

    #[test]
    fn answers_without_a_hit_or_without_items_are_told() {
        let none: Vec<Observed> = world(6, 50, 1.0).into_iter().map(|a| Observed { hit: None, ..a }).collect();
        assert!(Calibrator::fit(&none).unwrap_err().to_string().contains("none of 50 answers"));
        assert!(Calibrator::fit(&[]).is_err());
        let broken = [Observed { scores: vec![f32::NAN], history: 1, hit: Some(0) }];
        assert!(Calibrator::fit(&broken).unwrap_err().to_string().contains("finite"));
        let one = Calibrator::fit(&[Observed { scores: vec![-1.0], history: 0, hit: Some(0) }]).unwrap();
        assert!(one.confidences(&[], 3).is_empty() && one.confidences(&[-1.0], 0)[0] > 0.5);
        assert_eq!(one.reliability(&[]).table, []);
        let mut damaged = one;
        damaged.weights[0] = -1.0;
        assert!(damaged.check().unwrap_err().contains("score"));
        damaged.weights[0] = f64::NAN;
        assert!(damaged.check().is_err());
    }
}
