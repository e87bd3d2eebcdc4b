//! Last-item transitions: what stood next to the last item in training, 1 after it, 1/2 before it.
//!
//! Popularity breaks ties. Without a history that is all there is.

use sidereal_core::ItemIndex;

use crate::baselines::{BaselineMethod, Statistics};
use crate::models::Status;

pub(super) const METHOD: BaselineMethod = BaselineMethod {
    name: "last_item",
    paper: "the unfactorised first-order Markov chain of Rendle et al., WWW 2010, with half a count backwards",
    status: Status::Stable,
    summary: "transitions from the last item in the training histories",
    needs_embeddings: false,
    score,
};

fn score(statistics: &Statistics, histories: &[&[ItemIndex]], scores: &mut [f32]) {
    for (history, scores) in histories.iter().zip(scores.chunks_exact_mut(statistics.items())) {
        scores.iter_mut().zip(&statistics.tie_break).for_each(|(score, &tie)| *score = tie as f32);
        for (item, count) in history.last().into_iter().flat_map(|&last| statistics.transitions.row(last)) {
            scores[item as usize] = (count + statistics.tie_break[item as usize]) as f32;
        }
    }
}
