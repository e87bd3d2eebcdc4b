//! Dual contrasts after DAS: quantized latents and collaborative vectors of aligned pairs find each other.
//!
//! For an aligned pair (a, b) with quantized latents z and collaborative vectors h the loss is InfoNCE(z_a, h_b) +
//! InfoNCE(h_a, z_b), on cosines within the batch. Pairs are an item with itself (`item-item`), an item with one that
//! stands near it in histories (`co-occurrence`; partners join the batch), and an item with a user who had it
//! (`user-item`; the user's vector is the mean of his items' collaborative vectors).
//!
//! *Paper*: Ye et al., *DAS: Dual-Aligned Semantic IDs Empowered Industrial Recommender System*, arXiv 2508.10584 (its
//! alignments u2i, i2i and co-occurrence i2i).
//! *Differs from the paper*: collaborative vectors are frozen and not trained along; popularity is taken out where pairs
//! are drawn ([`super::pairs`]) and not by a model; users have no quantized latents here, so their pairs are aligned
//! with the item's in both directions. Weight and temperature are ours.
//!
//! # Shapes
//! Quantized latents [B, d], collaborative vectors [N, C], users' vectors [U, C].

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use sidereal_core::Error;
use sidereal_nn::ops;
use sidereal_nn::params::{Init, Params};
use sidereal_nn::rng::Rng;

use super::contrast::{contrast, sum, unit};
use super::pairs::{CoOccurrencePairs, PairSource, UserItemPairs};
use super::{AlignedBatch, Behaviour, check_temperature, check_weight};
use crate::Result;
use crate::behaviour::collaborative_vectors::user_vectors;
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
    /// Power of the popularity (of a partner, or the length of a user's history) that draws are divided by.
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
            return bad("pairs", "there are none, or one appears twice", "name co-occurrence, user-item or item-item");
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

pub(super) struct Das {
    weight: f64,
    temperature: f32,
    behaviour: Behaviour,
    item_item: bool,
    near: Option<CoOccurrencePairs>,
    users: Option<(UserItemPairs, Behaviour)>,
    /// [d, C], where d is not C.
    map: Option<Tensor>,
}

impl Das {
    pub(super) fn new(
        config: &DasConfig,
        items: &TrainingItems<'_>,
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
        if wanted(PairKind::UserItem) {
            let histories = items.needed_histories(NAME)?;
            let means = Behaviour::new(user_vectors(&histories, vectors, f64::INFINITY)?, NAME)?;
            users = Some((UserItemPairs::new(&histories, items.len(), config.debias), means));
        }
        let map = match vectors.width() == latent {
            true => None,
            false => Some(params.var("align.das.map", &[latent, vectors.width()], Init::XavierNormal, rng)?),
        };
        Ok(Self {
            weight: config.weight,
            temperature: config.temperature,
            behaviour: Behaviour::new(vectors.clone(), NAME)?,
            item_item: wanted(PairKind::ItemItem),
            near,
            users,
            map,
        })
    }

    /// Appends a partner of every item, where pairs co-occur; an item without partners is its own.
    pub(super) fn add_partners(&self, items: &mut Vec<usize>, rng: &mut Rng) {
        let Some(near) = &self.near else { return };
        let partners: Vec<usize> = items.iter().map(|&item| near.partner(item, rng).unwrap_or(item)).collect();
        items.extend(partners);
    }

    pub(super) fn loss(&self, batch: &AlignedBatch<'_>, rng: &mut Rng) -> Result<Tensor> {
        let latents = match &self.map {
            Some(map) => ops::linear(batch.quantized, map)?,
            None => batch.quantized.clone(),
        };
        let latents = unit(&latents)?; // [B, C]
        let learnt = unit(&self.behaviour.rows(batch.items, batch.quantized)?)?; // [B, C]
        let known = self.behaviour.known(batch.items);
        let mut losses = Vec::new();
        if self.item_item {
            let logits = ops::tied_head(&latents, &learnt)?; // [B, B]
            let same = |i: usize, j: usize| batch.items[i] == batch.items[j];
            losses.push(contrast(&logits, &known, same, self.temperature)?);
            losses.push(contrast(&logits.t()?.contiguous()?, &known, same, self.temperature)?);
        }
        if self.near.is_some() {
            losses.extend(self.co_occurrence(batch.items, &latents, &learnt, &known)?);
        }
        if let Some((pairs, means)) = &self.users {
            let drawn: Vec<Option<usize>> = batch.items.iter().map(|&item| pairs.partner(item, rng)).collect();
            let users: Vec<usize> = drawn.iter().map(|user| user.unwrap_or(0)).collect();
            let counts: Vec<bool> =
                drawn.iter().zip(means.known(&users)).map(|(user, known)| user.is_some() && known).collect();
            let logits = ops::tied_head(&latents, &unit(&means.rows(&users, batch.quantized)?)?)?; // [B, B]
            let same = |i: usize, j: usize| users[i] == users[j] || batch.items[i] == batch.items[j];
            losses.push(contrast(&logits, &counts, same, self.temperature)?);
            losses.push(contrast(&logits.t()?.contiguous()?, &counts, same, self.temperature)?);
        }
        Ok((sum(losses, batch.quantized)? * self.weight)?)
    }

    /// Both directions of the contrast between the first half of a batch and the partners behind it.
    fn co_occurrence(&self, items: &[usize], latents: &Tensor, learnt: &Tensor, known: &[bool]) -> Result<[Tensor; 2]> {
        let half = items.len() / 2;
        if !items.len().is_multiple_of(2) {
            let problem = format!("a batch of {} items has no partners", items.len());
            return Err(Error::mismatch(problem, "this is a defect: report it").into());
        }
        let (a, b) = items.split_at(half);
        // Neither another partner that is the same item nor the item itself says anything against the pair.
        let barred = |i: usize, j: usize| b[j] == b[i] || b[j] == a[i];
        let has_partner = |i: usize| a[i] != b[i];
        let to_learnt: Vec<bool> = (0..half).map(|i| has_partner(i) && known[half + i]).collect();
        let from_learnt: Vec<bool> = (0..half).map(|i| has_partner(i) && known[i]).collect();
        let part = |rows: &Tensor, start: usize| rows.narrow(0, start, half)?.contiguous();
        let forward = ops::tied_head(&part(latents, 0)?, &part(learnt, half)?)?; // [B / 2, B / 2]
        let backward = ops::tied_head(&part(learnt, 0)?, &part(latents, half)?)?;
        Ok([
            contrast(&forward, &to_learnt, barred, self.temperature)?,
            contrast(&backward, &from_learnt, barred, self.temperature)?,
        ])
    }
}
