//! One member: a machine whose disks outlive its processes, and a process made of the server's own parts.

use super::checker::History;
use super::disk::{Latency, SimulatedDisk};
use super::network::Network;
use super::random::Random;
use super::report::{Trace, note};
use crate::background::lead_leases;
use crate::cluster::{Cluster as Members, Rules};
use crate::lessor::Lessor;
use crate::node::forwards::Forwards;
use crate::node::{Identity, Limits, Node, Parts};
use crate::peer::Transport;
use crate::peer::service::PeerService;
use crate::quota::Quota;
use crate::raft::state_machine::{Observer, StateMachine};
use crate::raft::types::{Peer, Raft};
use crate::raft::wal::Disk;
use crate::raft::{
    self,
    log_store::{LogExtent, LogStore, LogStoreOptions},
};
use crate::storage::{Pace, Storage};
use crate::v3::lease::{LeaseService, proposer};
use crate::watch::hub::Hub;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Small, so that a run of seconds fills and recycles many.
const SEGMENT_BYTES: u64 = 8 << 10;
const MEMORY_BYTES: usize = 4 << 10;
pub(crate) const ELECTION_TIMEOUT: Duration = Duration::from_secs(1);
const HEARTBEAT: Duration = Duration::from_millis(100);
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// What all members share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) network: Network,
    pub(crate) history: History,
    pub(crate) trace: Trace,
}

/// A machine. What runs on it comes and goes.
pub(crate) struct Machine {
    pub(crate) id: u64,
    shared: Shared,
    log_disk: SimulatedDisk,
    store_disk: SimulatedDisk,
    /// How fast this machine's clock runs.
    clock: f64,
    flush_interval: Duration,
    purges: bool,
    process: Option<Process>,
    /// Counts its processes.
    run: u64,
}

/// A running member. Clones are the same.
#[derive(Clone)]
pub(crate) struct Process {
    pub(crate) node: Node,
    pub(crate) hub: Arc<Hub>,
    pub(crate) leases: LeaseService,
    pub(crate) members: Arc<Members>,
    _storage: Storage,
    /// Cancelled when the process is gone.
    pub(crate) stop: CancellationToken,
}

impl Machine {
    pub(crate) fn new(id: u64, shared: Shared, purges: bool, random: &mut Random) -> Self {
        shared.history.durable(id, 0);
        let log_disk = SimulatedDisk::new(random.part());
        let store_disk = SimulatedDisk::new(random.part());
        let clock = 0.9 + 0.2 * random.fraction();
        let flush_interval = random.duration(Duration::from_millis(200), Duration::from_millis(800));
        Self { id, shared, log_disk, store_disk, clock, flush_interval, purges, process: None, run: 0 }
    }

    pub(crate) fn process(&self) -> Option<Process> {
        self.process.clone()
    }

    pub(crate) fn set_latency(&self, latency: Latency) {
        self.log_disk.set_latency(latency);
        self.store_disk.set_latency(latency);
    }

    /// Plants a bug.
    pub(crate) fn acknowledge_early(&self) {
        self.log_disk.acknowledge_early();
    }

    fn by_its_clock(&self, time: Duration) -> u64 {
        time.mul_f64(self.clock).as_millis() as u64
    }

    fn raft_config(&self) -> Arc<openraft::Config> {
        let election = self.by_its_clock(ELECTION_TIMEOUT);
        let config = openraft::Config {
            heartbeat_interval: self.by_its_clock(HEARTBEAT),
            election_timeout_min: election * 45 / 100,
            election_timeout_max: election * 60 / 100,
            enable_pre_vote: Some(true),
            enable_leader_restore: Some(false),
            snapshot_policy: openraft::SnapshotPolicy::Never,
            // What raft would purge by itself, some member may need.
            max_in_snapshot_log_to_keep: 1 << 40,
            ..openraft::Config::default()
        };
        Arc::new(config.validate().expect("the settings agree"))
    }

    /// The power goes: what was not synced is lost, and what ran is gone.
    pub(crate) fn crash(&mut self) {
        let Some(process) = self.process.take() else { return };
        note!(self.shared.trace, "{} crashes", self.id);
        self.shared.network.leave(self.id);
        self.log_disk = self.log_disk.lose_power();
        self.store_disk = self.store_disk.lose_power();
        process.stop.cancel();
        // Its tasks find no disk and no network, and end.
        let raft = process.node.raft().clone();
        tokio::spawn(async move {
            drop(tokio::time::timeout(REQUEST_TIMEOUT, raft.shutdown()).await);
        });
    }

    fn open_store(&self) -> (store::Writer, store::Flusher, store::Reader) {
        let path = Path::new("store");
        let medium = self.store_disk.open(path).unwrap_or_else(|_| {
            // A member that never ran: its database is made before anything can happen to it.
            self.store_disk.set_latency(Latency::None);
            let file = self.store_disk.create_new(path).expect("the disk is new");
            self.store_disk.sync_names().expect("the disk works");
            file
        });
        let options = store::Options { cache_bytes: 64 << 10, database_cache_bytes: 256 << 10, ..store::Options::default() };
        store::open_on(medium, options).unwrap_or_else(|fault| panic!("the store of {}: {fault}", self.id))
    }

    /// Starts the member; `initial` makes a new cluster.
    pub(crate) async fn start(&mut self, initial: Option<&BTreeMap<u64, Peer>>) {
        let (id, trace) = (self.id, self.shared.trace.clone());
        note!(trace, "{id} starts");
        let options = LogStoreOptions {
            disk: Disk::from(self.log_disk.clone()),
            segment_bytes: SEGMENT_BYTES,
            memory_bytes: MEMORY_BYTES,
            ..LogStoreOptions::default()
        };
        let log = match LogStore::open(Path::new("wal"), options) {
            Ok(log) => log,
            Err(error) => return self.shared.history.fail(format!("the log of member {id} does not open: {error}")),
        };
        let (writer, flusher, reader) = self.open_store();
        let applied = raft::state_machine::raft_position(reader.applied().0);
        if let Err(error) = log.check_follows(Path::new("wal"), Path::new("store"), applied) {
            return self.shared.history.fail(format!("member {id}: {error}"));
        }
        let pace = Pace {
            flush_interval: self.flush_interval,
            compaction_keys: 100,
            compaction_pause: Duration::from_millis(10),
        };
        let (storage, _) = Storage::simulate(flusher, pace, Box::new(|_, _| ()), self.store_disk.clone());
        let hub = Arc::new(Hub::new(reader.revision()));
        let lessor = Arc::new(Lessor::new(ELECTION_TIMEOUT));
        let history = self.shared.history.clone();
        let observer = Observed { id, history, hub: Arc::clone(&hub), lessor: Arc::clone(&lessor) };
        let (log_stats, extent) = (log.stats(), log.extent());
        let connector = self.shared.network.connector(id);
        self.run += 1;
        let forwards = Arc::new(Forwards::new(id, self.run, reader.applied().0.index));
        let machine = StateMachine::new(writer, reader.clone(), Box::new(observer), Arc::clone(&forwards));
        let transport: Arc<dyn Transport> = Arc::clone(&connector) as _;
        let network = raft::network::Network::new(Arc::clone(&transport));
        let raft = match Raft::new(id, self.raft_config(), network, log, machine).await {
            Ok(raft) => raft,
            Err(error) => return self.shared.history.fail(format!("raft of member {id} does not start: {error}")),
        };
        if let Some(initial) = initial {
            raft.initialize(initial.clone()).await.expect("the log is new");
        }
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let limits = Limits {
            request_bytes: 1 << 20,
            request_timeout: REQUEST_TIMEOUT,
            heartbeat_interval: HEARTBEAT,
            election_timeout: ELECTION_TIMEOUT,
        };
        let identity = Identity { cluster_id: 1, member_id: id };
        let parts = Parts { raft, reader, log: log_stats, transport, forwards, identity, limits };
        let node = Node::start(parts, &tasks, &stop);
        let members = Arc::new(Members::new(node.clone(), Rules { strict: false, max_learners: 1 }));
        let failures = prometheus::IntCounter::new("failures", "of keepalive streams").expect("the name is right");
        let quota = Arc::new(Quota::new(None, &node));
        let leases = LeaseService::new(node.clone(), Arc::clone(&lessor), quota, failures);
        let snapshots = raft::snapshot::Receiver::new("store".into(), store::Options::default());
        let service = PeerService::new(node.clone(), leases.clone(), Arc::clone(&members), snapshots);
        self.shared.network.join(&connector, Arc::new(service));
        tokio::spawn(lead_leases(node.clone(), Arc::clone(&lessor), stop.clone()));
        tokio::spawn(Arc::clone(&members).promote(stop.clone()));
        let (clock, propose, token) = (Arc::clone(&lessor), proposer(node.clone()), stop.clone());
        tokio::spawn(async move { clock.run(propose, token).await });
        if self.purges {
            let (history, disk) = (self.shared.history.clone(), self.store_disk.clone());
            tokio::spawn(purge(node.clone(), extent, history, disk, stop.clone()));
        }
        self.process = Some(Process { node, hub, leases, members, _storage: storage, stop });
    }
}

/// What hears of every change of a member's store.
struct Observed {
    id: u64,
    history: History,
    hub: Arc<Hub>,
    lessor: Arc<Lessor>,
}

impl Observer for Observed {
    fn applied(&self, applied: &store::Applied, _took: Duration) {
        self.history.applied(self.id, applied);
        self.hub.publish(&applied.changes);
        self.lessor.observe(&applied.notices);
    }

    fn installed(&self, revision: i64) {
        self.hub.replaced(revision);
    }
}

/// Lets raft drop what every member's store holds. No member needs a snapshot then.
async fn purge(node: Node, log: LogExtent, history: History, disk: SimulatedDisk, stop: CancellationToken) {
    while !stop.is_cancelled() {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let durable = node.reader().durable().0.index;
        if !disk.settled().await {
            return;
        }
        let everywhere = history.durable(node.identity().member_id, durable);
        let keep_from = log.first_in_newest(2).unwrap_or(0).min(everywhere);
        let raft = node.raft();
        if keep_from == 0 || raft.trigger().snapshot().await.is_err() {
            continue;
        }
        let wait = raft.wait(Some(Duration::from_secs(1)));
        let covered = |at: &openraft::RaftMetrics<raft::types::TypeConfig>| {
            at.snapshot.is_some_and(|id| id.index + 1 >= keep_from)
        };
        if wait.metrics(covered, "the snapshot covers what is purged").await.is_ok() {
            drop(raft.trigger().purge_log(keep_from - 1).await);
        }
    }
}
