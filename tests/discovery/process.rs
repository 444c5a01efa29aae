//! Programs beside the servers of the harness: Debian's discovery service, a DNS server, an HTTP proxy.

use anyhow::{Context, Result, ensure};
use harness::ports::Port;
use harness::server::built_binary;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

const START_DEADLINE: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(20);

/// A process that ends with the test.
#[derive(Debug)]
struct Process(Child);

impl Process {
    fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let log = File::create(log)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(Self(command.spawn().with_context(|| format!("start {command:?}"))?))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let ended = self.0.kill().and_then(|()| self.0.wait());
        if let Err(error) = ended {
            eprintln!("could not stop a process: {error}");
        }
    }
}

/// Sends one request and returns status and body; reads to the end of the connection.
pub(crate) async fn http(address: &str, method: &str, path: &str, form: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{form}",
        form.len()
    );
    stream.write_all(head.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let status = answer.split(' ').nth(1).context("no status")?.parse()?;
    Ok((status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()))
}

/// A discovery service: Debian's `etcd-discovery`, with its tokens in a store of the v2 API, or ours.
#[derive(Debug)]
pub(crate) struct DiscoveryService {
    port: Port,
    _process: Process,
    _dir: TempDir,
}

impl DiscoveryService {
    pub(crate) async fn start(store: &str) -> Result<Self> {
        let port = Port::reserve()?;
        let (address, url) = (format!("127.0.0.1:{}", port.number()), format!("http://127.0.0.1:{}", port.number()));
        let mut command = Command::new("discovery.etcd.io");
        command.args(["--etcd", store, "--host", &url, "--addr", &address]);
        Self::run(command, port).await
    }

    /// Our own service, with its tokens in any store of the v3 API.
    pub(crate) async fn start_own(store: &str) -> Result<Self> {
        let port = Port::reserve()?;
        let mut command = Command::new(built_binary("cleat-discovery")?);
        command.args([format!("--addr=127.0.0.1:{}", port.number()), format!("--endpoints={store}")]);
        command.arg(format!("--host=http://127.0.0.1:{}", port.number()));
        Self::run(command, port).await
    }

    async fn run(mut command: Command, port: Port) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let process = Process::start(&mut command, &dir.path().join("log"))?;
        let service = Self { port, _process: process, _dir: dir };
        let deadline = Instant::now() + START_DEADLINE;
        while !matches!(http(&service.address(), "GET", "/health", "").await, Ok((200, _))) {
            ensure!(Instant::now() < deadline, "the discovery service does not answer");
            tokio::time::sleep(POLL).await;
        }
        Ok(service)
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port.number())
    }

    /// The URL of a new token.
    pub(crate) async fn token(&self, size: usize) -> Result<String> {
        let (status, url) = http(&self.address(), "GET", &format!("/new?size={size}"), "").await?;
        ensure!(status == 200 && url.starts_with("http://"), "{status} {url}");
        Ok(url)
    }

    /// The URL of a token that nobody made.
    pub(crate) fn unknown_token(&self) -> String {
        format!("http://{}/{}", self.address(), "de".repeat(16))
    }
}

/// `dnsmasq` with records of its own and nothing else.
#[derive(Debug)]
pub(crate) struct Dns {
    address: SocketAddr,
    /// Keeps the port away from other tests; not for the one that every system asks.
    _port: Option<Port>,
    process: Option<Process>,
    dir: TempDir,
}

impl Dns {
    /// Starts with records in the form of its configuration file, as `srv-host=name,target,port`.
    pub(crate) async fn start(records: &[String]) -> Result<Self> {
        let port = Port::reserve()?;
        let address = SocketAddr::from(([127, 0, 0, 1], port.number()));
        let mut dns = Self { address, _port: Some(port), process: None, dir: tempfile::tempdir()? };
        dns.serve(records).await?;
        Ok(dns)
    }

    /// Starts on the port that `/etc/resolv.conf` means, on a loopback address of its own. Needs root.
    pub(crate) async fn start_for_systems(records: &[String]) -> Result<Self> {
        static SERVERS: AtomicU8 = AtomicU8::new(53);
        let [b, c] = std::process::id().to_be_bytes()[2..] else { unreachable!("two bytes") };
        let address = SocketAddr::from(([127, b, c, SERVERS.fetch_add(1, Ordering::Relaxed)], 53));
        let mut dns = Self { address, _port: None, process: None, dir: tempfile::tempdir()? };
        dns.serve(records).await?;
        Ok(dns)
    }

    /// A program and arguments that run another one with this as the system's only name server.
    pub(crate) fn wrapper(&self) -> Result<Vec<String>> {
        let file = self.dir.path().join("resolv.conf");
        std::fs::write(&file, format!("nameserver {}\n", self.address.ip()))?;
        let script = r#"mount --bind "$0" /etc/resolv.conf && exec "$@""#;
        let file = file.display().to_string();
        Ok(["unshare", "--mount", "sh", "-c", script, &file].map(str::to_owned).to_vec())
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts again with other records.
    pub(crate) async fn serve(&mut self, records: &[String]) -> Result<()> {
        self.process = None;
        let file = self.dir.path().join("records");
        std::fs::write(&file, records.join("\n") + "\n")?;
        let mut command = Command::new(dnsmasq());
        command.args(["--keep-in-foreground", "--no-resolv", "--no-hosts", "--bind-interfaces", "--user="]);
        command.args(["--pid-file=", "--local=/test/", "--cache-size=0"]);
        command.arg(format!("--listen-address={}", self.address.ip()));
        command.arg(format!("--port={}", self.address.port())).arg(format!("--conf-file={}", file.display()));
        self.process = Some(Process::start(&mut command, &self.dir.path().join("log"))?);
        let deadline = Instant::now() + START_DEADLINE;
        while !self.answers().await {
            let log = std::fs::read_to_string(self.dir.path().join("log"))?;
            ensure!(Instant::now() < deadline, "dnsmasq does not answer: {log}");
        }
        Ok(())
    }

    /// A question for the root's name servers; any answer will do.
    async fn answers(&self) -> bool {
        let question = [0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1];
        let asked = async {
            let socket = UdpSocket::bind("127.0.0.1:0").await?;
            socket.connect(self.address()).await?;
            socket.send(&question).await?;
            socket.recv(&mut [0; 512]).await
        };
        match tokio::time::timeout(Duration::from_millis(500), asked).await {
            Ok(Ok(_)) => true,
            Ok(Err(_)) => {
                tokio::time::sleep(POLL).await;
                false
            }
            Err(_) => false,
        }
    }
}

/// Debian has it where only root's `PATH` looks.
fn dnsmasq() -> PathBuf {
    let usual = PathBuf::from("/usr/sbin/dnsmasq");
    if usual.exists() { usual } else { "dnsmasq".into() }
}
