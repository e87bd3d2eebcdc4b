//! Reading a condition.
//!
//! ```text
//! any     = all { "or" all }
//! all     = one { "and" one }
//! one     = "not" one | "(" any ")" | test
//! test    = column ( relation value | ["not"] "in" "(" value { "," value } ")" | "is" ["not"] "missing" )
//! column  = a word, or anything between backticks
//! relation= "=" | "==" | "!=" | "<" | "<=" | ">" | ">="
//! value   = a number, or text between quotes (a backslash takes the next character as it is)
//! ```

use super::{Check, Expr, Relation, Test, Value};
use crate::error::{Error, Result};

/// Longest text that is read.
const MAX_BYTES: usize = 1 << 16;
/// Most brackets and `not`s inside each other.
const MAX_DEPTH: usize = 64;
/// Characters of the text that an error shows.
const SHOWN: usize = 24;

/// An error that points at a place of the text.
pub(super) fn told(text: &str, at: usize, problem: &str, mend: &str) -> Error {
    let (before, rest) = text.split_at(at.min(text.len()));
    let shown: String = rest.chars().take(SHOWN).collect();
    let here = if shown.is_empty() { "its end".to_owned() } else { format!("`{shown}`") };
    Error::input(format!("filter, character {} (at {here})", before.chars().count() + 1), problem, mend)
}

pub(super) fn parse(text: &str) -> Result<Expr> {
    if text.len() > MAX_BYTES {
        let problem = format!("{} bytes are more than {MAX_BYTES}", text.len());
        return Err(Error::input("filter", problem, "list items in a file instead"));
    }
    let mut parser = Parser { text, at: 0, token: Token::End, token_at: 0, depth: 0 };
    parser.advance()?;
    let expr = parser.any()?;
    match parser.token {
        Token::End => Ok(expr),
        _ => Err(parser.wrong("what comes here does not belong to the condition", "join tests with `and` or `or`")),
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Token<'a> {
    Word(&'a str),
    /// A column between backticks.
    Name(&'a str),
    Text(String),
    Number(f64),
    Symbol(&'a str),
    End,
}

struct Parser<'a> {
    text: &'a str,
    /// Where the text behind the token begins.
    at: usize,
    token: Token<'a>,
    token_at: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn wrong(&self, problem: &str, mend: &str) -> Error {
        told(self.text, self.token_at, problem, mend)
    }

    /// Reads the next token and gives the one before.
    fn advance(&mut self) -> Result<Token<'a>> {
        let rest = self.text[self.at..].trim_start();
        self.token_at = self.text.len() - rest.len();
        let (token, len) = self.read(rest)?;
        self.at = self.token_at + len;
        Ok(std::mem::replace(&mut self.token, token))
    }

    /// The token at the beginning of `rest`, and its length.
    fn read(&self, rest: &'a str) -> Result<(Token<'a>, usize)> {
        let up_to = |end: &dyn Fn(char) -> bool| rest.find(|c: char| !end(c)).unwrap_or(rest.len());
        let Some(first) = rest.chars().next() else { return Ok((Token::End, 0)) };
        match first {
            '"' | '\'' => self.quoted(rest, first),
            '`' => match rest[1..].find('`') {
                Some(len) => Ok((Token::Name(&rest[1..=len]), len + 2)),
                None => Err(self.wrong("a name that begins with ` does not end", "close it with `")),
            },
            c if c.is_alphabetic() || c == '_' => {
                let len = up_to(&|c| c.is_alphanumeric() || c == '_' || c == '.');
                Ok((Token::Word(&rest[..len]), len))
            }
            c if c.is_ascii_digit() || matches!(c, '-' | '+' | '.') => {
                let len = up_to(&|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '+' | '.' | '_'));
                let number = rest[..len].parse::<f64>().ok().filter(|number| number.is_finite());
                let number = number.ok_or_else(|| {
                    self.wrong("this is not a number", "write a number like 12.5, or put text into quotes")
                })?;
                Ok((Token::Number(number), len))
            }
            _ => {
                let symbols = ["==", "!=", "<=", ">=", "=", "<", ">", "(", ")", ","];
                let found = symbols.into_iter().find(|symbol| rest.starts_with(symbol));
                let symbol = found.ok_or_else(|| {
                    self.wrong("this character means nothing here", "put text into quotes and odd names into backticks")
                })?;
                Ok((Token::Symbol(symbol), symbol.len()))
            }
        }
    }

    fn quoted(&self, rest: &str, quote: char) -> Result<(Token<'a>, usize)> {
        let mut text = String::new();
        let mut chars = rest.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => text.extend(chars.next().map(|(_, taken)| taken)),
                c if c == quote => return Ok((Token::Text(text), at + 1)),
                c => text.push(c),
            }
        }
        Err(self.wrong("a text does not end", &format!("close it with {quote}")))
    }

    fn is_word(&self, word: &str) -> bool {
        matches!(self.token, Token::Word(found) if found.eq_ignore_ascii_case(word))
    }

    /// Takes a keyword, if it is there.
    fn take_word(&mut self, word: &str) -> Result<bool> {
        let there = self.is_word(word);
        if there {
            self.advance()?;
        }
        Ok(there)
    }

    fn take_symbol(&mut self, symbol: &'static str) -> Result<bool> {
        let there = self.token == Token::Symbol(symbol);
        if there {
            self.advance()?;
        }
        Ok(there)
    }

    fn need_symbol(&mut self, symbol: &'static str, mend: &str) -> Result<()> {
        if self.take_symbol(symbol)? { Ok(()) } else { Err(self.wrong(&format!("`{symbol}` is missing"), mend)) }
    }

    fn any(&mut self) -> Result<Expr> {
        let mut parts = vec![self.all()?];
        while self.take_word("or")? {
            parts.push(self.all()?);
        }
        Ok(one_or(parts, Expr::Any))
    }

    fn all(&mut self) -> Result<Expr> {
        let mut parts = vec![self.one()?];
        while self.take_word("and")? {
            parts.push(self.one()?);
        }
        Ok(one_or(parts, Expr::All))
    }

    fn one(&mut self) -> Result<Expr> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.wrong(&format!("more than {MAX_DEPTH} brackets inside each other"), "write it flatter"));
        }
        let expr = if self.take_word("not")? {
            Expr::Not(Box::new(self.one()?))
        } else if self.take_symbol("(")? {
            let inner = self.any()?;
            self.need_symbol(")", "close the bracket")?;
            inner
        } else {
            self.test()?
        };
        self.depth -= 1;
        Ok(expr)
    }

    fn test(&mut self) -> Result<Expr> {
        let at = self.token_at;
        let keyword = ["and", "or", "in", "is"].iter().any(|word| self.is_word(word));
        let column = match &self.token {
            Token::Word(name) if !keyword => *name,
            Token::Name(name) => *name,
            _ => return Err(self.wrong("a test begins with a column's name", "write for example price < 20")),
        };
        self.advance()?;
        let test = |check| Expr::Test(Test { column: column.to_owned(), at, check });
        if self.take_word("is")? {
            let negated = self.take_word("not")?;
            if !self.take_word("missing")? {
                return Err(self.wrong("`is` wants `missing`", "write `is missing` or `is not missing`"));
            }
            return Ok(unless(negated, test(Check::Missing)));
        }
        let negated = self.take_word("not")?;
        if self.take_word("in")? {
            self.need_symbol("(", "list the values in brackets")?;
            let mut values = vec![self.value()?];
            while self.take_symbol(",")? {
                values.push(self.value()?);
            }
            self.need_symbol(")", "put a comma between values, and close the bracket")?;
            return Ok(unless(negated, test(Check::In(values))));
        }
        let relation = match self.token {
            Token::Symbol(symbol) if !negated => relation(symbol),
            _ => None,
        };
        let Some((relation, negated)) = relation else {
            let mend = "write one of = != < <= > >= in, or `is missing`, behind the column's name";
            return Err(self.wrong("a relation is missing", mend));
        };
        self.advance()?;
        let value = self.value()?;
        Ok(unless(negated, test(Check::Compare(relation, value))))
    }

    fn value(&mut self) -> Result<Value> {
        match &self.token {
            Token::Number(_) | Token::Text(_) => match self.advance()? {
                Token::Text(text) => Ok(Value::Text(text)),
                Token::Number(number) => Ok(Value::Number(number)),
                _ => Err(self.wrong("a value is missing", "write a number, or text in quotes")),
            },
            _ => Err(self.wrong("a value is missing", "write a number, or text in quotes")),
        }
    }
}

fn relation(symbol: &str) -> Option<(Relation, bool)> {
    Some(match symbol {
        "=" | "==" => (Relation::Equal, false),
        "!=" => (Relation::Equal, true),
        "<" => (Relation::Less, false),
        "<=" => (Relation::LessOrEqual, false),
        ">" => (Relation::Greater, false),
        ">=" => (Relation::GreaterOrEqual, false),
        _ => return None,
    })
}

fn unless(negated: bool, expr: Expr) -> Expr {
    if negated { Expr::Not(Box::new(expr)) } else { expr }
}

fn one_or(mut parts: Vec<Expr>, join: fn(Vec<Expr>) -> Expr) -> Expr {
    match parts.len() {
        1 => parts.remove(0),
        _ => join(parts),
    }
}
