//! Answers from a run: the next items for a history.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;
use sidereal_core::attributes::Attributes;
use sidereal_core::filter::Allowed;
use sidereal_core::{Catalog, Error, ItemIndex, Items, LeafFilter, Progress};
use sidereal_generator::fusion::{FusedRanker, Fusion, FusionConfig};
use sidereal_generator::network::user_key;
use sidereal_generator::{Generator, Question, Ranker, Ranking};
use sidereal_inference::EngineOptions;
use sidereal_nn::device::DeviceChoice;
use sidereal_nn::kernels::Precision;

use crate::Result;
use crate::life::added::AddedItems;
use crate::limits::{LimitWish, Limits};
use crate::materials::RunMaterials;
use crate::run::{Run, Stage};
use crate::stages;
use crate::stages::fusion::Known;

/// A run's generator and catalog, loaded once and asked many times.
pub struct Recommender {
    loaded: Arc<Loaded>,
    fused: Option<FusedRanker>,
    limits: Limits,
}

/// What all who answer from one run share.
struct Loaded {
    catalog: Catalog,
    items: Option<Items>,
    added: AddedItems,
    /// Items that the data does not have, by id.
    others: HashMap<String, ItemIndex>,
    generator: Generator,
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
    /// Why there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
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
        let generator = Self::load_generator(run, engine, allow_other_catalog)?;
        if run.has(Stage::Fusion) { generator.fused(run, Known::BeforeTest) } else { Ok(generator) }
    }

    /// The same generator, fused with what is known beside it.
    ///
    /// # Errors
    /// As [`Recommender::load`]; a run without fusion.
    pub fn fused(&self, run: &Run, known: Known) -> Result<Self> {
        let fusion = stages::fusion::load(run)?;
        self.with(Some(self.loaded.generator.shared_ranker()), run, fusion, known)
    }

    /// The generator as an engine that answers many at once, from this catalog and what becomes of it. It answers alone: what
    /// a fusion knows does not follow a catalog that changes.
    ///
    /// # Errors
    /// As [`Engine::new`](sidereal_inference::Engine::new).
    pub fn engine(&self, options: EngineOptions) -> Result<sidereal_inference::Engine> {
        sidereal_inference::Engine::new(self.catalog(), self.loaded.generator.shared_ranker(), options)
    }

    /// What is known beside the generator, by the fusion fitted anew without it.
    ///
    /// # Errors
    /// As [`Recommender::fused`].
    pub fn without_generator(&self, run: &Run, known: Known, progress: &dyn Progress) -> Result<Self> {
        let Fusion { config, form, .. } = stages::fusion::load(run)?;
        let config = FusionConfig { without: config.without.and_generator(), form: Some(form), ..config };
        let seed = run.manifest(Stage::Fusion)?.seed.unwrap_or_default();
        let fusion = stages::fusion::fit(run, self, config, seed, progress)?;
        self.with(None, run, fusion, known)
    }

    fn with(&self, ranker: Option<Arc<dyn Ranker>>, run: &Run, fusion: Fusion, known: Known) -> Result<Self> {
        let knowledge = stages::fusion::knowledge(run, self.catalog(), known)?;
        let fused = FusedRanker::new(ranker, Arc::new(knowledge), fusion)?;
        Ok(Self { loaded: Arc::clone(&self.loaded), fused: Some(fused), limits: self.limits.clone() })
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
        let loaded = Arc::new(Loaded { catalog, items, added, others, generator });
        Ok(Self { loaded, fused: None, limits: Limits::default() })
    }

    /// The catalog.
    pub fn catalog(&self) -> &Catalog {
        &self.loaded.catalog
    }

    /// The generator.
    pub fn generator(&self) -> &Generator {
        &self.loaded.generator
    }

    /// The fitted weights, where a fusion answers.
    pub fn fusion(&self) -> Option<&Fusion> {
        self.fused.as_ref().map(FusedRanker::fusion)
    }

    /// Limits all answers from now on.
    ///
    /// # Errors
    /// As [`Limits::of`]; a condition where neither the catalog nor the run's data has attributes.
    pub fn limit(&mut self, run: &Run, wish: &LimitWish) -> Result<()> {
        if wish.is_empty() {
            self.limits = Limits::default();
            return Ok(());
        }
        let attributes = match Attributes::open(&run.dir(Stage::Catalog))? {
            Some(attributes) => attributes,
            None => self.loaded.items.as_ref().map(Attributes::of).unwrap_or_default(),
        };
        self.limits = Limits::of(&self.loaded.catalog, &attributes, wish)?;
        Ok(())
    }

    /// What answers are limited to.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// What a question may be answered with.
    fn filter(&self, deny: &[ItemIndex]) -> Result<LeafFilter> {
        Ok(match self.limits.allowed() {
            Some(allowed) => LeafFilter::new(&self.loaded.catalog, allowed, deny)?,
            None => LeafFilter::deny_items(&self.loaded.catalog, deny),
        })
    }

    /// An item's title.
    pub fn title(&self, item: ItemIndex) -> Option<&str> {
        let known = self.loaded.items.as_ref().and_then(|items| items.title(item));
        known.or_else(|| self.loaded.added.title(&self.loaded.catalog, item))
    }

    /// Item ids as indices.
    ///
    /// # Errors
    /// An id that the catalog does not have (all of them are named); no ids at all.
    pub fn history(&self, ids: &[&str]) -> Result<Vec<ItemIndex>> {
        let known = |id: &str| self.loaded.items.as_ref().and_then(|items| items.index_of(id));
        let index_of = |id: &str| known(id).or_else(|| self.loaded.others.get(id).copied());
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
        let filters: Vec<LeafFilter> = queries.iter().map(|query| self.filter(query.deny)).collect::<Result<_>>()?;
        self.rank_filtered(queries, &filters, beam)
    }

    /// [`Recommender::rank`] among these items, whatever [`Recommender::limit`] says.
    ///
    /// # Errors
    /// As [`Recommender::rank`]; items of another catalog.
    pub fn rank_within(&self, allowed: &Allowed, queries: &[Query<'_>], beam: usize) -> Result<Vec<Ranking>> {
        let filter = |query: &Query<'_>| LeafFilter::new(&self.loaded.catalog, allowed, query.deny);
        let filters: Vec<LeafFilter> = queries.iter().map(filter).collect::<std::result::Result<_, _>>()?;
        self.rank_filtered(queries, &filters, beam)
    }

    fn rank_filtered(&self, queries: &[Query<'_>], filters: &[LeafFilter], beam: usize) -> Result<Vec<Ranking>> {
        let questions: Vec<Question<'_>> = queries
            .iter()
            .zip(filters)
            .map(|(query, filter)| Question {
                history: query.history,
                filter,
                user: query.user.map(user_key),
                time: query.time,
            })
            .collect();
        match &self.fused {
            Some(fused) => fused.rank(&self.loaded.catalog, &questions, beam),
            None => self.loaded.generator.recommend(&self.loaded.catalog, &questions, beam),
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
        let items: Vec<AnswerItem> = ranked.map(|scored| self.answer_item(scored.item, scored.score)).collect();
        let reason = if items.is_empty() { self.filter(deny)?.why_nothing() } else { None };
        let candidates: u64 = rankings.iter().map(|ranking| ranking.stats.candidates).sum();
        let mut stats = BTreeMap::from([
            ("beam", wish.beam.max(wish.k).into()),
            ("candidates", candidates.into()),
            ("score_norm", self.loaded.generator.info().score_norm.name().into()),
            ("precision", self.loaded.generator.precision().name().into()),
            ("latency_ms", (began.elapsed().as_secs_f64() * 1e3).into()),
        ]);
        if let Some(told) = self.limits.told() {
            stats.insert("limits", serde_json::json!(told));
        }
        Ok(Answer { catalog_version: self.loaded.catalog.version().to_owned(), items, reason, stats })
    }

    fn answer_item(&self, item: ItemIndex, score: f32) -> AnswerItem {
        AnswerItem {
            item_id: self.loaded.catalog.item_id(item).to_owned(),
            title: self.title(item).map(str::to_owned),
            semantic_id: self.loaded.catalog.semantic_id(item).to_vec(),
            score,
        }
    }
}
