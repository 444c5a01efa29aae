//! Host names to addresses: through the system's resolver (`/etc/hosts` and what `nsswitch.conf` says), or through a
//! name server that is given.

use crate::options::Options;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::time::Instant;

/// One answer of the system's resolver; it tries its servers several times by itself.
const LOOKUP_DEADLINE: Duration = Duration::from_secs(10);
/// One question to one name server, which is asked again once.
const QUESTION_DEADLINE: Duration = Duration::from_secs(3);
/// Between tries, as in etcd.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// A host name without an address, after all tries.
#[derive(Clone, Debug, thiserror::Error)]
#[error("failed to resolve {host:?}: {reason}")]
pub struct NameError {
    /// The name.
    pub host: String,
    /// What the resolver said at last.
    pub reason: String,
}

/// Asks DNS. Nothing is cached: who asks again wants to know whether it has changed.
pub(crate) fn resolver(name_server: Option<SocketAddr>) -> Result<TokioResolver, NetError> {
    let mut builder = match name_server {
        None => TokioResolver::builder_tokio()?,
        Some(address) => {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                connection.port = address.port();
                connection
            });
            let server = NameServerConfig::new(address.ip(), true, connections.to_vec());
            let mut builder = TokioResolver::builder_with_config(
                ResolverConfig::from_name_servers(vec![server]),
                TokioRuntimeProvider::default(),
            );
            *builder.options_mut() = ResolverOpts::default();
            builder
        }
    };
    let options = builder.options_mut();
    options.cache_size = 0;
    options.timeout = QUESTION_DEADLINE;
    options.attempts = 1;
    builder.build()
}

/// All addresses of a host, which may be an address itself. Asks once.
pub(crate) async fn addresses(host: &str, name_server: Option<SocketAddr>) -> Result<BTreeSet<IpAddr>, NameError> {
    if let Ok(address) = host.parse() {
        return Ok(BTreeSet::from([address]));
    }
    let failed = |reason: String| NameError { host: host.to_owned(), reason };
    let found: BTreeSet<IpAddr> = if name_server.is_some() {
        let resolver = resolver(name_server).map_err(|error| failed(error.to_string()))?;
        let found = resolver.lookup_ip(host).await.map_err(|error| failed(error.to_string()))?;
        found.iter().collect()
    } else {
        let found = tokio::time::timeout(LOOKUP_DEADLINE, tokio::net::lookup_host((host, 0))).await;
        let found = found.map_err(|_| failed(format!("no answer within {LOOKUP_DEADLINE:?}")))?;
        found.map_err(|error| failed(error.to_string()))?.map(|address| address.ip()).collect()
    };
    if found.is_empty() { Err(failed("it has no address".to_owned())) } else { Ok(found) }
}

/// As [`addresses`], and asks again until the patience for names is over.
pub(crate) async fn addresses_in_time(host: &str, options: &Options) -> Result<BTreeSet<IpAddr>, NameError> {
    let deadline = Instant::now() + options.name_patience;
    let mut told = String::new();
    loop {
        let error = match addresses(host, options.name_server).await {
            Ok(addresses) => return Ok(addresses),
            Err(error) => error,
        };
        if Instant::now() + RETRY_INTERVAL > deadline {
            return Err(error);
        }
        if error.reason != told {
            tracing::warn!(%error, "a host name does not resolve; trying again, check DNS and the name");
            told = error.reason;
        }
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
}
