//! Which column plays which part.

use serde::{Deserialize, Serialize};
use sidereal_core::{Error, Result};

/// The part that a column plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The item's id in the items table.
    Item,
    /// The item's id in the interactions table.
    EventItem,
    /// What people call the item.
    Title,
    /// The user's id.
    User,
    /// When the event happened.
    Time,
    /// The event's place in its user's history.
    Position,
    /// How much the event counts.
    Weight,
}

impl Role {
    /// All parts.
    pub const ALL: [Self; 7] =
        [Self::Item, Self::EventItem, Self::Title, Self::User, Self::Time, Self::Position, Self::Weight];

    /// The part's key in a recipe and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Item => "item",
            Self::EventItem => "event_item",
            Self::Title => "title",
            Self::User => "user",
            Self::Time => "time",
            Self::Position => "position",
            Self::Weight => "weight",
        }
    }

    /// Column names that are taken for this part when none is given; the first one present wins.
    pub fn usual_names(self) -> &'static [&'static str] {
        match self {
            Self::Item | Self::EventItem => &["item_id"],
            Self::Title => &["title"],
            Self::User => &["user_id"],
            Self::Time => &["timestamp", "time"],
            Self::Position => &["position"],
            Self::Weight => &["weight", "rating"],
        }
    }

    fn required(self) -> bool {
        matches!(self, Self::Item | Self::EventItem | Self::User)
    }
}

/// Names of the columns, where they are not the usual ones (`item_id`, `title`, `user_id`, `timestamp`, `position`,
/// `weight` or `rating`). A name that is given must be there; the empty name leaves an optional part out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ColumnMap {
    /// Item id in the items table, and in the interactions table unless `event_item` is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub item: Option<String>,
    /// Item id in the interactions table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_item: Option<String>,
    /// Title in the items table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// User id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Time of the event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// Place of the event in its user's history.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<String>,
    /// Weight or rating of the event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<String>,
}

impl ColumnMap {
    /// Reads `ROLE=NAME` words, as the command line takes them.
    ///
    /// # Errors
    /// A word without `=`, an unknown role, a role that is given twice.
    pub fn parse<S: AsRef<str>>(words: &[S]) -> Result<Self> {
        let mut map = Self::default();
        for word in words.iter().map(AsRef::as_ref) {
            let roles: Vec<&str> = Role::ALL.iter().map(|role| role.name()).collect();
            let mend = format!("write ROLE=NAME with one of these roles: {}", roles.join(", "));
            let (role, name) = word
                .split_once('=')
                .ok_or_else(|| Error::config("--column", format!("{word:?} has no \"=\""), mend.clone()))?;
            let role = Role::ALL
                .into_iter()
                .find(|r| r.name() == role)
                .ok_or_else(|| Error::config("--column", format!("{role:?} is not a role"), mend))?;
            if map.slot(role).replace(name.to_owned()).is_some() {
                let problem = format!("the role {:?} is given twice", role.name());
                return Err(Error::config("--column", problem, "keep one of the two"));
            }
        }
        Ok(map)
    }

    fn slot(&mut self, role: Role) -> &mut Option<String> {
        match role {
            Role::Item => &mut self.item,
            Role::EventItem => &mut self.event_item,
            Role::Title => &mut self.title,
            Role::User => &mut self.user,
            Role::Time => &mut self.time,
            Role::Position => &mut self.position,
            Role::Weight => &mut self.weight,
        }
    }

    /// The name that was given for a part.
    pub fn given(&self, role: Role) -> Option<&str> {
        match role {
            Role::Item => self.item.as_deref(),
            Role::EventItem => self.event_item.as_deref().or(self.item.as_deref()),
            Role::Title => self.title.as_deref(),
            Role::User => self.user.as_deref(),
            Role::Time => self.time.as_deref(),
            Role::Position => self.position.as_deref(),
            Role::Weight => self.weight.as_deref(),
        }
    }

    /// The column of `headers` that plays `role` in the table `place`.
    ///
    /// # Errors
    /// A column that was named, or that every table must have, is not there; the columns there are are listed.
    pub fn find<S: AsRef<str>>(&self, role: Role, headers: &[S], place: &str) -> Result<Option<usize>> {
        let position = |name: &str| headers.iter().position(|header| header.as_ref() == name);
        let given = self.given(role);
        let found = match given {
            Some("") if !role.required() => return Ok(None),
            Some(name) => position(name),
            None => role.usual_names().iter().find_map(|name| position(name)),
        };
        if found.is_some() || (given.is_none() && !role.required()) {
            return Ok(found);
        }
        let name = given.unwrap_or(role.usual_names()[0]);
        let mend = format!(
            "name the {} column with `--column {}=NAME` or, in a recipe, `[data.columns] {} = \"NAME\"`",
            role.name(),
            role.name(),
            role.name()
        );
        Err(Error::input(place, format!("there is no column {name:?} ({})", listed(headers)), mend))
    }
}

/// "there are: a, b", for an error.
pub(crate) fn listed<S: AsRef<str>>(names: &[S]) -> String {
    if names.is_empty() {
        return "there are none".to_owned();
    }
    let mut shown: Vec<String> = names.iter().take(30).map(|name| short(name.as_ref())).collect();
    if names.len() > shown.len() {
        shown.push(format!("and {} more", names.len() - shown.len()));
    }
    format!("there are: {}", shown.join(", "))
}

/// A value as an error shows it: quoted, control characters escaped, cut when long.
pub(crate) fn short(text: &str) -> String {
    let mut cut: String = text.chars().take(60).collect();
    if cut.len() < text.len() {
        cut.push('…');
    }
    format!("{cut:?}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const HEADERS: [&str; 4] = ["asin", "title", "rating", "unix"];

    #[test]
    fn a_missing_column_is_named_beside_those_there_are() {
        let error = ColumnMap::default().find(Role::Item, &HEADERS, "items.csv").unwrap_err().to_string();
        assert!(
            error.starts_with("items.csv: there is no column \"item_id\" (there are: \"asin\", \"title\""),
            "{error}"
        );
        assert!(error.contains("--column item=NAME"), "{error}");
        let map = ColumnMap { time: Some("when".into()), ..ColumnMap::default() };
        assert!(map.find(Role::Time, &HEADERS, "x").unwrap_err().to_string().contains("\"when\""));
    }

    #[test]
    fn usual_names_are_found_and_the_empty_name_leaves_out() {
        let map = ColumnMap::default();
        assert_eq!(map.find(Role::Weight, &HEADERS, "x").unwrap(), Some(2));
        assert_eq!(map.find(Role::Position, &HEADERS, "x").unwrap(), None);
        let map = ColumnMap { weight: Some(String::new()), ..map };
        assert_eq!(map.find(Role::Weight, &HEADERS, "x").unwrap(), None);
    }

    #[test]
    fn words_become_a_map_and_bad_words_are_told() {
        let map = ColumnMap::parse(&["item=asin", "time=unix"]).unwrap();
        assert_eq!(map.given(Role::EventItem), Some("asin"));
        assert_eq!(map.find(Role::Time, &HEADERS, "x").unwrap(), Some(3));
        for (words, told) in
            [(vec!["item"], "no \"=\""), (vec!["thing=x"], "not a role"), (vec!["item=a", "item=b"], "given twice")]
        {
            assert!(ColumnMap::parse(&words).unwrap_err().to_string().contains(told));
        }
    }
}
