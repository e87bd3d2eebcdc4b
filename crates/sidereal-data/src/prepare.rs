//! Tables -> items and histories, with every item and user kept unless a k-core is asked for.

use std::collections::BTreeMap;
use std::path::Path;

use sidereal_core::{Attribute, Error, Histories, ItemId, Items, Result};

use crate::columns::{ColumnMap, short};
use crate::facts::{Dropped, Facts};
use crate::k_core::{Core, k_core};
use crate::order::{Ordered, order};
use crate::sources::{interactions_from, items_from};
use crate::table::{InteractionTable, ItemTable, TimeUnit};

/// Which rows of the items file the kept items are: vectors that come one a row of that file are chosen by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemRows {
    /// Rows of the items file.
    pub in_file: u32,
    /// The row of each kept item; `None` when all rows were kept.
    pub kept: Option<Vec<u32>>,
}

/// Items and histories that a run works on.
#[derive(Debug, Clone)]
pub struct PreparedData {
    /// The items, N.
    pub items: Items,
    /// Users' events in order.
    pub histories: Histories,
    /// Where the items stand in the items file.
    pub item_rows: ItemRows,
    /// Counts and rules.
    pub facts: Facts,
    /// Times where some events have none; then the histories have no times.
    pub(crate) partial_times: Option<Vec<Option<i64>>>,
}

impl PreparedData {
    /// Rows of the items file that were kept, in order.
    pub fn kept_items(&self) -> Vec<u32> {
        self.item_rows.kept.clone().unwrap_or_else(|| (0..self.item_rows.in_file).collect())
    }
}

impl PreparedData {
    /// A time for every event in the histories' order, for uses that need no more than about when: where some events
    /// have no time they are given that of the user's event before, or of the first one after; users without any time
    /// are given the middle of all others'. None where the data has no times at all.
    pub fn rough_times(&self) -> Option<Vec<i64>> {
        if let Some(times) = self.histories.times() {
            return Some(times.to_vec());
        }
        let partial = self.partial_times.as_ref()?;
        let mut known: Vec<i64> = partial.iter().flatten().copied().collect();
        known.sort_unstable();
        let middle = *known.get(known.len() / 2)?;
        let mut times = Vec::with_capacity(partial.len());
        for bounds in self.histories.offsets().windows(2) {
            let of_user = &partial[bounds[0] as usize..bounds[1] as usize];
            let mut last = of_user.iter().flatten().next().copied().unwrap_or(middle);
            times.extend(of_user.iter().map(|time| {
                last = time.unwrap_or(last);
                last
            }));
        }
        Some(times)
    }
}

/// Reads both files and prepares them. Without an items file the items are those of the interactions.
///
/// # Errors
/// Whatever is wrong with the files, see [`prepare`].
pub fn prepare_files(
    items: Option<&Path>,
    interactions: &Path,
    columns: &ColumnMap,
    k_core: Option<u32>,
) -> Result<PreparedData> {
    let items = items.map(|path| items_from(path, columns)).transpose()?;
    prepare(items, interactions_from(interactions, columns)?, k_core)
}

/// Joins an items table and an interactions table.
///
/// Items keep the order of their table; items without events stay (cold). Users are in the order of their first event in
/// the file. Events are ordered by position where the data has it, else by time, ties by the order of the file.
///
/// # Errors
/// An event whose item is not in the items table (row and item named), a position that a user has twice, a k-core of
/// nothing.
pub fn prepare(items: Option<ItemTable>, interactions: InteractionTable, k: Option<u32>) -> Result<PreparedData> {
    let items_table = items.is_some();
    let items = items.unwrap_or_else(|| ItemTable::of_interactions(&interactions));
    let row_of_name = rows_of_names(&items, &interactions)?;
    let item_of: Vec<u32> = interactions.item_of.iter().map(|&name| row_of_name[name as usize]).collect();
    let n_users = interactions.users.len();
    let core = k.map(|k| k_core(&interactions.user_of, &item_of, n_users, items.len(), k)).transpose()?;
    let keep = |row: usize| match &core {
        Some(core) => core.users[interactions.user_of[row] as usize] && core.items[item_of[row] as usize],
        None => true,
    };
    let ordered = order(&interactions, keep)?;
    let kept: Option<Vec<u32>> =
        core.as_ref().map(|core| (0..items.len() as u32).filter(|&row| core.items[row as usize]).collect());
    let item_rows = ItemRows { in_file: items.len() as u32, kept: kept.filter(|kept| kept.len() < items.len()) };

    let new_number = new_numbers(&item_rows);
    let event_items: Vec<u32> = ordered.rows.iter().map(|&row| new_number[item_of[row as usize] as usize]).collect();
    drop(item_of);
    let (times, partial_times) = times(&interactions, &ordered);
    let weights = (!interactions.weights.is_absent())
        .then(|| ordered.rows.iter().map(|&row| interactions.weights.values[row as usize]).collect());
    let (users, offsets) = users(&interactions, &ordered);

    let mut facts = facts(&interactions, &ordered, &core, k);
    facts.items_table = items_table;
    facts.ignored_columns = items.ignored.clone();
    facts.missing_times = partial_times.iter().flatten().filter(|time| time.is_none()).count() as u64;
    let items = select(items, &item_rows)?;
    let histories = Histories::new(users, offsets, event_items, times, weights)?;
    count(&mut facts, &items, &histories);
    Ok(PreparedData { items, histories, item_rows, facts, partial_times })
}

/// The row of the items table for every item name of the interactions.
fn rows_of_names(items: &ItemTable, interactions: &InteractionTable) -> Result<Vec<u32>> {
    let by_id: std::collections::HashMap<&str, u32> =
        items.ids.iter().enumerate().map(|(row, id)| (id.as_str(), row as u32)).collect();
    let rows: Vec<Option<u32>> = interactions.items.iter().map(|name| by_id.get(name).copied()).collect();
    let unknown = rows.iter().filter(|row| row.is_none()).count();
    if let Some(event) = interactions.item_of.iter().position(|&name| rows[name as usize].is_none()) {
        let others = if unknown > 1 { format!(" (and {} other item ids are not)", unknown - 1) } else { String::new() };
        let problem = format!(
            "user {} has item {}, which is not in {}{others}",
            short(interactions.user(event)),
            short(interactions.item(event)),
            items.place()
        );
        let mend = "add the item to the items table, remove the row, or check that both files name items alike";
        return Err(Error::input(interactions.at(event), problem, mend));
    }
    Ok(rows.into_iter().flatten().collect())
}

/// Old item row -> new item number (`u32::MAX` for dropped ones, which no kept event names).
fn new_numbers(rows: &ItemRows) -> Vec<u32> {
    match &rows.kept {
        None => (0..rows.in_file).collect(),
        Some(kept) => {
            let mut numbers = vec![u32::MAX; rows.in_file as usize];
            for (new, &old) in (0..).zip(kept) {
                numbers[old as usize] = new;
            }
            numbers
        }
    }
}

type Times = (Option<Vec<i64>>, Option<Vec<Option<i64>>>);

/// Times of the ordered events: all of them, or those there are.
fn times(interactions: &InteractionTable, ordered: &Ordered) -> Times {
    if interactions.times.is_absent() {
        return (None, None);
    }
    let all: Vec<Option<i64>> = ordered.rows.iter().map(|&row| interactions.time(row as usize)).collect();
    match all.iter().copied().collect::<Option<Vec<i64>>>() {
        Some(times) => (Some(times), None),
        None => (None, Some(all)),
    }
}

/// Ids and offsets of the users that have events.
fn users(interactions: &InteractionTable, ordered: &Ordered) -> (Vec<String>, Vec<u64>) {
    let (mut users, mut offsets) = (Vec::new(), vec![0]);
    for (pair, name) in ordered.offsets.windows(2).zip(interactions.users.iter()) {
        if pair[1] > pair[0] {
            users.push(name.to_owned());
            offsets.push(pair[1]);
        }
    }
    (users, offsets)
}

fn select(items: ItemTable, rows: &ItemRows) -> Result<Items> {
    fn pick<T: Default>(mut column: Vec<T>, rows: &ItemRows) -> Vec<T> {
        match &rows.kept {
            None => column,
            Some(kept) => kept.iter().map(|&row| std::mem::take(&mut column[row as usize])).collect(),
        }
    }
    let ids = pick(items.ids, rows).into_iter().map(ItemId::from).collect();
    let column = |attribute: Attribute| match attribute {
        Attribute::Text(column) => Attribute::Text(pick(column, rows)),
        Attribute::Number(column) => Attribute::Number(pick(column, rows)),
        Attribute::TextList(column) => Attribute::TextList(pick(column, rows)),
    };
    let attributes: BTreeMap<String, Attribute> =
        items.attributes.into_iter().map(|(name, attribute)| (name, column(attribute))).collect();
    Items::new(ids, pick(items.titles, rows), attributes)
}

fn facts(interactions: &InteractionTable, ordered: &Ordered, core: &Option<Core>, k: Option<u32>) -> Facts {
    let dropped = |kept: &[bool]| kept.iter().filter(|kept| !**kept).count() as u64;
    Facts {
        order: ordered.rule.to_owned(),
        tied_events: ordered.tied_events,
        user_order: "first appearance in the file".to_owned(),
        time_unit: interactions.time_unit().map(|unit| match unit {
            TimeUnit::AsGiven => "as given".to_owned(),
            TimeUnit::Microseconds => "microseconds since 1970-01-01 UTC".to_owned(),
        }),
        k_core: core.as_ref().zip(k).map(|(core, k)| Dropped {
            k,
            rounds: core.rounds,
            users: dropped(&core.users),
            items: dropped(&core.items),
            interactions: (interactions.len() - ordered.rows.len()) as u64,
        }),
        weights: !interactions.weights.is_absent(),
        ..Facts::default()
    }
}

pub(crate) fn count(facts: &mut Facts, items: &Items, histories: &Histories) {
    let mut warm = vec![false; items.len()];
    for &item in histories.items() {
        warm[item as usize] = true;
    }
    let lengths = || histories.offsets().windows(2).map(|pair| pair[1] - pair[0]);
    facts.items = items.len() as u64;
    facts.users = histories.len() as u64;
    facts.interactions = histories.events() as u64;
    facts.cold_items = warm.iter().filter(|warm| !**warm).count() as u64;
    facts.min_history = lengths().min().unwrap_or(0);
    facts.max_history = lengths().max().unwrap_or(0);
    facts.mean_history = histories.mean_len();
}

#[cfg(test)]
mod tests;
