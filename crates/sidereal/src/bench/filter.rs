//! What filters and changes cost a beam search of the TIGER shape.

use std::time::Instant;

use serde_json::{Value, json};
use sidereal_core::catalog::{Change, LiveCatalog};
use sidereal_core::filter::{Allowed, Bits};
use sidereal_core::{Catalog, CodeVocab, ItemId, ItemIndex, LeafFilter, SemanticIds};
use sidereal_generator::beam::{BeamOptions, Request, Searcher};
use sidereal_generator::bench::{bench_beam_input, bench_model, process_cpu_s};
use sidereal_generator::models::tiger::TigerConfig;
use sidereal_generator::{NextCodeModel, ScoreNorm};
use sidereal_nn::device::DeviceChoice;
use sidereal_nn::kernels::Precision;
use sidereal_nn::rng::Rng;

use super::{CODES, LEVELS, median};
use crate::Result;
use crate::bench::Machine;

/// Sizes of [`filter`].
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct FilterWish {
    pub items: usize,
    pub users: usize,
    pub beam: usize,
    pub denied: usize,
    pub percent_left: u32,
    pub changes: usize,
    pub rounds: usize,
    pub seed: u64,
}

/// The same requests without a filter, with denied items, with a condition that few items meet, with both, and on a
/// catalog that has taken in changes: in turn, round after round. Making what belongs to a request counts; the condition
/// is evaluated once.
///
/// # Errors
/// Sizes of 0; whatever the device says.
pub fn filter(wish: &FilterWish, device: DeviceChoice) -> Result<Value> {
    let codes = [CODES; LEVELS];
    let (catalog, histories) = bench_beam_input(wish.items, &codes, wish.users, 20, wish.seed)?;
    let vocab = CodeVocab::new(CodeVocab::FIRST_CODE, catalog.codes_per_level());
    let model = bench_model(None, TigerConfig::default().t5(&vocab)?, wish.seed, &device.open()?)?;
    let searcher = Searcher::new(model.inference(&vocab, Precision::F32)?);
    let mut rng = Rng::new(wish.seed, "bench filter");
    let denied: Vec<Vec<ItemIndex>> =
        histories.iter().map(|_| (0..wish.denied).map(|_| rng.below(catalog.len()) as ItemIndex).collect()).collect();
    let few = Bits::of(
        catalog.len() as u32,
        (0..catalog.len() as u32).filter(|_| rng.below(100) < wish.percent_left as usize).collect::<Vec<_>>(),
    );
    let began = Instant::now();
    let allowed = Allowed::new(&catalog, &few);
    let condition_ms = began.elapsed().as_secs_f64() * 1e3;
    let changed = changed(&catalog, wish.changes, &mut rng)?;
    let search = |catalog: &Catalog, allowed: Option<&Allowed>, deny: bool| -> Result<f64> {
        let used = process_cpu_s().unwrap_or_default();
        for (history, denied) in histories.iter().zip(&denied) {
            let denied = if deny { denied.as_slice() } else { &[] };
            let filter = match allowed {
                Some(allowed) => LeafFilter::new(catalog, allowed, denied)?,
                None => LeafFilter::deny_items(catalog, denied),
            };
            found(&searcher, catalog, history, &filter, wish.beam)?;
        }
        Ok(process_cpu_s().unwrap_or_default() - used)
    };
    let ways: [(&str, &Catalog, Option<&Allowed>, bool); 5] = [
        ("none", &catalog, None, false),
        ("denied", &catalog, None, true),
        ("condition", &catalog, Some(&allowed), false),
        ("condition_and_denied", &catalog, Some(&allowed), true),
        ("changed", &changed, None, false),
    ];
    let mut ratios: Vec<Vec<f64>> = vec![Vec::new(); ways.len()];
    for round in 0..=wish.rounds {
        let mut times = Vec::new();
        for (_, catalog, allowed, deny) in &ways {
            times.push(search(catalog, *allowed, *deny)?);
        }
        // The first round warms up.
        if round > 0 {
            let to_none = times.iter().map(|time| time / times[0]);
            ratios.iter_mut().zip(to_none).for_each(|(ratios, ratio)| ratios.push(ratio));
        }
    }
    let ratios: serde_json::Map<String, Value> =
        ways.iter().zip(ratios).map(|(way, ratios)| (way.0.to_owned(), json!(median(ratios)))).collect();
    Ok(json!({ "what": "filter", "machine": Machine::measure(), "items": catalog.len(), "beam": wish.beam,
        "denied": wish.denied, "left_by_condition": allowed.count(), "changes": changed.changes_since_base(),
        "condition_ms": condition_ms, "cpu_to_no_filter": ratios }))
}

fn found<M: NextCodeModel>(
    searcher: &Searcher<M>,
    catalog: &Catalog,
    history: &[u32],
    filter: &LeafFilter,
    width: usize,
) -> Result<()> {
    let options = BeamOptions::new(width, ScoreNorm::Full);
    let rankings = searcher.search(catalog, &[Request { history, filter }], &options)?;
    debug_assert!(rankings.iter().all(|ranking| !ranking.items.is_empty()));
    Ok(())
}

/// A catalog that has taken in as many new items as it has lost.
fn changed(base: &Catalog, changes: usize, rng: &mut Rng) -> Result<Catalog> {
    let mut live = LiveCatalog::new(base)?;
    let add: Vec<ItemId> = (0..changes).map(|item| ItemId::from(format!("new {item}"))).collect();
    let codes = (0..changes * LEVELS).map(|_| rng.below(CODES as usize) as u16).collect();
    let sids = SemanticIds::new(LEVELS, codes)?;
    let mut remove: Vec<ItemIndex> = (0..changes).map(|_| rng.below(base.len()) as ItemIndex).collect();
    remove.sort_unstable();
    remove.dedup();
    if changes > 0 {
        live.apply(&Change { add: &add, add_ids: Some(&sids), remove: &remove, restore: &[] })?;
    }
    Ok((*live.now()).clone())
}
