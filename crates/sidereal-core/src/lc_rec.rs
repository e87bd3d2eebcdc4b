//! The LC-Rec family's index file: `{"item": ["<a_12>", "<b_7>", ...], ...}`, one token per level.
//!
//! LC-Rec, LETTER, MiniOneRec and their descendants exchange semantic IDs in this form; the letter names the level and
//! the number the code. Levels beyond `z` do not occur.

use std::path::Path;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::artifact::write_atomic;
use crate::catalog::Catalog;
use crate::error::{Error, Result};
use crate::item::ItemId;
use crate::semantic_id::SemanticIds;

/// Semantic IDs by item, as an index file lists them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// Item ids: in numeric order where all are integers, else in the file's order. `[N]`
    pub ids: Vec<ItemId>,
    /// Their semantic IDs, [N, L].
    pub sids: SemanticIds,
}

/// Reads an index file.
///
/// # Errors
/// JSON that is not such an index, an item that appears twice, items with different numbers of levels, a token that is
/// not of the form `<a_12>` with the level's letter. The item is named.
pub fn read_index(path: &Path) -> Result<Index> {
    let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
    let rows: Rows = serde_json::from_slice(&bytes).map_err(|e| {
        let mend = "give a JSON object of item ids to lists of tokens like {\"17\": [\"<a_12>\", \"<b_7>\"]}";
        Error::artifact(path, e.to_string(), mend)
    })?;
    let mut rows = rows.0;
    if rows.iter().all(|(id, _)| id.parse::<u64>().is_ok()) {
        rows.sort_by_key(|(id, _)| id.parse::<u64>().unwrap_or(u64::MAX));
    }
    let levels = rows.first().map_or(0, |(_, tokens)| tokens.len());
    let place = |id: &str| format!("{}, item {id:?}", path.display());
    if levels == 0 {
        return Err(Error::artifact(path, "it lists no semantic IDs", "check that it is the file you meant"));
    }
    let mut seen = std::collections::HashSet::with_capacity(rows.len());
    let mut codes = Vec::with_capacity(rows.len() * levels);
    for (id, tokens) in &rows {
        if !seen.insert(id.as_str()) {
            return Err(Error::input(place(id), "it appears a second time", "remove one of the two"));
        }
        if tokens.len() != levels {
            let problem = format!("{} tokens, but the first item has {levels}", tokens.len());
            return Err(Error::input(place(id), problem, "give every item one token per level"));
        }
        for (level, token) in tokens.iter().enumerate() {
            codes.push(code_of(token, level).ok_or_else(|| {
                let problem = format!("token {token:?} at level {level} is not of the form <{}_12>", letter(level));
                Error::input(place(id), problem, "write the level's letter and a code below 65536")
            })?);
        }
    }
    let sids = SemanticIds::new(levels, codes)?;
    Ok(Index { ids: rows.into_iter().map(|(id, _)| ItemId::from(id)).collect(), sids })
}

/// Writes a catalog's semantic IDs, suffix included, as an index file, items in catalog order.
///
/// # Errors
/// More than 26 levels, and whatever the file system says.
pub fn write_index(catalog: &Catalog, path: &Path) -> Result<()> {
    if catalog.levels() > 26 {
        let problem = format!("{} levels, but the format has a letter for 26", catalog.levels());
        return Err(Error::input("catalog", problem, "export another format"));
    }
    write_atomic(path, |out| {
        out.write_all(b"{")?;
        for item in 0..catalog.len() as u32 {
            let tokens: Vec<String> = catalog
                .semantic_id(item)
                .iter()
                .enumerate()
                .map(|(l, code)| format!("<{}_{code}>", letter(l)))
                .collect();
            out.write_all(if item == 0 { b"\n" } else { b",\n" })?;
            serde_json::to_writer(&mut *out, catalog.item_id(item))?;
            out.write_all(b": ")?;
            serde_json::to_writer(&mut *out, &tokens)?;
        }
        out.write_all(b"\n}\n")
    })
}

fn letter(level: usize) -> char {
    char::from(b'a' + (level % 26) as u8)
}

fn code_of(token: &str, level: usize) -> Option<u16> {
    let inner = token.strip_prefix('<')?.strip_suffix('>')?;
    let (name, number) = inner.split_once('_')?;
    let is_level = level < 26 && name.chars().eq([letter(level)]);
    let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    (is_level && digits).then(|| number.parse().ok()).flatten()
}

/// The file's pairs in its own order, repeats included.
struct Rows(Vec<(String, Vec<String>)>);

impl<'de> Deserialize<'de> for Rows {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Rows;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of item ids to lists of tokens")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Rows, A::Error> {
                let mut rows = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    rows.push(pair);
                }
                Ok(Rows(rows))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::collision::CollisionPolicy;

    fn read(text: &str) -> Result<Index> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.index.json");
        std::fs::write(&path, text).unwrap();
        read_index(&path)
    }

    #[test]
    fn an_index_is_read_in_numeric_order_and_written_back() {
        let index = read(r#"{"10": ["<a_1>", "<b_200>"], "9": ["<a_0>", "<b_65535>"]}"#).unwrap();
        assert_eq!(index.ids, [ItemId::from("9"), ItemId::from("10")]);
        assert_eq!(index.sids.codes(), [0, 65535, 1, 200]);
        let catalog = Catalog::build(&index.ids, &index.sids, &[2, 65536], CollisionPolicy::Postings, None).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.json");
        write_index(&catalog, &path).unwrap();
        assert_eq!(read_index(&path).unwrap(), index);
    }

    #[test]
    fn wrong_indexes_name_the_item() {
        for (text, expected) in [
            (r#"{"x": ["<a_1>"], "y": ["<a_1>", "<b_1>"]}"#, "item \"y\": 2 tokens"),
            (r#"{"x": ["<b_1>"]}"#, "is not of the form <a_12>"),
            (r#"{"x": ["<a_70000>"]}"#, "is not of the form"),
            (r#"{"x": ["<a_+1>"]}"#, "is not of the form"),
            (r#"{"x": ["<a_1>"], "x": ["<a_2>"]}"#, "second time"),
            ("{}", "lists no semantic IDs"),
            (r#"{"x": [1]}"#, "line 1"),
            ("[", "line 1"),
            ("", "line 1"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
