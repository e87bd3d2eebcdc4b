//! Rows that cannot be encoded: no vector, NaN, infinity, or numbers beyond the range of the tokenizers.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sidereal_core::Error;
use sidereal_tokenizer::LARGEST;

use super::Chunk;

/// Rows of one parallel block.
const BLOCK: usize = 512;
/// Rows that an error names.
const NAMED: usize = 5;

/// What becomes of rows that cannot be encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnInvalid {
    /// The job stops and names the first ones.
    #[default]
    Error,
    /// They get no codes.
    Null,
    /// They get no row.
    Skip,
}

impl OnInvalid {
    /// All policies.
    pub const ALL: [Self; 3] = [Self::Error, Self::Null, Self::Skip];

    /// Its word on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Null => "null",
            Self::Skip => "skip",
        }
    }
}

impl std::str::FromStr for OnInvalid {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|policy| policy.name() == name).ok_or_else(|| {
            Error::config("--on-invalid", format!("there is no policy {name:?}"), "use one of: error, null, skip")
        })
    }
}

/// What is wrong with a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Missing,
    NotFinite,
    TooLarge,
}

/// The rows of a chunk that cannot be encoded, in order, counted from its first.
pub(crate) fn faults(chunk: &Chunk) -> Vec<(usize, Fault)> {
    let width = chunk.values.len() / chunk.rows.max(1);
    let judge = |row: &[f32]| {
        // Without the sign, bits order floats: NaN lies above infinity, and that above all others.
        let most = row.iter().fold(0u32, |most, value| most.max(value.to_bits() & 0x7fff_ffff));
        match most {
            most if most >= f32::INFINITY.to_bits() => Some(Fault::NotFinite),
            most if most > LARGEST.to_bits() => Some(Fault::TooLarge),
            _ => None,
        }
    };
    let blocks = chunk.values.par_chunks(BLOCK * width.max(1)).enumerate();
    let found = blocks.flat_map_iter(|(block, values)| {
        let rows = values.chunks_exact(width.max(1)).enumerate();
        rows.filter_map(move |(row, values)| Some((block * BLOCK + row, judge(values)?)))
    });
    let mut found: Vec<(usize, Fault)> = found.collect();
    for (row, fault) in &mut found {
        if chunk.missing.binary_search(&(chunk.first_row + *row as u64)).is_ok() {
            *fault = Fault::Missing;
        }
    }
    found
}

/// The error that names the first of them; `or_give`: what else mends it, where the command has a policy for them.
pub(crate) fn refusal(place: &str, chunk: &Chunk, faults: &[(usize, Fault)], or_give: Option<&str>) -> Error {
    let named = |&(row, fault): &(usize, Fault)| {
        let what = match fault {
            Fault::Missing => "no vector",
            Fault::NotFinite => "NaN, infinity or a number beyond f32",
            Fault::TooLarge => "a number beyond 1e30",
        };
        let number = chunk.first_row + row as u64;
        match chunk.ids.as_ref().and_then(|ids| ids.get(row)) {
            Some(id) => format!("row {number} (item {:?}): {what}", id.as_str()),
            None => format!("row {number}: {what}"),
        }
    };
    let mut shown: Vec<String> = faults.iter().take(NAMED).map(named).collect();
    if faults.len() > shown.len() {
        shown.push(format!(
            "and {} more up to row {}",
            faults.len() - shown.len(),
            chunk.first_row + chunk.rows as u64 - 1
        ));
    }
    let again = "encode these items again (half-precision encoders overflow: use f32 or bf16), or";
    let mend = match or_give {
        Some(policy) => format!("{again} give {policy}"),
        None => format!("{again} leave them out"),
    };
    Error::input(place, format!("rows that cannot be encoded: {}", shown.join("; ")), mend)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use sidereal_core::ItemId;

    #[test]
    fn every_kind_of_row_that_cannot_be_encoded_is_found_and_named() {
        let mut values = vec![0.5f32; 2000 * 3];
        for (row, value) in [(0, f32::NAN), (700, f32::NEG_INFINITY), (701, -1.1e30), (702, 1e30), (1999, f32::NAN)] {
            values[row * 3 + 1] = value;
        }
        let ids: Vec<ItemId> = (0..2000).map(|i| ItemId::from(format!("i{i}").as_str())).collect();
        let chunk = Chunk { first_row: 100, rows: 2000, ids: Some(ids), values, missing: vec![2099] };
        let found = faults(&chunk);
        let wanted = [(0, Fault::NotFinite), (700, Fault::NotFinite), (701, Fault::TooLarge), (1999, Fault::Missing)];
        assert_eq!(found, wanted);
        let error = refusal("v.parquet", &chunk, &found, Some("--on-invalid skip")).to_string();
        assert!(error.contains("row 801 (item \"i701\"): a number beyond 1e30"), "{error}");
        assert!(
            error.contains("row 2099 (item \"i1999\"): no vector") && error.contains("--on-invalid skip"),
            "{error}"
        );
        let error = refusal("v.parquet", &chunk, &found, None).to_string();
        assert!(error.ends_with("or leave them out"), "{error}");
        assert_eq!("skip".parse::<OnInvalid>().unwrap(), OnInvalid::Skip);
        assert!("drop".parse::<OnInvalid>().unwrap_err().to_string().contains("error, null, skip"));
    }
}
