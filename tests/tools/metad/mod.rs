//! `metad` as a process: the answers of yunify's metad, its own, and what it withstands.

mod recorded;

use anyhow::{Context, Result, ensure};
use harness::ports::Port;
use harness::server::built_binary;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);

/// A metad that runs until it is dropped.
struct Metad {
    child: Child,
    /// `host:port` of the query API.
    query: String,
    /// `host:port` of the manage API.
    manage: String,
    dir: tempfile::TempDir,
    _ports: (Port, Port),
}

impl Metad {
    /// Starts it on loopback with more flags, and waits until both APIs answer.
    async fn start(flags: &[&str]) -> Result<Self> {
        let metad = Self::spawn(flags)?;
        for address in [&metad.query, &metad.manage] {
            let deadline = Instant::now() + LIMIT;
            while tokio::net::TcpStream::connect(address).await.is_err() {
                ensure!(Instant::now() < deadline, "metad does not serve: {}", metad.log());
                tokio::time::sleep(POLL).await;
            }
        }
        Ok(metad)
    }

    fn spawn(flags: &[&str]) -> Result<Self> {
        let (dir, ports) = (tempfile::tempdir()?, (Port::reserve()?, Port::reserve()?));
        let [query, manage] = [&ports.0, &ports.1].map(|port| format!("127.0.0.1:{}", port.number()));
        let log = std::fs::File::create(dir.path().join("log"))?;
        let child = Command::new(built_binary("metad")?)
            .args(["--listen", &query, "--listen_manage", &manage])
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("start metad")?;
        Ok(Self { child, query, manage, dir, _ports: ports })
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
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
