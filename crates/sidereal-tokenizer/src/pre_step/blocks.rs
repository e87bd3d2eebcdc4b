//! Several vectors an item (text, image, audio), concatenated in one row: each block is prepared by itself.

use serde::{Deserialize, Serialize};

use sidereal_core::{Embeddings, Error, Result};

use super::moments::Moments;
use crate::arrays::{ArraySet, NamedArray};
use crate::clustering::kmeans::normalise;

/// One vector of a row; in a recipe `{ width = 384, normalise = true, weight = 1.0 }`. The steps run in the order of
/// the keys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Block {
    /// How many columns it takes; the widths of all blocks add up to D.
    pub width: usize,
    /// Every dimension is shifted and scaled to mean 0 and deviation 1 over the training items.
    #[serde(default)]
    pub standardise: bool,
    /// The block is scaled to length 1; a zero block, of an item that lacks this vector, stays zero.
    #[serde(default)]
    pub normalise: bool,
    /// What the block is multiplied by at last.
    #[serde(default = "default_weight")]
    pub weight: f64,
}

fn default_weight() -> f64 {
    1.0
}

/// Largest weight; beyond it values leave the range of f32.
const LARGEST_WEIGHT: f64 = 1e6;

pub(super) fn check(blocks: &[Block], place: &str) -> Result<()> {
    let refuse = |key: String, problem: String, mend: &str| Err(Error::config(key, problem, mend));
    if blocks.is_empty() {
        return refuse(
            format!("{place}.blocks"),
            "there are no blocks".to_owned(),
            "give one for each vector of a row",
        );
    }
    for (i, block) in blocks.iter().enumerate() {
        if block.width == 0 {
            return refuse(format!("{place}.blocks.{i}.width"), "no columns".to_owned(), "give the vector's width");
        }
        if !(0.0..=LARGEST_WEIGHT).contains(&block.weight) {
            let problem = format!("{} is no weight", block.weight);
            return refuse(format!("{place}.blocks.{i}.weight"), problem, "give 0 to 1000000; 1 changes nothing");
        }
    }
    Ok(())
}

fn check_width(blocks: &[Block], place: &str, width: usize) -> Result<()> {
    let sum = blocks.iter().fold(0usize, |sum, block| sum.saturating_add(block.width));
    if sum == width {
        return Ok(());
    }
    let widths: Vec<String> = blocks.iter().map(|block| block.width.to_string()).collect();
    let problem = format!("the widths {} add up to {sum}, but the vectors are {width} wide", widths.join(" + "));
    Err(Error::config(format!("{place}.blocks"), problem, "give one block for each vector of a row, with its width"))
}

pub(super) fn fit(blocks: &[Block], place: &str, rows: &Embeddings) -> Result<FittedBlocks> {
    check_width(blocks, place, rows.width())?;
    let mut moments = Moments::fit(rows);
    let mut start = 0;
    for block in blocks {
        let columns = start..start + block.width;
        if !block.standardise {
            moments.mean[columns.clone()].fill(0.0);
            moments.deviation[columns].fill(1.0);
        }
        start += block.width;
    }
    Ok(FittedBlocks { blocks: blocks.to_vec(), moments })
}

pub(super) fn load(blocks: &[Block], place: &str, width: usize, arrays: &mut ArraySet) -> Result<FittedBlocks> {
    check_width(blocks, place, width)?;
    Ok(FittedBlocks { blocks: blocks.to_vec(), moments: Moments::load(place, width, arrays)? })
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct FittedBlocks {
    blocks: Vec<Block>,
    /// 0 and 1 where a block is not standardised.
    moments: Moments,
}

impl FittedBlocks {
    /// Prepares a row in place, `[D]`.
    pub(super) fn apply(&self, row: &mut [f32]) {
        self.moments.standardise(row);
        let mut rest = row;
        for block in &self.blocks {
            let (part, after) = rest.split_at_mut(block.width);
            if block.normalise {
                normalise(part);
            }
            let weight = block.weight as f32;
            part.iter_mut().for_each(|v| *v *= weight);
            rest = after;
        }
    }

    pub(super) fn arrays(&self, name: &str) -> Vec<NamedArray> {
        self.moments.arrays(name)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::tests::{correlated, prepared};
    use super::super::{FittedPreSteps, PreStep};
    use super::*;
    use crate::training_items::TrainingItems;

    fn block(width: usize, standardise: bool, normalise: bool, weight: f64) -> Block {
        Block { width, standardise, normalise, weight }
    }

    #[test]
    fn every_block_is_prepared_by_itself() {
        let rows = correlated(60, 7);
        let blocks = vec![block(3, false, true, 1.0), block(2, true, false, 0.5), block(2, false, false, 2.0)];
        let out = prepared(&[PreStep::Blocks(blocks)], &rows);
        for (row, out) in rows.values().chunks_exact(7).zip(out.chunks_exact(7)) {
            let length = row[..3].iter().map(|v| v * v).sum::<f32>().sqrt();
            assert!((0..3).all(|j| (out[j] - row[j] / length).abs() < 1e-6));
            assert_eq!([out[5], out[6]], [2.0 * row[5], 2.0 * row[6]]);
        }
        for j in [3, 4] {
            let column: Vec<f32> = out.iter().skip(j).step_by(7).copied().collect();
            assert!(column.iter().sum::<f32>().abs() < 1e-4);
            assert!((column.iter().map(|v| v * v).sum::<f32>() / 60.0 - 0.25).abs() < 1e-4);
        }
    }

    #[test]
    fn an_item_without_one_of_the_vectors_keeps_zeros_there() {
        let rows = Embeddings::new(2, 3, vec![3.0, 4.0, 0.0, 0.0, 0.0, 5.0]).unwrap();
        let blocks = vec![block(2, false, true, 1.0), block(1, false, true, 1.0)];
        assert_eq!(prepared(&[PreStep::Blocks(blocks)], &rows), [0.6, 0.8, 0.0, 0.0, 0.0, 1.0]);
    }

    #[test]
    fn widths_that_do_not_add_up_are_both_named() {
        let steps = [PreStep::Blocks(vec![block(3, false, true, 1.0), block(2, false, false, 1.0)])];
        let error = FittedPreSteps::fit(&steps, &TrainingItems::new(&correlated(9, 7))).unwrap_err().to_string();
        assert!(error.contains("3 + 2 add up to 5") && error.contains("7 wide"), "{error}");
        for (blocks, word) in [
            (vec![], "no blocks"),
            (vec![block(0, false, false, 1.0)], "blocks.0.width"),
            (vec![block(1, false, false, f64::NAN)], "blocks.0.weight"),
            (vec![block(1, false, false, -1.0)], "-1"),
        ] {
            let error = check(&blocks, "pre_steps.2").unwrap_err().to_string();
            assert!(error.contains(word) && error.contains("pre_steps.2"), "{error}");
        }
    }
}
