//! What both APIs share: the state, the backend, the rules of this instance, and what is done with every request.

use crate::address::Source;
use crate::backend::Backend;
use crate::manage::Tokens;
use crate::metrics::Metrics;
use crate::pods::Pods;
use crate::rate::Limit;
use crate::reply::{self, REQUEST_ID, VERSION, Wish};
use crate::session::Sessions;
use crate::settings::{ManageSettings, QuerySettings};
use crate::state::World;
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use parking_lot::RwLock;
use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// How long a request waits for the store to be read for the first time.
const SYNC_WAIT: Duration = Duration::from_secs(5);

/// Everything that requests use.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) world: Arc<World>,
    pub(crate) backend: Arc<Backend>,
    pub(crate) query: QuerySettings,
    pub(crate) manage: Option<ManageSettings>,
    /// Bearer tokens of the manage API.
    pub(crate) manage_tokens: Option<RwLock<Tokens>>,
    pub(crate) sessions: Option<Sessions>,
    /// Pods as clients.
    pub(crate) pods: Option<Arc<Pods>>,
    /// Says whose a service account's token is.
    pub(crate) review: Option<Review>,
    pub(crate) rate: Limit,
    /// True for yunify's status codes and waits.
    pub(crate) compat: bool,
    pub(crate) hosts: Option<Vec<String>>,
    pub(crate) access_log: bool,
    pub(crate) metrics: Metrics,
    pub(crate) requests: AtomicU64,
    /// Ends the waits, when the process is to end.
    pub(crate) stop: CancellationToken,
}

/// Asks for the uid of the pod that a token is bound to.
#[derive(Clone)]
pub(crate) struct Review(pub(crate) Arc<dyn Fn(String) -> Reviewed + Send + Sync>);

/// The uid, if the token is good; an error if nobody can say.
pub(crate) type Reviewed = BoxFuture<'static, Result<Option<String>, String>>;

impl std::fmt::Debug for Review {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Review")
    }
}

/// Where a request came from, which the listener knows.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) addr: SocketAddr,
    /// It has shown a certificate that the listener has accepted.
    pub(crate) is_certified: bool,
    /// The connection, as far as an answer may change it.
    pub(crate) hops: Option<Arc<tokio::net::TcpStream>>,
}

/// The fields of a request's query; the first of a name counts.
pub(crate) struct Fields<'r>(Vec<(Cow<'r, str>, Cow<'r, str>)>);

impl<'r> Fields<'r> {
    pub(crate) fn new(query: Option<&'r str>) -> Self {
        Self(query.map(|query| form_urlencoded::parse(query.as_bytes()).collect()).unwrap_or_default())
    }

    /// The field, or an empty text.
    pub(crate) fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(field, _)| field == name).map_or("", |(_, value)| value)
    }

    /// True if JSON is to be easy to read.
    pub(crate) fn is_pretty(&self) -> bool {
        !matches!(self.get("pretty"), "" | "false")
    }

    /// True if only names are asked for.
    pub(crate) fn is_shallow(&self) -> bool {
        self.get("recursive") == "false"
    }

    /// True if values have types.
    pub(crate) fn is_typed(&self) -> bool {
        self.get("typed").eq_ignore_ascii_case("true")
    }
}

/// An answer and its version, which only answers of metad's own handlers have.
pub(crate) struct Handled {
    pub(crate) response: Response,
    pub(crate) version: Option<i64>,
    /// Where it went, for the metrics.
    pub(crate) route: &'static str,
}

impl Handled {
    pub(crate) fn page(response: Response, route: &'static str) -> Self {
        Self { response, version: None, route }
    }
}

/// A request, taken apart.
pub(crate) struct Asked {
    pub(crate) method: Method,
    pub(crate) headers: HeaderMap,
    /// Decoded, and in its only form.
    pub(crate) path: Vec<u8>,
    pub(crate) query: Option<String>,
    /// In the request line, which wins over the header.
    pub(crate) host: Option<String>,
    pub(crate) peer: Peer,
    pub(crate) wish: Wish,
}

impl App {
    /// Reads the tokens of the manage API again.
    ///
    /// # Errors
    /// They cannot be read. Those before stay in use.
    pub(crate) fn reload(&self) -> Result<(), String> {
        let file = self.manage.as_ref().and_then(|manage| manage.token_file.as_deref());
        if let (Some(tokens), Some(file)) = (&self.manage_tokens, file) {
            *tokens.write() = Tokens::read(file)?;
        }
        Ok(())
    }

    /// What a client of the query API counts as. Pods that are known count each, though they share a network.
    pub(crate) fn source(&self, address: IpAddr) -> Source {
        let is_pod = address.is_ipv6() && self.pods.as_ref().is_some_and(|pods| pods.at(address).is_some());
        Source::new(address, is_pod)
    }

    /// Ready is who has read the store. One that is away later is no reason to answer no more, and is told in the metrics.
    pub(crate) fn ready(&self) -> Response {
        if self.stop.is_cancelled() {
            return plain(StatusCode::SERVICE_UNAVAILABLE, "{\"status\":\"stopping\"}");
        }
        if !self.is_synced() {
            return plain(StatusCode::SERVICE_UNAVAILABLE, "{\"status\":\"the store has not been read yet\"}");
        }
        if self.backend.silence().is_zero() {
            plain(StatusCode::OK, "{\"status\":\"ready\"}")
        } else {
            plain(StatusCode::OK, "{\"status\":\"ready, but the store is away\"}")
        }
    }

    /// Takes a request apart. An answer if it has to go elsewhere, or was not meant for this server.
    pub(crate) fn open(&self, request: Request, peer: Peer) -> Result<(Asked, Body), Handled> {
        let (parts, body) = request.into_parts();
        let path: Vec<u8> = percent_encoding::percent_decode_str(parts.uri.path()).collect();
        let fields = Fields::new(parts.uri.query());
        let wish = Wish::new(&parts.method, &parts.headers, fields.is_pretty(), fields.is_typed());
        if !crate::caller::is_host_allowed(&parts.headers, parts.uri.host(), self.hosts.as_deref()) {
            self.metrics.refuse("host");
            let message = "this server is not known by that name; -hosts adds names";
            return Err(Handled::page(wish.error(StatusCode::MISDIRECTED_REQUEST, message, !self.compat), "host"));
        }
        if let Some(path) = reply::cleaned(&path) {
            return Err(Handled::page(reply::redirect(&path, parts.uri.query()), "redirect"));
        }
        let query = parts.uri.query().map(str::to_owned);
        let host = parts.uri.authority().map(ToString::to_string);
        Ok((Asked { method: parts.method, headers: parts.headers, path, query, host, peer, wish }, body))
    }

    /// An error, with the status that it has in metad, or the right one.
    pub(crate) fn error(&self, wish: Wish, compat: StatusCode, right: StatusCode, message: &str) -> Response {
        if self.compat { wish.error(compat, message, false) } else { wish.error(right, message, true) }
    }

    /// That something is not there. What is forbidden looks the same.
    pub(crate) fn not_found(&self, wish: Wish) -> Response {
        self.error(wish, StatusCode::NOT_FOUND, StatusCode::NOT_FOUND, "Not found")
    }

    /// A method that a path does not have. metad's router says that there is no such page.
    pub(crate) fn no_such_method(&self, wish: Wish, allowed: &'static str) -> Response {
        if self.compat {
            return wish.no_such_page();
        }
        let mut response = wish.error(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed", true);
        response.headers_mut().insert(http::header::ALLOW, HeaderValue::from_static(allowed));
        response
    }

    /// That the request has to come later.
    pub(crate) fn later(&self, wish: Wish, status: StatusCode, message: &str) -> Response {
        let mut response = wish.error(status, message, !self.compat);
        response.headers_mut().insert(http::header::RETRY_AFTER, HeaderValue::from_static("1"));
        response
    }

    /// True once there is something to answer from.
    pub(crate) fn is_synced(&self) -> bool {
        self.backend.is_synced() && self.pods.as_ref().is_none_or(|pods| pods.is_synced())
    }

    /// Waits until there is something to answer from, but not for long.
    ///
    /// # Errors
    /// The answer if there is nothing yet.
    pub(crate) async fn synced(&self, wish: Wish) -> Result<(), Response> {
        if self.is_synced() {
            return Ok(());
        }
        let syncing = async {
            self.backend.synced().await;
            if let Some(pods) = &self.pods {
                pods.synced().await;
            }
        };
        let waiting = tokio::time::timeout(SYNC_WAIT, syncing);
        if let Some(Ok(())) = self.stop.run_until_cancelled(waiting).await {
            return Ok(());
        }
        let message = "the store has not been read yet";
        Err(self.later(wish, StatusCode::SERVICE_UNAVAILABLE, message))
    }

    /// Counts an answer, and gives it its headers and its line in the log.
    pub(crate) fn close(&self, api: &'static str, line: Option<Line>, handled: Handled, started: Instant) -> Response {
        let Handled { mut response, version, route } = handled;
        self.metrics.count(api, route, response.status());
        let mut number = 0;
        if let Some(version) = version {
            number = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
            let id = [b"REQ-", itoa::Buffer::new().format(number).as_bytes()].concat();
            if let Ok(id) = HeaderValue::from_maybe_shared(Bytes::from(id)) {
                response.headers_mut().insert(REQUEST_ID, id);
            }
            response.headers_mut().insert(VERSION, HeaderValue::from(version));
        }
        if let Some(line) = line {
            let status = response.status().as_u16();
            let version = version.unwrap_or_default();
            let elapsed = started.elapsed().as_millis();
            tracing::info!(
                "REQ-{number}\t{version}\t{}\t{}\t{:?}\t{}\t{status}\t{elapsed}",
                line.method,
                line.peer,
                line.path,
                line.length
            );
        }
        response
    }

    /// What the log says of a request, if it says anything.
    pub(crate) fn line(&self, request: &Request, peer: &Peer, is_always: bool) -> Option<Line> {
        (self.access_log || is_always).then(|| Line {
            method: request.method().clone(),
            peer: peer.addr.ip().to_string(),
            path: request.uri().path().to_owned(),
            length: request
                .headers()
                .get(http::header::CONTENT_LENGTH)
                .and_then(|length| length.to_str().ok()?.parse().ok())
                .unwrap_or_default(),
        })
    }
}

/// That it runs, whatever it has read.
pub(crate) fn health() -> Response {
    plain(StatusCode::OK, "{\"status\":\"up\"}")
}

/// A page of a probe.
pub(crate) fn plain(status: StatusCode, body: &'static str) -> Response {
    (status, [(http::header::CONTENT_TYPE, "text/plain; charset=utf-8")], body).into_response()
}

/// A line of the log about a request. It has no query, where clients may put what is secret.
pub(crate) struct Line {
    method: Method,
    peer: String,
    path: String,
    length: u64,
}
