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
    let expected = "certificate signed by unknown authority; the --peer-trusted-ca-file of this member must have";
    assert!(error.to_string().contains(expected), "{error}");

    let named = AllowedNames::CommonNames(names(&["another"]));
    let picky = connector(&site, &TlsSettings { allowed_names: named, ..settings.clone() }).unwrap();
    let error = call(&picky, "localhost", port, true).await.unwrap_err();
    let expected = "client certificate authentication failed: common name \"member\" not allowed; the flags of this";
    assert!(error.to_string().starts_with(expected), "{error}");

    site.serve(&site.ca.issue("member", &["elsewhere.example"]).unwrap());
    let port = peer(Some(site.acceptor(&TlsSettings { verify_addresses: false, ..settings }))).await;
    let error = call(&member, "localhost", port, true).await.unwrap_err();
    assert!(error.to_string().contains("elsewhere.example"), "{error}");
}

#[tokio::test]
async fn generated_certificates_are_accepted_as_they_are() {
    let site = Site::new();
    let source = CertSource::SelfSigned { hosts: Vec::new(), validity_years: 1 };
    let settings = TlsSettings { cert: source, trusted_ca_file: None, ..site.settings(Side::Peer) };
    site.serve(&authority::self_signed("one", &["localhost"]).unwrap());
    let port = peer(Some(site.acceptor(&settings))).await;
    site.serve(&authority::self_signed("another", &["localhost"]).unwrap());
    assert_eq!(call(&connector(&site, &settings).unwrap(), "127.0.0.1", port, true).await.unwrap(), 7);
}

#[tokio::test]
async fn a_plain_peer_is_no_tls_peer() {
    let site = Site::new();
    let port = peer(None).await;
    let member = connector(&site, &site.settings(Side::Peer)).unwrap();
    let error = call(&member, "localhost", port, true).await.unwrap_err();
    assert!(!error.to_string().is_empty());

    let port = http_peer().await;
    let error = call(&member, "localhost", port, true).await.unwrap_err().to_string();
    let expected = "tls: first record does not look like a TLS handshake; the member there serves plain HTTP: ";
    assert!(error.starts_with(expected), "{error}");
}

/// A peer without TLS that answers what it does not understand, as HTTP servers do.
async fn http_peer() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        socket.read_u8().await.unwrap();
        socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        // Until the caller leaves: closing before that would take the answer back.
        drop(socket.read_to_end(&mut Vec::new()).await);
    });
    port
}

/// What a caller is told when it has written something and waits for an answer; the same is handed to its listener.
async fn told(connector: &PeerConnector, port: u16, is_tls: bool) -> String {
    let (tell, told) = tokio::sync::oneshot::channel();
    let called = async {
        let stream = connector.connect("localhost", port, is_tls).await?;
        let mut stream = stream.telling(move |begun| drop(tell.send(begun.map_err(ToString::to_string))));
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
        stream.flush().await?;
        stream.read_u8().await
    };
    let error = tokio::time::timeout(DEADLINE, called).await.expect("an answer in time").unwrap_err().to_string();
    // With TLS 1.2 there is no connection that could tell anything.
    if let Ok(told) = told.await {
        assert_eq!(told, Err(error.clone()));
    }
    error
}

#[tokio::test]
async fn a_caller_that_is_refused_learns_why() {
    let site = Site::new();
    let required = TlsSettings { verify_addresses: true, ..site.settings(Side::Peer) };
    let only_a = AllowedNames::CommonNames(names(&["a"]));
    let of_all = peer(Some(site.acceptor(&required))).await;
    let of_some = peer(Some(site.acceptor(&TlsSettings { allowed_names: only_a, ..required }))).await;
    let elsewhere = "the connection was closed without an answer; the member there may not accept";
    let not_allowed = "remote error: tls: unknown certificate; the member there does not allow the names in";
    let late = site.ca.issue_expired("late", &[]).unwrap();
    for (own, port, expected) in [
        (
            authority::self_signed("x", &["localhost"]).unwrap(),
            of_all,
            "remote error: tls: unknown certificate authority; the --peer-trusted-ca",
        ),
        (late, of_all, "remote error: tls: expired certificate; renew the certificate of this member"),
        (site.ca.issue("a", &["10.0.0.1"]).unwrap(), of_all, elsewhere),
        (site.ca.issue("b", &[]).unwrap(), of_some, not_allowed),
    ] {
        site.write("caller.pem", &own.cert);
        site.write("caller.key", &own.key);
        let files = KeyPairFiles { cert: site.path("caller.pem"), key: site.path("caller.key") };
        for max_version in [TlsVersion::V13, TlsVersion::V12] {
            let settings = TlsSettings { max_version, ..site.settings(Side::Peer) };
            let connector = PeerConnector::new(&settings, &files).unwrap();
            let error = told(&connector, port, true).await;
            assert!(error.starts_with(expected), "{max_version:?}: {error}");
        }
    }
    let error = told(&PeerConnector::plain(), of_all, false).await;
    assert!(error.starts_with("the member there answers with TLS; its peer URL must begin with https"), "{error}");
}

#[tokio::test]
async fn a_caller_that_is_let_in_hears_of_it_once() {
    let site = Site::new();
    let settings = site.settings(Side::Peer);
    let port = peer(Some(site.acceptor(&settings))).await;
    let (tell, told) = tokio::sync::oneshot::channel();
    let stream = connector(&site, &settings).unwrap().connect("localhost", port, true).await.unwrap();
    let mut stream = stream.telling(move |begun| drop(tell.send(begun.map_err(ToString::to_string))));
    assert_eq!(stream.read_u8().await.unwrap(), 7);
    assert_eq!(told.await.unwrap(), Ok(()));
    // The end of a connection that was let in is an end like any other.
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap_or(0), 0);
}

/// One certificate for all members, which is its own CA.
#[tokio::test]
async fn peers_may_have_one_certificate_that_is_its_own_ca() {
    let site = Site::new();
    let all = authority::own_authority("all", &["localhost"]).unwrap();
    site.serve(&all);
    site.write("ca.pem", &all.cert);
    let settings = site.settings(Side::Peer);
    let port = peer(Some(site.acceptor(&settings))).await;
    let member = connector(&site, &settings).unwrap();
    assert_eq!(call(&member, "localhost", port, true).await.unwrap(), 7);
    // Who has made one of the same kind for itself stays out.
    let other = Site::new();
    let own = authority::own_authority("all", &["localhost"]).unwrap();
    other.serve(&own);
    other.write("ca.pem", &all.cert);
    let stranger = connector(&other, &other.settings(Side::Peer)).unwrap();
    call(&stranger, "localhost", port, true).await.unwrap_err();
}
