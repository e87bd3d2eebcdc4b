//! The item vectors that baselines over text look at.
//!
//! A run's embeddings may be what another run's generator has learnt of the items ([`Part::Learnt`]). Such vectors know who
//! took what: a baseline over them is no baseline over text, and must not be called so. Where vectors of both kinds stand
//! side by side, the learnt columns are left out; where there are no others, the baselines say it in their names.
//!
//! [`Part::Learnt`]: crate::stages::embeddings::Part

use std::ops::Range;

use serde_json::Value;
use sidereal_core::artifact::Manifest;
use sidereal_core::{Catalog, Embeddings, Error};
use sidereal_generator::baselines::BaselineMethod;

use crate::Result;
use crate::run::{Run, Stage};

/// A run's item vectors as baselines see them.
pub(crate) struct Content {
    /// `[N, D]` of the catalog's items.
    pub(crate) vectors: Embeddings,
    /// Whether a generator has learnt all of them.
    learnt: bool,
}

impl Content {
    /// What a run has; nothing where it has no vectors.
    ///
    /// # Errors
    /// A stage that is damaged.
    pub(crate) fn of(run: &Run, catalog: &Catalog) -> Result<Option<Self>> {
        if !run.has(Stage::Embeddings) {
            return Ok(None);
        }
        let vectors = run.catalog_embeddings(catalog)?;
        let columns = content_columns(&run.manifest(Stage::Embeddings)?, vectors.width());
        let width: usize = columns.iter().map(Range::len).sum();
        if width == 0 || width == vectors.width() {
            return Ok(Some(Self { vectors, learnt: width == 0 }));
        }
        if columns.iter().any(|columns| columns.end > vectors.width()) {
            let problem = "its parts are wider than its vectors";
            let mend = "embed the run again";
            return Err(Error::artifact(run.dir(Stage::Embeddings), problem, mend).into());
        }
        let mut values = Vec::with_capacity(vectors.rows() * width);
        for row in 0..vectors.rows() {
            columns.iter().for_each(|columns| values.extend_from_slice(&vectors.row(row)[columns.clone()]));
        }
        Ok(Some(Self { vectors: Embeddings::new(vectors.rows(), width, values)?, learnt: false }))
    }
}

/// What a baseline is called over these vectors.
pub(crate) fn row_name(method: &BaselineMethod, content: Option<&Content>) -> String {
    match content {
        Some(content) if content.learnt && method.needs_embeddings => format!("{} over learnt vectors", method.name),
        _ => method.name.to_owned(),
    }
}

/// The columns that no generator has learnt, of vectors of a width.
fn content_columns(manifest: &Manifest, width: usize) -> Vec<Range<usize>> {
    let learnt = |config: &Value| config.get("learnt").is_some_and(|learnt| *learnt == Value::Bool(true));
    if learnt(&manifest.config) {
        return Vec::new();
    }
    let list = |value: &Value| value.get("parts").and_then(Value::as_array).cloned().unwrap_or_default();
    let (asked, made) = (list(&manifest.config), list(&manifest.facts));
    if asked.is_empty() {
        return std::iter::once(0..width).collect();
    }
    let mut end = 0;
    let mut columns = Vec::new();
    for (asked, made) in asked.iter().zip(&made) {
        let width = made.get("width").and_then(Value::as_u64).unwrap_or(0) as usize;
        if !learnt(asked) {
            columns.push(end..end + width);
        }
        end += width;
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_that_a_generator_has_learnt_are_no_content() {
        let columns = |config: Value, facts: Value| {
            let mut manifest = Manifest::new("embeddings", None, config, Default::default());
            manifest.facts = facts;
            let columns = content_columns(&manifest, 30);
            columns.into_iter().map(|columns| (columns.start, columns.end)).collect::<Vec<_>>()
        };
        assert_eq!(columns(json!({ "name": null }), json!({ "width": 30 })), [(0, 30)]);
        assert_eq!(columns(json!({ "domains": ["a", "b"] }), json!({})), [(0, 30)]);
        assert!(columns(json!({ "learnt": true }), json!({ "width": 30 })).is_empty());
        let widths = json!({ "parts": [{ "width": 12 }, { "width": 10 }, { "width": 8 }] });
        let parts = json!({ "parts": [{ "name": null }, { "learnt": true }, { "model": "m" }] });
        assert_eq!(columns(parts, widths.clone()), [(0, 12), (22, 30)]);
        let learnt = json!({ "parts": [{ "learnt": true }, { "learnt": true }, { "learnt": true }] });
        assert!(columns(learnt, widths).is_empty());
    }
}
