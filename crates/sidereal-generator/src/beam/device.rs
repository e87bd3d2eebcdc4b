//! The same search with the catalog on a device: masks and choices are made where the scores are.
//!
//! Nothing is read back between two codes; what comes back at the end is W scores and leaves a request. It is made of plain
//! candle operations, so it runs on the CPU too, where the tests hold it against the other search.
//!
//! # How does a device walk a trie?
//! The children of a node are consecutive edges, and an edge's number is its child. So the candidates of a beam are the
//! numbers `first_edge + 0, 1, ..` below `end_edge`, as many columns as the depth's widest node has, and their codes and
//! scores two lookups. A condition is a byte a node. What one request denies is a short list of dead nodes; each is found
//! among the beams by its parent, and its place struck out.
//!
//! # What decides ties?
//! Beams stand in the order of their nodes, which is that of their semantic IDs, so a candidate's column is its place among
//! all; [`top::keys`] lets the column decide between equal scores. The answer is that of the other search.
//!
//! # What does it not do?
//! Quotas, catalogs with items that came while they serve, and beams too wide for a sort: these are searched from the host,
//! with the same answers. So is everything on Metal, which has no f64; there the memory is one, and reading it costs little.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use sidereal_core::filter::AliveSet;
use sidereal_core::{Catalog, Error as CoreError, LeafFilter};

use self::places::Places;
use self::top::{keys, top};
use self::trie::{DeviceDepth, DeviceSet, DeviceTrie};
use super::{BeamOptions, Request, check_fit};
use crate::Result;
use crate::ranking::{Ranking, ScoredLeaf, SearchStats};
use crate::scoring::{DeviceCodes, ScoreNorm};
use crate::search::Search;

mod places;
mod top;
mod trie;

pub(crate) use trie::OnDevice;

/// Candidates that are scored at once: some sixty bytes each.
const CANDIDATES: usize = 1 << 24;
/// Requests that are searched together at most.
const REQUESTS: usize = 1024;

/// Whether the catalog can be searched on the device.
pub(crate) fn can_search(device: &Device, catalog: &Catalog, search: &Search) -> bool {
    let codes = catalog.codes_per_level().iter().max().copied().unwrap_or(0) as usize;
    let width = search.widths.most();
    let told_apart = width.saturating_mul(codes) < top::MOST_PLACES && width <= top::MOST;
    !device.is_metal() && search.quota.is_none() && catalog.is_all_built() && told_apart
}

/// Searches for all requests as [`beam_search`](super::beam_search), on the model's device.
///
/// # Errors
/// As there; a catalog whose trie is damaged; a device without memory for one request.
pub(crate) fn device_search(
    model: &dyn DeviceCodes,
    kept: &OnDevice,
    catalog: &Catalog,
    requests: &[Request<'_>],
    options: &BeamOptions,
) -> Result<Vec<Ranking>> {
    options.search.check(catalog.levels())?;
    check_fit(model.vocab(), catalog)?;
    let filters: Vec<Cow<'_, LeafFilter>> =
        requests.iter().map(|request| request.filter.for_catalog(catalog)).collect::<Result<_, _>>()?;
    let device = model.device();
    let trie = kept.trie(catalog, device)?;
    // Requests that may be answered with the same items go together: a set of them is then looked at once.
    let mut by_set: Vec<(Option<&Arc<AliveSet>>, Vec<usize>)> = Vec::new();
    let mut place_of: HashMap<Option<*const AliveSet>, usize> = HashMap::new();
    for (at, filter) in filters.iter().enumerate() {
        let set = filter.allowed_of_base();
        let place = *place_of.entry(set.map(Arc::as_ptr)).or_insert_with(|| {
            by_set.push((set, Vec::new()));
            by_set.len() - 1
        });
        by_set[place].1.push(at);
    }
    let mut answers: Vec<Option<Ranking>> = vec![None; requests.len()];
    for (set, members) in by_set {
        let set = set.map(|set| kept.set(set, catalog, device)).transpose()?;
        let work = Work { model, trie: &trie, set: set.as_deref(), numbers: &kept.places, catalog, options };
        for group in members.chunks(work.group()) {
            let asked: Vec<Asked<'_>> =
                group.iter().map(|&at| Asked { history: requests[at].history, filter: &filters[at] }).collect();
            for (&at, ranking) in group.iter().zip(work.search(&asked)?) {
                answers[at] = Some(ranking);
            }
        }
    }
    Ok(answers.into_iter().flatten().collect())
}

/// The same with every code allowed: what the constraint is measured against. The best score of each history.
///
/// # Errors
/// Whatever the device says.
pub(crate) fn free_device_search(
    model: &dyn DeviceCodes,
    kept: &OnDevice,
    histories: &[&[u32]],
    options: &BeamOptions,
) -> Result<Vec<f32>> {
    let (mut writer, mut log_probs) = model.write(histories, options.norm)?;
    let numbers = &kept.places;
    let mut beams = Beams::root(histories.len(), model.device())?;
    for (depth, &codes) in model.vocab().codes_per_level().iter().enumerate() {
        if depth > 0 {
            log_probs = writer.step(&beams.rows, &beams.codes)?;
        }
        let (requests, width) = beams.scores.dims2()?;
        let codes = codes as usize;
        let scores = log_probs.reshape((requests, width, codes))?.broadcast_add(&beams.scores.unsqueeze(2)?)?;
        let code =
            numbers.first(codes, model.device())?.reshape((1, 1, codes))?.broadcast_as((requests, width, codes))?;
        let columns = (requests, width * codes);
        let code = code.contiguous()?.reshape(columns)?;
        let candidates =
            Candidates { scores: scores.reshape(columns)?, nodes: code.clone(), codes: code, of_beam: codes };
        beams = candidates.best(options.search.widths.at(depth), numbers)?;
    }
    Ok(beams.scores.max(1)?.to_vec1()?)
}

/// One request of a group.
#[derive(Clone, Copy)]
struct Asked<'a> {
    history: &'a [u32],
    filter: &'a LeafFilter,
}

/// What the requests of a group share.
struct Work<'a> {
    model: &'a dyn DeviceCodes,
    trie: &'a DeviceTrie,
    set: Option<&'a DeviceSet>,
    numbers: &'a Places,
    catalog: &'a Catalog,
    options: &'a BeamOptions,
}

/// The beams of all requests after a level, W each, in the order of their nodes. Where a request has fewer, the others have
/// the score minus infinity.
struct Beams {
    scores: Tensor, // f32 [B, W]
    there: Tensor,  // u8 [B, W], 0 where there is no beam
    nodes: Tensor,  // u32 [B, W]
    codes: Tensor,  // u32 [B * W], written last
    rows: Tensor,   // u32 [B * W], of the step before
}

impl Beams {
    fn root(requests: usize, device: &Device) -> Result<Self> {
        let none = Tensor::zeros(requests, DType::U32, device)?;
        Ok(Self {
            scores: Tensor::zeros((requests, 1), DType::F32, device)?,
            there: Tensor::ones((requests, 1), DType::U8, device)?,
            nodes: none.reshape((requests, 1))?,
            codes: none.clone(),
            rows: none,
        })
    }
}

/// All children of all beams of a level, `[B, N]` with N = W * the most that one has.
struct Candidates {
    scores: Tensor, // f32, minus infinity for those that are none
    codes: Tensor,  // u32
    nodes: Tensor,  // u32
    of_beam: usize,
}

impl Candidates {
    /// The best of each request.
    fn best(&self, width: usize, numbers: &Places) -> Result<Beams> {
        let (requests, columns) = self.scores.dims2()?;
        let device = self.scores.device();
        let chosen = top(&keys(&self.scores, numbers)?, width, numbers)?; // [B, W]
        let order = chosen.arg_sort_last_dim(true)?;
        let chosen = chosen.gather(&order, 1)?;
        let width = chosen.dim(1)?;
        let scores = self.scores.gather(&chosen, 1)?;
        let before = columns / self.of_beam;
        let of_beam = Tensor::full(self.of_beam as u32, (1, 1), device)?;
        let first_row = numbers.multiples(requests, before, device)?.reshape((requests, 1))?;
        let rows = chosen.broadcast_div(&of_beam)?.broadcast_add(&first_row)?;
        let flat = requests * width;
        Ok(Beams {
            there: scores.gt(&Tensor::full(f32::MIN, scores.dims(), device)?)?,
            nodes: self.nodes.gather(&chosen, 1)?,
            codes: self.codes.gather(&chosen, 1)?.reshape(flat)?,
            rows: rows.reshape(flat)?,
            scores,
        })
    }
}

impl Work<'_> {
    /// How many requests go together.
    fn group(&self) -> usize {
        let widths = &self.options.search.widths;
        let columns = |(depth, level): (usize, &DeviceDepth)| match depth.checked_sub(1) {
            None => level.most,
            Some(above) => level.most * widths.at(above),
        };
        let most = self.trie.depths.iter().enumerate().map(columns).max().unwrap_or(1);
        (CANDIDATES / most.max(1)).clamp(1, REQUESTS)
    }

    /// The answers of a group; of its halves, where the device has no memory for all of it.
    fn search(&self, asked: &[Asked<'_>]) -> Result<Vec<Ranking>> {
        match self.search_together(asked) {
            Err(error) if is_out_of_memory(&error) => {
                if asked.len() < 2 {
                    let problem = format!("no memory on the device for one request: {error}");
                    let mend = "use a narrower beam, give the device's memory free, or use --device cpu";
                    return Err(CoreError::config("device", problem, mend).into());
                }
                let (first, second) = asked.split_at(asked.len() / 2);
                let mut answers = self.search(first)?;
                answers.extend(self.search(second)?);
                Ok(answers)
            }
            found => found,
        }
    }

    fn search_together(&self, asked: &[Asked<'_>]) -> Result<Vec<Ranking>> {
        let levels = self.trie.depths.len();
        let histories: Vec<&[u32]> = asked.iter().map(|asked| asked.history).collect();
        let (mut writer, mut log_probs) = self.model.write(&histories, self.options.norm)?;
        let mut beams = Beams::root(asked.len(), self.model.device())?;
        let (mut alive, mut seen, mut sums) = (Vec::new(), Vec::new(), Vec::new());
        for depth in 0..levels {
            if depth > 0 {
                log_probs = writer.step(&beams.rows, &beams.codes)?;
            }
            // One that is not finite makes the sum so.
            sums.push(log_probs.sum_all()?);
            let (candidates, count) = self.candidates(depth, &beams, &log_probs, asked)?;
            seen.push(count);
            beams = candidates.best(self.options.search.widths.at(depth), self.numbers)?;
            alive.push(as_numbers(&beams.there)?.sum(1)?);
        }
        let sums: Vec<f32> = Tensor::stack(&sums, 0)?.to_vec1()?;
        if let Some(level) = sums.iter().position(|sum| !sum.is_finite()) {
            return Err(super::not_finite_at(&format!("a score at level {level}"), sums[level]));
        }
        let counts = |counts: &[Tensor]| -> Result<Vec<Vec<f32>>> { Ok(Tensor::stack(counts, 1)?.to_vec2()?) };
        let (alive, seen) = (counts(&alive)?, counts(&seen)?); // [B, L]
        let (scores, leaves): (Vec<Vec<f32>>, Vec<Vec<u32>>) = (beams.scores.to_vec2()?, beams.nodes.to_vec2()?);
        let answer = |at: usize| {
            let found = scores[at].iter().zip(&leaves[at]).filter(|(score, _)| **score > f32::NEG_INFINITY);
            let mut found: Vec<ScoredLeaf> = found.map(|(&score, &leaf)| ScoredLeaf { leaf, score }).collect();
            // Leaves ascend: a stable sort keeps those of equal scores in the order of their semantic IDs.
            found.sort_by(|a, b| b.score.total_cmp(&a.score));
            let beams = alive[at].iter().map(|&count| count as u32).collect();
            let candidates = seen[at].iter().map(|&count| count as u64).sum();
            let stats = SearchStats { candidates, beams, pruned: 0 };
            Ranking::of_leaves(self.catalog, asked[at].filter, found, self.options.norm, stats)
        };
        Ok((0..asked.len()).map(answer).collect())
    }

    /// The children of all beams, and how many each request has: f32 `[B]`.
    fn candidates(
        &self,
        depth: usize,
        beams: &Beams,
        log_probs: &Tensor,
        asked: &[Asked<'_>],
    ) -> Result<(Candidates, Tensor)> {
        let level = &self.trie.depths[depth];
        let device = beams.scores.device();
        let (requests, width) = beams.scores.dims2()?;
        let (rows, most, columns) = (requests * width, level.most, width * level.most);
        let nodes = beams.nodes.reshape(rows)?;
        let first = level.first_edge.index_select(&nodes, 0)?.reshape((rows, 1))?;
        let end = level.end_edge.index_select(&nodes, 0)?.reshape((rows, 1))?;
        let edges = first.broadcast_add(&self.numbers.first(most, device)?.reshape((1, most))?)?; // [B * W, C]
        let there = edges.broadcast_lt(&end)?;
        // A beam that is none stands at some node: its children are none either.
        let mut allowed = there.broadcast_mul(&beams.there.reshape((rows, 1))?)?;
        let count = as_numbers(&allowed)?.reshape((requests, columns))?.sum(1)?;
        let last = Tensor::full(level.edges as u32 - 1, (1, 1), device)?;
        let edges = edges.broadcast_minimum(&last)?.flatten_all()?; // [B * W * C]
        if let Some(set) = self.set {
            allowed = (allowed * set.nodes[depth].index_select(&edges, 0)?.reshape((rows, most))?)?;
        }
        if let Some(kept) = self.not_denied(depth, beams, asked)? {
            allowed = (allowed * kept.reshape((rows, most))?)?;
        }
        let codes = level.code.index_select(&edges, 0)?.to_dtype(DType::U32)?.reshape((rows, most))?;
        let of_code = log_probs.gather(&codes, 1)?; // [B * W, C]
        let nothing = Tensor::full(f32::NEG_INFINITY, (rows, most), device)?;
        let of_code = allowed.where_cond(&of_code, &nothing)?;
        let mut base = beams.scores.reshape((rows, 1))?;
        if self.options.norm == ScoreNorm::Children {
            let top = of_code.max_keepdim(1)?;
            let top = top.maximum(&Tensor::full(f32::MIN, top.dims(), device)?)?;
            let sum = of_code.broadcast_sub(&top)?.exp()?.sum_keepdim(1)?;
            base = (base - (sum.log()? + top)?)?;
        }
        // Infinities of both signs meet where a beam has no child: what is no candidate is said once more.
        let scores = allowed.where_cond(&of_code.broadcast_add(&base)?, &nothing)?;
        let candidates = Candidates {
            scores: scores.reshape((requests, columns))?,
            codes: codes.reshape((requests, columns))?,
            nodes: edges.reshape((requests, columns))?,
            of_beam: most,
        };
        Ok((candidates, count))
    }

    /// 0 at the candidates that the requests deny and 1 elsewhere: u8 `[B, N]`; none where nothing is denied.
    fn not_denied(&self, depth: usize, beams: &Beams, asked: &[Asked<'_>]) -> Result<Option<Tensor>> {
        let dead = |asked: &Asked<'_>| asked.filter.dead_of_base(depth + 1).len();
        let longest = asked.iter().map(dead).max().unwrap_or(0);
        let trie = self.catalog.trie();
        let (Some((first_edge, _)), 1..) = (trie.edges(depth), longest) else { return Ok(None) };
        let (level, device) = (&self.trie.depths[depth], beams.scores.device());
        let (requests, width) = beams.scores.dims2()?;
        let columns = width * level.most;
        // No node has this number, so that a list that is shorter than others strikes nothing.
        let (mut parents, mut offsets) = (vec![u32::MAX - 1; requests * longest], vec![0u32; requests * longest]);
        for (request, asked) in asked.iter().enumerate() {
            let dead = asked.filter.dead_of_base(depth + 1);
            for (at, (parent, node)) in trie.parents(depth + 1, dead).into_iter().zip(dead).enumerate() {
                parents[request * longest + at] = parent;
                offsets[request * longest + at] = node - first_edge[parent as usize];
            }
        }
        let parents = Tensor::from_vec(parents, (requests, longest, 1), device)?;
        let offsets = Tensor::from_vec(offsets, (requests, longest), device)?;
        let no_node = Tensor::full(u32::MAX, (requests, width), device)?;
        let nodes = beams.there.where_cond(&beams.nodes, &no_node)?.reshape((requests, 1, width))?;
        let same = as_numbers(&parents.broadcast_eq(&nodes)?)?; // [B, D, W]
        let beam = same
            .broadcast_mul(&self.numbers.first(width, device)?.to_dtype(DType::F32)?.reshape((1, 1, width))?)?
            .sum(2)?;
        let most = Tensor::full(level.most as u32, (1, 1), device)?;
        let column = (beam.to_dtype(DType::U32)?.broadcast_mul(&most)? + offsets)?; // [B, D]
        // What is not below a beam strikes a column behind the last.
        let behind = Tensor::full(columns as u32, (requests, longest), device)?;
        let column = same.sum(2)?.to_dtype(DType::U8)?.where_cond(&column, &behind)?;
        let struck = Tensor::zeros((requests, columns + 1), DType::F32, device)?;
        let struck = struck.scatter_add(&column, &Tensor::ones((requests, longest), DType::F32, device)?, 1)?;
        Ok(Some(struck.narrow(1, 0, columns)?.contiguous()?.eq(0f32)?))
    }
}

/// Truths as numbers that can be added up.
fn as_numbers(truths: &Tensor) -> Result<Tensor> {
    Ok(truths.to_dtype(DType::F32)?)
}

/// Whether an error says that a device's memory is used up; candle passes on the driver's words.
fn is_out_of_memory(error: &crate::Error) -> bool {
    let words = error.to_string().to_lowercase();
    words.contains("out of memory") || words.contains("out_of_memory")
}
