//! Items and semantic IDs -> the catalog with its trie.

use serde_json::json;
use sidereal_core::artifact::Manifest;
use sidereal_core::{Catalog, CollisionPolicy, Embeddings, ItemId};
use sidereal_tokenizer::ItemTokenizer;
use sidereal_tokenizer::life::repair::{RepairRecord, repair};

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
        let prior = match run.has(Stage::Split) {
            true => Some(run.split(&data.histories)?.training_popularity(&data.histories, data.items.len())),
            false => None,
        };
        let (catalog, repair) = join(&tokenizer, policy, ids, &embeddings, prior.as_deref())?;
        versions::keep_changed(run)?;
        catalog.save(out.dir())?;
        let mut facts = facts(&catalog);
        if let Some(record) = repair {
            facts["repair"] = resolved(&record);
        }
        Ok(facts)
    })
}

/// Encodes items, repairs collisions where the policy says so, and joins items with their semantic IDs.
pub(crate) fn join(
    tokenizer: &ItemTokenizer,
    policy: CollisionPolicy,
    ids: &[ItemId],
    embeddings: &Embeddings,
    prior: Option<&[u32]>,
) -> Result<(Catalog, Option<RepairRecord>)> {
    let sids = tokenizer.encode_items(ids, embeddings)?;
    let (sids, record) = match policy.repairs() {
        true => {
            let repaired = repair(tokenizer, policy, ids, embeddings, &sids)?;
            (repaired.sids, Some(repaired.record))
        }
        false => (sids, None),
    };
    Ok((Catalog::build(ids, &sids, tokenizer.codes_per_level(), policy, prior)?, record))
}

/// What a catalog's manifest says of it.
pub(crate) fn facts(catalog: &Catalog) -> serde_json::Value {
    json!({
        "version": catalog.version(),
        "items": catalog.alive(),
        "unique_ids": catalog.trie().leaves(),
        "codes_per_level": catalog.codes_per_level(),
    })
}

/// The first of many ids, for an error.
pub(crate) fn first_few(ids: &[&str]) -> String {
    let shown: Vec<String> = ids.iter().take(10).map(|id| format!("{id:?}")).collect();
    let more = if ids.len() > shown.len() { ", ..." } else { "" };
    format!("{}{more}", shown.join(", "))
}
