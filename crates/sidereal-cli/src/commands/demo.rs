//! `sidereal demo`: the whole way on the demo catalog, which is part of the binary.

use std::path::Path;
use std::process::ExitCode;

use sidereal::core::artifact::write_atomic;
use sidereal::data::DataSource;
use sidereal::pipeline::Setting;
use sidereal::recommend::{Recommender, Wish};
use sidereal::run::Stage;
use sidereal::{Recipe, Result, Run};

use crate::commands::Context;
use crate::output;

const RECIPE: &str = include_str!("../../../../examples/demo/demo.toml");
const FILES: [(&str, &[u8]); 3] = [
    ("items.parquet", include_bytes!("../../../../data/demo/items.parquet")),
    ("interactions.parquet", include_bytes!("../../../../data/demo/interactions.parquet")),
    ("embeddings.safetensors", include_bytes!("../../../../data/demo/embeddings.safetensors")),
];
/// How many users' recommendations are shown.
const USERS: usize = 3;

pub(crate) fn execute(context: &Context, out: &Path) -> Result<ExitCode> {
    let run = Run::create(out)?;
    let source = out.join("source");
    std::fs::create_dir_all(&source).map_err(|e| sidereal::core::Error::io("create", &source, e))?;
    for (name, bytes) in FILES {
        let path = source.join(name);
        let there = std::fs::metadata(&path).is_ok_and(|found| found.len() == bytes.len() as u64);
        if !there {
            write_atomic(&path, |file| file.write_all(bytes))?;
        }
    }
    let recipe = Recipe::parse(RECIPE, "the demo's recipe")?;
    let source = DataSource::Folder(source);
    let setting = Setting { data: Some(&source), device: context.global.device, progress: context.progress.as_ref() };
    let code = super::run::whole(context, &run, &recipe, setting, Stage::Report)?;
    if !context.global.json {
        show_users(context, &run)?;
    }
    Ok(code)
}

fn show_users(context: &Context, run: &Run) -> Result<()> {
    let recommender = Recommender::load(run, context.global.device, false)?;
    let data = run.data()?;
    let split = run.split(&data.histories)?;
    for example in split.test.iter().take(USERS) {
        let history = example.history(&data.histories);
        let ids: Vec<&str> = history.iter().map(|&item| data.items.id(item).as_str()).collect();
        let title = |item: u32| data.items.title(item).unwrap_or_else(|| data.items.id(item).as_str()).to_owned();
        output::line(&format!("\nuser {} had:", data.histories.user(example.user as usize)))?;
        for &item in history.iter().rev().take(4).rev() {
            output::line(&format!("    {}", title(item)))?;
        }
        output::line(&format!("  then took:  {}", title(example.target(&data.histories))))?;
        let answer = recommender.answer(&ids, &[], &Wish::new(5, 50))?;
        output::line("  is offered:")?;
        for item in &answer.items {
            let codes: Vec<String> = item.semantic_id.iter().map(ToString::to_string).collect();
            let title = item.title.as_deref().unwrap_or(&item.item_id);
            output::line(&format!("    {:6.2}  <{}>  {title}", item.score, codes.join(" ")))?;
        }
    }
    Ok(())
}
