//! Rows to codes, in blocks over the threads.
//!
//! A row's codes depend on nothing but the row: not on its block, its neighbours or the number of threads. Quantizers
//! promise that, and the conformance test holds them to it; so any split of a catalog gives the same semantic IDs.

use rayon::prelude::*;

use sidereal_core::{Embeddings, Error, Result, SemanticIds};

use crate::pre_step::{FittedPreSteps, PreStepScratch};
use crate::quantizers::{Quantizer, Scratch};

/// Rows of one parallel block.
pub(crate) const BLOCK: usize = 512;
/// Largest magnitude of an input: beyond it differences leave the range of f32.
pub const LARGEST: f32 = 1e30;

/// Encodes vectors that were prepared.
///
/// # Errors
/// A width that is not the quantizer's; a row with values beyond 1e30.
pub(crate) fn encode_prepared(quantizer: &dyn Quantizer, rows: &Embeddings) -> Result<SemanticIds> {
    check_width(quantizer.width(), rows)?;
    check_range(rows)?;
    let (width, levels) = (quantizer.width(), quantizer.levels());
    let mut codes = vec![0u16; rows.rows() * levels];
    let blocks = rows.values().par_chunks(BLOCK * width).zip(codes.par_chunks_mut(BLOCK * levels));
    blocks.for_each_init(Scratch::default, |scratch, (rows, codes)| quantizer.encode_rows(rows, scratch, codes));
    SemanticIds::new(levels, codes) // [N, L]
}

/// Prepares and encodes every row.
///
/// # Errors
/// A width that is not the pre-steps'; a row with values beyond 1e30.
pub(crate) fn encode(quantizer: &dyn Quantizer, steps: &FittedPreSteps, rows: &Embeddings) -> Result<SemanticIds> {
    check_width(steps.width(), rows)?;
    check_range(rows)?;
    let (width, levels) = (steps.width(), quantizer.levels());
    let mut codes = vec![0u16; rows.rows() * levels];
    let blocks = rows.values().par_chunks(BLOCK * width).zip(codes.par_chunks_mut(BLOCK * levels));
    blocks.for_each_init(
        || (PreStepScratch::default(), Scratch::default()),
        |(prepared, scratch), (rows, codes)| quantizer.encode_rows(steps.apply(rows, prepared), scratch, codes),
    );
    SemanticIds::new(levels, codes) // [N, L]
}

pub(crate) fn check_width(width: usize, rows: &Embeddings) -> Result<()> {
    if rows.width() == width {
        return Ok(());
    }
    let problem = format!("the embeddings are {} wide, but the tokenizer was trained on width {width}", rows.width());
    let mend = "use embeddings of the model that the tokenizer was trained on, or train a tokenizer on these";
    Err(Error::mismatch(problem, mend))
}

pub(crate) fn check_range(rows: &Embeddings) -> Result<()> {
    let too_large = |row: &[f32]| row.iter().fold(0f32, |most, v| most.max(v.abs())) > LARGEST;
    match rows.values().par_chunks(rows.width()).position_first(too_large) {
        Some(row) => {
            let problem = format!("a value is beyond {LARGEST:e} in magnitude");
            Err(Error::input(
                format!("embeddings, row {row}"),
                problem,
                "scale the embeddings, or encode this item again",
            ))
        }
        None => Ok(()),
    }
}
