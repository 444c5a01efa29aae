//! TLS to a server that asks for client certificates.

use super::DEADLINE;
use anyhow::{Context, Result, ensure};
use client::{Client, Error, Options, TlsOptions, message};
use harness::{Kind, Server};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// An authority that signs what tests need.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        // The others have the default name; one that is its own issuer would be taken for the authority.
        params.distinguished_name.push(DnType::CommonName, "authority of a test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Ok(Self(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?))
    }

    /// Writes the authority's own certificate.
    pub(crate) fn write(&self, dir: &Path) -> Result<PathBuf> {
        let path = dir.join("ca.pem");
        std::fs::write(&path, self.0.pem())?;
        Ok(path)
    }

    /// Writes a certificate for a name and its key, usable on both sides.
    pub(crate) fn sign(&self, name: &str, dir: &Path) -> Result<(PathBuf, PathBuf)> {
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.0)?;
        let (cert_path, key_path) = (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")));
        std::fs::write(&cert_path, certificate.pem())?;
        std::fs::write(&key_path, key.serialize_pem())?;
        Ok((cert_path, key_path))
    }
}

/// An etcd that serves `https` with a certificate for `store.test`, and asks for one of the authority.
fn secure_etcd(authority: &Authority, dir: &Path) -> Result<(Server, String)> {
    let (cert, key) = authority.sign("store.test", dir)?;
    let mut server = Server::prepare(Kind::Etcd, harness::Options::default())?;
    let url = server.client_url().replace("http:", "https:");
    let flags = [
        ("--listen-client-urls", url.clone()),
        ("--advertise-client-urls", url.clone()),
        ("--cert-file", cert.display().to_string()),
        ("--key-file", key.display().to_string()),
        ("--trusted-ca-file", authority.write(dir)?.display().to_string()),
    ];
    let mut flags: Vec<String> = flags.into_iter().map(|(flag, value)| format!("{flag}={value}")).collect();
    flags.push("--client-cert-auth".to_owned());
    server.add_flags(flags);
    server.spawn()?;
    Ok((server, url))
}

#[tokio::test]
async fn certificates_are_shown_and_checked() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (authority, stranger) = (Authority::new()?, Authority::new()?);
    let (server, url) = secure_etcd(&authority, dir.path())?;
    let (cert, key) = authority.sign("tool", dir.path())?;
    let good = TlsOptions {
        ca_file: Some(authority.write(dir.path())?),
        cert_file: Some(cert.clone()),
        key_file: Some(key),
        server_name: Some("store.test".to_owned()),
        insecure_skip_verify: false,
    };
    let client = |endpoint: &str, tls: &TlsOptions| {
        let request_timeout = Duration::from_secs(5);
        let endpoints = vec![endpoint.to_owned()];
        Client::new(&Options { endpoints, tls: Some(tls.clone()), request_timeout, ..Options::default() })
    };
    let deadline = Instant::now() + DEADLINE;
    // An endpoint without a scheme means https when there are certificates.
    while let Err(error) = client(&server.endpoint(), &good)?.put(message::put("a", "1")).await {
        ensure!(Instant::now() < deadline, "{error}\n{}", server.log_tail());
    }
    let unchecked = TlsOptions { ca_file: None, server_name: None, insecure_skip_verify: true, ..good.clone() };
    ensure!(client(&url, &unchecked)?.get("a").await?.is_some());

    let elsewhere = tempfile::tempdir()?;
    let cases = [
        ("the name is wrong", TlsOptions { server_name: None, ..good.clone() }, "not valid for name"),
        (
            "the authority is another",
            TlsOptions { ca_file: Some(stranger.write(elsewhere.path())?), ..good.clone() },
            "invalid peer certificate",
        ),
        // With TLS 1.3 the server refuses after the client's part of the handshake, and just closes the connection.
        ("no client certificate", TlsOptions { cert_file: None, key_file: None, ..good.clone() }, ""),
    ];
    for (why, tls, text) in cases {
        let error = client(&url, &tls)?.get("a").await.err().context(why)?;
        let shown = error.to_string();
        ensure!(shown.contains(&url) && shown.contains(text), "{why}: {shown}");
    }
    let swapped = TlsOptions { key_file: Some(cert), ..good };
    let error = client(&url, &swapped).err().context("a certificate is no key")?;
    ensure!(matches!(error, Error::TlsFile { .. }), "{error:?}");
    ensure!(error.to_string().ends_with("tool.pem: there is no key in it"), "{error}");
    Ok(())
}
