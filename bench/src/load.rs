//! One workload against given endpoints: builds the run from the command line, executes it and prints its table.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::args::{Command, DataArgs, LoadArgs};
use crate::table;
use crate::workload::http::{V2Keys, form_value};
use crate::workload::keys::{KeySpace, value};
use crate::workload::lease::Keepalive;
use crate::workload::mixed::{self, Mix};
use crate::workload::polls::{self, PollPlan, Write};
use crate::workload::put::Put;
use crate::workload::range::Range;
use crate::workload::txn::{CompareAndPut, Fill};
use crate::workload::unary::{RequestSource, Unary};
use crate::workload::watch::{Deliveries, STAMP_BYTES, Watchers, Writers};
use crate::workload::{Group, Load, Run, run};

/// Descriptors that are not a poll's.
const OTHER_DESCRIPTORS: u64 = 64;

/// Executes a workload.
///
/// # Errors
/// The parameters contradict each other, the endpoint cannot be reached, or no operation succeeded.
pub(crate) async fn execute(command: Command) -> anyhow::Result<()> {
    let (load, groups) = groups(command)?;
    let run = Run {
        endpoints: load.endpoint.clone(),
        threads: load.threads as usize,
        deadline: Duration::from_secs_f64(load.deadline),
        server_pids: load.server_pid.clone(),
        length: load.length(),
        groups,
    };
    let progress = progress_bar();
    let outcome = run::execute(run, &progress).await;
    progress.finish_and_clear();
    let outcome = outcome?;
    print!("{}", table::outcome(&outcome));
    if let Some(path) = &load.json {
        write_json(path, &outcome)?;
    }
    if let Some(failure) = outcome.failure() {
        let endpoints: Vec<_> = load.endpoint.iter().map(ToString::to_string).collect();
        bail!("{}: {failure}", endpoints.join(","));
    }
    Ok(())
}

/// A bar on the standard error; nothing is drawn when that is not a terminal.
pub(crate) fn progress_bar() -> ProgressBar {
    let progress = ProgressBar::new(1_000);
    let template = "{prefix}[{bar:30}] {elapsed} {msg}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        progress.set_style(style.progress_chars("=> "));
    }
    progress
}

/// Writes `value` as JSON.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(value)?;
    std::fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
}

fn groups(command: Command) -> anyhow::Result<(LoadArgs, Vec<Group>)> {
    Ok(match command {
        Command::Put { load, data } => {
            let put = Put { keys: data.key_space()?, value: value(data.value_size as usize, load.seed) };
            let group = unary_group("put", "put", &load, put);
            (load, vec![group])
        }
        Command::Range { load, data, limit, serializable } => {
            let range = range(&data, limit, serializable)?;
            let kind = if serializable { "serializable" } else { "linearizable" };
            let group = unary_group(&format!("range {limit} {kind}"), "range", &load, range);
            (load, vec![group])
        }
        Command::Txn { load, data, fill } => {
            let (keys, value) = (data.key_space()?, value(data.value_size as usize, load.seed));
            let group = match fill {
                Some(puts) => unary_group(&format!("txn of {puts} puts"), "put", &load, Fill { keys, value, puts }),
                None => unary_group("txn compare+put", "txn", &load, CompareAndPut { keys, value }),
            };
            (load, vec![group])
        }
        Command::Watch { load, data, watchers, watched_keys, streams, stream_connections, in_flight } => {
            let keys = KeySpace { count: watched_keys, ..data.key_space()? };
            keys.check().map_err(anyhow::Error::msg)?;
            let plan = WatchPlan {
                keys,
                value: value((data.value_size as usize).max(STAMP_BYTES), load.seed),
                watchers: watchers as usize,
                streams: streams as usize,
                stream_connections: stream_connections as usize,
                in_flight: if load.rate.is_some() { u64::from(u32::MAX) } else { in_flight.unwrap_or(load.clients) },
                writers: load.clients as usize,
                writer_connections: load.connections as usize,
                rate: load.rate,
                seed: load.seed,
            };
            (load, watch_groups(plan))
        }
        Command::Lease { load, leases } => {
            let clients = load.clients as usize;
            let traffic = Load::Grpc(Arc::new(Keepalive { leases: leases as usize, clients }));
            let group = Group {
                name: format!("keepalive of {leases} leases"),
                unit: "keepalive",
                connections: load.connections as usize,
                clients,
                rate: load.rate,
                is_counted: true,
                traffic,
            };
            (load, vec![group])
        }
        Command::Mixed { load, data, readers, reader_connections, serializable } => {
            let mix = Mix {
                writers: load.clients as usize,
                writer_connections: load.connections as usize,
                readers: readers as usize,
                reader_connections: reader_connections as usize,
            };
            let put = Put { keys: data.key_space()?, value: value(data.value_size as usize, load.seed) };
            let groups = mixed::groups(mix, range(&data, 1, serializable)?, put, load.rate, load.seed);
            (load, groups)
        }
        other => http_groups(other)?,
    })
}

/// Of the workloads that speak HTTP/1.1.
fn http_groups(command: Command) -> anyhow::Result<(LoadArgs, Vec<Group>)> {
    Ok(match command {
        Command::V2Get { load, data } => {
            let group = v2_group("v2 get", "get", load.clients as usize, data.key_space()?, None, load.seed);
            let rate = load.rate;
            (load, vec![Group { rate, ..group }])
        }
        Command::V2Put { load, data } => {
            let value = form_value(data.value_size as usize, load.seed);
            let group = v2_group("v2 put", "put", load.clients as usize, data.key_space()?, Some(value), load.seed);
            let rate = load.rate;
            (load, vec![Group { rate, ..group }])
        }
        Command::Polls { load, polls, path, settle, write_endpoint, write_path, write_type, write_body } => {
            let write =
                Write { endpoint: write_endpoint, path: write_path, content_type: write_type, body: write_body };
            let plan = PollPlan { polls: polls as usize, path, settle: Duration::from_secs_f64(settle), write };
            check_descriptors(plan.polls)?;
            (load, polls::groups("polls", plan))
        }
        _ => bail!("this is not a workload"),
    })
}

/// Each poll has a descriptor, here and in the server.
///
/// # Errors
/// The system allows fewer.
pub(crate) fn check_descriptors(polls: usize) -> anyhow::Result<()> {
    let needed = polls as u64 + OTHER_DESCRIPTORS;
    let most = socket::descriptors(needed);
    if most < needed {
        bail!("{polls} polls need {needed} open files, and the limit is {most}: raise it, or poll less");
    }
    Ok(())
}

/// Clients of the v2 API that read, or write a value.
pub(crate) fn v2_group(
    name: &str,
    unit: &'static str,
    clients: usize,
    keys: KeySpace,
    value: Option<Bytes>,
    seed: u64,
) -> Group {
    let traffic = Arc::new(V2Keys { keys, value, seed });
    Group {
        name: name.to_owned(),
        unit,
        connections: clients,
        clients,
        rate: None,
        is_counted: true,
        traffic: Load::Http(traffic),
    }
}

fn range(data: &DataArgs, limit: u64, is_serializable: bool) -> anyhow::Result<Range> {
    if limit > data.keys {
        bail!("--limit {limit} is more than --keys {}", data.keys);
    }
    Ok(Range { keys: data.key_space()?, limit, is_serializable })
}

fn unary_group<S: RequestSource + 'static>(name: &str, unit: &'static str, load: &LoadArgs, source: S) -> Group {
    Group {
        name: name.to_owned(),
        unit,
        connections: load.connections as usize,
        clients: load.clients as usize,
        rate: load.rate,
        is_counted: true,
        traffic: Load::Grpc(Arc::new(Unary { source: Arc::new(source), seed: load.seed })),
    }
}

/// Parameters of a watch run.
pub(crate) struct WatchPlan {
    /// The watched keys.
    pub(crate) keys: KeySpace,
    /// The value of every put, at least [`STAMP_BYTES`] long.
    pub(crate) value: Bytes,
    /// Watchers of all streams together.
    pub(crate) watchers: usize,
    /// Streams they are spread over.
    pub(crate) streams: usize,
    /// Connections of the streams.
    pub(crate) stream_connections: usize,
    /// Puts whose events may be on their way.
    pub(crate) in_flight: u64,
    /// Clients that put.
    pub(crate) writers: usize,
    /// Their connections.
    pub(crate) writer_connections: usize,
    /// Puts a second.
    pub(crate) rate: Option<f64>,
    /// The same seed gives the same keys.
    pub(crate) seed: u64,
}

/// The two groups of a watch run: events, which are what is counted, and the puts that cause them.
pub(crate) fn watch_groups(plan: WatchPlan) -> Vec<Group> {
    // More keys than watchers would leave puts without an event.
    let keys = KeySpace { count: plan.keys.count.min(plan.watchers as u64), ..plan.keys };
    let streams = plan.streams.min(plan.watchers).max(1);
    // With a remainder some keys have one watcher more; the smaller number keeps writers from waiting in vain.
    let fan_out = (plan.watchers as u64 / keys.count).max(1);
    let deliveries = Arc::new(Deliveries::new(fan_out, plan.in_flight));
    let name = format!("watch: {} watchers, {} keys", plan.watchers, keys.count);
    let watchers = Watchers { keys: keys.clone(), count: plan.watchers, streams, deliveries: deliveries.clone() };
    let writers = Writers { keys, value: plan.value, deliveries, seed: plan.seed };
    vec![
        Group {
            name,
            unit: "event",
            connections: plan.stream_connections,
            clients: streams,
            rate: None,
            is_counted: true,
            traffic: Load::Grpc(Arc::new(watchers)),
        },
        Group {
            name: "watch: put".to_owned(),
            unit: "put",
            connections: plan.writer_connections,
            clients: plan.writers,
            rate: plan.rate,
            is_counted: false,
            traffic: Load::Grpc(Arc::new(writers)),
        },
    ]
}
