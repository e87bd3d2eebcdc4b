//! Items: the user's ids, titles and attributes, in catalog order.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Our number of an item: its row in the items table.
pub type ItemIndex = u32;

/// The user's name of an item.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ItemId(String);

impl ItemId {
    /// The id as the user wrote it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for ItemId {
    fn from(id: String) -> Self {
        Self(id)
    }
}

impl From<&str> for ItemId {
    fn from(id: &str) -> Self {
        Self(id.to_owned())
    }
}

impl std::borrow::Borrow<str> for ItemId {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for ItemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One column of the items table, a value per item.
#[derive(Debug, Clone, PartialEq)]
pub enum Attribute {
    /// Brand, description, ...
    Text(Vec<Option<String>>),
    /// Price, year, ...
    Number(Vec<Option<f64>>),
    /// Categories, tags, ...
    TextList(Vec<Vec<String>>),
}

impl Attribute {
    /// Number of items.
    pub fn len(&self) -> usize {
        match self {
            Self::Text(v) => v.len(),
            Self::Number(v) => v.len(),
            Self::TextList(v) => v.len(),
        }
    }

    /// Whether there are no items.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The items table. Row `i` is item `i` everywhere else.
#[derive(Debug, Clone)]
pub struct Items {
    ids: Vec<ItemId>,
    titles: Vec<Option<String>>,
    attributes: BTreeMap<String, Attribute>,
    by_id: HashMap<String, ItemIndex>,
}

impl Items {
    /// Joins the columns.
    ///
    /// # Errors
    /// A duplicate id (both rows named), a column of another length, more than `u32::MAX` items.
    pub fn new(ids: Vec<ItemId>, titles: Vec<Option<String>>, attributes: BTreeMap<String, Attribute>) -> Result<Self> {
        if u32::try_from(ids.len()).is_err() {
            let problem = format!("{} items do not fit a 32-bit number", ids.len());
            return Err(Error::input("items", problem, "split the catalog"));
        }
        let mut by_id = HashMap::with_capacity(ids.len());
        for (row, id) in ids.iter().enumerate() {
            if let Some(first) = by_id.insert(id.as_str().to_owned(), row as ItemIndex) {
                let problem = format!("item id {:?} appears a second time (first in row {first})", id.as_str());
                return Err(Error::input(format!("items, row {row}"), problem, "remove one of the two rows"));
            }
        }
        let columns = attributes.iter().map(|(name, column)| (name.as_str(), column.len()));
        for (name, len) in columns.chain([("title", titles.len())]) {
            if len != ids.len() {
                let problem = format!("column {name:?} has {len} rows but there are {} item ids", ids.len());
                return Err(Error::input("items", problem, "give every column a value for each item"));
            }
        }
        Ok(Self { ids, titles, attributes, by_id })
    }

    /// Number of items, N.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are no items.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The user's id of item `i`.
    ///
    /// # Panics
    /// If `i` is not below [`Items::len`].
    pub fn id(&self, i: ItemIndex) -> &ItemId {
        &self.ids[i as usize]
    }

    /// The row of an id.
    pub fn index_of(&self, id: &str) -> Option<ItemIndex> {
        self.by_id.get(id).copied()
    }

    /// The title of item `i`, if it has one.
    pub fn title(&self, i: ItemIndex) -> Option<&str> {
        self.titles.get(i as usize)?.as_deref()
    }

    /// All ids in catalog order.
    pub fn ids(&self) -> &[ItemId] {
        &self.ids
    }

    /// All titles in catalog order.
    pub fn titles(&self) -> &[Option<String>] {
        &self.titles
    }

    /// All other columns by name.
    pub fn attributes(&self) -> &BTreeMap<String, Attribute> {
        &self.attributes
    }
}
