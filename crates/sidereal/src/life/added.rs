//! Titles, categories and vectors of items that were added to a catalog after it was built, beside the catalog.

use std::collections::BTreeMap;
use std::path::Path;

use sidereal_core::array_file::{Array, ArrayFile, Entry, write_arrays};
use sidereal_core::artifact::{read_json, write_json};
use sidereal_core::{Catalog, Embeddings, Error, ItemIndex};

use crate::Result;

/// The vectors' file in the catalog's folder.
const VECTORS_FILE: &str = "added.safetensors";
/// The titles' file.
const TITLES_FILE: &str = "added.json";
/// The categories' file; absent where none are known.
const CATEGORIES_FILE: &str = "added_categories.json";

/// What is known of added items, in the order of their indexes: the first is the item behind those that the catalog was
/// built of.
#[derive(Debug, Clone, Default)]
pub struct AddedItems {
    /// `[M]`
    pub titles: Vec<Option<String>>,
    /// Paths of categories, outermost first; empty where unknown. `[M]`
    pub categories: Vec<Vec<String>>,
    /// [M, D]; none where M is 0.
    pub vectors: Option<Embeddings>,
}

impl AddedItems {
    /// Reads them from a catalog's folder.
    ///
    /// # Errors
    /// Files that are damaged or about another number of items.
    pub fn load(dir: &Path, catalog: &Catalog) -> Result<Self> {
        let count = catalog.len() - catalog.built_items();
        if count == 0 {
            return Ok(Self::default());
        }
        let mend = "go back to a version before it with `sidereal catalog rollback`";
        let titles: Vec<Option<String>> = read_json(&dir.join(TITLES_FILE))?;
        let path = dir.join(CATEGORIES_FILE);
        let categories = if path.is_file() { read_json(&path)? } else { vec![Vec::new(); count] };
        let path = dir.join(VECTORS_FILE);
        let file = ArrayFile::open(&path)?;
        let width = file.shape("vectors")?.get(1).copied().unwrap_or(0);
        let vectors = file.column::<f32>("vectors")?;
        let told = titles.len() == count && categories.len() == count;
        if !told || width == 0 || vectors.len() != count * width {
            let (titles, paths, numbers) = (titles.len(), categories.len(), vectors.len());
            let problem =
                format!("{titles} titles, {paths} category paths and {numbers} numbers for {count} added items");
            return Err(Error::artifact(dir, problem, mend).into());
        }
        Ok(Self { titles, categories, vectors: Some(Embeddings::new(count, width, vectors.to_vec())?) })
    }

    /// These and then more.
    ///
    /// # Errors
    /// Vectors of another width.
    pub fn and(mut self, more: Self) -> Result<Self> {
        let Some(vectors) = more.vectors else { return Ok(self) };
        self.titles.extend(more.titles);
        self.categories.extend(more.categories);
        self.vectors = Some(match self.vectors.take() {
            Some(before) => extended(before, &vectors)?,
            None => vectors,
        });
        Ok(self)
    }

    /// Writes them into a catalog's folder; nothing where there are none.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn save(&self, dir: &Path) -> Result<()> {
        let Some(vectors) = &self.vectors else { return Ok(()) };
        write_json(&dir.join(TITLES_FILE), &self.titles)?;
        if self.categories.iter().any(|path| !path.is_empty()) {
            write_json(&dir.join(CATEGORIES_FILE), &self.categories)?;
        }
        let entry = Entry::shaped("vectors", &[vectors.rows(), vectors.width()], Array::F32(vectors.values()));
        Ok(write_arrays(&dir.join(VECTORS_FILE), &[entry], &BTreeMap::new())?)
    }

    /// The title of an added item.
    pub fn title(&self, catalog: &Catalog, item: ItemIndex) -> Option<&str> {
        self.titles.get((item as usize).checked_sub(catalog.built_items())?)?.as_deref()
    }
}

/// Rows and then more rows.
///
/// # Errors
/// Another width.
pub(crate) fn extended(before: Embeddings, more: &Embeddings) -> Result<Embeddings> {
    let (rows, width) = (before.rows() + more.rows(), before.width());
    if more.width() != width {
        let problem = format!("vectors of width {}, but those before are {width} wide", more.width());
        return Err(Error::mismatch(problem, "use the embedding model that the run was made with").into());
    }
    let mut values = before.into_values();
    values.extend_from_slice(more.values());
    Ok(Embeddings::new(rows, width, values)?)
}
