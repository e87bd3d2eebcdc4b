//! What models share that score every item by a product of vectors: rows with a start before them, and the answers.

use std::fmt::Debug;

use candle_core::Tensor;
use sidereal_core::{Error as CoreError, ItemIndex};

use super::repeats::{Repeats, add_to_scores};
use crate::Result;
use crate::beam::log_sum_exp;
use crate::dropout::Dropout;
use crate::network::Materials;
use crate::scoring::ItemScorer;

/// Weights that read histories and score items. E is the width of what is multiplied.
pub(super) trait DenseReader: Debug + Send + Sync {
    /// The method's name.
    fn method(&self) -> &'static str;

    /// N.
    fn items(&self) -> usize;

    /// Most recent items that are read.
    fn max_history(&self) -> usize;

    /// The vectors of all items, `[N, E]`.
    ///
    /// # Errors
    /// Whatever the device says.
    fn table(&self) -> Result<Tensor>;

    /// States after the start and after every item but the last of each row, all rows one below the other.
    ///
    /// # Shapes
    /// table `[N, E]` -> `[sum of rows' lengths, E]`
    ///
    /// # Errors
    /// Whatever the device says.
    fn states(&self, table: &Tensor, rows: &[&[ItemIndex]], dropout: &Dropout) -> Result<Tensor>;

    /// Scores of all items: states `[R, E]`, table `[N, E]` -> `[R, N]`.
    ///
    /// # Errors
    /// Whatever the device says.
    fn logits(&self, states: &Tensor, table: &Tensor) -> Result<Tensor>;

    /// The number of items that the history has.
    fn repeats(&self) -> Option<&Repeats> {
        None
    }
}

/// Rows of items as inputs: a start, then every item but the last; padded at the right.
#[derive(Debug)]
pub(super) struct Started {
    /// 0 for the start, which stands for padding too, and an item's number and 1 for an item: `[B * T]`.
    pub(super) ids: Vec<u32>,
    /// T, the longest row and at least 1.
    pub(super) width: usize,
    /// Places of `ids` behind which a row's items stand, row by row: `[sum of rows' lengths]`.
    pub(super) places: Vec<u32>,
}

impl Started {
    pub(super) fn new(rows: &[&[ItemIndex]]) -> Self {
        let width = rows.iter().map(|row| row.len()).max().unwrap_or(0).max(1);
        let mut ids = vec![0u32; rows.len() * width];
        let mut places = Vec::new();
        for (number, row) in rows.iter().enumerate() {
            let ids = &mut ids[number * width..][..width];
            for (id, &item) in ids[1.min(width)..].iter_mut().zip(row.iter()).take(row.len().saturating_sub(1)) {
                *id = item + 1;
            }
            places.extend((0..row.len()).map(|place| (number * width + place) as u32));
        }
        Self { ids, width, places }
    }
}

/// Refuses to answer over another catalog.
pub(super) fn check_items(items: usize, materials: &Materials<'_>) -> Result<()> {
    if materials.catalog.len() == items {
        return Ok(());
    }
    let problem = format!("weights for {items} items, but {} are to be ranked", materials.catalog.len());
    Err(CoreError::mismatch(problem, "load the generator with this catalog").into())
}

/// A model that answers: the log-probability of every item after a history.
#[derive(Debug)]
pub(super) struct DenseScorer<R> {
    /// Weights without a record of gradients.
    reader: R,
    table: Tensor, // [N, E]
    /// Added to items of the history.
    repeats: f32,
}

impl<R: DenseReader> DenseScorer<R> {
    /// Makes the vectors of all items once.
    ///
    /// # Errors
    /// Whatever the device says.
    pub(super) fn new(reader: R) -> Result<Self> {
        let table = reader.table()?;
        let repeats = reader.repeats().map_or(Ok(0.0), Repeats::value)?;
        Ok(Self { reader, table, repeats })
    }

    /// The state after each whole history, `[B, E]`.
    fn last_states(&self, histories: &[&[ItemIndex]]) -> Result<Tensor> {
        // A row's last item is its target, which nothing looks at here: item 0 stands in its place.
        let longest = self.reader.max_history();
        let recent = |history: &&[ItemIndex]| -> Vec<ItemIndex> {
            history[history.len().saturating_sub(longest)..].iter().copied().chain([0]).collect()
        };
        let rows: Vec<Vec<ItemIndex>> = histories.iter().map(recent).collect();
        let rows: Vec<&[ItemIndex]> = rows.iter().map(Vec::as_slice).collect();
        let states = self.reader.states(&self.table, &rows, &Dropout::none())?;
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

impl<R: DenseReader> ItemScorer for DenseScorer<R> {
    fn name(&self) -> &str {
        self.reader.method()
    }

    fn items(&self) -> usize {
        self.reader.items()
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
        let logits = self.reader.logits(&self.last_states(histories)?, &self.table)?; // [B, N]
        scores.copy_from_slice(&logits.flatten_all()?.to_vec1::<f32>()?);
        for (row, history) in scores.chunks_exact_mut(items).zip(histories) {
            add_to_scores(self.repeats, history, row);
            let total = log_sum_exp(row.iter().copied());
            row.iter_mut().for_each(|logit| *logit -= total);
        }
        Ok(())
    }
}
