//! Prepared data on disk: `items.parquet` and `interactions.parquet`, written and read in record batches.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Float32Array, Float64Array, Int64Array, ListBuilder, RecordBatch, StringArray,
    StringBuilder, UInt32Array,
};
use arrow::datatypes::{DataType, Field, Float32Type, Float64Type, Int64Type, Schema, UInt32Type};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use sidereal_core::artifact::{MANIFEST, read_manifest, verify_files};
use sidereal_core::{Attribute, Error, Histories, ItemId, Items, Result};

use crate::facts::Facts;
use crate::parquet_file::ParquetFile;
use crate::prepare::{ItemRows, PreparedData};

/// Name of the items table in the stage's folder.
pub const ITEMS: &str = "items.parquet";
/// Name of the interactions table in the stage's folder.
pub const INTERACTIONS: &str = "interactions.parquet";

const IN_FILE_KEY: &str = "sidereal.items_in_file";
const FACTS_KEY: &str = "sidereal.facts";
const BATCH_ROWS: usize = 1 << 16;
const AGAIN: &str = "prepare the data again";

impl PreparedData {
    /// Writes both tables into a folder, which is a stage being written.
    ///
    /// `items.parquet`: `item_id`, `source_row` (the row of the items file), `title`, and a column per attribute.
    /// `interactions.parquet`: `user_id`, `item_id`, `item` (its row in `items.parquet`), `position`, and where the data
    /// has them `timestamp` and `weight`; users together, each user's events in order.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn save_into(&self, dir: &Path) -> Result<()> {
        write_items(&dir.join(ITEMS), self)?;
        write_interactions(&dir.join(INTERACTIONS), self)
    }

    /// Reads both tables, checked against the folder's manifest if it has one.
    ///
    /// # Errors
    /// A file that is missing, damaged, changed since it was written, or does not fit the other one.
    pub fn load(dir: &Path) -> Result<Self> {
        if dir.join(MANIFEST).is_file() {
            verify_files(dir, &read_manifest(dir, "data")?)?;
        }
        let (items, item_rows) = read_items(&dir.join(ITEMS))?;
        let path = dir.join(INTERACTIONS);
        let (histories, partial_times, facts) = read_interactions(&path, items.len())?;
        Ok(Self { items, histories, item_rows, facts, partial_times })
    }
}

fn write_items(path: &Path, data: &PreparedData) -> Result<()> {
    let items = &data.items;
    let mut fields = vec![
        Field::new("item_id", DataType::Utf8, false),
        Field::new("source_row", DataType::UInt32, false),
        Field::new("title", DataType::Utf8, true),
    ];
    fields.extend(items.attributes().iter().map(|(name, column)| {
        let data_type = match column {
            Attribute::Text(_) => DataType::Utf8,
            Attribute::Number(_) => DataType::Float64,
            Attribute::TextList(_) => DataType::List(Field::new("item", DataType::Utf8, true).into()),
        };
        Field::new(name, data_type, true)
    }));
    let source_rows = data.kept_items();
    let metadata = [(IN_FILE_KEY, data.item_rows.in_file.to_string())];
    write(path, fields, &metadata, items.len(), |from, to| {
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(items.ids()[from..to].iter().map(|id| Some(id.as_str())).collect::<StringArray>()),
            Arc::new(UInt32Array::from(source_rows[from..to].to_vec())),
            Arc::new(items.titles()[from..to].iter().map(Option::as_deref).collect::<StringArray>()),
        ];
        for column in items.attributes().values() {
            columns.push(match column {
                Attribute::Text(cells) => {
                    Arc::new(cells[from..to].iter().map(Option::as_deref).collect::<StringArray>())
                }
                Attribute::Number(cells) => Arc::new(cells[from..to].iter().copied().collect::<Float64Array>()),
                Attribute::TextList(cells) => {
                    let mut lists = ListBuilder::new(StringBuilder::new());
                    for words in &cells[from..to] {
                        words.iter().for_each(|word| lists.values().append_value(word));
                        lists.append(true);
                    }
                    Arc::new(lists.finish())
                }
            });
        }
        columns
    })
}

fn write_interactions(path: &Path, data: &PreparedData) -> Result<()> {
    let histories = &data.histories;
    let mut fields = vec![
        Field::new("user_id", DataType::Utf8, false),
        Field::new("item_id", DataType::Utf8, false),
        Field::new("item", DataType::UInt32, false),
        Field::new("position", DataType::UInt32, false),
    ];
    let times = |from: usize, to: usize| -> Option<ArrayRef> {
        match (histories.times(), &data.partial_times) {
            (Some(times), _) => Some(Arc::new(Int64Array::from(times[from..to].to_vec()))),
            (None, Some(times)) => Some(Arc::new(times[from..to].iter().copied().collect::<Int64Array>())),
            (None, None) => None,
        }
    };
    if times(0, 0).is_some() {
        fields.push(Field::new("timestamp", DataType::Int64, true));
    }
    if histories.weights().is_some() {
        fields.push(Field::new("weight", DataType::Float32, false));
    }
    let metadata = [(FACTS_KEY, data.facts.to_json().to_string())];
    let offsets = histories.offsets();
    write(path, fields, &metadata, histories.events(), |from, to| {
        // The user of the first event, then along.
        let mut user = offsets.partition_point(|&offset| offset <= from as u64) - 1;
        let (mut users, mut positions) = (Vec::with_capacity(to - from), Vec::with_capacity(to - from));
        for event in from as u64..to as u64 {
            while offsets[user + 1] <= event {
                user += 1;
            }
            users.push(histories.user(user));
            positions.push((event - offsets[user]) as u32);
        }
        let items = &histories.items()[from..to];
        let ids = items.iter().map(|&item| Some(data.items.id(item).as_str()));
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(users)),
            Arc::new(ids.collect::<StringArray>()),
            Arc::new(UInt32Array::from(items.to_vec())),
            Arc::new(UInt32Array::from(positions)),
        ];
        columns.extend(times(from, to));
        columns.extend(histories.weights().map(|w| Arc::new(Float32Array::from(w[from..to].to_vec())) as ArrayRef));
        columns
    })
}

/// Writes `rows` rows, whose columns `batch` makes for a range of them.
fn write(
    path: &Path,
    fields: Vec<Field>,
    metadata: &[(&str, String)],
    rows: usize,
    batch: impl Fn(usize, usize) -> Vec<ArrayRef>,
) -> Result<()> {
    let schema = Arc::new(Schema::new(fields));
    let defect =
        |problem: String| Error::artifact(path, problem, "check that there is space, and run the command again");
    let pairs = metadata.iter().map(|(key, value)| KeyValue::new((*key).to_owned(), value.clone())).collect();
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_key_value_metadata(Some(pairs))
        .set_created_by(concat!("sidereal ", env!("CARGO_PKG_VERSION")).to_owned())
        .build();
    let file = File::create(path).map_err(|e| Error::io("create", path, e))?;
    let mut writer =
        ArrowWriter::try_new(file, Arc::clone(&schema), Some(properties)).map_err(|e| defect(e.to_string()))?;
    for from in (0..rows).step_by(BATCH_ROWS) {
        let columns = batch(from, (from + BATCH_ROWS).min(rows));
        let batch = RecordBatch::try_new(Arc::clone(&schema), columns).map_err(|e| defect(e.to_string()))?;
        writer.write(&batch).map_err(|e| defect(e.to_string()))?;
    }
    let file = writer.into_inner().map_err(|e| defect(e.to_string()))?;
    file.sync_all().map_err(|e| Error::io("sync", path, e))
}

/// Our own file; every column is asked for by name and type.
struct Ours {
    file: ParquetFile,
    path: std::path::PathBuf,
}

impl Ours {
    fn open(path: &Path) -> Result<Self> {
        let file = ParquetFile::open(path).map_err(|e| Error::artifact(path, e.to_string(), AGAIN))?;
        Ok(Self { file, path: path.to_path_buf() })
    }

    fn damaged(&self, problem: impl Into<String>) -> Error {
        Error::artifact(&self.path, problem, AGAIN)
    }

    fn key_value(&self, key: &str) -> Result<&str> {
        self.file.key_value(key).ok_or_else(|| self.damaged(format!("it has no {key:?}")))
    }

    /// A column of a batch, of the type that was written and without nulls where none may be.
    fn column<'a>(&self, batch: &'a RecordBatch, name: &str, wanted: &DataType, nulls: bool) -> Result<&'a ArrayRef> {
        let found = batch.column_by_name(name).filter(|column| column.data_type() == wanted);
        let found = found.filter(|column| nulls || column.null_count() == 0);
        found.ok_or_else(|| self.damaged(format!("it has no sound column {name:?}")))
    }

    fn batches(&self) -> Result<impl Iterator<Item = Result<RecordBatch>>> {
        let all: Vec<usize> = (0..self.file.columns().len()).collect();
        let batches = self.file.batches(&all, 0)?;
        Ok(batches.map(|batch| batch.map_err(|e| self.damaged(e.to_string()))))
    }
}

fn read_items(path: &Path) -> Result<(Items, ItemRows)> {
    let ours = Ours::open(path)?;
    let in_file = ours.key_value(IN_FILE_KEY)?.parse().map_err(|_| ours.damaged("its number of rows is no number"))?;
    let (mut ids, mut kept, mut titles) = (Vec::new(), Vec::new(), Vec::new());
    let mut attributes: BTreeMap<String, Attribute> = BTreeMap::new();
    for batch in ours.batches()? {
        let batch = batch?;
        let column = ours.column(&batch, "item_id", &DataType::Utf8, false)?.as_string::<i32>();
        ids.extend(column.iter().flatten().map(ItemId::from));
        kept.extend_from_slice(
            ours.column(&batch, "source_row", &DataType::UInt32, false)?.as_primitive::<UInt32Type>().values(),
        );
        let column = ours.column(&batch, "title", &DataType::Utf8, true)?.as_string::<i32>();
        titles.extend(column.iter().map(|title| title.map(str::to_owned)));
        for (field, array) in batch.schema().fields().iter().zip(batch.columns()).skip(3) {
            read_attribute(&mut attributes, field, array)
                .ok_or_else(|| ours.damaged(format!("column {:?} has the type {}", field.name(), field.data_type())))?;
        }
    }
    let sound = kept.windows(2).all(|pair| pair[0] < pair[1]) && kept.last().is_none_or(|&last| last < in_file);
    if !sound {
        return Err(ours.damaged("its source rows are out of order"));
    }
    let kept = Some(kept).filter(|kept| kept.len() < in_file as usize);
    let items = Items::new(ids, titles, attributes).map_err(|e| ours.damaged(e.to_string()))?;
    Ok((items, ItemRows { in_file, kept }))
}

fn read_attribute(attributes: &mut BTreeMap<String, Attribute>, field: &Field, array: &ArrayRef) -> Option<()> {
    let new = || match field.data_type() {
        DataType::Utf8 => Some(Attribute::Text(Vec::new())),
        DataType::Float64 => Some(Attribute::Number(Vec::new())),
        DataType::List(words) if *words.data_type() == DataType::Utf8 => Some(Attribute::TextList(Vec::new())),
        _ => None,
    };
    if !attributes.contains_key(field.name()) {
        attributes.insert(field.name().clone(), new()?);
    }
    match attributes.get_mut(field.name())? {
        Attribute::Text(column) => column.extend(array.as_string::<i32>().iter().map(|text| text.map(str::to_owned))),
        Attribute::Number(column) => column.extend(array.as_primitive::<Float64Type>().iter()),
        Attribute::TextList(column) => {
            for list in array.as_list::<i32>().iter() {
                let list = list.map(|list| list.as_string::<i32>().iter().flatten().map(str::to_owned).collect());
                column.push(list.unwrap_or_default());
            }
        }
    }
    Some(())
}

type Read = (Histories, Option<Vec<Option<i64>>>, Facts);

fn read_interactions(path: &Path, n_items: usize) -> Result<Read> {
    let ours = Ours::open(path)?;
    let facts: Facts = serde_json::from_str(ours.key_value(FACTS_KEY)?).map_err(|e| ours.damaged(e.to_string()))?;
    let names = ours.file.names();
    let (has_times, has_weights) = (names.contains(&"timestamp"), names.contains(&"weight"));
    let (mut users, mut offsets, mut items): (Vec<String>, Vec<u64>, Vec<u32>) = Default::default();
    let (mut times, mut missing, mut weights): (Vec<i64>, Vec<usize>, Vec<f32>) = Default::default();
    for batch in ours.batches()? {
        let batch = batch?;
        let of_user = ours.column(&batch, "user_id", &DataType::Utf8, false)?.as_string::<i32>();
        for (row, user) in of_user.iter().flatten().enumerate() {
            if users.last().is_none_or(|last| last != user) {
                users.push(user.to_owned());
                offsets.push((items.len() + row) as u64);
            }
        }
        if has_times {
            let column = ours.column(&batch, "timestamp", &DataType::Int64, true)?.as_primitive::<Int64Type>();
            missing.extend((0..column.len()).filter(|&row| column.is_null(row)).map(|row| items.len() + row));
            times.extend_from_slice(column.values());
        }
        if has_weights {
            let column = ours.column(&batch, "weight", &DataType::Float32, false)?.as_primitive::<Float32Type>();
            weights.extend_from_slice(column.values());
        }
        items.extend_from_slice(
            ours.column(&batch, "item", &DataType::UInt32, false)?.as_primitive::<UInt32Type>().values(),
        );
    }
    offsets.push(items.len() as u64);
    if let Some(&item) = items.iter().find(|&&item| item as usize >= n_items) {
        return Err(ours.damaged(format!("it names item {item}, but there are {n_items}")));
    }
    let partial = (!missing.is_empty()).then(|| {
        let mut partial: Vec<Option<i64>> = times.iter().copied().map(Some).collect();
        missing.iter().for_each(|&row| partial[row] = None);
        partial
    });
    let times = (has_times && partial.is_none()).then_some(times);
    let weights = has_weights.then_some(weights);
    let histories = Histories::new(users, offsets, items, times, weights).map_err(|e| ours.damaged(e.to_string()))?;
    Ok((histories, partial, facts))
}
