//! Popularity: the count of training interactions, the same for everybody.

use sidereal_core::ItemIndex;

use crate::baselines::{BaselineMethod, Statistics};
use crate::models::Status;

pub(super) const METHOD: BaselineMethod = BaselineMethod {
    name: "popularity",
    paper: "the unpersonalised baseline of Ferrari Dacrema et al., RecSys 2019, arXiv 1907.06902",
    status: Status::Stable,
    summary: "how often an item occurs in the training histories",
    needs_embeddings: false,
    score,
};

fn score(statistics: &Statistics, histories: &[&[ItemIndex]], scores: &mut [f32]) {
    for scores in scores.chunks_exact_mut(statistics.items()).take(histories.len()) {
        scores.iter_mut().zip(&statistics.popularity).for_each(|(score, &count)| *score = count as f32);
    }
}
