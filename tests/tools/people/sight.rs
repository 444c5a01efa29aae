//! `status` and `doctor`: clusters that are well, that have lost members, and with TLS.

use super::{DEADLINE, fails, outcome, says};
use crate::restore::command;
use anyhow::{Context as _, Result, ensure};
use harness::cluster::{Place, Subject};
use harness::tls::ClientTls;
use harness::tool::run;
use harness::{Authority, Cluster, Kind, Output, Server, Site};
use serde_json::Value;
use std::sync::Arc;

/// What a command says as JSON, and how it ended.
async fn json(args: &[&str]) -> Result<(Value, Output)> {
    let mut command = command(args)?;
    command.args(["-w", "json"]);
    let output = run(command.into(), b"", DEADLINE).await?;
    let value = serde_json::from_str(&output.stdout).with_context(|| format!("{args:?}: {output:?}"))?;
    Ok((value, output))
}

/// The findings of a check.
fn of<'a>(findings: &'a Value, check: &str) -> Vec<(&'a str, &'a str)> {
    let found = findings.as_array().into_iter().flatten().filter(|finding| finding["check"] == check);
    found.filter_map(|finding| Some((finding["level"].as_str()?, finding["what"].as_str()?))).collect()
}

#[tokio::test]
async fn one_member_tells_of_all_of_them() -> Result<()> {
    for kind in [Kind::Etcd, Kind::Cleat] {
        let mut cluster = Cluster::start(&Subject::of(kind)?, Place::Loopback, 3).await?;
        cluster.wait_healthy().await?;
        let endpoint = cluster.url(0);
        let (status, output) = json(&["status", "--endpoints", &endpoint]).await?;
        ensure!(output.code == Some(0), "{output:?}");
        let members = status["members"].as_array().context("members")?;
        let leaders: Vec<&Value> = members.iter().map(|member| &member["leader"]).collect();
        ensure!(members.len() == 3 && leaders.iter().all(|leader| *leader == leaders[0]), "{status}");
        for member in members {
            ensure!(member["raft_lag"].as_u64().is_some_and(|lag| lag < 1000), "{member}");
            ensure!(member["quota"].as_u64().is_some_and(|bytes| bytes > 0), "{member}");
            let name = if kind == Kind::Cleat { "cleat " } else { "etcd " };
            ensure!(member["program"].as_str().is_some_and(|program| program.starts_with(name)), "{member}");
            ensure!(member["clock_ahead_seconds"].as_i64().is_some_and(|seconds| seconds.abs() <= 2), "{member}");
        }
        ensure!(of(&status["findings"], "members") == [("PASS", "3 of 3 voters answer")], "{status}");
        let (report, output) = json(&["doctor", "--endpoints", &endpoint]).await?;
        ensure!(of(&report, "ports") == [("PASS", "every member's peer URLs take connections")], "{report}");
        ensure!(
            of(&report, "size") == [("PASS", "3 voters tolerate 1 failure")] && output.code == Some(0),
            "{output:?}"
        );
        // One is lost, then the majority.
        let (first, second) = (1, 2);
        cluster.kill(first)?;
        let (status, _) = json(&["status", "--endpoints", &endpoint]).await?;
        let lost = of(&status["findings"], "members");
        ensure!(matches!(&lost[..], [("FAIL", what)] if what.contains("does not answer")), "{status}");
        cluster.kill(second)?;
        let (report, output) = json(&["doctor", "--endpoints", &endpoint, "--command-timeout", "2s"]).await?;
        ensure!(output.code == Some(1), "{output:?}");
        let failed = report.as_array().into_iter().flatten().filter(|finding| finding["level"] == "FAIL").count();
        ensure!(failed > 0, "{report}");
        // Cleat's members tell who belongs to the cluster without a leader, too.
        if kind == Kind::Cleat {
            let members = of(&report, "members");
            ensure!(
                members.iter().any(|(_, what)| what.starts_with("1 of 3 voters answer, which is no majority")),
                "{report}"
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn certificates_and_who_is_let_in_are_seen() -> Result<()> {
    let ca = Authority::new("ca")?;
    let site = Site::new(&ca)?;
    for member in ["m0", "m1", "m2"] {
        site.admit(&ca, member)?;
    }
    let site = Arc::new(site);
    for kind in [Kind::Etcd, Kind::Cleat] {
        let mut cluster = Cluster::start_secure(&Subject::of(kind)?, 3, &[], Arc::clone(&site)).await?;
        cluster.wait_healthy().await?;
        let file = |name: &str| site.path(name).display().to_string();
        let (trusted, cert, key) = (file("trusted.pem"), file("client.pem"), file("client.key"));
        let url = cluster.url(0);
        let flags = ["--endpoints", &url, "--cacert", &trusted, "--cert", &cert, "--key", &key];
        let (status, output) = json(&[&["status"][..], &flags].concat()).await?;
        ensure!(output.code == Some(0), "{output:?}");
        let members = status["members"].as_array().context("members")?;
        ensure!(members.len() == 3, "{status}");
        for member in members {
            let now = status["time"].as_i64().context("a time")?;
            let ends = member["certificates"][0]["not_after"].as_i64();
            ensure!(ends.is_some_and(|ends| ends > now), "{member}");
        }
        let (report, _) = json(&[&["doctor"][..], &flags].concat()).await?;
        ensure!(of(&report, "CIS 2.2") == [("PASS", "clients must show a certificate or be a user")], "{report}");
        ensure!(of(&report, "CIS 2.5") == [("PASS", "members must show a certificate to each other")], "{report}");
        ensure!(of(&report, "CIS 2.1")[0].0 == "PASS" && of(&report, "CIS 2.4")[0].0 == "PASS", "{report}");
        // Without a certificate of one's own nobody answers, and that is said.
        let bare = run(command(&["status", "--endpoints", &url, "--cacert", &trusted])?.into(), b"", DEADLINE).await?;
        ensure!(bare.code == Some(1) && bare.stdout.contains("does not answer"), "{bare:?}");
    }
    Ok(())
}

#[tokio::test]
async fn who_lets_anybody_in_is_warned_of() -> Result<()> {
    let ca = Authority::new("ca")?;
    let site = Site::new(&ca)?;
    site.admit(&ca, "m0")?;
    let file = |name: &str| site.path(name).display().to_string();
    for kind in [Kind::Etcd, Kind::Cleat] {
        let pair = |prefix: &str, of: &str| {
            [
                format!("--{prefix}cert-file={}", file(&format!("m0-{of}.pem"))),
                format!("--{prefix}key-file={}", file(&format!("m0-{of}.key"))),
            ]
        };
        let flags = [pair("", "server"), pair("peer-", "peer")].concat();
        let client_tls = Some(ClientTls { trusted: site.path("trusted.pem"), own: None });
        let options =
            harness::Options { flags, is_secure: true, secures_peers: true, client_tls, ..harness::Options::default() };
        let server = Server::start_with(kind, options).await?;
        let (url, trusted) = (server.client_url(), file("trusted.pem"));
        let (report, output) = json(&["doctor", "--endpoints", &url, "--cacert", &trusted]).await?;
        ensure!(output.code == Some(0), "{output:?}");
        let clients = of(&report, "CIS 2.2");
        ensure!(matches!(&clients[..], [("WARN", what)] if what.contains(&url)), "{report}");
        let peers = of(&report, "CIS 2.5");
        ensure!(matches!(&peers[..], [("WARN", what)] if what.contains(&server.peer_url())), "{report}");
    }
    Ok(())
}

#[tokio::test]
async fn an_endpoint_is_of_the_member_that_answers_there() -> Result<()> {
    for kind in [Kind::Etcd, Kind::Cleat] {
        let mut cluster = Cluster::prepared(&Subject::of(kind)?, Place::Loopback, 2, &[])?;
        // Both advertise the first one's URL, as members behind a load balancer may.
        let url = cluster.url(0);
        cluster.options_mut(1).advertised_client_url = Some(url.clone());
        for member in 0..2 {
            cluster.spawn(member)?;
        }
        cluster.wait_healthy().await?;
        let (status, _) = json(&["status", "--endpoints", &url]).await?;
        let errors: Vec<&str> =
            status["members"].as_array().into_iter().flatten().filter_map(|m| m["error"].as_str()).collect();
        ensure!(matches!(errors[..], [error] if error.contains("answers at")), "{status}");
        // Another cluster's member among the endpoints.
        let other = Server::start(kind).await?;
        let endpoints = format!("{},{}", cluster.url(1), other.endpoint());
        let (status, _) = json(&["status", "--endpoints", &endpoints]).await?;
        let told = of(&status["findings"], "members");
        ensure!(
            told.iter().any(|(level, what)| *level == "FAIL" && what.contains("is a member of another cluster")),
            "{status}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_closed_peer_port_is_not_passed_over() -> Result<()> {
    for kind in [Kind::Etcd, Kind::Cleat] {
        let mut cluster = Cluster::start(&Subject::of(kind)?, Place::Loopback, 3).await?;
        cluster.wait_healthy().await?;
        cluster.kill(2)?;
        let (report, output) = json(&["doctor", "--endpoints", &cluster.url(0)]).await?;
        let ports = of(&report, "ports");
        let closed = cluster.peer_url(2);
        ensure!(matches!(&ports[..], [("WARN", what)] if what.contains(&closed)), "{report}");
        ensure!(output.code == Some(1), "{output:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_full_store_and_a_host_are_judged() -> Result<()> {
    for kind in [Kind::Etcd, Kind::Cleat] {
        let flags = vec!["--quota-backend-bytes=1048576".to_owned()];
        let options = harness::Options { flags, ..harness::Options::default() };
        let server = Server::start_with(kind, options).await?;
        let large = "x".repeat(100_000);
        let mut is_full = false;
        for n in 0..100 {
            let output = outcome(&server, &["put", "--command-timeout=30s", &format!("k{n}")], &[], &large).await?;
            if output.code != Some(0) {
                ensure!(output.stderr.contains("database space exceeded"), "{output:?}");
                ensure!(output.stderr.contains("do:   make room: `compaction REVISION`"), "{output:?}");
                is_full = true;
                break;
            }
        }
        ensure!(is_full, "a megabyte takes more than that");
        let screen = says(&server, &["status"]).await?;
        ensure!(screen.contains("alarms NOSPACE") && screen.contains("has raised NOSPACE"), "{screen}");
        ensure!(screen.contains("FAIL  quota"), "{screen}");
        let directory = server.data_dir().display().to_string();
        let failed = outcome(&server, &["doctor", "--data-dir", &directory], &[], "").await?;
        ensure!(failed.code == Some(1) && failed.stdout.contains("disk here"), "{failed:?}");
        ensure!(failed.stdout.contains("PASS  CIS 1.1.11"), "{failed:?}");
        let nowhere = fails(&server, &["doctor", "--data-dir", "/none"], 1).await?;
        ensure!(nowhere.contains("not everything is in order"), "{nowhere}");
    }
    Ok(())
}

/// Who asks for the exit code alone closes the output.
#[tokio::test]
async fn nobody_answers_whether_somebody_reads_or_not() -> Result<()> {
    let port = harness::ports::Port::reserve()?;
    let endpoint = format!("127.0.0.1:{}", port.number());
    for format in ["simple", "json"] {
        let (reader, writer) = std::io::pipe()?;
        drop(reader);
        let mut command = command(&["status", "--endpoints", &endpoint, "-w", format])?;
        command.stdin(std::process::Stdio::null()).stdout(writer).stderr(std::process::Stdio::piped());
        let child = tokio::process::Command::from(command).kill_on_drop(true).spawn()?;
        let output = tokio::time::timeout(DEADLINE, child.wait_with_output()).await.context("it goes on")??;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(1) && errors.contains("no member answers"), "{format}: {output:?}");
    }
    // As behind `2>&1 | head`.
    for args in [&["status"][..], &["get", "a"], &["endpoint", "health"]] {
        let (reader, writer) = std::io::pipe()?;
        drop(reader);
        let mut command = command(&[&["--endpoints", &endpoint, "--command-timeout", "1s"], args].concat())?;
        command.stdin(std::process::Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
        let mut child = tokio::process::Command::from(command).kill_on_drop(true).spawn()?;
        let status = tokio::time::timeout(DEADLINE, child.wait()).await.context("it goes on")??;
        ensure!(status.code() == Some(1), "{args:?}: {status}");
    }
    Ok(())
}

#[tokio::test]
async fn a_watch_shows_one_look_after_the_other() -> Result<()> {
    let server = Server::start(Kind::Cleat).await?;
    let mut command =
        command(&["status", "--watch", "--interval", "200ms", "-w", "json", "--endpoints", &server.endpoint()])?;
    command.stdout(std::process::Stdio::piped());
    let mut child = tokio::process::Command::from(command).kill_on_drop(true).spawn()?;
    let stdout = child.stdout.take().context("standard output is piped")?;
    let mut lines = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(stdout));
    for _ in 0..3 {
        let line = tokio::time::timeout(DEADLINE, lines.next_line()).await??.context("another look")?;
        let status: Value = serde_json::from_str(&line)?;
        ensure!(status["members"][0]["endpoint"].is_string(), "{status}");
    }
    // Behind a reader that has gone it ends, and has not failed.
    drop(lines);
    let ended = tokio::time::timeout(DEADLINE, child.wait()).await.context("it goes on")??;
    ensure!(ended.success(), "{ended:?}");
    Ok(())
}

#[tokio::test]
async fn a_watch_goes_on_when_its_endpoint_is_lost() -> Result<()> {
    let mut cluster = Cluster::start(&Subject::of(Kind::Cleat)?, Place::Loopback, 3).await?;
    cluster.wait_healthy().await?;
    let mut command =
        command(&["status", "--watch", "--interval", "200ms", "-w", "json", "--endpoints", &cluster.url(0)])?;
    command.stdout(std::process::Stdio::piped());
    let mut child = tokio::process::Command::from(command).kill_on_drop(true).spawn()?;
    let stdout = child.stdout.take().context("standard output is piped")?;
    let mut lines = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(stdout));
    let mut next = async || -> Result<Value> {
        let line = tokio::time::timeout(DEADLINE, lines.next_line()).await??.context("another look")?;
        Ok(serde_json::from_str(&line)?)
    };
    let answering = |status: &Value| {
        let members = status["members"].as_array().map(Vec::as_slice).unwrap_or_default();
        (members.iter().filter(|member| member["endpoint"].is_string()).count(), members.len())
    };
    ensure!(answering(&next().await?) == (3, 3), "three members");
    cluster.kill(0)?;
    let mut status = next().await?;
    // A look may fall between the two, and the others may choose a leader first.
    for _ in 0..50 {
        if answering(&status) == (2, 3) {
            break;
        }
        status = next().await?;
    }
    ensure!(answering(&status) == (2, 3), "{status}");
    let lost = of(&status["findings"], "members");
    ensure!(matches!(&lost[..], [("FAIL", what)] if what.contains("does not answer")), "{status}");
    Ok(())
}
