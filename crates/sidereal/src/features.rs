//! Semantic IDs as features of other rankers: every item becomes a short list of ids of one embedding table.
//!
//! *Paper*: Singh et al., "Better Generalization with Semantic IDs" (arXiv 2306.08121), section 4: n-grams of codes, and
//! SentencePiece pieces of code strings; prefixes as in Zheng et al. (arXiv 2504.02137).
//! *Differs from the paper*: all n-grams share one table, numbered densely or hashed, instead of one of K^n a place.
//!
//! The item table is Parquet of `item_id` and `features`, and beside it lies `FILE.vocabulary.json`, which says what every
//! id means, so that items to come get the same ids: a [`Vocabulary`] that is given back keeps all of its ids, and what is
//! new stands behind them.

use std::collections::{BTreeSet, HashMap};
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
mod vocabulary;

use vocabulary::Entry;
pub use vocabulary::Vocabulary;

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
pub struct Wish<'a> {
    /// What an item's list holds.
    pub kind: Kind,
    /// Ids at most. Prefixes and n-grams are hashed into so many; without it each that occurs has its own.
    pub vocab: Option<u32>,
    /// Codes of an n-gram.
    pub n: usize,
    /// Ids that there are already: [`Vocabulary::wish`] asks for the same features again.
    pub earlier: Option<&'a Vocabulary>,
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
pub fn write(run: &Run, wish: Wish<'_>, out: &Path) -> Result<Written> {
    parquet_file::check_folder(out)?;
    let catalog = run.catalog()?;
    let found = features(&catalog.semantic_ids()?, catalog.codes_per_level(), wish)?;
    let mut name = out.as_os_str().to_owned();
    name.push(".vocabulary.json");
    let vocabulary = PathBuf::from(name);
    let job = json!({ "catalog": catalog.version(), "features": wish.kind, "vocab": wish.vocab, "n": wish.n });
    write_lists(out, &catalog, &found.lists, &job.to_string())?;
    let n = (wish.kind == Kind::Ngram).then_some(wish.n);
    let mut told = json!({ "catalog_version": catalog.version(), "kind": wish.kind, "n": n, "ids": found.ids });
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
/// A vocabulary that is too small for the codes; n-grams of no codes or of more than there are levels; an earlier
/// vocabulary of semantic IDs of other sizes.
///
/// # Shapes
/// `ids`: [N, L]; `codes_per_level`: `[L]`
pub fn features(ids: &SemanticIds, codes_per_level: &[u32], wish: Wish<'_>) -> Result<Features> {
    ids.check_codes(codes_per_level)?;
    if wish.vocab == Some(0) {
        return Err(Error::config("vocab", "no ids", "give 1 or more").into());
    }
    let levels = ids.levels();
    let known = wish.earlier.map_or(&[][..], |earlier| &earlier.entries);
    check_known(known, codes_per_level)?;
    match wish.kind {
        Kind::Prefix => numbered(ids, wish.vocab, (1..=levels).map(|depth| 0..depth).collect(), known),
        Kind::Ngram => {
            if wish.n == 0 || wish.n > levels {
                let problem = format!("{} codes of {levels} levels", wish.n);
                return Err(Error::config("n", problem, "give 1 to the number of levels").into());
            }
            let windows = (0..levels).step_by(wish.n).map(|at| at..levels.min(at + wish.n)).collect();
            numbered(ids, wish.vocab, windows, known)
        }
        Kind::Pieces => pieces::features(ids, codes_per_level, wish.vocab.unwrap_or(DEFAULT_PIECES), known),
    }
}

/// Refuses what is known of semantic IDs of other sizes.
fn check_known(known: &[Entry], codes_per_level: &[u32]) -> Result<()> {
    let fits = |entry: &Entry| {
        let sizes = codes_per_level.get(entry.first_level..).unwrap_or(&[]);
        entry.codes.len() <= sizes.len() && entry.codes.iter().zip(sizes).all(|(&code, &k)| u32::from(code) < k)
    };
    match known.iter().position(|entry| !fits(entry)) {
        None => Ok(()),
        Some(id) => Err(other_ids(id, &format!("it does not fit {codes_per_level:?} codes per level"))),
    }
}

fn other_ids(id: usize, problem: &str) -> crate::Error {
    let mend = "give the vocabulary that was made of this catalog or an earlier version of it";
    Error::input(format!("vocabulary, id {id}"), problem, mend).into()
}

/// Numbers the parts of semantic IDs: by hash, or densely, first those that are known, then by place and codes in
/// ascending order.
fn numbered(
    ids: &SemanticIds,
    vocab: Option<u32>,
    parts: Vec<std::ops::Range<usize>>,
    known: &[Entry],
) -> Result<Features> {
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
        return Ok(Features { lists: ids.rows().map(list).collect(), ids: vocab as usize, vocabulary });
    }
    let mut numbers: HashMap<(usize, &[u16]), u32> = HashMap::new();
    let mut entries: Vec<(usize, &[u16])> = Vec::new();
    for (id, Entry { first_level, codes, .. }) in known.iter().enumerate() {
        let is_it = |part: &std::ops::Range<usize>| part.start == *first_level && part.len() == codes.len();
        let Some(at) = parts.iter().position(is_it) else {
            return Err(other_ids(id, "it is no part of these semantic IDs"));
        };
        if numbers.insert((at, codes), id as u32).is_some() {
            return Err(other_ids(id, "it stands for what an earlier id stands for"));
        }
        entries.push((at, codes));
    }
    let new: BTreeSet<(usize, &[u16])> = ids
        .rows()
        .flat_map(|row| parts.iter().enumerate().map(move |(at, part)| (at, &row[part.clone()])))
        .filter(|part| !numbers.contains_key(part))
        .collect();
    for part in new {
        numbers.insert(part, entries.len() as u32);
        entries.push(part);
    }
    let list = |row: &[u16]| {
        parts.iter().enumerate().filter_map(|(at, part)| numbers.get(&(at, &row[part.clone()])).copied()).collect()
    };
    let told: Vec<serde_json::Value> =
        entries.iter().map(|(at, codes)| json!({ "first_level": parts[*at].start, "codes": codes })).collect();
    Ok(Features {
        lists: ids.rows().map(list).collect(),
        ids: entries.len(),
        vocabulary: json!({ "numbering": "dense", "entries": told }),
    })
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
        features(&ids(), &[8, 8, 8], Wish { kind, vocab, n, earlier: None }).unwrap()
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
        let wish = Wish { kind: Kind::Ngram, vocab: None, n: 4, earlier: None };
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
        assert!(
            features(&ids(), &[8, 8, 8], Wish { kind: Kind::Prefix, vocab: Some(0), n: 1, earlier: None }).is_err()
        );
    }

    /// What `write` puts beside features, read back.
    fn kept(dir: &Path, wish: Wish<'_>, found: &Features) -> Vocabulary {
        let path = dir.join("vocabulary.json");
        let n = (wish.kind == Kind::Ngram).then_some(wish.n);
        let mut told = json!({ "catalog_version": "1", "kind": wish.kind, "n": n, "ids": found.ids });
        told.as_object_mut().unwrap().extend(found.vocabulary.as_object().unwrap().clone());
        write_json(&path, &told).unwrap();
        Vocabulary::read(&path).unwrap()
    }

    #[test]
    fn what_has_an_id_keeps_it_and_what_is_new_stands_behind() {
        let dir = tempfile::tempdir().unwrap();
        let before = SemanticIds::new(3, (0..60u16).flat_map(|i| [i % 5, i % 7 % 4 + 2, i % 3]).collect()).unwrap();
        let more = [[0, 1, 2], [7, 7, 7], [4, 3, 2], [0, 0, 7]].concat();
        let after = SemanticIds::new(3, [before.codes(), &more].concat()).unwrap();
        for (kind, vocab) in [Kind::Prefix, Kind::Ngram, Kind::Pieces].into_iter().zip([None, None, Some(40)]) {
            let wish = Wish { kind, vocab, n: 2, earlier: None };
            let first = features(&before, &[8; 3], wish).unwrap();
            let known = kept(dir.path(), wish, &first);
            assert_eq!(features(&before, &[8; 3], known.wish(None).unwrap()).unwrap(), first, "{kind:?}");
            let second = features(&after, &[8; 3], known.wish(Some(kind)).unwrap()).unwrap();
            assert_eq!(second.lists[..60], first.lists[..], "{kind:?}");
            let entries = |found: &Features| found.vocabulary["entries"].as_array().unwrap().clone();
            assert_eq!(entries(&second)[..first.ids], entries(&first)[..], "{kind:?}");
            assert!(second.ids > first.ids && entries(&second).len() == second.ids, "{kind:?}");
            assert!(second.lists[61].iter().all(|&id| id as usize >= first.ids), "{kind:?}: codes that nobody had");
            if kind != Kind::Pieces {
                let at_once = features(&after, &[8; 3], wish).unwrap();
                assert_ne!(at_once.lists[..60], first.lists[..], "{kind:?}: numbered anew, ids are others");
            }
            let error = features(&after, &[8, 8, 9], Wish { n: 3, ..known.wish(None).unwrap() });
            assert_eq!(error.is_err(), kind == Kind::Ngram);
            let error = features(&ids(), &[8, 4, 8], known.wish(None).unwrap()).unwrap_err().to_string();
            assert!(error.contains("vocabulary, id") && error.contains("[8, 4, 8]"), "{error}");
        }
        let wish = Wish { kind: Kind::Prefix, vocab: Some(50), n: 1, earlier: None };
        let hashed = features(&ids(), &[8; 3], wish).unwrap();
        let known = kept(dir.path(), wish, &hashed);
        assert_eq!(features(&ids(), &[8; 3], known.wish(None).unwrap()).unwrap(), hashed);
        let error = known.wish(Some(Kind::Pieces)).unwrap_err().to_string();
        assert!(error.contains("pieces features, but the vocabulary is of prefix"), "{error}");
    }

    #[test]
    fn a_vocabulary_that_was_changed_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v.json");
        let sound = json!({ "kind": "prefix", "ids": 1, "numbering": "dense", "entries": [{ "first_level": 0, "codes": [1] }] });
        let told = |key: &str, value: serde_json::Value| {
            let mut changed = sound.clone();
            changed[key] = value;
            write_json(&path, &changed).unwrap();
            Vocabulary::read(&path).unwrap_err().to_string()
        };
        assert!(told("ids", json!(2)).contains("2 ids and lists 1"));
        assert!(told("kind", json!("ngram")).contains("how many codes"));
        assert!(told("numbering", json!("pieces")).contains("log_probability"));
        assert!(told("entries", json!([{ "first_level": 0, "codes": [] }])).contains("id 0 stands for no codes"));
        assert!(told("kind", json!("words")).contains("v.json"));
        let entry = &sound["entries"][0];
        let twice = json!({ "kind": "prefix", "ids": 2, "numbering": "dense", "entries": [entry, entry] });
        write_json(&path, &twice).unwrap();
        let twice = Vocabulary::read(&path).unwrap();
        let error = features(&ids(), &[8; 3], twice.wish(None).unwrap()).unwrap_err().to_string();
        assert!(error.contains("vocabulary, id 1"), "{error}");
    }
}
