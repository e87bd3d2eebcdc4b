#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, FixedSizeListBuilder, Float16Builder, Float32Builder, Float64Builder, Int32Array, LargeListBuilder,
    ListBuilder,
};

use super::*;
use crate::vectors::read_vectors;
use crate::written::{json_lines, npy, npy_of, parquet, parquet_of, safetensors, write};

fn told(path: &Path, name: Option<&str>) -> String {
    read_vectors(path, name).unwrap_err().to_string()
}

/// A safetensors file with this header and `bytes` zeros behind it.
fn with_header(dir: &Path, header: &str, bytes: usize) -> PathBuf {
    write(dir, "v.safetensors", &[&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0; bytes]])
}

#[test]
fn missing_empty_and_foreign_files_are_told() {
    let dir = tempfile::tempdir().unwrap();
    for format in FORMATS {
        let path = dir.path().join(format!("v{}", format.ending));
        assert!(told(&path, None).contains("cannot read"), "{}", format.ending);
        std::fs::write(&path, b"").unwrap();
        assert!(told(&path, None).contains("the file is empty"), "{}", format.ending);
        std::fs::write(&path, b"these are no vectors at all").unwrap();
        assert!(told(&path, None).contains("write it again"), "{}", format.ending);
    }
    let error = told(Path::new("vectors.pkl"), None);
    assert!(
        error.contains("vectors.pkl") && error.contains(".safetensors (a tensor") && error.contains(".npy"),
        "{error}"
    );
}

#[test]
fn the_tensor_is_the_named_one_or_the_usual_one_or_the_only_matrix() {
    let dir = tempfile::tempdir().unwrap();
    let tensor = |name: &str, shape: &str, from: usize, to: usize| {
        format!(r#""{name}":{{"dtype":"F32","shape":{shape},"data_offsets":[{from},{to}]}}"#)
    };
    let header = |parts: &[String]| format!("{{{}}}", parts.join(","));
    let two = [tensor("a", "[1,2]", 0, 8), tensor("b", "[1,3]", 8, 20)];
    let path = with_header(dir.path(), &header(&two), 20);
    assert!(
        told(&path, None).contains("2 have two dimensions; name the tensor with `--name` (there are: \"a\", \"b\")")
    );
    assert_eq!(VectorFile::open(&path, Some("b")).unwrap().width(), 3);
    assert!(told(&path, Some("c")).contains("there is no tensor \"c\""));
    let usual = [tensor("a", "[1,2]", 0, 8), tensor("embeddings", "[1,3]", 8, 20)];
    assert_eq!(VectorFile::open(&with_header(dir.path(), &header(&usual), 20), None).unwrap().width(), 3);
    let only = [tensor("a", "[2]", 0, 8), tensor("b", "[3,1]", 8, 20)];
    assert_eq!(VectorFile::open(&with_header(dir.path(), &header(&only), 20), None).unwrap().rows(), 3);
    assert!(told(&with_header(dir.path(), &header(&only), 20), Some("a")).contains("the shape [2], not [N, D]"));
}

#[test]
fn odd_types_and_shapes_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let header = |dtype: &str, shape: &str, to: usize| {
        format!(r#"{{"embeddings":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[0,{to}]}}}}"#)
    };
    assert!(
        told(&with_header(dir.path(), &header("I32", "[1,2]", 8), 8), None).contains("is I32, but vectors are f16")
    );
    assert!(told(&with_header(dir.path(), &header("F32", "[0,2]", 0), 0), None).contains("no vectors in it"));
    assert!(told(&with_header(dir.path(), &header("F32", "[3,0]", 0), 0), None).contains("vectors are 0 wide"));
    assert!(
        told(&with_header(dir.path(), &header("F16", "[1,100000]", 200_000), 200_000), None).contains("100000 wide")
    );
}

#[test]
fn hostile_safetensors_headers_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "v.safetensors", &[&u64::MAX.to_le_bytes(), b"{}"]);
    assert!(told(&path, None).contains("header claims"));
    let one = r#""t":{"dtype":"F32","shape":[1,1],"data_offsets":[0,4]}"#;
    assert!(told(&with_header(dir.path(), &format!("{{{one},{one}}}"), 4), None).contains("appears twice"));
    let empty = |i: usize| format!(r#""{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#);
    let many: Vec<String> = (0..5000).map(empty).collect();
    assert!(told(&with_header(dir.path(), &format!("{{{}}}", many.join(",")), 0), None).contains("more than 4096"));
}

#[test]
fn npy_headers_are_judged_and_never_evaluated() {
    let dir = tempfile::tempdir().unwrap();
    let header = |descr: &str, shape: &str| format!("{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}");
    let error = |descr: &str, shape: &str, bytes: usize| {
        told(&npy_of(dir.path(), &header(descr, shape), &vec![0; bytes]), None)
    };
    assert!(error("'|O'", "(2,)", 9).contains("Python objects (a pickle), which are never read; save it with"));
    assert!(error("'<i8'", "(1, 1)", 8).contains("numbers of type \"<i8\""));
    assert!(error("[('a', '<f4')]", "(2,)", 8).contains("records of several fields"));
    assert!(error("'<f4'", "(2,)", 8).contains("the shape [2], not [N, D]"));
    assert!(error("'<f4'", "(1, 2, 3)", 24).contains("the shape [1, 2, 3], not [N, D]"));
    assert!(error("'<f4'", "(2, 2)", 12).contains("[2, 2] needs 16 bytes of numbers, but it has 12"));
    assert!(error("'<f4'", "(2, 2)", 20).contains("but it has 20"));
    assert!(error("'<f8'", "(9999999999999, 9999999999999)", 0).contains("more than a file can have"));
    assert!(error("'<f4'", "(__import__('os'), 2)", 8).contains("does not say the shape"));
    let version = write(dir.path(), "v.npy", &[b"\x93NUMPY\x09\x00\x00\x00"]);
    assert!(told(&version, None).contains("version 9"));
    let huge = write(dir.path(), "v.npy", &[b"\x93NUMPY\x02\x00\xff\xff\xff\xff"]);
    assert!(told(&huge, None).contains("claims 4294967295 bytes"));
    assert!(told(&npy(dir.path(), Precision::F32, false, &[1, 1], &[1.0]), Some("x")).contains("leave the name out"));
}

#[test]
fn big_endian_arrays_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let header = "{'descr': '>f4', 'fortran_order': False, 'shape': (1, 2), }";
    let path = npy_of(dir.path(), header, &[1.5f32.to_be_bytes(), (-2.0f32).to_be_bytes()].concat());
    assert_eq!(read_vectors(&path, None).unwrap().embeddings.values(), [1.5, -2.0]);
}

#[test]
fn list_columns_of_every_kind_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut large = LargeListBuilder::new(Float64Builder::new());
    large.values().append_slice(&[1.0, 2.0]);
    large.append(true);
    let mut fixed = FixedSizeListBuilder::new(Float16Builder::new(), 2);
    fixed.values().append_slice(&[half::f16::from_f32(1.0), half::f16::from_f32(2.0)]);
    fixed.append(true);
    let columns: [(Precision, ArrayRef); 2] =
        [(Precision::F64, Arc::new(large.finish())), (Precision::F16, Arc::new(fixed.finish()))];
    for (precision, column) in columns {
        let path = parquet_of(dir.path(), vec![("clip", column)]);
        assert!(told(&path, None).contains("no column is named embedding, embeddings"));
        let read = read_vectors(&path, Some("clip")).unwrap();
        assert_eq!((read.embeddings.values(), read.precision), (&[1.0, 2.0][..], precision));
    }
}

#[test]
fn bad_rows_of_parquet_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = |vectors: &[Option<Vec<f32>>]| told(&parquet(dir.path(), None, vectors), None);
    assert!(error(&[Some(vec![1.0]), None]).contains("row 1: the vector is missing"));
    assert!(error(&[None]).contains("row 0: the vector is missing"));
    assert!(
        error(&[Some(vec![1.0]), Some(vec![1.0, 2.0])]).contains("row 1: the vector has 2 numbers, but others have 1")
    );
    assert!(error(&[Some(vec![])]).contains("vectors are 0 wide"));
    assert!(error(&[]).contains("no vectors"));
    let mut nulls = ListBuilder::new(Float32Builder::new());
    nulls.values().append_null();
    nulls.append(true);
    let path = parquet_of(dir.path(), vec![("vector", Arc::new(nulls.finish()))]);
    assert!(told(&path, None).contains("row 0: a number of the vector is missing"));
    let path = parquet_of(dir.path(), vec![("vector", Arc::new(Int32Array::from(vec![1])))]);
    assert!(told(&path, None).contains("column \"vector\" is Int32, but vectors are lists of f16, f32 or f64"));
    assert!(told(&path, Some("x")).contains("there is no column \"x\" (there are: \"vector\")"));
    let ids = parquet(dir.path(), Some(&["a", ""]), &[Some(vec![1.0]), Some(vec![1.0])]);
    assert!(told(&ids, None).contains("row 1: the item id is missing"));
}

#[test]
fn reading_may_begin_at_any_row() {
    let dir = tempfile::tempdir().unwrap();
    let values = [1.0, 2.0, 3.0];
    let lists: Vec<Option<Vec<f32>>> = values.iter().map(|&x| Some(vec![x])).collect();
    for path in [
        safetensors(dir.path(), Precision::F32, &[3, 1], &values),
        npy(dir.path(), Precision::F32, true, &[3, 1], &values),
        parquet(dir.path(), None, &lists),
    ] {
        let file = VectorFile::open(&path, None).unwrap();
        for from in 0..=3 {
            let batches: Vec<Batch> = file.batches(from).unwrap().collect::<Result<_>>().unwrap();
            let rest: Vec<f32> = batches.iter().flat_map(|batch| batch.values.clone()).collect();
            assert_eq!(rest, values[from..]);
            assert!(batches.iter().all(|batch| batch.first_row == from));
        }
    }
}

#[test]
fn truncated_files_are_refused_and_mutated_ones_never_panic() {
    let dir = tempfile::tempdir().unwrap();
    let values = [1.0, 2.0, 3.0, 4.0];
    let lists: Vec<Option<Vec<f32>>> = values.chunks(2).map(|v| Some(v.to_vec())).collect();
    for path in [
        safetensors(dir.path(), Precision::F16, &[2, 2], &values),
        npy(dir.path(), Precision::F32, false, &[2, 2], &values),
        parquet(dir.path(), Some(&["a", "b"]), &lists),
    ] {
        let bytes = std::fs::read(&path).unwrap();
        for len in 0..bytes.len() {
            std::fs::write(&path, &bytes[..len]).unwrap();
            assert!(read_vectors(&path, None).is_err(), "{} cut to {len} bytes", path.display());
        }
        for at in 0..bytes.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut bad = bytes.clone();
                bad[at] ^= flip;
                std::fs::write(&path, &bad).unwrap();
                let _ = read_vectors(&path, None);
            }
        }
    }
}

#[test]
fn missing_vectors_are_kept_as_nan_where_that_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = parquet(dir.path(), Some(&["a", "b", "c"]), &[None, Some(vec![1.0, 2.0]), None]);
    let file = VectorFile::open(&path, None).unwrap();
    assert_eq!(file.width(), 2, "the first vector that is there tells the width");
    assert!(file.batches(0).unwrap().next().unwrap().unwrap_err().to_string().contains("row 0: the vector is missing"));
    let reading = Reading { keep_missing: true, ..Reading::default() };
    let batch = file.read(reading).unwrap().next().unwrap().unwrap();
    assert_eq!(batch.missing, [0, 2]);
    assert!(batch.values[..2].iter().all(|x| x.is_nan()) && batch.values[2..4] == [1.0, 2.0]);
    let ids: Vec<(usize, Vec<ItemId>)> = file.ids().unwrap().collect::<Result<_>>().unwrap();
    assert_eq!((ids[0].0, ids[0].1.len()), (0, 3));
}

#[test]
fn one_big_row_group_comes_in_batches_of_the_wanted_size() {
    let dir = tempfile::tempdir().unwrap();
    let lists: Vec<Option<Vec<f32>>> = (0..40_000).map(|i| Some(vec![i as f32; 4])).collect();
    let file = VectorFile::open(&parquet(dir.path(), None, &lists), None).unwrap();
    let reading = Reading { from_row: 12_345, batch_rows: Some(1000), ..Reading::default() };
    let batches: Vec<Batch> = file.read(reading).unwrap().collect::<Result<_>>().unwrap();
    assert!(batches.iter().all(|batch| batch.values.len() <= 4000));
    let numbers: Vec<f32> = batches.iter().flat_map(|batch| batch.values.iter().step_by(4).copied()).collect();
    assert!(numbers.iter().copied().eq((12_345..40_000).map(|i| i as f32)));
}

#[test]
fn the_identity_of_a_file_is_told_by_its_bytes_and_its_time_and_not_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = npy(dir.path(), Precision::F32, false, &[1, 2], &[1.0, 2.0]);
    let identity = |path: &Path| VectorFile::open(path, None).unwrap().identity().unwrap();
    let first = identity(&path);
    let other = dir.path().join("other.npy");
    std::fs::rename(&path, &other).unwrap();
    assert_eq!(identity(&other), first);
    let changed = npy(dir.path(), Precision::F32, false, &[1, 2], &[1.0, 3.0]);
    assert_ne!(identity(&changed).ends, first.ends);
}

#[test]
fn json_lines_are_read_from_any_row_with_ids_and_missing_vectors() {
    let dir = tempfile::tempdir().unwrap();
    // Blank lines are no rows, the last line has no end, every third item no vector, ids are strings or integers.
    let even = |row: usize| row.is_multiple_of(2);
    let line = |row: usize| {
        let id = if even(row) { format!("\"i{row}\"") } else { row.to_string() };
        let vector = if row % 3 == 1 { "null".to_owned() } else { format!("[{row}, {}.5]", row * 2) };
        format!("{{\"item_id\": {id}, \"title\": \"T\", \"vector\": {vector}}}")
    };
    let lines: Vec<String> = (0..2500)
        .map(|row: usize| if row.is_multiple_of(7) { format!("\n{}", line(row)) } else { line(row) })
        .collect();
    let path = json_lines(dir.path(), &format!("\u{feff}{}", lines.join("\n")));
    let file = VectorFile::open(&path, None).unwrap();
    assert_eq!((file.rows(), file.width(), file.has_ids(), file.precision()), (2500, 2, true, Precision::F32));
    for from_row in [0, 1, 1023, 1024, 1500, 2499, 2500] {
        let reading = Reading { from_row, batch_rows: Some(700), keep_missing: true };
        let batches: Vec<Batch> = file.read(reading).unwrap().map(Result::unwrap).collect();
        let ids: Vec<String> =
            batches.iter().flat_map(|b| b.ids.as_ref().unwrap()).map(|id| id.as_str().to_owned()).collect();
        let want: Vec<String> =
            (from_row..2500).map(|row| if even(row) { format!("i{row}") } else { row.to_string() }).collect();
        assert_eq!(ids, want);
        let missing: Vec<usize> = batches.iter().flat_map(|b| b.missing.clone()).collect();
        assert_eq!(missing, (from_row..2500).filter(|row| row % 3 == 1).collect::<Vec<_>>());
        let values: Vec<f32> = batches.iter().flat_map(|b| b.values.clone()).filter(|v| !v.is_nan()).collect();
        let there = (from_row..2500).filter(|row| row % 3 != 1);
        assert_eq!(values, there.flat_map(|row| [row as f32, row as f32 * 2.0 + 0.5]).collect::<Vec<_>>());
        assert!(batches.iter().all(|batch| batch.values.len() <= 1400));
    }
    assert_eq!(file.ids().unwrap().map(|batch| batch.unwrap().1.len()).sum::<usize>(), 2500);
    assert!(told(&path, None).contains("row 1: the vector is missing"));
    assert!(told(&path, Some("title")).contains("row 0: the vector is missing"));
    assert!(told(&path, Some("text")).contains("no key is named text (there are: item_id, title, vector)"));
}

#[test]
fn json_lines_that_hold_no_vectors_are_told_with_their_row() {
    let dir = tempfile::tempdir().unwrap();
    for (text, says) in [
        ("{\"embedding\": [1, 2]}\n{\"embedding\": [1]}\n", "row 1: the vector has 1 numbers, but others have 2"),
        ("{\"embedding\": [1, 2]}\n\n[3]\n", "row 1: this is not a JSON object"),
        ("{\"embedding\": [1, 2]}\n{\"embedding\": [1,", "row 1: this is not JSON (EOF"),
        ("{\"embedding\": [1, \"2\"]}\n", "row 0: \"2\" in the vector is no number"),
        ("{\"embedding\": [1]}\n{\"embedding\": 2}\n", "row 1: \"embedding\" is no list of numbers"),
        ("{\"item_id\": \"a\", \"embedding\": [1]}\n{\"embedding\": [2]}\n", "row 1: the item id is missing"),
        ("{\"item_id\": 1.5, \"embedding\": [1]}\n", "row 0: the item id is neither a string nor an integer"),
        ("\n \n", "there are no vectors in it"),
        ("{\"embedding\": []}\n", "0 wide"),
        ("{\"embedding\": [1e300]}\n", "infinity"),
    ] {
        let error = told(&json_lines(dir.path(), text), None);
        assert!(error.contains(says), "{text:?}: {error}");
    }
}
