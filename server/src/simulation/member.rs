//! One member: a machine whose disks outlive its processes, and a process made of the server's own parts.

use super::Setup;
use super::checker::History;
use super::disk::{Broken, Errno, Latency, SimulatedDisk, Waiting};
use super::network::Network;
use super::random::Random;
use super::report::{Kind, Tally, Trace, note};
use crate::auth::Auth;
use crate::background::{EndSender, Kept, fault_sender, lead_leases, purge_log, watch_raft};
use crate::config::CorruptionChecks;

use crate::cluster::{Cluster as Members, Rules};
use crate::corruption;
use crate::lessor::{Lessor, Propose};
use crate::node::forwards::Forwards;
use crate::node::{Identity, Limits, Node, Parts};
use crate::peer::Transport;
use crate::peer::service::PeerService;
use crate::peer::traffic::PeersTraffic;
use crate::quota::Quota;
use crate::raft::state_machine::{Observer, StateMachine};
use crate::raft::types::{Peer, Raft};
use crate::raft::wal::Disk;
use crate::raft::{
    self,
    log_store::{LogStore, LogStoreOptions},
};
use crate::server::End;
use crate::steady_clock::SteadyClock;
use crate::storage::{Pace, Storage};
use crate::v3::lease::{LeaseService, proposer};
use crate::watch::hub::Hub;
use api::cleatpb::command::Op;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use store::{Flusher, Notice, Reader, Writer};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Small, so that a run of seconds fills and recycles many.
const SEGMENT_BYTES: u64 = 4 << 10;
const MEMORY_BYTES: usize = 4 << 10;
pub(crate) const ELECTION_TIMEOUT: Duration = Duration::from_secs(1);
const HEARTBEAT: Duration = Duration::from_millis(100);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a process may go on after its disk refused to write or sync the log.
const LAST_BREATH: Duration = Duration::from_secs(1);
/// Often, for a run takes seconds.
const CORRUPTION_CHECKS: CorruptionChecks = CorruptionChecks {
    at_start: false,
    interval: Some(Duration::from_secs(2)),
    after_compaction: Some(Duration::from_millis(500)),
};
/// Ends of processes that wait for being seen. Who reports the next one waits.
pub(crate) const DEATHS_WAITING: usize = 64;

const LOG: &str = "wal";
const DATABASE: &str = "data/store.redb";

/// What all members share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) setup: Setup,
    pub(crate) network: Network,
    pub(crate) history: History,
    pub(crate) trace: Trace,
    pub(crate) tally: Tally,
    pub(crate) deaths: mpsc::Sender<Death>,
}

/// A process has ended by itself.
pub(crate) struct Death {
    pub(crate) member: u64,
    pub(crate) run: u64,
    pub(crate) why: String,
}

/// What is wrong with a disk.
#[derive(Clone, Copy, Debug)]
pub(crate) enum DiskFault {
    /// There is room for so many bytes more.
    Full(u64),
    Broken(Broken, Errno),
    /// The power goes after so many operations.
    Power(u32),
}

/// Which disk of a machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Which {
    Log,
    Store,
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
    /// See [`crate::config::Config`].
    snapshot_count: u64,
    catchup_entries: u64,
    process: Option<Process>,
    /// Counts its processes.
    run: u64,
    /// What was done to its disks since they were mended.
    fault: Option<(Which, DiskFault)>,
    /// Its disks were broken when its process started, or later.
    is_excused: bool,
    /// Refusals of both disks that were counted.
    refusals: (u64, u64),
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

/// What a process has opened.
struct Opened {
    log: LogStore,
    writer: Writer,
    flusher: Flusher,
    reader: Reader,
}

impl Machine {
    pub(crate) fn new(id: u64, shared: Shared, random: &mut Random) -> Self {
        let log_disk = SimulatedDisk::new(random.part(), Waiting::Task);
        let store_disk = SimulatedDisk::new(random.part(), Waiting::Call);
        if shared.setup.acknowledges_early {
            log_disk.acknowledge_early();
        }
        if shared.setup.forgets_names {
            store_disk.forget_names();
        }
        Self {
            id,
            shared,
            log_disk,
            store_disk,
            clock: 0.9 + 0.2 * random.fraction(),
            flush_interval: random.duration(Duration::from_millis(200), Duration::from_millis(800)),
            snapshot_count: 20 + random.below(200) as u64,
            catchup_entries: 20 + random.below(100) as u64,
            process: None,
            run: 0,
            fault: None,
            is_excused: false,
            refusals: (0, 0),
        }
    }

    pub(crate) fn process(&self) -> Option<Process> {
        self.process.clone()
    }

    pub(crate) fn set_latency(&self, latency: Latency) {
        self.log_disk.set_latency(latency);
        self.store_disk.set_latency(latency);
    }

    /// Breaks a disk until it is mended.
    pub(crate) fn break_disk(&mut self, which: Which, fault: DiskFault) {
        note!(self.shared.trace, "the disk of {}: {which:?} {fault:?}", self.id);
        let disk = if which == Which::Log { &self.log_disk } else { &self.store_disk };
        match fault {
            DiskFault::Full(space) => disk.fill(space),
            DiskFault::Broken(what, errno) => disk.break_down(what, errno),
            DiskFault::Power(operations) => disk.fail_power_after(operations),
        }
        self.fault = Some((which, fault));
        self.is_excused = true;
    }

    /// Mends the disks; whoever runs may still end for what was wrong.
    pub(crate) fn mend(&mut self) {
        self.count_refusals();
        self.log_disk.mend();
        self.store_disk.mend();
        self.fault = None;
    }

    /// Looks whether a process that was refused the log still runs.
    pub(crate) fn check_ended(&self) {
        let is_late = |since: Instant| since.elapsed() > LAST_BREATH;
        if self.process.is_some() && self.log_disk.refused_log_since().is_some_and(is_late) {
            self.shared.history.fail(format!("member {} goes on without its log", self.id));
        }
    }

    fn count_refusals(&mut self) {
        let now = (self.log_disk.refusals(), self.store_disk.refusals());
        let before = std::mem::replace(&mut self.refusals, now);
        let kind = match self.fault {
            Some((Which::Log, DiskFault::Full(_) | DiskFault::Broken(_, Errno::NoSpace))) => Kind::LogDiskFull,
            Some((Which::Log, DiskFault::Broken(Broken::Writes, Errno::Io))) => Kind::LogWriteError,
            Some((Which::Log, DiskFault::Broken(Broken::Syncs, Errno::Io))) => Kind::LogSyncError,
            Some((Which::Store, DiskFault::Full(_) | DiskFault::Broken(..))) => Kind::StoreDiskError,
            Some((_, DiskFault::Power(_))) | None => return,
        };
        if now != before {
            self.shared.tally.count(kind);
        }
    }

    /// How long by the simulation's time what takes so long by this machine's clock.
    fn by_its_clock(&self, time: Duration) -> Duration {
        time.div_f64(self.clock)
    }

    fn raft_config(&self) -> Arc<openraft::Config> {
        let election = self.by_its_clock(ELECTION_TIMEOUT).as_millis() as u64;
        let config = openraft::Config {
            heartbeat_interval: self.by_its_clock(HEARTBEAT).as_millis() as u64,
            election_timeout_min: election * 45 / 100,
            election_timeout_max: election * 60 / 100,
            enable_pre_vote: Some(true),
            enable_leader_restore: Some(false),
            install_snapshot_timeout: 3_600_000,
            snapshot_policy: openraft::SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: u64::MAX,
            ..openraft::Config::default()
        };
        Arc::new(config.validate().expect("the settings agree"))
    }

    /// The power goes: what was not synced is lost, and what ran is gone.
    pub(crate) fn crash(&mut self) {
        note!(self.shared.trace, "{} crashes", self.id);
        self.shared.tally.count(Kind::Crash);
        self.end(true);
    }

    /// The process is killed, and the disks keep what they have.
    pub(crate) fn kill(&mut self) {
        if self.process.is_some() {
            note!(self.shared.trace, "{} is killed", self.id);
            self.shared.tally.count(Kind::Kill);
            self.end(false);
        }
    }

    /// A process has ended by itself, as it must when its disk fails.
    pub(crate) fn died(&mut self, run: u64, why: &str) {
        if self.run != run || self.process.is_none() {
            return;
        }
        note!(self.shared.trace, "{} ends: {why}", self.id);
        if !self.is_excused {
            self.shared.history.fail(format!("member {} ended: {why}", self.id));
        }
        self.end(false);
    }

    fn end(&mut self, mut loses_power: bool) {
        self.count_refusals();
        if self.log_disk.was_written_after_failure() {
            self.shared.history.fail(format!("member {} wrote its log after it had failed", self.id));
        }
        if self.log_disk.is_off() || self.store_disk.is_off() {
            self.shared.tally.count(Kind::CrashInOperation);
            loses_power = true;
        }
        self.shared.network.leave(self.id);
        let next = |disk: &SimulatedDisk| if loses_power { disk.lose_power() } else { disk.end_process() };
        (self.log_disk, self.store_disk) = (next(&self.log_disk), next(&self.store_disk));
        let Some(process) = self.process.take() else { return };
        process.stop.cancel();
        // Its tasks find no disk and no network, and end.
        let raft = process.node.raft().clone();
        tokio::spawn(async move {
            drop(tokio::time::timeout(REQUEST_TIMEOUT, raft.shutdown()).await);
        });
    }

    fn store_options(&self) -> store::Options {
        store::Options {
            disk: store::Disk::on(self.store_disk.clone()),
            cache_bytes: 64 << 10,
            database_cache_bytes: 256 << 10,
        }
    }

    fn open(&self, ends: &EndSender) -> Result<Opened, String> {
        let faults = fault_sender(ends.clone());
        let options = LogStoreOptions {
            disk: Disk::from(self.log_disk.clone()),
            segment_bytes: SEGMENT_BYTES,
            memory_bytes: MEMORY_BYTES,
            // A report that does not fit joins one that is being handled.
            on_fault: Box::new(move |error| drop(faults.try_send(error.to_string()))),
            ..LogStoreOptions::default()
        };
        let log = LogStore::open(Path::new(LOG), options).map_err(|error| error.to_string())?;
        let opened = store::open(Path::new(DATABASE), self.store_options());
        let (writer, flusher, reader) = opened.map_err(|fault| format!("the store: {fault}"))?;
        let applied = raft::state_machine::raft_position(reader.applied().0);
        log.check_follows(Path::new(LOG), Path::new(DATABASE), applied).map_err(|error| error.to_string())?;
        Ok(Opened { log, writer, flusher, reader })
    }

    /// Starts the member; `initial` makes a new cluster.
    pub(crate) async fn start(&mut self, initial: Option<&BTreeMap<u64, Peer>>) {
        note!(self.shared.trace, "{} starts", self.id);
        if self.fault.is_some() {
            self.shared.tally.count(Kind::StartOnBrokenDisk);
        }
        self.is_excused = self.fault.is_some();
        self.run += 1;
        if let Err(why) = self.try_start(initial).await {
            note!(self.shared.trace, "{} does not start: {why}", self.id);
            if !self.is_excused {
                self.shared.history.fail(format!("member {} does not start: {why}", self.id));
            }
            self.end(false);
        }
    }

    async fn try_start(&mut self, initial: Option<&BTreeMap<u64, Peer>>) -> Result<(), String> {
        let id = self.id;
        let (ends, reports) = mpsc::channel(1);
        let Opened { mut log, writer, flusher, reader } = self.open(&ends)?;
        // A start waits for what it wrote.
        if !self.log_disk.settled().await {
            return Err("the power went".to_owned());
        }
        let applied = raft::state_machine::raft_position(reader.applied().0);
        log.follow(applied).await.map_err(|error| error.to_string())?;
        let storage = self.start_storage(flusher, &ends);
        let hub = Arc::new(Hub::new(reader.revision()));
        let lessor = Arc::new(Lessor::new(ELECTION_TIMEOUT, SteadyClock::at_rate(self.clock)));
        let observer = self.observer(&reader, &hub, &lessor);
        let (log_stats, extent) = (log.stats(), log.extent());
        let connector = self.shared.network.connector(id);
        let forwards = Arc::new(Forwards::new(id, self.run, reader.applied().0.index));
        let machine = StateMachine::new(writer, reader.clone(), Box::new(observer), Arc::clone(&forwards));
        let transport: Arc<dyn Transport> = Arc::clone(&connector) as _;
        let traffic = PeersTraffic::detached(id);
        let catch_ups = raft::catch_up::CatchUps::default();
        let majority = raft::network::Majority::default();
        let links = (Arc::clone(&transport), Arc::clone(&traffic));
        let network = raft::network::Network::new(links.0, links.1, catch_ups.clone(), majority.clone());
        let raft = Raft::new(id, self.raft_config(), network, log, machine).await.map_err(|error| error.to_string())?;
        if let Some(initial) = initial {
            raft.initialize(initial.clone()).await.expect("the log is new");
        }
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let limits = Limits {
            request_bytes: 1 << 20,
            request_timeout: REQUEST_TIMEOUT,
            heartbeat_interval: self.by_its_clock(HEARTBEAT),
            election_timeout: self.by_its_clock(ELECTION_TIMEOUT),
        };
        let identity = Identity { cluster_id: 1, member_id: id };
        let parts = Parts { raft, reader, log: log_stats, transport, forwards, majority, identity, limits };
        let node = Node::start(parts, &tasks, &stop);
        let members = Arc::new(Members::new(node.clone(), Rules { strict: false, max_learners: 1 }));
        let failures = prometheus::IntCounter::new("failures", "of keepalive streams").expect("the name is right");
        let quota = Arc::new(Quota::new(None, &node));
        let owner = (node.clone(), Auth::for_tests(node.clone()));
        let leases = LeaseService::new(owner, Arc::clone(&lessor), quota, failures, stop.clone());
        let snapshots = raft::snapshot::Receiver::new(DATABASE.into(), self.store_options(), Arc::clone(&traffic));
        let service = PeerService::new(node.clone(), leases.clone(), Arc::clone(&members), snapshots, traffic);
        self.shared.network.join(&connector, Arc::new(service));
        tokio::spawn(Arc::clone(&members).promote(stop.clone()));
        self.keep_leases(&node, lessor, &stop);
        let kept = Kept { snapshot_count: self.snapshot_count, catchup_entries: self.catchup_entries };
        tokio::spawn(purge_log(node.clone(), (extent, catch_ups), kept, stop.clone()));
        tokio::spawn(watch_raft(node.clone(), ends, stop.clone()));
        tokio::spawn(corruption::watch(node.clone(), CORRUPTION_CHECKS, stop.clone()));
        self.report_end(reports, &stop);
        self.process = Some(Process { node, hub, leases, members, _storage: storage, stop });
        Ok(())
    }

    fn start_storage(&self, flusher: Flusher, ends: &EndSender) -> Storage {
        let pace = Pace {
            flush_interval: self.flush_interval,
            compaction_keys: 100,
            compaction_pause: Duration::from_millis(10),
        };
        Storage::simulate(
            flusher,
            pace,
            (Box::new(|_, _| ()), Box::new(|_| ())),
            self.store_disk.clone(),
            fault_sender(ends.clone()),
        )
    }

    fn observer(&self, reader: &Reader, hub: &Arc<Hub>, lessor: &Arc<Lessor>) -> Observed {
        Observed {
            id: self.id,
            shared: self.shared.clone(),
            reader: reader.clone(),
            hub: Arc::clone(hub),
            lessor: Arc::clone(lessor),
            ended: Mutex::default(),
        }
    }

    /// Starts the lease clock, and lets the checker know what it says.
    fn keep_leases(&self, node: &Node, lessor: Arc<Lessor>, stop: &CancellationToken) {
        if self.shared.setup.forgets_lease_time {
            tokio::spawn(lead_leases_badly(node.clone(), Arc::clone(&lessor), stop.clone()));
        } else {
            tokio::spawn(lead_leases(node.clone(), Arc::clone(&lessor), stop.clone()));
        }
        let (id, rate, history) = (self.id, self.clock, self.shared.history.clone());
        let proposes = proposer(node.clone());
        let propose: Propose = Box::new(move |op, term| {
            if let Op::LeaseRevoke(request) = &op {
                history.expires(id, request.id, rate);
            }
            proposes(op, term)
        });
        let stop = stop.clone();
        tokio::spawn(async move { lessor.run(propose, stop).await });
    }

    /// Passes on why the process ends, by itself or because the power of a disk goes.
    fn report_end(&self, mut reports: mpsc::Receiver<End>, stop: &CancellationToken) {
        let (deaths, member, run) = (self.shared.deaths.clone(), self.id, self.run);
        let (log_disk, store_disk, stop) = (self.log_disk.clone(), self.store_disk.clone(), stop.clone());
        tokio::spawn(async move {
            let why = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = log_disk.lost_power() => "the power went".to_owned(),
                () = store_disk.lost_power() => "the power went".to_owned(),
                report = reports.recv() => match report {
                    Some(End::Fault(why)) => why,
                    Some(End::Removed) | None => return,
                },
            };
            // The simulation may be over.
            drop(deaths.send(Death { member, run, why }).await);
        });
    }
}

/// What hears of every change of a member's store, in one life of it.
struct Observed {
    id: u64,
    shared: Shared,
    reader: Reader,
    hub: Arc<Hub>,
    lessor: Arc<Lessor>,
    /// Leases whose end was applied.
    ended: Mutex<BTreeSet<i64>>,
}

impl Observer for Observed {
    fn applied(&self, applied: &store::Applied, _took: Duration) {
        self.shared.history.applied(self.id, applied);
        for notice in &applied.notices {
            if let Notice::LeaseRevoked { id } = notice
                && !self.ended.lock().insert(*id)
            {
                self.shared.history.fail(format!("lease {id} ended twice on member {}", self.id));
            }
        }
        self.hub.publish(&applied.changes);
        self.lessor.observe(&applied.notices);
    }

    fn installed(&self, revision: i64) {
        self.shared.history.installed(self.id, &self.reader);
        if !self.shared.setup.forgets_watchers {
            self.hub.replaced(revision);
        }
    }
}

/// Plants a bug: a new leader counts on from what an old one may have extended.
async fn lead_leases_badly(node: Node, lessor: Arc<Lessor>, stop: CancellationToken) {
    let rest = |(id, lease)| (id, store::Lease { remaining_ttl: 1, ..lease });
    let mut leads_in = node.leads_in();
    loop {
        match *leads_in.borrow_and_update() {
            Some(term) => lessor.promote(term, || node.reader().leases().into_iter().map(rest).collect()),
            None => lessor.demote(),
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            changed = leads_in.changed() => if changed.is_err() { return },
        }
    }
}
