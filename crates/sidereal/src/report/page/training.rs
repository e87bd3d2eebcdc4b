//! The training: loss, validation, learning rate and speed by step.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::Chart;
use crate::Result;
use crate::report::numbers::{count, figure, metric, plural};
use crate::report::plots::{self, Curve, drawable};
use crate::report::{LearningCurve, TrainingPoint};

/// Curves that one chart has room for.
pub(super) const CURVES: usize = 6;
/// What a best step is chosen by, the first that was measured.
const BEST_BY: [&str; 4] = ["ndcg@10", "recall@10", "ndcg@5", "recall@5"];

#[derive(Debug, Serialize)]
pub(super) struct TrainingView {
    about: String,
    faults: Option<String>,
    charts: Vec<Chart>,
}

pub(super) fn view(points: &[TrainingPoint]) -> Result<Option<TrainingView>> {
    let Some(last) = points.iter().map(|point| point.step).max() else { return Ok(None) };
    let losses: Vec<(f64, f64)> = values(points, |point| point.loss);
    let mut about = vec![plural(last, "step")];
    let rates: Vec<f64> =
        points.iter().filter_map(|point| point.learning_rate).filter(|rate| rate.is_finite()).collect();
    if let Some(most) = rates.iter().copied().reduce(f64::max) {
        about.push(format!("learning rate up to {}", figure(most, 6).trim_end_matches('0')));
    }
    let mut speeds: Vec<f64> =
        points.iter().filter_map(|point| point.samples_per_s).filter(|s| s.is_finite()).collect();
    speeds.sort_by(f64::total_cmp);
    if let Some(median) = speeds.get(speeds.len() / 2) {
        about.push(format!("{} samples a second (median)", figure(*median, 0)));
    }
    let faults = losses.iter().filter(|(_, loss)| !drawable(*loss)).count();
    let faults = (faults > 0).then(|| {
        format!(
            "\u{26a0} At {} the loss was not a number or off any scale: the curve leaves them out.",
            plural(faults as u64, "logged step")
        )
    });
    let mut charts = Vec::new();
    let shown: Vec<(f64, f64)> = losses.into_iter().filter(|(_, loss)| drawable(*loss)).collect();
    if let (Some(first), Some(end)) = (shown.first(), shown.last()) {
        let lowest = shown.iter().map(|(_, loss)| *loss).fold(f64::INFINITY, f64::min);
        let caption = format!("nats a code, by step: from {} to {}", figure(first.1, 3), figure(end.1, 3));
        let name = format!("Training loss by step: {caption}, lowest {}", figure(lowest, 3));
        let line = Curve { name: "loss".to_owned(), points: shown };
        charts.push(Chart::new("Training loss,", caption, plots::curves(&name, &[line], None)?));
    }
    charts.extend(validation(points)?);
    let rates = values(points, |point| point.learning_rate);
    let speeds = values(points, |point| point.samples_per_s);
    for (title, caption, values) in
        [("Learning rate", "by step", rates), ("Samples a second", "by step, between two lines of the log", speeds)]
    {
        let shown: Vec<(f64, f64)> = values.into_iter().filter(|(_, value)| drawable(*value)).collect();
        if shown.len() > 1 {
            let highest = shown.iter().map(|(_, value)| *value).fold(f64::NEG_INFINITY, f64::max);
            let name = format!("{title} {caption}, at most {}", figure(highest, 6));
            let line = Curve { name: title.to_owned(), points: shown };
            charts.push(Chart::new(title, caption, plots::curves(&name, &[line], None)?));
        }
    }
    Ok(Some(TrainingView { about: format!("{}.", about.join(", ")), faults, charts }))
}

fn values(points: &[TrainingPoint], get: impl Fn(&TrainingPoint) -> Option<f64>) -> Vec<(f64, f64)> {
    let mut values: Vec<(u64, f64)> = points.iter().filter_map(|point| Some((point.step, get(point)?))).collect();
    values.sort_by_key(|value| value.0);
    values.into_iter().map(|(step, value)| (step as f64, value)).collect()
}

/// Several trainings in what their best steps are chosen by: the metric, and a curve for each that measured it.
pub(super) fn validations(trainings: &[LearningCurve]) -> Option<(&'static str, Vec<Curve>)> {
    let of = |metric: &str| -> Vec<Curve> {
        let curve = |one: &LearningCurve| Curve { name: one.name.clone(), points: measured(&one.training, metric) };
        trainings.iter().map(curve).filter(|curve| !curve.points.is_empty()).collect()
    };
    BEST_BY.into_iter().map(|metric| (metric, of(metric))).find(|(_, curves)| !curves.is_empty())
}

fn measured(points: &[TrainingPoint], metric: &str) -> Vec<(f64, f64)> {
    values(points, |point| point.validation.as_ref()?.get(metric).copied().filter(|&v| drawable(v)))
}

fn validation(points: &[TrainingPoint]) -> Result<Option<Chart>> {
    let all = || points.iter().filter_map(|point| point.validation.as_ref());
    // A validation also says how it was made: users and beam width are not curves.
    let names: BTreeSet<&str> = all()
        .flat_map(BTreeMap::keys)
        .map(String::as_str)
        .filter(|name| name.contains('@') || *name == "mrr")
        .collect();
    let best_by = BEST_BY.into_iter().find(|name| names.contains(name));
    let ordered = best_by.into_iter().chain(names.into_iter().filter(|name| Some(*name) != best_by));
    let mut lines: Vec<Curve> = ordered
        .map(|name| Curve { name: name.to_owned(), points: measured(points, name) })
        .filter(|line| !line.points.is_empty())
        .collect();
    lines.truncate(CURVES);
    let Some(first) = lines.first() else { return Ok(None) };
    // The first of equals, as training keeps it.
    let best = first.points.iter().copied().reduce(|best, point| if point.1 > best.1 { point } else { best });
    let made = all().next_back().map(|metrics| {
        let part = |key: &str, word: &str| metrics.get(key).map(|&number| format!("{word} {}", count(number as u64)));
        [part("users", "users"), part("beam", "beam")].into_iter().flatten().collect::<Vec<_>>().join(", ")
    });
    let mut caption = made.filter(|made| !made.is_empty()).map_or_else(String::new, |made| format!("({made}). "));
    if let Some((step, value)) = best {
        caption += &format!("Ring: best {} {} at step {}", first.name, metric(Some(value)), count(step as u64));
    }
    let named: Vec<&str> = lines.iter().map(|line| line.name.as_str()).collect();
    let name = format!("Validation by step, {}. {caption}", named.join(", "));
    Ok(Some(Chart::new("Validation", caption, plots::curves(&name, &lines, best)?)))
}
