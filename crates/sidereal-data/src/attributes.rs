//! Item attributes from text cells and JSON values: numbers, texts or lists of texts, a column each.

use std::collections::BTreeMap;

use serde_json::Value;
use sidereal_core::Attribute;

use crate::numbers::plain_number;

/// Most attribute columns that a table may have.
pub(crate) const MAX_COLUMNS: usize = 1000;
/// Names that the prepared items table uses itself.
const OURS: [&str; 3] = ["item_id", "title", "source_row"];

/// A column of text cells: numbers if every cell that is not empty is one, else text.
pub(crate) fn infer(cells: Vec<Option<String>>) -> Attribute {
    let mut numbers = Vec::with_capacity(cells.len());
    let mut some = false;
    for cell in &cells {
        match cell.as_deref().map(plain_number) {
            Some(None) => return Attribute::Text(cells),
            Some(number) => {
                some = true;
                numbers.push(number);
            }
            None => numbers.push(None),
        }
    }
    if some { Attribute::Number(numbers) } else { Attribute::Text(cells) }
}

/// Columns that grow as JSON objects name them.
#[derive(Debug, Default)]
pub(crate) struct JsonColumns {
    columns: BTreeMap<String, Vec<(usize, Value)>>,
}

impl JsonColumns {
    /// Adds a cell; `false` when there would be too many columns.
    pub(crate) fn push(&mut self, row: usize, name: String, value: Value) -> bool {
        if let Some(column) = self.columns.get_mut(&name) {
            column.push((row, value));
            return true;
        }
        if self.columns.len() == MAX_COLUMNS {
            return false;
        }
        self.columns.insert(name, vec![(row, value)]);
        true
    }

    /// Types every column by its cells, `rows` long.
    pub(crate) fn finish(self, rows: usize) -> BTreeMap<String, Attribute> {
        self.columns.into_iter().map(|(name, cells)| (name, typed(cells, rows))).collect()
    }
}

fn typed(cells: Vec<(usize, Value)>, rows: usize) -> Attribute {
    let lists = cells.iter().any(|(_, value)| value.is_array());
    let numbers = cells.iter().all(|(_, value)| value.is_null() || exact(value).is_some());
    if lists {
        let mut column = vec![Vec::new(); rows];
        for (row, value) in cells {
            flatten(value, &mut column[row]);
        }
        return Attribute::TextList(column);
    }
    if numbers && cells.iter().any(|(_, value)| value.is_number()) {
        let mut column = vec![None; rows];
        for (row, value) in cells {
            column[row] = exact(&value);
        }
        return Attribute::Number(column);
    }
    let mut column = vec![None; rows];
    for (row, value) in cells {
        column[row] = text(value);
    }
    Attribute::Text(column)
}

/// A JSON number that a float holds without loss.
fn exact(value: &Value) -> Option<f64> {
    let number = value.as_f64()?;
    let integer = value.is_i64() || value.is_u64();
    (!integer || number.abs() < 9_007_199_254_740_992.0).then_some(number)
}

fn text(value: Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text),
        other => Some(other.to_string()),
    }
}

/// Lists in lists, as some category trees are kept, become one list.
fn flatten(value: Value, into: &mut Vec<String>) {
    match value {
        Value::Array(values) => values.into_iter().for_each(|value| flatten(value, into)),
        other => into.extend(text(other)),
    }
}

/// Renames columns that would hide one of ours in the prepared table.
pub(crate) fn beside_ours(attributes: BTreeMap<String, Attribute>) -> BTreeMap<String, Attribute> {
    let mut renamed = BTreeMap::new();
    let (clashing, free): (BTreeMap<_, _>, BTreeMap<_, _>) =
        attributes.into_iter().partition(|(name, _)| OURS.contains(&name.as_str()));
    renamed.extend(free);
    for (name, column) in clashing {
        let mut new = format!("source_{name}");
        while renamed.contains_key(&new) || OURS.contains(&new.as_str()) {
            new = format!("source_{new}");
        }
        renamed.insert(new, column);
    }
    renamed
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn cells(texts: &[&str]) -> Vec<Option<String>> {
        texts.iter().map(|t| (!t.is_empty()).then(|| (*t).to_owned())).collect()
    }

    #[test]
    fn a_text_column_is_numbers_only_if_every_cell_is() {
        assert_eq!(infer(cells(&["1", "", "2.5"])), Attribute::Number(vec![Some(1.0), None, Some(2.5)]));
        assert_eq!(infer(cells(&["1", "x"])), Attribute::Text(cells(&["1", "x"])));
        assert_eq!(infer(cells(&["", ""])), Attribute::Text(vec![None, None]));
    }

    #[test]
    fn json_columns_are_typed_by_all_their_cells() {
        let mut columns = JsonColumns::default();
        for (row, name, value) in [
            (0, "price", serde_json::json!(3)),
            (2, "price", serde_json::json!(4.5)),
            (1, "tags", serde_json::json!([["a"], ["b", 1]])),
            (2, "tags", serde_json::json!("c")),
            (0, "mixed", serde_json::json!(1)),
            (1, "mixed", serde_json::json!({"k": true})),
            (0, "serial", serde_json::json!(12_345_678_901_234_567_u64)),
        ] {
            assert!(columns.push(row, name.to_owned(), value));
        }
        let columns = columns.finish(3);
        assert_eq!(columns["price"], Attribute::Number(vec![Some(3.0), None, Some(4.5)]));
        let lists = [vec![], vec!["a".to_owned(), "b".to_owned(), "1".to_owned()], vec!["c".to_owned()]];
        assert_eq!(columns["tags"], Attribute::TextList(lists.to_vec()));
        assert_eq!(columns["mixed"], Attribute::Text(cells(&["1", "{\"k\":true}", ""])));
        assert_eq!(columns["serial"], Attribute::Text(cells(&["12345678901234567", "", ""])));
    }

    #[test]
    fn a_flood_of_columns_is_refused() {
        let mut columns = JsonColumns::default();
        let accepted = (0..2 * MAX_COLUMNS).filter(|i| columns.push(0, i.to_string(), Value::Null)).count();
        assert_eq!(accepted, MAX_COLUMNS);
    }

    #[test]
    fn attributes_named_like_our_columns_are_kept_under_another_name() {
        let names = ["title", "source_title", "brand"].map(|n| (n.to_owned(), Attribute::Text(vec![])));
        let renamed = beside_ours(names.into_iter().collect());
        assert_eq!(renamed.into_keys().collect::<Vec<_>>(), ["brand", "source_source_title", "source_title"]);
    }
}
