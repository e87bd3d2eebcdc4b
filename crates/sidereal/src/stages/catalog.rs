//! Items and semantic IDs -> the catalog with its trie.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde_json::json;
use sidereal_core::artifact::{Manifest, sha256_file};
use sidereal_core::lc_rec::{Index, read_index, write_index};
use sidereal_core::{Catalog, CollisionPolicy, Error, SemanticIds};
use sidereal_tokenizer::codes::parse_codes;
use sidereal_tokenizer::repair::repair;

use crate::Result;
use crate::life::versions;
use crate::run::{Outcome, Run, Stage};
use crate::stages::{inputs, resolved};

/// Encodes the run's items and joins them with their semantic IDs.
///
/// Items of one leaf are ordered by how often they occur in the training histories, where there is a split.
///
/// # Errors
/// A stage before it has not run; suffix overflow.
pub fn build(run: &Run, policy: CollisionPolicy) -> Result<Outcome> {
    let mut stages = vec![Stage::Data, Stage::Embeddings, Stage::Tokenizer];
    stages.extend(run.has(Stage::Split).then_some(Stage::Split));
    let wanted = Manifest::new(Stage::Catalog.name(), None, json!({ "collisions": policy }), inputs(run, &stages)?);
    run.stage(Stage::Catalog, wanted, |out| {
        let data = run.data()?;
        let tokenizer = run.tokenizer()?;
        let embeddings = run.embeddings()?;
        let ids = data.items.ids();
        let sids = tokenizer.encode_items(ids, &embeddings)?;
        let (sids, repair) = match policy.repairs() {
            true => {
                let repaired = repair(&tokenizer, policy, ids, &embeddings, &sids)?;
                (repaired.sids, Some(repaired.record))
            }
            false => (sids, None),
        };
        let prior = match run.has(Stage::Split) {
            true => Some(run.split(&data.histories)?.training_popularity(&data.histories, data.items.len())),
            false => None,
        };
        let codes = tokenizer.codes_per_level();
        let catalog = Catalog::build(ids, &sids, codes, policy, prior.as_deref())?;
        versions::keep_changed(run)?;
        catalog.save(out.dir())?;
        let mut facts = facts(&catalog);
        if let Some(record) = repair {
            facts["repair"] = resolved(&record);
        }
        Ok(facts)
    })
}

/// Semantic IDs that another tool made, as LC-Rec's index file.
///
/// In a run with data the catalog lists the data's items in their order, and every one needs an ID; in a new run it
/// lists the file's items. `codes` is a number of codes per level, or one for all ("256", "256,256,128"); without it every
/// level has as many as its largest code needs.
///
/// # Errors
/// A malformed file; items without an ID, or IDs without an item (the first few are named); a code beyond `codes`.
pub fn import_lc_rec(run: &Run, file: &Path, codes: Option<&str>) -> Result<Outcome> {
    let index = read_index(file)?;
    let mut inputs = BTreeMap::from([("index".to_owned(), sha256_file(file)?)]);
    if run.has(Stage::Data) {
        inputs.insert(Stage::Data.name().to_owned(), run.digest(Stage::Data)?);
    }
    let codes_per_level = match codes {
        Some(codes) => parse_codes(codes, Some(index.sids.levels()))?,
        None => largest_codes(&index.sids),
    };
    let config = json!({ "import": "lc-rec", "codes": codes_per_level });
    let wanted = Manifest::new(Stage::Catalog.name(), None, config, inputs);
    run.stage(Stage::Catalog, wanted, |out| {
        let Index { ids, sids } = match run.has(Stage::Data) {
            true => in_order_of(&run.data()?.items, index, file)?,
            false => index,
        };
        let catalog = Catalog::build(&ids, &sids, &codes_per_level, CollisionPolicy::Postings, None)?;
        versions::keep_changed(run)?;
        catalog.save(out.dir())?;
        Ok(facts(&catalog))
    })
}

/// Writes the run's semantic IDs as LC-Rec's index file.
///
/// # Errors
/// No catalog; whatever the file system says.
pub fn export_lc_rec(run: &Run, file: &Path) -> Result<()> {
    Ok(write_index(&run.catalog()?, file)?)
}

/// What a catalog's manifest tells of it.
pub(crate) fn facts(catalog: &Catalog) -> serde_json::Value {
    json!({
        "version": catalog.version(),
        "items": catalog.alive(),
        "unique_ids": catalog.trie().leaves(),
        "codes_per_level": catalog.codes_per_level(),
    })
}

fn largest_codes(sids: &SemanticIds) -> Vec<u32> {
    let mut codes = vec![1; sids.levels()];
    for row in sids.rows() {
        for (most, &code) in codes.iter_mut().zip(row) {
            *most = u32::from(code).saturating_add(1).max(*most);
        }
    }
    codes
}

fn in_order_of(items: &sidereal_core::Items, index: Index, file: &Path) -> Result<Index> {
    let rows: HashMap<&str, usize> = index.ids.iter().enumerate().map(|(row, id)| (id.as_str(), row)).collect();
    let without: Vec<&str> = items.ids().iter().map(|id| id.as_str()).filter(|id| !rows.contains_key(id)).collect();
    if !without.is_empty() {
        let problem =
            format!("{} of {} items have no semantic ID: {}", without.len(), items.len(), first_few(&without));
        let mend = "give them one, or import into a new run folder without data";
        return Err(Error::input(file.display().to_string(), problem, mend).into());
    }
    let unknown: Vec<&str> = index.ids.iter().map(|id| id.as_str()).filter(|id| items.index_of(id).is_none()).collect();
    if !unknown.is_empty() {
        let problem = format!("{} IDs belong to no item of the run: {}", unknown.len(), first_few(&unknown));
        return Err(Error::input(
            file.display().to_string(),
            problem,
            "remove them, or prepare the data with these items",
        )
        .into());
    }
    let codes = items.ids().iter().flat_map(|id| index.sids.row(rows[id.as_str()]).iter().copied()).collect();
    Ok(Index { ids: items.ids().to_vec(), sids: SemanticIds::new(index.sids.levels(), codes)? })
}

pub(crate) fn first_few(ids: &[&str]) -> String {
    let shown: Vec<String> = ids.iter().take(10).map(|id| format!("{id:?}")).collect();
    let more = if ids.len() > shown.len() { ", ..." } else { "" };
    format!("{}{more}", shown.join(", "))
}
