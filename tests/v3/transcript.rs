//! Scripts of `etcdctl` commands, run against etcd and Cleat side by side: what the user sees is the same.
//!
//! A script has one command a line; the lines below it that start with `|` are its standard input. A command
//! behind `@url` is given the endpoint as a URL. Standard output, exit code and the text of the error are compared
//! after [`Session::normalise`].

use anyhow::{Context, Result, ensure};
use api::etcdserverpb::StatusRequest;
use harness::tool::{Output, etcdctl_binary, run};
use harness::{Kind, Server, etcdctl};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

const COMMAND_DEADLINE: Duration = Duration::from_secs(20);

/// Runs a script on fresh servers and returns the differences.
pub(crate) async fn differences(script: &str) -> Result<Vec<String>> {
    let (mut etcd, mut cleat) = tokio::try_join!(Session::start(Kind::Etcd), Session::start(Kind::Cleat))?;
    let mut found = Vec::new();
    for step in parse(script)? {
        let (theirs, ours) =
            tokio::try_join!(etcd.run(&step), cleat.run(&step)).with_context(|| format!("`{}`", step.line))?;
        if theirs != ours {
            found.push(format!("$ etcdctl {}\netcd:\n{theirs}\ncleat:\n{ours}\n", step.line));
        }
    }
    Ok(found)
}

/// A line of a script with what belongs to it.
#[derive(Debug)]
struct Step {
    line: String,
    words: Vec<String>,
    stdin: String,
    /// Lines to read from a watcher that keeps running.
    background: Option<usize>,
}

fn parse(script: &str) -> Result<Vec<Step>> {
    let mut steps: Vec<Step> = Vec::new();
    for line in script.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        if let Some(input) = line.strip_prefix(['|', '<']) {
            let step = steps.last_mut().context("input before the first command")?;
            step.stdin += input.strip_prefix(' ').unwrap_or(input);
            step.stdin.push('\n');
            continue;
        }
        let background = line.split_once("> ").and_then(|(count, _)| count.parse().ok());
        let command = if background.is_some() { line.split_once("> ").map_or(line, |(_, rest)| rest) } else { line };
        steps.push(Step { line: command.to_owned(), words: split(command), stdin: String::new(), background });
    }
    Ok(steps)
}

/// Splits at spaces; single quotes hold words together.
fn split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (index, part) in line.split('\'').enumerate() {
        if index % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}

/// One server, its ids, and the watcher that runs beside the commands.
struct Session {
    server: Server,
    cluster: u64,
    member: u64,
    leases: Vec<String>,
    watcher: Option<Watcher>,
}

struct Watcher {
    _child: Child,
    _stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    expected: usize,
}

impl Session {
    async fn start(kind: Kind) -> Result<Self> {
        let server = Server::start(kind).await?;
        let status = server.client().await?.maintenance.status(StatusRequest {}).await?.into_inner();
        let header = status.header.unwrap_or_default();
        let (cluster, member) = (header.cluster_id, header.member_id);
        Ok(Self { server, cluster, member, leases: Vec::new(), watcher: None })
    }

    /// Runs one step and returns what a reader would see, normalised.
    async fn run(&mut self, step: &Step) -> Result<String> {
        if step.line == "stop" {
            return self.stop().await;
        }
        let mut words = Vec::with_capacity(step.words.len());
        for word in &step.words {
            words.push(self.expand(word).await?);
        }
        let stdin = self.expand(&step.stdin).await?;
        if let Some(expected) = step.background {
            self.watcher = Some(self.watch(&words, &stdin, expected).await?);
            return Ok(String::new());
        }
        let args: Vec<&str> = words.iter().map(String::as_str).collect();
        let output = match args.split_first() {
            Some((&"@url", args)) => {
                let mut command = Command::new(etcdctl_binary());
                command.env("ETCDCTL_API", "3").args(["--endpoints", &self.server.client_url()]).args(args);
                run(command, stdin.as_bytes(), COMMAND_DEADLINE).await?
            }
            _ => etcdctl(&self.server, &args, stdin.as_bytes(), COMMAND_DEADLINE).await?,
        };
        if let Some(rest) = output.stdout.strip_prefix("lease ") {
            self.leases.extend(rest.split_whitespace().next().filter(|_| rest.contains(" granted")).map(str::to_owned));
        }
        let Output { stdout, stderr, code } = output;
        let error = stderr.lines().find(|line| line.starts_with("Error: ")).unwrap_or_default();
        Ok(format!("{}{error}\nexit code {code:?}", self.normalise(&stdout, &step.words)))
    }

    async fn expand(&self, text: &str) -> Result<String> {
        let mut text = text.replace("$dir", &self.server.scratch().display().to_string());
        if let Some(lease) = self.leases.first() {
            text = text.replace("$lease1", lease);
        }
        if text.contains("$next") {
            let status = self.server.client().await?.maintenance.status(StatusRequest {}).await?.into_inner();
            text = text.replace("$next", &(status.header.unwrap_or_default().revision + 1).to_string());
        }
        Ok(text)
    }

    async fn watch(&self, words: &[String], stdin: &str, expected: usize) -> Result<Watcher> {
        let mut command = Command::new(etcdctl_binary());
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.server.endpoint()]).args(words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let mut child = command.spawn()?;
        let mut pipe = child.stdin.take().context("standard input is piped")?;
        pipe.write_all(stdin.as_bytes()).await?;
        let lines = BufReader::new(child.stdout.take().context("standard output is piped")?).lines();
        Ok(Watcher { _child: child, _stdin: pipe, lines, expected })
    }

    async fn stop(&mut self) -> Result<String> {
        let mut watcher = self.watcher.take().context("`stop` without a watcher")?;
        let mut text = String::new();
        for _ in 0..watcher.expected {
            let Ok(line) = tokio::time::timeout(COMMAND_DEADLINE, watcher.lines.next_line()).await else {
                text += "(nothing more)\n";
                break;
            };
            text += &line?.unwrap_or_else(|| "(end)".to_owned());
            text.push('\n');
        }
        Ok(self.normalise(&text, &[]))
    }

    /// Replaces what must differ between two servers: addresses, ids, sizes, times, versions, raft positions.
    fn normalise(&self, text: &str, words: &[String]) -> String {
        let mut text = text.to_owned();
        let (cluster, member) = (self.cluster, self.member);
        let mut names = vec![
            (self.server.scratch().display().to_string(), "DIR".to_owned()),
            (self.server.endpoint(), "ENDPOINT".to_owned()),
            (self.server.peer_url(), "PEER".to_owned()),
            (cluster.to_string(), "CLUSTER".to_owned()),
            (format!("{cluster:x}"), "CLUSTER".to_owned()),
            (member.to_string(), "MEMBER".to_owned()),
            (format!("{member:x}"), "MEMBER".to_owned()),
        ];
        for (index, lease) in self.leases.iter().enumerate() {
            let decimal = i64::from_str_radix(lease, 16).unwrap_or_default();
            names.push((lease.clone(), format!("LEASE{index}")));
            names.push((decimal.to_string(), format!("LEASE{index}")));
        }
        for (value, name) in names {
            text = text.replace(&value, &name);
        }
        text = mask_long_numbers(&text);
        for key in ["\"dbSize\":", "\"dbSizeInUse\":", "\"DBSize\" : ", "\"raftIndex\":", "\"raftAppliedIndex\":"] {
            text = mask_after(&text, key);
        }
        for key in ["\"RaftIndex\" : ", "\"RaftAppliedIndex\" : ", "\"raftTerm\":", "\"raft_term\":", "\"RaftTerm\" : "]
        {
            text = mask_after(&text, key);
        }
        for key in
            ["took = ", "\"took\":\"", "remaining(", "\"ttl\":", "\"TTL\" : ", "\"Version\" : \"", "\"version\":\""]
        {
            text = mask_after(&text, key);
        }
        let has = |word: &str| words.iter().any(|w| w == word);
        // The width of a column follows what stands in it: an id may have a digit less.
        if has("status") || (has("table") && (has("health") || has("member"))) {
            text = mask_cells(&text);
        }
        text
    }
}

/// Replaces the digits, units and dots after each occurrence of a key.
fn mask_after(text: &str, key: &str) -> String {
    let mut parts = text.split(key);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.trim_start_matches(|c: char| c.is_ascii_digit() || ".µnms-".contains(c));
        // Only values that start like a number: `"version":"3.4.23"`, and not a key's version.
        out.push_str(key);
        out.push_str(if part.starts_with(|c: char| c.is_ascii_digit() || c == '-') { "N" } else { "" });
        out.push_str(if part.starts_with(|c: char| c.is_ascii_digit() || c == '-') { rest } else { part });
    }
    out
}

/// Replaces ids that only one server knows: numbers of 15 digits and more, decimal or hexadecimal.
fn mask_long_numbers(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut word = String::new();
    for c in text.chars().chain(['\n']) {
        if c.is_ascii_hexdigit() {
            word.push(c);
            continue;
        }
        let is_id = word.len() >= 15 && word.chars().any(|c| c.is_ascii_digit());
        out.push_str(if is_id { "ID" } else { &word });
        word.clear();
        out.push(c);
    }
    out.pop();
    out
}

/// Replaces every number with its unit, and the widths of a table.
fn mask_cells(text: &str) -> String {
    let cell = |cell: &str| {
        let word = cell.trim();
        if word.starts_with(|c: char| c.is_ascii_digit()) { "N".to_owned() } else { word.to_owned() }
    };
    let line = |line: &str| match line {
        border if border.starts_with('+') => "+".to_owned(),
        row if row.starts_with('|') => row.split('|').map(cell).collect::<Vec<_>>().join(" | "),
        row => row.split(',').map(cell).collect::<Vec<_>>().join(", "),
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// Fails with every difference of a script.
pub(crate) async fn check(script: &str) -> Result<()> {
    let found = differences(script).await?;
    ensure!(found.is_empty(), "{} commands print something else:\n{}", found.len(), found.join("\n"));
    Ok(())
}
