#![allow(clippy::unwrap_used)]
//! What goes out comes back, and what is wrong is named.

use super::*;
use sidereal_core::NoProgress;

/// Six items of three levels; the last two share their semantic ID if `shared`.
fn catalog(ids: [&str; 6], shared: bool) -> Catalog {
    let last = if shared { [3, 200, 1] } else { [3, 200, 2] };
    let sids = [[0, 0, 0], [7, 255, 3], [7, 255, 4], [2, 9, 1], [3, 200, 1], last].concat();
    let ids = ids.map(ItemId::from);
    let sids = SemanticIds::new(3, sids).unwrap();
    Catalog::build(&ids, &sids, &[8, 256, 5], CollisionPolicy::Postings, None).unwrap()
}

const WORDS: [&str; 6] = ["b", "a b", "10", "9", "\u{e4}\"<", "x"];
const NUMBERS: [&str; 6] = ["5", "0", "-3", "12", "8", "7"];

fn run_with(dir: &Path, catalog: &Catalog) -> Run {
    let run = Run::create(dir).unwrap();
    let wanted = Manifest::new(Stage::Catalog.name(), None, json!({}), BTreeMap::new());
    run.stage(Stage::Catalog, wanted, |out| {
        catalog.save(out.dir())?;
        Ok(facts(catalog))
    })
    .unwrap();
    run
}

fn by_id(catalog: &Catalog) -> BTreeMap<String, Vec<u16>> {
    let item = |i| (catalog.item_id(i).to_owned(), catalog.semantic_id(i).to_vec());
    (0..catalog.len() as ItemIndex).map(item).collect()
}

#[test]
fn every_format_brings_back_what_it_took() {
    let dir = tempfile::tempdir().unwrap();
    let catalog_formats =
        FORMATS.iter().filter(|format| matches!((format.import, format.export), (Some(Import::Catalog(_)), Some(_))));
    let mut tried = 0;
    for format in catalog_formats {
        for (ids, shared, end) in [
            (NUMBERS, true, ""),
            (NUMBERS, false, ""),
            (NUMBERS, true, ".parquet"),
            (WORDS, true, ""),
            (WORDS, false, ""),
        ] {
            let name = format!("{}-{}-{shared}{end}", format.name, ids[0]);
            let catalog = catalog(ids, shared);
            let run = run_with(&dir.path().join(format!("run-{name}")), &catalog);
            let file = dir.path().join(name);
            if let Err(error) = export(&run, format, &file) {
                let named = error.to_string();
                let told = match format.name {
                    "nvidia" => shared && named.contains("share a semantic ID"),
                    "xllm" => ids == WORDS && (named.contains("\"b\"") || named.contains("share a semantic ID")),
                    short => short.starts_with("lc-rec-short") && named.contains("no suffix"),
                };
                assert!(told, "{}: {named}", format.name);
                assert!(!file.exists());
                continue;
            }
            let back = Run::create(&dir.path().join(format!("back-{}-{}-{shared}{end}", format.name, ids[0]))).unwrap();
            let (stage, outcome) = import(&back, format, &file, Some("8,256,5")).unwrap();
            assert_eq!((stage, outcome), (Stage::Catalog, Outcome::Made));
            let found = back.catalog().unwrap();
            assert_eq!(by_id(&found), by_id(&catalog), "{}", format.name);
            assert_eq!(found.codes_per_level(), [8, 256, 5]);
            // The same file again changes nothing.
            assert_eq!(import(&back, format, &file, Some("8,256,5")).unwrap().1, Outcome::Kept);
            tried += 1;
        }
    }
    assert!(tried > 20);
}

#[test]
fn the_bundle_says_its_own_numbers_of_codes() {
    let dir = tempfile::tempdir().unwrap();
    let run = run_with(&dir.path().join("run"), &catalog(NUMBERS, true));
    let bundle = dir.path().join("bundle");
    export(&run, Format::of("torch-easy-rec").unwrap(), &bundle).unwrap();
    let back = Run::create(&dir.path().join("back")).unwrap();
    import(&back, Format::of("torch-easy-rec").unwrap(), &bundle, None).unwrap();
    assert_eq!(back.catalog().unwrap().codes_per_level(), [8, 256, 5]);
    let manifest: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(bundle.join("manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["max_observed_items_per_sid"], 2);
    assert_eq!(manifest["artifacts"]["sid_to_items"]["rows"], 5);
    assert_eq!(manifest["item_id_type"], "int64");
    assert_eq!(manifest["bundle_uuid"].as_str().unwrap().len(), 36);
}

#[test]
fn files_look_as_their_tools_write_them() {
    let dir = tempfile::tempdir().unwrap();
    let run = run_with(&dir.path().join("run"), &catalog(NUMBERS, false));
    let written = |format: &str, name: &str| {
        let file = dir.path().join(name);
        export(&run, Format::of(format).unwrap(), &file).unwrap();
        std::fs::read(file).unwrap()
    };
    let text = String::from_utf8(written("open-one-rec", "ids.txt")).unwrap();
    assert_eq!(text.lines().nth(1).unwrap(), "0\t<|sid_begin|><s_a_7><s_b_255><s_c_3><|sid_end|>");
    let lines = String::from_utf8(written("nvidia", "ids.jsonl")).unwrap();
    assert_eq!(lines.lines().nth(2).unwrap(), "{\"item_id\": \"-3\", \"token_ids\": [7,255,4], \"metadata\": {}}");
    let binary = written("xllm", "ids.bin");
    assert_eq!(binary.len(), 6 * 20);
    assert_eq!(binary[40..60], [&(-3i64).to_le_bytes()[..], &[7, 0, 0, 0, 255, 0, 0, 0, 4, 0, 0, 0]].concat());
}

#[test]
fn what_is_wrong_in_a_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let read = |format: &str, bytes: &[u8]| {
        let file = dir.path().join("in");
        std::fs::write(&file, bytes).unwrap();
        let run = Run::create(&dir.path().join("run")).unwrap();
        import(&run, Format::of(format).unwrap(), &file, None).unwrap_err().to_string()
    };
    let record = |id: i64, codes: [i32; 3]| [&id.to_le_bytes()[..], &codes.map(i32::to_le_bytes).concat()].concat();
    for (format, bytes, word) in [
        (
            "nvidia",
            b"{\"item_id\": 1, \"token_ids\": [1]}\n{\"item_id\": 2, \"token_ids\": [1, 2]}".to_vec(),
            "line 2, item \"2\"",
        ),
        ("nvidia", b"{\"item_id\": [], \"token_ids\": [1]}".to_vec(), "line 1"),
        ("nvidia", b"{\"item_id\": 1, \"token_ids\": []}".to_vec(), "0 codes"),
        ("nvidia", b"{\"item_id\": 1, \"token_ids\": [151643]}".to_vec(), "code 151643 at level 0"),
        ("nvidia", b"\n\n".to_vec(), "lists no semantic IDs"),
        ("xllm", vec![0; 19], "19 bytes"),
        (
            "xllm",
            [record(1, [1, 2, 3]), record(1, [1, 2, 3])].concat(),
            "record 1, item \"1\": it appears a second time",
        ),
        ("xllm", record(1, [1, -2, 3]), "code -2 at level 1"),
        ("open-one-rec", b"1\t<|sid_begin|><s_a_1><s_a_2><|sid_end|>".to_vec(), "line 1"),
        ("open-one-rec", b"1 <|sid_begin|><s_a_1><|sid_end|>".to_vec(), "line 1"),
        ("open-one-rec", b"PAR1xxxxxxxxPAR1".to_vec(), "in: "),
        ("grid", b"PK\x03\x04".to_vec(), "not a ZIP archive"),
        ("codebooks", b"\x93NUMPY".to_vec(), "numpy.save"),
        ("static", b"".to_vec(), "static cannot be read"),
    ] {
        let error = read(format, &bytes);
        assert!(error.contains(word), "{format}: {error}");
    }
    let bundle = dir.path().join("empty");
    std::fs::create_dir_all(&bundle).unwrap();
    let run = Run::create(&dir.path().join("run")).unwrap();
    assert!(import(&run, Format::of("torch-easy-rec").unwrap(), &bundle, None).is_err());
    assert!(Format::of("lcrec").unwrap_err().to_string().contains("lc-rec-short-numbers, open-one-rec"));
}

#[test]
fn codebooks_make_a_tokenizer_that_finds_the_nearest_codewords() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("codebooks.npy");
    let values: [f32; 8] = [0.0, 0.0, 10.0, 10.0, 0.0, 1.0, 1.0, 0.0];
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    npy::write(&file, "<f4", &[2, 2, 2], &bytes).unwrap();
    let run = Run::create(&dir.path().join("run")).unwrap();
    let format = Format::of("codebooks").unwrap();
    assert_eq!(import(&run, format, &file, None).unwrap().0, Stage::Tokenizer);
    let tokenizer = run.tokenizer().unwrap();
    let vectors = sidereal_core::Embeddings::new(2, 2, vec![0.1, 0.9, 11.2, 10.1]).unwrap();
    assert_eq!(tokenizer.encode(&vectors).unwrap().codes(), [0, 0, 1, 1]);
    let out = dir.path().join("out.npy");
    export(&run, format, &out).unwrap();
    assert_eq!(std::fs::read(&out).unwrap(), std::fs::read(&file).unwrap());
    assert!(import(&run, format, &file, Some("2")).unwrap_err().to_string().contains("--codes"));
    npy::write(&file, "<f4", &[8], &bytes).unwrap();
    assert!(import(&run, format, &file, None).unwrap_err().to_string().contains("[8]"));
    let trained = ItemTokenizer::train(
        &sidereal_tokenizer::TokenizerConfig::with_defaults("rq-kmeans", vec![2, 1]).unwrap(),
        &vectors,
        1,
        &NoProgress,
    );
    assert!(codebooks::write(&trained.unwrap(), &out).unwrap_err().to_string().contains("[2, 1]"));
}
