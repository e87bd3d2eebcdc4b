//! Places for items in a tree of codes: groups become prefixes, and every item a leaf of its own.
//!
//! A node holds as many items as there are codes below it. Groups are split over codes by these rules, so that every
//! catalog that fits the semantic IDs at all finds a place:
//! - a group takes a code; a group too large for one code is cut, in its order, into parts of even size;
//! - where there are more parts than codes, the largest keep codes of their own and the rest share the remaining codes,
//!   in order;
//! - a node without groups numbers its items through all codes below it.

use sidereal_core::{Error, Result, SemanticIds};

/// Splits the items of a node, at a level, into groups; one group or none says that there is nothing left to tell them
/// apart by. Together the groups hold each item once.
pub(crate) type Split<'a> = &'a mut dyn FnMut(&[u32], usize) -> Result<Vec<Vec<u32>>>;

/// Checks that a catalog fits into the semantic IDs of these sizes.
///
/// # Errors
/// More items than semantic IDs.
pub(crate) fn check_room(items: usize, codes: &[u32], method: &str) -> Result<()> {
    if items <= room(codes) {
        return Ok(());
    }
    let problem = format!("{items} items, but {codes:?} makes only {} semantic IDs", room(codes));
    Err(Error::config(format!("{method}.codes"), problem, "give more codes or more levels"))
}

/// Gives each of N items a semantic ID of its own.
///
/// # Errors
/// More items than semantic IDs; whatever `split` meets.
///
/// # Shapes
/// `codes`: `[L]`; the answer: [N, L]
pub(crate) fn place(items: usize, codes: &[u32], method: &str, split: Split<'_>) -> Result<SemanticIds> {
    check_room(items, codes, method)?;
    let mut out = vec![0u16; items * codes.len()];
    let all: Vec<u32> = (0..items as u32).collect();
    place_node(all, codes, 0, split, &mut out)?;
    SemanticIds::new(codes.len(), out)
}

/// The number of semantic IDs of these sizes.
pub(crate) fn room(codes: &[u32]) -> usize {
    codes.iter().fold(1usize, |room, &k| room.saturating_mul(k as usize))
}

/// Digits of a number, the last level's fastest.
pub(crate) fn write_number(mut number: usize, codes: &[u32], out: &mut [u16]) {
    for (&k, code) in codes.iter().zip(out).rev() {
        *code = (number % k as usize) as u16;
        number /= k as usize;
    }
}

fn place_node(members: Vec<u32>, codes: &[u32], level: usize, split: Split<'_>, out: &mut [u16]) -> Result<()> {
    let levels = codes.len();
    let below = &codes[level + 1..];
    let groups = if below.is_empty() || members.len() < 2 { Vec::new() } else { split(&members, level)? };
    if groups.len() < 2 {
        for (number, &item) in members.iter().enumerate() {
            write_number(number, &codes[level..], &mut out[item as usize * levels + level..][..levels - level]);
        }
        return Ok(());
    }
    for (code, part) in parts(groups, codes[level] as usize, room(below)).into_iter().enumerate() {
        for &item in &part {
            out[item as usize * levels + level] = code as u16;
        }
        place_node(part, codes, level + 1, split, out)?;
    }
    Ok(())
}

/// At most `codes` parts of at most `room` items each.
fn parts(groups: Vec<Vec<u32>>, codes: usize, room: usize) -> Vec<Vec<u32>> {
    let mut parts: Vec<Vec<u32>> = Vec::new();
    for group in groups.into_iter().filter(|group| !group.is_empty()) {
        parts.extend(even(&group, group.len().div_ceil(room)));
    }
    if parts.len() <= codes {
        return parts;
    }
    let mut order: Vec<usize> = (0..parts.len()).collect();
    order.sort_by_key(|&at| (std::cmp::Reverse(parts[at].len()), at));
    let mut rest: usize = parts.iter().map(Vec::len).sum();
    let mut own = vec![false; parts.len()];
    for (taken, at) in order.into_iter().enumerate() {
        let left = rest - parts[at].len();
        if taken + 1 >= codes || left > (codes - taken - 1).saturating_mul(room) {
            break;
        }
        rest = left;
        own[at] = true;
    }
    let codes_left = codes - own.iter().filter(|&&own| own).count();
    let (mut kept, mut shared) = (Vec::new(), Vec::new());
    for (part, own) in parts.into_iter().zip(own) {
        if own { kept.push(part) } else { shared.extend(part) }
    }
    kept.extend(even(&shared, codes_left));
    kept
}

/// Cuts a list into `count` runs, as even as can be.
fn even(members: &[u32], count: usize) -> Vec<Vec<u32>> {
    let cut = |part: usize| (members.len() as u128 * part as u128 / count.max(1) as u128) as usize;
    (0..count).map(|part| members[cut(part)..cut(part + 1)].to_vec()).filter(|part| !part.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_catalog_that_fits_finds_places_of_its_own(
            codes in prop::collection::vec(1u32..7, 1..5),
            share in 0.0f64..=1.0,
            modulus in 1u32..9,
        ) {
            let items = (room(&codes) as f64 * share) as usize;
            let mut split = |members: &[u32], level: usize| {
                let mut groups = vec![Vec::new(); modulus as usize];
                members.iter().for_each(|&m| groups[((m >> level) % modulus) as usize].push(m));
                groups.retain(|group| !group.is_empty());
                Ok(groups)
            };
            let ids = place(items, &codes, "test", &mut split).unwrap();
            ids.check_codes(&codes).unwrap();
            let mut rows: Vec<&[u16]> = ids.rows().collect();
            rows.sort_unstable();
            rows.dedup();
            prop_assert_eq!(rows.len(), items);
        }
    }

    #[test]
    fn groups_are_prefixes_where_codes_suffice() {
        let mut split = |members: &[u32], _: usize| Ok(members.chunks(3).map(<[_]>::to_vec).collect());
        let ids = place(9, &[3, 4], "test", &mut split).unwrap();
        assert_eq!(ids.codes(), [0, 0, 0, 1, 0, 2, 1, 0, 1, 1, 1, 2, 2, 0, 2, 1, 2, 2]);
        let error = place(13, &[3, 4], "test", &mut split).unwrap_err().to_string();
        assert!(error.contains("test.codes") && error.contains("13 items") && error.contains("12"), "{error}");
    }

    #[test]
    fn the_largest_groups_keep_their_own_codes() {
        let mut split = |_: &[u32], level: usize| {
            Ok(if level == 0 { vec![vec![0], vec![1, 2, 3], vec![4], vec![5]] } else { Vec::new() })
        };
        let ids = place(6, &[2, 4], "test", &mut split).unwrap();
        let first: Vec<u16> = ids.rows().map(|row| row[0]).collect();
        assert_eq!(first, [1, 0, 0, 0, 1, 1]);
    }
}
