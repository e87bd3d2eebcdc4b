//! The trie and the sets of allowed items on a device, and how long they stay there.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use candle_core::{Device, Tensor};
use sidereal_core::filter::AliveSet;
use sidereal_core::trie::Codes;
use sidereal_core::{Catalog, Error as CoreError};

use super::places::Places;
use crate::Result;

/// Catalog versions that stay on a device: the one that serves, and the one before for what is under way.
const KEPT_TRIES: usize = 2;
/// Sets of allowed items that stay on a device.
const KEPT_SETS: usize = 32;

/// A catalog's trie on a device.
#[derive(Debug)]
pub(crate) struct DeviceTrie {
    version: String,
    pub(crate) depths: Vec<DeviceDepth>,
}

/// The nodes of one depth and their edges to the next.
#[derive(Debug)]
pub(crate) struct DeviceDepth {
    pub(crate) first_edge: Tensor, // u32 [nodes]
    pub(crate) end_edge: Tensor,   // u32 [nodes]
    pub(crate) code: Tensor,       // u8 or u32 [edges]
    pub(crate) edges: usize,
    /// The most children that a node has.
    pub(crate) most: usize,
}

impl DeviceTrie {
    fn new(catalog: &Catalog, device: &Device) -> Result<Self> {
        let trie = catalog.trie();
        // A device looks where a number says, so a damaged file is found here.
        let mend = "look at it with `sidereal inspect --verify`, and build it again";
        let damaged = |problem: String| CoreError::input("catalog", problem, mend);
        trie.verify(catalog.codes_per_level()).map_err(damaged)?;
        let depth = |depth: usize| {
            let (first, codes) = trie.edges(depth).ok_or_else(|| damaged(format!("its trie has no depth {depth}")))?;
            let (nodes, edges) = (first.len() - 1, codes.len());
            let most = first.windows(2).map(|pair| (pair[1] - pair[0]) as usize).max().unwrap_or(0);
            let starts = Tensor::from_slice(first, nodes + 1, device)?;
            let code = match codes {
                Codes::Bytes(codes) => Tensor::from_slice(codes, edges, device)?,
                codes => Tensor::from_vec(codes.iter().map(u32::from).collect(), edges, device)?,
            };
            let (first_edge, end_edge) = (starts.narrow(0, 0, nodes)?, starts.narrow(0, 1, nodes)?);
            Ok::<_, crate::Error>(DeviceDepth { first_edge, end_edge, code, edges, most })
        };
        let depths = (0..catalog.levels()).map(depth).collect::<Result<_>>()?;
        Ok(Self { version: catalog.version().to_owned(), depths })
    }
}

/// A set of allowed items on a device: whether each node of depths 1 to L is alive, u8 `[nodes]`.
#[derive(Debug)]
pub(crate) struct DeviceSet {
    of: Weak<AliveSet>,
    pub(crate) nodes: Vec<Tensor>,
}

impl DeviceSet {
    fn new(set: &Arc<AliveSet>, catalog: &Catalog, device: &Device) -> Result<Self> {
        let nodes = (1..=catalog.levels()).map(|depth| {
            let mut alive = vec![0u8; catalog.trie().nodes(depth)];
            let bits = set.nodes(depth).into_iter().flat_map(|bits| bits.iter());
            bits.for_each(|node| alive[node as usize] = 1);
            let count = alive.len();
            Ok(Tensor::from_vec(alive, count, device)?)
        });
        Ok(Self { of: Arc::downgrade(set), nodes: nodes.collect::<Result<_>>()? })
    }
}

/// What a ranker keeps of catalogs and filters on its device, the most recently asked for last.
#[derive(Debug, Default)]
pub(crate) struct OnDevice {
    tries: Mutex<Vec<Arc<DeviceTrie>>>,
    sets: Mutex<Vec<Arc<DeviceSet>>>,
    pub(crate) places: Places,
}

impl OnDevice {
    /// The trie of a catalog, copied the first time.
    pub(crate) fn trie(&self, catalog: &Catalog, device: &Device) -> Result<Arc<DeviceTrie>> {
        let is_it = |trie: &Arc<DeviceTrie>| trie.version == catalog.version();
        kept(&self.tries, KEPT_TRIES, is_it, |_| true, || DeviceTrie::new(catalog, device))
    }

    /// A set of allowed items, copied the first time.
    pub(crate) fn set(&self, set: &Arc<AliveSet>, catalog: &Catalog, device: &Device) -> Result<Arc<DeviceSet>> {
        let is_it = |found: &Arc<DeviceSet>| std::ptr::eq(found.of.as_ptr(), Arc::as_ptr(set));
        // What nobody asks with any more goes: another set may come to lie at its place.
        let in_use = |found: &Arc<DeviceSet>| found.of.strong_count() > 0;
        kept(&self.sets, KEPT_SETS, is_it, in_use, || DeviceSet::new(set, catalog, device))
    }
}

fn kept<T>(
    list: &Mutex<Vec<Arc<T>>>,
    most: usize,
    is_it: impl Fn(&Arc<T>) -> bool,
    in_use: impl Fn(&Arc<T>) -> bool,
    make: impl FnOnce() -> Result<T>,
) -> Result<Arc<T>> {
    // Whoever panicked while holding the lock left a whole list behind: it changes in single steps.
    let mut list = list.lock().unwrap_or_else(PoisonError::into_inner);
    list.retain(&in_use);
    let found = match list.iter().position(&is_it) {
        Some(at) => list.remove(at),
        None => Arc::new(make()?),
    };
    list.push(Arc::clone(&found));
    let surplus = list.len().saturating_sub(most);
    list.drain(..surplus);
    Ok(found)
}
