//! Learning-rate schedules: a factor on the base rate for every step.

use serde::{Deserialize, Serialize};

/// How the learning rate changes over training. All forms rise linearly over `warmup_steps` first.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Schedule {
    /// Stays at 1.
    Constant {
        /// Steps of linear rise.
        #[serde(default)]
        warmup_steps: u64,
    },
    /// Falls on a line to `end` at the last step.
    Linear {
        /// Steps of linear rise.
        #[serde(default)]
        warmup_steps: u64,
        /// Factor at the last step.
        #[serde(default)]
        end: f64,
    },
    /// Falls on half a cosine to `end` at the last step (Loshchilov and Hutter, arXiv:1608.03983, without restarts).
    Cosine {
        /// Steps of linear rise.
        #[serde(default)]
        warmup_steps: u64,
        /// Factor at the last step.
        #[serde(default)]
        end: f64,
    },
    /// Stays at 1 up to `hold_steps`, then falls with the inverse square root of the step. T5 and TIGER: no warm-up,
    /// 10,000 steps of hold.
    InverseSqrt {
        /// Steps of linear rise.
        #[serde(default)]
        warmup_steps: u64,
        /// Step up to which the factor stays at 1; at least `warmup_steps`.
        #[serde(default)]
        hold_steps: u64,
    },
}

impl Default for Schedule {
    fn default() -> Self {
        Self::Constant { warmup_steps: 0 }
    }
}

impl Schedule {
    /// Steps of linear rise.
    pub fn warmup_steps(&self) -> u64 {
        match *self {
            Self::Constant { warmup_steps }
            | Self::Linear { warmup_steps, .. }
            | Self::Cosine { warmup_steps, .. }
            | Self::InverseSqrt { warmup_steps, .. } => warmup_steps,
        }
    }

    /// The factor for step `step` (the first is 0) of `total`. Steps behind the last keep its factor.
    ///
    /// The first step of a warm-up has `1 / warmup_steps`, not 0: no step is wasted.
    pub fn factor(&self, step: u64, total: u64) -> f64 {
        let warmup = self.warmup_steps();
        if step < warmup {
            return (step + 1) as f64 / warmup as f64;
        }
        // 0 at the end of the warm-up, 1 at the last step.
        let last = total.saturating_sub(1);
        let span = last.saturating_sub(warmup);
        let progress = if span == 0 { 0.0 } else { ((step - warmup) as f64 / span as f64).min(1.0) };
        match *self {
            Self::Constant { .. } => 1.0,
            Self::Linear { end, .. } => 1.0 + (end - 1.0) * progress,
            Self::Cosine { end, .. } => end + (1.0 - end) * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
            Self::InverseSqrt { hold_steps, .. } => {
                let hold = hold_steps.max(warmup).max(1);
                (hold as f64 / (step + 1).max(hold) as f64).sqrt()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn all(warmup_steps: u64) -> [Schedule; 4] {
        [
            Schedule::Constant { warmup_steps },
            Schedule::Linear { warmup_steps, end: 0.1 },
            Schedule::Cosine { warmup_steps, end: 0.1 },
            Schedule::InverseSqrt { warmup_steps, hold_steps: 20 },
        ]
    }

    #[test]
    fn every_schedule_rises_to_one_and_never_rises_again() {
        for schedule in all(10) {
            let factors: Vec<f64> = (0..120).map(|step| schedule.factor(step, 100)).collect();
            assert!((factors[0] - 0.1).abs() < 1e-12 && (factors[9] - 1.0).abs() < 1e-12, "{schedule:?}");
            assert!(factors[9..].windows(2).all(|w| w[1] <= w[0] && w[1] > 0.0), "{schedule:?}");
        }
    }

    #[test]
    fn linear_and_cosine_end_where_they_were_told() {
        for schedule in &all(10)[1..3] {
            assert!((schedule.factor(99, 100) - 0.1).abs() < 1e-12);
            assert!((schedule.factor(1000, 100) - 0.1).abs() < 1e-12);
        }
        assert!((Schedule::Cosine { warmup_steps: 0, end: 0.0 }.factor(50, 101) - 0.5).abs() < 1e-12);
    }

    #[test]
    fn tiger_holds_then_falls_with_the_root() {
        let tiger = Schedule::InverseSqrt { warmup_steps: 0, hold_steps: 10_000 };
        assert_eq!(tiger.factor(9_999, 0), 1.0);
        assert!((tiger.factor(39_999, 0) - 0.5).abs() < 1e-12);
    }

    #[test]
    fn short_trainings_have_finite_factors() {
        for schedule in all(5).into_iter().chain(all(0)) {
            for total in 0..8 {
                assert!(
                    (0..10).all(|step| (0.0..=1.0).contains(&schedule.factor(step, total))),
                    "{schedule:?} {total}"
                );
            }
        }
    }

    #[test]
    fn a_misspelt_key_is_refused() {
        let read = |text| serde_json::from_str::<Schedule>(text);
        assert_eq!(read(r#"{"cosine": {"warmup_steps": 3}}"#).unwrap(), Schedule::Cosine { warmup_steps: 3, end: 0.0 });
        assert!(read(r#"{"cosine": {"warmup": 3}}"#).unwrap_err().to_string().contains("warmup_steps"));
    }
}
