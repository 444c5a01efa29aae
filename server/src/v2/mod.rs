//! The v2 API: keys in a tree over plain HTTP, as etcd had it up to 3.5.
//!
//! ```text
//!   listen/, http --> serve (path) --> keys ----> request (form, parameters)
//!                                        |          |-- write: node/propose -> store/v2
//!                                        |          |-- read:  (node/read) -> listing -> store/v2
//!                                        |          '-- wait:  hub -> watch (body of the answer)
//!                                        '--> auth: who asks, may it
//!                  '--> observe: metrics, slow lines, the audit log
//!                              members, stats, accounts (/v2/auth)
//!   raft/state_machine --> hub: every change, once it is applied
//! ```
//!
//! Paths, parameters, answers and refusals are etcd's, with their quirks. Nothing here decides what a change does: that is
//! `store/v2`. [`json`] writes what Go's encoder would write.

mod accounts;
pub(crate) mod auth;
mod error;
pub(crate) mod expire;
mod given;
pub(crate) mod hub;
mod json;
mod keys;
mod listing;
mod members;
mod observe;
mod path;
mod request;
mod stats;
mod stream;
mod watch;

use crate::audit::Audit;
use crate::auth::password::Passwords;
use crate::cluster::Cluster;
use crate::http::{not_found, plain};
use crate::listen::{ServeHttp, Shortcut};
use crate::metrics::Metrics;
use crate::node::Node;
use crate::peer::traffic::PeersTraffic;
use crate::quota::Quota;
use auth::Auth;
use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use hub::Hub;
use observe::Observers;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const CLUSTER_ID: HeaderName = HeaderName::from_static("x-etcd-cluster-id");

/// What the API is made of.
pub(crate) struct Parts {
    pub(crate) node: Node,
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) quota: Arc<Quota>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) traffic: Arc<PeersTraffic>,
    pub(crate) passwords: Arc<Passwords>,
    /// Names in certificates are names of users.
    pub(crate) takes_common_names: bool,
    /// Serve it without users of its own though v3 has some.
    pub(crate) is_wanted: bool,
    /// The member's name.
    pub(crate) name: String,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) audit: Option<Arc<Audit>>,
    /// Requests that take longer are logged.
    pub(crate) slow: Duration,
}

/// See the module.
pub(crate) struct V2 {
    node: Node,
    cluster: Arc<Cluster>,
    quota: Arc<Quota>,
    hub: Arc<Hub>,
    auth: Auth,
    listings: listing::Listings,
    observers: Observers,
    stats: stats::Stats,
    cluster_id: HeaderValue,
}

impl V2 {
    pub(crate) fn new(parts: Parts) -> Arc<Self> {
        let Parts { node, cluster, quota, hub, traffic, passwords, takes_common_names, is_wanted, name, .. } = parts;
        let observers = Observers { metrics: parts.metrics.v2.clone(), slow: parts.slow, audit: parts.audit };
        observe::export(&parts.metrics, node.clone(), Arc::clone(&hub));
        let auth = Auth::new(node.clone(), passwords, takes_common_names, is_wanted);
        let cluster_id = format!("{:x}", node.identity().cluster_id);
        // Invariant: digits are a header's value.
        let cluster_id = HeaderValue::try_from(cluster_id).unwrap_or(HeaderValue::from_static("0"));
        let stats = stats::Stats::new(name, &node, traffic);
        Arc::new(Self {
            node,
            cluster,
            quota,
            hub,
            auth,
            listings: listing::Listings::default(),
            observers,
            stats,
            cluster_id,
        })
    }
}

/// The API.
pub(crate) fn shortcut(v2: Arc<V2>) -> Shortcut {
    let serve: ServeHttp = Arc::new(move |request, remote| {
        let v2 = Arc::clone(&v2);
        Box::pin(async move { serve(&v2, request, remote).await })
    });
    Shortcut { prefix: "/v2/", serve }
}

/// Every path that is not clean: those are sent on, which may be to the API.
pub(crate) fn router() -> Router {
    Router::new().fallback(elsewhere)
}

async fn elsewhere(request: Request) -> Response {
    let path = path::decoded(request.uri().path()).unwrap_or_default();
    match path::redirect(&path, request.method(), request.uri().query()) {
        Some(redirect) => redirect,
        None => not_found().await,
    }
}

async fn serve(v2: &V2, mut request: Request, remote: Option<SocketAddr>) -> Response {
    let mut observed = v2.observers.start(&mut request, remote);
    let response = if observed.must_be_refused() { observe::not_recorded(v2) } else { dispatch(v2, request).await };
    observed.end(&response);
    response
}

async fn dispatch(v2: &V2, request: Request) -> Response {
    let uri = request.uri().clone();
    let Some(path) = path::decoded(uri.path()) else {
        return plain(StatusCode::BAD_REQUEST, "400 Bad Request".to_owned());
    };
    if let Some(redirect) = path::redirect(&path, request.method(), uri.query()) {
        return redirect;
    }
    match after(&path, b"/v2/keys") {
        Some(key) => return keys::serve(v2, request, key).await,
        None if *path == *b"/v2/machines" => return members::machines(v2, &request),
        None => {}
    }
    if let Some(rest) = after(&path, b"/v2/members") {
        return members::serve(v2, request, rest).await;
    }
    if let Some(rest) = path.strip_prefix(b"/v2/stats/") {
        match v2.stats.serve(v2, request.method(), rest) {
            Some(response) => return response,
            None => return not_found().await,
        }
    }
    match path.strip_prefix(b"/v2/auth/") {
        Some(rest) => accounts::serve(v2, request, rest).await,
        None => not_found().await,
    }
}

/// What follows a path, which must end there or go on behind a slash.
fn after<'a>(path: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    path.strip_prefix(prefix).filter(|rest| matches!(rest.first(), None | Some(b'/')))
}

/// Refuses a method that a path does not have; `allowed` as the header names them.
fn refused_method(method: &Method, allowed: &'static str) -> Option<Response> {
    if allowed.as_bytes().split(|byte| *byte == b',').any(|name| name == method.as_str().as_bytes()) {
        return None;
    }
    let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n".to_owned());
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    Some(response)
}

impl V2 {
    /// An answer in JSON, with the cluster's id.
    fn json(&self, status: StatusCode, body: Vec<u8>) -> Response {
        let mut response = Response::new(body.into());
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, JSON);
        response.headers_mut().insert(CLUSTER_ID, self.cluster_id.clone());
        response
    }

    /// A refusal of everything but keys.
    fn message(&self, status: StatusCode, message: &str) -> Response {
        let mut body = b"{\"message\":".to_vec();
        json::string(&mut body, message.as_bytes());
        body.push(b'}');
        self.json(status, body)
    }

    /// As [`Self::message`], of a path that keeps the cluster's id to itself before it knows who asks.
    fn unauthorized(&self, why: &str) -> Response {
        without_cluster_id(self.message(StatusCode::UNAUTHORIZED, why))
    }
}

fn without_cluster_id(mut response: Response) -> Response {
    response.headers_mut().remove(CLUSTER_ID);
    response
}
