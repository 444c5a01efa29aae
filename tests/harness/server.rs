//! One server process, Cleat or etcd, with its own data directory and ports.
//!
//! Both makers take the same flags, so a test names the [`Kind`] and nothing else. The process is killed and
//! its directory removed on drop; when the test is failing, the end of the server's log is printed first.

use crate::client::Client;
use crate::ports::Port;
use crate::tls::ClientTls;
use anyhow::{Context, Result, bail, ensure};
use api::etcdserverpb::StatusRequest;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{File, OpenOptions};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Long enough for a debug build on a busy machine.
const START_DEADLINE: Duration = Duration::from_mins(1);
const STOP_DEADLINE: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(20);
const LOG_TAIL_LINES: usize = 60;

/// Whose server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The server under test: `CLEAT_BIN`, else `cleat` of this build.
    Cleat,
    /// The reference: `ETCD_BIN`, else `etcd` from `PATH`.
    Etcd,
}

impl Kind {
    /// The program that this kind runs.
    pub fn binary(self) -> Result<PathBuf> {
        match self {
            Self::Etcd => Ok(std::env::var_os("ETCD_BIN").map_or_else(|| PathBuf::from("etcd"), PathBuf::from)),
            Self::Cleat => match std::env::var_os("CLEAT_BIN") {
                Some(path) => Ok(path.into()),
                None => built_binary("cleat"),
            },
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Cleat => "cleat",
            Self::Etcd => "etcd",
        })
    }
}

/// A binary of this workspace, in the profile directory that the running test was built into.
pub fn built_binary(name: &str) -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let profile = test.parent().and_then(Path::parent).context("the test binary is not in a target directory")?;
    let path = profile.join(name);
    ensure!(path.exists(), "{} is missing; build it with `cargo build --workspace`", path.display());
    Ok(path)
}

/// What a server is started with.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Member name; empty means `default`.
    pub name: String,
    /// Flags after the standard ones.
    pub flags: Vec<String>,
    /// `--initial-cluster`; empty means this member alone.
    pub initial_cluster: String,
    /// `--advertise-client-urls`; `None` means where it listens.
    pub advertised_client_url: Option<String>,
    /// True for a member that finds its cluster by another flag than `--initial-cluster`.
    pub discovers: bool,
    /// Parent of the data directory; `None` means the system's temporary directory.
    pub parent: Option<PathBuf>,
    /// Serve clients over https; the flags say with which certificates.
    pub is_secure: bool,
    /// Serve other members over https; the flags say with which certificates.
    pub secures_peers: bool,
    /// What the harness itself uses to ask a server with `is_secure`; without it the server's log has to do.
    pub client_tls: Option<ClientTls>,
    /// Program and arguments that run the server's program as the same process; empty runs it directly.
    pub wrapper: Vec<String>,
    /// Program to run; `None` means the one of the kind.
    pub binary: Option<PathBuf>,
    /// Address in a network namespace that the test made, used with etcd's default ports; `None` means loopback
    /// with reserved ports.
    pub host: Option<Ipv4Addr>,
}

/// etcd's default ports, free in a namespace of one member.
const NAMESPACE_PORTS: (u16, u16) = (2379, 2380);

/// Where a server listens.
#[derive(Debug)]
struct Listeners {
    host: Ipv4Addr,
    client: u16,
    peer: u16,
    /// Keeps the ports of a loopback address away from other tests.
    _reserved: Option<(Port, Port)>,
}

impl Listeners {
    fn new(host: Option<Ipv4Addr>) -> Result<Self> {
        if let Some(host) = host {
            let (client, peer) = NAMESPACE_PORTS;
            return Ok(Self { host, client, peer, _reserved: None });
        }
        let (client, peer) = (Port::reserve()?, Port::reserve()?);
        let (client_number, peer_number) = (client.number(), peer.number());
        Ok(Self {
            host: Ipv4Addr::LOCALHOST,
            client: client_number,
            peer: peer_number,
            _reserved: Some((client, peer)),
        })
    }
}

/// A running server, or one that was stopped and can be started again.
#[derive(Debug)]
pub struct Server {
    kind: Kind,
    binary: PathBuf,
    options: Options,
    listeners: Listeners,
    dir: TempDir,
    child: Option<Child>,
    /// Length of the log when the process was started.
    log_before: usize,
}

impl Server {
    /// Starts a single member and waits until it answers.
    pub async fn start(kind: Kind) -> Result<Self> {
        Self::start_with(kind, Options::default()).await
    }

    /// Starts a member with options and waits until it answers and knows a leader.
    pub async fn start_with(kind: Kind, options: Options) -> Result<Self> {
        let mut server = Self::prepare(kind, options)?;
        server.restart().await?;
        Ok(server)
    }

    /// Reserves everything and starts nothing.
    pub fn prepare(kind: Kind, mut options: Options) -> Result<Self> {
        if options.name.is_empty() {
            "default".clone_into(&mut options.name);
        }
        let mut builder = tempfile::Builder::new();
        builder.prefix("cleat-test-");
        let dir = match &options.parent {
            Some(parent) => builder.tempdir_in(parent),
            None => builder.tempdir(),
        }?;
        let listeners = Listeners::new(options.host)?;
        let binary = match &options.binary {
            Some(binary) => binary.clone(),
            None => kind.binary()?,
        };
        Ok(Self { kind, binary, options, listeners, dir, child: None, log_before: 0 })
    }

    /// Adds flags that depend on the reserved ports, for the next start.
    pub fn add_flags(&mut self, flags: impl IntoIterator<Item = String>) {
        self.options.flags.extend(flags);
    }

    /// What the next start uses.
    pub fn options_mut(&mut self) -> &mut Options {
        &mut self.options
    }

    /// Whose server this is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// `host:port` of the client listener, as `etcdctl --endpoints` takes it.
    pub fn endpoint(&self) -> String {
        format!("{}:{}", self.listeners.host, self.listeners.client)
    }

    /// URL of the client listener.
    pub fn client_url(&self) -> String {
        let scheme = if self.options.is_secure { "https" } else { "http" };
        format!("{scheme}://{}", self.endpoint())
    }

    /// `host:port` of the peer listener.
    pub fn peer_endpoint(&self) -> String {
        format!("{}:{}", self.listeners.host, self.listeners.peer)
    }

    /// URL of the peer listener.
    pub fn peer_url(&self) -> String {
        let scheme = if self.options.secures_peers { "https" } else { "http" };
        format!("{scheme}://{}", self.peer_endpoint())
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A directory that lives as long as this value, for files of the test.
    pub fn scratch(&self) -> &Path {
        self.dir.path()
    }

    /// The command line that this server is started with.
    pub fn args(&self) -> Vec<String> {
        let (client, peer, name) = (self.client_url(), self.peer_url(), &self.options.name);
        let cluster = match self.options.initial_cluster.as_str() {
            "" => format!("{name}={peer}"),
            cluster => cluster.to_owned(),
        };
        let pairs = [
            ("--name", name.clone()),
            ("--data-dir", self.data_dir().display().to_string()),
            ("--listen-client-urls", client.clone()),
            ("--advertise-client-urls", self.options.advertised_client_url.clone().unwrap_or(client)),
            ("--listen-peer-urls", peer.clone()),
            ("--initial-advertise-peer-urls", peer),
            ("--initial-cluster", cluster),
        ];
        let pairs = pairs.into_iter().filter(|(flag, _)| !self.options.discovers || *flag != "--initial-cluster");
        let mut args: Vec<String> = pairs.flat_map(|(flag, value)| [flag.to_owned(), value]).collect();
        args.extend(self.options.flags.iter().cloned());
        args
    }

    /// A command for this server's program, without the environment that would configure it.
    pub fn command(&self) -> Command {
        let mut command = match self.options.wrapper.split_first() {
            None => Command::new(&self.binary),
            Some((program, args)) => {
                let mut command = Command::new(program);
                command.args(args).arg(&self.binary);
                command
            }
        };
        for (key, _) in std::env::vars_os() {
            if key.to_str().is_some_and(|k| k.starts_with("ETCD_") || k.starts_with("CLEAT_")) {
                command.env_remove(key);
            }
        }
        command
    }

    /// Starts the process on the same directory and ports, and waits until it answers and knows a leader.
    pub async fn restart(&mut self) -> Result<()> {
        self.spawn()?;
        self.wait_ready().await
    }

    /// Starts the process without waiting for an answer.
    pub fn spawn(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "the server is already running");
        self.log_before = self.log().len();
        let log = OpenOptions::new().create(true).append(true).open(self.log_path())?;
        let child = self
            .command()
            .args(self.args())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {}", self.binary.display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// Waits until the server answers and knows a leader.
    pub async fn wait_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            if let Some(status) = self.exit_status()? {
                bail!("{} exited with {status} while starting:\n{}", self.kind, self.log_tail());
            }
            if self.has_leader().await {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{} did not answer in time:\n{}", self.kind, self.log_tail());
            tokio::time::sleep(POLL).await;
        }
    }

    async fn has_leader(&self) -> bool {
        if self.options.is_secure && self.options.client_tls.is_none() {
            // Asking takes certificates, which are the test's; both makers say so in the same words.
            return self.log().get(self.log_before..).is_some_and(|log| log.contains("ready to serve client requests"));
        }
        let asked = async {
            let mut client = self.client().await.ok()?;
            match client.maintenance.status(StatusRequest {}).await {
                Ok(status) => Some(status.into_inner().leader),
                // Who does not tell strangers serves: it has waited for a leader before.
                Err(status) if status.message() == "etcdserver: user name is empty" => Some(u64::MAX),
                Err(_) => None,
            }
        };
        matches!(tokio::time::timeout(Duration::from_secs(2), asked).await, Ok(Some(leader)) if leader != 0)
    }

    /// A new connection.
    pub async fn client(&self) -> Result<Client> {
        Client::connect_with(&self.client_url(), self.options.client_tls.as_ref()).await
    }

    /// The exit status, if the process has ended by itself.
    pub fn exit_status(&mut self) -> Result<Option<ExitStatus>> {
        Ok(match &mut self.child {
            Some(child) => child.try_wait()?,
            None => None,
        })
    }

    /// True while the process runs.
    pub fn is_running(&mut self) -> bool {
        self.child.is_some() && matches!(self.exit_status(), Ok(None))
    }

    /// Kills the process as a power cut would (SIGKILL), and waits for its end.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Process id of the running server.
    pub fn pid(&self) -> Result<Pid> {
        Ok(Pid::from_child(self.child.as_ref().context("the server is not running")?))
    }

    /// Sends a signal to the process.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(self.pid()?, signal)?)
    }

    /// Asks the process to end (SIGTERM) and returns how it did.
    pub async fn terminate(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        let status = self.wait_exit(STOP_DEADLINE).await?;
        self.child = None;
        Ok(status)
    }

    /// Waits for the process to end by itself.
    pub async fn wait_exit(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.exit_status()? {
                return Ok(status);
            }
            ensure!(Instant::now() < deadline, "{} did not end in {limit:?}:\n{}", self.kind, self.log_tail());
            tokio::time::sleep(POLL).await;
        }
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// Everything that the process printed, over all its starts.
    pub fn log(&self) -> String {
        std::fs::read(self.log_path()).map_or_else(|_| String::new(), |log| String::from_utf8_lossy(&log).into_owned())
    }

    /// The end of the log.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
    }

    /// Opens a file beside the data directory.
    pub fn create_file(&self, name: &str) -> Result<File> {
        Ok(File::create(self.dir.path().join(name))?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- end of the log of {} ---\n{}", self.kind, self.log_tail());
        }
        if let Err(error) = self.kill() {
            eprintln!("could not stop {}: {error}", self.kind);
        }
    }
}

/// Waits until a file has so many lines of JSON, and returns all that it has.
pub async fn json_lines(path: &Path, count: usize) -> Result<Vec<serde_json::Value>> {
    let deadline = Instant::now() + START_DEADLINE;
    loop {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        if text.lines().count() >= count {
            return text.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect();
        }
        ensure!(Instant::now() < deadline, "{} has {text}", path.display());
        tokio::time::sleep(POLL).await;
    }
}
