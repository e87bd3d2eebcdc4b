//! Metrics of rankings, and how far to trust them.
//!
//! In the order of the data: [`full_ranking`] turns the scores of a whole catalog into a rank and a list,
//! [`ranking`] means the ranks of many users ([`multi_target`]: of several targets per user), [`lists`] looks at what
//! was shown (coverage, Gini, invalid and duplicate entries), [`popularity`] sorts targets into head, mid, tail and
//! cold, [`history_length`] users into short, mid and long, [`bootstrap`] gives intervals, [`paired`] compares two rows over the same users, and [`report`] joins all of
//! it for one row of a table.
//!
//! A rank is 0-based and counts ties against the method: it is the number of *other* items that score at least as
//! much as the target. `None` is a target that the method did not return.
//!
//! Users are what is resampled, so all of it is seeded and gives the same bytes whatever the number of threads.

pub mod full_ranking;

pub mod ranking;

pub mod multi_target;

pub mod lists;

pub mod history_length;
pub mod popularity;

mod draws;

pub mod bootstrap;
pub mod paired;

pub mod report;

pub use bootstrap::{Bootstrap, Interval, intervals, of_means};
pub use full_ranking::{rank_of_target, top_k};
pub use history_length::{HistoryGroups, Length};
pub use lists::{ListAudit, RankedLists, coverage, gini};
pub use multi_target::{MultiTargetMetrics, multi_target_metrics};
pub use paired::{PairedTest, paired_test, paired_values};
pub use popularity::{Bucket, BucketMetrics, PopularityBuckets};
pub use ranking::{DEFAULT_KS, Metric, RankingMetrics};
pub use report::{Row, RowReport};
