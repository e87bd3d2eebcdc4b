//! What answers are limited to: a condition on attributes, a list of items, and items that nobody gets.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde::Serialize;
use sidereal_core::artifact::sha256_bytes;
use sidereal_core::attributes::Attributes;
use sidereal_core::filter::{Allowed, Bits};
use sidereal_core::predicate::Predicate;
use sidereal_core::{Catalog, Error, ItemIndex};

use crate::Result;

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub struct LimitWish {
    /// A condition on attributes ([`sidereal_core::predicate`]).
    pub filter: Option<String>,
    /// A file of item ids, one a line: only these may be answered.
    pub allow: Option<PathBuf>,
    /// A file of item ids, one a line: none of these may be answered.
    pub deny: Option<PathBuf>,
}

impl LimitWish {
    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.filter.is_none() && self.allow.is_none() && self.deny.is_none()
    }
}

/// Limits of one catalog, evaluated once for all questions.
#[derive(Debug, Clone, Default)]
pub struct Limits {
    allowed: Option<Allowed>,
    told: Told,
}

/// What the limits came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Told {
    /// The condition.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// Items that are left.
    pub items: usize,
    /// Ids of the lists that the catalog does not have.
    pub unknown_ids: usize,
    /// A hash of everything that was asked for.
    #[serde(skip)]
    pub digest: String,
}

impl Limits {
    /// Evaluates what is asked for.
    ///
    /// # Errors
    /// A condition that cannot be read, or names a column that there is not; a file that cannot be read.
    pub fn of(catalog: &Catalog, attributes: &Attributes, wish: &LimitWish) -> Result<Self> {
        let items = catalog.len() as u32;
        let mut sets: Vec<Bits> = Vec::new();
        let mut unknown_ids = 0;
        let mut asked = Vec::new();
        if let Some(text) = &wish.filter {
            asked.push(format!("filter {text}"));
            sets.push(Predicate::parse(text)?.items(attributes, items)?);
        }
        for (name, path, denies) in [("allow", &wish.allow, false), ("deny", &wish.deny, true)] {
            let Some(path) = path else { continue };
            let list = Listed::read(catalog, path)?;
            asked.push(format!("{name} {}", list.digest));
            unknown_ids += list.unknown;
            let listed = Bits::of(items, list.items);
            sets.push(if denies { listed.not() } else { listed });
        }
        // One set for all questions; what a user has seen is denied beside it.
        let all = sets.into_iter().reduce(|all, set| all.and(&set));
        let allowed = all.map(|bits| Allowed::new(catalog, &bits));
        let told = Told {
            filter: wish.filter.clone(),
            items: allowed.as_ref().map_or_else(|| catalog.alive(), Allowed::count),
            unknown_ids,
            digest: sha256_bytes(asked.join("\n").as_bytes()),
        };
        Ok(Self { allowed, told })
    }

    /// The items that may be answered, where not all may.
    pub fn allowed(&self) -> Option<&Allowed> {
        self.allowed.as_ref()
    }

    /// What they came to; none where nothing was asked for.
    pub fn told(&self) -> Option<&Told> {
        (!self.told.digest.is_empty()).then_some(&self.told)
    }
}

/// A file of item ids.
pub(crate) struct Listed {
    /// Those that the catalog has, ascending.
    pub(crate) items: Vec<ItemIndex>,
    unknown: usize,
    digest: String,
}

impl Listed {
    pub(crate) fn read(catalog: &Catalog, path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
        let wanted: HashSet<&str> = text.lines().map(str::trim).filter(|id| !id.is_empty()).collect();
        let items: Vec<ItemIndex> =
            (0..catalog.len() as ItemIndex).filter(|&item| wanted.contains(catalog.item_id(item))).collect();
        let unknown = wanted.len() - items.len();
        Ok(Self { items, unknown, digest: sha256_bytes(text.as_bytes()) })
    }
}
