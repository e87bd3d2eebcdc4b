//! Building a catalog: its items sorted by semantic ID once, its leaves and trie in one pass.

use super::segment::{Segment, SegmentBuilder};
use super::{Catalog, FORMAT_VERSION, Header, NO_LEAF};
use crate::collision::{CollisionPolicy, add_suffix};
use crate::error::{Error, Result};
use crate::item::ItemId;
use crate::semantic_id::SemanticIds;
use crate::trie::build::in_order;

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
        let mut segment = SegmentBuilder::new(&codes_per_level, items, ids.len());
        in_order(sids, &codes_per_level, sequence.as_deref(), &mut segment);
        let header =
            Header { format_version: FORMAT_VERSION, items, codes_per_level, policy, tokenizer_levels, life: None };
        let base = segment.finish(sids.codes().to_vec().into());
        Ok(Self::of_parts(header, base, ids.iter().map(ItemId::as_str)))
    }

    /// Joins a header and its items.
    pub(super) fn of_parts<'a>(header: Header, base: Segment, ids: impl Iterator<Item = &'a str>) -> Self {
        let mut id_start = vec![0u64];
        let mut id_bytes = Vec::new();
        for id in ids {
            id_bytes.extend_from_slice(id.as_bytes());
            id_start.push(id_bytes.len() as u64);
        }
        let (id_start, id_bytes) = (id_start.into(), id_bytes.into());
        let mut catalog = Self { header, base, id_start, id_bytes, version: String::new(), live: None };
        catalog.version = catalog.content_version();
        catalog
    }
}
