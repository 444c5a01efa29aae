//! The directory of everybody's certificates: of the members of a secure cluster, and of its clients.
//!
//! A member `m` has `m-server` and `m-peer` (each `.pem` and `.key`), `m-ca.pem` and `m-crl.pem`; clients have `client`
//! and trust `trusted.pem`. Files are replaced at once, as tools do that never leave half of one.

use crate::authority::{Authority, Pair};
use crate::tls::ClientTls;
use anyhow::{Context, Result};
use std::path::PathBuf;
use tempfile::TempDir;

/// Whom certificates are for: everything is on loopback, or in the domain `c.test` of a name server on loopback.
pub const HOSTS: [&str; 4] = ["localhost", "127.0.0.1", "c.test", "*.c.test"];

/// The directory; it is removed on drop.
#[derive(Debug)]
pub struct Site(TempDir);

impl Site {
    /// One with a client of an authority, who trusts it.
    pub fn new(ca: &Authority) -> Result<Self> {
        let site = Self(TempDir::with_prefix("cleat-test-site-")?);
        site.replace("trusted.pem", &ca.pem())?;
        site.install("client", &ca.issue("client", &HOSTS)?)?;
        Ok(site)
    }

    /// The path of a file.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file, or replaces it.
    pub fn replace(&self, name: &str, text: &str) -> Result<()> {
        let (new, path) = (self.path(&format!("{name}.new")), self.path(name));
        std::fs::write(&new, text)?;
        std::fs::rename(&new, &path).with_context(|| path.display().to_string())
    }

    /// Writes a certificate and its key, or replaces them.
    pub fn install(&self, name: &str, pair: &Pair) -> Result<()> {
        self.replace(&format!("{name}.key"), &pair.key)?;
        self.replace(&format!("{name}.pem"), &pair.cert)
    }

    /// Gives a member its first files. Nothing is revoked.
    pub fn admit(&self, ca: &Authority, member: &str) -> Result<()> {
        self.install(&format!("{member}-server"), &ca.issue(member, &HOSTS)?)?;
        self.install(&format!("{member}-peer"), &ca.issue(member, &HOSTS)?)?;
        self.replace(&format!("{member}-ca.pem"), &ca.pem())?;
        self.replace(&format!("{member}-crl.pem"), &ca.revoke(&[])?.pem()?)
    }

    /// The flags of a member that requires certificates of everybody.
    pub fn flags(&self, member: &str) -> Vec<String> {
        let file = |name: &str| self.path(&format!("{member}-{name}")).display().to_string();
        vec![
            format!("--cert-file={}", file("server.pem")),
            format!("--key-file={}", file("server.key")),
            format!("--trusted-ca-file={}", file("ca.pem")),
            format!("--client-crl-file={}", file("crl.pem")),
            "--client-cert-auth".to_owned(),
            format!("--peer-cert-file={}", file("peer.pem")),
            format!("--peer-key-file={}", file("peer.key")),
            format!("--peer-trusted-ca-file={}", file("ca.pem")),
            format!("--peer-crl-file={}", file("crl.pem")),
            "--peer-client-cert-auth".to_owned(),
        ]
    }

    /// What a caller with the certificate of this name uses.
    pub fn caller(&self, name: &str) -> ClientTls {
        ClientTls { trusted: self.path("trusted.pem"), own: Some(self.path(name)) }
    }
}
