//! The process: flags, expiry, a store that is away, shutdown, TLS.

use super::DEADLINE;
use super::service::{Service, Store};
use crate::client::tls::Authority;
use anyhow::{Context, Result, ensure};
use harness::server::built_binary;
use harness::tool::run;
use harness::{Kind, Server};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::process::Command;

const POLL: Duration = Duration::from_millis(50);

/// Asks until the answer has this status.
async fn until(service: &Service, path: &str, status: u16) -> Result<()> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let answer = service.get(path).await?;
        if answer.status == status {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{path} is not {status} in time: {answer:?}\n{}", service.log());
        tokio::time::sleep(POLL).await;
    }
}

#[tokio::test]
async fn no_flags_say_what_to_give() -> Result<()> {
    for (args, text) in [
        (&[][..], "give --endpoints URLS of an etcd or Cleat cluster, or --embedded"),
        (&["--embedded", "--addr=:1"][..], "--host is needed"),
        (&["--embedded", "--max-age=a week"][..], "is not a duration"),
        (&["--no-such-flag"][..], "--no-such-flag"),
    ] {
        let mut command = Command::new(built_binary("cleat-discovery")?);
        command.args(args);
        let output = run(command, b"", DEADLINE).await?;
        ensure!(output.code == Some(2) && output.stderr.contains(text), "{args:?}: {output:?}");
    }
    // The older service's variable; an endpoint needs a port.
    let mut command = Command::new(built_binary("cleat-discovery")?);
    command.env("DISC_ETCD", "store").env("DISC_ADDR", "127.0.0.1:0");
    let output = run(command, b"", DEADLINE).await?;
    ensure!(output.code == Some(1) && output.stderr.contains("bad endpoint \\\"store\\\""), "{output:?}");
    Ok(())
}

#[tokio::test]
async fn old_tokens_are_removed_by_any_instance() -> Result<()> {
    let store = Server::start(Kind::Cleat).await?;
    let keeping = Service::start(Store::Server(&store), &[]).await?;
    let token = keeping.token(1).await?;
    keeping.register(&token, "aa").await?;
    let flags = ["--max-age=1s", "--gc-interval=100ms"];
    let (one, two) =
        (Service::start(Store::Server(&store), &flags).await?, Service::start(Store::Server(&store), &flags).await?);
    until(&keeping, &token, 404).await?;
    let client = crate::client::client_of(&[store.endpoint()])?;
    let left = client.list("/_etcd/registry/").await?.kvs;
    ensure!(left.is_empty(), "{left:?}");
    let removed = |metrics: &str| {
        let line = metrics.lines().find(|line| line.starts_with("cleat_discovery_removed_tokens_total "));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
    };
    // A token is counted behind its end.
    let (mut total, deadline) = (0, Instant::now() + DEADLINE);
    while total == 0 && Instant::now() < deadline {
        for service in [&one, &two] {
            total += removed(&service.get("/metrics").await?.body).context("the counter")?;
        }
    }
    ensure!(total == 1, "one token was removed {total} times");
    Ok(())
}

#[tokio::test]
async fn the_service_lives_through_the_absence_of_its_store() -> Result<()> {
    let mut store = Server::start(Kind::Cleat).await?;
    let service = Service::start(Store::Server(&store), &[]).await?;
    let token = service.token(2).await?;
    let from = service.get(&token).await?.index.context("an index")? + 1;
    let path = format!("{token}?recursive=true&wait=true&waitIndex={from}");
    let poll = service.get(&path);
    let outage = async {
        service.wait_for_polls(1).await?;
        store.kill()?;
        let answer = service.get(&token).await?;
        ensure!(answer.status == 503 && answer.json()?["errorCode"] == 300, "{answer:?}");
        ensure!(service.get("/health").await?.status == 503);
        store.restart().await?;
        until(&service, &token, 200).await?;
        ensure!(service.register(&token, "aa").await?.status == 201);
        until(&service, "/health", 200).await
    };
    // The poll began before the outage and ends behind it.
    let (polled, ()) = tokio::try_join!(poll, outage)?;
    ensure!(polled.json()?["node"]["value"] == "aa=http://h", "{polled:?}");
    Ok(())
}

#[tokio::test]
async fn a_signal_ends_polls_and_then_the_process() -> Result<()> {
    let mut service = Service::start(Store::Embedded, &[]).await?;
    let token = service.token(2).await?;
    let address = service.address();
    let poll = tokio::spawn(async move {
        super::service::request(&address, "GET", &format!("{token}?recursive=true&wait=true"), "").await
    });
    service.wait_for_polls(1).await?;
    ensure!(service.terminate().await?.code() == Some(0), "{}", service.log());
    let polled = poll.await??;
    ensure!(polled.status == 200 && polled.body.is_empty() && polled.index.is_some(), "{polled:?}");
    ensure!(!service.log().contains("\"level\":\"error\""), "{}", service.log());
    Ok(())
}

#[tokio::test]
async fn it_serves_https() -> Result<()> {
    let (authority, dir) = (Authority::new()?, tempfile::tempdir()?);
    let (ca, (cert, key)) = (authority.write(dir.path())?, authority.sign("localhost", dir.path())?);
    let flags = [format!("--cert-file={}", cert.display()), format!("--key-file={}", key.display())];
    let service = Service::start(Store::Embedded, &[&flags[0], &flags[1]]).await?;
    let url = service.url("/new").replace("http://127.0.0.1", "https://localhost");
    let mut command = Command::new("curl");
    command.arg("--silent").arg("--show-error").arg("--cacert").arg(ca).arg(url).current_dir(service.scratch());
    let output = run(command, b"", DEADLINE).await?;
    ensure!(output.stdout.starts_with(&service.url("/").replace("http:", "https:")), "{output:?}\n{}", service.log());
    Ok(())
}

#[tokio::test]
async fn connections_leave_the_process_its_descriptors() -> Result<()> {
    const DESCRIPTORS: usize = 250;
    let service = Service::limited(Store::Embedded, &[], DESCRIPTORS).await?;
    // The system lets all of them wait; the process accepts no more than it has room for.
    let mut idle = Vec::new();
    for _ in 0..DESCRIPTORS {
        idle.push(TcpStream::connect(service.address()).await?);
    }
    let deadline = Instant::now() + DEADLINE;
    while !service.log().contains("no more connections are accepted for now") {
        ensure!(Instant::now() < deadline, "all connections were accepted:\n{}", service.log());
        tokio::time::sleep(POLL).await;
    }
    drop(idle);
    // The member in the process can open files, and clients are let in.
    let token = service.token(1).await?;
    ensure!(service.register(&token, "aa").await?.status == 201);
    ensure!(!service.log().contains("cannot accept"), "{}", service.log());
    Ok(())
}
