//! Where pairs for contrasts come from: partners of an item, drawn so that popularity does not decide.

use sidereal_core::ItemIndex;
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
            all.partners.extend(row.iter().map(|&(partner, _)| partner));
            all.sums.extend(running_sums(row.iter().map(|&(_, weight)| weight)));
            all.offsets.push(all.partners.len());
        }
        all
    }

    /// Partners and sums of a row.
    fn row(&self, row: usize) -> (&[u32], &[f64]) {
        let range = self.offsets[row]..self.offsets[row + 1];
        (&self.partners[range.clone()], &self.sums[range])
    }

    fn draw(&self, row: usize, rng: &mut Rng) -> Option<usize> {
        let (partners, sums) = self.row(row);
        Some(partners[place(sums, rng)?] as usize)
    }
}

/// A place drawn by weights whose sums up to and with each are given.
fn place(sums: &[f64], rng: &mut Rng) -> Option<usize> {
    let limit = rng.uniform() * sums.last()?;
    Some(sums.partition_point(|&sum| sum <= limit).min(sums.len() - 1))
}

/// As many of these, one behind the other, as sums up to and with each.
fn running_sums(weights: impl Iterator<Item = f64>) -> Vec<f64> {
    weights
        .scan(0.0, |sum, weight| {
            *sum += weight;
            Some(*sum)
        })
        .collect()
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
pub struct UserItemPairs<'a> {
    users: Weighted,
    histories: TrainingHistories<'a>,
    debias: f64,
}

impl<'a> UserItemPairs<'a> {
    /// Lists the users of `items` items.
    pub fn new(histories: &TrainingHistories<'a>, items: usize, debias: f64) -> Self {
        let mut users: Vec<Vec<(u32, f64)>> = vec![Vec::new(); items];
        for (user, history) in histories.iter().enumerate() {
            let weight = weight_of_user(history, debias);
            for &item in history {
                let users = &mut users[item as usize];
                if users.last().is_none_or(|&(last, _)| last != user as u32) {
                    users.push((user as u32, weight));
                }
            }
        }
        Self { users: Weighted::new(users.into_iter()), histories: *histories, debias }
    }
}

fn weight_of_user(history: &[ItemIndex], debias: f64) -> f64 {
    (history.len() as f64).powf(-debias)
}

impl PairSource for UserItemPairs<'_> {
    /// A user.
    fn partner(&self, item: usize, rng: &mut Rng) -> Option<usize> {
        self.users.draw(item, rng)
    }
}

/// Users who had an item that a user had, in the training parts of both histories. Each item that they share counts by one
/// over its number of users to the power of `debias`, so that what everybody had makes nobody alike, and each user as
/// [`UserItemPairs`] draws him.
#[derive(Debug, Clone, Copy)]
pub struct UserCoOccurrencePairs<'a>(pub &'a UserItemPairs<'a>);

impl PairSource for UserCoOccurrencePairs<'_> {
    /// Another user.
    fn partner(&self, user: usize, rng: &mut Rng) -> Option<usize> {
        let UserItemPairs { users, histories, debias } = self.0;
        let history = histories.items_of(user);
        let mut items = history.to_vec();
        items.sort_unstable();
        items.dedup();
        let own = weight_of_user(history, *debias);
        let weight = |&item: &u32| match users.row(item as usize) {
            (users, [.., all]) if users.len() > 1 => (all - own).max(0.0) / (users.len() as f64).powf(*debias),
            _ => 0.0,
        };
        let item = items[place(&running_sums(items.iter().map(weight)), rng)?];
        let (users, sums) = users.row(item as usize);
        let at = users.binary_search(&(user as u32)).ok().filter(|_| users.len() > 1)?;
        // A draw among the others: his own part of the sums is stepped over.
        let before = if at == 0 { 0.0 } else { sums[at - 1] };
        let limit = rng.uniform() * (sums.last()? - own);
        let limit = if limit < before { limit } else { limit + own };
        let drawn = match sums.partition_point(|&sum| sum <= limit).min(users.len() - 1) {
            // By rounding.
            drawn if drawn == at => at.checked_sub(1).unwrap_or(1),
            drawn => drawn,
        };
        Some(users[drawn] as usize)
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

    #[test]
    fn users_are_drawn_by_the_items_that_they_share_as_counted_by_brute_force() {
        let mut rng = Rng::new(4, "histories");
        let (mut offsets, mut events) = (vec![0u64], Vec::new());
        for user in 0..12u32 {
            // Everybody has item 0; nobody else has the last user's others, and one history repeats an item.
            events.push(0);
            events.extend((0..1 + rng.below(4)).map(|_| if user == 11 { 19 } else { 1 + rng.below(9) as u32 }));
            offsets.push(events.len() as u64);
        }
        let names = (0..12).map(|u| u.to_string()).collect();
        let histories = Histories::new(names, offsets, events, None, None).unwrap();
        // The last event of each is no part of training.
        let ends: Vec<u32> =
            (0..12).map(|user| histories.items_of(user).len() as u32 - u32::from(user != 11)).collect();
        let histories = TrainingHistories::new(&histories, &ends);
        let has = |user: usize, item: u32| histories.items_of(user).contains(&item);
        for debias in [0.0, 0.75] {
            let users = UserItemPairs::new(&histories, 20, debias);
            let source = UserCoOccurrencePairs(&users);
            for user in [0usize, 5, 11] {
                let weight = |other: usize| -> f64 {
                    let shared = (0..20).filter(|&item| other != user && has(user, item) && has(other, item));
                    let popularity = |item| (0..12).filter(|&any| has(any, item)).count() as f64;
                    let items: f64 = shared.map(|item| popularity(item).powf(-debias)).sum();
                    items * (histories.items_of(other).len() as f64).powf(-debias)
                };
                let total: f64 = (0..12).map(weight).sum();
                let mut drawn = [0u32; 12];
                (0..20_000).for_each(|_| drawn[source.partner(user, &mut rng).unwrap()] += 1);
                for (other, &count) in drawn.iter().enumerate() {
                    let (found, want) = (f64::from(count) / 20_000.0, weight(other) / total);
                    assert!((found - want).abs() < 0.015, "{debias} {user} {other}: {found} {want}");
                    assert_eq!(count == 0, want == 0.0, "{debias} {user} {other}");
                }
            }
        }
        let one = Histories::new(vec!["u".to_owned()], vec![0, 1], vec![0], None, None).unwrap();
        let alone = TrainingHistories::new(&one, &[1]);
        let users = UserItemPairs::new(&alone, 1, 0.5);
        let source = UserCoOccurrencePairs(&users);
        assert_eq!((source.partner(0, &mut rng), source.partner(1, &mut rng)), (None, None));
    }
}
