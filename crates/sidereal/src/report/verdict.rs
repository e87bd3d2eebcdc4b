//! Whether the generator beats its baselines, from the paired tests or, without them, from the bare figures.

use serde::Serialize;

use crate::evaluation::{Evaluation, Metrics};

/// The modes of ranking: key, title, what it means.
pub(super) const MODES: [(&str, &str, &str); 2] = [
    ("no_filter", "Whole catalog", "Every item is ranked, the user\u{2019}s own history included: what papers print."),
    ("seen_removed", "History removed", "Items of the user\u{2019}s own history are taken out: what a shop does."),
];

/// What rows are judged by: the first of these that the generator has.
const JUDGED_BY: [&str; 5] = ["ndcg@10", "recall@10", "ndcg@5", "recall@5", "mrr"];

/// How the generator stands to a baseline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Outcome {
    /// The generator is better.
    Beaten,
    /// The interval of the difference holds zero.
    NotToldApart,
    /// The baseline is better.
    Ahead,
    /// There are no figures to judge by.
    Unknown,
}

/// The generator against one baseline in one mode.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Duel {
    pub(super) baseline: String,
    pub(super) mode: &'static str,
    /// Generator minus baseline.
    pub(super) difference: f64,
    /// 95 % interval of the difference, where there was a paired test.
    pub(super) interval: Option<[f64; 2]>,
    pub(super) p_value: Option<f64>,
    pub(super) outcome: Outcome,
}

/// All duels of the generator, by one metric.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Verdict {
    pub(super) generator: String,
    pub(super) metric: &'static str,
    pub(super) duels: Vec<Duel>,
}

/// A mode's metrics of the generator.
pub(super) fn generator_metrics<'a>(evaluation: &'a Evaluation, mode: &str) -> Option<&'a Metrics> {
    if mode == "no_filter" { evaluation.no_filter.as_ref() } else { evaluation.seen_removed.as_ref() }
}

/// Judges the generator; nothing where there is none or no baseline.
pub(super) fn verdict(evaluation: &Evaluation) -> Option<Verdict> {
    let generator = evaluation.generator.as_deref()?;
    let has = |metric: &&str| {
        MODES.iter().any(|(mode, ..)| generator_metrics(evaluation, mode).is_some_and(|row| row.contains_key(*metric)))
    };
    let metric = JUDGED_BY.into_iter().find(has)?;
    let mut duels = Vec::new();
    for (mode, ..) in MODES {
        let Some(ours) = generator_metrics(evaluation, mode).and_then(|row| row.get(metric)) else { continue };
        for (name, modes) in &evaluation.baselines {
            let theirs = if mode == "no_filter" { &modes.no_filter } else { &modes.seen_removed };
            let difference = theirs.get(metric).map_or(f64::NAN, |theirs| ours - theirs);
            duels.push(duel(evaluation, generator, name, mode, metric, difference));
        }
    }
    (!duels.is_empty()).then(|| Verdict { generator: generator.to_owned(), metric, duels })
}

fn duel(
    evaluation: &Evaluation,
    generator: &str,
    baseline: &str,
    mode: &'static str,
    metric: &str,
    plain: f64,
) -> Duel {
    let test = evaluation.comparisons.iter().find_map(|test| {
        if test.mode != mode || test.metric != metric || test.interval.iter().any(|bound| !bound.is_finite()) {
            return None;
        }
        match (test.row == generator && test.with == baseline, test.row == baseline && test.with == generator) {
            (true, _) => Some((test.difference, test.interval, test.p_value)),
            (_, true) => Some((-test.difference, [-test.interval[1], -test.interval[0]], test.p_value)),
            _ => None,
        }
    });
    let outcome = match (test, plain) {
        (Some((_, [low, _], _)), _) if low > 0.0 => Outcome::Beaten,
        (Some((_, [_, high], _)), _) if high < 0.0 => Outcome::Ahead,
        (Some(_), _) => Outcome::NotToldApart,
        (None, d) if d.is_nan() => Outcome::Unknown,
        (None, d) if d > 0.0 => Outcome::Beaten,
        (None, d) if d < 0.0 => Outcome::Ahead,
        (None, _) => Outcome::NotToldApart,
    };
    Duel {
        baseline: baseline.to_owned(),
        mode,
        difference: test.map_or(plain, |(difference, ..)| difference),
        interval: test.map(|(_, interval, _)| interval),
        p_value: test.map(|(.., p_value)| p_value),
        outcome,
    }
}

impl Verdict {
    /// The duel with a baseline.
    pub(super) fn against(&self, baseline: &str, mode: &str) -> Option<&Duel> {
        self.duels.iter().find(|duel| duel.baseline == baseline && duel.mode == mode)
    }

    /// The duels of a mode.
    pub(super) fn of_mode(&self, mode: &str) -> impl Iterator<Item = &Duel> {
        self.duels.iter().filter(move |duel| duel.mode == mode)
    }

    /// The worst that happened: one baseline ahead is enough to lose.
    pub(super) fn worst(&self) -> Outcome {
        let any = |outcome| self.duels.iter().any(|duel| duel.outcome == outcome);
        [Outcome::Ahead, Outcome::NotToldApart, Outcome::Unknown]
            .into_iter()
            .find(|&o| any(o))
            .unwrap_or(Outcome::Beaten)
    }

    /// Whether every duel was a paired test.
    pub(super) fn tested(&self) -> bool {
        self.duels.iter().all(|duel| duel.interval.is_some())
    }
}
