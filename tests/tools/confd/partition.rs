//! A network that loses everything between confd and the store: both are in namespaces of their own, and the test reaches
//! the store whatever is cut.

use super::{Running, Site, Store, put, read};
use anyhow::{Context, Result, bail, ensure};
use api::etcdserverpb::CompactionRequest;
use client::v2;
use harness::network::Network;
use harness::server::built_binary;
use harness::{Kind, Options, Server, http};
use hyper::Request;
use serde_json::json;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

/// Longer than a connection that is dead takes to be noticed, and than what TCP waits at most after a short cut.
const LIMIT: Duration = Duration::from_mins(2);
/// How long nothing passes. Shorter than any keepalive, so the first cut is one that connections live through.
const CUT: Duration = Duration::from_secs(3);
/// So many lines that they do not become a file at once.
const LINES: usize = 20_000;
/// Events of the whole store that a server of the v2 API remembers.
const REMEMBERED: usize = 1_000;

/// Where confd runs, and where the store.
const CONFD: usize = 0;
const STORE: usize = 1;

fn network() -> Result<Network> {
    let mut network = Network::new()?;
    for _ in [CONFD, STORE] {
        network.add()?;
    }
    Ok(network)
}

/// From now on connections of processes that have ended are forgotten at once where the store is, as when a machine is
/// replaced: what they have not said yet is said to nobody.
fn forget_the_dead(network: &Network) -> Result<()> {
    let mut command = network.wrapper(STORE);
    command.extend(["sh", "-c", "echo 1 > /proc/sys/net/ipv4/tcp_orphan_retries"].map(str::to_owned));
    let status = std::process::Command::new(&command[0]).args(&command[1..]).status()?;
    ensure!(status.success(), "cannot set tcp_orphan_retries in a namespace: {status}");
    Ok(())
}

/// A store in its namespace that can be written from outside.
enum Subject {
    V3(Server),
    V2(Server),
    Metad(Metad),
}

/// `metad` with its data in memory, in the store's namespace.
struct Metad {
    /// What it is started with.
    command: Vec<String>,
    manage: String,
    child: Child,
    /// It forgets everything when it ends.
    writes: Vec<(String, String)>,
}

impl Metad {
    async fn start(network: &Network) -> Result<Self> {
        let address = network.address(STORE);
        let manage = format!("{address}:9611");
        let mut command = network.wrapper(STORE);
        command.push(built_binary("metad")?.display().to_string());
        command.extend(["--listen", &format!("{address}:9080"), "--listen_manage", &manage].map(str::to_owned));
        command.push("--manage_insecure".to_owned());
        let child = spawn(&command)?;
        let mut metad = Self { command, manage, child, writes: Vec::new() };
        let rule = json!({network.address(CONFD).to_string(): [{"path": "/", "mode": 1}]});
        metad.write("/v1/rule".to_owned(), rule.to_string()).await?;
        Ok(metad)
    }

    async fn write(&mut self, path: String, body: String) -> Result<()> {
        self.send(&path, &body).await?;
        self.writes.push((path, body));
        Ok(())
    }

    /// Also waits until it answers.
    async fn send(&self, path: &str, body: &str) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let request = Request::put(path).body(http::full(body.to_owned()))?;
            match http::send(&self.manage, request).await {
                Ok(answer) if answer.status == 200 => return Ok(()),
                Ok(answer) => bail!("PUT {path}: {answer:?}"),
                Err(error) => ensure!(Instant::now() < deadline, "metad does not answer: {error:#}"),
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn restart(&mut self) -> Result<()> {
        self.child.kill().await?;
        self.child = spawn(&self.command)?;
        for (path, body) in &self.writes {
            self.send(path, body).await?;
        }
        Ok(())
    }
}

fn spawn(command: &[String]) -> Result<Child> {
    let mut child = Command::new(&command[0]);
    child.args(&command[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    Ok(child.spawn()?)
}

impl Subject {
    async fn start(backend: &str, network: &Network) -> Result<Self> {
        let server = async |flags: &[&str]| {
            let options = Options {
                host: Some(network.address(STORE)),
                wrapper: network.wrapper(STORE),
                flags: flags.iter().map(|&flag| flag.to_owned()).collect(),
                ..Options::default()
            };
            Server::start_with(Kind::Cleat, options).await
        };
        Ok(match backend {
            "etcdv3" => Self::V3(server(&[]).await?),
            "etcd" => Self::V2(server(&["--enable-v2"]).await?),
            _ => Self::Metad(Metad::start(network).await?),
        })
    }

    fn store(&self, address: Ipv4Addr) -> Store {
        match self {
            Self::V3(server) => Store::v3(server),
            Self::V2(server) => Store::v2(server),
            Self::Metad(_) => Store { backend: "metad", node: format!("{address}:9080") },
        }
    }

    async fn set(&mut self, key: &str, value: &str) -> Result<()> {
        match self {
            Self::V3(server) => drop(server.client().await?.kv.put(put(key, value)).await?),
            Self::V2(server) => drop(v2_client(server)?.set(key, value).await?),
            Self::Metad(metad) => metad.write(format!("/v1/data{key}"), json!(value).to_string()).await?,
        }
        Ok(())
    }

    /// Loses the history up to now.
    async fn forget(&mut self) -> Result<()> {
        match self {
            Self::V3(server) => {
                let mut client = server.client().await?;
                let answer = client.kv.put(put("/elsewhere", "x")).await?.into_inner();
                let revision = answer.header.context("no header")?.revision;
                client.kv.compact(CompactionRequest { revision, physical: true }).await?;
            }
            Self::V2(server) => {
                let client = v2_client(server)?;
                for number in 0..=REMEMBERED {
                    client.set("/elsewhere", number.to_string()).await?;
                }
            }
            // It has none.
            Self::Metad(_) => {}
        }
        Ok(())
    }

    /// Kills it, and starts it again with its data.
    async fn restart(&mut self) -> Result<()> {
        match self {
            Self::V3(server) | Self::V2(server) => {
                server.kill()?;
                server.restart().await
            }
            Self::Metad(metad) => metad.restart().await,
        }
    }
}

fn v2_client(server: &Server) -> Result<v2::Client> {
    let options = v2::Options { endpoints: vec![server.endpoint()], request_timeout: LIMIT, ..v2::Options::default() };
    Ok(v2::Client::new(&options)?)
}

/// The file and what its reload command has noted.
struct Watched {
    file: PathBuf,
    reloads: PathBuf,
}

impl Watched {
    /// The value that the whole of the file shows.
    fn value(&self) -> Result<String> {
        let text = read(&self.file);
        let first = text.lines().next().unwrap_or_default().to_owned();
        let is_whole = text == format!("{first}\n").repeat(LINES);
        ensure!(is_whole || text.is_empty(), "the file is torn: {} bytes, {first:?}", text.len());
        Ok(first)
    }

    /// Waits for a value, and for its reload.
    async fn until(&self, value: &str, confd: &Running) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        while self.value()? != value || read(&self.reloads).lines().last() != Some(value) {
            let found = (self.value()?, read(&self.reloads));
            ensure!(Instant::now() < deadline, "{found:?}, not {value:?}\n{}", confd.log());
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// The file stays what it is for as long as a cut lasts.
    async fn stays(&self, value: &str) -> Result<()> {
        let end = Instant::now() + CUT;
        while Instant::now() < end {
            let found = self.value()?;
            ensure!(found == value, "{found:?} while nothing passes, not {value:?}");
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}

async fn survives_a_partition(backend: &str) -> Result<()> {
    let network = network()?;
    let mut subject = Subject::start(backend, &network).await?;
    subject.set("/app/name", "one").await?;
    subject.set("/other", "x").await?;
    let site = Site::new()?;
    let watched = Watched { file: site.out("a"), reloads: site.out("reloads") };
    let reload = format!("reload_cmd = \"head -n 1 {{{{.dest}}}} >> {}\"", watched.reloads.display());
    let template = format!("{{{{$v := getv \"/app/name\"}}}}{{{{range {LINES}}}}}{{{{$v}}}}\n{{{{end}}}}");
    site.resource("a", &["/app".to_owned()], &template, &reload)?;
    site.resource("b", &["/other".to_owned()], "{{getv \"/other\"}}", "")?;
    let confd = site.command(&subject.store(network.address(STORE)), &["-watch"])?;
    let mut inside = Command::new(&network.wrapper(CONFD)[0]);
    inside.args(&network.wrapper(CONFD)[1..]).arg(confd.as_std().get_program()).args(confd.as_std().get_args());
    let mut confd = Running::start(inside)?;
    watched.until("one", &confd).await?;

    // Connections live through it, and what was sent meanwhile arrives.
    network.part(CONFD, STORE)?;
    subject.set("/app/name", "two").await?;
    subject.set("/app/name", "three").await?;
    subject.forget().await?;
    watched.stays("one").await?;
    network.heal()?;
    watched.until("three", &confd).await?;

    forget_the_dead(&network)?;
    // The store is another process when it is over, and has forgotten; nobody tells confd that its connection is none.
    network.part(CONFD, STORE)?;
    subject.set("/app/name", "four").await?;
    subject.restart().await?;
    subject.set("/app/name", "five").await?;
    subject.forget().await?;
    watched.stays("three").await?;
    network.heal()?;
    watched.until("five", &confd).await?;
    subject.set("/app/name", "six").await?;
    watched.until("six", &confd).await?;
    ensure!(read(&site.out("b")) == "x" && !confd.has_ended()?, "{}", confd.log());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn network_that_is_parted_loses_no_change_of_the_v3_api() -> Result<()> {
    survives_a_partition("etcdv3").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn network_that_is_parted_loses_no_change_of_the_v2_api() -> Result<()> {
    survives_a_partition("etcd").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn network_that_is_parted_loses_no_change_of_metad() -> Result<()> {
    survives_a_partition("metad").await
}
