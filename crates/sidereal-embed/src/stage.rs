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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::written::safetensors;
    use sidereal_core::artifact::{Manifest, StageWriter};
    use std::collections::BTreeMap;

    #[test]
    fn vectors_are_kept_in_their_precision() {
        let dir = tempfile::tempdir().unwrap();
        let values = [1.5, -2.0, 0.0, 1024.0];
        for (precision, size) in [(Precision::F16, 2), (Precision::Bf16, 2), (Precision::F32, 4), (Precision::F64, 4)] {
            let vectors = read_vectors(&safetensors(dir.path(), precision, &[2, 2], &values), None).unwrap();
            vectors.save_into(dir.path()).unwrap();
            assert_eq!(load(dir.path()).unwrap(), vectors.embeddings);
            let bytes = std::fs::read(dir.path().join(FILE)).unwrap();
            let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            assert_eq!((header % 8, bytes.len()), (0, 8 + header + 4 * size));
        }
    }

    #[test]
    fn a_stage_that_was_edited_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let stage = dir.path().join("embeddings");
        let vectors = read_vectors(&safetensors(dir.path(), Precision::F32, &[1, 2], &[1.0, 2.0]), None).unwrap();
        let writer = StageWriter::begin(&stage).unwrap();
        vectors.save_into(writer.dir()).unwrap();
        writer.finish(Manifest::new("embeddings", None, vectors.facts.to_json(), BTreeMap::new())).unwrap();
        assert_eq!(load(&stage).unwrap().values(), [1.0, 2.0]);
        let mut bytes = std::fs::read(stage.join(FILE)).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(stage.join(FILE), bytes).unwrap();
        assert!(load(&stage).unwrap_err().to_string().contains("its bytes have changed"));
        assert!(load(dir.path()).unwrap_err().to_string().contains("embeddings.safetensors"));
    }
}
