//! RecBole's atomic files `.inter` and `.item`: tabs, and a header that types its columns (`user_id:token`).

use std::path::Path;

use sidereal_core::Result;

use super::delimited::{self, Dialect, Kind};
use crate::columns::ColumnMap;
use crate::table::{InteractionTable, ItemTable};

/// Atomic files are raw: a quote is a letter like any other.
const ATOMIC: Dialect = Dialect { delimiter: b'\t', quotes: false, header: typed };

pub(super) fn items(path: &Path, map: &ColumnMap) -> Result<ItemTable> {
    delimited::items(super::open(path)?, &path.display().to_string(), map, ATOMIC)
}

pub(super) fn interactions(path: &Path, map: &ColumnMap) -> Result<InteractionTable> {
    delimited::interactions(super::open(path)?, &path.display().to_string(), map, ATOMIC)
}

fn typed(header: &str) -> Result<(&str, Kind), String> {
    let known = "token, token_seq, float, float_seq";
    let (name, kind) = header
        .rsplit_once(':')
        .ok_or_else(|| format!("the column {header:?} has no type (one of {known}, as in `user_id:token`)"))?;
    let kind = match kind.trim_end() {
        "token" => Kind::Text,
        "token_seq" => Kind::TextList,
        "float" => Kind::Number,
        "float_seq" => Kind::Ignored,
        other => return Err(format!("the type {other:?} of column {name:?} is not one of {known}")),
    };
    Ok((name, kind))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use sidereal_core::Attribute;

    fn read_events(bytes: &[u8]) -> Result<InteractionTable> {
        delimited::interactions(bytes, "x.inter", &ColumnMap::default(), ATOMIC)
    }

    fn read_items(bytes: &[u8]) -> Result<ItemTable> {
        delimited::items(bytes, "x.item", &ColumnMap::default(), ATOMIC)
    }

    #[test]
    fn an_inter_file_is_read() {
        let events = read_events(b"user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t9\t5.0\t1.4e9\n");
        let events = events.unwrap();
        assert_eq!((events.user(0), events.item(0)), ("1", "9"));
        assert_eq!((events.time(0), events.weight(0)), (Some(1_400_000_000), Some(5.0)));
    }

    #[test]
    fn an_item_file_is_read_by_its_types() {
        let text = b"item_id:token\ttitle:token_seq\tclass:token_seq\tprice:float\tcode:token\tv:float_seq\n1\tThe \"Film\tx y\t2.5\t3\t1 2\n";
        let items = read_items(text).unwrap();
        assert_eq!(items.titles(), [Some("The \"Film".to_owned())]);
        assert_eq!(items.attributes()["class"], Attribute::TextList(vec![vec!["x".to_owned(), "y".to_owned()]]));
        assert_eq!(items.attributes()["price"], Attribute::Number(vec![Some(2.5)]));
        assert_eq!(items.attributes()["code"], Attribute::Text(vec![Some("3".to_owned())]));
        assert_eq!(items.ignored(), ["v"]);
    }

    #[test]
    fn headers_without_types_are_told() {
        let error = read_events(b"user_id\titem_id\n1\t2\n").unwrap_err().to_string();
        assert!(error.contains("x.inter, line 1: the column \"user_id\" has no type"), "{error}");
        let error = read_events(b"user_id:int\n1\n").unwrap_err().to_string();
        assert!(error.contains("the type \"int\" of column \"user_id\""), "{error}");
        let error = read_items(b"item_id:token\tprice:float\n1\tcheap\n").unwrap_err().to_string();
        assert!(error.contains("line 2, column \"price\": \"cheap\" is not a number"), "{error}");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut table = b"item_id:token\tuser_id:token\ttimestamp:float\n".to_vec();
            table.extend(&bytes);
            for bytes in [bytes, table] {
                let _ = (read_items(&bytes), read_events(&bytes));
            }
        }
    }
}
