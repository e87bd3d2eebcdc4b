#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{
    BooleanArray, Date32Array, DictionaryArray, Float32Array, Float64Array, Int32Array, Int64Array, ListBuilder,
    StringArray, StringBuilder, TimestampNanosecondArray, UInt64Array,
};
use arrow::datatypes::Int32Type;
use parquet::arrow::ArrowWriter;

use super::*;

fn written(dir: &Path, columns: Vec<(&str, ArrayRef)>) -> PathBuf {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let path = dir.join("t.parquet");
    let mut writer = ArrowWriter::try_new(std::fs::File::create(&path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    path
}

fn ints(values: &[i64]) -> ArrayRef {
    Arc::new(Int64Array::from(values.to_vec()))
}

fn strings(values: &[Option<&str>]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

fn items_error(columns: Vec<(&str, ArrayRef)>) -> String {
    let dir = tempfile::tempdir().unwrap();
    items(&written(dir.path(), columns), &ColumnMap::default()).unwrap_err().to_string()
}

fn events_error(columns: Vec<(&str, ArrayRef)>) -> String {
    let dir = tempfile::tempdir().unwrap();
    interactions(&written(dir.path(), columns), &ColumnMap::default()).unwrap_err().to_string()
}

#[test]
fn columns_of_many_types_become_attributes() {
    let dir = tempfile::tempdir().unwrap();
    let mut tags = ListBuilder::new(StringBuilder::new());
    tags.append_value([Some("a"), Some("b")]);
    tags.append_null();
    let mut vectors = ListBuilder::new(arrow::array::Float32Builder::new());
    vectors.append_value([Some(1.0)]);
    vectors.append_value([Some(1.0)]);
    let brand: DictionaryArray<Int32Type> = vec![Some("x"), None].into_iter().collect();
    let path = written(
        dir.path(),
        vec![
            ("item_id", ints(&[7, -1])),
            ("title", strings(&[Some("t"), Some("")])),
            ("brand", Arc::new(brand)),
            ("price", Arc::new(Float64Array::from(vec![Some(1.5), Some(f64::NAN)]))),
            ("year", Arc::new(Int32Array::from(vec![Some(1999), None]))),
            ("new", Arc::new(BooleanArray::from(vec![true, false]))),
            ("since", Arc::new(Date32Array::from(vec![0, 1]))),
            ("tags", Arc::new(tags.finish())),
            ("vector", Arc::new(vectors.finish())),
        ],
    );
    let table = items(&path, &ColumnMap::default()).unwrap();
    assert_eq!(table.ids(), ["7", "-1"]);
    assert_eq!(table.titles(), [Some("t".to_owned()), None]);
    let text = |a: &str, b: Option<&str>| Attribute::Text(vec![Some(a.to_owned()), b.map(str::to_owned)]);
    assert_eq!(table.attributes()["brand"], text("x", None));
    assert_eq!(table.attributes()["price"], Attribute::Number(vec![Some(1.5), None]));
    assert_eq!(table.attributes()["year"], Attribute::Number(vec![Some(1999.0), None]));
    assert_eq!(table.attributes()["new"], text("true", Some("false")));
    assert_eq!(table.attributes()["since"], text("1970-01-01", Some("1970-01-02")));
    assert_eq!(table.attributes()["tags"], Attribute::TextList(vec![vec!["a".into(), "b".into()], vec![]]));
    assert_eq!(table.ignored(), ["vector"]);
}

#[test]
fn interactions_are_read_with_their_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let path = written(
        dir.path(),
        vec![
            ("rating", Arc::new(Float32Array::from(vec![0.5, 5.0]))),
            ("timestamp", Arc::new(TimestampNanosecondArray::from(vec![1_000_000_999, -1000]))),
            ("position", Arc::new(Int32Array::from(vec![1, 0]))),
            ("item_id", Arc::new(UInt64Array::from(vec![u64::MAX, 3]))),
            ("user_id", strings(&[Some("u\u{0}"), Some("v")])),
        ],
    );
    let events = interactions(&path, &ColumnMap::default()).unwrap();
    assert_eq!((events.user(0), events.item(0), events.item(1)), ("u\u{0}", "18446744073709551615", "3"));
    assert_eq!((events.position(0), events.time(0), events.time(1)), (Some(1), Some(1_000_000), Some(-1)));
    assert_eq!((events.weight(0), events.time_unit()), (Some(0.5), Some(crate::table::TimeUnit::Microseconds)));
}

#[test]
fn wrong_types_and_missing_columns_are_told() {
    let error = items_error(vec![("item_id", Arc::new(Float64Array::from(vec![1.0])))]);
    assert!(
        error.contains("t.parquet: column \"item_id\" is Float64, but ids are strings or integers; cast"),
        "{error}"
    );
    let error = items_error(vec![("asin", ints(&[1])), ("title", ints(&[1]))]);
    assert!(error.contains("there is no column \"item_id\" (there are: \"asin\", \"title\")"), "{error}");
    assert!(items_error(vec![("item_id", ints(&[1])), ("title", ints(&[1]))]).contains("titles are strings"));
    let event = |name, column| vec![("user_id", ints(&[1])), ("item_id", ints(&[1])), (name, column)];
    let error = events_error(event("timestamp", Arc::new(BooleanArray::from(vec![true]))));
    assert!(error.contains("column \"timestamp\" is Boolean, but times are whole numbers or dates"), "{error}");
    assert!(events_error(event("position", strings(&[Some("1")]))).contains("whole numbers are wanted"));
    assert!(events_error(event("weight", strings(&[Some("1")]))).contains("numbers are wanted"));
    assert!(events_error(vec![("item_id", ints(&[1]))]).contains("no column \"user_id\" (there are: \"item_id\")"));
}

#[test]
fn bad_values_name_their_row() {
    let error = items_error(vec![("item_id", ints(&[4, 5, 4]))]);
    assert!(error.contains("row 2: item id \"4\" appears a second time (first in row 0)"), "{error}");
    assert!(items_error(vec![("item_id", strings(&[Some("a"), None]))]).contains("row 1: the item id is missing"));
    assert!(items_error(vec![("item_id", ints(&[]))]).contains("no items"));
    let infinite = Arc::new(Float64Array::from(vec![1.0, f64::INFINITY]));
    assert!(
        items_error(vec![("item_id", ints(&[1, 2])), ("p", infinite)])
            .contains("row 1, column \"p\": the number is infinite")
    );
    let event =
        |name, column| events_error(vec![("user_id", ints(&[1, 1])), ("item_id", ints(&[1, 2])), (name, column)]);
    let floats = |values: &[f64]| -> ArrayRef { Arc::new(Float64Array::from(values.to_vec())) };
    assert!(
        event("timestamp", floats(&[1.0, f64::NAN]))
            .contains("row 1, column \"timestamp\": the value is not a number (NaN)")
    );
    assert!(event("timestamp", floats(&[1e300, 1.0])).contains("row 0, column \"timestamp\": the value does not fit"));
    assert!(event("position", Arc::new(UInt64Array::from(vec![0, u64::MAX]))).contains("row 1, column \"position\""));
    assert!(event("weight", floats(&[1.0, f64::NAN])).contains("row 1: the weight NaN is not a positive number"));
    assert!(event("timestamp", Arc::new(Int64Array::from(vec![Some(1), None]))).contains("row 1: the time is missing"));
    assert!(event("timestamp", strings(&[Some("2014-01-01"), Some("soon")])).contains("row 1, column \"timestamp\""));
    let users = vec![("user_id", strings(&[Some("u"), None])), ("item_id", ints(&[1, 2]))];
    assert!(events_error(users).contains("row 1: the user id is missing"));
}

#[test]
fn truncated_files_are_refused_and_mutated_ones_never_panic() {
    let dir = tempfile::tempdir().unwrap();
    let path = written(dir.path(), vec![("item_id", strings(&[Some("a"), Some("b")])), ("user_id", ints(&[1, 2]))]);
    let bytes = std::fs::read(&path).unwrap();
    for len in 0..bytes.len() {
        std::fs::write(&path, &bytes[..len]).unwrap();
        assert!(items(&path, &ColumnMap::default()).is_err(), "cut to {len} bytes");
    }
    for at in 0..bytes.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut bad = bytes.clone();
            bad[at] ^= flip;
            std::fs::write(&path, &bad).unwrap();
            let _ = (items(&path, &ColumnMap::default()), interactions(&path, &ColumnMap::default()));
        }
    }
    std::fs::write(&path, b"not parquet at all").unwrap();
    let error = items(&path, &ColumnMap::default()).unwrap_err().to_string();
    assert!(error.contains("it cannot be read as Parquet") && error.contains("write it again"), "{error}");
}
