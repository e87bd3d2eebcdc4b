//! Operations of a T5 over codes.

use super::config::T5Config;
use super::extensions::{Extensions, LOCAL_FF};
use super::objective::MOST_CANDIDATES;
use crate::models::cost::{Cost, Shape};

/// Numbers that training keeps for each token and unit of width, all sub-layers of a block together.
const KEPT: f64 = 1.5;

impl Extensions {
    /// What they cost beside the T5 itself.
    pub(in crate::models) fn cost(&self, t5: &T5Config, shape: &Shape<'_>) -> Cost {
        let (d, width) = (t5.d_model as f64, self.vector_width as f64);
        let (levels, history) = (self.layout.vocab.levels() as f64, shape.mean_history);
        let share = |on: bool, of: f64| if on { of } else { 0.0 };
        // Multiplications of one token, or of one item.
        let branch = share(self.dual_branch, 4.0 * d * d + 2.0 * d * LOCAL_FF as f64);
        let projection = share(self.item_vectors, width * d);
        let head = share(self.vector_head, width * d);
        let contrast = share(self.vector_head, width * shape.items.min(MOST_CANDIDATES) as f64);
        let codes = f64::from(self.layout.vocab.codes_per_level().iter().sum::<u32>());
        let positions = share(self.in_item_positions, (levels + 1.0) * d);
        let read = history * (levels * branch + projection);
        Cost {
            parameters: 2.0 * branch + projection + head + positions + share(self.level_heads, codes * d),
            train_target: 6.0 * (read + levels * branch + head + contrast),
            answer: 2.0 * (read + shape.beam as f64 * levels * branch + head),
            activations: share(self.dual_branch, (history + 1.0) * levels * (6.0 * d + LOCAL_FF as f64)),
        }
    }
}

impl T5Config {
    /// What a next-item model of these sizes costs; a sample is a history and one target.
    pub fn cost(&self, shape: &Shape<'_>, max_history: usize) -> Cost {
        let levels = shape.codes_per_level.len() as f64;
        let tokens = shape.mean_history * levels;
        // Forward, and twice that for the two products of the backward.
        let train_target = 3.0 * (self.encoder(tokens) + self.decoder(1.0, levels, tokens));
        let width = (4 * self.inner() + 4 * self.d_model + 2 * self.d_ff) as f64 + self.num_heads as f64 * tokens;
        Cost {
            parameters: self.parameters(),
            train_target,
            answer: self.encoder(tokens) + self.decoder(shape.beam as f64, levels, tokens),
            activations: (max_history as f64 * levels + levels) * width * self.num_layers as f64 * KEPT,
        }
    }

    /// Operations of the encoder for one history of `tokens`.
    fn encoder(&self, tokens: f64) -> f64 {
        let (d, inner, ff) = (self.d_model as f64, self.inner() as f64, self.d_ff as f64);
        2.0 * self.num_layers as f64 * tokens * (4.0 * d * inner + 2.0 * d * ff + 2.0 * tokens * inner)
    }

    /// Operations of the decoder for `beams` prefixes of `levels` codes, after a history of `tokens`.
    fn decoder(&self, beams: f64, levels: f64, tokens: f64) -> f64 {
        let (d, inner, ff) = (self.d_model as f64, self.inner() as f64, self.d_ff as f64);
        // The first code has one prefix; keys and values of the history are made once.
        let rows = 1.0 + beams * (levels - 1.0);
        let blocks = rows * (6.0 * d * inner + 2.0 * d * ff + 2.0 * tokens * inner) + tokens * 2.0 * d * inner;
        2.0 * (self.decoder_layers() as f64 * blocks + rows * d * self.vocab_size as f64)
    }

    fn parameters(&self) -> f64 {
        let (d, inner, ff) = (self.d_model as f64, self.inner() as f64, self.d_ff as f64);
        let encoder = self.num_layers as f64 * (4.0 * d * inner + 2.0 * d * ff);
        let decoder = self.decoder_layers() as f64 * (8.0 * d * inner + 2.0 * d * ff);
        encoder + decoder + d * self.vocab_size as f64
    }
}
