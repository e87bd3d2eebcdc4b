//! Vectors on disk: `embeddings.safetensors`, one tensor `embeddings` [N, D] in the precision that the vectors came in
//! (f64 as f32), a row for each item of the prepared items table.

use std::path::Path;

use sidereal_core::artifact::{MANIFEST, read_manifest, verify_files, write_atomic};
use sidereal_core::{Embeddings, Error, Result};

use crate::precision::Precision;
use crate::vectors::{Vectors, read_vectors};

/// Name of the file in the stage's folder.
pub const FILE: &str = "embeddings.safetensors";
const TENSOR: &str = "embeddings";
const CHUNK_NUMBERS: usize = 1 << 16;

impl Vectors {
    /// Writes the vectors into a folder, which is a stage being written.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn save_into(&self, dir: &Path) -> Result<()> {
        let precision = if self.precision == Precision::F64 { Precision::F32 } else { self.precision };
        let (rows, width) = (self.embeddings.rows(), self.embeddings.width());
        let bytes = rows * width * precision.bytes();
        let dtype = precision.safetensors_name();
        let mut header =
            format!(r#"{{"{TENSOR}":{{"dtype":"{dtype}","shape":[{rows},{width}],"data_offsets":[0,{bytes}]}}}}"#);
        // The format pads its header so that the numbers are aligned.
        header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
        write_atomic(&dir.join(FILE), |out| {
            out.write_all(&(header.len() as u64).to_le_bytes())?;
            out.write_all(header.as_bytes())?;
            self.embeddings.values().chunks(CHUNK_NUMBERS).try_for_each(|chunk| out.write_all(&precision.encode(chunk)))
        })
    }
}

/// Reads a stage's vectors, checked against the folder's manifest if it has one.
///
/// # Errors
/// A file that is missing, damaged or changed since it was written.
pub fn load(dir: &Path) -> Result<Embeddings> {
    if dir.join(MANIFEST).is_file() {
        verify_files(dir, &read_manifest(dir, "embeddings")?)?;
    }
    let path = dir.join(FILE);
    let vectors = read_vectors(&path, Some(TENSOR))
        .map_err(|e| Error::artifact(&path, e.to_string(), "make the embeddings again with `sidereal embed`"))?;
    Ok(vectors.embeddings)
}
