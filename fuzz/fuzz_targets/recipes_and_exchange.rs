//! Recipes, and semantic IDs and codebooks in every format of other tools.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use sidereal::exchange::{FORMATS, import};
use sidereal::recipe::Recipe;
use sidereal::run::Run;

static FOLDER: LazyLock<PathBuf> = LazyLock::new(sidereal_fuzz::folder);

static SOUND: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let header = format!("{:<117}\n", "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2, 3), }");
    let mut npy = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
    npy.extend(header.as_bytes());
    npy.extend([0u8; 24]);
    vec![
        npy,
        br#"{"0": ["<a_1>", "<b_2>"], "1": ["<a_0>", "<b_255>"]}"#.to_vec(),
        b"{\"item_id\": 1, \"token_ids\": [1, 2, 3]}\n{\"item_id\": 2, \"token_ids\": [3, 2, 1]}\n".to_vec(),
        b"<|sid_begin|><s_a_1><s_b_2><s_c_3><|sid_end|>\n".to_vec(),
        [1u64.to_le_bytes().to_vec(), [1i32, 2, 3].iter().flat_map(|c| c.to_le_bytes()).collect()].concat(),
    ]
});

fuzz_target!(|data: &[u8]| {
    let Some((&which, data)) = data.split_first() else { return };
    let readable: Vec<_> = FORMATS.iter().filter(|format| format.imports()).collect();
    let Some(format) = readable.get(usize::from(which) % (readable.len() + 1)) else {
        let text = String::from_utf8_lossy(data);
        if let Ok(recipe) = Recipe::parse(&text, "noise") {
            let again = Recipe::parse(&recipe.to_toml(), "again").expect("a recipe reads what it wrote");
            assert_eq!(again.to_toml(), recipe.to_toml());
        }
        return;
    };
    let path = FOLDER.join("foreign");
    std::fs::write(&path, sidereal_fuzz::almost(&SOUND, data)).expect("room for a small file");
    let root = FOLDER.join("run");
    let _ = std::fs::remove_dir_all(&root);
    let run = Run::create(&root).expect("room for a run");
    let _ = import(&run, format, &path, None);
});
