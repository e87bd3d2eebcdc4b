//! xLLM's vocabulary of recommendations: little-endian records of an `i64` item id and three `i32` codes, nothing else.

use std::path::Path;

use sidereal_core::artifact::write_atomic;
use sidereal_core::{Catalog, Error, ItemIndex};

use super::Foreign;
use super::rows::Rows;
use crate::Result;

const LEVELS: usize = 3;
const RECORD_BYTES: usize = 8 + 4 * LEVELS;

pub(super) fn read(file: &Path) -> Result<Foreign> {
    let bytes = std::fs::read(file).map_err(|e| Error::io("read", file, e))?;
    if !bytes.len().is_multiple_of(RECORD_BYTES) {
        let problem = format!("{} bytes are not whole records of {RECORD_BYTES}", bytes.len());
        return Err(Error::artifact(file, problem, "it is truncated or of another format: write it again").into());
    }
    let mut rows = Rows::new(file);
    for (record, bytes) in bytes.chunks_exact(RECORD_BYTES).enumerate() {
        let number = |at: usize, size: usize| {
            let bytes = &bytes[at..at + size];
            let sign = bytes.last().is_some_and(|&byte| byte >= 0x80);
            bytes.iter().rev().fold(if sign { -1i64 } else { 0 }, |number, &byte| number << 8 | i64::from(byte))
        };
        let codes = (0..LEVELS).map(|level| number(8 + 4 * level, 4));
        rows.push(&format!("record {record}"), &number(0, 8).to_string(), codes)?;
    }
    rows.finish()
}

pub(super) fn write(catalog: &Catalog, out: &Path) -> Result<()> {
    if catalog.levels() != LEVELS {
        let problem = format!("{} levels, but the format holds {LEVELS}", catalog.levels());
        return Err(Error::input("catalog", problem, "train three levels, or two and the suffix policy").into());
    }
    let ids: Option<Vec<i64>> = (0..catalog.len() as ItemIndex)
        .map(|item| catalog.item_id(item).parse().ok().filter(|id: &i64| id.to_string() == catalog.item_id(item)))
        .collect();
    let Some(ids) = ids else {
        let wrong = (0..catalog.len() as ItemIndex).map(|i| catalog.item_id(i)).find(|id| id.parse::<i64>().is_err());
        let problem = format!("item id {:?} is not an integer", wrong.unwrap_or("with a sign or leading zeros"));
        return Err(Error::input("catalog", problem, "number the items, or export another format").into());
    };
    Ok(write_atomic(out, |file| {
        for (item, id) in ids.iter().enumerate() {
            file.write_all(&id.to_le_bytes())?;
            for &code in catalog.semantic_id(item as ItemIndex) {
                file.write_all(&i32::from(code).to_le_bytes())?;
            }
        }
        Ok(())
    })?)
}
