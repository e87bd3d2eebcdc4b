//! Parquet tables, read batch by batch.

use std::collections::BTreeMap;
use std::path::Path;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast_with_options;
use arrow::datatypes::{DataType, Field};
use sidereal_core::{Attribute, Error, Result};

use crate::attributes::MAX_COLUMNS;
use crate::columns::{ColumnMap, Role};
use crate::numbers::Time;
use crate::parquet_file::{IdColumn, ParquetFile, STRICT, WholeColumn, floats, is_text, plain, wrong_type};
use crate::table::{Event, InteractionTable, ItemTable, RowNames};

/// What a column of the items table becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Number,
    TextList,
}

fn kind(data_type: &DataType) -> Option<Kind> {
    match plain(data_type) {
        t if is_text(t) => Some(Kind::Text),
        t if t.is_numeric() => Some(Kind::Number),
        DataType::Boolean | DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 => Some(Kind::Text),
        DataType::List(f) if is_text(plain(f.data_type())) => Some(Kind::TextList),
        _ => None,
    }
}

pub(super) fn items(path: &Path, map: &ColumnMap) -> Result<ItemTable> {
    let file = ParquetFile::open(path)?;
    let place = file.place();
    let names = file.names();
    let id = map.find(Role::Item, &names, &place)?;
    let title = map.find(Role::Title, &names, &place)?;
    for (column, wanted, accepts) in [
        (id, "ids are strings or integers", IdColumn::accepts as fn(&DataType) -> bool),
        (title, "titles are strings", |t| is_text(plain(t))),
    ] {
        let Some(field) = column.and_then(|c| file.columns().get(c)) else { continue };
        if !accepts(field.data_type()) {
            return Err(wrong_type(&place, field.name(), field.data_type(), wanted));
        }
    }
    let others = (0..names.len()).filter(|c| Some(*c) != id && Some(*c) != title);
    let (kept, ignored): (Vec<usize>, Vec<usize>) =
        others.partition(|&c| file.columns().get(c).is_some_and(|f| kind(f.data_type()).is_some()));
    if kept.len() > MAX_COLUMNS {
        let problem = format!("{} columns, more than {MAX_COLUMNS}", kept.len());
        return Err(Error::input(place, problem, "keep the columns that matter, and vectors in their own file"));
    }
    let mut attributes: BTreeMap<String, Attribute> = BTreeMap::new();
    for field in kept.iter().filter_map(|&c| file.columns().get(c)) {
        attributes.insert(field.name().clone(), empty_column(field));
    }
    let (mut ids, mut titles) = (Vec::new(), Vec::new());
    let wanted: Vec<usize> = id.into_iter().chain(title).chain(kept).collect();
    let mut buffer = String::new();
    for batch in file.batches(&wanted, 0)? {
        let batch = batch?;
        let column = IdColumn::new(column(&batch, &names, id, &place)?, &place, "item id")?;
        ids.extend((0..batch.num_rows()).map(|row| column.get(row, &mut buffer).map(str::to_owned)));
        match title {
            Some(_) => titles.extend(texts(self::column(&batch, &names, title, &place)?, &place)?),
            None => titles.resize(ids.len(), None),
        }
        for (name, attribute) in &mut attributes {
            let Some(array) = batch.column_by_name(name) else { continue };
            extend(attribute, array, &place, name, ids.len() - batch.num_rows())?;
        }
    }
    let ignored = ignored.into_iter().filter_map(|c| names.get(c)).map(|name| (*name).to_owned()).collect();
    let mut rows = RowNames::new("row", 0);
    (0..ids.len() as u64).for_each(|row| rows.push(row));
    let titles = titles.into_iter().map(|title: Option<String>| title.filter(|t| !t.is_empty())).collect();
    let mut table = ItemTable::new(&place, rows, ids, titles, attributes)?;
    table.ignored = ignored;
    Ok(table)
}

fn column<'a>(batch: &'a RecordBatch, names: &[&str], at: Option<usize>, place: &str) -> Result<&'a ArrayRef> {
    let name = at.and_then(|at| names.get(at)).copied().unwrap_or_default();
    batch.column_by_name(name).ok_or_else(|| {
        Error::input(place, format!("column {name:?} cannot be read"), "write the file again with plain column names")
    })
}

fn empty_column(field: &Field) -> Attribute {
    match kind(field.data_type()) {
        Some(Kind::Number) => Attribute::Number(Vec::new()),
        Some(Kind::TextList) => Attribute::TextList(Vec::new()),
        _ => Attribute::Text(Vec::new()),
    }
}

fn texts(array: &ArrayRef, place: &str) -> Result<Vec<Option<String>>> {
    let cast = cast_with_options(array, &DataType::Utf8, &STRICT);
    let array = cast.map_err(|e| Error::input(place, e.to_string(), "write the column again as strings"))?;
    Ok(array.as_string::<i32>().iter().map(|text| text.map(str::to_owned)).collect())
}

fn extend(attribute: &mut Attribute, array: &ArrayRef, place: &str, name: &str, first_row: usize) -> Result<()> {
    match attribute {
        Attribute::Text(column) => column.extend(texts(array, place)?),
        Attribute::Number(column) => {
            for (row, number) in floats(array, place, name)?.iter().enumerate() {
                if number.is_some_and(f64::is_infinite) {
                    let at = format!("{place}, row {}, column {name:?}", first_row + row);
                    return Err(Error::input(at, "the number is infinite", "give a finite number or none"));
                }
                // NaN is how data frames write a missing number.
                column.push(number.filter(|number| !number.is_nan()));
            }
        }
        Attribute::TextList(column) => {
            let item = Field::new("item", DataType::Utf8, true);
            let cast = cast_with_options(array, &DataType::LargeList(item.into()), &STRICT);
            let array = cast.map_err(|e| Error::input(place, e.to_string(), "write the column again as lists"))?;
            for list in array.as_list::<i64>().iter() {
                let words = list
                    .iter()
                    .flat_map(|list| list.as_string::<i32>().iter().flatten().map(str::to_owned).collect::<Vec<_>>());
                column.push(words.collect());
            }
        }
    }
    Ok(())
}

pub(super) fn interactions(path: &Path, map: &ColumnMap) -> Result<InteractionTable> {
    let file = ParquetFile::open(path)?;
    let place = file.place();
    let names = file.names();
    let find = |role| map.find(role, &names, &place);
    let (user, item) = (find(Role::User)?, find(Role::EventItem)?);
    let (position, time, weight) = (find(Role::Position)?, find(Role::Time)?, find(Role::Weight)?);
    let wanted: Vec<usize> = [user, item, position, time, weight].into_iter().flatten().collect();
    let mut events = InteractionTable::new(&place, RowNames::new("row", 0));
    let (mut user_text, mut item_text) = (String::new(), String::new());
    let name_of = |at: Option<usize>| at.and_then(|at| names.get(at)).copied().unwrap_or_default();
    for batch in file.batches(&wanted, 0)? {
        let batch = batch?;
        let get = |at: Option<usize>| column(&batch, &names, at, &place);
        let users = IdColumn::new(get(user)?, &place, name_of(user))?;
        let items = IdColumn::new(get(item)?, &place, name_of(item))?;
        let whole = |at: Option<usize>, dates: bool| -> Result<Option<WholeColumn>> {
            at.map(|_| WholeColumn::new(get(at)?, &place, name_of(at), dates)).transpose()
        };
        let (positions, times) = (whole(position, false)?, whole(time, true)?);
        let weights = weight.map(|_| floats(get(weight)?, &place, name_of(weight))).transpose()?;
        for row in 0..batch.num_rows() {
            let at = events.len() as u64;
            let number = |column: &Option<WholeColumn>, name: Option<usize>| match column {
                Some(column) => column.get(row).map_err(|problem| {
                    let place = format!("{place}, row {at}, column {:?}", name_of(name));
                    Error::input(place, format!("the value {problem}"), "correct the value, or name another column")
                }),
                None => Ok(None),
            };
            let event = Event {
                user: users.get(row, &mut user_text),
                item: items.get(row, &mut item_text),
                position: match number(&positions, position)? {
                    Some(Time::Number(position)) => Some(position),
                    _ => None,
                },
                time: number(&times, time)?,
                weight: weights.as_ref().filter(|w| w.is_valid(row)).map(|w| w.value(row)),
            };
            events.push(at, event)?;
        }
    }
    events.finish()
}

#[cfg(test)]
mod tests;
