//! Files of vectors on the command line: the encode job, killed, given bad rows, given too little room, asked again; and
//! the commands that read vectors as it does.
#![allow(clippy::unwrap_used)]

mod world;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use world::{WIDTH, World, safetensors, stderr, vectors};

/// A world with a tokenizer and many vectors.
fn world(rows: usize) -> World {
    let world = World::new();
    world.run_until("tokenizer");
    let few = vectors();
    let mut random = 1u32;
    let pick = |_| {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (random >> 16) as usize % (few.len() / WIDTH) * WIDTH
    };
    let values: Vec<f32> = (0..rows).map(pick).flat_map(|at| few[at..at + WIDTH].to_vec()).collect();
    fs::write(world.path("many.safetensors"), safetensors(rows, WIDTH, &values)).unwrap();
    world
}

fn encode<'a>(out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec!["tokenizer", "encode", "run", "--embeddings", "many.safetensors", "--out", out, "--quiet"];
    arguments.extend(more);
    arguments
}

fn binary() -> PathBuf {
    assert_cmd::cargo::cargo_bin("sidereal")
}

fn spoil(world: &World, row: usize) {
    let mut bytes = fs::read(world.path("many.safetensors")).unwrap();
    let start = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let at = start + row * WIDTH * 4;
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(world.path("many.safetensors"), bytes).unwrap();
}

/// Starts the job and kills it when a file appears.
fn kill_when(world: &World, arguments: &[&str], appears: &Path) {
    let mut command = Command::new(binary());
    command.args(arguments).current_dir(world.path("."));
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while !appears.exists() && child.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    let _ = child.kill();
    child.wait().unwrap();
}

#[test]
fn a_job_killed_at_any_moment_goes_on_and_gives_the_same_bytes_for_any_threads_and_parts() {
    let world = world(6000);
    let first = world.json(&encode("calm.parquet", &["--json", "--threads", "1"]));
    assert_eq!((first["encoded"].as_u64(), first["parts"].as_u64()), (Some(6000), Some(1)));
    let calm = fs::read(world.path("calm.parquet")).unwrap();
    for (moment, threads) in [("job.json", "1"), ("part-000003.parquet", "2"), ("part-000119.parquet", "3")] {
        let arguments = encode("x.parquet", &["--part-rows", "50", "--threads", threads]);
        let parts = world.path("x.parquet.partial");
        kill_when(&world, &arguments, &parts.join(moment));
        let there = (0..120).filter(|n| parts.join(format!("part-{n:06}.parquet")).exists()).count() as u64;
        // Asked with other parts: it goes on with those that it began with.
        let done = world.json(&encode("x.parquet", &["--json", "--part-rows", "1000"]));
        if done["finished_before"] == false && moment != "job.json" {
            assert_eq!((done["parts"].as_u64(), done["parts_kept"].as_u64()), (Some(120), Some(there)), "{moment}");
        }
        assert!(fs::read(world.path("x.parquet")).unwrap() == calm, "killed at {moment}");
        assert!(!parts.exists());
        fs::remove_file(world.path("x.parquet")).unwrap();
    }
    let again = world.json(&encode("calm.parquet", &["--json"]));
    assert_eq!((&again["finished_before"], &again["encoded"]), (&true.into(), &6000.into()));
    assert_eq!(again["unique_ids"], first["unique_ids"]);
}

#[test]
fn rows_that_cannot_be_encoded_follow_the_policy_and_are_counted() {
    let world = world(200);
    spoil(&world, 7);
    spoil(&world, 150);
    let error = world.refusal(&encode("x.parquet", &["--part-rows", "100"]));
    assert!(error.contains("row 7: NaN") && error.contains("--on-invalid null"), "{error}");
    assert!(!world.path("x.parquet").exists());
    let null = world.json(&encode("x.parquet", &["--on-invalid", "null", "--json"]));
    assert_eq!(
        (null["encoded"].as_u64(), null["null"].as_u64(), null["skipped"].as_u64()),
        (Some(198), Some(2), Some(0))
    );
    let told = world.answer(&encode("x.parquet", &["--on-invalid", "skip"]));
    assert!(told.contains("198 of 200 rows encoded") && told.contains("2 invalid rows left out"), "{told}");
    let error = stderr(&world.sidereal(&encode("x.parquet", &["--on-invalid", "drop"])));
    assert!(error.contains("error, null, skip"), "{error}");
}

/// Some columns of the world's vectors, `rows` of them, as a file.
fn columns(world: &World, name: &str, rows: usize, columns: std::ops::Range<usize>) {
    let values: Vec<f32> = vectors().chunks(WIDTH).take(rows).flat_map(|v| v[columns.clone()].to_vec()).collect();
    fs::write(world.path(name), safetensors(rows, columns.len(), &values)).unwrap();
}

/// Serves a file's ranges on the loopback, until the test's process ends; gives its URL.
fn serve(file: &Path) -> String {
    let bytes = fs::read(file).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let name = file.file_name().unwrap().to_str().unwrap();
    let url = format!("http://{}/{name}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
            let request: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
            let range =
                request.iter().find_map(|line| line.to_lowercase().strip_prefix("range: bytes=").map(String::from));
            let (status, range, body) = match range.as_deref().and_then(|range| range.split_once('-')) {
                Some((from, to)) => {
                    let (from, to) =
                        (from.parse::<usize>().unwrap(), to.parse::<usize>().unwrap().min(bytes.len() - 1));
                    let told = format!("Content-Range: bytes {from}-{to}/{}\r\n", bytes.len());
                    ("206 Partial Content", told, &bytes[from..=to])
                }
                None => ("200 OK", String::new(), &bytes[..]),
            };
            let length = body.len();
            let head = format!(
                "HTTP/1.1 {status}\r\nConnection: close\r\nETag: \"one\"\r\nContent-Length: {length}\r\n{range}\r\n"
            );
            let body = if request[0].starts_with("HEAD") { &[][..] } else { body };
            let _ = stream.write_all(&[head.as_bytes(), body].concat());
        }
    });
    url
}

#[test]
fn a_tokenizer_is_trained_on_what_encode_takes_files_urls_and_all_but_invalid_rows() {
    let world = world(200);
    spoil(&world, 7);
    let train = |out: &str, more: &[&str]| {
        let train = ["tokenizer", "train", out, "--levels", "2", "--codes", "4", "--sample", "150", "--quiet"];
        [&train[..], more].concat().into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let asked = |out: &str, more: &[&str]| {
        let arguments = train(out, more);
        world.answer(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let refused = |out: &str, more: &[&str]| {
        let arguments = train(out, more);
        world.refusal(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let error = refused("bad", &["--embeddings", "many.safetensors"]);
    assert!(error.contains("many.safetensors") && error.contains("row 7: NaN"), "{error}");
    assert!(error.contains("--on-invalid skip") && !error.contains("null"), "{error}");
    asked("skipped", &["--embeddings", "many.safetensors", "--on-invalid", "skip"]);
    let error = refused("bad", &["--embeddings", "many.safetensors", "--on-invalid", "null"]);
    assert!(error.contains("use error or skip"), "{error}");

    columns(&world, "text.safetensors", 40, 0..6);
    columns(&world, "image.safetensors", 40, 6..WIDTH);
    let two = ["--embeddings", "text.safetensors", "--embeddings", "image.safetensors"];
    asked("two", &two);
    columns(&world, "both.safetensors", 40, 0..WIDTH);
    asked("one", &["--embeddings", "both.safetensors"]);
    let arrays = |run: &str| fs::read(world.path(run).join("tokenizer/codebooks.safetensors")).unwrap();
    assert_eq!(arrays("two"), arrays("one"));
    // A URL, with a name for the tensor; what is known of it by its tag keeps the stage.
    let url = serve(&world.path("both.safetensors"));
    let from_url = ["--embeddings", &url, "--name", "embeddings"];
    asked("there", &from_url);
    assert_eq!(arrays("there"), arrays("one"));
    let made = fs::metadata(world.path("there/tokenizer/codebooks.safetensors")).unwrap().modified().unwrap();
    asked("there", &from_url);
    let kept = fs::metadata(world.path("there/tokenizer/codebooks.safetensors")).unwrap().modified().unwrap();
    assert_eq!(made, kept);
    let error = refused("bad", &["--embeddings", &url, "--name", "embeddings", "--name", "more"]);
    assert!(error.contains("2 names for 1 files"), "{error}");
    assert!(!world.path("bad/tokenizer").exists());
}

#[test]
fn new_items_of_several_vectors_are_judged_added_and_upgraded() {
    let world = World::new();
    world.run_until("catalog");
    let mut new = vectors()[..2 * WIDTH].to_vec();
    new.iter_mut().for_each(|v| *v += 0.05);
    for (name, from) in [("text.safetensors", 0), ("image.safetensors", WIDTH / 2)] {
        let values: Vec<f32> = new.chunks(WIDTH).flat_map(|v| v[from..from + WIDTH / 2].to_vec()).collect();
        fs::write(world.path(name), safetensors(2, WIDTH / 2, &values)).unwrap();
    }
    fs::write(world.path("new.csv"), "item_id,title\nN1,New 1\nN2,New 2\n").unwrap();
    let two = ["--embeddings", "text.safetensors", "--embeddings", "image.safetensors", "--quiet", "--json"];
    let drift = world.json(&[&["tokenizer", "drift", "run"][..], &two].concat());
    assert_eq!(drift["items"], 2);
    let add = ["catalog", "add", "run", "--items", "new.csv"];
    let one = world.refusal(&[&add[..], &two[..2]].concat());
    assert!(one.contains('6') && one.contains("12"), "{one}");
    // One of the files is shorter.
    columns(&world, "short.safetensors", 1, 6..WIDTH);
    let shorter = ["--embeddings", "text.safetensors", "--embeddings", "short.safetensors", "--quiet"];
    let error = world.refusal(&[&add[..], &shorter].concat());
    assert!(error.contains("short.safetensors") && error.contains("1 vectors"), "{error}");
    let added = world.json(&[&add[..], &two].concat());
    assert_eq!((&added["added"], &added["items"]), (&2.into(), &42.into()));

    // Another run without added items is carried over to the same vectors in two files.
    let other = World::new();
    other.run_until("catalog");
    columns(&other, "text.safetensors", 40, 0..6);
    columns(&other, "image.safetensors", 40, 6..WIDTH);
    let new = ["--new-embeddings", "text.safetensors", "--new-embeddings", "image.safetensors"];
    let upgrade = ["tokenizer", "upgrade", "run", "--how", "map", "--out", "mapped", "--quiet", "--json"];
    let done = other.json(&[&upgrade[..], &new].concat());
    assert_eq!((&done["unchanged_items"], &done["agreement"]["whole"]), (&40.into(), &1.0.into()));
}

#[test]
fn several_files_are_put_together_and_another_width_is_refused() {
    let world = world(40);
    let half = |from: usize| -> Vec<f32> {
        vectors().chunks(WIDTH).flat_map(|v| v[from..from + WIDTH / 2].to_vec()).collect()
    };
    for (name, from) in [("text.safetensors", 0), ("image.safetensors", WIDTH / 2)] {
        fs::write(world.path(name), safetensors(40, WIDTH / 2, &half(from))).unwrap();
    }
    let two = ["tokenizer", "encode", "run", "--embeddings", "text.safetensors", "--embeddings", "image.safetensors"];
    let done = world.json(&[&two[..], &["--out", "two.parquet", "--json", "--quiet"]].concat());
    assert_eq!(done["items"], 40);
    let error = world.refusal(&[&two[..5], &["--out", "x.parquet", "--quiet"]].concat());
    assert!(error.contains("6 wide") && error.contains("width 12"), "{error}");
    let error = world.refusal(&[&two[..], &["--name", "embeddings", "--out", "x.parquet", "--quiet"]].concat());
    assert!(error.contains("1 names for 2 files"), "{error}");
    assert!(!world.path("x.parquet").exists() && !world.path("x.parquet.partial").exists());
}

/// A limit on the size of files stands for a disk that is full: both refuse a write.
#[cfg(unix)]
#[test]
fn a_full_disk_leaves_nothing_half_written_and_keeps_the_parts() {
    let world = world(60_000);
    let bytes = world.json(&encode("calm.parquet", &["--json"]));
    assert_eq!(bytes["encoded"], 60_000);
    let calm = fs::read(world.path("calm.parquet")).unwrap();
    // In blocks of 512 bytes, or of 1024 in some shells: more than a part takes, less than the whole file.
    let blocks = calm.len() / 2048;
    let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
    let limited = Command::new("sh")
        .args(["-c", &script])
        .arg(binary())
        .args(encode("x.parquet", &["--part-rows", "2000"]))
        .current_dir(world.path("."))
        .output()
        .unwrap();
    let told = stderr(&limited);
    assert_eq!(limited.status.code(), Some(2), "{told}");
    assert!(told.contains("x.parquet") && told.contains("30 of 30 parts are finished and kept"), "{told}");
    assert!(!world.path("x.parquet").exists());
    let left: Vec<PathBuf> =
        fs::read_dir(world.path("x.parquet.partial")).unwrap().map(|e| e.unwrap().path()).collect();
    assert!(left.iter().all(|path| path.extension().is_none_or(|ending| ending != "writing")), "{left:?}");
    let done = world.json(&encode("x.parquet", &["--json"]));
    assert_eq!(done["parts_kept"], 30);
    assert!(fs::read(world.path("x.parquet")).unwrap() == calm);
}
