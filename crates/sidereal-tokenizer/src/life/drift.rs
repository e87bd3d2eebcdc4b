//! Drift: whether new items still look like those that a tokenizer was trained on.
//!
//! Three figures, each with a limit that a job can be failed by: how large the reconstruction error of the new items is
//! among those of the training items, how far their level-0 codes are spread differently from the catalog's, and how
//! many of them fall on a semantic ID that is taken.
//!
//! Small batches diverge by chance: ten items cannot fill the histogram of 256 codes. Judge a batch of at least as many
//! items as level 0 has codes.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use sidereal_core::{Catalog, Embeddings, Error, ItemIndex, SemanticIds};

use crate::Result;
use crate::encode::encode_prepared;
use crate::quantizers::Quantizer;
use crate::reconstruction::item_errors;
use crate::tokenizer::ItemTokenizer;

/// Most training items whose error is measured: evenly spaced rows of larger tables.
const MEASURED_ITEMS: usize = 100_000;

/// Reconstruction errors of the training items: squared distances after the pre-steps, or of the latents behind a
/// retrained encoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FitRecord {
    /// Items that were measured.
    pub measured_items: usize,
    /// The least error, the percentiles 1 to 99, and the largest: 101 numbers.
    pub error_percentiles: Vec<f64>,
}

impl FitRecord {
    /// Measures vectors that were prepared, [N, D'].
    pub(crate) fn measure(quantizer: &dyn Quantizer, prepared: &Embeddings) -> Result<Self> {
        let (n, width) = (prepared.rows(), prepared.width());
        let sample;
        let rows = if n > MEASURED_ITEMS {
            let rows =
                (0..MEASURED_ITEMS).flat_map(|i| prepared.row((i as u64 * n as u64 / MEASURED_ITEMS as u64) as usize));
            sample = Embeddings::new(MEASURED_ITEMS, width, rows.copied().collect())?;
            &sample
        } else {
            prepared
        };
        let mut errors = errors(quantizer, rows, &encode_prepared(quantizer, rows)?)?;
        errors.sort_unstable_by(f64::total_cmp);
        let at = |percent: usize| errors.get(percent * errors.len().saturating_sub(1) / 100).copied().unwrap_or(0.0);
        Ok(Self { measured_items: errors.len(), error_percentiles: (0..=100).map(at).collect() })
    }

    /// The share of training items, in percent, whose error is at most this one.
    fn percentile_of(&self, error: f64) -> f64 {
        let below = self.error_percentiles.partition_point(|&percentile| percentile <= error);
        (below as f64 - 1.0).max(0.0)
    }
}

/// Squared distance of every vector to what its codes give back, `[N]`.
fn errors(quantizer: &dyn Quantizer, prepared: &Embeddings, sids: &SemanticIds) -> Result<Vec<f64>> {
    Ok(item_errors(quantizer, prepared, sids)?.into_iter().map(|item| item.squared_error).collect())
}

/// What is still acceptable.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Limits {
    /// Highest percentile of the training errors at which the new items' median may stand, 0 to 100.
    pub max_error_percentile: Option<f64>,
    /// Largest divergence of level-0 codes, 0 to 1.
    pub max_divergence: Option<f64>,
    /// Largest share of items whose semantic ID is taken, 0 to 1.
    pub max_collision_share: Option<f64>,
}

impl Limits {
    /// # Errors
    /// Names the limit that is out of range.
    pub fn check(&self) -> Result<()> {
        for (key, limit, most) in [
            ("--max-error-percentile", self.max_error_percentile, 100.0),
            ("--max-divergence", self.max_divergence, 1.0),
            ("--max-collision-share", self.max_collision_share, 1.0),
        ] {
            if let Some(limit) = limit.filter(|limit| !(0.0..=most).contains(limit)) {
                let problem = format!("{limit} is not between 0 and {most}");
                return Err(Error::config(key, problem, format!("give a number from 0 to {most}")).into());
            }
        }
        Ok(())
    }
}

/// A limit that the new items exceed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Exceeded {
    /// `error_percentile`, `divergence` or `collision_share`.
    pub figure: &'static str,
    /// What was found.
    pub found: f64,
    /// What was allowed.
    pub limit: f64,
}

/// How new items compare with those that a tokenizer was trained on, and with those of a catalog.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DriftReport {
    /// New items.
    pub items: usize,
    /// Mean reconstruction error: squared distance after the pre-steps.
    pub mean_error: f64,
    /// Median reconstruction error.
    pub median_error: f64,
    /// The percentile of the training errors at which the median stands; 50 where nothing changed. None where the
    /// tokenizer's file does not hold them.
    pub error_percentile: Option<f64>,
    /// Share of new items whose error is above the 95th percentile of the training errors; 0.05 where nothing changed.
    pub share_above_p95: Option<f64>,
    /// Jensen-Shannon divergence of the level-0 codes from those of the catalog's items, in bits: 0 the same, 1 disjoint.
    pub divergence: f64,
    /// Share of new items whose semantic ID, as the tokenizer makes it, is the catalog's already or an earlier new item's.
    pub collision_share: f64,
    /// Limits that are exceeded.
    pub exceeded: Vec<Exceeded>,
}

/// Compares new items with a tokenizer's training items and with a catalog of its semantic IDs.
///
/// # Errors
/// No items; vectors of another width; a method that lists items; a catalog of other codes; an error limit where the
/// tokenizer does not hold its training errors.
///
/// # Shapes
/// `vectors`: [N, D]
pub fn drift(
    tokenizer: &ItemTokenizer,
    catalog: &Catalog,
    vectors: &Embeddings,
    limits: &Limits,
) -> Result<DriftReport> {
    limits.check()?;
    if vectors.rows() == 0 {
        return Err(Error::input("embeddings", "there are no new items", "give at least one vector").into());
    }
    let levels = catalog.tokenizer_levels();
    if tokenizer.codes_per_level() != &catalog.codes_per_level()[..levels] {
        let (ours, theirs) = (tokenizer.codes_per_level(), &catalog.codes_per_level()[..levels]);
        let problem = format!("the tokenizer has {ours:?} codes per level, but the catalog {theirs:?}");
        return Err(Error::mismatch(problem, "use the catalog that was built with this tokenizer").into());
    }
    let quantizer = tokenizer.quantizer()?;
    let fit = tokenizer.description().fit.as_ref();
    if fit.is_none() && limits.max_error_percentile.is_some() {
        let problem = "the tokenizer's file does not hold the errors of its training items";
        let mend = "train it again with this version, or leave the limit out";
        return Err(Error::config("--max-error-percentile", problem, mend).into());
    }
    let prepared = tokenizer.prepare(vectors)?;
    let sids = encode_prepared(quantizer, &prepared)?;
    let mut errors = errors(quantizer, &prepared, &sids)?;
    let mean_error = errors.iter().sum::<f64>() / errors.len() as f64;
    errors.sort_unstable_by(f64::total_cmp);
    let median_error = errors[errors.len() / 2];
    let p95 = fit.and_then(|fit| fit.error_percentiles.get(95));
    let above = |p95: &f64| (errors.len() - errors.partition_point(|error| error <= p95)) as f64 / errors.len() as f64;

    let alive = (0..catalog.len() as ItemIndex).filter(|&item| catalog.is_alive(item));
    let published = alive.map(|item| catalog.semantic_id(item)[0]);
    let divergence = divergence(tokenizer.codes_per_level()[0], published, sids.rows().map(|row| row[0]));
    let catalog_ids = catalog.tokenizer_semantic_ids()?;
    let mut taken: HashSet<&[u16]> = catalog_ids.rows().collect();
    let collisions = sids.rows().filter(|&row| !taken.insert(row)).count();

    let mut report = DriftReport {
        items: vectors.rows(),
        mean_error,
        median_error,
        error_percentile: fit.map(|fit| fit.percentile_of(median_error)),
        share_above_p95: p95.map(above),
        divergence,
        collision_share: collisions as f64 / vectors.rows() as f64,
        exceeded: Vec::new(),
    };
    let figures = [
        ("error_percentile", report.error_percentile, limits.max_error_percentile),
        ("divergence", Some(report.divergence), limits.max_divergence),
        ("collision_share", Some(report.collision_share), limits.max_collision_share),
    ];
    let over = figures
        .into_iter()
        .filter_map(|(figure, found, limit)| Some(Exceeded { figure, found: found?, limit: limit? }));
    report.exceeded = over.filter(|figure| figure.found > figure.limit).collect();
    Ok(report)
}

/// Jensen-Shannon divergence of two sets of codes below `codes`, in bits.
fn divergence(codes: u32, a: impl Iterator<Item = u16>, b: impl Iterator<Item = u16>) -> f64 {
    let (a, b) = (shares(codes, a), shares(codes, b));
    let from_middle = |p: f64, q: f64| if p > 0.0 { p * (2.0 * p / (p + q)).log2() } else { 0.0 };
    let sum: f64 = a.iter().zip(&b).map(|(&p, &q)| from_middle(p, q) + from_middle(q, p)).sum();
    (0.5 * sum).clamp(0.0, 1.0)
}

/// The share of every code, `[K]`.
fn shares(codes: u32, found: impl Iterator<Item = u16>) -> Vec<f64> {
    let mut counts = vec![0f64; codes as usize];
    let mut total = 0.0;
    for code in found {
        counts[usize::from(code)] += 1.0;
        total += 1.0;
    }
    counts.iter().map(|count| count / f64::max(total, 1.0)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::quantizers::TokenizerConfig;
    use sidereal_core::{CollisionPolicy, ItemId, NoProgress};
    use sidereal_nn::rng::Rng;

    fn items(n: usize, seed: u64, shift: f32) -> Embeddings {
        let mut rng = Rng::new(seed, "items");
        let mut centre = Rng::new(1, "centres");
        let centres: Vec<f32> = (0..20 * 4).map(|_| 3.0 * centre.normal() as f32).collect();
        let values =
            (0..n * 4).map(|at| centres[at / 4 % 20 * 4 + at % 4] + shift + 0.3 * rng.normal() as f32).collect();
        Embeddings::new(n, 4, values).unwrap()
    }

    #[test]
    fn items_like_those_of_training_pass_and_others_exceed_the_limits() {
        let known = items(600, 5, 0.0);
        let config = TokenizerConfig::with_defaults("rq-kmeans", vec![16, 8, 8]).unwrap();
        let tokenizer = ItemTokenizer::train(&config, &known, 3, &NoProgress).unwrap();
        let fit = tokenizer.description().fit.as_ref().unwrap();
        assert_eq!((fit.error_percentiles.len(), fit.measured_items), (101, 600));
        assert!(fit.error_percentiles.windows(2).all(|w| w[0] <= w[1]));
        let ids: Vec<ItemId> = (0..600).map(|i| ItemId::from(format!("i{i}"))).collect();
        let sids = tokenizer.encode(&known).unwrap();
        let catalog = Catalog::build(&ids, &sids, &[16, 8, 8], CollisionPolicy::Postings, None).unwrap();
        let limits = Limits { max_error_percentile: Some(90.0), max_divergence: Some(0.1), max_collision_share: None };
        let alike = drift(&tokenizer, &catalog, &items(400, 6, 0.0), &limits).unwrap();
        assert!(alike.exceeded.is_empty(), "{alike:?}");
        assert!((20.0..85.0).contains(&alike.error_percentile.unwrap()), "{alike:?}");
        let other = drift(&tokenizer, &catalog, &items(400, 6, 4.0), &limits).unwrap();
        let figures: Vec<&str> = other.exceeded.iter().map(|e| e.figure).collect();
        assert_eq!(figures, ["error_percentile", "divergence"], "{other:?}");
        let same = drift(&tokenizer, &catalog, &known, &Limits { max_collision_share: Some(0.5), ..Limits::default() });
        let same = same.unwrap();
        assert_eq!((same.divergence, same.collision_share), (0.0, 1.0));
        assert_eq!(same.exceeded, [Exceeded { figure: "collision_share", found: 1.0, limit: 0.5 }]);
        let wrong = Limits { max_divergence: Some(1.5), ..Limits::default() };
        assert!(drift(&tokenizer, &catalog, &known, &wrong).unwrap_err().to_string().contains("--max-divergence"));
    }

    #[test]
    fn divergence_is_zero_for_equal_and_one_for_disjoint_codes() {
        assert_eq!(divergence(4, [0u16, 1, 1].into_iter(), [0u16, 1, 1, 0, 1, 1].into_iter()), 0.0);
        assert_eq!(divergence(4, [0u16, 1].into_iter(), [2u16, 3].into_iter()), 1.0);
        // (1/2, 1/2) against (1, 0): H(3/4, 1/4) - 1/2.
        let want = -(0.75f64 * 0.75f64.log2() + 0.25 * 0.25f64.log2()) - 0.5;
        assert!((divergence(2, [0u16, 1].into_iter(), [0u16].into_iter()) - want).abs() < 1e-12);
    }
}
