//! Files of named arrays (safetensors), and indexes of semantic IDs as LC-Rec writes them.
#![no_main]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use sidereal_core::array_file::{Array, ArrayFile, Entry, write_arrays};
use sidereal_core::lc_rec::read_index;

static FOLDER: LazyLock<PathBuf> = LazyLock::new(sidereal_fuzz::folder);

static ARRAYS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let entries = [Entry::shaped("a", &[2, 3], Array::F32(&[0.5; 6])), Entry::flat("b", Array::U16(&[1, 2, 3]))];
    let path = FOLDER.join("sound.safetensors");
    write_arrays(&path, &entries, &BTreeMap::from([("k".to_owned(), "v".to_owned())])).expect("room for a small file");
    vec![std::fs::read(&path).expect("the file just written")]
});

static INDEXES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    vec![br#"{"0": ["<a_1>", "<b_2>"], "1": ["<a_0>", "<b_255>"]}"#.to_vec(), br#"{"x": [1, 2], "y": [3, 4]}"#.to_vec()]
});

fuzz_target!(|data: &[u8]| {
    let Some((&which, data)) = data.split_first() else { return };
    if which % 2 == 0 {
        let path = FOLDER.join("index.json");
        std::fs::write(&path, sidereal_fuzz::almost(&INDEXES, data)).expect("room for a small file");
        let _ = read_index(&path);
        return;
    }
    let path = FOLDER.join("arrays.safetensors");
    std::fs::write(&path, sidereal_fuzz::almost(&ARRAYS, data)).expect("room for a small file");
    let Ok(file) = ArrayFile::open(&path) else { return };
    let names: Vec<String> = file.names().map(str::to_owned).collect();
    for name in names {
        let numbers = file.shape(&name).map(|shape| shape.iter().product::<usize>());
        for column in [file.column::<u16>(&name).map(|c| c.len()), file.column::<f32>(&name).map(|c| c.len())] {
            if let (Ok(numbers), Ok(length)) = (&numbers, column) {
                assert_eq!(*numbers, length, "a column has what its shape says");
            }
        }
    }
});
