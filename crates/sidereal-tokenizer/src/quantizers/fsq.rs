//! FSQ, finite scalar quantization: a few numbers a level, each rounded to one of a few bins. No codebook is learnt, so
//! none can collapse.
//!
//! *Paper*: Mentzer et al., arXiv 2309.15505, section 3; as an item tokenizer RecGPT, arXiv 2506.06270: embeddings are
//! cut into slices, one a level, and a shared linear map takes each slice to 5 numbers of 8, 8, 8, 6 and 5 bins.
//! *Differs from RecGPT*: the decoder is a multilayer perceptron over the codewords of all levels and not a
//! transformer over them (its first layer takes the place of the map out of the codewords); inputs are standardised
//! first, because a bound needs values of about 1; levels may differ in their bins, and only levels of the same bins
//! share a map; gradients are clipped; numbers are rounded and only then made integers (RecGPT's cast cuts off, which
//! can be one code too low); the net of the least reconstruction error is kept.
//! *Checked against*: the formulas, by hand (`fsq/grid.rs`).
//!
//! # Shapes
//! Embeddings [N, D] to L slices [N, s], s = D / L rounded up; to bounded numbers [N, b_l] of each level, side by side
//! the latents [N, d]; codewords [K_l, b_l]; semantic IDs [N, L]; codewords side by side [N, d] to [N, D].

use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use sidereal_core::{Embeddings, Error, SemanticIds};
use sidereal_nn::schedule::Schedule;

use super::net_training::{self, check_hidden, loop_settings};
use super::sliced::{SlicedCodebooks, in_blocks};
use super::{LevelsSee, MethodConfig, MethodKind, Quantizer, Scratch, Status, Trained, Training};
use crate::Result;
use crate::arrays::{ArraySet, NamedArray};
use crate::encode::check_width;
use crate::mlp::Mlp;
use crate::pre_step::PreStep;
use crate::training_items::TrainingItems;

mod grid;
mod net;

pub use grid::{Grid, Shift, bins_of};

/// Settings of FSQ.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FsqConfig {
    /// K of every level. Default: four levels of 15,360 (RecGPT).
    pub codes: Vec<u32>,
    /// Bins of every number of a code; their product is K of every level. Default, an empty list: the bins that
    /// [`bins_of`] finds for each K, which are [8, 8, 8, 6, 5] for 15,360.
    pub bins: Vec<u32>,
    /// What is done to embeddings first, in order. Default: standardise.
    pub pre_steps: Vec<PreStep>,
    /// How grids of an even number of bins are centred.
    pub shift: Shift,
    /// Widths of the decoder between codewords and D. Default: 768 (RecGPT).
    pub hidden: Vec<usize>,
    /// What the reconstruction is held to. Default: l1 (RecGPT).
    pub loss: Distance,
    /// AdamW's base rate. Default: 1e-4 (RecGPT).
    pub learning_rate: f64,
    /// AdamW's decay. Default: 0, which makes it Adam (RecGPT).
    pub weight_decay: f64,
    /// How the rate changes over the steps.
    pub schedule: Schedule,
    /// Largest norm of a step's gradient.
    pub clip_norm: f64,
    /// Items of a step. Default: 256 (RecGPT).
    pub batch: usize,
    /// Most passes over the items. Default: 100 (RecGPT).
    pub epochs: usize,
    /// Epochs between evaluations: all items are encoded, and the best net so far is kept.
    pub evaluate_every: usize,
    /// Ends after this many evaluations without a gain; 0 never ends early.
    pub patience: usize,
}

/// What a reconstruction is held to, as a mean over batch and dimensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Distance {
    /// Absolute differences (RecGPT).
    #[default]
    L1,
    /// Squared differences.
    L2,
}

impl Default for FsqConfig {
    fn default() -> Self {
        Self {
            codes: vec![15_360; 4],
            bins: Vec::new(),
            pre_steps: vec![PreStep::Standardise],
            shift: Shift::Tan,
            hidden: vec![768],
            loss: Distance::L1,
            learning_rate: 1e-4,
            weight_decay: 0.0,
            schedule: Schedule::Constant { warmup_steps: 0 },
            clip_norm: 1.0,
            batch: 256,
            epochs: 100,
            evaluate_every: 10,
            patience: 0,
        }
    }
}

impl MethodKind for FsqConfig {
    const PAPER: &'static str = "FSQ, arXiv 2309.15505; RecGPT, arXiv 2506.06270";
    const STATUS: Status = Status::Stable;

    fn with_codes(codes: Vec<u32>) -> Self {
        Self { codes, ..Self::default() }
    }
}

impl FsqConfig {
    /// The grid of every level, `[L]`.
    fn grids(&self) -> Result<Vec<Grid>> {
        let grid = |(level, &codes): (usize, &u32)| {
            let bins = if self.bins.is_empty() {
                bins_of(codes).ok_or_else(|| {
                    let problem = format!("level {level} has {codes} codes, which no bins of 2 to 16 multiply to");
                    let mend = "give products of small numbers, for example 256, 1000 or 15360";
                    Error::config("fsq.codes", problem, mend)
                })?
            } else {
                self.bins.clone()
            };
            Ok(Grid::new(&bins, self.shift))
        };
        self.codes.iter().enumerate().map(grid).collect()
    }

    fn check_bins(&self) -> Result<()> {
        if let Some(bins) = self.bins.iter().find(|bins| !(2..=256).contains(*bins)) {
            let problem = format!("{bins} bins");
            return Err(
                Error::config("fsq.bins", problem, "give 2 to 256 a number, for example [8, 8, 8, 6, 5]").into()
            );
        }
        let product = self.bins.iter().fold(1u64, |product, &bins| product.saturating_mul(bins.into()));
        let other = self.codes.iter().position(|&codes| u64::from(codes) != product);
        if let (false, Some(level)) = (self.bins.is_empty(), other) {
            let problem = format!("{:?} multiply to {product}, but level {level} has {}", self.bins, self.codes[level]);
            let mend = "set fsq.codes to that product at every level, or leave the bins out";
            return Err(Error::config("fsq.bins", problem, mend).into());
        }
        Ok(())
    }
}

impl MethodConfig for FsqConfig {
    fn codes(&self) -> &[u32] {
        &self.codes
    }

    fn pre_steps(&self) -> &[PreStep] {
        &self.pre_steps
    }

    fn check(&self) -> Result<()> {
        self.check_bins()?;
        self.grids()?;
        check_hidden("fsq", &self.hidden)?;
        loop_settings!(self).check("fsq")
    }

    fn train(&self, items: &TrainingItems<'_>, training: &Training<'_>) -> Result<Trained> {
        let layout = Layout::new(self.grids()?, items.vectors.width())?;
        let bins: Vec<Vec<u32>> = layout.grids.iter().map(|grid| grid.bins().to_vec()).collect();
        let net = net::FsqNet::new(self, layout, training)?;
        let mut trained = net_training::train(net, self, loop_settings!(self), items.vectors, training)?;
        trained.record["bins"] = serde_json::json!(bins);
        Ok(trained)
    }

    fn load(&self, width: usize, arrays: &mut ArraySet) -> Result<Box<dyn Quantizer>> {
        let layout = Layout::new(self.grids()?, width)?;
        let widths = layout.map_widths();
        let maps = widths
            .iter()
            .enumerate()
            .map(|(i, &numbers)| Mlp::load(&map_name(i), &[layout.slice, numbers], false, arrays));
        let maps = maps.collect::<Result<_>>()?;
        let decoder = Mlp::load("dec", &layout.decoder_widths(&self.hidden), false, arrays)?;
        Ok(Box::new(Fsq::new(layout, maps, decoder)))
    }
}

fn map_name(i: usize) -> String {
    format!("slices.{i}")
}

/// How D columns are cut, and which map takes each slice to its grid.
#[derive(Debug, Clone)]
struct Layout {
    /// D.
    width: usize,
    /// s.
    slice: usize,
    /// Columns of every level; widths differ by 1 at most.
    columns: Vec<Range<usize>>,
    grids: Vec<Grid>,
    /// The map of every level; levels of the same bins share one.
    map_of: Vec<usize>,
}

impl Layout {
    fn new(grids: Vec<Grid>, width: usize) -> Result<Self> {
        let levels = grids.len();
        if levels > width {
            let problem = format!("vectors of width {width} cannot be cut into {levels} slices");
            return Err(Error::config("fsq.codes", problem, format!("use at most {width} levels")).into());
        }
        let mut start = 0;
        let columns = (0..levels)
            .map(|level| {
                let first = start;
                start += width / levels + usize::from(level < width % levels);
                first..start
            })
            .collect();
        let mut different: Vec<&[u32]> = Vec::new();
        let map_of = grids
            .iter()
            .map(|grid| match different.iter().position(|bins| *bins == grid.bins()) {
                Some(map) => map,
                None => {
                    different.push(grid.bins());
                    different.len() - 1
                }
            })
            .collect();
        Ok(Self { width, slice: width.div_ceil(levels), columns, map_of, grids })
    }

    /// Numbers that each map makes of a slice.
    fn map_widths(&self) -> Vec<usize> {
        let mut widths = Vec::new();
        for (grid, &map) in self.grids.iter().zip(&self.map_of) {
            if map == widths.len() {
                widths.push(grid.width());
            }
        }
        widths
    }

    /// d, hidden widths, D.
    fn decoder_widths(&self, hidden: &[usize]) -> Vec<usize> {
        let latent = self.grids.iter().map(Grid::width).sum();
        [latent].into_iter().chain(hidden.iter().copied()).chain([self.width]).collect()
    }
}

/// Fitted maps, grids and decoder.
#[derive(Debug, Clone)]
pub struct Fsq {
    layout: Layout,
    maps: Vec<Mlp>,
    decoder: Mlp,
    codebooks: SlicedCodebooks,
}

impl Fsq {
    fn new(layout: Layout, maps: Vec<Mlp>, decoder: Mlp) -> Self {
        let mut of_map: Vec<Arc<[f32]>> = Vec::new();
        for (grid, &map) in layout.grids.iter().zip(&layout.map_of) {
            if map == of_map.len() {
                of_map.push((0..grid.codes()).flat_map(|code| grid.codeword(code)).collect());
            }
        }
        let books = layout.grids.iter().zip(&layout.map_of);
        let codebooks = SlicedCodebooks::new(books.map(|(grid, &map)| (grid.width(), of_map[map].clone())));
        Self { layout, maps, decoder, codebooks }
    }

    /// Puts a level's numbers, before the bound, into `scratch.scores`, [M, b_l].
    fn numbers(&self, rows: &[f32], level: usize, scratch: &mut Scratch) {
        let columns = self.layout.columns[level].clone();
        scratch.residuals.clear();
        for row in rows.chunks_exact(self.layout.width) {
            scratch.residuals.extend_from_slice(&row[columns.clone()]);
            // Slices that are a column short end in a zero.
            scratch.residuals.extend((columns.len()..self.layout.slice).map(|_| 0.0));
        }
        scratch.scores.clear();
        let map = &self.maps[self.layout.map_of[level]];
        map.forward_rows(&scratch.residuals, &mut scratch.hidden, &mut scratch.scores);
    }
}

impl Quantizer for Fsq {
    fn width(&self) -> usize {
        self.layout.width
    }

    fn codes_per_level(&self) -> &[u32] {
        self.codebooks.codes()
    }

    fn encode_rows(&self, rows: &[f32], scratch: &mut Scratch, codes: &mut [u16]) {
        let levels = self.layout.grids.len();
        for (level, grid) in self.layout.grids.iter().enumerate() {
            self.numbers(rows, level, scratch);
            for (numbers, codes) in scratch.scores.chunks_exact(grid.width()).zip(codes.chunks_exact_mut(levels)) {
                codes[level] = grid.code(numbers) as u16;
            }
        }
    }

    fn reconstruct(&self, ids: &SemanticIds) -> Result<Embeddings> {
        let codewords = self.codebooks.side_by_side(ids)?; // [N, d]
        Ok(Embeddings::new(ids.len(), self.width(), self.decoder.forward_all(&codewords))?)
    }

    fn latents(&self, rows: &Embeddings) -> Result<Embeddings> {
        check_width(self.width(), rows)?;
        let width = self.codebooks.width();
        let latents = in_blocks(rows.values(), self.width(), |rows, out| {
            let mut scratch = Scratch::default();
            out.resize(rows.len() / self.width() * width, 0.0);
            let mut start = 0;
            for (level, grid) in self.layout.grids.iter().enumerate() {
                self.numbers(rows, level, &mut scratch);
                let numbers = scratch.scores.chunks_exact(grid.width());
                for (numbers, out) in numbers.zip(out.chunks_exact_mut(width)) {
                    grid.bound_row(numbers, &mut out[start..start + grid.width()]);
                }
                start += grid.width();
            }
        });
        Ok(Embeddings::new(rows.rows(), width, latents)?)
    }

    fn residual_energy(&self, rows: &Embeddings, ids: &SemanticIds) -> Result<Option<Vec<f64>>> {
        Ok(Some(self.codebooks.residual_energy(self.latents(rows)?.values(), ids)?))
    }

    fn codebook(&self, level: usize) -> &[f32] {
        self.codebooks.codebook(level)
    }

    fn levels_see(&self) -> LevelsSee {
        LevelsSee::SubVectors
    }

    fn arrays(&self) -> Vec<NamedArray> {
        let maps = self.maps.iter().enumerate().flat_map(|(i, map)| map.arrays(&map_name(i)));
        maps.chain(self.decoder.arrays("dec")).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn config(codes: &[u32], bins: &[u32]) -> FsqConfig {
        FsqConfig { codes: codes.to_vec(), bins: bins.to_vec(), ..FsqConfig::default() }
    }

    #[test]
    fn bins_that_are_given_must_multiply_to_every_number_of_codes() {
        config(&[15_360; 4], &[8, 8, 8, 6, 5]).check().unwrap();
        FsqConfig::default().check().unwrap();
        let error = config(&[64, 15_360], &[8, 8]).check().unwrap_err().to_string();
        assert!(error.contains("fsq.bins") && error.contains("64") && error.contains("level 1"), "{error}");
        let error = config(&[4], &[4, 1]).check().unwrap_err().to_string();
        assert!(error.contains("1 bins"), "{error}");
        for codes in [17, 1, 2 * 19] {
            let error = config(&[8, codes], &[]).check().unwrap_err().to_string();
            assert!(error.contains(&format!("level 1 has {codes} codes")) && error.contains("15360"), "{error}");
        }
    }

    #[test]
    fn slices_cover_all_columns_and_levels_of_the_same_bins_share_a_map() {
        let layout = Layout::new(config(&[16, 6, 16], &[]).grids().unwrap(), 20).unwrap();
        assert_eq!(layout.columns, [0..7, 7..14, 14..20]);
        assert_eq!((layout.slice, &layout.map_of[..]), (7, &[0, 1, 0][..]));
        assert_eq!(layout.map_widths().len(), 2);
        let error = Layout::new(config(&[4; 3], &[]).grids().unwrap(), 2).unwrap_err().to_string();
        assert!(error.contains("width 2") && error.contains("3 slices"), "{error}");
    }
}
