//! Kills the server again and again under load, and checks what its users rely on.
//!
//! Writers own their keys and write one after the other, so the last acknowledged value of each is known.
//! Watchers resume behind the last revision that they have seen. At the end the server's own history from
//! revision 1 is the reference: every acknowledged write is in it at its revision, and every watcher has seen
//! exactly it, in order. `CLEAT_CRASH_ROUNDS` sets the number of kills.

use anyhow::{Context, Result, ensure};
use api::etcdserverpb::watch_request::RequestUnion;
use api::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, WatchCreateRequest, WatchRequest, request_op,
};
use bytes::Bytes;
use futures::StreamExt;
use harness::{Client, Kind, Server};
use rand::Rng;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinHandle;

const DEFAULT_ROUNDS: usize = 10;
const WRITERS: usize = 6;
const WATCHERS: usize = 2;
/// Keys of one writer: few, so that most writes are overwritten and history matters.
const KEYS: u64 = 16;
const CALL_DEADLINE: Duration = Duration::from_secs(10);
const CATCH_UP_DEADLINE: Duration = Duration::from_mins(1);

/// One change of one key; `None` is a delete.
type Change = (Bytes, Option<Bytes>);
/// Changes by revision, in the order in which they were told.
type History = BTreeMap<i64, Vec<Change>>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_lose_nothing_that_was_acknowledged() -> Result<()> {
    let rounds = std::env::var("CLEAT_CRASH_ROUNDS").map_or(Ok(DEFAULT_ROUNDS), |text| text.parse())?;
    let mut server = Server::start(Kind::Cleat).await?;
    let (finish, finished) = watch::channel(None);
    let url = server.client_url();
    let watchers: Vec<_> = (0..WATCHERS).map(|_| tokio::spawn(follow(url.clone(), finished.clone()))).collect();
    let mut writers: Vec<Writer> = (0..WRITERS).map(Writer::new).collect();
    let mut acknowledged = 0;
    for round in 0..rounds {
        let tasks: Vec<_> = writers.drain(..).map(|w| tokio::spawn(w.run(url.clone()))).collect();
        let load = Duration::from_millis(rand::rng().random_range(50..800));
        // Not a wait for something: the length of the load is the random part of the test.
        tokio::time::sleep(load).await;
        server.kill()?;
        writers = join(tasks).await?;
        acknowledged = writers.iter().map(|w| w.acknowledged.len()).sum();
        server.restart().await.with_context(|| format!("restart in round {round}"))?;
        let mut client = server.client().await?;
        let newest = writers.iter().filter_map(|w| w.acknowledged.keys().next_back()).max().copied().unwrap_or(1);
        let current = revision(&mut client).await?;
        if current < newest {
            let later = settled_revision(&mut client, newest).await?;
            anyhow::bail!(
                "round {round}: acknowledged revision {newest}, a read after the kill was at {current}, later {later}"
            );
        }
    }
    let mut client = server.client().await?;
    let current = revision(&mut client).await?;
    let reference = read_history(client, current).await?;
    for writer in &writers {
        writer.check(&reference)?;
    }
    finish.send(Some(current))?;
    for watcher in watchers {
        let seen = watcher.await??;
        ensure!(seen.len() == reference.len(), "a watcher saw {} revisions of {}", seen.len(), reference.len());
        ensure!(seen == reference, "a watcher saw other changes than the history has");
    }
    eprintln!("{rounds} kills, {acknowledged} acknowledged writes, {} revisions", reference.len());
    Ok(())
}

async fn join(tasks: Vec<JoinHandle<Writer>>) -> Result<Vec<Writer>> {
    let mut writers = Vec::with_capacity(tasks.len());
    for task in tasks {
        writers.push(task.await?);
    }
    Ok(writers)
}

/// The revision of a linearizable read: `Status` may answer while a restarted member still applies its log.
async fn revision(client: &mut Client) -> Result<i64> {
    let request = RangeRequest { key: Bytes::from_static(b"any"), ..Default::default() };
    let range = client.kv.range(request).await?.into_inner();
    Ok(range.header.context("a range has a header")?.revision)
}

/// What the revision becomes in a while: tells a stale read from lost data.
async fn settled_revision(client: &mut Client, expected: i64) -> Result<i64> {
    let deadline = Instant::now() + Duration::from_secs(3);
    loop {
        let current = revision(client).await?;
        if current >= expected || Instant::now() > deadline {
            return Ok(current);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A client that writes to keys of its own until the server is gone.
struct Writer {
    id: usize,
    count: u64,
    /// What each acknowledged revision must contain.
    acknowledged: History,
}

impl Writer {
    fn new(id: usize) -> Self {
        Self { id, count: 0, acknowledged: History::new() }
    }

    async fn run(mut self, url: String) -> Self {
        if let Ok(mut client) = Client::connect(&url).await {
            // A write without an answer may or may not have happened; the value is never used again.
            while self.write(&mut client).await.is_some() {}
        }
        self
    }

    async fn write(&mut self, client: &mut Client) -> Option<()> {
        self.count += 1;
        let (id, count) = (self.id, self.count);
        let key = Bytes::from(format!("{id}/{}", count % KEYS));
        let value = Bytes::from(format!("{id}-{count}"));
        let (changes, revision) = match count % 8 {
            0 => {
                let request = DeleteRangeRequest { key: key.clone(), ..Default::default() };
                let answer = tokio::time::timeout(CALL_DEADLINE, client.kv.delete_range(request)).await.ok()?.ok()?;
                let answer = answer.into_inner();
                let changes = if answer.deleted == 0 { Vec::new() } else { vec![(key, None)] };
                (changes, answer.header?.revision)
            }
            1 | 2 => {
                let second = Bytes::from(format!("{id}/second"));
                let put = |key: &Bytes| {
                    let put = PutRequest { key: key.clone(), value: value.clone(), ..Default::default() };
                    RequestOp { request: Some(request_op::Request::RequestPut(put)) }
                };
                let request = TxnRequest { success: vec![put(&key), put(&second)], ..Default::default() };
                let answer = tokio::time::timeout(CALL_DEADLINE, client.kv.txn(request)).await.ok()?.ok()?;
                let changes = vec![(key, Some(value.clone())), (second, Some(value))];
                (changes, answer.into_inner().header?.revision)
            }
            _ => {
                let request = PutRequest { key: key.clone(), value: value.clone(), ..Default::default() };
                let answer = tokio::time::timeout(CALL_DEADLINE, client.kv.put(request)).await.ok()?.ok()?;
                (vec![(key, Some(value))], answer.into_inner().header?.revision)
            }
        };
        if !changes.is_empty() {
            self.acknowledged.insert(revision, changes);
        }
        Some(())
    }

    fn check(&self, reference: &History) -> Result<()> {
        for (revision, changes) in &self.acknowledged {
            let found = reference.get(revision);
            ensure!(found == Some(changes), "revision {revision}: acknowledged {changes:?}, history has {found:?}");
        }
        Ok(())
    }
}

/// Watches everything from `from` on, and hands each response's changes to `take` until it returns true.
async fn watch_from(
    mut client: Client,
    from: i64,
    mut take: impl FnMut(&mut History, i64) -> bool,
    seen: &mut History,
) -> Result<()> {
    let create = WatchCreateRequest {
        key: Bytes::from_static(b"\0"),
        range_end: Bytes::from_static(b"\0"),
        start_revision: from,
        ..Default::default()
    };
    let first = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    let requests = futures::stream::iter([first]).chain(futures::stream::pending());
    let mut responses = client.watch.watch(requests).await?.into_inner();
    while let Some(response) = responses.message().await? {
        ensure!(!response.canceled, "a watch was cancelled: {response:?}");
        for event in response.events {
            let kv = event.kv.context("an event has a key")?;
            let newest = seen.last_key_value().map_or(0, |(revision, _)| *revision);
            ensure!(kv.mod_revision >= newest, "an event at {} after {newest}", kv.mod_revision);
            let value = (event.r#type == 0).then_some(kv.value);
            let changes = seen.entry(kv.mod_revision).or_default();
            ensure!(!changes.iter().any(|(key, _)| *key == kv.key), "revision {} was told twice", kv.mod_revision);
            changes.push((kv.key, value));
        }
        let newest = seen.last_key_value().map_or(0, |(revision, _)| *revision);
        if take(seen, newest) {
            return Ok(());
        }
    }
    anyhow::bail!("the watch stream ended")
}

/// The whole history up to a revision, as a new watcher is told it.
async fn read_history(client: Client, until: i64) -> Result<History> {
    let mut seen = History::new();
    if until > 1 {
        let reading = watch_from(client, 1, |_, newest| newest >= until, &mut seen);
        tokio::time::timeout(CATCH_UP_DEADLINE, reading).await.context("the history did not arrive in time")??;
    }
    Ok(seen)
}

/// A watcher that survives kills: it connects again and continues behind what it has seen.
async fn follow(url: String, mut finished: watch::Receiver<Option<i64>>) -> Result<History> {
    let mut seen = History::new();
    loop {
        let until = *finished.borrow_and_update();
        let newest = seen.last_key_value().map_or(0, |(revision, _)| *revision);
        if until.is_some_and(|until| newest >= until) {
            return Ok(seen);
        }
        let Ok(client) = Client::connect(&url).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let from = newest + 1;
        tokio::select! {
            ended = watch_from(client, from, |_, newest| until.is_some_and(|until| newest >= until), &mut seen) => {
                // The server was killed; anything that breaks a promise is not about the connection.
                if let Err(error) = ended && error.downcast_ref::<tonic::Status>().is_none() {
                    return Err(error);
                }
            }
            changed = finished.changed() => changed?,
        }
    }
}
