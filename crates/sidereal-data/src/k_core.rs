//! k-core: users and items with few events are dropped until all that stay have k.

use sidereal_core::{Error, Result};

/// What a k-core keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Core {
    /// Per user: kept.
    pub users: Vec<bool>,
    /// Per item: kept.
    pub items: Vec<bool>,
    /// How many times something was dropped.
    pub rounds: u32,
}

/// Drops users and items with fewer than `k` events, again and again until none is left to drop. Event `e` is user
/// `user_of[e]` meeting item `item_of[e]`; a repeated meeting counts each time.
///
/// # Errors
/// Nothing is left, or the numbers are beyond `n_users` and `n_items`.
pub fn k_core(user_of: &[u32], item_of: &[u32], n_users: usize, n_items: usize, k: u32) -> Result<Core> {
    let inside = |numbers: &[u32], len: usize| numbers.iter().all(|&n| (n as usize) < len);
    if !inside(user_of, n_users) || !inside(item_of, n_items) {
        let mend = "this is a defect: report it";
        return Err(Error::input("interactions", "an event names a user or item that is not there", mend));
    }
    let mut core = Core { users: vec![true; n_users], items: vec![true; n_items], rounds: 0 };
    loop {
        let (mut by_user, mut by_item) = (vec![0u32; n_users], vec![0u32; n_items]);
        for (&u, &i) in user_of.iter().zip(item_of) {
            if core.users[u as usize] && core.items[i as usize] {
                by_user[u as usize] = by_user[u as usize].saturating_add(1);
                by_item[i as usize] = by_item[i as usize].saturating_add(1);
            }
        }
        let mut dropped = false;
        for (kept, count) in core.users.iter_mut().zip(by_user).chain(core.items.iter_mut().zip(by_item)) {
            if *kept && count < k {
                *kept = false;
                dropped = true;
            }
        }
        if !dropped {
            break;
        }
        core.rounds += 1;
    }
    if !core.users.contains(&true) || !core.items.contains(&true) {
        let problem = format!("no user or item has {k} events once the others are dropped");
        return Err(Error::config("k-core", problem, "use a smaller number, or leave it out"));
    }
    Ok(core)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn dropping_goes_on_to_the_fixpoint() {
        // User 2 goes first, then item 2 which only it and user 1 had, and so on along the chain.
        let core = k_core(&[0, 0, 1, 1, 1, 2, 0, 1], &[0, 1, 0, 1, 2, 2, 0, 0], 3, 4, 2).unwrap();
        assert_eq!(core.users, [true, true, false]);
        assert_eq!(core.items, [true, true, false, false]);
        assert_eq!(core.rounds, 2);
    }

    #[test]
    fn a_core_of_nothing_is_told() {
        let error = k_core(&[0], &[0], 1, 1, 2).unwrap_err().to_string();
        assert!(error.contains("k-core: no user or item has 2 events"), "{error}");
    }

    proptest! {
        #[test]
        fn what_stays_has_k_events_and_is_the_largest_such_set(
            events in proptest::collection::vec((0u32..6, 0u32..6), 1..40), k in 1u32..4,
        ) {
            let (users, items): (Vec<u32>, Vec<u32>) = events.iter().copied().unzip();
            // The reference drops one thing at a time, in another order.
            let (mut keep_u, mut keep_i) = ([true; 6], [true; 6]);
            let degree = |keep_u: &[bool; 6], keep_i: &[bool; 6], user: Option<usize>, item: Option<usize>| {
                events.iter().filter(|(u, i)| keep_u[*u as usize] && keep_i[*i as usize]
                    && user.is_none_or(|x| x == *u as usize) && item.is_none_or(|x| x == *i as usize)).count() as u32
            };
            loop {
                if let Some(i) = (0..6).rev().find(|&i| keep_i[i] && degree(&keep_u, &keep_i, None, Some(i)) < k) {
                    keep_i[i] = false;
                } else if let Some(u) = (0..6).rev().find(|&u| keep_u[u] && degree(&keep_u, &keep_i, Some(u), None) < k) {
                    keep_u[u] = false;
                } else {
                    break;
                }
            }
            match k_core(&users, &items, 6, 6, k) {
                Ok(core) => { prop_assert_eq!(core.users, keep_u); prop_assert_eq!(core.items, keep_i); }
                Err(_) => prop_assert!(!keep_u.contains(&true) || !keep_i.contains(&true)),
            }
        }
    }
}
