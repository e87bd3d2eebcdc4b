//! Several tokenizers trained on one run's items and judged alike: what the quality tables are made with.

use std::path::Path;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use sidereal_core::artifact::{read_json, read_manifest, write_atomic, write_json};
use sidereal_core::{Catalog, CollisionPolicy, Error, ItemId, Progress};
use sidereal_nn::device::DeviceChoice;
use sidereal_tokenizer::life::collisions::{Collisions, Leftovers};
use sidereal_tokenizer::report::CoPurchase;
use sidereal_tokenizer::{ItemTokenizer, TokenizerConfig};

use super::{Judge, Subject};
use crate::Result;
use crate::report::{QualityPage, render_quality};
use crate::run::{Outcome, Run, Stage, check_folder_name};
use crate::stages::catalog;
use crate::stages::collaborative::{CollaborativeRecipe, resolve};
use crate::stages::tokenizer::{self, Place};

/// The comparison's file name.
pub const COMPARISON_FILE: &str = "compare.json";
/// The page's file name.
pub const PAGE_FILE: &str = "compare.html";

/// One tokenizer of a comparison; in a file a `[[tokenizers]]` table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Its name in tables and its folder; by default the method's name.
    #[serde(default)]
    pub label: String,
    /// Method and settings.
    pub tokenizer: TokenizerConfig,
    /// Vectors learnt from behaviour, for methods that learn from them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collaborative: Option<CollaborativeRecipe>,
    /// What is done about items that share a semantic ID.
    #[serde(default)]
    pub collisions: CollisionPolicy,
    /// What is done about those that a repair leaves together.
    #[serde(default, skip_serializing_if = "Leftovers::is_usual")]
    pub leftovers: Leftovers,
}

impl Entry {
    fn how(&self) -> Collisions {
        Collisions { policy: self.collisions, leftovers: self.leftovers }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EntriesFile {
    tokenizers: Vec<Entry>,
}

/// The tokenizers that `--methods` names: methods separated by commas, with their defaults for these numbers of codes and
/// this policy, or a TOML file.
///
/// ```toml
/// [[tokenizers]]
/// label = "spherical"
/// collisions = "suffix"
/// [tokenizers.tokenizer.rq-kmeans]
/// codes = [256, 256, 256, 256]
/// spherical = true
/// normalize_residuals = true
/// ```
///
/// # Errors
/// A file that cannot be read; an unknown method; impossible settings; two entries of one label.
pub fn entries(methods: &str, codes: &[u32], how: Collisions) -> Result<Vec<Entry>> {
    let path = Path::new(methods);
    let mut entries: Vec<Entry> = if path.extension().is_some_and(|extension| extension == "toml") {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
        let file: EntriesFile = toml::from_str(&text).map_err(|e| {
            Error::config(
                methods,
                e.to_string(),
                "give [[tokenizers]] tables with label and [tokenizers.tokenizer.NAME]",
            )
        })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let resolved = |mut entry: Entry| {
            resolve(&mut entry.collaborative, folder);
            entry
        };
        file.tokenizers.into_iter().map(resolved).collect()
    } else {
        let entry = |name: &str| {
            let tokenizer = TokenizerConfig::with_defaults(name.trim(), codes.to_vec())?;
            Ok(Entry {
                label: String::new(),
                tokenizer,
                collaborative: None,
                collisions: how.policy,
                leftovers: how.leftovers,
            })
        };
        methods.split(',').map(entry).collect::<Result<_>>()?
    };
    if entries.is_empty() {
        return Err(Error::config("methods", "there are none", "name one method or more").into());
    }
    let mut labels = std::collections::BTreeSet::new();
    for entry in &mut entries {
        entry.tokenizer.check()?;
        entry.how().check("leftovers")?;
        if entry.label.is_empty() {
            entry.label = entry.tokenizer.name().to_owned();
        }
        check_folder_name("label", &entry.label)?;
        if !labels.insert(entry.label.clone()) {
            let mend = "give each its own label in a TOML file of [[tokenizers]]";
            return Err(Error::config("label", format!("two tokenizers are called {:?}", entry.label), mend).into());
        }
    }
    Ok(entries)
}

/// What a comparison found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The run whose items were encoded.
    pub run: String,
    /// N.
    pub items: usize,
    /// Seed of every training.
    pub seed: u64,
    /// In the order they were asked for.
    pub tokenizers: Vec<Compared>,
    /// Those that could not be made.
    pub failed: Vec<Failed>,
}

/// One tokenizer's part.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Compared {
    /// What was done about collisions.
    #[serde(flatten)]
    pub collisions: Collisions,
    /// (N - distinct IDs) / N after it; none where it cannot be done.
    pub collision_rate_after: Option<f64>,
    /// Why it cannot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collisions_failed: Option<String>,
    /// Seconds of the training.
    pub seconds: Option<f64>,
    /// One hash of the tokenizer.
    pub tokenizer: String,
    /// The figures before anything is done about collisions.
    #[serde(flatten)]
    pub subject: Subject,
}

/// A tokenizer that could not be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failed {
    /// Its label.
    pub name: String,
    /// The error.
    pub error: String,
}

/// What is wanted besides the tokenizers.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    /// Seed of every training.
    pub seed: u64,
    /// Where nets are trained.
    pub device: DeviceChoice,
    /// The folder to write: one of each label, [`COMPARISON_FILE`], and [`PAGE_FILE`] if `page`.
    pub out: &'a Path,
    /// Whether a page is drawn, with concept cards.
    pub page: bool,
}

/// Trains every tokenizer on the run's embeddings and judges all of them. Those that are there with the same settings,
/// seed and data are kept; a killed comparison goes on where it was.
///
/// A tokenizer that cannot be made is listed with its error, and the others go on.
///
/// # Errors
/// No embeddings; a folder that cannot be written.
pub fn compare(run: &Run, entries: &[Entry], wish: Wish<'_>, progress: &dyn Progress) -> Result<Comparison> {
    run.manifest(Stage::Embeddings)?;
    std::fs::create_dir_all(wish.out).map_err(|e| Error::io("create", wish.out, e))?;
    let judge = Judge::of(run)?;
    let file = wish.out.join(COMPARISON_FILE);
    let earlier = if file.is_file() { read_json::<Earlier>(&file)? } else { Earlier::default() };
    let items = judge.embeddings.as_ref().map_or(0, |embeddings| embeddings.rows());
    let name = super::name_of(&run.root().canonicalize().unwrap_or_else(|_| run.root().to_path_buf()));
    let mut found = Comparison { run: name, items, seed: wish.seed, tokenizers: Vec::new(), failed: Vec::new() };
    for entry in entries {
        match one(run, &judge, entry, wish, &earlier, progress) {
            Ok(compared) => found.tokenizers.push(compared),
            Err(error) => found.failed.push(Failed { name: entry.label.clone(), error: error.to_string() }),
        }
        // After each: a killed comparison keeps the seconds that it measured.
        write_json(&file, &found)?;
    }
    if wish.page {
        let page = render_quality(&page(&found))?;
        write_atomic(&wish.out.join(PAGE_FILE), |out| out.write_all(page.as_bytes()))?;
    }
    Ok(found)
}

fn one(
    run: &Run,
    judge: &Judge,
    entry: &Entry,
    wish: Wish<'_>,
    earlier: &Earlier,
    progress: &dyn Progress,
) -> Result<Compared> {
    let dir = wish.out.join(&entry.label);
    let place = Place { work: wish.out.join(format!("{}.partial", entry.label)), dir: dir.clone() };
    let start = Instant::now();
    let asked = tokenizer::Wish {
        config: &entry.tokenizer,
        collaborative: entry.collaborative.as_ref(),
        seed: wish.seed,
        device: wish.device,
    };
    let outcome = tokenizer::make_at(run, &place, asked, progress)?;
    let measured = (outcome == Outcome::Made).then(|| start.elapsed().as_secs_f64());
    let digest = read_manifest(&dir, Stage::Tokenizer.name())?.digest();
    progress.start(&format!("report, {}", entry.label), None, "items");
    let tokenizer = ItemTokenizer::load(&dir)?;
    let subject = judge.tokenizer(&entry.label, &tokenizer, wish.page)?;
    let Some(embeddings) = &judge.embeddings else {
        return Err(Error::mismatch("the run has no embeddings", "give it some with `sidereal embed`").into());
    };
    let ids: Vec<ItemId> = match &judge.known.data {
        Some(data) => data.items.ids().to_vec(),
        None => (0..embeddings.rows()).map(|item| ItemId::from(item.to_string())).collect(),
    };
    let catalog = catalog::join(&tokenizer, entry.how(), &ids, embeddings, judge.popularity.as_deref());
    let catalog = catalog.map(|(catalog, _)| catalog);
    let rate = |catalog: &Catalog| (ids.len() as f64 - f64::from(catalog.trie().leaves())) / ids.len() as f64;
    progress.finish();
    Ok(Compared {
        collisions: entry.how(),
        collision_rate_after: catalog.as_ref().ok().map(rate),
        collisions_failed: catalog.err().map(|error| error.to_string()),
        seconds: measured.or_else(|| earlier.seconds_of(&digest)),
        tokenizer: digest,
        subject,
    })
}

/// What is read of the comparison that an earlier try left.
#[derive(Default, Deserialize)]
struct Earlier {
    tokenizers: Vec<EarlierPart>,
}

#[derive(Deserialize)]
struct EarlierPart {
    tokenizer: String,
    seconds: Option<f64>,
}

impl Earlier {
    fn seconds_of(&self, digest: &str) -> Option<f64> {
        self.tokenizers.iter().find(|part| part.tokenizer == digest)?.seconds
    }
}

fn page(found: &Comparison) -> QualityPage {
    let after = |part: &Compared| {
        let rate = part.collision_rate_after.map_or_else(|| "not possible".to_owned(), |rate| format!("{rate:.4}"));
        (format!("{}, after {}", part.subject.name, part.collisions.told()), rate)
    };
    let seconds = |part: &Compared| Some((format!("{}, seconds of training", part.subject.name), part.seconds?));
    let mut facts = vec![("run".to_owned(), found.run.clone()), ("seed".to_owned(), found.seed.to_string())];
    facts.extend(found.tokenizers.iter().map(after).map(|(name, rate)| (format!("collision rate of {name}"), rate)));
    facts.extend(found.tokenizers.iter().filter_map(seconds).map(|(name, s)| (name, format!("{s:.1}"))));
    facts.extend(found.failed.iter().map(|failed| (format!("{} failed", failed.name), failed.error.clone())));
    QualityPage {
        title: format!("Tokenizers of {}", found.run),
        facts,
        subjects: found.tokenizers.iter().map(|part| part.subject.clone()).collect(),
    }
}

/// The comparison as a table for a person.
pub fn table(found: &Comparison) -> String {
    let joined = |values: Vec<String>| if values.is_empty() { "-".to_owned() } else { values.join("/") };
    let figure =
        |value: Option<f64>, decimals: usize| value.map_or_else(|| "-".to_owned(), |v| format!("{v:.decimals$}"));
    let lift = |pairs: Option<&CoPurchase>| {
        joined(pairs.iter().flat_map(|pairs| &pairs.lift).map(|&lift| figure(lift, 1)).collect())
    };
    let head =
        ["tokenizer", "collisions", "after", "perplexity", "error", "overlap", "purity", "lift", "held out", "seconds"];
    let mut rows = vec![head.map(str::to_owned)];
    for Compared { subject, collision_rate_after, seconds, .. } in &found.tokenizers {
        let report = &subject.report;
        rows.push([
            subject.name.clone(),
            format!("{:.4}", report.collision_rate),
            figure(*collision_rate_after, 4),
            joined(report.levels.iter().map(|level| format!("{:.0}", level.perplexity)).collect()),
            figure(report.reconstruction.as_ref().map(|r| r.relative_error), 4),
            figure(report.neighbours.as_ref().map(|n| n.overlap), 3),
            joined(report.category_purity.iter().flatten().map(|p| format!("{p:.2}")).collect()),
            lift(report.co_purchase.as_ref()),
            lift(report.co_purchase_held_out.as_ref()),
            figure(*seconds, 1),
        ]);
    }
    let widths: Vec<usize> =
        (0..head.len()).map(|at| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0)).collect();
    let line = |row: &[String; 10]| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    let mut lines: Vec<String> = rows.iter().map(line).collect();
    lines.extend(found.failed.iter().map(|failed| format!("{} failed: {}", failed.name, failed.error)));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn methods_are_named_on_the_command_line_or_in_a_file() {
        let named = entries("rq-kmeans, rq-vae", &[8, 8], CollisionPolicy::Postings.into()).unwrap();
        assert_eq!(named.iter().map(|entry| &*entry.label).collect::<Vec<_>>(), ["rq-kmeans", "rq-vae"]);
        assert_eq!(named[0].tokenizer.codes(), [8, 8]);
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("two.toml");
        let entry = |label: &str| format!("[[tokenizers]]\n{label}[tokenizers.tokenizer.rq-kmeans]\ncodes = [4]\n");
        let read = |text: String| {
            std::fs::write(&file, text).unwrap();
            entries(file.to_str().unwrap(), &[8, 8], CollisionPolicy::Postings.into())
        };
        let two = read(entry("label = \"small\"\ncollisions = \"suffix\"\n") + &entry("")).unwrap();
        assert_eq!(
            (&*two[0].label, &*two[1].label, two[0].collisions),
            ("small", "rq-kmeans", CollisionPolicy::Suffix)
        );
        for (text, word) in [
            (entry("") + &entry(""), "two tokenizers are called"),
            (entry("label = \"../x\"\n"), "cannot name a folder"),
            (entry("lable = \"x\"\n"), "lable"),
            ("tokenizers = []".to_owned(), "there are none"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        let after_nothing = read(entry("leftovers = \"error\"\n")).unwrap_err().to_string();
        assert!(after_nothing.contains("postings leaves nothing over"), "{after_nothing}");
        assert!(
            entries("rq-kmean", &[8], CollisionPolicy::Postings.into()).unwrap_err().to_string().contains("rq-kmeans")
        );
    }
}
