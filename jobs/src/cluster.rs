//! How jobs reach the cluster: etcdctl's flags and environment.

use anyhow::{Context as _, Result, ensure};
use client::{Client, Options, TlsOptions, User};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Longest time for one call.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Between attempts to reach a cluster that starts.
pub(crate) const PAUSE: Duration = Duration::from_secs(2);

/// Where the cluster is, and who asks.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ClusterArgs {
    /// gRPC endpoints, tried in this order
    #[arg(long, env = "ETCDCTL_ENDPOINTS", value_delimiter = ',', default_value = "127.0.0.1:2379")]
    pub(crate) endpoints: Vec<String>,
    /// Authorities that the server's certificate must come from
    #[arg(long, env = "ETCDCTL_CACERT", value_name = "FILE")]
    cacert: Option<PathBuf>,
    /// This client's certificate
    #[arg(long, env = "ETCDCTL_CERT", value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Its key
    #[arg(long, env = "ETCDCTL_KEY", value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// Whose requests these are
    #[arg(long, env = "ETCDCTL_USER", value_name = "NAME")]
    user: Option<String>,
    /// The password; there is no flag for it, which everybody would see
    #[arg(skip = Secret::of_environment())]
    password: Option<Secret>,
    /// How long to wait for the cluster, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub(crate) wait: u64,
}

/// A text that is shown nowhere.
#[derive(Clone)]
struct Secret(String);

impl Secret {
    fn of_environment() -> Option<Self> {
        std::env::var("ETCDCTL_PASSWORD").ok().filter(|text| !text.is_empty()).map(Self)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl ClusterArgs {
    /// The password, which must be there, and be that of this user.
    ///
    /// # Errors
    /// There is none, or another user's; the text says how to give it.
    pub(crate) fn password_of(&self, name: &str) -> Result<String> {
        let given = self.user.as_deref().unwrap_or_default();
        ensure!(given == name, "the user is {given:?}: set ETCDCTL_USER to {name}");
        Ok(self.password.clone().context("there is no password: set ETCDCTL_PASSWORD")?.0)
    }

    /// Certificates of connections.
    pub(crate) fn tls(&self) -> TlsOptions {
        let (ca_file, cert_file, key_file) = (self.cacert.clone(), self.cert.clone(), self.key.clone());
        TlsOptions { ca_file, cert_file, key_file, ..TlsOptions::default() }
    }

    /// A client that gives its name if there is one and a password for it.
    pub(crate) fn client(&self) -> Result<Client> {
        let user = self.user.clone().zip(self.password.clone());
        self.client_of(user.map(|(name, password)| User { name, password: password.0 }))
    }

    /// A client of a certain user, or of nobody.
    pub(crate) fn client_of(&self, user: Option<User>) -> Result<Client> {
        let tls = self.tls();
        let tls = (tls != TlsOptions::default()).then_some(tls);
        let endpoints = self.endpoints.clone();
        Ok(Client::new(&Options { endpoints, tls, user, request_timeout: CALL_TIMEOUT, ..Options::default() })?)
    }

    /// What an attempt gives, made again until `wait` is over while its failure may pass.
    ///
    /// # Errors
    /// Those of the attempts.
    pub(crate) async fn patiently<T, F>(&self, attempt: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = Result<T, client::Error>>,
    {
        let end = tokio::time::Instant::now() + Duration::from_secs(self.wait);
        loop {
            match attempt().await {
                Ok(answer) => return Ok(answer),
                Err(error) if error.may_pass() && tokio::time::Instant::now() < end => {
                    terminal::complain(&format!("waiting for the cluster: {error}"));
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}
