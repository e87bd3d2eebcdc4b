//! The arrays of a tokenizer on their way to and from its file: every one is asked for by name and shape.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sidereal_core::array_file::{Array, ArrayFile, Entry, write_arrays};
use sidereal_core::{Error, Result};

/// A named array of f32.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedArray {
    /// Its name in the file, such as `codebooks.0`.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its values, row-major.
    pub values: Vec<f32>,
}

impl NamedArray {
    /// Joins the parts.
    pub fn new(name: impl Into<String>, shape: &[usize], values: Vec<f32>) -> Self {
        Self { name: name.into(), shape: shape.to_vec(), values }
    }
}

/// Writes arrays to a safetensors file, atomically.
pub(crate) fn save_arrays(path: &Path, arrays: &[NamedArray]) -> Result<()> {
    let entries: Vec<Entry<'_>> =
        arrays.iter().map(|a| Entry::shaped(a.name.clone(), &a.shape, Array::F32(&a.values))).collect();
    write_arrays(path, &entries, &BTreeMap::new())
}

/// The arrays of a file that have not been asked for yet.
#[derive(Debug)]
pub struct ArraySet {
    path: PathBuf,
    arrays: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

const MEND: &str = "the file is damaged or of another version: train the tokenizer again";

impl ArraySet {
    /// Reads a whole file.
    ///
    /// # Errors
    /// A file that cannot be read, is damaged, or holds something else than f32.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = ArrayFile::open(path)?;
        let names: Vec<String> = file.names().map(str::to_owned).collect();
        let mut arrays = BTreeMap::new();
        for name in names {
            let shape = file.shape(&name)?.to_vec();
            let values = file.column::<f32>(&name)?.to_vec();
            arrays.insert(name, (shape, values));
        }
        Ok(Self { path: path.to_path_buf(), arrays })
    }

    /// Takes an array out.
    ///
    /// # Errors
    /// An array that is absent, of another shape, or holds NaN or infinity; the array is named.
    pub fn take(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let Some((found, values)) = self.arrays.remove(name) else {
            return Err(Error::artifact(&self.path, format!("tensor {name:?} is missing"), MEND));
        };
        if found != shape {
            let problem = format!("tensor {name:?} has shape {found:?}, but the configuration makes it {shape:?}");
            return Err(Error::artifact(&self.path, problem, MEND));
        }
        if let Some(at) = values.iter().position(|v| !v.is_finite()) {
            let problem = format!("tensor {name:?} holds NaN or infinity (value {at})");
            return Err(Error::artifact(&self.path, problem, MEND));
        }
        Ok(values)
    }

    /// The shape of an array that is still there: for sizes that settings leave open.
    ///
    /// # Errors
    /// An array that is absent.
    pub(crate) fn shape(&self, name: &str) -> Result<&[usize]> {
        match self.arrays.get(name) {
            Some((shape, _)) => Ok(shape),
            None => Err(Error::artifact(&self.path, format!("tensor {name:?} is missing"), MEND)),
        }
    }

    /// Checks that nothing is left over.
    ///
    /// # Errors
    /// Names the first tensor that nobody asked for.
    pub(crate) fn finish(self) -> Result<()> {
        match self.arrays.keys().next() {
            Some(name) => {
                let problem = format!("tensor {name:?} does not belong to this configuration");
                Err(Error::artifact(&self.path, problem, MEND))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_array_is_asked_for_by_name_and_shape() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        let arrays = [NamedArray::new("a", &[2, 1], vec![1.0, 2.0]), NamedArray::new("b", &[1], vec![f32::NAN])];
        save_arrays(&path, &arrays).unwrap();
        let mut set = ArraySet::open(&path).unwrap();
        assert!(set.take("c", &[1]).unwrap_err().to_string().contains("\"c\" is missing"));
        assert!(set.take("b", &[1]).unwrap_err().to_string().contains("NaN"));
        let error = ArraySet::open(&path).unwrap().take("a", &[1, 2]).unwrap_err().to_string();
        assert!(error.contains("[2, 1]") && error.contains("[1, 2]") && error.contains("\"a\""), "{error}");
        assert_eq!(set.take("a", &[2, 1]).unwrap(), [1.0, 2.0]);
        set.finish().unwrap();
        assert!(ArraySet::open(&path).unwrap().finish().unwrap_err().to_string().contains("\"a\""));
    }
}
