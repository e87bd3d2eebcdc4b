#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::prepare::prepare_files;
use crate::{ColumnMap, DataSource};

fn set(items: &str, events: &str, k: Option<u32>) -> PreparedData {
    let dir = tempfile::tempdir().unwrap();
    let (items_path, events_path) = (dir.path().join("items.csv"), dir.path().join("events.csv"));
    std::fs::write(&items_path, items).unwrap();
    std::fs::write(&events_path, events).unwrap();
    prepare_files(Some(&items_path), &events_path, &ColumnMap::default(), k).unwrap()
}

fn domain(name: &str, data: PreparedData) -> Domain {
    Domain { name: name.to_owned(), data }
}

const BOOKS: &str = "item_id,title,price,brand,domain\n1,One,3,,old\n2,Two,,,old\n3,Three,5,,new\n";
const GAMES: &str = "item_id,title,price,brand\n2,Zwei,cheap,B\n1,Eins,7,\n";

fn both(shared: bool) -> Result<PreparedData> {
    let books = set(BOOKS, "user_id,item_id,timestamp\nann,1,10\nann,3,30\nbob,2,5\n", None);
    let games = set(GAMES, "user_id,item_id,timestamp\nbob,1,2\nbob,2,9\nann,2,20\n", None);
    join(vec![domain("books", books), domain("games", games)], shared)
}

#[test]
fn ids_that_clash_stay_apart_and_every_item_has_its_domain() {
    let data = both(false).unwrap();
    let ids: Vec<&str> = data.items.ids().iter().map(ItemId::as_str).collect();
    assert_eq!(ids, ["books:1", "books:2", "books:3", "games:2", "games:1"]);
    assert_eq!(data.items.title(4), Some("Eins"));
    let words = |cells: &[&str]| {
        Attribute::Text(cells.iter().map(|cell| (!cell.is_empty()).then(|| (*cell).to_owned())).collect())
    };
    let attributes = data.items.attributes();
    assert_eq!(attributes[DOMAIN], words(&["books", "books", "books", "games", "games"]));
    assert_eq!(attributes["source_domain"], words(&["old", "old", "new", "", ""]));
    assert_eq!(attributes["price"], words(&["3", "", "5", "cheap", "7"]), "words here make words of numbers there");
    assert_eq!(attributes["brand"], words(&["", "", "", "B", ""]));
    assert_eq!(data.histories.users(), ["books:ann", "books:bob", "games:bob", "games:ann"]);
    assert_eq!(data.histories.items(), [0, 2, 1, 4, 3, 3]);
    assert_eq!(data.histories.times(), Some(&[10, 30, 5, 2, 9, 20][..]));
    assert_eq!((data.facts.items, data.facts.users, data.facts.interactions), (5, 4, 6));
}

#[test]
fn shared_users_have_one_history_by_time() {
    let data = both(true).unwrap();
    assert_eq!(data.histories.users(), ["ann", "bob"]);
    assert_eq!(data.histories.items_of(0), [0, 3, 2], "books at 10, games at 20, books at 30");
    assert_eq!(data.histories.items_of(1), [4, 1, 3]);
    assert_eq!(data.histories.times_of(1), Some(&[2, 5, 9][..]));
    let timeless = set(GAMES, "user_id,item_id\nbob,1\n", None);
    let timed = set(BOOKS, "user_id,item_id,timestamp\nann,1,10\n", None);
    let error = join(vec![domain("books", timed), domain("games", timeless)], true).unwrap_err().to_string();
    assert!(error.contains("data.shared_users") && error.contains("events of games have no times"), "{error}");
}

#[test]
fn what_a_core_dropped_of_one_domain_is_known_when_its_files_are_read() {
    let books = set(BOOKS, "user_id,item_id\na,1\na,3\nb,1\nb,3\nc,2\n", Some(2));
    let games = set(GAMES, "user_id,item_id\na,1\na,2\n", None);
    let data = join(vec![domain("books", books), domain("games", games)], false).unwrap();
    assert_eq!(data.kept_items(), [0, 2, 3, 4]);
    let dir = tempfile::tempdir().unwrap();
    data.save_into(dir.path()).unwrap();
    let data = PreparedData::load(dir.path()).unwrap();
    let domains = data.domains().unwrap();
    let rows = |in_file, kept: Option<&[u32]>| ItemRows { in_file, kept: kept.map(<[u32]>::to_vec) };
    assert_eq!(
        domains,
        [
            DomainItems { name: "books".into(), items: 0..2, rows: rows(3, Some(&[0, 2])) },
            DomainItems { name: "games".into(), items: 2..4, rows: rows(2, None) },
        ]
    );
    let own: Vec<Items> = domains.iter().map(|domain| data.own_items(domain).unwrap()).collect();
    assert_eq!((own[0].id(1).as_str(), own[1].id(0).as_str()), ("3", "2"));
    // Facts of other tables.
    let mut other = data.clone();
    other.facts.domains[0].found.items = 3;
    assert!(other.domains().unwrap_err().to_string().contains("prepare the data again"));
    other.facts.domains[0].found.items = u64::MAX;
    assert!(other.domains().is_err());
    other.facts.domains.pop();
    other.facts.domains[0].found.items = 2;
    assert!(other.domains().is_err(), "items of no domain");
}

#[test]
fn sets_that_cannot_be_one_are_told() {
    let weighted = || set(BOOKS, "user_id,item_id,rating\nann,1,4\n", None);
    let plain = || set(GAMES, "user_id,item_id\nann,1\n", None);
    let error = join(vec![domain("books", weighted()), domain("games", plain())], false).unwrap_err().to_string();
    assert!(error.contains("events of books have weights, those of games have none"), "{error}");
    let dated = set(BOOKS, "user_id,item_id,timestamp\nann,1,2014-05-01T00:00:00Z\n", None);
    let timed = set(GAMES, "user_id,item_id,timestamp\nann,1,7\n", None);
    let error = join(vec![domain("books", dated), domain("games", timed)], false).unwrap_err().to_string();
    assert!(error.contains("different units") && error.contains("time = \"\""), "{error}");
    let error = join(vec![domain("a", plain()), domain("a", plain())], false).unwrap_err().to_string();
    assert!(error.contains("two data sets are called \"a\""), "{error}");
    assert!(join(vec![domain("a:b", plain())], false).is_err());
    assert!(join(Vec::new(), false).is_err());
    assert_eq!(DataSource::parse::<&str>(&[]).unwrap(), None);
}

#[test]
fn times_that_one_set_lacks_are_missing_and_told() {
    let timed = set(BOOKS, "user_id,item_id,timestamp\nann,1,10\nann,2,11\n", None);
    let plain = set(GAMES, "user_id,item_id\nann,1\n", None);
    let data = join(vec![domain("books", timed), domain("games", plain)], false).unwrap();
    assert_eq!((data.histories.times(), data.facts.missing_times), (None, 1));
    assert_eq!(data.rough_times(), Some(vec![10, 11, 11]));
}

proptest! {
    /// Joining changes no set: every user's events are there in their order, under numbers of their own.
    #[test]
    fn every_set_is_still_there(
        first in proptest::collection::vec((0u8..4, 0u8..5, 0i64..6), 1..20),
        second in proptest::collection::vec((0u8..4, 0u8..5, 0i64..6), 1..20),
        shared in any::<bool>(),
    ) {
        let items = "item_id\n0\n1\n2\n3\n4\n";
        let events = |rows: &[(u8, u8, i64)]| {
            let rows: String = rows.iter().map(|(user, item, time)| format!("u{user},{item},{time}\n")).collect();
            format!("user_id,item_id,timestamp\n{rows}")
        };
        let sets = [set(items, &events(&first), None), set(items, &events(&second), None)];
        let joined = join(vec![domain("a", sets[0].clone()), domain("b", sets[1].clone())], shared).unwrap();
        prop_assert_eq!(joined.histories.events(), first.len() + second.len());
        for (name, set, start) in [("a", &sets[0], 0), ("b", &sets[1], 5)] {
            for user in 0..set.histories.len() {
                let id = set.histories.user(user);
                let id = if shared { id.to_owned() } else { format!("{name}:{id}") };
                let person = joined.histories.user_index(&id).unwrap();
                let of_set: Vec<u32> = joined.histories.items_of(person).iter().copied()
                    .filter(|item| (start..start + 5).contains(item)).map(|item| item - start).collect();
                prop_assert_eq!(&of_set[..], set.histories.items_of(user));
                if !shared {
                    prop_assert_eq!(joined.histories.items_of(person).len(), of_set.len());
                }
                let times = joined.histories.times_of(person).unwrap();
                prop_assert!(times.windows(2).all(|pair| pair[0] <= pair[1]));
            }
        }
    }
}
