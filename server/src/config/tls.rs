//! The TLS settings of the client side and of the peer side.
//!
//! Which flags belong together and what they mean is etcd's: an https URL needs a certificate and its key or a
//! generated one, and a CA file by itself already makes certificates of callers required. Where etcd would fall back
//! to every CA that the system trusts, or ignore a check that was asked for, the settings are refused.
//!
//! Called by `settings`. No file is opened here: `crate::tls` reads them, and again when they change.

use super::url::ListenUrl;
use super::values::Values;
use rustls::CipherSuite;
use std::path::PathBuf;

/// The longest validity of generated certificates, in years. Dates after the year 9999 cannot be written.
const MAX_VALIDITY_YEARS: u32 = 100;

/// The suites that can be chosen, by their names in Go. Those of TLS 1.3 may be named, but are always on, as in Go.
const CIPHER_SUITES: [(&str, CipherSuite); 9] = [
    ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
    ("TLS_AES_128_GCM_SHA256", CipherSuite::TLS13_AES_128_GCM_SHA256),
    ("TLS_AES_256_GCM_SHA384", CipherSuite::TLS13_AES_256_GCM_SHA384),
    ("TLS_CHACHA20_POLY1305_SHA256", CipherSuite::TLS13_CHACHA20_POLY1305_SHA256),
];

/// Whose connections the settings are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Clients, and everything else that is served over HTTP.
    Client,
    /// Other members.
    Peer,
}

impl Side {
    /// The word for it in messages and in the names of directories.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Peer => "peer",
        }
    }
}

/// A certificate chain and its key, both PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPairFiles {
    /// The certificate, followed by the intermediate ones.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Where a side's own certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertSource {
    /// Files that somebody else renews.
    Files(KeyPairFiles),
    /// The member makes one for itself.
    SelfSigned {
        /// Names and addresses it is for.
        hosts: Vec<String>,
        /// How long it is valid.
        validity_years: u32,
    },
}

/// Which verified certificates of callers are accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowedNames {
    /// All.
    Any,
    /// Those whose subject has one of these common names.
    CommonNames(Vec<String>),
    /// Those that are valid for one of these hosts.
    Hostnames(Vec<String>),
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.2.
    V12,
    /// TLS 1.3.
    V13,
}

/// The TLS settings of one side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    /// Whose connections these are for.
    pub side: Side,
    /// The member's own certificate.
    pub cert: CertSource,
    /// The certificate for connections that the member opens, if not the same.
    pub dial_cert: Option<KeyPairFiles>,
    /// The CAs that certificates of callers must come from; without it, callers need none.
    pub trusted_ca_file: Option<PathBuf>,
    /// Revoked certificates of callers.
    pub crl_file: Option<PathBuf>,
    /// Which certificates of callers are accepted.
    pub allowed_names: AllowedNames,
    /// Whether the names in a caller's certificate must lead to its address.
    pub verify_addresses: bool,
    /// Oldest version.
    pub min_version: TlsVersion,
    /// Newest version.
    pub max_version: TlsVersion,
    /// The suites of TLS 1.2 that are on; None means all that are known.
    pub cipher_suites: Option<Vec<CipherSuite>>,
}

/// The flags of one side.
struct Names {
    side: Side,
    cert: &'static str,
    key: &'static str,
    trusted_ca: &'static str,
    require_cert: &'static str,
    crl: &'static str,
    allowed_hostname: &'static str,
    auto: &'static str,
}

const CLIENT: Names = Names {
    side: Side::Client,
    cert: "cert-file",
    key: "key-file",
    trusted_ca: "trusted-ca-file",
    require_cert: "client-cert-auth",
    crl: "client-crl-file",
    allowed_hostname: "client-cert-allowed-hostname",
    auto: "auto-tls",
};

const PEER: Names = Names {
    side: Side::Peer,
    cert: "peer-cert-file",
    key: "peer-key-file",
    trusted_ca: "peer-trusted-ca-file",
    require_cert: "peer-client-cert-auth",
    crl: "peer-crl-file",
    allowed_hostname: "peer-cert-allowed-hostname",
    auto: "peer-auto-tls",
};

/// Reads the settings for clients. None if all of their URLs are plain.
///
/// # Errors
/// What is missing or contradicts, with the names of the flags.
pub(super) fn client(
    values: &Values,
    urls: [&[ListenUrl]; 2],
    metrics_urls: &[ListenUrl],
    warnings: &mut Vec<String>,
) -> Result<Option<TlsSettings>, String> {
    let urls: Vec<&ListenUrl> = urls.into_iter().flatten().collect();
    let all: Vec<&ListenUrl> = urls.iter().copied().chain(metrics_urls).collect();
    let settings = side(values, &CLIENT, &all, warnings)?;
    // Metrics in plain text beside clients with TLS are common, and meant.
    warn_of_plain_urls(values, &CLIENT, &urls, warnings);
    Ok(settings.filter(|_| all.iter().any(|url| url.is_tls())))
}

/// Reads the settings for peers. None if there is no certificate.
///
/// # Errors
/// What is missing or contradicts, with the names of the flags.
pub(super) fn peer(
    values: &Values,
    urls: &[ListenUrl],
    warnings: &mut Vec<String>,
) -> Result<Option<TlsSettings>, String> {
    let dial_cert = key_pair(values, "peer-client-cert-file", "peer-client-key-file")?;
    let common_names = list(values.text("peer-cert-allowed-cn"));
    let urls: Vec<&ListenUrl> = urls.iter().collect();
    let Some(mut settings) = side(values, &PEER, &urls, warnings)? else { return Ok(None) };
    warn_of_plain_urls(values, &PEER, &urls, warnings);
    settings.dial_cert = dial_cert;
    settings.verify_addresses = !values.boolean("peer-skip-client-san-verification");
    if !common_names.is_empty() {
        if settings.allowed_names != AllowedNames::Any {
            return Err("--peer-cert-allowed-cn and --peer-cert-allowed-hostname are mutually exclusive".to_owned());
        }
        settings.allowed_names = AllowedNames::CommonNames(common_names);
        if urls.iter().any(|url| url.is_tls()) {
            needs_ca(&settings, &PEER, "peer-cert-allowed-cn")?;
        }
    }
    Ok(Some(settings))
}

fn side(
    values: &Values,
    names: &Names,
    urls: &[&ListenUrl],
    warnings: &mut Vec<String>,
) -> Result<Option<TlsSettings>, String> {
    let (min_version, max_version) = versions(values)?;
    let cipher_suites = cipher_suites(values.text("cipher-suites"), min_version)?;
    let secure = urls.iter().find(|url| url.is_tls());
    let what = names.side.as_str();
    let cert = match key_pair(values, names.cert, names.key)? {
        Some(files) => {
            if values.boolean(names.auto) {
                warnings.push(format!("ignoring {what} auto TLS (--{}) since certs given", names.auto));
            }
            Some(CertSource::Files(files))
        }
        None if values.boolean(names.auto) && secure.is_some() => Some(self_signed(values, urls)?),
        None => None,
    };
    let Some(cert) = cert else {
        if let Some(url) = secure {
            return Err(format!(
                "TLS key/cert (--{}, --{}) must be provided for {what} url {url} with HTTPS scheme, or --{}",
                names.cert, names.key, names.auto
            ));
        }
        warn_of_effectless(values, names, warnings);
        return Ok(None);
    };
    let hostnames = list(values.text(names.allowed_hostname));
    let settings = TlsSettings {
        side: names.side,
        cert,
        dial_cert: None,
        trusted_ca_file: path(values, names.trusted_ca),
        crl_file: path(values, names.crl),
        allowed_names: if hostnames.is_empty() { AllowedNames::Any } else { AllowedNames::Hostnames(hostnames) },
        verify_addresses: false,
        min_version,
        max_version,
        cipher_suites,
    };
    // What no URL makes use of does no harm.
    if secure.is_some() {
        for (is_asked, flag) in [
            (values.boolean(names.require_cert), names.require_cert),
            (settings.crl_file.is_some(), names.crl),
            (settings.allowed_names != AllowedNames::Any, names.allowed_hostname),
        ] {
            if is_asked {
                needs_ca(&settings, names, flag)?;
            }
        }
    }
    Ok(Some(settings))
}

/// Without a CA file no certificate would be asked for, and the check never made.
fn needs_ca(settings: &TlsSettings, names: &Names, flag: &str) -> Result<(), String> {
    match settings.trusted_ca_file {
        Some(_) => Ok(()),
        None => Err(format!("--{flag} needs --{}", names.trusted_ca)),
    }
}

/// In etcd's words: somebody who has a certificate may believe that every URL is protected.
fn warn_of_plain_urls(values: &Values, names: &Names, urls: &[&ListenUrl], warnings: &mut Vec<String>) {
    if values.text(names.cert).is_empty() {
        return;
    }
    for url in urls.iter().filter(|url| !url.is_tls()) {
        warnings.push(format!(
            "scheme is HTTP while key and cert files are present; ignoring key and cert files ({url}, --{})",
            names.cert
        ));
        if values.boolean(names.require_cert) {
            let flag = names.require_cert;
            warnings.push(format!(
                "scheme is HTTP while --{flag} is enabled; ignoring client cert auth for this URL ({url})"
            ));
        }
    }
}

fn warn_of_effectless(values: &Values, names: &Names, warnings: &mut Vec<String>) {
    for flag in [names.trusted_ca, names.require_cert, names.crl, names.allowed_hostname, names.auto] {
        if values.is_set(flag) && !["", "false"].contains(&values.text(flag)) {
            warnings.push(format!("--{flag} has no effect: no {} URL is https", names.side.as_str()));
        }
    }
}

fn self_signed(values: &Values, urls: &[&ListenUrl]) -> Result<CertSource, String> {
    let validity_years = values.number("self-signed-cert-validity");
    if !(1..=MAX_VALIDITY_YEARS).contains(&validity_years) {
        return Err(format!(
            "--self-signed-cert-validity must be from 1 to {MAX_VALIDITY_YEARS} years (set to {validity_years})"
        ));
    }
    let mut hosts: Vec<String> = urls.iter().filter(|url| url.is_tls()).flat_map(|url| url.hosts()).collect();
    hosts.sort();
    hosts.dedup();
    Ok(CertSource::SelfSigned { hosts, validity_years })
}

fn path(values: &Values, flag: &'static str) -> Option<PathBuf> {
    Some(values.text(flag)).filter(|path| !path.is_empty()).map(PathBuf::from)
}

fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
}

fn key_pair(values: &Values, cert: &'static str, key: &'static str) -> Result<Option<KeyPairFiles>, String> {
    match (path(values, cert), path(values, key)) {
        (Some(cert), Some(key)) => Ok(Some(KeyPairFiles { cert, key })),
        (None, None) => Ok(None),
        (Some(_), None) => Err(format!("--{cert} and --{key} must both be present (--{key} is missing)")),
        (None, Some(_)) => Err(format!("--{cert} and --{key} must both be present (--{cert} is missing)")),
    }
}

fn versions(values: &Values) -> Result<(TlsVersion, TlsVersion), String> {
    let (min, max) = (values.text("tls-min-version"), values.text("tls-max-version"));
    let min_version = if min == "TLS1.3" { TlsVersion::V13 } else { TlsVersion::V12 };
    let max_version = if max == "TLS1.2" { TlsVersion::V12 } else { TlsVersion::V13 };
    if min_version > max_version {
        return Err(format!("min version ({min}) is greater than max version ({max})"));
    }
    Ok((min_version, max_version))
}

fn cipher_suites(text: &str, min_version: TlsVersion) -> Result<Option<Vec<CipherSuite>>, String> {
    let names = list(text);
    if names.is_empty() {
        return Ok(None);
    }
    if min_version == TlsVersion::V13 {
        return Err("cipher suites cannot be configured when only TLS1.3 is enabled".to_owned());
    }
    let known = |name: &String| {
        // The names that Go had before it wrote the hash down.
        let full = if name.ends_with("_CHACHA20_POLY1305") { format!("{name}_SHA256") } else { name.clone() };
        CIPHER_SUITES.iter().find(|(known, _)| *known == full).map(|(_, suite)| *suite).ok_or_else(|| {
            let names: Vec<&str> = CIPHER_SUITES.iter().map(|(name, _)| *name).collect();
            format!("unexpected TLS cipher suite {name:?} in --cipher-suites, known are {}", names.join(", "))
        })
    };
    names.iter().map(known).collect::<Result<_, _>>().map(Some)
}
