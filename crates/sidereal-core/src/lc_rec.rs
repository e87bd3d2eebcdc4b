//! The LC-Rec family's index file: `{"item": ["<a_12>", "<b_7>", ...], ...}`, one token per level.
//!
//! LC-Rec, LETTER, MiniOneRec and their descendants exchange semantic IDs in this form; the letter names the level and
//! the number the code. Written files have the letters `a` to `z`. Read ones may have any names (MQL4GRec's image IDs
//! have upper case), as long as all items have the same one at a level, or plain numbers `[12, 7]`.
//!
//! Where only items that would collide have one token more than the others (MiniOneRec's constrained k-means), that
//! token is read as a suffix level: 0 for items without it, its number and one for the others. Then every item has the
//! same number of levels, and no ID is the beginning of another.

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
/// JSON that is not such an index, an item that appears twice, items whose numbers of levels differ by more than one
/// suffix, a token that is not of the form `<a_12>` with the name that the level has elsewhere. The item is named.
pub fn read_index(path: &Path) -> Result<Index> {
    let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
    let rows: Rows = serde_json::from_slice(&bytes).map_err(|e| {
        let mend =
            "give a JSON object of item ids to lists like {\"17\": [\"<a_12>\", \"<b_7>\"]} or {\"17\": [12, 7]}";
        Error::artifact(path, e.to_string(), mend)
    })?;
    let mut rows = rows.0;
    if rows.iter().all(|(id, _)| id.parse::<u64>().is_ok()) {
        rows.sort_by_key(|(id, _)| id.parse::<u64>().unwrap_or(u64::MAX));
    }
    let levels = rows.iter().map(|(_, tokens)| tokens.len()).max().unwrap_or(0);
    let shortest = rows.iter().map(|(_, tokens)| tokens.len()).min().unwrap_or(0);
    let place = |id: &str| format!("{}, item {id:?}", path.display());
    if levels == 0 {
        return Err(Error::artifact(path, "it lists no semantic IDs", "check that it is the file you meant"));
    }
    if shortest == 0 || levels - shortest > 1 {
        let short = rows.iter().find(|(_, tokens)| tokens.len() == shortest).map_or("", |(id, _)| id);
        let problem = format!("{shortest} tokens, but another item has {levels}");
        return Err(Error::input(place(short), problem, "give every item one token per level, or one suffix more"));
    }
    let mut seen = std::collections::HashSet::with_capacity(rows.len());
    let mut codes = Vec::with_capacity(rows.len() * levels);
    // The name of each level's tokens, and the first item that has it.
    let mut names: Vec<Option<(Option<&str>, &str)>> = vec![None; levels];
    for (id, tokens) in &rows {
        if !seen.insert(id.as_str()) {
            return Err(Error::input(place(id), "it appears a second time", "remove one of the two"));
        }
        for (level, name) in names.iter_mut().enumerate() {
            let Some(token) = tokens.get(level) else {
                codes.push(0);
                continue;
            };
            let (found, code) = token.parts().ok_or_else(|| {
                let problem = format!("token {token} at level {level} is not of the form <{}_12>", letter(level));
                Error::input(place(id), problem, "write the level's letter and a code below 65536")
            })?;
            let (expected, first) = *name.get_or_insert((found, id));
            if found != expected {
                let shown = |name: Option<&str>| name.map_or("a plain number".to_owned(), |n| format!("<{n}_12>"));
                let problem = format!("token {token} at level {level}, where item {first:?} has {}", shown(expected));
                return Err(Error::input(place(id), problem, "name a level alike in all items"));
            }
            let code = if level >= shortest { code.checked_add(1) } else { Some(code) };
            codes.push(code.ok_or_else(|| {
                let problem = format!("suffix {token} is too large");
                Error::input(place(id), problem, "give suffixes below 65535")
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

/// A code as a file writes it.
#[derive(Debug)]
enum Token {
    Text(String),
    Number(u64),
}

impl Token {
    /// The level's name, where tokens have one, and the code.
    fn parts(&self) -> Option<(Option<&str>, u16)> {
        match self {
            Self::Number(code) => Some((None, u16::try_from(*code).ok()?)),
            Self::Text(text) => {
                let (name, number) = text.strip_prefix('<')?.strip_suffix('>')?.rsplit_once('_')?;
                let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
                let named = !name.is_empty() && !name.contains(['<', '>']);
                if digits && named { Some((Some(name), number.parse().ok()?)) } else { None }
            }
        }
    }
}

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Number(number) => write!(f, "{number}"),
        }
    }
}

impl<'de> Deserialize<'de> for Token {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = Token;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a token like \"<a_12>\" or a code like 12")
            }
            fn visit_str<E>(self, text: &str) -> Result<Token, E> {
                Ok(Token::Text(text.to_owned()))
            }
            fn visit_u64<E>(self, number: u64) -> Result<Token, E> {
                Ok(Token::Number(number))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// The file's pairs in its own order, repeats included.
struct Rows(Vec<(String, Vec<Token>)>);

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
    fn numbers_and_levels_of_any_name_are_read() {
        assert_eq!(read(r#"{"0": [228, 220, 159, 91]}"#).unwrap().sids.codes(), [228, 220, 159, 91]);
        assert_eq!(
            read(r#"{"0": ["<A_154>", "<s_b_2>"], "1": ["<A_1>", "<s_b_0>"]}"#).unwrap().sids.codes(),
            [154, 2, 1, 0]
        );
    }

    #[test]
    fn a_suffix_that_only_colliding_items_have_becomes_a_level_of_all() {
        let index =
            read(r#"{"0": ["<a_1>", "<b_2>", "<c_0>"], "1": ["<a_7>", "<b_7>"], "2": ["<a_1>", "<b_2>", "<c_1>"]}"#);
        assert_eq!(index.unwrap().sids.codes(), [1, 2, 1, 7, 7, 0, 1, 2, 2]);
    }

    #[test]
    fn wrong_indexes_name_the_item() {
        for (text, expected) in [
            (r#"{"x": ["<a_1>"], "y": ["<a_1>", "<b_1>", "<c_1>"]}"#, "item \"x\": 1 tokens"),
            (r#"{"x": ["<a_1>"], "y": []}"#, "item \"y\": 0 tokens"),
            (r#"{"x": ["<a_1>", "<b_1>"], "y": ["<b_1>", "<a_1>"]}"#, "where item \"x\" has <a_12>"),
            (r#"{"x": ["<a_1>"], "y": [1]}"#, "where item \"x\" has <a_12>"),
            (r#"{"x": ["a_1"]}"#, "is not of the form <a_12>"),
            (r#"{"x": ["<a_1>"], "y": ["<a_1>", "<b_65535>"]}"#, "suffix \"<b_65535>\" is too large"),
            (r#"{"x": [70000]}"#, "is not of the form"),
            (r#"{"x": ["<a_70000>"]}"#, "is not of the form"),
            (r#"{"x": ["<a_+1>"]}"#, "is not of the form"),
            (r#"{"x": ["<a_1>"], "x": ["<a_2>"]}"#, "second time"),
            ("{}", "lists no semantic IDs"),
            (r#"{"x": [1.5]}"#, "line 1"),
            (r#"{"x": [-1]}"#, "line 1"),
            ("[", "line 1"),
            ("", "line 1"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
