//! JSON Lines: an object a line.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use serde_json::{Map, Value};
use sidereal_core::{Error, Result};

use crate::attributes::{JsonColumns, MAX_COLUMNS};
use crate::columns::{ColumnMap, Role, listed, short};
use crate::numbers::{self, Time};
use crate::table::{Event, InteractionTable, ItemTable, RowNames};

/// Longest line that is read.
const MAX_LINE_BYTES: u64 = 64 << 20;

pub(super) fn items(path: &Path, map: &ColumnMap) -> Result<ItemTable> {
    read_items(super::open(path)?, &path.display().to_string(), map)
}

pub(super) fn interactions(path: &Path, map: &ColumnMap) -> Result<InteractionTable> {
    read_interactions(super::open(path)?, &path.display().to_string(), map)
}

struct Lines<R> {
    reader: BufReader<R>,
    place: String,
    line: u64,
    buffer: Vec<u8>,
}

impl<R: Read> Lines<R> {
    fn new(reader: R, place: &str) -> Self {
        Self { reader: BufReader::new(reader), place: place.to_owned(), line: 0, buffer: Vec::new() }
    }

    fn wrong(&self, problem: impl Into<String>) -> Error {
        Error::input(format!("{}, line {}", self.place, self.line), problem, "write one JSON object per line, in UTF-8")
    }

    /// The next object; blank lines are skipped.
    fn next(&mut self) -> Result<Option<Map<String, Value>>> {
        loop {
            self.buffer.clear();
            let read = (&mut self.reader).take(MAX_LINE_BYTES).read_until(b'\n', &mut self.buffer);
            if read.map_err(|e| Error::io("read", &self.place, e))? == 0 {
                return Ok(None);
            }
            self.line += 1;
            if self.buffer.len() as u64 == MAX_LINE_BYTES {
                return Err(self.wrong(format!("longer than {} MiB", MAX_LINE_BYTES >> 20)));
            }
            let text = self.buffer.strip_prefix(b"\xef\xbb\xbf").filter(|_| self.line == 1).unwrap_or(&self.buffer);
            if text.trim_ascii().is_empty() {
                continue;
            }
            return match serde_json::from_slice(text) {
                Ok(Value::Object(object)) => Ok(Some(object)),
                Ok(_) => Err(self.wrong("this is not a JSON object")),
                Err(e) => Err(self.wrong(format!("this is not JSON ({e})").replace(" at line 1 column", " at column"))),
            };
        }
    }
}

/// The keys that play the parts, known by the first line that has them.
struct Keys<'a> {
    map: &'a ColumnMap,
    /// Keys of all objects so far that play an optional part by a given name.
    seen: HashSet<&'static str>,
}

impl<'a> Keys<'a> {
    fn new(map: &'a ColumnMap) -> Self {
        Self { map, seen: HashSet::new() }
    }

    fn take(&mut self, role: Role, object: &mut Map<String, Value>) -> Option<Value> {
        let value = match self.map.given(role) {
            Some(name) => object.remove(name),
            None => role.usual_names().iter().find_map(|name| object.remove(*name)),
        };
        if value.is_some() {
            self.seen.insert(role.name());
        }
        value.filter(|value| !value.is_null())
    }

    /// A name that was given must be a key of some line.
    fn check(&self, roles: &[Role], place: &str) -> Result<()> {
        let absent = |role: &&Role| !self.seen.contains(role.name());
        for (role, name) in roles.iter().filter(absent).filter_map(|r| Some((r, self.map.given(*r)?))) {
            if !name.is_empty() {
                let problem = format!("no line has the key {name:?}");
                return Err(Error::input(place, problem, format!("correct the name of the {} column", role.name())));
            }
        }
        Ok(())
    }
}

fn read_items(reader: impl Read, place: &str, map: &ColumnMap) -> Result<ItemTable> {
    let mut lines = Lines::new(reader, place);
    let mut keys = Keys::new(map);
    let mut rows = RowNames::new("line", 1);
    let (mut ids, mut titles, mut columns) = (Vec::new(), Vec::new(), JsonColumns::default());
    while let Some(mut object) = lines.next()? {
        let id = required(&mut keys, Role::Item, &mut object, &lines)?;
        let title = match keys.take(Role::Title, &mut object) {
            None => None,
            Some(Value::String(title)) => Some(title).filter(|title| !title.is_empty()),
            Some(other) => Some(other.to_string()),
        };
        for (name, value) in object {
            if !columns.push(ids.len(), name, value) {
                return Err(lines.wrong(format!("more than {MAX_COLUMNS} different keys")));
            }
        }
        rows.push(lines.line);
        ids.push(Some(id));
        titles.push(title);
    }
    keys.check(&[Role::Title], place)?;
    let attributes = columns.finish(ids.len());
    ItemTable::new(place, rows, ids, titles, attributes)
}

fn read_interactions(reader: impl Read, place: &str, map: &ColumnMap) -> Result<InteractionTable> {
    let mut lines = Lines::new(reader, place);
    let mut keys = Keys::new(map);
    let mut events = InteractionTable::new(place, RowNames::new("line", 1));
    while let Some(mut object) = lines.next()? {
        let user = required(&mut keys, Role::User, &mut object, &lines)?;
        // One key may be both the item and, by default, nothing else: the user's key is gone by now.
        let item = required(&mut keys, Role::EventItem, &mut object, &lines)?;
        let mut number = |role: Role| {
            let Some(value) = keys.take(role, &mut object) else { return Ok(None) };
            let told = |problem: String| {
                let shown = short(&value.to_string());
                lines.wrong(format!("the {} {shown} {problem}", role.name()))
            };
            match (&value, role) {
                (Value::Number(number), Role::Weight) => Ok(number.as_f64().map(Cell::Weight)),
                (Value::Number(number), _) => whole(number).map(|n| Some(Cell::Whole(Time::Number(n)))).map_err(told),
                (Value::String(text), Role::Time) => numbers::time(text).map(|t| t.map(Cell::Whole)).map_err(told),
                _ => Err(told("is not a number".to_owned())),
            }
        };
        let (position, time, weight) = (number(Role::Position)?, number(Role::Time)?, number(Role::Weight)?);
        let event = Event {
            user: Some(&user),
            item: Some(&item),
            position: match position {
                Some(Cell::Whole(Time::Number(position))) => Some(position),
                _ => None,
            },
            time: match time {
                Some(Cell::Whole(time)) => Some(time),
                _ => None,
            },
            weight: match weight {
                Some(Cell::Weight(weight)) => Some(weight),
                _ => None,
            },
        };
        events.push(lines.line, event)?;
    }
    keys.check(&[Role::Position, Role::Time, Role::Weight], place)?;
    events.finish()
}

enum Cell {
    Whole(Time),
    Weight(f64),
}

fn whole(number: &serde_json::Number) -> Result<i64, String> {
    match number.as_i64() {
        Some(number) => Ok(number),
        None => numbers::whole_of(number.as_f64().unwrap_or(f64::NAN)),
    }
}

fn required<R: Read>(
    keys: &mut Keys<'_>,
    role: Role,
    object: &mut Map<String, Value>,
    lines: &Lines<R>,
) -> Result<String> {
    match keys.take(role, object) {
        Some(value) => id(&value).ok_or_else(|| {
            let problem = format!("the id {} is neither a string nor an integer", short(&value.to_string()));
            lines.wrong(problem)
        }),
        None => {
            let name = keys.map.given(role).unwrap_or(role.usual_names()[0]);
            let names: Vec<&String> = object.keys().collect();
            let place = format!("{}, line {}", lines.place, lines.line);
            let mend = format!("give it, or name another key with `--column {}=NAME`", role.name());
            Err(Error::input(place, format!("the key {name:?} is missing or null ({})", listed(&names)), mend))
        }
    }
}

/// An id as text, if a JSON value can be one.
pub(super) fn id(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) if number.is_i64() || number.is_u64() => Some(number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use sidereal_core::Attribute;

    fn items_of(text: &[u8]) -> Result<ItemTable> {
        read_items(text, "i.jsonl", &ColumnMap::default())
    }

    fn events_of(text: &[u8]) -> Result<InteractionTable> {
        read_interactions(text, "e.jsonl", &ColumnMap::default())
    }

    #[test]
    fn items_may_have_different_keys() {
        let text =
            b"{\"item_id\": 7, \"title\": \"a\", \"price\": 1.5}\n\n{\"item_id\": \"x\\u0007\", \"tags\": [\"t\"]}";
        let items = items_of(text).unwrap();
        assert_eq!(items.ids(), ["7", "x\u{7}"]);
        assert_eq!(items.titles(), [Some("a".to_owned()), None]);
        assert_eq!(items.attributes()["price"], Attribute::Number(vec![Some(1.5), None]));
        assert_eq!(items.attributes()["tags"], Attribute::TextList(vec![vec![], vec!["t".to_owned()]]));
    }

    #[test]
    fn interactions_take_numbers_and_dates() {
        let text = b"{\"user_id\": 1, \"item_id\": \"a\", \"time\": \"1970-01-01T00:00:01Z\", \"weight\": 2}\n";
        let events = events_of(text).unwrap();
        assert_eq!((events.user(0), events.time(0), events.weight(0)), ("1", Some(1_000_000), Some(2.0)));
        let map = ColumnMap::parse(&["user=u", "event_item=i", "time=when", "weight="]).unwrap();
        let text = &b"{\"u\": \"1\", \"i\": 2, \"when\": 3.0, \"rating\": -1}\n"[..];
        let events = read_interactions(text, "e", &map).unwrap();
        assert_eq!((events.item(0), events.time(0), events.weight(0)), ("2", Some(3), None));
    }

    #[test]
    fn bad_lines_are_named() {
        let error = |text: &str| events_of(text.as_bytes()).unwrap_err().to_string();
        let good = "{\"user_id\": 1, \"item_id\": 2, \"timestamp\": 1}\n";
        assert!(error(&format!("{good}{{\"user_id\": 1,")).contains("e.jsonl, line 2: this is not JSON (EOF"));
        assert!(error("[1]").contains("line 1: this is not a JSON object"));
        assert!(
            error("{\"user_id\": null, \"item_id\": 1}")
                .contains("\"user_id\" is missing or null (there are: \"item_id\")")
        );
        assert!(error("{\"user_id\": 1.5, \"item_id\": 1}").contains("the id \"1.5\" is neither"));
        let odd = |value: &str| error(&format!("{{\"user_id\": 1, \"item_id\": 2, \"timestamp\": {value}}}"));
        assert!(odd("18446744073709551615").contains("the time \"18446744073709551615\" does not fit"));
        assert!(odd("1.5").contains("has a fraction") && odd("true").contains("is not a number"));
        assert!(odd("1e999").contains("this is not JSON (number out of range"));
        assert!(
            error(&format!("{good}{{\"user_id\": 1, \"item_id\": 2}}")).contains("line 2: the time is missing here")
        );
        let foreign = events_of(b"{\"user_id\": \"\xff\"}").unwrap_err().to_string();
        assert!(foreign.contains("line 1: this is not JSON"), "{foreign}");
    }

    #[test]
    fn a_given_name_must_be_a_key() {
        let map = ColumnMap::parse(&["time=when"]).unwrap();
        let error = read_interactions(&b"{\"user_id\": 1, \"item_id\": 2}"[..], "e", &map).unwrap_err().to_string();
        assert!(error.contains("no line has the key \"when\""), "{error}");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), key in "[a-z_]{0,8}", value in any::<f64>()) {
            let _ = (items_of(&bytes), events_of(&bytes));
            let line = format!("{{\"item_id\": {value:?}, \"user_id\": 1, {key:?}: {value:?}, \"timestamp\": {value:?}}}");
            let _ = (items_of(line.as_bytes()), events_of(line.as_bytes()));
        }
    }
}
