//! The catalog's file: written at once, opened without reading it, verified on request.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::segment::Segment;
use super::{Catalog, Header, NO_LEAF};
use crate::array_file::{Array, ArrayFile, Entry, write_arrays};
use crate::error::{Error, Result};
use crate::trie::Trie;

/// File name of a catalog inside its folder.
pub const FILE: &str = "catalog.safetensors";
/// Version of the file's format. Files before 3 stored more of the trie, and those of catalogs that were only built had
/// no number.
pub const FORMAT_VERSION: u32 = 3;
/// Most codes that a level can have: a code is 16 bits wide.
const MAX_CODES: u32 = 1 << 16;

/// Refuses a header of another version before its fields are read.
fn check_format(header: &str) -> Result<(), String> {
    #[derive(Deserialize)]
    struct Version {
        format_version: Option<u32>,
    }
    let version: Version = serde_json::from_str(header).map_err(|e| format!("its header: {e}"))?;
    match version.format_version {
        Some(FORMAT_VERSION) => Ok(()),
        Some(found) => Err(format!("format version {found}, but this program reads {FORMAT_VERSION}")),
        None => Err(format!("an older format, but this program reads version {FORMAT_VERSION}")),
    }
}

impl Catalog {
    /// Writes the catalog into a folder.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn save(&self, dir: &Path) -> Result<()> {
        if self.live.is_some() {
            return self.merged()?.save(dir);
        }
        let base = &self.base;
        let mut entries = vec![
            Entry::shaped("codes", &[self.len(), self.levels()], Array::U16(&base.codes)),
            Entry::flat("leaf_of", Array::U32(&base.leaf_of)),
            Entry::flat("postings_start", Array::U32(&base.postings_start)),
            Entry::flat("postings", Array::U32(&base.postings)),
            Entry::flat("id_start", Array::U64(&self.id_start)),
            Entry::flat("id_bytes", Array::U8(&self.id_bytes)),
        ];
        entries.extend(base.trie.entries());
        let header = serde_json::to_string(&self.header).unwrap_or_default();
        let metadata = BTreeMap::from([("catalog".to_owned(), header), ("version".to_owned(), self.version.clone())]);
        write_arrays(&dir.join(FILE), &entries, &metadata)
    }

    /// Opens a catalog, memory-mapped. The header and the lengths of arrays are checked; what is in them is not read.
    ///
    /// # Errors
    /// A file that is missing, not a catalog, of another version, or whose arrays do not fit together.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join(FILE);
        let file = ArrayFile::open(&path)?;
        let bad = |problem: String| Error::artifact(&path, problem, "build the catalog again");
        let text = file.metadata("catalog").ok_or_else(|| bad("this is not a catalog".to_owned()))?;
        check_format(text).map_err(bad)?;
        let header: Header = serde_json::from_str(text).map_err(|e| bad(format!("its header: {e}")))?;
        check_header(&header).map_err(bad)?;
        let catalog = Self {
            base: Segment {
                trie: Trie::open(&file, &header.codes_per_level)?,
                codes: file.column("codes")?,
                leaf_of: file.column("leaf_of")?,
                postings_start: file.column("postings_start")?,
                postings: file.column("postings")?,
            },
            id_start: file.column("id_start")?,
            id_bytes: file.column("id_bytes")?,
            version: file.metadata("version").unwrap_or_default().to_owned(),
            header,
            live: None,
        };
        let (n, base) = (catalog.len(), &catalog.base);
        let fits = Some(base.codes.len()) == n.checked_mul(catalog.levels())
            && base.leaf_of.len() == n
            && base.postings.len() <= n
            && base.postings_start.len() == base.trie.leaves() as usize + 1
            && catalog.id_start.len() == n + 1;
        if fits { Ok(catalog) } else { Err(bad("its arrays have other lengths than its header says".to_owned())) }
    }

    /// Opens a catalog and reads all of it, as [`Catalog::verify`] does.
    ///
    /// # Errors
    /// As [`Catalog::open`]; content that is not as it must be.
    pub fn open_verified(dir: &Path) -> Result<Self> {
        let catalog = Self::open(dir)?;
        let mend = "build it again, or go back to the version before";
        catalog.check().map_err(|problem| Error::artifact(dir.join(FILE), problem, mend))?;
        Ok(catalog)
    }

    /// Reads the whole catalog (of one that serves, its base): every array must hold what a built catalog's does, and the content must have the version
    /// that the file names.
    ///
    /// # Errors
    /// Says what is not as it must be.
    pub fn verify(&self) -> Result<()> {
        self.check().map_err(|problem| {
            let mend = "build it again, or go back to the version before";
            Error::input(format!("catalog {}", self.version), format!("the file is damaged: {problem}"), mend)
        })
    }

    fn check(&self) -> Result<(), String> {
        let (n, base) = (self.header.items as usize, &self.base);
        base.trie.verify(self.codes_per_level())?;
        let ids_sound = self.id_start.first() == Some(&0)
            && self.id_start.windows(2).all(|w| w[0] <= w[1])
            && self.id_start.last() == Some(&(self.id_bytes.len() as u64))
            && std::str::from_utf8(&self.id_bytes)
                .is_ok_and(|text| self.id_start.iter().all(|&at| text.is_char_boundary(at as usize)));
        if !ids_sound {
            return Err("its item ids are damaged".to_owned());
        }
        let row_fits =
            |row: &[u16]| row.iter().zip(self.codes_per_level()).all(|(&code, &codes)| u32::from(code) < codes);
        if let Some(item) = base.codes.chunks_exact(self.levels()).position(|row| !row_fits(row)) {
            return Err(format!("a code of item {item} is not below its level's number of codes"));
        }
        let leaves = base.trie.leaves();
        let alive = base.leaf_of.iter().filter(|&&leaf| leaf != NO_LEAF).count();
        let postings_sound = base.postings_start.first() == Some(&0)
            && base.postings_start.last() == Some(&(base.postings.len() as u32))
            && base.postings_start.windows(2).all(|w| w[0] < w[1])
            && alive == base.postings.len()
            && base.postings.iter().all(|&item| (item as usize) < n)
            && (0..leaves).all(|leaf| base.postings(leaf).iter().all(|&item| base.leaf_of[item as usize] == leaf));
        if !postings_sound {
            return Err("its postings are damaged".to_owned());
        }
        // A catalog that was only built has removed nothing.
        if self.header.life.is_none() && alive != n {
            return Err("its postings do not list every item".to_owned());
        }
        if !base.postings.iter().all(|&item| base.trie.find(base.semantic_id(item)) == base.leaf_of(item)) {
            return Err("its trie and its semantic IDs disagree".to_owned());
        }
        if self.version != self.content_version() {
            return Err("its content does not have the version that it names".to_owned());
        }
        Ok(())
    }
}

fn check_header(header: &Header) -> Result<(), String> {
    let levels = header.codes_per_level.len();
    if header.items == 0 || header.items == NO_LEAF || !(1..=levels).contains(&header.tokenizer_levels) {
        return Err("its header names no items or levels".to_owned());
    }
    if let Some(codes) = header.codes_per_level.iter().find(|codes| !(1..=MAX_CODES).contains(*codes)) {
        return Err(format!("its header names a level of {codes} codes"));
    }
    match &header.life {
        Some(life) if !life.is_sound(header.items) => {
            Err("its header contradicts itself about earlier versions".to_owned())
        }
        _ => Ok(()),
    }
}
