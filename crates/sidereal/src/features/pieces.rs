//! SentencePiece-style pieces of semantic IDs: each code of each level is a character, each item a word, and a unigram
//! model learns which runs of codes deserve an id of their own.
//!
//! *Paper*: Kudo, "Subword Regularization" (arXiv 1804.10959), section 3.2, as `tokenizers` trains it.
//! *Differs from it*: one thread, and characters that the training gave no probability of their own all get the least one,
//! because the trainer orders them by chance: same semantic IDs, same pieces.

use std::collections::{HashMap, HashSet};

use serde_json::json;
use sidereal_core::{Error, SemanticIds};
use tokenizers::models::unigram::{Unigram, UnigramTrainer};

use super::{Entry, Features};
use crate::Result;

/// The trainer's step between characters that it gave no probability.
const CHANCE_STEP: f64 = 1e-4;

/// Pieces learnt from the semantic IDs, or those that are `known`, with one more for every code that none of them has.
pub(super) fn features(ids: &SemanticIds, codes_per_level: &[u32], vocab: u32, known: &[Entry]) -> Result<Features> {
    let alphabet = Alphabet::new(codes_per_level)?;
    let mut counts: HashMap<&[u16], u32> = HashMap::new();
    ids.rows().for_each(|row| *counts.entry(row).or_default() += 1);
    let mut words: Vec<(&[u16], u32)> = counts.into_iter().collect();
    words.sort_unstable();
    let mut used: Vec<char> = words.iter().flat_map(|(row, _)| alphabet.characters(row)).collect();
    used.sort_unstable();
    used.dedup();
    let pieces = if known.is_empty() {
        if used.len() > vocab as usize {
            let problem = format!("{vocab} ids for {} codes that occur", used.len());
            return Err(Error::config("vocab", problem, "give more ids than there are codes").into());
        }
        train(words.iter().map(|&(row, count)| (alphabet.word(row), count)).collect(), vocab, &used)?
    } else {
        with_new_codes(known, &alphabet, &used)
    };
    let numbers: HashMap<&str, u32> = pieces.iter().map(|(piece, _)| piece.as_str()).zip(0..).collect();
    let model = Unigram::from(pieces.clone(), None, false).map_err(|e| defect(&*e))?;
    let lists = ids.rows().map(|row| {
        let cut = model.encode(&alphabet.word(row)).map_err(|e| defect(&*e))?;
        let number = |piece: &String| {
            let problem = || Error::input("pieces", "a code has no piece", "this is a defect: report it");
            numbers.get(piece.as_str()).copied().ok_or_else(problem)
        };
        Ok(cut.iter().map(number).collect::<std::result::Result<Vec<u32>, _>>()?)
    });
    let lists = lists.collect::<Result<_>>()?;
    let entry = |(piece, score): &(String, f64)| {
        let codes: Vec<(usize, u16)> = piece.chars().filter_map(|c| alphabet.code(c)).collect();
        json!({ "first_level": codes.first().map(|code| code.0), "codes": codes.iter().map(|c| c.1).collect::<Vec<_>>(),
                "log_probability": score })
    };
    let entries: Vec<serde_json::Value> = pieces.iter().map(entry).collect();
    Ok(Features { lists, ids: pieces.len(), vocabulary: json!({ "numbering": "pieces", "entries": entries }) })
}

/// Known pieces, and behind them the characters that are none of them, as unlikely as the least likely.
fn with_new_codes(known: &[Entry], alphabet: &Alphabet, used: &[char]) -> Vec<(String, f64)> {
    let piece = |entry: &Entry| {
        let word = alphabet.part(entry.first_level, &entry.codes).collect();
        (word, entry.log_probability.unwrap_or_default())
    };
    let mut pieces: Vec<(String, f64)> = known.iter().map(piece).collect();
    let least = pieces.iter().map(|(_, score)| *score).fold(f64::INFINITY, f64::min);
    let there: HashSet<String> = pieces.iter().map(|(piece, _)| piece.clone()).collect();
    pieces.extend(used.iter().map(char::to_string).filter(|piece| !there.contains(piece)).map(|piece| (piece, least)));
    pieces
}

/// Pieces with their log-probabilities, likeliest first.
fn train(words: Vec<(String, u32)>, vocab: u32, used: &[char]) -> Result<Vec<(String, f64)>> {
    let trainer = UnigramTrainer::builder().show_progress(false).vocab_size(vocab).build();
    let trainer = trainer.map_err(|e| defect(&e))?;
    let mut model = Unigram::default();
    // Sums over chunks depend on the number of threads.
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().map_err(|e| defect(&e))?;
    one.install(|| trainer.do_train(words, &mut model)).map_err(|e| defect(&*e))?;
    let mut pieces: Vec<(String, f64)> = model.iter().filter(|(_, score)| score.is_finite()).cloned().collect();
    let least = pieces.iter().map(|(_, score)| *score).fold(f64::INFINITY, f64::min);
    let by_chance = least + CHANCE_STEP * (used.len() as f64 + 1.0);
    for (piece, score) in &mut pieces {
        if *score < by_chance && piece.chars().nth(1).is_none() {
            *score = least;
        }
    }
    pieces.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    Ok(pieces)
}

fn defect(error: &(dyn std::error::Error + 'static)) -> crate::Error {
    Error::input("pieces", error.to_string(), "this is a defect: report it").into()
}

/// Codes as characters of Unicode's two large planes for private use.
struct Alphabet {
    starts: Vec<u32>,
}

const PLANE: u32 = 0xfffe;

impl Alphabet {
    fn new(codes_per_level: &[u32]) -> Result<Self> {
        let mut next = 0u32;
        let mut starts = Vec::with_capacity(codes_per_level.len());
        for &codes in codes_per_level {
            starts.push(next);
            next = next.saturating_add(codes);
        }
        if next > 2 * PLANE {
            let problem = format!("{next} codes over all levels; pieces can tell {} apart", 2 * PLANE);
            return Err(Error::config("kind", problem, "use n-grams, hashed with --vocab").into());
        }
        Ok(Self { starts })
    }

    fn characters<'a>(&'a self, row: &'a [u16]) -> impl Iterator<Item = char> + 'a {
        self.part(0, row)
    }

    /// The characters of codes from some level on.
    fn part<'a>(&'a self, first_level: usize, codes: &'a [u16]) -> impl Iterator<Item = char> + 'a {
        let character = |(start, &code): (&u32, &u16)| {
            let number = start + u32::from(code);
            let plane = if number < PLANE { 0xf_0000 } else { 0x10_0000 };
            char::from_u32(plane + number % PLANE)
        };
        self.starts.iter().skip(first_level).zip(codes).filter_map(character)
    }

    fn word(&self, row: &[u16]) -> String {
        self.characters(row).collect()
    }

    /// Level and code of a character.
    fn code(&self, character: char) -> Option<(usize, u16)> {
        let place = u32::from(character).checked_sub(0xf_0000)?;
        let number = (place >> 16) * PLANE + (place & 0xffff);
        let level = self.starts.iter().rposition(|&start| start <= number)?;
        Some((level, u16::try_from(number - self.starts[level]).ok()?))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// 600 items of four levels: 8 first codes, each with two usual second codes.
    fn ids() -> SemanticIds {
        let row = |i: u32| [i % 8, i % 8 + 8 * (i / 8 % 2), i * 7 % 31, i * 13 % 29].map(|code| code as u16);
        SemanticIds::new(4, (0..600).flat_map(row).collect()).unwrap()
    }

    #[test]
    fn pieces_cover_all_items_with_fewer_ids_than_codes() {
        let ids = ids();
        let found = features(&ids, &[32; 4], 200, &[]).unwrap();
        assert!(found.ids <= 200);
        let entries = found.vocabulary["entries"].as_array().unwrap();
        assert_eq!(entries.len(), found.ids);
        let codes = |id: &u32| {
            let codes = entries[*id as usize]["codes"].as_array().unwrap().iter();
            codes.map(|code| code.as_u64().unwrap() as u16).collect::<Vec<u16>>()
        };
        for (row, list) in ids.rows().zip(&found.lists) {
            assert_eq!(list.iter().flat_map(codes).collect::<Vec<u16>>(), row);
        }
        let mean = found.lists.iter().map(Vec::len).sum::<usize>() as f64 / 600.0;
        assert!(mean < 4.0, "{mean}");
    }

    #[test]
    fn the_same_ids_give_the_same_pieces() {
        let first = features(&ids(), &[32; 4], 100, &[]).unwrap();
        assert_eq!(first, features(&ids(), &[32; 4], 100, &[]).unwrap());
        let error = features(&ids(), &[32; 4], 20, &[]).unwrap_err().to_string();
        assert!(error.contains("20 ids for"), "{error}");
        assert!(features(&ids(), &[65_536; 4], 8000, &[]).is_err());
    }

    #[test]
    fn characters_and_codes_are_inverse() {
        let alphabet = Alphabet::new(&[65_536, 3, 65_000]).unwrap();
        for row in [[0, 0, 0], [65_535, 2, 64_999], [65_533, 1, 1], [65_534, 0, 7]] {
            let back: Vec<(usize, u16)> = alphabet.characters(&row).filter_map(|c| alphabet.code(c)).collect();
            assert_eq!(back, [(0, row[0]), (1, row[1]), (2, row[2])]);
        }
    }
}
