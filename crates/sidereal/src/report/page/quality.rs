//! The page about tokenizers: figures side by side, charts, and what codes stand for.

use minijinja::value::Value;
use serde::Serialize;
use sidereal_tokenizer::report::{CoPurchase, ConceptCard, QualityReport};

use super::{Chart, Fact, Table, TableRow, set};
use crate::Result;
use crate::quality::Subject;
use crate::report::numbers::{count, figure, percent, plural};
use crate::report::{QualityPage, plots};

#[derive(Debug, Serialize)]
struct Page<'a> {
    title: &'a str,
    style: Value,
    legend: Vec<Legend<'a>>,
    figures: Table,
    levels: Vec<Table>,
    plots: Vec<Chart>,
    code_use: Vec<CodeUse<'a>>,
    cards: Vec<Cards<'a>>,
    facts: Vec<Fact<'a>>,
}

/// A subject's number and colour in the charts.
#[derive(Debug, Serialize)]
struct Legend<'a> {
    series: usize,
    key: usize,
    name: &'a str,
    method: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct CodeUse<'a> {
    name: &'a str,
    charts: Vec<Chart>,
}

#[derive(Debug, Serialize)]
struct Cards<'a> {
    name: &'a str,
    cards: Vec<Card<'a>>,
}

#[derive(Debug, Serialize)]
struct Card<'a> {
    prefix: String,
    deep: bool,
    items: String,
    category: Option<&'a str>,
    purity: String,
    words: Vec<&'a str>,
    top: Vec<TopItem<'a>>,
}

#[derive(Debug, Serialize)]
struct TopItem<'a> {
    id: Option<&'a str>,
    name: &'a str,
}

const FIGURES: [&str; 9] = [
    "Items",
    "Distinct IDs",
    "Collision rate",
    "Items in collision",
    "Largest bucket",
    "Relative error",
    "Neighbour overlap",
    "Co-purchase lift, first and last depth",
    "The same, held-out pairs",
];

const LEVELS: [&str; 13] = [
    "Codes used",
    "Dead",
    "Perplexity",
    "Entropy (nats)",
    "Gini",
    "Prefixes",
    "Branching, mean",
    "Branching, most",
    "Items alone",
    "Residual ratio",
    "Category purity",
    "Co-purchase lift",
    "The same, held-out pairs",
];

pub(in crate::report) fn quality_page(data: &QualityPage) -> Result<String> {
    let subjects = &data.subjects;
    let page = Page {
        title: &data.title,
        style: Value::from_safe_string(include_str!("../style.css").to_owned()),
        legend: subjects.iter().enumerate().map(legend).collect(),
        figures: Table {
            title:
                "Collision rate is the share of items less distinct semantic IDs. Neighbour overlap is the share of \
                    an item's nearest neighbours by cosine that its codes keep."
                    .to_owned(),
            columns: FIGURES.map(str::to_owned).to_vec(),
            rows: subjects.iter().map(figures).collect(),
        },
        levels: subjects.iter().map(levels).collect(),
        plots: charts(subjects)?,
        code_use: subjects.iter().map(code_use).collect::<Result<_>>()?,
        cards: subjects.iter().filter(|subject| !subject.cards.is_empty()).map(cards).collect(),
        facts: data.facts.iter().map(|(name, value)| Fact { name, value }).collect(),
    };
    set("quality.html", include_str!("../quality.html"), &page)
}

fn legend((at, subject): (usize, &Subject)) -> Legend<'_> {
    Legend { series: plots::series(at), key: at + 1, name: &subject.name, method: subject.method }
}

fn figures(subject: &Subject) -> TableRow {
    let report = &subject.report;
    let error = report.reconstruction.as_ref().map_or(f64::NAN, |r| r.relative_error);
    let ends = |pairs: Option<&CoPurchase>| {
        let lifts = pairs.map_or(&[][..], |pairs| &pairs.lift);
        let told = |lift: Option<&Option<f64>>| figure(lift.copied().flatten().unwrap_or(f64::NAN), 1);
        format!("{}, {}", told(lifts.first()), told(lifts.last()))
    };
    TableRow {
        name: subject.name.clone(),
        cells: vec![
            count(report.items as u64),
            count(report.unique_ids as u64),
            percent(report.collision_rate),
            count(report.items_in_collision as u64),
            count(report.max_bucket as u64),
            figure(error, 4),
            figure(report.neighbours.as_ref().map_or(f64::NAN, |n| n.overlap), 3),
            ends(report.co_purchase.as_ref()),
            ends(report.co_purchase_held_out.as_ref()),
        ],
    }
}

fn levels(subject: &Subject) -> Table {
    let report = &subject.report;
    let at = |values: Option<&Vec<f64>>, level: usize| values.and_then(|v| v.get(level).copied()).unwrap_or(f64::NAN);
    let rows = report.levels.iter().enumerate().map(|(level, use_of)| {
        let lift = |pairs: Option<&CoPurchase>| {
            figure(pairs.and_then(|pairs| pairs.lift.get(level).copied().flatten()).unwrap_or(f64::NAN), 1)
        };
        TableRow {
            name: (level + 1).to_string(),
            cells: vec![
                format!("{} of {}", count(use_of.used as u64), count(use_of.codes.into())),
                count(use_of.dead as u64),
                figure(use_of.perplexity, 1),
                figure(use_of.entropy, 3),
                figure(use_of.gini, 3),
                count(report.prefixes.get(level).map_or(0, |&prefixes| prefixes as u64)),
                figure(use_of.mean_branching, 2),
                count(use_of.max_branching as u64),
                percent(use_of.unique),
                figure(at(report.reconstruction.as_ref().and_then(|r| r.residual_ratios.as_ref()), level), 3),
                percent(at(report.category_purity.as_ref(), level)),
                lift(report.co_purchase.as_ref()),
                lift(report.co_purchase_held_out.as_ref()),
            ],
        }
    });
    Table { title: subject.name.clone(), columns: LEVELS.map(str::to_owned).to_vec(), rows: rows.collect() }
}

/// Bars of one figure: a group a level or depth, a bar a subject. None where no subject has the figure.
fn by_level(
    subjects: &[Subject],
    title: &str,
    caption: &str,
    of: impl Fn(&QualityReport, usize) -> Option<f64>,
) -> Result<Option<Chart>> {
    let depth = subjects.iter().map(|subject| subject.report.levels.len()).max().unwrap_or(0);
    let groups: Vec<(String, String)> = (1..=depth).map(|level| (format!("Level {level}"), String::new())).collect();
    grouped(subjects, title, caption, &groups, of)
}

fn grouped(
    subjects: &[Subject],
    title: &str,
    caption: &str,
    groups: &[(String, String)],
    of: impl Fn(&QualityReport, usize) -> Option<f64>,
) -> Result<Option<Chart>> {
    let values: Vec<Vec<Option<f64>>> =
        subjects.iter().map(|subject| (0..groups.len()).map(|group| of(&subject.report, group)).collect()).collect();
    if values.iter().flatten().all(Option::is_none) {
        return Ok(None);
    }
    let told = subjects.iter().zip(&values).map(|(subject, values)| {
        let values: Vec<String> = values.iter().map(|v| figure(v.unwrap_or(f64::NAN), 3)).collect();
        format!("{}: {}", subject.name, values.join(", "))
    });
    let name = format!("{title} {caption} {}", told.collect::<Vec<_>>().join("; "));
    let names: Vec<&str> = subjects.iter().map(|subject| subject.name.as_str()).collect();
    let svg = match subjects.len() {
        0..=MOST_SIDE_BY_SIDE => plots::grouped_bars(&name, groups, &values)?,
        _ => plots::bar_matrix(&name, &names, groups, &values)?,
    };
    Ok(Some(Chart::new(title, caption, svg)))
}

/// Tokenizers whose bars can be told apart when they stand side by side.
const MOST_SIDE_BY_SIDE: usize = 6;

fn charts(subjects: &[Subject]) -> Result<Vec<Chart>> {
    let named = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), String::new())).collect::<Vec<_>>();
    let wholes = named(&["Collision rate", "Relative error", "Neighbours kept"]);
    let buckets = named(&["Head", "Mid", "Tail", "Cold"]);
    let charts = [
        grouped(
            subjects,
            "At a glance:",
            "shares; of the first two less is better.",
            &wholes,
            |report, at| match at {
                0 => Some(report.collision_rate),
                1 => report.reconstruction.as_ref().map(|r| r.relative_error),
                _ => report.neighbours.as_ref().map(|n| n.overlap),
            },
        )?,
        by_level(subjects, "Perplexity over K:", "1 where all codes are used alike.", |report, level| {
            report.levels.get(level).map(|l| l.perplexity / f64::from(l.codes.max(1)))
        })?,
        by_level(subjects, "Branching:", "mean number of codes that follow a prefix.", |report, level| {
            report.levels.get(level).map(|l| l.mean_branching)
        })?,
        by_level(subjects, "Residual ratio:", "length left after a level over that before it.", |report, level| {
            report.reconstruction.as_ref()?.residual_ratios.as_ref()?.get(level).copied()
        })?,
        by_level(
            subjects,
            "Co-purchase lift, as powers of ten:",
            "how much more often items bought one after the other share a prefix than any two. No bar: no lift.",
            |report, level| Some((*report.co_purchase.as_ref()?.lift.get(level)?)?.log10()),
        )?,
        by_level(
            subjects,
            "The same over held-out pairs:",
            "last transitions of users that occur in no training history: nothing was learnt from them.",
            |report, level| Some((*report.co_purchase_held_out.as_ref()?.lift.get(level)?)?.log10()),
        )?,
        by_level(
            subjects,
            "Category purity:",
            "share of items in the largest category of their prefix.",
            |report, level| report.category_purity.as_ref()?.get(level).copied(),
        )?,
        grouped(
            subjects,
            "Collisions by popularity:",
            "share of items that share their semantic ID.",
            &buckets,
            |report, at| {
                let by = report.collisions_by_popularity.as_ref()?;
                *[by.head, by.mid, by.tail, by.cold].get(at)?
            },
        )?,
    ];
    Ok(charts.into_iter().flatten().collect())
}

fn code_use(subject: &Subject) -> Result<CodeUse<'_>> {
    let used = subject.code_counts.iter().enumerate().filter(|(_, counts)| counts.iter().any(|&n| n > 0));
    let charts = used.map(|(at, counts)| {
        let most = counts.iter().copied().max().unwrap_or(0);
        let unused = counts.iter().filter(|&&n| n == 0).count();
        let caption = format!("at most {}, {} unused", plural(most.into(), "item"), plural(unused as u64, "code"));
        let name = format!("{}: items of each code of level {}, most used first: {caption}", subject.name, at + 1);
        Ok(Chart::new(format!("Level {}:", at + 1), caption, plots::code_use(&name, counts)?))
    });
    Ok(CodeUse { name: &subject.name, charts: charts.collect::<Result<_>>()? })
}

fn cards(subject: &Subject) -> Cards<'_> {
    Cards { name: &subject.name, cards: subject.cards.iter().map(card).collect() }
}

fn card(card: &ConceptCard) -> Card<'_> {
    let top = card.top_items.iter().map(|item| match &item.title {
        Some(title) => TopItem { id: Some(&item.item_id), name: title },
        None => TopItem { id: None, name: &item.item_id },
    });
    Card {
        prefix: card.prefix.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
        deep: card.prefix.len() > 1,
        items: count(card.items as u64),
        category: card.category.as_deref(),
        purity: percent(card.category_purity.unwrap_or(f64::NAN)),
        words: card.words.iter().map(|word| &*word.word).collect(),
        top: top.collect(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use sidereal_core::SemanticIds;
    use sidereal_tokenizer::report::{CardItem, CardWord, Evidence, code_counts, report};

    fn subject(name: &str, codes: &[u16]) -> Subject {
        let ids = SemanticIds::new(2, codes.to_vec()).unwrap();
        let popularity: Vec<u32> = (0..ids.len() as u32).collect();
        let evidence = Evidence {
            popularity: Some(&popularity),
            co_purchases: Some(&[(0, 1)]),
            held_out_co_purchases: Some(&[(0, 2)]),
            ..Evidence::default()
        };
        let item = CardItem { item_id: "i<1>".to_owned(), title: Some("<b>Shampoo</b>".to_owned()), popularity: None };
        let card = ConceptCard {
            prefix: vec![3, 1],
            items: 2,
            top_items: vec![item],
            words: vec![CardWord { word: "shampoo".to_owned(), items: 2, score: 4.0 }],
            category: Some("Hair & care".to_owned()),
            category_purity: Some(0.5),
        };
        Subject {
            name: name.to_owned(),
            method: Some("rq-kmeans"),
            report: report(&ids, &[4, 4], &evidence).unwrap(),
            cards: vec![card],
            code_counts: (0..2).map(|level| code_counts(&ids, level, 4)).collect(),
        }
    }

    #[test]
    fn a_page_holds_every_subject_and_escapes_what_users_wrote() {
        let subjects = vec![subject("one", &[0, 0, 0, 0, 3, 1]), subject("<two>", &[0, 1, 0, 2, 3, 1])];
        let data = QualityPage { title: "A & B".to_owned(), facts: vec![], subjects };
        let page = quality_page(&data).unwrap();
        for word in [
            "A &amp; B",
            "&lt;two&gt;",
            "&lt;b&gt;Shampoo",
            "i&lt;1&gt;",
            "Hair &amp; care",
            "Perplexity over K",
            "held-out pairs",
        ] {
            assert!(page.contains(word), "{word}");
        }
        assert!(
            !page.contains("<b>") && !page.contains("<two>") && !page.contains("<script") && !page.contains("http:")
        );
        assert_eq!(page, quality_page(&data).unwrap());
        assert!(quality_page(&QualityPage::default()).unwrap().contains("<main>"));
    }
}
