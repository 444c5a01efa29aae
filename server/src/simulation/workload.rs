//! Clients: each asks one member at a time, writes values that nobody else writes, and tells the checker what it heard.

use super::Cluster;
use super::checker::Event;
use super::member::Process;
use super::random::Random;
use super::report::note;
use crate::auth::Credentials;
use crate::watch::stream::WatchStream;
use api::cleatpb::command::Op;
use api::encoded::WatchResponse;
use api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use api::etcdserverpb::request_op::Request;
use api::etcdserverpb::{
    Compare, DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest, PutRequest, RangeRequest, RequestOp,
    TxnRequest, WatchCreateRequest,
};
use std::sync::Arc;
use std::time::Duration;
use store::Reply;
use tokio::time::Instant;

/// Keys are few, so that clients meet.
const KEYS: usize = 6;
/// Seconds.
const LEASE_TTLS: [i64; 3] = [2, 3, 5];
/// Some values are long, so that logs and snapshots are.
const LONG_VALUE: usize = 3000;
/// What makes them long.
pub(crate) const PADDING: char = '.';

/// One client, until the cluster is told to end.
pub(crate) async fn client(number: usize, cluster: Cluster, mut random: Random) {
    let mut count = 0;
    let mut lease = None;
    while !cluster.is_over() {
        tokio::time::sleep(random.duration(Duration::from_millis(1), Duration::from_millis(80))).await;
        let Some(process) = cluster.pick(&mut random) else { continue };
        count += 1;
        let padding = if random.happens(0.3) { random.below(LONG_VALUE) } else { 0 };
        // Some clients wait for less than a request may take: then its fate is not known.
        let patience = random.duration(Duration::from_millis(300), Duration::from_secs(3));
        let client = Client { number, count, padding, patience, cluster: &cluster, process };
        let key = format!("k{}", random.below(KEYS)).into_bytes();
        match random.below(10) {
            0..=3 => client.put(key, 0).await,
            4 => client.delete(key).await,
            5 => client.txn(key).await,
            6 => lease = client.live_on(lease, key, &mut random).await,
            _ => client.read(key).await,
        }
    }
}

struct Client<'a> {
    number: usize,
    count: u64,
    padding: usize,
    patience: Duration,
    cluster: &'a Cluster,
    process: Process,
}

impl Client<'_> {
    fn member(&self) -> u64 {
        self.process.node.identity().member_id
    }

    fn value(&self) -> Vec<u8> {
        let padding = PADDING.to_string().repeat(self.padding);
        format!("c{}-{}{padding}", self.number, self.count).into_bytes()
    }

    /// Proposes; none when the answer is not known, because it was an error or the process went before it came.
    async fn propose(&self, op: Op) -> Option<store::Outcome> {
        let name = format!("c{}-{}", self.number, self.count);
        note!(self.cluster.trace(), "{name} asks {}", self.member());
        let outcome = tokio::time::timeout(self.patience, self.process.node.propose(op)).await;
        let is_gone = self.process.stop.is_cancelled();
        match outcome {
            Ok(Ok(outcome)) if !is_gone => {
                note!(self.cluster.trace(), "{name} got {}", outcome.revision);
                Some(outcome)
            }
            Ok(Ok(_)) | Err(_) => {
                note!(self.cluster.trace(), "{name} has no answer");
                self.cluster.history().lost_track();
                None
            }
            Ok(Err(error)) => {
                note!(self.cluster.trace(), "{name} failed: {error}");
                self.cluster.history().lost_track();
                None
            }
        }
    }

    async fn put(&self, key: Vec<u8>, lease: i64) {
        let floor = self.cluster.history().known();
        let value = self.value();
        let put = PutRequest { key: key.clone().into(), value: value.clone().into(), lease, ..PutRequest::default() };
        let Some(outcome) = self.propose(Op::Put(put)).await else { return };
        match outcome.result {
            Ok(_) => self.cluster.history().wrote(floor, outcome.revision, &[Event { key, value: Some(value) }]),
            // The lease is gone.
            Err(_) => self.cluster.history().wrote(floor, outcome.revision, &[]),
        }
    }

    async fn delete(&self, key: Vec<u8>) {
        let floor = self.cluster.history().known();
        let delete = DeleteRangeRequest { key: key.clone().into(), ..DeleteRangeRequest::default() };
        let Some(outcome) = self.propose(Op::DeleteRange(delete)).await else { return };
        let deleted = matches!(outcome.result, Ok(Reply::DeleteRange(answer)) if answer.deleted > 0);
        let expected = deleted.then_some(Event { key, value: None });
        self.cluster.history().wrote(floor, outcome.revision, expected.as_slice());
    }

    /// Writes two keys if the first exists, and one if it does not.
    async fn txn(&self, key: Vec<u8>) {
        let floor = self.cluster.history().known();
        let put = |key: &[u8], value: Vec<u8>| {
            let put = PutRequest { key: key.to_vec().into(), value: value.into(), ..PutRequest::default() };
            RequestOp { request: Some(Request::RequestPut(put)) }
        };
        let (value, second) = (self.value(), format!("c{}-{}-too", self.number, self.count).into_bytes());
        let also = b"txn".to_vec();
        let exists = Compare {
            result: CompareResult::Greater as i32,
            target: CompareTarget::Version as i32,
            key: key.clone().into(),
            target_union: Some(TargetUnion::Version(0)),
            ..Compare::default()
        };
        let txn = TxnRequest {
            compare: vec![exists],
            success: vec![put(&key, value.clone()), put(&also, second.clone())],
            failure: vec![put(&key, value.clone())],
        };
        let Some(outcome) = self.propose(Op::Txn(txn)).await else { return };
        let Ok(Reply::Txn(answer)) = outcome.result else {
            return self.cluster.history().fail(format!("a transaction was answered with {:?}", outcome.result));
        };
        let mut expected = vec![Event { key, value: Some(value) }];
        if answer.succeeded {
            expected.push(Event { key: also, value: Some(second) });
        }
        self.cluster.history().wrote(floor, outcome.revision, &expected);
    }

    async fn read(&self, key: Vec<u8>) {
        let history = self.cluster.history();
        let floor = history.known();
        if !self.cluster.setup.skips_read_barrier {
            match tokio::time::timeout(self.patience, self.process.node.read_barrier()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return note!(self.cluster.trace(), "a read of {} failed: {error}", self.member()),
                Err(_) => return note!(self.cluster.trace(), "a read of {} has no answer", self.member()),
            }
        }
        if self.process.stop.is_cancelled() {
            return;
        }
        let range = RangeRequest { key: key.clone().into(), ..RangeRequest::default() };
        let (answer, revision) = self.process.node.reader().range(&range).expect("the store works");
        let value = answer.kvs.first().map(|kv| kv.fields().expect("the store encoded it").value.to_vec());
        note!(self.cluster.trace(), "a read of {} saw {revision}", self.member());
        history.read(floor, revision, &key, value.as_deref());
    }

    /// Grants a lease and attaches a key to it, or does what holders of a lease do.
    async fn live_on(&self, lease: Option<i64>, key: Vec<u8>, random: &mut Random) -> Option<i64> {
        let history = self.cluster.history();
        let asked = Instant::now();
        let Some(id) = lease else {
            let id = (self.number as i64 + 1) * 1_000_000 + self.count as i64;
            let ttl = *random.pick(&LEASE_TTLS);
            let outcome = self.propose(Op::LeaseGrant(LeaseGrantRequest { ttl, id })).await?;
            if outcome.result.is_ok() {
                history.promised(id, asked, ttl);
                self.put(key, id).await;
                return Some(id);
            }
            return None;
        };
        if random.happens(0.1) {
            history.gave_up(id);
            self.propose(Op::LeaseRevoke(LeaseRevokeRequest { id })).await;
            return None;
        }
        if random.happens(0.1) {
            // Its keys go when its time is over.
            return None;
        }
        let ttl = self.keep_alive(id).await?;
        note!(self.cluster.trace(), "lease {id} lives for {ttl}");
        if ttl == 0 || self.process.stop.is_cancelled() {
            return None;
        }
        history.promised(id, asked, ttl);
        Some(id)
    }

    async fn keep_alive(&self, id: i64) -> Option<i64> {
        let answer =
            tokio::time::timeout(self.patience, self.process.leases.keep_alive(&Credentials::default(), id)).await;
        answer.ok()?.ok().map(|answer| answer.ttl)
    }
}

/// Watches everything on one member after the other, and goes on from where it was as a client does.
pub(crate) async fn watcher(cluster: Cluster, mut random: Random) {
    let mut next = 2;
    while !cluster.is_over() || next <= cluster.history().last() {
        let Some(process) = cluster.pick(&mut random) else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let until = Instant::now() + random.duration(Duration::from_millis(500), Duration::from_secs(5));
        next = watch(&cluster, &process, next, until).await;
    }
}

async fn watch(cluster: &Cluster, process: &Process, mut next: i64, until: Instant) -> i64 {
    let node = process.node.clone();
    let header = Arc::new(move |revision| node.header(revision));
    let member = process.node.identity().member_id;
    let mut stream = WatchStream::new(Arc::clone(&process.hub), process.node.reader().clone(), header, 1 << 20);
    let all = vec![0].into();
    stream.create(&WatchCreateRequest {
        key: vec![0].into(),
        range_end: all,
        start_revision: next,
        ..Default::default()
    });
    loop {
        while let Some(response) = stream.pop() {
            next = take(cluster, member, next, &response);
        }
        if process.stop.is_cancelled() || Instant::now() >= until {
            return next;
        }
        if stream.has_unsynced() {
            stream.catch_up().await.expect("the store works");
            continue;
        }
        let filled = tokio::select! {
            biased;
            () = process.stop.cancelled() => false,
            () = stream.filled() => true,
            () = tokio::time::sleep_until(until) => false,
        };
        if filled {
            stream.collect().expect("the store works");
        }
    }
}

/// Hands the events of a response to the checker, revision by revision.
fn take(cluster: &Cluster, member: u64, mut next: i64, response: &WatchResponse) -> i64 {
    let mut of_one = Vec::new();
    let mut events = response.events.iter().peekable();
    while let Some(event) = events.next() {
        let fields = event.kv.as_ref().map(|kv| kv.fields().expect("the store encoded it")).unwrap_or_default();
        let is_delete = event.kind != 0;
        of_one.push(Event { key: fields.key.to_vec(), value: (!is_delete).then(|| fields.value.to_vec()) });
        let following = events.peek().and_then(|event| event.kv.as_ref()?.fields().ok()).map(|kv| kv.mod_revision);
        if following != Some(fields.mod_revision) {
            cluster.history().watched(member, next, fields.mod_revision, &of_one);
            next = fields.mod_revision + 1;
            of_one.clear();
        }
    }
    next
}
