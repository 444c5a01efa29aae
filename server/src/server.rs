//! The whole member: the only place that wires its parts and spawns its tasks.
//!
//! Start order: data directory, identity, log, store, raft, leadership, services, listeners. Shutdown is the reverse:
//! stop accepting, end streams and calls, stop the tasks, stop raft, flush and close the store. A part that breaks
//! reports once through [`Server::fault`], and the process ends without answering anything more.

use crate::bootstrap::{self, BootstrapError, FILE as IDENTITY_FILE};
use crate::compactor;
use crate::config::{Config, MetricsLevel};
use crate::data_dir::{DataDir, DataDirError};
use crate::health::{Alarm, GrpcHealth, HealthChecks};
use crate::http::{self, AccessRules, HttpState};
use crate::lessor::Lessor;
use crate::listen::{Bound, Front, GrpcRoutes, LeaderGate, ListenError, ListenSettings, Listeners};
use crate::metrics::Metrics;
use crate::node::{Identity, Limits, Node};
use crate::quota::Quota;
use crate::raft::log_store::{LogExtent, LogStore, LogStoreOptions};
use crate::raft::network::Alone;
use crate::raft::state_machine::{StateMachine, raft_position};
use crate::raft::types::{LogId, Peer, Raft};
use crate::raft::wal::{WalError, WalStats};
use crate::storage::{DatabaseFailure, FLUSH_EARLY_BYTES, FaultSender, Pace, Storage};
use crate::v3::cluster::ClusterService;
use crate::v3::kv::KvService;
use crate::v3::lease::{LeaseService, proposer};
use crate::v3::maintenance::MaintenanceService;
use crate::v3::watch::WatchService;
use crate::watch::hub::Hub;
use api::cleatpb::MemberAttributes;
use api::cleatpb::command::Op;
use api::etcdserverpb::{AlarmType, RangeRequest};
use api::server::cluster_server::ClusterServer;
use api::server::health_server::HealthServer;
use api::server::kv_server::KvServer;
use api::server::lease_server::LeaseServer;
use api::server::maintenance_server::MaintenanceServer;
use api::server::watch_server::WatchServer;
use openraft::async_runtime::WatchReceiver;
use openraft::{ServerState, SnapshotPolicy};
use parking_lot::Mutex;
use prometheus::IntCounter;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use store::{Applied, Notice, Reader};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What a request may take beside its payload: the gRPC frame limit is that much higher. etcd's figure.
const REQUEST_OVERHEAD_BYTES: usize = 512 << 10;

/// How long the only voter may take to elect itself: two writes to the log.
const ELECTION_DEADLINE: Duration = Duration::from_secs(30);

/// How long calls under way may take when the member stops.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// How often the log is looked at for what can be purged.
const PURGE_INTERVAL: Duration = Duration::from_millis(100);

/// A snapshot is a position and costs nothing, but raft takes it behind what it is doing.
const SNAPSHOT_DEADLINE: Duration = Duration::from_secs(1);

/// Segments kept for members that are a little behind, however few entries they hold; the one that is being written is
/// one of them.
const CATCH_UP_SEGMENTS: u64 = 6;

/// Log entries kept behind what is durable in the store, for members that are a little behind.
const CATCH_UP_ENTRIES: u64 = 5000;

/// Why a member did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The member's ids are not known.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    /// The log cannot be used.
    #[error(transparent)]
    Log(#[from] WalError),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] DatabaseFailure),
    /// The ids in the data directory are not those that its log was written with.
    #[error(
        "data directory {}: its log has no member {member_id:x}, which its {IDENTITY_FILE} file names: put back the file \
         that belongs to it, or the whole directory from a copy",
        dir.display()
    )]
    OtherMember {
        /// The data directory.
        dir: PathBuf,
        /// The id that the file names.
        member_id: u64,
    },
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Consensus did not start.
    #[error("raft did not start: {0}")]
    Raft(String),
    /// The metrics could not be registered, or a thread not be started.
    #[error("cannot start: {0}")]
    Internal(String),
}

/// A running member.
pub struct Server {
    node: Node,
    log: LogExtent,
    storage: Storage,
    storage_thread: std::thread::JoinHandle<()>,
    hub: Arc<Hub>,
    lessor: Arc<Lessor>,
    listeners: Listeners,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// False once the member stops: gRPC health checks send clients elsewhere.
    serving: watch::Sender<bool>,
    faults: mpsc::Receiver<String>,
    /// Holds the lock on the data directory until the end.
    _data_dir: DataDir,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("identity", &self.node.identity()).finish_non_exhaustive()
    }
}

/// The open parts below the services.
struct Core {
    raft: Raft<StateMachine>,
    reader: Reader,
    log: Arc<WalStats>,
    log_extent: LogExtent,
    storage: Storage,
    storage_thread: std::thread::JoinHandle<()>,
    hub: Arc<Hub>,
    lessor: Arc<Lessor>,
}

impl Server {
    /// Starts a member and returns once it serves clients.
    ///
    /// # Errors
    /// [`StartError`], with what to do about it. Nothing is left running.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let metrics = Metrics::new(config.metrics == MetricsLevel::Extensive)
            .map_err(|error| StartError::Internal(error.to_string()))?;
        let data_dir = DataDir::open(&config.data_dir)?;
        let identity = bootstrap::identity(data_dir.path(), &config)?;
        let (fault_sender, faults) = mpsc::channel(1);
        let core = open_core(&config, &data_dir, identity, &metrics, fault_sender.clone()).await?;
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let limits = Limits {
            request_bytes: config.max_request_bytes,
            // etcd's: long enough for a change of leader.
            request_timeout: Duration::from_secs(5) + 2 * config.election_timeout,
        };
        let node = Node::start(core.raft, core.reader, core.log, identity, limits, &tasks, &stop);
        let mut server = Self {
            node,
            log: core.log_extent,
            storage: core.storage,
            storage_thread: core.storage_thread,
            hub: core.hub,
            lessor: core.lessor,
            listeners: Listeners::new(&ListenSettings::new(&config), &metrics),
            tasks,
            stop,
            serving: watch::Sender::new(true),
            faults,
            _data_dir: data_dir,
        };
        if let Err(error) = server.serve(&config, &metrics, &fault_sender).await {
            server.stop_parts().await;
            return Err(error);
        }
        Ok(server)
    }

    /// Everything that needs the node: leadership, tasks, services, listeners.
    async fn serve(&mut self, config: &Config, metrics: &Arc<Metrics>, faults: &FaultSender) -> Result<(), StartError> {
        let node = self.node.clone();
        node.ready().await.map_err(|error| StartError::Raft(error.text().to_owned()))?;
        let quota = Arc::new(Quota::new(config.quota_bytes, &node));
        export_metrics(metrics, &node, &quota, (Arc::clone(&self.hub), Arc::clone(&self.lessor)));
        self.tasks.spawn(lead_leases(node.clone(), Arc::clone(&self.lessor), self.stop.clone()));
        let lessor = Arc::clone(&self.lessor);
        let (propose, stop) = (proposer(node.clone()), self.stop.clone());
        self.tasks.spawn(async move { lessor.run(propose, stop).await });
        self.tasks.spawn(watch_raft(node.clone(), faults.clone(), self.stop.clone()));
        self.tasks.spawn(purge_log(node.clone(), self.log.clone(), config.snapshot_count, self.stop.clone()));
        self.tasks.spawn(Arc::clone(&quota).watch_space(node.clone(), self.stop.clone()));
        if let Some(mode) = config.auto_compaction {
            self.tasks.spawn(compactor::run(node.clone(), mode, self.stop.clone()));
        }
        publish(&node, config).await;

        let routes = self.routes(config, metrics, &quota);
        let checks = Arc::new(health_checks(&node));
        let state = HttpState { metrics: Arc::clone(metrics), checks };
        let rules = AccessRules { cors: config.cors.clone(), host_whitelist: config.host_whitelist.clone() };
        let http = http::guarded(http::router(state.clone()), rules);
        let clients = if config.listen_client_http_urls.is_empty() {
            Front::both(routes, http.clone())
        } else {
            Front::grpc_only(routes)
        };
        let metrics_front = Front::http_only(http::metrics_router(state));
        let http_front = Front::http_only(http);
        for (urls, front) in [
            (&config.listen_client_urls, &clients),
            (&config.listen_client_http_urls, &http_front),
            (&config.listen_metrics_urls, &metrics_front),
        ] {
            for url in urls {
                let bound = Bound::new(url, config.socket_reuse_port).await?;
                self.listeners.serve(bound, front);
            }
        }
        Ok(())
    }

    fn routes(&self, config: &Config, metrics: &Arc<Metrics>, quota: &Arc<Quota>) -> Arc<GrpcRoutes> {
        let node = self.node.clone();
        let max_message = config.max_request_bytes + REQUEST_OVERHEAD_BYTES;
        // The routes refuse larger messages in etcd's words; the generated services must not be stricter.
        let decode = 2 * max_message;
        let kv = KvService {
            node: node.clone(),
            storage: self.storage.clone(),
            quota: Arc::clone(quota),
            max_txn_ops: config.max_txn_ops,
            metrics: metrics.mvcc.clone(),
        };
        let maintenance = MaintenanceService {
            node: node.clone(),
            storage: self.storage.clone(),
            quota: Arc::clone(quota),
            metrics: Arc::clone(metrics),
        };
        let failures = &metrics.network.stream_failures;
        let watch = WatchService {
            node: node.clone(),
            hub: Arc::clone(&self.hub),
            progress_interval: config.watch_progress_notify_interval,
            stop: self.stop.clone(),
            failures: failures.with_label_values(&["receive", "watch"]),
        };
        let failures = failures.with_label_values(&["receive", "lease-keepalive"]);
        let lease = LeaseService::new(node.clone(), Arc::clone(&self.lessor), Arc::clone(quota), failures);
        let health = GrpcHealth::new(self.serving.subscribe());
        let asked = node.clone();
        let leader = LeaderGate::new(move || asked.leader() != 0);
        self.tasks.spawn(Arc::clone(&leader).watch(config.election_timeout, self.stop.clone()));
        let routes = GrpcRoutes::new(Arc::clone(metrics), max_message, config.warning_unary_request_duration, leader)
            .with(KvServer::new(kv).max_decoding_message_size(decode).max_encoding_message_size(usize::MAX))
            .with(MaintenanceServer::new(maintenance).max_decoding_message_size(decode))
            .with(WatchServer::new(watch).max_decoding_message_size(decode).max_encoding_message_size(usize::MAX))
            .with(LeaseServer::new(lease).max_decoding_message_size(decode))
            .with(HealthServer::new(health))
            .with(ClusterServer::new(ClusterService { node }).max_decoding_message_size(decode));
        Arc::new(routes)
    }

    /// Who this member is, for the log: member id and cluster id.
    pub fn ids(&self) -> (u64, u64) {
        let Identity { cluster_id, member_id } = self.node.identity();
        (member_id, cluster_id)
    }

    /// Returns when a part of the member is broken, with the reason. The process must end then.
    pub async fn fault(&mut self) -> String {
        self.faults.recv().await.unwrap_or_else(|| "the fault channel is closed".to_owned())
    }

    /// Stops the member: ends calls and streams, then flushes and closes the store.
    pub async fn shutdown(self) {
        self.serving.send_replace(false);
        self.stop.cancel();
        self.listeners.shutdown(SHUTDOWN_GRACE).await;
        self.stop_parts().await;
    }

    async fn stop_parts(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        if let Err(error) = self.node.raft().shutdown().await {
            tracing::warn!(%error, "raft did not stop in order");
        }
        self.storage.stop();
        let joined = tokio::task::spawn_blocking(move || self.storage_thread.join().is_ok()).await;
        if !matches!(joined, Ok(true)) {
            tracing::error!("the storage thread did not end in order");
        }
    }
}

/// Opens log and store and starts raft on them.
async fn open_core(
    config: &Config,
    data_dir: &DataDir,
    identity: Identity,
    metrics: &Arc<Metrics>,
    faults: FaultSender,
) -> Result<Core, StartError> {
    let wal_dir = config.wal_dir.clone().unwrap_or_else(|| data_dir.member().join("wal"));
    let database = data_dir.member().join("store.redb");
    LogStore::check_exists(&wal_dir, &database)?;
    let log = LogStore::open(&wal_dir, log_options(config, metrics, faults.clone()))?;
    let (log_stats, log_extent) = (log.stats(), log.extent());
    let (writer, flusher, reader) =
        store::open(&database, store::Options::default()).map_err(|fault| DatabaseFailure::new(&database, fault))?;
    log.check_follows(&wal_dir, &database, raft_position(reader.applied().0))?;
    let pace = Pace {
        flush_interval: config.flush_interval,
        compaction_keys: config.compaction_batch_limit,
        compaction_pause: config.compaction_sleep_interval,
    };
    let commits = metrics.disk.backend_commit_seconds.clone();
    let mvcc = metrics.mvcc.clone();
    let compaction = Arc::new(Mutex::new(None));
    let begun = Arc::clone(&compaction);
    let on_flush = move |flushed: &store::Flushed, took: Duration| {
        if flushed.compaction_finished.is_some() {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            mvcc.db_compaction_last.set(now.as_secs() as i64);
            // One that a restart interrupted has no beginning to count from.
            if let Some(begun) = begun.lock().take() {
                mvcc.db_compaction_total_ms.observe(Instant::elapsed(&begun).as_secs_f64() * 1000.0);
            }
        }
        if flushed.changes > 0 || flushed.deleted > 0 {
            commits.observe(took.as_secs_f64());
            mvcc.db_compaction_keys.inc_by(flushed.deleted as u64);
        }
    };
    let (storage, storage_thread) = Storage::start(flusher, &database, pace, Box::new(on_flush), faults)
        .map_err(|error| StartError::Internal(error.to_string()))?;
    let hub = Arc::new(Hub::new(reader.revision()));
    let lessor = Arc::new(Lessor::new(config.election_timeout));
    let parts = Observed {
        metrics: Arc::clone(metrics),
        reader: reader.clone(),
        storage: storage.clone(),
        hub: Arc::clone(&hub),
        lessor: Arc::clone(&lessor),
        slow_apply: config.warning_apply_duration,
        compaction,
    };
    let observer = parts.observer();
    let state_machine = StateMachine::new(writer, reader.clone(), observer);
    let raft = Raft::new(identity.member_id, raft_config(config)?, Alone, log, state_machine)
        .await
        .map_err(|error| StartError::Raft(error.to_string()))?;
    lead(&raft, identity, config, data_dir).await?;
    Ok(Core { raft, reader, log: log_stats, log_extent, storage, storage_thread, hub, lessor })
}

fn log_options(config: &Config, metrics: &Arc<Metrics>, faults: FaultSender) -> LogStoreOptions {
    let fsync = metrics.disk.wal_fsync_seconds.clone();
    if config.unsafe_no_fsync {
        tracing::warn!("--unsafe-no-fsync: a crash loses acknowledged writes");
    }
    LogStoreOptions {
        sync: !config.unsafe_no_fsync,
        on_sync: Box::new(move |took| fsync.observe(took.as_secs_f64())),
        on_fault: Box::new(move |error| {
            // A report that does not fit joins one that is being handled.
            drop(faults.try_send(error.to_string()));
        }),
        ..LogStoreOptions::default()
    }
}

/// What hears of every applied batch.
struct Observed {
    metrics: Arc<Metrics>,
    reader: Reader,
    storage: Storage,
    hub: Arc<Hub>,
    lessor: Arc<Lessor>,
    slow_apply: Duration,
    /// When the compaction began that is not finished.
    compaction: Arc<Mutex<Option<Instant>>>,
}

impl Observed {
    fn observer(self) -> crate::raft::state_machine::Observer {
        Box::new(move |applied, took| {
            self.hub.publish(&applied.changes);
            self.lessor.observe(&applied.notices);
            if self.reader.tail_bytes() > FLUSH_EARLY_BYTES {
                self.storage.flush_soon();
            }
            self.count(applied);
            if took > self.slow_apply {
                self.metrics.server.slow_apply.inc();
                tracing::warn!(?took, expected = ?self.slow_apply, "apply request took too long");
            }
        })
    }

    fn count(&self, applied: &Applied) {
        let (mut puts, mut deletes, mut put_bytes) = (0, 0, 0);
        for event in applied.changes.iter().flat_map(|change| &change.events) {
            if event.deleted {
                deletes += 1;
            } else {
                puts += 1;
                put_bytes += event.kv.as_bytes().len();
            }
        }
        self.metrics.mvcc.total_put_size_bytes.add(put_bytes as i64);
        self.metrics.mvcc.puts.inc_by(puts);
        self.metrics.mvcc.deletes.inc_by(deletes);
        for notice in &applied.notices {
            match notice {
                Notice::LeaseGranted { ttl, .. } => {
                    self.metrics.lease.granted.inc();
                    self.metrics.lease.ttl_seconds.observe(*ttl as f64);
                }
                Notice::LeaseRevoked { .. } => self.metrics.lease.revoked.inc(),
                Notice::Compacted { .. } => {
                    self.compaction.lock().get_or_insert_with(Instant::now);
                }
                Notice::LeaseCheckpointed { .. } | Notice::AlarmsChanged => {}
            }
        }
    }
}

fn raft_config(config: &Config) -> Result<Arc<openraft::Config>, StartError> {
    let election_ms = config.election_timeout.as_millis() as u64;
    let raft = openraft::Config {
        cluster_name: config.initial_cluster_token.clone(),
        heartbeat_interval: config.heartbeat_interval.as_millis() as u64,
        // A follower also waits for the leader's lease, as long as the maximum: the sum is etcd's range.
        election_timeout_min: election_ms * 45 / 100,
        election_timeout_max: election_ms * 60 / 100,
        enable_pre_vote: Some(config.pre_vote),
        // Until [`lead`] allows it.
        enable_elect: false,
        // A leader that resumed its old term would count as caught up before it has applied its log again.
        enable_leader_restore: Some(false),
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: CATCH_UP_ENTRIES,
        ..openraft::Config::default()
    };
    raft.validate().map(Arc::new).map_err(|error| StartError::Raft(error.to_string()))
}

/// Makes a new cluster of this member, or takes up leadership after a restart without waiting for a timeout: the only
/// voter has nobody to wait for.
async fn lead(
    raft: &Raft<StateMachine>,
    identity: Identity,
    config: &Config,
    data_dir: &DataDir,
) -> Result<(), StartError> {
    let raft_error = |error: &dyn std::fmt::Display| StartError::Raft(error.to_string());
    if raft.is_initialized().await.map_err(|error| raft_error(&error))? {
        let is_known =
            raft.metrics().borrow_watched().membership_config.membership().get_node(&identity.member_id).is_some();
        if !is_known {
            return Err(StartError::OtherMember { dir: data_dir.path().to_owned(), member_id: identity.member_id });
        }
    } else {
        let peer = Peer { peer_urls: config.initial_advertise_peer_urls.clone(), joins_as_voter: true };
        let members = BTreeMap::from([(identity.member_id, peer)]);
        raft.initialize(members).await.map_err(|error| raft_error(&error))?;
    }
    if raft.voter_ids().eq([identity.member_id]) {
        raft.trigger().elect(false).await.map_err(|error| raft_error(&error))?;
        let elected = raft.wait(Some(ELECTION_DEADLINE)).state(ServerState::Leader, "the only voter leads").await;
        elected.map_err(|error| raft_error(&error))?;
    }
    // Not before: an election by the clock beside this one makes openraft warn of answers from another term.
    raft.runtime_config().elect(true);
    Ok(())
}

/// Tells the cluster this member's name and client URLs, unless it knows them.
async fn publish(node: &Node, config: &Config) {
    let member_id = node.identity().member_id;
    let attributes =
        MemberAttributes { member_id, name: config.name.clone(), client_urls: config.advertise_client_urls.clone() };
    if node.reader().member(member_id).as_ref() == Some(&attributes) {
        return;
    }
    match node.propose(Op::MemberAttributes(attributes)).await {
        Ok(_) => tracing::info!(name = config.name, "published local member to cluster through raft"),
        Err(error) => tracing::warn!(%error, "cannot publish this member's name and client URLs"),
    }
}

/// Reports when raft stops by itself: its storage failed.
async fn watch_raft(node: Node, faults: FaultSender, stop: CancellationToken) {
    // These change rarely, and end with raft; the full metrics change with every write.
    let mut metrics = node.raft().server_metrics();
    let mut stopped = pin!(stop.cancelled());
    loop {
        let is_over = tokio::select! {
            changed = metrics.changed() => changed.is_err(),
            () = &mut stopped => return,
        };
        if let Err(fatal) = &node.raft().metrics().borrow_watched().running_state {
            tracing::error!(error = %fatal, "raft stopped");
            // A report that does not fit joins one that is being handled.
            drop(faults.try_send(fatal.to_string()));
            return;
        }
        if is_over {
            return;
        }
    }
}

/// Runs the lease clock while this member leads.
async fn lead_leases(node: Node, lessor: Arc<Lessor>, stop: CancellationToken) {
    let mut leads_in = node.leads_in();
    loop {
        match *leads_in.borrow_and_update() {
            Some(_) => lessor.promote(|| node.reader().leases()),
            None => lessor.demote(),
        }
        tokio::select! {
            changed = leads_in.changed() => if changed.is_err() { return },
            () = stop.cancelled() => return,
        }
    }
}

/// Lets raft drop the part of the log that the store holds durably, but for a piece for members that are a little
/// behind: bounded in entries by raft's settings, in bytes here, because an entry may hold a thousand writes.
async fn purge_log(node: Node, log: LogExtent, snapshot_count: u64, stop: CancellationToken) {
    let mut covered = node.reader().durable().0.index;
    let mut purged_to = 0;
    let mut stopped = pin!(stop.cancelled());
    loop {
        tokio::select! {
            () = tokio::time::sleep(PURGE_INTERVAL) => {}
            () = &mut stopped => return,
        }
        let durable = node.reader().durable().0.index;
        let kept = if node.is_alone() { 1 } else { CATCH_UP_SEGMENTS };
        let keep_from = log.first_in_newest(kept).unwrap_or(0).min(durable);
        if keep_from <= purged_to && durable - covered < snapshot_count {
            continue;
        }
        let raft = node.raft();
        if raft.trigger().snapshot().await.is_err() {
            return;
        }
        // Raft purges only what a snapshot covers; positions of the store count from 1.
        let covers = |at: Option<LogId>| at.is_some_and(|id| id.index + 1 >= durable);
        let wait = raft.wait(Some(SNAPSHOT_DEADLINE));
        if let Err(error) = wait.metrics(|now| covers(now.snapshot), "the snapshot covers the store").await {
            tracing::debug!(%error, "the log is not purged this time");
            continue;
        }
        if keep_from > purged_to && raft.trigger().purge_log(keep_from - 1).await.is_err() {
            return;
        }
        (covered, purged_to) = (durable, keep_from.max(purged_to));
    }
}

fn health_checks(node: &Node) -> HealthChecks {
    let (leader, alarms, local, current) = (node.clone(), node.clone(), node.clone(), node.clone());
    HealthChecks {
        has_leader: Box::new(move || leader.leader() != 0),
        is_learner: Box::new(|| false),
        alarms: Box::new(move || {
            let raised = alarms.reader().alarms(AlarmType::None as i32);
            let known = |alarm: i32| match AlarmType::try_from(alarm) {
                Ok(AlarmType::Nospace) => Some(Alarm::NoSpace),
                Ok(AlarmType::Corrupt) => Some(Alarm::Corrupt),
                _ => None,
            };
            raised.iter().filter_map(|member| known(member.alarm)).collect()
        }),
        serializable_read: Box::new(move || {
            let node = local.clone();
            Box::pin(async move { read_something(&node) })
        }),
        linearizable_read: Box::new(move || {
            let node = current.clone();
            Box::pin(async move {
                node.read_barrier().await.map_err(|error| error.to_string())?;
                read_something(&node)
            })
        }),
    }
}

/// Reads a key that need not exist, as etcd's checks do.
fn read_something(node: &Node) -> Result<(), String> {
    let request = RangeRequest { key: "health".into(), limit: 1, ..Default::default() };
    node.reader().range(&request).map(drop).map_err(|error| error.to_string())
}

/// Shows a count that is kept elsewhere.
fn show(counter: &IntCounter, count: u64) {
    counter.reset();
    counter.inc_by(count);
}

/// Sets the gauges that are read from state when somebody asks.
fn export_metrics(metrics: &Arc<Metrics>, node: &Node, quota: &Quota, (hub, lessor): (Arc<Hub>, Arc<Lessor>)) {
    let server_id = format!("{:x}", node.identity().member_id);
    metrics.server.id.with_label_values(&[&server_id]).set(1);
    metrics.server.quota_bytes.set(quota.limit_bytes() as i64);
    let node = node.clone();
    metrics.on_scrape(move |metrics| {
        let store = node.reader().status();
        let server = &metrics.server;
        server.has_leader.set(i64::from(node.leader() != 0));
        server.is_leader.set(i64::from(node.is_leader()));
        server.proposals_committed.set(node.committed() as i64);
        server.proposals_applied.set(store.applied.index as i64);
        show(&server.proposals_failed, node.stats().failed());
        show(&server.read_indexes_failed, node.stats().reads_failed());
        show(&server.slow_read_indexes, node.stats().reads_timed_out());
        show(&server.leader_changes, node.leader_changes());
        show(&server.lease_expired, lessor.stats().expired());
        show(&metrics.lease.renewed, lessor.stats().renewed());
        server.proposals_pending.set(node.stats().pending() as i64);
        metrics.disk.wal_write_bytes.set(node.log_bytes() as i64);
        metrics.mvcc.db_size_bytes.set(store.file_bytes as i64);
        metrics.mvcc.db_size_in_use_bytes.set(store.stored_bytes as i64);
        metrics.mvcc.keys.set(store.keys as i64);
        let watch = hub.stats();
        metrics.mvcc.watch_streams.set(watch.streams.get() as i64);
        metrics.mvcc.watchers.set(watch.watchers.get() as i64);
        metrics.mvcc.slow_watchers.set(watch.unsynced.get() as i64);
        show(&metrics.mvcc.events, watch.events.get());
        metrics.mvcc.pending_events.set(watch.pending.get() as i64);
        metrics.mvcc.current_revision.set(store.revision);
        metrics.mvcc.compact_revision.set(store.compacted);
    });
}
