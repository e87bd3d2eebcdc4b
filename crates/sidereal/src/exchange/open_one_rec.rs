//! OpenOneRec: a Parquet of `pid` and `codes`, or the text of its tokens, a line an item:
//! `pid TAB <|sid_begin|><s_a_340><s_b_6566><s_c_5603><|sid_end|>`.
//!
//! The token text stands in prompts; with an item id before it, it is also a table. It is written where the file's name
//! does not end in `.parquet`; read is what the file holds.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use sidereal_core::artifact::write_atomic;
use sidereal_core::{Catalog, Error, ItemIndex};

use super::rows::Rows;
use super::tables::{ids, lists, read_codes, whole_ids, write_table};
use super::{Foreign, codes_of};
use crate::Result;

const BEGIN: &str = "<|sid_begin|>";
const END: &str = "<|sid_end|>";

pub(super) fn read(file: &Path) -> Result<Foreign> {
    let io = |e| Error::io("read", file, e);
    let mut rows = Rows::new(file);
    let mut magic = Vec::new();
    std::fs::File::open(file).map_err(io)?.take(4).read_to_end(&mut magic).map_err(io)?;
    if magic == *b"PAR1" {
        read_codes(file, "pid", "codes", &mut rows)?;
        return rows.finish();
    }
    let lines = BufReader::new(std::fs::File::open(file).map_err(io)?).lines();
    for (line, text) in (1..).zip(lines) {
        let text = text.map_err(io)?;
        if text.is_empty() {
            continue;
        }
        let (id, codes) = parse(&text).ok_or_else(|| {
            let mend =
                "write lines of item id, tab and <|sid_begin|><s_a_1><s_b_2><|sid_end|>, or Parquet of pid and codes";
            Error::input(format!("{}, line {line}", file.display()), "it is not an item id and a semantic ID", mend)
        })?;
        rows.push(&format!("line {line}"), id, codes)?;
    }
    rows.finish()
}

fn parse(line: &str) -> Option<(&str, Vec<i64>)> {
    let (id, text) = line.split_once('\t')?;
    let mut rest = text.trim_end().strip_prefix(BEGIN)?.strip_suffix(END)?;
    let mut codes = Vec::new();
    while !rest.is_empty() {
        let (token, after) = rest.strip_prefix(&format!("<s_{}_", letter(codes.len())?))?.split_once('>')?;
        if token.is_empty() || !token.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        codes.push(token.parse().ok()?);
        rest = after;
    }
    Some((id, codes))
}

fn letter(level: usize) -> Option<char> {
    (level < 26).then(|| char::from(b'a' + level as u8))
}

pub(super) fn write(catalog: &Catalog, out: &Path) -> Result<()> {
    if out.extension().is_some_and(|extension| extension == "parquet") {
        let whole = whole_ids(catalog);
        return write_table(out, catalog.len(), |rows| {
            let items: Vec<ItemIndex> = rows.map(|row| row as ItemIndex).collect();
            vec![
                ("pid", ids(catalog, &items, whole)),
                ("codes", lists(items.iter().map(|&item| codes_of(catalog, item)))),
            ]
        });
    }
    if catalog.levels() > 26 {
        let problem = format!("{} levels, but the text has a letter for 26", catalog.levels());
        return Err(Error::input("catalog", problem, "write a file that ends in .parquet").into());
    }
    if let Some(id) =
        (0..catalog.len() as ItemIndex).map(|i| catalog.item_id(i)).find(|id| id.contains(['\t', '\n', '\r']))
    {
        let problem = format!("item {id:?} has a tab or line break in its id, which the text cannot hold");
        return Err(Error::input("catalog", problem, "write a file that ends in .parquet").into());
    }
    Ok(write_atomic(out, |file| {
        for item in 0..catalog.len() as ItemIndex {
            write!(file, "{}\t{BEGIN}", catalog.item_id(item))?;
            for (level, code) in catalog.semantic_id(item).iter().enumerate() {
                write!(file, "<s_{}_{code}>", letter(level).unwrap_or_default())?;
            }
            writeln!(file, "{END}")?;
        }
        Ok(())
    })?)
}
