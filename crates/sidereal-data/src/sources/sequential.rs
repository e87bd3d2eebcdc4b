//! `sequential_data.txt` as S3-Rec and P5 write it: a line a user, "user item item ...", oldest first.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use sidereal_core::{Error, Result};

use crate::columns::ColumnMap;
use crate::table::{Event, InteractionTable, RowNames};

pub(super) fn interactions(path: &Path, _columns: &ColumnMap) -> Result<InteractionTable> {
    read(super::open(path)?, &path.display().to_string())
}

fn read(reader: impl Read, place: &str) -> Result<InteractionTable> {
    let mut events = InteractionTable::new(place, RowNames::new("line", 1));
    for (line, text) in (1u64..).zip(BufReader::new(reader).lines()) {
        let text = text.map_err(|e| match e.kind() {
            std::io::ErrorKind::InvalidData => {
                Error::input(format!("{place}, line {line}"), "not UTF-8", "write the file again as UTF-8")
            }
            _ => Error::io("read", place, e),
        })?;
        let mut words = text.split_whitespace();
        let Some(user) = words.next() else { continue };
        let before = events.len();
        for (position, item) in (0i64..).zip(words) {
            let event = Event { user: Some(user), item: Some(item), position: Some(position), ..Event::default() };
            events.push(line, event)?;
        }
        if events.len() == before {
            let mend = "write \"user item item ...\" on every line, or remove this one";
            return Err(Error::input(format!("{place}, line {line}"), "a user without items", mend));
        }
    }
    events.finish()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_line_is_a_history() {
        let events = read(&b"1 5 3 5\n\n2 3\r\n"[..], "sequential_data.txt").unwrap();
        let all: Vec<_> = (0..events.len()).map(|r| (events.user(r), events.item(r), events.position(r))).collect();
        let expected = [("1", "5", Some(0)), ("1", "3", Some(1)), ("1", "5", Some(2)), ("2", "3", Some(0))];
        assert_eq!(all, expected);
        assert_eq!(events.at(3), "sequential_data.txt, line 3");
    }

    #[test]
    fn bad_lines_are_named() {
        assert!(
            read(&b"1 2\n7\n"[..], "s.txt").unwrap_err().to_string().contains("s.txt, line 2: a user without items")
        );
        assert!(read(&b"1 2\n\xff 2\n"[..], "s.txt").unwrap_err().to_string().contains("s.txt, line 2: not UTF-8"));
        assert!(read(&b"  \n"[..], "s.txt").unwrap_err().to_string().contains("no interactions"));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes[..], "x");
        }
    }
}
