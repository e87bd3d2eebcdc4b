#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::formats::{Reading, VectorFile};
use crate::precision::Precision;
use crate::vectors::read_vectors;
use crate::written::{npy, parquet, safetensors};

/// A server of some files on the loopback; it goes away with the test's process.
struct Server {
    address: String,
    bytes_sent: Arc<AtomicU64>,
}

#[derive(Clone)]
struct Served {
    files: Vec<(String, Vec<u8>)>,
    tag: Arc<Mutex<String>>,
    ranges: bool,
    key: Option<&'static str>,
    bytes_sent: Arc<AtomicU64>,
}

impl Served {
    fn new(files: Vec<(&str, Vec<u8>)>) -> Self {
        let files = files.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect();
        let tag = Arc::new(Mutex::new("\"one\"".to_owned()));
        Self { files, tag, ranges: true, key: None, bytes_sent: Arc::default() }
    }

    fn start(self) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let bytes_sent = Arc::clone(&self.bytes_sent);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let served = self.clone();
                std::thread::spawn(move || served.answer(stream));
            }
        });
        Server { address, bytes_sent }
    }

    fn answer(&self, mut stream: TcpStream) -> Option<()> {
        let mut lines = BufReader::new(stream.try_clone().ok()?).lines().map_while(std::result::Result::ok);
        let request = lines.next()?;
        let headers: Vec<String> = lines.take_while(|line| !line.is_empty()).map(|line| line.to_lowercase()).collect();
        let header = |name: &str| headers.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        let mut words = request.split(' ');
        let (method, path) = (words.next()?, words.next()?);
        let tag = self.tag.lock().unwrap().clone();
        let mut say = |status: &str, length: usize, range: &str, body: &[u8]| {
            let head = format!(
                "HTTP/1.1 {status}\r\nConnection: close\r\nETag: {tag}\r\nLast-Modified: Wed, 21 Oct 2015 07:28:00 GMT\r\n\
                 Content-Length: {length}\r\n{range}\r\n"
            );
            self.bytes_sent.fetch_add(body.len() as u64, Ordering::Relaxed);
            let _ = stream.write_all(&[head.as_bytes(), body].concat());
        };
        if self.key.is_some_and(|key| header("authorization").is_none_or(|line| !line.contains(key))) {
            say("403 Forbidden", 0, "", &[]);
            return None;
        }
        let Some((_, bytes)) = self.files.iter().find(|(name, _)| name == path) else {
            say("404 Not Found", 0, "", &[]);
            return None;
        };
        if header("if-match").is_some_and(|wanted| wanted != tag) {
            say("412 Precondition Failed", 0, "", &[]);
            return None;
        }
        match header("range").filter(|_| self.ranges).and_then(|range| range.strip_prefix("bytes=")?.split_once('-')) {
            _ if method == "HEAD" => say("200 OK", bytes.len(), "", &[]),
            Some((from, to)) => {
                let (from, to) = (from.parse().unwrap(), to.parse::<usize>().unwrap().min(bytes.len() - 1));
                let range = format!("Content-Range: bytes {from}-{to}/{}\r\n", bytes.len());
                say("206 Partial Content", to + 1 - from, &range, &bytes[from..=to]);
            }
            None => say("200 OK", bytes.len(), "", bytes),
        }
        Some(())
    }
}

fn bytes_of(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

#[test]
fn every_format_is_read_from_a_server_as_from_disk() {
    let dir = tempfile::tempdir().unwrap();
    let values: Vec<f32> = (0..60).map(|i| i as f32).collect();
    let lists: Vec<Option<Vec<f32>>> = values.chunks(3).map(|v| Some(v.to_vec())).collect();
    let ids: Vec<String> = (0..20).map(|i| format!("item {i}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let files = vec![
        ("/a/v.parquet", bytes_of(&parquet(dir.path(), Some(&ids), &lists))),
        ("/a/v.npy", bytes_of(&npy(dir.path(), Precision::F32, false, &[20, 3], &values))),
        ("/a/v.safetensors", bytes_of(&safetensors(dir.path(), Precision::F64, &[20, 3], &values))),
    ];
    let server = Served::new(files).start();
    for name in ["v.parquet", "v.npy", "v.safetensors"] {
        let url = format!("http://{}/a/{name}", server.address);
        let read = read_vectors(Path::new(&url), None).unwrap();
        assert_eq!(read.embeddings.values(), values, "{name}");
        assert_eq!(read.item_ids.is_some(), name == "v.parquet");
        let file = VectorFile::open(Path::new(&url), None).unwrap();
        assert_eq!(file.place(), url);
        let (here, there) = (VectorFile::open(&dir.path().join(name), None).unwrap(), file.identity().unwrap());
        assert_eq!(here.identity().unwrap().ends, there.ends, "the same bytes in another place");
        assert_eq!(there.tag.as_deref(), Some("\"one\""));
    }
}

#[test]
fn objects_of_s3_are_read_with_credentials_that_no_error_tells() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = bytes_of(&npy(dir.path(), Precision::F32, false, &[1, 2], &[1.0, 2.0]));
    let mut served = Served::new(vec![("/bucket/deep/v.npy", bytes)]);
    served.key = Some("akia-good");
    let server = served.start();
    let options = |key: &str| {
        StoreOptions::default()
            .with("aws_endpoint", &format!("http://{}", server.address))
            .with("aws_allow_http", "true")
            .with("aws_access_key_id", key)
            .with("aws_secret_access_key", "very-secret")
    };
    let open = |url: &str, key: &str| VectorFile::open_with(Path::new(url), None, &options(key));
    let file = open("s3://bucket/deep/v.npy", "AKIA-GOOD").unwrap();
    assert_eq!(file.batches(0).unwrap().next().unwrap().unwrap().values, [1.0, 2.0]);
    let missing = open("s3://bucket/deep/w.npy", "AKIA-GOOD").unwrap_err().to_string();
    assert!(
        missing.contains("s3://bucket/deep/w.npy") && missing.contains("check the bucket and the key"),
        "{missing}"
    );
    let refused = open("s3://bucket/deep/v.npy", "AKIA-BAD").unwrap_err().to_string();
    assert!(refused.contains("check the credentials"), "{refused}");
    for told in [missing, refused, format!("{:?}", options("AKIA-GOOD"))] {
        assert!(!told.contains("very-secret") && !told.to_uppercase().contains("AKIA"), "{told}");
    }
}

#[test]
fn objects_of_google_are_read_where_its_store_is() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = bytes_of(&npy(dir.path(), Precision::F32, false, &[1, 2], &[1.0, 2.0]));
    // Its paths are one encoded word behind the bucket.
    let server = Served::new(vec![("/bucket/deep%2Fv%2Enpy", bytes)]).start();
    let base = format!("http://{}", server.address);
    let options = StoreOptions::default().with("google_base_url", &base).with("google_skip_signature", "true");
    let open = |url: &str| VectorFile::open_with(Path::new(url), None, &options);
    let file = open("gs://bucket/deep/v.npy").unwrap();
    assert_eq!(file.batches(0).unwrap().next().unwrap().unwrap().values, [1.0, 2.0]);
    let missing = open("gs://bucket/deep/w.npy").unwrap_err().to_string();
    assert!(
        missing.contains("gs://bucket/deep/w.npy") && missing.contains("check the bucket and the key"),
        "{missing}"
    );
}

#[test]
fn objects_of_azure_are_read_with_an_account_that_no_error_tells() {
    const KEY: &str = "dmVyeS1zZWNyZXQ=";
    let dir = tempfile::tempdir().unwrap();
    let bytes = bytes_of(&npy(dir.path(), Precision::F32, false, &[1, 2], &[1.0, 2.0]));
    let mut served = Served::new(vec![("/container/deep/v.npy", bytes)]);
    served.key = Some("sharedkey right:");
    let server = served.start();
    let options = |account: &str| {
        StoreOptions::default()
            .with("azure_storage_endpoint", &format!("http://{}", server.address))
            .with("azure_allow_http", "true")
            .with("azure_storage_account_name", account)
            .with("azure_storage_account_key", KEY)
    };
    let open = |url: &str, account: &str| VectorFile::open_with(Path::new(url), None, &options(account));
    let file = open("az://container/deep/v.npy", "right").unwrap();
    assert_eq!(file.batches(0).unwrap().next().unwrap().unwrap().values, [1.0, 2.0]);
    let missing = open("az://container/deep/w.npy", "right").unwrap_err().to_string();
    assert!(missing.contains("az://container/deep/w.npy") && missing.contains("check the bucket"), "{missing}");
    let refused = open("az://container/deep/v.npy", "wrong").unwrap_err().to_string();
    assert!(refused.contains("check the credentials"), "{refused}");
    assert!(!(missing + &refused + &format!("{:?}", options("right"))).contains(KEY));
}

#[test]
fn urls_with_secrets_and_unknown_stores_are_refused_without_repeating_them() {
    for (url, says) in [
        ("https://host/v.npy?X-Amz-Signature=hidden", "carries a query"),
        ("https://me:hidden@host/v.npy", "carries a query or a user"),
        ("ftp://host/v.npy", "s3://BUCKET/KEY"),
    ] {
        let error = VectorFile::open(Path::new(url), None).unwrap_err().to_string();
        assert!(error.contains(says) || error.contains("check the URL"), "{error}");
        assert!(!error.contains("hidden"), "{error}");
    }
}

#[test]
fn a_big_object_is_read_by_blocks_and_only_where_it_is_wanted() {
    let dir = tempfile::tempdir().unwrap();
    let (rows, width) = (6000, 1024); // 24 MB: six blocks
    let values: Vec<f32> = (0..rows * width).map(|i| (i % 8191) as f32).collect();
    let served =
        Served::new(vec![("/v.npy", bytes_of(&npy(dir.path(), Precision::F32, false, &[rows, width], &values)))]);
    let tag = Arc::clone(&served.tag);
    let server = served.start();
    let url = format!("http://{}/v.npy", server.address);
    let file = VectorFile::open(Path::new(&url), None).unwrap();
    let last = Reading { from_row: rows - 10, ..Reading::default() };
    let batch = file.read(last).unwrap().next().unwrap().unwrap();
    assert_eq!(batch.values, values[(rows - 10) * width..]);
    assert!(server.bytes_sent.load(Ordering::Relaxed) <= 2 * BLOCK_BYTES, "the header's block and the last one");
    let small = Reading { batch_rows: Some(700), ..Reading::default() };
    let all: Vec<f32> = file.read(small).unwrap().flat_map(|batch| batch.unwrap().values).collect();
    assert!(all == values);
    assert!(server.bytes_sent.load(Ordering::Relaxed) <= (rows * width * 4) as u64 + 1024, "no block comes twice");
    // The object changes under a reader that has not seen its end.
    let file = VectorFile::open(Path::new(&url), None).unwrap();
    *tag.lock().unwrap() = "\"two\"".to_owned();
    let error = file.read(last).unwrap().next().unwrap().unwrap_err().to_string();
    assert!(error.contains("changed while it was read"), "{error}");
}

#[test]
fn a_server_without_ranges_and_numbers_by_columns_are_refused_with_the_mend() {
    let dir = tempfile::tempdir().unwrap();
    let rows = bytes_of(&npy(dir.path(), Precision::F32, false, &[2, 2], &[1.0, 2.0, 3.0, 4.0]));
    let columns = bytes_of(&npy(dir.path(), Precision::F32, true, &[2, 2], &[1.0, 2.0, 3.0, 4.0]));
    let mut served = Served::new(vec![("/rows.npy", rows), ("/columns.npy", columns)]);
    let server = served.clone().start();
    let told = |server: &Server, name: &str| {
        VectorFile::open(Path::new(&format!("http://{}/{name}", server.address)), None).unwrap_err().to_string()
    };
    assert!(told(&server, "columns.npy").contains("column by column"));
    served.ranges = false;
    let error = told(&served.start(), "rows.npy");
    assert!(error.contains("range requests"), "{error}");
}
