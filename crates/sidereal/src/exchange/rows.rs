//! Semantic IDs row by row, as the readers of formats find them.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use sidereal_core::{Error, ItemId, SemanticIds};
use sidereal_tokenizer::codes::MAX_LEVELS;

use super::Foreign;
use crate::Result;

/// Gathers rows and refuses what cannot be an index.
pub(super) struct Rows {
    path: PathBuf,
    levels: usize,
    codes: Vec<u16>,
    ids: Vec<ItemId>,
    seen: HashSet<String>,
}

impl Rows {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_path_buf(), levels: 0, codes: Vec::new(), ids: Vec::new(), seen: HashSet::new() }
    }

    /// Takes an item and its codes; `place` says where they stand ("line 3").
    ///
    /// # Errors
    /// An item that appears twice, another number of levels, a code outside 0 to 65535.
    pub(super) fn push(&mut self, place: &str, id: &str, codes: impl IntoIterator<Item = i64>) -> Result<()> {
        let wrong = |problem: String, mend: &str| {
            Error::input(format!("{}, {place}, item {id:?}", self.path.display()), problem, mend).into()
        };
        if !self.seen.insert(id.to_owned()) {
            return Err(wrong("it appears a second time".to_owned(), "remove one of the two"));
        }
        let before = self.codes.len();
        for (level, code) in codes.into_iter().enumerate() {
            match u16::try_from(code) {
                Ok(code) => self.codes.push(code),
                Err(_) => {
                    let problem = format!("code {code} at level {level} is not between 0 and 65535");
                    return Err(wrong(problem, "give codes, not token ids of a model"));
                }
            }
        }
        let levels = self.codes.len() - before;
        if self.ids.is_empty() {
            self.levels = levels;
        }
        if levels != self.levels || levels == 0 || levels > MAX_LEVELS {
            let problem = match self.ids.is_empty() {
                true => format!("{levels} codes"),
                false => format!("{levels} codes, but the first item has {}", self.levels),
            };
            return Err(wrong(problem, "give every item one code per level, 1 to 256 of them"));
        }
        self.ids.push(ItemId::from(id));
        Ok(())
    }

    /// # Errors
    /// No rows.
    pub(super) fn finish(self) -> Result<Foreign> {
        if self.ids.is_empty() {
            let mend = "check that it is the file you meant";
            return Err(Error::artifact(self.path, "it lists no semantic IDs", mend).into());
        }
        let sids = SemanticIds::new(self.levels, self.codes)?;
        Ok(Foreign { ids: Some(self.ids), sids, codes_per_level: None })
    }
}
