//! A catalog that changes while it serves.
//!
//! What was built (the *base*) stays as it is. Items that come stand in a second, small segment behind it, which is copied
//! with each change; items that go lose their bit, and so do the nodes that have no other item. A search walks both
//! segments together ([`Catalog::children`]). Each change gives a new [`Catalog`] that shares almost everything with the
//! one before: requests keep the one that they began with, and its version names it in their answers.
//!
//! There are no threads and no locks here: whoever serves owns one [`LiveCatalog`], applies changes in order, and hands
//! out [`LiveCatalog::now`]. When the delta has grown, [`Catalog::merged`] makes a new base from any snapshot, on any
//! thread, and [`LiveCatalog::install`] puts it under what has changed since.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use super::life::{Change, joined};
use super::segment::{Segment, SegmentBuilder};
use super::{Catalog, Header};
use crate::error::{Error, Result};
use crate::filter::{AliveSet, Bits};
use crate::item::{ItemId, ItemIndex};
use crate::trie::build::visit_sorted;

/// Where a later semantic ID is not in the base.
const NO_TWIN: u32 = u32::MAX;
/// Versions that can be gone back to.
pub const MAX_KEPT: usize = 8;

/// What has changed since the base was built.
#[derive(Debug, Clone)]
pub(super) struct Live {
    /// Items that came, numbered from 0.
    pub(super) delta: Segment,
    pub(super) ids: Vec<Arc<str>>,
    /// What is left of the base; none where nothing of it was removed.
    pub(super) alive: Option<Arc<AliveSet>>,
    /// Items of the base in the order of their removal.
    removed: Vec<ItemIndex>,
    pub(super) version: Arc<str>,
    /// The number of each change since the base, and how many of `removed` there were after it.
    log: Vec<(Arc<str>, usize)>,
    /// The base's leaf of the same semantic ID, for each later item.
    twins: Vec<u32>,
    /// The delta's leaf of such a leaf.
    by_twin: HashMap<u32, u32>,
}

impl Live {
    /// The leaf of a later item, in the numbers of [`Catalog::leaf`].
    pub(super) fn leaf_of(&self, later: u32, base_leaves: u32) -> Option<u32> {
        let leaf = self.delta.leaf_of(later)?;
        match self.twins.get(later as usize) {
            Some(&twin) if twin != NO_TWIN => Some(twin),
            _ => Some(base_leaves + leaf),
        }
    }

    /// Later items of a leaf in the numbers of [`Catalog::leaf`].
    pub(super) fn items_of(&self, leaf: u32, base_leaves: u32) -> &[u32] {
        let there = leaf.checked_sub(base_leaves).or_else(|| self.by_twin.get(&leaf).copied());
        there.map_or(&[], |leaf| self.delta.postings(leaf))
    }
}

impl Catalog {
    /// The base, and what came later.
    pub(crate) fn segments(&self) -> (&Segment, Option<&Segment>) {
        (&self.base, self.live.as_ref().map(|live| &live.delta))
    }

    /// Items of the base that were removed since a version; none where that version has another base.
    pub(crate) fn removed_since(&self, version: &str) -> Option<&[ItemIndex]> {
        let Some(live) = &self.live else { return (version == self.version).then_some(&[]) };
        let from = match version == self.version {
            true => 0,
            false => live.log.iter().rev().find(|(then, _)| **then == *version)?.1,
        };
        live.removed.get(from..)
    }

    /// How many items came and went since the base was built: what a merge would take in.
    pub fn changes_since_base(&self) -> usize {
        self.live.as_ref().map_or(0, |live| live.delta.items() as usize + live.removed.len())
    }

    /// A catalog of the same items, all built in. Its parent is the base of this one.
    ///
    /// # Errors
    /// No item is left; a catalog that has changed too often.
    pub fn merged(&self) -> Result<Self> {
        let Some(live) = &self.live else { return Ok(self.clone()) };
        let items = self.len() as u32;
        let header = Header { items, life: Some(self.next_life()?), ..self.header.clone() };
        let first = self.header.items;
        let come = (0..live.delta.items()).filter(|&later| live.delta.leaf_of(later).is_some());
        let come = come.map(|later| first + later).collect();
        self.next(header, self.codes().into_owned(), come, |item| self.is_alive(item), self.ids())
    }
}

/// Changes that are made together.
#[derive(Debug, Default)]
struct Joint<'a> {
    add: Vec<&'a ItemId>,
    /// Codes of the items to add, `[M, L]`.
    codes: Vec<u16>,
    remove: Vec<ItemIndex>,
    /// Ids of `add`, and items of `remove`.
    new: HashSet<&'a str>,
    gone: HashSet<ItemIndex>,
}

impl Joint<'_> {
    fn is_empty(&self) -> bool {
        self.add.is_empty() && self.remove.is_empty()
    }
}

/// The catalog that serves, and those that served before.
#[derive(Debug)]
pub struct LiveCatalog {
    now: Arc<Catalog>,
    /// Every id that there ever was: none comes back.
    by_id: HashMap<Box<str>, ItemIndex>,
    number: u64,
    kept: VecDeque<Arc<Catalog>>,
}

impl LiveCatalog {
    /// Begins with a catalog as it was built.
    ///
    /// # Errors
    /// No item is left in a catalog that has changed already.
    pub fn new(base: &Catalog) -> Result<Self> {
        let base = base.merged()?;
        let by_id = base.ids().map(Box::from).zip(0..).collect();
        Ok(Self { now: Arc::new(base), by_id, number: 0, kept: VecDeque::new() })
    }

    /// The catalog for requests that begin now.
    pub fn now(&self) -> Arc<Catalog> {
        Arc::clone(&self.now)
    }

    /// The item of an id, removed ones included.
    pub fn item(&self, id: &str) -> Option<ItemIndex> {
        self.by_id.get(id).copied()
    }

    /// Adds and removes items, all or none of them. To replace an item is to remove it and to add another in one change:
    /// no answer has both or neither.
    ///
    /// A removed item does not come back, and neither does its id: whatever was stored of it would mean something else.
    ///
    /// # Errors
    /// A new item whose id there is or was; an item to remove that is not there; codes that do not fit; a change that
    /// restores items, or changes nothing.
    pub fn apply(&mut self, change: &Change<'_>) -> Result<Arc<Catalog>> {
        self.apply_each(std::slice::from_ref(change)).into_iter().collect::<Result<()>>()?;
        Ok(self.now())
    }

    /// Changes one after another, each as by [`LiveCatalog::apply`], but with one new version for all that can be made: a
    /// version costs a copy of all that has changed since the base, so that many small changes should come together.
    /// Where none can be made the version stays.
    ///
    /// What of each came out is at its place: a change that cannot be made does not touch the others.
    pub fn apply_each(&mut self, changes: &[Change<'_>]) -> Vec<Result<()>> {
        let mut joint = Joint::default();
        let results: Vec<Result<()>> = changes.iter().map(|change| self.join(change, &mut joint)).collect();
        if !joint.is_empty() {
            self.number += 1;
            let next = Arc::new(changed(&self.now, &joint, self.number));
            let new = joint.add.iter().map(|id| Box::from(id.as_str()));
            self.by_id.extend(new.zip(self.now.len() as u32..));
            self.keep();
            self.now = next;
        }
        results
    }

    /// Checks a change behind those that are there, and puts it with them.
    fn join<'a>(&self, change: &Change<'a>, joint: &mut Joint<'a>) -> Result<()> {
        let now = &self.now;
        now.check_codes_of(change)?;
        if !change.restore.is_empty() {
            let mend = "add it under another id, or go back to a version before";
            return Err(Error::input("items to restore", "a removed item does not come back while serving", mend));
        }
        if change.add.is_empty() && change.remove.is_empty() {
            return Err(Error::input("catalog", "there is nothing to change", "name items to add or to remove"));
        }
        now.check_states(change)?;
        if let Some(&item) = change.remove.iter().find(|item| joint.gone.contains(item)) {
            let problem = format!("item {:?} is removed by a change before", now.item_id(item));
            return Err(Error::input("items to remove", problem, "leave it out"));
        }
        let mut seen = HashSet::with_capacity(change.add.len());
        let mut taken = |id: &'a str| self.by_id.contains_key(id) || joint.new.contains(id) || !seen.insert(id);
        if let Some(id) = change.add.iter().map(ItemId::as_str).find(|id| taken(id)) {
            let problem = format!("the id {id:?} of a new item is or was another's");
            return Err(Error::input("items", problem, "give it an id that no item has had"));
        }
        if now.len() + joint.add.len() + change.add.len() >= super::NO_LEAF as usize {
            return Err(Error::input("catalog", "more items than a 32-bit number counts", "split the catalog"));
        }
        joint.new.extend(seen);
        joint.gone.extend(change.remove);
        joint.add.extend(change.add);
        joint.codes.extend(change.add_ids.iter().flat_map(|sids| sids.codes()));
        joint.remove.extend(change.remove);
        Ok(())
    }

    /// Puts a merged snapshot ([`Catalog::merged`]) under what has changed since it was taken.
    ///
    /// # Errors
    /// A catalog that is no merge of a version of this one.
    pub fn install(&mut self, merged: Catalog) -> Result<Arc<Catalog>> {
        let now = &self.now;
        let ours = |item: ItemIndex| {
            merged.item_id(item) == now.item_id(item) && merged.semantic_id(item) == now.semantic_id(item)
        };
        let (first, next) = (now.header.items, merged.len());
        let fits = merged.live.is_none()
            && merged.parent() == Some(&now.version)
            && merged.codes_per_level() == now.codes_per_level()
            && (first as usize..=now.len()).contains(&next)
            && (first..next as u32).all(ours)
            && (0..next as u32).all(|item| merged.is_alive(item) || !now.is_alive(item));
        if !fits {
            let problem = format!("catalog {} was not merged from catalog {}", merged.version(), now.version());
            return Err(Error::mismatch(problem, "merge a version that serves now"));
        }
        let first = merged.len();
        let levels = now.levels();
        let remove: Vec<ItemIndex> =
            (0..first as u32).filter(|&item| merged.is_alive(item) && !now.is_alive(item)).collect();
        let ids: Vec<ItemId> = (first as u32..now.len() as u32).map(|item| now.item_id(item).into()).collect();
        let codes = now.codes().get(first * levels..).unwrap_or(&[]).to_vec();
        let gone: Vec<ItemIndex> = (first as u32..now.len() as u32).filter(|&item| !now.is_alive(item)).collect();
        let mut next = Arc::new(merged);
        if !ids.is_empty() || !remove.is_empty() {
            self.number += 1;
            let remove = remove.into_iter().chain(gone).collect();
            let joint = Joint { add: ids.iter().collect(), codes, remove, ..Joint::default() };
            next = Arc::new(changed(&next, &joint, self.number));
        }
        self.keep();
        self.now = next;
        Ok(self.now())
    }

    /// Versions that can be gone back to, oldest first.
    pub fn kept(&self) -> impl Iterator<Item = &str> {
        self.kept.iter().map(|catalog| catalog.version())
    }

    /// Goes back to a version, with everything that was changed since undone.
    ///
    /// # Errors
    /// A version that is not kept.
    pub fn roll_back(&mut self, version: &str) -> Result<Arc<Catalog>> {
        let Some(at) = self.kept.iter().position(|catalog| catalog.version() == version) else {
            let kept: Vec<&str> = self.kept().collect();
            let problem = format!("version {version} is not kept (there are: {})", kept.join(", "));
            return Err(Error::input("catalog", problem, "name one of these, or load the catalog from its folder"));
        };
        let back = Arc::clone(&self.kept[at]);
        self.keep();
        // What came after that version is forgotten, and its ids are free.
        self.by_id = back.ids().map(Box::from).zip(0..).collect();
        self.now = back;
        Ok(self.now())
    }

    fn keep(&mut self) {
        if self.kept.len() >= MAX_KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(Arc::clone(&self.now));
    }
}

/// The catalog after changes that were checked. What was there is copied or kept in order, not made anew: the cost is that
/// of copying the delta and the bits of the base.
fn changed(now: &Catalog, joint: &Joint<'_>, number: u64) -> Catalog {
    let (first, levels) = (now.header.items, now.levels());
    let before = now.live.as_deref();
    let mut codes: Vec<u16> = before.map_or(Vec::new(), |live| live.delta.codes.to_vec());
    let new_from = (codes.len() / levels) as u32;
    codes.extend(&joint.codes);
    let mut ids = before.map_or(Vec::new(), |live| live.ids.clone());
    ids.extend(joint.add.iter().map(|id| Arc::from(id.as_str())));
    let mut alive = before.and_then(|live| live.alive.clone());
    let mut removed = before.map_or(Vec::new(), |live| live.removed.clone());
    let (mut gone, mut later_gone) = (Vec::new(), HashSet::new());
    for &item in &joint.remove {
        match item.checked_sub(first) {
            None => gone.push(item),
            Some(later) => _ = later_gone.insert(later),
        }
    }
    if !gone.is_empty() {
        let all = || Arc::new(AliveSet::new(&now.base, &Bits::all(first)));
        let alive = Arc::make_mut(alive.get_or_insert_with(all));
        gone.iter().for_each(|&item| alive.remove(&now.base, item));
        removed.extend(gone);
    }
    let stay = before.map_or(&[][..], |live| &live.delta.postings);
    let stay = stay.iter().copied().filter(|later| !later_gone.contains(later));
    let come = (new_from..ids.len() as u32).filter(|later| !later_gone.contains(later)).collect();
    let order = joined(levels, &codes, stay, come);
    let mut twins = before.map_or(Vec::new(), |live| live.twins.clone());
    twins.extend(joint.codes.chunks_exact(levels).map(|codes| now.base.trie().find(codes).unwrap_or(NO_TWIN)));
    let mut builder = SegmentBuilder::new(now.codes_per_level(), ids.len() as u32, order.len());
    visit_sorted(levels, &codes, &order, &mut builder);
    let delta = builder.finish(codes.into());
    let twin_leaf = |&later: &u32| Some((*twins.get(later as usize)?, delta.leaf_of(later)?));
    let by_twin = order.iter().filter_map(twin_leaf).filter(|(twin, _)| *twin != NO_TWIN).collect();
    let version: Arc<str> = format!("{}+{number}", now.version).into();
    let mut log = before.map_or(Vec::new(), |live| live.log.clone());
    log.push((Arc::clone(&version), removed.len()));
    if log.len() > MAX_LOG {
        log.drain(..log.len() - MAX_LOG);
    }
    let live = Live { delta, ids, alive, removed, version, log, twins, by_twin };
    Catalog { live: Some(Arc::new(live)), ..now.clone() }
}

/// Changes that a set of allowed items can be brought up to date over.
const MAX_LOG: usize = 256;
