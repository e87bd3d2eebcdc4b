//! Users by how much is known of them.
//!
//! *Paper* LLM-ESR (Liu et al., arXiv 2405.20646, section 4), which reports the long tail of users beside that of items.
//!
//! *Differs from the paper*: three groups of about as many users each instead of a fixed share of long histories, so that
//! every data set has all three; users of one length are never parted.

use serde::Serialize;

/// How long a user's history is, beside those of the other users.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Length {
    /// The third of the users with the shortest histories.
    Short,
    /// The third between.
    Mid,
    /// The third with the longest.
    Long,
}

impl Length {
    /// All groups, shortest first.
    pub const ALL: [Self; 3] = [Self::Short, Self::Mid, Self::Long];

    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Mid => "mid",
            Self::Long => "long",
        }
    }
}

/// Where one group ends and the next begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryGroups {
    short_to: usize,
    mid_to: usize,
}

impl HistoryGroups {
    /// Groups users by the number of events before their target.
    ///
    /// # Shapes
    /// `lengths`: `[users]`, in any order
    pub fn new(lengths: &[usize]) -> Self {
        let mut sorted = lengths.to_vec();
        sorted.sort_unstable();
        // The last length of the first third, and of the second.
        let last = |thirds: usize| (sorted.len() * thirds).div_ceil(3).checked_sub(1).and_then(|at| sorted.get(at));
        let end = |thirds| last(thirds).copied().unwrap_or(0);
        Self { short_to: end(1), mid_to: end(2) }
    }

    /// The group of a history of this length.
    pub fn of(&self, length: usize) -> Length {
        match length {
            length if length <= self.short_to => Length::Short,
            length if length <= self.mid_to => Length::Mid,
            _ => Length::Long,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_thirds_and_users_of_one_length_stay_together() {
        let counts = |lengths: &[usize]| {
            let groups = HistoryGroups::new(lengths);
            Length::ALL.map(|group| lengths.iter().filter(|&&length| groups.of(length) == group).count())
        };
        assert_eq!(counts(&[9, 1, 5, 2, 7, 3]), [2, 2, 2]);
        assert_eq!(counts(&[3, 3, 3, 3, 4, 9]), [4, 0, 2], "a third ends inside the threes");
        assert_eq!(counts(&[4; 5]), [5, 0, 0]);
        assert_eq!(counts(&[]), [0, 0, 0]);
    }

    #[test]
    fn longer_histories_never_fall_into_a_shorter_group() {
        let groups = HistoryGroups::new(&[3, 3, 8, 20, 4, 4, 4, 11]);
        assert!((0..40).map(|length| groups.of(length)).collect::<Vec<_>>().is_sorted());
    }
}
