//! Random codes: what semantic IDs are worth when they mean nothing.
//!
//! Every code is drawn from the seed and the item's id alone, so an item keeps its semantic ID in any catalog, and new
//! items move no old ones. Two items may draw the same semantic ID; the catalog keeps both in its postings.
//!
//! *Paper*: random indexing of Hua et al., *How to Index Item IDs for Recommendation Foundation Models*, SIGIR-AP 2023,
//! arXiv 2305.06569, section 3.
//! *Differs from the paper*: there an item has a random number, which is cut into tokens; here codes are independent.
//!
//! # Shapes
//! Ids `[N]`; semantic IDs [N, L].

use serde::{Deserialize, Serialize};

use sidereal_core::{ItemId, Result as CoreResult, SemanticIds};
use sidereal_nn::rng::Rng;

use super::{MethodConfig, MethodKind, Model, Status, Trained, Training};
use crate::Result;
use crate::item_table::ItemTable;
use crate::life::growth::Growth;
use crate::training_items::TrainingItems;

/// Settings of random codes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RandomConfig {
    /// K of every level. Default: three levels of 256.
    pub codes: Vec<u32>,
}

impl Default for RandomConfig {
    fn default() -> Self {
        Self { codes: vec![256; 3] }
    }
}

impl MethodKind for RandomConfig {
    const PAPER: &'static str = "How to Index Item IDs, arXiv 2305.06569 (random indexing)";
    const STATUS: Status = Status::Stable;

    fn with_codes(codes: Vec<u32>) -> Self {
        Self { codes }
    }
}

impl MethodConfig for RandomConfig {
    fn codes(&self) -> &[u32] {
        &self.codes
    }

    fn lists_items(&self) -> bool {
        true
    }

    fn train(&self, items: &TrainingItems<'_>, training: &Training<'_>) -> Result<Trained> {
        let ids = items.needed_ids("random")?;
        let table = ItemTable::new(ids.to_vec(), draw(ids, &self.codes, training.seed)?, self.codes.clone())?;
        Ok(Trained { model: Model::Table(table), record: serde_json::json!({}) })
    }

    fn extend(&self, growth: &Growth<'_>, seed: u64) -> Result<Vec<u16>> {
        let ids: Vec<ItemId> = growth.new.iter().map(|&item| growth.ids[item].clone()).collect();
        Ok(draw(&ids, &self.codes, seed)?.codes().to_vec())
    }
}

/// # Shapes
/// `[N]` to [N, L]
fn draw(ids: &[ItemId], codes: &[u32], seed: u64) -> CoreResult<SemanticIds> {
    let of = |id: &ItemId| {
        let mut rng = Rng::new(seed, id.as_str());
        codes.iter().map(move |&k| rng.below(k as usize) as u16)
    };
    SemanticIds::new(codes.len(), ids.iter().flat_map(of).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn codes_follow_from_seed_and_id_alone_and_are_spread() {
        let ids: Vec<ItemId> = (0..4000).map(|i| ItemId::from(format!("item {i}"))).collect();
        let all = draw(&ids, &[8, 5], 3).unwrap();
        let last = draw(&ids[3990..], &[8, 5], 3).unwrap();
        assert_eq!(last.codes(), &all.codes()[3990 * 2..]);
        assert_ne!(draw(&ids, &[8, 5], 4).unwrap(), all);
        for (level, k) in [(0, 8), (1, 5)] {
            for code in 0..k {
                let count = all.rows().filter(|row| row[level] == code).count() as f64;
                assert!((count * f64::from(k) / 4000.0 - 1.0).abs() < 0.2, "level {level}, code {code}: {count}");
            }
        }
    }
}
