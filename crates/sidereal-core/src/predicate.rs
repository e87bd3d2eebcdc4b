//! Conditions on items: `category = "shoes" and price < 20 and not region in ("eu", "us")`.
//!
//! A condition is text of the user, read without evaluating anything and answered for all items at once, as a set of
//! bits. Items of which a column knows nothing match no test of it but `is missing`; `not`, `!=` and `not in` are the
//! opposite of what they negate, so such items match them. A test of a column of lists asks whether any element passes.
//! Words are compared as text, so dates that are written year first can be compared too.

use crate::attributes::{Attributes, Values};
use crate::error::{Error, Result};
use crate::filter::Bits;

mod parse;

/// A condition that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Predicate {
    text: String,
    root: Expr,
}

/// What must hold.
#[derive(Debug, Clone, PartialEq)]
enum Expr {
    All(Vec<Expr>),
    Any(Vec<Expr>),
    Not(Box<Expr>),
    Test(Test),
}

/// A test of one column.
#[derive(Debug, Clone, PartialEq)]
struct Test {
    column: String,
    /// Where it begins in the text, for errors.
    at: usize,
    check: Check,
}

#[derive(Debug, Clone, PartialEq)]
enum Check {
    Compare(Relation, Value),
    In(Vec<Value>),
    Missing,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Relation {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Relation {
    fn holds<T: PartialOrd + ?Sized>(self, left: &T, right: &T) -> bool {
        match self {
            Self::Equal => left == right,
            Self::Less => left < right,
            Self::LessOrEqual => left <= right,
            Self::Greater => left > right,
            Self::GreaterOrEqual => left >= right,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Value {
    Number(f64),
    Text(String),
}

impl Predicate {
    /// Reads a condition.
    ///
    /// # Errors
    /// What it cannot read, and where; a text that is too long or too deep.
    pub fn parse(text: &str) -> Result<Self> {
        Ok(Self { text: text.to_owned(), root: parse::parse(text)? })
    }

    /// The text that was read.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The items that match, of the first `items` ones.
    ///
    /// # Errors
    /// A column that there is not; numbers compared with words.
    pub fn items(&self, attributes: &Attributes, items: u32) -> Result<Bits> {
        self.evaluate(&self.root, attributes, items)
    }

    fn evaluate(&self, expr: &Expr, attributes: &Attributes, items: u32) -> Result<Bits> {
        let each = |parts: &[Expr], empty: Bits, join: fn(Bits, &Bits) -> Bits| {
            parts.iter().try_fold(empty, |sum, part| Ok(join(sum, &self.evaluate(part, attributes, items)?)))
        };
        match expr {
            Expr::All(parts) => each(parts, Bits::all(items), Bits::and),
            Expr::Any(parts) => each(parts, Bits::none(items), Bits::or),
            Expr::Not(part) => Ok(self.evaluate(part, attributes, items)?.not()),
            Expr::Test(test) => self.test(test, attributes, items),
        }
    }

    fn test(&self, test: &Test, attributes: &Attributes, items: u32) -> Result<Bits> {
        let name = &test.column;
        let Some(values) = attributes.column(name) else {
            let known: Vec<&str> = attributes.names().collect();
            let mend = format!("use one of these columns: {}", known.join(", "));
            return Err(parse::told(&self.text, test.at, &format!("there is no column `{name}` to filter by"), &mend));
        };
        let wrong = |holds: &str, mend: &str| {
            Err(parse::told(&self.text, test.at, &format!("the column `{name}` holds {holds}"), mend))
        };
        Ok(match (values, &test.check) {
            (Values::Numbers(numbers), Check::Missing) => {
                matching(items, |item| numbers.get(item).is_none_or(|n| n.is_nan()))
            }
            (Values::Words(words), Check::Missing) => matching(items, |item| words.of_item(item).is_empty()),
            (Values::Numbers(numbers), check) => {
                let Some(tests) = tests_of(check, |value| match value {
                    Value::Number(number) => Some(*number),
                    Value::Text(_) => None,
                }) else {
                    return wrong("numbers", "compare it with a number, without quotes");
                };
                let passes = |number: &f64| tests.iter().any(|(relation, value)| relation.holds(number, value));
                matching(items, |item| numbers.get(item).is_some_and(passes))
            }
            (Values::Words(words), check) => {
                let Some(tests) = tests_of(check, |value| match value {
                    Value::Text(text) => Some(text.as_str()),
                    Value::Number(_) => None,
                }) else {
                    return wrong("words", "put what it is compared with into quotes");
                };
                let passes = |word: &String| tests.iter().any(|(relation, value)| relation.holds(word.as_str(), value));
                let passing: Vec<bool> = words.words.iter().map(passes).collect();
                matching(items, |item| {
                    words.of_item(item).iter().any(|&word| passing.get(word as usize).copied().unwrap_or(false))
                })
            }
        })
    }
}

/// What a value of the column is compared with; none if a value is of another kind.
fn tests_of<'a, T: 'a>(check: &'a Check, of: impl Fn(&'a Value) -> Option<T>) -> Option<Vec<(Relation, T)>> {
    match check {
        Check::Compare(relation, value) => Some(vec![(*relation, of(value)?)]),
        Check::In(values) => values.iter().map(|value| Some((Relation::Equal, of(value)?))).collect(),
        Check::Missing => Some(Vec::new()),
    }
}

fn matching(items: u32, matches: impl Fn(usize) -> bool) -> Bits {
    Bits::of(items, (0..items).filter(|&item| matches(item as usize)))
}

impl std::str::FromStr for Predicate {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}
