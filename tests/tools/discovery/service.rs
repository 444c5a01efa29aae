//! `cleat-discovery` as a process, and plain HTTP to it.

use super::DEADLINE;
use anyhow::{Context, Result, bail, ensure};
use harness::ports::Port;
use harness::server::built_binary;
use harness::{Kind, Server};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs::OpenOptions;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const POLL: Duration = Duration::from_millis(20);

/// Where a service keeps its state.
pub(crate) enum Store<'a> {
    Embedded,
    Server(&'a Server),
    Endpoint(&'a str),
}

/// A running service, or one that was stopped and can be started again.
pub(crate) struct Service {
    port: Port,
    args: Vec<String>,
    dir: TempDir,
    child: Option<Child>,
    /// Limit of descriptors, if not this process's.
    descriptors: Option<usize>,
}

impl Service {
    /// Starts a service and waits until it answers.
    pub(crate) async fn start(store: Store<'_>, flags: &[&str]) -> Result<Self> {
        Self::start_with(store, flags, None).await
    }

    /// Starts a service that may have so many descriptors.
    pub(crate) async fn limited(store: Store<'_>, flags: &[&str], descriptors: usize) -> Result<Self> {
        Self::start_with(store, flags, Some(descriptors)).await
    }

    async fn start_with(store: Store<'_>, flags: &[&str], descriptors: Option<usize>) -> Result<Self> {
        let (port, dir) = (Port::reserve()?, tempfile::Builder::new().prefix("cleat-test-").tempdir()?);
        let mut args = vec![format!("--addr=127.0.0.1:{}", port.number())];
        match store {
            Store::Embedded => {
                args.extend(["--embedded".to_owned(), format!("--data-dir={}", dir.path().join("data").display())]);
            }
            Store::Endpoint(endpoint) => args.push(format!("--endpoints={endpoint}")),
            Store::Server(server) => args.push(format!("--endpoints={}", server.client_url())),
        }
        args.extend(flags.iter().map(|&flag| flag.to_owned()));
        let mut service = Self { port, args, dir, child: None, descriptors };
        service.restart().await?;
        Ok(service)
    }

    pub(crate) async fn restart(&mut self) -> Result<()> {
        let log = OpenOptions::new().create(true).append(true).open(self.dir.path().join("log"))?;
        let binary = built_binary("cleat-discovery")?;
        let mut command = match self.descriptors {
            None => Command::new(binary),
            Some(limit) => {
                let mut command = Command::new("sh");
                command.args(["-c", "ulimit -n \"$1\"; shift; exec \"$@\"", "sh", &limit.to_string()]).arg(binary);
                command
            }
        };
        command.args(&self.args).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.child = Some(command.spawn()?);
        let deadline = Instant::now() + DEADLINE;
        while TcpStream::connect(self.address()).await.is_err() {
            ensure!(Instant::now() < deadline, "cleat-discovery did not answer in time:\n{}", self.log());
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// SIGTERM, and how the process ended.
    pub(crate) async fn terminate(&mut self) -> Result<ExitStatus> {
        let mut child = self.child.take().context("the service is not running")?;
        kill_process(Pid::from_child(&child), Signal::TERM)?;
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            ensure!(Instant::now() < deadline, "cleat-discovery did not end in time:\n{}", self.log());
            tokio::time::sleep(POLL).await;
        }
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port.number())
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address())
    }

    /// A directory that lives as long as this value.
    pub(crate) fn scratch(&self) -> &std::path::Path {
        self.dir.path()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    pub(crate) async fn request(&self, method: &str, path: &str, form: &str) -> Result<Answer> {
        request(&self.address(), method, path, form).await
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Answer> {
        self.request("GET", path, "").await
    }

    /// The path of a new token.
    pub(crate) async fn token(&self, size: usize) -> Result<String> {
        let answer = self.get(&format!("/new?size={size}")).await?;
        let path = answer.body.strip_prefix(&self.url("")).with_context(|| format!("{answer:?}"))?;
        Ok(path.to_owned())
    }

    /// Registers a member that has not registered.
    pub(crate) async fn register(&self, token: &str, member: &str) -> Result<Answer> {
        self.request("PUT", &format!("{token}/{member}?prevExist=false"), &format!("value={member}=http://h")).await
    }

    /// Waits until this many polls wait.
    pub(crate) async fn wait_for_polls(&self, polls: usize) -> Result<()> {
        let line = format!("cleat_discovery_waiting_requests {polls}\n");
        let deadline = Instant::now() + DEADLINE;
        while !self.get("/metrics").await?.body.contains(&line) {
            ensure!(Instant::now() < deadline, "there are not {polls} polls");
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of cleat-discovery ---\n{}", self.log());
        }
        if let Err(error) = self.kill() {
            eprintln!("could not stop cleat-discovery: {error}");
        }
    }
}

/// An answer over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// `X-Etcd-Index`.
    pub(crate) index: Option<i64>,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("{self:?}"))
    }
}

/// Sends a request with a form as its body, on a connection of its own.
pub(crate) async fn request(address: &str, method: &str, path: &str, form: &str) -> Result<Answer> {
    let length = form.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {length}\r\n\r\n{form}"
    );
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(head.as_bytes()).await?;
    let mut bytes = Vec::new();
    tokio::time::timeout(2 * DEADLINE, stream.read_to_end(&mut bytes)).await.context("no answer")??;
    parse(&String::from_utf8(bytes)?)
}

fn parse(text: &str) -> Result<Answer> {
    let Some((head, body)) = text.split_once("\r\n\r\n") else { bail!("no head in {text:?}") };
    let header = |name: &str| {
        let found = head.lines().filter_map(|line| line.split_once(": ")).find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.to_owned())
    };
    let status = head.split(' ').nth(1).context("a status")?.parse()?;
    let index = header("X-Etcd-Index").map(|index| index.parse()).transpose()?;
    let body = match header("Transfer-Encoding") {
        Some(_) => chunks(body)?,
        None => body.to_owned(),
    };
    Ok(Answer { status, index, body })
}

fn chunks(mut body: &str) -> Result<String> {
    let mut joined = String::new();
    loop {
        let (length, rest) = body.split_once("\r\n").context("the length of a chunk")?;
        let length = usize::from_str_radix(length, 16)?;
        if length == 0 {
            return Ok(joined);
        }
        joined.push_str(&rest[..length]);
        body = &rest[length + 2..];
    }
}

/// A member of etcd that finds the others through a token; not started.
pub(crate) fn member(name: &str, token_url: &str, flags: &[&str]) -> Result<Server> {
    member_of(Kind::Etcd, name, token_url, flags)
}

/// A member of either maker that starts with a token.
pub(crate) fn member_of(kind: Kind, name: &str, token_url: &str, flags: &[&str]) -> Result<Server> {
    let mut all = vec![format!("--discovery={token_url}")];
    all.extend(flags.iter().map(|&flag| flag.to_owned()));
    // The harness names an initial cluster, which etcd does not take together with a token: an empty flag unsets it.
    all.push("--initial-cluster=".to_owned());
    let options = harness::Options { name: name.to_owned(), flags: all, ..harness::Options::default() };
    Server::prepare(kind, options)
}
