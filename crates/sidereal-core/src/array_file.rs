//! Plain arrays in one safetensors file, written atomically and read memory-mapped.
//!
//! safetensors aligns every array to its element size, so a mapped file is used in place. The crate itself accepts
//! huge headers and repeated names; the caps here refuse both before anything is parsed.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use safetensors::Dtype;

use crate::artifact::write_atomic;
use crate::error::{Error, Result};

/// Largest header that is parsed.
pub const MAX_HEADER_BYTES: u64 = 1 << 20;
/// Most arrays that one file may hold.
pub const MAX_ARRAYS: usize = 4096;
/// The safetensors metadata key that holds ours.
const METADATA_KEY: &str = "sidereal";

/// The elements of one array.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)]
pub enum Array<'a> {
    U8(&'a [u8]),
    U16(&'a [u16]),
    U32(&'a [u32]),
    U64(&'a [u64]),
    I64(&'a [i64]),
    F32(&'a [f32]),
    F64(&'a [f64]),
}

impl<'a> Array<'a> {
    fn parts(self) -> (Dtype, &'a [u8]) {
        match self {
            Self::U8(v) => (Dtype::U8, v),
            Self::U16(v) => (Dtype::U16, bytemuck::cast_slice(v)),
            Self::U32(v) => (Dtype::U32, bytemuck::cast_slice(v)),
            Self::U64(v) => (Dtype::U64, bytemuck::cast_slice(v)),
            Self::I64(v) => (Dtype::I64, bytemuck::cast_slice(v)),
            Self::F32(v) => (Dtype::F32, bytemuck::cast_slice(v)),
            Self::F64(v) => (Dtype::F64, bytemuck::cast_slice(v)),
        }
    }

    /// Its elements as they lie in the file.
    pub fn bytes(self) -> &'a [u8] {
        self.parts().1
    }

    fn len(self) -> usize {
        let (dtype, bytes) = self.parts();
        bytes.len() / (dtype.bitsize() / 8)
    }
}

/// A named array to be written.
#[derive(Debug, Clone)]
pub struct Entry<'a> {
    /// Its name in the file.
    pub name: String,
    /// Its shape; the product is its length.
    pub shape: Vec<usize>,
    /// Its elements.
    pub array: Array<'a>,
}

impl<'a> Entry<'a> {
    /// An array of one dimension.
    pub fn flat(name: impl Into<String>, array: Array<'a>) -> Self {
        Self { name: name.into(), shape: vec![array.len()], array }
    }

    /// An array of any shape.
    pub fn shaped(name: impl Into<String>, shape: &[usize], array: Array<'a>) -> Self {
        Self { name: name.into(), shape: shape.to_vec(), array }
    }
}

/// Writes arrays and text metadata to one file, atomically.
///
/// # Errors
/// A shape that does not fit its elements, repeated names, and whatever the file system says.
pub fn write_arrays(path: &Path, entries: &[Entry<'_>], metadata: &BTreeMap<String, String>) -> Result<()> {
    let mut views = Vec::with_capacity(entries.len());
    for entry in entries {
        let (dtype, bytes) = entry.array.parts();
        let view = safetensors::tensor::TensorView::new(dtype, entry.shape.clone(), bytes).map_err(|e| {
            Error::artifact(path, format!("array {:?}: {e}", entry.name), "this is a defect: report it")
        })?;
        views.push((entry.name.as_str(), view));
    }
    // One key that holds sorted JSON, because the crate's hash map would give two runs two orders of keys.
    let text = serde_json::to_string(metadata).unwrap_or_default();
    let metadata = Some([(METADATA_KEY.to_owned(), text)].into_iter().collect());
    let bytes = safetensors::serialize(views, metadata)
        .map_err(|e| Error::artifact(path, e.to_string(), "this is a defect: report it"))?;
    write_atomic(path, |out| out.write_all(&bytes))
}

/// A memory-mapped file of arrays.
#[derive(Debug, Clone)]
pub struct ArrayFile {
    path: PathBuf,
    map: Arc<Mmap>,
    arrays: BTreeMap<String, Info>,
    metadata: BTreeMap<String, String>,
}

#[derive(Debug, Clone)]
struct Info {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Range<usize>,
}

impl ArrayFile {
    /// Maps a file and reads its header.
    ///
    /// # Errors
    /// A file that cannot be read, is truncated or damaged, or has a header beyond [`MAX_HEADER_BYTES`] or more than
    /// [`MAX_ARRAYS`] arrays.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::io("read", path, e))?;
        // SAFETY: artefacts are written under another name and renamed into place, so the bytes of an open file do not
        // change under us; a user who overwrites one in place breaks this as with every memory-mapped format.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io("map", path, e))?;
        let damaged = |problem: String| Error::artifact(path, problem, "make it again from the stage before");
        let header_bytes = header_len(&map).map_err(&damaged)?;
        let header = map.get(8..8 + header_bytes).unwrap_or(&[]);
        refuse_repeated_names(header).map_err(&damaged)?;
        let (_, header) = safetensors::SafeTensors::read_metadata(&map).map_err(|e| damaged(e.to_string()))?;
        let mut arrays = BTreeMap::new();
        for (name, info) in header.tensors() {
            let start = 8 + header_bytes;
            let bytes = start + info.data_offsets.0..start + info.data_offsets.1;
            if bytes.end > map.len() {
                return Err(damaged(format!("array {name:?} ends behind the file: it is truncated")));
            }
            arrays.insert(name, Info { dtype: info.dtype, shape: info.shape.clone(), bytes });
        }
        let metadata = match header.metadata().as_ref().and_then(|m| m.get(METADATA_KEY)) {
            Some(text) => serde_json::from_str(text).map_err(|e| damaged(format!("its metadata: {e}")))?,
            None => BTreeMap::new(),
        };
        Ok(Self { path: path.to_path_buf(), map: Arc::new(map), arrays, metadata })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names of the arrays.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.arrays.keys().map(String::as_str)
    }

    /// Text metadata by key.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(String::as_str)
    }

    /// The shape of an array.
    ///
    /// # Errors
    /// No array of that name.
    pub fn shape(&self, name: &str) -> Result<&[usize]> {
        Ok(&self.info(name)?.shape)
    }

    /// An array in place.
    ///
    /// # Errors
    /// No array of that name, or of another element type.
    pub fn column<T: Element>(&self, name: &str) -> Result<Column<T>> {
        let info = self.info(name)?;
        if info.dtype != T::DTYPE {
            let problem = format!("array {name:?} is {:?}, not {:?}", info.dtype, T::DTYPE);
            return Err(Error::artifact(&self.path, problem, "make it again with this version"));
        }
        // Fails on a misaligned or odd-sized range, which a damaged header can describe.
        bytemuck::try_cast_slice::<u8, T>(&self.map[info.bytes.clone()])
            .map_err(|e| Error::artifact(&self.path, format!("array {name:?}: {e}"), "make it again"))?;
        Ok(Column::Mapped { map: Arc::clone(&self.map), bytes: info.bytes.clone(), element: std::marker::PhantomData })
    }

    fn info(&self, name: &str) -> Result<&Info> {
        self.arrays.get(name).ok_or_else(|| {
            let names: Vec<&str> = self.names().take(20).collect();
            let problem = format!("there is no array {name:?} (there are: {})", names.join(", "));
            Error::artifact(&self.path, problem, "make it again with this version")
        })
    }
}

/// Element types of arrays.
pub trait Element: bytemuck::Pod {
    /// The file's word for it.
    const DTYPE: Dtype;
}

macro_rules! element {
    ($($t:ty => $d:ident),*) => { $(impl Element for $t { const DTYPE: Dtype = Dtype::$d; })* };
}
element!(u8 => U8, u16 => U16, u32 => U32, u64 => U64, i64 => I64, f32 => F32, f64 => F64);

/// A column of numbers, owned or in a mapped file.
#[derive(Debug, Clone)]
pub enum Column<T> {
    /// In memory.
    Owned(Arc<Vec<T>>),
    /// In place in a file; made only by [`ArrayFile::column`], which checked the cast.
    Mapped {
        /// The file.
        map: Arc<Mmap>,
        /// Where in it.
        bytes: Range<usize>,
        /// The element type.
        element: std::marker::PhantomData<T>,
    },
}

impl<T> From<Vec<T>> for Column<T> {
    fn from(values: Vec<T>) -> Self {
        Self::Owned(Arc::new(values))
    }
}

impl<T: bytemuck::Pod> Deref for Column<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        match self {
            Self::Owned(values) => values,
            Self::Mapped { map, bytes, .. } => bytemuck::cast_slice(&map[bytes.clone()]),
        }
    }
}

/// Reads the header's length and checks it against the cap and the file.
///
/// # Errors
/// Says what is wrong.
pub fn header_len(bytes: &[u8]) -> Result<usize, String> {
    let head = bytes.first_chunk::<8>().ok_or("the file is shorter than a header: it is truncated or empty")?;
    let len = u64::from_le_bytes(*head);
    if len > MAX_HEADER_BYTES {
        return Err(format!("its header claims {len} bytes, more than {MAX_HEADER_BYTES}: not a file of ours"));
    }
    let len = len as usize;
    if bytes.len() < 8 + len {
        return Err("the header ends behind the file: it is truncated".to_owned());
    }
    Ok(len)
}

/// Refuses a header that names an array twice (the safetensors crate takes the last one silently) or too many.
///
/// # Errors
/// Says what is wrong.
pub fn refuse_repeated_names(header: &[u8]) -> Result<(), String> {
    struct Names;
    impl<'de> serde::de::Visitor<'de> for Names {
        type Value = ();
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object of arrays")
        }
        fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
            let mut seen = std::collections::HashSet::new();
            while let Some(name) = map.next_key::<String>()? {
                map.next_value::<serde::de::IgnoredAny>()?;
                if seen.contains(&name) {
                    return Err(serde::de::Error::custom(format!("the name {name:?} appears twice")));
                }
                seen.insert(name);
                if seen.len() > MAX_ARRAYS {
                    return Err(serde::de::Error::custom(format!("more than {MAX_ARRAYS} arrays")));
                }
            }
            Ok(())
        }
    }
    use serde::Deserializer;
    serde_json::Deserializer::from_slice(header)
        .deserialize_map(Names)
        .map_err(|e| format!("its header is damaged: {e}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn sample(dir: &Path) -> PathBuf {
        let path = dir.join("a.safetensors");
        let entries = [
            Entry::flat("bytes", Array::U8(&[1, 2, 3])),
            Entry::shaped("matrix", &[2, 2], Array::F32(&[1.0, 2.0, 3.0, 4.0])),
            Entry::flat("long", Array::U64(&[7, 8])),
        ];
        write_arrays(&path, &entries, &BTreeMap::from([("kind".to_owned(), "test".to_owned())])).unwrap();
        path
    }

    #[test]
    fn arrays_come_back_as_they_were_written() {
        let dir = tempfile::tempdir().unwrap();
        let file = ArrayFile::open(&sample(dir.path())).unwrap();
        assert_eq!(&*file.column::<u8>("bytes").unwrap(), [1, 2, 3]);
        assert_eq!(&*file.column::<f32>("matrix").unwrap(), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(&*file.column::<u64>("long").unwrap(), [7, 8]);
        assert_eq!(file.shape("matrix").unwrap(), [2, 2]);
        assert_eq!(file.metadata("kind"), Some("test"));
        assert!(file.column::<u16>("matrix").unwrap_err().to_string().contains("F32"));
        assert!(file.column::<u16>("absent").unwrap_err().to_string().contains("matrix"));
    }

    #[test]
    fn every_truncation_is_refused_and_no_mutation_panics() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = std::fs::read(sample(dir.path())).unwrap();
        let path = dir.path().join("b.safetensors");
        for len in 0..bytes.len() {
            std::fs::write(&path, &bytes[..len]).unwrap();
            assert!(ArrayFile::open(&path).is_err(), "truncated to {len} bytes");
        }
        for at in 0..bytes.len() {
            for flip in [1u8, 0x80, 0xff] {
                let mut bad = bytes.clone();
                bad[at] ^= flip;
                std::fs::write(&path, &bad).unwrap();
                if let Ok(file) = ArrayFile::open(&path) {
                    let _ = (file.column::<u8>("bytes"), file.column::<f32>("matrix"), file.column::<u64>("long"));
                }
            }
        }
    }

    #[test]
    fn hostile_headers_are_refused_before_they_are_parsed() {
        assert!(header_len(&u64::MAX.to_le_bytes()).unwrap_err().contains("more than"));
        let twice = br#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#;
        assert!(refuse_repeated_names(twice).unwrap_err().contains("twice"));
        assert!(refuse_repeated_names(b"[1]").is_err());
    }
}
