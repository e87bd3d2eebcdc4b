//! Training samples, and their batches in an order that a seed decides.
//!
//! A sample is a prefix of a user's training part: given the items before position `p`, write the item at `p`. Every
//! position with at least one item before it is one (the sliding window that reproductions found to matter most:
//! GRID, 2507.22224; TIGER, 2305.05065, section 4). Batches hold samples of about the same length, so that little of
//! a batch is padding.
//!
//! # What do event weights do?
//! The weight of a target event is how often its sample is drawn: an epoch draws as many samples as there are, and
//! sample `i` appears `w_i / mean(w)` times in expectation (systematic resampling, one uniform number an epoch). The
//! expected gradient is that of a weighted loss, and no loss needs to know about weights.

use sidereal_core::{Catalog, CodeVocab, Histories, ItemIndex, Split};
use sidereal_nn::rng::Rng;

/// How many batches are sorted by length together: more means less padding, and batches less mixed.
const BATCHES_PER_POOL: usize = 64;

/// One training question: given `user`'s items before `position`, which item is at `position`?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// The user's number in the histories.
    pub user: u32,
    /// The target's place in that user's history.
    pub position: u32,
}

/// The samples of a split, and how to turn them into tokens.
#[derive(Debug)]
pub struct Samples<'a> {
    histories: &'a Histories,
    catalog: &'a Catalog,
    vocab: &'a CodeVocab,
    max_history: usize,
    samples: Vec<Sample>,
    /// Running sums of the weights over their mean, where the data has weights.
    cumulative_weights: Option<Vec<f64>>,
}

/// A batch of token ids, padded at the right to its longest history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Token ids of the histories, row-major; padding is [`CodeVocab::PAD`]: [B, T].
    pub history: Vec<u32>,
    /// Tokens of each history before the padding: [B].
    pub lengths: Vec<u32>,
    /// Token ids of the targets, row-major: [B, L].
    pub target: Vec<u32>,
    /// B.
    pub rows: usize,
    /// T, the longest history of the batch.
    pub width: usize,
    /// L.
    pub levels: usize,
}

impl<'a> Samples<'a> {
    /// All prefixes of the training parts, by user and position. Histories are cut to their most recent
    /// `max_history` items.
    pub fn new(
        histories: &'a Histories,
        split: &Split,
        catalog: &'a Catalog,
        vocab: &'a CodeVocab,
        max_history: usize,
    ) -> Self {
        let samples: Vec<Sample> = (0u32..)
            .zip(&split.train_end)
            .flat_map(|(user, &end)| (1..end).map(move |position| Sample { user, position }))
            .collect();
        let cumulative_weights = histories.weights().map(|_| cumulative_weights(histories, &samples));
        Self { histories, catalog, vocab, max_history, samples, cumulative_weights }
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
            pool.sort_by_key(|&sample| self.history_len(sample));
            batches.extend(pool.chunks(batch_size).map(<[u32]>::to_vec));
        }
        rng.shuffle(&mut batches);
        batches
    }

    /// Token ids of a batch of samples.
    pub fn batch(&self, numbers: &[u32]) -> Batch {
        let levels = self.vocab.levels();
        let lengths: Vec<u32> = numbers.iter().map(|&n| (self.history_len(n) * levels) as u32).collect();
        let width = lengths.iter().copied().max().unwrap_or(0) as usize;
        let mut history = vec![CodeVocab::PAD; numbers.len() * width]; // [B, T]
        let mut target = Vec::with_capacity(numbers.len() * levels);
        for (row, &number) in numbers.iter().enumerate() {
            let sample = self.samples[number as usize];
            let items = self.histories.items_of(sample.user as usize);
            let position = sample.position as usize;
            let tokens = history_tokens(self.catalog, self.vocab, &items[..position], self.max_history);
            history[row * width..row * width + tokens.len()].copy_from_slice(&tokens);
            push_item(self.catalog, self.vocab, items[position], &mut target);
        }
        Batch { history, lengths, target, rows: numbers.len(), width, levels }
    }

    fn history_len(&self, sample: u32) -> usize {
        (self.samples[sample as usize].position as usize).min(self.max_history)
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

fn cumulative_weights(histories: &Histories, samples: &[Sample]) -> Vec<f64> {
    let weight = |sample: &Sample| {
        let weights = histories.weights_of(sample.user as usize);
        weights.map_or(1.0, |weights| f64::from(weights[sample.position as usize]))
    };
    let mean = samples.iter().map(weight).sum::<f64>() / samples.len().max(1) as f64;
    let mut sum = 0.0;
    samples
        .iter()
        .map(|sample| {
            sum += weight(sample) / mean;
            sum
        })
        .collect()
}

/// Token ids of a history, oldest first: the codes of its most recent `max_history` items, [T].
///
/// # Panics
/// If an item is not in the catalog.
pub fn history_tokens(catalog: &Catalog, vocab: &CodeVocab, items: &[ItemIndex], max_history: usize) -> Vec<u32> {
    let recent = &items[items.len().saturating_sub(max_history)..];
    let mut tokens = Vec::with_capacity(recent.len() * vocab.levels());
    for &item in recent {
        push_item(catalog, vocab, item, &mut tokens);
    }
    tokens
}

fn push_item(catalog: &Catalog, vocab: &CodeVocab, item: ItemIndex, tokens: &mut Vec<u32>) {
    tokens.extend(catalog.semantic_id(item).iter().enumerate().map(|(level, &code)| vocab.token(level, code)));
}
