//! New items of a catalog: what is known of them, and their semantic IDs.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use sidereal_core::collision::continue_suffix;
use sidereal_core::{Catalog, CollisionPolicy, Embeddings, Error, ItemId, ItemIndex, SemanticIds};
use sidereal_data::ColumnMap;
use sidereal_tokenizer::life::collisions::Collisions;
use sidereal_tokenizer::life::repair::{RepairRecord, place};
use sidereal_tokenizer::{ItemTokenizer, TokenizerConfig, TrainingItems};

use crate::Result;
use crate::life::added::{AddedItems, extended};
use crate::run::Run;
use crate::stages::catalog::asked_of;
use crate::stages::tokenizer::{Known, category_paths};
use crate::vectors::{self, Input, Whole};

/// Items to add.
pub(crate) struct NewItems {
    pub(crate) ids: Vec<ItemId>,
    pub(crate) titles: Vec<Option<String>>,
    /// Paths of categories, empty where unknown; none where nothing tells categories.
    pub(crate) categories: Option<Vec<Vec<String>>>,
    pub(crate) vectors: Embeddings,
}

/// Semantic IDs of new items by the catalog's policy, suffix included, [M, L].
pub(crate) fn places(
    run: &Run,
    tokenizer: ItemTokenizer,
    catalog: &Catalog,
    added: &AddedItems,
    new: &NewItems,
) -> Result<(SemanticIds, Option<RepairRecord>)> {
    if new.ids.is_empty() {
        return Ok((SemanticIds::new(catalog.levels(), Vec::new())?, None));
    }
    let lists_items = tokenizer.description().config.lists_items();
    let (tokenizer, sids) = match lists_items {
        true => places_in_list(run, tokenizer, catalog, added, new)?,
        false => {
            let sids = tokenizer.encode(&new.vectors)?;
            (tokenizer, sids)
        }
    };
    Ok(match catalog.policy() {
        CollisionPolicy::Suffix => (continue_suffix(catalog, &sids)?, None),
        policy if policy.repairs() => {
            let published = catalog.semantic_ids()?;
            let taken: HashSet<&[u16]> = published.rows().collect();
            let how = Collisions { policy, ..asked_of(run, catalog)? };
            let placed = place(&tokenizer, how, &new.ids, &new.vectors, &sids, &taken)?;
            (placed.sids, Some(placed.record))
        }
        _ => (sids, None),
    })
}

/// Places of new items in a list, beside everything that the catalog has published, [M, L]; the list with them.
fn places_in_list(
    run: &Run,
    tokenizer: ItemTokenizer,
    catalog: &Catalog,
    added: &AddedItems,
    new: &NewItems,
) -> Result<(ItemTokenizer, SemanticIds)> {
    if new.categories.is_none() && matches!(tokenizer.description().config, TokenizerConfig::CategoryTree(_)) {
        let problem = "category-tree places items by their categories, and the new items have none";
        let mend = "give a table with a column category, categories, genre or genres: --items F";
        return Err(Error::input("new items", problem, mend).into());
    }
    let known = Known::of(run)?;
    if let Some(data) = &known.data {
        run.check_items(catalog, data)?;
    }
    let vectors = extended(run.catalog_embeddings(catalog)?, &new.vectors)?;
    let ids = [&ids_of(catalog)[..], &new.ids].concat();
    let paths = known.categories.as_ref().zip(new.categories.as_ref());
    let categories = paths.map(|(built, new)| [&built[..], &added.categories, new].concat());
    let items = TrainingItems {
        ids: Some(&ids),
        categories: categories.as_deref(),
        domains: None,
        ..known.training_items(&vectors)
    };
    let mut tokenizer = knowing(tokenizer, catalog)?;
    let all = tokenizer.extend_items(&items)?;
    let found = all.codes()[catalog.len() * all.levels()..].to_vec();
    Ok((tokenizer, SemanticIds::new(all.levels(), found)?))
}

/// A tokenizer that knows all items of its catalog: a list on disk has those that it was trained on.
pub(crate) fn knowing(tokenizer: ItemTokenizer, catalog: &Catalog) -> Result<ItemTokenizer> {
    tokenizer.with_published(&ids_of(catalog), &catalog.tokenizer_semantic_ids()?)
}

fn ids_of(catalog: &Catalog) -> Vec<ItemId> {
    (0..catalog.len() as ItemIndex).map(|item| ItemId::from(catalog.item_id(item))).collect()
}

impl NewItems {
    /// Reads vectors, and what a table says of their items.
    pub(crate) fn read(embeddings: &[Input], items: Option<&Path>) -> Result<Self> {
        let Whole { vectors, ids, place } = vectors::read(embeddings)?;
        let table = items.map(|path| sidereal_data::items_from(path, &ColumnMap::default())).transpose()?;
        let ids = match (ids, &table) {
            (Some(ids), _) => ids,
            (None, Some(table)) if table.len() == vectors.rows() => {
                table.ids().iter().map(|id| ItemId::from(id.as_str())).collect()
            }
            (None, Some(table)) => {
                let problem = format!("{} vectors, but {} items", vectors.rows(), table.len());
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
        let paths = table.as_ref().and_then(|table| Some((table, category_paths(table.attributes())?)));
        let categories = paths.map(|(table, paths)| {
            let path_of: HashMap<&str, &Vec<String>> = table.ids().iter().map(String::as_str).zip(&paths).collect();
            ids.iter().map(|id| path_of.get(id.as_str()).map(|&path| path.clone()).unwrap_or_default()).collect()
        });
        Ok(Self { ids, titles, categories, vectors })
    }

    /// Those that `drop` does not name.
    pub(crate) fn without(self, drop: impl Fn(&ItemId) -> bool) -> Result<Self> {
        let Self { ids, titles, categories, vectors } = self;
        let kept: Vec<usize> = (0..ids.len()).filter(|&row| !drop(&ids[row])).collect();
        let values = kept.iter().flat_map(|&row| vectors.row(row)).copied().collect();
        Ok(Self {
            ids: kept.iter().map(|&row| ids[row].clone()).collect(),
            titles: kept.iter().map(|&row| titles[row].clone()).collect(),
            categories: categories.map(|paths| kept.iter().map(|&row| paths[row].clone()).collect()),
            vectors: Embeddings::new(kept.len(), vectors.width(), values)?,
        })
    }

    /// What a catalog's folder keeps of them.
    pub(crate) fn into_added(self) -> AddedItems {
        let count = self.ids.len();
        AddedItems {
            titles: self.titles,
            categories: self.categories.unwrap_or_else(|| vec![Vec::new(); count]),
            vectors: (count > 0).then_some(self.vectors),
        }
    }
}
