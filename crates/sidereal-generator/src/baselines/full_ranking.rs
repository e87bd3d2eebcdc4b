//! A scorer's ranks and lists for all users, in both modes.
//!
//! Scores are held for one block of users at a time, and blocks run side by side. The size of a block depends on the
//! size of the catalog alone, so the figures do not depend on the number of threads.

use rayon::prelude::*;
use sidereal_core::metrics::{RankedLists, Row, rank_of_target, top_k};
use sidereal_core::{Example, Histories, ItemIndex, Progress};

use crate::Result;
use crate::scoring::ItemScorer;

/// Scores of one block: 16 MiB.
const BLOCK_SCORES: usize = 1 << 22;

/// Users of one block at most: beyond, a product gains nothing.
const BLOCK_USERS: usize = 256;

/// What one method did, in both modes.
#[derive(Debug, Clone, PartialEq)]
pub struct BothModes {
    /// Over the whole catalog, as papers do.
    pub no_filter: Row,
    /// Without what the user has had already (the whole history before the target), as a shop does. A target that is
    /// in the history ranks last.
    pub seen_removed: Row,
}

/// Ranks the targets of `examples` among the whole catalog; the lists hold the first `list_len` items.
///
/// # Errors
/// A history item that is not in the scorer's catalog.
pub fn rank_examples(
    scorer: &dyn ItemScorer,
    histories: &Histories,
    examples: &[Example],
    list_len: usize,
    progress: &dyn Progress,
) -> Result<BothModes> {
    let items = scorer.items();
    let users = (BLOCK_SCORES / items.max(1)).clamp(1, BLOCK_USERS);
    progress.start(&format!("ranking with {}", scorer.name()), Some(examples.len() as u64), "users");
    let blocks: Vec<BothModes> = examples
        .par_chunks(users)
        .map_init(
            || vec![0.0; users * items],
            |scores, block| {
                let seen: Vec<&[ItemIndex]> = block.iter().map(|example| example.history(histories)).collect();
                let scores = &mut scores[..block.len() * items]; // [B, N]
                scorer.score_block(&seen, scores)?;
                let mut both = BothModes { no_filter: empty(list_len), seen_removed: empty(list_len) };
                for ((example, seen), scores) in block.iter().zip(seen).zip(scores.chunks_exact_mut(items)) {
                    let target = example.target(histories);
                    add(&mut both.no_filter, scores, target, list_len);
                    seen.iter().for_each(|&item| scores[item as usize] = f32::NEG_INFINITY);
                    add(&mut both.seen_removed, scores, target, list_len);
                }
                progress.advance(block.len() as u64);
                Ok(both)
            },
        )
        .collect::<Result<_>>()?;
    progress.finish();
    let mut whole = BothModes { no_filter: empty(list_len), seen_removed: empty(list_len) };
    for block in blocks {
        for (row, part) in [(&mut whole.no_filter, &block.no_filter), (&mut whole.seen_removed, &block.seen_removed)] {
            row.ranks.extend_from_slice(&part.ranks);
            row.lists.append(&part.lists);
        }
    }
    Ok(whole)
}

fn empty(list_len: usize) -> Row {
    Row { ranks: Vec::new(), lists: RankedLists::new(list_len) }
}

fn add(row: &mut Row, scores: &[f32], target: ItemIndex, list_len: usize) {
    row.ranks.push(Some(rank_of_target(scores, target, None)));
    row.lists.push(top_k(scores, list_len, None).into_iter().map(|entry| entry.0));
}
