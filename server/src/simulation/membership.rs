//! Changes of the membership, and ends of tasks, at moments that a random run seldom meets.

use super::member::{ELECTION_TIMEOUT, Process};
use super::random::Random;
use super::{Cluster, Setup, runtime};
use crate::background::{publish, watch_removal};
use crate::config::Config;
use api::cleatpb::command::Op;
use api::cleatpb::membership_change::Change;
use api::error::Error;
use api::etcdserverpb::{MemberAddRequest, MemberPromoteRequest, MemberRemoveRequest, MemberUpdateRequest, PutRequest};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Whatever is waited for has happened by then.
const LIMIT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(10);

/// At once: no wait of a task is as short.
const AT_ONCE: Duration = Duration::from_millis(20);

/// A few messages' way.
const SOON: Duration = Duration::from_millis(100);

/// Plays a scenario with a new cluster.
fn play(members: u64, scenario: impl AsyncFnOnce(&Cluster)) {
    runtime::seed(1);
    let tokio = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    tokio.expect("a runtime").block_on(async {
        runtime::start_clock();
        let cluster = Cluster::found(Setup { members, ..Setup::default() }, &mut Random::new(1)).await;
        scenario(&cluster).await;
        assert_eq!(cluster.history().failures(), Vec::<String>::new());
    });
}

async fn wait(what: &str, happened: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !happened().await {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(POLL).await;
    }
}

impl Cluster {
    async fn process(&self, id: u64) -> Process {
        self.machine(id).lock().await.process().expect("the member runs")
    }

    /// Waits until these agree on a leader among them, and returns it.
    async fn leader_of(&self, ids: &[u64]) -> u64 {
        let first = self.process(ids[0]).await.node;
        let agreed = async || {
            let leader = first.leader();
            let mut agree = ids.contains(&leader);
            for id in ids {
                agree &= self.process(*id).await.node.leader() == leader;
            }
            agree
        };
        wait("they agree on a leader", agreed).await;
        first.leader()
    }

    /// Nothing passes between the one and the others any more.
    fn cut_off(&self, one: u64, others: &[u64]) {
        for other in others {
            self.network().cut(one, *other);
            self.network().cut(*other, one);
        }
    }
}

fn add(urls: &[&str], is_learner: bool) -> Change {
    Change::Add(MemberAddRequest { peer_urls: urls.iter().map(ToString::to_string).collect(), is_learner })
}

fn others_than(one: u64) -> Vec<u64> {
    (1..=3).filter(|id| *id != one).collect()
}

/// The voters as raft has them at this member, committed or not.
fn voters(process: &Process) -> BTreeSet<u64> {
    process.node.raft_metrics(|now| now.membership_config.membership().voter_ids().collect())
}

/// True once the leader knows that the member has the whole log.
fn has_all(leader: &Process, id: u64) -> bool {
    leader.node.raft_metrics(|now| {
        let matched = now.replication.as_ref().and_then(|all| all.get(&id).copied().flatten());
        matched.map(|id| id.index) == now.last_log_index
    })
}

/// A leader that is cut off appends, another one is elected, and what was appended is thrown away.
#[test]
fn what_may_have_been_done_is_not_done_again() {
    play(3, async |cluster| {
        let leader = cluster.leader_of(&[1, 2, 3]).await;
        let others = others_than(leader);
        let process = cluster.process(leader).await;
        tokio::time::sleep(ELECTION_TIMEOUT).await;
        cluster.cut_off(leader, &others);
        let (members, node) = (Arc::clone(&process.members), process.node.clone());
        let added = tokio::spawn(async move { members.change(add(&["http://n4:2380"], true)).await });
        let put = PutRequest { key: "a".into(), value: "1".into(), ..Default::default() };
        let put = tokio::spawn(async move { node.propose(Op::Put(put)).await });
        cluster.leader_of(&others).await;
        cluster.network().heal();
        assert_eq!(added.await.expect("it ends in order"), Err(Error::TimeoutLeaderLost));
        assert_eq!(put.await.expect("it ends in order").map(|_| ()), Err(Error::TimeoutLeaderLost));
        let next = cluster.leader_of(&[1, 2, 3]).await;
        let node = cluster.process(next).await.node;
        assert_eq!((node.membership().membership().nodes().count(), node.reader().revision()), (3, 1));
    });
}

/// What a change is decided by is read from a view of raft that may be old; here it is one that nobody keeps up to date.
#[test]
fn an_old_membership_decides_nothing() {
    play(3, async |cluster| {
        let process = cluster.process(cluster.leader_of(&[1, 2, 3]).await).await;
        tokio::time::sleep(ELECTION_TIMEOUT).await;
        process.stop.cancel();
        let members = &process.members;
        members.change(add(&["http://n4:2380"], true)).await.expect("it is added");
        let twice = members.change(add(&["http://n4:2380", "http://n5:2380"], false)).await;
        assert_eq!(twice, Err(Error::Unhealthy));
        let peer_urls = vec!["http://n4:2380".to_owned()];
        let taken = members.change(Change::Update(MemberUpdateRequest { id: 2, peer_urls })).await;
        assert_eq!(taken, Err(Error::Unhealthy));
        let known = process.node.raft_metrics(|now| now.membership_config.membership().nodes().count());
        assert_eq!(known, 4);
    });
}

#[test]
fn a_learner_that_is_gone_gets_no_vote() {
    play(3, async |cluster| {
        let process = cluster.process(cluster.leader_of(&[1, 2, 3]).await).await;
        let id = process.members.change(add(&["http://n4:2380"], true)).await.expect("it is added");
        cluster.build(id).await;
        wait("the learner has everything", async || has_all(&process, id)).await;
        cluster.crash(id).await;
        tokio::time::sleep(ELECTION_TIMEOUT * 2).await;
        assert!(has_all(&process, id), "the leader remembers what it had");
        let promote = || process.members.change(Change::Promote(MemberPromoteRequest { id }));
        assert_eq!(promote().await, Err(Error::LearnerNotReady));
        cluster.start(id).await;
        wait("it is promoted", async || promote().await.is_ok()).await;
    });
}

/// While the leader has no majority, a new voter catches up and is gone again.
#[test]
fn a_new_voter_that_is_gone_gets_no_vote() {
    play(3, async |cluster| {
        let leader = cluster.leader_of(&[1, 2, 3]).await;
        let process = cluster.process(leader).await;
        let id = process.members.change(add(&["http://n4:2380"], false)).await.expect("it is added");
        let others = others_than(leader);
        for other in &others {
            cluster.crash(*other).await;
        }
        wait("the leader has no majority", async || !process.node.is_leader()).await;
        cluster.build(id).await;
        wait("the new voter has everything", async || has_all(&process, id)).await;
        cluster.crash(id).await;
        tokio::time::sleep(ELECTION_TIMEOUT * 2).await;
        for other in &others {
            cluster.start(*other).await;
        }
        wait("the leader has a majority", async || process.node.is_leader()).await;
        tokio::time::sleep(ELECTION_TIMEOUT * 2).await;
        assert!(!voters(&process).contains(&id), "it votes");
        assert!(process.node.is_leader() && has_all(&process, id), "the leader remembers what it had");
        cluster.start(id).await;
        wait("it votes", async || voters(&process).contains(&id)).await;
    });
}

#[test]
fn the_last_voter_stays() {
    play(1, async |cluster| {
        cluster.leader_of(&[1]).await;
        let members = cluster.process(1).await.members;
        let began = Instant::now();
        let removed = members.change(Change::Remove(MemberRemoveRequest { id: 1 })).await;
        assert_eq!((removed, began.elapsed() < SOON), (Err(Error::MemberNotEnoughStarted), true));
    });
}

/// Ends tasks that wait for somebody who does not answer.
async fn end(stop: &CancellationToken, tasks: Vec<tokio::task::JoinHandle<()>>) {
    assert!(tasks.iter().all(|task| !task.is_finished()), "one is over");
    stop.cancel();
    for task in tasks {
        tokio::time::timeout(AT_ONCE, task).await.expect("it ends at once").expect("it ends in order");
    }
}

#[test]
fn a_promotion_without_a_majority_ends_with_the_member() {
    play(3, async |cluster| {
        let leader = cluster.leader_of(&[1, 2, 3]).await;
        let process = cluster.process(leader).await;
        let id = process.members.change(add(&["http://n4:2380"], false)).await.expect("it is added");
        tokio::time::sleep(ELECTION_TIMEOUT).await;
        // The member's own task is not in the way.
        process.stop.cancel();
        cluster.cut_off(leader, &others_than(leader));
        cluster.build(id).await;
        let stop = CancellationToken::new();
        let promoting = tokio::spawn(Arc::clone(&process.members).promote(stop.clone()));
        wait("the vote is given", async || voters(&process).contains(&id)).await;
        end(&stop, vec![promoting]).await;
    });
}

fn config() -> Config {
    match crate::config::load([], []) {
        Ok(crate::config::Command::Run(config)) => *config,
        other => panic!("{other:?}"),
    }
}

#[test]
fn tasks_without_a_leader_end_with_the_member() {
    play(3, async |cluster| {
        let leader = cluster.leader_of(&[1, 2, 3]).await;
        let alone = others_than(leader)[0];
        let node = cluster.process(alone).await.node;
        cluster.cut_off(alone, &others_than(alone));
        wait("it has no leader", async || node.leader() == 0).await;
        let stop = CancellationToken::new();
        let (ends, _kept) = mpsc::channel(1);
        let mut tasks = Vec::new();
        // At each moment some are asking and some pause.
        for _ in 0..24 {
            tasks.push(tokio::spawn(publish(node.clone(), config(), stop.clone())));
            tasks.push(tokio::spawn(watch_removal(node.clone(), ends.clone(), stop.clone())));
            tokio::time::sleep(ELECTION_TIMEOUT / 4).await;
        }
        end(&stop, tasks).await;
    });
}
