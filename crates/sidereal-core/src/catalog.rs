//! The catalog: which item has which semantic ID, and the trie of all of them.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::array_file::{Array, ArrayFile, Column, Entry, write_arrays};
use crate::artifact::sha256_bytes;
use crate::collision::{CollisionPolicy, add_suffix};
use crate::error::{Error, Result};
use crate::item::{ItemId, ItemIndex};
use crate::semantic_id::SemanticIds;
use crate::trie::Trie;

mod diff;
mod life;

pub use diff::{Diff, MapRow, Motion, diff};
pub use life::Change;

use life::Life;

/// Where `leaf_of` says that an item was removed.
const NO_LEAF: u32 = u32::MAX;

/// File name of a catalog inside its folder.
pub const FILE: &str = "catalog.safetensors";

/// Items, their semantic IDs, the leaves that hold them, and the trie over the leaves. Memory-mapped when opened.
///
/// A leaf is a distinct semantic ID; its *postings* are the items that share it, ordered by the prior (training
/// popularity) and then by item. That order is part of the result: items of one leaf get one score.
///
/// An item's index and semantic ID never change. A catalog that has lived ([`Catalog::change`]) lists removed items too:
/// they keep their codes, for the histories that name them, but have no leaf, so no ranking can hold them.
#[derive(Debug, Clone)]
pub struct Catalog {
    header: Header,
    trie: Trie,
    codes: Column<u16>,          // [N, L]
    leaf_of: Column<u32>,        // [N], NO_LEAF for a removed item
    postings_start: Column<u32>, // [leaves + 1]
    postings: Column<u32>,       // [alive items]
    id_start: Column<u64>,       // [N + 1]
    id_bytes: Column<u8>,
    version: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    items: u32,
    codes_per_level: Vec<u32>,
    policy: CollisionPolicy,
    /// Levels that the tokenizer wrote; one fewer than all with the suffix policy.
    tokenizer_levels: usize,
    /// How it came from catalogs before it; absent where it was built.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    life: Option<Life>,
}

impl Catalog {
    /// Joins items and semantic IDs.
    ///
    /// `prior` orders the items of one leaf, larger first. With [`CollisionPolicy::Suffix`] a level of as many codes as
    /// the last level has is added.
    ///
    /// # Shapes
    /// `ids`: `[N]`; `sids`: [N, L]; `codes_per_level`: `[L]`; `prior`: `[N]`
    ///
    /// # Errors
    /// Lengths that differ, a code beyond its level, no items, suffix overflow.
    pub fn build(
        ids: &[ItemId],
        sids: &SemanticIds,
        codes_per_level: &[u32],
        policy: CollisionPolicy,
        prior: Option<&[u32]>,
    ) -> Result<Self> {
        if ids.len() != sids.len() || prior.is_some_and(|p| p.len() != ids.len()) {
            let problem = format!("{} items but {} semantic IDs", ids.len(), sids.len());
            return Err(Error::mismatch(problem, "encode the embeddings of exactly these items"));
        }
        if ids.is_empty() {
            return Err(Error::input("items", "there are none", "give at least one item"));
        }
        sids.check_codes(codes_per_level)?;
        let tokenizer_levels = sids.levels();
        let mut codes_per_level = codes_per_level.to_vec();
        let with_suffix;
        let sids = match policy {
            CollisionPolicy::Suffix => {
                let suffix_codes = codes_per_level.last().copied().unwrap_or(1);
                with_suffix = add_suffix(ids, sids, suffix_codes)?;
                codes_per_level.push(suffix_codes);
                &with_suffix
            }
            // Repaired semantic IDs come in repaired; what still collides shares a leaf.
            _ => sids,
        };
        let prior_of = |item: u32| prior.map_or(0, |p| p[item as usize]);
        let mut order: Vec<u32> = (0..ids.len() as u32).collect();
        order.sort_unstable_by(|&a, &b| {
            let (row_a, row_b) = (sids.row(a as usize), sids.row(b as usize));
            row_a.cmp(row_b).then(prior_of(b).cmp(&prior_of(a))).then(a.cmp(&b))
        });
        let header = Header { items: ids.len() as u32, codes_per_level, policy, tokenizer_levels, life: None };
        let mut id_start = vec![0u64];
        let mut id_bytes = Vec::new();
        for id in ids {
            id_bytes.extend_from_slice(id.as_str().as_bytes());
            id_start.push(id_bytes.len() as u64);
        }
        Self::assemble(header, sids.codes().to_vec(), order, id_start, id_bytes)
    }

    /// Makes leaves and trie of the alive items, which come sorted by semantic ID and then in the order of postings.
    ///
    /// # Shapes
    /// `codes`: [N, L]; `order`: [alive items]; `id_start`: [N + 1]
    fn assemble(
        header: Header,
        codes: Vec<u16>,
        order: Vec<ItemIndex>,
        id_start: Vec<u64>,
        id_bytes: Vec<u8>,
    ) -> Result<Self> {
        let levels = header.codes_per_level.len();
        let row = |item: ItemIndex| &codes[item as usize * levels..][..levels];
        let mut distinct: Vec<u16> = Vec::new();
        let mut postings_start = Vec::new();
        let mut leaf_of = vec![NO_LEAF; header.items as usize];
        for (at, &item) in order.iter().enumerate() {
            if at == 0 || row(item) != row(order[at - 1]) {
                postings_start.push(at as u32);
                distinct.extend_from_slice(row(item));
            }
            leaf_of[item as usize] = postings_start.len() as u32 - 1;
        }
        postings_start.push(order.len() as u32);
        let trie = Trie::from_sorted(&SemanticIds::new(levels, distinct)?)?;
        let mut catalog = Self {
            header,
            trie,
            codes: codes.into(),
            leaf_of: leaf_of.into(),
            postings_start: postings_start.into(),
            postings: order.into(),
            id_start: id_start.into(),
            id_bytes: id_bytes.into(),
            version: String::new(),
        };
        catalog.version = catalog.content_version();
        Ok(catalog)
    }

    /// N, removed items included: every item index below it is one.
    pub fn len(&self) -> usize {
        self.header.items as usize
    }

    /// Never: a catalog has an item.
    pub fn is_empty(&self) -> bool {
        self.header.items == 0
    }

    /// How many items are not removed.
    pub fn alive(&self) -> usize {
        self.postings.len()
    }

    /// Whether an item is not removed.
    ///
    /// # Panics
    /// If there is no such item.
    #[inline]
    pub fn is_alive(&self, item: ItemIndex) -> bool {
        self.leaf_of[item as usize] != NO_LEAF
    }

    /// L, the suffix level included.
    pub fn levels(&self) -> usize {
        self.header.codes_per_level.len()
    }

    /// K of every level, `[L]`.
    pub fn codes_per_level(&self) -> &[u32] {
        &self.header.codes_per_level
    }

    /// How collisions were handled.
    pub fn policy(&self) -> CollisionPolicy {
        self.header.policy
    }

    /// Levels that the tokenizer wrote, without the suffix.
    pub fn tokenizer_levels(&self) -> usize {
        self.header.tokenizer_levels
    }

    /// The prefix trie over the distinct semantic IDs.
    pub fn trie(&self) -> &Trie {
        &self.trie
    }

    /// The items of a leaf, in ranking order.
    ///
    /// # Panics
    /// If there is no such leaf; so for the accessors below with items.
    #[inline]
    pub fn postings(&self, leaf: u32) -> &[ItemIndex] {
        &self.postings[self.postings_start[leaf as usize] as usize..self.postings_start[leaf as usize + 1] as usize]
    }

    /// The leaf that holds an item; none for a removed one.
    #[inline]
    pub fn leaf_of(&self, item: ItemIndex) -> Option<u32> {
        Some(self.leaf_of[item as usize]).filter(|&leaf| leaf != NO_LEAF)
    }

    /// An item's semantic ID, `[L]`; a removed item keeps its own.
    #[inline]
    pub fn semantic_id(&self, item: ItemIndex) -> &[u16] {
        let levels = self.levels();
        &self.codes[item as usize * levels..(item as usize + 1) * levels]
    }

    /// All semantic IDs, [N, L].
    ///
    /// # Errors
    /// Never for a catalog that was built or opened.
    pub fn semantic_ids(&self) -> Result<SemanticIds> {
        SemanticIds::new(self.levels(), self.codes.to_vec())
    }

    /// The semantic IDs without the suffix level, [N, tokenizer levels].
    ///
    /// # Errors
    /// Never for a catalog that was built or opened.
    pub fn tokenizer_semantic_ids(&self) -> Result<SemanticIds> {
        let levels = self.header.tokenizer_levels;
        SemanticIds::new(
            levels,
            self.codes.chunks_exact(self.levels()).flat_map(|row| &row[..levels]).copied().collect(),
        )
    }

    /// The user's id of an item.
    pub fn item_id(&self, item: ItemIndex) -> &str {
        let range = self.id_start[item as usize] as usize..self.id_start[item as usize + 1] as usize;
        // Checked once when the catalog was opened.
        std::str::from_utf8(&self.id_bytes[range]).unwrap_or_default()
    }

    /// A hash of the content: items, semantic IDs, order of postings.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Writes the catalog into a folder.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn save(&self, dir: &Path) -> Result<()> {
        let mut entries = vec![
            Entry::shaped("codes", &[self.len(), self.levels()], Array::U16(&self.codes)),
            Entry::flat("leaf_of", Array::U32(&self.leaf_of)),
            Entry::flat("postings_start", Array::U32(&self.postings_start)),
            Entry::flat("postings", Array::U32(&self.postings)),
            Entry::flat("id_start", Array::U64(&self.id_start)),
            Entry::flat("id_bytes", Array::U8(&self.id_bytes)),
        ];
        entries.extend(self.trie.entries());
        let header = serde_json::to_string(&self.header).unwrap_or_default();
        let metadata = BTreeMap::from([("catalog".to_owned(), header), ("version".to_owned(), self.version.clone())]);
        write_arrays(&dir.join(FILE), &entries, &metadata)
    }

    /// Opens a catalog, memory-mapped.
    ///
    /// # Errors
    /// A file that is missing, damaged, or not a catalog.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join(FILE);
        let file = ArrayFile::open(&path)?;
        let bad = |problem: String| Error::artifact(&path, problem, "build the catalog again");
        let text = file.metadata("catalog").ok_or_else(|| bad("this is not a catalog".to_owned()))?;
        life::check_format(text).map_err(bad)?;
        let header: Header = serde_json::from_str(text).map_err(|e| bad(format!("its header: {e}")))?;
        let (n, levels) = (header.items as usize, header.codes_per_level.len());
        if n == 0 || levels == 0 || header.tokenizer_levels == 0 || header.tokenizer_levels > levels {
            return Err(bad("its header names no items or levels".to_owned()));
        }
        if header.life.as_ref().is_some_and(|life| !life.is_sound(header.items)) {
            return Err(bad("its header contradicts itself about earlier versions".to_owned()));
        }
        let postings_start: Column<u32> = file.column("postings_start")?;
        let leaves = (postings_start.len() as u32).saturating_sub(1);
        let catalog = Self {
            trie: Trie::open(&file, levels, leaves)?,
            codes: file.column("codes")?,
            leaf_of: file.column("leaf_of")?,
            postings_start,
            postings: file.column("postings")?,
            id_start: file.column("id_start")?,
            id_bytes: file.column("id_bytes")?,
            version: file.metadata("version").unwrap_or_default().to_owned(),
            header,
        };
        catalog.check(leaves).map_err(bad)?;
        Ok(catalog)
    }

    fn check(&self, leaves: u32) -> Result<(), String> {
        let n = self.len();
        if file_lengths_differ(self, n) {
            return Err("its arrays have other lengths than its header says".to_owned());
        }
        let ids_sound = self.id_start.windows(2).all(|w| w[0] <= w[1])
            && self.id_start.last() == Some(&(self.id_bytes.len() as u64))
            && std::str::from_utf8(&self.id_bytes)
                .is_ok_and(|text| self.id_start.iter().all(|&at| text.is_char_boundary(at as usize)));
        if !ids_sound {
            return Err("its item ids are damaged".to_owned());
        }
        let starts_sound = self.postings_start.first() == Some(&0)
            && self.postings_start.last() == Some(&(self.postings.len() as u32))
            && self.postings_start.windows(2).all(|w| w[0] < w[1]);
        let alive = self.leaf_of.iter().filter(|&&leaf| leaf != NO_LEAF).count();
        let postings_sound = starts_sound
            && alive == self.postings.len()
            && self.postings.iter().all(|&item| (item as usize) < n)
            && (0..leaves).all(|leaf| self.postings(leaf).iter().all(|&item| self.leaf_of[item as usize] == leaf));
        if !postings_sound {
            return Err("its postings are damaged".to_owned());
        }
        // A catalog that was only built has removed nothing.
        if self.header.life.is_none() && alive != n {
            return Err("its postings do not list every item".to_owned());
        }
        let leads_here = |leaf: u32| self.trie.find(self.semantic_id(self.postings(leaf)[0])) == Some(leaf);
        if !(0..leaves).all(leads_here) {
            return Err("its trie and its semantic IDs disagree".to_owned());
        }
        if self.version != self.content_version() {
            return Err("its content does not have the version that it names".to_owned());
        }
        Ok(())
    }

    fn content_version(&self) -> String {
        let header = serde_json::to_string(&self.header).unwrap_or_default();
        let parts = [
            header.as_bytes(),
            bytemuck::cast_slice(&self.codes),
            bytemuck::cast_slice(&self.postings),
            bytemuck::cast_slice(&self.id_start),
            &self.id_bytes,
        ];
        let hashes: String = parts.iter().map(|part| sha256_bytes(part)).collect();
        sha256_bytes(hashes.as_bytes())[..16].to_owned()
    }
}

fn file_lengths_differ(c: &Catalog, n: usize) -> bool {
    c.codes.len() != n * c.levels() || c.leaf_of.len() != n || c.postings.len() > n || c.id_start.len() != n + 1
}
