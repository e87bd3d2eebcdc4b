//! What rows did for every user, kept on disk: a comparison that was killed asks no model twice.

use std::collections::BTreeMap;
use std::path::Path;

use sidereal_core::Error;
use sidereal_core::array_file::{Array, ArrayFile, Entry, write_arrays};
use sidereal_core::artifact::{Manifest, read_manifest};
use sidereal_core::metrics::{RankedLists, Row};

use crate::Result;
use crate::evaluate::exam::LIST;
use crate::evaluation::Modes;
use crate::run::keep_or_make;

/// The kind in manifests, and the folder's name in a run.
pub(super) const RANKS: &str = "ranks";
/// In place of the rank of a target that was not returned.
const NONE: u32 = u32::MAX;
const ENDING: &str = ".safetensors";

/// Rows by name.
pub(super) type Rows = Vec<(String, Modes<Row>)>;

/// The rows of a folder, made if they are not there or were made from something else.
pub(super) fn kept(dir: &Path, wanted: Manifest, make: impl FnOnce() -> Result<Rows>) -> Result<Rows> {
    keep_or_make(dir, wanted, |out| {
        for (name, modes) in make()? {
            save(&out.path(&format!("{name}{ENDING}")), &modes)?;
        }
        Ok(serde_json::Value::Null)
    })?;
    let manifest = read_manifest(dir, RANKS)?;
    let names = manifest.files.keys().filter_map(|file| file.strip_suffix(ENDING));
    names.map(|name| Ok((name.to_owned(), load(&dir.join(format!("{name}{ENDING}")))?))).collect()
}

fn save(path: &Path, modes: &Modes<Row>) -> Result<()> {
    let columns: Vec<(&str, [Vec<u32>; 3])> = modes
        .each()
        .into_iter()
        .map(|(mode, row)| {
            let ranks = row.ranks.iter().map(|rank| rank.unwrap_or(NONE)).collect();
            let lengths = row.lists.iter().map(|list| list.len() as u32).collect();
            (mode, [ranks, lengths, row.lists.iter().flatten().copied().collect()])
        })
        .collect();
    let entries: Vec<Entry<'_>> = columns
        .iter()
        .flat_map(|(mode, columns)| NAMES.iter().zip(columns).map(move |(name, column)| (mode, name, column)))
        .map(|(mode, name, column)| Entry::flat(format!("{mode}.{name}"), Array::U32(column)))
        .collect();
    Ok(write_arrays(path, &entries, &BTreeMap::new())?)
}

const NAMES: [&str; 3] = ["ranks", "lengths", "items"];

fn load(path: &Path) -> Result<Modes<Row>> {
    let file = ArrayFile::open(path)?;
    let row = |mode: &str| -> Result<Row> {
        let column = |name: &str| Ok::<_, crate::Error>(file.column::<u32>(&format!("{mode}.{name}"))?.to_vec());
        let [ranks, lengths, items] = [column(NAMES[0])?, column(NAMES[1])?, column(NAMES[2])?];
        let mut lists = RankedLists::new(LIST);
        let mut rest = items.as_slice();
        for &length in &lengths {
            let Some((list, after)) = rest.split_at_checked(length as usize) else {
                let problem = format!("its {mode} lists are longer than its items");
                return Err(Error::artifact(path, problem, "remove the folder and compare again").into());
            };
            lists.push(list.iter().copied());
            rest = after;
        }
        if lengths.len() != ranks.len() {
            let problem = format!("{} {mode} ranks and {} lists", ranks.len(), lengths.len());
            return Err(Error::artifact(path, problem, "remove the folder and compare again").into());
        }
        Ok(Row { ranks: ranks.into_iter().map(|rank| (rank != NONE).then_some(rank)).collect(), lists })
    };
    Ok(Modes { no_filter: row("no_filter")?, seen_removed: row("seen_removed")? })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn rows_come_back_and_are_not_made_twice() {
        let dir = tempfile::tempdir().unwrap();
        let row = |first: u32| {
            let mut lists = RankedLists::new(LIST);
            lists.push([first, 2]);
            lists.push([]);
            Row { ranks: vec![Some(first), None], lists }
        };
        let rows = vec![("a".to_owned(), Modes { no_filter: row(4), seen_removed: row(9) })];
        let wanted = || Manifest::new(RANKS, Some(1), serde_json::json!({ "beam": 50 }), BTreeMap::new());
        let folder = dir.path().join(RANKS);
        assert_eq!(kept(&folder, wanted(), || Ok(rows.clone())).unwrap(), rows);
        let unmade = || -> Result<Rows> { Err(Error::input("test", "made twice", "keep it").into()) };
        assert_eq!(kept(&folder, wanted(), unmade).unwrap(), rows);
        let other = Manifest::new(RANKS, Some(2), serde_json::json!({ "beam": 50 }), BTreeMap::new());
        assert!(kept(&folder, other, unmade).is_err());
    }
}
