//! Files that are not what they should be, and files that the member makes.

use super::*;
use crate::tls::der::CertFacts;
use crate::tls::self_signed::ensure;
use std::os::unix::fs::PermissionsExt as _;

#[test]
fn what_is_wrong_with_a_file_is_said() {
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let other = Authority::new("other").unwrap().issue("other", &[]).unwrap();
    for (name, text, expected) in [
        ("server.pem", None, "No such file or directory (os error 2)"),
        ("server.pem", Some(""), "no PEM certificate in it"),
        ("server.pem", Some(garbage), "its first certificate cannot be read"),
        ("server.key", Some(other.cert.as_str()), "no PEM private key in it that is not encrypted"),
        ("server.key", Some(&other.key), "it is not the key of certificate DIR/server.pem"),
        ("ca.pem", Some("text"), "no PEM certificate in it"),
        ("ca.pem", Some(garbage), "x509: BadEncoding"),
        ("crl.pem", None, "No such file or directory (os error 2)"),
        ("crl.pem", Some(&other.cert), "no revocation list in it"),
        ("crl.pem", Some("0text"), "its revocation list cannot be read"),
    ] {
        let site = Site::new();
        site.write("crl.pem", &site.ca.revoke(&[1]).unwrap().pem().unwrap());
        match text {
            None => std::fs::remove_file(site.path(name)).unwrap(),
            Some(text) => site.write(name, text),
        }
        let settings = TlsSettings { crl_file: Some(site.path("crl.pem")), ..site.settings(Side::Client) };
        let error = TlsAcceptor::new(&settings, &site.files()).unwrap_err().to_string();
        let dir = site.dir.path().display().to_string();
        assert_eq!(error.replace(&dir, "DIR"), format!("cannot use TLS file DIR/{name}: {expected}"));
    }
}

#[test]
fn suites_that_no_version_can_use_are_refused() {
    let site = Site::new();
    let suites = Some(vec![rustls::CipherSuite::TLS13_AES_128_GCM_SHA256]);
    let settings = TlsSettings { cipher_suites: suites, max_version: TlsVersion::V12, ..site.settings(Side::Client) };
    let error = TlsAcceptor::new(&settings, &site.files()).unwrap_err().to_string();
    assert!(error.starts_with("cannot set up TLS for client connections: "), "{error}");
}

fn read(files: &KeyPairFiles) -> (String, String) {
    (std::fs::read_to_string(&files.cert).unwrap(), std::fs::read_to_string(&files.key).unwrap())
}

#[test]
fn a_generated_certificate_is_kept_until_it_is_of_no_use() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("fixtures/client");
    let hosts = names(&["localhost", "127.0.0.1"]);
    let files = ensure(&dir, &hosts, 2).unwrap();
    for path in [&files.cert, &files.key] {
        assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let first = read(&files);
    let der = CertificateDer::from_pem_slice(first.0.as_bytes()).unwrap();
    let facts = CertFacts::of(&der).unwrap();
    assert_eq!((facts.dns_names, facts.addresses), (names(&["localhost"]), vec!["127.0.0.1".parse().unwrap()]));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64;
    assert_eq!((facts.not_after - now + 3600) / 86_400, 730);
    ensure(&dir, &hosts, 2).unwrap();
    assert_eq!(read(&files), first);

    let old = Authority::new("x").unwrap().issue_expired("x", &[]).unwrap();
    let write_pair = |cert: &str, key: &str| {
        std::fs::write(&files.cert, cert).unwrap();
        std::fs::write(&files.key, key).unwrap();
    };
    for (cert, key) in [(&old.cert, &old.key), (&first.0, &old.key), (&first.0, &String::new())] {
        write_pair(cert, key);
        ensure(&dir, &hosts, 1).unwrap();
        let made = read(&files);
        assert!(made.0 != *cert && made.1 != *key);
        ensure(&dir, &hosts, 1).unwrap();
        assert_eq!(read(&files), made, "what was made is kept");
    }
}
