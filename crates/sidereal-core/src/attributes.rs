//! What is known of items besides their ids, in columns that a filter can be evaluated over.
//!
//! Numbers stay numbers; words (brands, categories, dates) are kept once each in a dictionary. A column of as many
//! different texts as a description has is no ground for a filter, and is left out.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use crate::array_file::{Array, ArrayFile, Column, Entry, write_arrays};
use crate::error::{Error, Result};
use crate::item::{Attribute, Items};

/// File name beside a catalog.
pub const FILE: &str = "attributes.safetensors";
/// Most bytes of different words that a column may have.
const MAX_WORD_BYTES: usize = 1 << 24;

/// Columns of the items, by name.
#[derive(Debug, Clone, Default)]
pub struct Attributes {
    items: usize,
    columns: BTreeMap<String, Values>,
}

/// One column.
#[derive(Debug, Clone)]
pub enum Values {
    /// A number an item, NaN where it is not known: `[N]`.
    Numbers(Column<f64>),
    /// Any number of words an item.
    Words(Words),
}

/// Words of items, each kept once.
#[derive(Debug, Clone)]
pub struct Words {
    /// The different words, in the order of their first items.
    pub words: Vec<String>,
    start: Column<u32>, // [N + 1]
    of: Column<u32>,
}

impl Words {
    fn of<'a>(items: impl Iterator<Item = &'a [String]>) -> Option<Self> {
        let mut numbers: HashMap<&str, u32> = HashMap::new();
        let (mut words, mut bytes) = (Vec::new(), 0);
        let (mut start, mut of) = (vec![0], Vec::new());
        for item in items {
            for word in item {
                let number = *numbers.entry(word).or_insert_with(|| {
                    bytes += word.len();
                    words.push(word.clone());
                    words.len() as u32 - 1
                });
                of.push(number);
            }
            if bytes > MAX_WORD_BYTES {
                return None;
            }
            start.push(u32::try_from(of.len()).ok()?);
        }
        Some(Self { words, start: start.into(), of: of.into() })
    }

    /// The numbers of an item's words; none where nothing is known of it.
    #[inline]
    pub fn of_item(&self, item: usize) -> &[u32] {
        let ends = self.start.get(item..).and_then(|from| from.first_chunk::<2>());
        let &[start, end] = ends.unwrap_or(&[0, 0]);
        self.of.get(start as usize..end as usize).unwrap_or(&[])
    }
}

impl Attributes {
    /// The columns of an items table that a filter can use; titles are not among them.
    pub fn of(items: &Items) -> Self {
        let columns = items.attributes().iter().filter_map(|(name, column)| {
            let values = match column {
                Attribute::Number(numbers) => {
                    Values::Numbers(numbers.iter().map(|n| n.unwrap_or(f64::NAN)).collect::<Vec<f64>>().into())
                }
                Attribute::Text(texts) => Values::Words(Words::of(texts.iter().map(Option::as_slice))?),
                Attribute::TextList(lists) => Values::Words(Words::of(lists.iter().map(Vec::as_slice))?),
            };
            Some((name.clone(), values))
        });
        Self { items: items.len(), columns: columns.collect() }
    }

    /// N; of items behind them nothing is known.
    pub fn items(&self) -> usize {
        self.items
    }

    /// A column.
    pub fn column(&self, name: &str) -> Option<&Values> {
        self.columns.get(name)
    }

    /// Names of the columns.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.columns.keys().map(String::as_str)
    }

    /// Writes them into a catalog's folder.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn save(&self, dir: &Path) -> Result<()> {
        let words: BTreeMap<&str, String> = self
            .columns
            .iter()
            .filter_map(|(name, values)| match values {
                Values::Numbers(_) => None,
                Values::Words(words) => Some((name.as_str(), serde_json::to_string(&words.words).unwrap_or_default())),
            })
            .collect();
        let mut entries = Vec::new();
        for (at, (name, values)) in self.columns.iter().enumerate() {
            match values {
                Values::Numbers(numbers) => entries.push(Entry::flat(format!("{at}.numbers"), Array::F64(numbers))),
                Values::Words(list) => {
                    let text = words.get(name.as_str()).map_or(&[][..], |text| text.as_bytes());
                    entries.push(Entry::flat(format!("{at}.words"), Array::U8(text)));
                    entries.push(Entry::flat(format!("{at}.start"), Array::U32(&list.start)));
                    entries.push(Entry::flat(format!("{at}.of"), Array::U32(&list.of)));
                }
            }
        }
        let names: Vec<&str> = self.names().collect();
        let names = serde_json::to_string(&names).unwrap_or_default();
        let metadata = BTreeMap::from([("columns".to_owned(), names), ("items".to_owned(), self.items.to_string())]);
        write_arrays(&dir.join(FILE), &entries, &metadata)
    }

    /// Opens the columns beside a catalog, memory-mapped; none where there is no such file.
    ///
    /// # Errors
    /// A file that is damaged.
    pub fn open(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(FILE);
        if !path.is_file() {
            return Ok(None);
        }
        let file = ArrayFile::open(&path)?;
        let bad = |problem: &str| Error::artifact(&path, problem, "build the catalog again");
        let names: Vec<String> = file
            .metadata("columns")
            .and_then(|text| serde_json::from_str(text).ok())
            .ok_or_else(|| bad("it names no columns"))?;
        let items: usize =
            file.metadata("items").and_then(|n| n.parse().ok()).ok_or_else(|| bad("it has no number of items"))?;
        let mut columns = BTreeMap::new();
        for (at, name) in names.into_iter().enumerate() {
            let values = if file.shape(&format!("{at}.words")).is_ok() {
                let text = file.column::<u8>(&format!("{at}.words"))?;
                let words = serde_json::from_slice(&text).map_err(|_| bad("its words are damaged"))?;
                let start = file.column(&format!("{at}.start"))?;
                Values::Words(Words { words, start, of: file.column(&format!("{at}.of"))? })
            } else {
                Values::Numbers(file.column(&format!("{at}.numbers"))?)
            };
            columns.insert(name, values);
        }
        Ok(Some(Self { items, columns }))
    }
}
