//! What may be learned from, and what is held out.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::array_file::{Array, ArrayFile, Entry, write_arrays};
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

    /// The time of the event before it, of the times of all events in the histories' order; none without such an event.
    pub fn time_before(self, histories: &Histories, times: &[i64]) -> Option<i64> {
        let target = histories.offsets()[self.user as usize] as usize + self.position as usize;
        (self.position > 0).then(|| times[target - 1])
    }

    /// The items before it, oldest first, `[H]`.
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

    /// The same questions, with all that lies before the test targets in the training parts: what is known when the test
    /// targets are asked for, validation targets included. Whoever asks for validation targets must not see it.
    pub fn before_test(&self, histories: &Histories) -> Self {
        let mut train_end: Vec<u32> = (0..histories.len()).map(|user| histories.items_of(user).len() as u32).collect();
        match self.rule {
            SplitRule::LeaveOneOut => self.test.iter().for_each(|e| train_end[e.user as usize] = e.position),
            // Someone without an event before the test period has no test target, but nothing to learn from either.
            SplitRule::Time { test_from, .. } => train_end.iter_mut().enumerate().for_each(|(user, end)| {
                let times = histories.times_of(user).unwrap_or(&[]);
                *end = times.iter().position(|&time| time >= test_from).map_or(*end, |first| first as u32);
            }),
        }
        Self { train_end, ..self.clone() }
    }

    /// The events of user `u` that may be trained on, oldest first.
    pub fn training_items<'a>(&self, histories: &'a Histories, u: usize) -> &'a [ItemIndex] {
        &histories.items_of(u)[..self.train_end[u] as usize]
    }

    /// How often each item occurs in the training parts, `[N]`.
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

/// File name of a split inside its folder.
pub const FILE: &str = "split.safetensors";

impl Split {
    /// Writes the split into a folder.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn save(&self, dir: &Path) -> Result<()> {
        let flat = |examples: &[Example]| -> Vec<u32> { examples.iter().flat_map(|e| [e.user, e.position]).collect() };
        let (validation, test) = (flat(&self.validation), flat(&self.test));
        let entries = [
            Entry::flat("train_end", Array::U32(&self.train_end)),
            Entry::shaped("validation", &[self.validation.len(), 2], Array::U32(&validation)),
            Entry::shaped("test", &[self.test.len(), 2], Array::U32(&test)),
        ];
        let rule = serde_json::to_string(&self.rule).unwrap_or_default();
        write_arrays(&dir.join(FILE), &entries, &BTreeMap::from([("rule".to_owned(), rule)]))
    }

    /// Opens a split and checks it against the histories that it was made from.
    ///
    /// # Errors
    /// A file that is missing, damaged, or of other histories.
    pub fn open(dir: &Path, histories: &Histories) -> Result<Self> {
        let path = dir.join(FILE);
        let file = ArrayFile::open(&path)?;
        let bad = |problem: &str| Error::artifact(&path, problem, "make the split again");
        let rule = file.metadata("rule").and_then(|text| serde_json::from_str(text).ok());
        let rule = rule.ok_or_else(|| bad("it does not say how it was made"))?;
        let examples = |name: &str| -> Result<Vec<Example>> {
            let column = file.column::<u32>(name)?;
            Ok(column.chunks_exact(2).map(|pair| Example { user: pair[0], position: pair[1] }).collect())
        };
        let train_end = file.column::<u32>("train_end")?.to_vec();
        let split = Self { rule, train_end, validation: examples("validation")?, test: examples("test")? };
        let len = |user: usize| histories.items_of(user).len();
        let fits = split.train_end.len() == histories.len()
            && split.train_end.iter().enumerate().all(|(user, &end)| end as usize <= len(user))
            && split
                .validation
                .iter()
                .chain(&split.test)
                .all(|e| (e.user as usize) < histories.len() && (e.position as usize) < len(e.user as usize));
        if fits { Ok(split) } else { Err(bad("it does not fit the interactions beside it")) }
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
    fn what_is_known_before_the_test_has_the_validation_targets_and_no_test_target() {
        let h = histories(&[4, 2, 3, 0], None);
        let split = Split::new(&h, SplitRule::LeaveOneOut).unwrap();
        let known = split.before_test(&h);
        assert_eq!(known.train_end, [3, 2, 2, 0]);
        assert_eq!((&known.validation, &known.test), (&split.validation, &split.test));
        let h = histories(&[4, 3, 2], Some(vec![1, 5, 10, 20, 13, 14, 15, 1, 2]));
        let split = Split::new(&h, SplitRule::Time { validation_from: 10, test_from: 13 }).unwrap();
        assert_eq!(split.before_test(&h).train_end, [3, 0, 2]);
    }

    #[test]
    fn a_split_comes_back_from_disk_and_only_for_its_histories() {
        let h = histories(&[4, 2, 3, 0], None);
        let split = Split::new(&h, SplitRule::LeaveOneOut).unwrap();
        let dir = tempfile::tempdir().unwrap();
        split.save(dir.path()).unwrap();
        assert_eq!(Split::open(dir.path(), &h).unwrap(), split);
        let error = Split::open(dir.path(), &histories(&[4, 2, 2, 0], None)).unwrap_err();
        assert!(error.to_string().contains("does not fit"), "{error}");
    }

    #[test]
    fn time_split_without_times_names_the_mend() {
        let h = histories(&[3], None);
        let error = Split::new(&h, SplitRule::Time { validation_from: 1, test_from: 2 }).unwrap_err();
        assert!(error.to_string().contains("use the leave-one-out rule"), "{error}");
    }
}
