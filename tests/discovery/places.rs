//! Members that find their place by themselves (`--initial-cluster-state=auto`) while DNS has nothing, something wrong or a part, as
//! the headless Service of a `StatefulSet` has it while pods come and go. And members that know nothing but SRV records.

use crate::DEADLINE;
use crate::process::Dns;
use anyhow::{Result, ensure};
use api::etcdserverpb::MemberListRequest;
use harness::{Kind, Options, Server};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const NAMES: [&str; 3] = ["m1", "m2", "m3"];
/// Long enough for several questions to DNS and a few elections.
const NOTHING_HAPPENS: Duration = Duration::from_secs(4);

/// A member with a name server of its own choice.
fn member(dns: &Dns, name: &str) -> Result<Server> {
    let (name, wrapper) = (name.to_owned(), dns.wrapper()?);
    Server::prepare(Kind::Cleat, Options { name, discovers: true, wrapper, ..Options::default() })
}

fn port(member: &Server) -> String {
    member.peer_url().rsplit_once(':').map(|(_, port)| port.to_owned()).unwrap_or_default()
}

/// Members that list each other by names in DNS.
fn members_by_name(dns: &Dns) -> Result<Vec<Server>> {
    let mut members = NAMES.iter().map(|name| member(dns, name)).collect::<Result<Vec<_>>>()?;
    let url = |name: &str, member: &Server| format!("http://{name}.test:{}", port(member));
    let pairs = NAMES.iter().zip(&members).map(|(name, member)| format!("{name}={}", url(name, member)));
    let list = pairs.collect::<Vec<_>>().join(",");
    for (name, member) in NAMES.iter().zip(&mut members) {
        let advertised = url(name, member);
        let token = member.scratch().join("token");
        std::fs::write(&token, "join-token\n")?;
        member.add_flags([
            "--initial-cluster-state=auto".to_owned(),
            format!("--initial-cluster={list}"),
            format!("--initial-advertise-peer-urls={advertised}"),
            format!("--join-token-file={}", token.display()),
        ]);
    }
    Ok(members)
}

fn has_founded(member: &Server) -> bool {
    member.data_dir().join("IDENTITY").exists()
}

async fn says(member: &Server, words: &str) -> Result<()> {
    let deadline = Instant::now() + DEADLINE;
    while !member.log().contains(words) {
        ensure!(Instant::now() < deadline, "{words:?} is not in the log:\n{}", member.log_tail());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Nobody ends, and nobody founds a cluster.
async fn all_wait(members: &mut [Server]) -> Result<()> {
    tokio::time::sleep(NOTHING_HAPPENS).await;
    for member in members {
        ensure!(member.is_running(), "it ended:\n{}", member.log_tail());
        ensure!(!has_founded(member), "it founded a cluster:\n{}", member.log_tail());
    }
    Ok(())
}

#[tokio::test]
async fn members_wait_for_names_that_are_late_wrong_or_missing() -> Result<()> {
    let record = |name: &str, address: &str| format!("host-record={name}.test,{address}");
    let mut dns = Dns::start_for_systems(&[]).await?;
    let mut members = members_by_name(&dns)?;
    for member in &mut members {
        member.spawn()?;
    }
    for member in &members {
        says(member, "cannot reach a member").await?;
    }
    all_wait(&mut members).await?;
    // The addresses of pods that were there before: nobody is at home.
    dns.serve(&[record("m1", "127.9.9.1"), record("m2", "127.9.9.2"), record("m3", "127.9.9.3")]).await?;
    all_wait(&mut members).await?;
    // One that the others can reach, and that reaches neither: whoever founds with it, it is one cluster.
    dns.serve(&[record("m1", "127.0.0.1"), record("m2", "127.9.9.2")]).await?;
    tokio::time::sleep(NOTHING_HAPPENS).await;
    // Two are a majority, though one pod has not started yet; it is with them when it runs and its name is there.
    members[2].kill()?;
    dns.serve(&[record("m1", "127.0.0.1"), record("m2", "127.0.0.1")]).await?;
    for member in &mut members[..2] {
        member.wait_ready().await?;
    }
    dns.serve(&NAMES.map(|name| record(name, "127.0.0.1"))).await?;
    members[2].restart().await?;
    let mut clusters = BTreeSet::new();
    for member in &members {
        let mut client = member.client().await?;
        let list = client.cluster.member_list(MemberListRequest { linearizable: true }).await?.into_inner();
        clusters.extend(list.header.map(|header| header.cluster_id));
        let mut urls: Vec<String> = list.members.into_iter().flat_map(|member| member.peer_urls).collect();
        urls.sort();
        let expected = NAMES.iter().zip(&members).map(|(name, member)| format!("http://{name}.test:{}", port(member)));
        ensure!(urls == expected.collect::<Vec<_>>(), "{urls:?}");
    }
    ensure!(clusters.len() == 1, "{clusters:?}");
    Ok(())
}

/// SRV records say who founds, so `auto` has no use for those of a headless Service, which has the pods that there are just now:
/// the first one would found a cluster alone.
#[tokio::test]
async fn records_that_come_and_go_are_refused_for_a_place() -> Result<()> {
    let dns = Dns::start_for_systems(&[]).await?;
    let mut member = member(&dns, "m1")?;
    member.add_flags(["--initial-cluster-state=auto".to_owned(), "--discovery-srv=c.test".to_owned()]);
    member.spawn()?;
    let status = member.wait_exit(DEADLINE).await?;
    ensure!(status.code() == Some(1), "{status}");
    says(&member, "--initial-cluster-state=auto asks the members that --initial-cluster lists: give that").await?;
    ensure!(!has_founded(&member), "it founded a cluster");
    Ok(())
}

#[tokio::test]
async fn members_by_srv_wait_for_records_that_are_late_wrong_or_missing() -> Result<()> {
    let hosts = NAMES.map(|name| format!("host-record={name}.test,127.0.0.1"));
    let mut dns = Dns::start_for_systems(&hosts).await?;
    let mut members = NAMES.iter().map(|name| member(&dns, name)).collect::<Result<Vec<_>>>()?;
    for member in &mut members {
        member.add_flags(["--discovery-srv=c.test".to_owned()]);
        member.spawn()?;
    }
    all_wait(&mut members).await?;
    // Ports of others: nobody finds itself, so nobody founds anything with strangers.
    let record = |name: &str, port: &str| format!("srv-host=_etcd-server._tcp.c.test,{name}.test,{port}");
    let wrong = ["m1", "m2"].map(|name| record(name, "9"));
    dns.serve(&[&hosts[..], &wrong].concat()).await?;
    all_wait(&mut members).await?;
    // A record of a host that is not there, beside the right ones.
    let mut records: Vec<String> =
        NAMES.iter().zip(&members).map(|(name, member)| record(name, &port(member))).collect();
    dns.serve(&[&hosts[1..], &records].concat()).await?;
    all_wait(&mut members).await?;
    records.extend(hosts);
    dns.serve(&records).await?;
    for member in &mut members {
        member.wait_ready().await?;
    }
    let mut client = members[0].client().await?;
    let list = client.cluster.member_list(MemberListRequest { linearizable: true }).await?.into_inner();
    ensure!(list.members.len() == 3, "{:?}", list.members);
    Ok(())
}
