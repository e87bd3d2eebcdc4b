//! Users beside the items of a batch: who they are, what is known of them, and the vectors that they are encoded from.

use candle_core::Tensor;
use sidereal_core::Embeddings;
use sidereal_nn::rng::Rng;

use super::Behaviour;
use super::pairs::{PairSource, UserCoOccurrencePairs, UserItemPairs};
use crate::Result;
use crate::behaviour::collaborative_vectors::{user_vector, user_vectors};
use crate::training_items::{TrainingHistories, TrainingItems};

/// Users that items bring along.
pub(super) struct Users<'a> {
    /// Prepared vectors of items, [N, D].
    items: &'a Embeddings,
    histories: TrainingHistories<'a>,
    pairs: UserItemPairs<'a>,
    /// Every user is joined by one who shares an item with him.
    with_partners: bool,
    /// Means of the collaborative vectors of their items, [U, C].
    means: Behaviour,
}

/// The users of a batch: one of each item, then, where users are contrasted with one another, a partner of each of them.
#[derive(Debug, Default)]
pub(crate) struct DrawnUsers {
    /// User by place, `[M]`, where M is B, 2 B with partners, or 0; any where nobody had the item.
    pub(super) users: Vec<usize>,
    /// Whether somebody had the item, `[B]`.
    pub(super) had: Vec<bool>,
}

impl<'a> Users<'a> {
    /// # Errors
    /// No histories; no user with a collaborative vector.
    pub(super) fn new(
        items: &TrainingItems<'a>,
        vectors: &Embeddings,
        debias: f64,
        with_partners: bool,
        name: &str,
    ) -> Result<Self> {
        let histories = items.needed_histories(name)?;
        let means = Behaviour::new(user_vectors(&histories, vectors, f64::INFINITY)?, name)?;
        let pairs = UserItemPairs::new(&histories, items.len(), debias);
        Ok(Self { items: items.vectors, histories, pairs, with_partners, means })
    }

    /// A user of each item, and a partner of each user; a user without partners is his own.
    pub(super) fn draw(&self, items: &[usize], rng: &mut Rng) -> DrawnUsers {
        let drawn: Vec<Option<usize>> = items.iter().map(|&item| self.pairs.partner(item, rng)).collect();
        let had = drawn.iter().map(Option::is_some).collect();
        let mut users: Vec<usize> = drawn.iter().map(|user| user.unwrap_or(0)).collect();
        if self.with_partners {
            let near = UserCoOccurrencePairs(&self.pairs);
            let partner = |user: &Option<usize>| user.and_then(|user| near.partner(user, rng).or(Some(user)));
            users.extend(drawn.iter().map(partner).map(|user| user.unwrap_or(0)));
        }
        DrawnUsers { users, had }
    }

    /// What users are encoded from: the mean of their items' prepared vectors.
    ///
    /// # Shapes
    /// to [M, D]
    pub(super) fn semantic(&self, drawn: &DrawnUsers) -> Vec<f32> {
        let width = self.items.width();
        let mut values = vec![0f32; drawn.users.len() * width];
        for (&user, row) in drawn.users.iter().zip(values.chunks_exact_mut(width.max(1))) {
            user_vector(self.histories.items_of(user), self.items, f64::INFINITY, row);
        }
        values
    }

    /// Their collaborative vectors.
    ///
    /// # Shapes
    /// to [M, C]
    pub(super) fn learnt(&self, drawn: &DrawnUsers, like: &Tensor) -> Result<Tensor> {
        self.means.rows(&drawn.users, like)
    }

    /// Who was drawn and has a collaborative vector, `[M]`.
    pub(super) fn known(&self, drawn: &DrawnUsers) -> Vec<bool> {
        let had = drawn.had.iter().cycle();
        self.means.known(&drawn.users).into_iter().zip(had).map(|(known, &had)| known && had).collect()
    }
}
