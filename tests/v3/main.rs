//! Tests of a real single member over its v3 API: `etcdctl`, raw gRPC, bytes on the wire, kills under load.

mod bad_input;
mod clients;
mod crash;
mod kubernetes;
mod log_size;
mod metrics;
mod peer;
mod tls;
mod transcript;
mod wire;

use anyhow::{Result, bail, ensure};
use harness::tool::{etcdctl_binary, run};
use harness::{Kind, Server, etcdctl};
use std::time::Duration;
use tokio::process::Command;

macro_rules! same_transcript {
    ($($name:ident: $file:literal;)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() -> Result<()> {
                transcript::check(include_str!(concat!("scripts/", $file, ".txt"))).await
            }
        )*
    };
}

same_transcript! {
    etcdctl_prints_the_same_for_keys: "kv";
    etcdctl_prints_the_same_for_transactions: "txn";
    etcdctl_prints_the_same_for_leases: "lease";
    etcdctl_prints_the_same_for_watches: "watch";
    etcdctl_prints_the_same_for_maintenance: "maintenance";
    etcdctl_prints_the_same_for_endpoints_as_urls: "url";
}

/// Tries of a check whose verdict depends on what else the machine does: one request in a minute that takes half a
/// second fails it.
const CHECK_TRIES: usize = 3;

#[tokio::test]
async fn check_perf_passes() -> Result<()> {
    for _ in 0..CHECK_TRIES {
        let server = Server::start(Kind::Cleat).await?;
        let output = etcdctl(&server, &["check", "perf", "--load=s"], b"", Duration::from_mins(4)).await?;
        // The verdicts come after the progress bar.
        let verdicts = output.stdout.rsplit('\r').next().unwrap_or_default();
        if output.code == Some(0) && verdicts.contains("PASS") && !verdicts.contains("FAIL") {
            return Ok(());
        }
        ensure!(verdicts.contains("Throughput") && verdicts.contains("Slowest request"), "{output:#?}");
        eprintln!("check perf: {verdicts}");
    }
    bail!("etcdctl check perf failed {CHECK_TRIES} times")
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
