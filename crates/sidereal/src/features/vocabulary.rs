//! A vocabulary that an earlier call wrote, read back: what has an id keeps it, and what is new gets ids behind them.

use std::path::Path;

use serde::Deserialize;
use sidereal_core::Error;
use sidereal_core::artifact::read_json;

use super::{Kind, Wish};
use crate::Result;

/// What the ids of some features mean; what else the file says is for other readers.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Vocabulary {
    kind: Kind,
    /// Codes of an n-gram; of n-grams only.
    #[serde(default)]
    n: Option<usize>,
    ids: usize,
    numbering: Numbering,
    #[serde(default)]
    pub(super) entries: Vec<Entry>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Numbering {
    Dense,
    Hashed,
    Pieces,
}

/// What one id stands for.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Entry {
    pub(super) first_level: usize,
    pub(super) codes: Vec<u16>,
    /// Of pieces only.
    #[serde(default)]
    pub(super) log_probability: Option<f64>,
}

impl Vocabulary {
    /// Reads the file that stands beside features.
    ///
    /// # Errors
    /// A file that cannot be read, is none, or was changed: another number of entries than ids.
    pub fn read(path: &Path) -> Result<Self> {
        let found: Self = read_json(path)?;
        let wrong =
            |problem: String| Error::artifact(path, problem, "give the file that `catalog features` wrote").into();
        let listed = found.numbering != Numbering::Hashed;
        if listed && found.entries.len() != found.ids {
            return Err(wrong(format!("it says that there are {} ids and lists {}", found.ids, found.entries.len())));
        }
        if found.kind == Kind::Ngram && found.n.is_none() {
            return Err(wrong("it does not say how many codes an n-gram has".to_owned()));
        }
        if let Some(id) = found.entries.iter().position(|entry| entry.codes.is_empty()) {
            return Err(wrong(format!("id {id} stands for no codes")));
        }
        let has_chance = |entry: &Entry| entry.log_probability.is_some_and(f64::is_finite);
        if found.numbering == Numbering::Pieces && !found.entries.iter().all(has_chance) {
            return Err(wrong("some piece has no log_probability".to_owned()));
        }
        Ok(found)
    }

    /// The same features again; `kind` is what was asked for, if anything was.
    ///
    /// # Errors
    /// Another kind than the vocabulary's.
    pub fn wish(&self, kind: Option<Kind>) -> Result<Wish<'_>> {
        if let Some(kind) = kind.filter(|&kind| kind != self.kind) {
            let problem = format!("{kind:?} features, but the vocabulary is of {:?}", self.kind).to_lowercase();
            return Err(Error::config("--kind", problem, "leave it out, or give another vocabulary").into());
        }
        let vocab = (self.numbering == Numbering::Hashed).then_some(u32::try_from(self.ids).unwrap_or(u32::MAX));
        Ok(Wish { kind: self.kind, vocab, n: self.n.unwrap_or(1), earlier: Some(self) })
    }
}
