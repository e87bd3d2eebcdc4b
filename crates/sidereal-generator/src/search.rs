//! How widely to look for an answer: beam widths, and how many beams may begin with the same code.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sidereal_core::{Catalog, Error as CoreError};

use crate::Result;
use crate::ranking::ScoredItem;

/// Beam widths W: one for all levels, or one a level. In files and on the command line `50`, or `[200, 100, 50]` and
/// `200,100,50`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
pub struct Widths {
    /// One, or as many as there are levels; none: nothing is found.
    widths: Vec<usize>,
}

/// Widths as files have them: a number stays a number, so that older manifests read as they were written.
#[derive(Clone, Serialize, Deserialize)]
#[serde(untagged, expecting = "a beam width, or a list of beam widths, one a level")]
enum Written {
    One(usize),
    Each(Vec<usize>),
}

impl From<Written> for Widths {
    fn from(written: Written) -> Self {
        match written {
            Written::One(width) => width.into(),
            Written::Each(widths) => Self { widths },
        }
    }
}

impl From<Widths> for Written {
    fn from(Widths { widths }: Widths) -> Self {
        match widths.as_slice() {
            [one] => Self::One(*one),
            _ => Self::Each(widths),
        }
    }
}

impl From<usize> for Widths {
    fn from(width: usize) -> Self {
        Self { widths: vec![width] }
    }
}

impl From<Vec<usize>> for Widths {
    fn from(widths: Vec<usize>) -> Self {
        Self { widths }
    }
}

impl Default for Widths {
    /// 50 beams after each level.
    fn default() -> Self {
        50.into()
    }
}

impl fmt::Display for Widths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths: Vec<String> = self.widths.iter().map(usize::to_string).collect();
        f.write_str(&widths.join(","))
    }
}

impl FromStr for Widths {
    type Err = CoreError;

    fn from_str(text: &str) -> Result<Self, CoreError> {
        let width = |part: &str| part.trim().parse::<usize>().ok();
        let widths: Option<Vec<usize>> = text.split(',').map(width).collect();
        widths.map(Self::from).ok_or_else(|| {
            let mend = "give a number, or one a level as 200,100,50";
            CoreError::config("beam", format!("{text:?} is no beam width"), mend)
        })
    }
}

impl Widths {
    /// The beams that are kept after a level.
    pub fn at(&self, level: usize) -> usize {
        self.widths.get(level).or(self.widths.last()).copied().unwrap_or(0)
    }

    /// The beams that are kept after the last level: so many semantic IDs come out.
    pub fn last(&self) -> usize {
        self.at(usize::MAX)
    }

    /// How many levels it has widths for, where not one for all.
    pub fn levels(&self) -> Option<usize> {
        (self.widths.len() > 1).then_some(self.widths.len())
    }

    /// The widest level.
    pub fn most(&self) -> usize {
        self.widths.iter().max().copied().unwrap_or(0)
    }

    /// The narrowest level: so many items are sure to come back, if there are so many.
    pub fn least(&self) -> usize {
        self.widths.iter().min().copied().unwrap_or(0)
    }

    /// No level narrower than `k`: then min(k, allowed items) come back.
    #[must_use]
    pub fn at_least(&self, k: usize) -> Self {
        Self { widths: self.widths.iter().map(|&width| width.max(k)).collect() }
    }

    /// Refuses widths that find nothing: a level of 0, no level at all.
    ///
    /// # Errors
    /// The first such level; `key` is what asks for it.
    pub fn check(&self, key: &str) -> Result<(), CoreError> {
        let mend = "use at least as many beams as items are wanted";
        match self.widths.iter().position(|&width| width == 0) {
            Some(0) if self.widths.len() == 1 => Err(CoreError::config(key, "a beam width of 0 finds nothing", mend)),
            Some(level) => {
                Err(CoreError::config(key, format!("a beam width of 0 at level {level} finds nothing"), mend))
            }
            None if self.widths.is_empty() => {
                Err(CoreError::config(key, "a list of no beam widths finds nothing", "give one, or one a level"))
            }
            None => Ok(()),
        }
    }

    /// Refuses what does not fit semantic IDs of `levels` codes.
    ///
    /// # Errors
    /// As [`Widths::check`]; several widths, but not one a level.
    pub fn check_levels(&self, levels: usize) -> Result<(), CoreError> {
        self.check("beam")?;
        if self.widths.len() == 1 || self.widths.len() == levels {
            return Ok(());
        }
        let problem = format!("{} beam widths ({self}) for semantic IDs of {levels} codes", self.widths.len());
        Err(CoreError::config("beam", problem, format!("give one width, or {levels}")))
    }
}

/// How many items of an answer may have the same code at level 0.
///
/// # What is promised?
/// With no beam width below k, an answer has min(k, what the quota allows) items: of each first code min(q, its allowed
/// items). The search keeps at most q * floor(W / k) beams of a first code. After level 0 each is a code of its own. As
/// long as no width cuts anything, of each code all alive nodes are kept, or at least q. Where a width cuts, W beams
/// are left, and since no code has more than q * floor(W / k) of them, at least k of them fit the quota; a level later
/// they have at least as many children. So a wider beam looks deeper into every code, as over-generation does, and a beam
/// as wide as the catalog answers as an exact ranking from which surplus items are struck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// q.
    pub per_code: usize,
    /// k, the items that are wanted.
    pub wanted: usize,
}

impl Quota {
    /// Refuses a quota that leaves nothing.
    ///
    /// # Errors
    /// A quota of 0 items.
    pub(crate) fn check(per_code: Option<usize>) -> Result<(), CoreError> {
        let refused = || {
            let mend = "allow 1 or more, or leave the quota out";
            CoreError::config("quota", "0 items of each first code leave nothing", mend)
        };
        if per_code == Some(0) { Err(refused()) } else { Ok(()) }
    }

    /// Whether as many items fit the quota as are wanted.
    pub(crate) fn is_met(self, catalog: &Catalog, items: &[ScoredItem]) -> bool {
        let mut of_code: HashMap<u16, usize> = HashMap::new();
        let first = |scored: &ScoredItem| catalog.semantic_id(scored.item).first().copied();
        items.iter().filter_map(first).for_each(|code| *of_code.entry(code).or_default() += 1);
        of_code.values().map(|&count| count.min(self.per_code)).sum::<usize>() >= self.wanted
    }

    /// The beams of one first code that a level of `width` beams keeps.
    pub(crate) fn beams(self, width: usize) -> usize {
        self.per_code.saturating_mul((width / self.wanted.max(1)).max(1))
    }
}

/// How widely to look.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Search {
    /// Beams that are kept after each level.
    pub widths: Widths,
    /// How many items may have the same first code, where that is limited.
    pub quota: Option<Quota>,
}

impl From<Widths> for Search {
    fn from(widths: Widths) -> Self {
        Self { widths, quota: None }
    }
}

impl From<usize> for Search {
    fn from(width: usize) -> Self {
        Widths::from(width).into()
    }
}

impl Search {
    /// Refuses what cannot be searched in a catalog of `levels` codes.
    ///
    /// # Errors
    /// As [`Widths::check_levels`]; a quota of 0 items.
    pub fn check(&self, levels: usize) -> Result<(), CoreError> {
        self.widths.check_levels(levels)?;
        Quota::check(self.quota.map(|quota| quota.per_code))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn widths_are_written_as_they_are_read() {
        for (text, json, last, least) in [("50", "50", 50, 50), ("200,100,50", "[200,100,50]", 50, 50)] {
            let widths: Widths = text.parse().unwrap();
            assert_eq!((widths.to_string().as_str(), widths.last(), widths.least()), (text, last, least));
            assert_eq!(serde_json::to_string(&widths).unwrap(), json);
            assert_eq!(serde_json::from_str::<Widths>(json).unwrap(), widths);
        }
        let widths: Widths = "7, 3,9".parse().unwrap();
        assert_eq!([0, 1, 2, 3].map(|level| widths.at(level)), [7, 3, 9, 9]);
        assert_eq!(widths.at_least(8), Widths::from(vec![8, 8, 9]));
        let error = serde_json::from_str::<Widths>("\"wide\"").unwrap_err().to_string();
        assert!(error.contains("one a level"), "{error}");
    }

    #[test]
    fn widths_that_find_nothing_or_do_not_fit_the_levels_are_refused() {
        for (text, part) in [("0", "0 finds nothing"), ("5,0,5", "level 1"), ("5,5", "for semantic IDs of 3 codes")] {
            let error = text.parse::<Widths>().unwrap().check_levels(3).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        assert!(Widths::from(Vec::new()).check_levels(3).is_err());
        for text in ["", "ten", "5;5", "-1", "5,,5"] {
            assert!(text.parse::<Widths>().unwrap_err().to_string().contains("no beam width"), "{text}");
        }
        for text in ["5", "5,6,7"] {
            text.parse::<Widths>().unwrap().check_levels(3).unwrap();
        }
    }
}
