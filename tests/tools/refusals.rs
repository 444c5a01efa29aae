//! How `cleatctl` tells what a server refused, beside etcdctl: under its own name with cause, place and remedy, called `etcdctl` as
//! that does.

use anyhow::{Result, ensure};
use harness::server::built_binary;
use harness::tool::{Output, cleatctl_as_etcdctl, etcdctl_binary, run};
use std::ffi::OsString;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

const DEADLINE: Duration = Duration::from_mins(1);

/// Longest request that the server here reads.
const REQUEST_BYTES_MAX: usize = 64 << 10;

/// A server of the v2 API that answers everything with an error, until it is dropped. Returns its URL.
async fn refusing(status: &'static str, body: &'static str) -> Result<(String, tokio::task::JoinSet<()>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // Who went away misses nothing.
            drop(refuse(stream, status, body).await);
        }
    });
    Ok((url, tasks))
}

async fn refuse(mut stream: TcpStream, status: &str, body: &str) -> Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.len() < REQUEST_BYTES_MAX {
        ensure!(stream.read_buf(&mut request).await? > 0, "it ends too early");
    }
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    Ok(())
}

async fn outcome(program: &OsString, words: &[&str]) -> Result<Output> {
    let mut command = Command::new(program);
    command.env("ETCDCTL_API", if words.contains(&"--no-sync") { "2" } else { "3" }).args(words);
    run(command, b"", DEADLINE).await
}

#[tokio::test]
async fn a_person_sees_what_a_broken_member_says() -> Result<()> {
    const OF_KEY: &str = r#"{"errorCode":300,"message":"Raft Internal Error","cause":"no quorum","index":7}"#;
    let scratch = tempfile::tempdir()?;
    let (etcdctl, here) = (etcdctl_binary(), cleatctl_as_etcdctl(scratch.path())?.into());
    let cleatctl = built_binary("cleatctl")?.into();
    let error = r#"{"message":"the disk of this member is gone"}"#;
    for (status, body, said) in [
        ("503 Service Unavailable", "wait for the election", ": \"wait for the election\""),
        ("500 Internal Server Error", error, ": the disk of this member is gone"),
        ("502 Bad Gateway", "", ""),
        ("500 Internal Server Error", OF_KEY, ""),
    ] {
        let (url, _server) = refusing(status, body).await?;
        for (words, is_write) in [
            (&["get", "/a"][..], false),
            (&["set", "/a", "1"], true),
            (&["user", "list"], false),
            (&["role", "add", "r"], true),
        ] {
            let words = [&["--no-sync", "--endpoints", &url], words].concat();
            let (theirs, same) = (outcome(&etcdctl, &words).await?, outcome(&here, &words).await?);
            ensure!((same.code, &same.stdout) == (theirs.code, &theirs.stdout), "{words:?}: {theirs:?} {same:?}");
            ensure!(!same.stderr.contains("do: ") && theirs.stderr.lines().next() == same.stderr.lines().next());
            let told = outcome(&cleatctl, &words).await?;
            ensure!(told.code == theirs.code, "{words:?}: {told:?}");
            let mut lines = told.stderr.lines();
            let cause = match body {
                OF_KEY => "300: Raft Internal Error (no quorum) [7]".to_owned(),
                _ => format!("the member answers {status}{said}"),
            };
            ensure!(lines.next().is_some_and(|line| line.ends_with(&cause)), "{words:?}: {told:?}");
            ensure!(lines.next() == Some(&format!("  from: {url}")), "{words:?}: {told:?}");
            let remedy = lines.next().unwrap_or_default();
            ensure!(remedy.starts_with("  do:   ") && remedy.contains("`cleatctl status`"), "{words:?}: {told:?}");
            ensure!(remedy.contains("may have been done") == is_write, "{words:?}: {told:?}");
        }
    }
    Ok(())
}

/// etcdctl panics there, which a script sees by the exit code.
#[tokio::test]
async fn a_directory_without_a_store_is_not_defragmented() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let (empty, absent) = (scratch.path().join("empty"), scratch.path().join("absent"));
    std::fs::create_dir(&empty)?;
    let here = cleatctl_as_etcdctl(scratch.path())?.into();
    for directory in [&empty, &absent] {
        let words = ["defrag", "--data-dir", &directory.display().to_string()];
        for (program, code) in [(&etcdctl_binary(), 2), (&here, 2), (&built_binary("cleatctl")?.into(), 1)] {
            let output = outcome(program, &words).await?;
            ensure!(output.code == Some(code) && output.stdout.is_empty(), "{program:?} {output:?}");
        }
    }
    ensure!(std::fs::read_dir(&empty)?.next().is_none() && !absent.exists(), "something was made");
    Ok(())
}
