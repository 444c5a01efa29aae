//! What the store must answer, in the plainest way: the whole state after every revision is a map of its own.

use api::cleatpb::Command;
use api::cleatpb::command::Op;
use api::encoded::{
    DeleteRangeResponse, KeyValue, KeyValueFields, PutResponse, RangeResponse, Response, ResponseOp, TxnResponse,
};
use api::etcdserverpb::compare::TargetUnion;
use api::etcdserverpb::request_op::Request;
use api::etcdserverpb::{Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, ResponseHeader, TxnRequest};
use std::collections::{BTreeMap, BTreeSet};
use store::{Outcome, Rejection, Reply};

type Key = Vec<u8>;

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Kv {
    create: i64,
    changed: i64,
    version: i64,
    value: Vec<u8>,
    pub(crate) lease: i64,
}

type State = BTreeMap<Key, Kv>;

/// A change: the key, its new key-value unless it was deleted, and whether the put created it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Event {
    pub(crate) key: Key,
    pub(crate) kv: Option<Kv>,
    pub(crate) created: bool,
}

#[derive(Default)]
pub(crate) struct Model {
    pub(crate) revision: i64,
    pub(crate) compacted: i64,
    /// The state after each revision.
    pub(crate) states: BTreeMap<i64, State>,
    /// The changes of each revision; never compacted.
    pub(crate) history: BTreeMap<i64, Vec<Event>>,
    pub(crate) leases: BTreeMap<i64, (i64, i64)>,
}

pub(crate) fn encode(key: &[u8], kv: &Kv) -> KeyValue {
    KeyValueFields {
        key,
        create_revision: kv.create,
        mod_revision: kv.changed,
        version: kv.version,
        value: &kv.value,
        lease: kv.lease,
    }
    .encode()
}

/// The bytes that are stored for a change.
fn stored(event: &Event) -> KeyValue {
    match &event.kv {
        Some(kv) => encode(&event.key, kv),
        None => KeyValueFields { key: &event.key, ..Default::default() }.encode(),
    }
}

fn inside(key: &[u8], start: &[u8], end: &[u8]) -> bool {
    match end {
        [] => key == start,
        [0] => key >= start,
        end => start <= key && key < end,
    }
}

#[allow(clippy::unnecessary_wraps, reason = "a message field is an `Option`")]
fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision, ..Default::default() })
}

/// A transaction under way.
struct Work<'a> {
    model: &'a Model,
    state: State,
    events: Vec<Event>,
}

impl Model {
    pub(crate) fn new() -> Self {
        Self { revision: 1, compacted: -1, states: BTreeMap::from([(1, State::new())]), ..Self::default() }
    }

    pub(crate) fn current(&self) -> &State {
        &self.states[&self.revision]
    }

    pub(crate) fn apply(&mut self, command: &Command) -> Outcome {
        let result = self.result(command.op.as_ref().expect("an operation"));
        Outcome { revision: self.revision, result }
    }

    fn result(&mut self, op: &Op) -> Result<Reply, Rejection> {
        match op {
            Op::Put(put) => self.write(|work| work.put(put).map(|r| Reply::Put(PutResponse { header: None, ..r }))),
            Op::DeleteRange(delete) => {
                self.write(|work| Ok(Reply::DeleteRange(DeleteRangeResponse { header: None, ..work.delete(delete) })))
            }
            Op::Txn(txn) => self.write(|work| work.txn(txn).map(Reply::Txn)),
            Op::Compaction(request) => {
                if request.revision <= self.compacted {
                    return Err(Rejection::Compacted);
                }
                if request.revision > self.revision {
                    return Err(Rejection::FutureRevision);
                }
                self.compacted = request.revision;
                Ok(Reply::Compaction)
            }
            Op::LeaseGrant(request) => {
                if self.leases.contains_key(&request.id) {
                    return Err(Rejection::LeaseExists);
                }
                self.leases.insert(request.id, (request.ttl, 0));
                Ok(Reply::LeaseGrant { id: request.id, ttl: request.ttl })
            }
            Op::LeaseRevoke(request) => {
                self.leases.remove(&request.id).ok_or(Rejection::LeaseNotFound)?;
                let keys = self.lease_keys(request.id);
                self.write(|work| {
                    for key in keys {
                        work.delete(&DeleteRangeRequest { key: key.into(), ..Default::default() });
                    }
                    Ok(Reply::LeaseRevoke)
                })
            }
            Op::LeaseCheckpoint(request) => {
                for checkpoint in &request.checkpoints {
                    if let Some(lease) = self.leases.get_mut(&checkpoint.id) {
                        lease.1 = checkpoint.remaining_ttl;
                    }
                }
                Ok(Reply::LeaseCheckpoint)
            }
            other => unreachable!("not generated: {other:?}"),
        }
    }

    pub(crate) fn lease_keys(&self, id: i64) -> Vec<Key> {
        self.current().iter().filter(|(_, kv)| kv.lease == id).map(|(key, _)| key.clone()).collect()
    }

    fn write(&mut self, body: impl FnOnce(&mut Work<'_>) -> Result<Reply, Rejection>) -> Result<Reply, Rejection> {
        let mut work = Work { model: self, state: self.current().clone(), events: Vec::new() };
        let reply = body(&mut work)?;
        let (state, events) = (work.state, work.events);
        if !events.is_empty() {
            self.revision += 1;
            self.states.insert(self.revision, state);
            self.history.insert(self.revision, events);
        }
        Ok(reply)
    }

    /// A transaction that only reads.
    pub(crate) fn read_txn(&self, request: &TxnRequest) -> Result<TxnResponse, Rejection> {
        Work { model: self, state: self.current().clone(), events: Vec::new() }.txn(request)
    }

    pub(crate) fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Rejection> {
        let revision = if request.revision <= 0 { self.revision } else { request.revision };
        if revision > self.revision {
            return Err(Rejection::FutureRevision);
        }
        if revision < self.compacted {
            return Err(Rejection::Compacted);
        }
        Ok(range(&self.states[&revision], request))
    }

    /// etcd's hash, from the full history.
    pub(crate) fn hash(&self, revision: i64) -> u32 {
        let kept_at = if self.states[&revision].is_empty() { self.compacted } else { revision };
        let mut hash = crc32c::crc32c(b"key");
        for (main, events) in self.history.range(..=revision) {
            for (sub, event) in events.iter().enumerate() {
                let visible = || {
                    let last = events.iter().rposition(|other| other.key == event.key) == Some(sub);
                    let kv = self.states.get(&kept_at).and_then(|state| state.get(&event.key));
                    last && kv.is_some_and(|kv| kv.changed == *main)
                };
                if *main > self.compacted || visible() {
                    hash = crc32c::crc32c_append(hash, &main.to_be_bytes());
                    hash = crc32c::crc32c_append(hash, b"_");
                    hash = crc32c::crc32c_append(hash, &(sub as u64).to_be_bytes());
                    hash = crc32c::crc32c_append(hash, if event.kv.is_none() { b"t" } else { b"" });
                    hash = crc32c::crc32c_append(hash, stored(event).as_bytes());
                }
            }
        }
        hash
    }

    /// Bytes that are left when the compaction is finished.
    pub(crate) fn stored_bytes(&self) -> u64 {
        let mut sum = 0;
        for (main, events) in &self.history {
            for (sub, event) in events.iter().enumerate() {
                let newest = || {
                    let later = |events: &[Event]| events.iter().any(|other| other.key == event.key);
                    let superseded = later(&events[sub + 1..])
                        || self.history.range(main + 1..).any(|(m, e)| *m <= self.compacted && later(e));
                    !superseded && (event.kv.is_some() || *main == self.compacted)
                };
                if *main > self.compacted || newest() {
                    sum += stored(event).as_bytes().len() as u64 + 32;
                }
            }
        }
        sum
    }

    /// The changes from a revision on. Of the compacted revision itself only the last change of each key is certain.
    pub(crate) fn events(&self, from: i64) -> Vec<(i64, Vec<Event>)> {
        let changes = self.history.range(from..).map(|(revision, events)| (*revision, events.clone()));
        changes.map(|(revision, events)| (revision, certain(revision, self.compacted, events))).collect()
    }
}

/// The events of a revision that a compaction may not have removed.
pub(crate) fn certain(revision: i64, compacted: i64, events: Vec<Event>) -> Vec<Event> {
    if revision > compacted {
        return events;
    }
    let mut seen = BTreeSet::new();
    let mut last: Vec<Event> = events.into_iter().rev().filter(|event| seen.insert(event.key.clone())).collect();
    last.reverse();
    last
}

fn range(state: &State, request: &RangeRequest) -> RangeResponse {
    let mut found: Vec<(&Key, &Kv)> =
        state.iter().filter(|(key, _)| inside(key, &request.key, &request.range_end)).collect();
    let count = found.len() as i64;
    let limit = request.limit.max(0) as usize;
    let bounds =
        [request.min_mod_revision, request.max_mod_revision, request.min_create_revision, request.max_create_revision];
    if limit > 0 && request.sort_order == 0 && bounds == [0; 4] {
        found.truncate(limit + 1);
    }
    let [min_mod, max_mod, min_create, max_create] = bounds;
    found.retain(|(_, kv)| {
        (min_mod == 0 || kv.changed >= min_mod)
            && (max_mod == 0 || kv.changed <= max_mod)
            && (min_create == 0 || kv.create >= min_create)
            && (max_create == 0 || kv.create <= max_create)
    });
    let descending = request.sort_order == 2;
    found.sort_by(|a, b| {
        let order = match request.sort_target {
            0 => a.0.cmp(b.0),
            1 => a.1.version.cmp(&b.1.version),
            2 => a.1.create.cmp(&b.1.create),
            3 => a.1.changed.cmp(&b.1.changed),
            _ => a.1.value.cmp(&b.1.value),
        };
        if descending { order.reverse() } else { order }
    });
    let mut more = false;
    if request.count_only {
        found.clear();
    }
    if limit > 0 && found.len() > limit {
        found.truncate(limit);
        more = true;
    }
    let kvs = found.into_iter().map(|(key, kv)| {
        let value = if request.keys_only { Vec::new() } else { kv.value.clone() };
        encode(key, &Kv { value, ..kv.clone() })
    });
    RangeResponse { header: None, kvs: kvs.collect(), more, count }
}

impl Work<'_> {
    fn revision(&self) -> i64 {
        self.model.revision + i64::from(!self.events.is_empty())
    }

    fn put(&mut self, request: &PutRequest) -> Result<PutResponse, Rejection> {
        if request.lease != 0 && !self.model.leases.contains_key(&request.lease) {
            return Err(Rejection::LeaseNotFound);
        }
        let key = request.key.to_vec();
        let old = self.state.get(&key).cloned();
        if old.is_none() && (request.ignore_value || request.ignore_lease) {
            return Err(Rejection::KeyNotFound);
        }
        let revision = self.model.revision + 1;
        let before = old.clone().unwrap_or(Kv { create: revision, ..Kv::default() });
        let kv = Kv {
            create: before.create,
            changed: revision,
            version: before.version + 1,
            value: if request.ignore_value { before.value } else { request.value.to_vec() },
            lease: if request.ignore_lease { before.lease } else { request.lease },
        };
        self.state.insert(key.clone(), kv.clone());
        self.events.push(Event { key: key.clone(), kv: Some(kv), created: old.is_none() });
        let prev_kv = old.filter(|_| request.prev_kv).map(|old| encode(&key, &old));
        Ok(PutResponse { header: header(revision), prev_kv })
    }

    fn delete(&mut self, request: &DeleteRangeRequest) -> DeleteRangeResponse {
        let hit = |key: &Key| inside(key, &request.key, &request.range_end);
        let keys: Vec<Key> = self.state.keys().filter(|key| hit(key)).cloned().collect();
        let mut prev_kvs = Vec::new();
        for key in &keys {
            let old = self.state.remove(key).expect("it was just found");
            if request.prev_kv {
                prev_kvs.push(encode(key, &old));
            }
            self.events.push(Event { key: key.clone(), kv: None, created: false });
        }
        DeleteRangeResponse { header: header(self.revision()), deleted: keys.len() as i64, prev_kvs }
    }

    fn txn(&mut self, request: &TxnRequest) -> Result<TxnResponse, Rejection> {
        let before = self.state.clone();
        check(self.model, &before, request, true)?;
        check(self.model, &before, request, false)?;
        self.run(&before, request)
    }

    fn run(&mut self, before: &State, request: &TxnRequest) -> Result<TxnResponse, Rejection> {
        let (succeeded, ops) = branch(before, request);
        let mut responses = Vec::new();
        for op in ops {
            let response = match op.request.as_ref().expect("an operation") {
                Request::RequestPut(put) => Response::Put(self.put(put)?),
                Request::RequestDeleteRange(delete) => Response::DeleteRange(self.delete(delete)),
                Request::RequestTxn(nested) => {
                    let nested = self.run(before, nested)?;
                    Response::Txn(TxnResponse { header: Some(ResponseHeader::default()), ..nested })
                }
                Request::RequestRange(request) => {
                    let state = match request.revision {
                        at if at > 0 => &self.model.states[&at],
                        _ => &self.state,
                    };
                    Response::Range(RangeResponse { header: header(self.revision()), ..range(state, request) })
                }
            };
            responses.push(ResponseOp { response: Some(response) });
        }
        Ok(TxnResponse { header: None, succeeded, responses })
    }
}

/// The branch that a transaction takes.
fn branch<'a>(before: &State, request: &'a TxnRequest) -> (bool, &'a [RequestOp]) {
    if request.compare.iter().all(|compare| holds(before, compare)) {
        (true, &request.success)
    } else {
        (false, &request.failure)
    }
}

/// Checks the puts, or else the ranges, of the branches that will run.
fn check(model: &Model, before: &State, request: &TxnRequest, puts: bool) -> Result<(), Rejection> {
    for op in branch(before, request).1 {
        match op.request.as_ref().expect("an operation") {
            Request::RequestPut(put) if puts => {
                if (put.ignore_value || put.ignore_lease) && !before.contains_key(&put.key.to_vec()) {
                    return Err(Rejection::KeyNotFound);
                }
                if put.lease != 0 && !model.leases.contains_key(&put.lease) {
                    return Err(Rejection::LeaseNotFound);
                }
            }
            Request::RequestRange(range) if !puts && range.revision > model.revision => {
                return Err(Rejection::FutureRevision);
            }
            Request::RequestRange(range) if !puts && range.revision != 0 && range.revision < model.compacted => {
                return Err(Rejection::Compacted);
            }
            Request::RequestTxn(nested) => check(model, before, nested, puts)?,
            _ => {}
        }
    }
    Ok(())
}

fn holds(before: &State, compare: &Compare) -> bool {
    let hit = |key: &Key| inside(key, &compare.key, &compare.range_end);
    let kvs: Vec<Kv> = before.iter().filter(|(key, _)| hit(key)).map(|(_, kv)| kv.clone()).collect();
    let one = |kv: &Kv| {
        let order = match compare.target_union.as_ref().expect("an operand") {
            TargetUnion::Version(given) => kv.version.cmp(given),
            TargetUnion::CreateRevision(given) => kv.create.cmp(given),
            TargetUnion::ModRevision(given) => kv.changed.cmp(given),
            TargetUnion::Lease(given) => kv.lease.cmp(given),
            TargetUnion::Value(given) => (*kv.value).cmp(given),
        };
        match compare.result {
            0 => order.is_eq(),
            1 => order.is_gt(),
            2 => order.is_lt(),
            _ => order.is_ne(),
        }
    };
    if kvs.is_empty() { compare.target != 3 && one(&Kv::default()) } else { kvs.iter().all(one) }
}
