//! Sequential codes: items are numbered in catalog order, and codes are the digits.
//!
//! Items that stand side by side in the catalog share prefixes, which is worth something where the order is: ids given
//! by date, or by user and time.
//!
//! *Paper*: sequential indexing of Hua et al., *How to Index Item IDs for Recommendation Foundation Models*,
//! SIGIR-AP 2023, arXiv 2305.06569, section 4.
//! *Differs from the paper*: there items are numbered as they appear in users' histories, which puts the items of a
//! user together; `order = "histories"` does that, and items of no history follow in catalog order. Digits are of base
//! K and not pieces of a text tokenizer.
//!
//! # Shapes
//! Ids `[N]`; semantic IDs [N, L].

use serde::{Deserialize, Serialize};

use sidereal_core::SemanticIds;

use super::{MethodConfig, MethodKind, Model, Status, Trained, Training};
use crate::Result;
use crate::behaviour::code_tree::{check_room, room, write_number};
use crate::item_table::ItemTable;
use crate::life::growth::{Growth, no_room};
use crate::training_items::TrainingItems;

/// What the numbers follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NumberOrder {
    /// The rows of the items table.
    #[default]
    Catalog,
    /// The first appearance in users' training histories; then the catalog.
    Histories,
}

/// Settings of sequential codes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SequentialConfig {
    /// K of every level; their product is at least the number of items. Default: three levels of 256.
    pub codes: Vec<u32>,
    /// What the numbers follow.
    pub order: NumberOrder,
}

impl Default for SequentialConfig {
    fn default() -> Self {
        Self { codes: vec![256; 3], order: NumberOrder::default() }
    }
}

impl MethodKind for SequentialConfig {
    const PAPER: &'static str = "How to Index Item IDs, arXiv 2305.06569 (sequential indexing)";
    const STATUS: Status = Status::Stable;

    fn with_codes(codes: Vec<u32>) -> Self {
        Self { codes, ..Self::default() }
    }
}

impl MethodConfig for SequentialConfig {
    fn codes(&self) -> &[u32] {
        &self.codes
    }

    fn lists_items(&self) -> bool {
        true
    }

    fn train(&self, items: &TrainingItems<'_>, _training: &Training<'_>) -> Result<Trained> {
        let ids = items.needed_ids("sequential")?;
        check_room(ids.len(), &self.codes, "sequential")?;
        let levels = self.codes.len();
        let mut codes = vec![0u16; ids.len() * levels];
        for (number, item) in self.order(items)?.into_iter().enumerate() {
            write_number(number, &self.codes, &mut codes[item * levels..][..levels]);
        }
        let table = ItemTable::new(ids.to_vec(), SemanticIds::new(levels, codes)?, self.codes.clone())?;
        Ok(Trained { model: Model::Table(table), record: serde_json::json!({}) })
    }

    fn extend(&self, growth: &Growth<'_>, _seed: u64) -> Result<Vec<u16>> {
        // All numbers below the number of items are taken, whatever the order was.
        let taken = growth.table.ids().len();
        if taken + growth.new.len() > room(&self.codes) {
            return Err(no_room(taken + growth.new.len(), &self.codes, "sequential").into());
        }
        let levels = self.codes.len();
        let mut codes = vec![0u16; growth.new.len() * levels];
        for (at, codes) in codes.chunks_exact_mut(levels).enumerate() {
            write_number(taken + at, &self.codes, codes);
        }
        Ok(codes)
    }
}

impl SequentialConfig {
    /// The items in the order of their numbers, `[N]`.
    fn order(&self, items: &TrainingItems<'_>) -> Result<Vec<usize>> {
        if self.order == NumberOrder::Catalog {
            return Ok((0..items.len()).collect());
        }
        let mut seen = vec![false; items.len()];
        let histories = items.needed_histories("sequential")?;
        let appear = histories.iter().flatten().map(|&item| item as usize).chain(0..items.len());
        Ok(appear.filter(|&item| !std::mem::replace(&mut seen[item], true)).collect())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::training_items::TrainingHistories;
    use sidereal_core::{Embeddings, Histories, ItemId, NoProgress};

    #[test]
    fn neighbours_in_the_chosen_order_share_prefixes() {
        let vectors = Embeddings::new(5, 1, vec![0.0; 5]).unwrap();
        let ids: Vec<ItemId> = (0..5).map(|i| ItemId::from(i.to_string())).collect();
        let histories = Histories::new(vec!["u".to_owned()], vec![0, 4], vec![3, 1, 3, 0], None, None).unwrap();
        let items = TrainingItems {
            ids: Some(&ids),
            histories: Some(TrainingHistories::new(&histories, &[3])),
            ..TrainingItems::new(&vectors)
        };
        let codes = |config: &SequentialConfig| {
            let Model::Table(table) = config.train(&items, &Training::new(1, &NoProgress)).unwrap().model else {
                panic!("a table")
            };
            table.semantic_ids().codes().to_vec()
        };
        let config = SequentialConfig::with_codes(vec![3, 2]);
        assert_eq!(codes(&config), [0, 0, 0, 1, 1, 0, 1, 1, 2, 0]);
        assert_eq!(
            codes(&SequentialConfig { order: NumberOrder::Histories, ..config }),
            [1, 0, 0, 1, 1, 1, 0, 0, 2, 0]
        );
        let small = SequentialConfig::with_codes(vec![2, 2]);
        let error = small.train(&items, &Training::new(1, &NoProgress)).err().unwrap().to_string();
        assert!(error.contains("sequential.codes") && error.contains("5 items"), "{error}");
    }
}
