//! Files in object stores, named by a URL: `s3://`, `gs://`, `az://` (and their kin), `http://` and `https://`.
//!
//! A file is read by ranges, in blocks of 4 MiB, of which at most 16 are kept: 64 MiB whatever its size. Blocks that
//! follow one another are fetched four at a time. Requests that fail for a passing reason are tried again by the
//! `object_store` crate, which also knows the usual environment variables (`AWS_*`, `GOOGLE_*`, `AZURE_*`). A file that
//! changes while it is read is refused where its store tells states apart by a tag. Errors carry no credentials.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use futures::future::try_join_all;
use object_store::path::Path as ObjectPath;
use object_store::{GetOptions, ObjectStore, ObjectStoreExt, parse_url_opts};
use sidereal_core::{Error, Result};
use sidereal_data::ranges::{ReadRanges, check_range};
use tokio::runtime::Runtime;
use url::Url;

/// Bytes of one request.
const BLOCK_BYTES: u64 = 4 << 20;
/// Blocks fetched at a time where a file is read from front to back.
const BLOCKS_AT_A_TIME: u64 = 4;
/// Blocks kept.
const KEPT_BLOCKS: usize = 16;
/// Variables that stores are set up by begin so.
const VARIABLES: [&str; 3] = ["AWS_", "GOOGLE_", "AZURE_"];

/// How stores are reached: names and values as the `object_store` crate has them (`aws_region`, `aws_endpoint`).
#[derive(Clone, Default)]
pub struct StoreOptions(Vec<(String, String)>);

impl StoreOptions {
    /// The options in the environment: `AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT`, `GOOGLE_APPLICATION_CREDENTIALS`,
    /// `AZURE_STORAGE_ACCOUNT_NAME` and all others that begin so.
    pub fn from_environment() -> Self {
        let text = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
        let ours = text.filter(|(name, _)| VARIABLES.iter().any(|prefix| name.starts_with(prefix)));
        Self(ours.filter_map(|(name, value)| Some((name.to_ascii_lowercase(), value.into_string().ok()?))).collect())
    }

    /// With one option more.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.0.push((name.to_owned(), value.to_owned()));
        self
    }
}

impl fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values are credentials.
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

/// The URL that a location is, if it is none on disk.
pub(crate) fn url_of(location: &Path) -> Result<Option<Url>> {
    let Some(text) = location.to_str().filter(|text| text.contains("://")) else { return Ok(None) };
    let place = shown(text);
    let mend = "write it as s3://BUCKET/KEY, gs://BUCKET/KEY, az://CONTAINER/KEY or https://HOST/PATH";
    let url = Url::parse(text).map_err(|e| Error::input(&place, format!("it is no URL ({e})"), mend))?;
    if url.query().is_some() || !url.username().is_empty() || url.password().is_some() {
        let mend = "leave it away and give credentials by environment variables, or copy the file here";
        return Err(Error::input(place, "the URL carries a query or a user, which are not sent", mend));
    }
    Ok(Some(url))
}

/// A URL without what may be secret in it.
fn shown(text: &str) -> String {
    let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    format!("{scheme}://{}/{path}", host.rsplit('@').next().unwrap_or_default())
}

/// One object.
pub(crate) struct ObjectFile {
    place: String,
    // Requests run on the thread that asks.
    runtime: Runtime,
    store: Box<dyn ObjectStore>,
    path: ObjectPath,
    size: u64,
    tag: Option<String>,
    modified: Option<u64>,
    kept: Mutex<VecDeque<(u64, Bytes)>>,
}

impl ObjectFile {
    /// Asks for an object's length and tag.
    pub(crate) fn open(url: &Url, options: &StoreOptions) -> Result<Self> {
        let place = shown(url.as_str());
        let mut options = options.0.clone();
        if url.scheme() == "http" {
            // Who writes http:// means it.
            options.push(("allow_http".to_owned(), "true".to_owned()));
        }
        let refused = |error: &object_store::Error| Error::input(&place, told(error), mend(error));
        let (store, path) = parse_url_opts(url, options).map_err(|e| refused(&e))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| Error::io("read", &place, e))?;
        let about = runtime.block_on(store.head(&path)).map_err(|e| refused(&e))?;
        if about.size == 0 {
            let mend = "write it again: the program that wrote it may have failed";
            return Err(Error::input(place, "the file is empty", mend));
        }
        let modified = about.last_modified.timestamp_nanos_opt().filter(|&ns| ns > 0).map(i64::unsigned_abs);
        let (size, tag) = (about.size, about.e_tag.or(about.version));
        Ok(Self { place, runtime, store, path, size, tag, modified, kept: Mutex::default() })
    }

    pub(crate) fn place(&self) -> String {
        self.place.clone()
    }

    pub(crate) fn tag(&self) -> Option<String> {
        self.tag.clone()
    }

    pub(crate) fn modified(&self) -> Option<u64> {
        self.modified
    }

    /// Some block; with it come the next ones up to `last`, or a few more where the one before was read already.
    fn block(&self, number: u64, last: u64) -> io::Result<Bytes> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |kept: &VecDeque<(u64, Bytes)>, n: u64| kept.iter().position(|(kept, _)| *kept == n);
        if let Some(found) = of(&kept, number).and_then(|at| kept.remove(at)) {
            let bytes = found.1.clone();
            kept.push_back(found);
            return Ok(bytes);
        }
        let in_order = number > 0 && of(&kept, number - 1).is_some();
        let wished = if in_order { number + BLOCKS_AT_A_TIME - 1 } else { last.min(number + BLOCKS_AT_A_TIME - 1) };
        let end = wished.min((self.size - 1) / BLOCK_BYTES);
        let wanted: Vec<u64> = (number..=end).filter(|&n| of(&kept, n).is_none()).collect();
        let fetched = self.runtime.block_on(try_join_all(wanted.iter().map(|&n| self.fetch(n))))?;
        // The one that is asked for is the youngest.
        let first = fetched.first().cloned().unwrap_or_default();
        kept.extend(wanted.into_iter().zip(fetched).rev());
        while kept.len() > KEPT_BLOCKS {
            kept.pop_front();
        }
        Ok(first)
    }

    async fn fetch(&self, number: u64) -> io::Result<Bytes> {
        let range = number * BLOCK_BYTES..((number + 1) * BLOCK_BYTES).min(self.size);
        let wanted = range.end - range.start;
        // A weak tag never matches.
        let if_match = self.tag.clone().filter(|tag| !tag.starts_with("W/"));
        let options = GetOptions { range: Some(range.into()), if_match, ..GetOptions::default() };
        let told = |e: object_store::Error| io::Error::other(format!("{}; {}", told(&e), mend(&e)));
        let bytes = self.store.get_opts(&self.path, options).await.map_err(told)?.bytes().await.map_err(told)?;
        if bytes.len() as u64 != wanted {
            let problem = format!("the store gave {} bytes of the {wanted} that were asked for", bytes.len());
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, problem));
        }
        Ok(bytes)
    }
}

impl ReadRanges for ObjectFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, from: u64, len: usize) -> io::Result<Bytes> {
        check_range(self.size, from, len)?;
        if len == 0 {
            return Ok(Bytes::new());
        }
        let to = from + len as u64;
        let last = (to - 1) / BLOCK_BYTES;
        let part = |number: u64| {
            let block = self.block(number, last)?;
            let begin = number * BLOCK_BYTES;
            let end = (to - begin).min(block.len() as u64) as usize;
            Ok::<Bytes, io::Error>(block.slice(from.saturating_sub(begin) as usize..end))
        };
        if from / BLOCK_BYTES == last {
            return part(last);
        }
        let mut bytes = BytesMut::with_capacity(len);
        for number in from / BLOCK_BYTES..=last {
            bytes.extend_from_slice(&part(number)?);
        }
        Ok(bytes.freeze())
    }
}

impl fmt::Debug for ObjectFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The store holds credentials.
        write!(f, "ObjectFile({}, {} bytes)", self.place, self.size)
    }
}

/// An error in one line, without what follows a `?` in its URLs.
fn told(error: &object_store::Error) -> String {
    let text = error.to_string();
    let words = text.split_whitespace().map(|word| match word.contains("://") {
        true => word.split('?').next().unwrap_or_default(),
        false => word,
    });
    words.collect::<Vec<_>>().join(" ")
}

fn mend(error: &object_store::Error) -> &'static str {
    use object_store::Error as E;
    match error {
        E::NotFound { .. } => "check the bucket and the key",
        E::PermissionDenied { .. } | E::Unauthenticated { .. } => {
            "check the credentials in the environment (AWS_*, GOOGLE_*, AZURE_*) and what they may read"
        }
        E::Precondition { .. } => "the object was changed while it was read: run the same command again",
        E::NotSupported { .. } => "the server must answer range requests: copy the file here first",
        _ => "check the URL, the network and the store's environment variables (AWS_ENDPOINT, AWS_ALLOW_HTTP, ...)",
    }
}

#[cfg(test)]
mod tests;
