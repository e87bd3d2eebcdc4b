//! Words that items share: cosines of tf-idf vectors, without the product of all pairs.
//!
//! A text is the set of its words (letters and digits, lower case); a word weighs ln(N / items that have it), words of
//! one item alone weigh nothing (Sparck Jones, Journal of Documentation 28, 1972). Item vectors have length one.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sidereal_core::ItemIndex;

use super::sums::SparseSums;

/// Items by word and words by item, both sparse.
#[derive(Debug)]
pub(super) struct Words {
    /// Words of every item and their weights.
    of_item: Vec<Vec<(u32, f32)>>,
    /// Items of every word and its weight there.
    of_word: Vec<Vec<(ItemIndex, f32)>>,
}

impl Words {
    /// Of a text an item.
    pub(super) fn new(texts: &[String]) -> Self {
        let mut numbers: HashMap<&str, u32> = HashMap::new();
        let lower: Vec<String> = texts.iter().map(|text| text.to_lowercase()).collect();
        let mut of_item: Vec<Vec<u32>> = Vec::with_capacity(texts.len());
        for text in &lower {
            let words: BTreeSet<&str> = text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).collect();
            let number = |word| {
                let next = numbers.len() as u32;
                *numbers.entry(word).or_insert(next)
            };
            of_item.push(words.into_iter().map(number).collect());
        }
        let mut count = vec![0u32; numbers.len()];
        of_item.iter().flatten().for_each(|&word| count[word as usize] += 1);
        let weight = |word: u32| match count[word as usize] {
            0 | 1 => 0.0,
            count => (texts.len() as f64 / f64::from(count)).ln(),
        };
        let of_item: Vec<Vec<(u32, f32)>> = of_item
            .into_iter()
            .map(|words| {
                let length = words.iter().map(|&word| weight(word).powi(2)).sum::<f64>().sqrt().max(1e-9);
                let weighted = words.into_iter().map(|word| (word, (weight(word) / length) as f32));
                weighted.filter(|entry| entry.1 > 0.0).collect()
            })
            .collect();
        let mut of_word = vec![Vec::new(); numbers.len()];
        for (item, words) in (0..).zip(&of_item) {
            words.iter().for_each(|&(word, weight)| of_word[word as usize].push((item, weight)));
        }
        Self { of_item, of_word }
    }

    /// Adds the weighted cosines to some items, of all items that share a word with them.
    pub(super) fn similar(&self, items: impl Iterator<Item = (ItemIndex, f64)>, sums: &mut SparseSums) {
        let mut query: BTreeMap<u32, f32> = BTreeMap::new();
        for (item, weight) in items {
            for &(word, value) in self.of_item.get(item as usize).map_or(&[][..], Vec::as_slice) {
                *query.entry(word).or_insert(0.0) += weight as f32 * value;
            }
        }
        for (word, value) in query {
            self.of_word[word as usize].iter().for_each(|&(item, weight)| sums.add(item, value * weight));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_cosines_equal_those_of_dense_vectors() {
        let texts = ["Rose soap, 100 g", "rose SOAP 200 g", "lemon soap", "hair brush", "", "brush for hair and rose"];
        let texts = texts.map(str::to_owned);
        let words = Words::new(&texts);
        let dense = |item: usize| -> HashMap<u32, f64> {
            words.of_item[item].iter().map(|&(word, weight)| (word, f64::from(weight))).collect()
        };
        let cosine = |a: usize, b: usize| -> f64 {
            let b = dense(b);
            dense(a).iter().map(|(word, x)| x * b.get(word).copied().unwrap_or(0.0)).sum()
        };
        for item in [0, 1, 2, 3, 5] {
            assert!((cosine(item, item) - 1.0).abs() < 1e-6, "item {item}");
        }
        let mut found = SparseSums::new(texts.len());
        words.similar([(0, 1.0), (3, 0.5)].into_iter(), &mut found);
        for item in 0..texts.len() {
            let expected = cosine(0, item) + 0.5 * cosine(3, item);
            assert!((f64::from(found.get(item as u32)) - expected).abs() < 1e-6);
        }
        assert!(cosine(0, 1) > cosine(0, 2), "the rarer word counts more");
    }
}
