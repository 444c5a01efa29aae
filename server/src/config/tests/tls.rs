//! What the TLS flags lead to.

use super::*;
use rustls::CipherSuite;

const SECURE: [&str; 2] = ["--listen-client-urls=https://127.0.0.1:1", "--advertise-client-urls=https://a:1"];
const PEER: &str = "--listen-peer-urls=https://127.0.0.1:2";
const CERT: [&str; 2] = ["--cert-file=/c", "--key-file=/k"];
const PEER_CERT: [&str; 2] = ["--peer-cert-file=/pc", "--peer-key-file=/pk"];

fn files(cert: &str, key: &str) -> KeyPairFiles {
    KeyPairFiles { cert: cert.into(), key: key.into() }
}

fn with(parts: &[&[&str]]) -> Config {
    config(&parts.concat())
}

#[test]
fn without_flags_there_is_no_tls() {
    let config = config(&[]);
    assert_eq!((config.client_tls, config.peer_tls), (None, None));
}

#[test]
fn all_flags_reach_their_side() {
    let client = with(&[
        &SECURE,
        &CERT,
        &[
            "--trusted-ca-file=/ca",
            "--client-crl-file=/crl",
            "--client-cert-allowed-hostname=a,b",
            "--tls-min-version=TLS1.3",
        ],
    ]);
    let expected = TlsSettings {
        side: Side::Client,
        cert: CertSource::Files(files("/c", "/k")),
        dial_cert: None,
        trusted_ca_file: Some("/ca".into()),
        crl_file: Some("/crl".into()),
        allowed_names: AllowedNames::Hostnames(vec!["a".to_owned(), "b".to_owned()]),
        verify_addresses: false,
        min_version: TlsVersion::V13,
        max_version: TlsVersion::V13,
        cipher_suites: None,
    };
    assert_eq!((client.client_tls, client.peer_tls), (Some(expected.clone()), None));

    let peer = with(&[
        &[PEER],
        &PEER_CERT,
        &["--peer-client-cert-file=/dc", "--peer-client-key-file=/dk", "--peer-trusted-ca-file=/ca"],
        &["--peer-client-cert-auth", "--peer-crl-file=/crl", "--peer-cert-allowed-cn=a,b", "--tls-max-version=TLS1.2"],
        &["--cipher-suites=TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305"],
    ]);
    let expected = TlsSettings {
        side: Side::Peer,
        cert: CertSource::Files(files("/pc", "/pk")),
        dial_cert: Some(files("/dc", "/dk")),
        allowed_names: AllowedNames::CommonNames(vec!["a".to_owned(), "b".to_owned()]),
        verify_addresses: true,
        min_version: TlsVersion::V12,
        max_version: TlsVersion::V12,
        cipher_suites: Some(vec![
            CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
            CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        ]),
        ..expected
    };
    assert_eq!((peer.client_tls, peer.peer_tls), (None, Some(expected)));

    let skipping = with(&[&[PEER, "--experimental-peer-skip-client-san-verification"], &PEER_CERT]);
    assert!(!skipping.peer_tls.unwrap().verify_addresses);
}

#[test]
fn blocks_of_the_file_are_the_same_flags() {
    let (_dir, path) = config_file(
        "listen-client-urls: https://127.0.0.1:1
advertise-client-urls: https://127.0.0.1:1
cipher-suites: [TLS_AES_128_GCM_SHA256]
client-transport-security:
  cert-file: /c
  key-file: /k
  client-cert-auth: true
  trusted-ca-file: /ca
",
    );
    let config = config(&["--config-file", &path]);
    let tls = config.client_tls.unwrap();
    assert_eq!(tls.cert, CertSource::Files(files("/c", "/k")));
    assert_eq!(tls.trusted_ca_file, Some("/ca".into()));
    assert_eq!(tls.cipher_suites, Some(vec![CipherSuite::TLS13_AES_128_GCM_SHA256]));
    assert_eq!(config.warnings, Vec::<String>::new());
}

#[test]
fn every_listener_of_clients_can_be_secure() {
    for flag in ["--listen-client-http-urls=https://127.0.0.1:3", "--listen-metrics-urls=https://127.0.0.1:3"] {
        assert!(with(&[&CERT, &[flag]]).client_tls.is_some(), "{flag}");
        let text = error(&[flag]).to_string();
        assert!(
            text.contains("(--cert-file, --key-file) must be provided for client url https://127.0.0.1:3"),
            "{text}"
        );
    }
    let unix = with(&[&CERT, &["--listen-client-urls=unixs:///s", "--advertise-client-urls=unixs:///s"]]);
    assert!(unix.client_tls.is_some() && unix.listen_client_urls[0].is_tls());
}

#[test]
fn a_certificate_can_be_generated() {
    let urls = ["--listen-client-urls=https://localhost:1,https://0.0.0.0:3,https://10.0.0.1:2,http://10.0.0.9:1"];
    let source = |more: &[&str]| {
        with(&[&urls, &["--advertise-client-urls=https://a:1", "--auto-tls"], more]).client_tls.unwrap().cert
    };
    let hosts = ["10.0.0.1", "127.0.0.1", "::1", "localhost"].map(str::to_owned).to_vec();
    assert_eq!(source(&[]), CertSource::SelfSigned { hosts: hosts.clone(), validity_years: 1 });
    assert_eq!(source(&["--self-signed-cert-validity=9"]), CertSource::SelfSigned { hosts, validity_years: 9 });
    let given = with(&[&SECURE, &CERT, &["--auto-tls"]]);
    assert_eq!(given.client_tls.unwrap().cert, CertSource::Files(files("/c", "/k")));
    assert_eq!(given.warnings, ["ignoring client auto TLS (--auto-tls) since certs given"]);
    assert!(matches!(with(&[&[PEER, "--peer-auto-tls"]]).peer_tls.unwrap().cert, CertSource::SelfSigned { .. }));
}

#[test]
fn what_has_no_effect_is_warned_about() {
    let plain = "scheme is HTTP while key and cert files are present; ignoring key and cert files";
    let client = with(&[&CERT, &["--client-cert-auth", "--trusted-ca-file=/ca"]]);
    assert_eq!(client.client_tls, None);
    assert_eq!(
        client.warnings,
        [
            format!("{plain} (http://localhost:2379, --cert-file)"),
            "scheme is HTTP while --client-cert-auth is enabled; ignoring client cert auth for this URL (http://localhost:2379)"
                .to_owned()
        ]
    );
    let metrics = with(&[&SECURE, &CERT, &["--listen-metrics-urls=http://127.0.0.1:3"]]);
    assert_eq!(metrics.warnings, Vec::<String>::new());
    // A peer's certificate is of use when peers are called.
    let peer = with(&[&PEER_CERT]);
    assert!(peer.peer_tls.is_some());
    assert_eq!(peer.warnings, [format!("{plain} (http://localhost:2380, --peer-cert-file)")]);
    for flag in ["--auto-tls", "--trusted-ca-file=/ca", "--client-cert-auth", "--client-crl-file=/x"] {
        let name = flag.split('=').next().unwrap();
        assert_eq!(config(&[flag]).warnings, [format!("{name} has no effect: no client URL is https")]);
    }
    assert_eq!(config(&["--peer-auto-tls"]).warnings, ["--peer-auto-tls has no effect: no peer URL is https"]);
    assert_eq!(config(&["--client-cert-auth=false"]).warnings, Vec::<String>::new());
    assert_eq!(
        config(&["--client-cert-file=/x"]).warnings,
        ["--client-cert-file has no effect: a member does not connect to its own client URLs"]
    );
}

#[test]
fn contradictions_are_named() {
    let client = |more: &[&str]| with_error(&[&SECURE, more]);
    let known = "known are TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, ";
    for (error, expected) in [
        (
            client(&[]),
            "TLS key/cert (--cert-file, --key-file) must be provided for client url https://127.0.0.1:1 with HTTPS scheme, \
             or --auto-tls",
        ),
        (
            with_error(&[&[PEER]]),
            "TLS key/cert (--peer-cert-file, --peer-key-file) must be provided for peer url https://127.0.0.1:2 with HTTPS \
             scheme, or --peer-auto-tls",
        ),
        (client(&CERT[..1]), "--cert-file and --key-file must both be present (--key-file is missing)"),
        (client(&CERT[1..]), "--cert-file and --key-file must both be present (--cert-file is missing)"),
        (
            with_error(&[&[PEER], &PEER_CERT, &["--peer-client-key-file=/x"]]),
            "--peer-client-cert-file and --peer-client-key-file must both be present (--peer-client-cert-file is missing)",
        ),
        (client(&["--auto-tls", "--client-cert-auth"]), "--client-cert-auth needs --trusted-ca-file"),
        (client(&[CERT[0], CERT[1], "--client-crl-file=/x"]), "--client-crl-file needs --trusted-ca-file"),
        (
            client(&[CERT[0], CERT[1], "--client-cert-allowed-hostname=a"]),
            "--client-cert-allowed-hostname needs --trusted-ca-file",
        ),
        (
            with_error(&[&[PEER], &PEER_CERT, &["--peer-cert-allowed-cn=a"]]),
            "--peer-cert-allowed-cn needs --peer-trusted-ca-file",
        ),
        (
            with_error(&[
                &[PEER, "--peer-trusted-ca-file=/ca", "--peer-cert-allowed-cn=a", "--peer-cert-allowed-hostname=b"],
                &PEER_CERT,
            ]),
            "--peer-cert-allowed-cn and --peer-cert-allowed-hostname are mutually exclusive",
        ),
        (
            client(&["--auto-tls", "--self-signed-cert-validity=0"]),
            "--self-signed-cert-validity must be from 1 to 100 years (set to 0)",
        ),
        (
            client(&["--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"]),
            "min version (TLS1.3) is greater than max version (TLS1.2)",
        ),
        (
            client(&["--tls-min-version=TLS1.3", "--cipher-suites=TLS_AES_128_GCM_SHA256"]),
            "cipher suites cannot be configured when only TLS1.3 is enabled",
        ),
        (
            client(&["--cipher-suites=TLS_RSA_WITH_AES_128_CBC_SHA"]),
            "unexpected TLS cipher suite \"TLS_RSA_WITH_AES_128_CBC_SHA\" in --cipher-suites, ",
        ),
        (client(&["--cipher-suites=TLS_AES_128_GCM_SHA256,x"]), known),
    ] {
        assert!(error.contains(expected), "{error}\n{expected}");
    }
}

fn with_error(parts: &[&[&str]]) -> String {
    error(&parts.concat()).to_string()
}
