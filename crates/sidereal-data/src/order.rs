//! The order of each user's events: by position where the data has it, else by time, ties by the order of the file.

use sidereal_core::{Error, Result};

use crate::columns::short;
use crate::table::InteractionTable;

/// Events grouped by user, each user's in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ordered {
    /// Rows of the table; user `u`'s are `offsets[u]..offsets[u + 1]`. Users are numbered as they first appear.
    pub rows: Vec<u32>,
    /// One more entry than users.
    pub offsets: Vec<u64>,
    /// The rule that applied, for the manifest.
    pub rule: &'static str,
    /// Events whose place among their neighbours the rule had to take from the order of the file.
    pub tied_events: u64,
}

const BY_POSITION: &str = "by position, which is unique for each user";
const BY_TIME: &str = "by time; events of one user at one time keep the order of the file";
const AS_GIVEN: &str = "the order of the file: the data has neither positions nor times";

/// Groups and orders the kept events.
///
/// # Errors
/// A position that a user has twice; both rows are named.
pub fn order(table: &InteractionTable, keep: impl Fn(usize) -> bool) -> Result<Ordered> {
    let n_users = table.users.len();
    let mut offsets = vec![0u64; n_users + 1];
    for (_, &user) in table.user_of.iter().enumerate().filter(|(row, _)| keep(*row)) {
        offsets[user as usize + 1] += 1;
    }
    for u in 0..n_users {
        offsets[u + 1] += offsets[u];
    }
    let mut next = offsets.clone();
    let mut rows = vec![0u32; offsets[n_users] as usize];
    for (row, &user) in table.user_of.iter().enumerate().filter(|(row, _)| keep(*row)) {
        rows[next[user as usize] as usize] = row as u32;
        next[user as usize] += 1;
    }
    let (keys, rule) = match (table.positions.is_absent(), table.times.is_absent()) {
        (false, _) => (&table.positions.values, BY_POSITION),
        (true, false) => (&table.times.values, BY_TIME),
        (true, true) => {
            let tied_events = 0;
            return Ok(Ordered { rows, offsets, rule: AS_GIVEN, tied_events });
        }
    };
    let key = |row: u32| keys[row as usize];
    let mut tied_events = 0;
    for u in 0..n_users {
        let of_user = &mut rows[offsets[u] as usize..offsets[u + 1] as usize];
        // Stable: rows of one key stay in the order of the file.
        of_user.sort_by_key(|&row| key(row));
        for pair in of_user.windows(2).filter(|pair| key(pair[0]) == key(pair[1])) {
            if rule == BY_POSITION {
                let (first, second) = (pair[0] as usize, pair[1] as usize);
                let user = short(table.user(second));
                let problem = format!(
                    "user {user} has position {} a second time (first in {})",
                    key(pair[1]),
                    table.row_name(first)
                );
                return Err(Error::input(table.at(second), problem, "number each user's events 0, 1, 2, ..."));
            }
            tied_events += 1;
        }
    }
    Ok(Ordered { rows, offsets, rule, tied_events })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::numbers::Time;
    use crate::table::{Event, RowNames};
    use proptest::prelude::*;

    fn table(events: &[(&str, Option<i64>, Option<i64>)]) -> InteractionTable {
        let mut table = InteractionTable::new("e.csv", RowNames::new("line", 2));
        for (at, &(user, position, time)) in (2..).zip(events) {
            let time = time.map(Time::Number);
            let event = Event { user: Some(user), item: Some("i"), position, time, weight: None };
            table.push(at, event).unwrap();
        }
        table.finish().unwrap()
    }

    #[test]
    fn position_goes_before_time() {
        let table = table(&[("b", Some(5), Some(1)), ("a", Some(0), Some(2)), ("b", Some(-1), Some(3))]);
        let ordered = order(&table, |_| true).unwrap();
        assert_eq!((ordered.rows, ordered.offsets, ordered.rule), (vec![2, 0, 1], vec![0, 2, 3], BY_POSITION));
    }

    #[test]
    fn a_repeated_position_names_both_rows() {
        let table = table(&[("a", Some(1), None), ("b", Some(1), None), ("a", Some(1), None)]);
        let error = order(&table, |_| true).unwrap_err().to_string();
        assert!(
            error.starts_with("e.csv, line 4: user \"a\" has position 1 a second time (first in line 2)"),
            "{error}"
        );
        assert!(order(&table, |row| row != 0).is_ok());
    }

    #[test]
    fn without_keys_the_file_is_the_order() {
        let ordered = order(&table(&[("a", None, None), ("b", None, None), ("a", None, None)]), |_| true).unwrap();
        assert_eq!((ordered.rows, ordered.rule, ordered.tied_events), (vec![0, 2, 1], AS_GIVEN, 0));
    }

    proptest! {
        #[test]
        fn time_order_is_the_stable_sort_of_every_user(events in proptest::collection::vec((0usize..3, -2i64..3), 1..30)) {
            let names = ["a", "b", "c"];
            let given: Vec<_> = events.iter().map(|&(u, t)| (names[u], None, Some(t))).collect();
            let table = table(&given);
            let ordered = order(&table, |_| true).unwrap();
            let mut expected: Vec<u32> = (0..events.len() as u32).collect();
            expected.sort_by_key(|&r| (table.user_of[r as usize], events[r as usize].1, r));
            prop_assert_eq!(&ordered.rows, &expected);
            let same = |a: u32, b: u32| events[a as usize] == events[b as usize];
            let tied = expected.windows(2).filter(|w| same(w[0], w[1])).count() as u64;
            prop_assert_eq!(ordered.tied_events, tied);
        }
    }
}
