//! What is known of a candidate, one line a feature.
//!
//! Counts grow without bound and their use does not, so they go in as logarithms.

use std::collections::HashMap;

use sidereal_core::ItemIndex;

use super::knowledge::Knowledge;
use super::sums::SparseSums;

/// A line of the list of features.
#[derive(Debug, Clone, Copy)]
pub struct Feature {
    /// The name in files and reports.
    pub name: &'static str,
    /// One sentence.
    pub summary: &'static str,
    /// Its value for a candidate.
    pub(super) value: fn(&Evidence<'_>, ItemIndex) -> f32,
}

/// The place of the generator's score in [`FEATURES`].
pub(super) const GENERATOR: usize = 0;

/// The place of the popularity in [`FEATURES`].
pub(super) const POPULARITY: usize = 12;

/// All features, in the order of their weights.
pub const FEATURES: &[Feature] = &[
    Feature {
        name: "generator",
        summary: "log-probability by the generator; what its search did not reach has a little less than what it reached last",
        value: |evidence, item| evidence.generator_score(item),
    },
    Feature {
        name: "neighbours",
        summary: "ln(1 + 5 x), x as the baseline `neighbours`",
        value: |evidence, item| log_count(5.0, &evidence.sums.neighbours, item),
    },
    Feature {
        name: "after",
        summary: "ln(1 + 5 x), x how often it came directly after the last item",
        value: |evidence, item| log_count(5.0, &evidence.sums.after, item),
    },
    Feature {
        name: "before",
        summary: "ln(1 + 5 x), x how often it stood within 5 steps before recent items",
        value: |evidence, item| log_count(5.0, &evidence.sums.before, item),
    },
    Feature {
        name: "linear",
        summary: "ln(1 + 100 x), x what a linear model of the next items, learnt in closed form, says of the recent ones",
        value: |evidence, item| (100.0 * evidence.sums.linear.get(item).max(0.0)).ln_1p(),
    },
    Feature {
        name: "similarity",
        summary: "cosine to the recent items, summed with the weights of `neighbours`",
        value: |evidence, item| at(evidence.similarity, item),
    },
    Feature {
        name: "most-similar",
        summary: "the largest cosine to one of the last 6 items",
        value: |evidence, item| at(evidence.most_similar, item),
    },
    Feature {
        name: "item2vec",
        summary: "as `similarity`, by vectors of items that stand near the same items",
        value: |evidence, item| at(evidence.item2vec, item),
    },
    Feature {
        name: "user-item",
        summary: "as `similarity`, by vectors of items that the same users have",
        value: |evidence, item| at(evidence.user_item, item),
    },
    Feature {
        name: "words",
        summary: "shared words with recent items: cosines of tf-idf vectors, summed with the weights of `neighbours`",
        value: |evidence, item| evidence.sums.words.get(item),
    },
    Feature {
        name: "lately",
        summary: "ln(1 + 5 x), x the interest in the item shortly before the history's last event",
        value: |evidence, item| evidence.interest(item, 0),
    },
    Feature {
        name: "this-season",
        summary: "ln(1 + 5 x), x the interest in the item over a longer time before the history's last event",
        value: |evidence, item| evidence.interest(item, 1),
    },
    Feature {
        name: "popularity",
        summary: "ln(1 + training interactions)",
        value: |evidence, item| evidence.knowledge.popularity(item).ln_1p() as f32,
    },
    Feature {
        name: "seen",
        summary: "1 if the history has it",
        value: |evidence, item| if evidence.history.contains(&item) { 1.0 } else { 0.0 },
    },
];

/// Everything about one question that features are made of.
pub(super) struct Evidence<'a> {
    pub(super) knowledge: &'a Knowledge,
    pub(super) history: &'a [ItemIndex],
    pub(super) generator: GeneratorScores<'a>,
    pub(super) sums: &'a HistorySums,
    /// The moment of the question.
    pub(super) time: Option<i64>,
    /// Cosines of all items, `[N]`, or nothing where there are no vectors.
    pub(super) similarity: &'a [f32],
    pub(super) most_similar: &'a [f32],
    pub(super) item2vec: &'a [f32],
    pub(super) user_item: &'a [f32],
}

/// What a history's items say of other items.
#[derive(Debug)]
pub(super) struct HistorySums {
    pub(super) neighbours: SparseSums,
    pub(super) after: SparseSums,
    pub(super) before: SparseSums,
    pub(super) linear: SparseSums,
    pub(super) words: SparseSums,
}

/// What the generator says.
pub(super) enum GeneratorScores<'a> {
    /// There is none.
    None,
    /// Of every item, `[N]`.
    All(&'a [f32]),
    /// Of those that its search reached, and of all others.
    Reached(HashMap<ItemIndex, f32>, f32),
}

impl Evidence<'_> {
    fn generator_score(&self, item: ItemIndex) -> f32 {
        match &self.generator {
            GeneratorScores::None => 0.0,
            GeneratorScores::All(scores) => scores[item as usize],
            GeneratorScores::Reached(scores, other) => scores.get(&item).copied().unwrap_or(*other),
        }
    }

    fn interest(&self, item: ItemIndex, scale: usize) -> f32 {
        let Some(recency) = self.knowledge.recency() else { return 0.0 };
        (5.0 * recency.interest(item, self.time.unwrap_or(recency.end()), scale)).ln_1p() as f32
    }

    /// All features of a candidate, `[F]`.
    pub(super) fn features(&self, item: ItemIndex) -> impl Iterator<Item = f32> + '_ {
        FEATURES.iter().map(move |feature| (feature.value)(self, item))
    }
}

fn log_count(scale: f32, counts: &SparseSums, item: ItemIndex) -> f32 {
    (scale * counts.get(item)).ln_1p()
}

fn at(all: &[f32], item: ItemIndex) -> f32 {
    all.get(item as usize).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_features_are_those_of_their_names() {
        assert_eq!((FEATURES[GENERATOR].name, FEATURES[POPULARITY].name), ("generator", "popularity"));
    }
}
