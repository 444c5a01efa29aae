//! What people and Kubernetes do to nodes and pods: a node that is lost with its volume and comes back, and a rollout whose order is
//! that of the labels (`updateStrategy.type=OnDelete`).

use crate::set::Set;
use crate::{LIMIT, NOTHING_HAPPENS, roles, until};
use anyhow::{Result, ensure};
use api::etcdserverpb::{PutRequest, RangeRequest};
use harness::client::Client;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;

/// A writer goes to the next member when one does not answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Puts one key after the other, at whoever answers.
struct Writer {
    task: JoinHandle<()>,
    ends: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
}

impl Writer {
    fn start(set: &Set) -> Self {
        let urls: Vec<String> = set.members.iter().map(harness::Server::client_url).collect();
        let (ends, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (told, counted) = (Arc::clone(&ends), Arc::clone(&acknowledged));
        let task = tokio::spawn(async move {
            for url in urls.iter().cycle() {
                let writing = async {
                    let mut client = Client::connect_with(url, None).await?;
                    while !told.load(Ordering::Relaxed) {
                        // Keys have the numbers of what was acknowledged before, so a write that is sent again is the same.
                        let key = format!("written/{}", counted.load(Ordering::Relaxed));
                        let request = PutRequest { key: key.into(), value: "1".into(), ..Default::default() };
                        tokio::time::timeout(PATIENCE, client.kv.put(request)).await??;
                        counted.fetch_add(1, Ordering::Relaxed);
                    }
                    anyhow::Ok(())
                };
                if matches!(tokio::time::timeout(LIMIT, writing).await, Ok(Ok(()))) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        Self { task, ends, acknowledged }
    }

    /// Waits for writes that are acknowledged from now on.
    async fn goes_on(&self) -> Result<()> {
        let goal = self.acknowledged.load(Ordering::Relaxed) + 5;
        until("writes are acknowledged", async || Ok(self.acknowledged.load(Ordering::Relaxed) >= goal)).await
    }

    /// Ends, and looks for everything at one member.
    async fn check(self, set: &Set) -> Result<()> {
        self.ends.store(true, Ordering::Relaxed);
        self.task.await?;
        let range = RangeRequest {
            key: "written/".into(),
            range_end: "written0".into(),
            count_only: true,
            ..Default::default()
        };
        let found = set.members[0].client().await?.kv.range(range).await?.into_inner().count;
        let acknowledged = self.acknowledged.load(Ordering::Relaxed);
        // A last one may have been done and not acknowledged.
        ensure!(found >= acknowledged as i64, "{acknowledged} writes were acknowledged, and {found} are there");
        Ok(())
    }
}

async fn node_is_lost(set: &mut Set) -> Result<()> {
    set.start(&[0, 1, 2]).await?;
    let lost = if roles(set, 2).await? == "db-1" { 2 } else { 1 };
    let writer = Writer::start(set);
    // Its kubelet is silent: the pod is to end, and nobody says that it did. The StatefulSet makes no other.
    set.members[lost].kill()?;
    set.hang_pod(lost)?;
    tokio::time::sleep(NOTHING_HAPPENS).await;
    writer.goes_on().await?;
    ensure!(set.member_names().await?.len() == 3, "a member was removed that is wanted");
    ensure!(set.events("MemberRemoved")?.is_empty(), "an Event tells of a removal");
    // The taint out-of-service, or a deletion by force: a new pod on another node, to which the volume cannot go.
    set.delete_pod(lost)?;
    let (volume, old) = (set.members[lost].data_dir(), set.members[lost].scratch().join("old"));
    std::fs::rename(&volume, &old)?;
    set.put_pod(lost)?;
    set.members[lost].restart().await?;
    until("an Event tells of it", async || {
        Ok(set.events("MemberReplaced")?.iter().any(|note| note.contains(&format!("db-{lost} lost its data"))))
    })
    .await?;
    roles(set, 2).await?;
    ensure!(set.member_names().await?.len() == 3, "there are three members");
    // The node is back, with the container that it had: a member that is none any more, which has to see that.
    set.members[lost].kill()?;
    let new = set.members[lost].scratch().join("new");
    std::fs::rename(&volume, &new)?;
    std::fs::rename(&old, &volume)?;
    set.members[lost].spawn()?;
    set.members[lost].wait_exit(LIMIT).await?;
    set.members[lost].kill()?;
    std::fs::rename(&volume, &old)?;
    std::fs::rename(&new, &volume)?;
    set.members[lost].restart().await?;
    roles(set, 2).await?;
    ensure!(set.events("MemberReplaced")?.len() == 1, "a member was replaced twice");
    writer.check(set).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_that_is_lost_changes_nothing_until_its_pod_is_elsewhere() -> Result<()> {
    let mut set = Set::new(3).await?;
    let told = node_is_lost(&mut set).await;
    set.end(told).await
}

/// Deletes a pod, which comes back as it is wanted now.
async fn replace(set: &mut Set, number: usize) -> Result<()> {
    if set.members[number].is_running() {
        let status = set.members[number].terminate().await?;
        ensure!(status.success() || status.code().is_none(), "db-{number} ended with {status}");
    }
    set.delete_pod(number)?;
    set.put_pod(number)?;
    set.members[number].restart().await?;
    roles(set, 2).await?;
    Ok(())
}

async fn rollout_by_labels(set: &mut Set) -> Result<()> {
    // A leader that waits for the processor is to stay one.
    for member in &mut set.members {
        member.options_mut().flags.push("--election-timeout=3000".to_owned());
    }
    set.start(&[0, 1, 2]).await?;
    let leader = roles(set, 2).await?;
    let founders = set.member_ids().await?;
    let writer = Writer::start(set);
    // One is not well: another one that is taken away first would be the majority's end.
    let sick = (Set::number(&leader)? + 1) % 3;
    set.members[sick].kill()?;
    writer.goes_on().await?;
    replace(set, sick).await?;
    let follower = (Set::number(&leader)? + 2) % 3;
    replace(set, follower).await?;
    ensure!(roles(set, 2).await? == leader, "somebody else leads, and nobody had touched {leader}");
    writer.goes_on().await?;
    replace(set, Set::number(&leader)?).await?;
    writer.goes_on().await?;
    ensure!(set.member_ids().await? == founders, "a rollout changes no membership");
    for reason in ["MemberRemoved", "MemberReplaced"] {
        ensure!(set.events(reason)?.is_empty(), "a rollout changes no membership: {reason}");
    }
    // A founder that told its name later than the others is taken for one that joined.
    let founded: Vec<String> = founders.iter().map(|id| format!(" joined as {id:x}")).collect();
    for note in set.events("MemberJoined")? {
        ensure!(founded.iter().any(|end| note.ends_with(end)), "a rollout changes no membership: {note}");
    }
    writer.check(set).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rollout_of_the_sick_first_and_the_leader_last_loses_nothing() -> Result<()> {
    let mut set = Set::new(3).await?;
    let told = rollout_by_labels(&mut set).await;
    set.end(told).await
}
