//! The text of an item: a template over the columns of the items table.
//!
//! `"{title}. Price: {price}. {description}"` names columns in braces. A column that has no value for an item takes its
//! part with it: the words before it (`Price: `), what follows it directly, and one separator. A part ends where the
//! text between two columns has a separator (`. `, `, `, `; `, ` | `, ` - `, a line break, else a blank).
//! `{categories|category}` takes the first column of the two that the table has, and `{brand?}` allows a table without
//! one. `{{` and `}}` are braces. White space in values is folded, lists are joined by commas.

use std::str::FromStr;

use sidereal_core::artifact::sha256_bytes;
use sidereal_core::{Attribute, Error, ItemIndex, Items, Result};

/// A named template.
#[derive(Debug, Clone, Copy)]
pub struct Preset {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it is.
    pub about: &'static str,
    /// The template.
    pub template: &'static str,
}

/// All presets; the first is the default.
pub const PRESETS: &[Preset] = &[
    Preset {
        name: "default",
        about: "whatever a shop's table usually has, the title first",
        template: "{title}. {brand?}. {categories|category?}. {price?}. {description?}",
    },
    Preset {
        name: "tiger",
        about: "the fields of TIGER (arXiv:2305.05065): title, price, brand, category",
        template: "Title: {title}; Price: {price?}; Brand: {brand?}; Category: {categories|category?}",
    },
    Preset {
        name: "lc-rec",
        about: "the fields of LC-Rec (arXiv:2311.09049) and MiniOneRec: title and description",
        template: "{title} {description?}",
    },
];

/// Separators that end a part, the first one found; a blank where there is none of them.
const SEPARATORS: &[&str] = &["\n", " | ", "; ", ". ", ", ", " - ", "|", " "];

/// A parsed template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    source: String,
    opening: String,
    parts: Vec<Part>,
}

/// A column with the text that lives and dies with it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    label: String,
    columns: Vec<String>,
    optional: bool,
    ending: String,
    /// Written between this part and the next one that has a value.
    separator: String,
}

impl Default for Template {
    fn default() -> Self {
        // The presets are parsed by a test.
        PRESETS[0].template.parse().unwrap_or(Self { source: String::new(), opening: String::new(), parts: Vec::new() })
    }
}

impl FromStr for Template {
    type Err = Error;

    /// A preset's name, or a template.
    fn from_str(text: &str) -> Result<Self> {
        let source = PRESETS.iter().find(|preset| preset.name == text).map_or(text, |preset| preset.template);
        parse(source)
    }
}

fn wrong(problem: impl Into<String>, mend: &str) -> Error {
    Error::config("template", problem, mend)
}

/// A piece of a template as it is written.
enum Piece {
    Literal(String),
    Column(String),
}

fn pieces(source: &str) -> Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut chars = source.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '{' | '}' if chars.peek() == Some(&c) => {
                chars.next();
                literal.push(c);
            }
            '{' => {
                let mut name = String::new();
                loop {
                    match chars.next() {
                        Some('}') => break,
                        Some(c) if c != '{' => name.push(c),
                        _ => return Err(wrong("a { is not closed", "write {column}, or {{ for a brace itself")),
                    }
                }
                pieces.push(Piece::Literal(std::mem::take(&mut literal)));
                pieces.push(Piece::Column(name));
            }
            '}' => return Err(wrong("a } closes nothing", "write {column}, or }} for a brace itself")),
            c => literal.push(c),
        }
    }
    pieces.push(Piece::Literal(literal));
    Ok(pieces)
}

fn parse(source: &str) -> Result<Template> {
    let mut template = Template { source: source.to_owned(), opening: String::new(), parts: Vec::new() };
    let pieces = pieces(source)?;
    let last = pieces.len() - 1;
    for (i, piece) in pieces.into_iter().enumerate() {
        match (piece, template.parts.last_mut()) {
            (Piece::Literal(text), None) => template.opening = text,
            (Piece::Literal(text), Some(part)) if i == last => part.ending = text,
            (Piece::Literal(text), Some(part)) => {
                // The label waits in the separator until its column comes.
                let (at, separator) = SEPARATORS
                    .iter()
                    .find_map(|separator| text.find(separator).map(|at| (at, *separator)))
                    .unwrap_or((text.len(), ""));
                part.ending = text[..at].to_owned();
                part.separator = separator.to_owned();
                template.opening = text[at + separator.len()..].to_owned();
            }
            (Piece::Column(text), _) => {
                let (names, optional) = text.strip_suffix('?').map_or((text.as_str(), false), |names| (names, true));
                let columns: Vec<String> = names.split('|').map(|name| name.trim().to_owned()).collect();
                if columns.iter().any(String::is_empty) {
                    return Err(wrong(format!("{{{text}}} names no column"), "write {column}, as {title}"));
                }
                let label = std::mem::take(&mut template.opening);
                let (ending, separator) = (String::new(), String::new());
                template.parts.push(Part { label, columns, optional, ending, separator });
            }
        }
    }
    if template.parts.is_empty() {
        return Err(wrong("it names no column", "write {title}, for example"));
    }
    Ok(template)
}

impl Template {
    /// The template as it was written, presets in full.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// sha256 of [`Template::source`].
    pub fn digest(&self) -> String {
        sha256_bytes(self.source.as_bytes())
    }

    /// The text of every item, `[N]`; an item without a single value gets an empty one.
    ///
    /// # Errors
    /// A column that the table does not have.
    pub fn texts(&self, items: &Items) -> Result<Vec<String>> {
        let columns: Vec<Option<Column<'_>>> =
            self.parts.iter().map(|part| column_of(part, items)).collect::<Result<_>>()?;
        let text = |item: ItemIndex| {
            let values = columns.iter().map(|column| column.as_ref().and_then(|column| column.value(item)));
            self.render(values)
        };
        Ok((0..items.len() as ItemIndex).map(text).collect())
    }

    fn render(&self, values: impl Iterator<Item = Option<String>>) -> String {
        let mut text = String::new();
        let mut separator = "";
        for (part, value) in self.parts.iter().zip(values) {
            let Some(value) = value else { continue };
            if !text.is_empty() {
                // "Really?" and ". " make "Really? ".
                let ended = separator.starts_with('.') && text.ends_with(['.', '!', '?']);
                text.push_str(if ended { &separator[1..] } else { separator });
            }
            text.push_str(&part.label);
            text.push_str(&value);
            let ended = part.ending.starts_with('.') && text.ends_with(['.', '!', '?']);
            text.push_str(if ended { &part.ending[1..] } else { &part.ending });
            separator = &part.separator;
        }
        text
    }
}

enum Column<'a> {
    Ids(&'a Items),
    Titles(&'a Items),
    Attribute(&'a Attribute),
}

impl Column<'_> {
    fn value(&self, item: ItemIndex) -> Option<String> {
        let row = item as usize;
        let text = match self {
            Self::Ids(items) => fold(items.id(item).as_str()),
            Self::Titles(items) => fold(items.title(item)?),
            Self::Attribute(Attribute::Text(values)) => fold(values.get(row)?.as_deref()?),
            Self::Attribute(Attribute::Number(values)) => (*values.get(row)?)?.to_string(),
            Self::Attribute(Attribute::TextList(values)) => {
                let words: Vec<String> = values.get(row)?.iter().map(|word| fold(word)).collect();
                words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(", ")
            }
        };
        Some(text).filter(|text| !text.is_empty())
    }
}

fn fold(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn column_of<'a>(part: &Part, items: &'a Items) -> Result<Option<Column<'a>>> {
    let find = |name: &String| match name.as_str() {
        "title" => Some(Column::Titles(items)),
        "item_id" => Some(Column::Ids(items)),
        other => items.attributes().get(other).map(Column::Attribute),
    };
    let found = part.columns.iter().find_map(find);
    if found.is_some() || part.optional {
        return Ok(found);
    }
    let known: Vec<&str> =
        ["item_id", "title"].into_iter().chain(items.attributes().keys().map(String::as_str)).collect();
    let problem = format!("the items have no column {:?}", part.columns.join("|"));
    let mend = format!("use one of: {}; or {{name?}} where it may be missing", known.join(", "));
    Err(Error::config("template", problem, mend))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use sidereal_core::ItemId;
    use std::collections::BTreeMap;

    fn items() -> Items {
        let some = |text: &str| Some(text.to_owned());
        let attributes = BTreeMap::from([
            ("brand".to_owned(), Attribute::Text(vec![some("Nova"), None, some("  ")])),
            ("price".to_owned(), Attribute::Number(vec![Some(59.9), Some(5.0), None])),
            (
                "tags".to_owned(),
                Attribute::TextList(vec![vec!["a".into(), "b\nc".into()], vec![], vec![String::new()]]),
            ),
        ]);
        let ids = ["x", "y", "z"].map(ItemId::from).to_vec();
        Items::new(ids, vec![some("Head \n phones"), some("Really?"), None], attributes).unwrap()
    }

    fn texts(template: &str) -> Vec<String> {
        template.parse::<Template>().unwrap().texts(&items()).unwrap()
    }

    #[test]
    fn a_missing_value_takes_its_part_with_it() {
        assert_eq!(
            texts("{title}. Brand: {brand}. Price: {price} USD."),
            ["Head phones. Brand: Nova. Price: 59.9 USD.", "Really? Price: 5 USD.", ""]
        );
        assert_eq!(
            texts("Title: {title}; Tags: {tags}; {item_id}"),
            ["Title: Head phones; Tags: a, b c; x", "Title: Really?; y", "z"]
        );
        assert_eq!(texts("{title} ({brand}), {price}"), ["Head phones (Nova), 59.9", "Really? 5", ""]);
        assert_eq!(texts("{brand} by {item_id}"), ["Nova by x", "by y", "by z"]);
    }

    #[test]
    fn braces_can_be_written() {
        assert_eq!(texts("{{{item_id}}}"), ["{x}", "{y}", "{z}"]);
        for broken in ["{title", "title}", "{}", "{ | }", "no column", "", "{a{b}"] {
            assert!(broken.parse::<Template>().unwrap_err().to_string().starts_with("template: "), "{broken}");
        }
    }

    #[test]
    fn an_unknown_column_is_refused_unless_it_may_be_missing() {
        let error = "{title} {colour}".parse::<Template>().unwrap().texts(&items()).unwrap_err().to_string();
        assert!(
            error.contains("no column \"colour\"") && error.contains("item_id, title, brand, price, tags"),
            "{error}"
        );
        assert_eq!(texts("{colour?}. {title}")[0], "Head phones");
        assert_eq!(texts("{colour|brand}")[0], "Nova");
    }

    #[test]
    fn presets_fit_every_table_and_are_hashed_in_full() {
        for preset in PRESETS {
            let template: Template = preset.name.parse().unwrap();
            assert_eq!(template.source(), preset.template);
            assert_eq!(template.digest(), preset.template.parse::<Template>().unwrap().digest());
            assert!(template.texts(&items()).unwrap()[0].contains("Head phones"));
        }
        assert_eq!(texts("default")[0], "Head phones. Nova. 59.9");
        assert_eq!(texts("tiger")[1], "Title: Really?; Price: 5");
        assert_eq!(Template::default().source(), PRESETS[0].template);
    }
}
