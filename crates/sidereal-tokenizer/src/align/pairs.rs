//! Where pairs for contrasts come from: partners of an item, drawn so that popularity does not decide.

use sidereal_nn::rng::Rng;

use crate::behaviour::cooccurrence::CoOccurrences;
use crate::training_items::TrainingHistories;

/// Draws partners of items.
pub trait PairSource {
    /// A partner of an item; none where it has none.
    fn partner(&self, item: usize, rng: &mut Rng) -> Option<usize>;
}

/// Partners by weight, in compressed rows.
#[derive(Debug, Clone)]
struct Weighted {
    offsets: Vec<usize>,
    partners: Vec<u32>,
    /// Sums of weights up to and with each entry of a row.
    sums: Vec<f64>,
}

impl Weighted {
    fn new(rows: impl Iterator<Item = Vec<(u32, f64)>>) -> Self {
        let mut all = Self { offsets: vec![0], partners: Vec::new(), sums: Vec::new() };
        for row in rows {
            let mut sum = 0.0;
            for (partner, weight) in row {
                sum += weight;
                all.partners.push(partner);
                all.sums.push(sum);
            }
            all.offsets.push(all.partners.len());
        }
        all
    }

    fn draw(&self, row: usize, rng: &mut Rng) -> Option<usize> {
        let range = self.offsets[row]..self.offsets[row + 1];
        let sums = &self.sums[range.clone()];
        let limit = rng.uniform() * sums.last()?;
        let at = sums.partition_point(|&sum| sum <= limit).min(sums.len() - 1);
        Some(self.partners[range.start + at] as usize)
    }
}

/// Items that stand near an item in histories: drawn by count over the partner's own total to the power of `debias`.
#[derive(Debug, Clone)]
pub struct CoOccurrencePairs(Weighted);

impl CoOccurrencePairs {
    /// Counts pairs of `items` items at most `window` steps apart; those with fewer than `min_count` are left out.
    pub fn new(histories: &TrainingHistories<'_>, items: usize, window: usize, min_count: u32, debias: f64) -> Self {
        let counts = CoOccurrences::count(histories, items, window);
        let totals: Vec<f64> = (0..items).map(|item| (counts.total_of(item) as f64).max(1.0).powf(debias)).collect();
        let counts = counts.at_least(min_count);
        let weight = |(partner, count): (u32, u32)| (partner, f64::from(count) / totals[partner as usize]);
        Self(Weighted::new((0..items).map(|item| counts.row(item).map(weight).collect())))
    }
}

impl PairSource for CoOccurrencePairs {
    fn partner(&self, item: usize, rng: &mut Rng) -> Option<usize> {
        self.0.draw(item, rng)
    }
}

/// Users who had an item in the training part of their histories: drawn by one over the length of the history to the
/// power of `debias`, because the long ones say least of each item.
#[derive(Debug, Clone)]
pub struct UserItemPairs(Weighted);

impl UserItemPairs {
    /// Lists the users of `items` items.
    pub fn new(histories: &TrainingHistories<'_>, items: usize, debias: f64) -> Self {
        let mut users: Vec<Vec<(u32, f64)>> = vec![Vec::new(); items];
        for (user, history) in histories.iter().enumerate() {
            let weight = (history.len() as f64).powf(-debias);
            for &item in history {
                let users = &mut users[item as usize];
                if users.last().is_none_or(|&(last, _)| last != user as u32) {
                    users.push((user as u32, weight));
                }
            }
        }
        Self(Weighted::new(users.into_iter()))
    }
}

impl PairSource for UserItemPairs {
    /// A user.
    fn partner(&self, item: usize, rng: &mut Rng) -> Option<usize> {
        self.0.draw(item, rng)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use sidereal_core::Histories;

    #[test]
    fn partners_are_drawn_by_their_debiased_weight() {
        // Item 0 stands near 1 once and near 2 twice; 2 is near 3 many times.
        let users = (0..7).map(|u| u.to_string()).collect();
        let events = vec![0, 1, 0, 2, 2, 0, 2, 3, 2, 3, 2, 3, 4];
        let histories = Histories::new(users, vec![0, 2, 4, 6, 8, 10, 12, 13], events, None, None).unwrap();
        let histories = TrainingHistories::new(&histories, &[2; 7]);
        let mut rng = Rng::new(1, "draws");
        let mut share = |source: &dyn PairSource, item, partner| {
            (0..4000).filter(|_| source.partner(item, &mut rng) == Some(partner)).count() as f64 / 4000.0
        };
        let plain = CoOccurrencePairs::new(&histories, 5, 5, 1, 0.0);
        assert!((share(&plain, 0, 2) - 2.0 / 3.0).abs() < 0.03);
        let debiased = CoOccurrencePairs::new(&histories, 5, 5, 1, 1.0);
        assert!((share(&debiased, 0, 2) - 0.4 / 1.4).abs() < 0.03);
        let frequent = CoOccurrencePairs::new(&histories, 5, 5, 2, 0.0);
        assert_eq!(share(&frequent, 0, 2), 1.0);
        assert_eq!(plain.partner(4, &mut Rng::new(1, "none")), None);
        let users = UserItemPairs::new(&histories, 5, 1.0);
        assert!((share(&users, 2, 1) - 0.2).abs() < 0.03);
        assert_eq!(share(&users, 4, 6), 1.0);
    }
}
