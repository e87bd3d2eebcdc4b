//! What the tokenizers are held to, a line each, and the one function that judges a line.

use serde_json::{Value, json};

use super::Part;

/// Something that the project wants of itself.
pub(crate) struct Bar {
    /// In words.
    pub(crate) what: &'static str,
    figure: Figure,
    bound: Bound,
}

/// Where a bar's number stands among what was measured.
enum Figure {
    /// (N - distinct IDs) / N after a tokenizer's collisions are dealt with; its label.
    CollisionsAfter(&'static str),
    /// The least perplexity of the levels after the first; the label.
    LeastPerplexity(&'static str),
    /// Co-purchase lift of an aligned tokenizer over that of its plain one, at a depth from 1.
    Lift { aligned: &'static str, plain: &'static str, depth: usize },
    /// The project's speed over the peer's: a comparison of `bench-peers` and its figure.
    Speed(&'static str, &'static str),
    /// The project's error over the peer's: the same.
    Error(&'static str, &'static str),
    /// How much dearer an item of a job is than one of a smaller job, at most, up to so many items.
    Growth(u64),
}

#[derive(Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
    Above(f64),
}

/// What earlier and present runs found; a part that never ran is empty.
#[derive(Default)]
pub(crate) struct Found {
    /// `compare.json` of `sidereal tokenizer compare`.
    pub(crate) quality: Value,
    /// Rows of `bench-peers`.
    pub(crate) peers: Vec<Value>,
    /// Figures of `sidereal bench job`, one a size.
    pub(crate) jobs: Vec<Value>,
}

/// A bar beside what was found.
pub(crate) struct Verdict {
    pub(crate) bar: &'static Bar,
    /// None: not measured.
    pub(crate) found: Option<f64>,
}

const fn bar(what: &'static str, figure: Figure, bound: Bound) -> Bar {
    Bar { what, figure, bound }
}

/// Labels are those of `examples/tokenizers/beauty.toml`, figures those of `comparison.rs`.
pub(crate) const BARS: &[Bar] = &{
    use Bound::{Above, AtLeast, AtMost};
    use Figure::{CollisionsAfter, Error, Growth, LeastPerplexity, Lift, Speed};
    const FUSED: (&str, &str) = ("rq-kmeans-fused", "rq-kmeans");
    const LETTER: (&str, &str) = ("rq-vae-letter", "rq-vae");
    const DAS: (&str, &str) = ("rq-vae-das", "rq-vae");
    const fn lift((aligned, plain): (&'static str, &'static str), depth: usize) -> Figure {
        Lift { aligned, plain, depth }
    }
    [
        bar("rq-kmeans: collisions after repair", CollisionsAfter("rq-kmeans"), AtMost(0.005)),
        bar("rq-kmeans: perplexity after level 1, the least", LeastPerplexity("rq-kmeans"), AtLeast(200.0)),
        bar("fused: collisions after repair", CollisionsAfter("rq-kmeans-fused"), AtMost(0.005)),
        bar("fused: perplexity after level 1, the least", LeastPerplexity("rq-kmeans-fused"), AtLeast(200.0)),
        bar("rq-vae: collisions after repair", CollisionsAfter("rq-vae"), AtMost(0.005)),
        bar("rq-vae: perplexity after level 1, the least", LeastPerplexity("rq-vae"), AtLeast(200.0)),
        bar("LETTER: collisions after repair", CollisionsAfter("rq-vae-letter"), AtMost(0.005)),
        bar("LETTER: perplexity after level 1, the least", LeastPerplexity("rq-vae-letter"), AtLeast(200.0)),
        bar("DAS: collisions after repair", CollisionsAfter("rq-vae-das"), AtMost(0.005)),
        bar("DAS: perplexity after level 1, the least", LeastPerplexity("rq-vae-das"), AtLeast(200.0)),
        bar("fused: co-purchase lift over plain, depth 1", lift(FUSED, 1), Above(1.0)),
        bar("fused: co-purchase lift over plain, depth 2", lift(FUSED, 2), Above(1.0)),
        bar("fused: co-purchase lift over plain, depth 3", lift(FUSED, 3), Above(1.0)),
        bar("fused: co-purchase lift over plain, depth 4", lift(FUSED, 4), Above(1.0)),
        bar("LETTER: co-purchase lift over plain, depth 1", lift(LETTER, 1), Above(1.0)),
        bar("LETTER: co-purchase lift over plain, depth 2", lift(LETTER, 2), Above(1.0)),
        bar("LETTER: co-purchase lift over plain, depth 3", lift(LETTER, 3), Above(1.0)),
        bar("LETTER: co-purchase lift over plain, depth 4", lift(LETTER, 4), Above(1.0)),
        bar("DAS: co-purchase lift over plain, depth 1", lift(DAS, 1), Above(1.0)),
        bar("DAS: co-purchase lift over plain, depth 2", lift(DAS, 2), Above(1.0)),
        bar("DAS: co-purchase lift over plain, depth 3", lift(DAS, 3), Above(1.0)),
        bar("DAS: co-purchase lift over plain, depth 4", lift(DAS, 4), Above(1.0)),
        bar(
            "residual k-means: error over faiss's, same L, K and iterations",
            Error("encode", "its reconstruction error"),
            AtMost(1.02),
        ),
        bar(
            "residual k-means with beam 5: error over that of faiss with beam 5",
            Error("beam-encode", "residual quantizer 3x256 with beam 5, 100k x 768: reconstruction error"),
            AtMost(1.02),
        ),
        bar(
            "residual k-means: encoding over faiss's, per CPU-second",
            Speed("encode", "encoding: items per CPU-second"),
            AtLeast(2.0),
        ),
        bar(
            "residual k-means: training over faiss's, per CPU-second",
            Speed("encode", "residual k-means 3x256, 100k x 768: training, CPU-seconds"),
            AtLeast(2.0),
        ),
        bar(
            "RQ-VAE: encoding over PyTorch's, per CPU-second",
            Speed("rq-vae", "RQ-VAE 768-512-256-128-32, 3x256: encoding, items per CPU-second"),
            AtLeast(2.0),
        ),
        bar(
            "RQ-VAE: training over PyTorch's, per CPU-second",
            Speed("rq-vae", "the same, per CPU-second"),
            AtLeast(1.5),
        ),
        bar(
            "RQ-VAE in bf16: encoding over PyTorch's in f32, per CPU-second",
            Speed("rq-vae", "RQ-VAE in bf16 beside the peer in f32: encoding, items per CPU-second"),
            AtLeast(2.0),
        ),
        bar(
            "RQ-VAE in bf16: training over PyTorch's in f32, per CPU-second",
            Speed("rq-vae", "RQ-VAE in bf16 beside the peer in f32: training samples per CPU-second"),
            AtLeast(1.5),
        ),
        // Flat, give or take what a shared machine does to CPU time.
        bar("encode job: cost of an item over that of a smaller job, to 10^6", Growth(1_000_000), AtMost(1.1)),
        bar("encode job: cost of an item over that of a smaller job, to 10^7", Growth(10_000_000), AtMost(1.1)),
    ]
};

impl Bar {
    /// The bar beside its figure.
    pub(crate) fn judge(&'static self, found: &Found) -> Verdict {
        Verdict { bar: self, found: self.figure.of(found).filter(|x| x.is_finite()) }
    }

    /// The part that measures it.
    pub(crate) fn part(&self) -> Part {
        match self.figure {
            Figure::CollisionsAfter(_) | Figure::LeastPerplexity(_) | Figure::Lift { .. } => Part::Quality,
            Figure::Speed(..) | Figure::Error(..) => Part::Speed,
            Figure::Growth(_) => Part::Job,
        }
    }

    /// The comparison of `bench-peers` that it needs, with the figure.
    pub(crate) fn comparison(&self) -> Option<(&'static str, &'static str)> {
        match self.figure {
            Figure::Speed(comparison, figure) | Figure::Error(comparison, figure) => Some((comparison, figure)),
            _ => None,
        }
    }

    pub(crate) fn bound(&self) -> String {
        match self.bound {
            Bound::AtLeast(limit) => format!("at least {limit}"),
            Bound::AtMost(limit) => format!("at most {limit}"),
            Bound::Above(limit) => format!("above {limit}"),
        }
    }
}

impl Verdict {
    /// None: not measured.
    pub(crate) fn holds(&self) -> Option<bool> {
        let found = self.found?;
        Some(match self.bar.bound {
            Bound::AtLeast(limit) => found >= limit,
            Bound::AtMost(limit) => found <= limit,
            Bound::Above(limit) => found > limit,
        })
    }

    /// By what share of the limit a measured bar is missed.
    pub(crate) fn missed_by(&self) -> Option<f64> {
        let found = self.found.filter(|_| self.holds() == Some(false))?;
        let (Bound::AtLeast(limit) | Bound::AtMost(limit) | Bound::Above(limit)) = self.bar.bound;
        Some((found - limit).abs() / limit)
    }

    pub(crate) fn json(&self) -> Value {
        json!({ "bar": self.bar.what, "part": self.bar.part().name(), "bound": self.bar.bound(), "found": self.found,
            "holds": self.holds(), "missed_by": self.missed_by() })
    }
}

impl Figure {
    fn of(&self, found: &Found) -> Option<f64> {
        match *self {
            Self::CollisionsAfter(label) => tokenizer(found, label)?["collision_rate_after"].as_f64(),
            Self::LeastPerplexity(label) => {
                let levels = tokenizer(found, label)?["levels"].as_array()?;
                let later: Option<Vec<f64>> = levels.iter().skip(1).map(|level| level["perplexity"].as_f64()).collect();
                later?.into_iter().reduce(f64::min)
            }
            Self::Lift { aligned, plain, depth } => {
                let lift = |label| tokenizer(found, label)?["co_purchase"]["lift"].get(depth.checked_sub(1)?)?.as_f64();
                Some(lift(aligned)? / lift(plain)?)
            }
            Self::Speed(comparison, figure) => ratio(found, comparison, figure),
            // A ratio of `bench-peers` above 1 says that the project errs less.
            Self::Error(comparison, figure) => Some(1.0 / ratio(found, comparison, figure)?),
            Self::Growth(most) => growth(found, most),
        }
    }
}

fn tokenizer<'a>(found: &'a Found, label: &str) -> Option<&'a Value> {
    found.quality["tokenizers"].as_array()?.iter().find(|part| part["name"] == label)
}

fn ratio(found: &Found, comparison: &str, figure: &str) -> Option<f64> {
    let row = found.peers.iter().find(|row| row["name"] == comparison && row["figure"] == figure)?;
    row["ratio"]["median"].as_f64()
}

/// The most that an item of a job costs over one of a smaller job; none if no job has `most` items.
fn growth(found: &Found, most: u64) -> Option<f64> {
    let costs = found.jobs.iter().map(|job| Some((job["items"].as_u64()?, job["cpu_s_per_item"].as_f64()?)));
    let mut costs: Vec<(u64, f64)> = costs.collect::<Option<_>>()?;
    costs.retain(|&(items, _)| items <= most);
    costs.sort_by_key(|&(items, _)| items);
    if costs.last()?.0 != most {
        return None;
    }
    let pairs =
        costs.iter().enumerate().flat_map(|(at, later)| costs[..at].iter().map(move |earlier| (earlier, later)));
    pairs.map(|(earlier, later)| later.1 / earlier.1).reduce(f64::max)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::comparison::COMPARISONS;
    use crate::step;

    static ENCODING: Bar = bar("encoding", Figure::Speed("encode", "items"), Bound::AtLeast(2.0));
    static ERROR: Bar = bar("error", Figure::Error("encode", "error"), Bound::AtMost(1.02));
    static PERPLEXITY: Bar = bar("perplexity", Figure::LeastPerplexity("a"), Bound::AtLeast(200.0));
    static COLLISIONS: Bar = bar("collisions", Figure::CollisionsAfter("a"), Bound::AtMost(0.005));
    static LIFT: Bar = bar("lift", Figure::Lift { aligned: "b", plain: "a", depth: 2 }, Bound::Above(1.0));
    static FLAT: Bar = bar("flat", Figure::Growth(1000), Bound::AtMost(1.1));

    fn quality(rate: Value, perplexities: [f64; 3], lifts: [Value; 2]) -> Found {
        let levels: Vec<Value> = perplexities.iter().map(|perplexity| json!({ "perplexity": perplexity })).collect();
        let [plain, aligned] = lifts;
        let part = |name: &str, lift: Value| {
            json!({ "name": name, "levels": levels, "collision_rate_after": rate,
            "co_purchase": { "lift": [2.0, lift] } })
        };
        Found { quality: json!({ "tokenizers": [part("a", plain), part("b", aligned)] }), ..Found::default() }
    }

    fn peers(items: f64, error: f64) -> Found {
        let row = |figure, median| json!({ "name": "encode", "figure": figure, "ratio": { "median": median } });
        Found { peers: vec![row("items", items), row("error", error)], ..Found::default() }
    }

    fn jobs(costs: &[(u64, f64)]) -> Found {
        let job = |&(items, cost)| json!({ "items": items, "cpu_s_per_item": cost });
        Found { jobs: costs.iter().map(job).collect(), ..Found::default() }
    }

    #[test]
    fn what_was_not_measured_never_holds() {
        for bar in BARS.iter().chain([&ENCODING, &ERROR, &PERPLEXITY, &COLLISIONS, &LIFT, &FLAT]) {
            let verdict = bar.judge(&Found::default());
            assert_eq!((verdict.found, verdict.holds(), verdict.missed_by()), (None, None, None), "{}", bar.what);
        }
        let failed = quality(Value::Null, [9.0, 250.0, 250.0], [json!(3.0), Value::Null]);
        assert_eq!(COLLISIONS.judge(&failed).holds(), None);
        assert_eq!(LIFT.judge(&failed).holds(), None);
        assert_eq!(LIFT.judge(&quality(json!(0.0), [9.0; 3], [json!(0.0), json!(1.0)])).holds(), None);
    }

    #[test]
    fn a_missed_bar_says_by_what_share_of_its_limit() {
        let (slow, fast) = (ENCODING.judge(&peers(1.5, 1.0)), ENCODING.judge(&peers(2.0, 1.0)));
        assert_eq!((slow.holds(), slow.missed_by()), (Some(false), Some(0.25)));
        assert_eq!((fast.holds(), fast.missed_by()), (Some(true), None));
        let worse = COLLISIONS.judge(&quality(json!(0.01), [9.0; 3], [json!(1.0), json!(1.0)]));
        assert_eq!((worse.holds(), worse.missed_by()), (Some(false), Some(1.0)));
    }

    #[test]
    fn an_error_is_the_projects_over_the_peers() {
        // The rows say how much less the project errs.
        assert_eq!(ERROR.judge(&peers(2.0, 0.5)).found, Some(2.0));
        assert_eq!(ERROR.judge(&peers(2.0, 0.5)).holds(), Some(false));
        assert_eq!(ERROR.judge(&peers(2.0, 1.25)).holds(), Some(true));
    }

    #[test]
    fn the_first_level_may_be_uneven_and_no_later_one() {
        let found = |perplexities| quality(json!(0.0), perplexities, [json!(1.0), json!(1.0)]);
        assert_eq!(PERPLEXITY.judge(&found([20.0, 230.0, 200.0])).holds(), Some(true));
        assert_eq!(PERPLEXITY.judge(&found([230.0, 230.0, 199.0])).found, Some(199.0));
        assert_eq!(PERPLEXITY.judge(&found([230.0, 230.0, 199.0])).holds(), Some(false));
    }

    #[test]
    fn alignment_must_be_above_the_plain_tokenizer_not_beside_it() {
        let found = |aligned| quality(json!(0.0), [9.0; 3], [json!(4.0), json!(aligned)]);
        assert_eq!(LIFT.judge(&found(4.0)).holds(), Some(false));
        assert_eq!(LIFT.judge(&found(6.0)).found, Some(1.5));
        assert_eq!(LIFT.judge(&found(6.0)).holds(), Some(true));
    }

    #[test]
    fn a_job_is_flat_if_no_size_costs_more_than_a_smaller_one() {
        // A dear first job does not hide that the last costs more than the one before.
        let found = FLAT.judge(&jobs(&[(1000, 3.0), (10, 8.0), (100, 2.0)]));
        assert_eq!((found.found, found.holds()), (Some(1.5), Some(false)));
        assert_eq!(FLAT.judge(&jobs(&[(100, 2.0), (1000, 2.1)])).holds(), Some(true));
        for short in [&[(10, 1.0), (100, 1.0)][..], &[(1000, 1.0)], &[(10, 1.0), (10_000, 9.0)]] {
            assert_eq!(FLAT.judge(&jobs(short)).holds(), None, "{short:?}");
        }
    }

    #[test]
    fn every_bar_names_one_figure_of_the_comparisons() {
        for (comparison, figure) in BARS.iter().filter_map(Bar::comparison) {
            let rows = COMPARISONS.iter().filter(|row| row.name == comparison);
            let named = rows.flat_map(|row| row.figures).filter(|&&text| text == figure).count();
            assert_eq!(named, 1, "{comparison}: {figure}");
        }
    }

    #[test]
    fn every_bar_names_tokenizers_of_the_comparison_that_is_run() {
        let methods = std::fs::read_to_string(step::root().join(super::super::METHODS)).unwrap();
        for bar in BARS {
            let labels = match bar.figure {
                Figure::CollisionsAfter(label) | Figure::LeastPerplexity(label) => vec![label],
                Figure::Lift { aligned, plain, .. } => vec![aligned, plain],
                _ => Vec::new(),
            };
            for label in labels {
                assert!(methods.contains(&format!("label = \"{label}\"\n")), "{}: {label}", bar.what);
            }
        }
    }
}
