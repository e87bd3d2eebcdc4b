//! CSV and TSV with a header line; quotes as in RFC 4180.

use std::collections::{BTreeMap, HashSet};
use std::io::Read;
use std::path::Path;

use csv::{ErrorKind, ReaderBuilder, StringRecord};
use sidereal_core::{Attribute, Error, Result};

use crate::attributes::{MAX_COLUMNS, infer};
use crate::columns::{ColumnMap, Role, short};
use crate::numbers;
use crate::table::{Event, InteractionTable, ItemTable, RowNames};

pub(super) fn csv_items(path: &Path, map: &ColumnMap) -> Result<ItemTable> {
    items(super::open(path)?, &path.display().to_string(), map, CSV)
}

pub(super) fn csv_interactions(path: &Path, map: &ColumnMap) -> Result<InteractionTable> {
    interactions(super::open(path)?, &path.display().to_string(), map, CSV)
}

pub(super) fn tsv_items(path: &Path, map: &ColumnMap) -> Result<ItemTable> {
    items(super::open(path)?, &path.display().to_string(), map, TSV)
}

pub(super) fn tsv_interactions(path: &Path, map: &ColumnMap) -> Result<InteractionTable> {
    interactions(super::open(path)?, &path.display().to_string(), map, TSV)
}

/// How a text table is written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dialect {
    pub(super) delimiter: u8,
    pub(super) quotes: bool,
    /// Takes a header cell apart into the column's name and kind.
    pub(super) header: fn(&str) -> Result<(&str, Kind), String>,
}

const CSV: Dialect = Dialect { delimiter: b',', quotes: true, header: |name| Ok((name, Kind::Any)) };
const TSV: Dialect = Dialect { delimiter: b'\t', ..CSV };

/// What a column is said to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing is said: numbers if all cells are.
    Any,
    Text,
    Number,
    /// Words between spaces.
    TextList,
    /// Left out.
    Ignored,
}

struct Table<R> {
    reader: csv::Reader<R>,
    place: String,
    names: Vec<String>,
    kinds: Vec<Kind>,
    record: StringRecord,
}

impl<R: Read> Table<R> {
    fn open(reader: R, place: &str, dialect: Dialect) -> Result<Self> {
        let mut reader = ReaderBuilder::new()
            .delimiter(dialect.delimiter)
            .quoting(dialect.quotes)
            .has_headers(true)
            .from_reader(reader);
        let headers = reader.headers().map_err(|e| told(place, e))?.clone();
        if headers.is_empty() {
            return Err(super::empty(place));
        }
        let (mut names, mut kinds, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
        for header in &headers {
            let bad = |problem| Error::input(format!("{place}, line 1"), problem, "correct the header line");
            let (name, kind) = (dialect.header)(header).map_err(bad)?;
            if !seen.insert(name) {
                return Err(bad(format!("the column name {} appears twice", short(name))));
            }
            names.push(name.to_owned());
            kinds.push(kind);
        }
        if names.len() > MAX_COLUMNS {
            let problem = format!("{} columns, more than {MAX_COLUMNS}", names.len());
            return Err(Error::input(place, problem, "keep the columns that matter, and vectors in their own file"));
        }
        Ok(Self { reader, place: place.to_owned(), names, kinds, record: StringRecord::new() })
    }

    /// The line of the next record, which is then in `record`.
    fn next(&mut self) -> Result<Option<u64>> {
        let more = self.reader.read_record(&mut self.record).map_err(|e| told(&self.place, e))?;
        Ok(more.then(|| self.record.position().map_or(0, csv::Position::line)))
    }

    /// A cell of the current record; none where it is empty.
    fn cell(&self, column: Option<usize>) -> Option<&str> {
        self.record.get(column?).filter(|cell| !cell.is_empty())
    }

    fn parsed<T>(
        &self,
        line: u64,
        column: Option<usize>,
        parse: impl Fn(&str) -> Result<Option<T>, String>,
    ) -> Result<Option<T>> {
        let Some((column, cell)) = column.zip(self.cell(column)) else { return Ok(None) };
        parse(cell).map_err(|problem| {
            let name = self.names.get(column).map_or("", String::as_str);
            let place = format!("{}, line {line}, column {}", self.place, short(name));
            Error::input(place, format!("{} {problem}", short(cell)), "correct the cell, or name another column")
        })
    }
}

pub(super) fn items(reader: impl Read, place: &str, map: &ColumnMap, dialect: Dialect) -> Result<ItemTable> {
    let mut table = Table::open(reader, place, dialect)?;
    let id = map.find(Role::Item, &table.names, place)?;
    let title = map.find(Role::Title, &table.names, place)?;
    let mut rows = RowNames::new("line", 2);
    let (mut ids, mut titles) = (Vec::new(), Vec::new());
    let others: Vec<usize> = (0..table.names.len())
        .filter(|&c| Some(c) != id && Some(c) != title && table.kinds[c] != Kind::Ignored)
        .collect();
    let mut cells: Vec<Vec<Option<String>>> = vec![Vec::new(); others.len()];
    while let Some(line) = table.next()? {
        rows.push(line);
        ids.push(table.cell(id).map(str::to_owned));
        titles.push(table.cell(title).map(str::to_owned));
        for (&column, cells) in others.iter().zip(&mut cells) {
            if table.kinds[column] == Kind::Number {
                table.parsed(line, Some(column), numbers::float)?;
            }
            cells.push(table.cell(Some(column)).map(str::to_owned));
        }
    }
    let typed = |(column, cells): (usize, Vec<Option<String>>)| match table.kinds[column] {
        Kind::Any => infer(cells),
        Kind::Number => {
            let number =
                |cell: Option<String>| cell.and_then(|cell| cell.trim().parse().ok()).filter(|n: &f64| n.is_finite());
            Attribute::Number(cells.into_iter().map(number).collect())
        }
        Kind::TextList => {
            let words =
                |cell: Option<String>| cell.iter().flat_map(|c| c.split_whitespace()).map(str::to_owned).collect();
            Attribute::TextList(cells.into_iter().map(words).collect())
        }
        Kind::Text | Kind::Ignored => Attribute::Text(cells),
    };
    let attributes: BTreeMap<String, Attribute> =
        others.into_iter().zip(cells).map(|pair| (table.names[pair.0].clone(), typed(pair))).collect();
    let mut items = ItemTable::new(place, rows, ids, titles, attributes)?;
    let ignored = table.names.iter().zip(&table.kinds).filter(|(_, kind)| **kind == Kind::Ignored);
    items.ignored = ignored.map(|(name, _)| name.clone()).collect();
    Ok(items)
}

pub(super) fn interactions(
    reader: impl Read,
    place: &str,
    map: &ColumnMap,
    dialect: Dialect,
) -> Result<InteractionTable> {
    let mut table = Table::open(reader, place, dialect)?;
    let find = |role| map.find(role, &table.names, place);
    let (user, item) = (find(Role::User)?, find(Role::EventItem)?);
    let (position, time, weight) = (find(Role::Position)?, find(Role::Time)?, find(Role::Weight)?);
    let mut events = InteractionTable::new(place, RowNames::new("line", 2));
    while let Some(line) = table.next()? {
        let event = Event {
            user: table.cell(user),
            item: table.cell(item),
            position: table.parsed(line, position, numbers::whole)?,
            time: table.parsed(line, time, numbers::time)?,
            weight: table.parsed(line, weight, numbers::float)?,
        };
        events.push(line, event)?;
    }
    events.finish()
}

fn told(place: &str, error: csv::Error) -> Error {
    let line = error.position().map_or(0, csv::Position::line);
    match error.into_kind() {
        ErrorKind::Io(source) => Error::io("read", place, source),
        ErrorKind::UnequalLengths { expected_len, len, .. } => {
            let problem = format!("{len} cells, but the header has {expected_len}");
            let mend = "give every line as many cells as the header, and quote cells that hold the separator";
            Error::input(format!("{place}, line {line}"), problem, mend)
        }
        ErrorKind::Utf8 { err, .. } => {
            let problem = format!("cell {} is not UTF-8", err.field() + 1);
            Error::input(format!("{place}, line {line}"), problem, "write the file again as UTF-8")
        }
        other => Error::input(format!("{place}, line {line}"), format!("{other:?}"), "write the file again"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn read_items(text: &[u8]) -> Result<ItemTable> {
        items(text, "items.csv", &ColumnMap::default(), CSV)
    }

    fn read_events(text: &[u8]) -> Result<InteractionTable> {
        interactions(text, "events.csv", &ColumnMap::default(), CSV)
    }

    fn told_by(text: &[u8]) -> (String, String) {
        (read_items(text).unwrap_err().to_string(), read_events(text).unwrap_err().to_string())
    }

    #[test]
    fn items_keep_every_column() {
        let text = "\u{feff}item_id,title,price,brand,note\r\n007,\"A, \"\"b\"\"\",4.50,,x\n8,,3,NaN,\"two\nlines\"\n";
        let table = read_items(text.as_bytes()).unwrap();
        assert_eq!(table.ids(), ["007", "8"]);
        assert_eq!(table.titles(), [Some("A, \"b\"".to_owned()), None]);
        assert_eq!(table.attributes()["price"], Attribute::Number(vec![Some(4.5), Some(3.0)]));
        assert_eq!(table.attributes()["brand"], Attribute::Text(vec![None, Some("NaN".to_owned())]));
        assert_eq!(
            table.attributes()["note"],
            Attribute::Text(vec![Some("x".to_owned()), Some("two\nlines".to_owned())])
        );
    }

    #[test]
    fn interactions_are_read_with_their_numbers() {
        let events = read_events(b"rating,timestamp,item_id,user_id\n4.5,10,a\x01,u\n1,9.0,b,u\n").unwrap();
        assert_eq!((events.len(), events.user(1), events.item(0)), (2, "u", "a\u{1}"));
        assert_eq!((events.time(0), events.time(1), events.weight(0)), (Some(10), Some(9), Some(4.5)));
        assert_eq!(events.position(0), None);
    }

    #[test]
    fn tabs_separate_tsv_cells() {
        let map = ColumnMap::default();
        let events = interactions(&b"user_id\titem_id\tposition\nu\ta,b\t0\n"[..], "e.tsv", &map, TSV).unwrap();
        assert_eq!((events.item(0), events.position(0)), ("a,b", Some(0)));
    }

    #[test]
    fn bad_lines_are_named() {
        let ragged = told_by(b"item_id,user_id\na,u\nb,u,1\n");
        assert_eq!(
            ragged.0,
            "items.csv, line 3: 3 cells, but the header has 2; give every line as many cells as the header, and quote cells that hold the separator"
        );
        assert!(ragged.1.starts_with("events.csv, line 3: 3 cells"));
        let foreign = told_by(b"item_id,user_id\na,u\nb,\xff\n");
        assert!(foreign.0.contains("items.csv, line 3: cell 2 is not UTF-8"), "{}", foreign.0);
        assert!(foreign.1.contains("events.csv, line 3: cell 2 is not UTF-8"));
        assert!(told_by(b"item_id,item_id\n").0.contains("line 1: the column name \"item_id\" appears twice"));
        assert!(told_by(b"item,user\na,u\n").1.contains("no column \"user_id\" (there are: \"item\", \"user\")"));
        assert!(told_by(b"item_id,user_id\n,\n").1.contains("events.csv, line 2: the user id is missing"));
        assert!(told_by(b"item_id,user_id\n").0.contains("no items"));
        assert!(told_by(b"\n\n").0.contains("is empty"));
    }

    #[test]
    fn bad_numbers_name_line_and_column() {
        let error = |row: &str| {
            let text = format!("user_id,item_id,position,timestamp,weight\nu,i,0,1,1\n{row}\n");
            read_events(text.as_bytes()).unwrap_err().to_string()
        };
        assert!(error("u,i,x,1,1").contains("line 3, column \"position\": \"x\" is not a number"));
        assert!(error("u,i,1,NaN,1").contains("column \"timestamp\": \"NaN\" is not a number (NaN)"));
        assert!(error("u,i,1,1.5,1").contains("has a fraction"));
        assert!(error("u,i,1,99999999999999999999,1").contains("does not fit a 64-bit integer"));
        assert!(error("u,i,1,1,NaN").contains("line 3: the weight NaN is not a positive number"));
        assert!(error("u,i,1,1,").contains("line 3: the weight is missing here"));
    }

    #[test]
    fn a_repeated_id_after_a_cell_of_two_lines_names_the_right_lines() {
        let error = read_items(b"item_id,note\na,\"x\ny\"\nb,\na,\n").unwrap_err().to_string();
        assert!(error.contains("line 5") && error.contains("first in line 2"), "{error}");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (read_items(&bytes), read_events(&bytes));
            let mut table = b"item_id,user_id,timestamp,weight\n".to_vec();
            table.extend(bytes);
            let _ = (read_items(&table), read_events(&table));
        }
    }
}
