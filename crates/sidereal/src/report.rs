//! A run as one page: verdict, figures, curves, code use and a few users, in a file that opens from disk.
//!
//! [`ReportData`] is all that a page shows; [`render`] makes the page and touches nothing else. The page holds its
//! style and its charts (inline SVG), asks for no other file and needs no script. Text of the user's data is escaped by
//! the template. The same data gives the same bytes.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::Result;
use crate::accuracy::AccuracyRow;
use crate::evaluation::Evaluation;
use crate::quality::Subject;

mod numbers;
mod page;
mod plots;
mod verdict;

#[cfg(test)]
mod tests;

/// All that a page shows. What is absent or empty is left out of the page.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ReportData {
    /// The run folder's name or the recipe's.
    pub title: String,
    /// Users, items, seed, ...: names and values in the order of the page.
    pub facts: Vec<(String, String)>,
    /// The resolved recipe.
    pub recipe_toml: String,
    /// The table of figures.
    pub evaluation: Option<Evaluation>,
    /// Trained rows with several seeds, and what they cost.
    pub accuracy: Option<AccuracyView>,
    /// The quality of the semantic IDs.
    pub tokenizer: Option<TokenizerView>,
    /// The training, by step.
    pub training: Vec<TrainingPoint>,
    /// Some users with what they are recommended.
    pub users: Vec<UserStory>,
}

/// An accuracy table.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct AccuracyView {
    /// Two for each row, one a mode.
    pub rows: Vec<AccuracyRow>,
    /// One for each generator that was trained.
    pub curves: Vec<LearningCurve>,
}

/// How a training went.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct LearningCurve {
    /// Of the row that it was made for.
    pub name: String,
    /// By step.
    pub training: Vec<TrainingPoint>,
}

/// How the semantic IDs use their codes.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct TokenizerView {
    /// N.
    pub items: usize,
    /// Distinct semantic IDs.
    pub unique_ids: usize,
    /// (N - unique) / N.
    pub collision_rate: f64,
    /// Most items of one semantic ID.
    pub max_bucket: usize,
    /// Use of each level, `[L]`.
    pub levels: Vec<LevelView>,
    /// Distinct prefixes of each depth 1 to L, `[L]`.
    pub prefixes: Vec<usize>,
    /// Items of each code, `[L][K]`; in any order.
    pub code_counts: Vec<Vec<u32>>,
    /// How many semantic IDs have so many items: size to number.
    pub bucket_sizes: BTreeMap<usize, usize>,
}

/// How one level is used.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct LevelView {
    /// Codes that occur.
    pub used: usize,
    /// K.
    pub codes: usize,
    /// e^entropy of the code frequencies.
    pub perplexity: f64,
}

/// What was known at a step of the training.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct TrainingPoint {
    /// Steps done.
    pub step: u64,
    /// Mean cross-entropy a code, in nats.
    pub loss: Option<f64>,
    /// Learning rate of the step.
    pub learning_rate: Option<f64>,
    /// A validation's figures: `recall@10`, `ndcg@10`; `users` and `beam` where they are known.
    pub validation: Option<BTreeMap<String, f64>>,
    /// Samples trained on in a second.
    pub samples_per_s: Option<f64>,
}

/// An item as people know it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ItemView {
    /// The user's id.
    pub item_id: String,
    /// Its title in the catalog.
    pub title: Option<String>,
}

/// A recommended item.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ScoredView {
    /// The item.
    pub item: ItemView,
    /// Log-probability of its semantic ID.
    pub score: f64,
    /// Whether it is what the user took next.
    pub is_target: bool,
    /// Its semantic ID, `[L]`.
    pub semantic_id: Vec<u16>,
}

/// A user, what they did, and what they are recommended.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct UserStory {
    /// The user's id.
    pub user: String,
    /// Items, oldest first, `[H]`.
    pub history: Vec<ItemView>,
    /// What the user took next.
    pub target: Option<ItemView>,
    /// The ranking's first items, best first.
    pub recommendations: Vec<ScoredView>,
}

/// All that a page about tokenizers shows: one, or several side by side.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct QualityPage {
    /// Its heading.
    pub title: String,
    /// Names and values in the order of the page.
    pub facts: Vec<(String, String)>,
    /// The semantic IDs that are judged; the first is the one that others are set beside.
    pub subjects: Vec<Subject>,
}

/// The page about tokenizers, as one self-contained HTML file.
///
/// # Errors
/// As [`render`].
pub fn render_quality(data: &QualityPage) -> Result<String> {
    page::quality_page(data)
}

/// The page, as one self-contained HTML file.
///
/// # Errors
/// None that data can cause: a chart or the template that cannot be drawn is a defect, and says so.
pub fn render(data: &ReportData) -> Result<String> {
    page::page(data)
}
