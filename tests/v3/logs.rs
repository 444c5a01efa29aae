//! A log that nobody reads stops nothing, and the level of a log can be changed while a member runs.

use anyhow::{Context, Result, ensure};
use api::etcdserverpb::RangeRequest;
use harness::{Kind, Options, Server, http};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use std::fs::OpenOptions;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const DEADLINE: Duration = Duration::from_mins(1);

async fn lost(server: &Server) -> Result<u64> {
    let (_, _, text) = http::get(&server.client_url(), "/metrics").await?;
    let value = text.lines().find_map(|line| line.strip_prefix("cleat_log_lines_lost_total ")).context("the metric")?;
    Ok(value.parse()?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blocked_pipe_stops_nothing() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("pipe");
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
    // Holds the pipe open, and does not read.
    let pipe = OpenOptions::new().read(true).write(true).open(&path)?;
    // Each call makes a line of more than a kilobyte.
    let outputs = format!("--log-outputs={}", path.display());
    let flags = vec![outputs, "--warning-unary-request-duration=1ns".to_owned()];
    let server = Server::start_with(Kind::Cleat, Options { flags, ..Default::default() }).await?;
    let deadline = Instant::now() + DEADLINE;
    while lost(&server).await? == 0 {
        ensure!(Instant::now() < deadline, "no line was lost");
        let calls = (0..8).map(|_| async {
            let mut client = server.client().await?;
            for _ in 0..100 {
                let key = vec![0xff; 256];
                client
                    .kv
                    .range(RangeRequest { range_end: key.clone().into(), key: key.into(), ..Default::default() })
                    .await?;
            }
            anyhow::Ok(())
        });
        futures::future::try_join_all(calls).await.context("calls go on")?;
    }
    drop(pipe);
    Ok(())
}

/// Sends a body. Returns the status and the body of the answer.
async fn put_level(server: &Server, body: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(server.endpoint()).await?;
    let length = body.len();
    let head = format!("PUT /config/local/log HTTP/1.0\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(format!("{head}{body}").as_bytes()).await?;
    let mut answer = String::new();
    tokio::time::timeout(DEADLINE, stream.read_to_string(&mut answer)).await??;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer")?;
    Ok((head.split(' ').nth(1).context("a status")?.parse()?, body.to_owned()))
}

#[tokio::test]
async fn the_level_changes_as_in_etcd() -> Result<()> {
    let (cleat, etcd) = (Server::start(Kind::Cleat).await?, Server::start(Kind::Etcd).await?);
    for body in [r#"{"Level":"DEBUG"}"#, r#"{"level":"warning"}"#, r#"{"Level":"nope"}"#, r#"{"Level":""}"#, "x", ""] {
        let (ours, theirs) = (put_level(&cleat, body).await?, put_level(&etcd, body).await?);
        ensure!(ours == theirs, "{body}: cleat answers {ours:?}, etcd {theirs:?}");
    }
    let shown = || async { anyhow::Ok(http::get(&cleat.client_url(), "/config/local/log").await?.2) };
    ensure!(shown().await? == r#"{"Level":"WARNING"}"#, "{}", shown().await?);
    let debug_lines = || cleat.log().matches("\"level\":\"debug\"").count();
    let before = debug_lines();
    put_level(&cleat, r#"{"Level":"DEBUG"}"#).await?;
    ensure!(shown().await? == r#"{"Level":"DEBUG"}"#, "{}", shown().await?);
    let deadline = Instant::now() + DEADLINE;
    while debug_lines() == before {
        ensure!(Instant::now() < deadline, "no line of that level:\n{}", cleat.log());
        // A connection that ends before it says anything is worth such a line.
        drop(TcpStream::connect(cleat.endpoint()).await?);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
