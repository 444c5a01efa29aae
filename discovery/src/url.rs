//! The v2 discovery protocol: a URL whose path is the token, on a public service, on our own, or on any server of
//! etcd's v2 API.
//!
//! `TOKEN/_config/size` is the number of members, every other key below the token a member. Only the last element of
//! a key counts, because services keep tokens below prefixes of their own.

use crate::error::ServiceError;
use crate::join::{Failure, Registration, Registry, join};
use crate::static_cluster::InitialCluster;
use crate::{Me, Options};
use client::TlsOptions;
use client::http::{Answer, Call, Http, HttpError, Server};
use http::{Method, StatusCode};
use serde::Deserialize;
use std::time::Duration;

/// As in etcd.
const REQUEST_DEADLINE: Duration = Duration::from_secs(5);
/// Services give up a wait after a minute; nothing is lost when a wait is made again.
const WAIT_DEADLINE: Duration = Duration::from_secs(75);
/// Name, TCP, proxy and TLS together.
const CONNECT_DEADLINE: Duration = Duration::from_secs(20);
/// A listing of all members is some kilobytes.
const MAX_BODY_BYTES: usize = 1 << 20;
/// What is shown of a text that is no answer of a discovery service.
const SHOWN_CHARS: usize = 100;
const KEY_NOT_FOUND: u32 = 100;
const NODE_EXISTS: u32 = 105;

/// Joins the cluster of a discovery URL.
pub(crate) async fn discover(
    url: &str,
    proxy: Option<&str>,
    me: &Me,
    options: &Options,
) -> Result<InitialCluster, ServiceError> {
    let mut tokens = Tokens::new(url, proxy)?;
    // The URL is the token, as in etcd: ids are hashed with the text that was given.
    join(&mut tokens, me, url, options).await
}

/// One token of a service.
#[derive(Debug)]
struct Tokens {
    http: Http,
    server: Server,
    /// Server and path, without credentials.
    url: String,
    path: String,
    /// The index of the last list: a wait starts behind it.
    index: u64,
}

/// An event of the v2 API.
#[derive(Debug, Deserialize)]
struct Event {
    node: Node,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    #[serde(default)]
    key: String,
    #[serde(default)]
    value: String,
    #[serde(default)]
    nodes: Vec<Self>,
    #[serde(default)]
    created_index: u64,
    #[serde(default)]
    modified_index: u64,
}

/// An error of the v2 API.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct V2Error {
    error_code: u32,
    #[serde(default)]
    message: String,
    #[serde(default)]
    cause: String,
}

/// What a service may answer.
enum Reply {
    Event(Event, u64),
    Error(V2Error),
    /// A wait that it gave up.
    Empty,
}

impl Tokens {
    fn new(url: &str, proxy: Option<&str>) -> Result<Self, ServiceError> {
        let bad = |place: String, reason| ServiceError::BadEndpoint { place, reason };
        let (server, path) = Server::parse(url).map_err(|reason| bad("--discovery".to_owned(), reason))?;
        let path = path.split('?').next().unwrap_or_default().trim_end_matches('/').to_owned();
        if path.is_empty() {
            let reason =
                format!("the URL has no token; get one from {server}/new?size=3 and give its URL to each member");
            return Err(bad(server.to_string(), reason));
        }
        // etcd takes a proxy without a scheme, too.
        let proxy = proxy.filter(|proxy| !proxy.is_empty()).map(|text| {
            let url = if text.starts_with("http://") || text.starts_with("https://") {
                text.to_owned()
            } else {
                format!("http://{text}")
            };
            Server::parse(&url).map_err(|reason| bad("--discovery-proxy".to_owned(), reason))
        });
        let proxy = proxy.transpose()?.map(|(proxy, _)| proxy);
        let http = Http {
            proxy,
            tls: TlsOptions::default(),
            connect_timeout: CONNECT_DEADLINE,
            max_body_bytes: MAX_BODY_BYTES,
        };
        Ok(Self { url: format!("{server}{path}"), http, server, path, index: 0 })
    }

    async fn get(&mut self, below: &str, query: &str, limit: Duration) -> Result<Reply, Failure> {
        let call = Call::new(Method::GET, format!("{}{below}?{query}", self.path), None);
        self.send(&call, limit).await
    }

    async fn send(&mut self, call: &Call, limit: Duration) -> Result<Reply, Failure> {
        let answer = self.http.send(&self.server, call, limit).await.map_err(|error| match error {
            HttpError::Redirect(reason) => self.bad_endpoint(reason),
            error => Failure::Passing(error.to_string()),
        })?;
        self.read(&answer)
    }

    fn bad_endpoint(&self, reason: String) -> Failure {
        Failure::Final(ServiceError::BadEndpoint { place: self.url.clone(), reason })
    }

    fn read(&self, answer: &Answer) -> Result<Reply, Failure> {
        let passing = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
        if answer.status.is_server_error() || passing.contains(&answer.status) {
            return Err(Failure::Passing(format!("it answers {}: {}", answer.status, shown(&answer.body))));
        }
        if answer.status.is_success() {
            if answer.body.trim_ascii().is_empty() {
                return Ok(Reply::Empty);
            }
            if let Ok(event) = serde_json::from_slice::<Event>(&answer.body) {
                let index = answer.number("x-etcd-index").unwrap_or_else(|| newest(&event.node));
                return Ok(Reply::Event(event, index));
            }
        } else if let Ok(error) = serde_json::from_slice(&answer.body) {
            return Ok(Reply::Error(error));
        }
        Err(self.bad_endpoint(format!(
            "it answers {}: {}, which no discovery service does; check the URL and that the token exists",
            answer.status,
            shown(&answer.body)
        )))
    }

    fn unexpected(&self, reply: &Reply) -> Failure {
        match reply {
            Reply::Error(V2Error { error_code: KEY_NOT_FOUND, .. }) => {
                Failure::Final(ServiceError::TokenNotFound { place: self.url.clone() })
            }
            Reply::Error(error) => {
                self.bad_endpoint(format!("it answers {}: {} ({})", error.error_code, error.message, error.cause))
            }
            Reply::Event(..) | Reply::Empty => Failure::Passing("its answer is empty".to_owned()),
        }
    }
}

impl Registry for Tokens {
    fn place(&self) -> String {
        self.url.clone()
    }

    async fn size(&mut self) -> Result<(String, String), Failure> {
        let key = format!("{}/_config/size", self.url);
        match self.get("/_config/size", "quorum=false&recursive=false&sorted=false", REQUEST_DEADLINE).await? {
            Reply::Event(event, _) => Ok((key, event.node.value)),
            // The cause is the first part of the path that is not there.
            Reply::Error(error)
                if error.error_code == KEY_NOT_FOUND && matches!(last(&error.cause), "" | "_config" | "size") =>
            {
                Err(Failure::Final(ServiceError::SizeNotFound { key }))
            }
            reply => Err(self.unexpected(&reply)),
        }
    }

    async fn list(&mut self) -> Result<Vec<Registration>, Failure> {
        let (event, index) = match self.get("", "quorum=false&recursive=false&sorted=false", REQUEST_DEADLINE).await? {
            Reply::Event(event, index) => (event, index),
            reply => return Err(self.unexpected(&reply)),
        };
        self.index = index;
        let mut nodes = event.node.nodes;
        nodes.retain(|node| last(&node.key) != "_config");
        nodes.sort_by_key(|node| node.created_index);
        Ok(nodes.into_iter().map(|node| Registration { id: last(&node.key).to_owned(), value: node.value }).collect())
    }

    async fn register(&mut self, own: &Registration) -> Result<(), Failure> {
        let value: String = form_urlencoded::byte_serialize(own.value.as_bytes()).collect();
        let path = format!("{}/{}?prevExist=false", self.path, own.id);
        let call = Call::new(Method::PUT, path, Some(format!("value={value}")));
        let created = match self.send(&call, REQUEST_DEADLINE).await? {
            Reply::Event(event, _) => event.node.created_index,
            // Ours, if the answer to an earlier try was lost; the list that follows tells.
            Reply::Error(V2Error { error_code: NODE_EXISTS, .. }) => return Ok(()),
            reply => return Err(self.unexpected(&reply)),
        };
        // Until the server that was asked shows the registration. The list that follows would tell, too: this is
        // the cheap way to wait for a server that is behind.
        let query = format!("recursive=false&wait=true&waitIndex={created}");
        if let Err(Failure::Final(error)) = self.get(&format!("/{}", own.id), &query, REQUEST_DEADLINE).await {
            tracing::debug!(%error, "the registration cannot be waited for");
        }
        Ok(())
    }

    async fn changed(&mut self) -> Result<(), Failure> {
        let query = format!("recursive=true&wait=true&waitIndex={}", self.index + 1);
        let call = Call::new(Method::GET, format!("{}?{query}", self.path), None);
        match self.http.send(&self.server, &call, WAIT_DEADLINE).await {
            // Whatever it is, the list tells what it means.
            Ok(answer) => self.read(&answer).map(drop),
            Err(HttpError::Deadline { .. }) => Ok(()),
            Err(error) => Err(Failure::Passing(error.to_string())),
        }
    }
}

/// The last element of a key.
fn last(key: &str) -> &str {
    key.rsplit('/').next().unwrap_or_default()
}

fn newest(node: &Node) -> u64 {
    node.nodes.iter().map(newest).fold(node.created_index.max(node.modified_index), u64::max)
}

/// The beginning of a text that came from elsewhere, fit for one line.
fn shown(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(4 * SHOWN_CHARS)]).into_owned();
    let line = text.lines().next().unwrap_or_default();
    format!("{:?}", line.chars().take(SHOWN_CHARS).collect::<String>())
}
