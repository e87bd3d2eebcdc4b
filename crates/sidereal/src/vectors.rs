//! Files of vectors that a command is given: one, or several of the same items in the same order, whose vectors are put
//! together row by row. They are read in chunks, or whole.

mod invalid;
mod source;

use std::path::{Path, PathBuf};

use sidereal_core::{Embeddings, Error, ItemId};
use sidereal_embed::StoreOptions;

use crate::Result;

pub use invalid::OnInvalid;
pub(crate) use invalid::{faults, refusal};
pub(crate) use source::{Chunk, Source};

/// A file of vectors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// A path, or a URL of an object store.
    pub location: PathBuf,
    /// The tensor or column, where it is not the usual one.
    pub name: Option<String>,
}

impl Input {
    /// Files with their names of tensors or columns: none, or one for each.
    ///
    /// # Errors
    /// Another number of names than of files.
    pub fn several(locations: Vec<PathBuf>, names: Vec<String>) -> Result<Vec<Self>> {
        if !names.is_empty() && names.len() != locations.len() {
            let problem = format!("{} names for {} files of vectors", names.len(), locations.len());
            return Err(Error::config("--name", problem, "give it once for each file of vectors, or never").into());
        }
        let names = names.into_iter().map(Some).chain(std::iter::repeat(None));
        Ok(locations.into_iter().zip(names).map(|(location, name)| Self { location, name }).collect())
    }
}

impl From<&Path> for Input {
    /// The usual tensor or column of a file.
    fn from(location: &Path) -> Self {
        Self { location: location.to_path_buf(), name: None }
    }
}

/// The files' names, for errors.
pub(crate) fn place_of(inputs: &[Input]) -> String {
    inputs.iter().map(|input| input.location.display().to_string()).collect::<Vec<_>>().join(" + ")
}

/// Vectors that were read whole.
#[derive(Debug, Clone)]
pub struct Whole {
    /// Of all files, [N, D].
    pub vectors: Embeddings,
    /// The rows' ids, where a file has them.
    pub ids: Option<Vec<ItemId>>,
    /// The files' names, for errors.
    pub place: String,
}

/// Reads all vectors of some files into memory.
///
/// # Errors
/// Whatever is wrong with a file; files of other items or another order; rows that no tokenizer takes, which are named
/// with their items.
pub fn read(inputs: &[Input]) -> Result<Whole> {
    let source = Source::open(inputs, &StoreOptions::from_environment())?;
    let (place, rows, width) = (source.place(), source.rows(), source.width());
    let mut values = Vec::new();
    // What a header claims may be more than there is memory for; that is an error, not an abort.
    let numbers = (rows as usize).checked_mul(width);
    if numbers.is_none_or(|numbers| values.try_reserve_exact(numbers).is_err()) {
        let problem = format!("[{rows}, {width}] vectors do not fit into memory");
        return Err(Error::input(place, problem, "give fewer at a time, or use a machine with more memory").into());
    }
    let mut ids: Option<Vec<ItemId>> = source.has_ids().then(Vec::new);
    for chunk in source.chunks(0..rows, rows)? {
        let chunk = chunk?;
        let faults = faults(&chunk);
        if !faults.is_empty() {
            return Err(refusal(&place, &chunk, &faults, None).into());
        }
        values.extend_from_slice(&chunk.values);
        if let (Some(ids), Some(more)) = (&mut ids, chunk.ids) {
            ids.extend(more);
        }
    }
    Ok(Whole { vectors: Embeddings::new(rows as usize, width, values)?, ids, place })
}
