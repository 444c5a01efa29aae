//! Opens what is below the services: log, store, raft, and how they hear of each other.

use crate::assembly;
use crate::auth::feed::Feed;
use crate::auth::simple::SimpleTokens;
use crate::background::{EndSender, fault_sender};
use crate::bootstrap::{self, Beginning};
use crate::config::{Config, InitialClusterState};
use crate::data_dir::DataDir;
use crate::lessor::Lessor;
use crate::metrics::{Kind, Metrics};
use crate::node::Identity;
use crate::node::forwards::Forwards;
use crate::peer::limit::message_bytes_max;
use crate::peer::link::{Caller, Links};
use crate::peer::traffic::PeersTraffic;
use crate::raft::alone;
use crate::raft::catch_up::CatchUps;
use crate::raft::log_store::{LogExtent, LogStore, LogStoreOptions};
use crate::raft::network::{Majority, Network};
use crate::raft::snapshot::Receiver;
use crate::raft::state_machine::{Observer, StateMachine, raft_position};
use crate::raft::types::Raft;
use crate::raft::wal::WalStats;
use crate::server::StartError;
use crate::steady_clock::SteadyClock;
use crate::storage::{
    DatabaseFailure, FLUSH_EARLY_BYTES, FaultSender, FlushObserver, Pace, Storage, TREE_FLUSH_EARLY_BYTES,
};
use crate::tls::PeerConnector;
use crate::v2::hub::Hub as V2Hub;
use crate::watch::hub::Hub;
use api::cleatpb::command::Op;
use api::error::Error;
use openraft::async_runtime::WatchReceiver;
use openraft::storage::RaftLogStorage as _;
use openraft::{ServerState, SnapshotPolicy};
use parking_lot::Mutex;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use store::{Applied, Flusher, Notice, Outcome, Reader, Writer};

/// How long the founding may take: one write to the log.
const FOUNDING_DEADLINE: Duration = Duration::from_secs(30);

/// How long the only voter may take to elect itself: two writes to the log.
const ELECTION_DEADLINE: Duration = Duration::from_secs(30);

/// How long a snapshot may take; a receiver that takes nothing is given up much earlier.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_hours(1);

/// The open parts below the services.
pub(crate) struct Core {
    pub(crate) raft: Raft<StateMachine>,
    pub(crate) reader: Reader,
    pub(crate) log: Arc<WalStats>,
    pub(crate) log_extent: LogExtent,
    pub(crate) storage: Storage,
    pub(crate) storage_thread: std::thread::JoinHandle<()>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) v2_hub: Arc<V2Hub>,
    pub(crate) lessor: Arc<Lessor>,
    pub(crate) auth_feed: Arc<Feed>,
    pub(crate) links: Arc<Links>,
    pub(crate) traffic: Arc<PeersTraffic>,
    pub(crate) catch_ups: CatchUps,
    pub(crate) forwards: Arc<Forwards>,
    pub(crate) majority: Majority,
    pub(crate) snapshots: Receiver,
    /// There is no log, and other members may know why: `newcomer` decides, then comes [`found`].
    pub(crate) is_newcomer: bool,
}

/// Opens log and store and starts raft on them. Long because every part that it opens is handed on by name.
pub(crate) async fn open_core(
    config: &Config,
    data_dir: &DataDir,
    beginning: &Beginning,
    metrics: &Arc<Metrics>,
    (ends, connector): (EndSender, PeerConnector),
) -> Result<Core, StartError> {
    let identity = beginning.identity;
    let faults = fault_sender(ends);
    let wal_dir = config.wal_dir.clone().unwrap_or_else(|| data_dir.member().join("wal"));
    let database = data_dir.member().join("store.redb");
    let OnDisk { mut log, writer, flusher, reader } =
        open_disk(&wal_dir, &database, log_options(config, metrics, faults.clone())).await?;
    let (log_stats, log_extent) = (log.stats(), log.extent());
    // Until it is known that there are no peers.
    log_extent.set_writes_inline(false);
    if config.force_new_cluster {
        let peer_urls = config.initial_advertise_peer_urls.clone();
        alone::force(&mut log, &reader, identity.member_id, peer_urls).await.map_err(StartError::Raft)?;
    }
    let others_may_know =
        config.initial_cluster_state == InitialClusterState::Auto && !assembly::seeds(config).is_empty();
    let is_newcomer = is_newcomer(&mut log, &reader, beginning, (data_dir, others_may_know)).await?;
    let pace = Pace {
        flush_interval: config.flush_interval,
        compaction_keys: config.compaction_batch_limit,
        compaction_pause: config.compaction_sleep_interval,
    };
    let compaction = Arc::new(Mutex::new(None));
    let on_flush = count_flushes(metrics, Arc::clone(&compaction));
    let pauses = metrics.mvcc.index_compaction_pause_ms.clone();
    let on_step = Box::new(move |took: Duration| pauses.observe(took.as_secs_f64() * 1000.0));
    let (storage, storage_thread) = Storage::start(flusher, &database, pace, (on_flush, on_step), faults)
        .map_err(|error| StartError::Internal(error.to_string()))?;
    let hub = Arc::new(Hub::new(reader.revision()));
    let v2_hub = Arc::new(V2Hub::default());
    let lessor = Arc::new(Lessor::new(config.election_timeout, SteadyClock::default()));
    let auth_feed = auth_feed(config, &reader);
    let observed = Observed {
        metrics: Arc::clone(metrics),
        reader: reader.clone(),
        storage: storage.clone(),
        hub: Arc::clone(&hub),
        v2_hub: Arc::clone(&v2_hub),
        lessor: Arc::clone(&lessor),
        auth_feed: Arc::clone(&auth_feed),
        slow_apply: config.warning_apply_duration,
        compaction,
    };
    let (links, traffic) = links(config, identity, metrics, connector);
    let forwards = Arc::new(Forwards::new(identity.member_id, rand::random(), reader.applied().0.index));
    let state_machine = StateMachine::new(writer, reader.clone(), Box::new(observed), Arc::clone(&forwards));
    let catch_ups = CatchUps::default();
    let majority = Majority::default();
    let network = Network::new(Arc::clone(&links) as _, Arc::clone(&traffic), catch_ups.clone(), majority.clone());
    let raft = Raft::new(identity.member_id, raft_config(config)?, network, log, state_machine)
        .await
        .map_err(|error| StartError::Raft(error.to_string()))?;
    if !is_newcomer {
        found(&raft, beginning, data_dir).await?;
    }
    let snapshots = Receiver::new(database, store::Options::default(), Arc::clone(&traffic));
    Ok(Core {
        raft,
        reader,
        log: log_stats,
        log_extent,
        storage,
        storage_thread,
        hub,
        v2_hub,
        lessor,
        auth_feed,
        links,
        traffic,
        catch_ups,
        forwards,
        majority,
        snapshots,
        is_newcomer,
    })
}

fn auth_feed(config: &Config, reader: &Reader) -> Arc<Feed> {
    Arc::new(Feed::new(SimpleTokens::new(SteadyClock::default(), config.auth.token_ttl), reader))
}

/// What of a member is on disk.
struct OnDisk {
    log: LogStore,
    writer: Writer,
    flusher: Flusher,
    reader: Reader,
}

/// Opens the log and the database that goes with it.
async fn open_disk(wal_dir: &Path, database: &Path, options: LogStoreOptions) -> Result<OnDisk, StartError> {
    LogStore::check_exists(wal_dir, database)?;
    let mut log = LogStore::open(wal_dir, options)?;
    let (writer, flusher, reader) =
        store::open(database, store::Options::default()).map_err(|fault| DatabaseFailure::new(database, fault))?;
    let applied = raft_position(reader.applied().0);
    log.check_follows(wal_dir, database, applied)?;
    log.follow(applied).await.map_err(|error| StartError::Raft(error.to_string()))?;
    Ok(OnDisk { log, writer, flusher, reader })
}

/// The connections to other members, and what counts on them.
fn links(
    config: &Config,
    Identity { cluster_id, member_id }: Identity,
    metrics: &Metrics,
    connector: PeerConnector,
) -> (Arc<Links>, Arc<PeersTraffic>) {
    let traffic = Arc::new(PeersTraffic::new(metrics.peer.clone(), member_id));
    let message_bytes = message_bytes_max(config.max_request_bytes);
    let caller = Caller { cluster_id, member_id };
    let links = Links::new(caller, config.election_timeout, message_bytes, connector, Arc::clone(&traffic));
    (Arc::new(links), traffic)
}

/// True if there is nothing that a vote or an acknowledgement could have been given for, and others may know why.
///
/// # Errors
/// There is nothing, and nobody is known who could be asked: the only founder of a cluster had a log once.
async fn is_newcomer(
    log: &mut LogStore,
    reader: &Reader,
    beginning: &Beginning,
    (data_dir, others_may_know): (&DataDir, bool),
) -> Result<bool, StartError> {
    let state = log.get_log_state().await.map_err(|error| StartError::Raft(error.to_string()))?;
    let is_empty = state.last_log_id.is_none() && reader.applied().0.index == 0;
    if is_empty && beginning.founders.len() == 1 && !beginning.founds_alone && !others_may_know {
        let (dir, member_id) = (data_dir.path().to_owned(), beginning.identity.member_id);
        return Err(StartError::LostData { dir, member_id });
    }
    Ok(is_empty && !beginning.founds_alone)
}

/// Counts what flushes write, and how long compactions take from `begun` on.
fn count_flushes(metrics: &Metrics, begun: Arc<Mutex<Option<Instant>>>) -> FlushObserver {
    let (commits, mvcc) = (metrics.disk.backend_commit_seconds.clone(), metrics.mvcc.clone());
    Box::new(move |flushed: &store::Flushed, took: Duration| {
        if flushed.compaction_finished.is_some() {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            mvcc.db_compaction_last.set(now.as_secs() as i64);
            // One that a restart interrupted has no beginning to count from.
            if let Some(begun) = begun.lock().take() {
                mvcc.db_compaction_total_ms.observe(Instant::elapsed(&begun).as_secs_f64() * 1000.0);
            }
        }
        if flushed.deleted > 0 {
            mvcc.db_compaction_pause_ms.observe(took.as_secs_f64() * 1000.0);
        }
        if flushed.changes > 0 || flushed.deleted > 0 {
            commits.observe(took.as_secs_f64());
            mvcc.db_compaction_keys.inc_by(flushed.deleted as u64);
        }
    })
}

fn log_options(config: &Config, metrics: &Arc<Metrics>, faults: FaultSender) -> LogStoreOptions {
    let (fsync, write) = (metrics.disk.wal_fsync_seconds.clone(), metrics.disk.wal_write_seconds.clone());
    if config.unsafe_no_fsync {
        tracing::warn!("--unsafe-no-fsync: a crash loses acknowledged writes");
    }
    LogStoreOptions {
        sync: !config.unsafe_no_fsync,
        on_sync: Box::new(move |took| fsync.observe(took.as_secs_f64())),
        on_write: Box::new(move |took| write.observe(took.as_secs_f64())),
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
    v2_hub: Arc<V2Hub>,
    lessor: Arc<Lessor>,
    auth_feed: Arc<Feed>,
    slow_apply: Duration,
    /// When the compaction began that is not finished.
    compaction: Arc<Mutex<Option<Instant>>>,
}

impl Observer for Observed {
    fn applied_command(&self, op: &Op, outcome: &Outcome, took: Duration) {
        // A compaction that came late is no failure, as in etcd.
        let is_success = matches!(&outcome.result, Ok(_) | Err(Error::Compacted));
        self.metrics.server.apply_seconds.observe(Kind::of(op), is_success, took);
    }

    fn applied(&self, applied: &Applied, took: Duration) {
        self.auth_feed.observe(&applied.notices, &self.reader);
        self.hub.publish(&applied.changes);
        self.v2_hub.publish(&applied.v2);
        self.lessor.observe(&applied.notices);
        let is_much = self.reader.tail_bytes() > FLUSH_EARLY_BYTES;
        if is_much || self.reader.v2_waiting_bytes() > TREE_FLUSH_EARLY_BYTES {
            self.storage.flush_soon();
        }
        self.count(applied);
        if took > self.slow_apply {
            self.metrics.server.slow_apply.inc();
            tracing::warn!(?took, expected = ?self.slow_apply, "apply request took too long");
        }
    }

    fn installing(&self) {
        self.metrics.server.snapshot_apply_in_progress.set(1);
    }

    fn installed(&self, revision: i64) {
        self.auth_feed.replaced(&self.reader);
        self.hub.replaced(revision);
        self.v2_hub.replaced();
        self.metrics.server.snapshot_apply_in_progress.set(0);
    }
}

impl Observed {
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
                _ => {}
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
        // Until [`found`] allows it.
        enable_elect: false,
        // Several appends of full size are on their way at a time.
        max_payload_entries: 1024,
        install_snapshot_timeout: SNAPSHOT_TIMEOUT.as_millis() as u64,
        // A leader that resumed its old term would count as caught up before it has applied its log again.
        enable_leader_restore: Some(false),
        snapshot_policy: SnapshotPolicy::Never,
        // See `background::purge_log`.
        max_in_snapshot_log_to_keep: u64::MAX,
        ..openraft::Config::default()
    };
    raft.validate().map(Arc::new).map_err(|error| StartError::Raft(error.to_string()))
}

/// Founds the cluster at the first start. The only voter of a cluster takes up leadership at once: it has nobody to
/// wait for.
///
/// # Errors
/// The log is another member's, or raft failed.
pub(crate) async fn found(
    raft: &Raft<StateMachine>,
    beginning: &Beginning,
    data_dir: &DataDir,
) -> Result<(), StartError> {
    let raft_error = |error: &dyn std::fmt::Display| StartError::Raft(error.to_string());
    let member_id = beginning.identity.member_id;
    if raft.is_initialized().await.map_err(|error| raft_error(&error))? {
        let stored = Arc::clone(&raft.metrics().borrow_watched().membership_config);
        // A log that knows nobody yet belongs to a member that joins.
        let known = stored.membership();
        if known.nodes().next().is_some() && known.get_node(&member_id).is_none() && !beginning.founders.is_empty() {
            return Err(StartError::OtherMember { dir: data_dir.path().to_owned(), member_id });
        }
    } else if !beginning.founders.is_empty() {
        raft.initialize(beginning.founders.clone()).await.map_err(|error| raft_error(&error))?;
        // Before it is held back no more: without a log in its metrics, others would take it for one that has data.
        let begun =
            raft.wait(Some(FOUNDING_DEADLINE)).metrics(|now| now.last_log_index.is_some(), "it is founded").await;
        begun.map_err(|error| raft_error(&error))?;
    }
    if raft.voter_ids().eq([member_id]) {
        raft.trigger().elect(false).await.map_err(|error| raft_error(&error))?;
        let elected = raft.wait(Some(ELECTION_DEADLINE)).state(ServerState::Leader, "the only voter leads").await;
        elected.map_err(|error| raft_error(&error))?;
    }
    if beginning.founds_alone {
        // Who leads has the founding, and its vote behind it, on disk.
        bootstrap::settle(data_dir.path())?;
    }
    // Not before: an election by the clock beside this one makes openraft warn of answers from another term.
    raft.runtime_config().elect(true);
    Ok(())
}
