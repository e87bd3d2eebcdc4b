//! The one beam search: it writes only semantic IDs that the catalog has.
//!
//! # Why does it never miss?
//! A beam is a node of the trie, and its candidates are that node's alive children, so what it writes is in the
//! catalog by construction. After level `l` there are `min(W, alive nodes at depth l)` beams: every alive node has an
//! alive child, so the beams never become fewer while there is something to keep. A leaf holds an item, hence with
//! W >= k at least min(k, alive items) items come back.
//!
//! With a width a level, the least of them takes W's place in both sentences. A quota of items a first code acts inside the
//! search too; what it promises says [`Quota`](crate::search::Quota).
//!
//! # What is not looked at?
//! Log-probabilities are at most 0, so no prefix below a beam scores better than the beam. Beams are looked at best first:
//! once one scores below the W-th best candidate of the level, it and all behind it are passed over, and the answer is the
//! same.
//!
//! # What decides ties?
//! Beams are ordered by (score descending, semantic ID ascending). All candidates of a level descend from the beams that
//! were kept, so the place of a beam among these by prefix, and then the code, is the tie-break: also where an item that
//! came while the catalog serves stands between two that were built in.

use rayon::prelude::*;
use sidereal_core::catalog::Node;
use sidereal_core::{Catalog, CodeVocab, Error as CoreError, LeafFilter};

use crate::Result;
use crate::ranking::Ranking;
use crate::scoring::{NextCodeModel, ScoreNorm};
use crate::search::Search;

mod best;
mod device;
mod group;
mod under_way;

pub(crate) use best::Best;
pub(crate) use device::free_device_search;
use device::{OnDevice, can_search, device_search};
use group::{GroupSearch, Setting};
pub(crate) use under_way::{Asked, BeamsUnderWay, rows};

/// One question: what comes after this history, among the items that the filter leaves?
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Token ids of the history, oldest first, `[T]`.
    pub history: &'a [u32],
    /// The leaves and items that may be returned.
    pub filter: &'a LeafFilter,
}

/// How wide to search, and what scores mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BeamOptions {
    /// W: with W >= k after every level, at least min(k, alive items) items come back.
    pub search: Search,
    /// Over which tokens probabilities are normalised.
    pub norm: ScoreNorm,
}

impl BeamOptions {
    /// A width, widths by level, or a whole [`Search`].
    pub fn new(search: impl Into<Search>, norm: ScoreNorm) -> Self {
        Self { search: search.into(), norm }
    }
}

/// A model and what its searches keep beside it: on a device the trie, and the sets of items that filters allow.
#[derive(Debug)]
pub struct Searcher<M> {
    model: M,
    on_device: OnDevice,
}

impl<M: NextCodeModel> Searcher<M> {
    /// A model that has not been asked yet.
    pub fn new(model: M) -> Self {
        Self { model, on_device: OnDevice::default() }
    }

    /// The model.
    pub fn model(&self) -> &M {
        &self.model
    }

    pub(crate) fn on_device(&self) -> &OnDevice {
        &self.on_device
    }

    /// As [`beam_search`]; where the model is on a device, the search stays there as far as it can.
    ///
    /// # Errors
    /// As [`beam_search`]; a device without memory for one request.
    pub fn search(&self, catalog: &Catalog, requests: &[Request<'_>], options: &BeamOptions) -> Result<Vec<Ranking>> {
        match self.model.on_device() {
            Some(model) if can_search(model.device(), catalog, &options.search) => {
                device_search(model, &self.on_device, catalog, requests, options)
            }
            _ => beam_search(&self.model, catalog, requests, options),
        }
    }

    /// Whether a search takes its levels from the host, so that it can stop between two of them.
    pub(crate) fn is_by_levels(&self, catalog: &Catalog, search: &Search) -> bool {
        !self.model.on_device().is_some_and(|model| can_search(model.device(), catalog, search))
    }
}

/// Searches for all requests on the host; the answer to request `i` is at place `i`.
///
/// Requests are taken in groups of [`NextCodeModel::requests_per_state`], and groups run side by side on rayon's
/// threads. The grouping does not depend on the number of threads, so neither do the results.
///
/// # Errors
/// A beam width of 0, or widths of another number of levels; a quota of 0; a model that does not fit the catalog; a
/// log-probability that is not finite, among those that are looked at.
pub fn beam_search<M: NextCodeModel>(
    model: &M,
    catalog: &Catalog,
    requests: &[Request<'_>],
    options: &BeamOptions,
) -> Result<Vec<Ranking>> {
    let setting = Setting::new(model, catalog, &options.search, options.norm)?;
    let answer = |requests: &[Request<'_>]| -> Result<Vec<Ranking>> {
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        let histories: Vec<&[u32]> = requests.iter().map(|request| request.history).collect();
        let filters: Vec<&LeafFilter> = requests.iter().map(|request| request.filter).collect();
        let mut group = GroupSearch::begin(&setting, &histories, &filters)?;
        while !group.is_done(&setting) {
            group.step(&setting)?;
        }
        Ok(group.finish(&setting))
    };
    let group = model.requests_per_state().max(1);
    if requests.len() <= group {
        return answer(requests);
    }
    let groups: Vec<Result<Vec<Ranking>>> = requests.par_chunks(group).map(answer).collect();
    let mut rankings = Vec::with_capacity(requests.len());
    for found in groups {
        rankings.extend(found?);
    }
    Ok(rankings)
}

/// Levels and codes of a model must be those of the catalog.
pub(crate) fn check_fit(vocab: &CodeVocab, catalog: &Catalog) -> Result<()> {
    if vocab.codes_per_level() == catalog.codes_per_level() {
        return Ok(());
    }
    let (ours, theirs) = (vocab.codes_per_level(), catalog.codes_per_level());
    let problem = format!("the generator writes {ours:?} codes per level, but the catalog has {theirs:?}");
    Err(CoreError::mismatch(problem, "use the catalog that the generator was trained on, or train it again").into())
}

/// A prefix that the search keeps: a node, its score, and how it came about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Beam {
    pub(crate) score: f32,
    pub(crate) node: Node,
    /// Place among the candidates of its level by semantic ID: that of its parent, then the code.
    pub(crate) order: u64,
    /// The model's row of the prefix before.
    pub(crate) parent: u32,
    /// The code written last.
    pub(crate) code: u16,
    /// The code written first: what a quota counts by.
    pub(crate) first: u16,
}

impl Beam {
    /// The prefix without codes.
    pub(crate) fn root(catalog: &Catalog) -> Self {
        Self { score: 0.0, node: catalog.root(), order: 0, parent: 0, code: 0, first: 0 }
    }
}

/// The place of each beam among all of them by semantic ID.
pub(crate) fn places(beams: &[Beam]) -> Vec<u32> {
    let mut by_order: Vec<usize> = (0..beams.len()).collect();
    by_order.sort_unstable_by_key(|&at| beams[at].order);
    let mut places = vec![0; beams.len()];
    (0..).zip(by_order).for_each(|(place, at)| places[at] = place);
    places
}

/// The log-probability of a code, which a damaged catalog can name beyond its level.
#[inline]
pub(crate) fn log_prob(level: usize, code: u16, log_probs: &[f32]) -> Result<f32> {
    log_probs.get(usize::from(code)).copied().ok_or_else(|| {
        let problem = format!("its trie has code {code} at level {level}, which has {} codes", log_probs.len());
        CoreError::input("catalog", problem, "look at it with `sidereal inspect --verify`, and build it again").into()
    })
}

/// The error for a model that answers NaN or infinity.
pub(crate) fn not_finite(level: usize, code: u16, score: f32) -> crate::Error {
    not_finite_at(&format!("the score of code {code} at level {level}"), score)
}

fn not_finite_at(which: &str, score: f32) -> crate::Error {
    let problem = format!("{which} is {score}, not a finite number");
    let mend = "the weights are damaged or the training diverged: load another checkpoint, or train with a lower \
                learning rate";
    CoreError::input("generator", problem, mend).into()
}

/// ln of the summed exponentials; minus infinity for none.
pub(crate) fn log_sum_exp(values: impl Iterator<Item = f32> + Clone) -> f32 {
    let max = values.clone().fold(f32::NEG_INFINITY, f32::max);
    if max == f32::NEG_INFINITY { max } else { max + values.map(|v| (v - max).exp()).sum::<f32>().ln() }
}
