//! One session: starts a server or a cluster, runs the chosen workloads on it in order, and records their figures.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use indicatif::ProgressBar;

use super::cluster::Cluster;
use super::plan::{Kind, Metric, Session, Workload};
use super::report::{Measured, Samples, Side};
use super::servers::{Ending, Server};
use super::{catch_up, failover};
use crate::args::CompareArgs;
use crate::connection::Endpoint;
use crate::load::{WatchPlan, check_descriptors, v2_group, watch_groups};
use crate::workload::http::form_value;
use crate::workload::keys::{KeySpace, value};
use crate::workload::lease::Keepalive;
use crate::workload::mixed::{self, Mix};
use crate::workload::polls::{self, PollPlan};
use crate::workload::put::Put;
use crate::workload::range::Range;
use crate::workload::run::{self, Outcome};
use crate::workload::txn::{CompareAndPut, Fill};
use crate::workload::unary::{RequestSource, Unary};
use crate::workload::{Group, Length, Load, Run};

/// Size of every key and value: 30 and 256 bytes.
const KEY_BYTES: usize = 30;
pub(super) const VALUE_BYTES: usize = 256;
/// Puts of one transaction that fills.
const FILL_PUTS: u64 = 64;
/// Before each measured phase.
const WARMUP: Duration = Duration::from_millis(500);
/// After a start or a fill, before memory is read: flushes and garbage collections end.
const SETTLE: Duration = Duration::from_secs(3);
/// How long filling may take.
pub(super) const FILL_DEADLINE: Duration = Duration::from_mins(10);

/// Where a session runs.
pub(crate) struct Place<'a> {
    /// From 1.
    pub(crate) round: u64,
    /// How many there are.
    pub(crate) rounds: u64,
    /// Which server.
    pub(crate) side: Side,
    /// Where its directory is made.
    pub(crate) parent: &'a Path,
}

/// Runs `workloads` of one session on fresh members. A failing workload is recorded, and the next one runs while the
/// members live.
///
/// # Errors
/// A member does not start.
pub(crate) async fn execute(
    args: &CompareArgs,
    place: &Place<'_>,
    workloads: &[&'static Workload],
    progress: &ProgressBar,
    samples: &mut Samples,
) -> anyhow::Result<()> {
    let label = |what: &str| format!("round {}/{} {} {what} ", place.round, place.rounds, place.side.label());
    let binary = match place.side {
        Side::Cleat => &args.cleat,
        Side::Etcd => &args.etcd,
    };
    progress.set_prefix(label("start"));
    let is_catch_up = workloads.iter().any(|workload| workload.session == Session::CatchUp);
    for workload in workloads {
        if let Kind::V2Polls { polls } = workload.kind {
            // Before the members start, which inherit the limit.
            check_descriptors(polls)?;
        }
    }
    let is_v2 = workloads.iter().any(|workload| workload.session == Session::V2);
    let more: Vec<_> = [
        is_catch_up.then(|| ("--snapshot-count", args.snapshot_count.to_string())),
        is_v2.then(|| ("--enable-v2", "true".to_owned())),
    ]
    .into_iter()
    .flatten()
    .collect();
    let mut cluster = Cluster::start(binary, place.parent, args, &more).await?;
    let mut is_loaded = false;
    for workload in workloads {
        let fail = |error: anyhow::Error| format!("{}{error:#}", label(workload.name));
        if needs_keys(workload) && !is_loaded {
            progress.set_prefix(label("load"));
            is_loaded = true;
            if let Err(error) = load_keys(args, &cluster, workload.session, progress).await {
                samples.failures.push(fail(error.context("loading the keys")));
            }
        }
        progress.set_prefix(label(workload.name));
        let measured = measure(args, workload, &mut cluster, progress).await;
        match measured {
            Ok((figures, outcome)) => {
                let (round, side, workload) = (place.round, place.side, workload.name);
                samples
                    .failures
                    .extend(outcome.as_ref().and_then(Outcome::failure).map(|why| fail(anyhow::anyhow!(why))));
                samples.runs.push(Measured { round, side, workload, figures, outcome });
            }
            Err(error) => samples.failures.push(fail(error)),
        }
        if let Err(error) = cluster.check_alive() {
            samples.failures.push(fail(error));
            return Ok(());
        }
    }
    cluster.kill().await
}

fn needs_keys(workload: &Workload) -> bool {
    let is_of_keys = matches!(workload.session, Session::Keys | Session::V2);
    is_of_keys && !matches!(workload.kind, Kind::Idle | Kind::V2Polls { .. })
}

/// Puts every key once: single puts, as an application does, and not transactions.
async fn load_keys(
    args: &CompareArgs,
    cluster: &Cluster,
    session: Session,
    progress: &ProgressBar,
) -> anyhow::Result<()> {
    let target = Target::of(&cluster.all());
    if session != Session::V2 {
        put_all(args, target, args.keys, progress).await?;
        return Ok(());
    }
    let keys = KeySpace { is_sequential: true, ..keys(args.keys) };
    let groups = vec![v2_group("load", "put", 64, keys, Some(form_value(VALUE_BYTES, args.seed)), args.seed)];
    let outcome = run_groups(args, target, Length::Total(args.keys), groups, progress).await?;
    check_complete(&outcome)
}

/// Puts each of `count` keys once, by 256 clients.
pub(super) async fn put_all(
    args: &CompareArgs,
    target: Target,
    count: u64,
    progress: &ProgressBar,
) -> anyhow::Result<Outcome> {
    let put = Put { keys: KeySpace { is_sequential: true, ..keys(count) }, value: value(VALUE_BYTES, args.seed) };
    let groups = vec![group("load", "put", 256, 16, put, args.seed)];
    let outcome = run_groups(args, target, Length::Total(count), groups, progress).await?;
    check_complete(&outcome)?;
    Ok(outcome)
}

/// Where the load goes, and what is measured under it.
pub(super) struct Target {
    /// Where the connections go, in turn.
    endpoints: Vec<Endpoint>,
    /// The processes whose use is added up.
    pids: Vec<u32>,
}

impl Target {
    /// The load goes to these members, and they are what is measured.
    pub(super) fn of(members: &[&Server]) -> Self {
        Self {
            endpoints: members.iter().map(|member| member.endpoint().clone()).collect(),
            pids: members.iter().map(|member| member.pid()).collect(),
        }
    }
}

async fn run_groups(
    args: &CompareArgs,
    target: Target,
    length: Length,
    groups: Vec<Group>,
    progress: &ProgressBar,
) -> anyhow::Result<Outcome> {
    let names: Vec<_> = target.endpoints.iter().map(ToString::to_string).collect();
    let run = Run {
        endpoints: target.endpoints,
        threads: args.threads as usize,
        deadline: Duration::from_secs_f64(args.deadline),
        server_pids: target.pids,
        length,
        groups,
    };
    let limit = FILL_DEADLINE.max(Duration::from_secs_f64(args.seconds * 2.0));
    let late = || format!("{}: the workload did not end within {limit:?}", names.join(","));
    tokio::time::timeout(limit, run::execute(run, progress)).await.with_context(late)?
}

/// Every call of a fill must succeed: the workloads after it need the keys.
fn check_complete(outcome: &Outcome) -> anyhow::Result<()> {
    for group in &outcome.groups {
        if group.summary.errors > 0 || group.summary.operations == 0 {
            let why = group.summary.first_error.as_deref().unwrap_or("no answer");
            bail!(
                "{} of {} calls failed: {why}",
                group.summary.errors,
                group.summary.operations + group.summary.errors
            );
        }
    }
    Ok(())
}

pub(super) type Figures = Vec<(Metric, f64)>;

/// Runs one workload and returns its figures.
async fn measure(
    args: &CompareArgs,
    workload: &Workload,
    cluster: &mut Cluster,
    progress: &ProgressBar,
) -> anyhow::Result<(Figures, Option<Outcome>)> {
    match workload.kind {
        Kind::Idle => {
            tokio::time::sleep(SETTLE).await;
            return Ok((vec![(Metric::Rss, cluster.sample()?.rss_bytes as f64)], None));
        }
        Kind::Large => return large(args, cluster, progress).await,
        Kind::Failover(ending) => return Ok((failover::measure(args, cluster, ending, progress).await?, None)),
        Kind::CatchUp => return catch_up::measure(args, cluster, progress).await,
        _ => {}
    }
    let measured = Duration::from_secs_f64(args.seconds);
    let length = Length::Time { warmup: WARMUP, measured };
    let mut target = Target::of(&cluster.all());
    let mut leader = None;
    if matches!(workload.kind, Kind::RangeFollowers { .. }) {
        let (index, _) = cluster.leader().await?;
        leader = Some(index);
        target.endpoints = Target::of(&cluster.others(index)).endpoints;
    }
    let outcome = run_groups(args, target, length, groups(args, workload.kind, workload.name)?, progress).await?;
    if leader.is_some() && leader != Some(cluster.leader().await?.0) {
        bail!("the leader changed while the followers were measured");
    }
    let figures = if outcome.failure().is_some() { Vec::new() } else { figures(&outcome) };
    Ok((figures, Some(outcome)))
}

/// The groups of a workload that is measured for a time.
fn groups(args: &CompareArgs, kind: Kind, name: &str) -> anyhow::Result<Vec<Group>> {
    let (keys, value, seed) = (keys(args.keys), value(VALUE_BYTES, args.seed), args.seed);
    let single = |limit, is_serializable| Range { keys: keys.clone(), limit, is_serializable };
    Ok(match kind {
        Kind::Put { clients, connections } => {
            vec![group(name, "put", clients, connections, Put { keys, value }, seed)]
        }
        Kind::Range { clients, connections, limit, is_serializable } => {
            vec![group(name, "range", clients, connections, single(limit, is_serializable), seed)]
        }
        Kind::RangeFollowers { clients, connections } => {
            vec![group(name, "range", clients, connections, single(1, false), seed)]
        }
        Kind::Mixed => {
            let mix = Mix { writers: 256, writer_connections: 16, readers: 8, reader_connections: 2 };
            mixed::groups(mix, single(1, false), Put { keys: keys.clone(), value }, None, seed)
        }
        Kind::Txn { clients, connections } => {
            vec![group(name, "txn", clients, connections, CompareAndPut { keys, value }, seed)]
        }
        Kind::Fill => vec![group(name, "put", 16, 8, fill("fill/", args.large_keys, value), seed)],
        Kind::Watch { watchers, keys: watched, writers } => watch_groups(WatchPlan {
            keys: KeySpace { count: watched, ..keys },
            value,
            watchers,
            streams: 64,
            stream_connections: 64,
            in_flight: writers as u64,
            writers,
            writer_connections: writers.min(8),
            rate: None,
            seed,
        }),
        Kind::Lease { leases, clients } => vec![Group {
            name: name.to_owned(),
            unit: "keepalive",
            connections: 8,
            clients,
            rate: None,
            is_counted: true,
            traffic: Load::Grpc(Arc::new(Keepalive { leases, clients })),
        }],
        Kind::V2Get { clients } => vec![v2_group(name, "get", clients, keys, None, seed)],
        Kind::V2Put { clients } => {
            vec![v2_group(name, "put", clients, keys, Some(form_value(VALUE_BYTES, seed)), seed)]
        }
        Kind::V2Polls { polls } => polls::groups(name, PollPlan::v2(polls)),
        Kind::Idle | Kind::Large | Kind::Failover(_) | Kind::CatchUp => bail!("{name} has no load of its own"),
    })
}

/// The figures of a measured run; latencies are those of its first group.
fn figures(outcome: &Outcome) -> Figures {
    let mut figures = Vec::new();
    if let Some(first) = outcome.groups.first() {
        let summary = &first.summary;
        figures.extend([
            (Metric::Throughput, summary.per_second),
            (Metric::P50, summary.p50_us),
            (Metric::P99, summary.p99_us),
        ]);
    }
    let per_operation = |total| outcome.per_operation(total);
    let generator = per_operation(outcome.generator.cpu_us);
    figures.extend(generator.map(|cpu| (Metric::GeneratorCpu, cpu)));
    if let Some(server) = &outcome.server {
        figures.extend(per_operation(server.cpu_us).map(|cpu| (Metric::ServerCpu, cpu)));
        figures.push((Metric::Rss, server.rss_bytes as f64));
        let written = server.written_bytes.and_then(|bytes| per_operation(bytes as f64));
        figures.extend(written.map(|bytes| (Metric::Written, bytes)));
    }
    figures
}

/// Fills, then measures memory, restarts after SIGKILL and SIGTERM, and the disk.
async fn large(
    args: &CompareArgs,
    cluster: &mut Cluster,
    progress: &ProgressBar,
) -> anyhow::Result<(Figures, Option<Outcome>)> {
    let fill = fill("large/", args.large_keys, value(VALUE_BYTES, args.seed));
    let key = fill.keys.key(args.large_keys / 2);
    let calls = args.large_keys.div_ceil(FILL_PUTS);
    let groups = vec![group("large", "put", 16, 8, fill, args.seed)];
    let outcome = run_groups(args, Target::of(&cluster.all()), Length::Total(calls), groups, progress).await?;
    check_complete(&outcome)?;
    let mut figures: Figures = figures(&outcome)
        .into_iter()
        .filter(|(metric, _)| matches!(metric, Metric::Throughput | Metric::Written))
        .collect();
    progress.set_message("settling");
    tokio::time::sleep(SETTLE).await;
    figures.push((Metric::Rss, cluster.sample()?.rss_bytes as f64));
    progress.set_message("restarting");
    let server = cluster.member(0);
    server.end(Ending::Kill).await?;
    let killed = server.restart(key.clone()).await?;
    figures.push((Metric::RestartKilled, killed.as_secs_f64() * 1e6));
    server.end(Ending::Terminate).await?;
    figures.push((Metric::Disk, server.disk_bytes()? as f64));
    let terminated = server.restart(key).await?;
    figures.push((Metric::RestartTerminated, terminated.as_secs_f64() * 1e6));
    Ok((figures, Some(outcome)))
}

pub(super) fn keys(count: u64) -> KeySpace {
    KeySpace { prefix: Bytes::from_static(b"bench/"), key_size: KEY_BYTES, count, is_sequential: false }
}

fn fill(prefix: &'static str, count: u64, value: Bytes) -> Fill {
    let keys = KeySpace { prefix: Bytes::from_static(prefix.as_bytes()), is_sequential: true, ..keys(count) };
    Fill { keys, value, puts: FILL_PUTS }
}

fn group<S: RequestSource + 'static>(
    name: &str,
    unit: &'static str,
    clients: usize,
    connections: usize,
    source: S,
    seed: u64,
) -> Group {
    let traffic = Load::Grpc(Arc::new(Unary { source: Arc::new(source), seed }));
    Group { name: name.to_owned(), unit, connections, clients, rate: None, is_counted: true, traffic }
}
