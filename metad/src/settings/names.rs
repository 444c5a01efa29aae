//! The names of settings: flags, and their keys in the file.

use terminal::flags::Kind::{self, Bool, List, Text};

pub(super) struct Flag {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) default: &'static str,
    pub(super) help: &'static str,
    /// On the command line alone.
    pub(super) is_flag_only: bool,
}

const fn flag(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Flag {
    Flag { name, kind, default, help, is_flag_only: false }
}

const fn flag_only(name: &'static str, kind: Kind, help: &'static str) -> Flag {
    Flag { name, kind, default: "", help, is_flag_only: true }
}

/// All flags: those of yunify's metad first, then what is new here. In the file they have the same names.
pub(super) const FLAGS: &[Flag] = &[
    flag_only("version", Bool, "prints the version"),
    flag_only("config", Text, "file of settings, in YAML"),
    flag(
        "backend",
        Text,
        "local",
        "where the data is: local (in memory), etcd or etcdv3 (the v3 API of etcd and Cleat)",
    ),
    flag("nodes", List, "http://127.0.0.1:2379", "endpoint of the store; may be given several times"),
    flag("prefix", Text, "", "prefix of the data's keys"),
    flag("group", Text, "default", "instances of the same group share mappings and rules"),
    flag("listen", Text, ":80", "address of the query API"),
    flag("listen_manage", Text, "127.0.0.1:9611", "address of the manage API; empty for none"),
    flag("xff", Bool, "false", "takes the client from X-Forwarded-For, if a trusted proxy sends it"),
    flag("log_level", Text, "info", "debug, info, warning or error"),
    flag("pid_file", Text, "", "file for the process id"),
    flag("basic_auth", Bool, "false", "signs in to the store with username and password"),
    flag("username", Text, "", "user of the store"),
    flag("password", Text, "", "password of the store; better in a file, see password_file"),
    flag("client_ca_keys", Text, "", "authorities of the store's certificate"),
    flag("client_cert", Text, "", "certificate for the store"),
    flag("client_key", Text, "", "key of client_cert"),
    flag("password_file", Text, "", "file with the password of the store"),
    flag("trusted_proxies", List, "", "networks of proxies whose X-Forwarded-For counts; without it, this machine"),
    flag("compat", Bool, "true", "status codes and waits as yunify's metad has them; false for the right ones"),
    flag("access", Text, "mapping", "what a client without rules may read: mapping (what it is mapped to) or deny"),
    flag(
        "hosts",
        List,
        "",
        "names that clients may call this server; * for any. See the documentation for the default",
    ),
    flag("required_header", Text, "", "header, NAME or NAME=VALUE, that a query must have"),
    flag("session_tokens", Text, "off", "tokens from PUT /token for queries: off, optional or required"),
    flag("token_hop_limit", Text, "1", "routers that the answer with a token may pass; 0 leaves it to the system"),
    flag("token_key_file", Text, "", "secret of the tokens, to share them between instances"),
    flag("manage_token_file", Text, "", "bearer tokens of the manage API, one a line"),
    flag("manage_cert_file", Text, "", "certificate of the manage API, which is https then"),
    flag("manage_key_file", Text, "", "key of manage_cert_file"),
    flag("manage_client_ca", Text, "", "authorities of the certificates that clients of the manage API must have"),
    flag("manage_insecure", Bool, "false", "serves the manage API beyond this machine without tokens and certificates"),
    flag(
        "health_path",
        Text,
        "",
        "path of the query API, such as /health, that tells that metad runs, whatever it has read; empty for none",
    ),
    flag(
        "ready_path",
        Text,
        "",
        "path of the query API, such as /ready, that tells whether metad is ready; empty for none",
    ),
    flag("rate_limit", Text, "0", "queries a second that one source may make; 0 for any"),
    flag("max_waits", Text, "20000", "queries that may wait at a time"),
    flag("max_waits_per_source", Text, "2000", "queries of one source that may wait at a time"),
    flag("max_connections", Text, "25000", "connections at a time"),
    flag("max_connections_per_source", Text, "5000", "connections of one source at a time"),
    flag("max_body", Text, "16777216", "bytes of a body of the manage API"),
    flag("wait_max", Text, "10m", "longest wait, after which the present value is the answer"),
    flag("wait_quiet", Text, "100ms", "time without a change after which a wait for a directory ends"),
    flag("wait_quiet_max", Text, "1s", "time after the first change at which it ends in any case"),
    flag("drain", Text, "5s", "time for requests under way when the process ends"),
    flag("kubernetes", Bool, "false", "pods are clients, and are told about themselves as /self/pod"),
    flag("kubernetes_node", Text, "", "only the pods of this node, for one metad on each"),
    flag("kubernetes_root", Text, "/kubernetes", "directory of the data for pods, with one for each namespace"),
    flag("local_client", Text, "", "address that clients on this machine count as; in a sidecar, the pod's"),
    flag(
        "kubernetes_audience",
        Text,
        "",
        "takes service account tokens of this audience, for pods on their node's network",
    ),
    flag("access_log", Bool, "false", "a line in the log for every request"),
    flag("log_format", Text, "text", "text or json"),
];

pub(super) fn flag_of(name: &str) -> Option<&'static Flag> {
    FLAGS.iter().find(|flag| flag.name == name)
}
