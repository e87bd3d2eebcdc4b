//! Answers, and the pages that they come in.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::Serialize;
use sidereal_core::ItemIndex;
use sidereal_generator::ranking::SearchStats;
use sidereal_generator::{Search, Widths};

use crate::Result;
use crate::recommend::choice::Asked;
use crate::recommend::{Query, Recommender};

/// What one request wants.
#[derive(Debug, Clone)]
pub struct Wish {
    /// How many items, k.
    pub k: usize,
    /// Beam widths W; no level is searched with fewer than k beams.
    pub beam: Widths,
    /// Whether items of the history may be answered.
    pub include_seen: bool,
    /// Which page, from 1. A page has none of the items of the pages before it: it is what one is led to by asking for the
    /// next page again and again. Where the beam is as wide as the catalog, pages are one long list, cut; elsewhere a later
    /// page may have an item that a wider beam would have shown before. No item is ever left out, and none comes twice.
    pub page: usize,
}

impl Wish {
    /// The first k items by a beam as wide as that.
    pub fn new(k: usize, beam: impl Into<Widths>) -> Self {
        Self { k, beam: beam.into(), include_seen: false, page: 1 }
    }
}

/// An answer, as `sidereal recommend --json` prints it.
#[derive(Debug, Clone, Serialize)]
pub struct Answer {
    /// The catalog that was asked.
    pub catalog_version: String,
    /// The items, best first, or in the order that diversity asks for.
    pub items: Vec<AnswerItem>,
    /// Why there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How it was found.
    pub stats: BTreeMap<&'static str, serde_json::Value>,
}

/// One item of an answer.
#[derive(Debug, Clone, Serialize)]
pub struct AnswerItem {
    /// The user's id.
    pub item_id: String,
    /// Its title in the catalog; never generated text.
    pub title: Option<String>,
    /// Its semantic ID, `[L]`.
    pub semantic_id: Vec<u16>,
    /// Log-probability of the semantic ID.
    pub score: f32,
    /// The probability that it is the next item, where the run is calibrated: fitted on first pages of the whole catalog.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confidence: Option<f64>,
}

/// One item that was chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Chosen {
    pub(crate) item: ItemIndex,
    pub(crate) score: f32,
    pub(crate) confidence: Option<f64>,
}

/// A page of one query.
#[derive(Debug, Clone, Default)]
pub(crate) struct Page {
    pub(crate) items: Vec<Chosen>,
    pub(crate) reason: Option<String>,
    stats: SearchStats,
}

impl Recommender {
    /// The page that is wished for, of each query; `shown` are items that count as shown before the first page.
    ///
    /// # Errors
    /// As [`Recommender::rank`]; 0 items; a page 0.
    pub(crate) fn pages(&self, queries: &[Query<'_>], shown: &[ItemIndex], wish: &Wish) -> Result<Vec<Page>> {
        if wish.k == 0 || wish.page == 0 {
            let (key, what) = if wish.k == 0 { ("k", "items are wanted") } else { ("page", "is no page") };
            return Err(sidereal_core::Error::config(key, format!("0 {what}"), "give 1 or more").into());
        }
        wish.beam.check_levels(self.catalog().levels())?;
        let search = Search { widths: wish.beam.at_least(wish.k), quota: self.chooser.diversity.quota(wish.k) };
        let mut shown: Vec<Vec<ItemIndex>> = vec![shown.to_vec(); queries.len()];
        let mut number = 1;
        loop {
            let deny: Vec<Vec<ItemIndex>> =
                queries.iter().zip(&shown).map(|(query, shown)| [query.deny, shown].concat()).collect();
            let asked: Vec<Query<'_>> =
                queries.iter().zip(&deny).map(|(query, deny)| Query { deny, ..*query }).collect();
            let rankings = self.rank(&asked, &search)?;
            let mut pages = Vec::with_capacity(queries.len());
            for (at, (query, ranking)) in asked.iter().zip(&rankings).enumerate() {
                let asked = Asked { shown: &shown[at], history: query.history.len(), seen_removed: !wish.include_seen };
                let (items, unsure) = self.chooser.choose(self.catalog(), ranking, &asked, wish.k);
                let reason = match items.is_empty() {
                    true => self.filter(query.deny)?.why_nothing().or(unsure),
                    false => None,
                };
                pages.push(Page { items, reason, stats: ranking.stats.clone() });
            }
            if number == wish.page || pages.iter().all(|page| page.items.is_empty()) {
                return Ok(pages);
            }
            for (shown, page) in shown.iter_mut().zip(&pages) {
                shown.extend(page.items.iter().map(|chosen| chosen.item));
            }
            number += 1;
        }
    }

    /// Answers one history of item ids; items that were `shown` before are not shown again.
    ///
    /// # Errors
    /// As [`Recommender::history`] and [`Recommender::rank`]; 0 items or page 0.
    pub fn answer(&self, ids: &[&str], shown: &[ItemIndex], wish: &Wish) -> Result<Answer> {
        let began = Instant::now();
        let history = self.history(ids)?;
        let deny: &[ItemIndex] = if wish.include_seen { &[] } else { &history };
        let query = Query { history: &history, deny, user: None, time: None };
        let page = self.pages(&[query], shown, wish)?.pop().unwrap_or_default();
        let items = page.items.iter().map(|chosen| self.answer_item(chosen)).collect();
        let mut stats = BTreeMap::from([
            ("beam", serde_json::json!(wish.beam.at_least(wish.k))),
            ("candidates", page.stats.candidates.into()),
            ("pruned", page.stats.pruned.into()),
            ("score_norm", self.generator().info().score_norm.name().into()),
            ("precision", self.generator().precision().name().into()),
            ("latency_ms", (began.elapsed().as_secs_f64() * 1e3).into()),
        ]);
        if let Some(told) = self.limits().told() {
            stats.insert("limits", serde_json::json!(told));
        }
        if *self.choice() != crate::recommend::Choice::default() {
            stats.insert("choice", serde_json::json!(self.choice()));
        }
        if let Some(likeness) = self.chooser.likeness {
            stats.insert("likeness", likeness.into());
        }
        if wish.page > 1 || !shown.is_empty() {
            stats.insert("page", wish.page.into());
            stats.insert("shown_before", shown.len().into());
        }
        Ok(Answer { catalog_version: self.catalog().version().to_owned(), items, reason: page.reason, stats })
    }

    fn answer_item(&self, chosen: &Chosen) -> AnswerItem {
        let catalog = self.catalog();
        AnswerItem {
            item_id: catalog.item_id(chosen.item).to_owned(),
            title: self.title(chosen.item).map(str::to_owned),
            semantic_id: catalog.semantic_id(chosen.item).to_vec(),
            score: chosen.score,
            confidence: chosen.confidence,
        }
    }
}
