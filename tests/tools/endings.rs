//! How `cleatctl`'s commands that go on come to their end: the cluster is gone, the lease is, or nobody reads any more. What
//! etcdctl does is the measure.

use crate::client::v2::{v2_client, v2_server};
use crate::restore::succeeds;
use crate::user::{PASSWORD, enable, with_root};
use anyhow::{Context as _, Result, ensure};
use api::etcdserverpb::{
    AuthUserAddRequest, AuthUserGrantRoleRequest, LeaseGrantRequest, LeaseRevokeRequest, PutRequest, RangeRequest,
};
use harness::ports::Port;
use harness::server::built_binary;
use harness::tool::{cleatctl_as_etcdctl, etcdctl_binary, run};
use harness::{Kind, Server};
use std::ffi::OsString;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

const DEADLINE: Duration = Duration::from_mins(1);

/// A command that goes on, and what it prints.
struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    fn start(program: &OsString, server: &Server, api: &str, args: &[&str]) -> Result<Self> {
        let mut command = Command::new(program);
        let endpoint = if api == "2" { server.client_url() } else { server.endpoint() };
        command.env("ETCDCTL_API", api).args(["--endpoints", &endpoint]).args(args).current_dir(server.scratch());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn()?;
        let stdout = child.stdout.take().context("standard output is piped")?;
        Ok(Self { child, lines: BufReader::new(stdout).lines() })
    }

    async fn line(&mut self) -> Result<String> {
        let line = tokio::time::timeout(DEADLINE, self.lines.next_line()).await.context("it prints no more")??;
        line.context("it has ended")
    }

    /// The lines of one that ends by itself, however late.
    async fn whole(mut self) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        while let Some(line) = self.lines.next_line().await? {
            lines.push(line);
        }
        Ok(lines)
    }

    /// What it has still to say until it ends by itself, and its exit code.
    async fn end(mut self) -> Result<(Vec<String>, String, Option<i32>)> {
        let rest = async {
            let mut lines = Vec::new();
            while let Some(line) = self.lines.next_line().await? {
                lines.push(line);
            }
            let mut errors = String::new();
            self.child.stderr.take().context("standard error is piped")?.read_to_string(&mut errors).await?;
            anyhow::Ok((lines, errors, self.child.wait().await?.code()))
        };
        tokio::time::timeout(DEADLINE, rest).await.context("it does not end")?
    }
}

fn programs() -> Result<[OsString; 2]> {
    Ok([etcdctl_binary(), built_binary("cleatctl")?.into()])
}

#[tokio::test]
async fn a_lease_whose_cluster_is_gone_is_over_after_its_time() -> Result<()> {
    for program in programs()? {
        let mut server = Server::start(Kind::Cleat).await?;
        let grant = LeaseGrantRequest { ttl: 3, id: 0x77 };
        server.client().await?.lease.lease_grant(grant).await?;
        let mut kept = Running::start(&program, &server, "3", &["lease", "keep-alive", "77"])?;
        let first = kept.line().await?.replace("0000000000000077", "77");
        ensure!(first == "lease 77 keepalived with TTL(3)", "{program:?}: {first}");
        server.kill()?;
        let (lines, errors, code) = kept.end().await?;
        let last = lines.last().map(|line| line.replace("0000000000000077", "77"));
        ensure!(last.as_deref() == Some("lease 77 expired or revoked."), "{program:?}: {lines:?} {errors}");
        ensure!(code == Some(0), "{program:?}: {code:?}");
        // The server may have the lease still: that it was not asked is said by the one program.
        let why = format!(
            "warning: lease 0000000000000077 could not be renewed: cannot connect to http://{}",
            server.endpoint()
        );
        ensure!(errors.contains(&why) == (program == built_binary("cleatctl")?), "{program:?}: {errors}");
    }
    Ok(())
}

#[tokio::test]
async fn a_lease_that_nobody_answers_for_is_not_said_to_be_over() -> Result<()> {
    let (port, scratch) = (Port::reserve()?, tempfile::tempdir()?);
    let dead = format!("127.0.0.1:{}", port.number());
    // Connections wait in its queue: they are made, and nobody answers.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let silent = silent.local_addr()?.to_string();
    let give = async |program: OsString, endpoint: &str| {
        let mut command = Command::new(program);
        command.env("ETCDCTL_API", "3").args(["--endpoints", endpoint, "lease", "keep-alive", "77"]);
        run(command, b"", DEADLINE).await
    };
    for program in [etcdctl_binary(), cleatctl_as_etcdctl(scratch.path())?.into()] {
        let output = give(program, &dead).await?;
        ensure!(output.code == Some(0) && output.stdout.ends_with("77 expired or revoked.\n"), "{output:?}");
    }
    for (endpoint, why) in [
        (&dead, format!("Error: cannot connect to http://{dead}: Connection refused\n")),
        (&silent, format!("Error: no answer from http://{silent} within ")),
    ] {
        let output = give(built_binary("cleatctl")?.into(), endpoint).await?;
        ensure!(output.code == Some(2) && output.stdout.is_empty(), "{output:?}");
        ensure!(output.stderr.starts_with(&why) && output.stderr.contains("\n  do:   "), "{output:?}");
    }
    Ok(())
}

/// A lease that the server has, and does not renew for somebody who is no user any more.
#[tokio::test]
async fn a_lock_that_may_not_be_kept_says_why() -> Result<()> {
    let server = with_root(Kind::Cleat, &[]).await?;
    let (name, password) = ("u".to_owned(), PASSWORD.to_owned());
    let mut client = server.client().await?;
    client.auth.user_add(AuthUserAddRequest { name: name.clone(), password, ..Default::default() }).await?;
    client.auth.user_grant_role(AuthUserGrantRoleRequest { user: name, role: "root".to_owned() }).await?;
    enable(&server).await?;
    let (user, root) = (format!("u:{PASSWORD}"), format!("root:{PASSWORD}"));
    let args = ["lock", "door", "--ttl", "3", "--user", &user];
    let mut held = Running::start(&built_binary("cleatctl")?.into(), &server, "3", &args)?;
    ensure!(held.line().await?.starts_with("door/"));
    succeeds(&["user", "delete", "u", "--user", &root, "--endpoints", &server.endpoint()])?;
    let (_, errors, code) = held.end().await?;
    let why = "Error: session expired: etcdserver: authentication failed, invalid user ID or password";
    ensure!(
        errors.starts_with(why) && errors.contains("\n  do:   check --user") && code == Some(1),
        "{code:?} {errors}"
    );
    Ok(())
}

#[tokio::test]
async fn a_lock_whose_cluster_is_gone_is_lost_after_its_time() -> Result<()> {
    for program in programs()? {
        let mut server = Server::start(Kind::Cleat).await?;
        let mut held = Running::start(&program, &server, "3", &["lock", "door", "--ttl", "3"])?;
        ensure!(held.line().await?.starts_with("door/"), "{program:?}");
        server.kill()?;
        let (_, errors, code) = held.end().await?;
        ensure!(errors.contains("Error: session expired") && code == Some(1), "{program:?}: {code:?} {errors}");
    }
    Ok(())
}

#[tokio::test]
async fn a_lock_ends_as_the_command_that_it_ran_for() -> Result<()> {
    let server = Server::start(Kind::Cleat).await?;
    for program in programs()? {
        // etcdctl 3.4 tells only that it failed.
        let of_command = if program == etcdctl_binary() { 1 } else { 7 };
        for (command, expected) in [("exit 7", of_command), ("kill -9 $$", 1), ("exit 0", 0)] {
            let held = Running::start(&program, &server, "3", &["lock", "door", "--", "sh", "-c", command])?;
            let (_, _, code) = held.end().await?;
            ensure!(code == Some(expected), "{program:?}, {command}: {code:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_command_whose_reader_is_gone_ends() -> Result<()> {
    let server = v2_server(Kind::Cleat, &[]).await?;
    let v2 = v2_client(&server)?;
    let mut client = server.client().await?;
    let put = |key: &'static str| PutRequest { key: key.into(), value: "v".into(), ..PutRequest::default() };
    let cases: [(&str, &[&str]); 4] = [
        ("3", &["watch", "", "--prefix"]),
        ("3", &["elect", "--listen", "/votes"]),
        ("3", &["lease", "keep-alive", "78"]),
        ("2", &["watch", "/", "--recursive", "--forever"]),
    ];
    for program in programs()? {
        for (api, args) in cases {
            // It has ended since the last case, or not.
            client.lease.lease_revoke(LeaseRevokeRequest { id: 0x78 }).await.ok();
            client.lease.lease_grant(LeaseGrantRequest { ttl: 3, id: 0x78 }).await?;
            let mut running = Running::start(&program, &server, api, args)?;
            // Something happens all the time, of which every one of them has a line to print.
            let mut write = async || {
                client.kv.put(put("/votes/a")).await?;
                v2.set("/a", "v").await?;
                tokio::time::sleep(Duration::from_millis(100)).await;
                anyhow::Ok(())
            };
            let first = async {
                loop {
                    tokio::select! {
                        line = running.lines.next_line() => break anyhow::Ok(line?.context("it has ended")?),
                        written = write() => written?,
                    }
                }
            };
            tokio::time::timeout(DEADLINE, first).await.with_context(|| format!("{args:?} prints nothing"))??;
            let Running { mut child, lines } = running;
            drop(lines);
            let ends = async {
                loop {
                    tokio::select! {
                        status = child.wait() => break anyhow::Ok(status?),
                        written = write() => written?,
                    }
                }
            };
            let status = tokio::time::timeout(DEADLINE, ends).await;
            let status = status.with_context(|| format!("{program:?} {args:?} goes on"))??;
            ensure!(!status.success(), "{program:?} {args:?}: {status:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn one_dead_member_hides_no_other() -> Result<()> {
    for kind in [Kind::Etcd, Kind::Cleat] {
        let server = with_root(kind, &[]).await?;
        enable(&server).await?;
        let port = Port::reserve()?;
        let dead = format!("127.0.0.1:{}", port.number());
        let endpoints = format!("{dead},{}", server.endpoint());
        for program in programs()? {
            for args in [&["endpoint", "status"][..], &["endpoint", "hashkv"], &["defrag"]] {
                let mut command = Command::new(&program);
                command.env("ETCDCTL_API", "3").args(["--endpoints", &endpoints, "--command-timeout", "2s"]);
                command.args(["--user", &format!("root:{PASSWORD}")]).args(args);
                let output = run(command, b"", DEADLINE).await?;
                ensure!(output.code == Some(1) && output.stderr.contains(&dead), "{program:?} {args:?}: {output:?}");
                ensure!(output.stdout.contains(&server.endpoint()), "{program:?} {args:?}: {output:?}");
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_watch_behind_the_history_says_what_the_server_says() -> Result<()> {
    for kind in [Kind::Etcd, Kind::Cleat] {
        let server = v2_server(kind, &[]).await?;
        let v2 = v2_client(&server)?;
        // The server remembers a thousand.
        for n in 0..1_100 {
            v2.set("/k", &n.to_string()).await?;
        }
        let mut told = Vec::new();
        for program in programs()? {
            let watch = Running::start(&program, &server, "2", &["watch", "/k", "--after-index", "1"])?;
            told.push(watch.end().await?);
        }
        // Below the same line a person is told where that was, and what to do.
        let below = format!(
            "  from: {}\n  do:   read what is there, and watch from the index that comes with it\n",
            server.client_url()
        );
        told[0].1 += &below;
        ensure!(told[0] == told[1] && told[0].1.contains("401: The event in requested index is outdated"), "{told:?}");
        ensure!(told[0].2 == Some(4), "{told:?}");
    }
    Ok(())
}

/// What etcdctl prints is of the machine; which lines there are is not.
#[tokio::test]
async fn checks_come_to_a_verdict_and_leave_nothing() -> Result<()> {
    let server = Server::start(Kind::Cleat).await?;
    let cleatctl: OsString = built_binary("cleatctl")?.into();
    let (perf, scale) = tokio::join!(
        async {
            let args = ["check", "perf", "--prefix", "/perf/", "--auto-compact", "--auto-defrag"];
            tokio::time::timeout(DEADLINE * 3, Running::start(&cleatctl, &server, "3", &args)?.whole()).await?
        },
        async {
            // How to check certificates does not say that there are any.
            let args = ["check", "datascale", "--prefix", "/scale/", "--insecure-skip-tls-verify"];
            tokio::time::timeout(DEADLINE * 3, Running::start(&cleatctl, &server, "3", &args)?.whole()).await?
        }
    );
    let (perf, scale) = (perf?, scale?);
    ensure!(matches!(perf.last().map(String::as_str), Some("PASS" | "FAIL")), "{perf:?}");
    let has = |text: &str| perf.iter().any(|line| line.contains(text));
    ensure!(has(" writes/s") && has("Compacted with revision ") && has("Defragmented "), "{perf:?}");
    ensure!(has("lowest request took") && has("Stddev"), "{perf:?}");
    ensure!(scale.iter().any(|line| line.starts_with("PASS: Approximate system memory used : ")), "{scale:?}");
    let left = RangeRequest { key: "/".into(), range_end: "0".into(), ..RangeRequest::default() };
    ensure!(server.client().await?.kv.range(left).await?.into_inner().count == 0);
    Ok(())
}

#[tokio::test]
async fn a_mirror_takes_its_times_from_the_environment() -> Result<()> {
    let server = Server::start(Kind::Cleat).await?;
    server.client().await?.kv.put(PutRequest { key: "k".into(), value: "v".into(), ..PutRequest::default() }).await?;
    // Connections wait in its queue: they are made, and nobody answers.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let mut command = crate::restore::command(&["make-mirror", "--endpoints", &server.endpoint()])?;
    command.arg(silent.local_addr()?.to_string()).env("ETCDCTL_COMMAND_TIMEOUT", "700ms");
    let output = run(command.into(), b"", DEADLINE).await?;
    ensure!(output.code == Some(1) && output.stderr.contains("within 700ms"), "{output:?}");
    Ok(())
}

#[tokio::test]
async fn a_command_is_run_for_what_a_watch_of_the_v2_api_sees() -> Result<()> {
    let server = v2_server(Kind::Cleat, &[]).await?;
    v2_client(&server)?.set("/e", "v").await?;
    let args = [
        "exec-watch",
        "--after-index",
        "1",
        "/e",
        "--",
        "sh",
        "-c",
        "echo $ETCD_WATCH_ACTION $ETCD_WATCH_KEY $ETCD_WATCH_VALUE",
    ];
    let mut watch = Running::start(&built_binary("cleatctl")?.into(), &server, "2", &args)?;
    ensure!(watch.line().await? == "set /e v");
    Ok(())
}
