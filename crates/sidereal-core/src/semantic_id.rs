//! Semantic IDs: one code per level for every item.

use crate::error::{Error, Result};

/// The semantic IDs of a catalog, by item.
///
/// # Shapes
/// `codes`: [N, L]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SemanticIds {
    levels: usize,
    codes: Vec<u16>,
}

impl SemanticIds {
    /// Wraps a row-major matrix of codes.
    ///
    /// # Errors
    /// No levels, or a length that is not a multiple of `levels`.
    pub fn new(levels: usize, codes: Vec<u16>) -> Result<Self> {
        if levels == 0 || !codes.len().is_multiple_of(levels) {
            let problem = format!("{} codes are not rows of {levels} levels", codes.len());
            return Err(Error::input("semantic IDs", problem, "give every item one code per level"));
        }
        Ok(Self { levels, codes })
    }

    /// N.
    pub fn len(&self) -> usize {
        self.codes.len() / self.levels
    }

    /// Whether there are no items.
    pub fn is_empty(&self) -> bool {
        self.codes.is_empty()
    }

    /// L.
    pub fn levels(&self) -> usize {
        self.levels
    }

    /// The semantic ID of item `i`, `[L]`.
    ///
    /// # Panics
    /// If `i` is not below [`SemanticIds::len`].
    pub fn row(&self, i: usize) -> &[u16] {
        &self.codes[i * self.levels..(i + 1) * self.levels]
    }

    /// All semantic IDs in catalog order, each `[L]`.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[u16]> {
        self.codes.chunks_exact(self.levels)
    }

    /// The whole matrix, [N, L].
    pub fn codes(&self) -> &[u16] {
        &self.codes
    }

    /// Checks that every code is below its level's number of codes.
    ///
    /// # Errors
    /// Names the first item whose code is too large.
    pub fn check_codes(&self, codes_per_level: &[u32]) -> Result<()> {
        if codes_per_level.len() != self.levels {
            let problem = format!("{} levels, but {} codebook sizes", self.levels, codes_per_level.len());
            return Err(Error::input("semantic IDs", problem, "give one number of codes per level"));
        }
        for (item, row) in self.rows().enumerate() {
            for (level, (&code, &codes)) in row.iter().zip(codes_per_level).enumerate() {
                if u32::from(code) >= codes {
                    let problem = format!("code {code} at level {level} is not below {codes}");
                    let mend = "give the real number of codes per level (for example --codes 512)";
                    return Err(Error::input(format!("semantic IDs, item {item}"), problem, mend));
                }
            }
        }
        Ok(())
    }
}
