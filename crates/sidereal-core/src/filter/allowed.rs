//! The items that a condition leaves, for all requests that name it.

use std::sync::Arc;

use super::{AliveSet, Bits};
use crate::catalog::Catalog;
use crate::item::ItemIndex;

/// The alive items of a set, and the prefixes above them. Made once, shared by many requests.
#[derive(Debug, Clone)]
pub struct Allowed {
    base: Arc<AliveSet>,
    /// Of the items that came while the catalog serves.
    delta: Option<Arc<AliveSet>>,
    version: String,
}

impl Allowed {
    /// A set of items of a catalog; removed ones, and numbers that it does not have, are left out.
    pub fn new(catalog: &Catalog, items: &Bits) -> Self {
        let base = match catalog.alive_set() {
            Some(alive) => AliveSet::new(catalog.segments().0, &alive.items().clone().and(items)),
            None => AliveSet::new(catalog.segments().0, items),
        };
        Self::with_base(catalog, Arc::new(base), |item| items.get(item))
    }

    /// The same condition for a catalog after this one: what was removed since goes, and later items are asked again.
    /// Costs what has changed, as long as both have the same base; otherwise all items are asked.
    pub fn follow(&self, catalog: &Catalog, matches: impl Fn(ItemIndex) -> bool) -> Self {
        match catalog.removed_since(&self.version) {
            Some(removed) => {
                let mut base = Arc::clone(&self.base);
                for &item in removed {
                    Arc::make_mut(&mut base).remove(catalog.segments().0, item);
                }
                Self::with_base(catalog, base, matches)
            }
            None => {
                let len = catalog.len() as u32;
                Self::new(catalog, &Bits::of(len, (0..len).filter(|&item| matches(item))))
            }
        }
    }

    fn with_base(catalog: &Catalog, base: Arc<AliveSet>, matches: impl Fn(ItemIndex) -> bool) -> Self {
        let (segment, delta) = catalog.segments();
        let first = segment.items();
        let delta = delta.map(|delta| {
            let there = (0..delta.items()).filter(|item| matches(first + item));
            Arc::new(AliveSet::new(delta, &Bits::of(delta.items(), there)))
        });
        Self { base, delta, version: catalog.version().to_owned() }
    }

    /// How many items are left.
    pub fn count(&self) -> usize {
        (self.base.count() + self.delta.as_ref().map_or(0, |delta| delta.count())) as usize
    }

    /// The version of the catalog whose items they are.
    pub fn version(&self) -> &str {
        &self.version
    }

    pub(super) fn base(&self) -> &Arc<AliveSet> {
        &self.base
    }

    pub(super) fn delta(&self) -> Option<&Arc<AliveSet>> {
        self.delta.as_ref()
    }
}
