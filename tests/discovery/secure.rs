//! Members with TLS towards clients and each other that find each other by a discovery URL or DNS, in any order, one
//! of them late and first with a wrong token. The third way, a list, is with the clusters.

use crate::process::{DiscoveryService, Dns};
use anyhow::{Result, ensure};
use harness::secure::NAMES;
use harness::{Kind, Secure, Server};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_with_tls_start_from_a_discovery_url() -> Result<()> {
    let store = Server::start(Kind::Cleat).await?;
    let service = DiscoveryService::start_own(&store.client_url()).await?;
    let url = service.token(3).await?;
    let mut cluster = Secure::discovering(&[format!("--discovery={url}")], &[])?;
    cluster.members[2].spawn()?;
    // A member with a token that nobody made says so and ends.
    let late = cluster.members[1].options_mut();
    let right = std::mem::replace(&mut late.flags, vec![format!("--discovery={}", service.unknown_token())]);
    let tls = right.iter().filter(|flag| !flag.starts_with("--discovery="));
    cluster.members[1].add_flags(tls.cloned());
    cluster.members[1].spawn()?;
    let status = cluster.members[1].wait_exit(LIMIT).await?;
    ensure!(status.code() == Some(1), "{status}");
    cluster.wait_for_line(1, &["discovery: token not found"]).await?;
    cluster.lose(1)?;

    cluster.members[0].spawn()?;
    for early in [0, 2] {
        cluster.wait_for_line(early, &["waiting for other members"]).await?;
    }
    ensure!(!cluster.members[0].log().contains("serving peer traffic"), "it does not wait for the third");
    cluster.members[1].options_mut().flags = right;
    cluster.members[1].spawn()?;
    cluster.ready(&[0, 1, 2]).await?;
    cluster.check().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_with_tls_start_from_a_domain() -> Result<()> {
    let mut dns = Dns::start_for_systems(&[]).await?;
    let mut cluster = Secure::discovering(&["--discovery-srv=c.test".to_owned()], &dns.wrapper()?)?;
    let mut records = Vec::new();
    for (name, member) in NAMES.iter().zip(&cluster.members) {
        records.push(format!("host-record={name}.c.test,127.0.0.1"));
        for (service, endpoint) in [("server", member.peer_endpoint()), ("client", member.endpoint())] {
            let port = endpoint.rsplit_once(':').map_or("", |(_, port)| port);
            records.push(format!("srv-host=_etcd-{service}-ssl._tcp.c.test,{name}.c.test,{port}"));
        }
    }
    dns.serve(&records).await?;
    cluster.members[2].spawn()?;
    cluster.wait_for_line(2, &["serving peer traffic"]).await?;
    cluster.members[0].spawn()?;
    cluster.ready(&[0, 2]).await?;
    // The late one is of another cluster, until it has the token of the others.
    cluster.members[1].add_flags(["--initial-cluster-token=wrong".to_owned()]);
    cluster.members[1].spawn()?;
    cluster.wait_for_line(1, &["a member that is listed in --initial-cluster is of another cluster"]).await?;
    cluster.wait_for_line_of_any(&[0, 2], &["another member refuses to talk to this one"]).await?;
    ensure!(!cluster.members[1].log().contains("ready to serve client requests"), "it serves");
    cluster.lose(1)?;
    cluster.members[1].options_mut().flags.pop();
    cluster.members[1].restart().await?;
    cluster.check().await?;

    // Members know each other by name, and clients find them by the same domain.
    let list = cluster.etcdctl(&["member", "list"]).await?;
    ensure!(NAMES.iter().all(|name| list.stdout.contains(&format!("https://{name}.c.test:"))), "{list:#?}");
    let get = cluster.etcdctl_with(&["--discovery-srv=c.test", "get", "--keys-only", "a"], &dns.wrapper()?).await?;
    ensure!(get.stdout.starts_with("a\n"), "{get:#?}");
    Ok(())
}
