//! What is served: a ranker over a catalog that changes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use sidereal_core::catalog::{Change, LiveCatalog};
use sidereal_core::{Catalog, Error as CoreError, LeafFilter};
use sidereal_generator::{Question, Ranker, Result};

/// A ranker and the catalog that it answers from, as one batch sees them.
#[derive(Debug, Clone)]
pub struct Served {
    /// The items.
    pub catalog: Arc<Catalog>,
    /// Who ranks them.
    pub ranker: Arc<dyn Ranker>,
}

impl Served {
    /// Asks for one item after nothing: a ranker that does not fit the catalog says so before anyone is answered by it.
    fn check(&self) -> Result<()> {
        let filter = LeafFilter::allow_all();
        self.ranker.rank(&self.catalog, &[Question::new(&[], &filter)], 1).map(drop)
    }
}

/// The catalog as it changes, and what is known of its ranker.
#[derive(Debug)]
struct Living {
    catalog: LiveCatalog,
    /// Items, removed ones included, of the catalog that the ranker was tried with.
    tried_with: usize,
    /// Whether the ranker has answered from a catalog of another size: then it goes by codes, and follows every change.
    follows: bool,
}

impl Living {
    fn new(catalog: LiveCatalog) -> Self {
        Self { tried_with: catalog.now().len(), catalog, follows: false }
    }

    /// Tries the ranker where it is not known whether it can answer.
    fn check(&mut self, served: &Served) -> Result<()> {
        if self.follows || served.catalog.len() == self.tried_with {
            return Ok(());
        }
        served.check()?;
        self.follows = true;
        Ok(())
    }
}

/// Who changes the catalog holds `living`; who answers looks at `now` for a moment.
#[derive(Debug)]
pub(crate) struct Serving {
    living: Mutex<Living>,
    now: RwLock<Served>,
}

impl Serving {
    pub(crate) fn new(catalog: &Catalog, ranker: Arc<dyn Ranker>) -> Result<Self> {
        let live = LiveCatalog::new(catalog)?;
        let served = Served { catalog: live.now(), ranker };
        served.check()?;
        Ok(Self { living: Mutex::new(Living::new(live)), now: RwLock::new(served) })
    }

    /// What requests that begin now are answered from.
    pub(crate) fn now(&self) -> Served {
        self.now.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn living(&self) -> MutexGuard<'_, Living> {
        self.living.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn install(&self, served: Served) -> Arc<Catalog> {
        let catalog = Arc::clone(&served.catalog);
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = served;
        catalog
    }

    /// Puts what `step` makes of the live catalog in place, unless the ranker cannot answer from it: then nothing changes.
    fn step(&self, step: impl FnOnce(&mut LiveCatalog) -> sidereal_core::Result<Arc<Catalog>>) -> Result<Arc<Catalog>> {
        let mut living = self.living();
        let before = living.catalog.now();
        let served = Served { catalog: step(&mut living.catalog)?, ranker: self.now().ranker };
        if served.catalog.version() == before.version() {
            return Ok(before);
        }
        if let Err(error) = living.check(&served) {
            living.catalog.roll_back(before.version())?;
            return Err(error);
        }
        Ok(self.install(served))
    }

    /// Many changes as one version; what each came to is at its place.
    pub(crate) fn change_each(&self, changes: &[Change<'_>]) -> Result<(Arc<Catalog>, Vec<sidereal_core::Result<()>>)> {
        let mut results = Vec::new();
        let catalog = self.step(|live| {
            results = live.apply_each(changes);
            Ok(live.now())
        })?;
        Ok((catalog, results))
    }

    pub(crate) fn roll_back(&self, version: &str) -> Result<Arc<Catalog>> {
        self.step(|live| live.roll_back(version))
    }

    /// Builds what has changed into a new base. Changes go on meanwhile; they are laid over the new base.
    pub(crate) fn merge(&self) -> Result<Arc<Catalog>> {
        let merged = self.now().catalog.merged()?;
        self.step(|live| live.install(merged))
    }

    /// Serves another catalog, perhaps with another ranker.
    pub(crate) fn swap(&self, catalog: &Catalog, ranker: Option<Arc<dyn Ranker>>) -> Result<Arc<Catalog>> {
        let mut living = self.living();
        let next = LiveCatalog::new(catalog)?;
        let ours = self.now();
        if ranker.is_none() && next.now().codes_per_level() != ours.catalog.codes_per_level() {
            let (theirs, ours) = (catalog.codes_per_level(), ours.catalog.codes_per_level());
            let problem = format!("the catalog has {theirs:?} codes per level, the model that serves writes {ours:?}");
            return Err(CoreError::mismatch(problem, "bring its model along, or build it by the same tokenizer").into());
        }
        let served = Served { catalog: next.now(), ranker: ranker.unwrap_or(ours.ranker) };
        served.check()?;
        *living = Living::new(next);
        Ok(self.install(served))
    }
}
