//! Discovery of a first cluster, together with etcd: as the store of tokens, as the other members, and as the one
//! whose answers to wrong input are compared with ours.

mod errors;
mod places;
mod process;
mod secure;
mod srv;
mod url;
mod v3;

use anyhow::{Context, Result, ensure};
use discovery::{InitialCluster, Me, Options, Source};
use harness::ports::Port;
use harness::{Kind, Server};
use std::time::Duration;

/// A process has to start, register and meet the others.
const DEADLINE: Duration = Duration::from_mins(1);

/// A server of the v2 API.
async fn v2_store(kind: Kind) -> Result<Server> {
    let options = harness::Options { flags: vec!["--enable-v2".to_owned()], ..harness::Options::default() };
    Server::start_with(kind, options).await
}

/// A member that never runs: its name, and a URL on a port of its own.
struct Member {
    me: Me,
    _port: Port,
}

impl Member {
    fn new(name: &str) -> Result<Self> {
        let port = Port::reserve()?;
        let me = Me { name: name.to_owned(), peer_urls: vec![format!("http://127.0.0.1:{}", port.number())] };
        Ok(Self { me, _port: port })
    }
}

/// Patience of a test: failures show soon.
fn options() -> Options {
    Options {
        name_patience: Duration::ZERO,
        srv_patience: Duration::ZERO,
        member_patience: DEADLINE,
        tries: 3,
        first_pause: Duration::from_millis(50),
        longest_pause: Duration::from_millis(50),
        ..Options::default()
    }
}

async fn resolve(source: &Source, me: &Me) -> Result<InitialCluster, String> {
    let resolved = tokio::time::timeout(DEADLINE, discovery::resolve(source, me, &options())).await;
    resolved.map_err(|_| "no result in time".to_owned())?.map_err(|error| error.to_string())
}

/// An etcd that is started with a way to discover instead of a list of members, and what it says when it ends.
fn etcd(name: &str, flags: &[&str]) -> Result<Server> {
    let flags = flags.iter().map(ToString::to_string).collect();
    let options = harness::Options { name: name.to_owned(), flags, discovers: true, ..harness::Options::default() };
    Server::prepare(Kind::Etcd, options)
}

/// Runs an etcd to its end and returns its log.
async fn refused(mut server: Server) -> Result<String> {
    server.spawn()?;
    let status = server.wait_exit(DEADLINE).await?;
    ensure!(!status.success(), "etcd ended well");
    Ok(server.log())
}

/// `name` and id of the members that a running etcd knows, and the id of its cluster.
async fn ids(server: &Server) -> Result<(Vec<u64>, u64)> {
    let mut client = server.client().await?;
    let list = client.cluster.member_list(api::etcdserverpb::MemberListRequest::default()).await?.into_inner();
    let mut ids: Vec<u64> = list.members.iter().map(|member| member.id).collect();
    ids.sort_unstable();
    Ok((ids, list.header.context("no header")?.cluster_id))
}

fn sorted_ids(cluster: &InitialCluster) -> (Vec<u64>, u64) {
    let mut ids = cluster.member_ids();
    ids.sort_unstable();
    (ids, cluster.cluster_id())
}

fn names(cluster: &InitialCluster) -> Vec<&str> {
    cluster.members.iter().map(|member| member.name.as_str()).collect()
}
