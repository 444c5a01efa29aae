//! What metad is asked to do: flags, over the file, over defaults.

mod layers;
mod names;

use crate::address::{self, Net};
use crate::hub::{Bounds, Quiet};
use crate::path;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use terminal::flags::{Values as Layer, parse_bool};

/// A command line or a file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The command line is wrong. Go's programs end with 2 then.
    #[error("{0}")]
    Flag(String),
    /// A value or the file is wrong.
    #[error("{0}")]
    Value(String),
}

/// What a command line asks for.
#[derive(Debug)]
pub enum Request {
    /// To serve.
    Run(Box<Settings>),
    /// To print the version.
    Version,
    /// To print the flags.
    Help(String),
}

/// Where the data is.
#[derive(Clone, Debug)]
pub(crate) enum Storage {
    /// In this process, and gone with it.
    Local,
    Etcd(Box<client::Options>),
}

/// What a client may read that has no rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DefaultAccess {
    /// What it is mapped to.
    Mapping,
    Nothing,
}

/// Whether queries have tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SessionTokens {
    Off,
    Optional,
    Required,
}

/// How the query API protects itself and its clients.
#[derive(Clone, Debug)]
pub(crate) struct QuerySettings {
    /// Proxies whose X-Forwarded-For counts. None if nobody's does.
    pub(crate) proxies: Option<Vec<Net>>,
    /// Who clients on loopback count as.
    pub(crate) local_client: Option<IpAddr>,
    pub(crate) default_access: DefaultAccess,
    /// Name and, if there is one, value.
    pub(crate) required_header: Option<(http::HeaderName, Option<String>)>,
    pub(crate) session_tokens: SessionTokens,
    pub(crate) token_hop_limit: u32,
    pub(crate) token_key_file: Option<PathBuf>,
    /// Path that tells that metad runs, in its only form.
    pub(crate) health_path: Option<Vec<u8>>,
    /// Path that tells whether metad is ready, in its only form.
    pub(crate) ready_path: Option<Vec<u8>>,
    /// Requests a second of one source; 0 for any.
    pub(crate) rate_limit: u32,
    pub(crate) waits: Bounds,
    pub(crate) wait_max: Duration,
    pub(crate) quiet: Quiet,
}

/// How the manage API protects itself.
#[derive(Clone, Debug)]
pub(crate) struct ManageSettings {
    pub(crate) addr: SocketAddr,
    pub(crate) token_file: Option<PathBuf>,
    /// Certificate and key.
    pub(crate) certificate: Option<(PathBuf, PathBuf)>,
    pub(crate) client_ca: Option<PathBuf>,
    pub(crate) max_body: usize,
}

/// Pods as clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KubernetesSettings {
    /// Only the pods of this node, unless it is empty.
    pub(crate) node: String,
    /// Directory of the data for pods.
    pub(crate) root: String,
    /// Of the tokens that are taken; none are if it is empty.
    pub(crate) audience: String,
}

/// Everything that is decided before anything is started. Its Debug output has no secrets.
#[derive(Clone, Debug)]
pub struct Settings {
    pub(crate) storage: Storage,
    /// Of the data's keys.
    pub(crate) prefix: String,
    pub(crate) group: String,
    pub(crate) listen: SocketAddr,
    pub(crate) query: QuerySettings,
    pub(crate) manage: Option<ManageSettings>,
    pub(crate) kubernetes: Option<KubernetesSettings>,
    /// True for yunify's status codes and waits.
    pub(crate) compat: bool,
    /// Names that clients may use, beside the usual ones. None for any.
    pub(crate) hosts: Option<Vec<String>>,
    pub(crate) max_connections: usize,
    pub(crate) max_connections_per_source: usize,
    pub(crate) drain: Duration,
    pub(crate) access_log: bool,
    pub(crate) pid_file: Option<PathBuf>,
    /// Least severe lines that are logged.
    pub log_level: &'static str,
    /// One JSON object a line, instead of metad's lines.
    pub json_log: bool,
    /// What has no effect.
    pub warnings: Vec<String>,
}

/// Reads the settings. `arguments` are without the program's name.
///
/// # Errors
/// [`SettingsError`] names the flag or the line, and what is right.
pub fn parse(arguments: &[String]) -> Result<Request, SettingsError> {
    let Some(flags) = layers::command_line(arguments)? else { return Ok(Request::Help(layers::help())) };
    if flags.get("version").and_then(|values| parse_bool(values.last()?)) == Some(true) {
        return Ok(Request::Version);
    }
    let mut warnings = Vec::new();
    let file = match flags.get("config").and_then(|values| values.last()) {
        Some(path) if !path.is_empty() => layers::file(path.as_ref(), &mut warnings).map_err(SettingsError::Value)?,
        _ => Layer::new(),
    };
    let mut settings = Values([flags, file]).settings().map_err(SettingsError::Value)?;
    settings.warnings = warnings;
    Ok(Request::Run(Box::new(settings)))
}

/// The first layer that has a name decides.
struct Values([Layer; 2]);

impl Values {
    fn all(&self, name: &str) -> Vec<String> {
        let given = self.0.iter().find_map(|layer| layer.get(name)).filter(|values| !values.is_empty());
        given.cloned().unwrap_or_else(|| {
            let default = names::flag_of(name).map_or("", |flag| flag.default);
            if default.is_empty() { Vec::new() } else { vec![default.to_owned()] }
        })
    }

    fn one(&self, name: &str) -> String {
        self.all(name).pop().unwrap_or_default()
    }

    /// Values of a list, which may be given one by one or with commas.
    fn list(&self, name: &str) -> Vec<String> {
        let all = self.all(name);
        let parts = all.iter().flat_map(|value| value.split(',')).map(str::trim).filter(|part| !part.is_empty());
        parts.map(str::to_owned).collect()
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        Some(self.one(name)).filter(|text| !text.is_empty()).map(PathBuf::from)
    }

    fn is_on(&self, name: &str) -> Result<bool, String> {
        let text = self.one(name);
        parse_bool(&text).ok_or_else(|| format!("{name} is {text:?}: it is true or false"))
    }

    fn number(&self, name: &str, least: usize) -> Result<usize, String> {
        let text = self.one(name);
        let number = text.parse().ok().filter(|number| *number >= least);
        number.ok_or_else(|| format!("{name} is {text:?}: it is a number, at least {least}"))
    }

    fn duration(&self, name: &str) -> Result<Duration, String> {
        let text = self.one(name);
        duration(&text).ok_or_else(|| format!("{name} is {text:?}: it is a time like 500ms, 30s or 10m"))
    }

    fn addr(&self, name: &str) -> Result<SocketAddr, String> {
        let text = self.one(name);
        let problem = || format!("{name} is {text:?}: it is ADDRESS:PORT or :PORT");
        match text.strip_prefix(':') {
            // As in Go, on every address of both kinds.
            Some(port) => Ok((Ipv6Addr::UNSPECIFIED, port.parse().map_err(|_| problem())?).into()),
            None => text.replace("localhost:", "127.0.0.1:").parse().map_err(|_| problem()),
        }
    }

    fn settings(&self) -> Result<Settings, String> {
        let manage = if self.one("listen_manage").is_empty() { None } else { Some(self.manage()?) };
        let hosts = self.list("hosts");
        Ok(Settings {
            storage: self.storage()?,
            prefix: self.one("prefix"),
            group: Some(self.one("group"))
                .filter(|group| !group.is_empty() && !group.contains('/'))
                .ok_or_else(|| format!("group is {:?}: it is one name, without a slash", self.one("group")))?,
            listen: self.addr("listen")?,
            query: self.query()?,
            manage,
            kubernetes: self.kubernetes()?,
            compat: self.is_on("compat")?,
            hosts: (!hosts.iter().any(|host| host == "*")).then_some(hosts),
            max_connections: self.number("max_connections", 1)?,
            max_connections_per_source: self.number("max_connections_per_source", 1)?,
            drain: self.duration("drain")?,
            access_log: self.is_on("access_log")?,
            pid_file: self.path("pid_file"),
            log_level: match self.one("log_level").as_str() {
                "" | "info" => "info",
                "debug" => "debug",
                "warn" | "warning" => "warn",
                "error" | "fatal" | "panic" => "error",
                other => return Err(format!("log_level is {other:?}: it is debug, info, warning or error")),
            },
            json_log: match self.one("log_format").as_str() {
                "text" => false,
                "json" => true,
                other => return Err(format!("log_format is {other:?}: it is text or json")),
            },
            warnings: Vec::new(),
        })
    }

    fn kubernetes(&self) -> Result<Option<KubernetesSettings>, String> {
        if !self.is_on("kubernetes")? {
            return Ok(None);
        }
        if cfg!(not(feature = "kubernetes")) {
            return Err("kubernetes: this metad was built without it (cargo's feature `kubernetes`)".to_owned());
        }
        Ok(Some(KubernetesSettings {
            node: self.one("kubernetes_node"),
            root: self.one("kubernetes_root"),
            audience: self.one("kubernetes_audience"),
        }))
    }

    fn storage(&self) -> Result<Storage, String> {
        match self.one("backend").as_str() {
            "local" => return Ok(Storage::Local),
            "etcd" | "etcdv3" => {}
            other => return Err(format!("Invalid backend {other:?}: there are local, etcd and etcdv3")),
        }
        let (ca_file, cert_file, key_file) =
            (self.path("client_ca_keys"), self.path("client_cert"), self.path("client_key"));
        if cert_file.is_some() != key_file.is_some() {
            return Err("client_cert and client_key go together".to_owned());
        }
        let is_secure = ca_file.is_some() || cert_file.is_some();
        let tls = is_secure.then(|| client::TlsOptions { ca_file, cert_file, key_file, ..Default::default() });
        let password = match self.path("password_file") {
            Some(path) => {
                let read = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
                read.trim_end_matches(['\r', '\n']).to_owned()
            }
            None => self.one("password"),
        };
        let user = self.is_on("basic_auth")?.then(|| client::User { name: self.one("username"), password });
        if user.as_ref().is_some_and(|user| user.name.is_empty()) {
            return Err("basic_auth needs a username".to_owned());
        }
        Ok(Storage::Etcd(Box::new(client::Options {
            endpoints: self.all("nodes"),
            tls,
            user,
            ..client::Options::default()
        })))
    }

    fn query(&self) -> Result<QuerySettings, String> {
        let proxies = self.list("trusted_proxies");
        let is_xff = self.is_on("xff")?;
        if !proxies.is_empty() && !is_xff {
            return Err("trusted_proxies goes with xff".to_owned());
        }
        let net = |text: &String| {
            Net::parse(text).ok_or_else(|| format!("trusted_proxies has {text:?}: it is an address or ADDRESS/LENGTH"))
        };
        let local = || ["127.0.0.0/8", "::1"].iter().filter_map(|net| Net::parse(net)).collect();
        let proxies = match proxies.as_slice() {
            [] => local(),
            given => given.iter().map(net).collect::<Result<_, _>>()?,
        };
        let quiet = Quiet { min: self.duration("wait_quiet")?, max: self.duration("wait_quiet_max")? };
        if quiet.max < quiet.min {
            return Err("wait_quiet_max is shorter than wait_quiet".to_owned());
        }
        Ok(QuerySettings {
            proxies: is_xff.then_some(proxies),
            local_client: self.local_client()?,
            default_access: match self.one("access").as_str() {
                "mapping" => DefaultAccess::Mapping,
                "deny" => DefaultAccess::Nothing,
                other => return Err(format!("access is {other:?}: it is mapping or deny")),
            },
            required_header: self.required_header()?,
            session_tokens: match self.one("session_tokens").as_str() {
                "off" => SessionTokens::Off,
                "optional" => SessionTokens::Optional,
                "required" => SessionTokens::Required,
                other => return Err(format!("session_tokens is {other:?}: it is off, optional or required")),
            },
            token_hop_limit: match self.number("token_hop_limit", 0)? {
                limit @ 0..=255 => limit as u32,
                limit => return Err(format!("token_hop_limit is {limit}: it is at most 255")),
            },
            token_key_file: self.path("token_key_file"),
            health_path: self.probe_path("health_path")?,
            ready_path: self.probe_path("ready_path")?,
            rate_limit: u32::try_from(self.number("rate_limit", 0)?).unwrap_or(u32::MAX),
            waits: Bounds { all: self.number("max_waits", 0)?, of_source: self.number("max_waits_per_source", 0)? },
            wait_max: self.duration("wait_max")?,
            quiet,
        })
    }

    fn probe_path(&self, flag: &'static str) -> Result<Option<Vec<u8>>, String> {
        let text = self.one(flag);
        if text.is_empty() {
            return Ok(None);
        }
        let path = path::clean(text.as_bytes());
        let is_taken = matches!(path::names(&path).first(), None | Some(&b"self" | &b"token" | &b"favicon.ico"));
        if path != text.as_bytes() || is_taken {
            let example = flag.trim_end_matches("_path");
            return Err(format!("{flag} is {text:?}: it is a path that has no other meaning, such as /{example}"));
        }
        Ok(Some(path))
    }

    fn local_client(&self) -> Result<Option<IpAddr>, String> {
        let text = self.one("local_client");
        let problem = || format!("local_client is {text:?}: it is an address");
        if text.is_empty() { Ok(None) } else { address::parse(&text).ok_or_else(problem).map(Some) }
    }

    fn required_header(&self) -> Result<Option<(http::HeaderName, Option<String>)>, String> {
        let text = self.one("required_header");
        if text.is_empty() {
            return Ok(None);
        }
        let (name, value) = match text.split_once(['=', ':']) {
            Some((name, value)) => (name, Some(value.trim().to_owned())),
            None => (text.as_str(), None),
        };
        let name = name.trim().parse().map_err(|_| format!("required_header is {text:?}: it is NAME or NAME=VALUE"))?;
        Ok(Some((name, value)))
    }

    fn manage(&self) -> Result<ManageSettings, String> {
        let certificate = match (self.path("manage_cert_file"), self.path("manage_key_file")) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            _ => return Err("manage_cert_file and manage_key_file go together".to_owned()),
        };
        let settings = ManageSettings {
            addr: self.addr("listen_manage")?,
            token_file: self.path("manage_token_file"),
            certificate,
            client_ca: self.path("manage_client_ca"),
            max_body: self.number("max_body", 1)?,
        };
        if settings.client_ca.is_some() && settings.certificate.is_none() {
            return Err("manage_client_ca needs manage_cert_file and manage_key_file".to_owned());
        }
        let is_protected = settings.token_file.is_some() || settings.client_ca.is_some();
        if !settings.addr.ip().is_loopback() && !is_protected && !self.is_on("manage_insecure")? {
            return Err(format!(
                "listen_manage is {}, which others can reach: it needs manage_token_file or manage_client_ca, or \
                 manage_insecure if something else keeps them away",
                settings.addr
            ));
        }
        Ok(settings)
    }
}

/// Go's times, `1m30s`, of at most a day; a number alone is seconds.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    const LONGEST: f64 = 86_400.0;
    let mut rest = text;
    let mut seconds = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        seconds += number
            * match &rest[..unit] {
                "" if digits == text.len() => 1.0,
                "s" => 1.0,
                "ms" => 0.001,
                "us" => 0.000_001,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    (seconds <= LONGEST).then(|| Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(arguments: &[&str]) -> Result<Settings, String> {
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        match parse(&arguments) {
            Ok(Request::Run(settings)) => Ok(*settings),
            Ok(other) => Err(format!("{other:?}")),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn flags_win_over_the_file_and_that_over_defaults() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metad.yml");
        let text =
            "backend: etcdv3\nnodes:\n  - http://a:1\n  - http://b:2\nGroup: g\nlisten: :8080\nxff: true\nnode: x\n";
        std::fs::write(&path, text).unwrap();
        let config = format!("--config={}", path.display());
        let settings = of(&[&config, "-listen", "127.0.0.1:81", "--xff=false"]).unwrap();
        assert_eq!(settings.listen.to_string(), "127.0.0.1:81");
        assert_eq!((settings.group.as_str(), settings.query.proxies), ("g", None));
        let Storage::Etcd(options) = settings.storage else { panic!("{:?}", settings.storage) };
        assert_eq!(options.endpoints, ["http://a:1", "http://b:2"]);
        assert!(settings.warnings[0].ends_with("\"node\" is no setting; did you mean \"nodes\"?"));
        let defaults = of(&[]).unwrap();
        assert_eq!(defaults.listen.to_string(), "[::]:80");
        assert_eq!(defaults.manage.unwrap().addr.to_string(), "127.0.0.1:9611");
        assert!(matches!(defaults.storage, Storage::Local) && defaults.compat);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (arguments, expected) in [
            (vec!["-lissen", ":1"], "flag provided but not defined: -lissen; did you mean -listen?"),
            (vec!["-xff=2"], "invalid boolean value \"2\" for -xff: parse error"),
            (vec!["-listen"], "flag needs an argument: -listen"),
            (vec!["run"], "unexpected argument \"run\": flags begin with a dash"),
            (vec!["-backend", "redis"], "Invalid backend \"redis\": there are local, etcd and etcdv3"),
            (vec!["-listen", "1.2.3.4"], "listen is \"1.2.3.4\": it is ADDRESS:PORT or :PORT"),
            (vec!["-xff", "-trusted_proxies", "a"], "trusted_proxies has \"a\": it is an address or ADDRESS/LENGTH"),
            (vec!["-wait_max", "1y"], "wait_max is \"1y\": it is a time like 500ms, 30s or 10m"),
            (vec!["-manage_cert_file", "a"], "manage_cert_file and manage_key_file go together"),
            (vec!["-version"], "Version"),
        ] {
            assert_eq!(of(&arguments).unwrap_err(), expected, "{arguments:?}");
        }
    }

    #[test]
    fn the_manage_api_is_not_open_to_others_by_mistake() {
        let error = of(&["-listen_manage", "0.0.0.0:9611"]).unwrap_err();
        assert!(error.starts_with("listen_manage is 0.0.0.0:9611, which others can reach"), "{error}");
        assert!(of(&["-listen_manage", "0.0.0.0:9611", "-manage_insecure"]).is_ok());
        assert!(of(&["-listen_manage", "0.0.0.0:9611", "-manage_token_file", "t"]).is_ok());
        assert!(of(&["-listen_manage="]).unwrap().manage.is_none());
        let settings = of(&["-backend=etcd", "-basic_auth", "-username=u", "-password=secret"]).unwrap();
        assert!(!format!("{settings:?}").contains("secret"));
    }

    #[test]
    fn times_are_gos() {
        for (text, milliseconds) in [("100ms", 100), ("1m30s", 90_000), ("1.5s", 1500), ("5", 5000), ("0", 0)] {
            assert_eq!(duration(text), Some(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "s", "1d", "5 s", "25h", "1s5", "-1s"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }
}
