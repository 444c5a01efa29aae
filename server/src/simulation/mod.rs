//! Whole clusters in one thread, from one seed: the server's own code on a network, disks and a clock that are made up.
//!
//! Time stands still while code runs, and jumps to the next timer when nothing can run. Everything that is left to
//! chance, from the delay of a message to the moment of a crash, follows from the seed: the same seed gives the same
//! run, line by line, which a test checks. So a failure is replayed exactly:
//!
//! ```text
//! CLEAT_SEED=17 cargo test -p cleat-server --lib simulation::tests::seeds
//! CLEAT_SIM_SEEDS=1000 cargo test --release -p cleat-server --lib simulation::tests::seeds
//! ```
//!
//! Real: the node with forwarding and read index, membership changes, raft and its log with its files, the state machine
//! and the store on redb, leases, watches. Made up:
//! what is below them ([`network`], [`disk`], [`runtime`]), and the clients and faults above ([`workload`],
//! [`faults`]). [`checker`] says what must hold, [`report`] what can happen. Not here: gRPC, configuration, threads.

mod checker;
pub(crate) mod disk;
mod faults;
mod member;
mod membership;
mod network;
pub(crate) mod random;
mod report;
pub(crate) mod runtime;
mod tests;
pub(crate) mod watch;
mod workload;

use crate::raft::types::Peer;
use api::etcdserverpb::AlarmType;
use checker::History;
use faults::Faults;
use member::{Death, DiskFault, Machine, Process, Shared, Which};
use network::Network;
use random::Random;
use report::{Report, Tally, Trace, note};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use store::Reader;
use tokio::sync::{Mutex, mpsc};

const CLIENTS: usize = 4;
const WATCHERS: usize = 2;
/// How long members may take to agree once everything is well, and leases to end.
const CONVERGENCE: Duration = Duration::from_secs(30);

/// What a run is like, beside its seed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) members: u64,
    /// How long things go wrong.
    pub(crate) duration: Duration,
    pub(crate) faults: Faults,
    /// Plants a bug: the log says that it is durable before it is.
    pub(crate) acknowledges_early: bool,
    /// One learner joins first.
    pub(crate) has_learner: bool,
    /// Plants a bug: that learner votes in the place of voters that do not answer.
    pub(crate) learner_votes: bool,
    /// Plants a bug: reads do not ask whether they are current.
    pub(crate) skips_read_barrier: bool,
    /// Plants a bug: the name of a database that a snapshot brought is not durable.
    pub(crate) forgets_names: bool,
    /// Plants a bug: watchers are not told that a snapshot was installed.
    pub(crate) forgets_watchers: bool,
    /// Plants a bug: a new leader gives leases less than their time.
    pub(crate) forgets_lease_time: bool,
}

impl Default for Setup {
    fn default() -> Self {
        let duration = Duration::from_secs(6);
        Self {
            members: 3,
            duration,
            faults: Faults::All,
            acknowledges_early: false,
            has_learner: false,
            learner_votes: false,
            skips_read_barrier: false,
            forgets_names: false,
            forgets_watchers: false,
            forgets_lease_time: false,
        }
    }
}

/// The cluster as clients and faults see it. Clones are the same.
#[derive(Clone)]
struct Cluster {
    setup: Setup,
    shared: Shared,
    machines: Arc<parking_lot::Mutex<BTreeMap<u64, Arc<Mutex<Machine>>>>>,
    /// For the machines of members that are added.
    random: Arc<parking_lot::Mutex<Random>>,
    is_over: Arc<AtomicBool>,
}

impl Cluster {
    /// Makes the members of a new cluster and starts them.
    async fn found(setup: Setup, random: &mut Random) -> Self {
        let (trace, tally) = (Trace::new(), Tally::default());
        let history = History::new(trace.clone(), tally.clone());
        let network = Network::new(random.part(), trace.clone(), tally.clone());
        let (deaths, dead) = mpsc::channel(member::DEATHS_WAITING);
        let shared = Shared { setup, network, history, trace, tally, deaths };
        let mut machines = BTreeMap::new();
        for id in 1..=setup.members {
            let machine = Machine::new(id, shared.clone(), random);
            machines.insert(id, Arc::new(Mutex::new(machine)));
        }
        let peer = |id: &u64| Peer { peer_urls: vec![format!("http://m{id}:2380")], joins_as_voter: true };
        let initial = machines.keys().map(|id| (*id, peer(id))).collect();
        let machines = Arc::new(parking_lot::Mutex::new(machines));
        let apart = Arc::new(parking_lot::Mutex::new(random.part()));
        let cluster = Self { setup, shared, machines, random: apart, is_over: Arc::default() };
        tokio::spawn(bury(cluster.clone(), dead));
        for id in cluster.members() {
            cluster.machine(id).lock().await.start((id == 1).then_some(&initial)).await;
        }
        cluster
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    fn members(&self) -> Vec<u64> {
        self.machines.lock().keys().copied().collect()
    }

    fn machine(&self, id: u64) -> Arc<Mutex<Machine>> {
        Arc::clone(&self.machines.lock()[&id])
    }

    /// A machine for a member that was added.
    async fn build(&self, id: u64) {
        let machine = Machine::new(id, self.shared.clone(), &mut self.random.lock());
        let machine = Arc::new(Mutex::new(machine));
        self.machines.lock().insert(id, Arc::clone(&machine));
        machine.lock().await.start(None).await;
    }

    /// The machine of a member that was removed goes.
    async fn scrap(&self, id: u64) {
        self.crash(id).await;
        self.machines.lock().remove(&id);
    }

    fn history(&self) -> &History {
        &self.shared.history
    }

    fn trace(&self) -> &Trace {
        &self.shared.trace
    }

    fn network(&self) -> &Network {
        &self.shared.network
    }

    /// A member that runs.
    fn pick(&self, random: &mut Random) -> Option<Process> {
        let id = *random.pick(&self.members());
        // A machine that is being started is busy.
        self.machine(id).try_lock().ok()?.process()
    }

    fn tally(&self) -> &Tally {
        &self.shared.tally
    }

    async fn crash(&self, id: u64) {
        self.machine(id).lock().await.crash();
    }

    async fn kill(&self, id: u64) {
        self.machine(id).lock().await.kill();
    }

    async fn break_disk(&self, id: u64, which: Which, fault: DiskFault) {
        self.machine(id).lock().await.break_disk(which, fault);
    }

    async fn mend(&self, id: u64) {
        self.machine(id).lock().await.mend();
    }

    async fn runs(&self, id: u64) -> bool {
        self.machine(id).lock().await.process().is_some()
    }

    async fn start(&self, id: u64) {
        let machine = self.machine(id);
        let mut machine = machine.lock().await;
        if machine.process().is_none() {
            machine.start(None).await;
        }
    }
}

/// One run.
pub(crate) fn run(seed: u64, setup: Setup) -> (Report, Vec<String>) {
    runtime::seed(seed);
    let tokio = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    tokio.expect("a runtime").block_on(simulate(seed, setup))
}

/// Notices that processes have ended by themselves.
async fn bury(cluster: Cluster, mut deaths: mpsc::Receiver<Death>) {
    while let Some(Death { member, run, why }) = deaths.recv().await {
        let machine = cluster.machines.lock().get(&member).cloned();
        // One that was removed may be scrapped.
        if let Some(machine) = machine {
            machine.lock().await.died(run, &why);
        }
    }
}

async fn simulate(seed: u64, setup: Setup) -> (Report, Vec<String>) {
    runtime::start_clock();
    let mut random = Random::new(seed);
    let cluster = Cluster::found(setup, &mut random).await;
    let mut tasks = Vec::new();
    for number in 0..CLIENTS {
        tasks.push(tokio::spawn(workload::client(number, cluster.clone(), random.part())));
    }
    for _ in 0..WATCHERS {
        tasks.push(tokio::spawn(workload::watcher(cluster.clone(), random.part())));
    }
    let faults = tokio::spawn(faults::rage(cluster.clone(), random.part()));
    tokio::time::sleep(setup.duration).await;
    cluster.is_over.store(true, Ordering::Relaxed);
    let ended = async {
        faults.await.expect("the faults end in order");
        converge(&cluster).await;
        for task in tasks {
            task.await.expect("a client ends in order");
        }
    };
    if tokio::time::timeout(CONVERGENCE, ended).await.is_err() {
        cluster.history().fail(format!("the members do not agree after {CONVERGENCE:?}"));
    }
    (report(seed, &cluster), cluster.trace().lines())
}

/// Waits until every member has applied everything and all leases are gone, and compares them meanwhile.
async fn converge(cluster: &Cluster) {
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        if !cluster.history().failures().is_empty() {
            return;
        }
        let mut readers = Vec::new();
        let mut newest = (0, BTreeSet::new());
        for id in cluster.members() {
            let Some(process) = cluster.machine(id).lock().await.process() else {
                // It ended for what was wrong before.
                note!(cluster.trace(), "{id} has to be started again");
                cluster.start(id).await;
                continue;
            };
            let reader = process.node.reader().clone();
            let index = reader.applied().0.index;
            if index > newest.0 {
                let membership = process.node.applied_membership();
                newest = (index, membership.membership().nodes().map(|(id, _)| *id).collect());
            }
            readers.push((id, reader));
        }
        // One that was removed, and not told so, hears of nothing any more.
        readers.retain(|(id, _)| newest.1.contains(id));
        if readers.is_empty() {
            // All have just started, and have not applied their logs yet.
            continue;
        }
        let position = readers[0].1.applied().0;
        if readers.iter().any(|(_, reader)| reader.applied().0 != position) {
            continue;
        }
        compare_leases(cluster, &readers);
        if !readers[0].1.leases().is_empty() {
            continue;
        }
        let last = cluster.history().last();
        let hashes: Vec<_> = readers.iter().map(|(_, reader)| reader.hash_kv(0).expect("the store works")).collect();
        if hashes.iter().any(|hash| hash.revision < last) {
            continue;
        }
        if hashes.iter().any(|hash| (hash.hash, hash.revision) != (hashes[0].hash, hashes[0].revision)) {
            cluster.history().fail(format!("the members hold different data: {hashes:?}"));
        }
        let alarms = readers[0].1.alarms(AlarmType::Corrupt as i32);
        if !alarms.is_empty() {
            cluster.history().fail(format!("members that hold the same data were called corrupt: {alarms:?}"));
        }
        let known = cluster.history().known();
        if hashes[0].revision < known {
            let found = hashes[0].revision;
            cluster.history().fail(format!("revision {known} was acknowledged, the members end at {found}"));
        }
        return;
    }
}

/// Members that have applied as far hold the same leases with the same keys.
fn compare_leases(cluster: &Cluster, readers: &[(u64, Reader)]) {
    let leases = |reader: &Reader| {
        let leases = reader.leases().into_iter();
        leases.map(|(id, lease)| (id, (lease, reader.lease_keys(id)))).collect::<BTreeMap<_, _>>()
    };
    let (first, expected) = (readers[0].0, leases(&readers[0].1));
    for (id, reader) in &readers[1..] {
        let found = leases(reader);
        if found != expected {
            cluster.history().fail(format!("member {first} has the leases {expected:?}, member {id} has {found:?}"));
        }
    }
}

fn report(seed: u64, cluster: &Cluster) -> Report {
    let counts = cluster.history().counts();
    Report {
        seed,
        trace: cluster.trace().hash(),
        lines: cluster.trace().count(),
        writes: counts.writes,
        unknown: counts.unknown,
        reads: counts.reads,
        events: counts.events,
        expired: counts.expired,
        happened: cluster.tally().counts(),
        failures: cluster.history().failures(),
    }
}
