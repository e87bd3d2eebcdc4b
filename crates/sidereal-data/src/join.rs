//! Several prepared data sets -> one, in which every item has its domain.
//!
//! *Paper*: one catalog and one tokenizer over the items of several domains, as GMC has it.
//!
//! Items stand domain by domain. Ids become `DOMAIN:ID`, so that ids which two sets use for different things stay apart;
//! users are other people in every domain unless they are said to be shared. Whatever a set was prepared with (k-core,
//! order of events) happened before and within it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;

use sidereal_core::{Attribute, Error, Histories, ItemId, Items, Result};

use crate::columns::short;
use crate::domains::{DOMAIN, SEPARATOR, check_name};
use crate::facts::{DomainFacts, Facts};
use crate::prepare::{ItemRows, PreparedData, count};

/// A data set under its name.
#[derive(Debug, Clone)]
pub struct Domain {
    /// What its items are called.
    pub name: String,
    /// Its items and histories.
    pub data: PreparedData,
}

/// The items of one domain of joined data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainItems {
    /// The domain's name.
    pub name: String,
    /// Where they stand among all items.
    pub items: Range<usize>,
    /// Where they stand in the domain's own items file.
    pub rows: ItemRows,
}

/// Joins data sets. With `shared_users` one user id is one person, whose events of all domains are one history, by time.
///
/// Columns of items that a domain does not have are empty there; one that is of numbers here and of words there holds
/// words. A column `domain` is made; if a set has one, that is kept as `source_domain`.
///
/// # Errors
/// No data set; names that are strange or taken; times in different units; weights in some sets alone; shared users where
/// a set has no times.
pub fn join(domains: Vec<Domain>, shared_users: bool) -> Result<PreparedData> {
    check(&domains, shared_users)?;
    let histories_of = people(&domains, shared_users);
    let (histories, partial_times) = histories(&domains, histories_of)?;
    let mut facts = facts(&domains, &histories, partial_times.as_deref());
    let item_rows = rows(&domains);
    let items = items(domains)?;
    count(&mut facts, &items, &histories);
    Ok(PreparedData { items, histories, item_rows, facts, partial_times })
}

/// An id of a domain's tables among those of all.
fn joined_id(domain: &str, id: &str) -> String {
    format!("{domain}{SEPARATOR}{id}")
}

fn check(domains: &[Domain], shared_users: bool) -> Result<()> {
    let Some(first) = domains.first() else {
        return Err(Error::config("--data", "there is no data set", "give at least one as --data NAME=DIR"));
    };
    for (at, domain) in domains.iter().enumerate() {
        check_name(&domain.name)?;
        if domains[..at].iter().any(|other| other.name == domain.name) {
            let problem = format!("two data sets are called {}", short(&domain.name));
            return Err(Error::config("--data", problem, "give every domain a name of its own"));
        }
    }
    let differ = |place: &str, problem: String, column: &str| {
        let mend = format!("give it to all of them, or to none: `[data.columns] {column} = \"\"` leaves it out");
        Err(Error::input(place, problem, mend))
    };
    let timed: Vec<&Domain> = domains.iter().filter(|domain| domain.data.facts.time_unit.is_some()).collect();
    if let [one, rest @ ..] = &timed[..]
        && let Some(other) = rest.iter().find(|other| other.data.facts.time_unit != one.data.facts.time_unit)
    {
        let unit = |domain: &Domain| domain.data.facts.time_unit.clone().unwrap_or_default();
        let (one, other) = (format!("{} ({})", one.name, unit(one)), format!("{} ({})", other.name, unit(other)));
        return differ("interactions", format!("times of {one} and {other} are in different units"), "time");
    }
    let weighted = |domain: &Domain| domain.data.histories.weights().is_some();
    if let Some(other) = domains.iter().find(|other| weighted(other) != weighted(first)) {
        let (with, without) = if weighted(first) { (first, other) } else { (other, first) };
        let problem = format!("events of {} have weights, those of {} have none", with.name, without.name);
        return differ("interactions", problem, "weight");
    }
    if shared_users && let Some(timeless) = domains.iter().find(|domain| domain.data.histories.times().is_none()) {
        let problem = format!("events of {} have no times, so they cannot be put among other domains'", timeless.name);
        let mend = "give every event a time, or leave the key out: users are then other people in every domain";
        return Err(Error::config("data.shared_users", problem, mend));
    }
    Ok(())
}

/// A user of the joined data: the id, and the users of the sets that are this person, by domain and number.
type Person = (String, Vec<(usize, usize)>);

fn people(domains: &[Domain], shared_users: bool) -> Vec<Person> {
    let mut people: Vec<Person> = Vec::new();
    let mut known: HashMap<&str, usize> = HashMap::new();
    for (at, domain) in domains.iter().enumerate() {
        for (number, id) in domain.data.histories.users().iter().enumerate() {
            if !shared_users {
                people.push((joined_id(&domain.name, id), vec![(at, number)]));
            } else if let Some(&person) = known.get(id.as_str()) {
                people[person].1.push((at, number));
            } else {
                known.insert(id, people.len());
                people.push((id.clone(), vec![(at, number)]));
            }
        }
    }
    people
}

/// An event of one set.
#[derive(Clone, Copy)]
struct Event {
    item: u32,
    time: Option<i64>,
    weight: Option<f32>,
}

fn histories(domains: &[Domain], people: Vec<Person>) -> Result<(Histories, Option<Vec<Option<i64>>>)> {
    let starts = starts(domains)?;
    let (mut users, mut offsets) = (Vec::with_capacity(people.len()), vec![0u64]);
    let mut events: Vec<Event> = Vec::new();
    for (id, sets) in people {
        let mut parts: Vec<Vec<Event>> = sets
            .iter()
            .map(|&(domain, number)| events_of(&domains[domain].data, number, starts[domain]).collect())
            .collect();
        match &mut parts[..] {
            [part] => events.append(part),
            parts => events.extend(by_time(parts)),
        }
        users.push(id);
        offsets.push(events.len() as u64);
    }
    let some_times = events.iter().any(|event| event.time.is_some());
    let times: Vec<Option<i64>> = events.iter().map(|event| event.time).filter(|_| some_times).collect();
    let whole: Option<Vec<i64>> = times.iter().copied().collect();
    let (times, partial) = match whole {
        Some(times) => (Some(times).filter(|_| some_times), None),
        None => (None, Some(times)),
    };
    let weights = events.iter().map(|event| event.weight).collect::<Option<Vec<f32>>>();
    let weights = weights.filter(|_| domains.iter().any(|domain| domain.data.histories.weights().is_some()));
    let items = events.iter().map(|event| event.item).collect();
    Ok((Histories::new(users, offsets, items, times, weights)?, partial))
}

/// A user's events, items numbered among all.
fn events_of(data: &PreparedData, user: usize, start: u32) -> impl Iterator<Item = Event> + '_ {
    let histories = &data.histories;
    let range = histories.offsets()[user] as usize..histories.offsets()[user + 1] as usize;
    range.map(move |at| Event {
        item: start + histories.items()[at],
        time: match (histories.times(), &data.partial_times) {
            (Some(times), _) => Some(times[at]),
            (None, Some(times)) => times[at],
            (None, None) => None,
        },
        weight: histories.weights().map(|weights| weights[at]),
    })
}

/// One person's events of several sets: each set's in their order, the earliest head first, ties by the sets' order.
fn by_time(parts: &[Vec<Event>]) -> Vec<Event> {
    let mut heads = vec![0; parts.len()];
    let mut merged = Vec::with_capacity(parts.iter().map(Vec::len).sum());
    let next = |heads: &[usize]| {
        let head = |&at: &usize| parts[at].get(heads[at]);
        (0..parts.len()).filter(|at| head(at).is_some()).min_by_key(|at| head(at).and_then(|event| event.time))
    };
    while let Some(at) = next(&heads) {
        merged.push(parts[at][heads[at]]);
        heads[at] += 1;
    }
    merged
}

/// The number of each set's first item among all.
fn starts(domains: &[Domain]) -> Result<Vec<u32>> {
    let mut starts = Vec::with_capacity(domains.len());
    let (mut items, mut rows) = (0u32, 0u32);
    for Domain { data, .. } in domains {
        starts.push(items);
        let more = u32::try_from(data.items.len()).ok().and_then(|more| items.checked_add(more));
        match more.zip(rows.checked_add(data.item_rows.in_file)) {
            Some((all, in_files)) => (items, rows) = (all, in_files),
            None => {
                let problem = "the items of all data sets together do not fit a 32-bit number";
                return Err(Error::input("items", problem, "give fewer or smaller data sets"));
            }
        }
    }
    Ok(starts)
}

fn rows(domains: &[Domain]) -> ItemRows {
    let mut kept = Vec::new();
    let mut in_file = 0;
    for Domain { data, .. } in domains {
        kept.extend(data.kept_items().into_iter().map(|row| in_file + row));
        in_file += data.item_rows.in_file;
    }
    ItemRows { in_file, kept: Some(kept).filter(|kept| kept.len() < in_file as usize) }
}

fn facts(domains: &[Domain], histories: &Histories, partial_times: Option<&[Option<i64>]>) -> Facts {
    let each = || domains.iter().map(|domain| &domain.data.facts);
    let orders: BTreeSet<&str> = each().map(|facts| facts.order.as_str()).collect();
    Facts {
        order: orders.into_iter().collect::<Vec<_>>().join("; or "),
        tied_events: each().map(|facts| facts.tied_events).sum(),
        user_order: "domain by domain, in each by first appearance in the file".to_owned(),
        time_unit: each().find_map(|facts| facts.time_unit.clone()),
        missing_times: partial_times.into_iter().flatten().filter(|time| time.is_none()).count() as u64,
        weights: histories.weights().is_some(),
        items_table: each().all(|facts| facts.items_table),
        ignored_columns: each().flat_map(|facts| facts.ignored_columns.iter().cloned()).collect(),
        domains: domains
            .iter()
            .map(|Domain { name, data }| DomainFacts {
                name: name.clone(),
                rows_in_file: data.item_rows.in_file,
                found: data.facts.clone(),
            })
            .collect(),
        ..Facts::default()
    }
}

fn items(domains: Vec<Domain>) -> Result<Items> {
    let lengths: Vec<usize> = domains.iter().map(|domain| domain.data.items.len()).collect();
    let (mut ids, mut titles) = (Vec::new(), Vec::new());
    let mut columns: BTreeMap<String, Vec<Option<Attribute>>> = BTreeMap::new();
    let mut named = Vec::new();
    let sets = domains.len();
    for (at, Domain { name, data: PreparedData { items, .. } }) in domains.into_iter().enumerate() {
        ids.extend(items.ids().iter().map(|id| ItemId::from(joined_id(&name, id.as_str()))));
        titles.extend_from_slice(items.titles());
        named.extend(std::iter::repeat_n(Some(name), items.len()));
        for (name, column) in items.attributes() {
            let mut free = name.clone();
            while free == DOMAIN || (free != *name && items.attributes().contains_key(&free)) {
                free.insert_str(0, "source_");
            }
            columns.entry(free).or_insert_with(|| vec![None; sets])[at] = Some(column.clone());
        }
    }
    let mut attributes: BTreeMap<String, Attribute> =
        columns.into_iter().map(|(name, parts)| (name, joined_column(parts, &lengths))).collect();
    attributes.insert(DOMAIN.to_owned(), Attribute::Text(named));
    Items::new(ids, titles, attributes)
}

/// A column of all sets: lists where one has lists, else words where one has words, else numbers.
fn joined_column(parts: Vec<Option<Attribute>>, lengths: &[usize]) -> Attribute {
    // A column without any value has the type of the others.
    let says_nothing =
        |column: &Attribute| matches!(column, Attribute::Text(cells) if cells.iter().all(Option::is_none));
    let parts: Vec<Option<Attribute>> = parts.into_iter().map(|part| part.filter(|c| !says_nothing(c))).collect();
    let any = |of: fn(&Attribute) -> bool| parts.iter().flatten().any(of);
    let lists = any(|column| matches!(column, Attribute::TextList(_)));
    let numbers = !lists && any(|c| matches!(c, Attribute::Number(_))) && !any(|c| matches!(c, Attribute::Text(_)));
    let each = parts.into_iter().zip(lengths);
    let words = |column: Attribute| -> Vec<Option<String>> {
        match column {
            Attribute::Text(cells) => cells,
            Attribute::Number(cells) => cells.into_iter().map(|cell| cell.map(|number| number.to_string())).collect(),
            Attribute::TextList(cells) => cells.into_iter().map(|words| Some(words.join(", "))).collect(),
        }
    };
    if lists {
        return Attribute::TextList(
            each.flat_map(|(part, &rows)| match part {
                None => vec![Vec::new(); rows],
                Some(Attribute::TextList(cells)) => cells,
                Some(column) => words(column).into_iter().map(|cell| cell.into_iter().collect()).collect(),
            })
            .collect(),
        );
    }
    if numbers {
        return Attribute::Number(
            each.flat_map(|(part, &rows)| match part {
                Some(Attribute::Number(cells)) => cells,
                _ => vec![None; rows],
            })
            .collect(),
        );
    }
    Attribute::Text(each.flat_map(|(part, &rows)| part.map_or_else(|| vec![None; rows], words)).collect())
}

impl PreparedData {
    /// The domains of joined data, in the order of their items; none where the data is one set.
    ///
    /// # Errors
    /// Facts that do not fit the items: the tables were changed.
    pub fn domains(&self) -> Result<Vec<DomainItems>> {
        let kept = self.kept_items();
        let (mut first, mut before) = (0usize, 0u32);
        let mut found = Vec::new();
        for DomainFacts { name, rows_in_file, found: facts } in &self.facts.domains {
            let last = usize::try_from(facts.items).ok().and_then(|items| first.checked_add(items));
            let end = before.checked_add(*rows_in_file);
            let places = last.and_then(|last| kept.get(first..last)).zip(end);
            let sound = places.filter(|(rows, end)| rows.iter().all(|row| (before..*end).contains(row)));
            let Some((rows, end)) = sound else { return Err(changed(&format!("the items of {name}"))) };
            let rows: Vec<u32> = rows.iter().map(|row| row - before).collect();
            let items = first..first + rows.len();
            let rows = ItemRows {
                in_file: *rows_in_file,
                kept: Some(rows).filter(|rows| rows.len() < (end - before) as usize),
            };
            found.push(DomainItems { name: name.clone(), items, rows });
            first = found.last().map_or(0, |domain: &DomainItems| domain.items.end);
            before = end;
        }
        if !found.is_empty() && first != self.items.len() {
            return Err(changed("the domains"));
        }
        Ok(found)
    }

    /// The items of a domain under the ids of its own tables, and nothing else of them: for what is read beside those.
    ///
    /// # Errors
    /// As [`PreparedData::domains`].
    pub fn own_items(&self, domain: &DomainItems) -> Result<Items> {
        let ids = self.items.ids().get(domain.items.clone()).unwrap_or(&[]);
        let own = |id: &ItemId| {
            let rest = id.as_str().strip_prefix(&domain.name)?.strip_prefix(SEPARATOR)?;
            Some(ItemId::from(rest))
        };
        let ids = ids.iter().map(own).collect::<Option<Vec<_>>>();
        let ids = ids.ok_or_else(|| changed(&format!("the ids of {}", domain.name)))?;
        let titles = vec![None; ids.len()];
        Items::new(ids, titles, BTreeMap::new())
    }
}

fn changed(what: &str) -> Error {
    Error::input("prepared data", format!("{what} do not fit its tables"), "prepare the data again")
}

#[cfg(test)]
mod tests;
