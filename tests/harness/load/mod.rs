//! Concurrent clients of a cluster that record everything they do and see.
//!
//! [`Load::start`] starts clients that read and write a few keys ([`client`]), clients that keep and lose leases
//! ([`lease`]) and watchers of all keys ([`watcher`]). Half of the clients stay with one endpoint, as a client with one
//! address does; the others move on when an answer does not come and try again, as client libraries do.
//! [`Load::finish`] ends them, waits until the watchers have been told everything, and returns the [`History`].

mod client;
mod lease;
mod watcher;

use crate::Client;
use crate::history::{History, KnownFaults, Nanos, Said};
use crate::tls::ClientTls;
use anyhow::{Context, Result, bail};
use api::etcdserverpb::{RangeRequest, StatusRequest};
use bytes::Bytes;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// After this a client treats a call as lost, if nobody has said otherwise.
pub(crate) const CALL_DEADLINE: Duration = Duration::from_secs(2);
/// How many lost calls a client that can move to another endpoint has time for before it tells its user.
pub(crate) const RETRIES: u32 = 5;
/// Between tries of anything.
pub(crate) const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// Leases end and watchers catch up within this time after the last fault.
const SETTLE_DEADLINE: Duration = Duration::from_mins(1);
/// Operations that one client records before it stops; a run by hand of hundred rounds stays below.
const MAX_OPS: usize = 1_000_000;
/// Prefix of the keys that have leases.
const LEASED: &str = "l/";

/// The client URLs of a cluster, which change while clients use it, and how to reach them.
#[derive(Clone, Debug, Default)]
pub struct Endpoints {
    urls: Arc<RwLock<Vec<String>>>,
    tls: Option<ClientTls>,
}

impl Endpoints {
    /// Those of a cluster that is reached with TLS.
    pub fn secure(tls: ClientTls) -> Self {
        Self { tls: Some(tls), ..Self::default() }
    }

    /// Replaces the list.
    pub fn set(&self, urls: Vec<String>) {
        *self.urls.write().unwrap_or_else(PoisonError::into_inner) = urls;
    }

    /// The endpoint of this number, counted around; `None` while there are none.
    pub fn get(&self, number: usize) -> Option<String> {
        let urls = self.urls.read().unwrap_or_else(PoisonError::into_inner);
        (!urls.is_empty()).then(|| urls[number % urls.len()].clone())
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.urls.read().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// How much of what.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Clients that read and write.
    pub clients: usize,
    /// Keys that they share.
    pub keys: usize,
    /// Between two operations of a client.
    pub pause: Duration,
    /// Clients that hold leases.
    pub lease_clients: usize,
    /// Watchers of all keys.
    pub watchers: usize,
    /// Operations in a hundred that write; the others read.
    pub writes: u32,
    /// After this a client treats a call as lost.
    pub patience: Duration,
}

impl Default for LoadOptions {
    fn default() -> Self {
        let pause = Duration::from_millis(5);
        Self { clients: 8, keys: 6, pause, lease_clients: 2, watchers: 3, writes: 55, patience: CALL_DEADLINE }
    }
}

/// What all tasks of a load share.
#[derive(Clone, Debug)]
struct Shared {
    endpoints: Endpoints,
    epoch: Instant,
    stopping: watch::Receiver<bool>,
    /// As of [`LoadOptions`].
    patience: Duration,
}

impl Shared {
    fn now(&self) -> Nanos {
        self.epoch.elapsed().as_nanos() as Nanos
    }

    fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// Waits, but not beyond the end of the load.
    async fn pause(&mut self, time: Duration) {
        // Both ends of the wait are fine, and so is a load that was dropped.
        drop(tokio::time::timeout(time, self.stopping.wait_for(|stopping| *stopping)).await);
    }
}

/// A connection that is made again when a call failed.
#[derive(Debug)]
struct Connection {
    endpoints: Endpoints,
    number: usize,
    client: Option<Client>,
    url: String,
}

impl Connection {
    fn new(endpoints: &Endpoints, number: usize) -> Self {
        Self { endpoints: endpoints.clone(), number, client: None, url: String::new() }
    }

    /// The client, connected; `None` when the endpoint cannot be reached.
    async fn client(&mut self) -> Option<Client> {
        if self.client.is_none() {
            self.url = self.endpoints.get(self.number)?;
            let connected =
                tokio::time::timeout(CALL_DEADLINE, Client::connect_with(&self.url, self.endpoints.tls.as_ref())).await;
            self.client = connected.ok().and_then(Result::ok);
        }
        self.client.clone()
    }

    /// The URL that was connected to last.
    fn endpoint(&self) -> String {
        self.url.clone()
    }

    /// Forgets the connection, and takes the next endpoint if told so.
    fn lost(&mut self, next: bool) {
        self.client = None;
        self.number += usize::from(next);
    }
}

/// Running clients.
#[derive(Debug)]
pub struct Load {
    shared: Shared,
    stop: watch::Sender<bool>,
    until: watch::Sender<Option<i64>>,
    clients: Vec<JoinHandle<client::Record>>,
    leases: Vec<JoinHandle<lease::Record>>,
    watchers: Vec<JoinHandle<crate::history::WatchLog>>,
    settled: Nanos,
    compacted: i64,
}

impl Load {
    /// Starts clients of a cluster with an empty store.
    pub fn start(endpoints: &Endpoints, options: &LoadOptions) -> Self {
        let (stop, stopping) = watch::channel(false);
        let (until, ends) = watch::channel(None);
        let shared =
            Shared { endpoints: endpoints.clone(), epoch: Instant::now(), stopping, patience: options.patience };
        let clients = (0..options.clients)
            .map(|number| tokio::spawn(client::run(shared.clone(), number, options.clone())))
            .collect();
        let leases =
            (0..options.lease_clients).map(|number| tokio::spawn(lease::run(shared.clone(), number))).collect();
        let watchers = (0..options.watchers)
            .map(|number| tokio::spawn(watcher::run(shared.clone(), number, number, ends.clone())))
            .collect();
        Self { shared, stop, until, clients, leases, watchers, settled: 0, compacted: 0 }
    }

    /// The time by the clock of the history.
    pub fn now(&self) -> Nanos {
        self.shared.now()
    }

    /// Says that all faults have ended.
    pub fn settled(&mut self) {
        self.settled = self.shared.now();
    }

    /// Says that a revision was asked to be compacted.
    pub fn compacted(&mut self, revision: i64) {
        self.compacted = revision;
    }

    /// Ends all clients and returns what they recorded.
    pub async fn finish(mut self) -> Result<History> {
        self.stop.send_replace(true);
        let mut history = History { start: 1, compacted: self.compacted, settled: self.settled, ..History::default() };
        for task in self.clients.drain(..) {
            let record = task.await?;
            history.ops.extend(record.ops);
            history.failed_requests += record.failed_requests;
        }
        for task in self.leases.drain(..) {
            let record = task.await?;
            history.leases.extend(record.leases);
            history.ops.extend(record.ops);
        }
        history.end = self.last_revision().await?;
        history.ended = self.shared.now();
        history.known_faults = KnownFaults::of(&self.version().await?);
        self.until.send_replace(Some(history.end));
        // Whoever asks every member at the end is told the same as those who were there.
        for number in 0..self.shared.endpoints.count() {
            history.ops.extend(client::last_read(&self.shared, number, history.end).await);
            let watcher = watcher::run(self.shared.clone(), self.watchers.len(), number, self.until.subscribe());
            self.watchers.push(tokio::spawn(watcher));
        }
        for mut task in self.watchers.drain(..) {
            let Ok(log) = tokio::time::timeout(SETTLE_DEADLINE, &mut task).await else {
                task.abort();
                bail!("a watcher was not told everything up to {} in {SETTLE_DEADLINE:?}", history.end);
            };
            history.watches.push(log?);
        }
        forget_after_the_end(&mut history);
        Ok(history)
    }

    /// Waits until no lease has keys, or long enough for the checker to complain, and returns the last revision.
    async fn last_revision(&self) -> Result<i64> {
        let deadline = Instant::now() + SETTLE_DEADLINE;
        let mut connection = Connection::new(&self.shared.endpoints, 0);
        let (key, range_end) = (Bytes::from_static(LEASED.as_bytes()), Bytes::from_static(b"l0"));
        let mut last = None;
        while Instant::now() < deadline {
            if let Some(mut client) = connection.client().await {
                let request = RangeRequest { key: key.clone(), range_end: range_end.clone(), ..Default::default() };
                if let Ok(Ok(range)) = tokio::time::timeout(CALL_DEADLINE, client.kv.range(request)).await {
                    let range = range.into_inner();
                    last = range.header.map(|header| header.revision);
                    if range.kvs.is_empty() {
                        break;
                    }
                } else {
                    connection.lost(true);
                }
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
        last.context("the cluster did not answer after the last fault")
    }

    /// The version that the first member to answer tells.
    async fn version(&self) -> Result<String> {
        let mut connection = Connection::new(&self.shared.endpoints, 0);
        for _ in 0..=self.shared.endpoints.count() {
            if let Some(mut client) = connection.client().await {
                let asked = tokio::time::timeout(CALL_DEADLINE, client.maintenance.status(StatusRequest {})).await;
                if let Ok(Ok(status)) = asked {
                    return Ok(status.into_inner().version);
                }
            }
            connection.lost(true);
        }
        bail!("no member answered a status request")
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // A failing test leaves no tasks that talk to its servers.
        self.clients.iter().for_each(JoinHandle::abort);
        self.leases.iter().for_each(JoinHandle::abort);
        self.watchers.iter().for_each(JoinHandle::abort);
    }
}

/// An operation of unknown outcome may take effect after everything else has ended.
fn forget_after_the_end(history: &mut History) {
    let end = history.end;
    for record in history.watches.iter_mut().flat_map(|watch| &mut watch.records) {
        match &mut record.said {
            Said::Events(_, events) => events.retain(|event| event.kv.modified <= end),
            Said::Progress(revision) => *revision = end.min(*revision),
            Said::Created(_) | Said::Compacted(_) => {}
        }
    }
}
