//! Signatures that AWS's own library makes, and a small service that objects are kept at.

use super::*;
use chrono::TimeZone as _;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufStream};
use tokio::net::TcpListener;

fn bucket(endpoint: &str, place: &str, session: Option<&str>) -> Bucket {
    let keys = Keys {
        region: "eu-central-1".to_owned(),
        id: "AKIDEXAMPLE".to_owned(),
        secret: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned(),
        session: session.map(str::to_owned),
    };
    Bucket::new(endpoint, place, keys, None).unwrap()
}

/// The expected signatures are botocore's, of the same requests at the same time.
#[test]
fn requests_are_signed_as_by_aws() {
    let now = chrono::Utc.with_ymd_and_hms(2026, 11, 28, 14, 23, 0).unwrap();
    let end = |request: &Request<Bytes>| {
        let line = request.headers()["authorization"].to_str().unwrap();
        line.rsplit_once("SignedHeaders=").unwrap().1.to_owned()
    };
    let ours = bucket("http://127.0.0.1:9000", "backups/kv", None);
    let body = Bytes::from_static(b"hello");
    let put = ours.signed(&Method::PUT, "kv/main a/20261128T142300Z.db", &[], None, body, now).unwrap();
    assert_eq!(put.uri(), "/backups/kv/main%20a/20261128T142300Z.db");
    let expected = "037b3032605395bdf657e14e6d3afa435cde40bafba7f3e602f091c7bc4263c1";
    assert_eq!(end(&put), format!("host;x-amz-content-sha256;x-amz-date, Signature={expected}"));

    let ours = bucket("http://127.0.0.1:9000/", "backups/kv", Some("SESSION"));
    let query = [("list-type", "2"), ("prefix", "kv/main/"), ("continuation-token", "a+b=")];
    let list = ours.signed(&Method::GET, "", &query, None, Bytes::new(), now).unwrap();
    let expected = "a2f44b13d3e4b1c568cefc2be6d971a8df980e28a9798f47ddd14a0eeafc1965";
    assert_eq!(end(&list), format!("host;x-amz-content-sha256;x-amz-date;x-amz-security-token, Signature={expected}"));
    assert_eq!(list.headers()["x-amz-security-token"], "SESSION");
    assert!(!format!("{ours} {ours:?}").contains("EXAMPLE"));
}

#[test]
fn what_is_no_bucket_is_refused() {
    let keys = || Keys { region: "r".to_owned(), id: "i".to_owned(), secret: "s".to_owned(), session: None };
    for (endpoint, place, says) in [
        ("s3.example.com", "backups", "the S3 service"),
        ("https://s3.example.com/backups", "backups", "has a path"),
        ("https://s3.example.com", "/kv", "there is no bucket"),
    ] {
        let error = Bucket::new(endpoint, place, keys(), None).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[derive(Default)]
struct Service {
    objects: BTreeMap<String, Vec<u8>>,
    parts: BTreeMap<u32, Vec<u8>>,
    /// Requests, as `METHOD target`.
    seen: Vec<String>,
    /// Statuses to answer with, before any request is done.
    failures: Vec<u16>,
    /// The next upload is completed, and answered as if it were not.
    loses_an_answer: bool,
}

/// Serves one bucket until the test ends; objects are listed two at a time.
async fn service() -> (String, Arc<Mutex<Service>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let service = Arc::new(Mutex::new(Service::default()));
    let shared = Arc::clone(&service);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut stream = BufStream::new(stream);
            let (mut lines, mut line) = (Vec::new(), String::new());
            while stream.read_line(&mut line).await.unwrap() > 2 {
                lines.push(std::mem::take(&mut line).trim().to_ascii_lowercase());
            }
            let first = lines[0].to_ascii_uppercase();
            let header = |name: &str| lines.iter().find_map(|line| line.strip_prefix(&format!("{name}: ")));
            let mut body = vec![0; header("content-length").map_or(0, |length| length.parse().unwrap())];
            stream.read_exact(&mut body).await.unwrap();
            let method = first.split(' ').next().unwrap().to_owned();
            let target = lines[0].split(' ').nth(1).unwrap().to_owned();
            let (status, headers, answer) = shared.lock().unwrap().answer(&method, &target, header("range"), body);
            let head = format!("HTTP/1.1 {status} X\r\nconnection: close\r\n{headers}\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.write_all(&answer).await.unwrap();
            stream.flush().await.unwrap();
        }
    });
    (url, service)
}

impl Service {
    fn answer(&mut self, method: &str, target: &str, range: Option<&str>, body: Vec<u8>) -> (u16, String, Vec<u8>) {
        self.seen.push(format!("{method} {target}"));
        let sized = |body: &[u8]| format!("content-length: {}\r\netag: \"e\"\r\n", body.len());
        if let Some(status) = self.failures.pop() {
            let body = b"<Error><Code>Bad</Code><Message>not &lt;now&gt;</Message></Error>".to_vec();
            return (status, sized(&body), body);
        }
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let key = path.strip_prefix("/backups").unwrap().trim_start_matches('/').to_owned();
        let mut answer = Vec::new();
        match (method, query) {
            ("GET", query) if query.contains("list-type=2") => {
                let from = if query.contains("continuation-token=2") { 2 } else { 0 };
                let keys: Vec<_> = self.objects.keys().skip(from).take(2).collect();
                let keys: String = keys.iter().flat_map(|key| ["<Contents><Key>", key, "</Key></Contents>"]).collect();
                let more = from == 0 && self.objects.len() > 2;
                let next = if more { "<NextContinuationToken>2</NextContinuationToken>" } else { "" };
                answer = format!("<ListBucketResult>{keys}{next}</ListBucketResult>").into_bytes();
            }
            ("POST", "uploads=") => answer = b"<R><UploadId>u&amp;1</UploadId></R>".to_vec(),
            ("PUT", "") => drop(self.objects.insert(key, body)),
            ("PUT", query) => {
                let number = query.strip_prefix("partnumber=").and_then(|rest| rest.split('&').next()).unwrap();
                self.parts.insert(number.parse().unwrap(), body);
            }
            ("POST", _) if self.parts.is_empty() => {
                let body = b"<Error><Code>NoSuchUpload</Code></Error>".to_vec();
                return (404, sized(&body), body);
            }
            ("POST", _) => {
                let whole = std::mem::take(&mut self.parts).into_values().flatten().collect();
                self.objects.insert(key, whole);
                if std::mem::take(&mut self.loses_an_answer) {
                    return (503, sized(b""), Vec::new());
                }
            }
            ("DELETE", _) => drop(self.objects.remove(&key)),
            (_, _) => {
                let Some(object) = self.objects.get(&key) else { return (404, sized(b""), Vec::new()) };
                if method == "HEAD" {
                    return (200, sized(object), Vec::new());
                }
                let (first, last) = range.unwrap().strip_prefix("bytes=").unwrap().split_once('-').unwrap();
                answer = object[first.parse().unwrap()..=last.parse::<usize>().unwrap()].to_vec();
            }
        }
        (200, sized(&answer), answer)
    }
}

#[tokio::test]
async fn objects_come_back_as_they_went_in_parts_if_they_are_large() {
    let (url, service) = service().await;
    let bucket = bucket(&url, "backups/kv/", None);
    let dir = tempfile::tempdir().unwrap();
    let (file, back) = (dir.path().join("file"), dir.path().join("back.db"));
    let large: Vec<u8> = (0..PART_BYTES + 12_345).map(|at| (at % 251) as u8).collect();
    for (name, bytes) in [("a.db", &b"small"[..]), ("b.db", &large), ("c.db", b"")] {
        std::fs::write(&file, bytes).unwrap();
        bucket.put(&file, name).await.unwrap();
        bucket.get(name, &back).await.unwrap();
        assert!(std::fs::read(&back).unwrap() == bytes, "{name}");
    }
    assert_eq!(bucket.list().await.unwrap(), ["a.db", "b.db", "c.db"]);
    bucket.delete("b.db").await.unwrap();
    assert_eq!(bucket.list().await.unwrap(), ["a.db", "c.db"]);
    let seen = service.lock().unwrap().seen.clone();
    let parts = seen.iter().filter(|request| request.contains("partnumber=") && request.contains("uploadid=u%261"));
    assert_eq!(parts.count(), 2, "{seen:?}");
}

#[tokio::test]
async fn an_upload_whose_last_answer_is_lost_is_done() {
    let (url, service) = service().await;
    let bucket = bucket(&url, "backups", None);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, vec![7; PART_BYTES + 1]).unwrap();
    service.lock().unwrap().loses_an_answer = true;
    bucket.put(&file, "a.db").await.unwrap();
    let (seen, stored) = {
        let service = service.lock().unwrap();
        (service.seen.clone(), service.objects["a.db"].len())
    };
    assert_eq!(stored, PART_BYTES + 1);
    assert!(!seen.iter().any(|request| request.starts_with("DELETE")), "{seen:?}");
    // One that was not done is a failure: here the parts are gone.
    service.lock().unwrap().objects.clear();
    let error = bucket.put_parts(&mut File::open(&file).unwrap(), 0, "a.db", "u").await.unwrap_err();
    assert!(error.to_string().contains("NoSuchUpload"), "{error}");
}

#[tokio::test]
async fn what_passes_is_tried_again_and_what_does_not_is_told() {
    let (url, service) = service().await;
    let bucket = bucket(&url, "backups", None);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    service.lock().unwrap().failures = vec![429, 503];
    bucket.put(&file, "a.db").await.unwrap();
    service.lock().unwrap().failures = vec![403];
    let error = bucket.put(&file, "a.db").await.unwrap_err();
    assert!(error.to_string().contains("Bad not <now>"), "{error}");
    let error = bucket.get("none.db", &dir.path().join("none")).await.unwrap_err();
    assert!(error.to_string().contains("404"), "{error}");
    assert!(!dir.path().join("none").exists());
}
