//! Collaborative codes: recursive spectral clustering of the graph of items that users have near one another.
//!
//! The items of a node are clustered by the co-occurrences among them alone; clusters are codes, and clustered again at
//! the next level. The last level numbers the items of its cluster. Items that no user has end up in clusters of their
//! own, and are numbered.
//!
//! A new item takes the first free place under the codes of the item that users have near it most often, or of the
//! nearest by vector where no user has it yet; as many of the codes as have room.
//!
//! *Paper*: collaborative indexing of Hua et al., *How to Index Item IDs for Recommendation Foundation Models*,
//! SIGIR-AP 2023, arXiv 2305.06569, section 4.
//! *Differs from the paper*: its IDs end where a cluster is small enough; these all have L codes, so a node of n items
//! with m levels left makes n^(1/m) clusters where the paper makes a fixed number (about the same: 23 for Amazon Beauty
//! and three levels). Clusters that are larger than a code has room for are cut. Items count as together within a
//! `window`, not in whole histories. The graph is regularised (`spectral.rs`).
//!
//! # Shapes
//! Ids `[N]`, histories; semantic IDs [N, L].

use serde::{Deserialize, Serialize};

use sidereal_core::{Error, SemanticIds};
use sidereal_nn::rng::Rng;

use super::{MethodConfig, MethodKind, Model, Status, Trained, Training};
use crate::Result;
use crate::behaviour::code_tree::place;
use crate::behaviour::cooccurrence::CoOccurrences;
use crate::clustering::spectral::clusters;
use crate::item_table::ItemTable;
use crate::life::growth::Growth;
use crate::training_items::TrainingItems;

/// Settings of collaborative codes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CollaborativeConfig {
    /// K of every level; their product is at least the number of items. Default: three levels of 256.
    pub codes: Vec<u32>,
    /// Items count as together when they are at most this many steps apart in a history.
    pub window: usize,
    /// Most clusters of a node, and never more than the level has codes; absent, the m-th root of its items with m
    /// levels left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clusters: Option<usize>,
}

impl Default for CollaborativeConfig {
    fn default() -> Self {
        Self { codes: vec![256; 3], window: 10, clusters: None }
    }
}

impl MethodKind for CollaborativeConfig {
    const PAPER: &'static str = "How to Index Item IDs, arXiv 2305.06569 (collaborative indexing)";
    const STATUS: Status = Status::Stable;

    fn with_codes(codes: Vec<u32>) -> Self {
        Self { codes, ..Self::default() }
    }
}

impl MethodConfig for CollaborativeConfig {
    fn codes(&self) -> &[u32] {
        &self.codes
    }

    fn lists_items(&self) -> bool {
        true
    }

    fn check(&self) -> Result<()> {
        check_graph("collaborative", self.window, self.clusters)
    }

    fn train(&self, items: &TrainingItems<'_>, training: &Training<'_>) -> Result<Trained> {
        let ids = items.needed_ids("collaborative")?;
        let tree = GraphTree { method: "collaborative", window: self.window, clusters: self.clusters };
        let (sids, unseen) = tree.place(items, &self.codes, training)?;
        let table = ItemTable::new(ids.to_vec(), sids, self.codes.clone())?;
        let record = serde_json::json!({ "items_without_neighbours": unseen });
        Ok(Trained { model: Model::Table(table), record })
    }

    fn extend(&self, growth: &Growth<'_>, _seed: u64) -> Result<Vec<u16>> {
        Ok(growth.free_near(&growth.by_behaviour(self.window), "collaborative")?)
    }
}

pub(super) fn check_graph(method: &str, window: usize, clusters: Option<usize>) -> Result<()> {
    if window == 0 {
        let mend = "give 1 or more; 10 is usual";
        return Err(Error::config(format!("{method}.window"), "items are never together", mend).into());
    }
    if clusters.is_some_and(|clusters| clusters < 2) {
        let mend = "give 2 or more, or leave it out";
        return Err(Error::config(format!("{method}.clusters"), "a node is not split", mend).into());
    }
    Ok(())
}

/// How items are placed by their co-occurrences.
pub(super) struct GraphTree {
    pub(super) method: &'static str,
    pub(super) window: usize,
    pub(super) clusters: Option<usize>,
}

impl GraphTree {
    /// Semantic IDs, and how many items have no neighbours.
    ///
    /// # Shapes
    /// `codes`: `[L]`; the answer: [N, L]
    pub(super) fn place(
        &self,
        items: &TrainingItems<'_>,
        codes: &[u32],
        training: &Training<'_>,
    ) -> Result<(SemanticIds, usize)> {
        let histories = items.needed_histories(self.method)?;
        crate::behaviour::code_tree::check_room(items.len(), codes, self.method)?;
        let graph = CoOccurrences::count(&histories, items.len(), self.window);
        let unseen = (0..items.len()).filter(|&item| graph.row(item).len() == 0).count();
        training.progress.start("spectral clustering", None, "nodes");
        let mut nodes = 0u64;
        let mut split = |members: &[u32], level: usize| {
            let left = (codes.len() - level) as f64;
            let root = (members.len() as f64).powf(left.recip()).ceil() as usize;
            let wanted = self.clusters.unwrap_or(root).min(codes[level] as usize);
            let among = graph.among(members);
            let mut rng = Rng::new(training.seed, &format!("{} node {nodes}", self.method));
            nodes += 1;
            training.progress.advance(1);
            let mut groups = clusters(&among, wanted, &mut rng)?;
            groups.iter_mut().flatten().for_each(|item| *item = members[*item as usize]);
            Ok(groups)
        };
        let sids = place(items.len(), codes, self.method, &mut split)?;
        training.progress.finish();
        Ok((sids, unseen))
    }
}
