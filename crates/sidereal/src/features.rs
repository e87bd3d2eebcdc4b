//! Semantic IDs as features of other rankers: every item becomes a short list of ids of one embedding table.
//!
//! *Paper*: Singh et al., "Better Generalization with Semantic IDs" (arXiv 2306.08121), section 4: n-grams of codes, and
//! SentencePiece pieces of code strings; prefixes as in Zheng et al. (arXiv 2504.02137).
//! *Differs from the paper*: all n-grams share one table, numbered densely or hashed, instead of one of K^n a place.
//!
//! The item table is Parquet of `item_id` and `features`, and beside it lies `FILE.vocabulary.json`, which says what every
//! id means, so that items to come get the same ids.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ListBuilder, RecordBatch, StringArray, UInt32Builder};
use arrow::datatypes::{Field, Schema};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sidereal_core::artifact::write_json;
use sidereal_core::{Catalog, Error, ItemIndex, SemanticIds};

use crate::run::Run;
use crate::{Result, parquet_file};

mod pieces;

/// Rows of a batch that is written.
const BATCH_ROWS: usize = 65_536;

/// What an item's list holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// An id for each prefix of the semantic ID, shortest first: L of them.
    Prefix,
    /// An id for every n codes one after the other, with their place: L / n of them, the last one shorter where n does
    /// not divide L.
    Ngram,
    /// Ids of the pieces that a unigram model cuts the semantic ID into: frequent prefixes and parts are one piece.
    Pieces,
}

impl std::str::FromStr for Kind {
    type Err = sidereal_core::Error;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "prefix" => Ok(Self::Prefix),
            "ngram" => Ok(Self::Ngram),
            "pieces" => Ok(Self::Pieces),
            _ => {
                let problem = format!("there are no features named {name:?}");
                Err(Error::config("kind", problem, "use one of: prefix, ngram, pieces"))
            }
        }
    }
}

/// What is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Wish {
    /// What an item's list holds.
    pub kind: Kind,
    /// Ids at most. Prefixes and n-grams are hashed into so many; without it each that occurs has its own.
    pub vocab: Option<u32>,
    /// Codes of an n-gram.
    pub n: usize,
}

/// Pieces where no number is given, as in SentencePiece.
pub const DEFAULT_PIECES: u32 = 8000;

/// What was written.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Written {
    /// The item table.
    pub out: PathBuf,
    /// What the ids mean.
    pub vocabulary: PathBuf,
    /// N.
    pub items: usize,
    /// Ids that there are.
    pub ids: usize,
    /// Mean length of an item's list.
    pub mean_features: f64,
}

/// An item's list for every item, and what the ids mean.
#[derive(Debug, Clone, PartialEq)]
pub struct Features {
    /// `[N]` lists of ids.
    pub lists: Vec<Vec<u32>>,
    /// Ids that there are.
    pub ids: usize,
    /// The meaning of the ids, for the vocabulary file.
    pub vocabulary: serde_json::Value,
}

/// Writes the features of a run's catalog, removed items included: histories still name them.
///
/// # Errors
/// No catalog; settings that [`features`] refuses; a file that cannot be written.
pub fn write(run: &Run, wish: Wish, out: &Path) -> Result<Written> {
    parquet_file::check_folder(out)?;
    let catalog = run.catalog()?;
    let found = features(&catalog.semantic_ids()?, catalog.codes_per_level(), wish)?;
    let mut name = out.as_os_str().to_owned();
    name.push(".vocabulary.json");
    let vocabulary = PathBuf::from(name);
    let job = json!({ "catalog": catalog.version(), "features": wish.kind, "vocab": wish.vocab, "n": wish.n });
    write_lists(out, &catalog, &found.lists, &job.to_string())?;
    let mut told = json!({ "catalog_version": catalog.version(), "kind": wish.kind, "ids": found.ids });
    if let (Some(told), serde_json::Value::Object(more)) = (told.as_object_mut(), found.vocabulary) {
        told.extend(more);
    }
    write_json(&vocabulary, &told)?;
    let features: usize = found.lists.iter().map(Vec::len).sum();
    Ok(Written {
        out: out.to_path_buf(),
        vocabulary,
        items: found.lists.len(),
        ids: found.ids,
        mean_features: features as f64 / found.lists.len().max(1) as f64,
    })
}

/// The features of semantic IDs.
///
/// # Errors
/// A vocabulary that is too small for the codes; n-grams of no codes or of more than there are levels.
///
/// # Shapes
/// `ids`: [N, L]; `codes_per_level`: `[L]`
pub fn features(ids: &SemanticIds, codes_per_level: &[u32], wish: Wish) -> Result<Features> {
    ids.check_codes(codes_per_level)?;
    if wish.vocab == Some(0) {
        return Err(Error::config("vocab", "no ids", "give 1 or more").into());
    }
    match wish.kind {
        Kind::Prefix => Ok(numbered(ids, wish.vocab, |levels| (1..=levels).map(|depth| 0..depth).collect())),
        Kind::Ngram => {
            if wish.n == 0 || wish.n > ids.levels() {
                let problem = format!("{} codes of {} levels", wish.n, ids.levels());
                return Err(Error::config("n", problem, "give 1 to the number of levels").into());
            }
            let windows = |levels: usize| (0..levels).step_by(wish.n).map(|at| at..levels.min(at + wish.n)).collect();
            Ok(numbered(ids, wish.vocab, windows))
        }
        Kind::Pieces => pieces::features(ids, codes_per_level, wish.vocab.unwrap_or(DEFAULT_PIECES)),
    }
}

/// Numbers the parts of semantic IDs: densely by place and codes in ascending order, or by hash.
fn numbered(ids: &SemanticIds, vocab: Option<u32>, parts: impl Fn(usize) -> Vec<std::ops::Range<usize>>) -> Features {
    let parts = parts(ids.levels());
    if let Some(vocab) = vocab {
        let list = |row: &[u16]| {
            let hashes = parts.iter().map(|part| hash(part, &row[part.clone()]) % u64::from(vocab));
            hashes.map(|hash| hash as u32).collect()
        };
        let vocabulary = json!({
            "numbering": "hashed",
            "hash": "start = first level * 256 + number of codes; then splitmix64(start ^ code) for each code; modulo ids",
            "parts": parts.iter().map(|part| [part.start, part.end]).collect::<Vec<_>>(),
        });
        return Features { lists: ids.rows().map(list).collect(), ids: vocab as usize, vocabulary };
    }
    let mut numbers: BTreeMap<(usize, &[u16]), u32> = BTreeMap::new();
    for row in ids.rows() {
        for (at, part) in parts.iter().enumerate() {
            numbers.insert((at, &row[part.clone()]), 0);
        }
    }
    for (number, place) in (0..).zip(numbers.values_mut()) {
        *place = number;
    }
    let list = |row: &[u16]| {
        parts.iter().enumerate().filter_map(|(at, part)| numbers.get(&(at, &row[part.clone()])).copied()).collect()
    };
    let entries: Vec<serde_json::Value> =
        numbers.keys().map(|(at, codes)| json!({ "first_level": parts[*at].start, "codes": codes })).collect();
    Features {
        lists: ids.rows().map(list).collect(),
        ids: numbers.len(),
        vocabulary: json!({ "numbering": "dense", "entries": entries }),
    }
}

/// The same on every machine: SplitMix64's mixer over the place and the codes.
fn hash(part: &std::ops::Range<usize>, codes: &[u16]) -> u64 {
    let mixed = |state: u64| {
        let state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let state = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let state = (state ^ state >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        state ^ state >> 31
    };
    codes.iter().fold((part.start * 256 + part.len()) as u64, |state, &code| mixed(state ^ u64::from(code)))
}

fn write_lists(out: &Path, catalog: &Catalog, lists: &[Vec<u32>], job: &str) -> Result<()> {
    let columns = |rows: std::ops::Range<usize>| -> Vec<ArrayRef> {
        let ids: StringArray = rows.clone().map(|item| Some(catalog.item_id(item as ItemIndex))).collect();
        let mut features = ListBuilder::new(UInt32Builder::new());
        for list in &lists[rows] {
            features.values().append_slice(list);
            features.append(true);
        }
        vec![Arc::new(ids), Arc::new(features.finish())]
    };
    let fields = ["item_id", "features"].into_iter().zip(columns(0..0));
    let fields: Vec<Field> = fields.map(|(name, column)| Field::new(name, column.data_type().clone(), false)).collect();
    let schema = Arc::new(Schema::new(fields));
    let batches = (0..lists.len()).step_by(BATCH_ROWS).map(|start| {
        RecordBatch::try_new(Arc::clone(&schema), columns(start..lists.len().min(start + BATCH_ROWS)))
            .map_err(|e| Error::input("features", e.to_string(), "this is a defect: report it").into())
    });
    parquet_file::write(out, &schema, job, batches)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn ids() -> SemanticIds {
        SemanticIds::new(3, [[0, 1, 2], [0, 1, 3], [4, 1, 2]].concat()).unwrap()
    }

    fn lists(kind: Kind, vocab: Option<u32>, n: usize) -> Features {
        features(&ids(), &[8, 8, 8], Wish { kind, vocab, n }).unwrap()
    }

    #[test]
    fn prefixes_are_numbered_by_depth_and_codes() {
        let found = lists(Kind::Prefix, None, 1);
        assert_eq!(found.lists, [[0, 2, 4], [0, 2, 5], [1, 3, 6]]);
        assert_eq!(found.ids, 7);
        assert_eq!(found.vocabulary["entries"][5], json!({ "first_level": 0, "codes": [0, 1, 3] }));
    }

    #[test]
    fn ngrams_keep_their_place_and_the_last_may_be_shorter() {
        assert_eq!(lists(Kind::Ngram, None, 1).lists, [[0, 2, 3], [0, 2, 4], [1, 2, 3]]);
        let pairs = lists(Kind::Ngram, None, 2);
        assert_eq!(pairs.lists, [[0, 2], [0, 3], [1, 2]]);
        assert_eq!(pairs.vocabulary["entries"][3], json!({ "first_level": 2, "codes": [3] }));
        let wish = Wish { kind: Kind::Ngram, vocab: None, n: 4 };
        assert!(features(&ids(), &[8, 8, 8], wish).unwrap_err().to_string().contains("4 codes of 3 levels"));
    }

    #[test]
    fn hashed_ids_are_below_their_number_and_equal_where_the_parts_are() {
        let found = lists(Kind::Prefix, Some(50), 1);
        assert!(found.lists.iter().flatten().all(|&id| id < 50));
        assert_eq!(found.lists[0][..2], found.lists[1][..2]);
        assert_ne!(found.lists[0], found.lists[2]);
        // Fixed for good: features of another day must be the same.
        assert_eq!(hash(&(0..2), &[1, 2]), hash(&(0..2), &[1, 2]));
        assert_ne!(hash(&(0..1), &[1]), hash(&(1..2), &[1]));
        assert!(features(&ids(), &[8, 8, 8], Wish { kind: Kind::Prefix, vocab: Some(0), n: 1 }).is_err());
    }
}
