//! One integer tensor in PyTorch's file format, without PyTorch and without running a pickle.
//!
//! `torch.save(tensor)` writes a ZIP archive of stored entries: `NAME/data.pkl` says element type, shape and strides in
//! a pickle, `NAME/data/0` holds the numbers. The pickle is read as a description: a call that is not the one that
//! rebuilds a tensor is refused, and nothing is called.

use std::path::Path;

use candle_core::pickle::{Object, Stack};
use sidereal_core::Error;
use sidereal_core::artifact::write_atomic;

use crate::Result;

/// Longest description that is read.
const MAX_PICKLE_BYTES: usize = 1 << 16;
const ALIGNMENT: usize = 64;
const NAME: &str = "archive";

/// A matrix of integers, row-major, with its shape.
pub(super) struct Matrix {
    pub(super) shape: [usize; 2],
    pub(super) values: Vec<i64>,
}

/// Reads a file that `torch.save` made of one tensor of two dimensions.
///
/// # Errors
/// Anything else, and whatever is damaged.
pub(super) fn read(path: &Path) -> Result<Matrix> {
    let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
    parse(&bytes).map_err(|problem| {
        let mend = "write it with torch.save(ids.long().contiguous().cpu(), path), ids being [levels, items]";
        Error::artifact(path, problem, mend).into()
    })
}

fn parse(bytes: &[u8]) -> std::result::Result<Matrix, String> {
    let entries = entries(bytes)?;
    let (pickle_name, pickle) =
        entries.iter().find(|(name, _)| name.ends_with("data.pkl")).ok_or("it holds no data.pkl")?;
    if pickle.len() > MAX_PICKLE_BYTES {
        return Err(format!("its data.pkl has {} bytes: more than one tensor", pickle.len()));
    }
    let mut stack = Stack::empty();
    let read = stack.read_loop(&mut &pickle[..]).and_then(|()| stack.finalize());
    let Tensor { element, key, offset, shape, strides } =
        tensor(read.map_err(|e| format!("its data.pkl cannot be read: {e}"))?).ok_or("it is not one plain tensor")?;
    let bytes_each = match element.as_str() {
        "LongStorage" => 8,
        "IntStorage" => 4,
        other => return Err(format!("its numbers are a {other}, not 64-bit or 32-bit integers")),
    };
    let folder = pickle_name.strip_suffix("data.pkl").unwrap_or_default();
    let name = format!("{folder}data/{key}");
    let (_, data) = entries.iter().find(|(found, _)| *found == name).ok_or_else(|| format!("it holds no {name}"))?;
    let order = entries.iter().find(|(found, _)| *found == format!("{folder}byteorder"));
    if order.is_some_and(|(_, order)| *order != b"little") {
        return Err("its numbers are not little-endian".to_owned());
    }
    let [rows, columns] = shape;
    let count = rows.checked_mul(columns).filter(|&count| count <= data.len() / bytes_each);
    let count = count.ok_or_else(|| format!("its shape {shape:?} is larger than its data"))?;
    let mut values = Vec::with_capacity(count);
    for row in 0..rows {
        for column in 0..columns {
            let at = row.checked_mul(strides[0]).zip(column.checked_mul(strides[1]));
            let at = at.and_then(|(row, column)| row.checked_add(column)?.checked_add(offset)?.checked_mul(bytes_each));
            let number = at.and_then(|at| data.get(at..at.checked_add(bytes_each)?));
            let number = number.ok_or("its strides lead out of its data")?;
            values.push(match number {
                [a, b, c, d] => i64::from(i32::from_le_bytes([*a, *b, *c, *d])),
                _ => number.first_chunk().map_or(0, |bytes| i64::from_le_bytes(*bytes)),
            });
        }
    }
    Ok(Matrix { shape, values })
}

/// What the pickle says.
struct Tensor {
    element: String,
    key: String,
    offset: usize,
    shape: [usize; 2],
    strides: [usize; 2],
}

fn tensor(object: Object) -> Option<Tensor> {
    let Object::Reduce { callable, args } = object else { return None };
    let Object::Class { module_name, class_name } = *callable else { return None };
    if (module_name.as_str(), class_name.as_str()) != ("torch._utils", "_rebuild_tensor_v2") {
        return None;
    }
    let Object::Tuple(args) = *args else { return None };
    let [Object::PersistentLoad(storage), offset, shape, strides, ..] = args.as_slice() else { return None };
    let Object::Tuple(storage) = &**storage else { return None };
    let [Object::Unicode(kind), Object::Class { module_name, class_name }, Object::Unicode(key), ..] =
        storage.as_slice()
    else {
        return None;
    };
    (kind == "storage" && module_name == "torch").then_some(())?;
    Some(Tensor {
        element: class_name.clone(),
        key: key.clone(),
        offset: size(offset)?,
        shape: pair(shape)?,
        strides: pair(strides)?,
    })
}

fn size(object: &Object) -> Option<usize> {
    match object {
        Object::Int(number) => usize::try_from(*number).ok(),
        Object::Long(number) => usize::try_from(*number).ok(),
        _ => None,
    }
}

fn pair(object: &Object) -> Option<[usize; 2]> {
    let Object::Tuple(sizes) = object else { return None };
    let [first, second] = sizes.as_slice() else { return None };
    Some([size(first)?, size(second)?])
}

/// The stored entries of a ZIP archive, by its directory.
fn entries(bytes: &[u8]) -> std::result::Result<Vec<(String, &[u8])>, String> {
    const END: &[u8] = b"PK\x05\x06";
    const CENTRAL: &[u8] = b"PK\x01\x02";
    let damaged = || "it is not a ZIP archive as torch.save writes, or it is truncated".to_owned();
    let short = |at: usize| bytes.get(at..at + 2)?.first_chunk().map(|b| usize::from(u16::from_le_bytes(*b)));
    let long = |at: usize| bytes.get(at..at + 4)?.first_chunk().map(|b| u32::from_le_bytes(*b) as usize);
    // The end record is 22 bytes and a comment of at most 65,535.
    let from = bytes.len().saturating_sub(22 + 65_535);
    let end = bytes[from..].windows(4).rposition(|window| window == END).ok_or_else(damaged)? + from;
    let read = || -> Option<Vec<(String, usize, usize, usize)>> {
        let (count, mut at) = (short(end + 10)?, long(end + 16)?);
        // A comment, if there is one, ends the file.
        (end + 22 + short(end + 20)? == bytes.len()).then_some(())?;
        let mut found = Vec::new();
        for _ in 0..count {
            (bytes.get(at..at + 4)? == CENTRAL).then_some(())?;
            let (method, packed, name_len) = (short(at + 10)?, long(at + 20)?, short(at + 28)?);
            let (extra, comment, local) = (short(at + 30)?, short(at + 32)?, long(at + 42)?);
            let name = std::str::from_utf8(bytes.get(at + 46..at + 46 + name_len)?).ok()?.to_owned();
            found.push((name, method, packed, local));
            at += 46 + name_len + extra + comment;
        }
        Some(found)
    };
    let found = read().ok_or_else(damaged)?;
    found
        .into_iter()
        .map(|(name, method, packed, local)| {
            if method != 0 {
                return Err(format!("its entry {name} is compressed, which torch.save does not do"));
            }
            let data = || {
                let start = local.checked_add(30)?.checked_add(short(local + 26)?)?.checked_add(short(local + 28)?)?;
                bytes.get(start..start.checked_add(packed)?)
            };
            Ok((name, data().ok_or_else(damaged)?))
        })
        .collect()
}

/// Writes a tensor of 64-bit integers as `torch.save` would.
///
/// # Errors
/// More than 4 GiB; whatever the file system says.
pub(super) fn write(path: &Path, matrix: &Matrix) -> Result<()> {
    let data: Vec<u8> = matrix.values.iter().flat_map(|value| value.to_le_bytes()).collect();
    if u32::try_from(data.len() + 4096).is_err() {
        let problem = format!("{} bytes do not fit a ZIP archive of 32-bit sizes", data.len());
        return Err(Error::input(path.display().to_string(), problem, "export another format").into());
    }
    let pickle = pickle(matrix);
    let entries: [(&str, &[u8]); 4] =
        [("data.pkl", &pickle), ("byteorder", b"little"), ("data/0", &data), ("version", b"3\n")];
    let mut archive = Vec::with_capacity(data.len() + 4096);
    let mut directory = Vec::new();
    for (name, content) in entries {
        let name = format!("{NAME}/{name}");
        let start = archive.len();
        // The numbers begin at a multiple of 64; an extra field fills the way there.
        let unpadded = start + 30 + name.len() + 4;
        let padding = (ALIGNMENT - unpadded % ALIGNMENT) % ALIGNMENT;
        let mut head = Vec::new();
        for value in [0u16, 0, 0, 0, 0x21] {
            // Flags, method (stored), time and date (the format's first day), without the version before them.
            head.extend_from_slice(&value.to_le_bytes());
        }
        let head = &head[2..];
        let sizes = [crc32(content), content.len() as u32, content.len() as u32].map(u32::to_le_bytes).concat();
        archive.extend_from_slice(b"PK\x03\x04\x14\x00");
        archive.extend_from_slice(head);
        archive.extend_from_slice(&sizes);
        archive.extend_from_slice(&(name.len() as u16).to_le_bytes());
        archive.extend_from_slice(&((padding + 4) as u16).to_le_bytes());
        archive.extend_from_slice(name.as_bytes());
        archive.extend_from_slice(b"FB");
        archive.extend_from_slice(&(padding as u16).to_le_bytes());
        archive.resize(archive.len() + padding, b'Z');
        archive.extend_from_slice(content);
        directory.extend_from_slice(b"PK\x01\x02\x14\x00\x14\x00");
        directory.extend_from_slice(head);
        directory.extend_from_slice(&sizes);
        directory.extend_from_slice(&(name.len() as u16).to_le_bytes());
        // No extra field, no comment, first disk, no attributes.
        directory.extend_from_slice(&[0; 12]);
        directory.extend_from_slice(&(start as u32).to_le_bytes());
        directory.extend_from_slice(name.as_bytes());
    }
    let (start, count) = (archive.len() as u32, entries.len() as u16);
    let size = directory.len() as u32;
    archive.extend_from_slice(&directory);
    archive.extend_from_slice(b"PK\x05\x06\x00\x00\x00\x00");
    archive.extend_from_slice(&count.to_le_bytes());
    archive.extend_from_slice(&count.to_le_bytes());
    archive.extend_from_slice(&size.to_le_bytes());
    archive.extend_from_slice(&start.to_le_bytes());
    archive.extend_from_slice(&[0; 2]);
    Ok(write_atomic(path, |out| out.write_all(&archive))?)
}

/// The description of a contiguous tensor, in pickle's protocol 2.
fn pickle(matrix: &Matrix) -> Vec<u8> {
    fn text(out: &mut Vec<u8>, text: &str) {
        out.push(b'X');
        out.extend_from_slice(&(text.len() as u32).to_le_bytes());
        out.extend_from_slice(text.as_bytes());
    }
    fn number(out: &mut Vec<u8>, number: usize) {
        match i32::try_from(number) {
            Ok(small) => {
                out.push(b'J');
                out.extend_from_slice(&small.to_le_bytes());
            }
            Err(_) => {
                out.extend_from_slice(&[0x8a, 8]);
                out.extend_from_slice(&(number as u64).to_le_bytes());
            }
        }
    }
    let [rows, columns] = matrix.shape;
    let mut out = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((".to_vec();
    text(&mut out, "storage");
    out.extend_from_slice(b"ctorch\nLongStorage\n");
    text(&mut out, "0");
    text(&mut out, "cpu");
    number(&mut out, rows * columns);
    out.extend_from_slice(b"tQ");
    number(&mut out, 0);
    for pair in [[rows, columns], [columns, 1]] {
        pair.into_iter().for_each(|size| number(&mut out, size));
        out.push(0x86);
    }
    // No gradient, no hooks.
    out.extend_from_slice(b"\x89ccollections\nOrderedDict\n)RtR.");
    out
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_tensor_comes_back_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ids.pt");
        write(&path, &Matrix { shape: [2, 3], values: vec![1, -2, 3, 4, 5, 1 << 40] }).unwrap();
        let back = read(&path).unwrap();
        assert_eq!((back.shape, back.values), ([2, 3], vec![1, -2, 3, 4, 5, 1 << 40]));
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    /// `fixtures/grid.pt`, written by `fixtures/make_grid.py`: a transposed view, so its strides are not those of rows.
    #[test]
    fn what_torch_wrote_is_read() {
        let found = parse(include_bytes!("fixtures/grid.pt")).unwrap();
        assert_eq!(found.shape, [3, 5]);
        assert_eq!(found.values, [[7, 0, 4, 9, 1], [255, 1, 5, 8, 0], [3, 2, 6, 7, 0]].concat());
    }

    #[test]
    fn damage_is_refused_and_never_panics() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ids.pt");
        write(&path, &Matrix { shape: [1, 2], values: vec![1, 2] }).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        for len in 0..bytes.len() {
            assert!(parse(&bytes[..len]).is_err(), "truncated to {len} bytes");
        }
        for at in 0..bytes.len() {
            for flip in [1u8, 0x80, 0xff] {
                let mut bad = bytes.clone();
                bad[at] ^= flip;
                let _ = parse(&bad);
            }
        }
    }

    #[test]
    fn what_is_not_one_tensor_is_refused() {
        let call = Object::Reduce {
            callable: Box::new(Object::Class { module_name: "os".to_owned(), class_name: "system".to_owned() }),
            args: Box::new(Object::Tuple(vec![Object::Unicode("true".to_owned())])),
        };
        assert!(tensor(call).is_none());
        assert!(tensor(Object::Dict(vec![])).is_none());
    }
}
