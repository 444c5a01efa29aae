//! Executes a run: worker threads, preparation, warm-up, the measured phase, and the end.
//!
//! ```text
//! caller's runtime   start threads ... all prepared -> go -> warm-up -> sample -> measured -> sample -> over -> join
//! worker thread      connect, prepare clients -------> loops ---------------------------------> drain, drop
//! ```
//! Dropping the future of [`execute`] (an interrupt) ends the threads: their signals come from its channels.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::stream::{FuturesUnordered, TryStreamExt as _};
use indicatif::ProgressBar;
use serde::Serialize;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Client, Context, Group, Length, Load, Pace, Run, Stage, StageCell};
use crate::connection::{CallError, Connection, Endpoint};
use crate::http1;
use crate::measure::{self, ProcessSample, ProcessUse, Recorder, Summary};

/// How long connecting and preparing all clients may take.
const PREPARE_DEADLINE: Duration = Duration::from_mins(2);
/// How long calls may still take when the run is over; those that take longer count as errors.
const DRAIN_DEADLINE: Duration = Duration::from_secs(3);
/// How often the progress bar is drawn.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// The figures of a run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Outcome {
    /// One for each group.
    pub(crate) groups: Vec<GroupOutcome>,
    /// Length of the measured phase.
    pub(crate) seconds: f64,
    /// Whether all clients lost their connections before the time was over.
    pub(crate) is_cut_short: bool,
    /// What the server's processes used in it together, when they are known.
    pub(crate) server: Option<ProcessUse>,
    /// What this process used in it.
    pub(crate) generator: ProcessUse,
    /// Cores that everything else on the machine used in it, when the server's processes are known.
    pub(crate) other_cores: Option<f64>,
}

/// The figures of one group.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct GroupOutcome {
    /// The group's name.
    pub(crate) name: String,
    /// What is counted.
    pub(crate) unit: &'static str,
    /// Concurrent clients.
    pub(crate) clients: usize,
    /// Their connections.
    pub(crate) connections: usize,
    /// Whether the operations count for CPU and bytes per operation.
    pub(crate) is_counted: bool,
    /// Rates and latencies.
    pub(crate) summary: Summary,
}

impl Outcome {
    /// Operations that CPU and written bytes are divided by.
    pub(crate) fn counted_operations(&self) -> u64 {
        self.groups.iter().filter(|group| group.is_counted).map(|group| group.summary.operations).sum()
    }

    /// `total` for one counted operation; `None` when there was none.
    pub(crate) fn per_operation(&self, total: f64) -> Option<f64> {
        let operations = self.counted_operations();
        (operations > 0).then(|| total / operations as f64)
    }

    /// Why the figures are not those of the whole run: the clients were cut off, or a group had no success.
    pub(crate) fn failure(&self) -> Option<String> {
        if self.is_cut_short {
            let why = self.groups.iter().find_map(|group| group.summary.first_error.as_deref());
            return Some(format!("all clients were cut off: {}", why.unwrap_or("unknown reason")));
        }
        let failed = self.groups.iter().find(|group| group.summary.operations == 0)?;
        let why = failed.summary.first_error.as_deref().unwrap_or("no answer in the measured time");
        Some(format!("{}: no {} succeeded: {why}", failed.name, failed.unit))
    }
}

/// A group's parts that live as long as the run.
struct GroupState {
    group: Group,
    pace: Arc<Pace>,
    recorders: Vec<Arc<Recorder>>,
}

/// What all worker threads share.
struct Shared {
    endpoints: Vec<Endpoint>,
    threads: usize,
    deadline: Duration,
    groups: Vec<GroupState>,
    stage: Arc<StageCell>,
}

enum Report {
    Prepared(Result<(), CallError>),
    Ended,
}

/// Executes `run` and returns its figures.
///
/// # Errors
/// A connection or a preparation failed, or the server's process cannot be read. Failing calls are no error: they are
/// counted in the outcome.
pub(crate) async fn execute(run: Run, progress: &ProgressBar) -> anyhow::Result<Outcome> {
    let (length, server_pids) = (run.length, run.server_pids.clone());
    let total = match length {
        Length::Time { .. } => None,
        Length::Total(total) => Some(total),
    };
    let shared = Arc::new(Shared::new(run, total));
    let mut workers = Workers::start(&shared)?;
    progress.set_message("preparing clients");
    workers.await_prepared().await?;

    if let Length::Time { warmup, .. } = length {
        workers.go.send_replace(true);
        observe(&shared, progress, warmup, None).await;
    }
    let before = Usage::read(server_sample(&server_pids)?)?;
    shared.stage.set(Stage::Measured);
    let begin = Instant::now();
    workers.go.send_replace(true);
    let limit = match length {
        Length::Time { measured, .. } => measured,
        Length::Total(_) => Duration::MAX,
    };
    let is_ended_by_clients = tokio::select! {
        () = observe(&shared, progress, limit, total) => false,
        () = workers.await_ended() => true,
    };
    let elapsed = begin.elapsed();
    // A server that died has no second sample; what its clients saw tells more.
    let after = Usage::read(server_sample(&server_pids).ok().flatten())?;
    shared.stage.set(Stage::Over);
    workers.end().await?;

    Ok(Outcome {
        groups: shared.groups.iter().map(|state| state.outcome(elapsed)).collect(),
        seconds: elapsed.as_secs_f64(),
        is_cut_short: is_ended_by_clients && total.is_none(),
        server: before.server_until(&after),
        generator: ProcessUse::between(&before.generator, &after.generator),
        other_cores: before.other_cores_until(&after, elapsed),
    })
}

/// What the processes and the machine had used at one moment.
struct Usage {
    server: Option<ProcessSample>,
    generator: ProcessSample,
    machine: Duration,
}

impl Usage {
    fn read(server: Option<ProcessSample>) -> anyhow::Result<Self> {
        Ok(Self { server, generator: ProcessSample::read(std::process::id())?, machine: measure::machine_cpu()? })
    }

    fn server_until(&self, after: &Self) -> Option<ProcessUse> {
        self.server.zip(after.server).map(|(before, after)| ProcessUse::between(&before, &after))
    }

    fn other_cores_until(&self, after: &Self, elapsed: Duration) -> Option<f64> {
        let server = self.server_until(after)?;
        let own = server.cpu_us + ProcessUse::between(&self.generator, &after.generator).cpu_us;
        let all = after.machine.saturating_sub(self.machine).as_secs_f64() * 1e6;
        Some(((all - own) / 1e6 / elapsed.as_secs_f64().max(1e-9)).max(0.0))
    }
}

/// The sum over the server's processes; `None` without any.
fn server_sample(pids: &[u32]) -> anyhow::Result<Option<ProcessSample>> {
    let read =
        |pid: &u32| ProcessSample::read(*pid).with_context(|| format!("server process {pid}: is --server-pid right?"));
    let samples: Vec<_> = pids.iter().map(read).collect::<anyhow::Result<_>>()?;
    Ok(samples.into_iter().reduce(ProcessSample::plus))
}

impl Shared {
    fn new(run: Run, total: Option<u64>) -> Self {
        let threads = run.threads.max(1);
        let state = |group: Group| GroupState {
            pace: Arc::new(Pace::new(total, group.rate)),
            recorders: (0..threads).map(|_| Arc::new(Recorder::new())).collect(),
            group,
        };
        Self {
            endpoints: run.endpoints,
            threads,
            deadline: run.deadline,
            groups: run.groups.into_iter().map(state).collect(),
            stage: Arc::new(StageCell::new()),
        }
    }
}

impl GroupState {
    fn outcome(&self, elapsed: Duration) -> GroupOutcome {
        GroupOutcome {
            name: self.group.name.clone(),
            unit: self.group.unit,
            clients: self.group.clients,
            connections: self.group.connections,
            is_counted: self.group.is_counted,
            summary: Summary::merge(self.recorders.iter().map(|recorder| &**recorder), elapsed),
        }
    }
}

/// The worker threads as the caller sees them. Dropped before the end, its channels close and the threads end.
struct Workers {
    handles: Vec<JoinHandle<()>>,
    go: watch::Sender<bool>,
    over: watch::Sender<bool>,
    reports: mpsc::Receiver<Report>,
    ended: usize,
}

impl Workers {
    fn start(shared: &Arc<Shared>) -> anyhow::Result<Self> {
        let (go, go_signal) = watch::channel(false);
        let (over, over_signal) = watch::channel(false);
        // Each thread sends two reports.
        let (report, reports) = mpsc::channel(2 * shared.threads);
        let spawn = |thread: usize| {
            let (shared, report) = (shared.clone(), report.clone());
            let (go, over) = (go_signal.clone(), over_signal.clone());
            let builder = std::thread::Builder::new().name(format!("load-{thread}"));
            builder.spawn(move || work(&shared, thread, &report, go, over))
        };
        let handles = (0..shared.threads).map(spawn).collect::<Result<_, _>>()?;
        Ok(Self { handles, go, over, reports, ended: 0 })
    }

    /// Waits until every thread has prepared its clients.
    async fn await_prepared(&mut self) -> anyhow::Result<()> {
        let all = async {
            for _ in 0..self.handles.len() {
                match self.reports.recv().await {
                    Some(Report::Prepared(outcome)) => outcome?,
                    Some(Report::Ended) | None => bail!("a load thread ended before its clients were prepared"),
                }
            }
            Ok(())
        };
        let late =
            || format!("the clients could not be prepared within {PREPARE_DEADLINE:?}; try fewer clients or watchers");
        tokio::time::timeout(PREPARE_DEADLINE, all).await.with_context(late)?
    }

    /// Waits until every thread has ended; the wait can be interrupted and repeated.
    async fn await_ended(&mut self) {
        while self.ended < self.handles.len() && self.reports.recv().await.is_some() {
            self.ended += 1;
        }
    }

    /// Tells the threads that the run is over, and waits for them.
    async fn end(mut self) -> anyhow::Result<()> {
        self.over.send_replace(true);
        self.await_ended().await;
        for handle in self.handles {
            if handle.join().is_err() {
                bail!("a load thread panicked");
            }
        }
        Ok(())
    }
}

/// Draws the progress bar for `limit`.
async fn observe(shared: &Shared, progress: &ProgressBar, limit: Duration, total: Option<u64>) {
    if progress.is_hidden() {
        if limit == Duration::MAX {
            return std::future::pending().await;
        }
        return tokio::time::sleep(limit).await;
    }
    let begin = Instant::now();
    let count = || -> u64 { shared.groups.iter().flat_map(|g| &g.recorders).map(|r| r.operations()).sum() };
    let (mut last, mut last_at) = (count(), begin);
    while begin.elapsed() < limit {
        tokio::time::sleep(PROGRESS_INTERVAL.min(limit.saturating_sub(begin.elapsed()))).await;
        let (now, at) = (count(), Instant::now());
        let rate = (now - last) as f64 / (at - last_at).as_secs_f64().max(1e-3);
        (last, last_at) = (now, at);
        let share = match total {
            Some(total) => {
                let taken: u64 = shared.groups.iter().map(|state| state.pace.taken()).sum();
                taken as f64 / (total * shared.groups.len() as u64).max(1) as f64
            }
            None => begin.elapsed().as_secs_f64() / limit.as_secs_f64(),
        };
        progress.set_length(1_000);
        progress.set_position((share.min(1.0) * 1e3) as u64);
        progress.set_message(format!("{now} operations, {rate:.0}/s"));
    }
}

/// A worker thread: one runtime, its share of the connections and clients.
fn work(
    shared: &Shared,
    thread: usize,
    report: &mpsc::Sender<Report>,
    mut go: watch::Receiver<bool>,
    mut over: watch::Receiver<bool>,
) {
    // The channel has room for every report; nobody listens any more when the run was given up.
    let send = |value| drop(report.try_send(value));
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return send(Report::Prepared(Err(CallError::Lost(format!("cannot start a runtime: {error}"))))),
    };
    runtime.block_on(async {
        let prepared = match prepare(shared, thread, &over).await {
            Ok(prepared) => prepared,
            Err(error) => return send(Report::Prepared(Err(error))),
        };
        send(Report::Prepared(Ok(())));
        if go.wait_for(|go| *go).await.is_err() {
            return;
        }
        let mut active = Vec::new();
        let mut passive = JoinSet::new();
        for (state, loops) in shared.groups.iter().zip(prepared) {
            let mut set = JoinSet::new();
            let target = if state.group.traffic.is_passive() { &mut passive } else { &mut set };
            for client in loops {
                target.spawn(client);
            }
            active.push((set, state.recorders[thread].clone()));
        }
        drain(active, over.clone()).await;
        send(Report::Ended);
        // Clients on other threads may go on, and need those here that only listen.
        drop(over.wait_for(|over| *over).await);
        drop(passive);
    });
}

/// Waits for the clients' loops; when the run is over they get [`DRAIN_DEADLINE`], and what is left counts as failed.
async fn drain(mut active: Vec<(JoinSet<()>, Arc<Recorder>)>, mut over: watch::Receiver<bool>) {
    let all = async {
        for (set, _) in &mut active {
            while set.join_next().await.is_some() {}
        }
    };
    let too_late = async {
        // An error means that the run was given up: the same as over.
        drop(over.wait_for(|over| *over).await);
        tokio::time::sleep(DRAIN_DEADLINE).await;
    };
    tokio::select! {
        () = all => return,
        () = too_late => {}
    }
    for (set, recorder) in &active {
        for _ in 0..set.len() {
            recorder.failure(&CallError::Deadline(DRAIN_DEADLINE));
        }
    }
}

/// Opens the connections of `thread` and prepares the clients on them, group by group.
async fn prepare(
    shared: &Shared,
    thread: usize,
    over: &watch::Receiver<bool>,
) -> Result<Vec<Vec<super::ClientLoop>>, CallError> {
    let mut prepared = Vec::with_capacity(shared.groups.len());
    for state in &shared.groups {
        let group = &state.group;
        let context = Arc::new(Context {
            pace: state.pace.clone(),
            recorder: state.recorders[thread].clone(),
            stage: shared.stage.clone(),
            over: over.clone(),
            deadline: shared.deadline,
        });
        let used = match group.traffic {
            Load::Grpc(_) => group.connections.min(group.clients).max(1),
            Load::Http(_) => group.clients,
        };
        let clients = FuturesUnordered::new();
        for number in (thread..used).step_by(shared.threads) {
            let endpoint = &shared.endpoints[number % shared.endpoints.len()];
            let traffic = match &group.traffic {
                Load::Grpc(traffic) => traffic,
                Load::Http(traffic) => {
                    let connection = http1::Connection::open(endpoint).await?;
                    let (endpoint, context) = (endpoint.clone(), context.clone());
                    clients.push(traffic.prepare(Client { connection, endpoint, index: number, context }));
                    continue;
                }
            };
            let connection = Connection::open(endpoint).await?;
            for index in (number..group.clients).step_by(used) {
                let (connection, endpoint) = (connection.clone(), endpoint.clone());
                clients.push(traffic.prepare(Client { connection, endpoint, index, context: context.clone() }));
            }
        }
        prepared.push(clients.try_collect().await?);
    }
    Ok(prepared)
}
