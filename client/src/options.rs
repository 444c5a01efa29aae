//! What a client is made from. Nothing here is read from the environment; that is for the tools.

use crate::endpoint::without_user;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// What a protobuf message can be.
const MAX_MESSAGE_BYTES: usize = i32::MAX as usize;

/// How to reach a cluster.
#[derive(Clone)]
pub struct Options {
    /// `host:port`, `http://host:port`, `https://host:port` or `unix:///path`, tried in this order. Without a scheme
    /// an endpoint is `https` if [`Options::tls`] is set.
    pub endpoints: Vec<String>,
    /// Certificates for `https` endpoints; None trusts what the system trusts.
    pub tls: Option<TlsOptions>,
    /// Whose requests these are; None for a cluster without authentication, and where a client certificate says it.
    pub user: Option<User>,
    /// A token that requests carry, got elsewhere; a user's takes its place. It is never fetched again.
    pub token: Option<String>,
    /// Longest time for making a connection, with the TLS handshake.
    pub dial_timeout: Duration,
    /// Longest time for a call, with its retries.
    pub request_timeout: Duration,
    /// Quiet time after which a connection with calls under way is probed. Raised to ten seconds: servers end
    /// connections that probe more often than every five.
    pub keepalive_time: Duration,
    /// Time for the answer to a probe, after which the connection is given up.
    pub keepalive_timeout: Duration,
    /// Largest request that is sent.
    pub max_request_bytes: usize,
    /// Largest answer that is taken.
    pub max_answer_bytes: usize,
}

/// Endpoints are not checked yet: without the passwords that may be in them.
impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            endpoints,
            tls,
            user,
            token,
            dial_timeout,
            request_timeout,
            keepalive_time,
            keepalive_timeout,
            max_request_bytes,
            max_answer_bytes,
        } = self;
        f.debug_struct("Options")
            .field("endpoints", &endpoints.iter().map(|endpoint| without_user(endpoint)).collect::<Vec<_>>())
            .field("tls", tls)
            .field("user", user)
            .field("has_token", &token.is_some())
            .field("dial_timeout", dial_timeout)
            .field("request_timeout", request_timeout)
            .field("keepalive_time", keepalive_time)
            .field("keepalive_timeout", keepalive_timeout)
            .field("max_request_bytes", max_request_bytes)
            .field("max_answer_bytes", max_answer_bytes)
            .finish()
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            tls: None,
            user: None,
            token: None,
            dial_timeout: Duration::from_secs(2),
            request_timeout: Duration::from_secs(5),
            keepalive_time: Duration::from_secs(10),
            keepalive_timeout: Duration::from_secs(6),
            max_request_bytes: MAX_MESSAGE_BYTES,
            max_answer_bytes: MAX_MESSAGE_BYTES,
        }
    }
}

/// Certificates of `https` connections, as PEM files. They are read again for every connection, so that renewed ones
/// are used without a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsOptions {
    /// Authorities that the server's certificate must come from; None means those of the system.
    pub ca_file: Option<PathBuf>,
    /// The client's certificate, with the chain behind it. Goes with `key_file`.
    pub cert_file: Option<PathBuf>,
    /// The key of `cert_file`.
    pub key_file: Option<PathBuf>,
    /// Name that the server's certificate must have, instead of the endpoint's host.
    pub server_name: Option<String>,
    /// Accepts any server certificate. Whoever is on the way can read and change everything.
    pub insecure_skip_verify: bool,
}

/// A user of etcd's authentication, or of the v2 API, which has users of its own.
#[derive(Clone, PartialEq, Eq)]
pub struct User {
    /// Its name.
    pub name: String,
    /// Its password. It crosses the network as it is.
    pub password: String,
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User").field("name", &self.name).finish_non_exhaustive()
    }
}
