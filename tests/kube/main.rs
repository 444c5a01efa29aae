//! Agents beside real members, and a fake API server: labels, the mark, Events, and members that scale away.

mod nodes;
mod set;

use anyhow::{Result, ensure};
use set::Set;
use std::time::{Duration, Instant};

/// For everything that members and agents do.
const LIMIT: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(100);
/// Looks of the agents in which nothing may happen.
const NOTHING_HAPPENS: Duration = Duration::from_secs(6);

/// Waits until something holds.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    while !holds().await.unwrap_or(false) {
        ensure!(Instant::now() < deadline, "{what}: not within {LIMIT:?}");
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// Waits until the pods have these roles and one of them is the leader's.
async fn roles(set: &Set, followers: usize) -> Result<String> {
    let mut leader = String::new();
    until("every pod has its role", async || {
        let roles = set.roles()?;
        let of = |role: &str| {
            roles.iter().filter(|(_, found)| found == role).map(|(pod, _)| pod.clone()).collect::<Vec<_>>()
        };
        leader = of("leader").join(",");
        Ok(of("leader").len() == 1 && of("follower").len() == followers && roles.len() == followers + 1)
    })
    .await?;
    Ok(leader)
}

async fn labels_follow(set: &mut Set) -> Result<()> {
    set.start(&[0, 1, 2]).await?;
    let leader = roles(set, 2).await?;
    // The id is on record.
    until("the mark is written", async || Ok(set.mark()? == format!("{:x}", set.cluster_id().await?))).await?;
    let number = Set::number(&leader)?;
    set.members[number].kill()?;
    until("another pod is the leader's", async || {
        Ok(set.roles()?.iter().any(|(pod, role)| role == "leader" && *pod != leader))
    })
    .await?;
    set.members[number].restart().await?;
    roles(set, 2).await?;
    ensure!(set.events("MemberRemoved")?.is_empty(), "a restart changes no membership");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn labels_say_who_leads_and_the_mark_is_written() -> Result<()> {
    let mut set = Set::new(3).await?;
    let told = labels_follow(&mut set).await;
    set.end(told).await
}

async fn volume_is_lost(set: &mut Set) -> Result<()> {
    set.start(&[0, 1, 2]).await?;
    let leader = Set::number(&roles(set, 2).await?)?;
    let lost = (leader + 1) % 3;
    set.members[lost].kill()?;
    std::fs::remove_dir_all(set.members[lost].data_dir())?;
    set.members[lost].restart().await?;
    let told = async || {
        let events = set.events("MemberReplaced")?;
        Ok(events.iter().any(|note| note.contains(&format!("db-{lost} lost its data"))))
    };
    until("an Event tells of it", told).await?;
    roles(set, 2).await?;
    ensure!(set.member_names().await?.len() == 3, "there are three members");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_volume_is_told() -> Result<()> {
    let mut set = Set::new(3).await?;
    let told = volume_is_lost(&mut set).await;
    set.end(told).await
}

async fn scales(set: &mut Set) -> Result<()> {
    set.start(&[0, 1, 2, 3, 4]).await?;
    roles(set, 4).await?;
    // A drain, as far as anybody can see: the pods are gone, and are wanted.
    for number in [3, 4] {
        set.members[number].kill()?;
        set.delete_pod(number)?;
    }
    tokio::time::sleep(NOTHING_HAPPENS).await;
    ensure!(set.member_names().await?.len() == 5, "a member was removed that is wanted");
    set.scale(3)?;
    let since = Instant::now();
    until("both are removed", async || Ok(set.member_names().await? == ["db-0", "db-1", "db-2"])).await?;
    eprintln!("5 to 3: removed {:?} after the change of scale", since.elapsed());
    until("Events tell of both", async || Ok(set.events("MemberRemoved")?.len() == 2)).await?;
    // Up again: the volumes are as they were, and their members are not wanted any more.
    set.scale(5)?;
    for number in [3, 4] {
        set.members[number].spawn()?;
        set.members[number].wait_exit(LIMIT).await?;
        set.members[number].kill()?;
        set.put_pod(number)?;
        set.members[number].restart().await?;
    }
    roles(set, 4).await?;
    ensure!(set.member_names().await?.len() == 5, "there are five members");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_scaled_away_are_removed_and_come_back() -> Result<()> {
    let mut set = Set::new(5).await?;
    let told = scales(&mut set).await;
    set.end(told).await
}

async fn outage(set: &mut Set) -> Result<()> {
    set.start(&[0, 1, 2]).await?;
    roles(set, 2).await?;
    set.fail(500, u32::MAX)?;
    set.put_pod(1)?;
    let failed = || set.kube.requests().iter().filter(|request| request.code == 500).count();
    until("the agent has met the outage", async || Ok(failed() >= 3)).await?;
    set.kube.heal();
    // Its label was taken away with the old pod.
    roles(set, 2).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_outlive_an_outage_of_the_api_server() -> Result<()> {
    let mut set = Set::new(3).await?;
    let told = outage(&mut set).await;
    set.end(told).await
}

/// What the API server refuses keeps nothing else from being done.
async fn refusals(set: &mut Set) -> Result<()> {
    set.fail_to("patch", "pods")?;
    set.fail_to("create", "events")?;
    set.start(&[0, 1, 2]).await?;
    until("the mark is written", async || Ok(set.mark()? == format!("{:x}", set.cluster_id().await?))).await?;
    ensure!(set.roles()?.iter().all(|(_, role)| role.is_empty()), "labels could not be given");
    let refused = |verb: &str| set.kube.requests().iter().any(|request| request.code == 500 && request.verb == verb);
    until("a label was tried", async || Ok(refused("patch"))).await?;
    set.kube.heal();
    let leader = roles(set, 2).await?;
    // Events are refused, and the label of a new pod is given.
    set.fail_to("create", "events")?;
    let lost = (Set::number(&leader)? + 1) % 3;
    set.members[lost].kill()?;
    std::fs::remove_dir_all(set.members[lost].data_dir())?;
    set.members[lost].restart().await?;
    set.put_pod(lost)?;
    roles(set, 2).await?;
    until("an Event was tried", async || {
        Ok(set.kube.requests().iter().any(|request| request.code == 500 && request.verb == "create"))
    })
    .await?;
    set.kube.heal();
    until("the Event is published late", async || Ok(set.events("MemberReplaced")?.len() == 1)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_keeps_nothing_else_from_being_done() -> Result<()> {
    let mut set = Set::new(3).await?;
    let told = refusals(&mut set).await;
    set.end(told).await
}
