//! Strings <-> numbers in the order of first appearance, so that a table of events holds numbers only.

use std::collections::HashMap;
use std::sync::Arc;

/// Distinct names, numbered as they were first seen.
#[derive(Debug, Clone, Default)]
pub(crate) struct Names {
    names: Vec<Arc<str>>,
    numbers: HashMap<Arc<str>, u32>,
}

impl Names {
    /// The number of a name, a new one if it is new; `None` when the numbers have run out.
    pub(crate) fn number(&mut self, name: &str) -> Option<u32> {
        if let Some(&number) = self.numbers.get(name) {
            return Some(number);
        }
        let number = u32::try_from(self.names.len()).ok().filter(|&n| n < u32::MAX)?;
        let name: Arc<str> = name.into();
        self.names.push(Arc::clone(&name));
        self.numbers.insert(name, number);
        Some(number)
    }

    pub(crate) fn name(&self, number: u32) -> &str {
        self.names.get(number as usize).map_or("", AsRef::as_ref)
    }

    pub(crate) fn len(&self) -> usize {
        self.names.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(AsRef::as_ref)
    }
}

/// The number that an id is, if it is a plain integer ("7", not "07" or "+7").
pub(crate) fn whole_number(id: &str) -> Option<i64> {
    id.parse::<i64>().ok().filter(|number| number.to_string() == id)
}

/// The order of ids: by number when all are integers, else as they came.
pub(crate) fn natural_order<'a>(ids: impl Iterator<Item = &'a str>) -> Vec<u32> {
    let numbers: Vec<Option<i64>> = ids.map(whole_number).collect();
    let mut order: Vec<u32> = (0..numbers.len() as u32).collect();
    if numbers.iter().all(Option::is_some) {
        order.sort_by_key(|&row| numbers[row as usize]);
    }
    order
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_keep_the_order_of_first_appearance() {
        let mut names = Names::default();
        let numbers: Vec<u32> = ["b", "a", "b", "\u{0}"].iter().map(|n| names.number(n).unwrap()).collect();
        assert_eq!(numbers, [0, 1, 0, 2]);
        assert_eq!(names.iter().collect::<Vec<_>>(), ["b", "a", "\u{0}"]);
    }

    #[test]
    fn integer_ids_are_ordered_by_number_and_others_stay() {
        assert_eq!(natural_order(["10", "9", "-1"].into_iter()), [2, 1, 0]);
        assert_eq!(natural_order(["10", "09"].into_iter()), [0, 1]);
    }
}
