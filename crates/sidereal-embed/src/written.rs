//! Files that tests read back.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, Float32Builder, ListBuilder, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;

use crate::precision::Precision;

/// One tensor `t` of any shape.
pub(crate) fn safetensors(dir: &Path, precision: Precision, shape: &[usize], values: &[f32]) -> PathBuf {
    let bytes = precision.encode(values);
    let dtype = precision.safetensors_name();
    let header = format!(r#"{{"t":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[0,{}]}}}}"#, bytes.len());
    write(dir, "v.safetensors", &[&(header.len() as u64).to_le_bytes(), header.as_bytes(), &bytes])
}

/// A `.npy` as NumPy writes it.
pub(crate) fn npy(dir: &Path, precision: Precision, by_columns: bool, shape: &[usize; 2], values: &[f32]) -> PathBuf {
    let [rows, width] = *shape;
    let order: Vec<f32> = match by_columns {
        true => (0..width).flat_map(|d| (0..rows).map(move |row| values[row * width + d])).collect(),
        false => values.to_vec(),
    };
    let descr = match precision {
        Precision::F16 => "<f2",
        Precision::Bf16 => "<V2",
        Precision::F32 => "<f4",
        Precision::F64 => "<f8",
    };
    let fortran = if by_columns { "True" } else { "False" };
    let text = format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': ({rows}, {width}), }}");
    npy_of(dir, &text, &precision.encode(&order))
}

/// A `.npy` with any header.
pub(crate) fn npy_of(dir: &Path, header: &str, numbers: &[u8]) -> PathBuf {
    let padded = format!("{header:<118}");
    write(dir, "v.npy", &[b"\x93NUMPY\x01\x00", &(padded.len() as u16).to_le_bytes(), padded.as_bytes(), numbers])
}

/// A list column `embedding`, with ids or without.
pub(crate) fn parquet(dir: &Path, ids: Option<&[&str]>, vectors: &[Option<Vec<f32>>]) -> PathBuf {
    let mut lists = ListBuilder::new(Float32Builder::new());
    for vector in vectors {
        lists.values().append_slice(vector.as_deref().unwrap_or(&[]));
        lists.append(vector.is_some());
    }
    let mut columns: Vec<(&str, ArrayRef)> = vec![("embedding", Arc::new(lists.finish()))];
    columns.extend(ids.map(|ids| ("item_id", Arc::new(StringArray::from(ids.to_vec())) as ArrayRef)));
    parquet_of(dir, columns)
}

/// JSON Lines as they are.
pub(crate) fn json_lines(dir: &Path, text: &str) -> PathBuf {
    write(dir, "v.jsonl", &[text.as_bytes()])
}

/// Any columns.
pub(crate) fn parquet_of(dir: &Path, columns: Vec<(&str, ArrayRef)>) -> PathBuf {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    write(dir, "v.parquet", &[&bytes])
}

pub(crate) fn write(dir: &Path, name: &str, parts: &[&[u8]]) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, parts.concat()).unwrap();
    path
}
