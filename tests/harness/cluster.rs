//! Whole clusters of real processes, Cleat or etcd, on loopback or in network namespaces.
//!
//! A [`Cluster`] starts and ends members, changes the membership, finds the leader and compares the members' data. The
//! program is a [`Subject`]: the server under test, or a peer that is measured beside it. Members are known by their
//! number, which is never used again after a removal. Everything is killed and removed on drop; after a failure
//! [`Cluster::logs`] has the ends of the members' logs.

use crate::client::Client;
use crate::load::Endpoints;
use crate::network::Network;
use crate::server::{Kind, Options, Server};
use crate::site::Site;
use crate::slow_disk::SlowDisk;
use anyhow::{Context, Result, bail, ensure};
use api::etcdserverpb::{
    HashKvRequest, MemberAddRequest, MemberListRequest, MemberRemoveRequest, RangeRequest, StatusRequest,
    StatusResponse,
};
use bytes::Bytes;
use rand::seq::SliceRandom;
use rustix::process::Signal;
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Milliseconds between heartbeats of every cluster.
pub const HEARTBEAT: Duration = Duration::from_millis(100);
/// Election timeout of every cluster.
pub const ELECTION: Duration = Duration::from_secs(1);
const CALL_DEADLINE: Duration = Duration::from_secs(2);
/// For what is asked once: a busy machine takes its time.
const PATIENCE: Duration = Duration::from_secs(20);
/// A leader is elected, a member catches up or a change of members is accepted within this time on a busy machine.
const SETTLE_DEADLINE: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(20);

/// A program whose clusters are tested.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Name and version.
    pub label: String,
    /// Cleat, and not etcd.
    pub is_cleat: bool,
    binary: PathBuf,
}

impl Subject {
    /// The server under test: `CLEAT_BIN`, else `cleat` of this build; with `CLEAT_PEER=etcd` the reference,
    /// `ETCD_BIN`, else `etcd` from `PATH`.
    pub fn under_test() -> Result<Self> {
        let kind = match std::env::var("CLEAT_PEER") {
            Err(_) => Kind::Cleat,
            Ok(peer) if peer == "etcd" => Kind::Etcd,
            Ok(peer) => bail!("CLEAT_PEER is {peer:?}, it can only be \"etcd\""),
        };
        Self::of(kind)
    }

    /// The program of a kind.
    pub fn of(kind: Kind) -> Result<Self> {
        Self::at(&kind.binary()?)
    }

    /// Programs that are measured beside the one under test: the paths in `CLEAT_PEERS`, separated by colons.
    pub fn peers() -> Result<Vec<Self>> {
        let paths = std::env::var_os("CLEAT_PEERS").unwrap_or_default();
        std::env::split_paths(&paths).filter(|path| !path.as_os_str().is_empty()).map(|path| Self::at(&path)).collect()
    }

    fn at(binary: &Path) -> Result<Self> {
        let output = Command::new(binary).arg("--version").output();
        let output = output.with_context(|| format!("run {} --version", binary.display()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let version = |product: &str| {
            let start = format!("{product} Version: ");
            text.lines().find_map(|line| line.strip_prefix(&start)).map(|version| version.trim().to_owned())
        };
        let (cleat, etcd) = (version("Cleat"), version("etcd"));
        let label = match (&cleat, etcd) {
            (Some(version), _) => format!("cleat {version}"),
            (None, Some(version)) => format!("etcd {version}"),
            (None, None) => bail!("{} is neither Cleat nor etcd: {text}", binary.display()),
        };
        Ok(Self { label, is_cleat: cleat.is_some(), binary: binary.to_owned() })
    }
}

/// Where the members run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// On loopback, with ports of their own.
    Loopback,
    /// Each in a network namespace of its own, so that the network between them can fail.
    Namespaces,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Announced, or stopped, or killed.
    Down,
    Up,
    /// Stopped by a signal, with everything open.
    Paused,
    /// Not a member any more.
    Removed,
}

#[derive(Debug)]
struct Member {
    server: Server,
    state: State,
    /// It ran at some time, so clients know its address.
    known: bool,
}

/// A cluster and its processes.
#[derive(Debug)]
pub struct Cluster {
    subject: Subject,
    members: Vec<Member>,
    endpoints: Endpoints,
    flags: Vec<String>,
    /// Of a cluster with TLS between all members and clients.
    site: Option<Arc<Site>>,
    /// After the members, whose processes end first.
    network: Option<Network>,
}

impl Cluster {
    /// Starts a cluster of so many members in any order, the last one late, and waits until all answer.
    pub async fn start(subject: &Subject, place: Place, size: usize) -> Result<Self> {
        Self::start_with(subject, place, size, &[]).await
    }

    /// Starts a cluster whose members have more flags.
    pub async fn start_with(subject: &Subject, place: Place, size: usize, flags: &[&str]) -> Result<Self> {
        Self::prepared(subject, place, size, flags)?.begun().await
    }

    /// Starts a cluster on loopback with TLS everywhere. The members are called `m0` and so on; the site has to have
    /// admitted them.
    pub async fn start_secure(subject: &Subject, size: usize, flags: &[&str], site: Arc<Site>) -> Result<Self> {
        Self::prepared_on(subject, size, flags, None, Some(site))?.begun().await
    }

    /// A cluster whose members have never run.
    pub fn prepared(subject: &Subject, place: Place, size: usize, flags: &[&str]) -> Result<Self> {
        let network = match place {
            Place::Loopback => None,
            Place::Namespaces => Some(Network::new()?),
        };
        Self::prepared_on(subject, size, flags, network, None)
    }

    fn prepared_on(
        subject: &Subject,
        size: usize,
        flags: &[&str],
        network: Option<Network>,
        site: Option<Arc<Site>>,
    ) -> Result<Self> {
        let timing = [
            format!("--heartbeat-interval={}", HEARTBEAT.as_millis()),
            format!("--election-timeout={}", ELECTION.as_millis()),
            format!("--initial-cluster-token=token-{}", rand::random::<u32>()),
        ];
        let flags = timing.into_iter().chain(flags.iter().map(|&flag| flag.to_owned())).collect();
        let endpoints = site.as_ref().map_or_else(Endpoints::default, |site| Endpoints::secure(site.caller("client")));
        let mut cluster = Self { subject: subject.clone(), members: Vec::new(), endpoints, flags, site, network };
        for _ in 0..size {
            cluster.prepare("new")?;
        }
        let initial = cluster.members();
        for &member in &initial {
            let list = cluster.initial_cluster(&initial);
            cluster.members[member].server.options_mut().initial_cluster = list;
        }
        Ok(cluster)
    }

    async fn begun(mut self) -> Result<Self> {
        let begun = self.begin().await;
        let what = || format!("start {} members of {}\n{}", self.members.len(), self.subject.label, self.logs());
        begun.with_context(what)?;
        Ok(self)
    }

    async fn begin(&mut self) -> Result<()> {
        let mut order = self.members();
        order.shuffle(&mut rand::rng());
        // The others elect a leader without the last one.
        let late = if order.len() > 2 { order.pop() } else { None };
        for &member in &order {
            self.spawn(member)?;
        }
        self.wait_healthy().await?;
        if let Some(late) = late {
            self.spawn(late)?;
            self.wait_healthy().await?;
        }
        Ok(())
    }

    /// Makes the next member, without a process.
    fn prepare(&mut self, state: &str) -> Result<usize> {
        let number = self.members.len();
        let (host, wrapper) = match &mut self.network {
            None => (None, Vec::new()),
            Some(network) => {
                let place = network.add()?;
                ensure!(place == number, "member {number} has the namespace {place}");
                (Some(network.address(place)), network.wrapper(place))
            }
        };
        let mut flags = self.flags.clone();
        // Members that are to find out are so at every start.
        if !flags.iter().any(|flag| flag.starts_with("--initial-cluster-state")) {
            flags.push(format!("--initial-cluster-state={state}"));
        }
        let name = format!("m{number}");
        flags.extend(self.site.iter().flat_map(|site| site.flags(&name)));
        let options = Options {
            name,
            flags,
            is_secure: self.site.is_some(),
            secures_peers: self.site.is_some(),
            client_tls: self.site.as_ref().map(|site| site.caller("client")),
            wrapper,
            host,
            binary: Some(self.subject.binary.clone()),
            ..Options::default()
        };
        let kind = if self.subject.is_cleat { Kind::Cleat } else { Kind::Etcd };
        let server = Server::prepare(kind, options)?;
        self.members.push(Member { server, state: State::Down, known: false });
        Ok(number)
    }

    fn initial_cluster(&self, members: &[usize]) -> String {
        let pairs = members.iter().map(|&member| format!("m{member}={}", self.members[member].server.peer_url()));
        pairs.collect::<Vec<_>>().join(",")
    }

    /// What it is a cluster of.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// Client URLs of the members, kept up to date while members come and go.
    pub fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// The network, if the members have one of their own.
    pub fn network(&self) -> Result<&Network> {
        self.network.as_ref().context("the members are on loopback")
    }

    /// Members that run and are not paused.
    pub fn running(&self) -> Vec<usize> {
        self.in_state(|state| state == State::Up)
    }

    /// Everyone who was not removed.
    pub fn members(&self) -> Vec<usize> {
        self.in_state(|state| state != State::Removed)
    }

    fn in_state(&self, wanted: impl Fn(State) -> bool) -> Vec<usize> {
        (0..self.members.len()).filter(|&member| wanted(self.members[member].state)).collect()
    }

    fn publish_endpoints(&self) {
        let known = self.members().into_iter().filter(|&member| self.members[member].known);
        self.endpoints.set(known.map(|member| self.url(member)).collect());
    }

    /// Client URL of a member.
    pub fn url(&self, member: usize) -> String {
        self.members[member].server.client_url()
    }

    /// A member's server.
    pub fn server(&self, member: usize) -> &Server {
        &self.members[member].server
    }

    /// URL at which other members reach a member.
    pub fn peer_url(&self, member: usize) -> String {
        self.members[member].server.peer_url()
    }

    /// Data directory of a member.
    pub fn data_dir(&self, member: usize) -> PathBuf {
        self.members[member].server.data_dir()
    }

    /// A new connection to a member.
    pub async fn client(&self, member: usize) -> Result<Client> {
        let connected = tokio::time::timeout(PATIENCE, self.members[member].server.client()).await;
        connected.context("connecting takes too long")?
    }

    /// Starts the process of a member and does not wait for it.
    pub fn spawn(&mut self, member: usize) -> Result<()> {
        self.members[member].server.spawn()?;
        self.members[member].state = State::Up;
        self.members[member].known = true;
        Ok(())
    }

    /// Starts the process of a member and waits until it answers and knows a leader.
    pub async fn restart(&mut self, member: usize) -> Result<()> {
        self.spawn(member)?;
        let started = self.members[member].server.wait_ready().await;
        self.publish_endpoints();
        started
    }

    /// Kills a member as a power cut would.
    pub fn kill(&mut self, member: usize) -> Result<()> {
        self.members[member].state = State::Down;
        self.members[member].server.kill()
    }

    /// Asks a member to end and waits for it.
    pub async fn terminate(&mut self, member: usize) -> Result<ExitStatus> {
        self.members[member].state = State::Down;
        self.members[member].server.terminate().await
    }

    /// Sends SIGTERM and does not wait.
    pub fn ask_to_end(&mut self, member: usize) -> Result<()> {
        self.members[member].server.signal(Signal::TERM)
    }

    /// Waits for a member that was asked to end.
    pub async fn wait_end(&mut self, member: usize) -> Result<()> {
        self.members[member].server.wait_exit(SETTLE_DEADLINE).await?;
        self.kill(member)
    }

    /// Stops a process without ending it, like a machine that hangs.
    pub fn pause(&mut self, member: usize) -> Result<()> {
        self.members[member].state = State::Paused;
        self.members[member].server.signal(Signal::STOP)
    }

    /// Lets a paused process go on.
    pub fn resume(&mut self, member: usize) -> Result<()> {
        self.members[member].state = State::Up;
        self.members[member].server.signal(Signal::CONT)
    }

    /// Makes each sync of a member slower while the returned value lives.
    pub async fn slow_disk(&self, member: usize, delay: Duration) -> Result<SlowDisk> {
        SlowDisk::attach(self.members[member].server.pid()?, delay).await
    }

    /// Forgets a member's process and its data, as a machine that burns down.
    pub fn lose(&mut self, member: usize) -> Result<()> {
        self.kill(member)?;
        let data = self.members[member].server.data_dir();
        std::fs::remove_dir_all(&data).with_context(|| format!("remove {}", data.display()))
    }

    /// Waits for a member to end by itself.
    pub async fn wait_exit(&mut self, member: usize) -> Result<ExitStatus> {
        let status = self.members[member].server.wait_exit(SETTLE_DEADLINE).await?;
        self.kill(member)?;
        Ok(status)
    }

    /// Announces a new voter to the cluster and returns its number; its process is not started.
    pub async fn announce(&mut self) -> Result<usize> {
        self.announce_as(false).await
    }

    async fn announce_as(&mut self, is_learner: bool) -> Result<usize> {
        let before: Vec<usize> = self.members();
        let number = self.prepare("existing")?;
        let url = self.members[number].server.peer_url();
        let list = self.initial_cluster(&[before.as_slice(), &[number]].concat());
        self.members[number].server.options_mut().initial_cluster = list;
        self.change("add a member", async |mut client: Client| {
            let request = MemberAddRequest { peer_urls: vec![url.clone()], is_learner };
            let listed = client.cluster.member_list(MemberListRequest::default()).await?.into_inner();
            // An earlier try may have worked without an answer.
            if !listed.members.iter().any(|member| member.peer_urls.contains(&url)) {
                client.cluster.member_add(request).await?;
            }
            Ok(())
        })
        .await?;
        Ok(number)
    }

    /// Makes a member that nobody announced: with `--initial-cluster-state=auto` it joins by itself. It knows the peer
    /// URLs of these members.
    pub fn prepare_joining(&mut self, known: &[usize]) -> Result<usize> {
        let number = self.prepare("auto")?;
        let list = self.initial_cluster(known);
        self.members[number].server.options_mut().initial_cluster = list;
        Ok(number)
    }

    /// What the next starts of a member are made with.
    pub fn options_mut(&mut self, member: usize) -> &mut Options {
        self.members[member].server.options_mut()
    }

    /// Adds a voter and starts its process.
    pub async fn add(&mut self) -> Result<usize> {
        let number = self.announce().await?;
        self.restart(number).await?;
        Ok(number)
    }

    /// Adds a learner and starts its process.
    pub async fn add_learner(&mut self) -> Result<usize> {
        let number = self.announce_as(true).await?;
        self.restart(number).await?;
        Ok(number)
    }

    /// Removes a member and ends its process.
    pub async fn remove(&mut self, member: usize) -> Result<()> {
        let url = self.members[member].server.peer_url();
        self.members[member].state = State::Removed;
        // Clients stop using an address before it goes.
        self.publish_endpoints();
        let asked = Cell::new(false);
        self.change("remove a member", async |mut client: Client| {
            let listed = client.cluster.member_list(MemberListRequest::default()).await?.into_inner();
            if let Some(found) = listed.members.iter().find(|member| member.peer_urls.contains(&url)) {
                asked.set(true);
                client.cluster.member_remove(MemberRemoveRequest { id: found.id }).await?;
            }
            // A list may be from before the member was added.
            ensure!(asked.get(), "{url} is not a member");
            Ok(())
        })
        .await?;
        self.members[member].server.kill()
    }

    /// Asks running members for a change until one accepts it: right after a fault a cluster refuses changes.
    async fn change(&self, what: &str, ask: impl AsyncFn(Client) -> Result<()>) -> Result<()> {
        let deadline = Instant::now() + SETTLE_DEADLINE;
        let mut refused = anyhow::anyhow!("no member runs");
        while Instant::now() < deadline {
            for member in self.running() {
                let Ok(client) = self.client(member).await else { continue };
                match tokio::time::timeout(CALL_DEADLINE * 2, ask(client)).await {
                    Ok(Ok(())) => return Ok(()),
                    Ok(Err(error)) => refused = error,
                    Err(_) => refused = anyhow::anyhow!("no answer in time"),
                }
            }
            tokio::time::sleep(POLL).await;
        }
        Err(refused.context(format!("{what} in {SETTLE_DEADLINE:?}")))
    }

    /// What a member says about itself.
    pub async fn status(&self, member: usize) -> Result<StatusResponse> {
        let mut client = self.client(member).await?;
        let status = tokio::time::timeout(PATIENCE, client.maintenance.status(StatusRequest {})).await;
        Ok(status.context("no answer in time")??.into_inner())
    }

    /// Waits until the running members agree on a leader that is one of them, and returns it.
    pub async fn leader(&self) -> Result<usize> {
        let deadline = Instant::now() + SETTLE_DEADLINE;
        loop {
            let statuses = futures::future::join_all(self.running().into_iter().map(async |member| {
                let status = self.status(member).await.ok()?;
                Some((member, status.header?.member_id, status.leader))
            }));
            let statuses: Vec<_> = statuses.await.into_iter().flatten().collect();
            let agreed = statuses.first().is_some_and(|first| statuses.iter().all(|other| other.2 == first.2));
            let leader = statuses.iter().find(|(_, id, leader)| *leader != 0 && id == leader);
            if let (true, Some((member, _, _))) = (agreed && statuses.len() == self.running().len(), leader) {
                return Ok(*member);
            }
            ensure!(Instant::now() < deadline, "no leader in {SETTLE_DEADLINE:?}: {statuses:x?}");
            tokio::time::sleep(POLL).await;
        }
    }

    /// A running member that does not lead.
    pub async fn follower(&self) -> Result<usize> {
        let leader = self.leader().await?;
        let mut followers = self.running();
        followers.retain(|&member| member != leader);
        followers.shuffle(&mut rand::rng());
        followers.first().copied().context("there is no follower")
    }

    /// Waits until all running members know one leader and answer a linearizable read.
    pub async fn wait_healthy(&mut self) -> Result<()> {
        for member in self.running() {
            self.members[member].server.wait_ready().await?;
        }
        self.publish_endpoints();
        self.leader().await?;
        for member in self.running() {
            self.revision(member).await?;
        }
        Ok(())
    }

    /// The revision of a linearizable read through a member.
    pub async fn revision(&self, member: usize) -> Result<i64> {
        let deadline = Instant::now() + SETTLE_DEADLINE;
        loop {
            let read = async {
                let mut client = self.client(member).await?;
                let request = RangeRequest { key: Bytes::from_static(b"any"), ..Default::default() };
                let range = client.kv.range(request).await?.into_inner();
                anyhow::Ok(range.header.context("a range has a header")?.revision)
            };
            match tokio::time::timeout(CALL_DEADLINE * 2, read).await {
                Ok(Ok(revision)) => return Ok(revision),
                failed if Instant::now() > deadline => bail!("member {member} does not answer reads: {failed:?}"),
                _ => tokio::time::sleep(POLL).await,
            }
        }
    }

    /// Waits until all running members have the same data at the newest revision, and returns that.
    pub async fn agree(&self) -> Result<i64> {
        let running = self.running();
        let deadline = Instant::now() + SETTLE_DEADLINE;
        let revision = self.revision(*running.first().context("no member runs")?).await?;
        loop {
            let hashes = futures::future::join_all(running.iter().map(async |&member| {
                let mut client = self.client(member).await.ok()?;
                let hash = client.maintenance.hash_kv(HashKvRequest { revision });
                let hash = tokio::time::timeout(CALL_DEADLINE, hash).await.ok()?.ok()?.into_inner();
                Some((hash.hash, hash.compact_revision))
            }));
            let hashes = hashes.await;
            if hashes[0].is_some() && hashes.iter().all(|hash| *hash == hashes[0]) {
                return Ok(revision);
            }
            ensure!(
                Instant::now() < deadline,
                "members {running:?} have other data at revision {revision} (hash, compacted): {hashes:x?}"
            );
            tokio::time::sleep(POLL).await;
        }
    }

    /// Everything that each member printed.
    pub fn whole_logs(&self) -> Vec<String> {
        self.members.iter().map(|member| member.server.log()).collect()
    }

    /// The ends of all members' logs.
    pub fn logs(&self) -> String {
        let logs = self.members.iter().enumerate().map(|(number, member)| {
            format!("--- end of the log of member {number} ({:?}) ---\n{}\n", member.state, member.server.log_tail())
        });
        logs.collect()
    }
}
