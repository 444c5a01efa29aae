//! Members without a log: first starts in every order, and members that lost what they had while the rest was down.

use crate::{CLUSTERS, rounds};
use anyhow::{Context, Result, bail, ensure};
use api::cleatpb::peer_client::PeerClient;
use api::cleatpb::{AppendRequest, Ballot, LogId, TransferLeaderRequest, VoteRequest};
use api::etcdserverpb::{PutRequest, RangeRequest};
use bytes::Bytes;
use harness::cluster::ELECTION;
use harness::{Cluster, Place, Subject};
use rand::Rng;
use std::time::{Duration, Instant};
use tonic::Request;
use tonic::transport::Channel;

const LIMIT: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(50);
/// Long enough that a member would have been elected several times over.
const NO_LEADER: Duration = ELECTION.saturating_mul(6);
/// Long enough for a member that decides alone, and for one that waits to say so.
const ALONE: Duration = Duration::from_secs(12);
/// Between two first starts, and from there to a kill: from before the first question to after the first election.
const START_MILLIS: std::ops::Range<u64> = 0..1_500;

async fn put(cluster: &Cluster, member: usize, key: &str) -> Result<()> {
    let request = PutRequest { key: key.to_owned().into(), value: "acknowledged".into(), ..Default::default() };
    let mut client = cluster.client(member).await?;
    tokio::time::timeout(LIMIT, client.kv.put(request)).await.context("the write was not acknowledged in time")??;
    Ok(())
}

async fn has(cluster: &Cluster, member: usize, key: &str) -> Result<bool> {
    let request = RangeRequest { key: Bytes::copy_from_slice(key.as_bytes()), ..Default::default() };
    let mut client = cluster.client(member).await?;
    let range = tokio::time::timeout(LIMIT, client.kv.range(request)).await.context("no answer in time")??;
    Ok(range.into_inner().count == 1)
}

fn log(cluster: &Cluster, member: usize) -> String {
    cluster.whole_logs().swap_remove(member)
}

/// What a member lost while all were down.
#[derive(Clone, Copy, Debug)]
enum Lost {
    /// Its disk.
    Everything,
    /// Log and database; who it is was left.
    Log,
}

/// A write is acknowledged by two of three. Then all stop, one of the two loses its data, and comes back with the third
/// only, which never got the write.
async fn lost_member_elects_nobody(lost: Lost, has_joined: bool) -> Result<()> {
    let _turn = CLUSTERS.acquire().await?;
    let subject = Subject::under_test()?;
    if !subject.is_cleat {
        // etcd 3.4 elects it, and the write is gone.
        return Ok(());
    }
    let mut cluster = Cluster::start(&subject, Place::Loopback, 3).await?;
    let told = lost_member(&mut cluster, lost, has_joined).await;
    told.with_context(|| cluster.logs())
}

async fn lost_member(cluster: &mut Cluster, lost: Lost, has_joined: bool) -> Result<()> {
    let (keeps, lags, mut loses) = (0, 1, 2);
    if has_joined {
        cluster.remove(loses).await?;
        loses = cluster.add().await?;
        // Clients see a voter at once; it is one when the leader says so.
        let deadline = Instant::now() + LIMIT;
        while !cluster.whole_logs().iter().any(|log| log.contains("promoted member, it votes now")) {
            ensure!(Instant::now() < deadline, "the member that joined got no vote");
            tokio::time::sleep(POLL).await;
        }
        cluster.wait_healthy().await?;
    }
    put(cluster, keeps, "everywhere").await?;
    cluster.agree().await?;
    cluster.kill(lags)?;
    cluster.wait_healthy().await?;
    put(cluster, keeps, "through-one").await?;
    put(cluster, loses, "through-the-other").await?;
    cluster.kill(keeps)?;
    match lost {
        Lost::Everything => cluster.lose(loses)?,
        Lost::Log => {
            cluster.kill(loses)?;
            std::fs::remove_dir_all(cluster.data_dir(loses).join("member"))?;
        }
    }

    cluster.spawn(loses)?;
    tokio::time::sleep(ALONE).await;
    cluster.spawn(lags)?;
    let until = Instant::now() + NO_LEADER;
    while Instant::now() < until {
        for member in [lags, loses] {
            if let Ok(is_there) = has(cluster, member, "through-one").await {
                bail!("member {member} serves, and the acknowledged write is there: {is_there}");
            }
        }
        tokio::time::sleep(POLL).await;
    }
    let status = cluster.wait_exit(loses).await?;
    let said = log(cluster, loses);
    ensure!(status.code() == Some(1), "{status}");
    ensure!(said.contains("waits to learn from the others whether it ran before"), "it did not say what it waits for");
    ensure!(
        said.contains("has already been bootstrapped") && said.contains("remove the member, add it again"),
        "{said}"
    );

    cluster.restart(keeps).await?;
    cluster.wait_healthy().await?;
    for member in [keeps, lags] {
        for key in ["everywhere", "through-one", "through-the-other"] {
            ensure!(has(cluster, member, key).await?, "member {member} lost {key}");
        }
    }
    // The remedy that it named.
    cluster.remove(loses).await?;
    let replaced = cluster.add().await?;
    cluster.wait_healthy().await?;
    cluster.agree().await?;
    ensure!(has(cluster, replaced, "through-one").await?, "the new member lacks the write");
    // With the old directory it learns that its id is gone.
    cluster.spawn(loses)?;
    let status = cluster.wait_exit(loses).await?;
    ensure!(status.code() == Some(0), "{status}");
    ensure!(log(cluster, loses).contains("permanently removed from the cluster"), "it did not say why it ended");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn founder_that_lost_its_disk_elects_nobody() -> Result<()> {
    lost_member_elects_nobody(Lost::Everything, false).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn founder_that_lost_its_log_elects_nobody() -> Result<()> {
    lost_member_elects_nobody(Lost::Log, false).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn member_that_joined_and_lost_its_log_elects_nobody() -> Result<()> {
    lost_member_elects_nobody(Lost::Log, true).await
}

/// Calls a member as another founder does.
struct Caller {
    client: PeerClient<Channel>,
    cluster: String,
    from: String,
    to: String,
}

impl Caller {
    /// By what the member wrote down about itself and the others.
    async fn new(cluster: &Cluster, member: usize) -> Result<Self> {
        let path = cluster.data_dir(member).join("IDENTITY");
        let deadline = Instant::now() + LIMIT;
        let identity = loop {
            match std::fs::read_to_string(&path) {
                Ok(text) => break text,
                Err(error) => ensure!(Instant::now() < deadline, "{}: {error}", path.display()),
            }
            tokio::time::sleep(POLL).await;
        };
        let values = |name: &str| -> Vec<String> {
            let lines = identity.lines().filter_map(|line| line.strip_prefix(name));
            lines.filter_map(|value| value.split_whitespace().next().map(str::to_owned)).collect()
        };
        let to = values("member_id:").remove(0);
        let from = values("founder:").into_iter().find(|id| *id != to).context("there is another founder")?;
        let endpoint = Channel::from_shared(cluster.peer_url(member))?;
        let client = loop {
            match PeerClient::connect(endpoint.clone()).await {
                Ok(client) => break client,
                Err(error) => ensure!(Instant::now() < deadline, "{error}"),
            }
            tokio::time::sleep(POLL).await;
        };
        Ok(Self { client, cluster: values("cluster_id:").remove(0), from, to })
    }

    fn request<T>(&self, message: T) -> Result<Request<T>> {
        let mut request = Request::new(message);
        for (name, id) in [("cleat-cluster-id", &self.cluster), ("cleat-from", &self.from), ("cleat-to", &self.to)] {
            request.metadata_mut().insert(name, id.parse()?);
        }
        Ok(request)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn founder_that_waits_promises_nothing() -> Result<()> {
    let _turn = CLUSTERS.acquire().await?;
    let subject = Subject::under_test()?;
    if !subject.is_cleat {
        // What etcd's members say to each other is another language.
        return Ok(());
    }
    let mut cluster = Cluster::prepared(&subject, Place::Loopback, 3, &[])?;
    cluster.spawn(0)?;
    let mut caller = Caller::new(&cluster, 0).await?;
    let from = u64::from_str_radix(&caller.from, 16)?;
    let ballot = |committed| Some(Ballot { term: 5, member_id: from, committed });
    let far = Some(LogId { term: 5, index: 100 });
    let mut refusals = Vec::new();
    for is_trial in [true, false] {
        let vote = VoteRequest { ballot: ballot(false), last: far, is_transfer: true, is_trial };
        let request = caller.request(vote)?;
        refusals.push(caller.client.vote(request).await.err());
    }
    let heartbeat = AppendRequest { ballot: ballot(true), ..Default::default() };
    let request = caller.request(futures::stream::iter([heartbeat]))?;
    refusals.push(caller.client.append(request).await.err());
    let to = u64::from_str_radix(&caller.to, 16)?;
    let request = caller.request(TransferLeaderRequest { from: ballot(true), to, last: None })?;
    refusals.push(caller.client.transfer_leader(request).await.err());
    for refusal in refusals {
        let refusal = refusal.context("a member without a log made a promise")?;
        ensure!(refusal.message().starts_with("the member takes no part yet"), "{refusal:?}");
    }
    // Nothing of that is left behind.
    let started = first_start(&mut cluster, &[1, 2]).await;
    started.with_context(|| cluster.logs())?;
    let vote = VoteRequest { ballot: ballot(false), last: None, is_transfer: false, is_trial: true };
    let request = caller.request(vote)?;
    ensure!(!caller.client.vote(request).await?.into_inner().granted, "who is behind gets no vote");
    Ok(())
}

/// Every order of three.
const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn founders_start_in_any_order_and_one_is_killed() -> Result<()> {
    let subject = Subject::under_test()?;
    for _ in 0..rounds()?.div_ceil(2) {
        for order in ORDERS {
            let _turn = CLUSTERS.acquire().await?;
            let mut cluster = Cluster::prepared(&subject, Place::Loopback, order.len(), &[])?;
            let started = first_start(&mut cluster, &order).await;
            started.with_context(|| format!("in the order {order:?}\n{}", cluster.logs()))?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn founders_of_five_need_three() -> Result<()> {
    let _turn = CLUSTERS.acquire().await?;
    let mut cluster = Cluster::prepared(&Subject::under_test()?, Place::Loopback, 5, &[])?;
    let started = async {
        cluster.spawn(0)?;
        cluster.spawn(1)?;
        tokio::time::sleep(NO_LEADER).await;
        for member in 0..2 {
            ensure!(!log(&cluster, member).contains("ready to serve"), "two of five serve");
        }
        first_start(&mut cluster, &[2, 3, 4]).await
    };
    let started = started.await;
    started.with_context(|| cluster.logs())
}

/// Starts members one after the other, kills one of those that run somewhere on the way, and ends with all of them in
/// one cluster.
async fn first_start(cluster: &mut Cluster, order: &[usize]) -> Result<()> {
    let killed_after = rand::rng().random_range(0..order.len());
    for (started, &member) in order.iter().enumerate() {
        cluster.spawn(member)?;
        let pause = Duration::from_millis(rand::rng().random_range(START_MILLIS));
        tokio::time::sleep(pause).await;
        if started == killed_after {
            let running = cluster.running();
            let victim = running[rand::rng().random_range(0..running.len())];
            cluster.kill(victim)?;
            cluster.spawn(victim)?;
        }
    }
    cluster.wait_healthy().await?;
    for member in cluster.members() {
        put(cluster, member, &format!("by-{member}")).await?;
    }
    cluster.agree().await?;
    Ok(())
}
