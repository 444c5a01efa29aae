//! Histories that are wrong in one place, and what the checker says about them.

use super::{Report, Rule, check};
use crate::history::{
    Action, Answer, Event, History, KeyValue, LeaseAction, LeaseOp, Nanos, Op, Outcome, SECOND, Said, WatchLog,
    WatchRecord,
};

const LEASE: i64 = 7;
const TTL: i64 = 2;

fn kv(key: &str, value: &str, create: i64, modified: i64, version: i64) -> KeyValue {
    KeyValue { key: key.to_owned(), value: value.to_owned(), create, modified, version, lease: 0 }
}

fn leased(key: &str, value: &str, modified: i64) -> KeyValue {
    KeyValue { lease: LEASE, ..kv(key, value, modified, modified, 1) }
}

fn put(kv: &KeyValue, prev: Option<&KeyValue>) -> Event {
    Event { put: true, kv: kv.clone(), prev: prev.cloned() }
}

fn delete(prev: &KeyValue, modified: i64) -> Event {
    let kv = KeyValue { key: prev.key.clone(), modified, ..KeyValue::default() };
    Event { put: false, kv, prev: Some(prev.clone()) }
}

fn op(call: Nanos, action: Action, outcome: Outcome) -> Op {
    Op { client: 0, endpoint: String::new(), call, ret: call + 5, action, outcome }
}

fn answer(revision: i64) -> Answer {
    Answer { revision, ..Answer::default() }
}

fn put_of(key: &str, value: &str) -> Action {
    Action::Put { key: key.to_owned(), value: value.to_owned(), lease: 0, want_prev: true }
}

fn get_of(key: &str, serializable: bool) -> Action {
    Action::Get { key: key.to_owned(), prefix: false, serializable }
}

fn cas_of(key: &str, expected: i64, expected_value: &str, value: &str) -> Action {
    let expected_value = Some(expected_value.to_owned());
    Action::Cas { key: key.to_owned(), expected, expected_value, value: value.to_owned() }
}

fn lease_op(call: Nanos, action: LeaseAction) -> LeaseOp {
    LeaseOp { lease: LEASE, call, ret: call + 5, action, confirmed: true }
}

/// Numbers of the operations in [`good`].
mod at {
    pub(super) const PUT: usize = 0;
    pub(super) const SWAP: usize = 1;
    pub(super) const MISS: usize = 2;
    pub(super) const READ: usize = 3;
    pub(super) const OLD_READ: usize = 4;
    pub(super) const UNKNOWN: usize = 5;
    pub(super) const DELETE: usize = 6;
    pub(super) const LAST_READ: usize = 9;
}

/// A history in which every rule has something to check, and all is well. Every ten nanoseconds something happens,
/// and a watcher hears of it seven later.
///
/// Revision 2: `a` is put. 3: `a` is swapped. 4: a put of `a` of unknown outcome. 5: `a` is deleted. 6, 7: two keys with
/// a lease. 8: the lease is over.
fn good() -> History {
    let (a2, a3, a4) = (kv("a", "one", 2, 2, 1), kv("a", "two", 2, 3, 2), kv("a", "lost", 2, 4, 3));
    let (l6, l7) = (leased("l/1", "four", 6), leased("l/2", "five", 7));
    let attach = |key: &str, value: &str| Action::Put {
        key: key.to_owned(),
        value: value.to_owned(),
        lease: LEASE,
        want_prev: false,
    };
    let swapped = Answer { revision: 3, succeeded: true, ..Answer::default() };
    let missed = Answer { revision: 3, kvs: vec![a3.clone()], ..Answer::default() };
    let read = Answer { revision: 3, kvs: vec![a3.clone()], ..Answer::default() };
    let old = Answer { revision: 2, kvs: vec![a2.clone()], ..Answer::default() };
    let deleted = Answer { revision: 5, prev: vec![a4.clone()], deleted: 1, ..Answer::default() };
    let ops = vec![
        op(10, put_of("a", "one"), Outcome::Ok(answer(2))),
        op(20, cas_of("a", 2, "one", "two"), Outcome::Ok(swapped)),
        op(30, cas_of("a", 2, "one", "three"), Outcome::Ok(missed)),
        op(40, get_of("a", false), Outcome::Ok(read)),
        op(45, get_of("a", true), Outcome::Ok(old)),
        op(50, put_of("a", "lost"), Outcome::Unknown("gone".to_owned())),
        op(60, Action::Delete { key: "a".to_owned() }, Outcome::Ok(deleted)),
        op(80, attach("l/1", "four"), Outcome::Ok(answer(6))),
        op(90, attach("l/2", "five"), Outcome::Ok(answer(7))),
        op(100, get_of("a", false), Outcome::Ok(answer(7))),
        op(105, put_of("a", "never"), Outcome::Failed("refused".to_owned())),
    ];
    let end = 70 + TTL as Nanos * SECOND + 10;
    let said = [
        (5, Said::Created(1)),
        (17, Said::Events(2, vec![put(&a2, None)])),
        (27, Said::Events(3, vec![put(&a3, Some(&a2))])),
        (28, Said::Progress(3)),
        (57, Said::Events(4, vec![put(&a4, Some(&a3))])),
        (67, Said::Events(5, vec![delete(&a4, 5)])),
        (97, Said::Events(7, vec![put(&l6, None), put(&l7, None)])),
        (end, Said::Events(8, vec![delete(&l6, 8), delete(&l7, 8)])),
    ];
    let records: Vec<WatchRecord> = said.into_iter().map(|(at, said)| WatchRecord { at, said }).collect();
    let watch = |name: &str| WatchLog { name: name.to_owned(), records: records.clone() };
    History {
        ops,
        leases: vec![lease_op(70, LeaseAction::Renew { ttl: TTL })],
        watches: vec![watch("first"), watch("second")],
        start: 1,
        end: 8,
        ended: end + 10,
        ..History::default()
    }
}

/// The events of one response of the second watcher.
fn told(history: &mut History, record: usize) -> &mut Vec<Event> {
    match &mut history.watches[1].records[record].said {
        Said::Events(_, events) => events,
        other => panic!("the response {record} is {other:?}"),
    }
}

/// The same events to both watchers.
fn told_to_all(history: &mut History, record: usize, change: impl Fn(&mut Vec<Event>)) {
    for watch in &mut history.watches {
        if let Said::Events(_, events) = &mut watch.records[record].said {
            change(events);
        }
    }
}

fn answered(history: &mut History, op: usize) -> &mut Answer {
    match &mut history.ops[op].outcome {
        Outcome::Ok(answer) => answer,
        other => panic!("operation {op} ended with {other:?}"),
    }
}

fn rules(report: &Report) -> Vec<Rule> {
    let mut rules: Vec<Rule> = report.violations.iter().map(|violation| violation.rule).collect();
    rules.sort_unstable();
    rules.dedup();
    rules
}

/// Breaks the good history in one way and demands that the rule is among those that are found broken.
fn breaks(rule: Rule, name: &str, spoil: impl FnOnce(&mut History)) {
    let mut history = good();
    spoil(&mut history);
    let report = check(&history);
    assert!(rules(&report).contains(&rule), "{name}: expected {rule:?}, found\n{}", report.told(50));
}

#[test]
fn a_good_history_is_good() {
    let report = check(&good());
    assert_eq!(report.told(50), "");
    let counts = (report.acknowledged_writes, report.linearizable_reads, report.serializable_reads, report.unknown);
    assert_eq!(counts, (5, 2, 1, 1));
    assert_eq!((report.revisions, report.watchers, report.leases, report.searched), (7, 2, 1, 1));
}

#[test]
fn writes_that_are_lost_or_happen_otherwise_are_found() {
    breaks(Rule::LostWrite, "nobody was told of an acknowledged put", |history| {
        history.ops.push(op(110, put_of("b", "six"), Outcome::Ok(answer(9))));
        history.end = 9;
    });
    breaks(Rule::LostWrite, "another value has its revision", |history| {
        told_to_all(history, 1, |events| events[0].kv.value = "other".to_owned());
    });
    breaks(Rule::DuplicateRevision, "two puts have one revision", |history| {
        history.ops.push(op(12, put_of("b", "six"), Outcome::Ok(answer(2))));
    });
    breaks(Rule::Effect, "a refused put took effect", |history| {
        history.ops[at::UNKNOWN].outcome = Outcome::Failed("refused".to_owned());
    });
    breaks(Rule::Effect, "a put took effect twice", |history| {
        let (again, before) = (kv("a", "lost", 9, 9, 1), None);
        history.end = 9;
        for watch in &mut history.watches {
            let said = Said::Events(9, vec![put(&again, before)]);
            watch.records.push(WatchRecord { at: history.ended, said });
        }
    });
    breaks(Rule::Unexplained, "nobody deleted", |history| {
        history.ops.remove(at::DELETE);
    });
    breaks(Rule::Unexplained, "nobody put", |history| {
        history.ops.remove(at::UNKNOWN);
    });
}

#[test]
fn reads_and_answers_that_are_wrong_are_found() {
    breaks(Rule::StaleRead, "a linearizable read of an old state", |history| {
        let old = kv("a", "one", 2, 2, 1);
        *answered(history, at::READ) = Answer { revision: 2, kvs: vec![old], ..Answer::default() };
    });
    breaks(Rule::StaleRead, "it misses what a serializable read has shown", |history| {
        *answered(history, at::LAST_READ) = answer(6);
    });
    breaks(Rule::WrongRead, "a read of another state than its header says", |history| {
        answered(history, at::READ).revision = 4;
    });
    breaks(Rule::WrongRead, "a serializable read of nothing that ever was", |history| {
        answered(history, at::OLD_READ).kvs[0].value = "never".to_owned();
    });
    breaks(Rule::WrongRead, "a delete that found nothing", |history| {
        let nothing = Answer { revision: 4, ..Answer::default() };
        let blind = op(58, Action::Delete { key: "a".to_owned() }, Outcome::Ok(nothing));
        history.ops.push(blind);
    });
    breaks(Rule::Future, "a read before the put was called", |history| {
        history.ops[at::OLD_READ].call = 1;
        history.ops[at::OLD_READ].ret = 9;
    });
    breaks(Rule::Future, "a read of a revision that never was", |history| {
        answered(history, at::OLD_READ).revision = 12;
    });
    breaks(Rule::RealTime, "revisions go back", |history| {
        history.ops[at::PUT].call = 29;
        history.ops[at::PUT].ret = 31;
        history.ops[at::SWAP].ret = 26;
    });
    breaks(Rule::Compare, "a swap of another value succeeds", |history| {
        history.ops[at::SWAP].action = cas_of("a", 1, "none", "two");
    });
    breaks(Rule::Compare, "a swap of the right value fails", |history| {
        history.ops[at::MISS].action = cas_of("a", 3, "two", "three");
    });
    breaks(Rule::WrongKeyValue, "the key-value before a delete", |history| {
        answered(history, at::DELETE).prev[0].version = 2;
    });
    breaks(Rule::Linearizable, "a value that was overwritten is read again", |history| {
        *answered(history, at::LAST_READ) =
            Answer { revision: 7, kvs: vec![kv("a", "one", 2, 2, 1)], ..Answer::default() };
    });
}

#[test]
fn watchers_that_are_told_wrong_are_found() {
    breaks(Rule::WatchOrder, "two responses change places", |history| {
        history.watches[1].records.swap(1, 2);
    });
    breaks(Rule::WatchGap, "one is not told", |history| {
        history.watches[1].records.remove(2);
    });
    breaks(Rule::WatchGap, "the last is not told", |history| {
        history.watches[1].records.pop();
    });
    breaks(Rule::WatchGap, "nobody is told", |history| {
        history.watches.iter_mut().for_each(|watch| drop(watch.records.remove(4)));
    });
    breaks(Rule::WatchGap, "compacted without a request", |history| {
        history.watches[1].records.insert(1, WatchRecord { at: 11, said: Said::Compacted(2) });
    });
    breaks(Rule::WatchUnique, "one is told twice", |history| {
        let again = history.watches[1].records[2].clone();
        history.watches[1].records.insert(3, again);
    });
    breaks(Rule::WatchUnique, "one is told twice in one response", |history| {
        let again = told(history, 2)[0].clone();
        told(history, 2).push(again);
    });
    breaks(Rule::WatchAtomic, "a revision in two responses", |history| {
        let second = told(history, 7).split_off(1);
        history.watches[1].records.push(WatchRecord { at: history.ended, said: Said::Events(8, second) });
    });
    breaks(Rule::WatchAgree, "two watchers are told different values", |history| {
        told(history, 4)[0].kv.value = "other".to_owned();
    });
    breaks(Rule::WatchAgree, "two watchers are told different pasts", |history| {
        told(history, 4)[0].prev = Some(kv("a", "one", 2, 2, 1));
    });
    breaks(Rule::WrongKeyValue, "the key-value before is wrong", |history| {
        told_to_all(history, 2, |events| events[0].prev = None);
    });
    breaks(Rule::WrongKeyValue, "the version is wrong", |history| {
        told_to_all(history, 2, |events| events[0].kv.version = 1);
    });
    breaks(Rule::WrongKeyValue, "the create revision is wrong", |history| {
        told_to_all(history, 2, |events| events[0].kv.create = 3);
    });
    breaks(Rule::Bookmark, "progress before the events", |history| {
        history.watches[1].records[3].said = Said::Progress(4);
    });
}

#[test]
fn leases_that_end_wrong_are_found() {
    breaks(Rule::LeaseEarly, "gone before its time", |history| {
        for watch in &mut history.watches {
            watch.records[7].at = SECOND;
        }
    });
    breaks(Rule::LeaseEarly, "gone in spite of a renewal", |history| {
        history.leases.push(lease_op(SECOND, LeaseAction::Renew { ttl: TTL }));
    });
    breaks(Rule::LeaseTorn, "one key goes, one stays", |history| {
        told_to_all(history, 7, |events| drop(events.pop()));
    });
    breaks(Rule::LeaseLate, "still there long after its time", |history| {
        for watch in &mut history.watches {
            watch.records.pop();
        }
        (history.end, history.ended) = (7, 60 * SECOND);
    });
    breaks(Rule::LeaseLate, "still there after its revocation", |history| {
        for watch in &mut history.watches {
            watch.records.pop();
        }
        history.leases.push(lease_op(200, LeaseAction::Revoke));
        history.end = 7;
    });
    breaks(Rule::StaleRead, "a read has it after its revocation", |history| {
        history.leases.push(lease_op(200, LeaseAction::Revoke));
        for watch in &mut history.watches {
            watch.records[7].at = 300;
        }
        let old = Answer { revision: 7, kvs: vec![leased("l/1", "four", 6)], ..Answer::default() };
        history.ops.push(op(220, get_of("l/1", false), Outcome::Ok(old)));
    });
}

#[test]
fn a_revoked_lease_may_end_early() {
    let mut history = good();
    history.leases.push(lease_op(200, LeaseAction::Revoke));
    for watch in &mut history.watches {
        watch.records[7].at = 210;
    }
    assert_eq!(check(&history).told(50), "");
}

#[test]
fn what_was_compacted_on_request_need_not_be_told() {
    let mut history = good();
    history.compacted = 4;
    let late = &mut history.watches[1].records;
    late.drain(1..5);
    late.insert(1, WatchRecord { at: 60, said: Said::Compacted(4) });
    late.insert(2, WatchRecord { at: 61, said: Said::Events(4, vec![put(&kv("a", "lost", 2, 4, 3), None)]) });
    assert_eq!(check(&history).told(50), "");
}

#[test]
fn renewals_by_a_deposed_leader_are_not_believed_where_they_are_known_to_happen() {
    let mut history = good();
    history.leases.push(lease_op(SECOND, LeaseAction::Renew { ttl: TTL }));
    history.known_faults.deposed_renewals = true;
    assert_eq!(check(&history).told(50), "");
}
