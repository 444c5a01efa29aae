//! What confd is asked to do: flags, over the environment, over `confd.toml`, over defaults.
//!
//! Each layer is read into named texts by its own rules (`flags.rs`, `file.rs`), and [`Settings::from_layers`]
//! is the only place where they become values. A name that confd knows and this program does not have is refused, never
//! ignored.

mod file;
mod flags;
mod names;

pub use flags::{USAGE, help};

use crate::command::{self, CommandLine};
use crate::exec::{self, Program, SignalName};
use crate::functions::Dialect;
use crate::wait::{self, Wait};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use terminal::flags::{Values as Layer, parse_bool};

/// The environment's name of the store's password.
pub(crate) const PASSWORD: &str = "CONFD_PASSWORD";

/// Where keys come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// The v3 API of etcd or Cleat.
    Etcd,
    /// Their v2 API.
    EtcdV2,
    /// A metadata proxy of yunify's protocol.
    Metad,
    /// `ConfigMaps` and `Secrets` of Kubernetes.
    #[cfg(feature = "kubernetes")]
    Kubernetes,
    /// This process's environment.
    Env,
    /// Files of YAML, JSON or TOML.
    File,
}

impl Backend {
    /// True if it is asked over the network.
    fn is_remote(self) -> bool {
        !matches!(self, Self::Env | Self::File)
    }
}

/// What is done with the resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Once, and then the process ends.
    Onetime,
    /// Again and again, with this pause.
    Interval(Duration),
    /// Whenever a key changes; and everything again and again, if there is a pause.
    Watch(Option<Duration>),
}

/// Everything that is decided before the first resource is read. Its Debug output has no password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where keys come from.
    pub backend: Backend,
    /// Endpoints of the store.
    pub nodes: Vec<String>,
    /// Directory of `conf.d` and `templates`.
    pub confdir: PathBuf,
    /// Instead of the prefix of every resource, if it is not empty.
    pub prefix: String,
    /// Once, in intervals, or on changes.
    pub mode: Mode,
    /// Writes and runs nothing.
    pub noop: bool,
    /// With `noop`: shows what would change.
    pub diff: bool,
    /// Writes files, and runs no command.
    pub sync_only: bool,
    /// Leaves what was rendered beside the destination.
    pub keep_stage_file: bool,
    /// Least severe lines that are logged.
    pub log_level: String,
    /// One JSON object a line, instead of confd's lines.
    pub json_log: bool,
    /// Certificates for the store.
    pub tls: Option<client::TlsOptions>,
    /// Who asks the store.
    pub user: Option<client::User>,
    /// Files of the backend `file`.
    pub files: Vec<PathBuf>,
    /// Names of files in directories of the backend `file`.
    pub filter: String,
    /// Lines around a change in it.
    pub diff_context: usize,
    /// True for colours in it even where no terminal is.
    pub color: bool,
    /// Longest time of a check command that does not say.
    pub check_timeout: Duration,
    /// Longest time of a reload command that does not say.
    pub reload_timeout: Duration,
    /// Quiet time that a change waits for, in watch mode.
    pub wait: Wait,
    /// Whose functions templates have, unless the resource says otherwise.
    pub dialect: Dialect,
    /// A program that is started when the files are there.
    pub program: Option<Program>,
    /// Where health and metrics are shown.
    pub metrics_addr: Option<SocketAddr>,
    /// What has no effect.
    pub warnings: Vec<String>,
}

/// What a command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// To keep files up to date.
    Run(Settings),
    /// To check the configuration.
    Check(Settings),
    /// To print the version.
    Version,
    /// To print the flags.
    Help,
}

/// A command line, environment or file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The command line is wrong. Go's programs end with 2 then.
    #[error("{0}")]
    Flag(String),
    /// A value or the file is wrong.
    #[error("{0}")]
    Value(String),
}

impl Settings {
    /// Reads all layers. `arguments` are without the program's name.
    ///
    /// # Errors
    /// [`SettingsError`] names the flag, variable or line, and what is right.
    pub fn parse(arguments: &[String], environment: &BTreeMap<String, String>) -> Result<Request, SettingsError> {
        let (command, arguments) = match arguments.split_first() {
            Some((first, rest)) if first == "check" => ("check", rest),
            _ => ("", arguments),
        };
        let Some(flags) = flags::parse(arguments)? else { return Ok(Request::Help) };
        if flags.contains_key("version") {
            return Ok(Request::Version);
        }
        let variables = from_environment(environment);
        let path = |layer: &Layer| layer.get("config-file").and_then(|values| values.last()).cloned();
        let config_file = path(&flags).or_else(|| path(&variables)).unwrap_or_else(|| names::CONFIG_FILE.to_owned());
        let mut warnings = Vec::new();
        let file = file::read(config_file.as_ref(), &mut warnings).map_err(SettingsError::Value)?;
        let peers = environment.get(names::PEERS).map(String::as_str).unwrap_or_default();
        let mut settings = Self::from_layers(&[flags, variables, file], peers).map_err(SettingsError::Value)?;
        settings.warnings.extend(warnings);
        Ok(if command == "check" { Request::Check(settings) } else { Request::Run(settings) })
    }

    /// The first layer that has a name decides. `peers` are endpoints of the v2 API if no layer has any.
    fn from_layers(layers: &[Layer], peers: &str) -> Result<Self, String> {
        let all = |name: &str| layers.iter().find_map(|layer| layer.get(name)).cloned().unwrap_or_default();
        let one = |name: &str| all(name).pop().unwrap_or_default();
        let is_on = |name: &str| match one(name).as_str() {
            "" => Ok(false),
            text => parse_bool(text).ok_or_else(|| format!("-{name} is {text:?}: it is true or false")),
        };
        let backend = match one("backend").as_str() {
            "" | "etcdv3" => Backend::Etcd,
            "etcd" | "etcdv2" => Backend::EtcdV2,
            "metad" => Backend::Metad,
            #[cfg(feature = "kubernetes")]
            "kubernetes" => Backend::Kubernetes,
            "env" => Backend::Env,
            "file" => Backend::File,
            other => return Err(names::no_such_backend(other)),
        };
        refuse_absent(layers)?;
        let mut warnings = without_effect(layers);
        let user = user(is_on("basic-auth")?, backend, one("username"), one("password"), &mut warnings)?;
        let or =
            |name: &str, default: &str| Some(one(name)).filter(|text| !text.is_empty()).unwrap_or(default.to_owned());
        let settings = Self {
            backend,
            nodes: all("node"),
            confdir: or("confdir", names::CONFDIR).into(),
            prefix: one("prefix"),
            mode: mode(&one("interval"), is_on("onetime")?, is_on("watch")?)?,
            noop: is_on("noop")?,
            diff: is_on("diff")?,
            sync_only: is_on("sync-only")?,
            keep_stage_file: is_on("keep-stage-file")?,
            log_level: log_level(&one("log-level"))?,
            json_log: match one("log-format").as_str() {
                "" | "text" => false,
                "json" => true,
                other => return Err(format!("-log-format is {other:?}: it is text or json")),
            },
            tls: tls(&one)?.filter(|_| backend.is_remote()),
            user,
            files: all("file").into_iter().map(PathBuf::from).collect(),
            filter: or("filter", "*"),
            diff_context: match one("diff-context").as_str() {
                "" => 3,
                text => text.parse().map_err(|_| format!("-diff-context is {text:?}: it is a number of lines"))?,
            },
            color: is_on("color")?,
            check_timeout: timeout(&one, "check-cmd-timeout", command::CHECK_TIMEOUT)?,
            reload_timeout: timeout(&one, "reload-cmd-timeout", command::RELOAD_TIMEOUT)?,
            wait: wait_of(&one)?,
            dialect: dialect(layers, &one("dialect"))?,
            program: program(layers, &one)?,
            metrics_addr: metrics_addr(&one("metrics-addr"))?,
            warnings,
        };
        settings.check(is_on("client-insecure")?, peers)
    }

    fn check(mut self, insecure: bool, peers: &str) -> Result<Self, String> {
        if let Some(tls) = &mut self.tls {
            tls.insecure_skip_verify = insecure;
        } else if insecure && self.backend.is_remote() {
            self.tls = Some(client::TlsOptions { insecure_skip_verify: true, ..Default::default() });
        }
        if self.diff && !self.noop {
            return Err("-diff goes with -noop: it shows what would change".into());
        }
        if self.program.is_some() && (self.noop || self.mode == Mode::Onetime) {
            return Err("-exec goes with -watch or -interval: it keeps a program running".into());
        }
        if self.backend == Backend::File && self.files.is_empty() {
            return Err("the backend file needs -file".into());
        }
        if self.nodes.is_empty() {
            self.nodes = match self.backend {
                Backend::Etcd => vec![names::ENDPOINT.to_owned()],
                Backend::EtcdV2 if !peers.is_empty() => peers.split(',').map(str::to_owned).collect(),
                Backend::EtcdV2 => names::V2_ENDPOINTS.map(str::to_owned).to_vec(),
                Backend::Metad => return Err("the backend metad needs -node".into()),
                Backend::Env | Backend::File => Vec::new(),
                // Where its own configuration says.
                #[cfg(feature = "kubernetes")]
                Backend::Kubernetes => Vec::new(),
            };
        }
        Ok(self)
    }
}

fn mode(interval: &str, onetime: bool, watch: bool) -> Result<Mode, String> {
    let seconds = match interval {
        "" => 600,
        text => text
            .parse()
            .ok()
            .filter(|&seconds: &u64| seconds > 0)
            .ok_or_else(|| format!("-interval is {text:?}: it is a number of seconds, at least 1"))?,
    };
    let interval_or_none = Some(Duration::from_secs(seconds)).filter(|_| !interval.is_empty());
    Ok(match (onetime, watch) {
        (true, _) => Mode::Onetime,
        // confd has an interval always; only one that was asked for is meant to be used with a watch.
        (false, true) => Mode::Watch(interval_or_none),
        (false, false) => Mode::Interval(Duration::from_secs(seconds)),
    })
}

/// The dialect of a name; without one abtreece's, if the backend was named as abtreece's confd has it.
fn dialect(layers: &[Layer], name: &str) -> Result<Dialect, String> {
    match name {
        "" if layers.iter().any(|layer| layer.contains_key(names::BACKEND_COMMAND)) => Ok(Dialect::Abtreece),
        "" => Ok(Dialect::default()),
        name => name.parse().map_err(|error| format!("-dialect: {error}")),
    }
}

/// confd's levels as `tracing` calls them.
fn log_level(level: &str) -> Result<String, String> {
    Ok(match level {
        "" | "info" => "info",
        "panic" | "fatal" | "error" => "error",
        "warn" | "warning" => "warn",
        "debug" => "debug",
        "trace" => "trace",
        other => return Err(format!("not a valid level: {other:?}; it is one of error, warn, info, debug")),
    }
    .to_owned())
}

/// The program of the first layer that has one: words behind `--`, a list in the file, or a text for the shell.
fn program(layers: &[Layer], one: &dyn Fn(&str) -> String) -> Result<Option<Program>, String> {
    let line = layers.iter().find_map(|layer| match (layer.get(names::EXEC_WORDS), layer.get("exec")?.last()) {
        (Some(words), _) => Some(CommandLine::list(words.clone())),
        (None, text) => text.map(|text| CommandLine::shell(text.clone())),
    });
    let Some(line) = line.filter(|line| !line.is_empty()) else { return Ok(None) };
    let signal = one("exec-kill-signal");
    let timeout = one("exec-kill-timeout");
    Ok(Some(Program {
        line,
        on_change: one("exec-reload-signal").parse().map_err(|error| format!("-exec-reload-signal: {error}"))?,
        kill_signal: match signal.as_str() {
            "" => SignalName::TERM,
            name => name.parse().map_err(|error| format!("-exec-kill-signal: {error}"))?,
        },
        kill_timeout: match timeout.as_str() {
            "" => exec::KILL_TIMEOUT,
            text => wait::duration(text).map_err(|error| format!("-exec-kill-timeout: {error}"))?,
        },
    }))
}

/// A time that a setting may give.
fn timeout(one: &dyn Fn(&str) -> String, name: &str, default: Duration) -> Result<Duration, String> {
    match one(name).as_str() {
        "" => Ok(default),
        text => wait::duration(text).map_err(|error| format!("-{name}: {error}")),
    }
}

/// What `-wait` says, or the settings of abtreece's confd that mean it.
fn wait_of(one: &dyn Fn(&str) -> String) -> Result<Wait, String> {
    let (wait, debounce, batch) = (one("wait"), one("debounce"), one("batch-interval"));
    let (name, text) = match (wait.is_empty(), debounce.is_empty(), batch.is_empty()) {
        (false, ..) | (_, true, true) => ("wait", wait),
        (_, false, _) => ("debounce", debounce),
        _ => ("batch-interval", format!("{batch}:{batch}")),
    };
    text.parse().map_err(|error| format!("-{name}: {error}"))
}

/// `host:port`, or `:port` for every address as Go has it.
fn metrics_addr(text: &str) -> Result<Option<SocketAddr>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let full = if text.starts_with(':') { format!("[::]{text}") } else { text.replacen("localhost:", "127.0.0.1:", 1) };
    let wrong =
        |_| format!("-metrics-addr is {text:?}: it is ADDRESS:PORT, as 127.0.0.1:9100, or :PORT for every address");
    full.parse().map(Some).map_err(wrong)
}

/// As in confd, name and password count only with `-basic-auth`.
fn user(
    basic_auth: bool,
    backend: Backend,
    name: String,
    password: String,
    warnings: &mut Vec<String>,
) -> Result<Option<client::User>, String> {
    match (basic_auth, backend) {
        (false, _) if name.is_empty() && password.is_empty() => Ok(None),
        (false, _) => {
            warnings.push("-username and -password have no effect without -basic-auth".to_owned());
            Ok(None)
        }
        (true, _) if name.is_empty() => Err("-basic-auth needs -username, and the password as -password or \
                                             in the environment as CONFD_PASSWORD"
            .to_owned()),
        (true, Backend::Etcd | Backend::EtcdV2) => Ok(Some(client::User { name, password })),
        (true, _) => {
            warnings.push("-basic-auth has no effect: this backend knows no users".to_owned());
            Ok(None)
        }
    }
}

fn tls(one: &dyn Fn(&str) -> String) -> Result<Option<client::TlsOptions>, String> {
    let path = |name: &str| Some(one(name)).filter(|text| !text.is_empty()).map(PathBuf::from);
    let (ca_file, cert_file, key_file) = (path("client-ca-keys"), path("client-cert"), path("client-key"));
    if cert_file.is_some() != key_file.is_some() {
        return Err("-client-cert and -client-key go together".to_owned());
    }
    let is_used = ca_file.is_some() || cert_file.is_some();
    Ok(is_used.then(|| client::TlsOptions { ca_file, cert_file, key_file, ..Default::default() }))
}

/// `CONFD_LOG_LEVEL` is `-log-level`, and so on; and the names that confd has had always.
fn from_environment(environment: &BTreeMap<String, String>) -> Layer {
    let mut layer = Layer::new();
    let mut set = |name: &'static str, variable: &str| {
        if let Some(value) = environment.get(variable).filter(|value| !value.is_empty()) {
            let is_list = names::flag_of(name).is_some_and(|flag| flag.kind == names::Kind::List);
            let values = if is_list { value.split(',').map(str::to_owned).collect() } else { vec![value.clone()] };
            layer.entry(name).or_insert(values);
        }
    };
    for flag in names::FLAGS {
        set(flag.name, &format!("CONFD_{}", flag.name.to_uppercase().replace('-', "_")));
    }
    set("client-ca-keys", "CONFD_CLIENT_CAKEYS");
    layer
}

/// What is said about names that are set and do nothing.
fn without_effect(layers: &[Layer]) -> Vec<String> {
    let is_set =
        |name: &str| layers.iter().filter_map(|layer| layer.get(name)).flatten().any(|value| !value.is_empty());
    let warning = |flag: &names::Flag| match flag.state {
        names::State::NoEffect(reason) if is_set(flag.name) => Some(format!("-{}: {reason}", flag.name)),
        _ => None,
    };
    names::FLAGS.iter().filter_map(warning).collect()
}

/// Names of confd that this program does not have: what they would do must not be missed silently.
fn refuse_absent(layers: &[Layer]) -> Result<(), String> {
    for layer in layers {
        if let Some(mode) = layer.get("failure-mode").and_then(|values| values.last())
            && mode != "best-effort"
        {
            return Err(format!(
                "-failure-mode is {mode:?}: it is best-effort, a resource that fails never stops the others"
            ));
        }
        for (name, values) in layer {
            let Some(flag) = names::flag_of(name) else { continue };
            let is_set = values.iter().any(|value| !value.is_empty() && parse_bool(value) != Some(false));
            if let (names::State::Absent(reason), true) = (flag.state, is_set) {
                return Err(format!("-{name}: {reason}"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The nodes of a command line with `ETCDCTL_PEERS`, `CONFD_NODE` and a file.
    fn nodes(arguments: &[&str], node: &str, file: &str) -> Result<Vec<String>, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("confd.toml");
        std::fs::write(&path, file).unwrap();
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let variables = [("ETCDCTL_PEERS", "peer:1,peer:2"), ("CONFD_NODE", node)];
        let mut environment: BTreeMap<String, String> =
            variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        environment.insert("CONFD_CONFIG_FILE".to_owned(), path.display().to_string());
        match Settings::parse(&arguments, &environment) {
            Ok(Request::Run(settings)) => Ok(settings.nodes),
            Ok(other) => Err(format!("{other:?}")),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn etcdctls_variable_is_for_the_v2_api_without_a_node() {
        let (v2, file) = (["-backend", "etcd"], "nodes = ['file:1']");
        let of = |nodes: &[&str]| Ok::<_, String>(nodes.iter().map(|&node| node.to_owned()).collect::<Vec<_>>());
        assert_eq!(nodes(&v2, "", ""), of(&["peer:1", "peer:2"]));
        assert_eq!(nodes(&v2, "", file), of(&["file:1"]));
        assert_eq!(nodes(&v2, "variable:1", file), of(&["variable:1"]));
        assert_eq!(nodes(&[v2[0], v2[1], "-node", "flag:1"], "", ""), of(&["flag:1"]));
        assert_eq!(nodes(&[], "", ""), of(&[names::ENDPOINT]));
        assert_eq!(nodes(&["-backend", "metad"], "", ""), Err("the backend metad needs -node".to_owned()));
        assert_eq!(nodes(&["-backend", "env"], "", ""), of(&[]));
    }
}
