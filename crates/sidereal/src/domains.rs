//! The domains of a run's items: what lies within one, of the items and of users' histories.

use std::collections::HashMap;

use sidereal_core::filter::{Allowed, Bits};
use sidereal_core::{Attribute, Catalog, Error, Example, Histories, ItemIndex, Items, Split};
use sidereal_data::domains::DOMAIN;

use crate::Result;

/// Which domain every item of the data is of, by its column `domain`.
#[derive(Debug, Clone)]
pub(crate) struct Domains {
    names: Vec<String>,
    /// By item, as a place in `names`.
    of: Vec<Option<usize>>,
}

impl Domains {
    /// The domains in the order of their first items; none where no item has one.
    pub(crate) fn of(items: &Items) -> Option<Self> {
        let Attribute::Text(cells) = items.attributes().get(DOMAIN)? else { return None };
        let mut numbers: HashMap<&str, usize> = HashMap::new();
        let mut names = Vec::new();
        let mut of = Vec::with_capacity(cells.len());
        for cell in cells {
            of.push(cell.as_ref().map(|name| {
                *numbers.entry(name).or_insert_with(|| {
                    names.push(name.clone());
                    names.len() - 1
                })
            }));
        }
        (!names.is_empty()).then_some(Self { names, of })
    }

    /// Their names.
    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    /// The domain of a name.
    ///
    /// # Errors
    /// There is none; those that there are are listed.
    pub(crate) fn named(&self, name: &str) -> Result<usize> {
        self.names.iter().position(|known| known == name).ok_or_else(|| {
            let problem = format!("no item is of a domain called {name:?}");
            Error::config("--domain", problem, format!("use one of: {}", self.names.join(", "))).into()
        })
    }

    /// The domain of an item; none where it has none or came into the catalog later.
    pub(crate) fn of_item(&self, item: ItemIndex) -> Option<usize> {
        self.of.get(item as usize).copied().flatten()
    }

    /// A domain's items.
    pub(crate) fn items(&self, domain: usize) -> impl Iterator<Item = ItemIndex> + '_ {
        (0..self.of.len() as ItemIndex).filter(move |&item| self.of_item(item) == Some(domain))
    }

    /// The trie cut down to a domain: what the filter `domain = "NAME"` allows.
    pub(crate) fn allowed(&self, catalog: &Catalog, domain: usize) -> Allowed {
        Allowed::new(catalog, &Bits::of(catalog.len() as u32, self.items(domain)))
    }

    /// The events of one domain alone, of the users who have any, and what of the split lies in it. Questions that would
    /// be left without any event before the target are left out.
    ///
    /// # Errors
    /// There are none: what is cut of sound histories is sound.
    pub(crate) fn cut(&self, histories: &Histories, split: &Split, domain: usize) -> Result<(Histories, Split)> {
        let inside = |item: ItemIndex| self.of_item(item) == Some(domain);
        let (mut users, mut offsets, mut items) = (Vec::new(), vec![0u64], Vec::new());
        let (mut times, mut weights) = (Vec::new(), Vec::new());
        let mut cut = Split { rule: split.rule, train_end: Vec::new(), validation: Vec::new(), test: Vec::new() };
        let mut new_number = vec![None; histories.len()];
        for (user, new_number) in new_number.iter_mut().enumerate() {
            let events = histories.items_of(user);
            let places: Vec<usize> = (0..events.len()).filter(|&at| inside(events[at])).collect();
            if places.is_empty() {
                continue;
            }
            *new_number = Some(users.len() as u32);
            users.push(histories.user(user).to_owned());
            items.extend(places.iter().map(|&at| events[at]));
            times.extend(histories.times_of(user).into_iter().flat_map(|all| places.iter().map(|&at| all[at])));
            weights.extend(histories.weights_of(user).into_iter().flat_map(|all| places.iter().map(|&at| all[at])));
            offsets.push(items.len() as u64);
            let end = split.train_end[user] as usize;
            cut.train_end.push(places.partition_point(|&at| at < end) as u32);
        }
        let questions = |examples: &[Example]| -> Vec<Example> {
            let question = |example: &Example| {
                let events = histories.items_of(example.user as usize);
                let before = events[..example.position as usize].iter().filter(|&&item| inside(item)).count() as u32;
                let user = new_number[example.user as usize]?;
                (before > 0 && inside(example.target(histories))).then_some(Example { user, position: before })
            };
            examples.iter().filter_map(question).collect()
        };
        (cut.validation, cut.test) = (questions(&split.validation), questions(&split.test));
        let times = histories.times().map(|_| times);
        let weights = histories.weights().map(|_| weights);
        Ok((Histories::new(users, offsets, items, times, weights)?, cut))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use sidereal_core::{ItemId, SplitRule};
    use sidereal_nn::rng::Rng;

    use super::*;

    fn items(domains: &[Option<&str>]) -> Items {
        let ids = (0..domains.len()).map(|item| ItemId::from(format!("i{item}"))).collect();
        let column = Attribute::Text(domains.iter().map(|name| name.map(str::to_owned)).collect());
        Items::new(ids, vec![None; domains.len()], BTreeMap::from([(DOMAIN.to_owned(), column)])).unwrap()
    }

    #[test]
    fn domains_are_those_of_the_column_and_others_are_told() {
        let domains = Domains::of(&items(&[Some("b"), None, Some("a"), Some("b")])).unwrap();
        assert_eq!(domains.names(), ["b", "a"]);
        assert_eq!((domains.of_item(1), domains.of_item(3), domains.of_item(9)), (None, Some(0), None));
        let error = domains.named("c").unwrap_err().to_string();
        assert!(error.contains("\"c\"") && error.contains("use one of: b, a"), "{error}");
        assert!(Domains::of(&items(&[None, None])).is_none());
        assert!(Domains::of(&Items::new(Vec::new(), Vec::new(), BTreeMap::new()).unwrap()).is_none());
    }

    /// Even items are of domain 0, odd ones of domain 1: a cut is what filtering each part of a history gives.
    #[test]
    fn a_cut_keeps_the_order_and_never_moves_an_event_across_the_split() {
        let domains = Domains::of(&items(&["x", "y"].repeat(4).into_iter().map(Some).collect::<Vec<_>>())).unwrap();
        let mut rng = Rng::new(5, "histories");
        for round in 0..400 {
            let mut below = |n: u64| rng.next_u64() % n;
            let lists: Vec<Vec<u32>> =
                (0..=below(5)).map(|_| (0..below(9)).map(|_| below(8) as u32).collect()).collect();
            let mut offsets = vec![0u64];
            lists.iter().for_each(|list| offsets.push(offsets[offsets.len() - 1] + list.len() as u64));
            let users = (0..lists.len()).map(|user| format!("u{user}")).collect();
            let times = (0..lists.concat().len() as i64).collect();
            let histories = Histories::new(users, offsets, lists.concat(), Some(times), None).unwrap();
            let split = Split::new(&histories, SplitRule::LeaveOneOut).unwrap();
            let domain = round % 2;
            let (cut, parts) = domains.cut(&histories, &split, domain).unwrap();
            let inside = |items: &[u32]| -> Vec<u32> {
                items.iter().copied().filter(|item| *item as usize % 2 == domain).collect()
            };
            let whole: Vec<usize> = (0..lists.len()).filter(|&user| !inside(&lists[user]).is_empty()).collect();
            assert_eq!(cut.len(), whole.len());
            for (new, &old) in whole.iter().enumerate() {
                assert_eq!(cut.items_of(new), inside(&lists[old]));
                assert_eq!(parts.training_items(&cut, new), inside(split.training_items(&histories, old)));
            }
            for (all, some) in [(&split.validation, &parts.validation), (&split.test, &parts.test)] {
                let expected: Vec<(Vec<u32>, u32)> = all
                    .iter()
                    .map(|e| (inside(e.history(&histories)), e.target(&histories)))
                    .filter(|(history, target)| *target as usize % 2 == domain && !history.is_empty())
                    .collect();
                let found: Vec<(Vec<u32>, u32)> =
                    some.iter().map(|e| (e.history(&cut).to_vec(), e.target(&cut))).collect();
                assert_eq!(found, expected);
            }
        }
    }
}
