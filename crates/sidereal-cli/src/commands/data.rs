//! `sidereal data prepare` and `sidereal embed`.

use std::process::ExitCode;

use sidereal::embed::Hub;
use sidereal::recipe::DataRecipe;
use sidereal::stages::embeddings::{ModelPart, Part, Work};
use sidereal::{Result, Run, Stage, stages};

use crate::args::{Data, Embed};
use crate::commands::Context;

pub(crate) fn prepare(context: &Context, command: Data) -> Result<ExitCode> {
    let Data::Prepare { items, interactions, out, k_core, columns } = command;
    let columns = sidereal::data::ColumnMap::parse(&columns)?;
    let run = Run::create(&out)?;
    let recipe = DataRecipe { k_core, columns, ..DataRecipe::default() };
    let outcome = stages::data::from_files(&run, items.as_deref(), &interactions, &recipe, context.progress.as_ref())?;
    context.answer_stage(&run, Stage::Data, outcome)
}

pub(crate) fn embed(context: &Context, wish: Embed) -> Result<ExitCode> {
    let run = Run::open(&wish.run)?;
    let files = wish.from.iter().map(|path| Part::File { path: path.clone(), name: wish.name.clone() });
    let models = wish.model.iter().map(|model| {
        Part::Model(ModelPart {
            model: model.clone(),
            template: wish.template.clone(),
            images: wish.images.clone(),
            max_tokens: wish.max_tokens,
            batch_tokens: wish.batch_tokens,
            dtype: wish.dtype,
            instruction: wish.instruction.clone(),
            cache: wish.cache.clone(),
            device: context.global.device,
        })
    });
    let learnt = wish.learnt_by.iter().map(|run| Part::Learnt { run: run.clone() });
    let parts: Vec<Part> = files.chain(learnt).chain(models).collect();
    let (outcome, work) = stages::embeddings::from_parts(&run, &parts, &Hub::from_env(), context.progress.as_ref())?;
    for Work { model, items, dropped } in work {
        if dropped > 0 {
            context.tell(&format!("{model}: {dropped} damaged records of the cache were dropped and made again"));
        }
        context.tell(&format!("{model}: {} items encoded, {} reused", items.encoded, items.reused));
    }
    context.answer_stage(&run, Stage::Embeddings, outcome)
}
