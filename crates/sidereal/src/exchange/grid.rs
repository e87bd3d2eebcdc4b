//! GRID's map of semantic IDs: a PyTorch file of one integer tensor [levels, items], items numbered by their column.
//! NVIDIA's sid_gr reads the same file.
//!
//! The tensor has no item ids. Export writes them beside it, as a JSON list in `FILE.item_ids.json`, and import takes them
//! from there; without that list an item's id is its column, or the run's item of that place.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use sidereal_core::artifact::{read_json, write_json};
use sidereal_core::{Catalog, Error, ItemId, ItemIndex};

use super::Foreign;
use super::rows::Rows;
use super::torch_file::{self, Matrix};
use crate::Result;

pub(super) fn read(file: &Path) -> Result<Foreign> {
    let Matrix { shape: [levels, items], values } = torch_file::read(file)?;
    let mut rows = Rows::new(file);
    for item in 0..items {
        rows.push(&format!("column {item}"), &item.to_string(), (0..levels).map(|level| values[level * items + item]))?;
    }
    let mut foreign = rows.finish()?;
    let names = ids_file(file);
    foreign.ids = if names.is_file() { Some(read_ids(&names, items)?) } else { None };
    Ok(foreign)
}

fn read_ids(path: &Path, items: usize) -> Result<Vec<ItemId>> {
    let ids: Vec<ItemId> = read_json(path)?;
    if ids.len() != items {
        let problem = format!("{} item ids for {items} columns", ids.len());
        return Err(Error::artifact(path, problem, "export both again, or remove the list to number items").into());
    }
    let mut seen = std::collections::HashSet::new();
    match ids.iter().find(|id| !seen.insert(id.as_str())) {
        Some(id) => {
            let problem = format!("item id {:?} appears a second time", id.as_str());
            Err(Error::artifact(path, problem, "remove one of the two").into())
        }
        None => Ok(ids),
    }
}

/// Where the item ids of a tensor are.
fn ids_file(file: &Path) -> PathBuf {
    let mut name: OsString = file.as_os_str().to_owned();
    name.push(".item_ids.json");
    PathBuf::from(name)
}

pub(super) fn write(catalog: &Catalog, out: &Path) -> Result<()> {
    let (levels, items) = (catalog.levels(), catalog.len());
    let values = (0..levels)
        .flat_map(|level| (0..items).map(move |item| i64::from(catalog.semantic_id(item as ItemIndex)[level])))
        .collect();
    let ids: Vec<&str> = (0..items as ItemIndex).map(|item| catalog.item_id(item)).collect();
    write_json(&ids_file(out), &ids)?;
    torch_file::write(out, &Matrix { shape: [levels, items], values })
}
