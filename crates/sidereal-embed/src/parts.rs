//! Vectors of several sources side by side: text, pictures, ready files.

use sidereal_core::{Embeddings, Error, Result};

use crate::precision::Precision;
use crate::vectors::{VectorFacts, Vectors};

/// Joins vectors of the same items; the parts' columns stand in their order.
///
/// # Shapes
/// [N, D1], [N, D2], .. -> [N, D1 + D2 + ..]
///
/// # Errors
/// No part; parts of different numbers of rows.
pub fn side_by_side(mut parts: Vec<Vectors>) -> Result<Vectors> {
    if parts.len() == 1 {
        return Ok(parts.remove(0));
    }
    let Some(first) = parts.first() else {
        return Err(Error::input("embeddings", "there is no part", "name a file or a model"));
    };
    let rows = first.embeddings.rows();
    if let Some(other) = parts.iter().find(|part| part.embeddings.rows() != rows) {
        let problem = format!("a part has {} rows, the first one {rows}", other.embeddings.rows());
        return Err(Error::input("embeddings", problem, "give every part a row for each item"));
    }
    let width: usize = parts.iter().map(|part| part.embeddings.width()).sum();
    let mut values = Vec::with_capacity(rows * width);
    for row in 0..rows {
        parts.iter().for_each(|part| values.extend_from_slice(part.embeddings.row(row)));
    }
    let zero_rows = values.chunks_exact(width.max(1)).filter(|row| row.iter().all(|x| *x == 0.0)).count() as u64;
    let same = parts.iter().all(|part| part.precision == first.precision);
    let precision = if same { first.precision } else { Precision::F32 };
    let facts = VectorFacts {
        rows: rows as u64,
        width: width as u64,
        precision,
        zero_rows,
        unused_rows: parts.iter().map(|part| part.facts.unused_rows).sum(),
        matched_by_id: parts.iter().any(|part| part.facts.matched_by_id),
    };
    let item_ids = parts.iter().find_map(|part| part.item_ids.clone());
    Ok(Vectors { embeddings: Embeddings::new(rows, width, values)?, item_ids, precision, facts })
}

/// Vectors that a model made.
pub fn made(embeddings: Embeddings) -> Vectors {
    let width = embeddings.width();
    let zero_rows =
        embeddings.values().chunks_exact(width.max(1)).filter(|row| row.iter().all(|x| *x == 0.0)).count() as u64;
    let facts = VectorFacts {
        rows: embeddings.rows() as u64,
        width: width as u64,
        precision: Precision::F32,
        zero_rows,
        unused_rows: 0,
        matched_by_id: false,
    };
    Vectors { embeddings, item_ids: None, precision: Precision::F32, facts }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn parts_stand_side_by_side_in_their_order() {
        let part = |width: usize, values: &[f32]| made(Embeddings::new(2, width, values.to_vec()).unwrap());
        let mut half = part(1, &[0.0, 7.0]);
        half.precision = Precision::F16;
        let joined = side_by_side(vec![part(2, &[0.0, 0.0, 3.0, 4.0]), half]).unwrap();
        assert_eq!(joined.embeddings.values(), [0.0, 0.0, 0.0, 3.0, 4.0, 7.0]);
        assert_eq!((joined.facts.width, joined.facts.zero_rows, joined.precision), (3, 1, Precision::F32));
        let other = made(Embeddings::new(1, 1, vec![1.0]).unwrap());
        assert!(side_by_side(vec![part(1, &[1.0, 2.0]), other]).unwrap_err().to_string().contains("1 rows"));
        assert!(side_by_side(Vec::new()).is_err());
    }
}
