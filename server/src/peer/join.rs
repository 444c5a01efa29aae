//! Asking to become a member, at a peer URL over plain HTTP: what [`crate::assembly`] sends, and who is let in.
//!
//! The request is `POST /members/join` with the name and the peer URLs of a member without data; the answer has its
//! ids. Any member takes it and passes it on to the leader, see [`crate::cluster`]. A caller shows the join token if
//! this member has one; else the certificate of its connection, which must be good for the hosts of its peer URLs, and
//! for those of the member whose place it takes, so that a certificate of one member does not take the place of another.

use super::address::PeerUrl;
use super::describe::exchange;
use crate::assembly::JoinToken;
use crate::cluster::{Cluster, members};
use crate::listen::{CallerCertificate, HttpCaller};
use crate::node::Identity;
use crate::node::Node;
use crate::tls::{PeerConnector, is_for_host};
use api::cleatpb::MemberJoinRequest;
use api::cleatpb::membership_change::Change;
use api::error::Error;
use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::{Json, Router};
use http_body_util::Full;
use hyper::Request;
use hyper::body::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

const PATH: &str = "/members/join";

/// What one member is given to answer: it waits for a leader, and for changes under way, up to its request timeout.
const DEADLINE: Duration = Duration::from_secs(20);

/// A name and some URLs.
const BODY_BYTES: usize = 64 << 10;

/// For the body, which comes with the head of the request.
const BODY_DEADLINE: Duration = Duration::from_secs(5);

/// A refusal is logged once in this time: whoever reaches the port can be refused.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Longest text of a caller in the log, and URLs of one.
const TOLD_CHARS: usize = 200;
const TOLD_URLS: usize = 4;

/// Who asks.
#[derive(Debug, Serialize, Deserialize)]
struct Joining {
    name: String,
    #[serde(rename = "peerURLs")]
    peer_urls: Vec<String>,
}

/// Who it is now, in hexadecimal digits.
#[derive(Debug, Serialize, Deserialize)]
struct Joined {
    #[serde(rename = "clusterId")]
    cluster_id: String,
    #[serde(rename = "memberId")]
    member_id: String,
}

/// Why a member was not let in.
#[derive(Debug)]
pub(crate) enum NotJoined {
    /// The member that was asked cannot be reached, or does not know the leader.
    NotAsked(String),
    /// The answer of the cluster, which the others would give, too.
    Refused(String),
}

impl From<String> for NotJoined {
    fn from(reason: String) -> Self {
        Self::NotAsked(reason)
    }
}

/// Whom this member lets in.
pub(crate) struct Gate {
    /// Read for each request, so that the token can be replaced.
    token_file: Option<PathBuf>,
    logged: Mutex<Option<Instant>>,
}

/// What lets a caller in.
#[derive(Debug)]
enum Proof<'a> {
    Token,
    /// For its hosts.
    Certificate(&'a CallerCertificate),
}

/// Why a caller is not let in, for itself and the log. It has no secret in it.
type Refusal = (StatusCode, String);

fn forbidden(reason: String) -> Refusal {
    (StatusCode::FORBIDDEN, reason)
}

impl Gate {
    pub(crate) fn new(token_file: Option<PathBuf>) -> Self {
        Self { token_file, logged: Mutex::default() }
    }

    /// Checks what a caller shows, before anything of its request is read.
    fn check<'a>(&self, headers: &HeaderMap, certificate: Option<&'a CallerCertificate>) -> Result<Proof<'a>, Refusal> {
        let token = JoinToken::read(self.token_file.as_deref());
        if let Some(token) = token.map_err(|error| (StatusCode::SERVICE_UNAVAILABLE, error.to_string()))? {
            let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
            let is_it = shown.and_then(|shown| shown.strip_prefix("Bearer ")).is_some_and(|shown| token.is(shown));
            return if is_it {
                Ok(Proof::Token)
            } else {
                Err(forbidden("the join token is missing or wrong: check --join-token-file".to_owned()))
            };
        }
        certificate.map(Proof::Certificate).ok_or_else(|| {
            let reason = "members that join by themselves need a join token (--join-token-file) or verified peer \
                          certificates (--peer-trusted-ca-file)";
            forbidden(reason.to_owned())
        })
    }

    /// Logs a refusal, once in a while.
    fn tell(&self, remote: Option<&HttpCaller>, joining: Option<&Joining>, reason: &str) {
        {
            let mut logged = self.logged.lock();
            if logged.is_some_and(|at| at.elapsed() < LOG_INTERVAL) {
                return;
            }
            *logged = Some(Instant::now());
        }
        let cut = |text: &str| text.chars().take(TOLD_CHARS).collect::<String>();
        let peer_urls: Vec<String> =
            joining.iter().flat_map(|joining| &joining.peer_urls).take(TOLD_URLS).map(|url| cut(url)).collect();
        tracing::warn!(
            remote = remote.and_then(|caller| caller.remote).map(|remote| remote.to_string()),
            name = joining.map(|joining| cut(&joining.name)),
            ?peer_urls,
            reason = cut(reason),
            "a member that wants to join was not let in"
        );
    }
}

impl Proof<'_> {
    /// Checks what a caller claims to be.
    fn covers(&self, urls: &[String]) -> Result<(), Refusal> {
        let Self::Certificate(CallerCertificate(certificate)) = self else { return Ok(()) };
        for url in urls {
            let url = PeerUrl::parse(url).ok_or_else(|| forbidden("it names no peer URL".to_owned()))?;
            if !is_for_host(certificate, &url.host) {
                let host = url.host;
                let reason =
                    format!("the certificate that was shown is not valid for {host}, the host of its peer URL");
                return Err(forbidden(reason));
            }
        }
        Ok(())
    }

    /// The request to the leader, who knows better whose place it is. `known` has names and peer URLs of the members.
    fn request<'a>(&self, joining: Joining, known: impl Iterator<Item = (&'a str, &'a [String])>) -> MemberJoinRequest {
        let Joining { name, peer_urls } = joining;
        let Self::Certificate(CallerCertificate(certificate)) = self else {
            return MemberJoinRequest { name, peer_urls, ..MemberJoinRequest::default() };
        };
        let of_name = known.filter(|(known, _)| *known == name).flat_map(|(_, urls)| urls);
        let vouched_urls = of_name
            .filter(|url| PeerUrl::parse(url).is_some_and(|url| is_for_host(certificate, &url.host)))
            .cloned()
            .collect();
        MemberJoinRequest { name, peer_urls, by_certificate: true, vouched_urls }
    }
}

/// What a peer URL serves beside [`super::describe`].
pub(crate) fn router(node: Node, cluster: Arc<Cluster>, gate: Gate) -> Router {
    let gate = Arc::new(gate);
    let answer = move |request: axum::extract::Request| {
        let (node, cluster, gate) = (node.clone(), Arc::clone(&cluster), Arc::clone(&gate));
        async move {
            let (head, body) = request.into_parts();
            let remote = head.extensions.get::<HttpCaller>();
            let proof = match gate.check(&head.headers, head.extensions.get::<CallerCertificate>()) {
                Ok(proof) => proof,
                Err((status, reason)) => {
                    gate.tell(remote, None, &reason);
                    return (status, reason).into_response();
                }
            };
            let joining = match read(body).await {
                Ok(joining) => joining,
                Err(refusal) => return refusal.into_response(),
            };
            if let Err((status, reason)) = proof.covers(&joining.peer_urls) {
                gate.tell(remote, Some(&joining), &reason);
                return (status, reason).into_response();
            }
            answer(&node, &cluster, &proof, joining).await
        }
    };
    Router::new().route(PATH, post(answer))
}

/// Reads who asks.
async fn read(body: Body) -> Result<Joining, Refusal> {
    let bad = |reason: String| (StatusCode::BAD_REQUEST, reason);
    let body = tokio::time::timeout(BODY_DEADLINE, axum::body::to_bytes(body, BODY_BYTES)).await;
    let body = body.map_err(|_| (StatusCode::REQUEST_TIMEOUT, format!("no body within {BODY_DEADLINE:?}")))?;
    let body = body.map_err(|error| bad(format!("cannot read the body: {error}")))?;
    serde_json::from_slice(&body).map_err(|error| bad(format!("not a request to join: {error}")))
}

async fn answer(node: &Node, cluster: &Cluster, proof: &Proof<'_>, joining: Joining) -> Response {
    if node.is_held_back() {
        return (StatusCode::SERVICE_UNAVAILABLE, "this member has no data either").into_response();
    }
    let known = members(node, node.applied_membership().membership());
    let known = known.iter().map(|member| (member.name.as_str(), member.peer_urls.as_slice()));
    match cluster.change(Change::Join(proof.request(joining, known))).await {
        Ok(member_id) => {
            let cluster_id = format!("{:x}", node.identity().cluster_id);
            Json(Joined { cluster_id, member_id: format!("{member_id:x}") }).into_response()
        }
        Err(
            error @ (Error::Unhealthy | Error::MemberExists | Error::PeerUrlExists | Error::MemberNotEnoughStarted),
        ) => (StatusCode::CONFLICT, format!("{error}; the log of the member that leads says why")).into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response(),
    }
}

/// Asks the member at a peer URL to let this one in.
///
/// # Errors
/// It cannot be reached, or says why not.
pub(crate) async fn ask(
    url: &str,
    name: &str,
    peer_urls: &[String],
    token: Option<&JoinToken>,
    connector: &PeerConnector,
) -> Result<Identity, NotJoined> {
    let joining = Joining { name: name.to_owned(), peer_urls: peer_urls.to_vec() };
    let body = serde_json::to_vec(&joining).map_err(|error| error.to_string())?;
    let mut request = Request::post(PATH).header(header::CONTENT_TYPE, "application/json");
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, token.bearer());
    }
    let request = request.body(Full::new(Bytes::from(body))).map_err(|error| error.to_string())?;
    let (status, _, body) = tokio::time::timeout(DEADLINE, exchange(url, request, connector))
        .await
        .map_err(|_| format!("no answer within {DEADLINE:?}"))??;
    if !status.is_success() {
        let text: String = String::from_utf8_lossy(&body).chars().take(300).collect();
        let reason = format!("it answers {status}: {text}");
        let is_clusters = status == StatusCode::CONFLICT;
        return Err(if is_clusters { NotJoined::Refused(reason) } else { NotJoined::NotAsked(reason) });
    }
    let joined: Joined = serde_json::from_slice(&body).map_err(|error| format!("no answer of a member: {error}"))?;
    let id = |text: &str| u64::from_str_radix(text, 16).map_err(|_| format!("'{text}' is not an id"));
    Ok(Identity { cluster_id: id(&joined.cluster_id)?, member_id: id(&joined.member_id)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::CertificateDer;

    fn certificate(hosts: &[&str]) -> CallerCertificate {
        let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        let made = rcgen::generate_simple_self_signed(hosts).unwrap();
        CallerCertificate(Arc::new(CertificateDer::from(made.cert.der().to_vec())))
    }

    fn joining(url: &str) -> Joining {
        Joining { name: "a-1".to_owned(), peer_urls: vec![url.to_owned()] }
    }

    #[test]
    fn a_certificate_speaks_for_its_hosts() {
        let check = |hosts: &[&str], url: &str| {
            let certificate = certificate(hosts);
            let proof = Gate::new(None).check(&HeaderMap::new(), Some(&certificate)).unwrap();
            proof.covers(&[url.to_owned()])
        };
        assert_eq!(check(&["a-1.a.ns.svc"], "https://a-1.a.ns.svc:2380"), Ok(()));
        assert_eq!(check(&["*.a.ns.svc"], "https://a-1.a.ns.svc:2380"), Ok(()));
        assert_eq!(check(&["127.0.0.1"], "https://127.0.0.1:2380"), Ok(()));
        let (status, refused) = check(&["a-2.a.ns.svc"], "https://a-1.a.ns.svc:2380").unwrap_err();
        assert!(status == StatusCode::FORBIDDEN && refused.contains("not valid for a-1.a.ns.svc"), "{refused}");
        let (_, nothing) = Gate::new(None).check(&HeaderMap::new(), None).unwrap_err();
        assert!(nothing.contains("--join-token-file"), "{nothing}");
    }

    #[test]
    fn a_certificate_vouches_for_its_own_urls_alone() {
        let urls = |host: &str| vec![format!("https://{host}:2380")];
        let known = [("a-0", urls("a-0.a.ns.svc")), ("a-1", urls("a-1.a.ns.svc")), ("a-1", urls("elsewhere"))];
        let request = |hosts: &[&str], gate: &Gate, headers: &HeaderMap| {
            let certificate = certificate(hosts);
            let proof = gate.check(headers, Some(&certificate)).unwrap();
            proof.request(joining("https://x:1"), known.iter().map(|(name, urls)| (*name, urls.as_slice())))
        };
        let (gate, nothing) = (Gate::new(None), HeaderMap::new());
        for (hosts, vouched) in [
            (&["a-1.a.ns.svc"][..], vec!["https://a-1.a.ns.svc:2380"]),
            (&["*.a.ns.svc"], vec!["https://a-1.a.ns.svc:2380"]),
            (&["a-1.a.ns.svc", "elsewhere"], vec!["https://a-1.a.ns.svc:2380", "https://elsewhere:2380"]),
            (&["a-0.a.ns.svc"], vec![]),
        ] {
            let request = request(hosts, &gate, &nothing);
            assert!(request.by_certificate);
            assert_eq!(request.vouched_urls, vouched, "{hosts:?}");
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "secret\n").unwrap();
        let shown = HeaderMap::from_iter([(header::AUTHORIZATION, "Bearer secret".parse().unwrap())]);
        let by_token = request(&["a-1.a.ns.svc"], &Gate::new(Some(file.path().to_owned())), &shown);
        assert!(!by_token.by_certificate && by_token.vouched_urls.is_empty(), "{by_token:?}");
    }

    #[test]
    fn a_token_is_what_counts_where_there_is_one() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let gate = Gate::new(Some(file.path().to_owned()));
        let check = |shown: Option<&str>| {
            let mut headers = HeaderMap::new();
            if let Some(shown) = shown {
                headers.insert(header::AUTHORIZATION, shown.parse().unwrap());
            }
            gate.check(&headers, Some(&certificate(&["a"]))).map(drop)
        };
        let (status, broken) = check(Some("Bearer ")).unwrap_err();
        assert!(status == StatusCode::SERVICE_UNAVAILABLE && broken.contains("does not hold a join token"), "{broken}");
        std::fs::write(file.path(), "secret\n").unwrap();
        assert_eq!(check(Some("Bearer secret")), Ok(()));
        for wrong in [None, Some("secret"), Some("Bearer secre"), Some("Bearer secret2"), Some("Bearer ")] {
            let (status, refused) = check(wrong).unwrap_err();
            assert_eq!(status, StatusCode::FORBIDDEN);
            assert!(refused.contains("--join-token-file") && !refused.contains("secret"), "{refused}");
        }
        // It is replaced without a restart.
        std::fs::write(file.path(), "another\n").unwrap();
        assert!(check(Some("Bearer secret")).is_err());
        assert_eq!(check(Some("Bearer another")), Ok(()));
    }

    #[tokio::test]
    async fn a_body_is_bounded() {
        let status = async |body: Vec<u8>| read(Body::from(body)).await.map(|_| ()).map_err(|(status, _)| status);
        let good = serde_json::to_vec(&joining("https://a:1")).unwrap();
        assert_eq!(status(good).await, Ok(()));
        assert_eq!(status(b"{}".to_vec()).await, Err(StatusCode::BAD_REQUEST));
        assert_eq!(status(vec![b' '; BODY_BYTES + 1]).await, Err(StatusCode::BAD_REQUEST));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_not_waited_for() {
        let never = Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>());
        let (status, _) = read(never).await.unwrap_err();
        assert_eq!(status, StatusCode::REQUEST_TIMEOUT);
    }
}
