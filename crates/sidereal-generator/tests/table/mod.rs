//! Models that are tables of random numbers, and what they should answer by definition.
#![allow(dead_code, clippy::unwrap_used, missing_docs)]

use std::sync::Arc;

use candle_core::{Device, Tensor};
use proptest::prelude::*;
use sidereal_core::catalog::{Change, LiveCatalog};
use sidereal_core::{Catalog, CodeVocab, CollisionPolicy, ItemId, ItemIndex, LeafFilter, SemanticIds};
use sidereal_generator::beam::{BeamOptions, Request, beam_search};
use sidereal_generator::scoring::{CodeScores, DeviceCodes, DeviceWriter};
use sidereal_generator::{NextCodeModel, Ranking, Result, ScoreNorm, Search};

/// Log-probabilities that are a hash of history and prefix. What it knows about a prefix, it knows only through
/// `parents` and `codes`, as a real model does.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) vocab: CodeVocab,
    /// Scores are rounded to this many steps, so that a few steps give many ties.
    pub(crate) steps: u64,
    /// The largest logit: few codes are likely where it is large.
    pub(crate) sharpness: f32,
    pub(crate) poison: Option<u64>,
}

pub(crate) struct Prefixes {
    of_row: Vec<(u64, Vec<u16>)>, // hash of the history, codes
}

fn hash(values: impl IntoIterator<Item = u64>) -> u64 {
    values.into_iter().fold(0xcbf2_9ce4_8422_2325, |h, v| {
        let mixed = (h ^ v).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        mixed ^ (mixed >> 29)
    })
}

impl Table {
    fn scores(&self, (history, prefix): &(u64, Vec<u16>), norm: ScoreNorm) -> Vec<f32> {
        let level = prefix.len();
        let logit = |at: usize, code: u32| {
            let key = hash([*history, at as u64, u64::from(code)].into_iter().chain(prefix.iter().map(|&c| c.into())));
            if self.poison == Some(key % 64) {
                f32::NAN
            } else {
                (key % self.steps) as f32 / self.steps as f32 * self.sharpness
            }
        };
        let logits: Vec<f32> = (0..self.vocab.codes_per_level()[level]).map(|code| logit(level, code)).collect();
        // Other levels' logits count only in the sum over the whole vocabulary.
        let others = if norm == ScoreNorm::Full { 3.7f32 } else { 0.0 };
        let total = (logits.iter().map(|l| l.exp()).sum::<f32>() + others).ln();
        logits.iter().map(|logit| logit - total).collect()
    }

    fn answer(&self, of_row: Vec<(u64, Vec<u16>)>, norm: ScoreNorm) -> (Prefixes, CodeScores) {
        let codes = self.vocab.codes_per_level()[of_row[0].1.len()] as usize;
        let values = of_row.iter().flat_map(|row| self.scores(row, norm)).collect();
        (Prefixes { of_row }, CodeScores::new(values, codes))
    }

    /// The score of a whole semantic ID, by the definition of each norm.
    fn score(&self, history: &[u32], sid: &[u16], norm: ScoreNorm, alive: &[&[u16]]) -> f32 {
        let history = hash(history.iter().map(|&t| t.into()));
        (0..sid.len()).fold(0.0, |score, level| {
            let prefix = sid[..level].to_vec();
            let row = self.scores(&(history, prefix.clone()), norm);
            let own = row[sid[level] as usize];
            if norm != ScoreNorm::Children {
                return score + own;
            }
            let mut children: Vec<u16> = alive.iter().filter(|s| s[..level] == prefix).map(|s| s[level]).collect();
            children.sort_unstable();
            children.dedup();
            score + own - children.iter().map(|&code| row[code as usize].exp()).sum::<f32>().ln()
        })
    }
}

impl NextCodeModel for Table {
    type State = Prefixes;

    fn vocab(&self) -> &CodeVocab {
        &self.vocab
    }

    fn requests_per_state(&self) -> usize {
        2
    }

    fn begin(&self, histories: &[&[u32]], norm: ScoreNorm) -> Result<(Prefixes, CodeScores)> {
        let rows = histories.iter().map(|h| (hash(h.iter().map(|&t| t.into())), Vec::new())).collect();
        Ok(self.answer(rows, norm))
    }

    fn step(
        &self,
        state: &Prefixes,
        parents: &[u32],
        codes: &[u16],
        norm: ScoreNorm,
    ) -> Result<(Prefixes, CodeScores)> {
        let extend = |(&parent, &code): (&u32, &u16)| {
            let (history, prefix) = &state.of_row[parent as usize];
            (*history, [prefix.as_slice(), &[code]].concat())
        };
        Ok(self.answer(parents.iter().zip(codes).map(extend).collect(), norm))
    }
}

/// The same model, as one on a device; only that it looks at what it is told there.
#[derive(Debug)]
pub(crate) struct OnDevice {
    pub(crate) table: Table,
    /// It has no memory for more requests than these.
    pub(crate) memory: usize,
}

struct TableWriter<'a> {
    table: &'a Table,
    of_row: Vec<(u64, Vec<u16>)>,
    norm: ScoreNorm,
}

impl TableWriter<'_> {
    fn log_probs(&self) -> Result<Tensor> {
        let rows: Vec<Vec<f32>> = self.of_row.iter().map(|row| self.table.scores(row, self.norm)).collect();
        Ok(Tensor::new(rows, &Device::Cpu)?)
    }
}

impl DeviceWriter for TableWriter<'_> {
    fn step(&mut self, parents: &Tensor, codes: &Tensor) -> Result<Tensor> {
        let (parents, codes): (Vec<u32>, Vec<u32>) = (parents.to_vec1()?, codes.to_vec1()?);
        let extend = |(parent, code): (u32, u32)| {
            let (history, prefix) = &self.of_row[parent as usize];
            (*history, [prefix.as_slice(), &[code as u16]].concat())
        };
        self.of_row = parents.into_iter().zip(codes).map(extend).collect();
        self.log_probs()
    }
}

impl DeviceCodes for OnDevice {
    fn vocab(&self) -> &CodeVocab {
        &self.table.vocab
    }

    fn device(&self) -> &Device {
        &Device::Cpu
    }

    fn write(&self, histories: &[&[u32]], norm: ScoreNorm) -> Result<(Box<dyn DeviceWriter + '_>, Tensor)> {
        if histories.len() > self.memory {
            return Err(candle_core::Error::Msg("CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\"".to_owned()).into());
        }
        let of_row = histories.iter().map(|h| (hash(h.iter().map(|&t| t.into())), Vec::new())).collect();
        let writer = TableWriter { table: &self.table, of_row, norm };
        let scores = writer.log_probs()?;
        Ok((Box::new(writer), scores))
    }
}

impl NextCodeModel for OnDevice {
    type State = Prefixes;

    fn vocab(&self) -> &CodeVocab {
        &self.table.vocab
    }

    fn requests_per_state(&self) -> usize {
        self.table.requests_per_state()
    }

    fn begin(&self, histories: &[&[u32]], norm: ScoreNorm) -> Result<(Prefixes, CodeScores)> {
        self.table.begin(histories, norm)
    }

    fn step(
        &self,
        state: &Prefixes,
        parents: &[u32],
        codes: &[u16],
        norm: ScoreNorm,
    ) -> Result<(Prefixes, CodeScores)> {
        self.table.step(state, parents, codes, norm)
    }

    fn on_device(&self) -> Option<&dyn DeviceCodes> {
        Some(self)
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) codes_per_level: Vec<u32>,
    pub(crate) codes: Vec<u16>,
    pub(crate) histories: Vec<Vec<u32>>,
    pub(crate) denied: Vec<Vec<ItemIndex>>,
    pub(crate) width: usize,
    pub(crate) steps: u64,
    pub(crate) sharpness: f32,
    pub(crate) norm: ScoreNorm,
}

impl Case {
    pub(crate) fn catalog(&self) -> Catalog {
        let sids = SemanticIds::new(self.codes_per_level.len(), self.codes.clone()).unwrap();
        let ids: Vec<ItemId> = (0..sids.len()).map(|i| ItemId::from(format!("i{i}"))).collect();
        Catalog::build(&ids, &sids, &self.codes_per_level, CollisionPolicy::Postings, None).unwrap()
    }

    pub(crate) fn model(&self) -> Table {
        Table {
            vocab: CodeVocab::new(2, &self.codes_per_level),
            steps: self.steps,
            sharpness: self.sharpness,
            poison: None,
        }
    }

    pub(crate) fn search(&self, search: impl Into<Search>) -> Vec<Ranking> {
        let catalog = self.catalog();
        let filters: Vec<LeafFilter> = self.denied.iter().map(|d| LeafFilter::deny_items(&catalog, d)).collect();
        let requests: Vec<Request<'_>> =
            self.histories.iter().zip(&filters).map(|(history, filter)| Request { history, filter }).collect();
        beam_search(&self.model(), &catalog, &requests, &BeamOptions::new(search, self.norm)).unwrap()
    }

    /// The same items, the last of them appended while the catalog serves, and some removed.
    pub(crate) fn live(&self, built: usize, removed: &[ItemIndex]) -> Arc<Catalog> {
        let (levels, id) = (self.codes_per_level.len(), |i: usize| ItemId::from(format!("i{i}")));
        let (first, rest) = self.codes.split_at(built * levels);
        let sids = SemanticIds::new(levels, first.to_vec()).unwrap();
        let ids: Vec<ItemId> = (0..built).map(id).collect();
        let base = Catalog::build(&ids, &sids, &self.codes_per_level, CollisionPolicy::Postings, None).unwrap();
        let mut live = LiveCatalog::new(&base).unwrap();
        for (row, at) in rest.chunks(levels).zip(built..) {
            let sids = SemanticIds::new(levels, row.to_vec()).unwrap();
            live.apply(&Change { add: &[id(at)], add_ids: Some(&sids), ..Change::default() }).unwrap();
        }
        if !removed.is_empty() {
            live.apply(&Change { remove: removed, ..Change::default() }).unwrap();
        }
        live.now()
    }

    pub(crate) fn alive_items(&self, request: usize) -> Vec<ItemIndex> {
        let items = (self.codes.len() / self.codes_per_level.len()) as ItemIndex;
        (0..items).filter(|item| !self.denied[request].contains(item)).collect()
    }

    /// Every alive leaf with its score, best first, by definition.
    pub(crate) fn brute_force(&self, request: usize) -> Vec<(f32, Vec<u16>)> {
        let levels = self.codes_per_level.len();
        let sid = |item: &ItemIndex| &self.codes[*item as usize * levels..(*item as usize + 1) * levels];
        let alive = self.alive_items(request);
        let mut sids: Vec<&[u16]> = alive.iter().map(sid).collect();
        sids.sort_unstable();
        sids.dedup();
        let model = self.model();
        let score = |s: &&[u16]| (model.score(&self.histories[request], s, self.norm, &sids), s.to_vec());
        let mut scored: Vec<(f32, Vec<u16>)> = sids.iter().map(score).collect();
        scored.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        scored
    }
}

/// The sum of exponentials, as a logarithm, by the operations that the search uses: ties must be ties here too.
fn log_sum_exp(values: &[f32]) -> f32 {
    let max = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    max + values.iter().map(|v| (v - max).exp()).sum::<f32>().ln()
}

impl Case {
    /// The beam search by definition: all alive children of all beams, sorted, and of these the first W that fit the
    /// quota. Nothing is passed over.
    pub(crate) fn plain_search(&self, request: usize, search: &Search) -> Vec<(f32, Vec<u16>)> {
        let (model, levels) = (self.model(), self.codes_per_level.len());
        let history = hash(self.histories[request].iter().map(|&t| t.into()));
        let alive = self.alive_items(request);
        let sids: Vec<&[u16]> =
            alive.iter().map(|&item| &self.codes[item as usize * levels..(item as usize + 1) * levels]).collect();
        let mut beams: Vec<(f32, Vec<u16>)> = vec![(0.0, Vec::new())];
        for level in 0..levels {
            let mut found: Vec<(f32, Vec<u16>)> = Vec::new();
            for (score, prefix) in &beams {
                let mut children: Vec<u16> =
                    sids.iter().filter(|sid| sid.starts_with(prefix)).map(|sid| sid[level]).collect();
                children.sort_unstable();
                children.dedup();
                let row = model.scores(&(history, prefix.clone()), self.norm);
                let of_children: Vec<f32> = children.iter().map(|&code| row[code as usize]).collect();
                let base = if self.norm == ScoreNorm::Children { score - log_sum_exp(&of_children) } else { *score };
                let child = |&code: &u16| (base + row[code as usize], [prefix.as_slice(), &[code]].concat());
                found.extend(children.iter().map(child));
            }
            found.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
            let width = search.widths.at(level);
            let most = search.quota.map_or(usize::MAX, |q| q.per_code * (width / q.wanted).max(1));
            let mut of_code = std::collections::HashMap::<u16, usize>::new();
            found.retain(|(_, prefix)| {
                let count = of_code.entry(prefix[0]).or_default();
                *count += 1;
                *count <= most
            });
            found.truncate(width);
            beams = found;
        }
        beams
    }
}

pub(crate) fn norms() -> impl Strategy<Value = ScoreNorm> {
    prop_oneof![Just(ScoreNorm::Full), Just(ScoreNorm::Level), Just(ScoreNorm::Children)]
}

pub(crate) fn cases() -> impl Strategy<Value = Case> {
    cases_of(1..6, 50)
}

/// Catalogs of fewer than `most` items, with codes per level out of a range.
pub(crate) fn cases_of(codes: std::ops::Range<u32>, most: usize) -> impl Strategy<Value = Case> {
    let shape = (prop::collection::vec(codes, 1..5), 1usize..most, 1usize..6);
    let model = (prop_oneof![Just(4u64), Just(1 << 40)], prop_oneof![3 => Just(4.0f32), 1 => Just(30.0)]);
    let options = (1usize..60, model, norms());
    (shape, options).prop_flat_map(|((codes_per_level, items, requests), (width, (steps, sharpness), norm))| {
        let row: Vec<_> = codes_per_level.iter().map(|&codes| 0u16..codes as u16).collect();
        let codes = prop::collection::vec(row, items).prop_map(|rows| rows.concat());
        let histories = prop::collection::vec(prop::collection::vec(2u32..9, 0..4), requests);
        let denied = prop::collection::vec(prop::collection::vec(0..items as ItemIndex, 0..items), requests);
        (codes, histories, denied).prop_map(move |(codes, histories, denied)| Case {
            codes_per_level: codes_per_level.clone(),
            codes,
            histories,
            denied,
            width,
            steps,
            sharpness,
            norm,
        })
    })
}
