//! Answers from a run: the next items for a history.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use sidereal_core::attributes::Attributes;
use sidereal_core::filter::Allowed;
use sidereal_core::{Catalog, Error, ItemIndex, Items, LeafFilter, Progress};
use sidereal_generator::diversity::Diversity;
use sidereal_generator::fusion::{FusedRanker, Fusion, FusionConfig};
use sidereal_generator::network::user_key;
use sidereal_generator::{Generator, Question, Ranker, Ranking, Search};
use sidereal_inference::EngineOptions;
use sidereal_nn::device::DeviceChoice;
use sidereal_nn::kernels::Precision;

use crate::Result;
use crate::life::added::AddedItems;
use crate::limits::{LimitWish, Limits, Listed};
use crate::materials::RunMaterials;
use crate::run::{Run, Stage};
use crate::stages;
use crate::stages::fusion::Known;

mod answer;
mod choice;

pub use answer::{Answer, AnswerItem, Wish};
pub use choice::Choice;
use choice::Chooser;

/// A run's generator and catalog, loaded once and asked many times.
pub struct Recommender {
    loaded: Arc<Loaded>,
    fused: Option<FusedRanker>,
    limits: Limits,
    chooser: Chooser,
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
pub struct Compute {
    /// Where.
    pub device: DeviceChoice,
    /// What; f32 is the reference.
    pub precision: Precision,
}

impl From<DeviceChoice> for Compute {
    fn from(device: DeviceChoice) -> Self {
        Self { device, precision: Precision::F32 }
    }
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

impl<'a> Query<'a> {
    fn question<'q>(&'q self, filter: &'q LeafFilter) -> Question<'q> {
        Question { history: self.history, filter, user: self.user.map(user_key), time: self.time }
    }
}

impl Recommender {
    /// Loads a run's catalog and generator (and titles, where the run has data), and its fusion, where it has one: then
    /// that answers.
    ///
    /// # Errors
    /// A stage that has not run or is damaged; a generator of a catalog that this one does not come from, unless
    /// `allow_other_catalog`; a fusion of another generator; a precision that the generator does not have.
    pub fn load(run: &Run, compute: impl Into<Compute>, allow_other_catalog: bool) -> Result<Self> {
        let generator = Self::load_generator(run, compute, allow_other_catalog)?;
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
        Ok(Self {
            loaded: Arc::clone(&self.loaded),
            fused: Some(fused),
            limits: self.limits.clone(),
            chooser: self.chooser.clone(),
        })
    }

    /// As [`Recommender::load`], but the generator answers alone.
    ///
    /// # Errors
    /// As [`Recommender::load`].
    pub fn load_generator(run: &Run, compute: impl Into<Compute>, allow_other_catalog: bool) -> Result<Self> {
        run.manifest(Stage::Generator)?;
        let dir = run.dir(Stage::Generator);
        let needs = Generator::read_info(&dir)?.recipe.model().needs();
        let materials = RunMaterials::load(run, needs, compute.into())?;
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
        Ok(Self { loaded, fused: None, limits: Limits::default(), chooser: Chooser::default() })
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

    /// Chooses all answers from now on by more than scores, and says how sure it is of them where the run is calibrated.
    ///
    /// # Errors
    /// A quota of 0; a lambda or a confidence outside 0 to 1; a run without vectors where likeness is asked for; a
    /// confidence in a run that is not calibrated, or was for another generator.
    pub fn choose_by(&mut self, run: &Run, choice: Choice) -> Result<()> {
        self.chooser = Chooser::new(run, &self.loaded.catalog, choice)?;
        Ok(())
    }

    /// What answers are chosen by.
    pub fn choice(&self) -> &Choice {
        &self.chooser.choice
    }

    /// The same as requests to an engine ([`Recommender::engine`]) take it.
    pub fn diversity(&self) -> &Diversity {
        &self.chooser.diversity
    }

    /// Whether answers say how sure they are.
    pub fn is_calibrated(&self) -> bool {
        self.chooser.sureness.is_some()
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

    /// The items of a file of ids, one a line; those that the catalog does not have are passed over.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn listed(&self, path: &Path) -> Result<Vec<ItemIndex>> {
        Ok(Listed::read(self.catalog(), path)?.items)
    }

    /// Ranks for many queries; the answer to query `i` is at place `i`.
    ///
    /// # Errors
    /// An empty history; beam widths of another number of levels; whatever the device says.
    pub fn rank(&self, queries: &[Query<'_>], search: &Search) -> Result<Vec<Ranking>> {
        let filters: Vec<LeafFilter> = queries.iter().map(|query| self.filter(query.deny)).collect::<Result<_>>()?;
        self.rank_filtered(queries, &filters, search)
    }

    /// [`Recommender::rank`] among these items, whatever [`Recommender::limit`] says.
    ///
    /// # Errors
    /// As [`Recommender::rank`]; items of another catalog.
    pub fn rank_within(&self, allowed: &Allowed, queries: &[Query<'_>], search: &Search) -> Result<Vec<Ranking>> {
        let filter = |query: &Query<'_>| LeafFilter::new(&self.loaded.catalog, allowed, query.deny);
        let filters: Vec<LeafFilter> = queries.iter().map(filter).collect::<std::result::Result<_, _>>()?;
        self.rank_filtered(queries, &filters, search)
    }

    fn rank_filtered(&self, queries: &[Query<'_>], filters: &[LeafFilter], search: &Search) -> Result<Vec<Ranking>> {
        let questions: Vec<Question<'_>> =
            queries.iter().zip(filters).map(|(query, filter)| query.question(filter)).collect();
        self.ranker().search(&self.loaded.catalog, &questions, search)
    }

    /// Whether a ranking scores all items anyway, so that [`Recommender::score_all`] finds what it finds.
    pub fn scores_all(&self) -> bool {
        self.ranker().scores_all_cheaply()
    }

    /// The scores of all items, however many: minus infinity for those that may not be answered.
    ///
    /// # Shapes
    /// result: `[N]`
    ///
    /// # Errors
    /// As [`Recommender::rank`].
    pub fn score_all(&self, query: &Query<'_>) -> Result<Vec<f32>> {
        let filter = self.filter(query.deny)?;
        self.ranker().score_all(&self.loaded.catalog, &query.question(&filter))
    }

    /// Who answers.
    fn ranker(&self) -> &dyn Ranker {
        match &self.fused {
            Some(fused) => fused,
            None => self.loaded.generator.ranker(),
        }
    }
}
