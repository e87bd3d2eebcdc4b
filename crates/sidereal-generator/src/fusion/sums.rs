//! A number an item, of which few are not 0: added up in any order of items, and emptied at the cost of what was added.

use sidereal_core::ItemIndex;

/// Sums whose memory is used again for the next question.
#[derive(Debug)]
pub(super) struct SparseSums {
    /// `[N]`
    values: Vec<f32>,
    /// Items that were added to, some perhaps twice.
    touched: Vec<ItemIndex>,
}

impl SparseSums {
    pub(super) fn new(items: usize) -> Self {
        Self { values: vec![0.0; items], touched: Vec::new() }
    }

    pub(super) fn clear(&mut self) {
        self.touched.drain(..).for_each(|item| self.values[item as usize] = 0.0);
    }

    pub(super) fn add(&mut self, item: ItemIndex, by: f32) {
        let value = &mut self.values[item as usize];
        if *value == 0.0 {
            self.touched.push(item);
        }
        *value += by;
    }

    pub(super) fn get(&self, item: ItemIndex) -> f32 {
        self.values[item as usize]
    }

    /// Appends the items of the `count` largest sums above 0, of equal ones the first.
    pub(super) fn best(&mut self, count: usize, allowed: &[bool], into: &mut Vec<ItemIndex>) {
        self.touched.sort_unstable();
        self.touched.dedup();
        let values = &self.values;
        let mut found: Vec<ItemIndex> = self
            .touched
            .iter()
            .copied()
            .filter(|&item| allowed[item as usize] && values[item as usize] > 0.0)
            .collect();
        if found.len() > count {
            let order =
                |a: &ItemIndex, b: &ItemIndex| values[*b as usize].total_cmp(&values[*a as usize]).then(a.cmp(b));
            found.select_nth_unstable_by(count, order);
            found.truncate(count);
        }
        into.extend(found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_allowed_sums_are_found_and_nothing_is_left_for_the_next_question() {
        let mut sums = SparseSums::new(6);
        for (item, by) in [(4, 1.0), (1, 3.0), (4, 1.5), (0, 2.5), (2, -1.0), (3, 1.0), (3, -1.0), (3, 9.0)] {
            sums.add(item, by);
        }
        let mut best = Vec::new();
        sums.best(2, &[true, true, true, false, true, true], &mut best);
        best.sort_unstable();
        assert_eq!(best, [0, 1], "equal sums: the first item");
        best.clear();
        sums.best(9, &[true; 6], &mut best);
        assert_eq!(best, [0, 1, 3, 4]);
        sums.clear();
        assert!((0..6).all(|item| sums.get(item) == 0.0));
        best.clear();
        sums.best(9, &[true; 6], &mut best);
        assert!(best.is_empty());
    }
}
