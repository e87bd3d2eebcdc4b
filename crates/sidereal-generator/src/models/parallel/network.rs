//! A parallel decoder as the trainer knows it.

use std::path::Path;

use candle_core::Tensor;
use sidereal_core::ItemIndex;
use sidereal_nn::ops::{self, CrossEntropy, ItemCodes, ItemScores, Marked};
use sidereal_nn::params::Params;
use sidereal_nn::rng::Rng;

use super::graph::GraphRanker;
use super::items::Items;
use super::ranker::{ItemSums, Oracle, TrieRanker};
use super::{CodeReader, Decoding, gather};
use crate::Result;
use crate::dropout::Dropout;
use crate::models::repeats::Repeats;
use crate::network::{Materials, Network, Row};
use crate::ranker::{ItemRanker, Ranker};

/// Histories that go forward and backward together: the gradients of the codes are large, so there are few parts.
const PART_ROWS: usize = 64;

/// Weights over a catalog.
#[derive(Debug)]
pub(in crate::models) struct Parallel {
    params: Params,
    reader: Box<dyn CodeReader>,
    items: Items,
    /// The key that asks for the items' vectors, where one does.
    vectors_for: Option<&'static str>,
}

impl Parallel {
    /// Over items; `params` are the reader's.
    pub(in crate::models) fn new(
        params: Params,
        reader: Box<dyn CodeReader>,
        items: Items,
        vectors_for: Option<&'static str>,
    ) -> Self {
        Self { params, reader, items, vectors_for }
    }

    /// What reads the histories.
    #[cfg(test)]
    pub(in crate::models) fn reader(&self) -> &dyn CodeReader {
        self.reader.as_ref()
    }

    /// With the weights of a file.
    ///
    /// # Errors
    /// A damaged file; a parameter that is missing, unknown or misshapen, by name.
    pub(in crate::models) fn loaded(mut self, path: &Path) -> Result<Box<dyn Network>> {
        self.load_weights(path)?;
        Ok(Box::new(self))
    }

    /// The weights as they are now, over the items of these materials.
    ///
    /// # Errors
    /// Materials that are missing; whatever the device says.
    pub(super) fn oracle(&self, materials: &Materials<'_>) -> Result<Oracle> {
        Oracle::new(self.reader.frozen(), Items::new(materials, self.vectors_for)?)
    }

    /// The mean over levels of the loss of the target's codes.
    fn code_loss(&self, scores: &Tensor, targets: &[ItemIndex]) -> Result<Tensor> {
        let settings = self.reader.settings();
        let args =
            CrossEntropy { label_smoothing: settings.label_smoothing, temperature: settings.temperature, ignore: None };
        let (levels, device) = (self.items.levels(), scores.device());
        let codes = self.reader.codes();
        if codes.iter().all(|&count| count == codes[0]) {
            let classes: Vec<u32> = targets.iter().flat_map(|&item| self.items.codes(item)).collect();
            let rows = classes.len();
            let scores = scores.reshape((rows, codes[0]))?; // [R * L, K]
            return ops::cross_entropy(&scores, &Tensor::from_vec(classes, rows, device)?, &args);
        }
        let mut sum = Tensor::zeros((), scores.dtype(), device)?;
        for (level, (&first, &count)) in self.items.firsts().iter().zip(codes).enumerate() {
            let classes: Vec<u32> = targets.iter().map(|&item| self.items.places(item)[level] - first).collect();
            let scores = scores.narrow(1, first as usize, count)?.contiguous()?; // [R, K]
            let classes = Tensor::from_vec(classes, targets.len(), device)?;
            sum = (sum + ops::cross_entropy(&scores, &classes, &args)?)?;
        }
        Ok((sum / levels as f64)?)
    }

    /// The loss of the target among items, each scored as the ranking scores it: by the sum over its codes, and more or
    /// less if it is in `seen`, the history before the target.
    fn item_loss(
        &self,
        scores: &Tensor,
        targets: &[ItemIndex],
        seen: &[&[ItemIndex]],
        noise: Option<u64>,
    ) -> Result<Tensor> {
        let (settings, levels) = (self.reader.settings(), self.items.levels());
        let scale = 1.0 / settings.temperature;
        let count = targets.len();
        let place = |places: Vec<u32>| Tensor::from_vec(places, count, scores.device());
        let wanted = settings.item_negatives;
        let bonus = self.reader.repeats().map(Repeats::bonus).transpose()?;
        let loss = |targets: Vec<u32>, items: &ItemCodes, marked: Marked| {
            let bonus = bonus.as_ref().map(|bonus| (bonus, &marked));
            ops::item_cross_entropy(scores, &place(targets)?, &ItemScores { items, scale, bonus })
        };
        let Some(noise) = noise.filter(|_| wanted > 0 && wanted < self.items.len()) else {
            return loss(targets.to_vec(), &self.items.by_level, Marked::new(seen.iter().copied()));
        };
        let mut rng = Rng::new(noise, "negatives");
        let mut told_apart: Vec<ItemIndex> = targets.to_vec();
        told_apart.extend((0..wanted).map(|_| rng.below(self.items.len()) as ItemIndex));
        told_apart.sort_unstable();
        told_apart.dedup();
        let places: Vec<u32> = told_apart.iter().flat_map(|&item| self.items.places(item)).copied().collect();
        let items = ItemCodes::new(&places, levels)?;
        let at = |item: &ItemIndex| told_apart.binary_search(item).ok().map(|at| at as u32);
        let marked: Vec<Vec<u32>> = seen.iter().map(|seen| seen.iter().filter_map(at).collect()).collect();
        let marked = Marked::new(marked.iter().map(Vec::as_slice));
        loss(targets.iter().filter_map(at).collect(), &items, marked)
    }
}

impl Network for Parallel {
    fn params(&self) -> &Params {
        &self.params
    }

    fn loss<'r>(&self, rows: &[Row<'r>], noise: Option<u64>) -> Result<Tensor> {
        let settings = self.reader.settings();
        let dropout = Dropout::of_step(settings.dropout, noise);
        let recent = |row: &Row<'r>| &row.items[row.items.len().saturating_sub(settings.max_history + 1)..];
        let rows: Vec<&[ItemIndex]> = rows.iter().map(recent).collect();
        let histories: Vec<&[ItemIndex]> = rows.iter().map(|row| &row[..row.len() - 1]).collect();
        let positions = self.reader.positions(&self.items, &histories, &dropout)?; // [B, T, E]
        let longest = positions.dim(1)? as u32;
        let place = |(row, history): (u32, &&[ItemIndex])| (0..history.len() as u32).map(move |t| row * longest + t);
        let places: Vec<u32> = (0..).zip(&histories).flat_map(place).collect();
        let targets: Vec<ItemIndex> = rows.iter().flat_map(|row| &row[1..]).copied().collect();
        let vectors = gather(&positions, places)?; // [R, E]
        let scores = self.reader.code_scores(&vectors, &self.reader.code_table()?)?; // [R, V]
        let loss = self.code_loss(&scores, &targets)?;
        if settings.item_loss == 0.0 {
            return Ok(loss);
        }
        let seen: Vec<&[ItemIndex]> = rows.iter().flat_map(|row| (1..row.len()).map(|place| &row[..place])).collect();
        Ok((loss + (self.item_loss(&scores, &targets, &seen, noise)? * settings.item_loss)?)?)
    }

    fn part_rows(&self) -> usize {
        PART_ROWS
    }

    fn ranker(&self, materials: &Materials<'_>) -> Result<Box<dyn Ranker>> {
        let (settings, catalog) = (self.reader.settings(), materials.catalog);
        let oracle = self.oracle(materials)?;
        Ok(match settings.decoding {
            Decoding::Exact => Box::new(ItemRanker(ItemSums::new(oracle, catalog))),
            Decoding::Graph => Box::new(GraphRanker::new(oracle, settings.graph)),
            Decoding::Trie => Box::new(TrieRanker::new(oracle, catalog)),
        })
    }
}
