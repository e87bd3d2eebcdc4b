//! Hybrid codes: a collaborative prefix, and last codes that are the item's own in the whole catalog.
//!
//! The last levels, as few as have room for the catalog, number the items; the levels before are the first of the
//! collaborative tree ([`super::collaborative`]).
//!
//! A new item has the prefix of the item that users have near it most often, or of the nearest by vector where no user
//! has it yet, and the next number.
//!
//! *Paper*: hybrid indexing of Hua et al., *How to Index Item IDs for Recommendation Foundation Models*, SIGIR-AP 2023,
//! arXiv 2305.06569, section 4.
//! *Differs from the paper*: the independent part may take more than one code, because a level has at most 65,536.
//!
//! # Shapes
//! Ids `[N]`, histories; semantic IDs [N, L].

use serde::{Deserialize, Serialize};

use sidereal_core::{Error, SemanticIds};

use super::collaborative::{GraphTree, check_graph};
use super::{MethodConfig, MethodKind, Model, Status, Trained, Training};
use crate::Result;
use crate::behaviour::code_tree::{room, write_number};
use crate::item_table::ItemTable;
use crate::life::growth::{Growth, no_room};
use crate::training_items::TrainingItems;

/// Settings of hybrid codes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HybridConfig {
    /// K of every level; the last ones number the items. Default: two levels of 256 and one of 65,536.
    pub codes: Vec<u32>,
    /// Items count as together when they are at most this many steps apart in a history.
    pub window: usize,
    /// Most clusters of a node; absent, as many as give even clusters of one item below the last prefix.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clusters: Option<usize>,
}

impl Default for HybridConfig {
    fn default() -> Self {
        Self { codes: vec![256, 256, 65_536], window: 10, clusters: None }
    }
}

impl MethodKind for HybridConfig {
    const PAPER: &'static str = "How to Index Item IDs, arXiv 2305.06569 (hybrid indexing)";
    const STATUS: Status = Status::Stable;

    fn with_codes(codes: Vec<u32>) -> Self {
        Self { codes, ..Self::default() }
    }
}

impl MethodConfig for HybridConfig {
    fn codes(&self) -> &[u32] {
        &self.codes
    }

    fn lists_items(&self) -> bool {
        true
    }

    fn check(&self) -> Result<()> {
        check_graph("hybrid", self.window, self.clusters)
    }

    fn train(&self, items: &TrainingItems<'_>, training: &Training<'_>) -> Result<Trained> {
        let ids = items.needed_ids("hybrid")?;
        let prefix = prefix_levels(ids.len(), &self.codes)?;
        // The tree's own last level numbers the items of a cluster; it is not kept.
        let mut tree_codes = self.codes[..prefix].to_vec();
        tree_codes.push(ids.len() as u32);
        let tree = GraphTree { method: "hybrid", window: self.window, clusters: self.clusters };
        let (placed, unseen) = tree.place(items, &tree_codes, training)?;
        let levels = self.codes.len();
        let mut codes = vec![0u16; ids.len() * levels];
        for (item, (codes, placed)) in codes.chunks_exact_mut(levels).zip(placed.rows()).enumerate() {
            codes[..prefix].copy_from_slice(&placed[..prefix]);
            write_number(item, &self.codes[prefix..], &mut codes[prefix..]);
        }
        let table = ItemTable::new(ids.to_vec(), SemanticIds::new(levels, codes)?, self.codes.clone())?;
        let record = serde_json::json!({ "collaborative_levels": prefix, "items_without_neighbours": unseen });
        Ok(Trained { model: Model::Table(table), record })
    }

    fn extend(&self, growth: &Growth<'_>, _seed: u64) -> Result<Vec<u16>> {
        let (taken, levels) = (growth.table.ids().len(), self.codes.len());
        let prefix = prefix_levels(taken, &self.codes)?;
        if taken + growth.new.len() > room(&self.codes[prefix..]) {
            return Err(no_room(taken + growth.new.len(), &self.codes[prefix..], "hybrid").into());
        }
        let mut codes = vec![0u16; growth.new.len() * levels];
        let near = growth.by_behaviour(self.window);
        for (at, (codes, near)) in codes.chunks_exact_mut(levels).zip(near).enumerate() {
            if let Some(item) = near {
                codes[..prefix].copy_from_slice(&growth.codes_of(item)[..prefix]);
            }
            write_number(taken + at, &self.codes[prefix..], &mut codes[prefix..]);
        }
        Ok(codes)
    }
}

/// Levels that are left when the last ones number the items.
fn prefix_levels(items: usize, codes: &[u32]) -> Result<usize> {
    match (1..codes.len()).rev().find(|&prefix| room(&codes[prefix..]) >= items) {
        Some(prefix) => Ok(prefix),
        None => {
            let problem = format!("{items} items cannot be numbered by the levels after the first of {codes:?}");
            let mend = "give a larger last level, for example [256, 256, 65536], or more levels";
            Err(Error::config("hybrid.codes", problem, mend).into())
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn as_few_last_levels_as_suffice_number_the_items() {
        assert_eq!(prefix_levels(256, &[8, 8, 256]).unwrap(), 2);
        assert_eq!(prefix_levels(257, &[8, 8, 256]).unwrap(), 1);
        let error = prefix_levels(3000, &[8, 8, 256]).unwrap_err().to_string();
        assert!(error.contains("hybrid.codes") && error.contains("3000"), "{error}");
        assert!(prefix_levels(1, &[4]).is_err());
    }
}
