//! Items added to a run's catalog, and removed from it.

use std::path::Path;

use serde::Serialize;
use serde_json::json;
use sidereal_core::catalog::Change;
use sidereal_core::{Catalog, Error, ItemId, ItemIndex, Progress};
use sidereal_tokenizer::ItemTokenizer;
use sidereal_tokenizer::life::repair::RepairRecord;

use crate::Result;
use crate::life::added::AddedItems;
use crate::life::new_items::{NewItems, places};
use crate::life::versions;
use crate::run::{Run, Stage};
use crate::stages::catalog::{facts, first_few};
use crate::vectors::{Input, place_of};

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

/// Adds the items of a file of vectors, or of several of the same items in the same order, encoded by the run's tokenizer as it is. What was published stays where it is.
///
/// A tokenizer that lists items finds them places beside those that the catalog has, by categories, histories or vectors
/// as its method does; the tokenizer's own list stays as it was trained, the catalog is the record.
///
/// Item ids come from the files of vectors (Parquet) or, where they have none, from `items`, row by row; `items` also gives
/// titles and categories. An item that was removed comes back under the semantic ID that it had, whatever its vector is
/// now.
///
/// # Errors
/// No catalog or tokenizer, or a catalog that this tokenizer did not make; vectors without ids; ids that the catalog
/// has; a suffix that overflows, or a list without room; no categories for a method that places items by them. Then
/// nothing has changed.
pub fn add(run: &Run, embeddings: &[Input], items: Option<&Path>, progress: &dyn Progress) -> Result<Changed> {
    let catalog = run.catalog()?;
    let tokenizer = tokenizer_of(run)?;
    let new = NewItems::read(embeddings, items)?;
    let index = catalog.index_by_id();
    let alive = |id: &&ItemId| index.get(id.as_str()).is_some_and(|&item| catalog.is_alive(item));
    let there: Vec<&str> = new.ids.iter().filter(alive).map(ItemId::as_str).collect();
    if !there.is_empty() {
        let problem =
            format!("{} of {} items are in the catalog already: {}", there.len(), new.ids.len(), first_few(&there));
        return Err(Error::input(place_of(embeddings), problem, "leave them out").into());
    }
    let restore: Vec<ItemIndex> = new.ids.iter().filter_map(|id| index.get(id.as_str()).copied()).collect();
    let fresh = new.without(|id| index.contains_key(id.as_str()))?;

    append(run, &catalog, tokenizer, fresh, &restore, progress)
}

/// Puts items behind those of the run's catalog, and brings removed ones back.
pub(crate) fn append(
    run: &Run,
    catalog: &Catalog,
    tokenizer: ItemTokenizer,
    new: NewItems,
    restore: &[ItemIndex],
    progress: &dyn Progress,
) -> Result<Changed> {
    let count = new.ids.len();
    let added = AddedItems::load(&run.dir(Stage::Catalog), catalog)?;
    progress.start("encode new items", Some(count as u64), "items");
    let (sids, placement) = places(run, tokenizer, catalog, &added, &new)?;
    progress.advance(count as u64);
    progress.finish();
    let next = catalog.change(&Change { add: &new.ids, add_ids: Some(&sids), restore, remove: &[] })?;
    let changed = Changed { added: count, restored: restore.len(), placement, ..Changed::default() };
    finish(run, catalog, &next, &added.and(new.into_added())?, changed)
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
