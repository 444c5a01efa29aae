//! Who is let in, and what is said about the others.

use super::*;
use crate::tls::tests::authority::self_signed;
use rcgen::{ExtendedKeyUsagePurpose, date_time_ymd};
use rustls::CipherSuite;

const UNKNOWN: &str = "tls: failed to verify certificate: x509: certificate signed by unknown authority";
const NOT_ALLOWED: &str = "client certificate authentication failed";

async fn refusal(acceptor: &TlsAcceptor, config: ClientConfig) -> String {
    meet(acceptor, config).await.expect_err("the caller is refused")
}

#[tokio::test]
async fn callers_without_a_good_certificate_are_refused() {
    let site = Site::new();
    let acceptor = site.acceptor(&site.settings(Side::Client));
    let other = Authority::new("another ca").unwrap();
    let expired = site.ca.issue_expired("late", &[]).unwrap();
    let early = site.ca.issue_with("early", &[], |params| params.not_before = date_time_ymd(2200, 1, 1)).unwrap();
    let server_only = site
        .ca
        .issue_with("server", &[], |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth])
        .unwrap();
    let dates = "tls: failed to verify certificate: x509: certificate has expired or is not yet valid";
    let cases = [
        (None, "tls: client didn't provide a certificate"),
        (Some(other.issue("stranger", &[]).unwrap()), UNKNOWN),
        (Some(self_signed("stranger", &["localhost"]).unwrap()), UNKNOWN),
        (Some(expired), dates),
        (Some(early), dates),
        (Some(server_only), "tls: failed to verify certificate: x509: certificate specifies an incompatible key usage"),
    ];
    for versions in [&[&rustls::version::TLS12][..], &[&rustls::version::TLS13]] {
        let good = site.ca.issue("somebody", &[]).unwrap();
        meet(&acceptor, caller(&site.ca, Some(&good), versions)).await.unwrap();
        for (own, expected) in &cases {
            assert_eq!(refusal(&acceptor, caller(&site.ca, own.as_ref(), versions)).await, *expected);
        }
    }
}

#[tokio::test]
async fn without_a_ca_callers_need_no_certificate() {
    let site = Site::new();
    let acceptor = site.acceptor(&TlsSettings { trusted_ca_file: None, ..site.settings(Side::Client) });
    meet(&acceptor, caller(&site.ca, None, BOTH)).await.unwrap();
    let stranger = Authority::new("another ca").unwrap();
    let seen = refusal(&acceptor, caller(&stranger, None, BOTH)).await;
    assert_eq!(seen, "remote error: tls: unknown certificate authority");
}

#[tokio::test]
async fn names_can_be_restricted() {
    let site = Site::new();
    let settings = site.settings(Side::Peer);
    let by_cn = TlsSettings { allowed_names: AllowedNames::CommonNames(names(&["a", "b"])), ..settings.clone() };
    let hosts = names(&["b.example.org", "*.pattern.example", "10.0.0.7"]);
    let by_host = TlsSettings { allowed_names: AllowedNames::Hostnames(hosts), ..settings };
    for (settings, common_name, sans, refused) in [
        (&by_cn, "b", &[][..], None),
        (&by_cn, "c", &["b"], Some("common name \"c\"")),
        (&by_cn, "B", &[], Some("common name \"B\"")),
        (&by_host, "x", &["a.example", "B.example.org"], None),
        (&by_host, "x", &["*.example.org"], None),
        (&by_host, "x", &["*.pattern.example"], None),
        (&by_host, "x", &["10.0.0.7"], None),
        (&by_host, "b.example.org", &["a.example", "10.0.0.8"], Some(r#"host names ["a.example", "10.0.0.8"]"#)),
        (&by_host, "b.example.org", &[], Some("host names []")),
    ] {
        let own = site.ca.issue(common_name, sans).unwrap();
        let met = meet(&site.acceptor(settings), caller(&site.ca, Some(&own), BOTH)).await;
        let expected = refused.map_or(Ok(()), |found| Err(format!("{NOT_ALLOWED}: {found} not allowed")));
        assert_eq!(met.map(drop), expected, "{common_name} {sans:?}");
    }
}

#[tokio::test]
async fn revoked_callers_are_refused_by_serial_number() {
    let site = Site::new();
    let issue = |serial: u64| site.ca.issue_numbered("somebody", &[], serial).unwrap();
    site.write("crl.pem", &site.ca.revoke(&[0xdead, 0xbeef]).unwrap().pem().unwrap());
    let acceptor = site.acceptor(&TlsSettings { crl_file: Some(site.path("crl.pem")), ..site.settings(Side::Client) });
    meet(&acceptor, caller(&site.ca, Some(&issue(0xbee)), BOTH)).await.unwrap();
    let seen = refusal(&acceptor, caller(&site.ca, Some(&issue(0xbeef)), BOTH)).await;
    assert_eq!(seen, "transport: certificate serial beef revoked");
}

#[tokio::test]
async fn names_of_peers_must_lead_to_their_address() {
    let site = Site::new();
    let settings = TlsSettings { verify_addresses: true, ..site.settings(Side::Peer) };
    for (sans, expected) in [
        (&[][..], Ok(())),
        (&["127.0.0.1"], Ok(())),
        (&["localhost", "10.0.0.1"], Ok(())),
        (&["10.0.0.1"], Err("x509: certificate is valid for 10.0.0.1, not 127.0.0.1")),
        (&["nowhere.invalid"], Err("tls: \"127.0.0.1\" does not match any of DNSNames [\"nowhere.invalid\"]")),
    ] {
        let own = site.ca.issue("peer", sans).unwrap();
        // Known only after the handshake: the caller has seen it succeed.
        let (caller_socket, accepted, remote) = sockets().await;
        let config = Arc::new(caller(&site.ca, Some(&own), BOTH));
        let name = ServerName::try_from("localhost").unwrap();
        let acceptor = site.acceptor(&settings);
        let (called, served) = tokio::join!(
            TlsConnector::from(config).connect(name, caller_socket),
            acceptor.accept(accepted, Some(remote))
        );
        called.unwrap();
        let seen = served.map(drop).map_err(|error| reason(&error).unwrap());
        assert_eq!(seen, expected.map_err(str::to_owned), "{sans:?}");
    }
}

#[tokio::test]
async fn versions_and_suites_can_be_restricted() {
    let site = Site::new();
    let settings = TlsSettings { trusted_ca_file: None, ..site.settings(Side::Client) };
    let new_only = site.acceptor(&TlsSettings { min_version: TlsVersion::V13, ..settings.clone() });
    let old_only = site.acceptor(&TlsSettings { max_version: TlsVersion::V12, ..settings.clone() });
    let suites = vec![CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384];
    let one_suite = site.acceptor(&TlsSettings { cipher_suites: Some(suites.clone()), ..settings });
    let (v12, v13) = (&[&rustls::version::TLS12][..], &[&rustls::version::TLS13][..]);

    let unsupported = "tls: client offered only unsupported versions";
    assert_eq!(refusal(&new_only, caller(&site.ca, None, v12)).await, unsupported);
    meet(&new_only, caller(&site.ca, None, v13)).await.unwrap();
    assert_eq!(refusal(&old_only, caller(&site.ca, None, v13)).await, unsupported);
    meet(&old_only, caller(&site.ca, None, v12)).await.unwrap();

    let met = meet(&one_suite, caller(&site.ca, None, v12)).await.unwrap();
    assert_eq!(met.get_ref().1.negotiated_cipher_suite().unwrap().suite(), suites[0]);
    meet(&one_suite, caller(&site.ca, None, v13)).await.unwrap();
    let mut provider = ring::default_provider();
    provider.cipher_suites.retain(|suite| suite.suite() == CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256);
    let mut roots = RootCertStore::empty();
    roots.add(site.ca.der().into()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(v12)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    assert_eq!(refusal(&one_suite, config).await, "tls: no cipher suite supported by both client and server");
}

#[tokio::test]
async fn protocols_are_agreed_on() {
    let site = Site::new();
    let acceptor = site.acceptor(&TlsSettings { trusted_ca_file: None, ..site.settings(Side::Client) });
    for (offered, expected) in
        [(&["http/1.1", "h2"][..], Some(&b"h2"[..])), (&["http/1.1"], Some(b"http/1.1")), (&[], None)]
    {
        let mut config = caller(&site.ca, None, BOTH);
        config.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
        let met = meet(&acceptor, config).await.unwrap();
        assert_eq!(met.get_ref().1.alpn_protocol(), expected);
    }
    let mut config = caller(&site.ca, None, BOTH);
    config.alpn_protocols = vec![b"smtp".to_vec()];
    assert_eq!(refusal(&acceptor, config).await, "tls: client requested unsupported application protocols");
}

#[tokio::test]
async fn plain_text_is_dropped() {
    let site = Site::new();
    let acceptor = site.acceptor(&site.settings(Side::Client));
    for text in ["GET /health HTTP/1.1\r\nHost: a\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\r\n\r\n\r\n"] {
        let (mut caller, accepted, remote) = sockets().await;
        caller.write_all(text.as_bytes()).await.unwrap();
        let error = acceptor.accept(accepted, Some(remote)).await.unwrap_err();
        assert_eq!(reason(&error).unwrap(), "tls: first record does not look like a TLS handshake", "{text:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_stalls_is_cut() {
    let site = Site::new();
    let acceptor = site.acceptor(&site.settings(Side::Client));
    for sent in [&b""[..], &[22, 3, 1, 1, 0, 1]] {
        let (mut caller, accepted, remote) = sockets().await;
        caller.write_all(sent).await.unwrap();
        let begun = tokio::time::Instant::now();
        let error = acceptor.accept(accepted, Some(remote)).await.unwrap_err();
        assert_eq!(reason(&error).as_deref(), Some("TLS handshake timeout"));
        assert_eq!(begun.elapsed().as_secs(), 10);
    }
}

#[tokio::test]
async fn a_caller_that_just_leaves_is_not_worth_a_line() {
    let site = Site::new();
    let acceptor = site.acceptor(&site.settings(Side::Client));
    let (caller, accepted, remote) = sockets().await;
    drop(caller);
    assert_eq!(reason(&acceptor.accept(accepted, Some(remote)).await.unwrap_err()), None);
}

#[tokio::test]
async fn callers_that_stall_do_not_keep_other_hosts_out() {
    let site = Site::new();
    let acceptor = site.acceptor(&TlsSettings { trusted_ca_file: None, ..site.settings(Side::Client) });
    let mut stalled = tokio::task::JoinSet::new();
    for port in 0..2000 {
        let (acceptor, (caller, accepted)) = (acceptor.clone(), tokio::io::duplex(64));
        stalled.spawn(async move {
            let _caller = caller;
            acceptor.accept(accepted, Some(SocketAddr::from(([10, 0, 0, 1], port)))).await.map(drop)
        });
    }
    // All of them have their turn, or wait for one, before the other comes.
    for _ in 0..2 * stalled.len() {
        tokio::task::yield_now().await;
    }
    tokio::select! {
        met = meet(&acceptor, caller(&site.ca, None, BOTH)) => drop(met.unwrap()),
        ended = stalled.join_next() => panic!("the handshakes that stall end first: {ended:?}"),
    }
}
