//! What a code stands for: the items, words and categories below a prefix, set beside the whole catalog.
//!
//! Words are those of the titles, each counted once a title, and ranked by how surely they are more frequent below the
//! prefix than elsewhere: the log-odds with a Dirichlet prior of the catalog's own frequencies, over its standard
//! deviation.
//!
//! *Paper*: Monroe, Colaresi and Quinn, "Fightin' Words" (2008), section 3.5.1.
//! *Differs from the paper*: titles are counted instead of words.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use sidereal_core::{Error, ItemIndex, Items, Result, SemanticIds};

use super::structure::sorted;

/// Most popular items that a card names.
const ITEMS: usize = 5;
/// Most words that a card names.
const WORDS: usize = 8;
/// Standard deviations from which a difference is told.
const TOLD: f64 = 1.96;
/// Titles that the prior weighs as much as.
const PRIOR: f64 = 50.0;

/// What one prefix stands for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConceptCard {
    /// The prefix: one code, or more.
    pub prefix: Vec<u16>,
    /// Items that have it.
    pub items: usize,
    /// The most popular of them; equally popular ones in catalog order.
    pub top_items: Vec<CardItem>,
    /// The words that tell it from the rest of the catalog, surest first.
    pub words: Vec<CardWord>,
    /// Its most frequent category.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub category: Option<String>,
    /// Share of that category among its items that have one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub category_purity: Option<f64>,
}

/// An item on a card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CardItem {
    /// The user's id.
    pub item_id: String,
    /// Its title.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub title: Option<String>,
    /// Its training interactions, where they are known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub popularity: Option<u32>,
}

/// A word on a card.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CardWord {
    /// In lower case.
    pub word: String,
    /// Items of the card whose title has it.
    pub items: usize,
    /// Log-odds over their standard deviation.
    pub score: f64,
}

/// What cards are made from besides the codes.
#[derive(Debug, Clone, Copy)]
pub struct CardEvidence<'a> {
    /// The items, in the order of the codes.
    pub items: &'a Items,
    /// Training interactions of each item, `[N]`.
    pub popularity: Option<&'a [u32]>,
    /// One category of each item, `[N]`.
    pub categories: Option<&'a [Option<String>]>,
}

/// A card for every used code of level 0, largest first, and for the codes of level 1 below the `opened` largest of
/// them, each after the card of its own prefix.
///
/// # Errors
/// Evidence about another number of items.
pub fn concept_cards(ids: &SemanticIds, evidence: &CardEvidence<'_>, opened: usize) -> Result<Vec<ConceptCard>> {
    let counts = [
        Some(evidence.items.len()),
        evidence.popularity.map(<[u32]>::len),
        evidence.categories.map(<[Option<String>]>::len),
    ];
    if let Some(count) = counts.into_iter().flatten().find(|&count| count != ids.len()) {
        let problem = format!("cards are asked for {} semantic IDs with evidence about {count} items", ids.len());
        return Err(Error::mismatch(problem, "give both for the same items, in the same order"));
    }
    let titles: Vec<BTreeSet<String>> =
        (0..ids.len() as ItemIndex).map(|item| words_of(evidence.items.title(item).unwrap_or_default())).collect();
    let whole = Words::of(&titles, 0..ids.len());
    let order = sorted(ids);
    let card = |bucket: &[usize], depth: usize| card(ids, evidence, &titles, &whole, bucket, depth);
    let mut buckets: Vec<&[usize]> = order.chunk_by(|&a, &b| ids.row(a)[0] == ids.row(b)[0]).collect();
    // Stable: codes of one size stay in their order.
    buckets.sort_by_key(|bucket| std::cmp::Reverse(bucket.len()));
    let mut cards = Vec::with_capacity(buckets.len());
    for (place, bucket) in buckets.into_iter().enumerate() {
        cards.push(card(bucket, 1));
        if place < opened && ids.levels() > 1 {
            let mut below: Vec<&[usize]> = bucket.chunk_by(|&a, &b| ids.row(a)[1] == ids.row(b)[1]).collect();
            below.sort_by_key(|bucket| std::cmp::Reverse(bucket.len()));
            cards.extend(below.into_iter().map(|bucket| card(bucket, 2)));
        }
    }
    Ok(cards)
}

fn card(
    ids: &SemanticIds,
    evidence: &CardEvidence<'_>,
    titles: &[BTreeSet<String>],
    whole: &Words<'_>,
    bucket: &[usize],
    depth: usize,
) -> ConceptCard {
    let mut popular: Vec<usize> = bucket.to_vec();
    popular.sort_by_key(|&item| (std::cmp::Reverse(evidence.popularity.map_or(0, |counts| counts[item])), item));
    let top_items = popular.iter().take(ITEMS).map(|&item| CardItem {
        item_id: evidence.items.id(item as ItemIndex).as_str().to_owned(),
        title: evidence.items.title(item as ItemIndex).map(str::to_owned),
        popularity: evidence.popularity.map(|counts| counts[item]),
    });
    let mut categories: BTreeMap<&str, usize> = BTreeMap::new();
    for category in bucket.iter().filter_map(|&item| evidence.categories?[item].as_deref()) {
        *categories.entry(category).or_default() += 1;
    }
    let known: usize = categories.values().sum();
    let largest = categories.into_iter().max_by_key(|&(name, count)| (count, std::cmp::Reverse(name)));
    ConceptCard {
        prefix: ids.row(bucket[0])[..depth].to_vec(),
        items: bucket.len(),
        top_items: top_items.collect(),
        words: Words::of(titles, bucket.iter().copied()).told_from(whole),
        category: largest.map(|(name, _)| name.to_owned()),
        category_purity: largest.map(|(_, count)| count as f64 / known as f64),
    }
}

/// How many titles have each word.
struct Words<'a> {
    titles: usize,
    counts: BTreeMap<&'a str, usize>,
}

impl<'a> Words<'a> {
    fn of(titles: &'a [BTreeSet<String>], items: impl Iterator<Item = usize>) -> Self {
        let mut words = Self { titles: 0, counts: BTreeMap::new() };
        for title in items.map(|item| &titles[item]).filter(|title| !title.is_empty()) {
            words.titles += 1;
            for word in title {
                *words.counts.entry(word).or_default() += 1;
            }
        }
        words
    }

    /// The words that are surely more frequent here than in the rest of `whole`, surest first.
    fn told_from(&self, whole: &Self) -> Vec<CardWord> {
        let rest_titles = (whole.titles - self.titles) as f64;
        let scored = self.counts.iter().filter_map(|(word, &count)| {
            let everywhere = whole.counts.get(word).copied().unwrap_or(count) as f64;
            let (here, rest) = (count as f64, everywhere - count as f64);
            let prior = PRIOR * (everywhere + 0.5) / (whole.titles as f64 + 1.0);
            let odds = |with: f64, of: f64| ((with + prior) / (of + PRIOR - with - prior)).ln();
            let score = (odds(here, self.titles as f64) - odds(rest, rest_titles))
                / (1.0 / (here + prior) + 1.0 / (rest + prior)).sqrt();
            (score > TOLD).then(|| CardWord { word: (*word).to_owned(), items: count, score })
        });
        let mut words: Vec<CardWord> = scored.collect();
        words.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| a.word.cmp(&b.word)));
        words.truncate(WORDS);
        words
    }
}

/// The distinct words of a title in lower case: two characters or more, at least one of them a letter.
fn words_of(title: &str) -> BTreeSet<String> {
    let words = title.split(|c: char| !c.is_alphanumeric()).filter(|word| word.chars().nth(1).is_some());
    words.filter(|word| word.chars().any(char::is_alphabetic)).map(str::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use sidereal_core::ItemId;

    /// 40 shampoos under code 3 and 20 brushes under code 1, all "for hair"; brushes are split at level 1.
    fn world() -> (SemanticIds, Items) {
        let codes = (0..60u16).flat_map(|i| if i < 40 { [3, 0] } else { [1, i % 2] }).collect();
        let title = |i: usize| match i {
            7 => None,
            _ if i < 40 => Some(format!("Shampoo No. {i} for hair")),
            _ => Some(format!("Brush {i}, for HAIR")),
        };
        let ids = (0..60).map(|i| ItemId::from(format!("item-{i}"))).collect();
        (SemanticIds::new(2, codes).unwrap(), Items::new(ids, (0..60).map(title).collect(), BTreeMap::new()).unwrap())
    }

    #[test]
    fn a_card_names_the_words_that_tell_its_code_from_the_catalog() {
        let (ids, items) = world();
        let popularity: Vec<u32> = (0..60).map(|i| if i == 11 { 9 } else { 1 }).collect();
        let categories: Vec<Option<String>> =
            (0..60).map(|i| (i != 0).then(|| if i < 10 { "travel" } else { "care" }.to_owned())).collect();
        let evidence = CardEvidence { items: &items, popularity: Some(&popularity), categories: Some(&categories) };
        let cards = concept_cards(&ids, &evidence, 0).unwrap();
        assert_eq!(
            cards.iter().map(|c| (&c.prefix[..], c.items)).collect::<Vec<_>>(),
            [(&[3][..], 40), (&[1][..], 20)]
        );
        assert_eq!(cards[0].words.iter().map(|w| &*w.word).collect::<Vec<_>>(), ["no", "shampoo"]);
        assert_eq!(cards[1].words.iter().map(|w| (&*w.word, w.items)).collect::<Vec<_>>(), [("brush", 20)]);
        assert_eq!(cards[0].top_items[0].item_id, "item-11");
        assert_eq!(cards[0].top_items[1].item_id, "item-0");
        assert_eq!((cards[0].category.as_deref(), cards[0].category_purity), (Some("care"), Some(30.0 / 39.0)));
    }

    #[test]
    fn the_largest_codes_are_opened_one_level_further() {
        let (ids, items) = world();
        let evidence = CardEvidence { items: &items, popularity: None, categories: None };
        let prefixes = |opened| -> Vec<Vec<u16>> {
            concept_cards(&ids, &evidence, opened).unwrap().into_iter().map(|card| card.prefix).collect()
        };
        assert_eq!(prefixes(1), [vec![3], vec![3, 0], vec![1]]);
        assert_eq!(prefixes(9), [vec![3], vec![3, 0], vec![1], vec![1, 0], vec![1, 1]]);
        let fewer = SemanticIds::new(2, vec![0, 0]).unwrap();
        assert!(concept_cards(&fewer, &evidence, 0).unwrap_err().to_string().contains("60 items"));
    }
}
