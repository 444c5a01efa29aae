//! Tests of a real single member over its v3 API: `etcdctl`, raw gRPC, bytes on the wire, kills under load.

mod audit;
mod auth;
mod bad_input;
mod clients;
mod crash;
mod election;
mod gateway;
mod kubernetes;
mod large_range;
mod lock;
mod log_size;
mod logs;
mod maintenance;
mod metrics;
mod overload;
mod peer;
mod slow_requests;
mod tls;
mod traces;
mod wire;

use anyhow::{Context, Result, bail, ensure};
use harness::tool::{etcdctl_binary, run};
use harness::{Kind, Server, etcdctl};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

harness::same_transcripts! {
    etcdctl_prints_the_same_for_keys: "kv";
    etcdctl_prints_the_same_for_transactions: "txn";
    etcdctl_prints_the_same_for_leases: "lease";
    etcdctl_prints_the_same_for_watches: "watch";
    etcdctl_prints_the_same_for_maintenance: "maintenance";
    etcdctl_prints_the_same_for_endpoints_as_urls: "url";
    etcdctl_prints_the_same_for_users_and_roles: "auth";
    etcdctl_prints_the_same_for_locks: "lock";
    etcdctl_prints_the_same_for_elections: "elect";
    etcdctl_prints_the_same_for_mirrors: "mirror";
    etcdctl_prints_the_same_for_alarms: "alarm";
    etcdctl_prints_the_same_for_clusters: "cluster";
    etcdctl_prints_the_same_for_snapshots: "snapshot";
    etcdctl_prints_the_same_for_what_asks_no_server: "offline";
}

/// Tries of a check whose verdict depends on what else the machine does: one request in a minute that takes half a
/// second fails it.
const CHECK_TRIES: usize = 3;

/// On a machine that is too slow or too busy for it, etcd fails it too.
#[tokio::test]
async fn check_perf_passes() -> Result<()> {
    for _ in 0..CHECK_TRIES {
        if check_perf(Kind::Cleat).await? || !check_perf(Kind::Etcd).await? {
            return Ok(());
        }
    }
    bail!("etcdctl check perf failed {CHECK_TRIES} times, and passed with etcd each time")
}

/// Whether a server is found to be fast enough.
async fn check_perf(kind: Kind) -> Result<bool> {
    let server = Server::start(kind).await?;
    let output = etcdctl(&server, &["check", "perf", "--load=s"], b"", Duration::from_mins(4)).await?;
    // The verdicts come after the progress bar.
    let verdicts = output.stdout.rsplit('\r').next().unwrap_or_default();
    ensure!(verdicts.contains("Throughput") && verdicts.contains("Slowest request"), "{output:#?}");
    let passes = output.code == Some(0) && verdicts.contains("PASS") && !verdicts.contains("FAIL");
    if !passes {
        eprintln!("check perf of {kind:?}: {verdicts}");
    }
    Ok(passes)
}

/// Watches and keepalives go on until one end closes them. A member that ends does, so that its restart takes no time.
#[tokio::test]
async fn open_streams_do_not_hold_up_the_end() -> Result<()> {
    const LIMIT: Duration = Duration::from_secs(20);
    let mut server = Server::start(Kind::Cleat).await?;
    let grant = etcdctl(&server, &["lease", "grant", "60"], b"", LIMIT).await?;
    let lease = grant.stdout.split(' ').nth(1).unwrap_or_default();
    let stream = |args: &[&str]| {
        let mut command = Command::new(etcdctl_binary());
        command.env("ETCDCTL_API", "3").args(["--endpoints", &server.client_url()]).args(args).kill_on_drop(true);
        command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()
    };
    let (mut keeping, mut watching) = (stream(&["lease", "keep-alive", lease])?, stream(&["watch", "a"])?);
    let mut lines = BufReader::new(keeping.stdout.take().context("piped")?).lines();
    let kept = tokio::time::timeout(LIMIT, lines.next_line()).await??;
    ensure!(kept.as_deref().is_some_and(|line| line.contains("keepalived with TTL(60)")), "{kept:?}");
    // A watch says nothing before the first event.
    let mut lines = BufReader::new(watching.stdout.take().context("piped")?).lines();
    let seen = async {
        loop {
            etcdctl(&server, &["put", "a", "1"], b"", LIMIT).await?;
            let next = tokio::time::timeout(Duration::from_millis(200), lines.next_line()).await;
            if matches!(next, Ok(Ok(Some(_)))) {
                return anyhow::Ok(());
            }
        }
    };
    tokio::time::timeout(LIMIT, seen).await??;
    server.terminate().await?;
    let log = server.log();
    ensure!(!log.contains("closing connections whose calls did not end in time"), "{}", server.log_tail());
    Ok(())
}

#[tokio::test]
async fn check_datascale_passes() -> Result<()> {
    // The check reads the process's memory from the metrics of the endpoint that it is given as a URL.
    let server = Server::start(Kind::Cleat).await?;
    let url = server.client_url();
    let mut command = Command::new(etcdctl_binary());
    command.env("ETCDCTL_API", "3").args(["--endpoints", &url, "check", "datascale", "--load=s"]);
    let output = run(command, b"", Duration::from_mins(4)).await?;
    ensure!(output.code == Some(0) && output.stdout.contains("PASS"), "{output:#?}");
    Ok(())
}
