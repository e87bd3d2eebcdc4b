//! Interaction histories, one ordered sequence per user.

use crate::error::{Error, Result};
use crate::item::ItemIndex;

/// All users' interactions, each user's in order (compressed rows).
#[derive(Debug, Clone, PartialEq)]
pub struct Histories {
    users: Vec<String>,
    offsets: Vec<u64>,
    items: Vec<ItemIndex>,
    times: Option<Vec<i64>>,
    weights: Option<Vec<f32>>,
}

impl Histories {
    /// Joins the columns: user `u`'s events are `offsets[u]..offsets[u + 1]` of `items`, `times` and `weights`.
    ///
    /// # Errors
    /// Offsets that do not describe `users` and `items`, columns of other lengths, weights that are not finite
    /// and positive.
    pub fn new(
        users: Vec<String>,
        offsets: Vec<u64>,
        items: Vec<ItemIndex>,
        times: Option<Vec<i64>>,
        weights: Option<Vec<f32>>,
    ) -> Result<Self> {
        let bad = |problem: String| Error::input("interactions", problem, "prepare the data again");
        let sound = offsets.len() == users.len() + 1
            && offsets.first() == Some(&0)
            && offsets.last() == Some(&(items.len() as u64))
            && offsets.windows(2).all(|w| w[0] <= w[1]);
        if !sound {
            return Err(bad(format!("offsets do not describe {} users and {} events", users.len(), items.len())));
        }
        for (name, len) in [("time", times.as_ref().map(Vec::len)), ("weight", weights.as_ref().map(Vec::len))] {
            if len.is_some_and(|len| len != items.len()) {
                return Err(bad(format!("{} events, but {} {name}s", items.len(), len.unwrap_or(0))));
            }
        }
        if let Some(at) = weights.iter().flatten().position(|w| !w.is_finite() || *w <= 0.0) {
            let problem = format!("the weight of event {at} is not a positive number");
            return Err(Error::input("interactions", problem, "give every event a weight above 0, or drop it"));
        }
        Ok(Self { users, offsets, items, times, weights })
    }

    /// Number of users.
    pub fn len(&self) -> usize {
        self.users.len()
    }

    /// Whether there are no users.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// Number of interactions.
    pub fn events(&self) -> usize {
        self.items.len()
    }

    /// The user's own id of user `u`.
    ///
    /// # Panics
    /// If `u` is not below [`Histories::len`]; so for the other accessors.
    pub fn user(&self, u: usize) -> &str {
        &self.users[u]
    }

    /// All user ids in order.
    pub fn users(&self) -> &[String] {
        &self.users
    }

    /// The number of a user id (a linear search: for many look-ups build a map of [`Histories::users`]).
    pub fn user_index(&self, id: &str) -> Option<usize> {
        self.users.iter().position(|u| u == id)
    }

    /// User `u`'s items, oldest first, `[H]`.
    pub fn items_of(&self, u: usize) -> &[ItemIndex] {
        &self.items[self.range(u)]
    }

    /// User `u`'s times, `[H]`, where the data has times.
    pub fn times_of(&self, u: usize) -> Option<&[i64]> {
        Some(&self.times.as_ref()?[self.range(u)])
    }

    /// User `u`'s event weights, `[H]`, where the data has weights.
    pub fn weights_of(&self, u: usize) -> Option<&[f32]> {
        Some(&self.weights.as_ref()?[self.range(u)])
    }

    /// Where each user's events begin, one more entry than users.
    pub fn offsets(&self) -> &[u64] {
        &self.offsets
    }

    /// All events' items.
    pub fn items(&self) -> &[ItemIndex] {
        &self.items
    }

    /// All events' times.
    pub fn times(&self) -> Option<&[i64]> {
        self.times.as_deref()
    }

    /// All events' weights.
    pub fn weights(&self) -> Option<&[f32]> {
        self.weights.as_deref()
    }

    /// Mean number of events per user.
    pub fn mean_len(&self) -> f64 {
        if self.is_empty() { 0.0 } else { self.events() as f64 / self.len() as f64 }
    }

    fn range(&self, u: usize) -> std::ops::Range<usize> {
        self.offsets[u] as usize..self.offsets[u + 1] as usize
    }
}
