//! The LC-Rec family's index file: `{"item": ["<a_12>", "<b_7>", ...], ...}`, one token per level.
//!
//! LC-Rec, LETTER, MiniOneRec and their descendants exchange semantic IDs in this form; the letter names the level and
//! the number the code. Written files have the letters `a` to `z`. Read ones may have any names (MQL4GRec's image IDs
//! have upper case), as long as all items have the same one at a level. Both may have plain numbers `[12, 7]`.
//!
//! Where only items that would collide have one token more than the others (MiniOneRec's constrained k-means), that
//! token is read as a suffix level: 0 for items without it, its number for the others; its number and one if an item
//! without it would otherwise be one with another. Then every item has the same number of levels, and no ID is the
//! beginning of another.

use std::collections::{HashMap, HashSet};
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
    let mut seen = HashSet::with_capacity(rows.len());
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
            codes.push(code);
        }
    }
    let whole: Vec<bool> = rows.iter().map(|(_, tokens)| tokens.len() == levels).collect();
    if let Err(row) = tell_suffixes_from_none(&whole, levels, &mut codes) {
        let (id, problem) = (&rows[row].0, "suffix 65535 is too large, because 0 stands for none");
        return Err(Error::input(place(id), problem, "give suffixes below 65535"));
    }
    let sids = SemanticIds::new(levels, codes)?;
    Ok(Index { ids: rows.into_iter().map(|(id, _)| ItemId::from(id)).collect(), sids })
}

/// Adds one to every suffix if 0 cannot stand for none, because an item without a suffix has the first codes of one with
/// suffix 0. `whole` says which items have one, `[N]`; the row whose suffix becomes too large is the error.
///
/// # Shapes
/// `codes`: [N, L]
fn tell_suffixes_from_none(whole: &[bool], levels: usize, codes: &mut [u16]) -> Result<(), usize> {
    let rows = || whole.iter().zip(codes.chunks_exact(levels)).map(|(&whole, sid)| (whole, sid.split_at(levels - 1)));
    let without: HashSet<&[u16]> = rows().filter(|(whole, _)| !whole).map(|(_, (first, _))| first).collect();
    if !rows().any(|(whole, (first, suffix))| whole && suffix == [0] && without.contains(first)) {
        return Ok(());
    }
    for (row, sid) in codes.chunks_exact_mut(levels).enumerate().filter(|&(row, _)| whole[row]) {
        sid[levels - 1] = sid[levels - 1].checked_add(1).ok_or(row)?;
    }
    Ok(())
}

/// How an index file is written. Each form is read back as the same semantic IDs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Form {
    /// Plain numbers `[12, 7]`, not tokens `["<a_12>", "<b_7>"]`.
    pub numbers: bool,
    /// The suffix, the last level, only for items that share their first codes with others, or whose suffix is not 0.
    pub short: bool,
}

/// Writes a catalog's semantic IDs, suffix included, as an index file, items in catalog order without removed ones.
///
/// The short form of a catalog in which no item needs its suffix is the long one: nothing else would say that there is
/// one.
///
/// # Errors
/// Tokens of more than 26 levels; a short form of a catalog whose last level is no suffix; whatever the file system says.
pub fn write_index(catalog: &Catalog, form: Form, path: &Path) -> Result<()> {
    if !form.numbers && catalog.levels() > 26 {
        let problem = format!("{} levels, but the format has a letter for 26", catalog.levels());
        return Err(Error::input("catalog", problem, "export plain numbers, or another format"));
    }
    let alive: Vec<u32> = (0..catalog.len() as u32).filter(|&item| catalog.is_alive(item)).collect();
    let bare = if form.short { without_suffix(catalog, &alive)? } else { HashSet::new() };
    let all_bare = bare.len() == alive.len();
    write_atomic(path, |out| {
        out.write_all(b"{")?;
        for (place, &item) in alive.iter().enumerate() {
            let sid = catalog.semantic_id(item);
            let codes = if bare.contains(&item) && !all_bare { &sid[..sid.len() - 1] } else { sid };
            out.write_all(if place == 0 { b"\n" } else { b",\n" })?;
            serde_json::to_writer(&mut *out, catalog.item_id(item))?;
            out.write_all(b": ")?;
            if form.numbers {
                serde_json::to_writer(&mut *out, codes)?;
            } else {
                let tokens: Vec<String> =
                    codes.iter().enumerate().map(|(level, code)| format!("<{}_{code}>", letter(level))).collect();
                serde_json::to_writer(&mut *out, &tokens)?;
            }
        }
        out.write_all(b"\n}\n")
    })
}

/// The items that are told apart without their suffix: alone under their first codes, with suffix 0.
///
/// # Errors
/// The last level is no suffix: the catalog was not built with one, and an item that is alone has another code than 0.
fn without_suffix(catalog: &Catalog, alive: &[u32]) -> Result<HashSet<u32>> {
    let refusal = |problem: String| {
        let mend = "build it with --collisions suffix, or export the form in which all items have all levels";
        Err(Error::input("catalog", format!("its last level is no suffix: {problem}"), mend))
    };
    let last = catalog.levels() - 1;
    if last == 0 {
        return refusal("it is the only one".to_owned());
    }
    let first = |item: u32| &catalog.semantic_id(item)[..last];
    let mut items_under: HashMap<&[u16], u32> = HashMap::new();
    alive.iter().for_each(|&item| *items_under.entry(first(item)).or_default() += 1);
    let mut bare = HashSet::new();
    for &item in alive.iter().filter(|&&item| items_under.get(first(item)) == Some(&1)) {
        match catalog.semantic_id(item)[last] {
            0 => _ = bare.insert(item),
            // What is left of a group from which items were removed.
            _ if catalog.tokenizer_levels() == last => {}
            code => {
                let id = catalog.item_id(item);
                return refusal(format!("item {id:?} has code {code} there, and no other has its first codes"));
            }
        }
    }
    Ok(bare)
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
    use crate::catalog::Change;
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
        for numbers in [false, true] {
            write_index(&catalog, Form { numbers, short: false }, &path).unwrap();
            assert_eq!(read_index(&path).unwrap(), index);
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\n\"9\": [0,65535],\n\"10\": [1,200]\n}\n");
    }

    /// What both short forms of a catalog are read back as, and their token form.
    fn short(catalog: &Catalog) -> (Index, String) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.json");
        let [numbers, tokens] = [true, false].map(|numbers| {
            write_index(catalog, Form { numbers, short: true }, &path).unwrap();
            read_index(&path).unwrap()
        });
        assert_eq!(numbers, tokens);
        (tokens, std::fs::read_to_string(&path).unwrap())
    }

    fn catalog(codes: &[u16], levels: usize, policy: CollisionPolicy) -> Catalog {
        let sids = SemanticIds::new(levels, codes.to_vec()).unwrap();
        let ids: Vec<ItemId> = (0..sids.len()).map(|item| ItemId::from(item.to_string())).collect();
        Catalog::build(&ids, &sids, &vec![16; levels], policy, None).unwrap()
    }

    #[test]
    fn a_suffix_is_written_for_items_that_need_it_and_read_back() {
        let suffixed = catalog(&[1, 2, 7, 7, 1, 2, 3, 3, 1, 2], 2, CollisionPolicy::Suffix);
        let (index, text) = short(&suffixed);
        assert_eq!(index.sids, suffixed.semantic_ids().unwrap());
        assert_eq!(index.sids.codes(), [1, 2, 0, 7, 7, 0, 1, 2, 1, 3, 3, 0, 1, 2, 2]);
        assert!(text.contains("\"0\": [\"<a_1>\",\"<b_2>\",\"<c_0>\"]"), "{text}");
        assert!(text.contains("\"1\": [\"<a_7>\",\"<b_7>\"]"), "{text}");
        // Read from another tool, and nothing marks the suffix.
        let read = catalog(index.sids.codes(), 3, CollisionPolicy::Postings);
        assert_eq!(short(&read), (index, text));
        // None needs one, or all do, or two have one semantic ID.
        for codes in [&[1, 2, 0, 3, 4, 0][..], &[1, 2, 0, 1, 2, 1], &[1, 2, 3, 1, 2, 3, 5, 5, 0]] {
            let catalog = catalog(codes, 3, CollisionPolicy::Postings);
            assert_eq!(short(&catalog).0.sids.codes(), codes);
        }
    }

    #[test]
    fn what_is_left_of_a_group_keeps_its_suffix() {
        let built = catalog(&[1, 2, 7, 7, 1, 2], 2, CollisionPolicy::Suffix);
        let left = built.change(&Change { remove: &[0], ..Change::default() }).unwrap();
        let (index, text) = short(&left);
        assert_eq!(index.ids, [ItemId::from("1"), ItemId::from("2")]);
        assert_eq!(index.sids.codes(), [7, 7, 0, 1, 2, 1]);
        assert!(text.contains("\"2\": [\"<a_1>\",\"<b_2>\",\"<c_1>\"]"), "{text}");
    }

    #[test]
    fn a_level_that_is_no_suffix_is_not_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let refusal = |codes: &[u16], levels| {
            let (catalog, path) = (catalog(codes, levels, CollisionPolicy::Postings), dir.path().join("out.json"));
            let problem = write_index(&catalog, Form { numbers: true, short: true }, &path).unwrap_err().to_string();
            assert!(!path.exists());
            problem
        };
        assert!(refusal(&[1, 0, 2, 5], 2).contains("item \"1\" has code 5"));
        assert!(refusal(&[1, 2], 1).contains("the only one"));
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
        assert_eq!(index.unwrap().sids.codes(), [1, 2, 0, 7, 7, 0, 1, 2, 1]);
        // An item without one beside another with 0: only then do all count one more.
        let index = read(r#"{"0": [1, 2, 0], "1": [1, 2], "2": [1, 2, 1], "3": [7, 7]}"#);
        assert_eq!(index.unwrap().sids.codes(), [1, 2, 1, 1, 2, 0, 1, 2, 2, 7, 7, 0]);
    }

    #[test]
    fn wrong_indexes_name_the_item() {
        for (text, expected) in [
            (r#"{"x": ["<a_1>"], "y": ["<a_1>", "<b_1>", "<c_1>"]}"#, "item \"x\": 1 tokens"),
            (r#"{"x": ["<a_1>"], "y": []}"#, "item \"y\": 0 tokens"),
            (r#"{"x": ["<a_1>", "<b_1>"], "y": ["<b_1>", "<a_1>"]}"#, "where item \"x\" has <a_12>"),
            (r#"{"x": ["<a_1>"], "y": [1]}"#, "where item \"x\" has <a_12>"),
            (r#"{"x": ["a_1"]}"#, "is not of the form <a_12>"),
            (r#"{"x": [1], "z": [1, 0], "y": [1, 65535]}"#, "item \"y\": suffix 65535 is too large"),
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
