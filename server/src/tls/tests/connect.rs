//! Connections to peers.

use super::*;
use crate::tls::PeerConnector;
use crate::tls::files::TlsError;
use std::io;

/// A peer that answers one byte to each of its callers.
async fn peer(acceptor: Option<TlsAcceptor>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut socket, remote) = listener.accept().await.unwrap();
            let answered: io::Result<()> = match &acceptor {
                None => socket.write_u8(7).await,
                Some(acceptor) => match acceptor.accept(socket, Some(remote)).await {
                    Ok(mut stream) => stream.write_u8(7).await,
                    Err(error) => Err(error),
                },
            };
            drop(answered);
        }
    });
    port
}

async fn call(connector: &PeerConnector, host: &str, port: u16, is_tls: bool) -> io::Result<u8> {
    let called = async { connector.connect(host, port, is_tls).await?.read_u8().await };
    tokio::time::timeout(DEADLINE, called).await.expect("an answer in time")
}

fn connector(site: &Site, settings: &TlsSettings) -> Result<PeerConnector, TlsError> {
    PeerConnector::new(settings, &site.files())
}

#[tokio::test]
async fn plain_peers_are_reached_without_tls() {
    let port = peer(None).await;
    let plain = PeerConnector::plain();
    assert_eq!(call(&plain, "localhost", port, false).await.unwrap(), 7);
    assert_eq!(call(&plain, "127.0.0.1", port, false).await.unwrap(), 7);
    let error = call(&plain, "127.0.0.1", port, true).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::Unsupported);
    assert!(error.to_string().contains("--peer-cert-file"), "{error}");
}

#[tokio::test]
async fn peers_verify_each_other() {
    let site = Site::new();
    let settings = TlsSettings { verify_addresses: true, ..site.settings(Side::Peer) };
    let port = peer(Some(site.acceptor(&settings))).await;
    let member = connector(&site, &settings).unwrap();
    assert_eq!(call(&member, "localhost", port, true).await.unwrap(), 7);
    assert_eq!(call(&member, "127.0.0.1", port, true).await.unwrap(), 7);

    let other = Site::new();
    let stranger = connector(&other, &other.settings(Side::Peer)).unwrap();
    let error = call(&stranger, "localhost", port, true).await.unwrap_err();
    assert!(error.to_string().ends_with("certificate signed by unknown authority"), "{error}");

    let named = AllowedNames::CommonNames(names(&["another"]));
    let picky = connector(&site, &TlsSettings { allowed_names: named, ..settings.clone() }).unwrap();
    let error = call(&picky, "localhost", port, true).await.unwrap_err();
    assert_eq!(error.to_string(), "client certificate authentication failed");

    site.serve(&site.ca.issue("member", &["elsewhere.example"]));
    let port = peer(Some(site.acceptor(&TlsSettings { verify_addresses: false, ..settings }))).await;
    let error = call(&member, "localhost", port, true).await.unwrap_err();
    assert!(error.to_string().contains("elsewhere.example"), "{error}");
}

#[tokio::test]
async fn generated_certificates_are_accepted_as_they_are() {
    let site = Site::new();
    let source = CertSource::SelfSigned { hosts: Vec::new(), validity_years: 1 };
    let settings = TlsSettings { cert: source, trusted_ca_file: None, ..site.settings(Side::Peer) };
    site.serve(&authority::self_signed("one"));
    let port = peer(Some(site.acceptor(&settings))).await;
    site.serve(&authority::self_signed("another"));
    assert_eq!(call(&connector(&site, &settings).unwrap(), "127.0.0.1", port, true).await.unwrap(), 7);
}

#[tokio::test]
async fn a_plain_peer_is_no_tls_peer() {
    let site = Site::new();
    let port = peer(None).await;
    let error =
        call(&connector(&site, &site.settings(Side::Peer)).unwrap(), "localhost", port, true).await.unwrap_err();
    assert!(!error.to_string().is_empty());
}
