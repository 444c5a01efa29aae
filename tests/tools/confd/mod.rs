//! `confd` on stores as real processes: etcd's and Cleat's v3 API and v2 API, and a metadata proxy.

mod double;
mod fixture;
mod follow;
mod partition;
mod silence;
mod users;

use anyhow::{Context, Result, ensure};
use api::etcdserverpb::PutRequest;
use harness::Server;
use harness::server::built_binary;
use harness::tool::{Output, run};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

const LIMIT: Duration = Duration::from_mins(1);

/// Which source confd reads, and where it is.
#[derive(Clone, Debug)]
struct Store {
    backend: &'static str,
    node: String,
}

impl Store {
    fn v3(server: &Server) -> Self {
        Self { backend: "etcdv3", node: server.client_url() }
    }

    fn v2(server: &Server) -> Self {
        Self { backend: "etcd", node: server.client_url() }
    }
}

/// A directory of confd with its output.
struct Site(tempfile::TempDir);

impl Site {
    fn new() -> Result<Self> {
        let site = Self(tempfile::tempdir()?);
        for name in ["conf.d", "templates", "out"] {
            fs::create_dir(site.0.path().join(name))?;
        }
        Ok(site)
    }

    fn out(&self, name: &str) -> PathBuf {
        self.0.path().join("out").join(name)
    }

    fn resource(&self, name: &str, keys: &[String], template: &str, more: &str) -> Result<()> {
        let dest = self.out(name);
        let toml =
            format!("[template]\nsrc = \"{name}.tmpl\"\ndest = \"{}\"\nkeys = {keys:?}\n{more}\n", dest.display());
        fs::write(self.0.path().join("conf.d").join(format!("{name}.toml")), toml)?;
        fs::write(self.0.path().join("templates").join(format!("{name}.tmpl")), template)?;
        Ok(())
    }

    fn command(&self, store: &Store, flags: &[&str]) -> Result<Command> {
        let mut command = Command::new(built_binary("confd")?);
        command.args(["-config-file", "/nonexistent", "-backend", store.backend, "-node", &store.node]);
        command.arg("-confdir").arg(self.0.path()).args(flags);
        Ok(command)
    }

    /// One round, to its end.
    async fn once(&self, store: &Store, flags: &[&str]) -> Result<Output> {
        run(self.command(store, &[&["-onetime"], flags].concat())?, b"", LIMIT).await
    }
}

fn put(key: &str, value: &str) -> PutRequest {
    PutRequest { key: key.as_bytes().to_vec().into(), value: value.as_bytes().to_vec().into(), ..Default::default() }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

async fn until(what: &str, path: &Path, expected: &str) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    while read(path) != expected {
        ensure!(Instant::now() < deadline, "{what}: {} is {:?}, not {expected:?}", path.display(), read(path));
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// A confd that runs until it is dropped.
struct Running {
    child: Child,
    log: tempfile::NamedTempFile,
}

impl Running {
    fn start(mut command: Command) -> Result<Self> {
        let log = tempfile::NamedTempFile::new()?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.reopen()?).kill_on_drop(true);
        Ok(Self { child: command.spawn()?, log })
    }

    /// What it has printed so far.
    fn log(&self) -> String {
        read(self.log.path())
    }

    fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    fn signal(&self, name: &str) -> Result<()> {
        let pid = self.child.id().context("confd has ended")?.to_string();
        let status = std::process::Command::new("kill").args([&format!("-{name}"), &pid]).status()?;
        ensure!(status.success(), "kill -{name} {pid}");
        Ok(())
    }
}
