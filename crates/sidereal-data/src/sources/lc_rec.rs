//! The LC-Rec family's `X.inter.json` ({user: [item, ...]}, oldest first) and `X.item.json` ({item: {title, ...}}).
//! Where all keys are integers their numbers are the order, else the file's.

use std::fmt;
use std::io::{BufReader, Read};
use std::marker::PhantomData;
use std::path::Path;

use serde::de::{DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value};
use sidereal_core::{Error, Result};

use super::json_lines::id;
use crate::attributes::{JsonColumns, MAX_COLUMNS};
use crate::columns::{ColumnMap, Role, short};
use crate::names::natural_order;
use crate::table::{Event, InteractionTable, ItemTable, RowNames};

pub(super) fn items(path: &Path, map: &ColumnMap) -> Result<ItemTable> {
    read_items(super::open(path)?, &path.display().to_string(), map)
}

pub(super) fn interactions(path: &Path, _map: &ColumnMap) -> Result<InteractionTable> {
    read_interactions(super::open(path)?, &path.display().to_string())
}

/// An object's entries in the order of the file, repeated keys included.
struct Entries<T>(PhantomData<T>);

impl<'de, T: DeserializeOwned> Visitor<'de> for Entries<T> {
    type Value = Vec<(String, T)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(entries)
    }
}

/// The entries (taken one by one) and the order in which they are taken.
type Ordered<T> = (Vec<Option<(String, T)>>, Vec<u32>);

/// Reads the object.
fn entries<T: DeserializeOwned>(reader: impl Read, place: &str, shape: &str) -> Result<Ordered<T>> {
    let mut json = serde_json::Deserializer::from_reader(BufReader::new(reader));
    let read = json.deserialize_map(Entries::<T>(PhantomData)).and_then(|entries| json.end().map(|()| entries));
    let entries = read.map_err(|e| match e.classify() {
        serde_json::error::Category::Io => Error::io("read", place, e.into()),
        _ => Error::input(place, format!("this is not such a file ({e})"), format!("write it as {shape}")),
    })?;
    if u32::try_from(entries.len()).is_err() {
        return Err(Error::input(place, "more than 4 billion entries", "split the data"));
    }
    let order = natural_order(entries.iter().map(|(key, _)| key.as_str()));
    Ok((entries.into_iter().map(Some).collect(), order))
}

fn read_items(reader: impl Read, place: &str, map: &ColumnMap) -> Result<ItemTable> {
    let shape = "{\"item\": {\"title\": ..., \"brand\": ...}, ...}";
    let (mut entries, order) = entries::<Map<String, Value>>(reader, place, shape)?;
    let mut rows = RowNames::new("entry", 0);
    let (mut ids, mut titles, mut columns) = (Vec::new(), Vec::new(), JsonColumns::default());
    for at in order {
        let Some((key, mut object)) = entries[at as usize].take() else { continue };
        let title = object.remove(map.given(Role::Title).unwrap_or("title"));
        for (name, value) in object {
            if !columns.push(ids.len(), name, value) {
                let problem = format!("more than {MAX_COLUMNS} different keys");
                return Err(Error::input(format!("{place}, item {}", short(&key)), problem, "keep those that matter"));
            }
        }
        rows.push(u64::from(at));
        ids.push(Some(key));
        titles.push(title.and_then(|title| match title {
            Value::String(title) => Some(title).filter(|title| !title.is_empty()),
            _ => None,
        }));
    }
    let attributes = columns.finish(ids.len());
    ItemTable::new(place, rows, ids, titles, attributes)
}

fn read_interactions(reader: impl Read, place: &str) -> Result<InteractionTable> {
    let shape = "{\"user\": [item, item, ...], ...}";
    let (mut entries, order) = entries::<Vec<Value>>(reader, place, shape)?;
    let mut events = InteractionTable::new(place, RowNames::new("entry", 0));
    for at in order {
        let Some((user, items)) = entries[at as usize].take() else { continue };
        if items.is_empty() {
            let mend = "give the user items, or remove the entry";
            return Err(Error::input(format!("{place}, user {}", short(&user)), "a user without items", mend));
        }
        for (position, item) in (0i64..).zip(&items) {
            let Some(item) = id(item) else {
                let problem = format!("the item {} is neither a string nor an integer", short(&item.to_string()));
                let place = format!("{place}, user {}", short(&user));
                return Err(Error::input(place, problem, format!("write the file as {shape}")));
            };
            let event = Event { user: Some(&user), item: Some(&item), position: Some(position), ..Event::default() };
            events.push(u64::from(at), event)?;
        }
    }
    events.finish()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use sidereal_core::Attribute;

    fn items_of(text: &[u8]) -> Result<ItemTable> {
        read_items(text, "X.item.json", &ColumnMap::default())
    }

    fn events_of(text: &[u8]) -> Result<InteractionTable> {
        read_interactions(text, "X.inter.json")
    }

    #[test]
    fn numeric_keys_are_taken_in_numeric_order() {
        let events = events_of(b"{\"10\": [3, \"4\"], \"9\": [3]}").unwrap();
        let all: Vec<_> = (0..3).map(|row| (events.user(row), events.item(row), events.position(row))).collect();
        assert_eq!(all, [("9", "3", Some(0)), ("10", "3", Some(0)), ("10", "4", Some(1))]);
        let items = items_of(b"{\"10\": {\"title\": \"b\"}, \"2\": {\"title\": \"\", \"brand\": \"x\"}}").unwrap();
        assert_eq!(items.ids(), ["2", "10"]);
        assert_eq!(items.titles(), [None, Some("b".to_owned())]);
        assert_eq!(items.attributes()["brand"], Attribute::Text(vec![Some("x".to_owned()), None]));
    }

    #[test]
    fn other_keys_keep_the_order_of_the_file() {
        let events = events_of(b"{\"b\": [1], \"a\": [1]}").unwrap();
        assert_eq!((events.user(0), events.user(1)), ("b", "a"));
    }

    #[test]
    fn bad_files_are_told() {
        let error = |text: &[u8]| events_of(text).unwrap_err().to_string();
        assert!(error(b"{\"1\": [1,").contains("X.inter.json: this is not such a file (EOF"));
        assert!(error(b"{\"1\": [1]} x").contains("trailing characters"));
        assert!(error(b"[1]").contains("expected an object"));
        assert!(error(b"{\"1\": []}").contains("user \"1\": a user without items"));
        assert!(error(b"{\"1\": [null]}").contains("user \"1\": the item \"null\" is neither"));
        assert!(error(b"{}").contains("no interactions"));
        let twice = items_of(b"{\"1\": {}, \"1\": {}}").unwrap_err().to_string();
        assert!(twice.contains("\"1\" appears a second time (first in entry 0)"), "{twice}");
        assert!(items_of(b"{\"1\": [\"title\"]}").unwrap_err().to_string().contains("write it as {\"item\""));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), key in ".{0,9}", depth in 0usize..300) {
            let _ = (items_of(&bytes), events_of(&bytes));
            let nested = format!("{{{key:?}: {}1{}}}", "[".repeat(depth), "]".repeat(depth));
            let _ = (items_of(nested.as_bytes()), events_of(nested.as_bytes()));
        }
    }
}
