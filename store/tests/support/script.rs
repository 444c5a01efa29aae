//! The language of the script tests: one command a line, keys and values are bare words.
//!
//! ```text
//! put KEY VALUE [lease=N] [prev] [ignore_value] [ignore_lease]
//! del KEYS [prev]                                      KEYS: k | a..c | a..   (the last one has no end)
//! range KEYS [rev=N] [limit=N] [target=version|create|mod|value] [order=asc|desc] [keys_only] [count_only]
//!       [min_mod=N] [max_mod=N] [min_create=N] [max_create=N]
//! txn COMPARE... [then OP; ...] [else OP; ...]         COMPARE: if TARGET KEYS =|!=|<|> OPERAND
//!                                                      OP: put, del, range, or txn in parentheses
//! compact REV | grant ID TTL | revoke ID | checkpoint ID SECONDS | publish MEMBER NAME
//! alarm raise|clear|list nospace|corrupt|all [MEMBER]
//! batch COMMAND & COMMAND...                           one log entry with several commands
//! lease ID | leases | alarms | member ID | hash [REV] | events from=N [max=BYTES] | previous KEY REV | status
//! flush | compact_step KEYS | finish | reopen | defragment | reimport
//! ```
//!
//! `""` is the empty word, `\0` a zero byte.

use super::{Member, command, compaction, grant, revoke};
use api::cleatpb::MemberAttributes;
use api::cleatpb::command::Op;
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
    let mut out = String::new();
    match name {
        "range" => match member.reader().range(&range(&mut words)) {
            Ok((response, revision)) => write!(out, "{} @{revision}", show_range(&response)).unwrap(),
            Err(error) => out.push_str(&refused(&error)),
        },
        "read_txn" => match member.reader().txn(&txn(&mut words)) {
            Ok((response, revision)) => write!(out, "{} @{revision}", show_txn(&response)).unwrap(),
            Err(error) => out.push_str(&refused(&error)),
        },
        "lease" => {
            let id = number(&mut words);
            let keys: Vec<_> = member.reader().lease_keys(id).iter().map(|key| show(key)).collect();
            match member.reader().lease(id).0 {
                Some(l) => {
                    write!(out, "ttl={} remaining={} keys=[{}]", l.ttl, l.remaining_ttl, keys.join(" ")).unwrap()
                }
                None => out.push_str("none"),
            }
        }
        "leases" => {
            let ids: Vec<_> = member.reader().leases().iter().map(|(id, _)| id.to_string()).collect();
            out = format!("[{}]", ids.join(" "));
        }
        "alarms" => out = show_alarms(&member.reader().alarms(0)),
        "member" => match member.reader().member(number(&mut words) as u64) {
            Some(m) => write!(out, "{} {:?}", m.name, m.client_urls).unwrap(),
            None => out.push_str("none"),
        },
        "hash" => match member.reader().hash_kv(words.pop_front().map_or(0, |w| w.parse().unwrap())) {
            Ok(h) => write!(out, "{} rev={} compacted={} @{}", h.hash, h.revision, h.compacted, h.current).unwrap(),
            Err(error) => out.push_str(&refused(&error)),
        },
        "events" => out = events(member, &mut words),
        "previous" => {
            let key = bytes(words.pop_front().expect("a key"));
            match member.reader().previous(&key, number(&mut words)).unwrap() {
                Some(kv) => out = show_kv(&kv),
                None => out.push_str("none"),
            }
        }
        "status" => {
            let s = member.reader().status();
            write!(out, "rev={} compacted={} finished={} ", s.revision, s.compacted, s.compaction_finished).unwrap();
            write!(out, "keys={} leases={} tail={} ", s.keys, s.leases, s.tail_changes).unwrap();
            write!(out, "stored={} applied={} durable={}", s.stored_bytes, s.applied.index, s.durable.index).unwrap();
        }
        "flush" => {
            let f = member.flusher().flush().unwrap();
            write!(out, "changes={} deleted={} finished={:?}", f.changes, f.deleted, f.compaction_finished).unwrap();
        }
        "compact_step" => out = format!("{}", member.flusher().compact_step(number(&mut words) as usize)),
        "finish" => member.finish_compaction(),
        "reopen" => member.reopen(),
        "reimport" => member.reimport(),
        "defragment" => member.flusher().defragment().unwrap(),
        "batch" => {
            let rest = line.trim_start_matches("batch");
            let ops = rest.split('&').map(|part| {
                let mut words: VecDeque<&str> = part.split_whitespace().collect();
                let name = words.pop_front().expect("a command");
                command(op(name, &mut words).unwrap_or_else(|| panic!("no command: {part}")))
            });
            let applied = member.apply_entry(ops.collect());
            let shown: Vec<_> = applied.outcomes[0].iter().map(show_outcome).collect();
            out = format!("{}{}", shown.join(" & "), show_applied(&applied));
        }
        _ => {
            let op = op(name, &mut words).unwrap_or_else(|| panic!("no command: {line}"));
            let (outcome, applied) = member.apply(op);
            out = format!("{}{}", show_outcome(&outcome), show_applied(&applied));
        }
    }
    if out.is_empty() {
        out.push_str("done");
    }
    assert!(words.is_empty() || name == "batch", "not understood in `{line}`: {words:?}");
    out
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
        }),
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

fn keys(words: &mut VecDeque<&str>) -> (Vec<u8>, Vec<u8>) {
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

fn show(bytes: &[u8]) -> String {
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
        Ok(Reply::Compaction | Reply::LeaseRevoke | Reply::LeaseCheckpoint) => "ok".into(),
        Ok(Reply::MemberAttributes | Reply::Nothing) => "ok".into(),
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
