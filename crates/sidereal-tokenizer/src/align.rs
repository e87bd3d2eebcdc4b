//! Losses that pull codes towards behaviour while a net is trained.
//!
//! A trainer makes an `Aligner` before its optimizer (the aligner may have parameters), tells it when an epoch starts,
//! lets it extend every batch and adds its loss. Each loss is a file: `letter` (collaborative vectors of the same item),
//! `diversity` (codewords of a group), `das` (contrasts of items, partners and users), `domain` (items of a domain).

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use sidereal_core::{Embeddings, Error};
use sidereal_nn::params::Params;
use sidereal_nn::rng::Rng;

use crate::Result;
use crate::training_items::TrainingItems;

mod contrast;

mod letter;

mod diversity;

pub mod pairs;

mod users;

mod das;

mod domain;

pub use das::{DasConfig, PairKind};
pub use diversity::DiversityConfig;
pub use domain::DomainConfig;
pub use letter::LetterConfig;

use das::Das;
use diversity::Diversity;
use domain::Domain;
use letter::Letter;
use users::DrawnUsers;

/// Which alignments a training uses; in a recipe the table `[tokenizer.rq-vae.align]`. None unless asked for.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AlignConfig {
    /// LETTER's collaborative loss; needs collaborative vectors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub letter: Option<LetterConfig>,
    /// LETTER's diversity loss.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub diversity: Option<DiversityConfig>,
    /// DAS's dual contrasts of items and users; need collaborative vectors, and histories for pairs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub das: Option<DasConfig>,
    /// GMC's contrast of domains; needs domains.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<DomainConfig>,
}

impl AlignConfig {
    /// Checks every setting; `method` is the table that it stands in.
    ///
    /// # Errors
    /// Names the key.
    pub fn check(&self, method: &str) -> Result<()> {
        let table = |name: &str| format!("{method}.align.{name}");
        self.letter.as_ref().map_or(Ok(()), |letter| letter.check(&table("letter")))?;
        self.diversity.as_ref().map_or(Ok(()), |diversity| diversity.check(&table("diversity")))?;
        self.das.as_ref().map_or(Ok(()), |das| das.check(&table("das")))?;
        self.domain.as_ref().map_or(Ok(()), |domain| domain.check(&table("domain")))
    }
}

/// The alignments of one training, with what they learn.
pub(crate) struct Aligner<'a> {
    letter: Option<Letter>,
    diversity: Option<Diversity>,
    das: Option<Das<'a>>,
    domain: Option<Domain>,
    seed: u64,
    epoch: usize,
}

/// Users that join a batch, and what they are encoded from.
pub(crate) struct Beside {
    pub(crate) drawn: DrawnUsers,
    /// [M, D]
    pub(crate) vectors: Vec<f32>,
}

/// What a step has to say of its batch.
pub(crate) struct AlignedBatch<'a> {
    /// Rows of the training items, `[B]`, as [`Aligner::extend_batch`] gave them.
    pub(crate) items: &'a [usize],
    /// Straight-through sum of codewords, [B, d]; gradients go to the encoder.
    pub(crate) quantized: &'a Tensor,
    /// The users that [`Aligner::extend_batch`] gave beside them, if it did, and the same of their vectors, [M, d].
    pub(crate) users: Option<(&'a DrawnUsers, &'a Tensor)>,
    /// Codes of each level, u32 `[B]`.
    pub(crate) codes: &'a [Tensor],
    /// Codebooks of each level with gradients, [K, d].
    pub(crate) codebooks: &'a [Tensor],
}

impl<'a> Aligner<'a> {
    /// None when nothing is asked for. Parameters of its own are added to `params` under `align.`.
    ///
    /// # Errors
    /// Something that an alignment needs is absent.
    pub(crate) fn new(
        config: &AlignConfig,
        items: &TrainingItems<'a>,
        latent: usize,
        params: &mut Params,
        rng: &mut Rng,
    ) -> Result<Option<Self>> {
        if *config == AlignConfig::default() {
            return Ok(None);
        }
        let letter =
            config.letter.as_ref().map(|letter| Letter::new(letter, items, latent, params, rng)).transpose()?;
        let das = config.das.as_ref().map(|das| Das::new(das, items, latent, params, rng)).transpose()?;
        let domain = config.domain.as_ref().map(|domain| Domain::new(domain, items)).transpose()?;
        let diversity = config.diversity.as_ref().map(|diversity| Diversity::new(diversity, latent));
        Ok(Some(Self { letter, diversity, das, domain, seed: 0, epoch: 0 }))
    }

    /// Called before every epoch, with the codebooks as they are, each [K, d].
    ///
    /// # Errors
    /// None; it answers as the other calls of a step do.
    pub(crate) fn start_epoch(&mut self, seed: u64, epoch: usize, codebooks: &[Vec<f32>]) -> Result<()> {
        (self.seed, self.epoch) = (seed, epoch);
        if let Some(diversity) = &mut self.diversity {
            diversity.group(codebooks, &mut Rng::new(seed, &format!("align groups {epoch}")));
        }
        Ok(())
    }

    /// The batch that a step trains on: `items`, and where pairs are contrasted a partner for each behind them, in
    /// order (an item without partners is its own); and the users of pairs that have any.
    pub(crate) fn extend_batch(&self, items: &[usize], rng: &mut Rng) -> (Vec<usize>, Option<Beside>) {
        let mut extended = items.to_vec();
        let users = self.das.as_ref().and_then(|das| das.extend(&mut extended, rng));
        (extended, users)
    }

    /// The weighted sum of all alignment losses of a batch, a scalar.
    ///
    /// # Errors
    /// A batch that [`Aligner::extend_batch`] did not make; a device that fails.
    pub(crate) fn loss(&self, batch: &AlignedBatch<'_>) -> Result<Tensor> {
        // Drawn from the batch itself, so that a training that continues draws what the uninterrupted one did.
        let first = batch.items.first().copied().unwrap_or(0);
        let mut rng = Rng::new(self.seed, &format!("align batch {} {first}", self.epoch));
        let mut losses = Vec::new();
        if let Some(letter) = &self.letter {
            losses.push(letter.loss(batch)?);
        }
        if let Some(diversity) = &self.diversity {
            losses.push(diversity.loss(batch, &mut rng)?);
        }
        if let Some(das) = &self.das {
            losses.push(das.loss(batch)?);
        }
        if let Some(domain) = &self.domain {
            losses.push(domain.loss(batch)?);
        }
        contrast::sum(losses, batch.quantized)
    }
}

/// Vectors of items as they were learnt from behaviour, and which are there.
struct Behaviour {
    vectors: Embeddings,
    known: Vec<bool>,
}

impl Behaviour {
    fn new(vectors: Embeddings, loss: &str) -> Result<Self> {
        let known: Vec<bool> = (0..vectors.rows()).map(|i| vectors.row(i).iter().any(|&v| v != 0.0)).collect();
        if known.iter().any(|&known| known) {
            return Ok(Self { vectors, known });
        }
        let mend = "give vectors learnt from these items' histories, or leave the alignment out";
        Err(Error::input(loss, "no item has a collaborative vector", mend).into())
    }

    /// # Shapes
    /// `[B]` to [B, C]
    fn rows(&self, items: &[usize], like: &Tensor) -> Result<Tensor> {
        let values: Vec<f32> = items.iter().flat_map(|&i| self.vectors.row(i)).copied().collect();
        Ok(Tensor::from_vec(values, (items.len(), self.vectors.width()), like.device())?)
    }

    /// # Shapes
    /// `[B]` to `[B]`
    fn known(&self, items: &[usize]) -> Vec<bool> {
        items.iter().map(|&i| self.known[i]).collect()
    }
}

fn check_weight(key: &str, weight: f64) -> Result<()> {
    if weight >= 0.0 && weight.is_finite() {
        return Ok(());
    }
    let mend = "give 0 or a positive number";
    Err(Error::config(format!("{key}.weight"), format!("{weight} is no weight"), mend).into())
}

fn check_temperature(key: &str, temperature: f32) -> Result<()> {
    if temperature > 0.0 && temperature.is_finite() {
        return Ok(());
    }
    let mend = "give a positive number; 0.07 is usual";
    Err(Error::config(format!("{key}.temperature"), format!("{temperature} is not positive"), mend).into())
}

#[cfg(test)]
mod tests;
