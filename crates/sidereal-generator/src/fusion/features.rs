//! What is known of a candidate, one line a feature.
//!
//! Counts grow without bound and their use does not, so they go in as logarithms.

use std::collections::HashMap;

use sidereal_core::ItemIndex;

use super::knowledge::Knowledge;

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
        value: |evidence, item| log_count(5.0, &evidence.neighbours, item),
    },
    Feature {
        name: "after",
        summary: "ln(1 + 5 x), x how often it came directly after the last item",
        value: |evidence, item| log_count(5.0, &evidence.after, item),
    },
    Feature {
        name: "before",
        summary: "ln(1 + 5 x), x how often it stood within 5 steps before recent items",
        value: |evidence, item| log_count(5.0, &evidence.before, item),
    },
    Feature {
        name: "similarity",
        summary: "cosine to the recent items, summed with the weights of `neighbours`",
        value: |evidence, item| evidence.similarity.as_ref().map_or(0.0, |all| all[item as usize]),
    },
    Feature {
        name: "most-similar",
        summary: "the largest cosine to one of the last 6 items",
        value: |evidence, item| evidence.most_similar.as_ref().map_or(0.0, |all| all[item as usize]),
    },
    Feature {
        name: "words",
        summary: "shared words with recent items: cosines of tf-idf vectors, summed with the weights of `neighbours`",
        value: |evidence, item| evidence.words.get(&item).map_or(0.0, |&sum| sum as f32),
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

/// What the popularity's middle is taken to be, so that w is the weight of an item of that popularity.
const MIDDLE: f64 = 2.0;

/// p of an item.
pub(super) fn popularity(knowledge: &Knowledge, item: ItemIndex) -> f64 {
    knowledge.popularity(item).ln_1p() - MIDDLE
}

/// Everything about one question that features are made of.
pub(super) struct Evidence<'a> {
    pub(super) knowledge: &'a Knowledge,
    pub(super) history: &'a [ItemIndex],
    pub(super) generator: GeneratorScores,
    pub(super) neighbours: HashMap<ItemIndex, f64>,
    pub(super) after: HashMap<ItemIndex, f64>,
    pub(super) before: HashMap<ItemIndex, f64>,
    pub(super) words: HashMap<ItemIndex, f64>,
    /// The moment of the question.
    pub(super) time: Option<i64>,
    /// `[N]`
    pub(super) similarity: Option<Vec<f32>>,
    /// `[N]`
    pub(super) most_similar: Option<Vec<f32>>,
}

/// What the generator says.
pub(super) enum GeneratorScores {
    /// There is none.
    None,
    /// Of every item, `[N]`.
    All(Vec<f32>),
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

fn log_count(scale: f64, counts: &HashMap<ItemIndex, f64>, item: ItemIndex) -> f32 {
    counts.get(&item).map_or(0.0, |count| (scale * count).ln_1p() as f32)
}
