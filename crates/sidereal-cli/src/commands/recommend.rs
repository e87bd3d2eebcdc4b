//! `sidereal recommend`: for one history, or for many users.

use std::process::ExitCode;

use sidereal::limits::LimitWish;
use sidereal::recommend::{Choice, Compute, Recommender, Wish};
use sidereal::{Result, Run};

use crate::args::Recommend;
use crate::commands::Context;
use crate::output;

/// Beam width where none is given, unless more items are wanted.
const DEFAULT_BEAM: usize = 50;
/// Beams for each item that is wanted where not the best alone are shown.
const WIDER: usize = 3;

pub(crate) fn execute(context: &Context, arguments: &Recommend) -> Result<ExitCode> {
    let run = Run::open(&arguments.run)?;
    let choice = Choice { quota: arguments.quota, mmr: arguments.mmr, min_confidence: arguments.min_confidence };
    let wider = if choice.quota.is_some() || choice.mmr.is_some() { WIDER } else { 1 };
    let default = || DEFAULT_BEAM.max(arguments.k.saturating_mul(wider)).into();
    let wish = Wish {
        k: arguments.k,
        beam: arguments.beam.clone().unwrap_or_else(default),
        include_seen: arguments.include_seen,
        page: arguments.page,
    };
    let compute = Compute { device: context.global.device, precision: arguments.precision };
    let mut recommender = Recommender::load(&run, compute, arguments.allow_other_catalog)?;
    recommender.choose_by(&run, choice)?;
    let limits =
        LimitWish { filter: arguments.filter.clone(), allow: arguments.allow.clone(), deny: arguments.deny.clone() };
    recommender.limit(&run, &limits)?;
    match (&arguments.history, &arguments.users) {
        (Some(history), _) => {
            let ids: Vec<&str> = history.split(',').map(str::trim).filter(|id| !id.is_empty()).collect();
            let shown = arguments.shown.as_deref().map_or(Ok(Vec::new()), |file| recommender.listed(file))?;
            let answer = recommender.answer(&ids, &shown, &wish)?;
            if context.global.json {
                output::json(&answer)?;
            } else {
                for item in &answer.items {
                    let title = item.title.as_deref().unwrap_or("");
                    let sure = item.confidence.map_or_else(String::new, |sure| format!("  {sure:.4}"));
                    output::line(&format!("{:8.3}{sure}  {}  {title}", item.score, item.item_id))?;
                }
                if let Some(reason) = &answer.reason {
                    output::line(reason)?;
                }
            }
        }
        (None, Some(users)) => {
            let out = arguments.out.as_deref().ok_or_else(|| {
                let mend = "name the Parquet file to write with --out F.parquet";
                sidereal::core::Error::config("--out", "--users needs a file for its answers", mend)
            })?;
            let done =
                sidereal::batch::recommend_users(&run, &recommender, users, out, &wish, context.progress.as_ref())?;
            if context.global.json {
                output::json(&done)?;
            } else {
                output::line(&format!("{} rows for {} users: {}", done.rows, done.users, out.display()))?;
            }
        }
        (None, None) => {}
    }
    Ok(ExitCode::SUCCESS)
}
