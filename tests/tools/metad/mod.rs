//! `metad` as a process: the answers of yunify's metad, its own, and what it withstands.

mod confd;
mod kubernetes;
mod life;
mod recorded;
mod security;
mod waits;
mod writes;

use anyhow::{Context, Result, ensure};
use harness::http::{self, Answer};
use harness::ports::Port;
use harness::server::built_binary;
use hyper::Request;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(10);

/// A metad that runs until it is dropped.
pub(crate) struct Metad {
    child: Child,
    /// `host:port` of the query API.
    pub(crate) query: String,
    /// `host:port` of the manage API.
    manage: String,
    dir: tempfile::TempDir,
    _ports: (Port, Port),
}

impl Metad {
    /// Starts it on loopback with more flags, and waits until both APIs answer.
    pub(crate) async fn start(flags: &[&str]) -> Result<Self> {
        Self::start_with(flags, &[]).await
    }

    /// The same with variables of the environment.
    async fn start_with(flags: &[&str], variables: &[(&str, &str)]) -> Result<Self> {
        let metad = Self::spawn(flags, variables)?;
        metad.serves().await?;
        Ok(metad)
    }

    /// Waits until both APIs answer.
    async fn serves(&self) -> Result<()> {
        for address in [&self.query, &self.manage] {
            let deadline = Instant::now() + LIMIT;
            while tokio::net::TcpStream::connect(address).await.is_err() {
                ensure!(Instant::now() < deadline, "metad does not serve: {}", self.log());
                tokio::time::sleep(POLL).await;
            }
        }
        Ok(())
    }

    fn spawn(flags: &[&str], variables: &[(&str, &str)]) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let log = std::fs::File::create(dir.path().join("log"))?;
        Self::spawn_into(log.into(), dir, flags, variables)
    }

    /// The same with another stderr than a log.
    fn spawn_into(stderr: Stdio, dir: tempfile::TempDir, flags: &[&str], variables: &[(&str, &str)]) -> Result<Self> {
        let ports = (Port::reserve()?, Port::reserve()?);
        let [query, manage] = [&ports.0, &ports.1].map(|port| format!("127.0.0.1:{}", port.number()));
        let child = Command::new(built_binary("metad")?)
            .args(["--listen", &query, "--listen_manage", &manage])
            .args(flags)
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .context("start metad")?;
        Ok(Self { child, query, manage, dir, _ports: ports })
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }

    /// Waits for the process to end.
    async fn ended(&mut self) -> Result<ExitStatus> {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            ensure!(Instant::now() < deadline, "metad does not end: {}", self.log());
            tokio::time::sleep(POLL).await;
        }
    }

    /// A query as JSON, of the client with this address if one is given.
    async fn ask(&self, path: &str, client: Option<&str>) -> Result<Answer> {
        let mut request = Request::get(path).header("accept", "application/json");
        if let Some(client) = client {
            request = request.header("x-forwarded-for", client);
        }
        http::send(&self.query, request.body(http::full(""))?).await
    }

    /// A request of the manage API, as JSON.
    async fn manage(&self, method: &str, path: &str, body: &str) -> Result<Answer> {
        let request = Request::builder().method(method).uri(path).header("accept", "application/json");
        http::send(&self.manage, request.body(http::full(body.to_owned()))?).await
    }

    /// A write that must succeed.
    pub(crate) async fn write(&self, method: &str, path: &str, body: &str) -> Result<Answer> {
        let answer = self.manage(method, path, body).await?;
        ensure!(answer.status == 200, "{method} {path}: {answer:?}\n{}", self.log());
        Ok(answer)
    }

    /// Waits until a query has this answer.
    async fn until(&self, path: &str, client: Option<&str>, expected: &Value) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let answer = self.ask(path, client).await?;
            if answer.status == 200 && answer.json()? == *expected {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{path}: {answer:?} is not {expected}\n{}", self.log());
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until so many queries wait.
    async fn waiting(&self, count: usize) -> Result<()> {
        let wanted = format!("metad_waiting {count}\n");
        let deadline = Instant::now() + LIMIT;
        loop {
            let metrics = self.manage("GET", "/metrics", "").await?;
            let text = String::from_utf8(metrics.body.to_vec())?;
            if text.contains(&wanted) {
                return Ok(());
            }
            let line = text.lines().find(|line| line.starts_with("metad_waiting"));
            ensure!(Instant::now() < deadline, "{line:?} is not {wanted:?}");
            tokio::time::sleep(POLL).await;
        }
    }
}

impl Drop for Metad {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of metad ---\n{}", self.log());
        }
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
