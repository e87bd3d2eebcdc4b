//! The weights of a model: safetensors files, mapped; a tensor is copied out when it is asked for by name and shape.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use super::folder::ModelFolder;
use crate::error::Result;
use candle_core::{DType, Device, Tensor};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use sidereal_core::Error;
use sidereal_core::artifact::write_atomic;

/// Where a tensor lies.
struct Entry {
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    start: usize,
    end: usize,
}

/// All weight files of a model.
pub struct WeightFiles {
    files: Vec<(PathBuf, Mmap)>,
    entries: HashMap<String, Entry>,
    dtype: DType,
    device: Device,
}

impl WeightFiles {
    /// Maps the files; tensors will be of `dtype` on `device`.
    ///
    /// # Errors
    /// A file that is missing, damaged or truncated.
    pub fn open(folder: &ModelFolder, names: &[String], dtype: DType, device: &Device) -> Result<Self> {
        let mut weights = Self { files: Vec::new(), entries: HashMap::new(), dtype, device: device.clone() };
        for name in names {
            let path = folder.path(name);
            let file = File::open(&path).map_err(|e| Error::io("read", &path, e))?;
            // SAFETY: the mapping is only read. A user who truncates the file meanwhile breaks this as with every mapped
            // file.
            let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io("map", &path, e))?;
            let damaged = |problem: String| {
                Error::input(
                    path.display().to_string(),
                    problem,
                    "download the model again: the file is damaged or truncated",
                )
            };
            let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|e| damaged(e.to_string()))?;
            for (name, info) in metadata.tensors() {
                let at = |offset: usize| offset.saturating_add(8 + header);
                let (start, end) = (at(info.data_offsets.0), at(info.data_offsets.1));
                if end > map.len() || start > end {
                    return Err(damaged(format!("{name} lies outside the file")).into());
                }
                let entry =
                    Entry { file: weights.files.len(), dtype: info.dtype, shape: info.shape.clone(), start, end };
                weights.entries.insert(name, entry);
            }
            weights.files.push((path, map));
        }
        Ok(weights)
    }

    /// Whether there is a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// The first of the prefixes under which there is a tensor of this name.
    ///
    /// # Errors
    /// There is none under any of them.
    pub fn prefix(&self, prefixes: &[&'static str], name: &str) -> Result<&'static str> {
        let found = prefixes.iter().find(|prefix| self.has(&format!("{prefix}{name}")));
        found.copied().ok_or_else(|| self.missing(name).into())
    }

    /// Names that begin so.
    pub fn names(&self, prefix: &str) -> Vec<String> {
        self.entries.keys().filter(|name| name.starts_with(prefix)).cloned().collect()
    }

    /// Shape of a tensor.
    ///
    /// # Errors
    /// No tensor of this name.
    pub fn shape(&self, name: &str) -> Result<&[usize]> {
        Ok(&self.entries.get(name).ok_or_else(|| self.missing(name))?.shape)
    }

    /// A tensor of this name, which must have this shape.
    ///
    /// # Errors
    /// No tensor of this name, one of another shape, or one that is no float weight; whatever the device says.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let entry = self.entries.get(name).ok_or_else(|| self.missing(name))?;
        let (path, map) = &self.files[entry.file];
        let wrong = |problem: String| {
            Error::input(path.display().to_string(), problem, "config.json and the weights must be of one model")
        };
        if entry.shape != shape {
            return Err(wrong(format!("{name} has shape {:?}, but config.json asks for {shape:?}", entry.shape)).into());
        }
        let dtype = match entry.dtype {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            Dtype::F64 => DType::F64,
            other => return Err(wrong(format!("{name} is {other:?}, which is no float weight")).into()),
        };
        let bytes = &map[entry.start..entry.end];
        // Converted before it is moved: half the bytes for half types.
        Ok(Tensor::from_raw_buffer(bytes, dtype, shape, &Device::Cpu)?.to_dtype(self.dtype)?.to_device(&self.device)?)
    }

    /// The first file, for messages.
    pub fn place(&self) -> String {
        self.files.first().map_or_else(String::new, |(path, _)| path.display().to_string())
    }

    fn missing(&self, name: &str) -> Error {
        Error::input(
            self.place(),
            format!("there is no tensor {name:?}"),
            "config.json and the weights must be of one model",
        )
    }
}

/// Writes tensors to one file as transformers does, atomically.
///
/// # Errors
/// Whatever the device or the file system says.
pub fn write_weights(path: &Path, tensors: &[(String, Tensor)]) -> Result<()> {
    let metadata = [("format".to_owned(), "pt".to_owned())].into_iter().collect();
    let bytes = safetensors::serialize(tensors.iter().map(|(name, tensor)| (name, tensor)), Some(metadata))
        .map_err(|e| Error::artifact(path, e.to_string(), "this is a defect: report it"))?;
    Ok(write_atomic(path, |out| out.write_all(&bytes))?)
}
