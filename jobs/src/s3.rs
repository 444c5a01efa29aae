//! As much of S3 as snapshots need: objects in parts, listing, deletion. Requests are signed with AWS's signature version 4,
//! addresses have the bucket in the path, which every compatible service takes.

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use client::TlsOptions;
use client::http::{Answer, Http, Server};
use http::{Method, Request, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use ring::{digest, hmac};
use std::fmt;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What is uploaded and downloaded at once, and so the most that is in memory. S3 asks for at least 5 MiB, and takes at
/// most 10,000 parts: 160 GB.
const PART_BYTES: usize = 16 << 20;
/// An object in more parts than this is none of ours.
const PARTS_MAX: usize = 10_000;
/// Pages of a listing, a thousand names each.
const PAGES_MAX: usize = 100;
const LIMIT: Duration = Duration::from_mins(5);
/// Attempts for each request.
const TRIES: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// What AWS does not escape.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
const PRIVATE_FILE: u32 = 0o600;

/// A bucket, and what the names of objects begin with.
pub(crate) struct Bucket {
    server: Server,
    http: Http,
    name: String,
    /// Empty, or with a slash at its end.
    prefix: String,
    keys: Keys,
}

/// Who asks. Shown nowhere.
struct Keys {
    region: String,
    id: String,
    secret: String,
    session: Option<String>,
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{} at {}", self.name, self.prefix, self.server)
    }
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Bucket {
    /// The bucket `BUCKET/PREFIX`, with address and keys of AWS's variables.
    ///
    /// # Errors
    /// A variable is not set, or is none.
    pub(crate) fn of_environment(place: &str) -> Result<Self> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let needed = |name: &str| variable(name).with_context(|| format!("{name} is not set"));
        let region = variable("AWS_REGION").unwrap_or_else(|| "us-east-1".to_owned());
        let endpoint = variable("AWS_ENDPOINT_URL").unwrap_or_else(|| format!("https://s3.{region}.amazonaws.com"));
        let keys = Keys {
            region,
            id: needed("AWS_ACCESS_KEY_ID")?,
            secret: needed("AWS_SECRET_ACCESS_KEY")?,
            session: variable("AWS_SESSION_TOKEN"),
        };
        Self::new(&endpoint, place, keys, variable("AWS_CA_BUNDLE").map(PathBuf::from))
    }

    fn new(endpoint: &str, place: &str, keys: Keys, ca_file: Option<PathBuf>) -> Result<Self> {
        let (server, path) = Server::parse(endpoint).map_err(|reason| anyhow::anyhow!("the S3 service: {reason}"))?;
        ensure!(
            matches!(&*path, "" | "/"),
            "the URL of the S3 service has a path: the bucket is part of s3://BUCKET/PREFIX"
        );
        let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
        ensure!(!bucket.is_empty(), "there is no bucket: write s3://BUCKET/PREFIX");
        let prefix = prefix.trim_matches('/');
        let http = Http {
            proxy: None,
            tls: TlsOptions { ca_file, ..TlsOptions::default() },
            connect_timeout: Duration::from_secs(10),
            max_body_bytes: PART_BYTES + (1 << 20),
        };
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Ok(Self { server, http, name: bucket.to_owned(), prefix, keys })
    }

    /// Uploads a file, in parts if it is large. Half an object is never seen.
    pub(crate) async fn put(&self, file: &Path, name: &str) -> Result<()> {
        let mut file = File::open(file)?;
        let length = file.metadata()?.len();
        let key = format!("{}{name}", self.prefix);
        if length <= PART_BYTES as u64 {
            let mut body = Vec::new();
            file.read_to_end(&mut body)?;
            self.call(&Method::PUT, &key, &[], None, body.into()).await?;
        } else {
            let begun = self.call(&Method::POST, &key, &[("uploads", "")], None, Bytes::new()).await?;
            let id = tag(&text(&begun), "UploadId").context("the service names no upload")?;
            let uploaded = self.put_parts(&mut file, length, &key, &id).await;
            if uploaded.is_err() {
                // Best effort: the service forgets parts by its own rules, if it has any.
                drop(self.call(&Method::DELETE, &key, &[("uploadId", &id)], None, Bytes::new()).await);
            }
            uploaded?;
        }
        let stored = self.length(&key).await?;
        ensure!(stored == Some(length), "the service stored {stored:?} bytes of {length}");
        Ok(())
    }

    /// The length of an object, if the service says it.
    async fn length(&self, key: &str) -> Result<Option<u64>> {
        Ok(self.call(&Method::HEAD, key, &[], None, Bytes::new()).await?.number("content-length"))
    }

    async fn put_parts(&self, file: &mut File, length: u64, key: &str, id: &str) -> Result<()> {
        let parts = length.div_ceil(PART_BYTES as u64);
        ensure!(parts <= PARTS_MAX as u64, "{length} bytes are more than {PARTS_MAX} parts of {PART_BYTES}");
        let mut list = String::from("<CompleteMultipartUpload>");
        for number in 1..=parts {
            let mut body = Vec::new();
            file.take(PART_BYTES as u64).read_to_end(&mut body)?;
            let query = [("partNumber", &*number.to_string()), ("uploadId", id)];
            let answer = self.call(&Method::PUT, key, &query, None, body.into()).await?;
            let etag = answer.headers.get("etag").and_then(|etag| etag.to_str().ok()).context("a part has no ETag")?;
            let etag = etag.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;");
            list.extend(["<Part><PartNumber>", &number.to_string(), "</PartNumber><ETag>", &etag, "</ETag></Part>"]);
        }
        list += "</CompleteMultipartUpload>";
        let done = match self.call(&Method::POST, key, &[("uploadId", id)], None, list.into()).await {
            Ok(done) => done,
            // An attempt whose answer was lost may have done it, and then the upload is not known any more.
            Err(_) if self.length(key).await.is_ok_and(|stored| stored == Some(length)) => return Ok(()),
            Err(error) => return Err(error),
        };
        // This one may fail with the status of a success.
        let said = text(&done);
        ensure!(!said.contains("<Error>"), "{}", tag(&said, "Message").unwrap_or_default());
        Ok(())
    }

    /// Names below the prefix, without it.
    pub(crate) async fn list(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        let mut next: Option<String> = None;
        for _ in 0..PAGES_MAX {
            let mut query = vec![("list-type", "2"), ("prefix", &*self.prefix)];
            if let Some(next) = &next {
                query.push(("continuation-token", next));
            }
            let page = text(&self.call(&Method::GET, "", &query, None, Bytes::new()).await?);
            names.extend(tags(&page, "Key").filter_map(|key| key.strip_prefix(&*self.prefix).map(str::to_owned)));
            next = tag(&page, "NextContinuationToken");
            if next.is_none() {
                return Ok(names);
            }
        }
        bail!("there are more than {PAGES_MAX} pages of objects: give backups a prefix of their own")
    }

    pub(crate) async fn delete(&self, name: &str) -> Result<()> {
        self.call(&Method::DELETE, &format!("{}{name}", self.prefix), &[], None, Bytes::new()).await.map(drop)
    }

    /// Downloads an object into a file, which appears once it is whole.
    pub(crate) async fn get(&self, name: &str, to: &Path) -> Result<()> {
        let key = format!("{}{name}", self.prefix);
        let length = self.length(&key).await?.context("the service does not say how long it is")?;
        let part = to.with_extension("part");
        let mut file = File::options().write(true).create(true).truncate(true).mode(PRIVATE_FILE).open(&part)?;
        let mut have = 0;
        while have < length {
            let last = (have + PART_BYTES as u64).min(length) - 1;
            let answer = self.call(&Method::GET, &key, &[], Some((have, last)), Bytes::new()).await?;
            ensure!(answer.body.len() as u64 == last + 1 - have, "the service gave {} bytes", answer.body.len());
            file.write_all(&answer.body)?;
            have = last + 1;
        }
        file.sync_all()?;
        Ok(std::fs::rename(&part, to)?)
    }

    /// A request, sent again while the service or the way to it fails: each of ours may be done twice.
    async fn call(
        &self,
        method: &Method,
        key: &str,
        query: &[(&str, &str)],
        range: Option<(u64, u64)>,
        body: Bytes,
    ) -> Result<Answer> {
        let mut tries = 1;
        loop {
            let request = self.signed(method, key, query, range, body.clone(), chrono::Utc::now())?;
            let reason = match self.http.ask(&self.server, request, LIMIT).await {
                Ok(answer) if answer.status.is_success() => return Ok(answer),
                Ok(answer) => {
                    let said = text(&answer);
                    let code = tag(&said, "Code").unwrap_or_default();
                    let reason = format!("{} {code} {}", answer.status, tag(&said, "Message").unwrap_or_default());
                    let may_pass = answer.status.is_server_error() || answer.status == StatusCode::TOO_MANY_REQUESTS;
                    ensure!(may_pass, "{}", reason.trim());
                    reason
                }
                Err(error) => error.to_string(),
            };
            ensure!(tries < TRIES, "{}", reason.trim());
            tokio::time::sleep(FIRST_PAUSE * 2_u32.pow(tries - 1)).await;
            tries += 1;
        }
    }

    fn signed(
        &self,
        method: &Method,
        key: &str,
        query: &[(&str, &str)],
        range: Option<(u64, u64)>,
        body: Bytes,
        now: chrono::DateTime<chrono::Utc>,
    ) -> Result<Request<Bytes>> {
        let escaped = |text: &str| utf8_percent_encode(text, UNRESERVED).to_string();
        let segments: Vec<String> = key.split('/').map(escaped).collect();
        let path = format!("/{}{}{}", self.name, if key.is_empty() { "" } else { "/" }, segments.join("/"));
        let mut pairs: Vec<String> =
            query.iter().map(|(name, value)| format!("{}={}", escaped(name), escaped(value))).collect();
        pairs.sort_unstable();
        let query = pairs.join("&");
        let (time, day) = (now.format("%Y%m%dT%H%M%SZ").to_string(), now.format("%Y%m%d").to_string());
        let payload = hex(digest::digest(&digest::SHA256, &body).as_ref());

        let mut headers = vec![
            ("host", self.server.authority().to_owned()),
            ("x-amz-content-sha256", payload.clone()),
            ("x-amz-date", time.clone()),
        ];
        headers.extend(self.keys.session.clone().map(|token| ("x-amz-security-token", token)));
        let names = headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
        let lines: String = headers.iter().flat_map(|(name, value)| [*name, ":", value, "\n"]).collect();
        let canonical = format!("{method}\n{path}\n{query}\n{lines}\n{names}\n{payload}");
        let scope = format!("{day}/{}/s3/aws4_request", self.keys.region);
        let digest = hex(digest::digest(&digest::SHA256, canonical.as_bytes()).as_ref());
        let signature = hex(&self.keys.sign(&day, &format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{digest}")));
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}",
            self.keys.id
        );

        let uri = if query.is_empty() { path } else { format!("{path}?{query}") };
        let mut request = Request::builder().method(method.clone()).uri(uri).header("authorization", authorization);
        for (name, value) in headers.into_iter().skip(1) {
            request = request.header(name, value);
        }
        if let Some((first, last)) = range {
            request = request.header("range", format!("bytes={first}-{last}"));
        }
        Ok(request.body(body)?)
    }
}

impl Keys {
    fn sign(&self, day: &str, text: &str) -> Vec<u8> {
        let step = |key: &[u8], text: &str| {
            hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
        };
        let first = step(format!("AWS4{}", self.secret).as_bytes(), day);
        [&*self.region, "s3", "aws4_request", text].iter().fold(first, |key, text| step(&key, text))
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from(b"0123456789abcdef"[usize::from(value)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn text(answer: &Answer) -> String {
    String::from_utf8_lossy(&answer.body).into_owned()
}

/// What is inside each element of a name. Enough for S3's answers, which have no attributes where we look.
fn tags<'t>(xml: &'t str, name: &str) -> impl Iterator<Item = String> + 't {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let mut rest = xml;
    std::iter::from_fn(move || {
        let begin = rest.find(&open)? + open.len();
        let end = begin + rest[begin..].find(&close)?;
        let inside = &rest[begin..end];
        rest = &rest[end..];
        let plain = inside.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&apos;", "'");
        Some(plain.replace("&amp;", "&"))
    })
}

fn tag(xml: &str, name: &str) -> Option<String> {
    tags(xml, name).next()
}

#[cfg(test)]
mod tests;
