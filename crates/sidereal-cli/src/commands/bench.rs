//! `sidereal bench`: this machine's figures for the project's own work, as JSON that a comparison reads.

use std::process::ExitCode;

use serde_json::json;
use sidereal::Result;
use sidereal::bench::{
    BeamWish, ChangesWish, ConstraintWish, DeviceWish, EncodeWish, FilterWish, JobWish, JoiningWish, RqVaeWish,
    TrainWish, TrieWish,
};

use crate::args::Bench;
use crate::commands::Context;
use crate::output;

pub(crate) fn execute(context: &Context, command: Bench) -> Result<ExitCode> {
    let device = context.global.device;
    let mut figures = match command {
        Bench::Train { batch, encoder_tokens, decoder_tokens, vocab, dropout, steps, runs, seed, precision } => {
            let wish =
                TrainWish { batch, encoder_tokens, decoder_tokens, vocab, dropout, steps, runs, seed, precision };
            sidereal::bench::train(&wish, device)?
        }
        Bench::Beam {
            model,
            catalog,
            histories,
            items,
            users,
            k,
            batch,
            runs,
            precision,
            instructions,
            save_output,
            seed,
        } => {
            let sizes = BeamWish {
                model,
                catalog,
                histories,
                items,
                users,
                k,
                batch,
                runs,
                precision,
                instructions,
                save_output,
                seed,
            };
            sidereal::bench::beam(&sizes, device)?
        }
        Bench::Trie { input, ids, levels, codes, runs } => {
            sidereal::bench::trie(&TrieWish { input, ids, levels, codes, runs })?
        }
        Bench::Constraint { ids, levels, codes, beam, users, batch, rounds, precision, seed } => {
            let wish = ConstraintWish { ids, levels, codes, beam, users, batch, rounds, precision, seed };
            sidereal::bench::constraint(&wish, device)?
        }
        Bench::Device {
            items,
            beam,
            batches,
            users,
            runs,
            precisions,
            constraint_ids,
            constraint_levels,
            train_batches,
            steps,
            seed,
        } => {
            let wish = DeviceWish {
                items,
                beam,
                batches,
                users,
                runs,
                precisions,
                constraint_ids,
                constraint_levels,
                train_batches,
                steps,
                seed,
            };
            sidereal::bench::device(&wish, device)?
        }
        Bench::Filter { items, users, beam, denied, percent_left, changes, rounds, seed } => {
            let wish = FilterWish { items, users, beam, denied, percent_left, changes, rounds, seed };
            sidereal::bench::filter(&wish, device)?
        }
        Bench::Changes { items, beam, rate, every_ms, load, workers, seconds, rounds, merge_after, seed } => {
            let wish = ChangesWish { items, beam, rate, every_ms, load, workers, seconds, rounds, merge_after, seed };
            sidereal::bench::changes(&wish, device)?
        }
        Bench::Joining {
            items,
            short_history,
            short_beam,
            long_history,
            long_beam,
            long_share,
            load,
            workers,
            batch,
            seconds,
            rounds,
            seed,
        } => {
            let (short, long) = ((short_history, short_beam), (long_history, long_beam));
            let wish = JoiningWish { items, short, long, long_share, load, workers, batch, seconds, rounds, seed };
            sidereal::bench::joining(&wish, device)?
        }
        Bench::RqVae { input, items, steps, runs, precision } => {
            let wish = RqVaeWish { items, steps, runs, precision, ..RqVaeWish::default() };
            sidereal::bench::rq_vae(input.as_deref(), &wish)?
        }
        Bench::Encode { method, settings, input, items, width, levels, codes, runs } => {
            let wish = EncodeWish { method, settings, input, items, width, levels, codes, runs };
            sidereal::bench::encode(&wish, context.progress.as_ref())?
        }
        Bench::Job { items, width, levels, codes, work } => {
            job(context, &items, &JobWish { width, levels, codes, work })?
        }
    };
    if let Some(object) = figures.as_object_mut() {
        object.insert("threads".to_owned(), json!(sidereal::bench::threads()));
        object.insert("device".to_owned(), json!(device.to_string()));
        object.insert("peak_memory_mib".to_owned(), json!(crate::memory::peak_mib()));
    }
    if context.global.json {
        // One line, so that a program that runs others can read the last one.
        output::line(&figures.to_string())?;
    } else {
        output::json(&figures)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A curve over numbers of items. All vectors are written first.
fn job(context: &Context, items: &[u64], wish: &JobWish) -> Result<serde_json::Value> {
    for &items in items {
        sidereal::bench::job_input(wish, items, context.progress.as_ref())?;
    }
    let job = |&items: &u64| sidereal::bench::job(wish, items, context.progress.as_ref());
    let curve = items.iter().map(job).collect::<Result<Vec<_>>>()?;
    Ok(json!({ "what": "job", "width": wish.width, "levels": wish.levels, "codes": wish.codes, "curve": curve }))
}
