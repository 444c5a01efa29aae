//! Asking to become a member, at a peer URL over plain HTTP: what [`crate::assembly`] sends, and who is let in.
//!
//! The request is `POST /members/join` with the name and the peer URLs of a member without data; the answer has its
//! ids. Any member takes it and passes it on to the leader, see [`crate::cluster`]. A caller shows the join token if
//! this member has one; else the certificate of its connection, which must be good for the hosts of its peer URLs, so
//! that a certificate of one member does not take the place of another.

use super::address::PeerUrl;
use super::describe::exchange;
use crate::assembly::JoinToken;
use crate::cluster::Cluster;
use crate::listen::CallerCertificate;
use crate::node::Identity;
use crate::node::Node;
use crate::tls::{PeerConnector, is_for_host};
use api::cleatpb::MemberJoinRequest;
use api::cleatpb::membership_change::Change;
use api::error::Error;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::{Extension, Json, Router};
use http_body_util::Full;
use hyper::Request;
use hyper::body::Bytes;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

const PATH: &str = "/members/join";

/// What one member is given to answer: it waits for a leader, and for changes under way, up to its request timeout.
const DEADLINE: Duration = Duration::from_secs(20);

/// A name and some URLs.
const BODY_BYTES: usize = 64 << 10;

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
    token: Option<JoinToken>,
}

impl Gate {
    pub(crate) fn new(token: Option<JoinToken>) -> Self {
        Self { token }
    }

    /// Checks a caller.
    ///
    /// # Errors
    /// Why it is not let in, for the caller and the log. It has no secret in it.
    fn check(
        &self,
        headers: &HeaderMap,
        certificate: Option<&CallerCertificate>,
        urls: &[String],
    ) -> Result<(), String> {
        if let Some(token) = &self.token {
            let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
            let is_it = shown.and_then(|shown| shown.strip_prefix("Bearer ")).is_some_and(|shown| token.is(shown));
            return if is_it {
                Ok(())
            } else {
                Err("the join token is missing or wrong: check --join-token-file".to_owned())
            };
        }
        let Some(CallerCertificate(certificate)) = certificate else {
            return Err("members that join by themselves need a join token (--join-token-file) or verified peer \
                        certificates (--peer-trusted-ca-file)"
                .to_owned());
        };
        for url in urls {
            let host = PeerUrl::parse(url).ok_or_else(|| format!("{url} is not a peer URL"))?.host;
            if !is_for_host(certificate, &host) {
                return Err(format!(
                    "the certificate that was shown is not valid for {host}, the host of its peer URL"
                ));
            }
        }
        Ok(())
    }
}

/// What a peer URL serves beside [`super::describe`].
pub(crate) fn router(node: Node, cluster: Arc<Cluster>, gate: Gate) -> Router {
    let gate = Arc::new(gate);
    let answer =
        move |headers: HeaderMap, certificate: Option<Extension<CallerCertificate>>, Json(joining): Json<Joining>| {
            let (node, cluster, gate) = (node.clone(), Arc::clone(&cluster), Arc::clone(&gate));
            async move {
                let certificate = certificate.map(|Extension(certificate)| certificate);
                let checked = gate.check(&headers, certificate.as_ref(), &joining.peer_urls);
                answer(&node, &cluster, checked, joining).await
            }
        };
    Router::new().route(PATH, post(answer)).layer(DefaultBodyLimit::max(BODY_BYTES))
}

async fn answer(node: &Node, cluster: &Cluster, checked: Result<(), String>, joining: Joining) -> Response {
    let Joining { name, peer_urls } = joining;
    if let Err(reason) = checked {
        tracing::warn!(name, ?peer_urls, reason, "a member that wants to join was not let in");
        return (StatusCode::FORBIDDEN, reason).into_response();
    }
    if node.is_held_back() {
        return (StatusCode::SERVICE_UNAVAILABLE, "this member has no data either").into_response();
    }
    let request = MemberJoinRequest { name, peer_urls };
    match cluster.change(Change::Join(request)).await {
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

    #[test]
    fn a_certificate_speaks_for_its_hosts() {
        let gate = Gate::new(None);
        let check =
            |hosts: &[&str], url: &str| gate.check(&HeaderMap::new(), Some(&certificate(hosts)), &[url.to_owned()]);
        assert_eq!(check(&["a-1.a.ns.svc"], "https://a-1.a.ns.svc:2380"), Ok(()));
        assert_eq!(check(&["*.a.ns.svc"], "https://a-1.a.ns.svc:2380"), Ok(()));
        assert_eq!(check(&["127.0.0.1"], "https://127.0.0.1:2380"), Ok(()));
        assert!(
            check(&["a-2.a.ns.svc"], "https://a-1.a.ns.svc:2380").unwrap_err().contains("not valid for a-1.a.ns.svc")
        );
        let nothing = gate.check(&HeaderMap::new(), None, &[]).unwrap_err();
        assert!(nothing.contains("--join-token-file"), "{nothing}");
    }

    #[test]
    fn a_token_is_what_counts_where_there_is_one() {
        let gate = Gate::new(Some(JoinToken::new("secret".to_owned())));
        let check = |shown: Option<&str>| {
            let mut headers = HeaderMap::new();
            if let Some(shown) = shown {
                headers.insert(header::AUTHORIZATION, shown.parse().unwrap());
            }
            gate.check(&headers, Some(&certificate(&["a"])), &["https://a:1".to_owned()])
        };
        assert_eq!(check(Some("Bearer secret")), Ok(()));
        for wrong in [None, Some("secret"), Some("Bearer secre"), Some("Bearer secret2"), Some("Bearer ")] {
            let refused = check(wrong).unwrap_err();
            assert!(refused.contains("--join-token-file") && !refused.contains("secret"), "{refused}");
        }
    }
}
