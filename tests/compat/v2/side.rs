//! One of the two servers, and the connections to it.

use super::answer::{Answer, Names};
use super::op::{Own, Request};
use super::wire::{Connection, Head};
use super::world::World;
use anyhow::{Context, Result, bail, ensure};
use harness::{Kind, Options, Server};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Watches at the same time.
pub(crate) const SLOTS: usize = 5;
/// Requests of a race.
pub(crate) const RACERS: usize = 4;

/// Every answer comes within milliseconds, unless the machine stalls.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);
/// A key is gone half a second after it has expired.
const EXPIRY_DEADLINE: Duration = Duration::from_secs(20);
/// What expires within this time is waited for.
const SOON_SECONDS: i64 = 100;
const POLL: Duration = Duration::from_millis(20);

/// A server with its connections.
#[derive(Debug)]
pub(crate) struct Side {
    server: Server,
    /// One for requests, and those for races.
    connections: Vec<Option<Connection>>,
    watches: Vec<Option<Watch>>,
    names: Names,
    own: Own,
}

/// A request whose answer goes on.
#[derive(Debug)]
struct Watch {
    connection: Connection,
    head: Head,
    body: Vec<u8>,
}

impl Side {
    /// Starts a server, in memory where the system offers it, and waits until it has founded its cluster.
    pub(crate) async fn start(kind: Kind) -> Result<Self> {
        let memory = Path::new("/dev/shm");
        let parent = memory.is_dir().then(|| memory.to_owned());
        let flags = vec!["--enable-v2=true".to_owned()];
        let server = Server::start_with(kind, Options { parent, flags, ..Options::default() }).await?;
        let connections = (0..=RACERS).map(|_| None).collect();
        let watches = (0..SLOTS).map(|_| None).collect();
        let mut side = Self { server, connections, watches, names: Names::default(), own: Own::default() };
        let deadline = Instant::now() + ANSWER_DEADLINE;
        // Deciding the version of the cluster is a write to the same store.
        while side.json("/version").await?["etcdcluster"] == "not_decided" {
            ensure!(Instant::now() < deadline, "{kind}: the cluster has no version");
            tokio::time::sleep(POLL).await;
        }
        let member =
            side.json("/v2/members").await?["members"][0]["id"].as_str().context("no id of a member")?.to_owned();
        let root = side.ask(&Request::new("GET", "/v2/keys"), &World::default()).await?.context("no answer")?;
        let cluster = root.header("x-etcd-cluster-id").context("no id of the cluster")?.to_owned();
        side.names.pairs = vec![
            (side.server.client_url(), "http://CLIENT"),
            (side.server.peer_url(), "http://PEER"),
            (member.clone(), "MEMBER"),
            (cluster, "CLUSTER"),
        ];
        side.names.counted = side.counters().await?;
        side.own = Own { member, peer_url: side.server.peer_url() };
        Ok(side)
    }

    async fn json(&mut self, path: &str) -> Result<Value> {
        let answer = self.ask(&Request::new("GET", path), &World::default()).await?.context("no answer")?;
        serde_json::from_str(&answer.body).with_context(|| format!("{path}: {answer:?}"))
    }

    /// What the server counted so far.
    async fn counters(&mut self) -> Result<BTreeMap<String, i64>> {
        let counters = self.json("/v2/stats/store").await?;
        let fields = counters.as_object().context("no object")?;
        Ok(fields.iter().filter_map(|(name, value)| Some((name.clone(), value.as_i64()?))).collect())
    }

    pub(crate) fn kind(&self) -> Kind {
        self.server.kind()
    }

    /// The server's log, when it has died.
    pub(crate) fn death(&mut self) -> Option<String> {
        (!self.server.is_running()).then(|| self.server.log_tail())
    }

    /// Sends a request and returns the comparable answer; none if none comes.
    pub(crate) async fn ask(&mut self, request: &Request, world: &World) -> Result<Option<Answer>> {
        let address = self.server.endpoint();
        ask(&address, &mut self.connections[0], request, world, &self.own, &self.names).await
    }

    /// Sends requests at the same time. The answers are sorted.
    pub(crate) async fn race(&mut self, requests: &[Request], world: &World) -> Result<Vec<Option<Answer>>> {
        let address = self.server.endpoint();
        let (names, own) = (&self.names, &self.own);
        let racing = self.connections[1..]
            .iter_mut()
            .zip(requests)
            .map(|(connection, request)| ask(&address, connection, request, world, own, names));
        let mut answers = futures::future::try_join_all(racing).await?;
        answers.sort_by_key(|answer| format!("{answer:?}"));
        Ok(answers)
    }

    /// Sends a request that may be answered for long, and returns what came at once: the head of an answer that goes on,
    /// or all of an error.
    pub(crate) async fn watch(&mut self, slot: usize, request: &Request, world: &World) -> Result<Option<Answer>> {
        self.watches[slot] = None;
        let mut connection = Connection::open(&self.server.endpoint()).await?;
        let bytes = request.bytes(world, &self.own);
        let Ok(head) = tokio::time::timeout(ANSWER_DEADLINE, connection.send(&bytes)).await else { return Ok(None) };
        let head = head.with_context(|| format!("{}: {request}", self.kind()))?;
        let mut body = Vec::new();
        if head.status != 200 {
            connection.take(&mut body, ANSWER_DEADLINE).await?;
            return Ok(Some(Answer::new(&head, &body, connection.closes, false, &self.names)));
        }
        let answer = Answer::new(&head, &[], connection.closes, false, &self.names);
        self.watches[slot] = Some(Watch { connection, head, body });
        Ok(Some(answer))
    }

    pub(crate) fn leave(&mut self, slot: usize) {
        self.watches[slot] = None;
    }

    /// What a watch has got so far, and whether it is over. Waits until nothing came for so long.
    pub(crate) async fn watched(&mut self, slot: usize, quiet: Duration) -> Result<Option<(Answer, bool)>> {
        let Some(watch) = &mut self.watches[slot] else { return Ok(None) };
        watch.connection.take(&mut watch.body, quiet).await?;
        let answer = Answer::new(&watch.head, &watch.body, watch.connection.closes, false, &self.names);
        Ok(Some((answer, watch.connection.is_over())))
    }

    /// Waits until keys that expire soon are gone.
    pub(crate) async fn wait_expired(&mut self, keys: &[String], world: &World) -> Result<()> {
        let deadline = Instant::now() + EXPIRY_DEADLINE;
        for key in keys {
            let request = Request::new("GET", format!("/v2/keys{key}"));
            loop {
                let Some(answer) = self.ask(&request, world).await? else { bail!("{}: no answer", self.kind()) };
                // The first is when the node itself expires, if it does.
                let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() as i64;
                if answer.seconds.first().is_none_or(|expiration| *expiration > now + SOON_SECONDS) {
                    break;
                }
                ensure!(Instant::now() < deadline, "{}: {key} does not expire: {answer:?}", self.kind());
                tokio::time::sleep(POLL).await;
            }
        }
        Ok(())
    }
}

/// Sends a request over a connection that is kept for the next, if there is one.
async fn ask(
    address: &str,
    kept: &mut Option<Connection>,
    request: &Request,
    world: &World,
    own: &Own,
    names: &Names,
) -> Result<Option<Answer>> {
    let is_fresh = kept.is_none();
    let mut connection = match kept.take() {
        Some(connection) => connection,
        None => Connection::open(address).await?,
    };
    let bytes = request.bytes(world, own);
    let Ok(sent) = tokio::time::timeout(ANSWER_DEADLINE, connection.send(&bytes)).await else { return Ok(None) };
    let head = match sent {
        Ok(head) => head,
        Err(error) if is_fresh => return Err(error.context(format!("{request}"))),
        // It was closed meanwhile, without an answer to this. If it was done nevertheless, this tells why indexes differ.
        Err(error) => {
            eprintln!("{address}: {request} is sent again: {error:#}");
            connection = Connection::open(address).await?;
            connection.send(&bytes).await.with_context(|| format!("{request}"))?
        }
    };
    let mut body = Vec::new();
    connection.take(&mut body, ANSWER_DEADLINE).await?;
    if !connection.is_over() {
        return Ok(None);
    }
    let answer = Answer::new(&head, &body, connection.closes, request.is_sorted(), names);
    if !connection.closes {
        *kept = Some(connection);
    }
    Ok(Some(answer))
}
