//! An item tokenizer: a pre-step, a quantizer and how both were made, trained once and used on every item to come.
//!
//! On disk it is two files in a folder: `tokenizer.json` (method, sizes, settings, seed, what training saw) and
//! `codebooks.safetensors` (`codebooks.{l}` [K_l, d], nets, pre-steps), or `items.safetensors` for a method that lists
//! items. Sizes come from the files; nothing is asked again.

use std::path::Path;

use serde::{Deserialize, Serialize};

use sidereal_core::artifact::{read_json, write_json};
use sidereal_core::{Embeddings, Error, ItemId, Progress, SemanticIds};

use crate::Result;
use crate::arrays::{ArraySet, save_arrays};
use crate::encode::{check_range, check_width, encode};
use crate::item_table::ItemTable;
use crate::life::drift::FitRecord;
use crate::life::growth::Growth;
use crate::life::upgrade::bridge::{Bridge, BridgeRecord};
use crate::life::upgrade::encoder::EncoderRecord;
use crate::pre_step::FittedPreSteps;
use crate::quantizers::rq_vae::{Plan, RqVae};
use crate::quantizers::{Model, Quantizer, TokenizerConfig, Training};
use crate::training_items::{FitOn, TrainingItems};

/// The description's file name.
pub const DESCRIPTION_FILE: &str = "tokenizer.json";
/// The arrays' file name.
pub const ARRAYS_FILE: &str = "codebooks.safetensors";
/// The file name of the list of a method that lists items.
pub const ITEMS_FILE: &str = "items.safetensors";

const FORMAT_VERSION: u32 = 2;
/// Widest embeddings that a file may claim.
const MAX_WIDTH: usize = 1 << 20;

/// What `tokenizer.json` holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// Version of this format.
    pub format_version: u32,
    /// D.
    pub width: usize,
    /// K of every level, `[L]`.
    pub codes_per_level: Vec<u32>,
    /// The seed of its training.
    pub seed: u64,
    /// Method and settings.
    pub config: TokenizerConfig,
    /// Number of items that it was trained on.
    pub items: usize,
    /// What the method recorded of its training.
    pub training: serde_json::Value,
    /// How well training items come back from their codes; absent for methods that list items, and in older files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fit: Option<FitRecord>,
    /// The map that vectors of another embedding model go through first; absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<BridgeRecord>,
    /// How its encoder was trained anew for vectors of another embedding model; absent where it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoder: Option<EncoderRecord>,
}

impl Description {
    /// The quantizer for prepared vectors of `width`, from its arrays.
    pub(crate) fn load_quantizer(&self, width: usize, arrays: &mut ArraySet) -> Result<Box<dyn Quantizer>> {
        let method = self.config.method();
        let Some(record) = &self.encoder else { return method.load(width, arrays) };
        let Some(plan) = method.encoder_plan(record.width_out) else {
            let problem = format!("{} has no encoder that could have been trained anew", self.config.name());
            return Err(Error::mismatch(problem, "train the tokenizer again with this version").into());
        };
        Ok(Box::new(RqVae::take_retrained(&plan, width, record.width_out, arrays)?))
    }
}

/// A trained tokenizer of item vectors.
#[derive(Debug)]
pub struct ItemTokenizer {
    description: Description,
    bridge: Option<Bridge>,
    steps: FittedPreSteps,
    model: Model,
}

impl ItemTokenizer {
    /// Trains on vectors alone, on the CPU, without checkpoints.
    ///
    /// # Errors
    /// As [`ItemTokenizer::train_with`].
    pub fn train(
        config: &TokenizerConfig,
        embeddings: &Embeddings,
        seed: u64,
        progress: &dyn Progress,
    ) -> Result<Self> {
        Self::train_with(config, &TrainingItems::new(embeddings), &Training::new(seed, progress))
    }

    /// Trains a tokenizer. Same settings, items and seed give the same bytes, whatever the number of threads.
    ///
    /// # Errors
    /// Impossible settings, no items, values beyond 1e30, parts about other items, and what the method itself can meet.
    ///
    /// # Shapes
    /// `items.vectors`: [N, D]
    pub fn train_with(config: &TokenizerConfig, items: &TrainingItems<'_>, training: &Training<'_>) -> Result<Self> {
        config.check()?;
        if items.is_empty() {
            let mend = "give a table with at least one item";
            return Err(Error::input("embeddings", "there are no items to train a tokenizer on", mend).into());
        }
        items.check()?;
        check_range(items.vectors)?;
        let (steps, prepared) = FittedPreSteps::fit(config.pre_steps(), items)?;
        let vectors = prepared.as_ref().unwrap_or(items.vectors);
        let prepared_items = TrainingItems { vectors, ..*items };
        let trained = match config.method().fit_on() {
            FitOn::All => config.method().train(&prepared_items, training)?,
            FitOn::Seen => {
                let seen = prepared_items.seen(config.name())?;
                let mut trained = config.method().train(&TrainingItems::new(&seen), training)?;
                trained.record["fitted_items"] = seen.rows().into();
                trained
            }
        };
        let fit = match &trained.model {
            Model::Quantizer(quantizer) => Some(FitRecord::measure(&**quantizer, vectors)?),
            Model::Table(_) => None,
        };
        let description = Description {
            format_version: FORMAT_VERSION,
            fit,
            width: items.vectors.width(),
            codes_per_level: codes_of(&trained.model).to_vec(),
            seed: training.seed,
            config: config.clone(),
            items: items.len(),
            training: trained.record,
            bridge: None,
            encoder: None,
        };
        Ok(Self { description, bridge: None, steps, model: trained.model })
    }

    /// A tokenizer of a quantizer that was made elsewhere, without pre-steps.
    ///
    /// # Errors
    /// Settings that are impossible, ask for pre-steps, or have other numbers of codes than the quantizer.
    pub fn from_quantizer(config: TokenizerConfig, quantizer: Box<dyn Quantizer>) -> Result<Self> {
        config.check()?;
        let (codes, width) = (quantizer.codes_per_level().to_vec(), quantizer.width());
        if config.codes() != codes || !config.pre_steps().is_empty() {
            let problem = format!("a quantizer of {codes:?} codes does not fit its settings");
            return Err(Error::mismatch(problem, "give its own numbers of codes, and no pre-steps").into());
        }
        let description = Description {
            format_version: FORMAT_VERSION,
            width,
            codes_per_level: codes,
            seed: 0,
            config,
            items: 0,
            training: serde_json::json!({ "imported": true }),
            fit: None,
            bridge: None,
            encoder: None,
        };
        Ok(Self { description, bridge: None, steps: FittedPreSteps::none(width), model: Model::Quantizer(quantizer) })
    }

    /// Semantic IDs of any items by their vectors. A row's codes do not depend on the other rows or the number of
    /// threads.
    ///
    /// # Errors
    /// Vectors of another width than the tokenizer was trained on; values beyond 1e30; a method that lists items.
    ///
    /// # Shapes
    /// [N, D] to [N, L]
    pub fn encode(&self, embeddings: &Embeddings) -> Result<SemanticIds> {
        let quantizer = self.quantizer()?;
        match &self.bridge {
            None => Ok(encode(quantizer, &self.steps, embeddings)?),
            Some(bridge) => {
                check_width(self.description.width, embeddings)?;
                check_range(embeddings)?;
                Ok(encode(quantizer, &self.steps, &bridge.apply(embeddings)?)?)
            }
        }
    }

    /// Semantic IDs of items that have both ids and vectors: by vector, or by id where the method lists items.
    ///
    /// # Errors
    /// As [`ItemTokenizer::encode`]; items that a list does not have.
    ///
    /// # Shapes
    /// `[N]` and [N, D] to [N, L]
    pub fn encode_items(&self, ids: &[ItemId], embeddings: &Embeddings) -> Result<SemanticIds> {
        match &self.model {
            Model::Quantizer(_) => self.encode(embeddings),
            Model::Table(table) => Ok(table.look_up(ids)?),
        }
    }

    /// Semantic IDs of items of which some may be new. A method that lists items finds places for the new ones and keeps
    /// them (save the tokenizer to keep them for good); no item that has a semantic ID gets another. A method that
    /// encodes vectors needs no growth and encodes.
    ///
    /// `items` holds old and new items: places follow from what is known of both (categories, histories, vectors).
    ///
    /// # Errors
    /// As [`ItemTokenizer::encode`]; no room left for new items; something absent that the method needs.
    ///
    /// # Shapes
    /// N items to [N, L]
    pub fn extend_items(&mut self, items: &TrainingItems<'_>) -> Result<SemanticIds> {
        items.check()?;
        let config = &self.description.config;
        let Model::Table(table) = &mut self.model else { return self.encode(items.vectors) };
        let growth = Growth::new(table, items, config.name())?;
        if !growth.new.is_empty() {
            let codes = config.method().extend(&growth, self.description.seed)?;
            *table = table.with_more(growth.new.iter().map(|&item| growth.ids[item].clone()), &codes)?;
        }
        Ok(table.look_up(items.needed_ids(config.name())?)?)
    }

    /// The same tokenizer, which keeps the semantic IDs that were published: a method that lists items takes over those
    /// that it does not list, so that no new item gets one of them. A method that encodes vectors has nothing to keep.
    ///
    /// # Errors
    /// Other numbers of ids and semantic IDs; codes that its levels do not have.
    ///
    /// # Shapes
    /// `ids`: `[N]`; `sids`: [N, L]
    pub fn with_published(mut self, ids: &[ItemId], sids: &SemanticIds) -> Result<Self> {
        if let Model::Table(table) = &mut self.model {
            if ids.len() != sids.len() {
                let problem = format!("{} items, but {} semantic IDs", ids.len(), sids.len());
                return Err(Error::mismatch(problem, "give every item one").into());
            }
            sids.check_codes(table.codes_per_level())?;
            let unlisted: Vec<usize> = (0..ids.len()).filter(|&i| table.find(ids[i].as_str()).is_none()).collect();
            let codes: Vec<u16> = unlisted.iter().flat_map(|&i| sids.row(i)).copied().collect();
            *table = table.with_more(unlisted.iter().map(|&i| ids[i].clone()), &codes)?;
        }
        Ok(self)
    }

    /// Vectors as the quantizer sees them: after the pre-steps, [N, D'].
    ///
    /// # Errors
    /// As [`ItemTokenizer::encode`].
    pub fn prepare(&self, embeddings: &Embeddings) -> Result<Embeddings> {
        check_width(self.description.width, embeddings)?;
        check_range(embeddings)?;
        match &self.bridge {
            None => Ok(self.steps.prepare(embeddings)?),
            Some(bridge) => {
                let bridged = bridge.apply(embeddings)?;
                check_range(&bridged)?;
                Ok(self.steps.prepare(&bridged)?)
            }
        }
    }

    /// The same codes for vectors of another space, which the bridge maps into the one that it was trained on.
    pub(crate) fn with_bridge(mut self, bridge: Bridge, record: BridgeRecord) -> Self {
        self.description.width = bridge.width();
        self.description.bridge = Some(record);
        self.bridge = Some(bridge);
        self
    }

    /// Its quantizer as the net that its method's encoder is part of; `width_out` is what the decoder gives back.
    pub(crate) fn as_rq_vae(&self, plan: &Plan, width_out: usize) -> Result<RqVae> {
        let quantizer = self.quantizer()?;
        let mut arrays = ArraySet::of(Path::new("the tokenizer"), quantizer.arrays());
        match self.description.encoder {
            None => RqVae::take(plan, width_out, &mut arrays),
            Some(_) => RqVae::take_retrained(plan, quantizer.width(), width_out, &mut arrays),
        }
    }

    /// The same codebooks behind an encoder of its own for vectors of `width`, whatever read them before.
    pub(crate) fn with_encoder(
        mut self,
        width: usize,
        steps: FittedPreSteps,
        quantizer: Box<dyn Quantizer>,
        record: EncoderRecord,
        fit: FitRecord,
    ) -> Self {
        self.description.width = width;
        self.description.bridge = None;
        self.description.encoder = Some(record);
        self.description.fit = Some(fit);
        Self { description: self.description, bridge: None, steps, model: Model::Quantizer(quantizer) }
    }

    /// Another quantizer of the same settings; `note` goes into the record of its training.
    pub(crate) fn with_quantizer(mut self, quantizer: Box<dyn Quantizer>, note: (&str, serde_json::Value)) -> Self {
        if let serde_json::Value::Object(record) = &mut self.description.training {
            record.insert(note.0.to_owned(), note.1);
        }
        self.model = Model::Quantizer(quantizer);
        self
    }

    /// How it finds semantic IDs.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The fitted quantizer; it works on prepared vectors.
    ///
    /// # Errors
    /// A method that lists items has none.
    pub fn quantizer(&self) -> Result<&dyn Quantizer> {
        match &self.model {
            Model::Quantizer(quantizer) => Ok(&**quantizer),
            Model::Table(_) => {
                let problem = format!("{} lists items and has no codebooks", self.description.config.name());
                let mend = "look items up by their ids, or train a method that encodes vectors (rq-kmeans)";
                Err(Error::mismatch(problem, mend).into())
            }
        }
    }

    /// K of every level, `[L]`.
    pub fn codes_per_level(&self) -> &[u32] {
        &self.description.codes_per_level
    }

    /// What it is and how it was made.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// Writes both files into a folder that exists, each atomically.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn save(&self, dir: &Path) -> Result<()> {
        match &self.model {
            Model::Quantizer(quantizer) => {
                let mut arrays = quantizer.arrays();
                arrays.extend(self.steps.arrays());
                arrays.extend(self.bridge.iter().flat_map(Bridge::arrays));
                save_arrays(&dir.join(ARRAYS_FILE), &arrays)?;
            }
            Model::Table(table) => table.save(&dir.join(ITEMS_FILE))?,
        }
        Ok(write_json(&dir.join(DESCRIPTION_FILE), &self.description)?)
    }

    /// Reads a tokenizer.
    ///
    /// # Errors
    /// Files that are missing, damaged, of another version or that contradict each other; the tensor or key is named.
    pub fn load(dir: &Path) -> Result<Self> {
        let path = dir.join(DESCRIPTION_FILE);
        let mend = "train the tokenizer again with this version";
        // The version first: another version's settings may have keys that this one does not know.
        let version: Versioned = read_json(&path)?;
        if version.format_version != FORMAT_VERSION {
            let problem = format!("format version {}, this is version {FORMAT_VERSION}", version.format_version);
            return Err(Error::artifact(&path, problem, mend).into());
        }
        let description: Description = read_json(&path)?;
        description.config.check()?;
        if description.width == 0 || description.width > MAX_WIDTH {
            let problem = format!("width {} is not between 1 and {MAX_WIDTH}", description.width);
            return Err(Error::artifact(&path, problem, mend).into());
        }
        if let Some(record) = description.encoder.as_ref().filter(|r| r.width_out == 0 || r.width_out > MAX_WIDTH) {
            let problem = format!("its decoder gives back width {}", record.width_out);
            return Err(Error::artifact(&path, problem, mend).into());
        }
        let (config, width) = (&description.config, description.width);
        let (bridge, steps, model) = if config.method().lists_items() {
            let table = ItemTable::load(&dir.join(ITEMS_FILE), &description.codes_per_level)?;
            (None, FittedPreSteps::none(width), Model::Table(table))
        } else {
            let mut arrays = ArraySet::open(&dir.join(ARRAYS_FILE))?;
            let bridge = match &description.bridge {
                Some(record) if record.width_out == 0 || record.width_out > MAX_WIDTH => {
                    let problem = format!("its bridge leads to width {}", record.width_out);
                    return Err(Error::artifact(&path, problem, mend).into());
                }
                Some(record) => Some(Bridge::load(width, record.width_out, &mut arrays)?),
                None => None,
            };
            let width = description.bridge.as_ref().map_or(width, |record| record.width_out);
            let steps = FittedPreSteps::load(config.pre_steps(), width, &mut arrays)?;
            let quantizer = description.load_quantizer(steps.width_out(), &mut arrays)?;
            arrays.finish()?;
            (bridge, steps, Model::Quantizer(quantizer))
        };
        if description.codes_per_level != codes_of(&model) {
            let problem = format!(
                "codes_per_level is {:?}, but its settings say {:?}",
                description.codes_per_level,
                codes_of(&model)
            );
            return Err(Error::artifact(&path, problem, mend).into());
        }
        Ok(Self { description, bridge, steps, model })
    }
}

#[derive(Deserialize)]
struct Versioned {
    format_version: u32,
}

fn codes_of(model: &Model) -> &[u32] {
    match model {
        Model::Quantizer(quantizer) => quantizer.codes_per_level(),
        Model::Table(table) => table.codes_per_level(),
    }
}
