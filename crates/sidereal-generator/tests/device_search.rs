//! The search that stays on a device answers as the one on the host: same items, same order, under every filter.
#![allow(clippy::unwrap_used)]

mod table;

use proptest::prelude::*;
use sidereal_core::filter::{Allowed, Bits};
use sidereal_core::{Catalog, LeafFilter};
use sidereal_generator::beam::{BeamOptions, Request, Searcher, beam_search};
use sidereal_generator::{Ranking, ScoreNorm, Search, Widths};
use table::{Case, OnDevice, cases, cases_of};

/// Host and device asked the same.
fn both(case: &Case, catalog: &Catalog, filters: &[LeafFilter], search: &Search, memory: usize) -> [Vec<Ranking>; 2] {
    let requests: Vec<Request<'_>> =
        case.histories.iter().zip(filters).map(|(history, filter)| Request { history, filter }).collect();
    let options = BeamOptions::new(search.clone(), case.norm);
    let host = beam_search(&case.model(), catalog, &requests, &options).unwrap();
    let searcher = Searcher::new(OnDevice { table: case.model(), memory });
    [host, searcher.search(catalog, &requests, &options).unwrap()]
}

/// Sums of exponentials are added in another order on a device, so what was a tie may be one no longer.
fn same(case: &Case, host: &[Ranking], device: &[Ranking]) -> Result<(), TestCaseError> {
    for (host, device) in host.iter().zip(device) {
        prop_assert_eq!(&host.stats.beams, &device.stats.beams);
        if case.norm != ScoreNorm::Children {
            prop_assert_eq!(&host.items, &device.items);
            prop_assert_eq!(&host.leaves, &device.leaves);
            continue;
        }
        prop_assert_eq!(host.leaves.len(), device.leaves.len());
        for (a, b) in host.leaves.iter().zip(&device.leaves) {
            prop_assert!((a.score - b.score).abs() < 1e-4 * (1.0 + a.score.abs()), "{a:?} {b:?}");
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn with_items_denied_it_finds_what_the_host_finds(case in cases(), memory in 1usize..6) {
        let catalog = case.catalog();
        let filters: Vec<LeafFilter> = case.denied.iter().map(|d| LeafFilter::deny_items(&catalog, d)).collect();
        let [host, device] = both(&case, &catalog, &filters, &case.width.into(), memory);
        same(&case, &host, &device)?;
    }

    #[test]
    fn under_conditions_and_denied_items_with_widths_a_level(
        case in cases_of(1..40, 300),
        leave in 1u32..4,
        widths in prop::collection::vec(1usize..40, 4),
    ) {
        let catalog = case.catalog();
        let items = catalog.len() as u32;
        let conditions: Vec<Allowed> = (0..3).map(|which| {
            let members = (0..items).filter(|item| item.wrapping_mul(2_654_435_761) >> 7 & 7 <= leave + which);
            Allowed::new(&catalog, &Bits::of(items, members))
        }).collect();
        // Some requests share a condition, some have their own, some none.
        let filter = |(at, denied): (usize, &Vec<u32>)| match at % 4 {
            3 => LeafFilter::deny_items(&catalog, denied),
            which => LeafFilter::new(&catalog, &conditions[which], denied).unwrap(),
        };
        let filters: Vec<LeafFilter> = case.denied.iter().enumerate().map(filter).collect();
        let widths = Widths::from(widths[..catalog.levels()].to_vec());
        let [host, device] = both(&case, &catalog, &filters, &widths.into(), usize::MAX);
        same(&case, &host, &device)?;
    }

    #[test]
    fn removed_items_are_not_found_and_later_ones_are(case in cases(), removed in prop::collection::vec(0u32..50, 0..20)) {
        let items = case.codes.len() / case.codes_per_level.len();
        let mut removed: Vec<u32> = removed.into_iter().filter(|&item| (item as usize) < items).collect();
        removed.sort_unstable();
        removed.dedup();
        for built in [items, items.div_ceil(2)] {
            let catalog = case.live(built, &removed);
            let filters = vec![LeafFilter::allow_all(); case.histories.len()];
            let [host, device] = both(&case, &catalog, &filters, &case.width.into(), usize::MAX);
            same(&case, &host, &device)?;
            let gone = |ranking: &Ranking| ranking.items.iter().all(|scored| !removed.contains(&scored.item));
            prop_assert!(device.iter().all(gone));
        }
    }
}

fn case(memory: usize) -> (Case, OnDevice) {
    let codes = (0..40u16).flat_map(|item| [item % 4, item / 4]).collect();
    let histories = (2..8).map(|token| vec![token]).collect();
    let case = Case {
        codes_per_level: vec![4, 10],
        codes,
        histories,
        denied: vec![Vec::new(); 6],
        width: 5,
        steps: 1 << 40,
        sharpness: 4.0,
        norm: ScoreNorm::Level,
    };
    let model = OnDevice { table: case.model(), memory };
    (case, model)
}

#[test]
fn a_device_without_memory_for_one_request_is_an_error_that_says_what_helps() {
    let (case, model) = case(0);
    let (catalog, filter) = (case.catalog(), LeafFilter::allow_all());
    let request = Request { history: &[2], filter: &filter };
    let error = Searcher::new(model).search(&catalog, &[request], &BeamOptions::new(5, case.norm)).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("one request") && error.contains("narrower beam") && error.contains("--device cpu"),
        "{error}"
    );
}

#[test]
fn scores_that_are_not_finite_are_an_error_that_names_the_level() {
    let (case, mut model) = case(usize::MAX);
    model.table.poison = Some(3);
    let (catalog, filter) = (case.catalog(), LeafFilter::allow_all());
    let requests: Vec<Request<'_>> =
        case.histories.iter().map(|history| Request { history, filter: &filter }).collect();
    let error = Searcher::new(model).search(&catalog, &requests, &BeamOptions::new(5, case.norm)).unwrap_err();
    assert!(error.to_string().contains("at level"), "{error}");
}

#[test]
fn a_catalog_of_another_grid_and_a_beam_of_nothing_are_refused() {
    let (case, model) = case(usize::MAX);
    let filter = LeafFilter::allow_all();
    let request = Request { history: &[2], filter: &filter };
    let other = Case { codes_per_level: vec![4, 11], ..case.clone() }.catalog();
    let searcher = Searcher::new(model);
    let error = searcher.search(&other, &[request], &BeamOptions::new(5, case.norm)).unwrap_err();
    assert!(error.to_string().contains("codes per level"), "{error}");
    let error = searcher.search(&case.catalog(), &[request], &BeamOptions::new(0, case.norm)).unwrap_err();
    assert!(error.to_string().contains("finds nothing"), "{error}");
}
