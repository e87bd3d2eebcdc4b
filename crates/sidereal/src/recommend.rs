//! Answers from a run: the next items for a history.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;
use sidereal_core::{Catalog, Error, ItemIndex, Items, LeafFilter, Progress};
use sidereal_generator::fusion::{FusedRanker, Fusion, FusionConfig};
use sidereal_generator::network::user_key;
use sidereal_generator::{Generator, Question, Ranker, Ranking};
use sidereal_nn::device::DeviceChoice;
use sidereal_nn::kernels::Precision;

use crate::Result;
use crate::life::added::AddedItems;
use crate::materials::RunMaterials;
use crate::run::{Run, Stage};
use crate::stages;

/// A run's generator and catalog, loaded once and asked many times.
pub struct Recommender {
    catalog: Catalog,
    items: Option<Items>,
    added: AddedItems,
    /// Items that the data does not have, by id.
    others: HashMap<String, ItemIndex>,
    generator: Generator,
    fused: Option<FusedRanker>,
}

/// Where a generator computes, and what it multiplies.
#[derive(Debug, Clone, Copy)]
pub struct Engine {
    /// Where.
    pub device: DeviceChoice,
    /// What; f32 is the reference.
    pub precision: Precision,
}

impl From<DeviceChoice> for Engine {
    fn from(device: DeviceChoice) -> Self {
        Self { device, precision: Precision::F32 }
    }
}

/// What one request wants.
#[derive(Debug, Clone, Copy)]
pub struct Wish {
    /// How many items, k.
    pub k: usize,
    /// Beam width W.
    pub beam: usize,
    /// Whether items of the history may be answered.
    pub include_seen: bool,
}

/// One question to [`Recommender::rank`].
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    /// Items, oldest first, `[H]`; at least one.
    pub history: &'a [ItemIndex],
    /// Items that must not be answered.
    pub deny: &'a [ItemIndex],
    /// The id of who asks, where it is known.
    pub user: Option<&'a str>,
    /// When the history ended, in the data's own unit, where it is known.
    pub time: Option<i64>,
}

/// An answer, as `sidereal recommend --json` prints it.
#[derive(Debug, Clone, Serialize)]
pub struct Answer {
    /// The catalog that was asked.
    pub catalog_version: String,
    /// The items, best first.
    pub items: Vec<AnswerItem>,
    /// How it was found.
    pub stats: BTreeMap<&'static str, serde_json::Value>,
}

/// One item of an answer.
#[derive(Debug, Clone, Serialize)]
pub struct AnswerItem {
    /// The user's id.
    pub item_id: String,
    /// Its title in the catalog; never generated text.
    pub title: Option<String>,
    /// Its semantic ID, `[L]`.
    pub semantic_id: Vec<u16>,
    /// Log-probability of the semantic ID.
    pub score: f32,
}

impl Recommender {
    /// Loads a run's catalog and generator (and titles, where the run has data), and its fusion, where it has one: then
    /// that answers.
    ///
    /// # Errors
    /// A stage that has not run or is damaged; a generator of a catalog that this one does not come from, unless
    /// `allow_other_catalog`; a fusion of another generator; a precision that the generator does not have.
    pub fn load(run: &Run, engine: impl Into<Engine>, allow_other_catalog: bool) -> Result<Self> {
        let mut recommender = Self::load_generator(run, engine, allow_other_catalog)?;
        if run.has(Stage::Fusion) {
            let data = run.data()?;
            let split = run.split(&data.histories)?;
            let knowledge = stages::fusion::knowledge(run, &data, &split, &recommender.catalog)?;
            let ranker = recommender.generator.shared_ranker();
            let fusion = stages::fusion::load(run)?;
            recommender.fused = Some(FusedRanker::new(Some(ranker), Arc::new(knowledge), fusion)?);
        }
        Ok(recommender)
    }

    /// As [`Recommender::load`], but by the fusion fitted anew without the generator.
    ///
    /// # Errors
    /// As [`Recommender::load`]; a run without fusion.
    pub fn load_without_generator(run: &Run, device: DeviceChoice, progress: &dyn Progress) -> Result<Self> {
        let mut recommender = Self::load_generator(run, device, false)?;
        let fitted = stages::fusion::load(run)?;
        let config = FusionConfig { without: fitted.config.without.and_generator(), ..fitted.config };
        let seed = run.manifest(Stage::Fusion)?.seed.unwrap_or_default();
        let (fusion, knowledge) = stages::fusion::fit(run, &recommender, &config, seed, progress)?;
        recommender.fused = Some(FusedRanker::new(None, Arc::new(knowledge), fusion)?);
        Ok(recommender)
    }

    /// As [`Recommender::load`], but the generator answers alone.
    ///
    /// # Errors
    /// As [`Recommender::load`].
    pub fn load_generator(run: &Run, engine: impl Into<Engine>, allow_other_catalog: bool) -> Result<Self> {
        run.manifest(Stage::Generator)?;
        let dir = run.dir(Stage::Generator);
        let needs = Generator::read_info(&dir)?.recipe.model().needs();
        let materials = RunMaterials::load(run, needs, engine.into())?;
        let generator = Generator::load(&dir, &materials.as_materials(), allow_other_catalog)?;
        let catalog = materials.into_catalog();
        let items = match run.has(Stage::Data) {
            true => {
                let data = run.data()?;
                run.check_items(&catalog, &data)?;
                Some(data.items)
            }
            false => None,
        };
        let added = AddedItems::load(&run.dir(Stage::Catalog), &catalog)?;
        let known = items.as_ref().map_or(0, Items::len) as u32;
        let others = (known..catalog.len() as u32).map(|item| (catalog.item_id(item).to_owned(), item)).collect();
        Ok(Self { catalog, items, added, others, generator, fused: None })
    }

    /// The catalog.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// The generator.
    pub fn generator(&self) -> &Generator {
        &self.generator
    }

    /// The fitted weights, where a fusion answers.
    pub fn fusion(&self) -> Option<&Fusion> {
        self.fused.as_ref().map(FusedRanker::fusion)
    }

    /// An item's title.
    pub fn title(&self, item: ItemIndex) -> Option<&str> {
        let known = self.items.as_ref().and_then(|items| items.title(item));
        known.or_else(|| self.added.title(&self.catalog, item))
    }

    /// Item ids as indices.
    ///
    /// # Errors
    /// An id that the catalog does not have (all of them are named); no ids at all.
    pub fn history(&self, ids: &[&str]) -> Result<Vec<ItemIndex>> {
        let known = |id: &str| self.items.as_ref().and_then(|items| items.index_of(id));
        let index_of = |id: &str| known(id).or_else(|| self.others.get(id).copied());
        let unknown: Vec<String> = ids.iter().filter(|id| index_of(id).is_none()).map(|id| format!("{id:?}")).collect();
        if !unknown.is_empty() {
            let problem = format!("the catalog has no item {}", unknown.join(", "));
            return Err(Error::input("history", problem, "use ids of the items table, or leave these out").into());
        }
        if ids.is_empty() {
            return Err(Error::input("history", "it is empty", "give at least one item id").into());
        }
        Ok(ids.iter().filter_map(|id| index_of(id)).collect())
    }

    /// Ranks for many queries; the answer to query `i` is at place `i`.
    ///
    /// # Errors
    /// An empty history; whatever the device says.
    pub fn rank(&self, queries: &[Query<'_>], beam: usize) -> Result<Vec<Ranking>> {
        let filters: Vec<LeafFilter> =
            queries.iter().map(|query| LeafFilter::deny_items(&self.catalog, query.deny)).collect();
        let questions: Vec<Question<'_>> = queries
            .iter()
            .zip(&filters)
            .map(|(query, filter)| Question {
                history: query.history,
                filter,
                user: query.user.map(user_key),
                time: query.time,
            })
            .collect();
        match &self.fused {
            Some(fused) => fused.rank(&self.catalog, &questions, beam),
            None => self.generator.recommend(&self.catalog, &questions, beam),
        }
    }

    /// Answers one history of item ids.
    ///
    /// # Errors
    /// As [`Recommender::history`] and [`Recommender::rank`].
    pub fn answer(&self, ids: &[&str], wish: Wish) -> Result<Answer> {
        let began = Instant::now();
        let history = self.history(ids)?;
        let deny: &[ItemIndex] = if wish.include_seen { &[] } else { &history };
        let rankings =
            self.rank(&[Query { history: &history, deny, user: None, time: None }], wish.beam.max(wish.k))?;
        let ranked = rankings.iter().flat_map(|ranking| &ranking.items).take(wish.k);
        let items = ranked.map(|scored| self.answer_item(scored.item, scored.score)).collect();
        let candidates: u64 = rankings.iter().map(|ranking| ranking.stats.candidates).sum();
        let stats = BTreeMap::from([
            ("beam", wish.beam.max(wish.k).into()),
            ("candidates", candidates.into()),
            ("score_norm", self.generator.info().score_norm.name().into()),
            ("precision", self.generator.precision().name().into()),
            ("latency_ms", (began.elapsed().as_secs_f64() * 1e3).into()),
        ]);
        Ok(Answer { catalog_version: self.catalog.version().to_owned(), items, stats })
    }

    fn answer_item(&self, item: ItemIndex, score: f32) -> AnswerItem {
        AnswerItem {
            item_id: self.catalog.item_id(item).to_owned(),
            title: self.title(item).map(str::to_owned),
            semantic_id: self.catalog.semantic_id(item).to_vec(),
            score,
        }
    }
}
