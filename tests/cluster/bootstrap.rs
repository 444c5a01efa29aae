//! Clusters that begin: TLS between all of them, any order of starts, one member late, one with a wrong token; and one
//! that goes on with a single member after the majority was lost.

use anyhow::{Context, Result, ensure};
use futures::FutureExt as _;
use harness::tool::{Output, etcdctl_binary, run};
use harness::{Authority, Kind, Options, Server};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::process::Command;

const LIMIT: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(50);

/// Three members with TLS towards clients and each other, none of them running, and everybody's certificates.
struct Secure {
    members: Vec<Server>,
    dir: TempDir,
}

impl Secure {
    fn new() -> Result<Self> {
        let dir = TempDir::with_prefix("cleat-test-secure-")?;
        let ca = Authority::new("ca")?;
        std::fs::write(dir.path().join("ca.pem"), ca.pem())?;
        ca.issue(dir.path(), "server", 1)?;
        ca.issue(dir.path(), "peer", 2)?;
        ca.issue(dir.path(), "client", 3)?;
        let file = |name: &str| dir.path().join(name).display().to_string();
        let mut flags = vec!["--client-cert-auth".to_owned(), "--peer-client-cert-auth".to_owned()];
        for (side, name) in [("", "server"), ("peer-", "peer")] {
            flags.push(format!("--{side}cert-file={}", file(&format!("{name}.pem"))));
            flags.push(format!("--{side}key-file={}", file(&format!("{name}.key"))));
            flags.push(format!("--{side}trusted-ca-file={}", file("ca.pem")));
        }
        let member = |name: &&str| {
            let (name, flags) = ((*name).to_owned(), flags.clone());
            let options = Options { name, flags, is_secure: true, secures_peers: true, ..Options::default() };
            Server::prepare(Kind::Cleat, options)
        };
        let mut members = ["a", "b", "c"].iter().map(member).collect::<Result<Vec<_>>>()?;
        let named = ["a", "b", "c"].iter().zip(&members);
        let list: Vec<String> = named.map(|(name, member)| format!("{name}={}", member.peer_url())).collect();
        for member in &mut members {
            member.options_mut().initial_cluster = list.join(",");
        }
        Ok(Self { members, dir })
    }

    /// `etcdctl` with all three endpoints.
    async fn etcdctl(&self, args: &[&str]) -> Result<Output> {
        let endpoints: Vec<String> = self.members.iter().map(Server::client_url).collect();
        let file = |name: &str| self.dir.path().join(name);
        let mut command = Command::new(etcdctl_binary());
        command.env("ETCDCTL_API", "3").arg("--endpoints").arg(endpoints.join(","));
        command.arg("--cacert").arg(file("ca.pem")).arg("--cert").arg(file("client.pem"));
        command.arg("--key").arg(file("client.key")).arg("--command-timeout=5s").args(args);
        run(command, b"", LIMIT).await
    }

    async fn ready(&mut self, members: &[usize]) -> Result<()> {
        for member in members {
            self.members[*member].wait_ready().await?;
        }
        Ok(())
    }

    async fn wait_for_log(&self, member: usize, text: &str) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        while !self.members[member].log().contains(text) {
            ensure!(Instant::now() < deadline, "no {text:?} in the log:\n{}", self.members[member].log_tail());
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }
}

#[tokio::test]
async fn bootstrap_with_tls_in_any_order() -> Result<()> {
    let mut cluster = Secure::new()?;
    // The last first, and one so late that the others go on without it.
    cluster.members[2].spawn()?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    cluster.members[0].spawn()?;
    cluster.ready(&[0, 2]).await?;
    let put = run_two(&cluster, &["put", "k", "early"]).await?;
    ensure!(put.stdout == "OK\n", "{put:#?}");
    cluster.members[1].spawn()?;
    cluster.ready(&[1]).await?;

    let put = cluster.etcdctl(&["put", "k", "v"]).await?;
    ensure!(put.stdout == "OK\n", "{put:#?}");
    let get = cluster.etcdctl(&["get", "k"]).await?;
    ensure!(get.stdout == "k\nv\n", "{get:#?}");
    let health = cluster.etcdctl(&["endpoint", "health"]).await?;
    ensure!(health.code == Some(0), "{health:#?}");
    let list = cluster.etcdctl(&["member", "list"]).await?;
    ensure!(list.stdout.lines().filter(|line| line.contains(", started, ")).count() == 3, "{list:#?}");

    // A member that has data goes on with it, whatever the flags say now.
    cluster.members[0].terminate().await?;
    cluster.members[0].options_mut().flags.push("--initial-cluster-token=another".to_owned());
    cluster.members[0].options_mut().initial_cluster = "z=https://127.0.0.1:1".to_owned();
    cluster.members[0].restart().await?;
    let get = cluster.etcdctl(&["get", "k"]).await?;
    ensure!(get.stdout == "k\nv\n", "{get:#?}");
    Ok(())
}

/// `etcdctl` with the endpoints of the members that run.
async fn run_two(cluster: &Secure, args: &[&str]) -> Result<Output> {
    let running = [0, 2].map(|member| cluster.members[member].client_url()).join(",");
    cluster.etcdctl(&[&["--endpoints", running.as_str()], args].concat()).await
}

#[tokio::test]
async fn bootstrap_with_a_wrong_token_joins_nobody() -> Result<()> {
    let mut cluster = Secure::new()?;
    cluster.members[1].options_mut().flags.push("--initial-cluster-token=wrong".to_owned());
    for member in &mut cluster.members {
        member.spawn()?;
    }
    cluster.ready(&[0, 2]).await?;
    // Both sides say what is wrong.
    cluster.wait_for_log(1, "a member that is listed in --initial-cluster is of another cluster").await?;
    let told = "another member refuses to talk to this one";
    // Of the others, the one that leads calls it.
    let (first, second) = (cluster.wait_for_log(0, told), cluster.wait_for_log(2, told));
    futures::future::select_ok([first.boxed(), second.boxed()]).await?;
    let put = run_two(&cluster, &["put", "k", "v"]).await?;
    ensure!(put.stdout == "OK\n", "{put:#?}");
    ensure!(!cluster.members[1].log().contains("ready to serve client requests"), "it serves");

    // The remedy: the right token and an empty directory.
    cluster.members[1].kill()?;
    let dir = cluster.members[1].data_dir();
    std::fs::remove_dir_all(&dir).with_context(|| dir.display().to_string())?;
    cluster.members[1].options_mut().flags.pop();
    cluster.members[1].restart().await?;
    let list = cluster.etcdctl(&["endpoint", "health"]).await?;
    ensure!(list.code == Some(0), "{list:#?}");
    Ok(())
}

#[tokio::test]
async fn bootstrap_of_one_member_after_the_majority_is_lost() -> Result<()> {
    let mut cluster = Secure::new()?;
    for member in &mut cluster.members {
        member.spawn()?;
    }
    cluster.ready(&[0, 1, 2]).await?;
    let put = cluster.etcdctl(&["put", "k", "v"]).await?;
    ensure!(put.stdout == "OK\n", "{put:#?}");
    // A majority may have acknowledged it without the member that is to survive.
    let url = cluster.members[0].client_url();
    let get = cluster.etcdctl(&["--endpoints", &url, "get", "k"]).await?;
    ensure!(get.stdout == "k\nv\n", "{get:#?}");
    for member in &mut cluster.members {
        member.kill()?;
    }
    cluster.members[0].options_mut().flags.push("--force-new-cluster".to_owned());
    cluster.members[0].restart().await?;
    let get = cluster.etcdctl(&["--endpoints", &url, "get", "k"]).await?;
    ensure!(get.stdout == "k\nv\n", "what was acknowledged is gone: {get:#?}");
    let list = cluster.etcdctl(&["--endpoints", &url, "member", "list"]).await?;
    ensure!(list.stdout.lines().count() == 1 && list.stdout.contains(", a, "), "{list:#?}");
    let put = cluster.etcdctl(&["--endpoints", &url, "put", "k", "w"]).await?;
    ensure!(put.stdout == "OK\n", "{put:#?}");

    // The flag is for one start; the membership stays.
    cluster.members[0].kill()?;
    cluster.members[0].options_mut().flags.pop();
    cluster.members[0].restart().await?;
    let get = cluster.etcdctl(&["--endpoints", &url, "get", "k"]).await?;
    ensure!(get.stdout == "k\nw\n", "{get:#?}");
    // Those of the old cluster are told that they are no members any more.
    cluster.members[1].spawn()?;
    let status = cluster.members[1].wait_exit(LIMIT).await?;
    ensure!(status.code() == Some(0), "{status}:\n{}", cluster.members[1].log_tail());
    cluster.wait_for_log(1, "permanently removed from the cluster").await
}
