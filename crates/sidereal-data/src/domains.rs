//! Where a run's tables come from: one data folder, or several, each of which is a domain.

use std::path::{Path, PathBuf};

use sidereal_core::{Error, Result};

use crate::columns::short;

/// The items' column that names their domain.
pub const DOMAIN: &str = "domain";
/// Stands between a domain's name and an id of its tables.
pub const SEPARATOR: char = ':';
/// Longest name of a domain.
const MAX_NAME: usize = 100;

/// Where tables and vectors come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataSource {
    /// One data set; its items have the ids of their table.
    Folder(PathBuf),
    /// Data sets that become one, at least one of them; see [`join`](crate::join::join).
    Domains(Vec<DomainFolder>),
}

/// The folder of one domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainFolder {
    /// What its items are called: letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// Where its files are.
    pub folder: PathBuf,
}

impl DataSource {
    /// Reads the words of a command line: one `DIR`, or `NAME=DIR` as often as there are domains. A word that is the
    /// path of something is that path, whatever signs it has.
    ///
    /// # Errors
    /// Several folders of which one has no name; a name that is taken or has other signs.
    pub fn parse<P: AsRef<Path>>(words: &[P]) -> Result<Option<Self>> {
        let several = words.len() > 1;
        let mut domains: Vec<DomainFolder> = Vec::new();
        for word in words.iter().map(AsRef::as_ref) {
            let named = word.to_str().filter(|_| !word.exists()).and_then(|word| word.split_once('='));
            let Some((name, folder)) = named else {
                if several {
                    let problem = format!("{} has no name, and there are several data sets", word.display());
                    let mend = "give each its domain's name: --data NAME=DIR --data OTHER=DIR";
                    return Err(Error::config("--data", problem, mend));
                }
                return Ok(Some(Self::Folder(word.to_path_buf())));
            };
            check_name(name)?;
            if domains.iter().any(|domain| domain.name == name) {
                let problem = format!("two data sets are called {}", short(name));
                return Err(Error::config("--data", problem, "give every domain a name of its own"));
            }
            domains.push(DomainFolder { name: name.to_owned(), folder: PathBuf::from(folder) });
        }
        Ok((!domains.is_empty()).then_some(Self::Domains(domains)))
    }

    /// The folder, where there is one data set without a name.
    pub fn folder(&self) -> Option<&Path> {
        match self {
            Self::Folder(folder) => Some(folder),
            Self::Domains(_) => None,
        }
    }
}

/// Refuses names that could not be told from the ids behind them.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(plain) {
        let problem = format!("{} cannot name a domain", short(name));
        return Err(Error::config("--data", problem, "use letters, digits, '-', '_' and '.', as in --data games=DIR"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parsed(words: &[&str]) -> Result<Option<DataSource>> {
        DataSource::parse(words)
    }

    #[test]
    fn words_are_one_folder_or_named_ones() {
        assert_eq!(parsed(&[]).unwrap(), None);
        assert_eq!(parsed(&["a/b"]).unwrap().unwrap().folder(), Some(Path::new("a/b")));
        let domain = |name: &str, folder: &str| DomainFolder { name: name.into(), folder: folder.into() };
        let both = DataSource::Domains(vec![domain("a", "x"), domain("b-2", "y=z")]);
        assert_eq!(parsed(&["a=x", "b-2=y=z"]).unwrap(), Some(both));
        assert_eq!(parsed(&["a=x"]).unwrap(), Some(DataSource::Domains(vec![domain("a", "x")])));
    }

    #[test]
    fn a_folder_that_is_there_is_a_path_though_it_looks_like_a_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("year=2014");
        std::fs::create_dir(&path).unwrap();
        assert_eq!(DataSource::parse(&[&path]).unwrap(), Some(DataSource::Folder(path)));
    }

    #[test]
    fn names_that_are_missing_taken_or_strange_are_told() {
        for (words, told) in [
            (vec!["a=x", "y"], "y has no name"),
            (vec!["a=x", "a=y"], "two data sets are called \"a\""),
            (vec!["a:b=x"], "\"a:b\" cannot name a domain"),
            (vec!["=x"], "\"\" cannot name a domain"),
        ] {
            let error = parsed(&words).unwrap_err().to_string();
            assert!(error.contains(told) && error.contains("--data"), "{error}");
        }
    }
}
