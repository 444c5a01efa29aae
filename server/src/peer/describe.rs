//! The plain HTTP endpoints of a peer URL, `/members` and `/version`, and asking others for them: how a member that has
//! no data yet learns about the cluster. Paths and forms are etcd's; who asks whether it ran before adds its id.

use super::address::PeerUrl;
use crate::cluster::members;
use crate::node::Node;
use crate::tls::PeerConnector;
use crate::version::{CLEAT_VERSION, COMPATIBLE_CLUSTER_VERSION, COMPATIBLE_ETCD_VERSION};
use axum::Router;
use axum::extract::Query;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use futures::future::join_all;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::{Deserialize, Serialize};
use std::error::Error;
use std::time::Duration;

/// What one member is asked for altogether.
const DEADLINE: Duration = Duration::from_secs(3);

/// How long a leader may take to make sure of what it says to a newcomer. Less than [`DEADLINE`].
const MAKE_SURE: Duration = Duration::from_secs(1);

/// A list of members is a few hundred bytes for each.
const BODY_BYTES: usize = 1 << 20;

const CLUSTER_ID: HeaderName = HeaderName::from_static("x-etcd-cluster-id");
const CLUSTER_VERSION: HeaderName = HeaderName::from_static("x-cleat-cluster-version");
const MEMBER_ID: HeaderName = HeaderName::from_static("x-cleat-member-id");
const KNOWLEDGE: HeaderName = HeaderName::from_static("x-cleat-knowledge");

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

/// What the member that describes its cluster knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Knowledge {
    /// Nothing but the entry that founds the cluster, and no leader.
    Nothing,
    /// What it happens to know. The list may be old.
    Own,
    /// It leads. The list is current, and everything that was acknowledged is on the disks of a majority even without
    /// the member that asks, see [`Node::held_without`].
    Majority,
}

impl Knowledge {
    const NOTHING: &str = "nothing";
    const MAJORITY: &str = "majority";

    fn text(self) -> Option<&'static str> {
        match self {
            Self::Nothing => Some(Self::NOTHING),
            Self::Own => None,
            Self::Majority => Some(Self::MAJORITY),
        }
    }

    fn parse(text: Option<&str>) -> Self {
        match text {
            Some(Self::NOTHING) => Self::Nothing,
            Some(Self::MAJORITY) => Self::Majority,
            Some(_) | None => Self::Own,
        }
    }

    /// What this member knows, for `newcomer`.
    async fn of(node: &Node, newcomer: u64) -> Self {
        if node.is_fresh() {
            return Self::Nothing;
        }
        match tokio::time::timeout(MAKE_SURE, node.held_without(newcomer)).await {
            Ok(Ok(())) => Self::Majority,
            Ok(Err(_)) | Err(_) => Self::Own,
        }
    }
}

/// What a member says of its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Described {
    pub(crate) cluster_id: u64,
    /// Who says it; 0 if it does not say so.
    pub(crate) member_id: u64,
    pub(crate) knowledge: Knowledge,
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
    /// True if this member has seen the other one run. Its list may be old, but who once told its name has run.
    pub(crate) fn saw_started(&self, id: u64) -> bool {
        self.members.iter().any(|member| member.id == id && member.is_started())
    }

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
        .route(
            "/members",
            get(move |Query(asked): Query<Asked>| async move {
                let newcomer = asked.newcomer.and_then(|id| u64::from_str_radix(&id, 16).ok());
                let knowledge = match newcomer {
                    Some(id) => Knowledge::of(&described, id).await,
                    None => Knowledge::Own,
                };
                // Not before: the list must be as new as what was made sure of.
                members_response(&described, knowledge)
            }),
        )
        .route("/version", get(move || async move { version_response(&node) }))
}

/// The query of `/members`.
#[derive(Debug, Deserialize)]
struct Asked {
    newcomer: Option<String>,
}

fn members_response(node: &Node, knowledge: Knowledge) -> Response {
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
    for (name, text) in [
        (CLUSTER_ID, format!("{:x}", node.identity().cluster_id)),
        (MEMBER_ID, format!("{:x}", node.identity().member_id)),
        (CLUSTER_VERSION, cluster_version(node)),
    ] {
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.insert(name, value);
        }
    }
    if let Some(text) = knowledge.text() {
        headers.insert(KNOWLEDGE, HeaderValue::from_static(text));
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
    join_all(urls.iter().map(|url| async move { (url.clone(), one(url, None, connector).await) })).await
}

/// The cause that the others are only about.
fn innermost<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost
}

/// Asks one member, as `newcomer` if there is one.
pub(crate) async fn one(url: &str, newcomer: Option<u64>, connector: &PeerConnector) -> Result<Described, String> {
    match tokio::time::timeout(DEADLINE, ask(url, newcomer, connector)).await {
        Ok(described) => described,
        Err(_) => Err(format!("no answer within {DEADLINE:?}")),
    }
}

async fn ask(url: &str, newcomer: Option<u64>, connector: &PeerConnector) -> Result<Described, String> {
    let query = newcomer.map_or_else(String::new, |id| format!("?newcomer={id:x}"));
    let request = Request::get(format!("/members{query}")).body(Full::default()).map_err(|error| error.to_string())?;
    let (status, headers, body) = exchange(url, request, connector).await?;
    if !status.is_success() {
        return Err(format!("it answers {status}"));
    }
    let value = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let id = |name: &HeaderName| value(name).and_then(|id| u64::from_str_radix(id, 16).ok());
    let cluster_id = id(&CLUSTER_ID).ok_or("it names no cluster")?;
    let member_id = id(&MEMBER_ID).unwrap_or(0);
    let knowledge = Knowledge::parse(value(&KNOWLEDGE));
    let cluster_version = value(&CLUSTER_VERSION).unwrap_or_default().to_owned();
    let members = serde_json::from_slice(&body).map_err(|error| format!("no list of members: {error}"))?;
    Ok(Described { cluster_id, member_id, knowledge, cluster_version, members })
}

/// Sends a request, whose URI is a path, to a peer URL on a connection of its own.
///
/// # Errors
/// It cannot be reached, or the answer is cut off or too large.
pub(super) async fn exchange(
    url: &str,
    mut request: Request<Full<Bytes>>,
    connector: &PeerConnector,
) -> Result<(StatusCode, HeaderMap, Bytes), String> {
    let target = PeerUrl::parse(url).ok_or("not a peer URL")?;
    let place = PeerUrl { is_tls: false, ..target.clone() };
    let uri = format!("{place}{}", request.uri());
    *request.uri_mut() = uri.parse().map_err(|_| "not a peer URL")?;
    let stream =
        connector.connect(&target.host, target.port, target.is_tls).await.map_err(|error| error.to_string())?;
    let text = |error: hyper::Error| innermost(&error).to_string();
    // HTTP/2 as between members at all times, so that the same TLS settings fit.
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(text)?;
    let answered = async {
        let (head, body) = sender.send_request(request).await.map_err(text)?.into_parts();
        let body = Limited::new(body, BODY_BYTES).collect().await.map_err(|error| error.to_string())?.to_bytes();
        Ok((head.status, head.headers, body))
    };
    tokio::select! {
        // The connection knows why a request failed.
        biased;
        ended = connection => Err(ended.map_or_else(text, |()| "the connection was closed".to_owned())),
        answered = answered => answered,
    }
}
