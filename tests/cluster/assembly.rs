//! Members that find their place by themselves (`--initial-cluster-state=auto`): first starts, lost disks, more members
//! and fewer, and what is refused.

use crate::{CLUSTERS, Scenario};
use anyhow::{Context, Result, ensure};
use api::etcdserverpb::{MemberListRequest, PutRequest, RangeRequest};
use harness::cluster::ELECTION;
use harness::ports::Port;
use harness::secure::Secure;
use harness::{Cluster, Place, Subject, http};
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
        for member in [1, 2] {
            says(cluster, member, "the cluster does not let this member in yet").await?;
        }
        // The one with data is restarted as well: the others know better than to begin without it.
        cluster.kill(0)?;
        nobody_begins(cluster, &[1, 2]).await?;
        cluster.spawn(0)?;
        says(cluster, 1, "this process has heard of data there").await
    })
    .await
}

/// These members have no data, and none of them may begin.
async fn nobody_begins(cluster: &Cluster, members: &[usize]) -> Result<()> {
    let until = Instant::now() + NOTHING_HAPPENS * 2;
    while Instant::now() < until {
        for &member in members {
            ensure!(has(cluster, member, "k").await.is_err(), "member {member} serves");
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// Gives a member a URL for probes. The port is reserved while the second value lives.
fn with_probes(cluster: &mut Cluster, member: usize) -> Result<(String, Port)> {
    let port = Port::reserve()?;
    let url = format!("http://127.0.0.1:{}", port.number());
    cluster.options_mut(member).flags.push(format!("--listen-metrics-urls={url}"));
    Ok((url, port))
}

/// What `/readyz` says of a member that waits: it is alive, and not ready.
async fn waits(url: &str, for_what: &str) -> Result<()> {
    let told = async || {
        let Ok((status, _, body)) = http::get(url, "/readyz").await else { return Ok(false) };
        Ok(status == 503 && body.contains("[-]found_its_place failed: ") && body.contains(for_what))
    };
    until(&format!("/readyz says {for_what:?}"), told).await?;
    for path in ["/livez", "/metrics"] {
        let (status, _, body) = http::get(url, path).await?;
        ensure!(status == 200, "{path}: {status} {body}");
    }
    Ok(())
}

/// The lists of all members when their number grows from one, and the list with it.
fn grow(cluster: &mut Cluster, members: &[usize]) {
    let pairs: Vec<String> = members.iter().map(|&member| format!("m{member}={}", cluster.peer_url(member))).collect();
    for &member in members {
        cluster.options_mut(member).initial_cluster = pairs.join(",");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_member_becomes_three_with_a_longer_list() -> Result<()> {
    with_members(1, FLAGS, async |cluster| {
        let (url, _port) = with_probes(cluster, 0)?;
        start_at_once(cluster, &[0]).await?;
        put(cluster, 0, "k").await?;
        let (cluster_id, _) = list(cluster, 0).await?;
        let more = [cluster.prepare_joining(&[0])?, cluster.prepare_joining(&[0])?];
        grow(cluster, &[0, 1, 2]);
        // Joined, each begins again at the same URLs.
        let probes = [with_probes(cluster, 1)?, with_probes(cluster, 2)?];
        start_at_once(cluster, &more).await?;
        until("both get their vote", async || Ok(promotions(cluster) >= 2)).await?;
        for member in more {
            let (id, members) = list(cluster, member).await?;
            ensure!((id, members.len()) == (cluster_id, 3), "member {member} is of {id:x}: {members:?}");
            ensure!(has(cluster, member, "k").await?, "member {member} has no data");
        }
        for url in [&url, &probes[0].0, &probes[1].0] {
            let (status, _, body) = http::get(url, "/readyz?verbose").await?;
            ensure!(status == 200 && !body.contains("found_its_place"), "{status} {body}");
            let (_, _, metrics) = http::get(url, "/metrics").await?;
            ensure!(metrics.contains("\netcd_server_has_leader 1\n"), "the metrics are not those of the member");
        }
        Ok(())
    })
    .await
}

/// As above, but the cluster does not let them in, and then is away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn longer_list_founds_no_second_cluster() -> Result<()> {
    with_members(1, FLAGS, async |cluster| {
        start_at_once(cluster, &[0]).await?;
        let more = [cluster.prepare_joining(&[0])?, cluster.prepare_joining(&[0])?];
        grow(cluster, &[0, 1, 2]);
        let wrong = cluster.server(0).scratch().join("token");
        std::fs::write(&wrong, "another-token")?;
        for member in more {
            cluster.options_mut(member).flags.push(format!("--join-token-file={}", wrong.display()));
            cluster.spawn(member)?;
        }
        for member in more {
            says(cluster, member, "the join token is missing or wrong").await?;
        }
        cluster.kill(0)?;
        nobody_begins(cluster, &more).await?;
        // The token is replaced while they run.
        std::fs::write(&wrong, std::fs::read(TOKEN.trim_start_matches("--join-token-file="))?)?;
        cluster.restart(0).await?;
        cluster.wait_healthy().await?;
        ensure!(list(cluster, 1).await? == list(cluster, 0).await?, "they are of two clusters");
        Ok(())
    })
    .await
}

/// The mode of etcd founds no second cluster beside one with data either; it does not join by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_members_with_a_longer_list_wait() -> Result<()> {
    with_members(1, &["--initial-cluster-state=new"], async |cluster| {
        start_at_once(cluster, &[0]).await?;
        let (cluster_id, _) = list(cluster, 0).await?;
        let more = [cluster.prepare_joining(&[0])?, cluster.prepare_joining(&[0])?];
        grow(cluster, &[0, 1, 2]);
        for member in more {
            cluster.spawn(member)?;
        }
        for member in more {
            says(cluster, member, "a member that is listed in --initial-cluster is of another cluster").await?;
            ensure!(log(cluster, member).contains(&format!("{cluster_id:x}")), "it does not say of which");
        }
        nobody_begins(cluster, &more).await?;
        cluster.kill(0)?;
        nobody_begins(cluster, &more).await?;
        ensure!(!cluster.whole_logs().concat().contains("members/join"), "they asked to join");
        Ok(())
    })
    .await
}

/// A member that the cluster knows as new, and a mark of another cluster.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mark_of_another_cluster_is_obeyed() -> Result<()> {
    with_members(3, FLAGS, async |cluster| {
        let mark = cluster.server(2).scratch().join("cluster-id");
        std::fs::write(&mark, "beef\n")?;
        cluster.options_mut(2).flags.push(format!("--initial-cluster-id-file={}", mark.display()));
        let (url, _port) = with_probes(cluster, 2)?;
        start_at_once(cluster, &[0, 1]).await?;
        let (cluster_id, _) = list(cluster, 0).await?;
        cluster.spawn(2)?;
        says(cluster, 2, "cluster beef was founded before").await?;
        waits(&url, "cluster beef was founded before").await?;
        nobody_begins(cluster, &[2]).await?;
        std::fs::write(&mark, format!("{cluster_id:x}\n"))?;
        cluster.wait_healthy().await
    })
    .await
}

/// Nobody restarts a member that waits for a cluster, and everybody can see what it waits for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_tell_what_a_member_waits_for() -> Result<()> {
    with_members(3, FLAGS, async |cluster| {
        let (founder, _held) = with_probes(cluster, 0)?;
        cluster.spawn(0)?;
        waits(&founder, "this member has no data and waits for its cluster").await?;
        let unlisted = cluster.prepare_joining(&[0, 1, 2])?;
        let (url, _port) = with_probes(cluster, unlisted)?;
        cluster.spawn(unlisted)?;
        waits(&url, "waits for a cluster that it may join").await?;
        start_at_once(cluster, &[1, 2]).await?;
        for url in [&founder, &url] {
            until("it is ready", async || Ok(http::get(url, "/readyz").await.is_ok_and(|(status, ..)| status == 200)))
                .await?;
        }
        Ok(())
    })
    .await
}

/// A member that is asked to end says so before anything else, whatever it still has to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readyz_fails_at_once_when_a_member_ends() -> Result<()> {
    with_members(3, FLAGS, async |cluster| {
        let probes = [with_probes(cluster, 0)?, with_probes(cluster, 1)?, with_probes(cluster, 2)?];
        start_at_once(cluster, &[0, 1, 2]).await?;
        let leader = cluster.leader().await?;
        // Nobody takes over, which it waits for.
        for member in [0, 1, 2] {
            if member != leader {
                cluster.pause(member)?;
            }
        }
        cluster.ask_to_end(leader)?;
        let mut told = String::new();
        until("/readyz says that the member ends", async || {
            let (status, _, body) = http::get(&probes[leader].0, "/readyz/not_stopping").await?;
            told = body;
            Ok(status == 503)
        })
        .await?;
        ensure!(told.contains("[-]not_stopping failed: "), "{told}");
        cluster.wait_end(leader).await
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
        let since = Instant::now();
        cluster.spawn(2)?;
        says(cluster, 2, "the join token is missing or wrong").await?;
        tokio::time::sleep(NOTHING_HAPPENS).await;
        ensure!(list(cluster, 0).await?.1 == before, "the members have changed");
        let refusals = [log(cluster, 0), log(cluster, 1)].concat();
        let told = refusals.matches("a member that wants to join was not let in").count();
        ensure!(told > 0, "nobody tells");
        // Whoever reaches the port can be refused: each of both tells once in ten seconds.
        let told_max = 2 * (1 + since.elapsed().as_secs() as usize / 10);
        ensure!(told <= told_max, "{told} lines within {:?}", since.elapsed());
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
        let leader = cluster.leader().await?;
        let (away, lost) = ((leader + 1) % 5, (leader + 2) % 5);
        let leader_says = async |cluster: &Cluster, text: &str| says(cluster, leader, text).await;
        // That somebody asked in its name does not make it one that has lost its data.
        let thief = cluster.prepare_joining(&[leader])?;
        cluster.options_mut(thief).name = format!("m{away}");
        cluster.spawn(thief)?;
        leader_says(cluster, "two members cannot have one name").await?;
        cluster.kill(thief)?;
        cluster.kill(away)?;
        // An answer counts for an election timeout, and only then the leader misses it.
        tokio::time::sleep(2 * ELECTION).await;
        cluster.lose(lost)?;
        cluster.spawn(lost)?;
        leader_says(cluster, "not all other voters answer: start ").await?;
        ensure!(!cluster.whole_logs().concat().contains("replaced a member"), "it was replaced");
        cluster.restart(away).await?;
        cluster.wait_healthy().await?;
        ensure!(has(cluster, lost, "k").await?, "it has no data");
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
        // With its log elsewhere, as on a disk of its own.
        let wal = cluster.server(2).scratch().join("volume/wal");
        std::fs::create_dir(cluster.server(2).scratch().join("volume"))?;
        cluster.options_mut(2).flags.push(format!("--wal-dir={}", wal.display()));
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
        ensure!(!wal.exists(), "its log is where it was");
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

/// A certificate of the right CA that is good for another host than those of the member whose name is taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificate_takes_no_other_members_place() -> Result<()> {
    let _turn = CLUSTERS.acquire().await?;
    let mut secure = Secure::new()?;
    for member in &mut secure.members {
        // On loopback nobody calls from an address of its own.
        member.add_flags([AUTO.to_owned(), "--peer-skip-client-san-verification".to_owned()]);
        member.spawn()?;
    }
    secure.ready(&[0, 1, 2]).await?;
    // Its data is lost, and somebody else takes its name.
    secure.lose(2)?;
    let port = Port::reserve()?;
    let url = format!("https://127.0.0.2:{}", port.number());
    secure.site.install("stranger", &secure.ca.issue("stranger", &["127.0.0.2"])?)?;
    let file = |name: &str| secure.site.path(name).display().to_string();
    let flags = [
        format!("--listen-peer-urls={url}"),
        format!("--initial-advertise-peer-urls={url}"),
        format!("--peer-cert-file={}", file("stranger.pem")),
        format!("--peer-key-file={}", file("stranger.key")),
    ];
    let (own, list) = (secure.members[2].options_mut().flags.clone(), secure.list());
    secure.members[2].options_mut().initial_cluster = list.replace(&format!(",c={}", secure.members[2].peer_url()), "");
    secure.members[2].add_flags(flags);
    secure.members[2].spawn()?;
    secure.wait_for_line_of_any(&[0, 1], &["not valid for the hosts of the peer URLs of member"]).await?;
    secure.wait_for_line(2, &["it waits for a cluster that it may join"]).await?;
    let replaced = "replaced a member that lost its data";
    ensure!(!secure.members.iter().any(|member| member.log().contains(replaced)), "it was replaced");
    // Whose name it is comes back.
    secure.members[2].kill()?;
    secure.members[2].options_mut().flags = own;
    secure.members[2].options_mut().initial_cluster = list;
    secure.members[2].spawn()?;
    let healed = secure.ready(&[2]).await;
    healed.with_context(|| secure.logs())?;
    secure.wait_for_line_of_any(&[0, 1], &[replaced, "\"name\":\"c\""]).await
}
