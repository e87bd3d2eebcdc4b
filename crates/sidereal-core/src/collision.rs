//! What happens when two items share a semantic ID.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::catalog::Catalog;
use crate::error::{Error, Result};
use crate::semantic_id::SemanticIds;

/// How items that share a semantic ID are kept apart, or together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CollisionPolicy {
    /// They share one leaf of the trie, which lists them all; nothing is lost.
    #[default]
    Postings,
    /// TIGER's extra level (Rajput et al., 2305.05065, section 3.1): the k-th item of a collision gets code k,
    /// an item without collision 0.
    Suffix,
    /// All but one of the items that share a semantic ID move to the nearest unused code of the last level; where a
    /// prefix is full, what is left shares leaves.
    NearestFree,
    /// LC-Rec's repair (Zheng et al., 2311.09049, section 3.1): rounds of uniform mapping of each collision at the last
    /// level; what is left shares leaves.
    Sinkhorn,
    /// Every code of every level goes to about as many items (MiniOneRec, 2510.24431); what still collides shares a leaf.
    Balanced,
}

impl CollisionPolicy {
    /// Names on the command line and in recipes.
    pub const NAMES: [(&'static str, Self); 5] = [
        ("postings", Self::Postings),
        ("suffix", Self::Suffix),
        ("nearest-free", Self::NearestFree),
        ("sinkhorn", Self::Sinkhorn),
        ("balanced", Self::Balanced),
    ];

    /// The name on the command line and in recipes.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, policy)| *policy == self).map_or("", |(name, _)| name)
    }

    /// Whether semantic IDs are changed before a catalog is built of them.
    pub fn repairs(self) -> bool {
        matches!(self, Self::NearestFree | Self::Sinkhorn | Self::Balanced)
    }
}

impl std::str::FromStr for CollisionPolicy {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::NAMES.iter().find(|(n, _)| *n == name).map(|(_, policy)| *policy).ok_or_else(|| {
            let known: Vec<&str> = Self::NAMES.iter().map(|(n, _)| *n).collect();
            let problem = format!("no collision policy is named {name:?}");
            Error::config("collisions", problem, format!("use one of: {}", known.join(", ")))
        })
    }
}

/// Adds the suffix level: [N, L] becomes [N, L + 1], in item order, so that the result does not depend on threads.
///
/// # Errors
/// A collision of more items than `suffix_codes`.
pub fn add_suffix(sids: &SemanticIds, suffix_codes: u32) -> Result<SemanticIds> {
    let mut next: HashMap<&[u16], u32> = HashMap::with_capacity(sids.len());
    let mut codes = Vec::with_capacity(sids.codes().len() + sids.len());
    for row in sids.rows() {
        let suffix = next.entry(row).or_insert(0);
        if *suffix >= suffix_codes {
            let problem = format!("more than {suffix_codes} items share the semantic ID {row:?}: the suffix overflows");
            let mend = "use the postings policy, more codes or levels, or remove duplicate items";
            return Err(Error::input("semantic IDs", problem, mend));
        }
        codes.extend_from_slice(row);
        codes.push(u16::try_from(*suffix).unwrap_or(u16::MAX));
        *suffix += 1;
    }
    SemanticIds::new(sids.levels() + 1, codes)
}

/// Adds the suffix level to new items of a catalog: each gets the code after the last that its semantic ID has had,
/// removed items included. [M, L] becomes [M, L + 1].
///
/// # Errors
/// A semantic ID whose suffixes are used up; a catalog of another policy or number of levels.
pub fn continue_suffix(catalog: &Catalog, sids: &SemanticIds) -> Result<SemanticIds> {
    let levels = catalog.tokenizer_levels();
    if catalog.policy() != CollisionPolicy::Suffix || sids.levels() != levels {
        let problem = format!("semantic IDs of {} levels do not continue the suffixes of this catalog", sids.levels());
        return Err(Error::mismatch(problem, "use the tokenizer that the catalog was built with"));
    }
    let suffix_codes = catalog.codes_per_level().last().copied().unwrap_or(1);
    let mut next: HashMap<&[u16], u32> = sids.rows().map(|row| (row, 0)).collect();
    for item in 0..catalog.len() as u32 {
        let id = catalog.semantic_id(item);
        if let Some(next) = next.get_mut(&id[..levels]) {
            *next = (*next).max(u32::from(id[levels]) + 1);
        }
    }
    let mut codes = Vec::with_capacity(sids.codes().len() + sids.len());
    for (item, row) in sids.rows().enumerate() {
        let suffix = next.entry(row).or_insert(0);
        if *suffix >= suffix_codes {
            let problem = format!("{suffix_codes} items have had the semantic ID {row:?}: the suffix overflows");
            let mend = "leave this item out, or build a catalog anew with the postings policy or more codes";
            return Err(Error::input(format!("new item {item}"), problem, mend));
        }
        codes.extend_from_slice(row);
        codes.push(u16::try_from(*suffix).unwrap_or(u16::MAX));
        *suffix += 1;
    }
    SemanticIds::new(levels + 1, codes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn suffix_makes_every_id_unique_and_starts_at_zero() {
        let sids = SemanticIds::new(2, vec![1, 2, 3, 4, 1, 2, 1, 2]).unwrap();
        let with = add_suffix(&sids, 3).unwrap();
        assert_eq!(with.codes(), [1, 2, 0, 3, 4, 0, 1, 2, 1, 1, 2, 2]);
    }

    #[test]
    fn suffix_overflow_is_an_error_that_names_the_mend() {
        let sids = SemanticIds::new(1, vec![7, 7, 7]).unwrap();
        let error = add_suffix(&sids, 2).unwrap_err().to_string();
        assert!(error.contains("[7]") && error.contains("use the postings policy"), "{error}");
    }

    #[test]
    fn new_items_get_suffixes_that_nobody_has_had() {
        let ids: Vec<crate::ItemId> = ["a", "b", "c"].into_iter().map(Into::into).collect();
        let sids = SemanticIds::new(1, vec![1, 1, 2]).unwrap();
        let catalog = Catalog::build(&ids, &sids, &[3], CollisionPolicy::Suffix, None).unwrap();
        let change = crate::catalog::Change { remove: &[1], ..Default::default() };
        let catalog = catalog.change(&change).unwrap();
        let more = SemanticIds::new(1, vec![1, 0, 2]).unwrap();
        assert_eq!(continue_suffix(&catalog, &more).unwrap().codes(), [1, 2, 0, 0, 2, 1]);
        let too_many = SemanticIds::new(1, vec![1, 1]).unwrap();
        let error = continue_suffix(&catalog, &too_many).unwrap_err().to_string();
        assert!(error.contains("[1]") && error.contains("postings policy"), "{error}");
    }
}
