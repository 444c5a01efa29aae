//! The language of the script tests: one command a line, keys and values are bare words.
//!
//! ```text
//! put KEY VALUE [lease=N] [prev] [ignore_value] [ignore_lease]
//! del KEYS [prev]                                      KEYS: k | a..c | a..   (the last one has no end)
//! range KEYS [rev=N] [limit=N] [target=version|create|mod|value] [order=asc|desc] [keys_only] [count_only]
//!       [min_mod=N] [max_mod=N] [min_create=N] [max_create=N]
//! txn COMPARE... [then OP; ...] [else OP; ...]         COMPARE: if TARGET KEYS =|!=|<|> OPERAND
//!                                                      OP: put, del, range, or txn in parentheses
//! compact REV | grant ID TTL | revoke ID | checkpoint ID SECONDS | publish MEMBER NAME | remove MEMBER
//! alarm raise|clear|list nospace|corrupt|all [MEMBER]
//! as USER[@REVISION] COMMAND                           a user's; without a revision the latest
//! own COMMAND                                          the member's own
//! and what `auth` has                                  users, roles, permissions
//! batch COMMAND & COMMAND...                           one log entry with several commands
//! lease ID | leases | alarms | member ID | removed | hash [REV] | events from=N [max=BYTES] | previous KEY REV | status
//! flush | compact_step KEYS | finish | reopen | defragment | reimport
//! ```
//!
//! `""` is the empty word, `\0` a zero byte.

use super::auth::{self, header};
use super::{Member, compaction, grant, revoke};
use api::cleatpb::command::Op;
use api::cleatpb::{Command, MemberAttributes, MemberRemoved};
use api::encoded::{KeyValue, RangeResponse, Response, TxnResponse};
use api::etcdserverpb::compare::TargetUnion;
use api::etcdserverpb::request_op::Request;
use api::etcdserverpb::{
    AlarmRequest, Compare, DeleteRangeRequest, LeaseCheckpoint, LeaseCheckpointRequest, PutRequest, RangeRequest,
    RequestOp, TxnRequest,
};
use std::collections::VecDeque;
use std::fmt::Write;
use store::{Applied, Change, Outcome, ReadError, Reply};

pub(crate) fn run(member: &mut Member, line: &str) -> String {
    let mut words: VecDeque<&str> = line.split_whitespace().collect();
    let name = words.pop_front().expect("a command");
    let out = if let Some(answer) = read(member, name, &mut words) {
        answer
    } else if let Some(answer) = auth::read(member, name, &mut words) {
        answer
    } else if let Some(answer) = maintain(member, name, &mut words) {
        answer
    } else {
        let rest = line.strip_prefix("batch").unwrap_or(line);
        words.clear();
        let commands = rest.split(" & ").map(|part| {
            let mut words: VecDeque<&str> = part.split_whitespace().collect();
            let header = header(member, &mut words);
            let name = words.pop_front().expect("a command");
            let op = op(name, &mut words).or_else(|| auth::op(name, &mut words));
            let op = op.unwrap_or_else(|| panic!("no command: {part}"));
            assert!(words.is_empty(), "not understood in `{part}`: {words:?}");
            Command { header, op: Some(op) }
        });
        let commands = commands.collect();
        let applied = member.apply_entry(commands);
        let shown: Vec<_> = applied.outcomes[0].iter().map(show_outcome).collect();
        format!("{}{}", shown.join(" & "), show_applied(&applied))
    };
    assert!(words.is_empty(), "not understood in `{line}`: {words:?}");
    out
}

/// The commands that only read.
fn read(member: &Member, name: &str, words: &mut VecDeque<&str>) -> Option<String> {
    let reader = member.reader();
    Some(match name {
        "range" => match reader.range(&range(words)) {
            Ok((response, revision)) => format!("{} @{revision}", show_range(&response)),
            Err(error) => refused(&error),
        },
        "read_txn" => match reader.txn(&txn(words)) {
            Ok((response, revision)) => format!("{} @{revision}", show_txn(&response)),
            Err(error) => refused(&error),
        },
        "lease" => {
            let id = number(words);
            let keys: Vec<_> = reader.lease_keys(id).iter().map(|key| show(key)).collect();
            reader.lease(id).0.map_or("none".into(), |lease| {
                format!("ttl={} remaining={} keys=[{}]", lease.ttl, lease.remaining_ttl, keys.join(" "))
            })
        }
        "leases" => {
            let ids: Vec<_> = reader.leases().iter().map(|(id, _)| id.to_string()).collect();
            format!("[{}]", ids.join(" "))
        }
        "alarms" => show_alarms(&reader.alarms(0)),
        "member" => {
            let member = reader.member(number(words) as u64);
            member.map_or("none".into(), |member| format!("{} {:?}", member.name, member.client_urls))
        }
        "removed" => format!("{:?}", reader.removed_members()),
        "hash" => match reader.hash_kv(words.pop_front().map_or(0, |word| word.parse().unwrap())) {
            Ok(h) => format!("{} rev={} compacted={} @{}", h.hash, h.revision, h.compacted, h.current),
            Err(error) => refused(&error),
        },
        "events" => events(member, words),
        "previous" => {
            let key = bytes(words.pop_front().expect("a key"));
            reader.previous(&key, number(words)).unwrap().map_or("none".into(), |kv| show_kv(&kv))
        }
        "status" => {
            let s = reader.status();
            let revisions = format!("rev={} compacted={} finished={}", s.revision, s.compacted, s.compaction_finished);
            let sizes =
                format!("keys={} leases={} tail={} stored={}", s.keys, s.leases, s.tail_changes, s.stored_bytes);
            format!("{revisions} {sizes} applied={} durable={}", s.applied.index, s.durable.index)
        }
        _ => return None,
    })
}

/// The commands that change nothing that a client can see.
fn maintain(member: &mut Member, name: &str, words: &mut VecDeque<&str>) -> Option<String> {
    match name {
        "flush" => {
            let f = member.flusher().flush().unwrap();
            return Some(format!("changes={} deleted={} finished={:?}", f.changes, f.deleted, f.compaction_finished));
        }
        "compact_step" => return Some(member.flusher().compact_step(number(words) as usize).to_string()),
        "finish" => member.finish_compaction(),
        "reopen" => member.reopen(),
        "reimport" => member.reimport(),
        "defragment" => {
            // As the server does it.
            member.flusher().flush().unwrap();
            member.flusher().defragment().unwrap().unwrap();
        }
        _ => return None,
    }
    Some("done".into())
}

fn events(member: &Member, words: &mut VecDeque<&str>) -> String {
    let (mut from, mut max) = (0, usize::MAX);
    while let Some((name, value)) = words.pop_front().map(|w| w.split_once('=').expect("name=value")) {
        match name {
            "from" => from = value.parse().unwrap(),
            _ => max = value.parse().unwrap(),
        }
    }
    match member.reader().past(from, max) {
        Ok(past) => {
            let changes: Vec<_> = past.changes.iter().map(show_change).collect();
            format!("[{}] next={} @{}", changes.join(" "), past.next, past.current)
        }
        Err(error) => refused(&error),
    }
}

/// A replicated command.
fn op(name: &str, words: &mut VecDeque<&str>) -> Option<Op> {
    Some(match name {
        "put" => Op::Put(put(words)),
        "del" => Op::DeleteRange(delete(words)),
        "txn" => Op::Txn(txn(words)),
        "compact" => compaction(number(words)),
        "grant" => grant(number(words), number(words)),
        "revoke" => revoke(number(words)),
        "checkpoint" => Op::LeaseCheckpoint(LeaseCheckpointRequest {
            checkpoints: vec![LeaseCheckpoint { id: number(words), remaining_ttl: number(words) }],
        }),
        "publish" => Op::MemberAttributes(MemberAttributes {
            member_id: number(words) as u64,
            name: words.pop_front().expect("a name").into(),
            client_urls: vec!["http://localhost:2379".into()],
            ..Default::default()
        }),
        "remove" => Op::MemberRemoved(MemberRemoved { member_id: number(words) as u64 }),
        "alarm" => {
            let action = ["list", "raise", "clear"].iter().position(|a| words.front() == Some(a)).expect("an action");
            words.pop_front();
            let alarm = ["all", "nospace", "corrupt"].iter().position(|a| words.front() == Some(a)).expect("an alarm");
            words.pop_front();
            let member_id = words.pop_front().map_or(0, |word| word.parse().unwrap());
            Op::Alarm(AlarmRequest { action: action as i32, member_id, alarm: alarm as i32 })
        }
        _ => return None,
    })
}

fn number(words: &mut VecDeque<&str>) -> i64 {
    words.pop_front().expect("a number").parse().unwrap()
}

pub(crate) fn bytes(word: &str) -> Vec<u8> {
    if word == "\"\"" { Vec::new() } else { word.replace("\\0", "\0").into_bytes() }
}

pub(crate) fn keys(words: &mut VecDeque<&str>) -> (Vec<u8>, Vec<u8>) {
    let word = words.pop_front().expect("keys");
    match word.split_once("..") {
        None => (bytes(word), Vec::new()),
        Some((key, "")) => (bytes(key), vec![0]),
        Some((key, end)) => (bytes(key), bytes(end)),
    }
}

/// True at the end of an operation's words.
fn ends(words: &VecDeque<&str>) -> bool {
    matches!(words.front(), None | Some(&(")" | "then" | "else" | ";")))
}

fn put(words: &mut VecDeque<&str>) -> PutRequest {
    let key = bytes(words.pop_front().expect("a key"));
    let value = bytes(words.pop_front().expect("a value"));
    let mut request = PutRequest { key: key.into(), value: value.into(), ..Default::default() };
    while !ends(words) {
        match words.pop_front().expect("a word") {
            "prev" => request.prev_kv = true,
            "ignore_value" => request.ignore_value = true,
            "ignore_lease" => request.ignore_lease = true,
            word => request.lease = word.strip_prefix("lease=").expect("an option of put").parse().unwrap(),
        }
    }
    request
}

fn delete(words: &mut VecDeque<&str>) -> DeleteRangeRequest {
    let (key, range_end) = keys(words);
    let mut request = DeleteRangeRequest { key: key.into(), range_end: range_end.into(), prev_kv: false };
    while !ends(words) {
        assert_eq!(words.pop_front(), Some("prev"));
        request.prev_kv = true;
    }
    request
}

fn range(words: &mut VecDeque<&str>) -> RangeRequest {
    let (key, range_end) = keys(words);
    let mut request = RangeRequest { key: key.into(), range_end: range_end.into(), ..Default::default() };
    while !ends(words) {
        let word = words.pop_front().expect("a word");
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        let number = || value.parse().unwrap();
        let place = |names: &[&str]| names.iter().position(|name| *name == value).expect("a known name") as i32;
        match name {
            "rev" => request.revision = number(),
            "limit" => request.limit = number(),
            "min_mod" => request.min_mod_revision = number(),
            "max_mod" => request.max_mod_revision = number(),
            "min_create" => request.min_create_revision = number(),
            "max_create" => request.max_create_revision = number(),
            "target" => request.sort_target = place(&["key", "version", "create", "mod", "value"]),
            "order" => request.sort_order = place(&["none", "asc", "desc"]),
            "keys_only" => request.keys_only = true,
            "count_only" => request.count_only = true,
            other => panic!("not an option of range: {other}"),
        }
    }
    request
}

fn txn(words: &mut VecDeque<&str>) -> TxnRequest {
    let mut request = TxnRequest::default();
    while words.front() == Some(&"if") {
        words.pop_front();
        request.compare.push(compare(words));
    }
    for (branch, ops) in [("then", &mut request.success), ("else", &mut request.failure)] {
        if words.front() == Some(&branch) {
            words.pop_front();
            loop {
                ops.push(request_op(words));
                if words.front() != Some(&";") {
                    break;
                }
                words.pop_front();
            }
        }
    }
    request
}

fn request_op(words: &mut VecDeque<&str>) -> RequestOp {
    let request = match words.pop_front().expect("an operation") {
        "put" => Request::RequestPut(put(words)),
        "del" => Request::RequestDeleteRange(delete(words)),
        "range" => Request::RequestRange(range(words)),
        "(" => {
            assert_eq!(words.pop_front(), Some("txn"));
            let nested = txn(words);
            assert_eq!(words.pop_front(), Some(")"));
            Request::RequestTxn(nested)
        }
        other => panic!("not an operation: {other}"),
    };
    RequestOp { request: Some(request) }
}

fn compare(words: &mut VecDeque<&str>) -> Compare {
    let target = words.pop_front().expect("a target");
    let (key, range_end) = keys(words);
    let relation = words.pop_front().expect("a relation");
    let result = ["=", ">", "<", "!="].iter().position(|r| *r == relation).expect("a relation") as i32;
    let operand = words.pop_front().expect("an operand");
    let (target, target_union) = match target {
        "version" => (0, TargetUnion::Version(operand.parse().unwrap())),
        "create" => (1, TargetUnion::CreateRevision(operand.parse().unwrap())),
        "mod" => (2, TargetUnion::ModRevision(operand.parse().unwrap())),
        "value" => (3, TargetUnion::Value(bytes(operand).into())),
        _ => (4, TargetUnion::Lease(operand.parse().unwrap())),
    };
    Compare { result, target, key: key.into(), range_end: range_end.into(), target_union: Some(target_union) }
}

fn refused(error: &ReadError) -> String {
    match error {
        ReadError::Rejected(rejection) => format!("refused: {}", rejection.text()),
        ReadError::Fault(fault) => panic!("{fault}"),
    }
}

pub(crate) fn show(bytes: &[u8]) -> String {
    if bytes.is_empty() { "\"\"".into() } else { String::from_utf8_lossy(bytes).replace('\0', "\\0") }
}

/// `key=value (create mod version)`, and the lease.
pub(crate) fn show_kv(kv: &KeyValue) -> String {
    let f = kv.fields().unwrap();
    let lease = if f.lease == 0 { String::new() } else { format!(" lease={}", f.lease) };
    format!("{}={} ({} {} {}{lease})", show(f.key), show(f.value), f.create_revision, f.mod_revision, f.version)
}

fn show_kvs(kvs: &[KeyValue]) -> String {
    format!("[{}]", kvs.iter().map(show_kv).collect::<Vec<_>>().join(", "))
}

fn show_range(response: &RangeResponse) -> String {
    format!("{} count={}{}", show_kvs(&response.kvs), response.count, if response.more { " more" } else { "" })
}

fn show_alarms(alarms: &[api::etcdserverpb::AlarmMember]) -> String {
    let names = ["none", "nospace", "corrupt"];
    let shown: Vec<_> = alarms.iter().map(|a| format!("{}@{}", names[a.alarm as usize], a.member_id)).collect();
    format!("[{}]", shown.join(" "))
}

fn show_txn(response: &TxnResponse) -> String {
    let revision = |header: &Option<api::etcdserverpb::ResponseHeader>| header.map_or(-1, |h| h.revision);
    let mut out = if response.succeeded { "then".to_owned() } else { "else".to_owned() };
    for op in &response.responses {
        match op.response.as_ref().expect("an answer") {
            Response::Put(put) => {
                write!(out, " | put #{}", revision(&put.header)).unwrap();
                if let Some(kv) = &put.prev_kv {
                    write!(out, " prev {}", show_kv(kv)).unwrap();
                }
            }
            Response::DeleteRange(del) => {
                write!(out, " | deleted {} #{}", del.deleted, revision(&del.header)).unwrap();
                if !del.prev_kvs.is_empty() {
                    write!(out, " prev {}", show_kvs(&del.prev_kvs)).unwrap();
                }
            }
            Response::Range(range) => write!(out, " | {} #{}", show_range(range), revision(&range.header)).unwrap(),
            Response::Txn(txn) => write!(out, " | ( {} #{} )", show_txn(txn), revision(&txn.header)).unwrap(),
        }
    }
    out
}

fn show_outcome(outcome: &Outcome) -> String {
    let reply = match &outcome.result {
        Err(rejection) => format!("refused: {}", rejection.text()),
        Ok(Reply::Put(put)) => put.prev_kv.as_ref().map_or("ok".into(), |kv| format!("prev {}", show_kv(kv))),
        Ok(Reply::DeleteRange(del)) if del.prev_kvs.is_empty() => format!("deleted {}", del.deleted),
        Ok(Reply::DeleteRange(del)) => format!("deleted {} prev {}", del.deleted, show_kvs(&del.prev_kvs)),
        Ok(Reply::Txn(txn)) => show_txn(txn),
        Ok(Reply::LeaseGrant { id, ttl }) => format!("lease {id} ttl={ttl}"),
        Ok(Reply::Alarm(alarms)) => show_alarms(alarms),
        Ok(_) => "ok".into(),
    };
    format!("{reply} @{}", outcome.revision)
}

fn show_change(change: &Change) -> String {
    let events = change.events.iter().map(|event| {
        let kind = match (event.deleted, event.created) {
            (true, false) => "delete",
            (false, true) => "create",
            (false, false) => "put",
            (true, true) => "delete and create",
        };
        format!("{kind} {}", show_kv(&event.kv))
    });
    format!("{}:{{{}}}", change.revision, events.collect::<Vec<_>>().join(", "))
}

/// The events and notices of a command, on lines of their own.
fn show_applied(applied: &Applied) -> String {
    let changes = applied.changes.iter().map(|change| format!("\n  event {}", show_change(change)));
    let notices = applied.notices.iter().map(|notice| format!("\n  notice {notice:?}"));
    changes.chain(notices).collect()
}
