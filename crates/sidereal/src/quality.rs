//! How good semantic IDs are: those of a run's catalog, and those of other tokenizers beside them.

use std::path::Path;

use serde::Serialize;
use sidereal_core::artifact::{MANIFEST, read_manifest};
use sidereal_core::{Embeddings, Error, ItemIndex, Progress, SemanticIds};
use sidereal_tokenizer::ItemTokenizer;
use sidereal_tokenizer::report::{
    CardEvidence, ConceptCard, Evidence, QualityReport, code_counts, concept_cards, consecutive_pairs, held_out_pairs,
    report,
};

use crate::Result;
use crate::run::{Run, Stage};
use crate::stages::tokenizer::Known;

pub mod compare;

/// Seed of the report's samples: a report of the same catalog is the same.
const REPORT_SEED: u64 = 0;
/// Codes of level 0 whose cards are opened one level further.
const OPENED_CARDS: usize = 3;

/// Semantic IDs with what is known of their quality.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Subject {
    /// The run's or tokenizer's name.
    pub name: String,
    /// The method that made them, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<&'static str>,
    /// The figures.
    #[serde(flatten)]
    pub report: QualityReport,
    /// What the codes stand for; empty unless asked for, or where nothing is known of the items.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cards: Vec<ConceptCard>,
    /// Items of each code, `[L][K]`.
    #[serde(skip)]
    pub code_counts: Vec<Vec<u32>>,
}

/// What a run knows of its items, to judge semantic IDs by.
pub struct Judge {
    known: Known,
    embeddings: Option<Embeddings>,
    popularity: Option<Vec<u32>>,
    categories: Option<Vec<Option<String>>>,
    co_purchases: Option<Vec<(ItemIndex, ItemIndex)>>,
    held_out_co_purchases: Option<Vec<(ItemIndex, ItemIndex)>>,
}

impl Judge {
    /// Reads what the run has.
    ///
    /// # Errors
    /// A damaged stage.
    pub fn of(run: &Run) -> Result<Self> {
        let known = Known::of(run)?;
        let learned = known.data.as_ref().zip(known.split.as_ref());
        let popularity = learned.map(|(data, split)| split.training_popularity(&data.histories, data.items.len()));
        let co_purchases = learned.map(|(data, split)| consecutive_pairs(&data.histories, &split.train_end));
        Ok(Self {
            embeddings: if run.has(Stage::Embeddings) { Some(run.embeddings()?) } else { None },
            categories: known.categories.as_deref().map(telling_categories),
            popularity,
            co_purchases,
            held_out_co_purchases: learned.map(|(data, split)| held_out_pairs(&data.histories, split)),
            known,
        })
    }

    /// Judges the semantic IDs of a run's catalog.
    ///
    /// # Errors
    /// No catalog, or a damaged stage.
    pub fn catalog(&self, run: &Run, cards: bool) -> Result<Subject> {
        let catalog = run.catalog()?;
        let codes = &catalog.codes_per_level()[..catalog.tokenizer_levels()];
        let tokenizer = if run.has(Stage::Tokenizer) { Some(run.tokenizer()?) } else { None };
        // An imported catalog's codes are not those of a tokenizer that happens to be beside it.
        let tokenizer = tokenizer.filter(|t| t.codes_per_level() == codes);
        let name = run.root().canonicalize().unwrap_or_else(|_| run.root().to_path_buf());
        // Of a catalog that has lived, the items that it was built of: the run's vectors and histories are theirs.
        let sids = catalog.tokenizer_semantic_ids()?;
        let sids = SemanticIds::new(sids.levels(), sids.codes()[..catalog.built_items() * sids.levels()].to_vec())?;
        self.subject(name_of(&name), &sids, codes, tokenizer.as_ref(), cards)
    }

    /// Judges the semantic IDs that a tokenizer gives the run's items.
    ///
    /// # Errors
    /// A run without embeddings; vectors that do not fit the tokenizer.
    pub fn tokenizer(&self, name: &str, tokenizer: &ItemTokenizer, cards: bool) -> Result<Subject> {
        let sids = self.encode(tokenizer)?;
        self.subject(name.to_owned(), &sids, tokenizer.codes_per_level(), Some(tokenizer), cards)
    }

    /// The semantic IDs that a tokenizer gives the run's items, [N, L].
    ///
    /// # Errors
    /// As [`Judge::tokenizer`].
    pub fn encode(&self, tokenizer: &ItemTokenizer) -> Result<SemanticIds> {
        let Some(embeddings) = &self.embeddings else {
            let mend = "give it embeddings with `sidereal embed`, or compare runs that have a catalog";
            return Err(Error::mismatch("the run has no embeddings for the tokenizer to encode", mend).into());
        };
        match &self.known.data {
            Some(data) => tokenizer.encode_items(data.items.ids(), embeddings),
            None => tokenizer.encode(embeddings),
        }
    }

    fn subject(
        &self,
        name: String,
        sids: &SemanticIds,
        codes: &[u32],
        tokenizer: Option<&ItemTokenizer>,
        cards: bool,
    ) -> Result<Subject> {
        let evidence = Evidence {
            embeddings: self.embeddings.as_ref(),
            tokenizer,
            popularity: self.popularity.as_deref(),
            categories: self.categories.as_deref(),
            co_purchases: self.co_purchases.as_deref(),
            held_out_co_purchases: self.held_out_co_purchases.as_deref(),
            seed: REPORT_SEED,
        };
        let cards = match self.known.data.as_ref().filter(|_| cards) {
            Some(data) => {
                let evidence = CardEvidence {
                    items: &data.items,
                    popularity: self.popularity.as_deref(),
                    categories: self.categories.as_deref(),
                };
                concept_cards(sids, &evidence, OPENED_CARDS)?
            }
            None => Vec::new(),
        };
        Ok(Subject {
            name,
            method: tokenizer.map(|tokenizer| tokenizer.description().config.name()),
            report: report(sids, codes, &evidence)?,
            cards,
            code_counts: codes.iter().enumerate().map(|(level, &codes)| code_counts(sids, level, codes)).collect(),
        })
    }
}

/// Judges a run and, beside it, other runs and tokenizers. A tokenizer's folder is judged on the items of `run`.
///
/// # Errors
/// No catalog in `run`; a path that is neither a run with a catalog nor a tokenizer; damaged stages.
pub fn side_by_side(
    run: &Run,
    others: &[impl AsRef<Path>],
    cards: bool,
    progress: &dyn Progress,
) -> Result<Vec<Subject>> {
    progress.start("tokenizer report", Some(others.len() as u64 + 1), "tokenizers");
    let judge = Judge::of(run)?;
    let mut subjects = vec![judge.catalog(run, cards)?];
    for path in others.iter().map(AsRef::as_ref) {
        progress.advance(1);
        progress.note(&path.display().to_string());
        subjects.push(match Run::open(path)? {
            other if other.has(Stage::Catalog) => Judge::of(&other)?.catalog(&other, cards)?,
            other => {
                let dir = if other.has(Stage::Tokenizer) { other.dir(Stage::Tokenizer) } else { path.to_path_buf() };
                if !dir.join(MANIFEST).is_file() {
                    let mend = "name a run with a catalog, or a tokenizer's folder";
                    return Err(Error::artifact(path, "there is neither a catalog nor a tokenizer here", mend).into());
                }
                read_manifest(&dir, Stage::Tokenizer.name())?;
                judge.tokenizer(&name_of(path), &ItemTokenizer::load(&dir)?, cards)?
            }
        });
    }
    progress.advance(1);
    progress.finish();
    Ok(subjects)
}

/// One category of each item: of the paths' parts, the outermost one at which the catalog's items differ.
fn telling_categories(paths: &[Vec<String>]) -> Vec<Option<String>> {
    let deepest = paths.iter().map(Vec::len).max().unwrap_or(0);
    let differ = |depth: usize| {
        let mut parts = paths.iter().filter_map(|path| path.get(depth));
        parts.next().is_some_and(|first| parts.any(|part| part != first))
    };
    let depth = (0..deepest).find(|&depth| differ(depth)).unwrap_or(0);
    paths.iter().map(|path| path.get(depth).cloned()).collect()
}

fn name_of(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_category_is_the_outermost_part_that_tells_items_apart() {
        let path = |parts: &[&str]| parts.iter().map(|part| (*part).to_owned()).collect::<Vec<_>>();
        let paths = [path(&["Beauty", "Hair", "Brushes"]), path(&["Beauty", "Skin"]), path(&[]), path(&["Beauty"])];
        let told = |parts: [Option<&str>; 4]| parts.map(|part| part.map(str::to_owned)).to_vec();
        assert_eq!(telling_categories(&paths), told([Some("Hair"), Some("Skin"), None, None]));
        assert_eq!(telling_categories(&paths[3..]), [Some("Beauty".to_owned())]);
    }
}
