//! TorchEasyRec's bundle: a folder of two Parquet tables and a manifest.
//!
//! `item_to_sid/part-0.parquet` has `item_id`, `codebook` (the codes) and `offset_codebook` (the codes after those of the
//! levels before), `sid_to_items/part-0.parquet` has `codebook` and `itemids`, and `manifest.json` the codes per level,
//! the capacity and where the tables are. The bundle's identity is made from the catalog's version, so the same catalog
//! gives the same bundle.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sidereal_core::artifact::{read_json, sha256_bytes, write_json};
use sidereal_core::{Catalog, Error, ItemIndex};

use super::rows::Rows;
use super::tables::{id_lists, ids, lists, read_codes, whole_ids, write_table};
use super::{Foreign, codes_of};
use crate::Result;

const MANIFEST: &str = "manifest.json";
const ITEM_TO_SID: &str = "item_to_sid";
const SID_TO_ITEMS: &str = "sid_to_items";

#[derive(Serialize, Deserialize)]
struct Manifest {
    bundle_uuid: String,
    codebook: Vec<u32>,
    capacity: usize,
    max_observed_items_per_sid: usize,
    artifacts: BTreeMap<String, Artifact>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    item_id_type: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Artifact {
    save_type: String,
    rows: usize,
    location: String,
}

pub(super) fn read(dir: &Path) -> Result<Foreign> {
    let path = dir.join(MANIFEST);
    let manifest: Manifest = read_json(&path)?;
    let parts = parts(&dir.join(ITEM_TO_SID))?;
    let mut rows = Rows::new(&dir.join(ITEM_TO_SID));
    for part in parts {
        read_codes(&part, "item_id", "codebook", &mut rows)?;
    }
    let mut foreign = rows.finish()?;
    if let Some(table) = manifest.artifacts.get(ITEM_TO_SID).filter(|table| table.rows != foreign.sids.len()) {
        let problem = format!("{ITEM_TO_SID} has {} rows, but the manifest says {}", foreign.sids.len(), table.rows);
        return Err(Error::artifact(&path, problem, "a part is missing: copy the whole bundle").into());
    }
    foreign.codes_per_level = Some(manifest.codebook);
    Ok(foreign)
}

fn parts(dir: &Path) -> Result<Vec<PathBuf>> {
    let io = |e| Error::io("read", dir, e);
    let mut parts = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.extension().is_some_and(|extension| extension == "parquet") {
            parts.push(path);
        }
    }
    // Parts are numbered: part-2 comes before part-10.
    parts.sort_by_key(|path| (path.as_os_str().len(), path.clone()));
    if parts.is_empty() {
        let mend = "copy the whole bundle; tables in CSV or ODPS are not read";
        return Err(Error::artifact(dir, "there is no Parquet table here", mend).into());
    }
    Ok(parts)
}

pub(super) fn write(catalog: &Catalog, dir: &Path) -> Result<()> {
    let folder = |name: &str| -> Result<PathBuf> {
        let path = dir.join(name);
        std::fs::create_dir_all(&path).map_err(|e| Error::io("create", &path, e))?;
        Ok(path.join("part-0.parquet"))
    };
    let whole = whole_ids(catalog);
    let offsets: Vec<i64> = catalog
        .codes_per_level()
        .iter()
        .scan(0, |next, &codes| {
            let start = *next;
            *next += i64::from(codes);
            Some(start)
        })
        .collect();
    write_table(&folder(ITEM_TO_SID)?, catalog.len(), |rows| {
        let items: Vec<ItemIndex> = rows.map(|row| row as ItemIndex).collect();
        let shifted = |&item: &ItemIndex| codes_of(catalog, item).iter().zip(&offsets).map(|(c, o)| c + o).collect();
        vec![
            ("item_id", ids(catalog, &items, whole)),
            ("codebook", lists(items.iter().map(|&item| codes_of(catalog, item)))),
            ("offset_codebook", lists(items.iter().map(shifted))),
        ]
    })?;
    let leaves = catalog.trie().leaves() as usize;
    write_table(&folder(SID_TO_ITEMS)?, leaves, |rows| {
        let leaf_codes = rows.clone().map(|leaf| catalog.trie().semantic_id(leaf as u32));
        vec![
            ("codebook", lists(leaf_codes.map(|codes| codes.into_iter().map(i64::from).collect()))),
            ("itemids", id_lists(catalog, rows.map(|leaf| catalog.postings(leaf as u32)), whole)),
        ]
    })?;
    let most = (0..leaves).map(|leaf| catalog.postings(leaf as u32).len()).max().unwrap_or(0);
    let table = |name: &str, rows: usize| {
        (
            name.to_owned(),
            Artifact { save_type: "parquet".to_owned(), rows, location: format!("{name}/part-*.parquet") },
        )
    };
    let manifest = Manifest {
        bundle_uuid: uuid(catalog.version()),
        codebook: catalog.codes_per_level().to_vec(),
        capacity: most,
        max_observed_items_per_sid: most,
        artifacts: BTreeMap::from([table(ITEM_TO_SID, catalog.len()), table(SID_TO_ITEMS, leaves)]),
        item_id_type: Some(if whole { "int64" } else { "string" }.to_owned()),
    };
    // Last: a bundle without a manifest is not whole.
    Ok(write_json(&dir.join(MANIFEST), &manifest)?)
}

/// A UUID of version 8 (a meaning of one's own) from a hash.
fn uuid(version: &str) -> String {
    let hex = sha256_bytes(version.as_bytes());
    format!("{}-{}-8{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..32])
}
