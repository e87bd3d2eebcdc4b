//! Dual contrasts after DAS: quantized latents and collaborative vectors of aligned pairs find each other.
//!
//! For an aligned pair (a, b) with quantized latents z and collaborative vectors h the loss is InfoNCE(z_a, h_b) +
//! InfoNCE(h_a, z_b), on cosines within the batch. Pairs are
//!
//! - an item with itself (`item-item`), and with one that stands near it in histories (`co-occurrence`; partners join the
//!   batch);
//! - an item with a user who had it (`user-item`);
//! - a user with himself (`user-user`), and with one who shares an item with him (`user-co-occurrence`).
//!
//! A user's vectors are the means of his items' vectors over the training part of his history: of the prepared ones, which
//! go through the encoder and the codebooks of the items and give z, and of the collaborative ones, h. Users are there for
//! their pairs alone: they are not reconstructed, codebooks neither move towards them nor count them, and Sinkhorn's
//! mapping does not spread them.
//!
//! *Paper*: Ye et al., *DAS: Dual-Aligned Semantic IDs Empowered Industrial Recommender System*, arXiv 2508.10584 (its
//! alignments u2i, i2i and u2u, co-occurrence i2i and u2u).
//! *Differs from the paper*: collaborative vectors are frozen and not trained along; popularity is taken out where pairs
//! are drawn ([`super::pairs`]) and not by a model; users share the items' encoder and codebooks, where the paper trains
//! an RQ-VAE of their own on their profiles. Weight and temperature are ours.
//!
//! # Shapes
//! Quantized latents [B, d] and of users [M, d], collaborative vectors [N, C] and of users [U, C].

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use sidereal_core::Error;
use sidereal_nn::ops;
use sidereal_nn::params::{Init, Params};
use sidereal_nn::rng::Rng;

use super::contrast::{contrast, sum, unit};
use super::pairs::{CoOccurrencePairs, PairSource};
use super::users::Users;
use super::{AlignedBatch, Behaviour, Beside, check_temperature, check_weight};
use crate::Result;
use crate::training_items::TrainingItems;

/// What is aligned with what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PairKind {
    /// Items that stand near one another in histories.
    CoOccurrence,
    /// An item and a user who had it.
    UserItem,
    /// An item and itself.
    ItemItem,
    /// A user and himself.
    UserUser,
    /// Users who share an item.
    UserCoOccurrence,
}

/// Settings of the dual contrasts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DasConfig {
    /// Weight of every kind of pair in the training's loss.
    pub weight: f64,
    /// Divides the cosines.
    pub temperature: f32,
    /// The kinds of pairs.
    pub pairs: Vec<PairKind>,
    /// Items co-occur when they are at most this many steps apart in a history.
    pub window: usize,
    /// Pairs that co-occur less often are left out.
    pub min_count: u32,
    /// Power of the popularity (of a partner, of an item that users share, or the length of a user's history) that draws
    /// are divided by.
    pub debias: f64,
}

impl Default for DasConfig {
    fn default() -> Self {
        let pairs = vec![PairKind::CoOccurrence, PairKind::UserItem, PairKind::ItemItem];
        Self { weight: 0.1, temperature: 0.07, pairs, window: 5, min_count: 1, debias: 0.75 }
    }
}

impl DasConfig {
    pub(super) fn check(&self, key: &str) -> Result<()> {
        check_weight(key, self.weight)?;
        check_temperature(key, self.temperature)?;
        let bad =
            |name: &str, problem: &str, mend: &str| Err(Error::config(format!("{key}.{name}"), problem, mend).into());
        let twice = |(at, kind): (usize, &PairKind)| self.pairs[..at].contains(kind);
        if self.pairs.is_empty() || self.pairs.iter().enumerate().any(twice) {
            let mend = "name co-occurrence, user-item, item-item, user-user or user-co-occurrence, each once";
            return bad("pairs", "there are none, or one appears twice", mend);
        }
        if self.window == 0 {
            return bad("window", "items never co-occur", "give 1 or more; 5 is usual");
        }
        if !(0.0..=1.0).contains(&self.debias) {
            return bad("debias", "it is not a power from 0 to 1", "0.75 is usual; 0 draws by counts alone");
        }
        Ok(())
    }
}

pub(super) struct Das<'a> {
    weight: f64,
    temperature: f32,
    pairs: Vec<PairKind>,
    behaviour: Behaviour,
    /// None where items are not contrasted with partners.
    near: Option<CoOccurrencePairs>,
    /// None where no pair has a user.
    users: Option<Users<'a>>,
    /// [d, C], where d is not C.
    map: Option<Tensor>,
}

impl<'a> Das<'a> {
    pub(super) fn new(
        config: &DasConfig,
        items: &TrainingItems<'a>,
        latent: usize,
        params: &mut Params,
        rng: &mut Rng,
    ) -> Result<Self> {
        const NAME: &str = "align.das";
        let vectors = items.needed_collaborative(NAME)?;
        let wanted = |kind: PairKind| config.pairs.contains(&kind);
        let (mut near, mut users) = (None, None);
        if wanted(PairKind::CoOccurrence) {
            let histories = items.needed_histories(NAME)?;
            let (window, least) = (config.window, config.min_count);
            near = Some(CoOccurrencePairs::new(&histories, items.len(), window, least, config.debias));
        }
        let of_users = wanted(PairKind::UserCoOccurrence);
        if of_users || wanted(PairKind::UserItem) || wanted(PairKind::UserUser) {
            users = Some(Users::new(items, vectors, config.debias, of_users, NAME)?);
        }
        let map = match vectors.width() == latent {
            true => None,
            false => Some(params.var("align.das.map", &[latent, vectors.width()], Init::XavierNormal, rng)?),
        };
        Ok(Self {
            weight: config.weight,
            temperature: config.temperature,
            pairs: config.pairs.clone(),
            behaviour: Behaviour::new(vectors.clone(), NAME)?,
            near,
            users,
            map,
        })
    }

    /// Appends a partner of every item, where pairs co-occur (an item without partners is its own), and draws the users
    /// that stand beside them.
    pub(super) fn extend(&self, items: &mut Vec<usize>, rng: &mut Rng) -> Option<Beside> {
        if let Some(near) = &self.near {
            let partners: Vec<usize> = items.iter().map(|&item| near.partner(item, rng).unwrap_or(item)).collect();
            items.extend(partners);
        }
        let users = self.users.as_ref()?;
        let drawn = users.draw(items, rng);
        Some(Beside { vectors: users.semantic(&drawn), drawn })
    }

    pub(super) fn loss(&self, batch: &AlignedBatch<'_>) -> Result<Tensor> {
        let latents = self.directions(batch.quantized)?; // [B, C]
        let learnt = unit(&self.behaviour.rows(batch.items, batch.quantized)?)?; // [B, C]
        let known = self.behaviour.known(batch.items);
        let items = Side { who: batch.items, latents, learnt, known };
        let mut losses = Vec::new();
        if self.pairs.contains(&PairKind::ItemItem) {
            losses.extend(self.with_itself(&items)?);
        }
        if self.near.is_some() {
            losses.extend(self.with_partners(&items)?);
        }
        if let Some(users) = &self.users {
            let Some((drawn, quantized)) = batch.users else {
                return Err(Error::mismatch("a batch has no users", "this is a defect: report it").into());
            };
            let latents = self.directions(quantized)?; // [M, C]
            let learnt = unit(&users.learnt(drawn, quantized)?)?; // [M, C]
            let users = Side { who: &drawn.users, latents, learnt, known: users.known(drawn) };
            if self.pairs.contains(&PairKind::UserItem) {
                losses.extend(self.item_with_user(&items, &users.first(items.who.len())?, &drawn.had)?);
            }
            if self.pairs.contains(&PairKind::UserUser) {
                losses.extend(self.with_itself(&users.first(items.who.len())?)?);
            }
            if self.pairs.contains(&PairKind::UserCoOccurrence) {
                losses.extend(self.with_partners(&users)?);
            }
        }
        Ok((sum(losses, batch.quantized)? * self.weight)?)
    }

    /// Quantized latents as directions among the collaborative vectors.
    ///
    /// # Shapes
    /// [B, d] to [B, C]
    fn directions(&self, quantized: &Tensor) -> Result<Tensor> {
        match &self.map {
            Some(map) => unit(&ops::linear(quantized, map)?),
            None => unit(quantized),
        }
    }

    /// Both directions of the contrast between somebody's latent and collaborative vector.
    fn with_itself(&self, side: &Side<'_>) -> Result<[Tensor; 2]> {
        let logits = ops::tied_head(&side.latents, &side.learnt)?; // [B, B]
        let same = |i: usize, j: usize| side.who[i] == side.who[j];
        Ok([
            contrast(&logits, &side.known, same, self.temperature)?,
            contrast(&logits.t()?.contiguous()?, &side.known, same, self.temperature)?,
        ])
    }

    /// Both directions of the contrast between items and the users drawn for them, `had` saying for which there is one.
    fn item_with_user(&self, items: &Side<'_>, users: &Side<'_>, had: &[bool]) -> Result<[Tensor; 2]> {
        let same = |i: usize, j: usize| users.who[i] == users.who[j] || items.who[i] == items.who[j];
        let known: Vec<bool> = items.known.iter().zip(had).map(|(&known, &had)| known && had).collect();
        let forward = ops::tied_head(&items.latents, &users.learnt)?; // [B, B]
        let backward = ops::tied_head(&items.learnt, &users.latents)?;
        Ok([
            contrast(&forward, &users.known, same, self.temperature)?,
            contrast(&backward, &known, same, self.temperature)?,
        ])
    }

    /// Both directions of the contrast between the first half of a side and the partners behind it.
    fn with_partners(&self, side: &Side<'_>) -> Result<[Tensor; 2]> {
        let half = side.who.len() / 2;
        if !side.who.len().is_multiple_of(2) {
            let problem = format!("a batch of {} rows has no partners", side.who.len());
            return Err(Error::mismatch(problem, "this is a defect: report it").into());
        }
        let (a, b) = side.who.split_at(half);
        // Neither another partner that is the same one nor the first of the pair itself says anything against the pair.
        let barred = |i: usize, j: usize| b[j] == b[i] || b[j] == a[i];
        let has_partner = |i: usize| a[i] != b[i];
        let to_learnt: Vec<bool> = (0..half).map(|i| has_partner(i) && side.known[half + i]).collect();
        let from_learnt: Vec<bool> = (0..half).map(|i| has_partner(i) && side.known[i]).collect();
        let part = |rows: &Tensor, start: usize| rows.narrow(0, start, half)?.contiguous();
        let forward = ops::tied_head(&part(&side.latents, 0)?, &part(&side.learnt, half)?)?; // [B / 2, B / 2]
        let backward = ops::tied_head(&part(&side.learnt, 0)?, &part(&side.latents, half)?)?;
        Ok([
            contrast(&forward, &to_learnt, barred, self.temperature)?,
            contrast(&backward, &from_learnt, barred, self.temperature)?,
        ])
    }
}

/// Items or users of a batch.
struct Side<'a> {
    /// Items or users, `[B]`.
    who: &'a [usize],
    /// Directions of their quantized latents, [B, C].
    latents: Tensor,
    /// Directions of their collaborative vectors, [B, C].
    learnt: Tensor,
    /// Whether they have one, `[B]`.
    known: Vec<bool>,
}

impl Side<'_> {
    /// The first of them.
    fn first(&self, count: usize) -> Result<Side<'_>> {
        let part = |rows: &Tensor| rows.narrow(0, 0, count)?.contiguous();
        Ok(Side {
            who: &self.who[..count],
            latents: part(&self.latents)?,
            learnt: part(&self.learnt)?,
            known: self.known[..count].to_vec(),
        })
    }
}
