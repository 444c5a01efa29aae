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
//! [`faults`]). [`checker`] says what must hold. Not here: gRPC, configuration, threads; and snapshots, so
//! a run either purges its logs behind all members, or lets members join.

mod checker;
pub(crate) mod disk;
mod faults;
mod member;
mod membership;
mod network;
mod random;
mod report;
pub(crate) mod runtime;
mod tests;
pub(crate) mod watch;
mod workload;

use checker::History;
use member::{Machine, Process, Shared};
use network::Network;
use random::Random;
use report::{Report, Trace};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Mutex;

use crate::raft::types::Peer;

const CLIENTS: usize = 4;
const WATCHERS: usize = 2;
/// How long members may take to agree once everything is well.
const CONVERGENCE: Duration = Duration::from_secs(30);

/// What a run is like, beside its seed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) members: u64,
    /// How long things go wrong.
    pub(crate) duration: Duration,
    /// Plants a bug: the log says that it is durable before it is.
    pub(crate) acknowledges_early: bool,
    /// One learner joins first, and the network often falls into two parts.
    pub(crate) has_learner: bool,
    /// Plants a bug: that learner votes in the place of voters that do not answer.
    pub(crate) learner_votes: bool,
    /// Logs are purged, and nobody joins: a new member would need a snapshot.
    pub(crate) purges: bool,
    /// Only power and disks fail.
    pub(crate) only_power: bool,
    /// Plants a bug: reads do not ask whether they are current.
    pub(crate) skips_read_barrier: bool,
}

impl Default for Setup {
    fn default() -> Self {
        let duration = Duration::from_secs(12);
        Self {
            members: 3,
            duration,
            acknowledges_early: false,
            has_learner: false,
            learner_votes: false,
            purges: false,
            only_power: false,
            skips_read_barrier: false,
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
    crashes: Arc<AtomicU64>,
}

impl Cluster {
    /// Makes the members of a new cluster and starts them.
    async fn found(setup: Setup, random: &mut Random) -> Self {
        let trace = Trace::new();
        let history = History::new(trace.clone());
        let network = Network::new(random.part(), trace.clone());
        let shared = Shared { network, history, trace };
        let mut machines = BTreeMap::new();
        for id in 1..=setup.members {
            let machine = Machine::new(id, shared.clone(), setup.purges, random);
            if setup.acknowledges_early {
                machine.acknowledge_early();
            }
            machines.insert(id, Arc::new(Mutex::new(machine)));
        }
        let peer = |id: &u64| Peer { peer_urls: vec![format!("http://m{id}:2380")], joins_as_voter: true };
        let initial = machines.keys().map(|id| (*id, peer(id))).collect();
        let machines = Arc::new(parking_lot::Mutex::new(machines));
        let apart = Arc::new(parking_lot::Mutex::new(random.part()));
        let (is_over, crashes) = (Arc::default(), Arc::default());
        let cluster = Self { setup, shared, machines, random: apart, is_over, crashes };
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
        let machine = Machine::new(id, self.shared.clone(), self.setup.purges, &mut self.random.lock());
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

    async fn crash(&self, id: u64) {
        self.crashes.fetch_add(1, Ordering::Relaxed);
        self.machine(id).lock().await.crash();
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

/// Waits until every member has applied everything, and compares them.
async fn converge(cluster: &Cluster) {
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let mut readers = Vec::new();
        let mut newest = (0, BTreeSet::new());
        for id in cluster.members() {
            let Some(process) = cluster.machine(id).lock().await.process() else { return };
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
        let last = cluster.history().last();
        let hashes: Vec<_> = readers.iter().map(|(_, reader)| reader.hash_kv(0).expect("the store works")).collect();
        let position = readers[0].1.applied().0;
        let is_done = readers.iter().all(|(_, reader)| reader.applied().0 == position)
            && hashes.iter().all(|hash| hash.revision >= last);
        if !is_done {
            continue;
        }
        if hashes.iter().any(|hash| (hash.hash, hash.revision) != (hashes[0].hash, hashes[0].revision)) {
            cluster.history().fail(format!("the members hold different data: {hashes:?}"));
        }
        let known = cluster.history().known();
        if hashes[0].revision < known {
            let found = hashes[0].revision;
            cluster.history().fail(format!("revision {known} was acknowledged, the members end at {found}"));
        }
        return;
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
        crashes: cluster.crashes.load(Ordering::Relaxed),
        failures: cluster.history().failures(),
    }
}
