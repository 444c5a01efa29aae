//! The validated settings of a member.
//!
//! Made once from the merged texts; everything behind it can rely on the checks made here. Nothing in here is read
//! from the machine: whether directories and addresses are usable shows when they are opened.

use super::auth::AuthSettings;
use super::flags::{self, Support};
use super::founding;
use super::observe::{self, AuditConfig, TraceConfig, outputs};
use super::parse;
use super::tls::{self, TlsSettings};
use super::url::{ListenUrl, parse_list};
use super::values::Values;
use discovery::UrlError;
use std::path::PathBuf;
use std::time::Duration;

const DEFAULT_QUOTA_BYTES: u64 = 2 << 30;
const LARGE_QUOTA_BYTES: u64 = 8 << 30;
const LARGE_REQUEST_BYTES: u32 = 10 << 20;
const DEFAULT_FLUSH_INTERVAL: Duration = Duration::from_millis(100);
const MAX_ELECTION_TIMEOUT_MS: u64 = 50_000;
const MIN_PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// A feature gate of etcd 3.5 to 3.7: name, whether it is on by itself, and what this release does when it is set to
/// the other value.
type Gate = (&'static str, bool, Support);

const GATES: [Gate; 11] = [
    ("AllAlpha", false, Support::Unsupported),
    ("AllBeta", false, Support::Unsupported),
    ("CompactHashCheck", true, Support::Used),
    ("FastLeaseKeepAlive", true, Support::Unsupported),
    ("InitialCorruptCheck", true, Support::Used),
    ("LeaseCheckpoint", false, Support::Silent),
    ("LeaseCheckpointPersist", false, Support::Silent),
    ("PriorityRequest", false, Support::Unsupported),
    ("SetMemberLocalAddr", false, Support::Unsupported),
    ("StopGRPCServiceOnDefrag", false, flags::DEFRAGMENTS_ONLINE),
    ("TxnModeWriteWithSharedBuffer", true, flags::NO_BBOLT),
];

/// The settings of a member.
#[derive(Clone, Debug)]
pub struct Config {
    /// The member's name.
    pub name: String,
    /// Directory of all data.
    pub data_dir: PathBuf,
    /// Directory of the write-ahead log, if not inside `data_dir`.
    pub wal_dir: Option<PathBuf>,
    /// Where clients are served.
    pub listen_client_urls: Vec<ListenUrl>,
    /// Where HTTP alone is served; if any, `listen_client_urls` serve gRPC alone.
    pub listen_client_http_urls: Vec<ListenUrl>,
    /// Where metrics and health alone are served.
    pub listen_metrics_urls: Vec<ListenUrl>,
    /// Where other members are served.
    pub listen_peer_urls: Vec<ListenUrl>,
    /// Client URLs that are told to others, sorted.
    pub advertise_client_urls: Vec<String>,
    /// Peer URLs that are told to others at the first start, sorted.
    pub initial_advertise_peer_urls: Vec<String>,
    /// What a member without data does.
    pub initial_cluster_state: InitialClusterState,
    /// The name that raft logs.
    pub initial_cluster_token: String,
    /// Holds the id of the cluster that was founded once; see `assembly`.
    pub initial_cluster_id_file: Option<PathBuf>,
    /// Holds what members show that join by themselves.
    pub join_token_file: Option<PathBuf>,
    /// Where the members of a new cluster, or of the one to join, are listed.
    pub founding: discovery::Source,
    /// Make a cluster of this member alone, with the data that it has.
    pub force_new_cluster: bool,
    /// Refuse changes of the membership that would leave too few started members.
    pub strict_reconfig_check: bool,
    /// Most learners in the cluster.
    pub max_learners: usize,
    /// Log entries kept behind what is durable in the store, for members that are a little behind.
    pub snapshot_catchup_entries: u64,
    /// Time between heartbeats.
    pub heartbeat_interval: Duration,
    /// Time without a leader before an election.
    pub election_timeout: Duration,
    /// Ask before an election whether it could be won.
    pub pre_vote: bool,
    /// Applied entries between snapshots.
    pub snapshot_count: u64,
    /// Longest time until changes reach the store file.
    pub flush_interval: Duration,
    /// Size of the store that raises the NOSPACE alarm; None means no limit.
    pub quota_bytes: Option<u64>,
    /// Most operations in one transaction.
    pub max_txn_ops: usize,
    /// Largest request.
    pub max_request_bytes: usize,
    /// Most concurrent streams of one connection.
    pub max_concurrent_streams: u32,
    /// How many requests a second one user may make; None means as many as it likes.
    pub user_rate_limit: Option<RateLimit>,
    /// Pings on quiet connections; None means never.
    pub grpc_keepalive: Option<GrpcKeepalive>,
    /// Bind listeners with `SO_REUSEPORT`.
    pub socket_reuse_port: bool,
    /// What history is removed by itself; None means nothing.
    pub auto_compaction: Option<AutoCompaction>,
    /// Most revisions removed in one step of a compaction.
    pub compaction_batch_limit: usize,
    /// Pause between steps.
    pub compaction_sleep_interval: Duration,
    /// When members compare their data.
    pub corruption_checks: CorruptionChecks,
    /// How often idle watchers that asked for it hear the revision.
    pub watch_progress_notify_interval: Duration,
    /// Warn about requests that take longer to apply.
    pub warning_apply_duration: Duration,
    /// Warn about requests that take longer altogether.
    pub warning_unary_request_duration: Duration,
    /// How much is measured.
    pub metrics: MetricsLevel,
    /// Serve the v3 API as JSON.
    pub enable_grpc_gateway: bool,
    /// Whether the v2 API is served.
    pub v2: V2Mode,
    /// Origins that browsers may call from; None means all.
    pub cors: Option<Vec<String>>,
    /// Host names that HTTP requests may carry; None means all.
    pub host_whitelist: Option<Vec<String>>,
    /// TLS for clients; None if no client URL is https.
    pub client_tls: Option<TlsSettings>,
    /// TLS for peers; None if there is no certificate for them.
    pub peer_tls: Option<TlsSettings>,
    /// How users are known.
    pub auth: AuthSettings,
    /// Do not wait for the disk.
    pub unsafe_no_fsync: bool,
    /// Where and how to log.
    pub log: LogConfig,
    /// Where traces go; None means nowhere.
    pub traces: Option<TraceConfig>,
    /// Where the audit log goes; None means nowhere.
    pub audit: Option<AuditConfig>,
    /// What to tell the user once logging works.
    pub warnings: Vec<String>,
}

/// What a member without data does. One that has data goes on with it, whatever the flag says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitialClusterState {
    /// Makes a new cluster.
    New,
    /// Joins one.
    Existing,
    /// Finds out which, and takes the place of the member of its name that lost its data.
    Auto,
}

/// Whether the v2 API is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum V2Mode {
    /// It is not.
    Off,
    /// It is, unless that would let in everybody where v3 asks for users.
    ByDefault,
    /// Somebody asked for it.
    Wanted,
}

/// Pings that the server sends on quiet connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrpcKeepalive {
    /// Ping after this much silence.
    pub interval: Duration,
    /// Close the connection if the answer takes longer.
    pub timeout: Duration,
}

/// What `--user-rate-limit` and `--user-rate-limit-burst` say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Requests a second, at least one.
    pub per_second: u32,
    /// Requests at once after a pause, at least one.
    pub burst: u32,
}

/// What history is removed by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoCompaction {
    /// Keep this much time.
    Periodic(Duration),
    /// Keep this many revisions.
    Revision(i64),
}

/// When members compare their data. All of it is on by default, other than in etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CorruptionChecks {
    /// Before a member serves clients.
    pub at_start: bool,
    /// While it leads; None means never.
    pub interval: Option<Duration>,
    /// How often a leader looks for a compaction to compare after; None means never.
    pub after_compaction: Option<Duration>,
}

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricsLevel {
    /// Counters of every RPC.
    Basic,
    /// A latency histogram of every RPC as well.
    Extensive,
}

/// Where and how to log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Least severe level to write.
    pub level: LogLevel,
    /// Shape of a line; None means that a terminal gets text and anything else JSON.
    pub format: Option<LogFormat>,
    /// Where lines go.
    pub outputs: Vec<LogOutput>,
}

/// A level of severity. etcd's `panic` and `fatal` are [`LogLevel::Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Everything.
    Debug,
    /// What happens rarely.
    Info,
    /// What may heal.
    Warn,
    /// What lost data or failed.
    Error,
}

/// The shape of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// Text for people.
    Console,
}

/// Where log lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogOutput {
    /// Standard error.
    Stderr,
    /// Standard output.
    Stdout,
    /// The end of this file.
    File(PathBuf),
}

/// A path that may be left out.
fn path(values: &Values, flag: &'static str) -> Option<PathBuf> {
    Some(values.text(flag)).filter(|path| !path.is_empty()).map(PathBuf::from)
}

impl Config {
    /// Validates the merged texts. Long because it has a line for each setting.
    pub(super) fn from_values(mut values: Values) -> Result<Self, String> {
        let mut warnings = std::mem::take(&mut values.warnings);
        let name = values.text("name").to_owned();
        let advertise_peer = advertised(&values, "initial-advertise-peer-urls")?;
        let founding = founding::source(&values, &name, &advertise_peer)?;
        let listen_peer_urls = peer_listeners(&values)?;
        check_feature_gates(values.text("feature-gates"), &mut warnings)?;
        let (heartbeat_interval, election_timeout) = timing(&values)?;
        let data_dir = match values.text("data-dir") {
            "" => PathBuf::from(format!("{name}.cleat")),
            dir => PathBuf::from(dir),
        };
        let listen_client_urls = client_listeners(&values)?;
        let listen_client_http_urls = listeners(&values, "listen-client-http-urls")?;
        let listen_metrics_urls = listeners(&values, "listen-metrics-urls")?;
        let client_urls: [&[_]; 2] = [&listen_client_urls, &listen_client_http_urls];
        let config = Self {
            client_tls: tls::client(&values, client_urls, &listen_metrics_urls, &mut warnings)?,
            peer_tls: tls::peer(&values, &listen_peer_urls, &mut warnings)?,
            listen_client_urls,
            listen_client_http_urls,
            listen_metrics_urls,
            advertise_client_urls: advertised(&values, "advertise-client-urls")?,
            initial_advertise_peer_urls: advertise_peer,
            initial_cluster_state: match values.text("initial-cluster-state") {
                "existing" => InitialClusterState::Existing,
                "auto" => InitialClusterState::Auto,
                _ => InitialClusterState::New,
            },
            initial_cluster_token: values.text("initial-cluster-token").to_owned(),
            initial_cluster_id_file: path(&values, "initial-cluster-id-file"),
            join_token_file: path(&values, "join-token-file"),
            founding,
            listen_peer_urls,
            force_new_cluster: values.boolean("force-new-cluster"),
            strict_reconfig_check: values.boolean("strict-reconfig-check"),
            max_learners: values.number::<u32>("max-learners") as usize,
            snapshot_catchup_entries: values.number("snapshot-catchup-entries"),
            heartbeat_interval,
            election_timeout,
            pre_vote: values.boolean("pre-vote"),
            snapshot_count: at_least_one(&values, "snapshot-count")?,
            flush_interval: Some(values.duration("backend-batch-interval")?)
                .filter(|interval| !interval.is_zero())
                .unwrap_or(DEFAULT_FLUSH_INTERVAL),
            quota_bytes: quota(&values, &mut warnings),
            max_txn_ops: values.number::<u32>("max-txn-ops") as usize,
            max_request_bytes: max_request_bytes(&values, &mut warnings),
            max_concurrent_streams: values.number("max-concurrent-streams"),
            user_rate_limit: user_rate_limit(&values)?,
            grpc_keepalive: keepalive(&values)?,
            socket_reuse_port: values.boolean("socket-reuse-port"),
            auto_compaction: auto_compaction(&values)?,
            compaction_batch_limit: at_least_one(&values, "compaction-batch-limit")? as usize,
            compaction_sleep_interval: values.duration("compaction-sleep-interval")?,
            corruption_checks: corruption_checks(&values)?,
            watch_progress_notify_interval: progress_interval(&values, &mut warnings)?,
            warning_apply_duration: values.duration("warning-apply-duration")?,
            warning_unary_request_duration: values.duration("warning-unary-request-duration")?,
            metrics: metrics_level(&values),
            enable_grpc_gateway: values.boolean("enable-grpc-gateway"),
            v2: match (values.boolean("enable-v2"), values.is_set("enable-v2")) {
                (false, _) => V2Mode::Off,
                (true, false) => V2Mode::ByDefault,
                (true, true) => V2Mode::Wanted,
            },
            cors: unless_all(values.text("cors")),
            host_whitelist: unless_all(values.text("host-whitelist")),
            auth: AuthSettings::from_values(&values, &mut warnings)?,
            unsafe_no_fsync: values.boolean("unsafe-no-fsync"),
            log: log(&values)?,
            traces: observe::traces(&values)?,
            audit: observe::audit(&values)?,
            name,
            data_dir,
            wal_dir: path(&values, "wal-dir"),
            warnings,
        };
        Ok(config)
    }
}

fn timing(values: &Values) -> Result<(Duration, Duration), String> {
    let heartbeat: u64 = values.number("heartbeat-interval");
    let election: u64 = values.number("election-timeout");
    if heartbeat == 0 {
        return Err("--heartbeat-interval must be >0 (set to 0ms)".to_owned());
    }
    if election == 0 {
        return Err("--election-timeout must be >0 (set to 0ms)".to_owned());
    }
    if heartbeat.saturating_mul(5) > election {
        return Err(format!(
            "--election-timeout[{election}ms] should be at least as 5 times as --heartbeat-interval[{heartbeat}ms]"
        ));
    }
    if election > MAX_ELECTION_TIMEOUT_MS {
        return Err(format!(
            "--election-timeout[{election}ms] is too long, and should be set less than {MAX_ELECTION_TIMEOUT_MS}ms"
        ));
    }
    Ok((Duration::from_millis(heartbeat), Duration::from_millis(election)))
}

fn listeners(values: &Values, name: &'static str) -> Result<Vec<ListenUrl>, String> {
    parse_list(values.text(name))?.iter().map(ListenUrl::new).collect()
}

fn client_listeners(values: &Values) -> Result<Vec<ListenUrl>, String> {
    let urls = listeners(values, "listen-client-urls")?;
    if values.is_set("listen-client-urls") && !values.is_set("advertise-client-urls") {
        return Err("--advertise-client-urls is required when --listen-client-urls is set explicitly".to_owned());
    }
    if urls.is_empty() {
        return Err("--listen-client-urls must name at least one URL".to_owned());
    }
    Ok(urls)
}

fn peer_listeners(values: &Values) -> Result<Vec<ListenUrl>, String> {
    let urls = listeners(values, "listen-peer-urls")?;
    if urls.is_empty() {
        return Err("--listen-peer-urls must name at least one URL".to_owned());
    }
    Ok(urls)
}

fn advertised(values: &Values, name: &'static str) -> Result<Vec<String>, String> {
    let urls = parse_list(values.text(name))?;
    if let Some(url) = urls.iter().find(|url| url.host().is_empty()) {
        return Err(UrlError::EmptyHost(url.to_string()).to_string());
    }
    if urls.is_empty() {
        return Err(format!("--{name} must name at least one URL"));
    }
    Ok(urls.iter().map(ToString::to_string).collect())
}

pub(super) fn at_least_one(values: &Values, name: &'static str) -> Result<u64, String> {
    match values.number(name) {
        0 => Err(format!("--{name} must be >0 (set to 0)")),
        number => Ok(number),
    }
}

fn max_request_bytes(values: &Values, warnings: &mut Vec<String>) -> usize {
    let bytes: u32 = values.number("max-request-bytes");
    if bytes > LARGE_REQUEST_BYTES {
        warnings.push(format!("max-request-bytes {bytes} is above the recommended {LARGE_REQUEST_BYTES}"));
    }
    bytes as usize
}

fn user_rate_limit(values: &Values) -> Result<Option<RateLimit>, String> {
    match (values.number("user-rate-limit"), values.number("user-rate-limit-burst")) {
        (0, 0) => Ok(None),
        (0, burst) => Err(format!(
            "--user-rate-limit-burst[{burst}] needs --user-rate-limit: how many requests a second one user may make"
        )),
        (per_second, 0) => Ok(Some(RateLimit { per_second, burst: per_second })),
        (per_second, burst) => Ok(Some(RateLimit { per_second, burst })),
    }
}

fn quota(values: &Values, warnings: &mut Vec<String>) -> Option<u64> {
    let quota = match values.number::<i64>("quota-backend-bytes") {
        0 => DEFAULT_QUOTA_BYTES,
        negative if negative < 0 => return None,
        quota => quota as u64,
    };
    if quota > LARGE_QUOTA_BYTES {
        warnings.push(format!("quota-backend-bytes {quota} is above the recommended {LARGE_QUOTA_BYTES}"));
    }
    Some(quota)
}

fn auto_compaction(values: &Values) -> Result<Option<AutoCompaction>, String> {
    let text = values.text("auto-compaction-retention");
    let number: Option<i64> = text.parse().ok();
    if text.starts_with('-') {
        return Err(format!("--auto-compaction-retention must not be negative (set to {text})"));
    }
    let compaction = match (values.text("auto-compaction-mode"), number) {
        (_, Some(0)) => return Ok(None),
        ("revision", Some(revisions)) => AutoCompaction::Revision(revisions),
        ("revision", None) => {
            return Err(format!("--auto-compaction-retention must be a number of revisions (set to {text})"));
        }
        (_, Some(hours)) => match u64::try_from(hours).ok().and_then(|hours| hours.checked_mul(3600)) {
            // A century in seconds; beyond it instants may overflow.
            Some(seconds) if seconds < 3_200_000_000 => AutoCompaction::Periodic(Duration::from_secs(seconds)),
            _ => return Err(format!("--auto-compaction-retention is too long (set to {text})")),
        },
        (_, None) => match parse::duration(text) {
            Ok(Duration::ZERO) => return Ok(None),
            Ok(period) => AutoCompaction::Periodic(period),
            Err(reason) => return Err(format!("error parsing CompactionRetention: time: {reason}")),
        },
    };
    Ok(Some(compaction))
}

fn progress_interval(values: &Values, warnings: &mut Vec<String>) -> Result<Duration, String> {
    let interval = values.duration("watch-progress-notify-interval")?;
    if interval < MIN_PROGRESS_INTERVAL {
        warnings.push(format!("watch-progress-notify-interval is raised to {}", parse::show(MIN_PROGRESS_INTERVAL)));
    }
    Ok(interval.max(MIN_PROGRESS_INTERVAL))
}

fn keepalive(values: &Values) -> Result<Option<GrpcKeepalive>, String> {
    let interval = values.duration("grpc-keepalive-interval")?;
    let timeout = values.duration("grpc-keepalive-timeout")?;
    Ok((!interval.is_zero() && !timeout.is_zero()).then_some(GrpcKeepalive { interval, timeout }))
}

fn metrics_level(values: &Values) -> MetricsLevel {
    match values.text("metrics") {
        "extensive" => MetricsLevel::Extensive,
        _ => MetricsLevel::Basic,
    }
}

fn unless_all(text: &str) -> Option<Vec<String>> {
    let items: Vec<String> =
        text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect();
    (!items.is_empty() && items.iter().all(|item| item != "*")).then_some(items)
}

/// The flags and the feature gates that etcd has made of some of them. Any of both switches a check off.
fn corruption_checks(values: &Values) -> Result<CorruptionChecks, String> {
    let is_on = |flag: &'static str, gate: &str| values.boolean(flag) && is_gate_on(values.text("feature-gates"), gate);
    let positive = |time: Duration| Some(time).filter(|time| !time.is_zero());
    let after_compaction = values.duration("compact-hash-check-time")?;
    Ok(CorruptionChecks {
        at_start: is_on("experimental-initial-corrupt-check", "InitialCorruptCheck"),
        interval: positive(values.duration("corrupt-check-time")?),
        after_compaction: positive(after_compaction)
            .filter(|_| is_on("experimental-compact-hash-check-enabled", "CompactHashCheck")),
    })
}

/// Whether a gate that is on by itself was left so.
fn is_gate_on(gates: &str, name: &str) -> bool {
    let mut set = gates.split(',').filter_map(|part| part.split_once('='));
    let last = set.rfind(|(gate, _)| gate.trim() == name);
    last.is_none_or(|(_, value)| parse::boolean(value.trim()) != Some(false))
}

/// Refuses gates that this release cannot honour, and warns about those without effect.
fn check_feature_gates(text: &str, warnings: &mut Vec<String>) -> Result<(), String> {
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let Some((name, value)) = part.split_once('=') else {
            return Err(format!("missing bool value for feature gate {part:?}"));
        };
        let name = name.trim();
        let Some(on) = parse::boolean(value.trim()) else {
            return Err(format!("invalid value of {name}={value}: parse error"));
        };
        let Some((_, default, support)) = GATES.iter().find(|gate| gate.0 == name) else {
            return Err(format!("unrecognized feature gate: {name}"));
        };
        match support {
            _ if on == *default => {}
            Support::Used | Support::Silent => {}
            Support::Ignored(reason) => warnings.push(format!("feature gate {name}={on} has no effect: {reason}")),
            Support::Unsupported => return Err(format!("feature gate {name}={on} is not supported yet")),
        }
    }
    Ok(())
}

fn log(values: &Values) -> Result<LogConfig, String> {
    let is_chosen = ["log-format", "log-outputs", "logger"].iter().any(|name| values.is_set(name));
    let format = match values.text("log-format") {
        "console" => LogFormat::Console,
        _ => LogFormat::Json,
    };
    let outputs = outputs(values.text("log-outputs"));
    if outputs.is_empty() {
        return Err("--log-outputs must name at least one output".to_owned());
    }
    let level = match values.text("log-level") {
        "debug" => LogLevel::Debug,
        "info" => LogLevel::Info,
        "warn" => LogLevel::Warn,
        _ => LogLevel::Error,
    };
    Ok(LogConfig { level, format: is_chosen.then_some(format), outputs })
}
