//! The category tree: codes are the places of an item's categories, the last ones number the items of a category.
//!
//! Every level splits its items by the first part of their category paths in which they differ, so a part that all
//! share ("Beauty" in a catalog of beauty products) costs no level. Items whose path ends there, or is unknown, have a
//! bucket of their own. Where no categories are left, items are numbered through the remaining levels, in catalog
//! order. Categories that are larger than a code has room for take several codes; where a node has more categories than
//! codes, the largest keep codes of their own and the others share the rest (`code_tree.rs`).
//!
//! A new item takes the first free place under the codes of an item with its categories, as many of them as have room.
//!
//! *Paper*: semantic indexing by item categories of Hua et al., *How to Index Item IDs for Recommendation Foundation
//! Models*, SIGIR-AP 2023, arXiv 2305.06569, section 4.
//! *Differs from the paper*: its IDs are as long as the category path; these all have L codes.
//!
//! # Shapes
//! Ids `[N]`, category paths `[N]`; semantic IDs [N, L].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{MethodConfig, MethodKind, Model, Status, Trained, Training};
use crate::Result;
use crate::behaviour::code_tree::place;
use crate::item_table::ItemTable;
use crate::life::growth::Growth;
use crate::training_items::TrainingItems;

/// Settings of the category tree.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CategoryTreeConfig {
    /// K of every level; their product is at least the number of items. Default: three levels of 256.
    pub codes: Vec<u32>,
}

impl Default for CategoryTreeConfig {
    fn default() -> Self {
        Self { codes: vec![256; 3] }
    }
}

impl MethodKind for CategoryTreeConfig {
    const PAPER: &'static str = "How to Index Item IDs, arXiv 2305.06569 (semantic indexing)";
    const STATUS: Status = Status::Stable;

    fn with_codes(codes: Vec<u32>) -> Self {
        Self { codes }
    }
}

impl MethodConfig for CategoryTreeConfig {
    fn codes(&self) -> &[u32] {
        &self.codes
    }

    fn lists_items(&self) -> bool {
        true
    }

    fn train(&self, items: &TrainingItems<'_>, _training: &Training<'_>) -> Result<Trained> {
        let ids = items.needed_ids("category-tree")?;
        let paths = items.needed_categories("category-tree")?;
        let mut split = |members: &[u32], _| Ok(by_category(members, paths));
        let sids = place(ids.len(), &self.codes, "category-tree", &mut split)?;
        let table = ItemTable::new(ids.to_vec(), sids, self.codes.clone())?;
        let unknown = paths.iter().filter(|path| path.is_empty()).count();
        let record = serde_json::json!({ "items_without_category": unknown });
        Ok(Trained { model: Model::Table(table), record })
    }

    fn extend(&self, growth: &Growth<'_>, _seed: u64) -> Result<Vec<u16>> {
        Ok(growth.free_near(&growth.by_category("category-tree")?, "category-tree")?)
    }
}

/// Groups items by the first part in which their paths differ, in the order of the names.
fn by_category(members: &[u32], paths: &[Vec<String>]) -> Vec<Vec<u32>> {
    let path = |item: u32| paths[item as usize].as_slice();
    let first = members.first().map_or(&[][..], |&item| path(item));
    let shared = |item: u32| path(item).iter().zip(first).take_while(|(a, b)| a == b).count();
    let Some(depth) = members.iter().map(|&item| shared(item)).min() else { return Vec::new() };
    let mut groups: BTreeMap<Option<&String>, Vec<u32>> = BTreeMap::new();
    for &item in members {
        groups.entry(path(item).get(depth)).or_default().push(item);
    }
    groups.into_values().collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use sidereal_core::{Embeddings, ItemId, NoProgress};

    #[test]
    fn items_of_a_category_share_its_prefix_and_unknown_ones_a_bucket() {
        let paths = ["all/hair/oil", "all/skin", "all/hair/dye", "", "all/hair/oil", "all/hair", "all/skin"];
        let paths: Vec<Vec<String>> =
            paths.iter().map(|p| p.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect()).collect();
        let vectors = Embeddings::new(7, 1, vec![0.0; 7]).unwrap();
        let ids: Vec<ItemId> = (0..7).map(|i| ItemId::from(i.to_string())).collect();
        let items = TrainingItems { ids: Some(&ids), categories: Some(&paths), ..TrainingItems::new(&vectors) };
        let config = CategoryTreeConfig::with_codes(vec![4; 4]);
        let trained = config.train(&items, &Training::new(1, &NoProgress)).unwrap();
        let Model::Table(table) = trained.model else { panic!("a table") };
        let row = |i: usize| table.semantic_ids().row(i).to_vec();
        assert_eq!(row(3), [0, 0, 0, 0]);
        assert_eq!([row(0), row(4)], [[1, 0, 2, 0], [1, 0, 2, 1]]);
        assert_eq!([row(2), row(5)], [[1, 0, 1, 0], [1, 0, 0, 0]]);
        assert_eq!([row(1), row(6)], [[1, 1, 0, 0], [1, 1, 0, 1]]);
        assert_eq!(trained.record["items_without_category"], 1);
        let bare = TrainingItems { categories: None, ..items };
        let error = config.train(&bare, &Training::new(1, &NoProgress)).err().unwrap().to_string();
        assert!(error.contains("category-tree") && error.contains("categories"), "{error}");
    }
}
