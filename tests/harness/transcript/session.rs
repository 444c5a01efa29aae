//! One side of a script: its servers, the commands that go on, and what is left of the output when ids, times and sizes
//! are taken out.

use super::{Api, Background, Script, Side, Step, mask};
use crate::tool::{Output, Tool, cleatctl_as_etcdctl, etcdctl_binary, run};
use crate::{Kind, Options, Server, http};
use anyhow::{Context, Result, bail, ensure};
use api::etcdserverpb::{PutRequest, StatusRequest};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::VecDeque;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

const COMMAND_DEADLINE: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(50);

/// A value for filling a server, and how many of them must be too much for it.
const FILL_BYTES: usize = 256 << 10;
const FILL_MAX: usize = 400;

/// Who is who when a step begins.
#[derive(Clone, Copy)]
struct Roles {
    leader: u64,
    follower: u64,
}

pub(super) struct Session {
    api: Api,
    kind: Kind,
    tool: Tool,
    /// The other side is compared with this one.
    is_reference: bool,
    cluster: u64,
    /// In the order of the servers.
    members: Vec<u64>,
    servers: Vec<Server>,
    mirror: Option<Server>,
    leases: Vec<String>,
    running: VecDeque<Running>,
}

/// A command that goes on.
struct Running {
    child: Child,
    _stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    /// Lines that it has still to print.
    expected: usize,
    /// It is what the other one is compared with.
    is_reference: bool,
}

impl Running {
    /// The next lines, or what there is of them. Those of the reference must come: two that print nothing are no agreement.
    async fn read(&mut self, count: usize) -> Result<String> {
        let mut text = String::new();
        for _ in 0..count {
            let Ok(line) = tokio::time::timeout(COMMAND_DEADLINE, self.lines.next_line()).await else {
                ensure!(
                    !self.is_reference,
                    "the reference's command prints no more in time than {text:?}, not {count} lines"
                );
                text += "(nothing more)\n";
                break;
            };
            text += &line?.unwrap_or_else(|| "(end)".to_owned());
            text.push('\n');
        }
        Ok(text)
    }

    /// Asks it to end, and returns the rest of what it prints.
    async fn interrupt(mut self) -> Result<String> {
        let id = self.child.id().and_then(|id| i32::try_from(id).ok()).context("it has ended before")?;
        kill_process(Pid::from_raw(id).context("a process id is not 0")?, Signal::TERM)?;
        let rest = async {
            let mut text = String::new();
            while let Some(line) = self.lines.next_line().await? {
                text += &line;
                text.push('\n');
            }
            let status = self.child.wait().await?;
            anyhow::Ok(format!("{text}exit code {:?}", status.code()))
        };
        tokio::time::timeout(COMMAND_DEADLINE, rest).await.context("it does not end")?
    }
}

impl Session {
    pub(super) async fn start(side: Side, is_reference: bool, script: &Script) -> Result<Self> {
        let Side { kind, tool } = side;
        let mut servers = Vec::new();
        for n in 0..script.members {
            let name = if script.members == 1 { String::new() } else { format!("m{n}") };
            servers.push(Server::prepare(kind, Options { name, flags: script.flags.clone(), ..Options::default() })?);
        }
        if script.members > 1 {
            let list = servers.iter().enumerate().map(|(n, server)| format!("m{n}={}", server.peer_url()));
            let list = list.collect::<Vec<_>>().join(",");
            for server in &mut servers {
                server.options_mut().initial_cluster.clone_from(&list);
            }
        }
        for server in &mut servers {
            server.spawn()?;
        }
        for server in &mut servers {
            server.wait_ready().await?;
        }
        let (mut members, mut cluster) = (Vec::new(), 0);
        for server in &servers {
            let status = server.client().await?.maintenance.status(StatusRequest {}).await?.into_inner();
            let header = status.header.unwrap_or_default();
            members.push(header.member_id);
            cluster = header.cluster_id;
        }
        let (api, leases, running) = (script.api, Vec::new(), VecDeque::new());
        Ok(Self { api, kind, tool, is_reference, cluster, members, servers, mirror: None, leases, running })
    }

    /// Runs one step and returns what a reader would see, normalised.
    pub(super) async fn run(&mut self, step: &Step) -> Result<String> {
        let roles = self.roles().await?;
        let text = match step.words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["stop"] => {
                let mut oldest = self.running.pop_front().context("nothing goes on")?;
                let expected = oldest.expected;
                oldest.read(expected).await?
            }
            ["interrupt"] => self.running.pop_front().context("nothing goes on")?.interrupt().await?,
            ["more", count] => {
                let count = count.parse()?;
                self.running.front_mut().context("nothing goes on")?.read(count).await?
            }
            ["fill"] => self.fill().await?,
            _ => self.command(step, &roles).await?,
        };
        Ok(self.normalise(&text, &step.words, &roles))
    }

    async fn command(&mut self, step: &Step, roles: &Roles) -> Result<String> {
        let mut words = Vec::with_capacity(step.words.len());
        for word in &step.words {
            words.push(self.expand(word, roles).await?);
        }
        let stdin = self.expand(&step.stdin, roles).await?;
        if let Some(background) = step.background {
            return self.begin(&words, &stdin, background, roles).await;
        }
        let (again, words) = match &*words {
            [first, rest @ ..] if first == "@soon" => (true, rest),
            all => (false, all),
        };
        let begun = Instant::now();
        let output = loop {
            let output = run(self.etcdctl(words, roles).await?, stdin.as_bytes(), COMMAND_DEADLINE).await?;
            if !again || !output.stdout.is_empty() {
                break output;
            }
            ensure!(begun.elapsed() < COMMAND_DEADLINE, "it prints nothing: {output:?}");
            tokio::time::sleep(POLL).await;
        };
        if let Some(rest) = output.stdout.strip_prefix("lease ") {
            self.leases.extend(rest.split_whitespace().next().filter(|_| rest.contains(" granted")).map(str::to_owned));
        }
        let Output { stdout, stderr, code } = output;
        if self.api == Api::V2 {
            return Ok(format!("{stdout}{stderr}\nexit code {code:?}"));
        }
        let error = stderr.lines().find(|line| line.starts_with("Error: ")).unwrap_or_default();
        Ok(format!("{stdout}{error}\nexit code {code:?}"))
    }

    /// `etcdctl` with the endpoints that the first word says.
    async fn etcdctl(&mut self, words: &[String], roles: &Roles) -> Result<Command> {
        let of = |id: u64| {
            let at = self.members.iter().position(|member| *member == id);
            at.map(|at| self.servers[at].endpoint()).context("it is no member")
        };
        // The v2 client takes URLs alone.
        let first = if self.api == Api::V2 { self.servers[0].client_url() } else { self.servers[0].endpoint() };
        let (endpoints, args) = match words.split_first() {
            Some((at, args)) if at.starts_with('@') => match at.as_str() {
                "@url" => (self.servers[0].client_url(), args),
                "@all" => (self.servers.iter().map(Server::endpoint).collect::<Vec<_>>().join(","), args),
                "@leader" => (of(roles.leader)?, args),
                "@follower" => (of(roles.follower)?, args),
                "@mirror" => (self.mirror().await?.endpoint(), args),
                other => bail!("{other} is nothing that the script knows"),
            },
            _ => (first, words),
        };
        let program = match self.tool {
            Tool::Etcdctl => etcdctl_binary(),
            Tool::Cleatctl => cleatctl_as_etcdctl(self.servers[0].scratch())?.into(),
        };
        let mut command = Command::new(program);
        command.env("ETCDCTL_API", if self.api == Api::V2 { "2" } else { "3" }).args(["--endpoints", &endpoints]);
        if self.api != Api::V2 {
            // Two seconds to sign in and five for the rest, as by default, are too short for a busy machine.
            command.args(["--dial-timeout=30s", "--command-timeout=30s"]);
        }
        command.args(args);
        command.current_dir(self.servers[0].scratch());
        Ok(command)
    }

    /// The server to mirror to.
    async fn mirror(&mut self) -> Result<&Server> {
        if self.mirror.is_none() {
            self.mirror = Some(Server::start(self.kind).await?);
        }
        self.mirror.as_ref().context("it was just started")
    }

    /// Who leads, once all members know. The metrics say so to everybody.
    async fn roles(&self) -> Result<Roles> {
        let begun = Instant::now();
        loop {
            let (mut leaders, mut known) = (Vec::new(), 0);
            for (server, id) in self.servers.iter().zip(&self.members) {
                let (_, _, metrics) = http::get(&server.client_url(), "/metrics").await?;
                let is = |name: &str| metrics.lines().any(|line| line.strip_prefix(name) == Some(" 1"));
                leaders.extend(is("etcd_server_is_leader").then_some(*id));
                known += usize::from(is("etcd_server_has_leader"));
            }
            if let ([leader], true) = (&*leaders, known == self.servers.len()) {
                let follower = self.members.iter().copied().find(|id| id != leader).unwrap_or_default();
                return Ok(Roles { leader: *leader, follower });
            }
            ensure!(begun.elapsed() < COMMAND_DEADLINE, "there is no leader that all know: {leaders:?}");
            tokio::time::sleep(POLL).await;
        }
    }

    async fn expand(&mut self, text: &str, roles: &Roles) -> Result<String> {
        let mut text = text.replace("$dir", &self.servers[0].scratch().display().to_string());
        text = text.replace("$endpoint", &self.servers[0].endpoint());
        text = text.replace("$leader", &format!("{:x}", roles.leader));
        text = text.replace("$follower", &format!("{:x}", roles.follower));
        if let Some(lease) = self.leases.first() {
            text = text.replace("$lease1", lease);
        }
        if text.contains("$mirror") {
            text = text.replace("$mirror", &self.mirror().await?.endpoint());
        }
        if text.contains("$next") {
            let (_, _, metrics) = http::get(&self.servers[0].client_url(), "/metrics").await?;
            let revision = metrics.lines().find_map(|line| line.strip_prefix("etcd_debugging_mvcc_current_revision "));
            // etcd writes large numbers with an exponent.
            let revision: f64 = revision.context("no revision")?.parse()?;
            text = text.replace("$next", &(revision as i64 + 1).to_string());
        }
        Ok(text)
    }

    async fn begin(&mut self, words: &[String], stdin: &str, how: Background, roles: &Roles) -> Result<String> {
        let mut command = self.etcdctl(words, roles).await?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let mut child = command.spawn()?;
        let mut pipe = child.stdin.take().context("standard input is piped")?;
        pipe.write_all(stdin.as_bytes()).await?;
        let lines = BufReader::new(child.stdout.take().context("standard output is piped")?).lines();
        let (expected, is_reference) = (how.lines, self.is_reference);
        let mut running = Running { child, _stdin: pipe, lines, expected, is_reference };
        let text = if how.at_once {
            running.expected = 0;
            running.read(how.lines).await?
        } else {
            String::new()
        };
        self.running.push_back(running);
        Ok(text)
    }

    /// Puts values under a handful of keys until one is refused.
    async fn fill(&self) -> Result<String> {
        let mut client = self.servers[0].client().await?;
        for n in 0..FILL_MAX {
            let (key, value) = (format!("fill{}", n % 4).into(), vec![b'x'; FILL_BYTES].into());
            if let Err(status) = client.kv.put(PutRequest { key, value, ..PutRequest::default() }).await {
                return Ok(format!("{:?} {}", status.code(), status.message()));
            }
        }
        bail!("{FILL_MAX} values fit into it")
    }

    /// Replaces what must differ between two servers: addresses, ids, sizes, times, versions, raft positions.
    fn normalise(&self, text: &str, words: &[String], roles: &Roles) -> String {
        let mut text = text.to_owned();
        let mut names = vec![
            (self.servers[0].scratch().display().to_string(), "DIR".to_owned()),
            (self.cluster.to_string(), "CLUSTER".to_owned()),
            (format!("{:x}", self.cluster), "CLUSTER".to_owned()),
        ];
        for (server, id) in self.servers.iter().zip(&self.members) {
            let name = match self.servers.len() {
                1 => "MEMBER",
                _ if *id == roles.leader => "LEADER",
                _ => "FOLLOWER",
            };
            names.push((server.endpoint(), "ENDPOINT".to_owned()));
            names.push((server.peer_url(), "PEER".to_owned()));
            names.push((id.to_string(), name.to_owned()));
            names.push((format!("{id:x}"), name.to_owned()));
        }
        for (index, lease) in self.leases.iter().enumerate() {
            let decimal = i64::from_str_radix(lease, 16).unwrap_or_default();
            names.push((lease.clone(), format!("LEASE{index}")));
            names.push((decimal.to_string(), format!("LEASE{index}")));
        }
        for (value, name) in names {
            text = text.replace(&value, &name);
        }
        text = mask::long_numbers(&text);
        for key in ["\"dbSize\":", "\"dbSizeInUse\":", "\"DBSize\" : ", "\"raftIndex\":", "\"raftAppliedIndex\":"] {
            text = mask::after(&text, key);
        }
        for key in [
            "Raft-Index: ",
            "Raft-Term: ",
            "\"RaftIndex\" : ",
            "\"RaftAppliedIndex\" : ",
            "\"raftTerm\":",
            "\"raft_term\":",
            "\"RaftTerm\" : ",
        ] {
            text = mask::after(&text, key);
        }
        for key in [
            "took = ",
            "TTL: ",
            "\"took\":\"",
            "remaining(",
            "\"ttl\":",
            "\"TTL\" : ",
            "\"Version\" : \"",
            "\"version\":\"",
        ] {
            text = mask::after(&text, key);
        }
        text = mask::string(&text, "\"expiration\":\"");
        let has = |word: &str| words.iter().any(|w| w == word);
        // The width of a column follows what stands in it: an id may have a digit less.
        if has("status") || (has("table") && (has("health") || has("member"))) {
            text = mask::cells(&text);
        }
        text
    }
}
