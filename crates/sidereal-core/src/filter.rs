//! Which items one request may be answered with.
//!
//! A filter acts inside the search, never afterwards: a prefix below which no item is alive is not a candidate, so a
//! beam search still finds as many items as it was asked for. The search asks one thing, [`LeafFilter::alive`], and the
//! answer is one look at a bit and, where items are denied, a search in a short list:
//!
//! - *What is allowed* ([`Allowed`], from a list of items or from attributes) is a bit for every item, leaf and node. It
//!   is made once for a condition and shared by all requests that name it.
//! - *What is denied* (what a user has seen) belongs to one request. Few leaves die of it, and hardly a node above: these
//!   are listed for each depth, and the lists of the first depths are empty.

use std::borrow::Cow;
use std::sync::Arc;

use crate::catalog::segment::Segment;
use crate::catalog::{Catalog, Node};
use crate::error::{Error, Result};
use crate::item::ItemIndex;

mod alive;
mod allowed;
mod bits;

pub use alive::AliveSet;
pub use allowed::Allowed;
pub use bits::Bits;

/// What one request may be answered with.
#[derive(Debug, Clone, Default)]
pub struct LeafFilter {
    base: Part,
    delta: Part,
    /// Denied items, ascending.
    denied: Vec<ItemIndex>,
    /// Items of the base: later ones are behind them.
    base_items: Option<u32>,
    /// Items that are left, and that were before some were denied.
    left: (usize, usize),
    /// The catalog that it was made for; none for a filter that allows everything.
    version: Option<String>,
}

/// A filter as one segment sees it.
#[derive(Debug, Clone, Default)]
struct Part {
    /// None: all items.
    set: Option<Arc<AliveSet>>,
    /// Nodes of each depth that are alive in the set and die of the denied items, ascending. `[L + 1]`, or empty.
    dead: Vec<Vec<u32>>,
}

impl LeafFilter {
    /// Every item may be returned.
    pub fn allow_all() -> Self {
        Self::default()
    }

    /// The given items must not be returned; those that the catalog does not have are passed over.
    pub fn deny_items(catalog: &Catalog, items: &[ItemIndex]) -> Self {
        Self::of(catalog, None, items)
    }

    /// Only allowed items may be returned, and none of those that are denied.
    ///
    /// # Errors
    /// A condition that was evaluated for another version of the catalog.
    pub fn new(catalog: &Catalog, allowed: &Allowed, deny: &[ItemIndex]) -> Result<Self> {
        same_version(catalog, allowed.version())?;
        Ok(Self::of(catalog, Some(allowed), deny))
    }

    fn of(catalog: &Catalog, allowed: Option<&Allowed>, deny: &[ItemIndex]) -> Self {
        let mut denied: Vec<ItemIndex> = deny.iter().copied().filter(|&item| (item as usize) < catalog.len()).collect();
        denied.sort_unstable();
        denied.dedup();
        let (segment, delta) = catalog.segments();
        let base_items = segment.items();
        let (first, later) = denied.split_at(denied.partition_point(|&item| item < base_items));
        let later: Vec<ItemIndex> = later.iter().map(|item| item - base_items).collect();
        let base = Part::new(segment, allowed.map(Allowed::base).or_else(|| catalog.alive_set()).cloned(), first);
        let delta = match delta {
            Some(delta) => Part::new(delta, allowed.and_then(Allowed::delta).cloned(), &later),
            None => Part::default(),
        };
        let before = allowed.map_or_else(|| catalog.alive(), Allowed::count);
        let mut filter = Self {
            base,
            delta,
            denied: Vec::new(),
            base_items: Some(base_items),
            left: (before, before),
            version: None,
        };
        let gone = denied.iter().filter(|&&item| catalog.is_alive(item) && filter.item_alive(item)).count();
        filter.left.0 -= gone.min(before);
        Self { denied, version: Some(catalog.version().to_owned()), ..filter }
    }

    /// This filter, if it fits a catalog: one that allows everything fits each, and leaves out what was removed.
    ///
    /// # Errors
    /// A filter that was made for another version of the catalog.
    pub fn for_catalog(&self, catalog: &Catalog) -> Result<Cow<'_, Self>> {
        match &self.version {
            Some(version) => same_version(catalog, version).map(|()| Cow::Borrowed(self)),
            None if catalog.segments().1.is_none() => Ok(Cow::Borrowed(self)),
            None => Ok(Cow::Owned(Self::deny_items(catalog, &[]))),
        }
    }

    /// Whether an item below the prefix of `depth` codes may be returned.
    #[inline]
    pub fn alive(&self, depth: usize, node: Node) -> bool {
        node.base().is_some_and(|node| self.base.alive(depth, node))
            || node.delta().is_some_and(|node| self.delta.alive(depth, node))
    }

    /// Whether the item itself may be returned (a leaf may be alive though some of its items are not).
    #[inline]
    pub fn item_alive(&self, item: ItemIndex) -> bool {
        let (part, item_there) = match self.base_items.and_then(|base| item.checked_sub(base)) {
            Some(later) => (&self.delta, later),
            None => (&self.base, item),
        };
        part.set.as_ref().is_none_or(|set| set.item(item_there)) && self.denied.binary_search(&item).is_err()
    }

    /// What is allowed of the items that were built in; none: all of them. For a search that keeps the catalog elsewhere.
    pub fn allowed_of_base(&self) -> Option<&Arc<AliveSet>> {
        self.base.set.as_ref()
    }

    /// The nodes of [`Catalog::trie`] at a depth that are allowed and of whose allowed items all are denied, ascending.
    pub fn dead_of_base(&self, depth: usize) -> &[u32] {
        self.base.dead.get(depth).map_or(&[], Vec::as_slice)
    }

    /// Why nothing can be answered, if nothing can.
    pub fn why_nothing(&self) -> Option<String> {
        match (&self.version, self.left) {
            (None, _) | (_, (1.., _)) => None,
            (_, (0, 0)) => Some("no item of the catalog matches the filter".to_owned()),
            (_, (0, n)) => Some(format!("all {n} items that match the filter are denied")),
        }
    }
}

impl Part {
    fn new(segment: &Segment, set: Option<Arc<AliveSet>>, denied: &[u32]) -> Self {
        let dead = dead_nodes(segment, set.as_deref(), denied);
        Self { set, dead }
    }

    #[inline]
    fn alive(&self, depth: usize, node: u32) -> bool {
        self.set.as_ref().is_none_or(|set| set.node(depth, node))
            && self.dead.get(depth).is_none_or(|dead| dead.binary_search(&node).is_err())
    }
}

/// The nodes of each depth whose items are all denied or outside the set, and not all outside it.
fn dead_nodes(segment: &Segment, set: Option<&AliveSet>, denied: &[u32]) -> Vec<Vec<u32>> {
    let in_set = |item: &u32| set.is_none_or(|set| set.item(*item));
    let mut leaves: Vec<u32> =
        denied.iter().filter(|item| in_set(item)).filter_map(|&item| segment.leaf_of(item)).collect();
    leaves.sort_unstable();
    leaves.dedup();
    leaves
        .retain(|&leaf| segment.postings(leaf).iter().all(|item| !in_set(item) || denied.binary_search(item).is_ok()));
    if leaves.is_empty() {
        return Vec::new();
    }
    let trie = segment.trie();
    let mut dead = vec![Vec::new(); trie.levels() + 1];
    dead[trie.levels()] = leaves;
    for depth in (1..=trie.levels()).rev() {
        let mut parents = Vec::new();
        let mut parent = 0;
        let mut rest = dead[depth].as_slice();
        while let Some(&first) = rest.first() {
            parent = trie.parent_from(depth, first, parent);
            let children = trie.children(depth - 1, parent).0;
            // At least the node itself, also where a damaged file denies that it is its parent's child.
            let siblings = rest.partition_point(|&node| node < children.end).max(1);
            let alive = set.map_or(children.len() as u32, |set| set.count_in(depth, children));
            if siblings as u32 >= alive {
                parents.push(parent);
            }
            rest = &rest[siblings..];
        }
        if parents.is_empty() {
            break;
        }
        dead[depth - 1] = parents;
    }
    dead
}

fn same_version(catalog: &Catalog, version: &str) -> Result<()> {
    if catalog.version() == version {
        return Ok(());
    }
    let problem = format!("a filter of catalog {version} cannot be used with catalog {}", catalog.version());
    Err(Error::mismatch(problem, "make the filter from the catalog that is searched"))
}
