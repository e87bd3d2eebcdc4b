//! What is learnt from training parts before a fusion is fitted, in a file, so that nobody who asks learns it again.

use std::collections::BTreeMap;
use std::path::Path;

use sidereal_core::array_file::{Array, ArrayFile, Entry, write_arrays};
use sidereal_core::{Embeddings, Error as CoreError};

use super::linear::LinearModel;
use crate::Result;

/// Models of items over some training parts. A part that is not there gives features of 0.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Learnt {
    /// From recent items to the next ones.
    pub linear: Option<LinearModel>,
    /// Vectors of items that stand near the same items, `[N, C]`.
    pub item2vec: Option<Embeddings>,
    /// Vectors of items that the same users have, `[N, C]`.
    pub user_item: Option<Embeddings>,
}

impl Learnt {
    /// Writes a file.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut entries = Vec::new();
        if let Some(linear) = &self.linear {
            entries.push(Entry::flat("linear.offsets", Array::U64(&linear.offsets)));
            entries.push(Entry::flat("linear.columns", Array::U32(&linear.columns)));
            entries.push(Entry::flat("linear.values", Array::F32(&linear.values)));
        }
        for (name, vectors) in [("item2vec", &self.item2vec), ("user_item", &self.user_item)] {
            if let Some(vectors) = vectors {
                let shape = [vectors.rows(), vectors.width()];
                entries.push(Entry::shaped(name, &shape, Array::F32(vectors.values())));
            }
        }
        Ok(write_arrays(path, &entries, &BTreeMap::new())?)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// A file that is missing or damaged.
    pub fn open(path: &Path) -> Result<Self> {
        let file = ArrayFile::open(path)?;
        let has = |name: &str| file.names().any(|has| has == name);
        let vectors = |name: &str| -> Result<Option<Embeddings>> {
            if !has(name) {
                return Ok(None);
            }
            let &[rows, width] = file.shape(name)? else { return Err(damaged(path, name).into()) };
            Ok(Some(Embeddings::new(rows, width, file.column::<f32>(name)?.to_vec())?))
        };
        let linear = match has("linear.offsets") {
            true => {
                let offsets = file.column::<u64>("linear.offsets")?.to_vec();
                let columns = file.column::<u32>("linear.columns")?.to_vec();
                let values = file.column::<f32>("linear.values")?.to_vec();
                let whole = offsets.first() == Some(&0)
                    && offsets.last() == Some(&(columns.len() as u64))
                    && offsets.is_sorted()
                    && columns.len() == values.len()
                    && columns.iter().all(|&column| (column as usize) < offsets.len() - 1)
                    && values.iter().all(|value| value.is_finite());
                if !whole {
                    return Err(damaged(path, "linear").into());
                }
                Some(LinearModel { offsets, columns, values })
            }
            false => None,
        };
        Ok(Self { linear, item2vec: vectors("item2vec")?, user_item: vectors("user_item")? })
    }

    /// How many items it knows, N; none if it knows nothing.
    pub(super) fn items(&self) -> usize {
        let vectors = [&self.item2vec, &self.user_item].into_iter().flatten().map(Embeddings::rows);
        vectors.chain(self.linear.iter().map(LinearModel::items)).max().unwrap_or(0)
    }
}

fn damaged(path: &Path, part: &str) -> CoreError {
    CoreError::artifact(path, format!("its part {part:?} is damaged"), "fit the fusion again")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_was_learnt_comes_back_from_disk_and_damage_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("learnt.safetensors");
        let linear = LinearModel { offsets: vec![0, 2, 2, 3], columns: vec![1, 2, 0], values: vec![0.5, -0.25, 1.0] };
        let item2vec = Embeddings::new(3, 2, vec![1.0, 0.0, 0.0, 1.0, 2.0, 2.0]).unwrap();
        let learnt = Learnt { linear: Some(linear.clone()), item2vec: Some(item2vec), user_item: None };
        learnt.save(&path).unwrap();
        assert_eq!(Learnt::open(&path).unwrap(), learnt);
        for broken in [
            LinearModel { columns: vec![1, 9, 0], ..linear.clone() },
            LinearModel { offsets: vec![0, 3, 2, 3], ..linear.clone() },
            LinearModel { values: vec![0.5], ..linear.clone() },
            LinearModel { offsets: vec![], ..linear },
        ] {
            Learnt { linear: Some(broken), ..Learnt::default() }.save(&path).unwrap();
            let error = Learnt::open(&path).unwrap_err().to_string();
            assert!(error.contains("fit the fusion again"), "{error}");
        }
        Learnt::default().save(&path).unwrap();
        assert_eq!(Learnt::open(&path).unwrap(), Learnt::default());
    }
}
