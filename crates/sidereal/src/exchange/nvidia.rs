//! NVIDIA's SID-GR inference: a catalog of JSON lines, `{"item_id": ..., "token_ids": [...], "metadata": {...}}`.
//!
//! Codes are written as they are; a serving side with another numbering adds its own offsets. Its catalog refuses two
//! items of one path, so export does too. Metadata is not kept on import.

use std::io::{BufRead, BufReader};
use std::path::Path;

use serde::{Deserialize, Deserializer};
use sidereal_core::artifact::write_atomic;
use sidereal_core::{Catalog, Error, ItemIndex};

use super::rows::Rows;
use super::{Foreign, codes_of, refuse_shared_leaves};
use crate::Result;

/// Longest line that is read.
const MAX_LINE_BYTES: u64 = 1 << 20;

#[derive(Deserialize)]
struct Line {
    #[serde(deserialize_with = "text_or_number")]
    item_id: String,
    token_ids: Vec<i64>,
}

fn text_or_number<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<String, D::Error> {
    match serde_json::Value::deserialize(deserializer)? {
        serde_json::Value::String(text) => Ok(text),
        serde_json::Value::Number(number) if !number.is_f64() => Ok(number.to_string()),
        other => Err(serde::de::Error::custom(format!("item_id is {other}, not text or an integer"))),
    }
}

pub(super) fn read(file: &Path) -> Result<Foreign> {
    let io = |e| Error::io("read", file, e);
    let mut reader = BufReader::new(std::fs::File::open(file).map_err(io)?);
    let mut rows = Rows::new(file);
    let mut text = Vec::new();
    for line in 1usize.. {
        text.clear();
        let mut limited = std::io::Read::take(&mut reader, MAX_LINE_BYTES + 1);
        if limited.read_until(b'\n', &mut text).map_err(io)? == 0 {
            break;
        }
        let place = || format!("{}, line {line}", file.display());
        if text.len() as u64 > MAX_LINE_BYTES {
            let problem = format!("it is longer than {MAX_LINE_BYTES} bytes");
            return Err(Error::input(place(), problem, "write an item a line").into());
        }
        if text.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let Line { item_id, token_ids } = serde_json::from_slice(&text).map_err(|e| {
            let mend = "write lines like {\"item_id\": \"17\", \"token_ids\": [12, 7]}";
            Error::input(place(), e.to_string(), mend)
        })?;
        rows.push(&format!("line {line}"), &item_id, token_ids)?;
    }
    rows.finish()
}

pub(super) fn write(catalog: &Catalog, out: &Path) -> Result<()> {
    refuse_shared_leaves(catalog, "a catalog of this format")?;
    Ok(write_atomic(out, |file| {
        for item in 0..catalog.len() as ItemIndex {
            file.write_all(b"{\"item_id\": ")?;
            serde_json::to_writer(&mut *file, catalog.item_id(item))?;
            file.write_all(b", \"token_ids\": ")?;
            serde_json::to_writer(&mut *file, &codes_of(catalog, item))?;
            file.write_all(b", \"metadata\": {}}\n")?;
        }
        Ok(())
    })?)
}
