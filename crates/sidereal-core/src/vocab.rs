//! Codes as the token ids of a small generator.

use std::ops::Range;

/// Numbers every (level, code) pair: level after level, after `first` special tokens.
///
/// The whole L x K grid is numbered, used or not, so that items added later never meet a missing token.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CodeVocab {
    first: u32,
    codes_per_level: Vec<u32>,
}

impl CodeVocab {
    /// The padding token, which also starts the decoder (T5's convention).
    pub const PAD: u32 = 0;
    /// The end-of-sequence token (T5's convention; a semantic ID of fixed length does not need it).
    pub const EOS: u32 = 1;
    /// The first code's token id behind T5's two special tokens.
    pub const FIRST_CODE: u32 = 2;

    /// Level `l`'s code `c` gets `first + codes of the levels before l + c`.
    pub fn new(first: u32, codes_per_level: &[u32]) -> Self {
        Self { first, codes_per_level: codes_per_level.to_vec() }
    }

    /// Token id of a code; the level's last one for a code that it does not have, which only a damaged catalog names.
    pub fn token(&self, level: usize, code: u16) -> u32 {
        self.level_start(level) + u32::from(code).min(self.codes_per_level[level].saturating_sub(1))
    }

    /// Level and code of a token id; `None` for special tokens and ids beyond the vocabulary.
    pub fn code(&self, token: u32) -> Option<(usize, u16)> {
        let mut rest = token.checked_sub(self.first)?;
        for (level, &codes) in self.codes_per_level.iter().enumerate() {
            if rest < codes {
                return Some((level, u16::try_from(rest).ok()?));
            }
            rest -= codes;
        }
        None
    }

    /// The token ids of a level.
    pub fn level_range(&self, level: usize) -> Range<u32> {
        let start = self.level_start(level);
        start..start + self.codes_per_level[level]
    }

    /// Size of the whole vocabulary, V, special tokens included.
    pub fn size(&self) -> u32 {
        self.first + self.codes_per_level.iter().sum::<u32>()
    }

    /// L.
    pub fn levels(&self) -> usize {
        self.codes_per_level.len()
    }

    /// K of every level.
    pub fn codes_per_level(&self) -> &[u32] {
        &self.codes_per_level
    }

    fn level_start(&self, level: usize) -> u32 {
        self.first + self.codes_per_level[..level].iter().sum::<u32>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_and_code_are_inverse_over_the_whole_grid() {
        let vocab = CodeVocab::new(2, &[5, 3, 7]);
        let mut seen = Vec::new();
        for level in 0..3 {
            for code in 0..vocab.codes_per_level()[level] as u16 {
                let token = vocab.token(level, code);
                assert_eq!(vocab.code(token), Some((level, code)));
                assert!(vocab.level_range(level).contains(&token));
                seen.push(token);
            }
        }
        assert_eq!(seen, (2..17).collect::<Vec<_>>());
        assert_eq!(vocab.size(), 17);
        assert_eq!((vocab.code(0), vocab.code(1), vocab.code(17)), (None, None, None));
    }
}
