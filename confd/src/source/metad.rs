//! metad: the keys that a metadata proxy shows to this machine, over HTTP.
//!
//! The protocol is the one of yunify's confd, with what it lacks: a key that is not there is none (yunify's client takes the
//! error for keys), any other status is an error, a wait ends by itself after a while, and a server that does not let the
//! client wait is not asked in a loop. A range that is followed is the prefix of its resources, because metad waits at
//! objects that `/self` names and not within them.

use super::leaves::Rules;
use super::mirror::{Ended, Failure, Follower};
use super::{Entries, Store};
use client::TlsOptions;
use client::http::{Answer, Call, Http, HttpError, Server};
use http::header::{ACCEPT, ETAG, HeaderValue, IF_NONE_MATCH};
use http::{Method, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// What stands in a path as it is.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');
/// Which state of the data an answer shows.
const VERSION: &str = "x-metad-version";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// A wait is made again after this time, so that a server that vanished silently is noticed.
const MAX_WAIT: Duration = Duration::from_mins(1);
/// Between waits that told nothing new: some servers answer them at once.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Longest answer.
const MAX_BODY_BYTES: usize = 256 << 20;
/// As yunify's confd. A parser of JSON takes no more objects within each other.
const RULES: Rules = Rules { null: Some("null"), names_elements: true, max_depth: 128 };
/// Answered without a look at the data.
const NO_DATA: &str = "/favicon.ico";

/// The proxies, any of which knows all. Clones share which of them is asked.
#[derive(Clone, Debug)]
pub(crate) struct Metad {
    http: Arc<Http>,
    /// Never empty.
    servers: Arc<[Server]>,
    current: Arc<AtomicUsize>,
}

/// What a server is asked.
#[derive(Clone, Copy)]
struct Ask<'a> {
    path: &'a str,
    is_wait: bool,
    etag: Option<&'a HeaderValue>,
}

/// What a server says about a path.
struct Seen {
    /// None if it shows the same as before.
    entries: Option<Entries>,
    /// 0 if it does not say.
    version: u64,
    etag: Option<HeaderValue>,
}

impl Metad {
    pub(super) fn new(nodes: &[String], tls: Option<TlsOptions>) -> Result<Self, String> {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let server = |node: &String| {
            let url = if node.contains("://") { node.clone() } else { format!("{scheme}://{node}") };
            let shown = client::without_user(&url);
            Server::parse(&url).map(|(server, _)| server).map_err(|error| format!("the node {shown:?}: {error}"))
        };
        let servers = nodes.iter().map(server).collect::<Result<Vec<_>, _>>()?;
        let tls = tls.unwrap_or_default();
        let http = Http { proxy: None, tls, connect_timeout: CONNECT_TIMEOUT, max_body_bytes: MAX_BODY_BYTES };
        Ok(Self { http: Arc::new(http), servers: servers.into(), current: Arc::default() })
    }

    /// Asks the server that answered last, and after a failure each of the others once.
    async fn get(&self, ask: Ask<'_>, limit: Duration) -> Result<Answer, HttpError> {
        let Ask { path, is_wait, etag } = ask;
        let accept = (ACCEPT, HeaderValue::from_static("application/json"));
        let headers = std::iter::once(accept).chain(etag.map(|etag| (IF_NONE_MATCH, etag.clone()))).collect();
        let call = Call { method: Method::GET, path: path.to_owned(), form: None, headers };
        let first = self.current.load(Ordering::Relaxed);
        let mut at = first;
        loop {
            let failed = match self.http.send(&self.servers[at % self.servers.len()], &call, limit).await {
                Ok(answer) if !answer.status.is_server_error() => return Ok(answer),
                other => other,
            };
            let is_late = matches!(failed, Err(HttpError::Deadline { .. }));
            if is_late && is_wait {
                // It had nothing to tell.
                return failed;
            }
            at = at.wrapping_add(1);
            // Another call may have moved on meanwhile; either way one that failed is not the next.
            self.current.store(at, Ordering::Relaxed);
            if is_late || at.wrapping_sub(first) >= self.servers.len() {
                return failed;
            }
        }
    }

    async fn see(&self, name: &str, wait: Option<u64>, etag: Option<&HeaderValue>) -> Result<Seen, SeeError> {
        let path = utf8_percent_encode(name, PATH);
        let path = match wait {
            Some(version) => format!("{path}?wait=true&prev_version={version}"),
            None => path.to_string(),
        };
        let limit = if wait.is_some() { MAX_WAIT } else { READ_TIMEOUT };
        let ask = Ask { path: &path, is_wait: wait.is_some(), etag };
        let answer = self.get(ask, limit).await.map_err(|error| match error {
            HttpError::Deadline { .. } if wait.is_some() => SeeError::NothingNew,
            error => SeeError::Failed(error.to_string()),
        })?;
        let version = answer.number(VERSION).unwrap_or_default();
        let etag = answer.headers.get(ETAG).cloned();
        let entries = match answer.status {
            StatusCode::OK => Some(entries(name, &answer.body).map_err(SeeError::Failed)?),
            StatusCode::NOT_FOUND => Some(Entries::new()),
            StatusCode::NOT_MODIFIED => None,
            StatusCode::TOO_MANY_REQUESTS if wait.is_some() => return Err(SeeError::Full),
            status => return Err(SeeError::Failed(format!("metad response status [{}]", status.as_u16()))),
        };
        Ok(Seen { entries, version, etag })
    }

    /// The wanted keys and what is below them.
    pub(super) async fn read(&self, keys: &[String]) -> Result<Entries, String> {
        let mut all = Entries::new();
        for key in keys {
            match self.see(key, None, None).await {
                Ok(seen) => all.extend(seen.entries.unwrap_or_default()),
                Err(SeeError::Failed(error)) => return Err(error),
                Err(SeeError::NothingNew | SeeError::Full) => {}
            }
        }
        Ok(all)
    }

    /// True if a server answers.
    pub(super) async fn answers(&self) -> bool {
        let answer = self.get(Ask { path: NO_DATA, is_wait: false, etag: None }, READ_TIMEOUT).await;
        answer.is_ok_and(|answer| !answer.status.is_server_error())
    }

    /// Reads a range, and again whenever the server says that something has changed.
    pub(super) async fn follow(&self, follower: &Follower) -> Ended {
        let name = match follower.range.trim_end_matches('/') {
            "" => "/",
            name => name,
        };
        let mut wait = None;
        let mut etag = None;
        let mut pause = FIRST_PAUSE;
        loop {
            let began = Instant::now();
            let seen = match self.see(name, wait, etag.as_ref()).await {
                Ok(seen) => seen,
                // What came between the last answer and this wait may have been missed.
                Err(SeeError::NothingNew) => {
                    (wait, pause) = (None, FIRST_PAUSE);
                    continue;
                }
                // Until there is room for it, it asks now and then whether anything is new.
                Err(SeeError::Full) => {
                    tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
                    (wait, pause) = (None, (pause * 2).min(LONGEST_PAUSE));
                    continue;
                }
                Err(SeeError::Failed(error)) if wait.is_none() => {
                    return Ended::Unread(Failure { error, is_refused: false });
                }
                Err(SeeError::Failed(error)) => return Ended::Lost(error),
            };
            let is_new = match seen.entries {
                Some(entries) => match follower.read(entries, BTreeSet::new()).await {
                    Ok(is_new) => is_new,
                    Err(unheard) => return unheard.into(),
                },
                None => false,
            };
            if wait.is_some() {
                if is_new {
                    pause = FIRST_PAUSE;
                } else {
                    tokio::time::sleep(pause.saturating_sub(began.elapsed())).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
            wait = Some(seen.version);
            etag = seen.etag;
        }
    }
}

/// Why nothing was seen.
enum SeeError {
    /// The time of a wait is over.
    NothingNew,
    /// The server lets nobody else wait now.
    Full,
    Failed(String),
}

/// The leaves of a JSON value as keys below a name.
fn entries(name: &str, body: &[u8]) -> Result<Entries, String> {
    // The error tells the place and shows nothing of what is there.
    let value: serde_json::Value = serde_json::from_slice(body)
        .map_err(|error| format!("something that is no JSON, at line {}, column {}", error.line(), error.column()))?;
    let mut entries = Entries::new();
    let is_leaf = !value.is_object() && !value.is_array();
    let key = match name.trim_end_matches('/') {
        "" if is_leaf => "/",
        key => key,
    };
    RULES.add(&value, key, &mut entries)?;
    Ok(entries)
}

impl From<Metad> for Store {
    fn from(metad: Metad) -> Self {
        Self::Metad(metad)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wait_without_news_is_no_reason_to_ask_another_server() {
        // They take connections, and say nothing.
        let silent = [0; 2].map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        let nodes = silent.each_ref().map(|silent| silent.local_addr().unwrap().to_string());
        let metad = Metad::new(&nodes, None).unwrap();
        for (is_wait, expected) in [(true, 0), (false, 1)] {
            let asked = metad.get(Ask { path: "/self", is_wait, etag: None }, Duration::from_millis(50)).await;
            assert!(matches!(asked, Err(HttpError::Deadline { .. })));
            assert_eq!(metad.current.load(Ordering::Relaxed), expected);
        }
    }

    #[test]
    fn values_become_keys_as_in_yunifys_confd() {
        let body = br#"{"host":{"ip":"10.0.0.1","up":true,"load":1.5,"big":1e21,"n":3,"none":null},
            "disks":[{"name":"sda","size":"1"},"plain",{"name":5}],"empty":{},"tags":[]}"#;
        let found = entries("/self", body).unwrap();
        let found: Vec<String> = found
            .iter()
            .map(|(key, value)| format!("{}={}", String::from_utf8_lossy(key), String::from_utf8_lossy(value)))
            .collect();
        let expected = [
            "/self/disks/1=plain",
            "/self/disks/2/name=5",
            "/self/disks/sda/name=sda",
            "/self/disks/sda/size=1",
            "/self/host/big=1000000000000000000000",
            "/self/host/ip=10.0.0.1",
            "/self/host/load=1.5",
            "/self/host/n=3",
            "/self/host/none=null",
            "/self/host/up=true",
        ];
        assert_eq!(found, expected);
        assert_eq!(
            entries("/self/host/ip", b"\"x\"").unwrap().keys().next().map(|key| key.to_vec()),
            Some(b"/self/host/ip".to_vec())
        );
        let error = entries("/", b"{\"password\": hunter2}").unwrap_err();
        assert_eq!(error, "something that is no JSON, at line 1, column 14");
    }
}
