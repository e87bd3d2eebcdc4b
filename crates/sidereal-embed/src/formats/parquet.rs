//! Vectors in a list column of a Parquet file, with or without item ids beside them.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Float16Type, Float32Type, Float64Type};
use sidereal_core::{Error, ItemId, Result};
use sidereal_data::parquet_file::{IdColumn, ParquetFile};

use super::opened::Opened;
use super::{AGAIN, Batch, Contents, ID, USUAL_NAMES};
use crate::precision::Precision;

/// Rows that are looked through at a time for the first vector.
const LOOK_ROWS: usize = 64;

pub(super) struct Columns {
    file: ParquetFile,
    vectors: usize,
    ids: Option<usize>,
    pub(super) width: usize,
    pub(super) precision: Precision,
}

pub(super) fn open(opened: &Opened, name: Option<&str>) -> Result<Contents> {
    let file = ParquetFile::from_ranges(opened.place.clone(), Arc::clone(&opened.bytes))?;
    let place = file.place();
    let names = file.names();
    let vectors = match name {
        Some(name) => file.column(name)?,
        None => match USUAL_NAMES.iter().find_map(|usual| names.iter().position(|n| n == usual)) {
            Some(column) => column,
            None => {
                let problem =
                    format!("no column is named {} (there are: {})", USUAL_NAMES.join(", "), names.join(", "));
                return Err(Error::input(place, problem, "name the column of vectors with `--name`"));
            }
        },
    };
    let types = file.columns();
    let (Some(of_vectors), ids) = (types.get(vectors), names.iter().position(|name| *name == ID)) else {
        return Err(Error::input(place, "the column of vectors is gone", AGAIN));
    };
    let found = of_vectors.data_type();
    // Parquet itself has one kind of list: fixed-size and large ones are told apart only by writers.
    let element = match found {
        DataType::List(field) => Some(field.data_type()),
        _ => None,
    };
    let precision = match element {
        Some(DataType::Float16) => Precision::F16,
        Some(DataType::Float32) => Precision::F32,
        Some(DataType::Float64) => Precision::F64,
        _ => {
            let problem =
                format!("column {:?} is {found}, but vectors are lists of f16, f32 or f64", of_vectors.name());
            return Err(Error::input(
                place,
                problem,
                "cast it in the program that writes the file, or name another column",
            ));
        }
    };
    if let Some(field) = ids.and_then(|c| types.get(c)).filter(|field| !IdColumn::accepts(field.data_type())) {
        let problem = format!("column {ID:?} is {}, but ids are strings or integers", field.data_type());
        return Err(Error::input(place, problem, "cast it in the program that writes the file"));
    }
    let mut columns = Columns { file, vectors, ids, width: 0, precision };
    // Lists do not say their width: the first one that is there does.
    columns.width = columns.first_width()?;
    Ok(Contents::Parquet(columns))
}

impl Columns {
    pub(super) fn rows(&self) -> usize {
        usize::try_from(self.file.rows()).unwrap_or(usize::MAX)
    }

    pub(super) fn has_ids(&self) -> bool {
        self.ids.is_some()
    }

    fn first_width(&self) -> Result<usize> {
        if self.rows() == 0 {
            return Ok(0);
        }
        for batch in self.file.batches_of(&[self.vectors], 0, LOOK_ROWS)? {
            let batch = batch?;
            let Some(column) = batch.columns().first() else { break };
            if let Some(row) = (0..column.len()).find(|&row| column.is_valid(row)) {
                return Ok(list_at(column, row).map_or(0, |list| list.len()));
            }
        }
        Err(self.missing(0))
    }

    fn missing(&self, row: usize) -> Error {
        let mend = "give every item a vector, or leave the row out of a file that has item ids";
        Error::input(format!("{}, row {row}", self.file.place()), "the vector is missing", mend)
    }

    pub(super) fn batches(
        &self,
        from_row: usize,
        batch_rows: usize,
        keep_missing: bool,
    ) -> Result<impl Iterator<Item = Result<Batch>> + '_> {
        let wanted: Vec<usize> = [self.vectors].into_iter().chain(self.ids).collect();
        let names = self.file.names();
        let name = names.get(self.vectors).copied().unwrap_or_default().to_owned();
        let mut next_row = from_row;
        let batches = self.file.batches_of(&wanted, from_row as u64, batch_rows)?;
        Ok(batches.map(move |batch| {
            let batch = batch?;
            let first_row = next_row;
            next_row += batch.num_rows();
            let Some(vectors) = batch.column_by_name(&name) else {
                return Err(Error::input(self.file.place(), "the column of vectors is gone", AGAIN));
            };
            let mut missing = Vec::new();
            let values = match self.dense(vectors) {
                Some(values) => values,
                None => {
                    let mut values = Vec::with_capacity(batch.num_rows().saturating_mul(self.width).min(1 << 24));
                    for row in 0..batch.num_rows() {
                        if !self.extend(vectors, row, first_row + row, keep_missing, &mut values)? {
                            missing.push(first_row + row);
                        }
                    }
                    values
                }
            };
            let ids = match batch.column_by_name(ID).filter(|_| self.ids.is_some()) {
                Some(column) => Some(self.ids(column, first_row)?),
                None => None,
            };
            Ok(Batch { first_row, ids, values, missing })
        }))
    }

    pub(super) fn id_batches(&self) -> Result<super::IdBatches<'_>> {
        let Some(column) = self.ids else { return Ok(Box::new(std::iter::empty())) };
        let mut next_row = 0;
        Ok(Box::new(self.file.batches(&[column], 0)?.map(move |batch| {
            let batch = batch?;
            let first_row = next_row;
            next_row += batch.num_rows();
            match batch.columns().first() {
                Some(column) => Ok((first_row, self.ids(column, first_row)?)),
                None => Err(Error::input(self.file.place(), "the column of ids is gone", AGAIN)),
            }
        })))
    }

    /// All numbers of a batch at once, where every vector is whole and of the right width.
    fn dense(&self, vectors: &ArrayRef) -> Option<Vec<f32>> {
        let lists = vectors.as_list_opt::<i32>().filter(|lists| lists.null_count() == 0)?;
        let offsets = lists.value_offsets();
        let whole = offsets.windows(2).all(|pair| (pair[1] - pair[0]) as usize == self.width);
        let (first, last) = (*offsets.first()? as usize, *offsets.last()? as usize);
        let numbers = lists.values().slice(first, last - first);
        if !whole || numbers.null_count() > 0 {
            return None;
        }
        let mut values = Vec::with_capacity(numbers.len());
        self.decode(&numbers, &mut values);
        Some(values)
    }

    fn decode(&self, numbers: &ArrayRef, values: &mut Vec<f32>) {
        match self.precision {
            Precision::F16 => values.extend(numbers.as_primitive::<Float16Type>().values().iter().map(|x| x.to_f32())),
            Precision::F64 => values.extend(numbers.as_primitive::<Float64Type>().values().iter().map(|&x| x as f32)),
            Precision::F32 | Precision::Bf16 => {
                values.extend_from_slice(numbers.as_primitive::<Float32Type>().values());
            }
        }
    }

    /// Appends a row's vector, or NaN and `false` where it is missing and that is allowed.
    fn extend(
        &self,
        vectors: &ArrayRef,
        row: usize,
        file_row: usize,
        keep_missing: bool,
        values: &mut Vec<f32>,
    ) -> Result<bool> {
        let list = list_at(vectors, row).filter(|_| vectors.is_valid(row));
        let at = || format!("{}, row {file_row}", self.file.place());
        if let Some(list) = &list
            && list.len() != self.width
        {
            let problem = format!("the vector has {} numbers, but others have {}", list.len(), self.width);
            return Err(Error::input(at(), problem, "give vectors of one width"));
        }
        match list {
            Some(list) if list.null_count() == 0 => {
                self.decode(&list, values);
                Ok(true)
            }
            _ if keep_missing => {
                values.extend(std::iter::repeat_n(f32::NAN, self.width));
                Ok(false)
            }
            Some(_) => {
                let mend = "write the vector again, without nulls";
                Err(Error::input(at(), "a number of the vector is missing", mend))
            }
            None => Err(self.missing(file_row)),
        }
    }

    fn ids(&self, column: &ArrayRef, first_row: usize) -> Result<Vec<ItemId>> {
        let ids = IdColumn::new(column, &self.file.place(), ID)?;
        let mut buffer = String::new();
        let id = |row: usize| match ids.get(row, &mut buffer).filter(|id| !id.is_empty()) {
            Some(id) => Ok(ItemId::from(id)),
            None => {
                let at = format!("{}, row {}", self.file.place(), first_row + row);
                Err(Error::input(at, "the item id is missing", "give every row an id, or remove the row"))
            }
        };
        (0..column.len()).map(id).collect()
    }
}

fn list_at(column: &ArrayRef, row: usize) -> Option<ArrayRef> {
    column.as_list_opt::<i32>().map(|lists| lists.value(row))
}
