//! The plain HTTP endpoints of a peer URL, `/members` and `/version`, and asking others for them: how a member that has
//! no data yet learns about the cluster. Paths and forms are etcd's.

use super::address::PeerUrl;
use crate::cluster::members;
use crate::node::Node;
use crate::tls::PeerConnector;
use crate::version::{CLEAT_VERSION, COMPATIBLE_CLUSTER_VERSION, COMPATIBLE_ETCD_VERSION};
use axum::Router;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use futures::future::join_all;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::{Deserialize, Serialize};
use std::error::Error;
use std::time::Duration;

/// What one member is asked for altogether.
const DEADLINE: Duration = Duration::from_secs(3);

/// A list of members is a few hundred bytes for each.
const BODY_BYTES: usize = 1 << 20;

const CLUSTER_ID: HeaderName = HeaderName::from_static("x-etcd-cluster-id");
const CLUSTER_VERSION: HeaderName = HeaderName::from_static("x-cleat-cluster-version");

/// A member in the list, with etcd's field names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DescribedMember {
    pub(crate) id: u64,
    #[serde(rename = "peerURLs")]
    pub(crate) peer_urls: Vec<String>,
    #[serde(rename = "isLearner", default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) is_learner: bool,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) name: String,
    #[serde(rename = "clientURLs", default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) client_urls: Vec<String>,
}

impl DescribedMember {
    /// True if the member has run before: it told its name.
    pub(crate) fn is_started(&self) -> bool {
        !self.name.is_empty() || !self.client_urls.is_empty()
    }
}

/// What a member says of its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Described {
    pub(crate) cluster_id: u64,
    /// The oldest version of its members.
    pub(crate) cluster_version: String,
    pub(crate) members: Vec<DescribedMember>,
}

/// Major and minor number of a version.
fn numbers(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

impl Described {
    /// Refuses a cluster that is newer than this member, with both versions.
    pub(crate) fn check_version(&self) -> Result<(), (String, String)> {
        let (theirs, own) = (numbers(&self.cluster_version), numbers(COMPATIBLE_ETCD_VERSION));
        if theirs > own {
            return Err((self.cluster_version.clone(), COMPATIBLE_ETCD_VERSION.to_owned()));
        }
        Ok(())
    }
}

/// The oldest version among the members that told theirs, as `major.minor.0`.
pub(crate) fn cluster_version(node: &Node) -> String {
    let stored = node.applied_membership();
    let told = stored.membership().nodes().filter_map(|(id, _)| node.reader().member(*id));
    let oldest = told.filter_map(|member| numbers(&member.version)).min();
    oldest.map_or_else(|| COMPATIBLE_CLUSTER_VERSION.to_owned(), |(major, minor)| format!("{major}.{minor}.0"))
}

/// What a peer URL serves beside gRPC.
pub(crate) fn router(node: Node) -> Router {
    let described = node.clone();
    Router::new()
        .route("/members", get(move || async move { members_response(&described) }))
        .route("/version", get(move || async move { version_response(&node) }))
}

fn members_response(node: &Node) -> Response {
    let list: Vec<DescribedMember> = members(node, node.applied_membership().membership())
        .into_iter()
        .map(|member| DescribedMember {
            id: member.id,
            peer_urls: member.peer_urls,
            is_learner: member.is_learner,
            name: member.name,
            client_urls: member.client_urls,
        })
        .collect();
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    for (name, text) in
        [(CLUSTER_ID, format!("{:x}", node.identity().cluster_id)), (CLUSTER_VERSION, cluster_version(node))]
    {
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.insert(name, value);
        }
    }
    // Invariant: numbers and texts can be written as JSON.
    (headers, serde_json::to_string(&list).unwrap_or_default()).into_response()
}

fn version_response(node: &Node) -> Response {
    let body = format!(
        r#"{{"etcdserver":"{COMPATIBLE_ETCD_VERSION}","etcdcluster":"{}","cleat":"{CLEAT_VERSION}"}}"#,
        cluster_version(node)
    );
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// Asks all of these members at once; the answers are in the order of the URLs.
pub(crate) async fn all(urls: &[String], connector: &PeerConnector) -> Vec<(String, Result<Described, String>)> {
    join_all(urls.iter().map(|url| async move {
        let described = match tokio::time::timeout(DEADLINE, ask(url, connector)).await {
            Ok(described) => described,
            Err(_) => Err(format!("no answer within {DEADLINE:?}")),
        };
        (url.clone(), described)
    }))
    .await
}

/// The cause that the others are only about.
fn innermost<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost
}

async fn ask(url: &str, connector: &PeerConnector) -> Result<Described, String> {
    let target = PeerUrl::parse(url).ok_or("not a peer URL")?;
    let stream =
        connector.connect(&target.host, target.port, target.is_tls).await.map_err(|error| error.to_string())?;
    let text = |error: hyper::Error| innermost(&error).to_string();
    // HTTP/2 as between members at all times, so that the same TLS settings fit.
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(text)?;
    let request = Request::get(format!("http://{}:{}/members", target.host, target.port))
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let answered = async {
        let response = sender.send_request(request).await.map_err(text)?;
        if !response.status().is_success() {
            return Err(format!("it answers {}", response.status()));
        }
        let (head, body) = response.into_parts();
        let body = Limited::new(body, BODY_BYTES).collect().await.map_err(|error| error.to_string())?.to_bytes();
        Ok((head.headers, body))
    };
    let (headers, body) = tokio::select! {
        // The connection knows why a request failed.
        biased;
        ended = connection => return Err(ended.map_or_else(text, |()| "the connection was closed".to_owned())),
        answered = answered => answered?,
    };
    let value = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let cluster_id = value(&CLUSTER_ID).and_then(|id| u64::from_str_radix(id, 16).ok()).ok_or("it names no cluster")?;
    let cluster_version = value(&CLUSTER_VERSION).unwrap_or_default().to_owned();
    let members = serde_json::from_slice(&body).map_err(|error| format!("no list of members: {error}"))?;
    Ok(Described { cluster_id, cluster_version, members })
}
