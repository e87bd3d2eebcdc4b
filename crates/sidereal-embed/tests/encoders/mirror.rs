//! The hub's client against a mirror on the loopback device.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use sidereal_core::artifact::sha256_bytes;
use sidereal_embed::encoders::Content;
use sidereal_embed::{EncoderOptions, Hub, encoders};

use crate::fixture;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A repository `org/model` with these files; the threads end with the test's process.
struct Mirror {
    endpoint: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Mirror {
    fn of(files: HashMap<String, Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (files, log) = (Arc::new(files), Arc::clone(&requests));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (files, log) = (Arc::clone(&files), Arc::clone(&log));
                std::thread::spawn(move || answer(stream, &files, &log));
            }
        });
        Self { endpoint, requests }
    }

    /// The files of a folder.
    fn folder(dir: &Path) -> Self {
        let mut files = HashMap::new();
        collect(dir, "", &mut files);
        Self::of(files)
    }

    fn hub(&self, cache: &Path, offline: bool) -> Hub {
        Hub { endpoint: Some(self.endpoint.clone()), cache_dir: Some(cache.to_path_buf()), offline }
    }

    /// Requests of this method since the last look at them.
    fn taken(&self, method: &str) -> Vec<String> {
        let mut log = self.requests.lock().unwrap();
        let found =
            log.iter().filter_map(|line| line.strip_prefix(method)).map(|path| path.trim().to_owned()).collect();
        log.clear();
        found
    }
}

fn collect(dir: &Path, below: &str, files: &mut HashMap<String, Vec<u8>>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = format!("{below}{}", path.file_name().unwrap().to_string_lossy());
        if path.is_dir() {
            collect(&path, &format!("{name}/"), files);
        } else {
            files.insert(name, std::fs::read(path).unwrap());
        }
    }
}

fn answer(stream: TcpStream, files: &HashMap<String, Vec<u8>>, log: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut out = stream;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let mut header = String::new();
        while reader.read_line(&mut header).unwrap_or(0) > 2 {
            header.clear();
        }
        let mut words = line.split(' ');
        let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        log.lock().unwrap().push(format!("{method} {path}"));
        let file = ["main", COMMIT, "v1"].iter().find_map(|revision| {
            let name = path.strip_prefix(&format!("/org/model/resolve/{revision}/"))?;
            files.get(name)
        });
        let (status, headers, body): (&str, String, &[u8]) = match file {
            Some(bytes) => {
                let etag = sha256_bytes(bytes);
                ("200 OK", format!("ETag: \"{etag}\"\r\nX-Repo-Commit: {COMMIT}\r\n"), bytes)
            }
            None if path.starts_with("/org/gated/") => ("401 Unauthorized", "X-Error-Code: GatedRepo\r\n".into(), b""),
            None if path.starts_with("/org/model/") => {
                ("404 Not Found", format!("X-Error-Code: EntryNotFound\r\nX-Repo-Commit: {COMMIT}\r\n"), b"")
            }
            None => ("404 Not Found", "X-Error-Code: RepoNotFound\r\n".into(), b""),
        };
        let head = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n", body.len());
        let body = if method == "HEAD" { b"" } else { body };
        if out.write_all(head.as_bytes()).and_then(|()| out.write_all(body)).is_err() {
            return;
        }
    }
}

#[test]
fn a_model_is_fetched_once_and_then_found_without_the_network() {
    let cache = tempfile::tempdir().unwrap();
    let mirror = Mirror::folder(&fixture("bert_tiny"));
    let folder = mirror.hub(cache.path(), false).model("org/model").unwrap();
    assert_eq!((folder.id(), folder.revision()), ("org/model", Some(COMMIT)));
    let fetched = mirror.taken("GET");
    let mut names: Vec<&str> =
        fetched.iter().filter_map(|path| path.split("/resolve/").nth(1)?.split_once('/')).map(|(_, n)| n).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "1_Pooling/config.json",
            "config.json",
            "model.safetensors",
            "modules.json",
            "sentence_bert_config.json",
            "tokenizer.json"
        ],
        "only what the model needs is fetched, each file once"
    );
    let embedder = encoders::open(&folder, &EncoderOptions::default()).unwrap();
    assert_eq!(embedder.facts().revision.as_deref(), Some(COMMIT));
    embedder.prepare(Content::Text("coffee")).unwrap();

    mirror.hub(cache.path(), false).model("org/model").unwrap();
    assert_eq!(mirror.taken("GET"), Vec::<String>::new(), "what is there is not fetched again");
    for name in ["org/model", &format!("org/model@{COMMIT}")] {
        let offline = mirror.hub(cache.path(), true).model(name).unwrap();
        assert_eq!((offline.revision(), offline.digest().unwrap()), (Some(COMMIT), folder.digest().unwrap()));
        assert_eq!(*mirror.requests.lock().unwrap(), Vec::<String>::new(), "offline means that nobody is asked");
    }
}

#[test]
fn shards_are_fetched_by_their_index_and_never_from_outside() {
    let mut files = HashMap::new();
    collect(&fixture("bert_tiny"), "", &mut files);
    let weights = files.remove("model.safetensors").unwrap();
    files.insert("part-1.safetensors".to_owned(), weights);
    let mut outside = files.clone();
    files.insert("model.safetensors.index.json".to_owned(), br#"{"weight_map": {"a": "part-1.safetensors"}}"#.to_vec());
    outside
        .insert("model.safetensors.index.json".to_owned(), br#"{"weight_map": {"a": "../../x.safetensors"}}"#.to_vec());
    let cache = tempfile::tempdir().unwrap();
    let folder = Mirror::of(files).hub(cache.path(), false).model("org/model@v1").unwrap();
    encoders::open(&folder, &EncoderOptions::default()).unwrap();
    let cache = tempfile::tempdir().unwrap();
    let mirror = Mirror::of(outside);
    let error = mirror.hub(cache.path(), false).model("org/model").unwrap_err().to_string();
    assert!(error.contains("outside the model's folder"), "{error}");
    assert!(!mirror.taken("GET").iter().any(|path| path.contains("x.safetensors")));
}

#[test]
fn what_cannot_be_had_is_told_with_its_mend() {
    let cache = tempfile::tempdir().unwrap();
    let mut files = HashMap::new();
    collect(&fixture("bert_tiny"), "", &mut files);
    files.insert("pytorch_model.bin".to_owned(), files["model.safetensors"].clone());
    files.remove("model.safetensors");
    let mirror = Mirror::of(files);
    let refusal = |name: &str, offline: bool| mirror.hub(cache.path(), offline).model(name).unwrap_err().to_string();
    for (name, offline, words) in [
        ("org/model", false, "only safetensors are read"),
        ("org/none", false, "does not exist"),
        ("org/gated", false, "HF_TOKEN"),
        ("org/other", true, "HF_HUB_OFFLINE"),
        ("no-folder", false, "neither a folder nor"),
        ("../../etc", false, "neither a folder nor"),
    ] {
        let error = refusal(name, offline);
        assert!(error.contains(words), "{name}: {error}");
    }
    assert!(!mirror.taken("GET").iter().any(|path| path.contains("pytorch_model.bin")));
    // Nobody listens there.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let hub = Hub {
        endpoint: Some(format!("http://127.0.0.1:{port}")),
        cache_dir: Some(cache.path().to_path_buf()),
        offline: false,
    };
    let error = hub.model("org/unreachable").unwrap_err().to_string();
    assert!(error.contains("cannot be reached"), "{error}");
}
