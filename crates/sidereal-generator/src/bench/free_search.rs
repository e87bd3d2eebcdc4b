//! The same beam search with every code allowed: what the constraint is measured against.

use rayon::prelude::*;
use sidereal_core::Catalog;

use crate::Result;
use crate::beam::{Beam, BeamOptions, Best, Searcher, free_device_search, places};
use crate::scoring::NextCodeModel;

/// Searches for all histories, where the model is; the score of the best beam of each. It differs from
/// [`beam_search`](crate::beam::beam_search) only in what a beam may go on with: all codes of the next level.
///
/// # Errors
/// Whatever the model says.
pub fn free_search<M: NextCodeModel>(
    searcher: &Searcher<M>,
    catalog: &Catalog,
    histories: &[&[u32]],
    options: &BeamOptions,
) -> Result<Vec<f32>> {
    let model = searcher.model();
    if let Some(model) = model.on_device() {
        return free_device_search(model, searcher.on_device(), histories, options);
    }
    let groups = histories.par_chunks(model.requests_per_state().max(1));
    let found: Vec<Vec<f32>> =
        groups.map(|histories| search_group(model, catalog, histories, options)).collect::<Result<_>>()?;
    Ok(found.concat())
}

fn search_group<M: NextCodeModel>(
    model: &M,
    catalog: &Catalog,
    histories: &[&[u32]],
    options: &BeamOptions,
) -> Result<Vec<f32>> {
    let (mut state, mut scores) = model.begin(histories, options.norm)?;
    // Nobody looks at the node of a beam here.
    let mut beams: Vec<Vec<Beam>> = vec![vec![Beam::root(catalog)]; histories.len()];
    for (depth, &codes) in catalog.codes_per_level().iter().enumerate() {
        if depth > 0 {
            let parents: Vec<u32> = beams.iter().flatten().map(|beam| beam.parent).collect();
            let codes: Vec<u16> = beams.iter().flatten().map(|beam| beam.code).collect();
            (state, scores) = model.step(&state, &parents, &codes, options.norm)?;
        }
        let mut row = 0;
        for kept in &mut beams {
            let mut best = Best::new(options.search.widths.at(depth), None);
            for (beam, place) in kept.iter().zip(places(kept)) {
                for (code, log_prob) in (0..codes as u16).zip(scores.row(row)) {
                    let order = u64::from(place) << 16 | u64::from(code);
                    let candidate = Beam { score: beam.score + log_prob, order, parent: row as u32, code, ..*beam };
                    if best.admits(&candidate) {
                        best.keep(candidate);
                    }
                }
                row += 1;
            }
            *kept = best.into_sorted();
        }
    }
    Ok(beams.iter().map(|beams| beams.first().map_or(f32::NEG_INFINITY, |beam| beam.score)).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use candle_core::Device;
    use sidereal_core::{CodeVocab, LeafFilter, SemanticIds};
    use sidereal_nn::kernels::Precision;

    use super::*;
    use crate::beam::{Request, beam_search};
    use crate::bench::{bench_catalog, bench_model};
    use crate::models::tiger::TigerConfig;
    use crate::scoring::ScoreNorm;

    #[test]
    fn over_a_catalog_of_all_codes_it_finds_what_the_constrained_search_finds() {
        let codes = (0..5 * 4 * 3u16).flat_map(|id| [id / 12, id / 3 % 4, id % 3]).collect();
        let catalog = bench_catalog(&SemanticIds::new(3, codes).unwrap(), &[5, 4, 3]).unwrap();
        let vocab = CodeVocab::new(CodeVocab::FIRST_CODE, catalog.codes_per_level());
        let small = TigerConfig { d_model: 16, d_ff: 32, heads: 2, d_kv: 8, layers: 1, ..TigerConfig::default() };
        let model = bench_model(None, small.t5(&vocab).unwrap(), 7, &Device::Cpu).unwrap();
        let searcher = Searcher::new(model.inference(&vocab, Precision::F32).unwrap());
        let histories: Vec<Vec<u32>> = (0..9).map(|at| vec![CodeVocab::FIRST_CODE + at % 5, 8]).collect();
        let histories: Vec<&[u32]> = histories.iter().map(Vec::as_slice).collect();
        let filter = LeafFilter::allow_all();
        let requests: Vec<Request<'_>> = histories.iter().map(|history| Request { history, filter: &filter }).collect();
        for width in [1, 4, 100] {
            let options = BeamOptions::new(width, ScoreNorm::Full);
            let free = free_search(&searcher, &catalog, &histories, &options).unwrap();
            let constrained = beam_search(searcher.model(), &catalog, &requests, &options).unwrap();
            for (free, ranking) in free.iter().zip(constrained) {
                assert_eq!(*free, ranking.leaves[0].score, "width {width}");
            }
        }
    }
}
