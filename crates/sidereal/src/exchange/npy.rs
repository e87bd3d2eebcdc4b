//! NumPy arrays as files: written by hand (a header of three facts), read for their numbers only.

use std::path::Path;

use sidereal_core::Error;
use sidereal_core::artifact::write_atomic;

use crate::Result;

/// Writes an array; `bytes` are its little-endian elements, row-major.
pub(super) fn write(path: &Path, element: &str, shape: &[usize], bytes: &[u8]) -> Result<()> {
    let sizes: String = shape.iter().map(|size| format!("{size}, ")).collect();
    let sizes = if shape.len() > 1 { sizes.trim_end_matches(", ") } else { sizes.trim_end() };
    let header = format!("{{'descr': '{element}', 'fortran_order': False, 'shape': ({sizes}), }}");
    // Magic, version and length take 10 bytes; the numbers begin at a multiple of 64, after a line break.
    let padding = (64 - (10 + header.len() + 1) % 64) % 64;
    let length = (header.len() + padding + 1) as u16;
    Ok(write_atomic(path, |out| {
        out.write_all(b"\x93NUMPY\x01\x00")?;
        out.write_all(&length.to_le_bytes())?;
        writeln!(out, "{header}{:padding$}", "")?;
        out.write_all(bytes)
    })?)
}

/// Reads an array of f32 with its shape.
///
/// # Errors
/// Another element type; fewer numbers than the header claims, which is seen before anything is allocated.
pub(super) fn read_f32(path: &Path) -> Result<(Vec<usize>, Vec<f32>)> {
    let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
    let wrong = |problem: String| {
        Error::artifact(path, problem, "save it with numpy.save(path, numpy.asarray(x, dtype=numpy.float32))")
    };
    let file = npyz::NpyFile::new(&bytes[..]).map_err(|e| wrong(e.to_string()))?;
    let shape: Vec<usize> = file.shape().iter().map(|&size| size as usize).collect();
    let numbers = shape.iter().try_fold(1usize, |all, &size| all.checked_mul(size));
    if numbers.and_then(|numbers| numbers.checked_mul(4)).is_none_or(|wanted| wanted > bytes.len()) {
        return Err(wrong(format!("the shape {shape:?} is larger than the file")).into());
    }
    if file.order() != npyz::Order::C {
        return Err(wrong("it is in Fortran order".to_owned()).into());
    }
    let descr = file.dtype().descr();
    if descr.trim_matches(['\'', '"']) != "<f4" {
        return Err(wrong(format!("its numbers are {descr}, not f32")).into());
    }
    let values = file.into_vec::<f32>().map_err(|e| wrong(e.to_string()))?;
    Ok((shape, values))
}
