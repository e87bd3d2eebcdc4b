//! Items and semantic IDs -> the catalog with its trie.

use serde_json::json;
use sidereal_core::artifact::Manifest;
use sidereal_core::{Catalog, CollisionPolicy};

use crate::Result;
use crate::run::{Outcome, Run, Stage};
use crate::stages::inputs;

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
        let sids = tokenizer.encode_items(data.items.ids(), &run.embeddings()?)?;
        let prior = match run.has(Stage::Split) {
            true => Some(run.split(&data.histories)?.training_popularity(&data.histories, data.items.len())),
            false => None,
        };
        let codes = tokenizer.codes_per_level();
        let catalog = Catalog::build(data.items.ids(), &sids, codes, policy, prior.as_deref())?;
        catalog.save(out.dir())?;
        Ok(facts(&catalog))
    })
}

/// What a catalog's manifest says of it.
pub(crate) fn facts(catalog: &Catalog) -> serde_json::Value {
    json!({
        "version": catalog.version(),
        "items": catalog.len(),
        "unique_ids": catalog.trie().leaves(),
        "codes_per_level": catalog.codes_per_level(),
    })
}
