//! One row of several trainings: the mean of what their generators say of every item.
//!
//! Networks that began with other numbers cannot be averaged number by number, as the steps of one training can: their
//! features stand in another order. What they say of an item can be. Each says a probability, and the mean of these is what
//! the row ranks by. Only generators that score all items anyway can be asked so: beams of several find different items.
//!
//! *Source*: Lakshminarayanan et al., "Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles", arXiv
//! 1612.01474, section 2.4.
//!
//! # Shapes
//! log-probabilities `[B, N]` of each generator -> of the mean `[B, N]`

use sidereal_core::metrics::Row;
use sidereal_core::{Error, ItemIndex, LeafFilter};
use sidereal_generator::scoring::ItemScorer;
use sidereal_generator::{Question, Widths};

use crate::Result;
use crate::evaluate::exam::Exam;
use crate::evaluation::Modes;
use crate::recommend::Recommender;

/// Generators whose scores are averaged, by the names of their rows.
#[derive(Default)]
pub(crate) struct MeanScores {
    name: String,
    members: Vec<Recommender>,
    everything: LeafFilter,
}

impl MeanScores {
    /// Adds one that answers alone.
    ///
    /// # Errors
    /// It does not score all items.
    pub(crate) fn add(&mut self, name: &str, recommender: Recommender) -> Result<()> {
        if !recommender.scores_all() {
            let problem = format!("{name} looks at a part of the catalog, and others at other parts");
            let mend = "average generators that score all items (sasrec, setrec, rpg and recgpt with exact decoding)";
            return Err(Error::config("mean_scores", problem, mend).into());
        }
        let joint = if self.members.is_empty() { "mean of " } else { " and " };
        self.name += &format!("{joint}{name}");
        self.members.push(recommender);
        Ok(())
    }

    /// What the row is called.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The row, ranked as far as those of the single generators are.
    ///
    /// # Errors
    /// There is nothing to average; whatever the device says.
    pub(crate) fn row(&self, exam: &Exam<'_>, beam: &Widths) -> Result<Modes<Row>> {
        if self.members.len() < 2 {
            let problem = format!("{} generator is no mean", self.members.len());
            return Err(Error::config("mean_scores", problem, "give other runs with --with").into());
        }
        let mut modes = exam.untrained_row(self)?;
        for row in [&mut modes.no_filter, &mut modes.seen_removed] {
            row.ranks.iter_mut().for_each(|rank| *rank = rank.filter(|&rank| (rank as usize) < beam.last()));
        }
        Ok(modes)
    }
}

impl ItemScorer for MeanScores {
    fn name(&self) -> &str {
        &self.name
    }

    fn items(&self) -> usize {
        self.members.first().map_or(0, |member| member.catalog().len())
    }

    fn score_block(&self, histories: &[&[ItemIndex]], scores: &mut [f32]) -> sidereal_generator::Result<()> {
        let questions: Vec<Question<'_>> =
            histories.iter().map(|history| Question::new(history, &self.everything)).collect();
        scores.fill(f32::NEG_INFINITY);
        for member in &self.members {
            let said = member.generator().ranker().score_each(member.catalog(), &questions)?;
            scores.iter_mut().zip(said).for_each(|(sum, said)| *sum = log_of_sum(*sum, said));
        }
        let members = (self.members.len() as f32).ln();
        scores.iter_mut().for_each(|sum| *sum -= members);
        Ok(())
    }
}

/// The logarithm of the sum of two numbers whose logarithms these are.
fn log_of_sum(a: f32, b: f32) -> f32 {
    let (more, less) = if a > b { (a, b) } else { (b, a) };
    if less == f32::NEG_INFINITY { more } else { more + (less - more).exp().ln_1p() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_small_numbers_are_not_lost() {
        assert!((log_of_sum(0.25f32.ln(), 0.5f32.ln()) - 0.75f32.ln()).abs() < 1e-6);
        assert!((log_of_sum(-500.0, -500.0) - (-500.0 + 2f32.ln())).abs() < 1e-4);
        assert_eq!(log_of_sum(f32::NEG_INFINITY, -3.0), -3.0);
        assert_eq!(log_of_sum(f32::NEG_INFINITY, f32::NEG_INFINITY), f32::NEG_INFINITY);
    }
}
