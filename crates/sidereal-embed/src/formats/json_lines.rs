//! Vectors as JSON Lines: an object a line, with a list of numbers and, where rows are to be matched by id, an item id.
//!
//! A row has no place that could be known: opening a file reads it once, counts its lines (blank ones are none) and keeps
//! where every [`MARKED`]th begins, so that reading can start near any row.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;

use serde_json::{Map, Value};
use sidereal_core::{Error, ItemId, Result};
use sidereal_data::ranges::ReadRanges;

use super::opened::{Opened, unread};
use super::{Batch, Contents, ID, USUAL_NAMES};

/// Rows from one kept place to the next.
const MARKED: usize = 1024;
/// Bytes of one read.
const READ_BYTES: usize = 1 << 20;
/// Longest line that is read.
const MAX_LINE_BYTES: u64 = 64 << 20;
/// Rows whose ids are read at a time.
const ID_ROWS: usize = 4096;
const AGAIN: &str = "write it again, one JSON object a line";

pub(super) struct JsonLines {
    bytes: Arc<dyn ReadRanges>,
    place: String,
    /// The key of the vectors.
    name: String,
    pub(super) rows: usize,
    pub(super) width: usize,
    pub(super) has_ids: bool,
    /// Where the rows 0, [`MARKED`], 2 [`MARKED`], .. begin.
    marks: Vec<u64>,
}

pub(super) fn open(opened: &Opened, name: Option<&str>) -> Result<Contents> {
    let (bytes, place) = (Arc::clone(&opened.bytes), opened.place.clone());
    let mut file =
        JsonLines { bytes, place, name: String::new(), rows: 0, width: 0, has_ids: false, marks: Vec::new() };
    file.look_through(name)?;
    Ok(Contents::JsonLines(file))
}

impl JsonLines {
    /// Counts rows; looks at those before the first vector, which says its key and its width.
    fn look_through(&mut self, name: Option<&str>) -> Result<()> {
        let mut marks = Vec::new();
        let mut found: Option<(String, usize)> = None;
        let mut has_ids = false;
        let mut lines = Lines::new(&*self.bytes, &self.place, 0, 0);
        while let Some(row) = lines.next()? {
            if row.is_multiple_of(MARKED) {
                marks.push(lines.begin);
            }
            if found.is_some() {
                continue;
            }
            let object = lines.object()?;
            has_ids |= object.contains_key(ID);
            let key = match name {
                Some(name) => object.contains_key(name).then_some(name),
                None => USUAL_NAMES.into_iter().find(|usual| object.contains_key(*usual)),
            };
            let Some(key) = key else {
                let there: Vec<&str> = object.keys().map(String::as_str).collect();
                let wanted = name.map_or_else(|| USUAL_NAMES.join(", "), str::to_owned);
                let problem = format!("no key is named {wanted} (there are: {})", there.join(", "));
                return Err(lines.wrong(problem, "name the key of vectors with `--name`, or write it again"));
            };
            if let Some(Value::Array(vector)) = object.get(key) {
                found = Some((key.to_owned(), vector.len()));
            }
        }
        let rows = lines.row;
        if let (true, None) = (rows > 0, &found) {
            let mend = "give every item a vector, or leave the line out of a file that has item ids";
            return Err(Error::input(format!("{}, row 0", self.place), "the vector is missing", mend));
        }
        let (name, width) = found.unwrap_or_default();
        (self.rows, self.marks, self.has_ids, self.name, self.width) = (rows, marks, has_ids, name, width);
        Ok(())
    }

    pub(super) fn batches(
        &self,
        from_row: usize,
        batch_rows: usize,
        keep_missing: bool,
    ) -> impl Iterator<Item = Result<Batch>> + '_ {
        let mark = from_row / MARKED;
        let begin = self.marks.get(mark).copied().unwrap_or_else(|| self.bytes.size());
        let mut lines = Lines::new(&*self.bytes, &self.place, begin, mark * MARKED);
        let mut ended = false;
        std::iter::from_fn(move || {
            if ended {
                return None;
            }
            let batch = self.batch(&mut lines, from_row, batch_rows, keep_missing);
            ended = !matches!(&batch, Ok(Some(_)));
            batch.transpose()
        })
    }

    fn batch(
        &self,
        lines: &mut Lines<'_>,
        from_row: usize,
        batch_rows: usize,
        keep_missing: bool,
    ) -> Result<Option<Batch>> {
        let mut batch: Option<Batch> = None;
        let mut taken = 0;
        while taken < batch_rows && lines.row < self.rows {
            let Some(row) = lines.next()? else { break };
            if row < from_row {
                continue;
            }
            let ids = self.has_ids.then(Vec::new);
            let batch = batch.get_or_insert(Batch { first_row: row, ids, values: Vec::new(), missing: Vec::new() });
            let mut object = lines.object()?;
            if let Some(ids) = &mut batch.ids {
                ids.push(id_of(&object, lines)?);
            }
            if !self.extend(object.remove(&self.name), keep_missing, &mut batch.values, lines)? {
                batch.missing.push(row);
            }
            taken += 1;
        }
        Ok(batch)
    }

    /// Appends a vector, or NaN and `false` where it is missing and that is allowed.
    fn extend(&self, vector: Option<Value>, keep_missing: bool, out: &mut Vec<f32>, lines: &Lines<'_>) -> Result<bool> {
        let numbers = match vector {
            Some(Value::Array(numbers)) => numbers,
            None | Some(Value::Null) if keep_missing => {
                out.extend(std::iter::repeat_n(f32::NAN, self.width));
                return Ok(false);
            }
            None | Some(Value::Null) => {
                let mend = "give every item a vector, or leave the line out of a file that has item ids";
                return Err(lines.wrong("the vector is missing", mend));
            }
            Some(_) => return Err(lines.wrong(format!("{:?} is no list of numbers", self.name), AGAIN)),
        };
        if numbers.len() != self.width {
            let problem = format!("the vector has {} numbers, but others have {}", numbers.len(), self.width);
            return Err(lines.wrong(problem, "give vectors of one width"));
        }
        for number in &numbers {
            let Some(number) = number.as_f64() else {
                return Err(lines.wrong(format!("{number} in the vector is no number"), AGAIN));
            };
            out.push(number as f32);
        }
        Ok(true)
    }

    pub(super) fn id_batches(&self) -> super::IdBatches<'_> {
        if !self.has_ids {
            return Box::new(std::iter::empty());
        }
        let batches = self.batches(0, ID_ROWS, true);
        Box::new(batches.map(|batch| batch.map(|batch| (batch.first_row, batch.ids.unwrap_or_default()))))
    }
}

fn id_of(object: &Map<String, Value>, lines: &Lines<'_>) -> Result<ItemId> {
    match object.get(ID) {
        Some(Value::String(id)) if !id.is_empty() => Ok(ItemId::from(id.as_str())),
        Some(Value::Number(id)) if id.is_i64() || id.is_u64() => Ok(ItemId::from(id.to_string())),
        None | Some(Value::Null | Value::String(_)) => {
            Err(lines.wrong("the item id is missing", "give every row an id, or remove the row"))
        }
        Some(_) => Err(lines.wrong("the item id is neither a string nor an integer", AGAIN)),
    }
}

/// The lines of a file that are not blank, from some byte on.
struct Lines<'a> {
    reader: BufReader<Ranges<'a>>,
    place: &'a str,
    /// Where the line that was read last begins.
    begin: u64,
    /// Where the next one begins.
    next: u64,
    /// The row that comes next.
    row: usize,
    buffer: Vec<u8>,
}

impl<'a> Lines<'a> {
    fn new(bytes: &'a dyn ReadRanges, place: &'a str, begin: u64, row: usize) -> Self {
        let reader = BufReader::with_capacity(READ_BYTES, Ranges { bytes, at: begin });
        Self { reader, place, begin, next: begin, row, buffer: Vec::new() }
    }

    /// Reads the next line and gives its row.
    fn next(&mut self) -> Result<Option<usize>> {
        loop {
            self.buffer.clear();
            let read = (&mut self.reader).take(MAX_LINE_BYTES).read_until(b'\n', &mut self.buffer);
            let read = read.map_err(|e| unread(self.place, &e))? as u64;
            (self.begin, self.next) = (self.next, self.next + read);
            if read == 0 {
                return Ok(None);
            }
            if self.text().trim_ascii().is_empty() {
                continue;
            }
            self.row += 1;
            if read == MAX_LINE_BYTES {
                return Err(self.wrong(format!("the line is longer than {} MiB", MAX_LINE_BYTES >> 20), AGAIN));
            }
            return Ok(Some(self.row - 1));
        }
    }

    fn text(&self) -> &[u8] {
        let mark = self.buffer.strip_prefix(b"\xef\xbb\xbf").filter(|_| self.begin == 0);
        mark.unwrap_or(&self.buffer)
    }

    /// The line as an object.
    fn object(&self) -> Result<Map<String, Value>> {
        match serde_json::from_slice(self.text()) {
            Ok(Value::Object(object)) => Ok(object),
            Ok(_) => Err(self.wrong("this is not a JSON object", AGAIN)),
            Err(e) => {
                let told = e.to_string().replace(" at line 1 column", " at column");
                Err(self.wrong(format!("this is not JSON ({told})"), AGAIN))
            }
        }
    }

    /// An error about the line that was read last.
    fn wrong(&self, problem: impl Into<String>, mend: &str) -> Error {
        Error::input(format!("{}, row {}", self.place, self.row.saturating_sub(1)), problem, mend)
    }
}

/// Bytes from some place on.
struct Ranges<'a> {
    bytes: &'a dyn ReadRanges,
    at: u64,
}

impl Read for Ranges<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let left = self.bytes.size().saturating_sub(self.at);
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(out.len());
        if len == 0 {
            return Ok(0);
        }
        let bytes = self.bytes.read(self.at, len)?;
        self.at += len as u64;
        if let Some(out) = out.get_mut(..len) {
            out.copy_from_slice(&bytes);
        }
        Ok(len)
    }
}
