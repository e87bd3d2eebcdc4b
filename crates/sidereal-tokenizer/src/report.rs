//! How good semantic IDs are: what can be said from the codes alone, and more where vectors, categories, popularity or
//! co-purchases are at hand.
//!
//! The first part works for any catalog, imported ones included. Figures follow common use: collision rate is
//! (N - distinct IDs) / N; perplexity is e^H with the entropy H in nats of one level's code frequencies.

use serde::{Deserialize, Serialize};

use sidereal_core::{Embeddings, Error, ItemIndex, Result, SemanticIds};

use crate::quantizers::{Model, Quantizer};
use crate::reconstruction::item_errors;
use crate::tokenizer::ItemTokenizer;

mod behaviour;
mod cards;
mod neighbours;
mod structure;

pub use behaviour::{CoPurchase, CollisionByPopularity, consecutive_pairs, held_out_pairs};
pub use cards::{CardEvidence, CardItem, CardWord, ConceptCard, concept_cards};
pub use neighbours::NeighbourPreservation;
pub use structure::{Level, code_counts, structure};

/// The quality report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QualityReport {
    /// N.
    pub items: usize,
    /// Distinct semantic IDs.
    pub unique_ids: usize,
    /// (N - unique) / N.
    pub collision_rate: f64,
    /// Items that share their semantic ID with another.
    pub items_in_collision: usize,
    /// Most items of one semantic ID.
    pub max_bucket: usize,
    /// Use of each level, `[L]`.
    pub levels: Vec<Level>,
    /// Distinct prefixes of each depth 1 to L, `[L]`.
    pub prefixes: Vec<usize>,
    /// Mean squared error of an item's vector, summed over its dimensions, and its share of the vectors' own length.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reconstruction: Option<Reconstruction>,
    /// Share of an item's nearest neighbours that its codes keep.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub neighbours: Option<NeighbourPreservation>,
    /// Share of items in the largest category of their prefix, by depth, `[L]`; items without a category are left out.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub category_purity: Option<Vec<f64>>,
    /// Collisions of popular and of rare items.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub collisions_by_popularity: Option<CollisionByPopularity>,
    /// Whether items that are bought together share prefixes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub co_purchase: Option<CoPurchase>,
    /// The same of held-out pairs, which no aligned tokenizer has learnt from.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub co_purchase_held_out: Option<CoPurchase>,
}

/// How much of the vectors the codes keep: of the inputs x after the pre-steps or, behind an encoder that was retrained for
/// vectors of another model, of the latents.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reconstruction {
    /// Mean over items of |x - x'|^2.
    pub mean_squared_error: f64,
    /// Sum of |x - x'|^2 over sum of |x|^2.
    pub relative_error: f64,
    /// Length left after each level over the length before it, in the latent space, `[L]`; none where codes do not
    /// refine one another.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub residual_ratios: Option<Vec<f64>>,
}

/// What a report may draw on besides the codes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Evidence<'a> {
    /// Item vectors as the tokenizer takes them, [N, D].
    pub embeddings: Option<&'a Embeddings>,
    /// The tokenizer that made the codes; used with `embeddings`.
    pub tokenizer: Option<&'a ItemTokenizer>,
    /// Training interactions of each item, `[N]`.
    pub popularity: Option<&'a [u32]>,
    /// One category of each item, `[N]`.
    pub categories: Option<&'a [Option<String>]>,
    /// Pairs of items bought together, from training histories: see [`consecutive_pairs`].
    pub co_purchases: Option<&'a [(ItemIndex, ItemIndex)]>,
    /// Pairs that nothing was learnt from: see [`held_out_pairs`].
    pub held_out_co_purchases: Option<&'a [(ItemIndex, ItemIndex)]>,
    /// Seeds the sample of items whose neighbours are looked at.
    pub seed: u64,
}

/// Reports on semantic IDs.
///
/// # Errors
/// Codes that are not below `codes_per_level`, and evidence about another number of items.
///
/// # Shapes
/// `ids`: [N, L]; `codes_per_level`: `[L]`
pub fn report(ids: &SemanticIds, codes_per_level: &[u32], evidence: &Evidence<'_>) -> crate::Result<QualityReport> {
    let mut report = structure(ids, codes_per_level)?;
    let check = |what: &str, count: usize| -> Result<()> {
        if count == ids.len() {
            return Ok(());
        }
        let problem = format!("{count} {what}, but {} semantic IDs", ids.len());
        Err(Error::mismatch(problem, "give both for the same items, in the same order"))
    };
    if let Some(categories) = evidence.categories {
        check("categories", categories.len())?;
        report.category_purity = Some(behaviour::category_purity(ids, categories));
    }
    if let Some(popularity) = evidence.popularity {
        check("popularity counts", popularity.len())?;
        report.collisions_by_popularity = Some(behaviour::collisions_by_popularity(ids, popularity));
    }
    if let Some(pairs) = evidence.co_purchases {
        report.co_purchase = Some(behaviour::co_purchase(ids, pairs)?);
    }
    if let Some(pairs) = evidence.held_out_co_purchases.filter(|pairs| !pairs.is_empty()) {
        report.co_purchase_held_out = Some(behaviour::co_purchase(ids, pairs)?);
    }
    if let Some(embeddings) = evidence.embeddings {
        check("embeddings", embeddings.rows())?;
        let latents = match evidence.tokenizer.filter(|t| matches!(t.model(), Model::Quantizer(_))) {
            None => None,
            Some(tokenizer) => {
                let (prepared, quantizer) = (tokenizer.prepare(embeddings)?, tokenizer.quantizer()?);
                report.reconstruction = Some(reconstruction(quantizer, &prepared, ids)?);
                Some(quantizer.latents(&prepared)?)
            }
        };
        let latents = latents.as_ref().unwrap_or(embeddings);
        report.neighbours = Some(neighbours::preservation(ids, embeddings, latents, evidence.seed));
    }
    Ok(report)
}

fn reconstruction(
    quantizer: &dyn Quantizer,
    prepared: &Embeddings,
    ids: &SemanticIds,
) -> crate::Result<Reconstruction> {
    let items = item_errors(quantizer, prepared, ids)?;
    let (error, total) =
        items.iter().fold((0.0, 0.0), |(e, t), item| (e + item.squared_error, t + item.squared_length));
    let energy = quantizer.residual_energy(prepared, ids)?;
    let ratio = |(before, after): (&f64, &f64)| if *before > 0.0 { (after / before).sqrt() } else { 0.0 };
    Ok(Reconstruction {
        mean_squared_error: error / prepared.rows().max(1) as f64,
        relative_error: if total > 0.0 { error / total } else { 0.0 },
        residual_ratios: energy.map(|energy| energy.iter().zip(energy.iter().skip(1)).map(ratio).collect()),
    })
}
