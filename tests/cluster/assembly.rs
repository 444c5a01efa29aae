//! Members that find their place by themselves (`--initial-cluster-state=auto`): first starts, lost disks, more members
//! and fewer, and what is refused.

use crate::{CLUSTERS, Scenario};
use anyhow::{Context, Result, ensure};
use api::etcdserverpb::{MemberListRequest, PutRequest, RangeRequest};
use harness::cluster::ELECTION;
use harness::secure::Secure;
use harness::{Cluster, Place, Subject};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(50);
/// Long enough that a cluster would have been founded, or a member let in, several times over.
const NOTHING_HAPPENS: Duration = ELECTION.saturating_mul(6);

const AUTO: &str = "--initial-cluster-state=auto";
const TOKEN: &str = concat!("--join-token-file=", env!("CARGO_MANIFEST_DIR"), "/cluster/join_token.txt");
const FLAGS: &[&str] = &[AUTO, TOKEN];
const GETS_VOTE: &str = "promoted member, it votes now";

/// True for etcd, which has no such mode.
fn is_peer() -> Result<bool> {
    Ok(!Subject::under_test()?.is_cleat)
}

/// Waits until something holds.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    while !holds().await? {
        ensure!(Instant::now() < deadline, "{what}: not within {LIMIT:?}");
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

fn log(cluster: &Cluster, member: usize) -> String {
    cluster.whole_logs().swap_remove(member)
}

/// Waits until a member has logged a line.
async fn says(cluster: &Cluster, member: usize, text: &str) -> Result<()> {
    until(&format!("member {member} says {text:?}"), async || Ok(log(cluster, member).contains(text))).await
}

/// How many members were given their vote.
fn promotions(cluster: &Cluster) -> usize {
    cluster.whole_logs().iter().map(|log| log.matches(GETS_VOTE).count()).sum()
}

async fn put(cluster: &Cluster, member: usize, key: &str) -> Result<()> {
    let request = PutRequest { key: key.to_owned().into(), value: "acknowledged".into(), ..Default::default() };
    let mut client = cluster.client(member).await?;
    tokio::time::timeout(LIMIT, client.kv.put(request)).await.context("the write was not acknowledged in time")??;
    Ok(())
}

async fn has(cluster: &Cluster, member: usize, key: &str) -> Result<bool> {
    let request = RangeRequest { key: key.to_owned().into(), ..Default::default() };
    let mut client = cluster.client(member).await?;
    let range = tokio::time::timeout(LIMIT, client.kv.range(request)).await.context("no answer in time")??;
    Ok(range.into_inner().count == 1)
}

/// Cluster id, and names with ids, as a member lists them.
async fn list(cluster: &Cluster, member: usize) -> Result<(u64, BTreeSet<(String, u64)>)> {
    let listed = cluster.client(member).await?.cluster.member_list(MemberListRequest::default()).await?.into_inner();
    let cluster_id = listed.header.context("a list has a header")?.cluster_id;
    Ok((cluster_id, listed.members.into_iter().map(|member| (member.name, member.id)).collect()))
}

/// Starts members of which none waits for another.
async fn start_at_once(cluster: &mut Cluster, members: &[usize]) -> Result<()> {
    for &member in members {
        cluster.spawn(member)?;
    }
    cluster.wait_healthy().await
}

/// Runs a test on a cluster of so many members that have never run; what they said is told when it fails.
async fn with_members(size: usize, flags: &[&str], test: impl AsyncFnOnce(&mut Cluster) -> Result<()>) -> Result<()> {
    if is_peer()? {
        return Ok(());
    }
    let _turn = CLUSTERS.acquire().await?;
    let mut cluster = Cluster::prepared(&Subject::under_test()?, Place::Loopback, size, flags)?;
    let told = test(&mut cluster).await;
    told.with_context(|| cluster.logs())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_volume_heals_under_load() -> Result<()> {
    if is_peer()? {
        return Ok(());
    }
    let mut scenario = Scenario::new("a lost volume heals", Place::Loopback)?;
    scenario.flags = FLAGS;
    let (mut leads, mut lost) = (false, 0);
    scenario
        .run(async |cluster, _| {
            let member = if leads { cluster.leader().await? } else { cluster.follower().await? };
            leads = !leads;
            cluster.lose(member)?;
            cluster.restart(member).await?;
            lost += 1;
            ensure!(log(cluster, member).contains("has no data"), "it did not say that its data is gone");
            until("it gets its vote", async || Ok(promotions(cluster) >= lost)).await
        })
        .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_come_and_go_by_themselves_under_load() -> Result<()> {
    if is_peer()? {
        return Ok(());
    }
    let mut scenario = Scenario::new("3 to 5 members and back", Place::Loopback)?;
    scenario.flags = FLAGS;
    scenario.rounds = 1;
    scenario
        .run(async |cluster, _| {
            let first = cluster.members();
            // They are not in the list, as after a change of the number of replicas alone.
            let more = [cluster.prepare_joining(&first)?, cluster.prepare_joining(&first)?];
            start_at_once(cluster, &more).await?;
            until("both get their vote", async || Ok(promotions(cluster) >= 2)).await?;
            let (_, members) = list(cluster, 0).await?;
            ensure!(members.len() == 5, "{members:?}");
            for member in more {
                cluster.remove(member).await?;
                cluster.wait_healthy().await?;
            }
            let (_, members) = list(cluster, 0).await?;
            ensure!(members.len() == 3, "{members:?}");
            Ok(())
        })
        .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn founders_that_start_at_once_found_one_cluster() -> Result<()> {
    with_members(3, FLAGS, async |cluster| {
        start_at_once(cluster, &[0, 1, 2]).await?;
        let first = list(cluster, 0).await?;
        for member in [1, 2] {
            ensure!(list(cluster, member).await? == first, "member {member} has another list");
        }
        put(cluster, 0, "k").await?;
        // With data, flags count no more.
        for member in [0, 1, 2] {
            cluster.kill(member)?;
        }
        start_at_once(cluster, &[2, 1, 0]).await?;
        ensure!(list(cluster, 0).await? == first && has(cluster, 1, "k").await?, "it is another cluster");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_of_three_lost_found_nothing() -> Result<()> {
    with_members(3, FLAGS, async |cluster| {
        start_at_once(cluster, &[0, 1, 2]).await?;
        put(cluster, 0, "k").await?;
        cluster.agree().await?;
        cluster.lose(1)?;
        cluster.lose(2)?;
        for member in [1, 2] {
            cluster.spawn(member)?;
        }
        let until = Instant::now() + NOTHING_HAPPENS;
        while Instant::now() < until {
            for member in [0, 1, 2] {
                ensure!(has(cluster, member, "k").await.is_err(), "member {member} serves without a majority");
            }
            tokio::time::sleep(POLL).await;
        }
        says(cluster, 1, "the cluster does not let this member in yet").await
    })
    .await
}

/// The volumes of all members are gone, and only the mark outside of them tells that there was a cluster.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_lost_found_nothing_where_the_mark_is() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mark = dir.path().join("cluster-id");
    let flag = format!("--initial-cluster-id-file={}", mark.display());
    with_members(3, &[AUTO, TOKEN, &flag], async |cluster| {
        start_at_once(cluster, &[0, 1, 2]).await?;
        let (cluster_id, _) = list(cluster, 0).await?;
        std::fs::write(&mark, format!("{cluster_id:x}\n"))?;
        // One that is lost heals, whatever the mark says.
        cluster.lose(1)?;
        cluster.restart(1).await?;
        for member in [0, 1, 2] {
            cluster.lose(member)?;
        }
        for member in [0, 1, 2] {
            cluster.spawn(member)?;
        }
        for member in [0, 1, 2] {
            says(cluster, member, "was founded before").await?;
            ensure!(has(cluster, member, "k").await.is_err(), "member {member} serves");
        }
        // The operator gives the data up.
        std::fs::write(&mark, "")?;
        cluster.wait_healthy().await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_token_is_refused() -> Result<()> {
    with_members(3, FLAGS, async |cluster| {
        start_at_once(cluster, &[0, 1, 2]).await?;
        let (_, before) = list(cluster, 0).await?;
        cluster.lose(2)?;
        let wrong = cluster.server(2).scratch().join("token");
        std::fs::write(&wrong, "another-token")?;
        cluster.options_mut(2).flags.push(format!("--join-token-file={}", wrong.display()));
        cluster.spawn(2)?;
        says(cluster, 2, "the join token is missing or wrong").await?;
        tokio::time::sleep(NOTHING_HAPPENS).await;
        ensure!(list(cluster, 0).await?.1 == before, "the members have changed");
        let refusals = [log(cluster, 0), log(cluster, 1)].concat();
        ensure!(refusals.contains("a member that wants to join was not let in"), "nobody tells");
        ensure!(!refusals.contains("another-token") && !refusals.contains("a-token-of-tests"), "a token is in the log");
        cluster.kill(2)?;
        cluster.options_mut(2).flags.pop();
        cluster.restart(2).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_joins_without_token_or_certificate() -> Result<()> {
    with_members(3, &[AUTO], async |cluster| {
        start_at_once(cluster, &[0, 1, 2]).await?;
        cluster.lose(2)?;
        cluster.spawn(2)?;
        says(cluster, 2, "need a join token (--join-token-file) or verified peer certificates").await
    })
    .await
}

/// Takes the name of a member that runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn name_of_a_member_that_runs_is_refused() -> Result<()> {
    with_members(3, FLAGS, async |cluster| {
        start_at_once(cluster, &[0, 1, 2]).await?;
        let (_, before) = list(cluster, 0).await?;
        let thief = cluster.prepare_joining(&[0, 2])?;
        cluster.options_mut(thief).name = "m1".to_owned();
        cluster.spawn(thief)?;
        says(cluster, thief, "it waits for a cluster that it may join").await?;
        let told = async || {
            let logs = cluster.whole_logs();
            Ok(logs.iter().any(|log| log.contains("two members cannot have one name")))
        };
        until("the leader tells why", told).await?;
        ensure!(list(cluster, 0).await?.1 == before, "the members have changed");
        ensure!(has(cluster, 1, "k").await.is_ok(), "the member whose name was taken does not answer");
        cluster.kill(thief)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_replaced_while_another_voter_is_away() -> Result<()> {
    with_members(5, FLAGS, async |cluster| {
        start_at_once(cluster, &[0, 1, 2, 3, 4]).await?;
        put(cluster, 0, "k").await?;
        cluster.kill(4)?;
        cluster.lose(3)?;
        cluster.spawn(3)?;
        let told = async || {
            let logs = cluster.whole_logs();
            Ok(logs.iter().any(|log| log.contains("not all other voters answer: start ")))
        };
        until("the leader tells why", told).await?;
        ensure!(!cluster.whole_logs().concat().contains("replaced a member"), "it was replaced");
        cluster.restart(4).await?;
        cluster.wait_healthy().await?;
        ensure!(has(cluster, 3, "k").await?, "it has no data");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_of_five_lost_heal_one_after_the_other() -> Result<()> {
    with_members(5, FLAGS, async |cluster| {
        start_at_once(cluster, &[0, 1, 2, 3, 4]).await?;
        put(cluster, 0, "k").await?;
        cluster.agree().await?;
        cluster.lose(3)?;
        cluster.lose(4)?;
        start_at_once(cluster, &[3, 4]).await?;
        until("both get their vote", async || Ok(promotions(cluster) >= 2)).await?;
        cluster.agree().await?;
        ensure!(list(cluster, 0).await?.1.len() == 5, "there are five members");
        Ok(())
    })
    .await
}

/// A member that was removed while it was away sets its data aside, and comes back as a new one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removed_member_comes_back_as_a_new_one() -> Result<()> {
    with_members(3, FLAGS, async |cluster| {
        start_at_once(cluster, &[0, 1, 2]).await?;
        put(cluster, 0, "k").await?;
        let (_, before) = list(cluster, 0).await?;
        let id = before.iter().find(|(name, _)| name == "m2").context("m2 is a member")?.1;
        cluster.kill(2)?;
        let mut client = cluster.client(0).await?;
        client.cluster.member_remove(api::etcdserverpb::MemberRemoveRequest { id }).await?;
        cluster.spawn(2)?;
        cluster.wait_exit(2).await?;
        ensure!(log(cluster, 2).contains("the data of the removed member is set aside"), "its data is where it was");
        cluster.restart(2).await?;
        ensure!(has(cluster, 2, "k").await?, "it has no data");
        let (_, after) = list(cluster, 0).await?;
        ensure!(after.len() == 3 && !after.iter().any(|(_, known)| *known == id), "{after:?}");
        Ok(())
    })
    .await
}

/// With certificates between members no token is needed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificate_lets_a_member_take_its_place() -> Result<()> {
    let _turn = CLUSTERS.acquire().await?;
    let mut secure = Secure::new()?;
    for member in &mut secure.members {
        member.add_flags([AUTO.to_owned()]);
        member.spawn()?;
    }
    secure.ready(&[0, 1, 2]).await?;
    secure.lose(2)?;
    secure.members[2].spawn()?;
    let healed = secure.ready(&[2]).await;
    healed.with_context(|| secure.logs())?;
    secure.wait_for_line_of_any(&[0, 1], &["replaced a member that lost its data", "\"name\":\"c\""]).await
}

/// A certificate of the right CA, and of somebody else, whom the handshake lets in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificate_of_another_host_is_refused() -> Result<()> {
    let _turn = CLUSTERS.acquire().await?;
    let mut secure = Secure::new()?;
    for member in &mut secure.members {
        member.add_flags([AUTO.to_owned(), "--peer-skip-client-san-verification".to_owned()]);
        member.spawn()?;
    }
    secure.ready(&[0, 1, 2]).await?;
    secure.lose(2)?;
    secure.site.install("stranger", &secure.ca.issue("c", &["elsewhere.example"])?)?;
    let file = |name: &str| secure.site.path(name).display().to_string();
    let flags = [
        format!("--peer-client-cert-file={}", file("stranger.pem")),
        format!("--peer-client-key-file={}", file("stranger.key")),
    ];
    secure.members[2].add_flags(flags);
    secure.members[2].spawn()?;
    secure.wait_for_line(2, &["does not let this member in yet", "is not valid for 127.0.0.1"]).await?;
    secure.wait_for_line_of_any(&[0, 1], &["a member that wants to join was not let in"]).await
}
