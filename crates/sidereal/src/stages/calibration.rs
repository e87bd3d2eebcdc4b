//! Answers for validation users -> how likely an item of an answer is to be the next one.
//!
//! The users whose validation targets are asked for are halved by the seed: on one half the map from scores to
//! probabilities is fitted, on the other it is judged, and both are kept. Their histories end before the validation
//! target, so no test target is looked at.

use serde::{Deserialize, Serialize};
use serde_json::json;
use sidereal_core::artifact::{Manifest, read_json, write_json};
use sidereal_core::{Error, Example, Progress};
use sidereal_generator::calibration::{Calibrator, Observed, Reliability};
use sidereal_generator::{Search, Widths};
use sidereal_nn::device::DeviceChoice;
use sidereal_nn::rng::Rng;

use crate::Result;
use crate::evaluate::Question;
use crate::evaluate::exam::{Exam, USERS_PER_ROUND};
use crate::evaluation::Modes;
use crate::recommend::Recommender;
use crate::run::{Outcome, Run, Stage};
use crate::stages::fusion::Known;
use crate::stages::{inputs, resolved};

/// The fitted maps' file in the stage's folder.
pub const CALIBRATION_FILE: &str = "calibration.json";

/// How confidences are fitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CalibrationConfig {
    /// Items of each answer that are looked at.
    pub items: usize,
    /// Beam width W, or one a level.
    pub beam: Widths,
}

impl Default for CalibrationConfig {
    fn default() -> Self {
        Self { items: 20, beam: Widths::default() }
    }
}

impl CalibrationConfig {
    /// Refuses settings that no fit can have.
    ///
    /// # Errors
    /// 0 items; widths that find nothing.
    pub fn check(&self) -> Result<()> {
        if self.items == 0 {
            let mend = "look at 1 or more of each answer";
            return Err(Error::config("calibration.items", "0 items tell nothing", mend).into());
        }
        Ok(self.beam.check("calibration.beam")?)
    }
}

/// A fitted map, and how it did for users that it was not fitted on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibrated {
    /// The map.
    pub calibrator: Calibrator,
    /// How it did for the other half of the users.
    pub held_out: Reliability,
}

/// Maps of a run: one for answers out of the whole catalog, one for answers without the user's history.
pub type Calibration = Modes<Calibrated>;

/// Fits confidences on the validation targets.
///
/// # Errors
/// A stage before it has not run; fewer than two validation users; none whose target is in the answer.
pub fn make(
    run: &Run,
    config: &CalibrationConfig,
    seed: u64,
    device: DeviceChoice,
    progress: &dyn Progress,
) -> Result<Outcome> {
    config.check()?;
    let mut stages = vec![Stage::Data, Stage::Split, Stage::Catalog, Stage::Generator];
    stages.extend(run.has(Stage::Fusion).then_some(Stage::Fusion));
    let wanted = Manifest::new(Stage::Calibration.name(), Some(seed), resolved(config), inputs(run, &stages)?);
    run.stage(Stage::Calibration, wanted, |out| {
        let alone = Recommender::load_generator(run, device, false)?;
        let recommender = if run.has(Stage::Fusion) { alone.fused(run, Known::Training)? } else { alone };
        let data = run.data()?;
        let split = run.split(&data.histories)?;
        let question = Question {
            validation: true,
            beam: config.beam.clone(),
            users: None,
            exact_users: None,
            mean_scores: false,
            baselines_only: false,
            seed,
        };
        let exam = Exam::new(&data, &split, &question, progress)?;
        let mut users = exam.examples.clone();
        if users.len() < 2 {
            let problem = "there is one validation user, but one is needed to fit and another to judge";
            return Err(Error::input("split", problem, "give more users, or another split rule").into());
        }
        Rng::new(seed, "calibration halves").shuffle(&mut users);
        let (fit, judge) = users.split_at(users.len().div_ceil(2));
        let fitted = |remove_seen: bool| -> Result<Calibrated> {
            let calibrator = Calibrator::fit(&observed(&exam, &recommender, fit, remove_seen, config)?)?;
            let held_out = calibrator.reliability(&observed(&exam, &recommender, judge, remove_seen, config)?);
            Ok(Calibrated { calibrator, held_out })
        };
        progress.start("calibrate", Some(2 * users.len() as u64), "answers");
        let calibration = Modes { no_filter: fitted(false)?, seen_removed: fitted(true)? };
        progress.finish();
        write_json(&out.path(CALIBRATION_FILE), &calibration)?;
        let told = calibration.map(|mode| {
            let Reliability { answers, items, hits, brier, brier_of_share, ece, .. } = &mode.held_out;
            json!({ "users": answers, "items": items, "hits": hits, "brier": brier, "brier_of_share": brier_of_share,
                    "ece": ece })
        });
        Ok(json!({ "fitted_on": fit.len(), "held_out": told }))
    })
}

/// Answers for some users, and what came next.
fn observed(
    exam: &Exam<'_>,
    recommender: &Recommender,
    users: &[Example],
    remove_seen: bool,
    config: &CalibrationConfig,
) -> Result<Vec<Observed>> {
    let search = Search::from(config.beam.at_least(config.items));
    let mut answers = Vec::with_capacity(users.len());
    for round in users.chunks(USERS_PER_ROUND) {
        let queries = exam.queries(round, remove_seen);
        let rankings = recommender.rank(&queries, &search)?;
        for ((example, query), ranking) in round.iter().zip(&queries).zip(&rankings) {
            let items = &ranking.items[..ranking.items.len().min(config.items)];
            let target = example.target(exam.histories);
            answers.push(Observed {
                scores: items.iter().map(|scored| scored.score).collect(),
                history: query.history.len(),
                hit: items.iter().position(|scored| scored.item == target),
            });
        }
        exam.progress.advance(round.len() as u64);
    }
    Ok(answers)
}

/// The fitted maps of a run, checked against what answers there.
///
/// # Errors
/// A damaged file; maps that were fitted for another generator, or for answers with or without a fusion.
pub fn load(run: &Run) -> Result<Calibration> {
    let manifest = run.manifest(Stage::Calibration)?;
    let dir = run.dir(Stage::Calibration);
    for stage in [Stage::Generator, Stage::Fusion] {
        let now = if run.has(stage) { Some(run.digest(stage)?) } else { None };
        if manifest.inputs.get(stage.name()) != now.as_ref() {
            let problem = format!("{} was fitted for another {}", dir.display(), stage.name());
            let mend =
                "fit it again (`sidereal calibrate RUN`), or remove the folder to be answered without confidence";
            return Err(Error::mismatch(problem, mend).into());
        }
    }
    let path = dir.join(CALIBRATION_FILE);
    let calibration: Calibration = read_json(&path)?;
    for (_, mode) in calibration.each() {
        let damaged = |problem: String| Error::artifact(&path, problem, "fit it again (`sidereal calibrate RUN`)");
        mode.calibrator.check().map_err(damaged)?;
    }
    Ok(calibration)
}
