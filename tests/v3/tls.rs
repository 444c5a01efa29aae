//! TLS of a real member, as `etcdctl` and `curl` meet it.

use anyhow::{Context, Result, ensure};
use harness::tool::{Output, etcdctl_binary, run};
use harness::{Authority, Kind, Options, Server};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::Command;

const LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

/// A member with TLS, and the directory of everybody's certificates.
struct Site {
    server: Server,
    dir: TempDir,
    ca: Authority,
}

impl Site {
    /// Starts a member that requires certificates of the CA in `ca.pem`.
    async fn start() -> Result<Self> {
        let dir = TempDir::with_prefix("cleat-test-tls-")?;
        let ca = Authority::new("ca")?;
        ca.issue(dir.path(), "server", 1)?;
        ca.issue(dir.path(), "client", 2)?;
        ca.issue(dir.path(), "revoked", 0xbad)?;
        std::fs::write(dir.path().join("ca.pem"), ca.pem())?;
        std::fs::write(dir.path().join("crl.der"), ca.revoke(&[0xbad])?)?;
        let file = |name: &str| dir.path().join(name).display().to_string();
        let flags = [
            ("--cert-file", file("server.pem")),
            ("--key-file", file("server.key")),
            ("--trusted-ca-file", file("ca.pem")),
            ("--client-crl-file", file("crl.der")),
        ];
        let mut flags: Vec<String> = flags.map(|(flag, path)| format!("{flag}={path}")).to_vec();
        flags.push("--client-cert-auth".to_owned());
        let server = Server::start_with(Kind::Cleat, Options { flags, is_secure: true, ..Options::default() }).await?;
        Ok(Self { server, dir, ca })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Replaces a file at once, as tools do that never leave half of one.
    fn replace(&self, name: &str, bytes: &[u8]) -> Result<()> {
        std::fs::write(self.file("new"), bytes)?;
        Ok(std::fs::rename(self.file("new"), self.file(name))?)
    }

    fn command(&self, client: Option<&str>, args: &[&str]) -> Command {
        etcdctl(&self.server.client_url(), &self.file("trusted.pem"), client.map(|name| self.file(name)), args)
    }

    async fn etcdctl(&self, client: Option<&str>, args: &[&str]) -> Result<Output> {
        run(self.command(client, args), b"", LIMIT).await
    }

    async fn curl(&self, path: &str) -> Result<Output> {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--cacert"]).arg(self.file("trusted.pem"));
        command.arg("--cert").arg(self.file("client.pem")).arg("--key").arg(self.file("client.key"));
        command.arg(format!("{}{path}", self.server.client_url()));
        run(command, b"", LIMIT).await
    }

    /// Waits until the log of the member has a text so many times.
    async fn wait_for_log(&self, text: &str, times: usize) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        while self.server.log().matches(text).count() < times {
            ensure!(Instant::now() < deadline, "the log has not {text:?} {times} times:\n{}", self.server.log_tail());
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }
}

fn etcdctl(url: &str, trusted: &Path, client: Option<PathBuf>, args: &[&str]) -> Command {
    let mut command = Command::new(etcdctl_binary());
    command.env("ETCDCTL_API", "3").args(["--endpoints", url, "--command-timeout=3s", "--cacert"]).arg(trusted);
    if let Some(client) = client {
        command.arg("--cert").arg(client.with_extension("pem")).arg("--key").arg(client.with_extension("key"));
    }
    command.args(args);
    command
}

#[tokio::test]
async fn only_callers_with_a_good_certificate_are_served() -> Result<()> {
    let site = Site::start().await?;
    std::fs::copy(site.file("ca.pem"), site.file("trusted.pem"))?;
    let put = site.etcdctl(Some("client"), &["put", "a", "1"]).await?;
    ensure!(put.stdout == "OK\n", "{put:#?}");
    let get = site.etcdctl(Some("client"), &["get", "a"]).await?;
    ensure!(get.stdout == "a\n1\n", "{get:#?}");
    // etcdctl sends the URL as authority for these.
    let status = site.etcdctl(Some("client"), &["endpoint", "status", "-w", "json"]).await?;
    ensure!(status.stdout.contains("\"leader\":"), "{status:#?}");

    let stranger = Authority::new("stranger")?;
    stranger.issue(site.dir.path(), "stranger", 9)?;
    for (client, reason) in [
        (None, "tls: client didn't provide a certificate"),
        (Some("stranger"), "x509: certificate signed by unknown authority"),
        (Some("revoked"), "certificate serial 0bad revoked"),
    ] {
        let refused = site.etcdctl(client, &["get", "a"]).await?;
        ensure!(refused.code == Some(1), "{client:?}: {refused:#?}");
        let log = site.server.log();
        let told =
            |line: &str| line.contains("rejected connection") && line.contains(reason) && line.contains("127.0.0.1:");
        ensure!(log.lines().any(told), "{client:?}:\n{}", site.server.log_tail());
    }

    let mut plain = TcpStream::connect(site.server.endpoint()).await?;
    plain.write_all(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n").await?;
    let mut answer = Vec::new();
    tokio::time::timeout(LIMIT, plain.read_to_end(&mut answer)).await?.context("the member closes the connection")?;
    ensure!(!answer.starts_with(b"HTTP"), "{answer:?}");
    site.wait_for_log("tls: first record does not look like a TLS handshake", 1).await?;

    let health = site.curl("/health").await?;
    ensure!(health.stdout == r#"{"health":"true","reason":""}"#, "{health:#?}");
    let metrics = site.curl("/metrics").await?;
    ensure!(metrics.stdout.contains("\netcd_server_has_leader 1\n"), "{metrics:#?}");
    site.wait_for_log("serving client traffic securely", 1).await
}

/// Puts with a new connection each, until told to stop.
async fn put_all_the_time(site: Arc<Site>, generation: Arc<AtomicUsize>, over: Arc<AtomicBool>) -> Result<usize> {
    let mut puts = 0;
    while !over.load(Ordering::Relaxed) {
        let client = format!("client-{}", generation.load(Ordering::Relaxed));
        let put = site.etcdctl(Some(&client), &["put", "load", &puts.to_string()]).await?;
        ensure!(put.code == Some(0), "put {puts} as {client}: {put:#?}\n{}", site.server.log_tail());
        puts += 1;
    }
    Ok(puts)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_changed_under_load() -> Result<()> {
    const CHANGED: &str = "TLS files have changed; new connections use the new ones";
    let site = Arc::new(Site::start().await?);
    let next = Authority::new("next ca")?;
    site.ca.issue(site.dir.path(), "client-0", 10)?;
    next.issue(site.dir.path(), "client-1", 11)?;
    let (old_ca, new_ca) = (site.ca.pem(), next.pem());
    let both = old_ca.clone() + &new_ca;
    std::fs::write(site.file("trusted.pem"), &both)?;
    // A connection that outlives all changes.
    let mut watch = site.command(Some("client-0"), &["watch", "end"]);
    let mut watch = watch.stdout(std::process::Stdio::piped()).kill_on_drop(true).spawn()?;

    let (generation, over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let load = || tokio::spawn(put_all_the_time(Arc::clone(&site), Arc::clone(&generation), Arc::clone(&over)));
    let loads = [load(), load()];

    let changes = async {
        // Another leaf; between key and certificate the pair does not match, and the old one stays.
        site.ca.issue(site.dir.path(), "leaf", 3)?;
        site.replace("server.key", &std::fs::read(site.file("leaf.key"))?)?;
        site.wait_for_log("TLS files have changed and cannot be used; keeping the old ones", 1).await?;
        site.replace("server.pem", &std::fs::read(site.file("leaf.pem"))?)?;
        site.wait_for_log(CHANGED, 1).await?;
        // Another CA: trusted beside the old one, then in use, then alone.
        site.replace("ca.pem", both.as_bytes())?;
        site.wait_for_log(CHANGED, 2).await?;
        generation.store(1, Ordering::Relaxed);
        next.issue(site.dir.path(), "leaf", 4)?;
        site.replace("server.key", &std::fs::read(site.file("leaf.key"))?)?;
        site.replace("server.pem", &std::fs::read(site.file("leaf.pem"))?)?;
        site.wait_for_log(r#""serial":"04""#, 1).await?;
        Ok::<_, anyhow::Error>(())
    };
    let changed = changes.await;
    over.store(true, Ordering::Relaxed);
    for load in loads {
        let puts = load.await??;
        ensure!(puts > 0, "nothing was put");
    }
    changed?;

    site.replace("ca.pem", new_ca.as_bytes())?;
    let changes = site.server.log().matches(CHANGED).count();
    let deadline = Instant::now() + LIMIT;
    while site.server.log().matches(CHANGED).count() == changes {
        ensure!(Instant::now() < deadline, "the CA is not replaced:\n{}", site.server.log_tail());
        site.etcdctl(Some("client-1"), &["get", "load"]).await?;
    }
    let refused = site.etcdctl(Some("client-0"), &["get", "load"]).await?;
    ensure!(refused.code == Some(1), "{refused:#?}");

    let put = site.etcdctl(Some("client-1"), &["put", "end", "reached"]).await?;
    ensure!(put.code == Some(0), "{put:#?}");
    let mut lines = BufReader::new(watch.stdout.take().context("piped")?).lines();
    let mut seen = Vec::new();
    while seen.len() < 3 {
        seen.extend(tokio::time::timeout(LIMIT, lines.next_line()).await??);
    }
    ensure!(seen == ["PUT", "end", "reached"], "{seen:?}");
    Ok(watch.kill().await?)
}

#[tokio::test]
async fn a_generated_certificate_is_kept() -> Result<()> {
    let flags = vec!["--auto-tls".to_owned()];
    let options = Options { flags, is_secure: true, ..Options::default() };
    let mut server = Server::start_with(Kind::Cleat, options).await?;
    let url = server.client_url();
    let call = |args: &'static [&str]| {
        let mut command = Command::new(etcdctl_binary());
        command
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &url, "--insecure-transport=false", "--insecure-skip-tls-verify"])
            .args(args);
        run(command, b"", LIMIT)
    };
    let put = call(&["put", "a", "1"]).await?;
    ensure!(put.stdout == "OK\n", "{put:#?}");
    let fixtures = server.data_dir().join("fixtures/client");
    let (cert, key) = (fixtures.join("cert.pem"), fixtures.join("key.pem"));
    for path in [&cert, &key] {
        let mode = std::fs::metadata(path)?.permissions().mode() & 0o777;
        ensure!(mode == 0o600, "{}: {mode:o}", path.display());
    }
    let before = std::fs::read(&cert)?;
    // Who has the certificate can verify the member by it.
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--cacert"]).arg(&cert).arg(format!("{url}/health"));
    let health = run(curl, b"", LIMIT).await?;
    ensure!(health.stdout.contains(r#""health":"true""#), "{health:#?}");

    server.terminate().await?;
    server.restart().await?;
    ensure!(std::fs::read(&cert)? == before, "another certificate after a restart");
    let get = call(&["get", "a"]).await?;
    ensure!(get.stdout == "a\n1\n", "{get:#?}");
    Ok(())
}

#[tokio::test]
async fn a_member_with_a_wrong_file_says_which() -> Result<()> {
    let dir = TempDir::with_prefix("cleat-test-tls-")?;
    let ca = Authority::new("ca")?;
    ca.issue(dir.path(), "one", 1)?;
    ca.issue(dir.path(), "other", 2)?;
    let (cert, key) = (dir.path().join("one.pem"), dir.path().join("other.key"));
    let flags = vec![format!("--cert-file={}", cert.display()), format!("--key-file={}", key.display())];
    let mut server = Server::prepare(Kind::Cleat, Options { flags, is_secure: true, ..Options::default() })?;
    server.spawn()?;
    let status = server.wait_exit(LIMIT).await?;
    ensure!(status.code() == Some(1), "{status}");
    let expected =
        format!("cannot use TLS file {}: it is not the key of certificate {}", key.display(), cert.display());
    ensure!(server.log().contains(&expected), "{}", server.log_tail());
    Ok(())
}
