//! The table of every flag: name, kind, default, what this release does with it, and help.
//!
//! The one source for the parser, the environment, the configuration file, `--help` and the "not supported yet"
//! check. Adding a flag is adding a row here and reading it in `settings`.

use Kind::{Bool, Duration, I64, OneOf, Text, U32, U64, Urls};
use Support::{Ignored, Silent, Unsupported, Used};

/// How a flag's text is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    U32,
    U64,
    I64,
    /// Go's form; a whole number in a file is nanoseconds.
    Duration,
    Text,
    Urls,
    OneOf(&'static [&'static str]),
}

/// What this release does with a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Support {
    /// Acted on.
    Used,
    /// Its meaning holds whatever the value is, so it is accepted without a word.
    Silent,
    /// Accepted with a warning that gives this reason, when set to another value than the default.
    Ignored(&'static str),
    /// Refused when set to another value than the default.
    Unsupported,
}

/// One flag.
#[derive(Debug)]
pub(super) struct Flag {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) default: &'static str,
    pub(super) support: Support,
    pub(super) help: &'static str,
}

const fn flag(name: &'static str, kind: Kind, default: &'static str, support: Support, help: &'static str) -> Flag {
    Flag { name, kind, default, support, help }
}

pub(super) const NO_BBOLT: Support = Ignored("the storage engine is not bbolt");
const RAFT_DEADLINES: Support = Ignored("deadlines between members follow --election-timeout");
const ELECTS_IN_TIME: Support = Ignored("the first election waits no longer than any other");
const CHECKPOINTS_LEASES: Support = Ignored("the remaining time of leases is always checkpointed");
pub(super) const DEFRAGMENTS_ONLINE: Support = Ignored("defragmentation does not stop the service");
const NO_SELF_CLIENT: Support = Ignored("a member does not connect to its own client URLs");
const WAL_IS_RECYCLED: Support = Ignored("log segments are recycled as soon as no member needs them");

/// All flags by group, in the order of `--help`.
pub(super) const GROUPS: &[(&str, &[Flag])] = &[
    ("Member", MEMBER),
    ("Clustering", CLUSTERING),
    ("Limits", LIMITS),
    ("Compaction and watch", COMPACTION),
    ("Monitoring", MONITORING),
    ("Logging", LOGGING),
    ("Security", SECURITY),
    ("Discovery", DISCOVERY),
    ("Unsafe", UNSAFE),
    ("Accepted for compatibility", COMPATIBILITY),
];

const MEMBER: &[Flag] = &[
    flag("name", Text, "default", Used, "Name of this member."),
    flag("data-dir", Text, "", Used, "Data directory; without it, <name>.cleat in the working directory."),
    flag("wal-dir", Text, "", Used, "Directory of the write-ahead log, to put it on another disk."),
    flag(
        "listen-client-urls",
        Urls,
        "http://localhost:2379",
        Used,
        "Where to serve clients: gRPC and HTTP on one port.",
    ),
    flag(
        "listen-client-http-urls",
        Urls,
        "",
        Used,
        "Where to serve HTTP only; the other client URLs then serve gRPC only.",
    ),
    flag("listen-peer-urls", Urls, "http://localhost:2380", Used, "Where to serve other members."),
    flag("heartbeat-interval", U64, "100", Used, "Milliseconds between heartbeats of the leader."),
    flag("election-timeout", U64, "1000", Used, "Milliseconds without a leader before an election."),
    flag("snapshot-count", U64, "100000", Used, "Applied entries between snapshots of the log."),
    flag(
        "backend-batch-interval",
        Duration,
        "0s",
        Used,
        "Longest time until changes reach the store file; 0s means 100ms.",
    ),
    flag(
        "backend-batch-limit",
        I64,
        "0",
        Ignored("a flush takes everything that was applied; --backend-batch-interval sets how often"),
        "Most changes until they are written to the store file; 0 means 10000.",
    ),
    flag("config-file", Text, "", Used, "YAML file of settings; flags and environment win over it."),
];

const CLUSTERING: &[Flag] = &[
    flag(
        "advertise-client-urls",
        Urls,
        "http://localhost:2379",
        Used,
        "Client URLs that other members and clients are told.",
    ),
    flag(
        "initial-advertise-peer-urls",
        Urls,
        "http://localhost:2380",
        Used,
        "Peer URLs that other members are told at the first start.",
    ),
    flag("initial-cluster", Text, "", Used, "Members of a new cluster, name=url,...; without it, this member alone."),
    flag(
        "initial-cluster-state",
        OneOf(&["new", "existing", "auto"]),
        "new",
        Used,
        "Start a new cluster or join one; only an empty data directory asks. With auto the other members decide.",
    ),
    flag(
        "initial-cluster-token",
        Text,
        "etcd-cluster",
        Used,
        "Tells clusters apart: part of the cluster and member ids.",
    ),
    flag(
        "initial-cluster-id-file",
        Text,
        "",
        Used,
        "With auto: while this file holds a cluster id, no new cluster is founded.",
    ),
    flag(
        "join-token-file",
        Text,
        "",
        Used,
        "File of the secret that members show who join by themselves; without it, peer certificates count.",
    ),
    flag("strict-reconfig-check", Bool, "true", Used, "Refuse membership changes that would lose the quorum."),
    flag("pre-vote", Bool, "true", Used, "Ask before an election whether it could be won."),
    flag("max-learners", U32, "1", Used, "Most learners in the cluster."),
];

const LIMITS: &[Flag] = &[
    flag(
        "quota-backend-bytes",
        I64,
        "0",
        Used,
        "Size of the store that raises the NOSPACE alarm; 0 means 2 GiB, negative means no limit.",
    ),
    flag("max-txn-ops", U32, "128", Used, "Most operations in one transaction."),
    flag("max-request-bytes", U32, "1572864", Used, "Largest request."),
    flag("max-concurrent-streams", U32, "4294967295", Used, "Most concurrent streams of one connection."),
    flag(
        "user-rate-limit",
        U32,
        "0",
        Used,
        "Most requests a second of one user, or of one address without a user; 0 means no limit.",
    ),
    flag(
        "user-rate-limit-burst",
        U32,
        "0",
        Used,
        "Most of these requests at once after a pause; 0 means those of a second.",
    ),
    flag(
        "grpc-keepalive-min-time",
        Duration,
        "5s",
        Ignored("how often clients may ping is not limited"),
        "Shortest time between pings of a client.",
    ),
    flag(
        "grpc-keepalive-interval",
        Duration,
        "2h0m0s",
        Used,
        "Ping a client after this much silence; 0s for this or the timeout means never.",
    ),
    flag(
        "grpc-keepalive-timeout",
        Duration,
        "20s",
        Used,
        "Close a connection whose ping is not answered in this time.",
    ),
    flag("socket-reuse-port", Bool, "false", Used, "Bind listeners with SO_REUSEPORT."),
    flag("socket-reuse-address", Bool, "false", Silent, "Bind listeners with SO_REUSEADDR (always done)."),
];

const COMPACTION: &[Flag] = &[
    flag(
        "auto-compaction-mode",
        OneOf(&["periodic", "revision"]),
        "periodic",
        Used,
        "What auto-compaction-retention counts: time or revisions.",
    ),
    flag(
        "auto-compaction-retention",
        Text,
        "0",
        Used,
        "History to keep: a duration or whole hours, or a number of revisions; 0 means all.",
    ),
    flag("compaction-batch-limit", U32, "1000", Used, "Most revisions removed in one step."),
    flag("compaction-sleep-interval", Duration, "10ms", Used, "Pause between steps."),
    flag(
        "watch-progress-notify-interval",
        Duration,
        "10m0s",
        Used,
        "How often idle watchers that asked for it hear the revision.",
    ),
];

const MONITORING: &[Flag] = &[
    flag("metrics", OneOf(&["basic", "extensive"]), "basic", Used, "extensive adds a latency histogram for every RPC."),
    flag("listen-metrics-urls", Urls, "", Used, "Where to serve /metrics and the health endpoints only."),
    flag("warning-apply-duration", Duration, "100ms", Used, "Warn about requests that take longer to apply."),
    flag("warning-unary-request-duration", Duration, "300ms", Used, "Warn about requests that take longer altogether."),
    flag("enable-pprof", Bool, "false", Unsupported, "Serve profiling data."),
    flag("enable-distributed-tracing", Bool, "false", Used, "Send traces to an OpenTelemetry collector."),
    flag("distributed-tracing-address", Text, "localhost:4317", Used, "Address of the collector: OTLP over gRPC."),
    flag("distributed-tracing-service-name", Text, "etcd", Used, "Service name in traces."),
    flag("distributed-tracing-instance-id", Text, "", Used, "Instance id in traces."),
    flag(
        "distributed-tracing-sampling-rate",
        U32,
        "0",
        Used,
        "Of a million requests that are part of no trace, how many begin one; who calls decides about the others.",
    ),
    flag(
        "corrupt-check-time",
        Duration,
        "12h0m0s",
        Used,
        "How often the leader compares the members' data; 0s means never.",
    ),
    flag(
        "compact-hash-check-time",
        Duration,
        "1m0s",
        Used,
        "How often the leader looks for a compaction after which to compare the members' data.",
    ),
    flag("experimental-compact-hash-check-enabled", Bool, "true", Used, "Compare the members' data after compactions."),
    flag(
        "experimental-initial-corrupt-check",
        Bool,
        "true",
        Used,
        "Compare this member's data with the others' before it serves.",
    ),
];

const LOGGING: &[Flag] = &[
    flag(
        "log-level",
        OneOf(&["debug", "info", "warn", "error", "panic", "fatal"]),
        "info",
        Used,
        "Least severe level to write.",
    ),
    flag("log-format", OneOf(&["json", "console"]), "json", Used, "Without any log flag, a terminal gets console."),
    flag("log-outputs", Text, "default", Used, "stdout, stderr or files, separated by commas; default means stderr."),
    flag("logger", OneOf(&["zap"]), "zap", Silent, "Shape of the log lines."),
    flag("enable-log-rotation", Bool, "false", Unsupported, "Rotate the log file."),
    flag(
        "log-rotation-config-json",
        Text,
        r#"{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}"#,
        Silent,
        "How to rotate it.",
    ),
    flag(
        "audit-log-outputs",
        Text,
        "",
        Used,
        "Record who changed what: stderr, stdout or files, separated by commas; without it, nothing.",
    ),
    flag("audit-log-max-megabytes", U32, "100", Used, "Size at which an audit log file is put aside."),
    flag("audit-log-max-files", U32, "10", Used, "Audit log files put aside that are kept."),
    flag("audit-log-required", Bool, "false", Used, "Refuse changes while the audit log cannot be written."),
];

const SECURITY: &[Flag] = &[
    flag(
        "cert-file",
        Text,
        "",
        Used,
        "Certificate for clients (PEM, with the intermediate ones); read again when it changes, like all files here.",
    ),
    flag("key-file", Text, "", Used, "Its key."),
    flag("client-cert-auth", Bool, "false", Used, "Require client certificates; --trusted-ca-file alone does so, too."),
    flag("client-cert-file", Text, "", NO_SELF_CLIENT, "Certificate when acting as a client of itself."),
    flag("client-key-file", Text, "", NO_SELF_CLIENT, "Its key."),
    flag("client-crl-file", Text, "", Used, "Revoked client certificates."),
    flag("client-cert-allowed-hostname", Text, "", Used, "Host names that client certificates may carry."),
    flag("trusted-ca-file", Text, "", Used, "CA of client certificates."),
    flag("auto-tls", Bool, "false", Used, "Generate the certificate."),
    flag("peer-cert-file", Text, "", Used, "Certificate for peers."),
    flag("peer-key-file", Text, "", Used, "Its key."),
    flag(
        "peer-client-cert-auth",
        Bool,
        "false",
        Used,
        "Require peer certificates; --peer-trusted-ca-file alone does so, too.",
    ),
    flag("peer-client-cert-file", Text, "", Used, "Certificate when connecting to peers."),
    flag("peer-client-key-file", Text, "", Used, "Its key."),
    flag("peer-crl-file", Text, "", Used, "Revoked peer certificates."),
    flag("peer-cert-allowed-cn", Text, "", Used, "Common names that peers may have."),
    flag("peer-cert-allowed-hostname", Text, "", Used, "Host names that peer certificates may carry."),
    flag("peer-skip-client-san-verification", Bool, "false", Used, "Do not check the names of connecting peers."),
    flag("peer-trusted-ca-file", Text, "", Used, "CA of peer certificates."),
    flag("peer-auto-tls", Bool, "false", Used, "Generate the peer certificate."),
    flag("self-signed-cert-validity", U32, "1", Used, "Years that generated certificates are valid."),
    flag(
        "cipher-suites",
        Text,
        "",
        Used,
        "Cipher suites of TLS 1.2, separated by commas; without it, all that are known.",
    ),
    flag("tls-min-version", OneOf(&["", "TLS1.2", "TLS1.3"]), "TLS1.2", Used, "Oldest TLS version."),
    flag("tls-max-version", OneOf(&["", "TLS1.2", "TLS1.3"]), "", Used, "Newest TLS version."),
    flag(
        "auth-token",
        Text,
        "simple",
        Used,
        "Tokens: simple, or jwt,sign-method=RS256,priv-key=FILE,pub-key=FILE,ttl=5m (RS, PS and HS 256 to 512, ES256, \
         ES384, EdDSA).",
    ),
    flag("auth-token-ttl", U32, "300", Used, "Seconds that a simple token lives after it was used last."),
    flag("bcrypt-cost", U32, "10", Used, "Cost of the hashes of new passwords, 4 to 31."),
    flag("cors", Text, "*", Used, "Origins that browsers may call from; * means all."),
    flag("host-whitelist", Text, "*", Used, "Host names that HTTP requests may carry; * means all."),
];

const DISCOVERY: &[Flag] = &[
    flag("discovery", Text, "", Used, "Discovery URL."),
    flag("discovery-fallback", OneOf(&["exit", "proxy"]), "proxy", Silent, "What to do when discovery fails."),
    flag("discovery-proxy", Text, "", Used, "HTTP proxy to reach it."),
    flag("discovery-srv", Text, "", Used, "DNS domain of SRV records."),
    flag("discovery-srv-name", Text, "", Used, "Suffix of the SRV service name."),
    flag("discovery-token", Text, "", Used, "Token of v3 discovery."),
    flag("discovery-endpoints", Text, "", Used, "Endpoints of v3 discovery."),
    flag("discovery-dial-timeout", Duration, "2s", Used, "Time to connect."),
    flag("discovery-request-timeout", Duration, "5s", Used, "Time for one request."),
    flag("discovery-keepalive-time", Duration, "2s", Used, "Keepalive interval."),
    flag("discovery-keepalive-timeout", Duration, "6s", Used, "Keepalive timeout."),
    flag("discovery-insecure-transport", Bool, "true", Used, "Connect without TLS."),
    flag("discovery-insecure-skip-tls-verify", Bool, "false", Used, "Do not check the certificate."),
    flag("discovery-cert", Text, "", Used, "Client certificate."),
    flag("discovery-key", Text, "", Used, "Its key."),
    flag("discovery-cacert", Text, "", Used, "CA of the discovery service."),
    flag("discovery-user", Text, "", Used, "User name."),
    flag("discovery-password", Text, "", Used, "Password."),
];

const UNSAFE: &[Flag] = &[
    flag(
        "unsafe-no-fsync",
        Bool,
        "false",
        Used,
        "Do not wait for the disk: a crash loses acknowledged writes. For tests.",
    ),
    flag("force-new-cluster", Bool, "false", Used, "Make this member the only one of its cluster."),
];

const COMPATIBILITY: &[Flag] = &[
    flag("feature-gates", Text, "", Used, "Feature gates, Name=true,..."),
    flag("enable-grpc-gateway", Bool, "true", Used, "Serve the JSON gateway."),
    flag(
        "enable-v2",
        Bool,
        "true",
        Used,
        "Serve the v2 API. Given as true, it is served without users of its own even when v3 has some.",
    ),
    flag("v2-deprecation", Text, "not-yet", Silent, "Phase of the v2 store."),
    flag("experimental-enable-v2v3", Text, "", Unsupported, "Serve v2 from v3 keys."),
    flag("initial-election-tick-advance", Bool, "true", ELECTS_IN_TIME, "Shorten the first election."),
    flag("snapshot-catchup-entries", U64, "5000", Used, "Entries kept for slow members."),
    flag("raft-read-timeout", Duration, "5s", RAFT_DEADLINES, "Read timeout between members."),
    flag("raft-write-timeout", Duration, "5s", RAFT_DEADLINES, "Write timeout between members."),
    flag("max-snapshots", U32, "5", Ignored("the store file is the snapshot"), "Snapshot files to keep."),
    flag("max-wals", U32, "5", WAL_IS_RECYCLED, "Log files to keep."),
    flag("backend-bbolt-freelist-type", OneOf(&["array", "map"]), "map", NO_BBOLT, "Free list of bbolt."),
    flag("bootstrap-defrag-threshold-megabytes", U32, "0", NO_BBOLT, "Defragment at start."),
    flag("memory-mlock", Bool, "false", NO_BBOLT, "Lock bbolt's pages in memory."),
    flag("downgrade-check-time", Duration, "5s", Silent, "How often the downgrade status is checked."),
    flag(
        "experimental-enable-lease-checkpoint",
        Bool,
        "false",
        CHECKPOINTS_LEASES,
        "Checkpoint the remaining time of leases.",
    ),
    flag("experimental-enable-lease-checkpoint-persist", Bool, "false", CHECKPOINTS_LEASES, "Keep it across leaders."),
    flag("experimental-txn-mode-write-with-shared-buffer", Bool, "true", NO_BBOLT, "Share the read buffer."),
    flag(
        "experimental-stop-grpc-service-on-defrag",
        Bool,
        "false",
        DEFRAGMENTS_ONLINE,
        "Report not serving while defragmenting.",
    ),
    flag("proxy", OneOf(&["off", "readonly", "on"]), "off", Unsupported, "v2 proxy mode."),
    flag("proxy-failure-wait", U64, "5000", Silent, "v2 proxy."),
    flag("proxy-refresh-interval", U64, "30000", Silent, "v2 proxy."),
    flag("proxy-dial-timeout", U64, "1000", Silent, "v2 proxy."),
    flag("proxy-write-timeout", U64, "5000", Silent, "v2 proxy."),
    flag("proxy-read-timeout", U64, "0", Silent, "v2 proxy."),
    flag("debug", Bool, "false", Ignored("use --log-level=debug"), "Old form of --log-level=debug."),
    flag("log-package-levels", Text, "", Ignored("use --log-level"), "Old form of --log-level."),
];

/// Stable names that older releases knew with `experimental-` in front.
const WERE_EXPERIMENTAL: [&str; 19] = [
    "backend-bbolt-freelist-type",
    "bootstrap-defrag-threshold-megabytes",
    "compact-hash-check-time",
    "compaction-batch-limit",
    "compaction-sleep-interval",
    "corrupt-check-time",
    "distributed-tracing-address",
    "distributed-tracing-instance-id",
    "distributed-tracing-sampling-rate",
    "distributed-tracing-service-name",
    "downgrade-check-time",
    "enable-distributed-tracing",
    "max-learners",
    "memory-mlock",
    "peer-skip-client-san-verification",
    "snapshot-catchup-entries",
    "warning-apply-duration",
    "warning-unary-request-duration",
    "watch-progress-notify-interval",
];

/// Iterates over all flags.
pub(super) fn all() -> impl Iterator<Item = &'static Flag> {
    GROUPS.iter().flat_map(|(_, flags)| flags.iter())
}

/// Finds a flag by its name, or by the name it had while it was experimental.
pub(super) fn find(name: &str) -> Option<&'static Flag> {
    let stable = match name.strip_prefix("experimental-") {
        Some(stable) if WERE_EXPERIMENTAL.contains(&stable) => stable,
        _ => name,
    };
    // `log-output` was the name before it could be a list.
    let stable = if stable == "log-output" { "log-outputs" } else { stable };
    all().find(|flag| flag.name == stable)
}

/// The name a user may have meant: at most a third of its letters differ.
pub(super) fn nearest(name: &str) -> Option<&'static str> {
    let candidates = all().map(|flag| flag.name).chain(["help", "version"]);
    let (distance, best) = candidates.map(|known| (terminal::suggest::distance(name, known), known)).min()?;
    (distance * 3 <= name.len().max(3)).then_some(best)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique() {
        let names: BTreeSet<_> = all().map(|flag| flag.name).collect();
        assert_eq!(names.len(), all().count());
    }

    #[test]
    fn experimental_names_lead_to_stable_flags() {
        for name in WERE_EXPERIMENTAL {
            let flag = find(&format!("experimental-{name}")).unwrap_or_else(|| panic!("{name}"));
            assert_eq!(flag.name, name);
        }
        assert!(find("experimental-name").is_none());
        assert_eq!(find("experimental-initial-corrupt-check").unwrap().name, "experimental-initial-corrupt-check");
    }

    #[test]
    fn suggestions_are_near_or_absent() {
        assert_eq!(nearest("data-dri"), Some("data-dir"));
        assert_eq!(nearest("listen-client-url"), Some("listen-client-urls"));
        assert_eq!(nearest("nope"), None);
    }
}
