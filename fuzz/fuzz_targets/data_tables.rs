//! Tables of items and interactions in every format that is read, and what they are prepared into.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use sidereal_data::sources::SOURCES;
use sidereal_data::{ColumnMap, prepare};

static FOLDER: LazyLock<PathBuf> = LazyLock::new(sidereal_fuzz::folder);

const CSV: &str = "user_id,item_id,timestamp,rating\nu1,i1,5,4.5\nu1,i2,6,3\nu2,i1,7,1\nu2,i2,8,2\n";

/// The same few interactions in every format, written by the project where it has a writer.
static SOUND: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let csv = FOLDER.join("sound.csv");
    std::fs::write(&csv, CSV).expect("room for a small file");
    let table = sidereal_data::sources::interactions_from(&csv, &ColumnMap::default()).expect("a sound table");
    let prepared = prepare(None, table, None).expect("sound data");
    prepared.save_into(&FOLDER).expect("room for small files");
    let written = |name: &str| std::fs::read(FOLDER.join(name)).expect("the file just written");
    vec![
        written("interactions.parquet"),
        written("items.parquet"),
        CSV.into(),
        CSV.replace(',', "\t").into(),
        b"{\"user_id\": \"u\", \"item_id\": 3, \"timestamp\": 5}\n{\"item_id\": \"i\", \"title\": \"t\"}\n".to_vec(),
        b"user_id:token\titem_id:token\ttimestamp:float\nu\ti\t1\n".to_vec(),
        b"item_id:token\ttitle:token_seq\ni\ta b\n".to_vec(),
        b"{\"0\": [1, 2, 3], \"1\": [2, 1]}".to_vec(),
        b"{\"1\": {\"title\": \"t\", \"price\": 3.5}}".to_vec(),
        b"1 2 3\n2 3 1\n".to_vec(),
    ]
});

fuzz_target!(|data: &[u8]| {
    sidereal_fuzz::let_panics_be_caught();
    let Some((&which, data)) = data.split_first() else { return };
    let source = &SOURCES[usize::from(which) % SOURCES.len()];
    let path = FOLDER.join(format!("table{}", source.endings[0]));
    std::fs::write(&path, sidereal_fuzz::almost(&SOUND, data)).expect("room for a small file");
    let columns = ColumnMap::default();
    let items = source.items.and_then(|read| read(&path, &columns).ok());
    let interactions = source.interactions.and_then(|read| read(&path, &columns).ok());
    if let Some(interactions) = interactions {
        let _ = prepare(items, interactions, Some(2));
    }
});
