//! One client that reads and writes keys which others use too.

use super::{CALL_DEADLINE, Connection, LoadOptions, MAX_OPS, RETRIES, RETRY_PAUSE, Shared};
use crate::Client;
use crate::history::{Action, Answer, KeyValue, Op, Outcome};
use api::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, compare, request_op, response_op,
};
use api::mvccpb;
use bytes::Bytes;
use rand::Rng;
use rand::rngs::SmallRng;
use rand::{SeedableRng, random};
use std::collections::HashMap;
use std::time::Instant;
use tonic::{Code, Status};

/// Prefix of the keys.
const PREFIX: &str = "k/";

/// Client number of the reads at the end.
const LAST_READER: usize = 2000;

/// What a client did.
#[derive(Debug, Default)]
pub(super) struct Record {
    pub(super) ops: Vec<Op>,
    pub(super) failed_requests: usize,
}

/// Reads and writes until the load stops.
pub(super) async fn run(mut shared: Shared, number: usize, options: LoadOptions) -> Record {
    let mut user = User {
        number,
        count: 0,
        options,
        rng: SmallRng::seed_from_u64(random()),
        known: HashMap::new(),
        record: Record::default(),
    };
    let mut connection = Connection::new(&shared.endpoints, number);
    // Half of the clients have one address only.
    let moves = number.is_multiple_of(2);
    while !shared.is_stopping() && user.record.ops.len() < MAX_OPS {
        let started = Instant::now();
        while !user.attempt(&shared, &mut connection).await {
            connection.lost(moves);
            if started.elapsed() > shared.patience * RETRIES {
                user.record.failed_requests += usize::from(moves);
                break;
            }
            if shared.is_stopping() {
                break;
            }
            shared.pause(RETRY_PAUSE).await;
        }
        shared.pause(user.options.pause).await;
    }
    user.record
}

/// A read of all keys through one endpoint after everything has ended.
pub(super) async fn last_read(shared: &Shared, endpoint: usize, end: i64) -> Option<Op> {
    let mut connection = Connection::new(&shared.endpoints, endpoint);
    let client = connection.client().await?;
    let action = Action::Get { key: PREFIX.to_owned(), prefix: true, serializable: false };
    let call = shared.now();
    let answer = tokio::time::timeout(CALL_DEADLINE, perform(client, &action)).await.ok()?.ok()?;
    let (endpoint, ret) = (connection.endpoint(), shared.now());
    // An operation of unknown outcome may have taken effect after the end.
    let within = answer.revision <= end;
    within.then_some(Op { client: LAST_READER, endpoint, call, ret, action, outcome: Outcome::Ok(answer) })
}

struct User {
    number: usize,
    count: u64,
    options: LoadOptions,
    rng: SmallRng,
    /// Mod revision and value of each key, as last read; 0 for an absent one.
    known: HashMap<String, (i64, Option<String>)>,
    record: Record,
}

impl User {
    /// One call of any kind. False when it got no answer.
    async fn attempt(&mut self, shared: &Shared, connection: &mut Connection) -> bool {
        let Some(client) = connection.client().await else { return false };
        let action = self.choose();
        let call = shared.now();
        let outcome = match tokio::time::timeout(shared.patience, perform(client, &action)).await {
            Ok(Ok(answer)) => Outcome::Ok(answer),
            Ok(Err(status)) => failure(&status),
            Err(_) => Outcome::Unknown("no answer in time".to_owned()),
        };
        let endpoint = connection.endpoint();
        let op = Op { client: self.number, endpoint, call, ret: shared.now(), action, outcome };
        self.learn(&op);
        let answered = op.answer().is_some();
        self.record.ops.push(op);
        answered
    }

    fn choose(&mut self) -> Action {
        self.count += 1;
        let key = self.key();
        let value = format!("{}-{}", self.number, self.count);
        if self.rng.random_range(0..100) >= self.options.writes {
            return match self.rng.random_range(0..4) {
                0 => Action::Get { key, prefix: false, serializable: true },
                1 => Action::Get { key: PREFIX.to_owned(), prefix: true, serializable: false },
                _ => Action::Get { key, prefix: false, serializable: false },
            };
        }
        match self.rng.random_range(0..100) {
            0..10 => Action::Delete { key },
            10..20 => {
                let other = self.key();
                if other == key {
                    return Action::Put { key, value, lease: 0, want_prev: false };
                }
                Action::PutBoth { keys: [key, other], value }
            }
            20..45 => {
                let (expected, expected_value) = self.known.get(&key).cloned().unwrap_or((0, None));
                Action::Cas { key, expected, expected_value, value }
            }
            other => Action::Put { key, value, lease: 0, want_prev: other % 2 == 0 },
        }
    }

    fn key(&mut self) -> String {
        format!("{PREFIX}{}", self.rng.random_range(0..self.options.keys))
    }

    /// Remembers what the key was, for a compare with it.
    fn learn(&mut self, op: &Op) {
        let Some(answer) = op.answer() else { return };
        match &op.action {
            Action::Get { key, prefix: false, .. } => self.remember(key, answer.kvs.first()),
            Action::Cas { key, .. } if !answer.succeeded => self.remember(key, answer.kvs.first()),
            Action::Put { key, value, .. } | Action::Cas { key, value, .. } => {
                self.known.insert(key.clone(), (answer.revision, Some(value.clone())));
            }
            _ => {}
        }
    }

    fn remember(&mut self, key: &str, kv: Option<&KeyValue>) {
        let known = kv.map_or((0, None), |kv| (kv.modified, Some(kv.value.clone())));
        self.known.insert(key.to_owned(), known);
    }
}

/// What a refusal says about the effect. Only codes that etcd gives before it proposes anything are certain.
pub(super) fn failure(status: &Status) -> Outcome {
    let text = status.to_string();
    match status.code() {
        Code::InvalidArgument
        | Code::NotFound
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::ResourceExhausted
        | Code::PermissionDenied
        | Code::Unimplemented => Outcome::Failed(text),
        _ => Outcome::Unknown(text),
    }
}

fn request_put(key: &str, value: &str) -> RequestOp {
    let put = PutRequest { key: bytes(key), value: bytes(value), ..Default::default() };
    RequestOp { request: Some(request_op::Request::RequestPut(put)) }
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// Makes the call of an action.
pub(super) async fn perform(mut client: Client, action: &Action) -> Result<Answer, Status> {
    let revision = |header: Option<api::etcdserverpb::ResponseHeader>| header.map_or(0, |header| header.revision);
    match action {
        Action::Put { key, value, lease, want_prev } => {
            let request = PutRequest {
                key: bytes(key),
                value: bytes(value),
                lease: *lease,
                prev_kv: *want_prev,
                ..Default::default()
            };
            let answer = client.kv.put(request).await?.into_inner();
            let prev = answer.prev_kv.iter().map(key_value).collect();
            Ok(Answer { revision: revision(answer.header), prev, ..Answer::default() })
        }
        Action::Get { key, prefix, serializable } => {
            let range_end = if *prefix { prefix_end(key) } else { Bytes::new() };
            let request =
                RangeRequest { key: bytes(key), range_end, serializable: *serializable, ..Default::default() };
            let answer = client.kv.range(request).await?.into_inner();
            let kvs = answer.kvs.iter().map(key_value).collect();
            Ok(Answer { revision: revision(answer.header), kvs, ..Answer::default() })
        }
        Action::Delete { key } => {
            let request = DeleteRangeRequest { key: bytes(key), prev_kv: true, ..Default::default() };
            let answer = client.kv.delete_range(request).await?.into_inner();
            let prev = answer.prev_kvs.iter().map(key_value).collect();
            Ok(Answer { revision: revision(answer.header), prev, deleted: answer.deleted, ..Answer::default() })
        }
        Action::PutBoth { keys, value } => {
            let success = keys.iter().map(|key| request_put(key, value)).collect();
            transact(client, TxnRequest { success, ..Default::default() }).await
        }
        Action::Cas { key, expected, value, .. } => {
            let compare = Compare {
                result: compare::CompareResult::Equal.into(),
                target: compare::CompareTarget::Mod.into(),
                key: bytes(key),
                target_union: Some(compare::TargetUnion::ModRevision(*expected)),
                ..Default::default()
            };
            let read = RangeRequest { key: bytes(key), ..Default::default() };
            let failure = vec![RequestOp { request: Some(request_op::Request::RequestRange(read)) }];
            let success = vec![request_put(key, value)];
            transact(client, TxnRequest { compare: vec![compare], success, failure }).await
        }
    }
}

async fn transact(mut client: Client, request: TxnRequest) -> Result<Answer, Status> {
    let answer = client.kv.txn(request).await?.into_inner();
    let read = answer.responses.into_iter().find_map(|op| match op.response {
        Some(response_op::Response::ResponseRange(range)) => Some(range.kvs),
        _ => None,
    });
    let kvs = read.unwrap_or_default().iter().map(key_value).collect();
    let revision = answer.header.map_or(0, |header| header.revision);
    Ok(Answer { revision, kvs, succeeded: answer.succeeded, ..Answer::default() })
}

/// The first key behind a prefix that does not end with the highest byte.
fn prefix_end(prefix: &str) -> Bytes {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end.into()
}

/// A key-value of the wire as plain data; the load writes text only.
pub(super) fn key_value(kv: &mvccpb::KeyValue) -> KeyValue {
    KeyValue {
        key: String::from_utf8_lossy(&kv.key).into_owned(),
        value: String::from_utf8_lossy(&kv.value).into_owned(),
        create: kv.create_revision,
        modified: kv.mod_revision,
        version: kv.version,
        lease: kv.lease,
    }
}
