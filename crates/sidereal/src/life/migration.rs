//! What differs between two catalogs, as a file that whoever stored semantic IDs can join with.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, ListBuilder, RecordBatch, StringArray, UInt16Builder};
use arrow::datatypes::{DataType, Field, Schema};
use serde_json::json;
use sidereal_core::artifact::{MANIFEST, write_atomic};
use sidereal_core::catalog::{Diff, FILE, MapRow, diff};
use sidereal_core::{Catalog, Error};

use crate::run::Stage;
use crate::{Result, parquet_file};

/// Compares the catalogs of two runs or catalog folders.
///
/// # Errors
/// A folder without a catalog.
pub fn compare(old: &Path, new: &Path) -> Result<Diff> {
    Ok(diff(&Catalog::open_verified(&folder_of(old)?)?, &Catalog::open_verified(&folder_of(new)?)?))
}

fn folder_of(path: &Path) -> Result<PathBuf> {
    let inside = path.join(Stage::Catalog.name());
    if inside.join(MANIFEST).is_file() {
        return Ok(inside);
    }
    if path.join(FILE).is_file() {
        return Ok(path.to_path_buf());
    }
    let mend = "name a run, its catalog folder, or a folder below its catalog.versions";
    Err(Error::artifact(path, "there is no catalog here", mend).into())
}

/// Writes a migration map, a row an item: `item_id`, `change` (added, removed, moved or unchanged), `old_semantic_id`,
/// `new_semantic_id`. The format follows from the name: `.parquet`, or `.jsonl` for a JSON object a line.
///
/// # Errors
/// Another ending; whatever the file system says.
pub fn write_map(diff: &Diff, out: &Path) -> Result<()> {
    parquet_file::check_folder(out)?;
    match out.extension().and_then(|ending| ending.to_str()) {
        Some("parquet") => {
            let job = json!({ "old": diff.old_version, "new": diff.new_version }).to_string();
            parquet_file::write(out, &schema(), &job, std::iter::once(batch(&diff.rows)))
        }
        Some("jsonl") => Ok(write_atomic(out, |file| {
            diff.rows.iter().try_for_each(|row| {
                serde_json::to_writer(&mut *file, row)?;
                file.write_all(b"\n")
            })
        })?),
        _ => {
            let problem = format!("{} does not say which format", out.display());
            Err(Error::config("--out", problem, "name a .parquet or a .jsonl file").into())
        }
    }
}

fn schema() -> Arc<Schema> {
    let codes = || DataType::List(Arc::new(Field::new("item", DataType::UInt16, true)));
    Arc::new(Schema::new(vec![
        Field::new("item_id", DataType::Utf8, false),
        Field::new("change", DataType::Utf8, false),
        Field::new("old_semantic_id", codes(), true),
        Field::new("new_semantic_id", codes(), true),
    ]))
}

fn batch(rows: &[MapRow]) -> Result<RecordBatch> {
    let codes = |of: fn(&MapRow) -> Option<&Vec<u16>>| -> ArrayRef {
        let mut list = ListBuilder::new(UInt16Builder::new());
        for row in rows {
            let codes = of(row);
            list.values().append_slice(codes.map_or(&[], Vec::as_slice));
            list.append(codes.is_some());
        }
        Arc::new(list.finish())
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|row| Some(row.item_id.as_str())).collect::<StringArray>()),
        Arc::new(rows.iter().map(|row| Some(row.change.name())).collect::<StringArray>()),
        codes(|row| row.old_semantic_id.as_ref()),
        codes(|row| row.new_semantic_id.as_ref()),
    ];
    RecordBatch::try_new(schema(), columns)
        .map_err(|e| Error::input("migration map", e.to_string(), "this is a defect: report it").into())
}
