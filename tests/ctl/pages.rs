//! Every page that etcdctl has is the same, byte for byte, but for those of the completion scripts, which are others.

use anyhow::{Context as _, Result, ensure};
use harness::tool::{cleatctl_as_etcdctl, etcdctl_binary, run};
use std::ffi::OsString;
use std::time::Duration;
use tokio::process::Command;

const LIMIT: Duration = Duration::from_secs(20);

async fn page(program: OsString, api: &str, words: &[&str]) -> Result<String> {
    let mut command = Command::new(program);
    command.env("ETCDCTL_API", api).args(words);
    let output = run(command, b"", LIMIT).await?;
    Ok(format!("{}{}exit code {:?}", output.stdout, output.stderr, output.code))
}

/// Words of a page's list of commands.
fn commands(page: &str) -> Vec<String> {
    let lines = page.lines().skip_while(|line| *line != "COMMANDS:").skip(1).take_while(|line| !line.is_empty());
    lines
        .filter_map(|line| {
            let line = line.trim_start();
            let end = line.find('\t').or_else(|| line.find("  ")).unwrap_or(line.len());
            Some(line[..end].trim().to_owned()).filter(|name| !name.is_empty())
        })
        .collect()
}

async fn same_pages(api: &str, groups: &[&str]) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let ours = cleatctl_as_etcdctl(dir.path())?;
    let root = page(etcdctl_binary(), api, &["--help"]).await?;
    let mut names: Vec<String> = commands(&root);
    ensure!(names.len() > 15, "{root}");
    names.extend(groups.iter().map(|&group| group.to_owned()));
    if api == "2" {
        for group in groups {
            let children = commands(&page(etcdctl_binary(), api, &[group, "--help"]).await?);
            names.extend(children.iter().map(|child| format!("{group} {child}")));
        }
    }
    names.push(String::new());
    let mut differ = Vec::new();
    for name in names.iter().filter(|name| !name.starts_with("completion ") && !name.starts_with("help, ")) {
        let words: Vec<&str> = name.split_whitespace().chain(["--help"]).collect();
        let theirs = page(etcdctl_binary(), api, &words).await?;
        let own = page(ours.clone().into(), api, &words).await?;
        if theirs != own {
            differ.push(format!("{name}:\n{theirs}\n---\n{own}"));
        }
    }
    ensure!(differ.is_empty(), "{} of {} pages differ:\n{}", differ.len(), names.len(), differ.join("\n"));
    Ok(())
}

#[tokio::test]
async fn pages_of_the_v3_commands_are_the_same() -> Result<()> {
    let groups = ["alarm", "auth", "check", "completion", "endpoint", "lease", "member", "role", "snapshot", "user"];
    same_pages("3", &groups).await
}

#[tokio::test]
async fn pages_of_the_v2_commands_are_the_same() -> Result<()> {
    same_pages("2", &["member", "user", "role", "auth"]).await
}

/// Under its own name it has all that and more, and a manual of everything.
#[tokio::test]
async fn cleatctl_has_every_command() -> Result<()> {
    let program = harness::server::built_binary("cleatctl")?;
    let root = page(program.clone().into(), "3", &["--help"]).await?;
    for word in ["KEYS:", "CLUSTER:", "lease keep-alive", "wal inspect", "hashkv", "downgrade validate", "ENVIRONMENT:"]
    {
        ensure!(root.contains(word), "{word} is missing in {root}");
    }
    let manual = page(program.into(), "3", &["help", "--man"]).await?;
    ensure!(manual.starts_with(".TH CLEATCTL 1"), "{manual}");
    for word in [".SS \"snapshot restore\"", ".SS \"txn\"", "\\-\\-write\\-out"] {
        ensure!(manual.contains(word), "{word} is missing in the manual");
    }
    let theirs = page(etcdctl_binary(), "3", &["--help"]).await?;
    let missing: Vec<String> = commands(&theirs)
        .into_iter()
        .filter(|name| !name.starts_with("migrate") && !root.contains(&format!("\t{name}")))
        .collect();
    ensure!(missing.is_empty(), "{missing:?}");
    let version = theirs.lines().find(|line| line.contains("3.4.")).context("the version of etcdctl")?;
    ensure!(version.trim() == "3.4.23", "the pages are those of another etcdctl: {version}");
    Ok(())
}
