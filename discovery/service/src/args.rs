//! Flags and their variables, and what they mean together.
//!
//! The long names are ours; those of the older discovery service (`--etcd`, `--minage`, `--gcfreq`, `DISC_*`) are
//! accepted, so that its unit files and charts keep working.

use clap::Parser;
use client::{TlsOptions, without_user};
use server::config::LogLevel;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Keeps the registrations of clusters that start: etcd and Cleat members find each other through a URL.
#[derive(Parser)]
#[command(name = "cleat-discovery", version, max_term_width = 120)]
pub(crate) struct Args {
    /// Endpoints of the cluster that keeps the state, separated by commas
    #[arg(
        long,
        short = 'e',
        visible_alias = "etcd",
        env = "DISC_ETCD",
        hide_env_values = true,
        value_delimiter = ',',
        value_name = "URLS"
    )]
    endpoints: Vec<String>,
    /// Keep the state in this process, in --data-dir, instead of a cluster
    #[arg(long, env = "DISC_EMBEDDED")]
    embedded: bool,
    /// Directory of the state with --embedded
    #[arg(long, env = "DISC_DATA_DIR", default_value = "cleat-discovery.data", value_name = "DIR")]
    data_dir: PathBuf,
    /// Address and port to serve on
    #[arg(long, short = 'a', env = "DISC_ADDR", default_value = "127.0.0.1:8087", value_name = "IP:PORT")]
    addr: String,
    /// URL that members reach this service at, the beginning of what /new answers [default: from --addr]
    #[arg(long, env = "DISC_HOST", value_name = "URL")]
    host: Option<String>,
    /// Age at which a token and its registrations are removed
    #[arg(long, visible_alias = "minage", env = "DISC_MINAGE", default_value = "168h", value_name = "DURATION",
          value_parser = duration)]
    max_age: Duration,
    /// Time between removals
    #[arg(long, visible_alias = "gcfreq", env = "DISC_GCFREQ", default_value = "5m", value_name = "DURATION",
          value_parser = duration)]
    gc_interval: Duration,
    /// Certificate to serve https with, PEM
    #[arg(long, env = "DISC_CERT_FILE", requires = "key_file", value_name = "FILE")]
    cert_file: Option<PathBuf>,
    /// Key of --cert-file, PEM
    #[arg(long, env = "DISC_KEY_FILE", requires = "cert_file", value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Authorities of https endpoints, PEM [default: those of the system]
    #[arg(long, env = "DISC_CACERT", value_name = "FILE")]
    cacert: Option<PathBuf>,
    /// Client certificate for https endpoints, PEM
    #[arg(long, env = "DISC_CERT", requires = "key", value_name = "FILE")]
    cert: Option<PathBuf>,
    /// Key of --cert, PEM
    #[arg(long, env = "DISC_KEY", requires = "cert", value_name = "FILE")]
    key: Option<PathBuf>,
    /// Least severe log level: debug, info, warn or error
    #[arg(long, env = "DISC_LOG_LEVEL", default_value = "info", value_name = "LEVEL", value_parser = log_level)]
    log_level: LogLevel,
}

/// Where the state is kept.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Storage {
    /// In a member inside this process, with its data in this directory.
    Embedded(PathBuf),
    /// In the cluster with these endpoints.
    Cluster(Vec<String>, Option<TlsOptions>),
}

/// Endpoints are not checked yet: without the passwords that may be in them.
impl fmt::Debug for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded(data_dir) => f.debug_tuple("Embedded").field(data_dir).finish(),
            Self::Cluster(endpoints, tls) => {
                let endpoints: Vec<_> = endpoints.iter().map(|endpoint| without_user(endpoint)).collect();
                f.debug_tuple("Cluster").field(&endpoints).field(tls).finish()
            }
        }
    }
}

/// Checked settings.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) storage: Storage,
    pub(crate) addr: SocketAddr,
    /// Without a slash at its end.
    pub(crate) host: String,
    pub(crate) max_age: Duration,
    pub(crate) gc_interval: Duration,
    /// Certificate and key of the listener.
    pub(crate) tls: Option<(PathBuf, PathBuf)>,
    pub(crate) log_level: LogLevel,
}

impl TryFrom<Args> for Settings {
    type Error = String;

    fn try_from(args: Args) -> Result<Self, String> {
        let certificates =
            TlsOptions { ca_file: args.cacert, cert_file: args.cert, key_file: args.key, ..TlsOptions::default() };
        let tls = (certificates != TlsOptions::default()).then_some(certificates);
        let storage = match (args.endpoints.is_empty(), args.embedded) {
            (false, false) => Storage::Cluster(args.endpoints, tls),
            (true, true) if tls.is_some() => {
                return Err("--cacert, --cert and --key are for --endpoints, not for --embedded".to_owned());
            }
            (true, true) => Storage::Embedded(args.data_dir),
            (true, false) => {
                return Err("where to keep the state is not said: give --endpoints URLS of an etcd or Cleat cluster, \
                            or --embedded to keep it in --data-dir"
                    .to_owned());
            }
            (false, true) => return Err("--endpoints and --embedded exclude each other".to_owned()),
        };
        let addr = address(&args.addr)?;
        let tls = args.cert_file.zip(args.key_file);
        let host = match args.host {
            Some(host) => host_url(&host)?,
            None if addr.ip().is_unspecified() => {
                return Err(format!(
                    "--host is needed: members cannot reach {}; it is the URL under which they do",
                    addr.ip()
                ));
            }
            None => format!("{}://{addr}", if tls.is_some() { "https" } else { "http" }),
        };
        let (max_age, gc_interval) = (args.max_age, args.gc_interval);
        Ok(Self { storage, addr, host, max_age, gc_interval, tls, log_level: args.log_level })
    }
}

/// `IP:PORT`, or `:PORT` for all addresses.
fn address(text: &str) -> Result<SocketAddr, String> {
    let full = match text.strip_prefix(':') {
        Some(port) => format!("0.0.0.0:{port}"),
        None => text.replacen("localhost:", "127.0.0.1:", 1),
    };
    full.parse().map_err(|_| format!("--addr {text:?} is not IP:PORT"))
}

/// The URL that tokens are appended to.
fn host_url(text: &str) -> Result<String, String> {
    let bad = |reason: &str| format!("--host {text:?} {reason}");
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let rest = rest.ok_or_else(|| bad("must begin with http:// or https://"))?;
    if rest.is_empty() || rest.starts_with('/') {
        return Err(bad("has no host"));
    }
    if rest.contains(['?', '#']) || rest.contains(char::is_whitespace) {
        return Err(bad("has something behind its path"));
    }
    Ok(text.trim_end_matches('/').to_owned())
}

/// A duration as Go writes it: numbers with units, `168h` or `1h30m`.
fn duration(text: &str) -> Result<Duration, String> {
    const UNITS: [(&str, f64); 5] = [("ms", 0.001), ("us", 0.000_001), ("h", 3600.0), ("m", 60.0), ("s", 1.0)];
    let bad = || format!("{text:?} is not a duration like 168h, 1h30m or 10s");
    let mut seconds = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let number: f64 = rest[..digits].parse().map_err(|_| bad())?;
        rest = &rest[digits..];
        let (unit, factor) = UNITS.iter().find(|(unit, _)| rest.starts_with(unit)).ok_or_else(bad)?;
        rest = &rest[unit.len()..];
        seconds += number * factor;
    }
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        Ok(_) => Err(format!("{text:?} must be more than nothing")),
        Err(_) => Err(bad()),
    }
}

fn log_level(text: &str) -> Result<LogLevel, String> {
    match text {
        "debug" => Ok(LogLevel::Debug),
        "info" => Ok(LogLevel::Info),
        "warn" => Ok(LogLevel::Warn),
        "error" => Ok(LogLevel::Error),
        _ => Err("must be debug, info, warn or error".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(args: &[&str]) -> Result<Settings, String> {
        let args = [&["cleat-discovery"], args].concat();
        Args::try_parse_from(args).map_err(|error| error.to_string()).and_then(Settings::try_from)
    }

    #[test]
    fn settings_from_flags() {
        let default = settings(&["--embedded"]).unwrap();
        assert_eq!(default.host, "http://127.0.0.1:8087");
        assert_eq!((default.max_age.as_secs(), default.gc_interval.as_secs()), (168 * 3600, 300));
        assert_eq!(default.storage, Storage::Embedded("cleat-discovery.data".into()));
        let old =
            ["-e", "http://a:1,http://b:1", "--minage=1h30m", "--gcfreq=1.5s", "-a", ":80", "--host", "http://d/x/"];
        let old = settings(&old).unwrap();
        assert_eq!(old.storage, Storage::Cluster(vec!["http://a:1".to_owned(), "http://b:1".to_owned()], None));
        assert_eq!((old.addr.to_string(), old.host), ("0.0.0.0:80".to_owned(), "http://d/x".to_owned()));
        assert_eq!((old.max_age.as_secs(), old.gc_interval.as_millis()), (5400, 1500));
        let secret = format!("{:?}", settings(&["-e", "http://u:secret@a:1"]).unwrap());
        assert!(secret.contains("http://a:1") && !secret.contains("secret"), "{secret}");
        let secure = settings(&["--embedded", "--cert-file=c", "--key-file=k", "--addr=[::1]:1"]).unwrap();
        assert_eq!(secure.host, "https://[::1]:1");
    }

    #[test]
    fn mistakes_say_what_to_give() {
        let cases: [(&[&str], &str); 12] = [
            (&[], "give --endpoints URLS of an etcd or Cleat cluster, or --embedded"),
            (&["--embedded", "-e", "a:1"], "exclude each other"),
            (&["--embedded", "--cacert", "f"], "are for --endpoints"),
            (&["--embedded", "--addr", "here"], "--addr \"here\" is not IP:PORT"),
            (&["--embedded", "--addr", ":8087"], "--host is needed: members cannot reach 0.0.0.0"),
            (&["--embedded", "--host", "d.example"], "must begin with http:// or https://"),
            (&["--embedded", "--host", "http:///x"], "has no host"),
            (&["--embedded", "--host", "http://a?b"], "has something behind its path"),
            (&["--embedded", "--max-age", "week"], "is not a duration like 168h"),
            (&["--embedded", "--gc-interval", "0s"], "must be more than nothing"),
            (&["--embedded", "--cert-file", "c"], "--key-file"),
            (&["-e", "a:1", "--cert", "c"], "--key"),
        ];
        for (args, expected) in cases {
            let error = settings(args).unwrap_err();
            assert!(error.contains(expected), "{args:?}: {error}");
        }
    }
}
