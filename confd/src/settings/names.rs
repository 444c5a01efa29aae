//! The names of settings: flags, their keys in `confd.toml`, and what is said about those that are not there.

use terminal::flags;
use terminal::suggest::nearest;

/// Where the configuration is.
pub(super) const CONFDIR: &str = "/etc/confd";
/// The file that need not exist.
pub(super) const CONFIG_FILE: &str = "/etc/confd/confd.toml";
/// The store, if none is named.
pub(super) const ENDPOINT: &str = "http://127.0.0.1:2379";

/// The same for the v2 API, whose servers had another port once.
pub(super) const V2_ENDPOINTS: [&str; 2] = ["http://127.0.0.1:2379", "http://127.0.0.1:4001"];
/// etcdctl's variable, a list with commas: the nodes of the v2 API if none is named, as in confd.
pub(super) const PEERS: &str = "ETCDCTL_PEERS";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Text,
    /// May be given several times.
    List,
    /// A text for the shell, or in the file a list of words, too.
    Command,
}

impl Kind {
    /// What it is on a command line.
    pub(super) fn of_flag(self) -> flags::Kind {
        match self {
            Self::Bool => flags::Kind::Bool,
            Self::Text | Self::Command => flags::Kind::Text,
            Self::List => flags::Kind::List,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// With what `-h` says.
    Present(&'static str),
    /// Is taken, with a warning that says why it does nothing.
    NoEffect(&'static str),
    /// With the reason of the refusal.
    Absent(&'static str),
}

pub(super) struct Flag {
    pub(super) name: &'static str,
    /// In `confd.toml`; empty where confd has none.
    pub(super) key: &'static str,
    pub(super) kind: Kind,
    pub(super) state: State,
}

const fn flag(name: &'static str, key: &'static str, kind: Kind, help: &'static str) -> Flag {
    Flag { name, key, kind, state: State::Present(help) }
}

const fn absent(name: &'static str, key: &'static str, kind: Kind, reason: &'static str) -> Flag {
    Flag { name, key, kind, state: State::Absent(reason) }
}

const fn no_effect(name: &'static str, key: &'static str, kind: Kind, reason: &'static str) -> Flag {
    Flag { name, key, kind, state: State::NoEffect(reason) }
}

const OTHER_BACKEND: &str =
    "it belongs to a backend that is not here; there are etcdv3, etcd (the v2 API), metad, kubernetes, env and file";
const USE_CHECK: &str = "use confd check, which looks at all settings, resources, templates and commands";
const PARSED_ONCE: &str = "it has no effect: a template is parsed again when it has changed, and only then";
const OWN_TIMES: &str = "it has no effect: the times of this confd are its own, and it tries again until it succeeds";

/// In a layer: the words of a program, beside `exec`.
pub(super) const EXEC_WORDS: &str = "exec-words";
/// In a layer: the backend was named as abtreece's confd has it.
pub(super) const BACKEND_COMMAND: &str = "backend-command";

use Kind::{Bool, Command, List, Text};

/// All flags, those of confd and of its forks among them.
pub(super) const FLAGS: &[Flag] = &[
    flag(
        "backend",
        "backend",
        Text,
        "where keys come from: etcdv3 (the default), etcd (the v2 API), metad, kubernetes, env, file",
    ),
    flag("node", "nodes", List, "endpoint of the store; may be given several times"),
    flag("n", "", List, "the same as -node"),
    flag("confdir", "confdir", Text, "directory with conf.d and templates"),
    flag("config-file", "", Text, "the file of settings"),
    flag(
        "prefix",
        "prefix",
        Text,
        "prefix of all keys, instead of that of each resource; before it with -dialect abtreece",
    ),
    flag("interval", "interval", Text, "seconds between two rounds; with -watch, too, if it is given"),
    flag("onetime", "", Bool, "one round, and then the end"),
    flag("watch", "watch", Bool, "a round whenever a key changes"),
    flag("wait", "wait", Text, "with -watch: MIN[:MAX], how long a change waits for others, as 500ms:2s"),
    flag("debounce", "debounce", Text, "the same as -wait MIN"),
    flag("batch-interval", "batch_interval", Text, "the same as -wait TIME:TIME"),
    flag("check-cmd-timeout", "check_cmd_timeout", Text, "longest time of a check_cmd, 30s by default"),
    flag("reload-cmd-timeout", "reload_cmd_timeout", Text, "longest time of a reload_cmd, 60s by default"),
    flag("noop", "noop", Bool, "shows what would be done and does nothing"),
    flag("diff", "diff", Bool, "with -noop: shows what would change in each file; the end is 2 if anything would"),
    flag("diff-context", "diff_context", Text, "with -diff: lines around a change, 3 by default"),
    flag("color", "color", Bool, "with -diff: colours even where no terminal is"),
    flag("sync-only", "sync-only", Bool, "writes files without check_cmd and reload_cmd"),
    flag("keep-stage-file", "keep_stage_file", Bool, "leaves what was rendered beside its destination"),
    flag("dialect", "dialect", Text, "whose functions templates have: confd, yunify, abtreece"),
    flag("log-level", "log-level", Text, "error, warn, info or debug"),
    flag("log-format", "log-format", Text, "text or json"),
    flag("client-ca-keys", "client_cakeys", Text, "authorities of the store's certificate"),
    flag("client-cert", "client_cert", Text, "certificate for the store"),
    flag("client-key", "client_key", Text, "key of -client-cert"),
    flag("client-insecure", "client_insecure", Bool, "accepts any certificate of the store"),
    flag("basic-auth", "basic_auth", Bool, "asks the store as -username with -password"),
    flag("username", "username", Text, "with -basic-auth: who asks the store"),
    flag("password", "password", Text, "with -basic-auth; better as CONFD_PASSWORD, which no list of processes shows"),
    flag("file", "file", List, "file or directory of the backend file; may be given several times"),
    flag("filter", "filter", Text, "names of files in a directory of the backend file"),
    flag("exec", "exec", Command, "a program to start when all files are there; or its words behind --, at the end"),
    flag(
        "exec-reload-signal",
        "exec_reload_signal",
        Text,
        "tells it of changes: a signal, restart (the default) or none",
    ),
    flag("exec-kill-signal", "exec_kill_signal", Text, "asks it to end: a signal, TERM by default"),
    flag("exec-kill-timeout", "exec_kill_timeout", Text, "time to end then, 30s by default"),
    flag("metrics-addr", "metrics_addr", Text, "address of /health, /ready and /metrics, as 127.0.0.1:9100"),
    flag("failure-mode", "failure_mode", Text, "best-effort: a resource that fails never stops the others"),
    flag("version", "", Bool, "prints the version"),
    absent("srv-domain", "srv_domain", Text, "endpoints are not found by DNS yet; name them with -node"),
    absent("srv-record", "srv_record", Text, "endpoints are not found by DNS yet; name them with -node"),
    no_effect(
        "scheme",
        "scheme",
        Text,
        "it has no effect: it is for endpoints found by DNS; write it before the endpoint, https://host:port",
    ),
    no_effect("template-cache", "template_cache", Bool, PARSED_ONCE),
    no_effect("stat-cache-ttl", "stat_cache_ttl", Text, PARSED_ONCE),
    no_effect("backend-timeout", "backend_timeout", Text, OWN_TIMES),
    no_effect("dial-timeout", "dial_timeout", Text, OWN_TIMES),
    no_effect("read-timeout", "read_timeout", Text, OWN_TIMES),
    no_effect("write-timeout", "write_timeout", Text, OWN_TIMES),
    no_effect("retry-max-attempts", "retry_max_attempts", Text, OWN_TIMES),
    no_effect("retry-base-delay", "retry_base_delay", Text, OWN_TIMES),
    no_effect("retry-max-delay", "retry_max_delay", Text, OWN_TIMES),
    no_effect("watch-error-backoff", "watch_error_backoff", Text, OWN_TIMES),
    no_effect("preflight-timeout", "preflight_timeout", Text, OWN_TIMES),
    no_effect("shutdown-timeout", "shutdown_timeout", Text, OWN_TIMES),
    absent("check-config", "", Bool, USE_CHECK),
    absent("validate", "", Bool, USE_CHECK),
    absent("mock-data", "", Text, USE_CHECK),
    absent("resource", "", Text, USE_CHECK),
    absent("preflight", "", Bool, "use -onetime -noop, which asks the store for every key and writes nothing"),
    absent("auth-token", "auth_token", Text, OTHER_BACKEND),
    absent("auth-type", "auth_type", Text, OTHER_BACKEND),
    absent("app-id", "app_id", Text, OTHER_BACKEND),
    absent("user-id", "user_id", Text, OTHER_BACKEND),
    absent("role-id", "role_id", Text, OTHER_BACKEND),
    absent("secret-id", "secret_id", Text, OTHER_BACKEND),
    absent("path", "path", Text, OTHER_BACKEND),
    absent("table", "table", Text, OTHER_BACKEND),
    absent("separator", "separator", Text, OTHER_BACKEND),
    absent("secret-keyring", "", Text, "encrypted values (cget and others) are not supported"),
    absent("systemd-notify", "systemd_notify", Bool, "it needs no flag: it is done whenever NOTIFY_SOCKET is set"),
];

pub(super) fn flag_of(name: &str) -> Option<&'static Flag> {
    FLAGS.iter().find(|flag| flag.name == name)
}

/// Backends that are here.
const BACKENDS: [&str; 7] = ["etcd", "etcdv2", "etcdv3", "metad", "kubernetes", "env", "file"];
/// Backends of confd and its forks that are not.
const OTHER_BACKENDS: [&str; 11] = [
    "consul",
    "vault",
    "redis",
    "zookeeper",
    "dynamodb",
    "ssm",
    "rancher",
    "stackengine",
    "acm",
    "secretsmanager",
    "imds",
];

/// True for the name of any backend.
pub(super) fn is_backend(name: &str) -> bool {
    BACKENDS.contains(&name) || OTHER_BACKENDS.contains(&name)
}

pub(super) fn no_such_backend(name: &str) -> String {
    if name == "kubernetes" {
        return "the backend kubernetes is not in this build: build confd with the feature kubernetes".to_owned();
    }
    if OTHER_BACKENDS.contains(&name) {
        return format!(
            "the backend {name:?} is not here; there are etcdv3, etcd (the v2 API), metad, kubernetes, env and file"
        );
    }
    let hint = nearest(name, BACKENDS.into_iter());
    let hint = hint.map_or_else(String::new, |hint| format!("; did you mean {hint:?}?"));
    format!("Invalid backend {name:?}: there are etcdv3, etcd (the v2 API), metad, kubernetes, env and file{hint}")
}
