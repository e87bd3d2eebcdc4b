//! The same questions asked once more among the items of each user's domain alone, beside the answers over all items.
//!
//! A user is of the domain of the target: users of joined data sets are in one domain by construction, and where they are
//! shared, a shop knows which of its departments it fills. Trained models search the trie cut down to the domain; for the
//! others all other items are ranked last.

use sidereal_core::metrics::{Metric, Row};
use sidereal_core::{Catalog, ItemIndex, Items};
use sidereal_generator::Widths;
use sidereal_generator::baselines::Baseline;
use sidereal_generator::scoring::ItemScorer;

use crate::Result;
use crate::domains::Domains;
use crate::evaluate::exam::Exam;
use crate::evaluation::{DomainFigures, DomainRow, Metrics, Modes};
use crate::recommend::Recommender;

/// The figures that are told by domain.
const TOLD: [Metric; 5] = [Metric::Recall(5), Metric::Recall(10), Metric::Ndcg(5), Metric::Ndcg(10), Metric::Mrr];

/// Domains at most: a column that has more of them is no list of departments, and each is asked for by itself.
const MOST: usize = 50;

/// The exam of each domain.
pub(crate) struct ByDomain<'a> {
    domains: Domains,
    parts: Vec<Part<'a>>,
}

struct Part<'a> {
    name: String,
    /// Its number.
    domain: usize,
    items: usize,
    /// By item of the catalog.
    inside: Vec<bool>,
    exam: Exam<'a>,
    /// The places of its users among those of the whole exam.
    places: Vec<usize>,
    rows: Vec<(String, Modes<Metrics>)>,
}

impl<'a> ByDomain<'a> {
    /// The exams of all domains that some user is of; none where items are of fewer than two domains, or of more than
    /// [`MOST`].
    pub(crate) fn new(items: &Items, catalog: &Catalog, exam: &Exam<'a>) -> Option<Self> {
        let domains = Domains::of(items).filter(|domains| (2..=MOST).contains(&domains.names().len()))?;
        let targets = exam.targets();
        let part = |(domain, name): (usize, &String)| {
            let is_of = |item: ItemIndex| domains.of_item(item) == Some(domain);
            let places: Vec<usize> = (0..targets.len()).filter(|&at| is_of(targets[at])).collect();
            (!places.is_empty()).then(|| Part {
                name: name.clone(),
                domain,
                items: domains.allowed(catalog, domain).count(),
                inside: (0..catalog.len() as ItemIndex).map(is_of).collect(),
                exam: exam.of(&places),
                places,
                rows: Vec::new(),
            })
        };
        let parts = domains.names().iter().enumerate().filter_map(part).collect();
        Some(Self { domains, parts })
    }

    /// Asks a trained model.
    pub(crate) fn ask(&mut self, name: &str, recommender: &Recommender, beam: &Widths) -> Result<()> {
        for part in &mut self.parts {
            let told = format!("{name} among {}", part.name);
            // A run beside this one has the same items in a catalog of its own.
            let allowed = self.domains.allowed(recommender.catalog(), part.domain);
            let row = part.exam.trained_row(&told, recommender, beam, Some(&allowed))?;
            part.rows.push((name.to_owned(), row.map(|row| told_of(&row.ranks))));
        }
        Ok(())
    }

    /// Asks a baseline.
    pub(crate) fn ask_untrained(&mut self, name: &str, baseline: &Baseline) -> Result<()> {
        for part in &mut self.parts {
            let row = part.exam.untrained_row(&Within { scorer: baseline, inside: &part.inside })?;
            part.rows.push((name.to_owned(), row.map(|row| told_of(&row.ranks))));
        }
        Ok(())
    }

    /// All figures by domain, those over the whole catalog from the rows of the whole exam.
    pub(crate) fn figures(self, rows: &[(String, Modes<Row>)]) -> Vec<DomainFigures> {
        let of_part = |part: Part<'_>| {
            let Part { name, items, places, rows: within, .. } = part;
            let mut figures = DomainFigures { name, users: places.len(), items, ..DomainFigures::default() };
            for (row, within) in within {
                let whole = rows.iter().find(|(name, _)| *name == row).map(|(_, modes)| {
                    modes.map(|row| told_of(&places.iter().map(|&at| row.ranks[at]).collect::<Vec<_>>()))
                });
                figures.rows.insert(row, DomainRow { whole: whole.unwrap_or_default(), within });
            }
            figures
        };
        self.parts.into_iter().map(of_part).collect()
    }
}

fn told_of(ranks: &[Option<u32>]) -> Metrics {
    TOLD.iter().map(|metric| (metric.to_string(), metric.mean(ranks))).collect()
}

/// A scorer that ranks the items of one domain, and no others.
struct Within<'a> {
    scorer: &'a Baseline,
    inside: &'a [bool],
}

impl ItemScorer for Within<'_> {
    fn name(&self) -> &str {
        self.scorer.name()
    }

    fn items(&self) -> usize {
        self.scorer.items()
    }

    fn score_block(&self, histories: &[&[ItemIndex]], scores: &mut [f32]) -> sidereal_generator::Result<()> {
        self.scorer.score_block(histories, scores)?;
        for scores in scores.chunks_exact_mut(self.items().max(1)) {
            for (score, _) in scores.iter_mut().zip(self.inside).filter(|(_, inside)| !**inside) {
                *score = f32::NEG_INFINITY;
            }
        }
        Ok(())
    }
}
