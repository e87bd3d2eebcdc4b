//! Catalogs that change and runs that are carried over to another embedding model, through the library.
#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float32Builder, ListBuilder, RecordBatch, StringArray};
use arrow::datatypes::UInt16Type;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use sidereal_core::{CollisionPolicy, NoProgress, SplitRule};
use sidereal_nn::device::DeviceChoice;
use sidereal_tokenizer::TokenizerConfig;
use sidereal_tokenizer::life::collisions::{Collisions, Leftovers};
use sidereal_tokenizer::life::drift::{Limits, drift};
use tempfile::TempDir;

use sidereal::encode::EncodeJob;
use sidereal::life::added::AddedItems;
use sidereal::life::upgrade::{How, Upgraded, upgrade};
use sidereal::life::{change, versions};
use sidereal::recipe::DataRecipe;
use sidereal::vectors::Input;
use sidereal::{Run, Stage, stages};

const ITEMS: usize = 60;
const GROUPS: usize = 6;
const WIDTH: usize = 6;

/// A run of items in groups, each with its category, and users who stay in one group.
struct World {
    folder: TempDir,
    run: Run,
}

/// Item `i` belongs to the group `i % GROUPS`; added items are those from ITEMS on.
fn id(item: usize) -> String {
    format!("item {item}")
}

fn vector(item: usize) -> Vec<f32> {
    let at = |d: usize| if d == item % GROUPS { 4.0 } else { 0.0 };
    (0..WIDTH).map(|d| at(d) + ((item * 7 + d * 5) % 11) as f32 / 20.0).collect()
}

/// The same item seen by another model, of another width.
fn seen_by_another(item: usize) -> Vec<f32> {
    let old = vector(item);
    (0..WIDTH + 2).map(|d| (old[d % WIDTH] - 2.0).sin() + old[(d + 1) % WIDTH]).collect()
}

impl World {
    fn new(method: &str, settings: serde_json::Value, collisions: impl Into<Collisions>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let run = Run::create(&folder.path().join("run")).unwrap();
        let world = Self { folder, run };
        let mut items = "item_id,title,category\n".to_owned();
        let mut interactions = "user_id,item_id,timestamp\n".to_owned();
        for item in 0..ITEMS {
            items += &format!("{},Title {item},group {} > {}\n", id(item), item % GROUPS, item % 12);
            for step in 0..4 {
                let next = (item + step * GROUPS) % ITEMS;
                interactions += &format!("u{item},{},{step}\n", id(next));
            }
        }
        fs::write(world.path("items.csv"), items).unwrap();
        fs::write(world.path("interactions.csv"), interactions).unwrap();
        let old = world.vectors("old.parquet", 0..ITEMS, vector);
        let files = (world.path("items.csv"), world.path("interactions.csv"));
        stages::data::from_files(&world.run, Some(&files.0), &files.1, &DataRecipe::default(), &NoProgress).unwrap();
        stages::embeddings::from_file(&world.run, &old, None, &NoProgress).unwrap();
        stages::split::make(&world.run, SplitRule::LeaveOneOut).unwrap();
        let config: TokenizerConfig = serde_json::from_value(serde_json::json!({ method: settings })).unwrap();
        let wish = stages::tokenizer::Wish { config: &config, collaborative: None, seed: 3, device: DeviceChoice::Cpu };
        stages::tokenizer::make(&world.run, wish, &NoProgress).unwrap();
        stages::catalog::build(&world.run, collisions).unwrap();
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A Parquet file of vectors with item ids.
    fn vectors(&self, name: &str, items: impl Iterator<Item = usize>, of: fn(usize) -> Vec<f32>) -> PathBuf {
        let (mut ids, mut lists) = (Vec::new(), ListBuilder::new(Float32Builder::new()));
        for item in items {
            ids.push(id(item));
            lists.values().append_slice(&of(item));
            lists.append(true);
        }
        let ids: ArrayRef = Arc::new(ids.iter().map(Some).collect::<StringArray>());
        let vectors: ArrayRef = Arc::new(lists.finish());
        let batch = RecordBatch::try_from_iter([("item_id", ids), ("embedding", vectors)]).unwrap();
        let mut writer = ArrowWriter::try_new(File::create(self.path(name)).unwrap(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        self.path(name)
    }

    /// Adds items with titles and the categories of their groups.
    fn add(&self, items: std::ops::Range<usize>) -> sidereal::Result<change::Changed> {
        let vectors = self.vectors("new.parquet", items.clone(), vector);
        let mut table = "item_id,title,category\n".to_owned();
        items.for_each(|item| table += &format!("{},New {item},group {} > {}\n", id(item), item % GROUPS, item % 12));
        fs::write(self.path("new.csv"), table).unwrap();
        change::add(&self.run, &[Input::from(&*vectors)], Some(&self.path("new.csv")), &NoProgress)
    }

    fn upgrade(&self, new: &str, how: How, out: &str) -> sidereal::Result<Upgraded> {
        upgrade(&self.run, &[Input::from(&*self.path(new))], how, &self.path(out), DeviceChoice::Cpu, &NoProgress)
    }

    /// The codes of the catalog's items from `first` on, without suffixes.
    fn tokenizer_codes(run: &Run, first: usize) -> Vec<Vec<u16>> {
        run.catalog().unwrap().tokenizer_semantic_ids().unwrap().rows().skip(first).map(<[u16]>::to_vec).collect()
    }

    /// Every item of the catalog with its codes and whether it is alive, in the order of indexes.
    fn listed(run: &Run) -> Vec<(String, Vec<u16>, bool)> {
        let catalog = run.catalog().unwrap();
        let item =
            |item: u32| (catalog.item_id(item).to_owned(), catalog.semantic_id(item).to_vec(), catalog.is_alive(item));
        (0..catalog.len() as u32).map(item).collect()
    }
}

/// The column of codes of an encode job's file.
fn codes_in(file: &Path) -> Vec<Vec<u16>> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(file).unwrap()).unwrap().build().unwrap();
    let batches = reader.map(Result::unwrap);
    let rows = batches.flat_map(|batch| {
        let codes = batch.column_by_name("codes").unwrap().as_list::<i32>().clone();
        (0..batch.num_rows()).map(move |row| codes.value(row).as_primitive::<UInt16Type>().values().to_vec())
    });
    rows.collect()
}

const LISTS: [(&str, [u32; 3]); 5] = [
    ("random", [16, 16, 16]),
    ("sequential", [5, 5, 5]),
    ("category-tree", [8, 8, 8]),
    ("collaborative", [8, 8, 8]),
    ("hybrid", [8, 8, 80]),
];

#[test]
fn every_list_takes_new_items_and_moves_no_published_id() {
    for (method, codes) in LISTS {
        for policy in [CollisionPolicy::Postings, CollisionPolicy::Suffix] {
            let world = World::new(method, serde_json::json!({ "codes": codes }), policy);
            let (built, tokenizer) = (World::listed(&world.run), world.run.digest(Stage::Tokenizer).unwrap());
            let first = world.run.catalog().unwrap().version().to_owned();
            let added = world.add(ITEMS..ITEMS + 3).unwrap();
            assert_eq!((added.added, added.items), (3, ITEMS + 3), "{method}");
            let once = World::listed(&world.run);
            // What was added is published too: neither more items nor a removal move it, or give it away.
            change::remove(&world.run, &[&id(ITEMS + 1)]).unwrap();
            world.add(ITEMS + 3..ITEMS + 5).unwrap();
            let twice = World::listed(&world.run);
            assert_eq!(once[..ITEMS], built[..], "{method}");
            let codes = |listed: &[(String, Vec<u16>, bool)]| -> Vec<Vec<u16>> {
                listed[..ITEMS + 3].iter().map(|(_, codes, _)| codes.clone()).collect()
            };
            assert_eq!(codes(&twice), codes(&once), "{method}");
            let mut distinct: Vec<&Vec<u16>> = twice.iter().map(|(_, codes, _)| codes).collect();
            distinct.sort_unstable();
            distinct.dedup();
            assert!(distinct.len() == ITEMS + 5 || method == "random", "{method}: {twice:?}");
            // The removed item comes back as what it was; the list on disk is the one that was trained.
            assert_eq!(world.add(ITEMS + 1..ITEMS + 2).unwrap().restored, 1);
            assert!(World::listed(&world.run)[ITEMS + 1] == once[ITEMS + 1], "{method}");
            assert_eq!(world.run.digest(Stage::Tokenizer).unwrap(), tokenizer, "{method}");
            // Whoever encodes by this run gets what is published.
            let out = world.path("codes.parquet");
            let new = world.vectors("added.parquet", ITEMS..ITEMS + 5, vector);
            EncodeJob::new(world.run.root(), &new, &out).run(&NoProgress).unwrap();
            assert_eq!(codes_in(&out), World::tokenizer_codes(&world.run, ITEMS), "{method}");
            // The same again from the catalog that was built gives the same catalog.
            versions::roll_back(&world.run, &first).unwrap();
            assert_eq!(world.add(ITEMS..ITEMS + 3).unwrap().version, added.version, "{method}");
        }
    }
}

#[test]
fn new_items_stand_beside_their_category_or_their_neighbours() {
    for (method, codes) in &LISTS[2..] {
        let world = World::new(method, serde_json::json!({ "codes": codes }), CollisionPolicy::Postings);
        world.add(ITEMS + 1..ITEMS + 2).unwrap();
        let listed = World::listed(&world.run);
        // Item 61 is of the group of item 1, and users know nothing of it.
        let group: Vec<u16> = (1..ITEMS).step_by(GROUPS).map(|item| listed[item].1[0]).collect();
        assert!(group.contains(&listed[ITEMS].1[0]), "{method}: {:?} beside {group:?}", listed[ITEMS].1);
    }
}

#[test]
fn categories_of_added_items_are_kept_and_a_list_that_needs_them_asks_for_them() {
    let world = World::new("category-tree", serde_json::json!({ "codes": [8, 8, 8] }), CollisionPolicy::Postings);
    let new = world.vectors("new.parquet", ITEMS..ITEMS + 1, vector);
    let before = World::listed(&world.run);
    let error = change::add(&world.run, &[Input::from(&*new)], None, &NoProgress).unwrap_err().to_string();
    assert!(error.contains("category-tree") && error.contains("--items") && error.contains("genre"), "{error}");
    assert_eq!(World::listed(&world.run), before);
    world.add(ITEMS..ITEMS + 2).unwrap();
    let catalog = world.run.catalog().unwrap();
    let added = AddedItems::load(&world.run.dir(Stage::Catalog), &catalog).unwrap();
    assert_eq!(added.categories, [["group 0", "0"], ["group 1", "1"]]);
    assert_eq!(added.title(&catalog, ITEMS as u32), Some("New 60"));
}

#[test]
fn a_list_without_room_or_codewords_says_so_and_changes_nothing() {
    let world = World::new("sequential", serde_json::json!({ "codes": [4, 4, 4] }), CollisionPolicy::Postings);
    let before = World::listed(&world.run);
    let error = world.add(ITEMS..ITEMS + 5).unwrap_err().to_string();
    assert!(error.contains("65 items do not fit") && error.contains("more codes or levels"), "{error}");
    assert_eq!(World::listed(&world.run), before);
    world.add(ITEMS..ITEMS + 4).unwrap();

    // Of 4,060 items some draw the same of 262,144 semantic IDs, and have no nearest free code.
    let random = World::new("random", serde_json::json!({ "codes": [64, 64, 64] }), CollisionPolicy::NearestFree);
    let error = random.add(ITEMS..ITEMS + 4000).unwrap_err().to_string();
    assert!(error.contains("which random does not have") && error.contains("postings or suffix"), "{error}");
}

#[test]
fn what_a_repair_leaves_together_follows_its_policy_as_long_as_the_catalog_lives() {
    let balanced = |leftovers| Collisions { policy: CollisionPolicy::Balanced, leftovers };
    let world = World::new("rq-kmeans", serde_json::json!({ "codes": [3, 8, 8] }), balanced(Leftovers::Postings));
    let leaves = |run: &Run| run.catalog().unwrap().trie().leaves() as usize;
    assert!(leaves(&world.run) < ITEMS);
    let before = World::listed(&world.run);
    let error = stages::catalog::build(&world.run, balanced(Leftovers::Error)).unwrap_err().to_string();
    assert!(error.contains("still share a semantic ID") && error.contains("item "), "{error}");
    assert_eq!(World::listed(&world.run), before, "a refused catalog leaves the one that was there");

    stages::catalog::build(&world.run, balanced(Leftovers::Suffix)).unwrap();
    assert_eq!((world.run.catalog().unwrap().levels(), leaves(&world.run)), (4, ITEMS));
    world.add(ITEMS..ITEMS + 3).unwrap();
    assert_eq!(leaves(&world.run), ITEMS + 3);

    stages::catalog::build(&world.run, balanced(Leftovers::NearestFree)).unwrap();
    assert_eq!((world.run.catalog().unwrap().levels(), leaves(&world.run)), (3, ITEMS));
    world.vectors("all.parquet", 0..ITEMS, seen_by_another);
    world.upgrade("all.parquet", How::Relabel, "relabelled").unwrap();
    let relabelled = Run::open(&world.path("relabelled")).unwrap();
    let asked = |run: &Run| run.manifest(Stage::Catalog).unwrap().config;
    assert_eq!(asked(&relabelled), asked(&world.run));

    // Groups of 10 under prefixes with 12 codes: 4 more of one group are 2 too many.
    let strict = Collisions { policy: CollisionPolicy::NearestFree, leftovers: Leftovers::Error };
    let world = World::new("rq-kmeans", serde_json::json!({ "codes": [6, 12] }), strict);
    let before = World::listed(&world.run);
    let error = world.add(ITEMS..ITEMS + 19).unwrap_err().to_string();
    assert!(error.contains("still share a semantic ID"), "{error}");
    assert_eq!(World::listed(&world.run), before);
    world.add(ITEMS..ITEMS + 6).unwrap();
    assert_eq!(leaves(&world.run), ITEMS + 6);
}

#[test]
fn a_catalog_with_added_and_removed_items_is_relabelled_as_a_whole() {
    for policy in [CollisionPolicy::Postings, CollisionPolicy::Suffix, CollisionPolicy::NearestFree] {
        let world = World::new("rq-kmeans", serde_json::json!({ "codes": [8, 8] }), policy);
        world.add(ITEMS..ITEMS + 3).unwrap();
        change::remove(&world.run, &["item 5", &id(ITEMS + 1)]).unwrap();
        let before = World::listed(&world.run);
        world.vectors("some.parquet", 0..ITEMS + 2, seen_by_another);
        let error = world.upgrade("some.parquet", How::Relabel, "none").unwrap_err().to_string();
        assert!(error.contains(&id(ITEMS + 2)) && error.contains("added items"), "{error}");
        assert!(!world.path("none").exists());

        world.vectors("all.parquet", 0..ITEMS + 3, seen_by_another);
        let done = world.upgrade("all.parquet", How::Relabel, "relabelled").unwrap();
        let record = done.relabelled.as_ref().unwrap();
        assert_eq!((record.after.items, done.agreement.items), (ITEMS + 3, ITEMS + 3));
        assert!(record.after.whole >= record.before.whole && !done.generator_kept);
        assert_eq!(done.unchanged_items + done.moved_items, ITEMS + 1, "removed items are in no migration map");

        // Every item stands where it stood, alive or removed as it was.
        let to = Run::open(&world.path("relabelled")).unwrap();
        let places = |listed: &[(String, Vec<u16>, bool)]| -> Vec<(String, bool)> {
            listed.iter().map(|(id, _, alive)| (id.clone(), *alive)).collect()
        };
        assert_eq!(places(&World::listed(&to)), places(&before), "{policy:?}");
        let catalog = to.catalog().unwrap();
        assert_eq!((catalog.built_items(), catalog.len(), catalog.alive()), (ITEMS, ITEMS + 3, ITEMS + 1));
        let added = AddedItems::load(&to.dir(Stage::Catalog), &catalog).unwrap();
        assert_eq!(added.title(&catalog, ITEMS as u32 + 2), Some("New 62"));
        assert_eq!(added.vectors.unwrap().row(1), seen_by_another(ITEMS + 1));
        // Codes are those of the new tokenizer, but where the policy moves them.
        let sids = to.tokenizer().unwrap().encode(&to.catalog_embeddings(&catalog).unwrap()).unwrap();
        if policy != CollisionPolicy::NearestFree {
            assert_eq!(catalog.tokenizer_semantic_ids().unwrap(), sids, "{policy:?}");
        }
        // It lives on: what was removed comes back, and the version before can be had.
        let new = world.vectors("back.parquet", 5..6, seen_by_another);
        assert_eq!(change::add(&to, &[Input::from(&*new)], None, &NoProgress).unwrap().restored, 1);
        assert_eq!(versions::versions(&to).unwrap().len(), 4, "built, added, removed, restored");
    }
}

#[test]
fn a_catalog_with_added_items_is_carried_over_to_vectors_in_several_files() {
    let world = World::new("rq-kmeans", serde_json::json!({ "codes": [8, 8] }), CollisionPolicy::Postings);
    world.add(ITEMS..ITEMS + 3).unwrap();
    // Each file has its own order: rows are found by their ids.
    let first = world.vectors("first.parquet", (0..ITEMS + 3).rev(), |item| seen_by_another(item)[..3].to_vec());
    let second = world.vectors("second.parquet", 0..ITEMS + 3, |item| seen_by_another(item)[3..].to_vec());
    let files = [Input::from(&*first), Input::from(&*second)];
    let out = world.path("mapped");
    upgrade(&world.run, &files, How::Map, &out, DeviceChoice::Cpu, &NoProgress).unwrap();
    let to = Run::open(&out).unwrap();
    let all = to.catalog_embeddings(&to.catalog().unwrap()).unwrap();
    assert!((0..ITEMS + 3).all(|item| all.row(item) == seen_by_another(item)));
    let some = world.vectors("some.parquet", 0..ITEMS, |item| seen_by_another(item)[3..].to_vec());
    let files = [Input::from(&*first), Input::from(&*some)];
    let error = upgrade(&world.run, &files, How::Map, &world.path("none"), DeviceChoice::Cpu, &NoProgress);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("some.parquet") && error.contains(&id(ITEMS)), "{error}");
}

#[test]
fn a_new_encoder_keeps_the_catalog_and_what_was_added_to_it() {
    let settings = serde_json::json!({
        "codes": [8, 8], "hidden": [16], "latent": 6, "epochs": 60, "batch": 32, "learning_rate": 0.01
    });
    let world = World::new("rq-vae", settings, CollisionPolicy::Postings);
    world.add(ITEMS..ITEMS + 3).unwrap();
    change::remove(&world.run, &["item 5", &id(ITEMS + 1)]).unwrap();
    world.vectors("all.parquet", 0..ITEMS + 3, seen_by_another);
    let done = world.upgrade("all.parquet", How::Encoder, "encoded").unwrap();
    let record = done.encoder.as_ref().unwrap();
    assert_eq!((done.moved_items, done.unchanged_items, record.items), (0, ITEMS + 1, ITEMS + 3));
    assert!(record.after.whole > record.before.whole && record.after.whole > 0.7, "{record:?}");
    assert!(done.agreement == record.after && done.migration_map.is_file());
    let to = Run::open(&world.path("encoded")).unwrap();
    assert_eq!(World::listed(&to), World::listed(&world.run));
    assert_eq!(to.catalog().unwrap().version(), world.run.catalog().unwrap().version());
    // The same again gives the same bytes, and both other ways lead on from there.
    world.upgrade("all.parquet", How::Encoder, "again").unwrap();
    let again = Run::open(&world.path("again")).unwrap();
    assert_eq!(to.digest(Stage::Tokenizer).unwrap(), again.digest(Stage::Tokenizer).unwrap());

    // New items of the new model are added; reports and drift go on.
    let new = world.vectors("more.parquet", ITEMS + 3..ITEMS + 5, seen_by_another);
    assert_eq!(change::add(&to, &[Input::from(&*new)], None, &NoProgress).unwrap().added, 2);
    let report = stages::tokenizer::report(&to, &NoProgress).unwrap();
    assert!(report.reconstruction.unwrap().relative_error.is_finite());
    let catalog = to.catalog().unwrap();
    let vectors = to.catalog_embeddings(&catalog).unwrap();
    let drifted = drift(&to.tokenizer().unwrap(), &catalog, &vectors, &Limits::default()).unwrap();
    assert!((20.0..80.0).contains(&drifted.error_percentile.unwrap()), "{drifted:?}");
}

#[test]
fn a_way_that_a_method_cannot_take_is_refused_before_any_work() {
    let codes = serde_json::json!({ "codes": [8, 8] });
    let kmeans = World::new("rq-kmeans", codes.clone(), CollisionPolicy::Postings);
    kmeans.vectors("all.parquet", 0..ITEMS, seen_by_another);
    let error = kmeans.upgrade("all.parquet", How::Encoder, "out").unwrap_err().to_string();
    assert!(error.contains("rq-kmeans has no encoder") && error.contains("--how map or --how relabel"), "{error}");
    assert!(!kmeans.path("out").exists());

    let fsq = World::new("fsq", serde_json::json!({ "codes": [64, 64], "epochs": 2 }), CollisionPolicy::Postings);
    fsq.vectors("all.parquet", 0..ITEMS, seen_by_another);
    for how in [How::Encoder, How::Relabel] {
        let error = fsq.upgrade("all.parquet", how, "out").unwrap_err().to_string();
        assert!(error.contains("fsq") && error.contains("use --how map") && !error.contains(" or --how"), "{error}");
    }
    let list = World::new("sequential", codes, CollisionPolicy::Postings);
    list.vectors("all.parquet", 0..ITEMS, seen_by_another);
    for how in [How::Map, How::Encoder, How::Relabel] {
        let error = list.upgrade("all.parquet", how, "out").unwrap_err().to_string();
        assert!(error.contains("sequential lists items") && error.contains("keep the run as it is"), "{error}");
    }
}
