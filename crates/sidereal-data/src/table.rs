//! Plain tables, whatever file they came from.

use std::collections::{BTreeMap, HashMap};

use sidereal_core::{Attribute, Error, Result};

use crate::attributes::beside_ours;
use crate::columns::short;
use crate::names::{Names, natural_order};
use crate::numbers::Time;

/// What the rows of a file are called in errors: "row 3", "line 17". Rows that stand where they are expected (one a
/// line) cost nothing.
#[derive(Debug, Clone)]
pub(crate) struct RowNames {
    word: &'static str,
    first: u64,
    len: u64,
    listed: Option<Vec<u64>>,
}

impl RowNames {
    /// `first` is the number of the first row.
    pub(crate) fn new(word: &'static str, first: u64) -> Self {
        Self { word, first, len: 0, listed: None }
    }

    pub(crate) fn push(&mut self, at: u64) {
        if self.listed.is_none() && at != self.first + self.len {
            self.listed = Some((self.first..self.first + self.len).collect());
        }
        if let Some(listed) = &mut self.listed {
            listed.push(at);
        }
        self.len += 1;
    }

    fn number(&self, row: usize) -> u64 {
        let listed = self.listed.as_ref().and_then(|listed| listed.get(row)).copied();
        listed.unwrap_or(self.first + row as u64)
    }

    fn of(&self, row: usize) -> String {
        format!("{} {}", self.word, self.number(row))
    }
}

/// An items table: ids, titles, and all other columns.
#[derive(Debug, Clone)]
pub struct ItemTable {
    place: String,
    pub(crate) ids: Vec<String>,
    pub(crate) titles: Vec<Option<String>>,
    pub(crate) attributes: BTreeMap<String, Attribute>,
    pub(crate) ignored: Vec<String>,
}

impl ItemTable {
    /// Joins columns that a reader of files made.
    ///
    /// # Errors
    /// No rows; a missing or repeated id (both rows named); columns of different lengths.
    pub(crate) fn new(
        place: &str,
        rows: RowNames,
        ids: Vec<Option<String>>,
        titles: Vec<Option<String>>,
        attributes: BTreeMap<String, Attribute>,
    ) -> Result<Self> {
        if ids.is_empty() {
            return Err(Error::input(place, "there are no items in it", "give a table with a row for each item"));
        }
        let mut seen: HashMap<&str, usize> = HashMap::with_capacity(ids.len());
        for (row, id) in ids.iter().enumerate() {
            let at = || format!("{place}, {}", rows.of(row));
            let Some(id) = id.as_deref().filter(|id| !id.is_empty()) else {
                return Err(Error::input(at(), "the item id is missing", "give every item an id, or remove the row"));
            };
            if let Some(first) = seen.insert(id, row) {
                let problem = format!("item id {} appears a second time (first in {})", short(id), rows.of(first));
                return Err(Error::input(at(), problem, "remove one of the two rows"));
            }
        }
        let lengths = attributes.iter().map(|(name, column)| (name.as_str(), column.len()));
        for (name, len) in lengths.chain([("title", titles.len())]) {
            if len != ids.len() {
                let problem = format!("column {} has {len} values for {} items", short(name), ids.len());
                return Err(Error::input(place, problem, "give every column a value for each item"));
            }
        }
        let attributes = beside_ours(attributes);
        let ids = ids.into_iter().flatten().collect();
        Ok(Self { place: place.to_owned(), ids, titles, attributes, ignored: Vec::new() })
    }

    /// The items that interactions name, without titles: by number where all ids are integers, else as first seen.
    pub(crate) fn of_interactions(interactions: &InteractionTable) -> Self {
        let order = natural_order(interactions.items.iter());
        let ids: Vec<String> = order.iter().map(|&n| interactions.items.name(n).to_owned()).collect();
        let titles = vec![None; ids.len()];
        let place = interactions.place.clone();
        Self { place, ids, titles, attributes: BTreeMap::new(), ignored: Vec::new() }
    }

    /// The file's name, for errors.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Number of items, N.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are no items.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Ids in the order of the file.
    pub fn ids(&self) -> &[String] {
        &self.ids
    }

    /// Titles in the order of the file.
    pub fn titles(&self) -> &[Option<String>] {
        &self.titles
    }

    /// All other columns by name.
    pub fn attributes(&self) -> &BTreeMap<String, Attribute> {
        &self.attributes
    }

    /// Columns that were left out because they are neither numbers nor texts nor lists of texts.
    pub fn ignored(&self) -> &[String] {
        &self.ignored
    }
}

/// One event as a file tells it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Event<'a> {
    pub(crate) user: Option<&'a str>,
    pub(crate) item: Option<&'a str>,
    pub(crate) position: Option<i64>,
    pub(crate) time: Option<Time>,
    pub(crate) weight: Option<f64>,
}

/// A column of numbers that is absent, or there for some rows, or for all.
#[derive(Debug, Clone)]
pub(crate) struct Column<T> {
    pub(crate) values: Vec<T>,
    /// Rows without a value, which have the default in `values`; empty while no row has one.
    pub(crate) missing: Vec<u32>,
    rows: u32,
}

impl<T> Default for Column<T> {
    fn default() -> Self {
        Self { values: Vec::new(), missing: Vec::new(), rows: 0 }
    }
}

impl<T: Default + Clone> Column<T> {
    fn push(&mut self, value: Option<T>) {
        if value.is_some() && self.values.is_empty() {
            self.values = vec![T::default(); self.rows as usize];
            self.missing = (0..self.rows).collect();
        }
        match value {
            Some(value) => self.values.push(value),
            None if self.values.is_empty() => {}
            None => {
                self.values.push(T::default());
                self.missing.push(self.rows);
            }
        }
        self.rows += 1;
    }

    /// Whether no row has a value.
    pub(crate) fn is_absent(&self) -> bool {
        self.values.is_empty()
    }
}

/// What the numbers of the time column count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeUnit {
    /// Whatever the file's numbers count.
    AsGiven,
    /// The file has dates; they were turned into microseconds since 1970-01-01 UTC.
    Microseconds,
}

/// An interactions table: who met what, in the order of the file. Ids are held once each.
#[derive(Debug, Clone)]
pub struct InteractionTable {
    place: String,
    rows: RowNames,
    pub(crate) users: Names,
    pub(crate) items: Names,
    pub(crate) user_of: Vec<u32>,
    pub(crate) item_of: Vec<u32>,
    pub(crate) positions: Column<i64>,
    pub(crate) times: Column<i64>,
    pub(crate) weights: Column<f32>,
    time_unit: Option<TimeUnit>,
}

impl InteractionTable {
    pub(crate) fn new(place: &str, rows: RowNames) -> Self {
        Self {
            place: place.to_owned(),
            rows,
            users: Names::default(),
            items: Names::default(),
            user_of: Vec::new(),
            item_of: Vec::new(),
            positions: Column::default(),
            times: Column::default(),
            weights: Column::default(),
            time_unit: None,
        }
    }

    /// Adds an event; `at` is the number of its row or line.
    ///
    /// # Errors
    /// A missing id, a weight that is not a positive number, dates among numbers; the row is named.
    pub(crate) fn push(&mut self, at: u64, event: Event<'_>) -> Result<()> {
        let row = self.user_of.len();
        self.rows.push(at);
        let wrong = |table: &Self, problem: String, mend: &str| Err(Error::input(table.at(row), problem, mend));
        let Some(user) = event.user.filter(|id| !id.is_empty()) else {
            return wrong(self, "the user id is missing".to_owned(), "give every event a user, or remove the row");
        };
        let Some(item) = event.item.filter(|id| !id.is_empty()) else {
            return wrong(self, "the item id is missing".to_owned(), "give every event an item, or remove the row");
        };
        let weight = event.weight.map(|weight| weight as f32);
        if let Some(weight) = weight.filter(|w| !w.is_finite() || *w <= 0.0) {
            let problem = format!("the weight {weight} is not a positive number");
            let mend =
                "give every event a weight above 0, remove the row, or leave weights out with `--column weight=`";
            return wrong(self, problem, mend);
        }
        let (time, unit) = match event.time {
            Some(Time::Number(time)) => (Some(time), Some(TimeUnit::AsGiven)),
            Some(Time::Date(time)) => (Some(time), Some(TimeUnit::Microseconds)),
            None => (None, self.time_unit),
        };
        if self.time_unit.is_some() && self.time_unit != unit {
            let problem = "the time column has both numbers and dates".to_owned();
            return wrong(self, problem, "write all times in one way");
        }
        self.time_unit = unit;
        let numbers = (self.users.number(user), self.items.number(item), u32::try_from(row));
        let (Some(user), Some(item), Ok(_)) = numbers else {
            return wrong(self, "more than 4 billion rows or ids".to_owned(), "split the data");
        };
        self.user_of.push(user);
        self.item_of.push(item);
        self.positions.push(event.position);
        self.times.push(time);
        self.weights.push(weight);
        Ok(())
    }

    /// The table is read.
    ///
    /// # Errors
    /// No events; a position or weight for some rows only (the first without is named).
    pub(crate) fn finish(self) -> Result<Self> {
        if self.is_empty() {
            let mend = "give a table with a row for each event";
            return Err(Error::input(&self.place, "there are no interactions in it", mend));
        }
        let columns = [
            (Some("position"), self.positions.missing.first()),
            (Some("weight"), self.weights.missing.first()),
            (self.positions.is_absent().then_some("time"), self.times.missing.first()),
        ];
        for (name, first) in columns {
            let (Some(name), Some(&first)) = (name, first) else { continue };
            let problem = format!("the {name} is missing here, but other rows have one");
            let mend = format!("give every event a {name}, or none");
            return Err(Error::input(self.at(first as usize), problem, mend));
        }
        Ok(self)
    }

    /// The file's name, for errors.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// The file and row of an event, for errors.
    pub fn at(&self, row: usize) -> String {
        format!("{}, {}", self.place, self.rows.of(row))
    }

    /// Only the row of an event, for errors.
    pub(crate) fn row_name(&self, row: usize) -> String {
        self.rows.of(row)
    }

    /// Number of events.
    pub fn len(&self) -> usize {
        self.user_of.len()
    }

    /// Whether there are no events.
    pub fn is_empty(&self) -> bool {
        self.user_of.is_empty()
    }

    /// The user id of an event (the empty text beyond the last one).
    pub fn user(&self, row: usize) -> &str {
        self.user_of.get(row).map_or("", |&number| self.users.name(number))
    }

    /// The item id of an event (the empty text beyond the last one).
    pub fn item(&self, row: usize) -> &str {
        self.item_of.get(row).map_or("", |&number| self.items.name(number))
    }

    /// The place of an event in its user's history, where the file has positions.
    pub fn position(&self, row: usize) -> Option<i64> {
        self.positions.values.get(row).copied()
    }

    /// The time of an event, where the file has it.
    pub fn time(&self, row: usize) -> Option<i64> {
        let time = self.times.values.get(row).copied()?;
        self.times.missing.binary_search(&(row as u32)).is_err().then_some(time)
    }

    /// The weight of an event, where the file has weights.
    pub fn weight(&self, row: usize) -> Option<f32> {
        self.weights.values.get(row).copied()
    }

    /// What the times count; `None` without times.
    pub fn time_unit(&self) -> Option<TimeUnit> {
        self.time_unit
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn table() -> InteractionTable {
        InteractionTable::new("e.csv", RowNames::new("line", 2))
    }

    fn event(user: &'static str, item: &'static str) -> Event<'static> {
        Event { user: Some(user), item: Some(item), ..Event::default() }
    }

    #[test]
    fn a_repeated_item_id_names_both_rows() {
        let mut rows = RowNames::new("line", 2);
        [2, 3, 5].into_iter().for_each(|at| rows.push(at));
        let ids = ["a", "b", "a"].map(|id| Some(id.to_owned())).to_vec();
        let error = ItemTable::new("i.csv", rows, ids, vec![None; 3], BTreeMap::new()).unwrap_err().to_string();
        assert_eq!(
            error,
            "i.csv, line 5: item id \"a\" appears a second time (first in line 2); remove one of the two rows"
        );
    }

    #[test]
    fn a_missing_id_and_a_short_column_are_told() {
        let rows = RowNames::new("row", 0);
        let new =
            |ids, titles| ItemTable::new("i", rows.clone(), ids, titles, BTreeMap::new()).unwrap_err().to_string();
        assert!(new(vec![Some("a".into()), None], vec![None; 2]).contains("i, row 1: the item id is missing"));
        assert!(new(vec![Some("a".into())], vec![]).contains("\"title\" has 0 values for 1 items"));
        assert!(new(vec![], vec![]).contains("no items"));
    }

    #[test]
    fn events_without_ids_or_with_odd_weights_name_their_row() {
        assert!(table().push(2, event("", "i")).unwrap_err().to_string().contains("e.csv, line 2: the user id"));
        assert!(table().push(2, event("u", "")).unwrap_err().to_string().contains("the item id is missing"));
        for weight in [f64::NAN, f64::INFINITY, 0.0, -1.0, 1e300] {
            let error = table().push(7, Event { weight: Some(weight), ..event("u", "i") }).unwrap_err().to_string();
            assert!(error.contains("e.csv, line 7: the weight") && error.contains("positive"), "{error}");
        }
    }

    #[test]
    fn a_column_is_there_for_all_rows_or_for_none() {
        let mut some = table();
        some.push(2, event("u", "i")).unwrap();
        some.push(3, Event { position: Some(0), ..event("u", "j") }).unwrap();
        let error = some.finish().unwrap_err().to_string();
        assert!(error.contains("line 2: the position is missing here"), "{error}");
        assert!(table().finish().unwrap_err().to_string().contains("no interactions"));
    }

    #[test]
    fn times_may_be_missing_only_where_positions_order() {
        let mut with = table();
        with.push(2, Event { position: Some(0), ..event("u", "i") }).unwrap();
        with.push(3, Event { position: Some(1), time: Some(Time::Number(9)), ..event("u", "j") }).unwrap();
        let with = with.finish().unwrap();
        assert_eq!((with.time(0), with.time(1), with.time(2)), (None, Some(9), None));
        let mut without = table();
        without.push(2, Event { time: Some(Time::Number(9)), ..event("u", "i") }).unwrap();
        without.push(3, event("u", "i")).unwrap();
        assert!(without.finish().unwrap_err().to_string().contains("line 3: the time is missing"));
    }

    #[test]
    fn dates_among_numbers_are_refused() {
        let mut table = table();
        table.push(2, Event { time: Some(Time::Number(1)), ..event("u", "i") }).unwrap();
        let error = table.push(3, Event { time: Some(Time::Date(1)), ..event("u", "i") }).unwrap_err().to_string();
        assert!(error.contains("line 3: the time column has both"), "{error}");
    }
}
