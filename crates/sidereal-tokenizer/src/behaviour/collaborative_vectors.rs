//! Vectors learnt from what users did: item2vec in closed form.
//!
//! Skip-gram with negative sampling factorises the shifted matrix of pointwise mutual information of items and the
//! items near them; its positive part is sparse, and its truncated singular vectors are as good and need no training
//! loop. Entry (i, c) is max(0, log(#(i, c) / (#(i) P(c))) - log k), where P(c) is proportional to #(c) to the power of
//! `smoothing`, which takes popular contexts' share down. An item's vector is its row of U S^(1/2).
//!
//! *Paper*: Barkan and Koenigstein, *Item2Vec*, arXiv 1603.04259 (items of a history as words of a sentence); Levy and
//! Goldberg, *Neural Word Embedding as Implicit Matrix Factorization*, NeurIPS 2014 (the closed form); Levy, Goldberg
//! and Dagan, TACL 2015 (smoothing 0.75, S^(1/2), k = 1 for singular vectors).
//! *Differs from the papers*: pairs count alike at all distances within the window.
//! *Checked against*: a dense decomposition in f64, in the tests.
//!
//! # Shapes
//! Histories of N items; vectors [N, C], rows of zeros for items that are never seen near another.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use sidereal_core::{Embeddings, Error, ItemIndex, Progress, Result};
use sidereal_nn::rng::Rng;

use crate::algebra::spectrum::{Effort, leading_eigenpairs};
use crate::behaviour::cooccurrence::CoOccurrences;
use crate::training_items::TrainingHistories;

const SURPLUS: usize = 16;
/// Singular values weaker than this share of the first (in squares) are rounding.
const NEGLIGIBLE: f64 = 1e-10;

/// Settings of collaborative vectors; in a recipe the table `[collaborative]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CollaborativeConfig {
    /// C.
    pub width: usize,
    /// Items count as near when they are at most this many steps apart in a history. Default: word2vec's 5.
    pub window: usize,
    /// Items with fewer events in the histories have no vector.
    pub min_count: u32,
    /// Power of a context's frequency. Default: 0.75, as word2vec draws negatives.
    pub smoothing: f64,
    /// k of the shift log k, word2vec's number of negatives. Default: 1, best for singular vectors (TACL 2015).
    pub shift: f64,
    /// Products with the matrix and its transpose.
    pub iterations: usize,
}

impl Default for CollaborativeConfig {
    fn default() -> Self {
        Self { width: 64, window: 5, min_count: 1, smoothing: 0.75, shift: 1.0, iterations: 12 }
    }
}

impl CollaborativeConfig {
    /// Checks every setting.
    ///
    /// # Errors
    /// Names the key.
    pub fn check(&self) -> Result<()> {
        let bad =
            |key: &str, problem: String, mend: &str| Err(Error::config(format!("collaborative.{key}"), problem, mend));
        if self.width == 0 || self.width > 4096 {
            return bad("width", format!("{} columns", self.width), "give 1 to 4096; 64 is usual");
        }
        if self.window == 0 {
            return bad("window", "items are never near".to_owned(), "give 1 or more; 5 is usual");
        }
        if !(0.0..=1.0).contains(&self.smoothing) {
            return bad("smoothing", format!("{} is not a power from 0 to 1", self.smoothing), "0.75 is usual");
        }
        if !(self.shift > 0.0 && self.shift.is_finite()) {
            return bad(
                "shift",
                format!("{} has no logarithm", self.shift),
                "give a positive number; 1 shifts nothing",
            );
        }
        if self.iterations == 0 {
            return bad("iterations", "no product with the matrix".to_owned(), "give 1 or more; 12 is usual");
        }
        Ok(())
    }
}

/// Learns item vectors from the training parts of histories. Same settings, histories and seed give the same bytes.
///
/// # Errors
/// Impossible settings; histories in which no item stands near another.
///
/// # Shapes
/// to [items, C]
pub fn collaborative_vectors(
    histories: &TrainingHistories<'_>,
    items: usize,
    config: &CollaborativeConfig,
    seed: u64,
    progress: &dyn Progress,
) -> Result<Embeddings> {
    config.check()?;
    progress.start("collaborative vectors", None, "products");
    let matrix = SparseMatrix::mutual_information(&near(histories, items, config), config);
    if matrix.forward.iter().all(|&v| v == 0.0) {
        let problem = "no two items stand near one another more often than by chance";
        let mend = "give more interactions, a larger collaborative.window or a smaller collaborative.min_count";
        return Err(Error::input("training histories", problem, mend));
    }
    let apply = |block: &[f32], width: usize| {
        progress.advance(1);
        matrix.times(&matrix.times(block, width, &matrix.backward), width, &matrix.forward)
    };
    let effort = Effort { count: config.width, surplus: SURPLUS, iterations: config.iterations };
    let mut rng = Rng::new(seed, "collaborative vectors");
    let (squares, mut vectors) = leading_eigenpairs(&apply, items, effort, &mut rng)?;
    let limit = squares[0] * NEGLIGIBLE;
    let weight = |&square: &f64| if square > limit { square.powf(0.25) as f32 } else { 0.0 };
    let weights: Vec<f32> = squares.iter().map(weight).collect();
    vectors.par_chunks_mut(config.width).enumerate().for_each(|(item, row)| {
        let seen = matrix.offsets[item + 1] > matrix.offsets[item];
        row.iter_mut().zip(&weights).for_each(|(v, w)| *v *= if seen { *w } else { 0.0 });
    });
    progress.finish();
    Embeddings::new(items, config.width, vectors)
}

/// Co-occurrences of the items that are frequent enough.
fn near(histories: &TrainingHistories<'_>, items: usize, config: &CollaborativeConfig) -> CoOccurrences {
    let counts = CoOccurrences::count(histories, items, config.window);
    if config.min_count <= 1 {
        return counts;
    }
    let mut events = vec![0u32; items];
    histories.iter().flatten().for_each(|&item| events[item as usize] += 1);
    counts.only(|item| events[item] >= config.min_count)
}

/// A matrix whose transpose has its entries at the same places.
struct SparseMatrix {
    offsets: Vec<usize>,
    columns: Vec<u32>,
    forward: Vec<f32>,
    /// The transpose's values.
    backward: Vec<f32>,
}

impl SparseMatrix {
    fn mutual_information(counts: &CoOccurrences, config: &CollaborativeConfig) -> Self {
        let items = counts.items();
        let totals: Vec<f64> = (0..items).map(|item| counts.total_of(item) as f64).collect();
        let context: Vec<f64> = totals.iter().map(|&t| if t > 0.0 { t.powf(config.smoothing) } else { 0.0 }).collect();
        let all: f64 = context.iter().sum();
        let value = |count: f64, item: usize, near: usize| {
            ((count * all / (totals[item] * context[near])).ln() - config.shift.ln()).max(0.0) as f32
        };
        let mut matrix = Self { offsets: vec![0], columns: Vec::new(), forward: Vec::new(), backward: Vec::new() };
        for item in 0..items {
            for (near, count) in counts.row(item) {
                matrix.columns.push(near);
                matrix.forward.push(value(f64::from(count), item, near as usize));
                matrix.backward.push(value(f64::from(count), near as usize, item));
            }
            matrix.offsets.push(matrix.columns.len());
        }
        matrix
    }

    /// # Shapes
    /// `block`: [N, w]; the answer: [N, w]
    fn times(&self, block: &[f32], width: usize, values: &[f32]) -> Vec<f32> {
        let mut out = vec![0f32; block.len()];
        out.par_chunks_mut(width).enumerate().for_each(|(row, out)| {
            for at in self.offsets[row]..self.offsets[row + 1] {
                let (value, from) = (values[at], &block[self.columns[at] as usize * width..][..width]);
                out.iter_mut().zip(from).for_each(|(o, v)| *o += value * v);
            }
        });
        out
    }
}

/// Vectors of users from the vectors of their items: the mean over the training part of a history, in which an event
/// weighs half as much for every `half_life` events after it. With them users are tokenized like items.
///
/// *Paper*: ULMRec (Shao et al., arXiv 2412.05543) gives users semantic IDs of their own.
/// *Differs from the paper*: there users are encoded from their reviews and ids.
///
/// # Errors
/// A half-life that is not positive; an event of an item that has no row.
///
/// # Shapes
/// [N, D] to [U, D]; a user without events has a row of zeros.
pub fn user_vectors(histories: &TrainingHistories<'_>, embeddings: &Embeddings, half_life: f64) -> Result<Embeddings> {
    if half_life.is_nan() || half_life <= 0.0 {
        let mend = "give a positive number of events; infinity makes a plain mean";
        return Err(Error::config("half_life", format!("{half_life} is not positive"), mend));
    }
    let users: Vec<_> = histories.iter().collect();
    if let Some(&item) = users.iter().copied().flatten().find(|&&item| item as usize >= embeddings.rows()) {
        let problem = format!("a history names item {item}, but there are {} vectors", embeddings.rows());
        return Err(Error::mismatch(problem, "give histories and vectors of the same items"));
    }
    let width = embeddings.width();
    let mut vectors = vec![0f32; users.len() * width];
    vectors.par_chunks_mut(width).zip(&users).for_each(|(out, history)| {
        user_vector(history, embeddings, half_life, out);
    });
    Embeddings::new(users.len(), width, vectors)
}

/// One user's vector, as [`user_vectors`] makes it; nothing is written for a user without events.
///
/// # Shapes
/// `out`: `[D]`
pub(crate) fn user_vector(history: &[ItemIndex], embeddings: &Embeddings, half_life: f64, out: &mut [f32]) {
    let (mut sum, mut total) = (vec![0f64; embeddings.width()], 0.0);
    for (age, &item) in history.iter().rev().enumerate() {
        let weight = (-(age as f64) / half_life).exp2();
        total += weight;
        sum.iter_mut().zip(embeddings.row(item as usize)).for_each(|(s, &v)| *s += weight * f64::from(v));
    }
    if total > 0.0 {
        out.iter_mut().zip(sum).for_each(|(o, s)| *o = (s / total) as f32);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::algebra::linear_algebra::symmetric_eigen;
    use sidereal_core::{Histories, NoProgress};

    /// 160 items in 8 groups; a user's session stays in one. Items from 160 on are never seen.
    fn sessions() -> (Histories, Vec<u32>) {
        let mut rng = Rng::new(9, "sessions");
        let (mut offsets, mut events) = (vec![0], Vec::new());
        for user in 0..400 {
            events.extend((0..8).map(|_| (user % 8 + 8 * rng.below(20)) as u32));
            offsets.push(events.len() as u64);
        }
        let users = (0..400).map(|u| u.to_string()).collect();
        (Histories::new(users, offsets, events, None, None).unwrap(), vec![8; 400])
    }

    fn learn(config: &CollaborativeConfig, items: usize) -> Embeddings {
        let (histories, ends) = sessions();
        collaborative_vectors(&TrainingHistories::new(&histories, &ends), items, config, 3, &NoProgress).unwrap()
    }

    #[test]
    fn items_of_one_session_group_are_nearest_neighbours() {
        let vectors = learn(&CollaborativeConfig { width: 12, ..CollaborativeConfig::default() }, 165);
        let cosine = |a: usize, b: usize| {
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
            let (a, b) = (vectors.row(a), vectors.row(b));
            dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
        };
        for item in 0..160 {
            let others = (0..160).filter(|&other| other != item);
            let nearest = others.max_by(|&a, &b| cosine(item, a).total_cmp(&cosine(item, b))).unwrap();
            assert_eq!(nearest % 8, item % 8, "item {item}");
        }
        assert!((160..165).all(|item| vectors.row(item).iter().all(|&v| v == 0.0)));
    }

    #[test]
    fn vectors_equal_singular_vectors_of_the_written_out_matrix() {
        let (histories, ends) = sessions();
        let config = CollaborativeConfig { width: 7, iterations: 30, shift: 1.5, ..CollaborativeConfig::default() };
        let vectors = learn(&config, 160);
        let counts = CoOccurrences::count(&TrainingHistories::new(&histories, &ends), 160, 5);
        let total: Vec<f64> = (0..160).map(|i| counts.total_of(i) as f64).collect();
        let all: f64 = total.iter().map(|t| t.powf(0.75)).sum();
        let mut dense = vec![0f64; 160 * 160];
        for i in 0..160 {
            for (c, count) in counts.row(i) {
                let chance = total[i] * total[c as usize].powf(0.75) / all;
                dense[i * 160 + c as usize] = (f64::from(count) / chance / 1.5).ln().max(0.0);
            }
        }
        let gram = |i: usize, j: usize| (0..160).map(|c| dense[i * 160 + c] * dense[j * 160 + c]).sum::<f64>();
        let grams: Vec<f64> = (0..160 * 160).map(|at| gram(at / 160, at % 160)).collect();
        let (squares, rows) = symmetric_eigen(&grams, 160).unwrap();
        for k in 0..7 {
            for i in 0..160 {
                let want = rows[k * 160 + i] * squares[k].sqrt().sqrt();
                assert!((f64::from(vectors.row(i)[k]) - want).abs() < 2e-3, "{k} {i}: {} {want}", vectors.row(i)[k]);
            }
        }
    }

    #[test]
    fn the_same_bytes_come_out_for_one_and_two_threads() {
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                learn(&CollaborativeConfig { width: 9, min_count: 5, ..CollaborativeConfig::default() }, 160)
            })
        };
        assert_eq!(run(1), run(2));
    }

    #[test]
    fn settings_and_histories_that_give_nothing_are_refused() {
        let base = CollaborativeConfig::default();
        let error = |config: CollaborativeConfig| config.check().unwrap_err().to_string();
        assert!(error(CollaborativeConfig { width: 0, ..base.clone() }).contains("collaborative.width"));
        assert!(error(CollaborativeConfig { window: 0, ..base.clone() }).contains("collaborative.window"));
        assert!(error(CollaborativeConfig { smoothing: 2.0, ..base.clone() }).contains("collaborative.smoothing"));
        assert!(error(CollaborativeConfig { shift: 0.0, ..base.clone() }).contains("collaborative.shift"));
        let (histories, _) = sessions();
        let none = TrainingHistories::new(&histories, &[1, 1]);
        let error = collaborative_vectors(&none, 160, &base, 1, &NoProgress).unwrap_err().to_string();
        assert!(error.contains("training histories"), "{error}");
    }

    #[test]
    fn users_are_means_of_their_items_that_forget() {
        let users = vec!["a".to_owned(), "b".to_owned(), "c".to_owned()];
        let histories = Histories::new(users, vec![0, 3, 4, 4], vec![0, 1, 0, 1], None, None).unwrap();
        let items = Embeddings::new(2, 2, vec![1.0, 0.0, 0.0, 4.0]).unwrap();
        let histories = TrainingHistories::new(&histories, &[2, 1, 0]);
        let found = user_vectors(&histories, &items, 1.0).unwrap();
        let want = [1.0 / 3.0, 8.0 / 3.0, 0.0, 4.0, 0.0, 0.0];
        assert!(found.values().iter().zip(want).all(|(f, w)| (f - w).abs() < 1e-6), "{found:?}");
        assert!(user_vectors(&histories, &items, 0.0).is_err());
        assert_eq!(user_vectors(&histories, &items, f64::INFINITY).unwrap().row(0), [0.5, 2.0]);
        let few = Embeddings::new(1, 1, vec![1.0]).unwrap();
        assert!(user_vectors(&histories, &few, 1.0).unwrap_err().to_string().contains("item 1"));
    }
}
