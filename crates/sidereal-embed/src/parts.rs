//! Vectors of several sources together: side by side (text, pictures, ready files of the same items), or one below the
//! other (items of several data sets).

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

/// Joins vectors of different items, which are said to be of something by name; the parts' rows stand in their order.
///
/// # Shapes
/// [N1, D], [N2, D], .. -> [N1 + N2 + .., D]
///
/// # Errors
/// No part; parts of different widths.
pub fn one_below_the_other(parts: Vec<(String, Vectors)>) -> Result<Vectors> {
    let Some((first, Vectors { embeddings, precision, .. })) = parts.first() else {
        return Err(Error::input("embeddings", "there is no part", "name a data set"));
    };
    let (width, precision) = (embeddings.width(), *precision);
    if let Some((other, part)) = parts.iter().find(|(_, part)| part.embeddings.width() != width) {
        let problem = format!("vectors of {other} have {} numbers, those of {first} {width}", part.embeddings.width());
        let mend = "embed the items of all data sets with the same model: one tokenizer reads them all";
        return Err(Error::input("embeddings", problem, mend));
    }
    let same = parts.iter().all(|(_, part)| part.precision == precision);
    let precision = if same { precision } else { Precision::F32 };
    let sum = |count: fn(&VectorFacts) -> u64| parts.iter().map(|(_, part)| count(&part.facts)).sum();
    let facts = VectorFacts {
        rows: sum(|facts| facts.rows),
        width: width as u64,
        precision,
        zero_rows: sum(|facts| facts.zero_rows),
        unused_rows: sum(|facts| facts.unused_rows),
        matched_by_id: parts.iter().any(|(_, part)| part.facts.matched_by_id),
    };
    let mut values = Vec::with_capacity(facts.rows as usize * width);
    parts.iter().for_each(|(_, part)| values.extend_from_slice(part.embeddings.values()));
    let embeddings = Embeddings::new(facts.rows as usize, width, values)?;
    Ok(Vectors { embeddings, item_ids: None, precision, facts })
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

    #[test]
    fn items_of_several_sets_stand_one_below_the_other_in_one_width() {
        let part = |name: &str, width: usize, values: &[f32]| {
            (name.to_owned(), made(Embeddings::new(values.len() / width, width, values.to_vec()).unwrap()))
        };
        let mut half = part("b", 2, &[5.0, 6.0]);
        half.1.precision = Precision::F16;
        let joined = one_below_the_other(vec![part("a", 2, &[1.0, 2.0, 0.0, 0.0]), half]).unwrap();
        assert_eq!(joined.embeddings.values(), [1.0, 2.0, 0.0, 0.0, 5.0, 6.0]);
        assert_eq!((joined.facts.rows, joined.facts.zero_rows, joined.precision), (3, 1, Precision::F32));
        let error = one_below_the_other(vec![part("a", 2, &[1.0, 2.0]), part("b", 1, &[1.0])]).unwrap_err().to_string();
        assert!(error.contains("vectors of b have 1 numbers, those of a 2"), "{error}");
        assert!(one_below_the_other(Vec::new()).is_err());
    }
}
