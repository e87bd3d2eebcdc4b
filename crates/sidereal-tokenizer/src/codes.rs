//! How many codes each level has.

use sidereal_core::{Error, Result};

/// Most codes of a level: a code is stored in 16 bits.
pub const MAX_CODES: u32 = 1 << 16;
/// Most levels of a semantic ID.
pub const MAX_LEVELS: usize = 256;

/// Reads the command line's `--codes`: one number for all levels ("256", with `levels`), or one per level
/// ("256,256,128").
///
/// # Errors
/// Text that is not numbers, a list that contradicts `levels`, and whatever [`check_codes`] refuses.
pub fn parse_codes(text: &str, levels: Option<usize>) -> Result<Vec<u32>> {
    let mend = "write one number for all levels (--levels 3 --codes 256) or one per level (--codes 256,256,128)";
    let mut codes = Vec::new();
    for part in text.split(',') {
        let number = part.trim().parse::<u32>();
        codes.push(
            number.map_err(|_| Error::config("codes", format!("{:?} is not a number of codes", part.trim()), mend))?,
        );
    }
    if let Some(levels) = levels {
        if codes.len() == 1 && levels <= MAX_LEVELS {
            codes = vec![codes[0]; levels];
        }
        if codes.len() != levels {
            let problem = format!("{} numbers of codes do not fit {levels} levels", codes.len());
            return Err(Error::config("codes", problem, mend));
        }
    }
    check_codes(&codes)?;
    Ok(codes)
}

/// Checks the number of codes of every level.
///
/// # Errors
/// No levels or more than [`MAX_LEVELS`]; a level with no codes or more than [`MAX_CODES`].
pub fn check_codes(codes: &[u32]) -> Result<()> {
    if codes.is_empty() || codes.len() > MAX_LEVELS {
        let problem = format!("{} levels; a semantic ID has 1 to {MAX_LEVELS}", codes.len());
        return Err(Error::config("codes", problem, "give one number of codes per level, for example [256, 256, 256]"));
    }
    match codes.iter().position(|&k| k == 0 || k > MAX_CODES) {
        Some(level) => {
            let problem = format!("level {level} has {} codes; a level has 1 to {MAX_CODES}", codes[level]);
            Err(Error::config("codes", problem, "use more levels rather than more codes, for example [256, 256, 256]"))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn one_number_serves_all_levels_and_a_list_serves_each() {
        assert_eq!(parse_codes("256", Some(3)).unwrap(), [256, 256, 256]);
        assert_eq!(parse_codes("256, 128", None).unwrap(), [256, 128]);
        assert_eq!(parse_codes("256,128", Some(2)).unwrap(), [256, 128]);
        assert_eq!(parse_codes("65536", None).unwrap(), [65_536]);
    }

    #[test]
    fn impossible_sizes_are_refused_with_the_mend() {
        for (text, levels, word) in [
            ("", None, "not a number"),
            ("12x", None, "\"12x\""),
            ("-1", None, "not a number"),
            ("256,128", Some(3), "3 levels"),
            ("256", Some(0), "0 levels"),
            ("256", Some(1_000_000), "levels"),
            ("256,0", None, "level 1 has 0 codes"),
            ("65537", None, "65537 codes"),
        ] {
            let error = parse_codes(text, levels).unwrap_err().to_string();
            assert!(error.contains(word) && error.contains("codes"), "{text:?}: {error}");
        }
        assert!(check_codes(&[]).is_err());
    }
}
