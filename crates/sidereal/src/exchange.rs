//! Semantic IDs from and for other tools: one file a format, and one line each in the list below.
//!
//! To add a format: write its file with a reader to [`Foreign`] or a writer of a [`Catalog`]; declare the module; add a
//! line to [`FORMATS`].

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::json;
use sidereal_core::artifact::{Manifest, sha256_file};
use sidereal_core::lc_rec::{Form, Index, write_index};
use sidereal_core::{Catalog, CollisionPolicy, Error, ItemId, ItemIndex, Items, SemanticIds};
use sidereal_tokenizer::ItemTokenizer;
use sidereal_tokenizer::codes::parse_codes;

use crate::Result;
use crate::life::versions;
use crate::run::{Outcome, Run, Stage};
use crate::stages::catalog::{facts, first_few, prior};

mod codebooks;
mod grid;
mod lc_rec;
mod nvidia;
mod open_one_rec;
mod static_arrays;
mod torch_easy_rec;
mod xllm;

mod npy;
mod rows;
mod tables;
mod torch_file;

#[cfg(test)]
mod tests;

/// Every format there is.
pub const FORMATS: &[Format] = &[
    Format {
        name: "lc-rec",
        about: "index.json of LC-Rec, LETTER, MiniOneRec: {\"item\": [\"<a_12>\", \"<b_7>\"]}; reads all four forms",
        import: Some(Import::Catalog(lc_rec::read)),
        export: Some(Export::Index(Form { numbers: false, short: false })),
    },
    Format {
        name: "lc-rec-numbers",
        about: "the same with plain numbers: {\"item\": [12, 7]}",
        import: Some(Import::Catalog(lc_rec::read)),
        export: Some(Export::Index(Form { numbers: true, short: false })),
    },
    Format {
        name: "lc-rec-short",
        about: "the same with tokens, the suffix only for items that share their other codes (MiniOneRec)",
        import: Some(Import::Catalog(lc_rec::read)),
        export: Some(Export::Index(Form { numbers: false, short: true })),
    },
    Format {
        name: "lc-rec-short-numbers",
        about: "the same with plain numbers and such a suffix",
        import: Some(Import::Catalog(lc_rec::read)),
        export: Some(Export::Index(Form { numbers: true, short: true })),
    },
    Format {
        name: "open-one-rec",
        about: "OpenOneRec: Parquet of pid and codes, or token text a line an item",
        import: Some(Import::Catalog(open_one_rec::read)),
        export: Some(Export::Catalog(open_one_rec::write)),
    },
    Format {
        name: "grid",
        about: "GRID and NVIDIA sid_gr: a .pt of one integer tensor [levels, items]",
        import: Some(Import::Catalog(grid::read)),
        export: Some(Export::Catalog(grid::write)),
    },
    Format {
        name: "torch-easy-rec",
        about: "TorchEasyRec: a bundle folder of item_to_sid and sid_to_items",
        import: Some(Import::Catalog(torch_easy_rec::read)),
        export: Some(Export::Catalog(torch_easy_rec::write)),
    },
    Format {
        name: "nvidia",
        about: "NVIDIA SID-GR inference: JSON lines of item_id and token_ids",
        import: Some(Import::Catalog(nvidia::read)),
        export: Some(Export::Catalog(nvidia::write)),
    },
    Format {
        name: "xllm",
        about: "xLLM: binary records of an item id and three codes",
        import: Some(Import::Catalog(xllm::read)),
        export: Some(Export::Catalog(xllm::write)),
    },
    Format {
        name: "static",
        about: "STATIC: a folder of .npy arrays for constrained decoding (export only)",
        import: None,
        export: Some(Export::Catalog(static_arrays::write)),
    },
    Format {
        name: "codebooks",
        about: "faiss-like codebooks: a .npy of f32 [levels, codes, width]; the run's tokenizer, not its catalog",
        import: Some(Import::Tokenizer(codebooks::read)),
        export: Some(Export::Tokenizer(codebooks::write)),
    },
];

/// A line of the list of formats.
#[derive(Debug, Clone, Copy)]
pub struct Format {
    /// Its name on the command line.
    pub name: &'static str,
    /// Whose it is and what it looks like.
    pub about: &'static str,
    import: Option<Import>,
    export: Option<Export>,
}

#[derive(Debug, Clone, Copy)]
enum Import {
    Catalog(fn(&Path) -> Result<Foreign>),
    Tokenizer(fn(&Path) -> Result<ItemTokenizer>),
}

#[derive(Debug, Clone, Copy)]
enum Export {
    /// The catalog with what was removed from it: the writer leaves that out.
    Index(Form),
    Catalog(fn(&Catalog, &Path) -> Result<()>),
    Tokenizer(fn(&ItemTokenizer, &Path) -> Result<()>),
}

impl Format {
    /// The format of a name.
    ///
    /// # Errors
    /// A name that is not in [`FORMATS`].
    pub fn of(name: &str) -> Result<&'static Self> {
        FORMATS.iter().find(|format| format.name == name).ok_or_else(|| {
            let names: Vec<&str> = FORMATS.iter().map(|format| format.name).collect();
            let problem = format!("no format is named {name:?}");
            Error::config("format", problem, format!("use one of: {}", names.join(", "))).into()
        })
    }

    /// Whether files of it can be read.
    pub fn imports(&self) -> bool {
        self.import.is_some()
    }

    /// Whether files of it can be written.
    pub fn exports(&self) -> bool {
        self.export.is_some()
    }

    fn cannot(&self, what: &str, able: impl Fn(&Self) -> bool) -> crate::Error {
        let names: Vec<&str> = FORMATS.iter().filter(|format| able(format)).map(|format| format.name).collect();
        let problem = format!("{} cannot be {what}", self.name);
        Error::config("format", problem, format!("use one of: {}", names.join(", "))).into()
    }
}

/// Semantic IDs as another tool made them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foreign {
    /// Item ids, `[N]`; none where the format numbers items by their place.
    pub ids: Option<Vec<ItemId>>,
    /// Their semantic IDs, [N, L].
    pub sids: SemanticIds,
    /// K of every level, `[L]`, where the format says it.
    pub codes_per_level: Option<Vec<u32>>,
}

/// What an import or export did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Exported {
    /// What was written.
    pub out: PathBuf,
    /// In which format.
    pub format: &'static str,
}

/// Brings what another tool made into a run: semantic IDs as its catalog, codebooks as its tokenizer.
///
/// In a run with data the catalog lists the data's items in their order, and every one needs an ID; in a new run it
/// lists the file's items. Items of one leaf are ordered as [`crate::stages::catalog::build`] orders them. `codes` is a number of codes per level, or one for all ("256", "256,256,128"); without it
/// the format's own numbers are taken, or every level has as many as its largest code needs.
///
/// # Errors
/// A malformed file; items without an ID, or IDs without an item (the first few are named); a code beyond `codes`.
pub fn import(run: &Run, format: &Format, file: &Path, codes: Option<&str>) -> Result<(Stage, Outcome)> {
    match format.import.ok_or_else(|| format.cannot("read", Format::imports))? {
        Import::Catalog(read) => Ok((Stage::Catalog, import_catalog(run, format, read(file)?, file, codes)?)),
        Import::Tokenizer(read) => {
            if codes.is_some() {
                let mend = "leave --codes out: codebooks say how many there are";
                return Err(Error::config("codes", format!("{} brings its own", format.name), mend).into());
            }
            let tokenizer = read(file)?;
            let config = json!({ "import": format.name });
            let wanted = Manifest::new(Stage::Tokenizer.name(), None, config, digests(file)?);
            let outcome = run.stage(Stage::Tokenizer, wanted, |out| {
                tokenizer.save(out.dir())?;
                Ok(json!({ "codes_per_level": tokenizer.codes_per_level() }))
            })?;
            Ok((Stage::Tokenizer, outcome))
        }
    }
}

/// Writes what a run has for another tool.
///
/// # Errors
/// No catalog or tokenizer; what the format cannot hold; whatever the file system says.
pub fn export(run: &Run, format: &'static Format, out: &Path) -> Result<Exported> {
    match format.export.ok_or_else(|| format.cannot("written", Format::exports))? {
        Export::Index(form) => write_index(&run.catalog()?, form, out)?,
        Export::Catalog(write) => {
            let catalog = run.catalog()?;
            match catalog.removed().next() {
                None => write(&catalog, out)?,
                Some(_) => write(&alive_only(&catalog)?, out)?,
            }
        }
        Export::Tokenizer(write) => write(&run.tokenizer()?, out)?,
    }
    Ok(Exported { out: out.to_path_buf(), format: format.name })
}

fn import_catalog(run: &Run, format: &Format, foreign: Foreign, file: &Path, codes: Option<&str>) -> Result<Outcome> {
    let mut inputs = digests(file)?;
    let with_data = run.has(Stage::Data);
    for stage in [Stage::Data, Stage::Split].into_iter().filter(|&stage| with_data && run.has(stage)) {
        inputs.insert(stage.name().to_owned(), run.digest(stage)?);
    }
    let codes_per_level = match (codes, foreign.codes_per_level) {
        (Some(codes), _) => parse_codes(codes, Some(foreign.sids.levels()))?,
        (None, Some(codes)) => codes,
        (None, None) => largest_codes(&foreign.sids),
    };
    let config = json!({ "import": format.name, "codes": codes_per_level });
    let wanted = Manifest::new(Stage::Catalog.name(), None, config, inputs);
    run.stage(Stage::Catalog, wanted, |out| {
        let data = if with_data { Some(run.data()?) } else { None };
        let prior = data.as_ref().map_or(Ok(None), |data| prior(run, data))?;
        let items = data.map(|data| data.items);
        let ids = match (foreign.ids, &items) {
            (Some(ids), _) => ids,
            (None, Some(items)) => by_place(items, foreign.sids.len(), file)?,
            (None, None) => (0..foreign.sids.len()).map(|item| ItemId::from(item.to_string())).collect(),
        };
        let index = Index { ids, sids: foreign.sids };
        let Index { ids, sids } = match &items {
            Some(items) => in_order_of(items, index, file)?,
            None => index,
        };
        let policy = CollisionPolicy::Postings;
        let catalog = Catalog::build(&ids, &sids, &codes_per_level, policy, prior.as_deref())?;
        versions::keep_changed(run)?;
        catalog.save(out.dir())?;
        Ok(facts(&catalog))
    })
}

/// A catalog without the items that were removed: other tools know nothing of them. Semantic IDs and the order within
/// a leaf stay.
fn alive_only(catalog: &Catalog) -> Result<Catalog> {
    let alive: Vec<ItemIndex> = (0..catalog.len() as ItemIndex).filter(|&item| catalog.is_alive(item)).collect();
    let mut place = vec![0u32; catalog.len()];
    for leaf in 0..catalog.trie().leaves() {
        for (at, &item) in catalog.postings(leaf).iter().enumerate() {
            place[item as usize] = u32::MAX - at as u32;
        }
    }
    let ids: Vec<ItemId> = alive.iter().map(|&item| ItemId::from(catalog.item_id(item))).collect();
    let codes = alive.iter().flat_map(|&item| catalog.semantic_id(item)).copied().collect();
    let prior: Vec<u32> = alive.iter().map(|&item| place[item as usize]).collect();
    let sids = SemanticIds::new(catalog.levels(), codes)?;
    Ok(Catalog::build(&ids, &sids, catalog.codes_per_level(), CollisionPolicy::Postings, Some(&prior))?)
}

/// sha256 of a file, or of every file of a folder.
fn digests(path: &Path) -> Result<BTreeMap<String, String>> {
    if !path.is_dir() {
        return Ok(BTreeMap::from([("index".to_owned(), sha256_file(path)?)]));
    }
    let mut found = BTreeMap::new();
    let mut folders = vec![(path.to_path_buf(), "index".to_owned())];
    while let Some((folder, name)) = folders.pop() {
        let io = |e| Error::io("read", &folder, e);
        for entry in std::fs::read_dir(&folder).map_err(io)? {
            let entry = entry.map_err(io)?;
            let name = format!("{name}/{}", entry.file_name().to_string_lossy());
            match entry.file_type().map_err(io)?.is_dir() {
                true => folders.push((entry.path(), name)),
                false => _ = found.insert(name, sha256_file(&entry.path())?),
            }
        }
    }
    Ok(found)
}

/// Refuses a catalog with postings where a format has one item a semantic ID.
fn refuse_shared_leaves(catalog: &Catalog, what: &str) -> Result<()> {
    let shared = (0..catalog.trie().leaves()).map(|leaf| catalog.postings(leaf)).find(|items| items.len() > 1);
    let Some(&[first, second, ..]) = shared else { return Ok(()) };
    let problem = format!(
        "items {:?} and {:?} share a semantic ID, which {what} cannot hold",
        catalog.item_id(first),
        catalog.item_id(second)
    );
    Err(Error::input("catalog", problem, "build it with --collisions suffix, and export again").into())
}

fn codes_of(catalog: &Catalog, item: ItemIndex) -> Vec<i64> {
    catalog.semantic_id(item).iter().map(|&code| i64::from(code)).collect()
}

fn by_place(items: &Items, count: usize, file: &Path) -> Result<Vec<ItemId>> {
    if count == items.len() {
        return Ok(items.ids().to_vec());
    }
    let problem = format!("{count} semantic IDs without item ids, but the run has {} items", items.len());
    let mend = "give the IDs of exactly the run's items, in their order";
    Err(Error::input(file.display().to_string(), problem, mend).into())
}

fn largest_codes(sids: &SemanticIds) -> Vec<u32> {
    let mut codes = vec![1; sids.levels()];
    for row in sids.rows() {
        for (most, &code) in codes.iter_mut().zip(row) {
            *most = u32::from(code).saturating_add(1).max(*most);
        }
    }
    codes
}

fn in_order_of(items: &Items, index: Index, file: &Path) -> Result<Index> {
    let rows: HashMap<&str, usize> = index.ids.iter().enumerate().map(|(row, id)| (id.as_str(), row)).collect();
    let without: Vec<&str> = items.ids().iter().map(|id| id.as_str()).filter(|id| !rows.contains_key(id)).collect();
    if !without.is_empty() {
        let problem =
            format!("{} of {} items have no semantic ID: {}", without.len(), items.len(), first_few(&without));
        let mend = "give them one, or import into a new run folder without data";
        return Err(Error::input(file.display().to_string(), problem, mend).into());
    }
    let unknown: Vec<&str> = index.ids.iter().map(|id| id.as_str()).filter(|id| items.index_of(id).is_none()).collect();
    if !unknown.is_empty() {
        let problem = format!("{} IDs belong to no item of the run: {}", unknown.len(), first_few(&unknown));
        let mend = "remove them, or prepare the data with these items";
        return Err(Error::input(file.display().to_string(), problem, mend).into());
    }
    let codes = items.ids().iter().flat_map(|id| index.sids.row(rows[id.as_str()]).iter().copied()).collect();
    Ok(Index { ids: items.ids().to_vec(), sids: SemanticIds::new(index.sids.levels(), codes)? })
}
