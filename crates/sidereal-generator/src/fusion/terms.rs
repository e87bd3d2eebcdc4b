//! What the fused score adds up: standardised features, and products of two of them.

use serde::{Deserialize, Serialize};

use super::Without;
use super::features::{FEATURES, POPULARITY};

/// Which terms the score has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// Every feature.
    Plain,
    /// And every feature times the popularity: how far a source can be trusted depends on how much is known of an item.
    ByPopularity,
    /// And every product of two features.
    Pairs,
}

/// A feature, or the product of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Term(pub(super) usize, pub(super) Option<usize>);

impl Form {
    /// All forms, fewest terms first.
    pub const ALL: [Self; 3] = [Self::Plain, Self::ByPopularity, Self::Pairs];

    /// Its terms over the features that are not left out.
    pub(super) fn terms(self, without: Without) -> Vec<Term> {
        let used: Vec<usize> = (0..FEATURES.len()).filter(|&feature| !without.has(feature)).collect();
        let product = |(a, b): (usize, usize)| match self {
            Self::Plain => None,
            Self::ByPopularity => (a == POPULARITY || b == POPULARITY).then_some(Term(a, Some(b))),
            Self::Pairs => Some(Term(a, Some(b))),
        };
        let pairs = used.iter().enumerate().flat_map(|(at, &a)| used[at..].iter().map(move |&b| (a, b)));
        used.iter().map(|&feature| Term(feature, None)).chain(pairs.filter_map(product)).collect()
    }
}

impl Term {
    /// Its value for a candidate with these standardised features, `[F]`.
    #[inline]
    pub(super) fn of(self, features: &[f32]) -> f64 {
        let other = self.1.map_or(1.0, |other| features[other]);
        f64::from(features[self.0] * other)
    }
}

/// Where a feature's values lie among the candidates of the fit.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scale {
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation; 1 where they are all alike.
    pub deviation: f64,
}

/// Standardised values beyond this are taken back to it: squares of rare extremes would decide alone.
const LIMIT: f32 = 8.0;

impl Scale {
    /// Of every feature over lists of candidates, each `[C, F]`.
    pub(super) fn all<'a>(lists: impl Iterator<Item = &'a [f32]>) -> Vec<Self> {
        let (mut sums, mut squares, mut count) = ([0f64; FEATURES.len()], [0f64; FEATURES.len()], 0f64);
        for features in lists.flat_map(|list| list.chunks_exact(FEATURES.len())) {
            for (&value, (sum, square)) in features.iter().zip(sums.iter_mut().zip(&mut squares)) {
                *sum += f64::from(value);
                *square += f64::from(value) * f64::from(value);
            }
            count += 1.0;
        }
        let scale = |(sum, square): (f64, f64)| {
            let mean = sum / count.max(1.0);
            let variance = square / count.max(1.0) - mean * mean;
            Self { mean, deviation: if variance > 1e-12 { variance.sqrt() } else { 1.0 } }
        };
        sums.into_iter().zip(squares).map(scale).collect()
    }
}

/// Features of candidates, `[C, F]`, less their mean and in deviations.
pub(super) fn standardised(features: &mut [f32], scales: &[Scale]) {
    for features in features.chunks_exact_mut(FEATURES.len()) {
        for (value, scale) in features.iter_mut().zip(scales) {
            let standard = ((f64::from(*value) - scale.mean) / scale.deviation) as f32;
            *value = standard.clamp(-LIMIT, LIMIT);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_have_all_terms_of_the_forms_before_them_and_none_of_what_is_left_out() {
        let without = Without::default().and_generator();
        let [plain, by_popularity, pairs] = Form::ALL.map(|form| form.terms(without));
        let used = FEATURES.len() - 1;
        assert_eq!([plain.len(), by_popularity.len(), pairs.len()], [used, 2 * used, used + used * (used + 1) / 2]);
        assert!(plain.iter().all(|term| by_popularity.contains(term)));
        assert!(by_popularity.iter().all(|term| pairs.contains(term)));
        assert!(pairs.iter().all(|term| term.0 != 0 && term.1 != Some(0)));
    }

    #[test]
    fn standardised_features_have_mean_0_and_deviation_1() {
        let count = FEATURES.len();
        let mut list: Vec<f32> = (0..40 * count).map(|at| (at % 7) as f32 * (at % count) as f32 + 3.0).collect();
        let scales = Scale::all([list.as_slice()].into_iter());
        standardised(&mut list, &scales);
        let again = Scale::all([list.as_slice()].into_iter());
        // The first feature is 3 everywhere.
        assert!(again.iter().all(|scale| scale.mean.abs() < 1e-5 && (scale.deviation - 1.0).abs() < 1e-5), "{again:?}");
    }
}
