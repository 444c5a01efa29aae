//! TLS of a real member, as `etcdctl` and `curl` meet it.

use anyhow::{Context, Result, ensure};
use harness::authority::{Pair, own_authority, self_signed};
use harness::server::built_binary;
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

/// A member's address, as it is called and as it calls.
const HOSTS: [&str; 2] = ["localhost", "127.0.0.1"];

/// Writes a certificate and its key.
fn write(dir: &Path, name: &str, pair: &Pair) -> Result<()> {
    std::fs::write(dir.join(name).with_extension("pem"), &pair.cert)?;
    Ok(std::fs::write(dir.join(name).with_extension("key"), &pair.key)?)
}

/// A member with TLS, and the directory of everybody's certificates.
struct Site {
    server: Server,
    dir: TempDir,
    ca: Authority,
}

impl Site {
    /// Starts a member that requires certificates of the CA in `ca.pem`.
    async fn start() -> Result<Self> {
        Self::start_with(&[]).await
    }

    /// Starts one with flags more.
    async fn start_with(more: &[&str]) -> Result<Self> {
        let dir = TempDir::with_prefix("cleat-test-tls-")?;
        let ca = Authority::new("ca")?;
        write(dir.path(), "server", &ca.issue("server", &HOSTS)?)?;
        write(dir.path(), "client", &ca.issue("client", &HOSTS)?)?;
        write(dir.path(), "revoked", &ca.issue_numbered("revoked", &HOSTS, 0xbad)?)?;
        std::fs::write(dir.path().join("ca.pem"), ca.pem())?;
        std::fs::write(dir.path().join("crl.der"), ca.revoke(&[0xbad])?.der())?;
        let file = |name: &str| dir.path().join(name).display().to_string();
        let flags = [
            ("--cert-file", file("server.pem")),
            ("--key-file", file("server.key")),
            ("--trusted-ca-file", file("ca.pem")),
            ("--client-crl-file", file("crl.der")),
        ];
        let mut flags: Vec<String> = flags.map(|(flag, path)| format!("{flag}={path}")).to_vec();
        flags.push("--client-cert-auth".to_owned());
        flags.extend(more.iter().map(ToString::to_string));
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

    /// What is refused is tried until the time is over; what is not has more of it, on a busy machine.
    async fn succeeding(&self, client: &str, args: &[&str]) -> Result<Output> {
        self.etcdctl(Some(client), &[&["--command-timeout=20s"], args].concat()).await
    }

    async fn curl(&self, path: &str, more: &[&str]) -> Result<Output> {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--cacert"]).arg(self.file("trusted.pem"));
        command.arg("--cert").arg(self.file("client.pem")).arg("--key").arg(self.file("client.key"));
        command.args(more).arg(format!("{}{path}", self.server.client_url()));
        run(command, b"", LIMIT).await
    }

    async fn wait_for_line(&self, parts: &[&str]) -> Result<()> {
        wait_for_line(&self.server, parts).await
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

/// Waits until the log has a line with all of these. Lines are written behind what they tell of.
async fn wait_for_line(server: &Server, parts: &[&str]) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    while !server.log().lines().any(|line| parts.iter().all(|part| line.contains(part))) {
        ensure!(Instant::now() < deadline, "no line with {parts:?}:\n{}", server.log_tail());
        tokio::time::sleep(POLL).await;
    }
    Ok(())
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
    let put = site.succeeding("client", &["put", "a", "1"]).await?;
    ensure!(put.stdout == "OK\n", "{put:#?}");
    let get = site.succeeding("client", &["get", "a"]).await?;
    ensure!(get.stdout == "a\n1\n", "{get:#?}");
    // etcdctl sends the URL as authority for these.
    let status = site.succeeding("client", &["endpoint", "status", "-w", "json"]).await?;
    ensure!(status.stdout.contains("\"leader\":"), "{status:#?}");

    let stranger = Authority::new("stranger")?;
    write(site.dir.path(), "stranger", &stranger.issue("stranger", &HOSTS)?)?;
    for (client, reason) in [
        (None, "tls: client didn't provide a certificate"),
        (Some("stranger"), "x509: certificate signed by unknown authority"),
        (Some("revoked"), "certificate serial 0bad revoked"),
    ] {
        let refused = site.etcdctl(client, &["get", "a"]).await?;
        ensure!(refused.code == Some(1), "{client:?}: {refused:#?}");
        site.wait_for_line(&["rejected connection", reason, "127.0.0.1:"]).await?;
    }

    let mut plain = TcpStream::connect(site.server.endpoint()).await?;
    plain.write_all(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n").await?;
    let mut answer = Vec::new();
    tokio::time::timeout(LIMIT, plain.read_to_end(&mut answer)).await?.context("the member closes the connection")?;
    ensure!(!answer.starts_with(b"HTTP"), "{answer:?}");
    site.wait_for_log("tls: first record does not look like a TLS handshake", 1).await?;

    let health = site.curl("/health", &[]).await?;
    ensure!(health.stdout == r#"{"health":"true","reason":""}"#, "{health:#?}");
    let metrics = site.curl("/metrics", &[]).await?;
    ensure!(metrics.stdout.contains("\netcd_server_has_leader 1\n"), "{metrics:#?}");
    // The same as JSON, over both versions of HTTP.
    for version in ["--http1.1", "--http2"] {
        let range = site.curl("/v3/kv/range", &[version, "--data", r#"{"key":"YQ=="}"#]).await?;
        ensure!(range.stdout.contains(r#""value":"MQ==""#), "{version}: {range:#?}");
    }
    site.wait_for_log("serving client traffic securely", 1).await
}

#[tokio::test]
async fn callers_are_refused_by_name_and_date() -> Result<()> {
    let site = Site::start_with(&["--client-cert-allowed-hostname=client.test"]).await?;
    std::fs::copy(site.file("ca.pem"), site.file("trusted.pem"))?;
    for (name, pair) in [
        ("good", site.ca.issue("x", &["client.test"])?),
        ("elsewhere", site.ca.issue("client.test", &["elsewhere.test"])?),
        ("late", site.ca.issue_expired("x", &["client.test"])?),
        ("nobodys", self_signed("x", &["client.test"])?),
    ] {
        write(site.dir.path(), name, &pair)?;
    }
    for (client, reason) in [
        ("elsewhere", r#"client certificate authentication failed: host names [\"elsewhere.test\"] not allowed"#),
        ("late", "x509: certificate has expired or is not yet valid"),
        ("nobodys", "x509: certificate signed by unknown authority"),
    ] {
        let refused = site.etcdctl(Some(client), &["get", "a"]).await?;
        ensure!(refused.code == Some(1), "{client}: {refused:#?}");
        site.wait_for_line(&["rejected connection", r#""side":"client""#, reason, "127.0.0.1:"]).await?;
    }
    let put = site.succeeding("good", &["put", "a", "1"]).await?;
    ensure!(put.stdout == "OK\n", "{put:#?}");
    Ok(())
}

#[tokio::test]
async fn tls_to_a_plain_listener_is_told_apart() -> Result<()> {
    const TOLD: &str = "the caller speaks TLS, but the URL of this listener";
    let dir = TempDir::with_prefix("cleat-test-tls-")?;
    std::fs::write(dir.path().join("ca.pem"), Authority::new("ca")?.pem())?;
    let server = Server::start(Kind::Cleat).await?;
    let url = server.client_url().replace("http:", "https:");
    for _ in 0..3 {
        let refused = run(etcdctl(&url, &dir.path().join("ca.pem"), None, &["get", "a"]), b"", LIMIT).await?;
        ensure!(refused.code == Some(1), "{refused:#?}");
    }
    wait_for_line(&server, &[TOLD]).await?;
    let log = server.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(TOLD)).collect();
    // etcdctl tries all the time; the line comes once in a while.
    ensure!((1..=3).contains(&lines.len()), "{lines:#?}\n{}", server.log_tail());
    for part in ["rejected connection", r#""side":"client""#, r#""remote_addr":"127.0.0.1:"#] {
        ensure!(lines[0].contains(part), "{lines:?}");
    }
    let put = harness::etcdctl(&server, &["put", "a", "1"], b"", LIMIT).await?;
    ensure!(put.stdout == "OK\n", "{put:#?}");
    Ok(())
}

/// Puts with a new connection each, until told to stop.
async fn put_all_the_time(site: Arc<Site>, generation: Arc<AtomicUsize>, over: Arc<AtomicBool>) -> Result<usize> {
    let mut puts = 0;
    while !over.load(Ordering::Relaxed) {
        let client = format!("client-{}", generation.load(Ordering::Relaxed));
        let put = site.succeeding(&client, &["put", "load", &puts.to_string()]).await?;
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
    write(site.dir.path(), "client-0", &site.ca.issue("client-0", &HOSTS)?)?;
    write(site.dir.path(), "client-1", &next.issue("client-1", &HOSTS)?)?;
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
        let leaf = site.ca.issue("server", &HOSTS)?;
        site.replace("server.key", leaf.key.as_bytes())?;
        site.wait_for_log("TLS files have changed and cannot be used; keeping the old ones", 1).await?;
        site.replace("server.pem", leaf.cert.as_bytes())?;
        site.wait_for_log(CHANGED, 1).await?;
        // Another CA: trusted beside the old one, then in use, then alone.
        site.replace("ca.pem", both.as_bytes())?;
        site.wait_for_log(CHANGED, 2).await?;
        generation.store(1, Ordering::Relaxed);
        let leaf = next.issue_numbered("server", &HOSTS, 4)?;
        site.replace("server.key", leaf.key.as_bytes())?;
        site.replace("server.pem", leaf.cert.as_bytes())?;
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

    let put = site.succeeding("client-1", &["put", "end", "reached"]).await?;
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
    write(dir.path(), "one", &ca.issue("one", &HOSTS)?)?;
    write(dir.path(), "other", &ca.issue("other", &HOSTS)?)?;
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

#[tokio::test]
async fn the_audit_log_names_the_caller_by_its_certificate() -> Result<()> {
    let site = Site::start_with(&["--audit-log-outputs=stderr"]).await?;
    std::fs::copy(site.file("ca.pem"), site.file("trusted.pem"))?;
    let put = site.succeeding("client", &["put", "a", "1"]).await?;
    ensure!(put.stdout == "OK\n", "{put:#?}");
    site.wait_for_log(r#""user":"client""#, 1).await
}

/// Small installations have one certificate for everybody, which is its own CA; and `http://` beside `https://` at one
/// address while they move from one to the other.
#[tokio::test]
async fn one_certificate_and_one_address_serve_everybody() -> Result<()> {
    let dir = TempDir::with_prefix("cleat-test-tls-")?;
    write(dir.path(), "all", &own_authority("all", &HOSTS)?)?;
    let (cert, key) = (dir.path().join("all.pem"), dir.path().join("all.key"));
    let mut flags = vec!["--client-cert-auth".to_owned()];
    for (flag, file) in [("cert-file", &cert), ("key-file", &key), ("trusted-ca-file", &cert)] {
        flags.push(format!("--{flag}={}", file.display()));
    }
    let mut server = Server::prepare(Kind::Cleat, Options { flags, is_secure: true, ..Options::default() })?;
    let (plain, secure) = (format!("http://{}", server.endpoint()), server.client_url());
    server.add_flags([format!("--listen-client-urls={plain},{secure},{plain}")]);
    server.restart().await?;
    for tool in [PathBuf::from(etcdctl_binary()), built_binary("cleatctl")?] {
        for (at, value) in [(&plain, "1"), (&secure, "2")] {
            let put = run(tool_of(&tool, at, &cert, Some(&key), &["put", "a", value]), b"", LIMIT).await?;
            ensure!(put.stdout == "OK\n", "{at}: {put:#?}");
            let got = run(tool_of(&tool, at, &cert, Some(&key), &["get", "a"]), b"", LIMIT).await?;
            ensure!(got.stdout == format!("a\n{value}\n"), "{at}: {got:#?}");
        }
        // TLS is what it was: a certificate is asked for there.
        let bare = run(tool_of(&tool, &secure, &cert, None, &["get", "a"]), b"", LIMIT).await?;
        ensure!(bare.code == Some(1), "{bare:#?}");
    }
    for at in [&plain, &secure] {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--cacert"]).arg(&cert).arg("--cert").arg(&cert).arg("--key").arg(&key);
        curl.arg(format!("{at}/health"));
        let health = run(curl, b"", LIMIT).await?;
        ensure!(health.stdout.contains(r#""health":"true""#), "{at}: {health:#?}");
    }
    Ok(())
}

/// A tool of etcd's command line. Without TLS it takes no certificates.
fn tool_of(tool: &Path, at: &str, cert: &Path, key: Option<&Path>, args: &[&str]) -> Command {
    let mut command = Command::new(tool);
    command.env("ETCDCTL_API", "3").args(["--endpoints", at, "--command-timeout=10s", "--dial-timeout=2s"]);
    if at.starts_with("https") {
        command.arg("--cacert").arg(cert);
        if let Some(key) = key {
            command.arg("--cert").arg(cert).arg("--key").arg(key);
        }
    }
    command.args(args);
    command
}
