//! Items added to a run's catalog, and removed from it.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use serde::Serialize;
use serde_json::json;
use sidereal_core::catalog::Change;
use sidereal_core::collision::continue_suffix;
use sidereal_core::{Catalog, CollisionPolicy, Embeddings, Error, ItemId, ItemIndex, Progress, SemanticIds};
use sidereal_data::ColumnMap;
use sidereal_tokenizer::ItemTokenizer;
use sidereal_tokenizer::life::repair::{RepairRecord, place};

use crate::Result;
use crate::life::added::AddedItems;
use crate::life::versions;
use crate::run::{Run, Stage};
use crate::stages::catalog::{facts, first_few};

/// What a change did.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Changed {
    /// The catalog now.
    pub version: String,
    /// The catalog before.
    pub parent: String,
    /// New items.
    pub added: usize,
    /// Items that had been removed and are back under their semantic IDs.
    pub restored: usize,
    /// Items removed.
    pub removed: usize,
    /// Items of the catalog now.
    pub items: usize,
    /// Distinct semantic IDs now.
    pub unique_ids: u32,
    /// How new items were kept apart, where the policy moves them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub placement: Option<RepairRecord>,
}

/// Adds the items of a file of vectors, encoded by the run's tokenizer as it is. What was published stays where it is.
///
/// Item ids come from the file of vectors (Parquet) or, where it has none, from `items`, row by row; `items` also gives
/// titles. An item that was removed comes back under the semantic ID that it had, whatever its vector is now.
///
/// # Errors
/// No catalog or tokenizer, or a catalog that this tokenizer did not make; vectors without ids; ids that the catalog
/// has; a suffix that overflows. Then nothing has changed.
pub fn add(run: &Run, embeddings: &Path, items: Option<&Path>, progress: &dyn Progress) -> Result<Changed> {
    let catalog = run.catalog()?;
    let tokenizer = tokenizer_of(run)?;
    let new = NewItems::read(embeddings, items)?;
    let index = catalog.index_by_id();
    let alive = |id: &&ItemId| index.get(id.as_str()).is_some_and(|&item| catalog.is_alive(item));
    let there: Vec<&str> = new.ids.iter().filter(alive).map(ItemId::as_str).collect();
    if !there.is_empty() {
        let problem =
            format!("{} of {} items are in the catalog already: {}", there.len(), new.ids.len(), first_few(&there));
        return Err(Error::input(embeddings.display().to_string(), problem, "leave them out").into());
    }
    let restore: Vec<ItemIndex> = new.ids.iter().filter_map(|id| index.get(id.as_str()).copied()).collect();
    let fresh = new.without(|id| index.contains_key(id.as_str()))?;

    progress.start("encode new items", Some(fresh.ids.len() as u64), "items");
    let (sids, placement) = placed(&tokenizer, &catalog, &fresh)?;
    progress.advance(fresh.ids.len() as u64);
    progress.finish();
    let next = catalog.change(&Change { add: &fresh.ids, add_ids: Some(&sids), restore: &restore, remove: &[] })?;
    let added = AddedItems::load(&run.dir(Stage::Catalog), &catalog)?.and(fresh.titles, &fresh.vectors)?;
    let changed = Changed { added: fresh.ids.len(), restored: restore.len(), placement, ..Changed::default() };
    finish(run, &catalog, &next, &added, changed)
}

/// Removes items: they keep their codes for the histories that name them, and no ranking holds them from now on.
///
/// # Errors
/// Ids that the catalog does not have, or has removed; a change that would leave nothing. Then nothing has changed.
pub fn remove(run: &Run, ids: &[&str]) -> Result<Changed> {
    let catalog = run.catalog()?;
    let index = catalog.index_by_id();
    let unknown: Vec<&str> = ids.iter().copied().filter(|id| !index.contains_key(id)).collect();
    if !unknown.is_empty() {
        let problem = format!("the catalog has no item {}", first_few(&unknown));
        return Err(Error::input("items to remove", problem, "check the ids, or leave them out").into());
    }
    let items: Vec<ItemIndex> = ids.iter().filter_map(|id| index.get(id).copied()).collect();
    let next = catalog.change(&Change { remove: &items, ..Change::default() })?;
    let added = AddedItems::load(&run.dir(Stage::Catalog), &catalog)?;
    finish(run, &catalog, &next, &added, Changed { removed: items.len(), ..Changed::default() })
}

fn finish(run: &Run, now: &Catalog, next: &Catalog, added: &AddedItems, changed: Changed) -> Result<Changed> {
    let changed = Changed {
        version: next.version().to_owned(),
        parent: now.version().to_owned(),
        items: next.alive(),
        unique_ids: next.trie().leaves(),
        ..changed
    };
    let mut facts = facts(next);
    facts["change"] = json!(changed);
    versions::replace(run, now, next, added, facts)?;
    Ok(changed)
}

/// The tokenizer that the run's catalog was built with.
pub(crate) fn tokenizer_of(run: &Run) -> Result<ItemTokenizer> {
    let made_by = run.manifest(Stage::Catalog)?.inputs.get(Stage::Tokenizer.name()).cloned();
    let tokenizer = run.tokenizer()?;
    if made_by.as_deref() != Some(run.digest(Stage::Tokenizer)?.as_str()) {
        let problem = format!("the catalog of {} was not built with the run's tokenizer", run.root().display());
        let mend = "build the catalog with it, or put the tokenizer back that the catalog was built with";
        return Err(Error::mismatch(problem, mend).into());
    }
    Ok(tokenizer)
}

/// Semantic IDs of new items by the catalog's policy, suffix included, [M, L].
fn placed(tokenizer: &ItemTokenizer, catalog: &Catalog, new: &NewItems) -> Result<(SemanticIds, Option<RepairRecord>)> {
    if new.ids.is_empty() {
        return Ok((SemanticIds::new(catalog.levels(), Vec::new())?, None));
    }
    let sids = tokenizer.encode_items(&new.ids, &new.vectors)?;
    Ok(match catalog.policy() {
        CollisionPolicy::Suffix => (continue_suffix(catalog, &sids)?, None),
        policy if policy.repairs() => {
            let published = catalog.semantic_ids()?;
            let taken: HashSet<&[u16]> = published.rows().collect();
            let placed = place(tokenizer, policy, &new.ids, &new.vectors, &sids, &taken)?;
            (placed.sids, Some(placed.record))
        }
        _ => (sids, None),
    })
}

/// Items to add.
struct NewItems {
    ids: Vec<ItemId>,
    titles: Vec<Option<String>>,
    vectors: Embeddings,
}

impl NewItems {
    fn read(embeddings: &Path, items: Option<&Path>) -> Result<Self> {
        let vectors = sidereal_embed::read_vectors(embeddings, None)?;
        let place = embeddings.display().to_string();
        let table = items.map(|path| sidereal_data::items_from(path, &ColumnMap::default())).transpose()?;
        let ids = match (vectors.item_ids, &table) {
            (Some(ids), _) => ids,
            (None, Some(table)) if table.len() == vectors.embeddings.rows() => {
                table.ids().iter().map(|id| ItemId::from(id.as_str())).collect()
            }
            (None, Some(table)) => {
                let problem = format!("{} vectors, but {} items", vectors.embeddings.rows(), table.len());
                let mend = "give one vector for each row of the items file, or a Parquet file with an item_id column";
                return Err(Error::input(place, problem, mend).into());
            }
            (None, None) => {
                let mend = "give a Parquet file with an item_id column, or the items in the same order with --items F";
                return Err(Error::input(place, "its vectors have no item ids", mend).into());
            }
        };
        let mut seen = HashSet::with_capacity(ids.len());
        if let Some(twice) = ids.iter().find(|id| !seen.insert(id.as_str())) {
            let problem = format!("item id {:?} appears a second time", twice.as_str());
            return Err(Error::input(place, problem, "remove one of the two rows").into());
        }
        let titles: HashMap<&str, &String> = match &table {
            Some(table) => {
                let named = table.ids().iter().zip(table.titles());
                named.filter_map(|(id, title)| Some((id.as_str(), title.as_ref()?))).collect()
            }
            None => HashMap::new(),
        };
        let titles = ids.iter().map(|id| titles.get(id.as_str()).map(|&title| title.clone())).collect();
        Ok(Self { ids, titles, vectors: vectors.embeddings })
    }

    fn without(self, drop: impl Fn(&ItemId) -> bool) -> Result<Self> {
        let Self { ids, titles, vectors } = self;
        let kept: Vec<usize> = (0..ids.len()).filter(|&row| !drop(&ids[row])).collect();
        let values = kept.iter().flat_map(|&row| vectors.row(row)).copied().collect();
        Ok(Self {
            ids: kept.iter().map(|&row| ids[row].clone()).collect(),
            titles: kept.iter().map(|&row| titles[row].clone()).collect(),
            vectors: Embeddings::new(kept.len(), vectors.width(), values)?,
        })
    }
}
