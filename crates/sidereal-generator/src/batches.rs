//! Training samples, and their batches in an order that a seed decides.
//!
//! Every position of a training part with at least one item before it is a target once an epoch. Networks that read
//! the history anew for each target take a prefix as a sample (the sliding window that reproductions found to matter
//! most: GRID, 2507.22224; TIGER, 2305.05065, section 4); those that learn from all positions of one pass take a whole
//! stretch. Batches hold samples of about the same length, so that little of a batch is padding.
//!
//! # What do event weights do?
//! The weight of a target event is how often its sample is drawn: an epoch draws as many samples as there are, and
//! sample `i` appears `w_i / mean(w)` times in expectation (systematic resampling, one uniform number an epoch). The
//! expected gradient is that of a weighted loss, and no loss needs to know about weights. Where recent events are to count
//! more ([`Recency`]), an event's weight is halved with every half-life of its age. A stretch with many targets is drawn as
//! often as they weigh on average, and teaches all of them alike.

use serde::{Deserialize, Serialize};
use sidereal_core::{Catalog, CodeVocab, Error as CoreError, Histories, ItemIndex, Split};
use sidereal_nn::rng::Rng;

use crate::Result;
use crate::history_layout::{HistoryLayout, NO_ITEM, push_item, split_marks};
use crate::network::{Row, SampleUnit, user_key};

/// How many batches are sorted by length together: more means less padding, and batches less mixed.
const BATCHES_PER_POOL: usize = 64;
/// One sample in so many is learnt from as if nobody knew the user, so that the unknown user's token learns too.
const KNOWN_TO_UNKNOWN: usize = 10;

/// One training sample: a stretch of a user's training part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// The user's number in the histories.
    pub user: u32,
    /// The first event that the network sees.
    pub start: u32,
    /// One past the last target.
    pub end: u32,
}

impl Sample {
    fn len(self) -> usize {
        (self.end - self.start) as usize
    }
}

/// How fast an event counts less as it grows old: half as much after each half-life.
///
/// *Source*: by place in the history, Petrov and Macdonald, "Effective and Efficient Training for Sequential Recommendation
/// using Recency Sampling", RecSys 2022, arXiv 2207.02643, section 4, whose base of 0.8 is a half-life of 3.1 events (they
/// choose targets inside a sequence so; here samples are drawn so); by time, Ding and Li, "Time weight collaborative
/// filtering", CIKM 2005, section 4.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Recency {
    /// Half-life in events: how many of the user's own training events came after.
    Events(f64),
    /// Half-life in the data's own unit of time: how long before the last training event of all users.
    Time(f64),
}

impl Recency {
    /// The half-life in its unit.
    pub fn half_life(self) -> f64 {
        match self {
            Self::Events(length) | Self::Time(length) => length,
        }
    }
}

/// The samples of a split, and the order in which epochs draw them.
#[derive(Debug)]
pub struct Samples<'a> {
    histories: &'a Histories,
    unit: SampleUnit,
    samples: Vec<Sample>,
    /// Running sums of the weights over their mean, where not all are alike.
    cumulative_weights: Option<Vec<f64>>,
}

/// A batch of token ids, padded at the right to its longest history.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// Token ids of the histories, row-major; padding is [`CodeVocab::PAD`]: `[B, T]`.
    pub history: Vec<u32>,
    /// Tokens of each history before the padding: `[B]`.
    pub lengths: Vec<u32>,
    /// Token ids of the targets, row-major: `[B, L]`.
    pub target: Vec<u32>,
    /// B.
    pub rows: usize,
    /// T, the longest history of the batch.
    pub width: usize,
    /// L.
    pub levels: usize,
    /// The items behind the tokens, oldest first, [`NO_ITEM`] behind the last: `[B, S]`; empty where the model looks at
    /// no item vectors.
    pub items: Vec<u32>,
    /// S, the most items of a history.
    pub slots: usize,
    /// The target items; empty where nothing but tokens is given: `[B]`.
    pub target_items: Vec<ItemIndex>,
}

impl Batch {
    /// Rows whose last item is the target, codes alone; histories are cut to their most recent `max_history` items.
    ///
    /// # Panics
    /// As [`Batch::of_rows`].
    pub fn new(catalog: &Catalog, vocab: &CodeVocab, rows: &[Row<'_>], max_history: usize) -> Self {
        Self::of_rows(catalog, &HistoryLayout::plain(vocab, max_history), rows, None)
    }

    /// Rows whose last item is the target. Where there are user tokens, `noise` makes some users unknown.
    ///
    /// # Panics
    /// If an item is not in the catalog, or a row holds no item.
    pub fn of_rows(catalog: &Catalog, layout: &HistoryLayout, rows: &[Row<'_>], noise: Option<u64>) -> Self {
        let mut rng = noise.filter(|_| layout.users > 0).map(|noise| Rng::new(noise, "unknown users"));
        let mut tokens = |row: &Row<'_>| {
            let unknown = rng.as_mut().is_some_and(|rng| rng.below(KNOWN_TO_UNKNOWN) == 0);
            layout.tokens(catalog, &row.items[..row.items.len() - 1], (!unknown).then_some(row.user))
        };
        let histories: Vec<Vec<u32>> = rows.iter().map(&mut tokens).collect();
        let histories: Vec<&[u32]> = histories.iter().map(Vec::as_slice).collect();
        let levels = layout.vocab.levels();
        let mut target = Vec::with_capacity(rows.len() * levels);
        let target_items: Vec<ItemIndex> = rows.iter().map(|row| row.items[row.items.len() - 1]).collect();
        target_items.iter().for_each(|&item| push_item(catalog, &layout.vocab, item, &mut target));
        Self { target, target_items, levels, ..Self::of_histories(&histories) }
    }

    /// Histories as a [`HistoryLayout`] makes them, without targets.
    pub fn of_histories(histories: &[&[u32]]) -> Self {
        let count = |history: &&[u32]| split_marks(history).1.len();
        let lengths: Vec<u32> = histories.iter().map(|history| count(history) as u32).collect();
        let width = histories.iter().map(count).max().unwrap_or(0);
        let slots = histories.iter().map(|history| split_marks(history).0.len()).max().unwrap_or(0);
        let mut history = Vec::with_capacity(histories.len() * width); // [B, T]
        let mut items = Vec::with_capacity(histories.len() * slots); // [B, S]
        for (row, of_row) in histories.iter().enumerate() {
            let (marked, tokens) = split_marks(of_row);
            history.extend_from_slice(tokens);
            history.resize((row + 1) * width, CodeVocab::PAD);
            items.extend(marked);
            items.resize((row + 1) * slots, NO_ITEM);
        }
        Self { history, lengths, rows: histories.len(), width, items, slots, ..Self::default() }
    }
}

impl<'a> Samples<'a> {
    /// All samples of the training parts, by user and position, none longer than `max_history` items and a target.
    ///
    /// By [`SampleUnit::NextItem`] every position after the first is the target of one sample. By
    /// [`SampleUnit::WholeHistory`] it is a target of one sample too, but samples hold as many targets as they can: a
    /// long history is cut, from its end, into stretches that overlap by the one item which is no target.
    pub fn new(histories: &'a Histories, split: &Split, unit: SampleUnit, max_history: usize) -> Self {
        let longest = max_history.max(1) as u32;
        let mut samples = Vec::new();
        for (user, &train_end) in (0u32..).zip(&split.train_end) {
            match unit {
                SampleUnit::NextItem => samples.extend((2..=train_end).map(|end| Sample {
                    user,
                    start: (end - 1).saturating_sub(longest),
                    end,
                })),
                SampleUnit::WholeHistory => {
                    let first = samples.len();
                    let mut end = train_end;
                    while end > 1 {
                        let start = (end - 1).saturating_sub(longest);
                        samples.push(Sample { user, start, end });
                        end = start + 1;
                    }
                    samples[first..].reverse();
                }
            }
        }
        let mut samples = Self { histories, unit, samples, cumulative_weights: None };
        samples.cumulative_weights = histories.weights().map(|_| samples.cumulated(|_, _| 1.0));
        samples
    }

    /// The same samples, those of old events drawn less often; weights of the data count besides. `key` is the recipe's
    /// that asks for it.
    ///
    /// # Errors
    /// A half-life of time where the data has no times.
    pub fn recent(mut self, recency: Recency, split: &Split, key: &str) -> Result<Self> {
        let of_user = |user: u32| &split.train_end[user as usize];
        let cumulative = match recency {
            Recency::Events(half_life) => self.cumulated(|user, position| {
                let after = f64::from(of_user(user).saturating_sub(position + 1));
                (-after / half_life).exp2()
            }),
            Recency::Time(half_life) => {
                let Some(times) = self.histories.times() else {
                    let problem = "its half-life is a time, but the interactions have no times";
                    let mend = "give a half-life in events, as { events = 20 }, or data with a column of times";
                    return Err(CoreError::config(key, problem, mend).into());
                };
                let offsets = self.histories.offsets();
                let at = |user: u32, position: u32| times[(offsets[user as usize] + u64::from(position)) as usize];
                let trained = |user: u32| (0..*of_user(user)).map(move |position| at(user, position));
                let end = (0..self.histories.len() as u32).flat_map(trained).max().unwrap_or(0);
                self.cumulated(|user, position| (-(end.saturating_sub(at(user, position)) as f64) / half_life).exp2())
            }
        };
        self.cumulative_weights = Some(cumulative);
        Ok(self)
    }

    /// Running sums of the samples' weights over their mean: a sample weighs what its targets weigh on average, each by the
    /// data's own weight, where there is one, and `more` of its user and position.
    fn cumulated(&self, more: impl Fn(u32, u32) -> f64) -> Vec<f64> {
        let weight = |sample: &Sample| {
            let first = match self.unit {
                SampleUnit::NextItem => sample.end - 1,
                SampleUnit::WholeHistory => sample.start + 1,
            };
            let own = self.histories.weights_of(sample.user as usize);
            let of = |position: u32| {
                own.map_or(1.0, |weights| f64::from(weights[position as usize])) * more(sample.user, position)
            };
            (first..sample.end).map(of).sum::<f64>() / f64::from(sample.end - first).max(1.0)
        };
        let mean = self.samples.iter().map(weight).sum::<f64>() / self.samples.len().max(1) as f64;
        let mut sum = 0.0;
        let running = |sample: &Sample| {
            sum += weight(sample) / mean;
            sum
        };
        self.samples.iter().map(running).collect()
    }

    /// Number of samples, which is also how many an epoch draws.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Whether no user has two training events.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// The samples by user and position.
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// Batches of an epoch.
    pub fn batches_per_epoch(&self, batch_size: usize) -> usize {
        self.samples.len().div_ceil(batch_size)
    }

    /// The batches of an epoch as numbers of samples; the same for the same seed and epoch.
    pub fn epoch(&self, batch_size: usize, seed: u64, epoch: u64) -> Vec<Vec<u32>> {
        let mut rng = Rng::new(seed, &format!("epoch {epoch}"));
        let mut drawn = self.draw(&mut rng);
        rng.shuffle(&mut drawn);
        let mut batches: Vec<Vec<u32>> = Vec::with_capacity(self.batches_per_epoch(batch_size));
        for pool in drawn.chunks_mut(batch_size * BATCHES_PER_POOL) {
            pool.sort_by_key(|&sample| self.samples[sample as usize].len());
            batches.extend(pool.chunks(batch_size).map(<[u32]>::to_vec));
        }
        rng.shuffle(&mut batches);
        batches
    }

    /// A sample's user and items.
    pub fn row(&self, number: u32) -> Row<'a> {
        let sample = self.samples[number as usize];
        let user = sample.user as usize;
        let items = &self.histories.items_of(user)[sample.start as usize..sample.end as usize];
        Row { user: user_key(self.histories.user(user)), items }
    }

    /// Targets of a sample.
    pub fn targets(&self, number: u32) -> usize {
        match self.unit {
            SampleUnit::NextItem => 1,
            SampleUnit::WholeHistory => self.samples[number as usize].len() - 1,
        }
    }

    fn draw(&self, rng: &mut Rng) -> Vec<u32> {
        let Some(cumulative) = &self.cumulative_weights else { return (0..self.samples.len() as u32).collect() };
        let offset = rng.uniform();
        let mut drawn = Vec::with_capacity(self.samples.len());
        for (sample, &sum) in (0u32..).zip(cumulative) {
            while drawn.len() < self.samples.len() && (drawn.len() as f64) < sum - offset {
                drawn.push(sample);
            }
        }
        // Rounding of the sums may leave the last draw open.
        while drawn.len() < self.samples.len() {
            drawn.push(self.samples.len() as u32 - 1);
        }
        drawn
    }
}

/// Token ids of a history, oldest first: the codes of its most recent `max_history` items, `[T]`.
///
/// # Panics
/// If an item is not in the catalog.
pub fn history_tokens(catalog: &Catalog, vocab: &CodeVocab, items: &[ItemIndex], max_history: usize) -> Vec<u32> {
    HistoryLayout::plain(vocab, max_history).tokens(catalog, items, None)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use sidereal_core::{CollisionPolicy, ItemId, SemanticIds, SplitRule};

    struct World {
        histories: Histories,
        split: Split,
        catalog: Catalog,
        vocab: CodeVocab,
    }

    fn world(lengths: &[usize], weights: Option<Vec<f32>>) -> World {
        let items = 10;
        let ids: Vec<ItemId> = (0..items).map(|i| ItemId::from(format!("i{i}"))).collect();
        let sids = SemanticIds::new(2, (0..items as u16).flat_map(|i| [i / 4, i % 4]).collect()).unwrap();
        let catalog = Catalog::build(&ids, &sids, &[3, 4], CollisionPolicy::Postings, None).unwrap();
        let mut offsets = vec![0u64];
        lengths.iter().for_each(|&len| offsets.push(offsets[offsets.len() - 1] + len as u64));
        let events: Vec<ItemIndex> = lengths.iter().flat_map(|&len| (0..len).map(|i| (i % items) as u32)).collect();
        let users = (0..lengths.len()).map(|u| format!("u{u}")).collect();
        let histories = Histories::new(users, offsets, events, None, weights).unwrap();
        let split = Split::new(&histories, SplitRule::LeaveOneOut).unwrap();
        World { histories, split, catalog, vocab: CodeVocab::new(CodeVocab::FIRST_CODE, &[3, 4]) }
    }

    impl World {
        fn samples(&self, max_history: usize) -> Samples<'_> {
            Samples::new(&self.histories, &self.split, SampleUnit::NextItem, max_history)
        }

        fn batch(&self, samples: &Samples<'_>, numbers: &[u32]) -> Batch {
            let rows: Vec<Row<'_>> = numbers.iter().map(|&number| samples.row(number)).collect();
            Batch::new(&self.catalog, &self.vocab, &rows, 99)
        }
    }

    #[test]
    fn every_prefix_of_the_training_part_is_a_sample_and_nothing_held_out_is() {
        let world = world(&[5, 2, 1, 3], None);
        let sample = |(user, start, end)| Sample { user, start, end };
        assert_eq!(world.samples(9).samples(), [(0, 0, 2), (0, 0, 3), (1, 0, 2)].map(sample));
        assert_eq!(world.samples(1).samples(), [(0, 0, 2), (0, 1, 3), (1, 0, 2)].map(sample));
    }

    #[test]
    fn whole_histories_have_every_target_once_however_short_the_stretches() {
        let lengths: Vec<usize> = (0..30).collect();
        let world = world(&lengths, None);
        for longest in [1, 2, 3, 7, 100] {
            let samples = Samples::new(&world.histories, &world.split, SampleUnit::WholeHistory, longest);
            let mut targets = Vec::new();
            for sample in samples.samples() {
                assert!(sample.len() <= longest + 1);
                targets.extend((sample.start + 1..sample.end).map(|position| (sample.user, position)));
            }
            let expected = (0u32..).zip(&world.split.train_end);
            let expected: Vec<(u32, u32)> =
                expected.flat_map(|(user, &end)| (1..end).map(move |p| (user, p))).collect();
            assert_eq!(targets, expected, "at most {longest}");
            let counted: usize = (0..samples.len() as u32).map(|number| samples.targets(number)).sum();
            assert_eq!(counted, targets.len());
        }
    }

    #[test]
    fn a_batch_holds_recent_items_oldest_first_and_pads_to_its_longest() {
        let world = world(&[7, 4], None);
        let samples = world.samples(2);
        // Samples 0..3 are user 0 at positions 1..=4, sample 4 is user 1 at position 1.
        let batch = world.batch(&samples, &[0, 3]);
        assert_eq!((batch.rows, batch.width, batch.levels), (2, 4, 2));
        assert_eq!(batch.lengths, [2, 4]);
        // Item i has the codes (i / 4, i % 4), tokens 2 + code at level 0 and 5 + code at level 1.
        assert_eq!(batch.history, [2, 5, 0, 0, 2, 7, 2, 8]);
        assert_eq!(batch.target, [2, 6, 3, 5]);
    }

    #[test]
    fn an_epoch_draws_every_sample_once_and_follows_its_seed_and_number() {
        let lengths: Vec<usize> = (0..60).map(|u| 3 + u % 9).collect();
        let world = world(&lengths, None);
        let samples = world.samples(20);
        let epoch = samples.epoch(16, 1, 0);
        assert_eq!(epoch.len(), samples.batches_per_epoch(16));
        let mut drawn = epoch.concat();
        drawn.sort_unstable();
        assert_eq!(drawn, (0..samples.len() as u32).collect::<Vec<_>>());
        assert_eq!(epoch, samples.epoch(16, 1, 0));
        assert_ne!(epoch, samples.epoch(16, 1, 1));
        assert_ne!(epoch, samples.epoch(16, 2, 0));
    }

    #[test]
    fn batches_of_an_epoch_are_of_about_one_length() {
        let lengths: Vec<usize> = (0..200).map(|u| 3 + u % 18).collect();
        let world = world(&lengths, None);
        let samples = world.samples(20);
        let padding = |batches: &[Vec<u32>]| -> usize {
            let batch = |numbers: &Vec<u32>| {
                let batch = world.batch(&samples, numbers);
                batch.history.iter().filter(|&&token| token == CodeVocab::PAD).count()
            };
            batches.iter().map(batch).sum()
        };
        let mut mixed: Vec<u32> = (0..samples.len() as u32).collect();
        Rng::new(1, "test").shuffle(&mut mixed);
        let mixed: Vec<Vec<u32>> = mixed.chunks(16).map(<[u32]>::to_vec).collect();
        assert!(padding(&samples.epoch(16, 1, 0)) * 5 < padding(&mixed));
    }

    #[test]
    fn samples_are_drawn_as_often_as_their_targets_weigh() {
        // Of each user's four events the first two train: one sample each, whose target is the second event.
        let users = 40;
        let weights = (0..users).flat_map(|u| [1.0, if u % 2 == 0 { 3.0 } else { 1.0 }, 1.0, 1.0]).collect();
        let world = world(&vec![4; users], Some(weights));
        let samples = world.samples(9);
        let mut counts = vec![0; users];
        for epoch in 0..50 {
            let drawn = samples.epoch(8, 5, epoch).concat();
            assert_eq!(drawn.len(), users);
            drawn.iter().for_each(|&sample| counts[sample as usize] += 1);
        }
        for (user, &count) in counts.iter().enumerate() {
            // Shares of 1.5 and 0.5 an epoch; systematic draws never stray by more than one.
            let expected: i32 = if user % 2 == 0 { 75 } else { 25 };
            assert!((count - expected).abs() <= 15, "user {user}: {count}");
        }
    }

    /// How often samples are drawn, means over many epochs.
    fn shares(samples: &Samples<'_>, epochs: u64) -> Vec<f64> {
        let mut shares = vec![0.0; samples.len()];
        for epoch in 0..epochs {
            samples.epoch(8, 5, epoch).concat().iter().for_each(|&sample| shares[sample as usize] += 1.0);
        }
        shares.iter_mut().for_each(|share| *share /= epochs as f64);
        shares
    }

    #[test]
    fn samples_of_old_events_are_drawn_half_as_often_with_each_half_life() {
        // Of six events four train: targets are at 1, 2 and 3, with 2, 1 and 0 training events after them.
        let world = world(&[6; 40], None);
        let samples = world.samples(9).recent(Recency::Events(1.0), &world.split, "key").unwrap();
        let shares = shares(&samples, 300);
        for of_user in shares.chunks_exact(3) {
            for (share, weight) in of_user.iter().zip([0.25, 0.5, 1.0]) {
                let expected = weight * 3.0 / 1.75;
                assert!((share - expected).abs() < 0.15, "{share} is not {expected}");
            }
        }
        assert_eq!(samples.epoch(8, 5, 0).concat().len(), samples.len());
        let long = world.samples(9).recent(Recency::Events(1e9), &world.split, "key").unwrap();
        let mut drawn = long.epoch(8, 5, 0).concat();
        drawn.sort_unstable();
        assert_eq!(drawn, (0..samples.len() as u32).collect::<Vec<_>>(), "nothing grows old");
    }

    #[test]
    fn age_is_time_before_the_end_of_all_training_and_the_datas_own_weights_count_besides() {
        let plain =
            world(&[4; 40], Some((0..40).flat_map(|u| [1.0, if u < 20 { 3.0 } else { 1.0 }, 1.0, 1.0]).collect()));
        let error = plain.samples(9).recent(Recency::Time(5.0), &plain.split, "the key").unwrap_err().to_string();
        assert!(
            error.contains("the key") && error.contains("no times") && error.contains("{ events = 20 }"),
            "{error}"
        );
        // Every other user's events are ten units older; what is held out is later by far and does not count.
        let times = (0..40).flat_map(|u| [0, if u % 2 == 0 { 100 } else { 90 }, 5000, 6000]).collect();
        let histories = &plain.histories;
        let (users, offsets) = (histories.users().to_vec(), histories.offsets().to_vec());
        let (items, weights) = (histories.items().to_vec(), histories.weights().map(<[f32]>::to_vec));
        let histories = Histories::new(users, offsets, items, Some(times), weights).unwrap();
        let samples = Samples::new(&histories, &plain.split, SampleUnit::NextItem, 9);
        let samples = samples.recent(Recency::Time(10.0), &plain.split, "key").unwrap();
        for (user, share) in shares(&samples, 300).into_iter().enumerate() {
            let weight = if user < 20 { 3.0 } else { 1.0 } * if user % 2 == 0 { 1.0 } else { 0.5 };
            assert!((share - weight / 1.5).abs() < 0.15, "user {user}: {share} is not {}", weight / 1.5);
        }
    }
}
