//! Text neighbour: the cosine of an item's vector to that of the last item.
//!
//! The vectors are the embeddings of the run, of text or of whatever else they were made from. Without a history all
//! items score 0.

use sidereal_core::ItemIndex;

use crate::baselines::{BaselineMethod, Statistics};
use crate::models::Status;

pub(super) const METHOD: BaselineMethod = BaselineMethod {
    name: "text",
    paper: "content-based nearest neighbour, as ItemKNN-CBF in Ferrari Dacrema et al., arXiv 1907.06902",
    status: Status::Stable,
    summary: "cosine of the item's embedding to the last item's",
    needs_embeddings: true,
    score,
};

fn score(statistics: &Statistics, histories: &[&[ItemIndex]], scores: &mut [f32]) {
    let Some(vectors) = &statistics.vectors else { return };
    let mut queries = vec![0.0; histories.len() * vectors.width()]; // [B, D]
    for (history, query) in histories.iter().zip(queries.chunks_exact_mut(vectors.width())) {
        history.last().into_iter().for_each(|&last| vectors.add_to(query, last, 1.0));
    }
    vectors.products(&queries, |first, products| {
        let count = products.len() / histories.len().max(1);
        for (scores, products) in scores.chunks_exact_mut(statistics.items()).zip(products.chunks_exact(count)) {
            scores[first..].iter_mut().zip(products).for_each(|(score, &cosine)| *score = cosine as f32);
        }
    });
}
