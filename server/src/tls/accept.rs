//! The TLS end of connections that come in.
//!
//! `listen` hands every connection of an https or unixs URL to the [`TlsAcceptor`] of its side before anything else
//! reads from it. There is one policy for all listeners of a side: what the settings ask for cannot be forgotten on
//! one of them.

use super::address;
use super::certificate_expiry;
use super::der::CertFacts;
use super::files::TlsError;
use super::material::{server_config, server_files};
use super::refusal::{RefusalLog, reason};
use super::reload::Reloading;
use super::verify::NotAccepted;
use crate::config::{KeyPairFiles, TlsSettings};
use parking_lot::Mutex;
use rustls::ServerConfig;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio_rustls::server::TlsStream;

/// From the accepted connection to its last check. A caller that stalls holds no more than a slot for so long.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);

/// Handshakes under way at a time on one side; further ones wait within their deadline. Each holds some tens of KiB.
const MAX_HANDSHAKES: usize = 1024;

/// The same of one source, so that a host whose callers stall does not keep the others out.
const MAX_HANDSHAKES_OF_SOURCE: usize = MAX_HANDSHAKES / 4;

/// Accepts TLS connections of one side. Clones share everything.
#[derive(Clone, Debug)]
pub struct TlsAcceptor(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    side: &'static str,
    configs: Arc<Reloading<ServerConfig>>,
    /// When the certificate in `configs` ends, in seconds since 1970.
    not_after: Arc<AtomicI64>,
    handshakes: Semaphore,
    sources: Sources,
    deadline: Duration,
    verifies_addresses: bool,
    refusals: RefusalLog,
}

impl TlsAcceptor {
    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsError`], with the file.
    pub(super) fn new(settings: &TlsSettings, cert: &KeyPairFiles) -> Result<Self, TlsError> {
        let (owned, files) = (settings.clone(), cert.clone());
        let not_after = Arc::new(AtomicI64::default());
        let ends = Arc::clone(&not_after);
        let configs = Reloading::new(server_files(settings, cert), settings.side.as_str(), move |contents| {
            let config = server_config(&owned, &files, contents)?;
            let chain = contents.certificates(&files.cert)?;
            ends.store(chain.first().and_then(|first| certificate_expiry(first)).unwrap_or(0), Ordering::Relaxed);
            Ok(config)
        })?;
        Ok(Self(Arc::new(Shared {
            side: settings.side.as_str(),
            configs,
            not_after,
            handshakes: Semaphore::new(MAX_HANDSHAKES),
            sources: Sources::default(),
            deadline: HANDSHAKE_DEADLINE,
            // Without certificates of callers there are no names.
            verifies_addresses: settings.verify_addresses && settings.trusted_ca_file.is_some(),
            refusals: RefusalLog::new(),
        })))
    }

    /// `client` or `peer`.
    pub(super) fn side(&self) -> &'static str {
        self.0.side
    }

    /// When the certificate ends that is shown now, in seconds since 1970. Looks at the files.
    pub(super) async fn not_after(&self) -> i64 {
        self.0.configs.current().await;
        self.0.not_after.load(Ordering::Relaxed)
    }

    /// Shakes hands with a caller, within a deadline. A refusal is logged here.
    ///
    /// # Errors
    /// Why the connection is not served.
    pub async fn accept<IO>(&self, io: IO, remote: Option<SocketAddr>) -> io::Result<TlsStream<IO>>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let shared = &*self.0;
        let result = match tokio::time::timeout(shared.deadline, shared.shake_hands(io, remote)).await {
            Ok(result) => result,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "TLS handshake timeout")),
        };
        if let Err(error) = &result
            && let Some(reason) = reason(error)
        {
            shared.refusals.write(shared.side, remote, &reason);
        }
        result
    }
}

impl Shared {
    async fn shake_hands<IO>(&self, io: IO, remote: Option<SocketAddr>) -> io::Result<TlsStream<IO>>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        // First the one of the source: who waits for it holds none that others need.
        let source = remote.map(|remote| self.sources.enter(remote.ip()));
        let _turn_of_source = match &source {
            Some(source) => Some(source.turns.acquire().await.expect("invariant: the semaphore is never closed")),
            None => None,
        };
        let _turn = self.handshakes.acquire().await.expect("invariant: the semaphore is never closed");
        let config = self.configs.current().await;
        let stream = tokio_rustls::TlsAcceptor::from(config).accept(io).await?;
        if self.verifies_addresses
            && let Some(remote) = remote
        {
            let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
            let facts = certificate.and_then(|certificate| CertFacts::of(certificate));
            let checked = match facts {
                Some(facts) => address::check(&facts, remote.ip()).await,
                None => Err(NotAccepted("client certificate authentication failed".to_owned())),
            };
            checked.map_err(|reason| io::Error::new(io::ErrorKind::PermissionDenied, reason))?;
        }
        Ok(stream)
    }
}

/// The turns of each source that has callers here; no more than there are connections.
#[derive(Debug, Default)]
struct Sources(Mutex<HashMap<IpAddr, Arc<Semaphore>>>);

/// A caller among those of its source.
#[derive(Debug)]
struct Source<'a> {
    sources: &'a Sources,
    address: IpAddr,
    turns: Arc<Semaphore>,
}

impl Sources {
    fn enter(&self, address: IpAddr) -> Source<'_> {
        let address = source_of(address);
        let mut known = self.0.lock();
        let turns = known.entry(address).or_insert_with(|| Arc::new(Semaphore::new(MAX_HANDSHAKES_OF_SOURCE)));
        Source { sources: self, address, turns: Arc::clone(turns) }
    }
}

impl Drop for Source<'_> {
    fn drop(&mut self) {
        let mut known = self.sources.0.lock();
        // The table's and this one; nobody gets another while the table is locked.
        if Arc::strong_count(&self.turns) == 2 {
            known.remove(&self.address);
        }
    }
}

/// What one host has to itself: an IPv4 address, or an IPv6 network of 64 bits.
fn source_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_has_its_turns_and_leaves_nothing_behind() {
        let sources = Sources::default();
        let addresses = ["10.0.0.1", "::ffff:10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2", "fd00:0:0:1::1"];
        let callers: Vec<Source<'_>> =
            addresses.iter().map(|address| sources.enter(address.parse().unwrap())).collect();
        assert_eq!(sources.0.lock().len(), 4);
        let turns = callers[0].turns.try_acquire_many(256).unwrap();
        let is_full: Vec<bool> = callers.iter().map(|caller| caller.turns.try_acquire().is_err()).collect();
        assert_eq!(is_full, [true, true, false, false, false, false]);
        drop(turns);
        drop(callers);
        assert!(sources.0.lock().is_empty());
    }
}
