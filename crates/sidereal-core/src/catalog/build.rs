//! Building a catalog: its items sorted by semantic ID once, its leaves and trie in one pass.

use super::{Catalog, FORMAT_VERSION, Header, NO_LEAF};
use crate::collision::{CollisionPolicy, add_suffix};
use crate::error::{Error, Result};
use crate::item::{ItemId, ItemIndex};
use crate::semantic_id::SemanticIds;
use crate::trie::build::{InOrder, TrieBuilder, in_order};

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
        let Some(items) = u32::try_from(ids.len()).ok().filter(|&items| items < NO_LEAF) else {
            let problem = format!("{} items do not fit a 32-bit number", ids.len());
            return Err(Error::input("items", problem, "split the catalog"));
        };
        let sequence = prior.map(|prior| {
            let mut sequence: Vec<u32> = (0..items).collect();
            sequence.sort_by_key(|&item| std::cmp::Reverse(prior[item as usize]));
            sequence
        });
        let mut leaves = Leaves::new(&codes_per_level, items, ids.len());
        in_order(sids, &codes_per_level, sequence.as_deref(), &mut leaves);
        let header =
            Header { format_version: FORMAT_VERSION, items, codes_per_level, policy, tokenizer_levels, life: None };
        let mut id_start = vec![0u64];
        let mut id_bytes = Vec::new();
        for id in ids {
            id_bytes.extend_from_slice(id.as_str().as_bytes());
            id_start.push(id_bytes.len() as u64);
        }
        Ok(leaves.into_catalog(header, sids.codes().to_vec(), id_start, id_bytes))
    }
}

/// Leaves, postings and trie while items come by semantic ID and then in the order of postings.
pub(super) struct Leaves {
    trie: TrieBuilder,
    postings_start: Vec<u32>,
    postings: Vec<ItemIndex>,
    leaf_of: Vec<u32>,
}

impl Leaves {
    /// Of `alive` of the `items`.
    pub(super) fn new(codes_per_level: &[u32], items: u32, alive: usize) -> Self {
        Self {
            trie: TrieBuilder::new(codes_per_level, alive),
            postings_start: Vec::with_capacity(alive + 1),
            postings: Vec::with_capacity(alive),
            leaf_of: vec![NO_LEAF; items as usize],
        }
    }

    /// # Shapes
    /// `codes`: [N, L]; `id_start`: [N + 1]
    pub(super) fn into_catalog(
        mut self,
        header: Header,
        codes: Vec<u16>,
        id_start: Vec<u64>,
        id_bytes: Vec<u8>,
    ) -> Catalog {
        self.postings_start.push(self.postings.len() as u32);
        self.postings_start.shrink_to_fit();
        let mut catalog = Catalog {
            header,
            trie: self.trie.finish(),
            codes: codes.into(),
            leaf_of: self.leaf_of.into(),
            postings_start: self.postings_start.into(),
            postings: self.postings.into(),
            id_start: id_start.into(),
            id_bytes: id_bytes.into(),
            version: String::new(),
        };
        catalog.version = catalog.content_version();
        catalog
    }
}

impl InOrder for Leaves {
    #[inline]
    fn row(&mut self, row: u32, shared: usize, code: impl Fn(usize) -> u16) {
        if self.postings.is_empty() || shared < self.trie.levels() {
            self.postings_start.push(self.postings.len() as u32);
            self.trie.leaf(shared, code);
        }
        self.leaf_of[row as usize] = self.postings_start.len() as u32 - 1;
        self.postings.push(row);
    }
}
