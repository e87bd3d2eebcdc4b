//! Vectors in a safetensors file.

use std::sync::Arc;

use safetensors::Dtype;
use safetensors::tensor::Metadata;
use sidereal_core::array_file::{MAX_HEADER_BYTES, header_len, refuse_repeated_names};
use sidereal_core::{Error, Result};

use super::matrix::Matrix;
use super::opened::Opened;
use super::{AGAIN, Contents, check_len};
use crate::precision::Precision;

const USUAL_NAME: &str = "embeddings";

pub(super) fn open(file: &Opened, name: Option<&str>) -> Result<Contents> {
    let place = &file.place;
    let head = file.head(8 + MAX_HEADER_BYTES)?;
    let damaged = |problem: String| Error::input(place, problem, AGAIN);
    // The crate parses huge headers and takes the last of two equal names: both are refused before.
    let header_bytes = header_len(&head).map_err(damaged)?;
    let text = head.get(8..8 + header_bytes).unwrap_or(&[]);
    refuse_repeated_names(text).map_err(damaged)?;
    let header: Metadata = serde_json::from_slice(text).map_err(|e| damaged(e.to_string()))?;
    let tensors = header.tensors();
    let numbers_end = tensors.values().map(|tensor| tensor.data_offsets.1).max().unwrap_or(0) as u64;
    if numbers_end.checked_add(8 + header_bytes as u64) != Some(file.bytes.size()) {
        let problem = format!("its header says {numbers_end} bytes of numbers, but it has others");
        return Err(damaged(problem));
    }
    let mut names: Vec<&str> = tensors.keys().map(String::as_str).collect();
    names.sort_unstable();
    let two_dimensional: Vec<&str> = names.iter().copied().filter(|n| tensors[*n].shape.len() == 2).collect();
    let chosen = match (name, two_dimensional.as_slice()) {
        (Some(name), _) => name,
        (None, _) if tensors.contains_key(USUAL_NAME) => USUAL_NAME,
        (None, [only]) => only,
        (None, _) => {
            let problem =
                format!("no tensor is named {USUAL_NAME:?}, and {} have two dimensions", two_dimensional.len());
            let mend = format!("name the tensor with `--name` ({})", listed(&names));
            return Err(Error::input(place, problem, mend));
        }
    };
    let Some(tensor) = tensors.get(chosen) else {
        let problem = format!("there is no tensor {chosen:?} ({})", listed(&names));
        return Err(Error::input(place, problem, "correct the name, or leave it out"));
    };
    let precision = match tensor.dtype {
        Dtype::F16 => Precision::F16,
        Dtype::BF16 => Precision::Bf16,
        Dtype::F32 => Precision::F32,
        Dtype::F64 => Precision::F64,
        other => {
            let problem = format!("tensor {chosen:?} is {other:?}, but vectors are f16, bf16, f32 or f64");
            return Err(Error::input(place, problem, "cast it in the program that writes the file"));
        }
    };
    let [rows, width] = *tensor.shape.as_slice() else {
        let problem = format!("tensor {chosen:?} has the shape {:?}, not [N, D]", tensor.shape);
        return Err(Error::input(place, problem, "write one vector a row for each item"));
    };
    let (from, to) = tensor.data_offsets;
    check_len(place, to.saturating_sub(from) as u64, rows, width, precision)?;
    let start = (8 + header_bytes + from) as u64;
    let bytes = Arc::clone(&file.bytes);
    Ok(Contents::Matrix(Matrix { bytes, start, rows, width, precision, big_endian: false, by_columns: false }))
}

fn listed(names: &[&str]) -> String {
    let shown: Vec<String> = names.iter().take(20).map(|name| format!("{name:?}")).collect();
    let more = names.len().saturating_sub(shown.len());
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("there are: {}{more}", shown.join(", "))
}
