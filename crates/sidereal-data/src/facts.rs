//! What preparing found out and decided, for the manifest.

use serde::{Deserialize, Serialize};

/// Counts and rules of prepared data.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    /// Items kept, N.
    pub items: u64,
    /// Users kept.
    pub users: u64,
    /// Events kept.
    pub interactions: u64,
    /// Items that no kept event names.
    pub cold_items: u64,
    /// Shortest history.
    pub min_history: u64,
    /// Mean history.
    pub mean_history: f64,
    /// Longest history.
    pub max_history: u64,
    /// The order of events and what broke ties.
    pub order: String,
    /// Events whose place came from the order of the file.
    pub tied_events: u64,
    /// The order of users.
    pub user_order: String,
    /// What times count: "as given", or "microseconds since 1970-01-01 UTC".
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub time_unit: Option<String>,
    /// Events without a time. If there are any, the histories have no times; the stage's table keeps those there are.
    pub missing_times: u64,
    /// Whether events have weights.
    pub weights: bool,
    /// Whether the items come from a table of their own.
    pub items_table: bool,
    /// Columns of the items table that were left out.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub ignored_columns: Vec<String>,
    /// What the k-core dropped.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub k_core: Option<Dropped>,
    /// Where the data was made of several sets: what was found in each, in the order of their items.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub domains: Vec<DomainFacts>,
}

/// What preparing one of several data sets found out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DomainFacts {
    /// The domain's name.
    pub name: String,
    /// Rows of its items file.
    pub rows_in_file: u32,
    /// Its own counts and rules.
    pub found: Facts,
}

/// What a k-core dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dropped {
    /// k.
    pub k: u32,
    /// Rounds to the fixpoint.
    pub rounds: u32,
    /// Users dropped.
    pub users: u64,
    /// Items dropped, cold ones included.
    pub items: u64,
    /// Events dropped.
    pub interactions: u64,
}

impl Facts {
    /// As a manifest keeps them.
    pub fn to_json(&self) -> serde_json::Value {
        // Numbers and strings: JSON can say that.
        serde_json::to_value(self).unwrap_or_default()
    }
}
