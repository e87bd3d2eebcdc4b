//! The best candidates of a level, while thousands are offered.

use std::cmp::Ordering;
use std::collections::HashMap;

use crate::beam::Beam;

/// How much better than its beam a candidate may score by rounding: log-probabilities are sums and logarithms in f32, a few
/// units in the last place off.
const ROUNDING: f32 = 1e-3;

/// The best W candidates so far, of which at most some have the same first code. Candidates below the W-th best of an
/// earlier look are dropped at once, so that of the thousands that a level offers, few are ever stored.
///
/// Dropping is exact with a quota too: a candidate that comes in takes the place of the last one, or of a worse one with its
/// own first code, so the W-th best only ever gets better; and one that has enough better ones of its first code
/// before it keeps them.
pub(crate) struct Best {
    width: usize,
    per_code: Option<usize>,
    kept: Vec<Beam>,
    floor: Option<Beam>,
}

impl Best {
    /// The best `width`, at most `per_code` of them with the same first code.
    pub(crate) fn new(width: usize, per_code: Option<usize>) -> Self {
        Self { width, per_code: per_code.filter(|&most| most < width), kept: Vec::new(), floor: None }
    }

    fn order(a: &Beam, b: &Beam) -> Ordering {
        b.score.partial_cmp(&a.score).unwrap_or(Ordering::Equal).then(a.order.cmp(&b.order))
    }

    /// Whether a candidate may be among the best.
    #[inline]
    pub(crate) fn admits(&self, candidate: &Beam) -> bool {
        self.floor.as_ref().is_none_or(|floor| Self::order(floor, candidate).is_gt())
    }

    /// Whether nothing that begins with a beam of this score can be among the best.
    #[inline]
    pub(crate) fn is_beyond(&self, score: f32) -> bool {
        self.floor.is_some_and(|floor| score + ROUNDING < floor.score)
    }

    #[inline]
    pub(crate) fn keep(&mut self, candidate: Beam) {
        self.kept.push(candidate);
        if self.kept.len() >= self.width.saturating_mul(4).max(64) {
            self.shrink();
        }
    }

    fn shrink(&mut self) {
        if let Some(most) = self.per_code {
            self.kept.sort_unstable_by(Self::order);
            let mut of_code: HashMap<u16, usize> = HashMap::new();
            self.kept.retain(|beam| {
                let count = of_code.entry(beam.first).or_default();
                *count += 1;
                *count <= most
            });
            self.kept.truncate(self.width);
            self.floor = self.kept.get(self.width - 1).copied().or(self.floor);
        } else if self.kept.len() > self.width {
            let (_, last, _) = self.kept.select_nth_unstable_by(self.width - 1, Self::order);
            self.floor = Some(*last);
            self.kept.truncate(self.width);
        }
    }

    pub(crate) fn into_sorted(mut self) -> Vec<Beam> {
        self.shrink();
        self.kept.sort_unstable_by(Self::order);
        self.kept
    }
}
