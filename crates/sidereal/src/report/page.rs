//! The page's sections, in words and charts; `template.html` sets them.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use minijinja::{Environment, UndefinedBehavior};
use serde::Serialize;
use sidereal_core::Error;

use super::ReportData;
use crate::Result;

mod accuracy;
mod domains;
mod evaluation;
mod popularity;
mod quality;
mod tokenizer;
mod training;
mod users;

pub(super) use quality::quality_page;

#[derive(Debug, Serialize)]
struct Page<'a> {
    title: &'a str,
    style: Value,
    sections: Vec<Section>,
    accuracy: Option<accuracy::AccuracySection>,
    evaluation: Option<evaluation::EvaluationView>,
    domains: Option<domains::DomainsView>,
    training: Option<training::TrainingView>,
    tokenizer: Option<tokenizer::SemanticIdsView>,
    users: Option<users::UsersView<'a>>,
    facts: Vec<Fact<'a>>,
    recipe: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct Section {
    anchor: &'static str,
    title: &'static str,
}

#[derive(Debug, Serialize)]
struct Fact<'a> {
    name: &'a str,
    value: &'a str,
}

/// A table of cells, each row behind its name.
#[derive(Debug, Serialize)]
struct Table {
    title: String,
    columns: Vec<String>,
    rows: Vec<TableRow>,
}

#[derive(Debug, Serialize)]
struct TableRow {
    name: String,
    cells: Vec<String>,
}

/// A chart with its words.
#[derive(Debug, Serialize)]
struct Chart {
    title: String,
    caption: String,
    svg: Value,
}

impl Chart {
    fn new(title: impl Into<String>, caption: impl Into<String>, svg: String) -> Self {
        Self { title: title.into(), caption: caption.into(), svg: Value::from_safe_string(svg) }
    }
}

/// Sets the page.
pub(super) fn page(data: &ReportData) -> Result<String> {
    let evaluation = data.evaluation.as_ref().map(evaluation::view).transpose()?.flatten();
    let recipe = data.recipe_toml.trim();
    let mut page = Page {
        title: if data.title.trim().is_empty() { "Run" } else { &data.title },
        style: Value::from_safe_string(include_str!("style.css").to_owned()),
        sections: Vec::new(),
        accuracy: data.accuracy.as_ref().map(accuracy::view).transpose()?.flatten(),
        evaluation,
        domains: data.evaluation.as_ref().and_then(domains::view),
        training: training::view(&data.training)?,
        tokenizer: data.tokenizer.as_ref().map(tokenizer::view).transpose()?,
        users: users::view(&data.users),
        facts: data.facts.iter().map(|(name, value)| Fact { name, value }).collect(),
        recipe: (!recipe.is_empty()).then_some(recipe),
    };
    let sections = [
        ("accuracy", "Rows", page.accuracy.is_some()),
        ("figures", "Figures", page.evaluation.is_some()),
        ("popularity", "Popularity", page.evaluation.as_ref().is_some_and(|view| view.buckets.is_some())),
        ("domains", "Domains", page.domains.is_some()),
        ("training", "Training", page.training.is_some()),
        ("tokenizer", "Semantic IDs", page.tokenizer.is_some()),
        ("users", "Users", page.users.is_some()),
        ("facts", "Facts", !page.facts.is_empty()),
        ("recipe", "Recipe", page.recipe.is_some()),
    ];
    page.sections =
        sections.into_iter().filter(|section| section.2).map(|(anchor, title, _)| Section { anchor, title }).collect();
    set("report.html", include_str!("template.html"), &page)
}

/// What both pages have: a section, and macros of charts and tables.
const SHARED: [(&str, &str); 2] =
    [("facts.html", include_str!("facts.html")), ("parts.html", include_str!("parts.html"))];

/// Sets a template, whose name ends in `.html`: that turns the escaping on.
fn set<T: Serialize>(name: &'static str, template: &'static str, page: &T) -> Result<String> {
    let render = || -> std::result::Result<String, minijinja::Error> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_syntax(
            SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).keep_trailing_newline(true).build()?,
        );
        for (name, template) in SHARED {
            environment.add_template(name, template)?;
        }
        environment.add_template(name, template)?;
        environment.get_template(name)?.render(Serde(page))
    };
    render().map_err(|e| Error::input("report", format!("{e:#}"), "this is a defect: report it").into())
}
