//! Vectors in memory: a whole file, or the rows that belong to a run's items.

use std::collections::HashMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sidereal_core::{Embeddings, Error, ItemId, Items, Result};
use sidereal_data::ItemRows;

use crate::formats::{Batch, VectorFile};
use crate::precision::Precision;

/// Vectors that were read.
#[derive(Debug, Clone)]
pub struct Vectors {
    /// The numbers, [N, D].
    pub embeddings: Embeddings,
    /// The rows' item ids, where the file has them.
    pub item_ids: Option<Vec<ItemId>>,
    /// How the file stores its numbers.
    pub precision: Precision,
    /// What was found, for the manifest.
    pub facts: VectorFacts,
}

/// What reading vectors found out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VectorFacts {
    /// Vectors kept, N.
    pub rows: u64,
    /// Numbers per vector, D.
    pub width: u64,
    /// How the file stores its numbers.
    pub precision: Precision,
    /// Vectors kept that are zero everywhere: items of which nothing is known, which will share a semantic ID.
    pub zero_rows: u64,
    /// Vectors of the file that belong to no kept item.
    pub unused_rows: u64,
    /// Whether rows were matched by item id; else they stand in the order of the items file.
    pub matched_by_id: bool,
}

impl VectorFacts {
    /// As a manifest keeps them.
    pub fn to_json(&self) -> serde_json::Value {
        // Numbers and strings: JSON can say that.
        serde_json::to_value(self).unwrap_or_default()
    }
}

/// Reads all vectors of a file; `name` is the tensor or column, where it is not the usual one.
///
/// # Errors
/// Whatever is wrong with the file; rows that hold NaN or infinity.
pub fn read_vectors(path: &Path, name: Option<&str>) -> Result<Vectors> {
    let file = VectorFile::open(path, name)?;
    let mut target = Target::new(&file)?;
    let mut ids: Option<Vec<ItemId>> = file.has_ids().then(Vec::new);
    for batch in file.batches(0)? {
        let batch = batch?;
        target.values.extend_from_slice(&batch.values);
        if let (Some(ids), Some(more)) = (&mut ids, batch.ids) {
            ids.extend(more);
        }
    }
    check_claim(&file, target.values.len() / file.width())?;
    let name_of = |row: usize| ids.as_ref().and_then(|ids| ids.get(row)).map(ItemId::as_str);
    let (embeddings, zero_rows) = target.finish(&file, file.rows(), |row| row, name_of)?;
    let facts = facts(&file, &embeddings, zero_rows, false);
    Ok(Vectors { embeddings, item_ids: ids, precision: file.precision(), facts })
}

/// Reads a vector for each item: by item id where the file has ids, else row `i` belongs to row `i` of the items file.
///
/// # Errors
/// Whatever is wrong with the file; another number of rows than the items file; items without a vector; an id that
/// appears twice; kept rows that hold NaN or infinity (the first few are named with their items).
pub fn vectors_for_items(path: &Path, name: Option<&str>, items: &Items, rows: &ItemRows) -> Result<Vectors> {
    let file = VectorFile::open(path, name)?;
    let in_file = rows.in_file as usize;
    if !file.has_ids() && file.rows() != in_file {
        let problem = format!("{} vectors, but the items file has {in_file} items", file.rows());
        let mend =
            "give one row for each row of the items file, in its order, or a Parquet file with an item_id column";
        return Err(Error::input(file.place(), problem, mend));
    }
    let source = if file.has_ids() { match_ids(&file, items)? } else { Source::Rows(rows.kept.as_deref()) };
    // The item of every row of the file, where one belongs to it.
    let mut item_of = vec![None; file.rows()];
    for item in 0..items.len() {
        if let Some(slot) = item_of.get_mut(source.row(item)) {
            *slot = Some(item);
        }
    }
    let width = file.width();
    let mut target = Target::new(&file)?;
    target.values.resize(items.len() * width, 0.0);
    let mut seen = 0;
    for batch in file.batches(0)? {
        let Batch { first_row, values, .. } = batch?;
        seen = first_row + values.len() / width;
        for (row, vector) in (first_row..).zip(values.chunks_exact(width)) {
            if let Some(item) = item_of.get(row).copied().flatten() {
                target.values[item * width..(item + 1) * width].copy_from_slice(vector);
            }
        }
    }
    check_claim(&file, seen)?;
    let name_of = |item: usize| items.ids().get(item).map(ItemId::as_str);
    let (embeddings, zero_rows) = target.finish(&file, items.len(), |item| source.row(item), name_of)?;
    let facts = facts(&file, &embeddings, zero_rows, file.has_ids());
    Ok(Vectors { embeddings, item_ids: Some(items.ids().to_vec()), precision: file.precision(), facts })
}

/// Where an item's vector stands in the file.
enum Source<'a> {
    Rows(Option<&'a [u32]>),
    Matched(Vec<usize>),
}

impl Source<'_> {
    fn row(&self, item: usize) -> usize {
        match self {
            Self::Rows(None) => item,
            Self::Rows(Some(kept)) => kept.get(item).map_or(usize::MAX, |&row| row as usize),
            Self::Matched(rows) => rows.get(item).copied().unwrap_or(usize::MAX),
        }
    }
}

fn match_ids<'a>(file: &VectorFile, items: &Items) -> Result<Source<'a>> {
    let mut row_of: HashMap<ItemId, usize> = HashMap::new();
    let mut seen = 0;
    for batch in file.batches(0)? {
        let batch = batch?;
        seen = batch.first_row + batch.values.len() / file.width();
        for (row, id) in (batch.first_row..).zip(batch.ids.unwrap_or_default()) {
            if let Some(first) = row_of.get(&id) {
                let problem = format!("item id {:?} appears a second time (first in row {first})", id.as_str());
                return Err(Error::input(
                    format!("{}, row {row}", file.place()),
                    problem,
                    "remove one of the two rows",
                ));
            }
            row_of.insert(id, row);
        }
    }
    check_claim(file, seen)?;
    let rows: Vec<Option<usize>> = items.ids().iter().map(|id| row_of.get(id).copied()).collect();
    let without: Vec<&str> =
        rows.iter().zip(items.ids()).filter(|(row, _)| row.is_none()).map(|(_, id)| id.as_str()).collect();
    if without.is_empty() {
        return Ok(Source::Matched(rows.into_iter().flatten().collect()));
    }
    let problem = format!("{} of {} items have no vector ({})", without.len(), items.len(), first_few(&without));
    let mend = "add their vectors, remove the items, or check that both files name items alike";
    Err(Error::input(file.place(), problem, mend))
}

fn first_few(names: &[&str]) -> String {
    let shown: Vec<String> = names.iter().take(5).map(|name| format!("{name:?}")).collect();
    format!("{}{}", shown.join(", "), if names.len() > shown.len() { ", ..." } else { "" })
}

fn check_claim(file: &VectorFile, seen: usize) -> Result<()> {
    if seen == file.rows() {
        return Ok(());
    }
    let problem = format!("it holds {seen} vectors, but its header says {}", file.rows());
    Err(Error::input(file.place(), problem, "write it again: it may be truncated"))
}

fn facts(file: &VectorFile, embeddings: &Embeddings, zero_rows: u64, matched_by_id: bool) -> VectorFacts {
    VectorFacts {
        rows: embeddings.rows() as u64,
        width: embeddings.width() as u64,
        precision: file.precision(),
        zero_rows,
        unused_rows: file.rows().saturating_sub(embeddings.rows()) as u64,
        matched_by_id,
    }
}

/// The matrix that is filled.
struct Target {
    values: Vec<f32>,
}

impl Target {
    fn new(file: &VectorFile) -> Result<Self> {
        let mut values = Vec::new();
        // What a header claims may be more than there is memory for; that is an error, not an abort.
        let numbers = file.rows().checked_mul(file.width());
        if numbers.is_none_or(|numbers| values.try_reserve_exact(numbers).is_err()) {
            let problem = format!("[{}, {}] vectors do not fit into memory", file.rows(), file.width());
            return Err(Error::input(file.place(), problem, "use a machine with more memory, or shorter vectors"));
        }
        Ok(Self { values })
    }

    /// Refuses rows with NaN or infinity and counts rows of zeros.
    fn finish<'a>(
        self,
        file: &VectorFile,
        rows: usize,
        row_of: impl Fn(usize) -> usize,
        name_of: impl Fn(usize) -> Option<&'a str>,
    ) -> Result<(Embeddings, u64)> {
        let vectors = || self.values.chunks_exact(file.width()).enumerate();
        let bad: Vec<usize> = vectors().filter(|(_, v)| v.iter().any(|x| !x.is_finite())).map(|(row, _)| row).collect();
        if !bad.is_empty() {
            let named = |&row: &usize| match name_of(row) {
                Some(id) => format!("row {} (item {id:?})", row_of(row)),
                None => format!("row {}", row_of(row)),
            };
            let mut shown: Vec<String> = bad.iter().take(5).map(named).collect();
            if bad.len() > shown.len() {
                shown.push("...".to_owned());
            }
            let problem = format!(
                "{} of {rows} vectors hold NaN, infinity or a number beyond f32: {}",
                bad.len(),
                shown.join(", ")
            );
            let mend = "encode these items again (half-precision encoders overflow: use f32 or bf16), or remove them";
            return Err(Error::input(file.place(), problem, mend));
        }
        let zero_rows = vectors().filter(|(_, v)| v.iter().all(|x| *x == 0.0)).count() as u64;
        Ok((Embeddings::new(rows, file.width(), self.values)?, zero_rows))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::written::{json_lines, npy, parquet, safetensors};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn items(ids: &[&str]) -> Items {
        let ids: Vec<ItemId> = ids.iter().map(|id| ItemId::from(*id)).collect();
        let titles = vec![None; ids.len()];
        Items::new(ids, titles, BTreeMap::new()).unwrap()
    }

    fn rows(in_file: u32, kept: Option<&[u32]>) -> ItemRows {
        ItemRows { in_file, kept: kept.map(<[u32]>::to_vec) }
    }

    #[test]
    fn rows_follow_the_items_file_and_its_kept_rows() {
        let dir = tempfile::tempdir().unwrap();
        let path = safetensors(dir.path(), Precision::F32, &[3, 2], &[1.0, 2.0, 0.0, 0.0, 5.0, 6.0]);
        let all = vectors_for_items(&path, None, &items(&["a", "b", "c"]), &rows(3, None)).unwrap();
        assert_eq!(all.embeddings.values(), [1.0, 2.0, 0.0, 0.0, 5.0, 6.0]);
        assert_eq!((all.facts.zero_rows, all.facts.unused_rows, all.facts.matched_by_id), (1, 0, false));
        let some = vectors_for_items(&path, None, &items(&["a", "c"]), &rows(3, Some(&[0, 2]))).unwrap();
        assert_eq!(some.embeddings.values(), [1.0, 2.0, 5.0, 6.0]);
        assert_eq!(some.facts.unused_rows, 1);
    }

    #[test]
    fn another_number_of_rows_is_told_with_both_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let path = npy(dir.path(), Precision::F32, false, &[2, 1], &[1.0, 2.0]);
        let error = vectors_for_items(&path, None, &items(&["a"]), &rows(3, None)).unwrap_err().to_string();
        assert!(error.contains("2 vectors, but the items file has 3 items; give one row for each row"), "{error}");
    }

    #[test]
    fn ids_match_rows_whatever_their_order() {
        let dir = tempfile::tempdir().unwrap();
        let vectors = [Some(vec![1.0]), Some(vec![2.0]), Some(vec![3.0])];
        let path = parquet(dir.path(), Some(&["x", "b", "a"]), &vectors);
        let read = vectors_for_items(&path, None, &items(&["a", "b"]), &rows(9, None)).unwrap();
        assert_eq!(read.embeddings.values(), [3.0, 2.0]);
        assert!(read.facts.matched_by_id && read.facts.unused_rows == 1);
        let error = vectors_for_items(&path, None, &items(&["a", "z", "y"]), &rows(3, None)).unwrap_err().to_string();
        assert!(error.contains("2 of 3 items have no vector (\"z\", \"y\")"), "{error}");
        let twice = parquet(dir.path(), Some(&["a", "b", "a"]), &vectors);
        let error = vectors_for_items(&twice, None, &items(&["a"]), &rows(1, None)).unwrap_err().to_string();
        assert!(error.contains("row 2: item id \"a\" appears a second time (first in row 0)"), "{error}");
        let all = read_vectors(&path, None).unwrap();
        assert_eq!(all.item_ids.unwrap()[2].as_str(), "a");
    }

    #[test]
    fn rows_that_are_not_finite_are_named_with_their_items() {
        let dir = tempfile::tempdir().unwrap();
        let path = safetensors(dir.path(), Precision::F32, &[3, 1], &[1.0, f32::NAN, f32::INFINITY]);
        let error = vectors_for_items(&path, None, &items(&["a", "b", "c"]), &rows(3, None)).unwrap_err().to_string();
        assert!(error.contains("2 of 3 vectors hold NaN") && error.contains("row 1 (item \"b\"), row 2 (item \"c\")"));
        let kept = vectors_for_items(&path, None, &items(&["a"]), &rows(3, Some(&[0])));
        assert_eq!(kept.unwrap().embeddings.values(), [1.0], "rows that no item uses may hold anything");
        assert!(read_vectors(&path, None).unwrap_err().to_string().contains("row 1, row 2; encode"));
    }

    proptest! {
        #[test]
        fn every_format_gives_the_same_vectors(rows in 1usize..6, width in 1usize..5, seed in any::<u32>()) {
            // Numbers that every precision holds.
            let values: Vec<f32> = (0..rows * width).map(|i| ((seed as usize + 7 * i) % 64) as f32 - 32.0).collect();
            let dir = tempfile::tempdir().unwrap();
            for precision in [Precision::F16, Precision::Bf16, Precision::F32, Precision::F64] {
                for path in [
                    safetensors(dir.path(), precision, &[rows, width], &values),
                    npy(dir.path(), precision, false, &[rows, width], &values),
                    npy(dir.path(), precision, true, &[rows, width], &values),
                ] {
                    let read = read_vectors(&path, None).unwrap();
                    prop_assert_eq!(read.embeddings.values(), &values[..]);
                    prop_assert_eq!((read.embeddings.rows(), read.precision), (rows, precision));
                }
            }
            let lists: Vec<Option<Vec<f32>>> = values.chunks(width).map(|v| Some(v.to_vec())).collect();
            let read = read_vectors(&parquet(dir.path(), None, &lists), None).unwrap();
            prop_assert_eq!(read.embeddings.values(), &values[..]);
            let lines: Vec<String> = values.chunks(width).map(|v| format!("{{\"embedding\": {v:?}}}\n")).collect();
            let read = read_vectors(&json_lines(dir.path(), &lines.concat()), None).unwrap();
            prop_assert_eq!(read.embeddings.values(), &values[..]);
        }
    }
}
