//! Equal things among many, found exactly in bounded memory: what has an equal has the same hash, so hashes are taken
//! in several passes over the things, each pass holding those of one part of the hashes' range.

use std::hash::{DefaultHasher, Hasher};
use std::ops::Range;
use std::path::PathBuf;

use arrow::array::{Array, AsArray};
use arrow::datatypes::UInt16Type;
use rayon::prelude::*;
use sidereal_core::Error;

use crate::{Result, parquet_file};

/// 128 bits, as two words: among 10^9 things two different ones share them by a chance of 10^-20.
pub(crate) type Hash = [u64; 2];

/// Keys of one pass, about.
const KEYS: u64 = 1 << 23;

/// The hash of an id; it is of this process only.
pub(crate) fn hash_of(id: &str) -> Hash {
    [0u8, 1].map(|first| {
        let mut hasher = DefaultHasher::new();
        hasher.write_u8(first);
        hasher.write(id.as_bytes());
        hasher.finish()
    })
}

/// How many passes some number of things takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Passes {
    things: u64,
    bits: u32,
}

/// One of them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pass {
    number: u64,
    bits: u32,
}

impl Passes {
    pub(crate) fn over(things: u64) -> Self {
        Self::with_keys(things, KEYS)
    }

    fn with_keys(things: u64, keys: u64) -> Self {
        Self { things, bits: things.div_ceil(keys).next_power_of_two().trailing_zeros() }
    }

    pub(crate) fn count(self) -> u64 {
        1 << self.bits
    }

    pub(crate) fn each(self) -> impl Iterator<Item = Pass> {
        (0..self.count()).map(move |number| Pass { number, bits: self.bits })
    }

    /// Room for the keys of a pass; their parts of the range are of nearly one size.
    pub(crate) fn room_for_keys<T>(self) -> Vec<T> {
        let each = self.things / self.count();
        Vec::with_capacity(usize::try_from(each + each / 50 + 64).unwrap_or(0))
    }
}

impl Pass {
    /// Whether a hash is one of this pass.
    pub(crate) fn takes(self, [word, _]: Hash) -> bool {
        // Shifting by all 64 bits is not defined.
        self.bits == 0 || word >> (64 - self.bits) == self.number
    }
}

/// Sorts the keys, and gives the rows of the first thing that is there twice: first by its second row.
pub(crate) fn first_twice(keys: &mut [(Hash, u64)]) -> Option<(u64, u64)> {
    keys.par_sort_unstable();
    let twice = keys.windows(2).filter(|pair| pair[0].0 == pair[1].0).map(|pair| (pair[0].1, pair[1].1));
    twice.min_by_key(|&(_, second)| second)
}

/// Number of distinct semantic IDs in files of codes.
pub(crate) fn distinct_codes(files: &[PathBuf], codes_per_level: &[u32], rows: u64) -> Result<u64> {
    distinct(files, codes_per_level, Passes::over(rows))
}

fn distinct(files: &[PathBuf], codes_per_level: &[u32], passes: Passes) -> Result<u64> {
    let mut found = 0;
    for pass in passes.each() {
        let mut keys: Vec<Hash> = passes.room_for_keys();
        for file in files {
            for batch in parquet_file::columns(file, &["codes"])? {
                let batch = batch?;
                let gone = || Error::artifact(file, "it has no codes", "remove it and run the same command again");
                let lists = batch.column_by_name("codes").and_then(|c| c.as_list_opt::<i32>()).ok_or_else(gone)?;
                let codes = lists.values().as_primitive_opt::<UInt16Type>().ok_or_else(gone)?.values();
                let offsets = lists.value_offsets();
                let row = |row: usize| -> Range<usize> { offsets[row] as usize..offsets[row + 1] as usize };
                let valid = (0..lists.len()).filter(|&row| lists.is_valid(row));
                let hashes = valid.map(|at| key_of(codes.get(row(at)).unwrap_or(&[]), codes_per_level));
                keys.extend(hashes.filter(|key| pass.takes(*key)));
            }
        }
        keys.par_sort_unstable();
        keys.dedup();
        found += keys.len() as u64;
    }
    Ok(found)
}

/// A semantic ID as 128 bits, without loss where all codes fit into them, as they nearly always do.
fn key_of(codes: &[u16], codes_per_level: &[u32]) -> Hash {
    let mut packed = Some(0u128);
    let mut room = Some(1u128);
    for (&code, &count) in codes.iter().zip(codes_per_level) {
        packed = packed.and_then(|p| p.checked_mul(u128::from(count))?.checked_add(u128::from(code)));
        room = room.and_then(|r| r.checked_mul(u128::from(count)));
    }
    match packed.filter(|_| room.is_some()) {
        // Both words are mixed by odd factors, which loses nothing, and the first by the second, so that passes are
        // of one size.
        Some(packed) => {
            let (high, low) = ((packed >> 64) as u64, packed as u64);
            let mixed = (low ^ high.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            [(mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9), high]
        }
        None => [0u8, 1].map(|first| {
            let mut hasher = DefaultHasher::new();
            hasher.write_u8(first);
            codes.iter().for_each(|code| hasher.write_u16(*code));
            hasher.finish()
        }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn equal_ids_are_found_whatever_the_number_of_passes() {
        let ids: Vec<String> = (0..5000).map(|i| format!("item {}", if i == 4321 { 17 } else { i })).collect();
        for keys in [10_000, 1000, 7] {
            let passes = Passes::with_keys(5000, keys);
            let found: Vec<_> = passes
                .each()
                .filter_map(|pass| {
                    let hashed = ids.iter().enumerate().map(|(row, id)| (hash_of(id), row as u64));
                    let mut keys: Vec<_> = hashed.filter(|(hash, _)| pass.takes(*hash)).collect();
                    first_twice(&mut keys)
                })
                .collect();
            assert_eq!(found, [(17, 4321)]);
        }
    }

    #[test]
    fn keys_tell_all_semantic_ids_apart() {
        for codes_per_level in [vec![7, 11, 13], vec![65_536; 9]] {
            let all: Vec<Vec<u16>> = (0..7 * 11 * 13u16)
                .map(|i| {
                    let mut codes: Vec<u16> = codes_per_level.iter().map(|_| i / 143).collect();
                    (codes[1], codes[2]) = (i / 13 % 11, i % 13);
                    codes
                })
                .collect();
            let keys: HashSet<Hash> = all.iter().map(|codes| key_of(codes, &codes_per_level)).collect();
            assert_eq!(keys.len(), all.len());
        }
    }

    #[test]
    fn passes_are_of_nearly_one_size() {
        let passes = Passes::with_keys(1 << 18, 1 << 15);
        assert_eq!(passes.count(), 8);
        for pass in passes.each() {
            let keys = (0..1u32 << 18).filter(|i| {
                let codes = [(i >> 12) as u16, (i & 0xfff) as u16];
                pass.takes(key_of(&codes, &[4096, 4096]))
            });
            let keys = keys.count();
            assert!((31_000..35_000).contains(&keys), "{keys} keys of {}", 1 << 15);
        }
    }
}
