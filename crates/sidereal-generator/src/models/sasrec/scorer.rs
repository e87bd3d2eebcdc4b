//! A SASRec that answers: the log-probability of every item after a history.

use candle_core::Tensor;
use sidereal_core::{Error as CoreError, ItemIndex};

use super::Sasrec;
use crate::Result;
use crate::beam::log_sum_exp;
use crate::dropout::Dropout;
use crate::models::repeats::{Repeats, add_to_scores};
use crate::scoring::ItemScorer;

/// Weights without a record of gradients, and the vectors of all items made once.
#[derive(Debug)]
pub(super) struct Scorer {
    network: Sasrec,
    table: Tensor, // [N, D]
    /// Added to items of the history.
    repeats: f32,
}

impl Scorer {
    pub(super) fn new(network: &Sasrec) -> Result<Self> {
        let network = network.detached();
        let table = network.item_table(None)?;
        let repeats = network.repeats.as_ref().map_or(Ok(0.0), Repeats::value)?;
        Ok(Self { network, table, repeats })
    }

    /// The state after each whole history, `[B, D]`.
    fn last_states(&self, histories: &[&[ItemIndex]]) -> Result<Tensor> {
        // A row's last item is its target, which nothing looks at here: item 0 stands in its place.
        let rows: Vec<Vec<ItemIndex>> = histories
            .iter()
            .map(|history| {
                let seen = &history[history.len().saturating_sub(self.network.config.max_history)..];
                seen.iter().copied().chain([0]).collect()
            })
            .collect();
        let rows: Vec<&[ItemIndex]> = rows.iter().map(Vec::as_slice).collect();
        let states = self.network.states(&self.table, &rows, &Dropout::none())?;
        let mut end = 0;
        let last: Vec<u32> = rows
            .iter()
            .map(|row| {
                end += row.len() as u32;
                end - 1
            })
            .collect();
        let count = last.len();
        Ok(states.index_select(&Tensor::from_vec(last, count, states.device())?, 0)?)
    }
}

impl ItemScorer for Scorer {
    fn name(&self) -> &str {
        "sasrec"
    }

    fn items(&self) -> usize {
        self.network.items
    }

    fn score_block(&self, histories: &[&[ItemIndex]], scores: &mut [f32]) -> Result<()> {
        let items = self.items();
        assert_eq!(scores.len(), histories.len() * items, "scores must be [B, N]");
        if let Some(item) = histories.iter().copied().flatten().find(|&&item| item as usize >= items) {
            let problem = format!("item {item} is not in the catalog of {items} items");
            return Err(CoreError::mismatch(problem, "ask with histories over the generator's catalog").into());
        }
        if histories.is_empty() {
            return Ok(());
        }
        let logits = self.network.logits(&self.last_states(histories)?, &self.table)?; // [B, N]
        scores.copy_from_slice(&logits.flatten_all()?.to_vec1::<f32>()?);
        for (row, history) in scores.chunks_exact_mut(items).zip(histories) {
            add_to_scores(self.repeats, history, row);
            let total = log_sum_exp(row.iter().copied());
            row.iter_mut().for_each(|logit| *logit -= total);
        }
        Ok(())
    }
}
