//! v3 discovery, as in etcd 3.6: members register in another cluster, with keys below `/_etcd/registry/TOKEN`.
//!
//! `_config/size` is written by the operator, `members/ID` by each member; who was created first counts.

use crate::error::ServiceError;
use crate::join::{Failure, Registration, Registry, join};
use crate::static_cluster::InitialCluster;
use crate::{Me, Options};
use api::etcdserverpb::TxnRequest;
use client::message::{get_prefix, is_absent, op, prefix_range, put};
use client::{Client, Error, TlsOptions, WatchOptions, without_user};
use std::fmt;
use std::time::Duration;
use tonic::Code;

const PREFIX: &str = "/_etcd/registry";

/// The cluster that members register in: etcd's `--discovery-*` flags.
#[derive(Clone)]
pub struct V3 {
    /// `--discovery-endpoints`.
    pub endpoints: Vec<String>,
    /// `--discovery-token`.
    pub token: String,
    /// `--discovery-dial-timeout`.
    pub dial_timeout: Duration,
    /// `--discovery-request-timeout`.
    pub request_timeout: Duration,
    /// `--discovery-keepalive-time`.
    pub keepalive_time: Duration,
    /// `--discovery-keepalive-timeout`.
    pub keepalive_timeout: Duration,
    /// `--discovery-insecure-transport`: endpoints without a scheme have no TLS, unless there is a certificate.
    pub insecure_transport: bool,
    /// `--discovery-cert`, `-key`, `-cacert` and `-insecure-skip-tls-verify`.
    pub tls: TlsOptions,
    /// `--discovery-user`, empty for none.
    pub user: String,
    /// `--discovery-password`.
    pub password: String,
}

/// Without passwords.
impl fmt::Debug for V3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("V3").field("endpoints", &self.place()).field("token", &self.token).finish_non_exhaustive()
    }
}

impl V3 {
    /// The endpoints, for people.
    fn place(&self) -> String {
        self.endpoints.iter().map(|endpoint| without_user(endpoint)).collect::<Vec<_>>().join(",")
    }
}

/// etcd's defaults of the flags.
impl Default for V3 {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            token: String::new(),
            dial_timeout: Duration::from_secs(2),
            request_timeout: Duration::from_secs(5),
            keepalive_time: Duration::from_secs(2),
            keepalive_timeout: Duration::from_secs(6),
            insecure_transport: true,
            tls: TlsOptions::default(),
            user: String::new(),
            password: String::new(),
        }
    }
}

/// Joins the cluster of a token.
pub(crate) async fn discover(v3: &V3, me: &Me, options: &Options) -> Result<InitialCluster, ServiceError> {
    let mut token = Token::new(v3)?;
    join(&mut token, me, &v3.token, options).await
}

/// One token in the store.
#[derive(Debug)]
struct Token {
    client: Client,
    place: String,
    /// `/_etcd/registry/TOKEN`.
    prefix: String,
    /// Of the last list: a watch starts behind it.
    revision: i64,
}

impl Token {
    fn new(v3: &V3) -> Result<Self, ServiceError> {
        let place = v3.place();
        let bad = |reason: &str| ServiceError::BadEndpoint { place: place.clone(), reason: reason.to_owned() };
        let token = v3.token.trim_matches('/');
        if token.is_empty() || v3.endpoints.is_empty() {
            return Err(bad("both --discovery-token and --discovery-endpoints must be set"));
        }
        if !v3.user.is_empty() || !v3.password.is_empty() {
            return Err(bad(
                "--discovery-user and --discovery-password are not supported yet; use a client certificate",
            ));
        }
        let wants_tls = !v3.insecure_transport || v3.tls != TlsOptions::default();
        let client = Client::new(&client::Options {
            endpoints: v3.endpoints.clone(),
            tls: wants_tls.then(|| v3.tls.clone()),
            user: None,
            token: None,
            dial_timeout: v3.dial_timeout,
            request_timeout: v3.request_timeout,
            keepalive_time: v3.keepalive_time,
            keepalive_timeout: v3.keepalive_timeout,
            ..client::Options::default()
        });
        let client = client.map_err(|error| bad(&error.to_string()))?;
        Ok(Self { client, prefix: format!("{PREFIX}/{token}"), place, revision: 0 })
    }

    fn members(&self) -> String {
        format!("{}/members/", self.prefix)
    }

    fn failure(&self, error: &Error) -> Failure {
        let refused = [
            Code::InvalidArgument,
            Code::Unauthenticated,
            Code::PermissionDenied,
            Code::Unimplemented,
            Code::FailedPrecondition,
        ];
        match error {
            Error::Answered { code, .. } if refused.contains(code) => Failure::Final(ServiceError::BadEndpoint {
                place: self.place.clone(),
                reason: format!("{error}; discovery needs a cluster where it may read and write {}", self.prefix),
            }),
            error => Failure::Passing(error.to_string()),
        }
    }
}

impl Registry for Token {
    fn place(&self) -> String {
        self.place.clone()
    }

    async fn size(&mut self) -> Result<(String, String), Failure> {
        let key = format!("{}/_config/size", self.prefix);
        match self.client.get(key.clone()).await {
            Ok(Some(found)) => Ok((key, String::from_utf8_lossy(&found.value).into_owned())),
            Ok(None) => Err(Failure::Final(ServiceError::SizeNotFound { key })),
            Err(error) => Err(self.failure(&error)),
        }
    }

    async fn list(&mut self) -> Result<Vec<Registration>, Failure> {
        let prefix = self.members();
        let answer = self.client.range(get_prefix(prefix.clone())).await.map_err(|error| self.failure(&error))?;
        self.revision = answer.header.map_or(0, |header| header.revision);
        let mut kvs = answer.kvs;
        kvs.sort_by_key(|kv| kv.create_revision);
        let mut found = Vec::new();
        for kv in kvs {
            let id = String::from_utf8_lossy(kv.key.get(prefix.len()..).unwrap_or_default()).trim().to_owned();
            let value = String::from_utf8_lossy(&kv.value).trim().to_owned();
            // As in etcd: what cannot be a member is not counted.
            if value.contains('=') {
                found.push(Registration { id, value });
            } else {
                tracing::warn!(id, value, "invalid peer info in the discovery service; it is not counted");
            }
        }
        Ok(found)
    }

    async fn register(&mut self, own: &Registration) -> Result<(), Failure> {
        let key = format!("{}{}", self.members(), own.id);
        // If it is there already, it is ours from an earlier try, or the list that follows tells whose.
        let request = TxnRequest {
            compare: vec![is_absent(key.clone())],
            success: vec![op::put(put(key, own.value.clone()))],
            failure: Vec::new(),
        };
        self.client.txn(request).await.map(drop).map_err(|error| self.failure(&error))
    }

    async fn changed(&mut self) -> Result<(), Failure> {
        let (key, range_end) = prefix_range(self.members());
        let watch = WatchOptions { key, range_end, start_revision: self.revision + 1, ..WatchOptions::default() };
        let first = async { self.client.watch(watch).await?.next().await };
        match first.await {
            // History that is gone is a change as well.
            Ok(_) | Err(Error::Compacted { .. }) => Ok(()),
            Err(error) => Err(self.failure(&error)),
        }
    }
}
