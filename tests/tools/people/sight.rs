//! `status` and `doctor`: clusters that are well, that have lost members, and with TLS.

use super::{DEADLINE, fails, outcome, says};
use crate::restore::command;
use anyhow::{Context as _, Result, ensure};
use harness::cluster::{Place, Subject};
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
        let follower = (1..3).find(|member| *member != 0).context("another member")?;
        cluster.kill(follower)?;
        let (status, _) = json(&["status", "--endpoints", &endpoint]).await?;
        let lost = of(&status["findings"], "members");
        ensure!(matches!(&lost[..], [("FAIL", what)] if what.contains("does not answer")), "{status}");
        cluster.kill(3 - follower)?;
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
        for member in status["members"].as_array().context("members")? {
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
async fn a_full_store_and_a_host_are_judged() -> Result<()> {
    for kind in [Kind::Etcd, Kind::Cleat] {
        let flags = vec!["--quota-backend-bytes=1048576".to_owned()];
        let options = harness::Options { flags, ..harness::Options::default() };
        let server = Server::start_with(kind, options).await?;
        let large = "x".repeat(100_000);
        let mut is_full = false;
        for n in 0..100 {
            let output = outcome(&server, &["put", &format!("k{n}")], &[], &large).await?;
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
    child.kill().await?;
    Ok(())
}
