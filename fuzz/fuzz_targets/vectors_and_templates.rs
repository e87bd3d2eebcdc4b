//! Files of ready vectors in every format, and templates of item texts.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use sidereal_embed::formats::{FORMATS, VectorFile};
use sidereal_embed::template::Template;

static FOLDER: LazyLock<PathBuf> = LazyLock::new(sidereal_fuzz::folder);

static SOUND: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let header = br#"{"embeddings":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}"#;
    let mut safetensors = (header.len() as u64).to_le_bytes().to_vec();
    safetensors.extend(header);
    safetensors.extend([0u8; 24]);
    let header = format!("{:<117}\n", "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }");
    let mut npy = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
    npy.extend(header.as_bytes());
    npy.extend([0u8; 24]);
    let lines = b"{\"item_id\": 1, \"vector\": [1, 2]}\n{\"item_id\": \"b\", \"vector\": null}\n".to_vec();
    vec![safetensors, npy, lines]
});

fuzz_target!(|data: &[u8]| {
    sidereal_fuzz::let_panics_be_caught();
    let Some((&which, data)) = data.split_first() else { return };
    let Some(format) = FORMATS.get(usize::from(which) % (FORMATS.len() + 1)) else {
        let text = String::from_utf8_lossy(data);
        if let Ok(template) = text.parse::<Template>() {
            assert_eq!(template.source(), text);
        }
        return;
    };
    let path = FOLDER.join(format!("vectors{}", format.ending));
    std::fs::write(&path, sidereal_fuzz::almost(&SOUND, data)).expect("room for a small file");
    let Ok(file) = VectorFile::open(&path, None) else { return };
    let mut rows = 0;
    if let Ok(batches) = file.batches(0) {
        for batch in batches.take(4) {
            let Ok(batch) = batch else { return };
            assert_eq!(batch.values.len() % file.width().max(1), 0);
            rows += batch.values.len() / file.width().max(1);
        }
    }
    assert!(rows <= file.rows());
});
