//! What requests `cleatctl` sends, and how large they and their answers are: `--debug` of the commands for the v2 API, which prints
//! lines of curl, `--max-request-bytes` and `--max-recv-bytes`.

use crate::client::v2::{v2_client, v2_server};
use crate::restore::command;
use crate::user::PASSWORD;
use anyhow::{Context as _, Result, ensure};
use api::etcdserverpb::{LeaseGrantRequest, PutRequest};
use harness::server::built_binary;
use harness::tool::{Output, cleatctl_as_etcdctl, etcdctl_binary, run};
use harness::{Kind, Server};
use std::ffi::OsString;
use std::time::Duration;
use tokio::process::Command;

const DEADLINE: Duration = Duration::from_mins(1);

async fn outcome(program: &OsString, server: &Server, args: &[&str]) -> Result<Output> {
    let mut command = Command::new(program);
    command.env("ETCDCTL_API", "2").args(["--debug", "--endpoints", &server.client_url()]).args(args);
    run(command, b"", DEADLINE).await
}

#[tokio::test]
async fn called_etcdctl_it_prints_what_etcdctl_prints() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let programs = [etcdctl_binary(), cleatctl_as_etcdctl(scratch.path())?.into()];
    for kind in [Kind::Etcd, Kind::Cleat] {
        let server = v2_server(kind, &[]).await?;
        for args in [
            &["set", "/a b/c", "\"1\""][..],
            &["--no-sync", "update", "/a b/c", "2"],
            &["rm", "/a b/c"],
            &["rm", "--recursive", "/a b"],
            &["member", "list"],
            &["member", "update", "0", "http://127.0.0.1:1"],
            &["cluster-health"],
        ] {
            let (etcdctl, here) =
                (outcome(&programs[0], &server, args).await?, outcome(&programs[1], &server, args).await?);
            let requests = |output: &Output| -> Vec<String> {
                let lines = output.stderr.lines().filter(|line| !line.starts_with("Error"));
                lines.map(str::to_owned).collect()
            };
            ensure!(requests(&etcdctl).iter().any(|line| line.starts_with("cURL Command: curl -X ")), "{etcdctl:?}");
            ensure!(requests(&etcdctl) == requests(&here), "{kind} {args:?}: {etcdctl:?} {here:?}");
            ensure!(outcome(&programs[1], &server, &["user", "list"]).await?.code == Some(0));
        }
    }
    Ok(())
}

/// What the lines are for.
#[tokio::test]
async fn a_shell_sends_what_a_line_says_and_no_line_has_a_password() -> Result<()> {
    const VALUE: &str = "it's \"more\" & $HOME";
    let server = v2_server(Kind::Cleat, &[]).await?;
    let (cleatctl, client) = (built_binary("cleatctl")?.into(), v2_client(&server)?);
    let told = outcome(&cleatctl, &server, &["mk", "--ttl", "600", "/b", VALUE]).await?;
    let line =
        told.stderr.lines().find_map(|line| line.strip_prefix("cURL Command: ").filter(|line| line.contains("PUT")));
    client.delete("/b", client::v2::Delete::default()).await?;
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(format!("{} -sS --noproxy '*'", line.context("no request")?));
    let sent = run(shell, b"", DEADLINE).await?;
    ensure!(sent.code == Some(0), "{sent:?}");
    let back = client.get("/b", client::v2::Get::default()).await?.event.node;
    ensure!(back.value.as_deref() == Some(VALUE) && back.ttl > Some(0), "{back:?}");
    let user = format!("u:{PASSWORD}");
    let told = outcome(&cleatctl, &server, &["-u", &format!("root:{PASSWORD}"), "user", "add", &user]).await?;
    ensure!(told.stderr.contains(r#""password":"***""#) && !told.stderr.contains(PASSWORD), "{told:?}");
    Ok(())
}

#[tokio::test]
async fn what_is_larger_than_was_asked_for_is_neither_sent_nor_taken() -> Result<()> {
    let value = "v".repeat(2000);
    for kind in [Kind::Etcd, Kind::Cleat] {
        let server = Server::start(kind).await?;
        let give = async |args: &[&str]| {
            let mut command = Command::from(command(&["--endpoints", &server.endpoint()])?);
            command.args(args);
            run(command, b"", DEADLINE).await
        };
        let large = give(&["put", "k", &value, "--max-request-bytes", "1000"]).await?;
        let why = "Error: rpc error: code = ResourceExhausted desc = trying to send message larger than max (2006 vs. 1000)\n";
        ensure!(large.code == Some(1) && large.stderr.starts_with(why), "{large:?}");
        ensure!(large.stderr.contains("do:   raise --max-request-bytes"), "{large:?}");
        ensure!(give(&["get", "k"]).await?.stdout.is_empty(), "it was sent");
        ensure!(give(&["put", "k", &value, "--max-request-bytes", "3000"]).await?.code == Some(0));
        let large = give(&["get", "k", "--max-recv-bytes", "1000"]).await?;
        let why = "Error: rpc error: code = ResourceExhausted desc = grpc: received message larger than max (";
        ensure!(large.code == Some(1) && large.stderr.starts_with(why) && large.stdout.is_empty(), "{large:?}");
        ensure!(large.stderr.contains("do:   raise --max-recv-bytes"), "{large:?}");
        let unknown = give(&["put", "k", "small", "--prev-kv", "--max-recv-bytes", "1000"]).await?;
        ensure!(unknown.code == Some(1) && unknown.stderr.contains("may have been done all the same"), "{unknown:?}");
        ensure!(give(&["get", "k", "--print-value-only"]).await?.stdout == "small\n");
        let odd = give(&["get", "k", "--max-request-bytes", "2000", "--max-recv-bytes", "1000"]).await?;
        ensure!(odd.code == Some(2) && odd.stderr.contains("must be greater than send limit"), "{odd:?}");
    }
    Ok(())
}

/// An answer that comes in parts is the same answer.
#[tokio::test]
async fn a_stream_of_keys_is_what_one_answer_is() -> Result<()> {
    let server = Server::start(Kind::Cleat).await?;
    let mut client = server.client().await?;
    for key in 0..40 {
        let value = vec![b'v'; 200_000];
        client
            .kv
            .put(PutRequest { key: format!("k{key:02}").into(), value: value.into(), ..Default::default() })
            .await?;
    }
    for flags in [&["-w", "json"][..], &["--limit", "30", "-w", "fields"], &["--count-only", "-w", "fields"], &[]] {
        let give = async |more: &[&str]| {
            let mut command = Command::from(command(&["--endpoints", &server.endpoint(), "get", "--prefix", "k"])?);
            command.args(flags).args(more);
            run(command, b"", DEADLINE).await
        };
        // Each part is smaller than this, and all together are not.
        let limited = ["--stream", "--max-recv-bytes", "4000000"];
        let (one, parts) = (give(&[]).await?, give(&limited).await?);
        ensure!(one.code == Some(0) && parts.code == Some(0), "{flags:?}: {} {}", one.stderr, parts.stderr);
        ensure!(one.stdout == parts.stdout, "{flags:?}: {} and {} bytes", one.stdout.len(), parts.stdout.len());
        if flags.is_empty() {
            let whole = give(&limited[1..]).await?;
            ensure!(whole.code == Some(1) && whole.stderr.contains("received message larger than max"), "{whole:?}");
        }
    }
    Ok(())
}

/// More than what gRPC takes unless it is told otherwise, of a service that has small answers as a rule.
#[tokio::test]
async fn a_large_answer_of_any_service_is_taken() -> Result<()> {
    const LEASE: i64 = 0x77;
    for kind in [Kind::Etcd, Kind::Cleat] {
        let server = Server::start(kind).await?;
        let mut client = server.client().await?;
        client.lease.lease_grant(LeaseGrantRequest { ttl: 600, id: LEASE }).await?;
        for letter in ["a", "b", "c", "d"] {
            let key = letter.repeat(1_400_000);
            client.kv.put(PutRequest { key: key.into(), lease: LEASE, ..PutRequest::default() }).await?;
        }
        let mut command = Command::from(command(&["--endpoints", &server.endpoint()])?);
        command.args(["lease", "timetolive", "77", "--keys"]);
        let told = run(command, b"", DEADLINE).await?;
        ensure!(told.code == Some(0) && told.stdout.len() > 4 * 1_400_000, "{kind}: {}", told.stderr);
    }
    Ok(())
}

/// etcdctl has a limit of its own before the server's; a person is told of the server's, and what to do.
#[tokio::test]
async fn what_is_too_large_is_refused_as_by_etcdctl() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let programs = [etcdctl_binary(), cleatctl_as_etcdctl(scratch.path())?.into(), built_binary("cleatctl")?.into()];
    for kind in [Kind::Etcd, Kind::Cleat] {
        let server = Server::start(kind).await?;
        for bytes in [2_000_000, 2_097_140, 2_097_200, 3_000_000] {
            let put = async |program: &OsString| {
                let mut command = Command::new(program);
                command.env("ETCDCTL_API", "3").args(["--endpoints", &server.endpoint(), "put", "k"]);
                let output = run(command, &vec![b'v'; bytes], DEADLINE).await?;
                let error = output.stderr.lines().find(|line| line.starts_with("Error: ")).map(str::to_owned);
                anyhow::Ok((output.code, error, output))
            };
            let (theirs, same, own) = (put(&programs[0]).await?, put(&programs[1]).await?, put(&programs[2]).await?);
            ensure!((theirs.0, &theirs.1) == (same.0, &same.1), "{kind} {bytes}: {theirs:?} {same:?}");
            ensure!(
                own.0 == theirs.0 && own.2.stderr.contains("do:   write less at a time"),
                "{kind} {bytes}: {own:?}"
            );
        }
    }
    Ok(())
}
