//! What may be learned from, and what is held out.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::history::Histories;
use crate::item::ItemIndex;

/// One held-out question: given user `user`'s events before `position`, which item is at `position`?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Example {
    /// The user's number in the [`Histories`].
    pub user: u32,
    /// The target's place in that user's history.
    pub position: u32,
}

impl Example {
    /// The item to be found.
    pub fn target(self, histories: &Histories) -> ItemIndex {
        histories.items_of(self.user as usize)[self.position as usize]
    }

    /// The items before it, oldest first, [H].
    pub fn history(self, histories: &Histories) -> &[ItemIndex] {
        &histories.items_of(self.user as usize)[..self.position as usize]
    }
}

/// How events are held out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum SplitRule {
    /// Of every user with three events or more: the last is the test target, the one before the validation target.
    LeaveOneOut,
    /// Events before `validation_from` train; a user's first event from then on is a validation target, the first
    /// event from `test_from` on a test target. No user's future leaks into another user's past.
    Time {
        /// First moment of the validation period, in the data's own time unit.
        validation_from: i64,
        /// First moment of the test period.
        test_from: i64,
    },
}

/// Training parts and held-out targets of all users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// How it was made.
    pub rule: SplitRule,
    /// Per user: events `0..train_end` may be trained on.
    pub train_end: Vec<u32>,
    /// Questions for choosing between models.
    pub validation: Vec<Example>,
    /// Questions for the final figures.
    pub test: Vec<Example>,
}

impl Split {
    /// Splits histories by a rule.
    ///
    /// # Errors
    /// A time rule on data without times, or whose periods are out of order; a history of more than `u32::MAX` events.
    pub fn new(histories: &Histories, rule: SplitRule) -> Result<Self> {
        let mut split =
            Self { rule, train_end: Vec::with_capacity(histories.len()), validation: Vec::new(), test: Vec::new() };
        if let SplitRule::Time { validation_from, test_from } = rule {
            let key = "split.time";
            if histories.times().is_none() {
                let mend = "give a time column in the interactions, or use the leave-one-out rule";
                return Err(Error::config(key, "the interactions have no times", mend));
            }
            if validation_from >= test_from {
                let problem = format!("validation_from {validation_from} is not before test_from {test_from}");
                return Err(Error::config(key, problem, "let the validation period come first"));
            }
        }
        for u in 0..histories.len() {
            let len = u32::try_from(histories.items_of(u).len()).map_err(|_| {
                let problem = "a history of more than 4 billion events";
                Error::input(format!("user {:?}", histories.user(u)), problem, "drop this user")
            })?;
            split.add_user(u as u32, len, histories.times_of(u).unwrap_or(&[]));
        }
        Ok(split)
    }

    fn add_user(&mut self, user: u32, len: u32, times: &[i64]) {
        match self.rule {
            SplitRule::LeaveOneOut if len >= 3 => {
                self.train_end.push(len - 2);
                self.validation.push(Example { user, position: len - 2 });
                self.test.push(Example { user, position: len - 1 });
            }
            SplitRule::LeaveOneOut => self.train_end.push(len),
            SplitRule::Time { validation_from, test_from } => {
                let before = |moment: i64| times.iter().position(|&t| t >= moment).map_or(len, |p| p as u32);
                let (validation, test) = (before(validation_from), before(test_from));
                self.train_end.push(validation);
                // A target needs at least one event before it.
                if validation < test && validation > 0 {
                    self.validation.push(Example { user, position: validation });
                }
                if test < len && test > 0 {
                    self.test.push(Example { user, position: test });
                }
            }
        }
    }

    /// The events of user `u` that may be trained on, oldest first.
    pub fn training_items<'a>(&self, histories: &'a Histories, u: usize) -> &'a [ItemIndex] {
        &histories.items_of(u)[..self.train_end[u] as usize]
    }

    /// How often each item occurs in the training parts, [N].
    pub fn training_popularity(&self, histories: &Histories, items: usize) -> Vec<u32> {
        let mut counts = vec![0; items];
        for u in 0..histories.len() {
            for &item in self.training_items(histories, u) {
                counts[item as usize] += 1;
            }
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn histories(lens: &[usize], times: Option<Vec<i64>>) -> Histories {
        let mut offsets = vec![0u64];
        for &len in lens {
            offsets.push(offsets[offsets.len() - 1] + len as u64);
        }
        let events = lens.iter().sum::<usize>();
        let users = (0..lens.len()).map(|u| format!("u{u}")).collect();
        Histories::new(users, offsets, (0..events as u32).collect(), times, None).unwrap()
    }

    #[test]
    fn leave_one_out_holds_out_the_last_two_events_of_users_with_three() {
        let h = histories(&[4, 2, 3, 0], None);
        let split = Split::new(&h, SplitRule::LeaveOneOut).unwrap();
        assert_eq!(split.train_end, [2, 2, 1, 0]);
        assert_eq!(split.validation, [Example { user: 0, position: 2 }, Example { user: 2, position: 1 }]);
        assert_eq!(split.test, [Example { user: 0, position: 3 }, Example { user: 2, position: 2 }]);
        assert_eq!(split.test[0].target(&h), 3);
        assert_eq!(split.test[0].history(&h), [0, 1, 2]);
        assert_eq!(split.training_popularity(&h, 9), [1, 1, 0, 0, 1, 1, 1, 0, 0]);
    }

    #[test]
    fn time_split_trains_only_on_events_before_the_validation_period() {
        let h = histories(&[4, 3, 2], Some(vec![1, 5, 10, 20, 11, 12, 13, 1, 2]));
        let split = Split::new(&h, SplitRule::Time { validation_from: 10, test_from: 13 }).unwrap();
        assert_eq!(split.train_end, [2, 0, 2]);
        assert_eq!(split.validation, [Example { user: 0, position: 2 }]);
        assert_eq!(split.test, [Example { user: 0, position: 3 }, Example { user: 1, position: 2 }]);
    }

    #[test]
    fn time_split_without_times_names_the_mend() {
        let h = histories(&[3], None);
        let error = Split::new(&h, SplitRule::Time { validation_from: 1, test_from: 2 }).unwrap_err();
        assert!(error.to_string().contains("use the leave-one-out rule"), "{error}");
    }
}
