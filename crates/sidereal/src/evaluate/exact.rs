//! What a decoding finds of what exact scoring would: the share of its first ten items that are among the best ten of all.
//!
//! A beam, a graph or a walk along the trie looks at a part of the catalog. For some users every item is scored here
//! besides, and both lists are compared, over the whole catalog with nothing removed. Where several items have the score
//! of the tenth, each of them is as good as the other.

use rayon::prelude::*;
use sidereal_core::metrics::{Bootstrap, of_means, top_k};
use sidereal_core::{Error, Example};
use sidereal_generator::Widths;
use sidereal_nn::rng::Rng;

use crate::Result;
use crate::evaluate::exam::Exam;
use crate::evaluation::Agreement;
use crate::recommend::Recommender;

/// How many items of each list are compared.
const COMPARED: usize = 10;
/// Users whose items are scored before the progress moves.
const USERS_PER_ROUND: usize = 8;

/// Compares the decodings of several rows with exact scoring, over the same users.
pub(crate) struct ExactExam<'a> {
    exam: &'a Exam<'a>,
    examples: Vec<Example>,
    seed: u64,
    /// Rows that score all items in any case.
    exact_anyway: Vec<String>,
    found: Vec<(String, Agreement)>,
}

impl<'a> ExactExam<'a> {
    /// Of `users` of an exam's, drawn by the seed.
    ///
    /// # Errors
    /// None are asked for.
    pub(crate) fn new(exam: &'a Exam<'a>, users: usize, seed: u64) -> Result<Self> {
        if users == 0 {
            let mend = "ask for 300, or leave it out";
            return Err(Error::config("exact_users", "0 users show nothing", mend).into());
        }
        let mut examples = exam.examples.clone();
        if users < examples.len() {
            Rng::new(seed, "exact users").shuffle(&mut examples);
            examples.truncate(users);
            examples.sort_by_key(|example| example.user);
        }
        Ok(Self { exam, examples, seed, exact_anyway: Vec::new(), found: Vec::new() })
    }

    /// Asks a row's generator in both ways; one that scores all items in any case is noted.
    ///
    /// # Errors
    /// Whatever the device says.
    pub(crate) fn ask(&mut self, name: &str, recommender: &Recommender, beam: &Widths) -> Result<()> {
        if recommender.scores_all() {
            self.exact_anyway.push(name.to_owned());
            return Ok(());
        }
        let progress = self.exam.progress;
        progress.start(&format!("exact scores of {name}"), Some(self.examples.len() as u64), "users");
        let mut shares = Vec::with_capacity(self.examples.len());
        for round in self.examples.chunks(USERS_PER_ROUND) {
            let queries = self.exam.queries(round, false);
            let rankings = recommender.rank(&queries, &beam.clone().into())?;
            let scores = queries.par_iter().map(|query| recommender.score_all(query)).collect::<Result<Vec<_>>>()?;
            for (ranking, scores) in rankings.iter().zip(&scores) {
                let items: Vec<u32> = ranking.items.iter().take(COMPARED).map(|scored| scored.item).collect();
                shares.push(shared(&items, scores));
            }
            progress.advance(round.len() as u64);
        }
        progress.finish();
        let bootstrap = Bootstrap { seed: self.seed, ..Bootstrap::default() };
        let interval = of_means(&shares, 1, &bootstrap);
        let agreement = Agreement {
            users: shares.len(),
            items: COMPARED,
            share: shares.iter().sum::<f64>() / shares.len().max(1) as f64,
            interval: interval.first().map_or([0.0; 2], |interval| [interval.low, interval.high]),
        };
        self.found.push((name.to_owned(), agreement));
        Ok(())
    }

    /// The figures by row.
    ///
    /// # Errors
    /// No row has a decoding to compare.
    pub(crate) fn figures(self) -> Result<Vec<(String, Agreement)>> {
        if !self.found.is_empty() {
            return Ok(self.found);
        }
        let (problem, mend) = match self.exact_anyway.as_slice() {
            [] => ("no generator is asked".to_owned(), "leave --baselines-only out, or --exact-users"),
            names => (
                format!("{} scores all items of the catalog anyway: its rankings are exact", names.join(", ")),
                "leave --exact-users (or evaluate.exact_users) out, or ask a model with a beam, a graph or a trie",
            ),
        };
        Err(Error::config("exact_users", problem, mend).into())
    }
}

/// The share of the items that are among the best of all; `scores` are minus infinity for what cannot be answered.
fn shared(items: &[u32], scores: &[f32]) -> f64 {
    let best = top_k(scores, COMPARED, None);
    let best: Vec<f32> = best.into_iter().map(|(_, score)| score).filter(|score| *score != f32::NEG_INFINITY).collect();
    let Some(&least) = best.last() else { return 1.0 };
    let found = items.iter().filter(|&&item| scores[item as usize] >= least).count();
    found.min(best.len()) as f64 / best.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_is_shared_where_no_ten_others_are_better() {
        let scores: Vec<f32> = (0..20).map(|item| -(item as f32)).collect();
        assert_eq!(shared(&(0..10).collect::<Vec<_>>(), &scores), 1.0);
        assert_eq!(shared(&(3..13).collect::<Vec<_>>(), &scores), 0.7);
        assert_eq!(shared(&[0, 1], &scores), 0.2, "a list that is too short lacks what it has not");
        // Items of one leaf have one score: any of those at the tenth place will do.
        let tied: Vec<f32> = (0..20).map(|item| if item < 9 { 0.0 } else { -1.0 }).collect();
        assert_eq!(shared(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 19], &tied), 1.0);
        assert_eq!(shared(&[0, 1, 2, 3, 4, 5, 6, 7, 18, 19], &tied), 1.0);
        // Three items that can be answered.
        let few = [f32::NEG_INFINITY, -1.0, -2.0, f32::NEG_INFINITY, -3.0];
        assert_eq!((shared(&[4, 2, 1], &few), shared(&[2], &few)), (1.0, 1.0 / 3.0));
        assert_eq!(shared(&[], &[f32::NEG_INFINITY; 3]), 1.0);
    }
}
