//! Vectors in NumPy's `.npy`. The header is a Python literal; the three facts in it are read and nothing is evaluated.

use std::sync::Arc;

use sidereal_core::{Error, Result};

use super::matrix::Matrix;
use super::opened::Opened;
use super::{AGAIN, Contents, check_len};
use crate::precision::Precision;

const MAGIC: &[u8] = b"\x93NUMPY";
const MAX_HEADER_BYTES: usize = 1 << 16;
const AS_FLOATS: &str = "save it with `numpy.save(path, numpy.asarray(x, dtype=numpy.float32))`";

pub(super) fn open(file: &Opened, _name: Option<&str>) -> Result<Contents> {
    let head = file.head((MAX_HEADER_BYTES + 16) as u64)?;
    let place = &file.place;
    let (text, start) = header(&head).map_err(|problem| Error::input(place, problem, AGAIN))?;
    let (precision, big_endian) = element(text).map_err(|problem| Error::input(place, problem, AS_FLOATS))?;
    let by_columns = match value_of(text, "fortran_order") {
        Some(value) if value.starts_with("True") => true,
        Some(value) if value.starts_with("False") => false,
        _ => return Err(Error::input(place, "its header does not say the order of the numbers", AGAIN)),
    };
    let Some(shape) = shape(text) else {
        return Err(Error::input(place, "its header does not say the shape", AGAIN));
    };
    let [rows, width] = *shape.as_slice() else {
        let problem = format!("it has the shape {shape:?}, not [N, D]");
        return Err(Error::input(place, problem, "write one vector a row for each item"));
    };
    let start = start as u64;
    check_len(place, file.bytes.size() - start, rows, width, precision)?;
    if by_columns && file.remote {
        let problem = "its numbers stand column by column, so that a row would take a request for each of them";
        let mend = "copy the file here, or save it with `numpy.ascontiguousarray`";
        return Err(Error::input(place, problem, mend));
    }
    let bytes = Arc::clone(&file.bytes);
    Ok(Contents::Matrix(Matrix { bytes, start, rows, width, precision, big_endian, by_columns }))
}

/// The header's text and where the numbers begin.
fn header(bytes: &[u8]) -> Result<(&str, usize), String> {
    let rest = bytes.strip_prefix(MAGIC).ok_or("it is not a .npy file: it does not begin as one")?;
    let (size_bytes, size) = match rest {
        [1, _, a, b, ..] => (2, usize::from(u16::from_le_bytes([*a, *b]))),
        [2 | 3, _, a, b, c, d, ..] => (4, u32::from_le_bytes([*a, *b, *c, *d]) as usize),
        [1..=3, ..] => return Err("its header is cut off".to_owned()),
        [version, ..] => return Err(format!("it has version {version} of the format, not 1, 2 or 3")),
        [] => return Err("its header is cut off".to_owned()),
    };
    if size > MAX_HEADER_BYTES {
        return Err(format!("its header claims {size} bytes, more than {MAX_HEADER_BYTES}"));
    }
    let from = MAGIC.len() + 2 + size_bytes;
    let text = bytes.get(from..from + size).ok_or("its header is cut off")?;
    Ok((std::str::from_utf8(text).map_err(|_| "its header is not text")?, from + size))
}

/// What follows `'key':` in the header.
fn value_of<'a>(header: &'a str, key: &str) -> Option<&'a str> {
    let after = ['\'', '"'].iter().find_map(|quote| header.split_once(&format!("{quote}{key}{quote}")))?.1;
    Some(after.trim_start().strip_prefix(':')?.trim_start())
}

fn element(header: &str) -> Result<(Precision, bool), String> {
    let value = value_of(header, "descr").ok_or("its header does not say the type of the numbers")?;
    let quoted = value.strip_prefix('\'').or_else(|| value.strip_prefix('"'));
    let Some(code) = quoted.and_then(|rest| rest.split(['\'', '"']).next()) else {
        return Err("it holds records of several fields, not a matrix of floats".to_owned());
    };
    let (order, kind) = code.split_at_checked(1).unwrap_or(("", code));
    if !matches!(order, "<" | ">" | "=" | "|") {
        return Err(format!("it holds numbers of type {code:?}, not f16, bf16, f32 or f64"));
    }
    let precision = match kind {
        "f2" => Precision::F16,
        "f4" => Precision::F32,
        "f8" => Precision::F64,
        // NumPy has no bf16: ml_dtypes saves it as two bytes without a meaning.
        "V2" => Precision::Bf16,
        "O" => return Err("it holds Python objects (a pickle), which are never read".to_owned()),
        _ => return Err(format!("it holds numbers of type {code:?}, not f16, bf16, f32 or f64")),
    };
    Ok((precision, order == ">"))
}

fn shape(header: &str) -> Option<Vec<usize>> {
    let (inside, _) = value_of(header, "shape")?.strip_prefix('(')?.split_once(')')?;
    let sizes = inside.split(',').map(str::trim).filter(|size| !size.is_empty());
    sizes.map(|size| size.trim_end_matches('L').parse().ok()).collect()
}
