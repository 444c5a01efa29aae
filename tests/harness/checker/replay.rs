//! Replays all changes in the order of revisions and compares every answer with the state at its revision.
//!
//! On the way it finds the cause of each change: the acknowledged operation with this revision, else an operation of
//! unknown outcome that asked for it, else the end of a lease.

use super::{Change, Log, Report, Rule};
use crate::history::{Action, Answer, Event, History, KeyValue, LeaseAction, Nanos, Op, Outcome};
use std::collections::{BTreeMap, HashMap};

type State = BTreeMap<String, KeyValue>;

/// Operations by what they could explain.
struct Causes<'a> {
    /// Acknowledged changes.
    by_revision: HashMap<i64, &'a Op>,
    /// Everything that puts a value.
    by_value: HashMap<&'a str, &'a Op>,
    /// Calls of deletes of unknown outcome, latest first.
    deletes: HashMap<&'a str, Vec<Nanos>>,
    /// Revisions of values that an operation of unknown outcome has put.
    effects: HashMap<&'a str, i64>,
    /// Called revocations.
    revocations: HashMap<i64, Nanos>,
}

impl<'a> Causes<'a> {
    fn new(history: &'a History, report: &mut Report) -> Self {
        let mut causes = Self {
            by_revision: HashMap::new(),
            by_value: HashMap::new(),
            deletes: HashMap::new(),
            effects: HashMap::new(),
            revocations: HashMap::new(),
        };
        for op in &history.ops {
            if op.changed()
                && let Some(answer) = op.answer()
                && let Some(other) = causes.by_revision.insert(answer.revision, op)
            {
                report.add(Rule::DuplicateRevision, || format!("revision {}: {op:?} and {other:?}", answer.revision));
            }
            if let Some(value) = op.value() {
                causes.by_value.insert(value, op);
            }
            if let (Action::Delete { key }, Outcome::Unknown(_)) = (&op.action, &op.outcome) {
                causes.deletes.entry(key).or_default().push(op.call);
            }
        }
        for calls in causes.deletes.values_mut() {
            calls.sort_unstable_by(|a, b| b.cmp(a));
        }
        for op in history.leases.iter().filter(|op| op.action == LeaseAction::Revoke) {
            let first = causes.revocations.entry(op.lease).or_insert(op.call);
            *first = op.call.min(*first);
        }
        causes
    }
}

/// Checks every answer, and fills in the cause of every change.
pub(super) fn check(history: &History, log: &mut Log, report: &mut Report) {
    let mut causes = Causes::new(history, report);
    let mut reads: BTreeMap<i64, Vec<&Op>> = BTreeMap::new();
    for op in history.ops.iter().filter(|op| !op.changed()) {
        if let Some(answer) = op.answer() {
            reads.entry(answer.revision).or_default().push(op);
        }
    }
    let mut state = State::new();
    let mut whole = true;
    for revision in history.start..=history.end {
        if let Some(change) = log.get_mut(&revision) {
            explain(revision, change, &state, &mut causes, report);
            // Behind a compaction that no watcher has told, the state is not known.
            for event in change.events.clone() {
                apply(revision, &event, &mut state, whole.then_some(history.compacted), report);
            }
        } else {
            whole &= revision == history.start;
        }
        for op in reads.remove(&revision).unwrap_or_default() {
            if whole && let Some(answer) = op.answer() {
                check_unchanging(op, answer, &state, report);
            }
        }
    }
    for (revision, op) in &causes.by_revision {
        if !log.contains_key(revision) {
            report.add(Rule::LostWrite, || format!("no revision {revision} in the history: {op:?}"));
        }
    }
    for op in reads.into_values().flatten() {
        report.add(Rule::Future, || format!("the last revision is {}: {op:?}", history.end));
    }
}

/// What an acknowledged operation must have changed.
fn expected(op: &Op) -> Vec<(bool, &str, &str, i64)> {
    match &op.action {
        Action::Put { key, value, lease, .. } => vec![(true, key, value, *lease)],
        Action::Cas { key, value, .. } => vec![(true, key, value, 0)],
        Action::PutBoth { keys: [first, second], value } => vec![(true, first, value, 0), (true, second, value, 0)],
        Action::Delete { key } => vec![(false, key, "", 0)],
        Action::Get { .. } => Vec::new(),
    }
}

fn is_effect(op: &Op, events: &[Event]) -> bool {
    let found = events.iter().map(|e| (e.put, e.kv.key.as_str(), e.kv.value.as_str(), e.kv.lease));
    found.eq(expected(op))
}

/// Finds the cause of a change; `state` is from before it.
fn explain(revision: i64, change: &mut Change, state: &State, causes: &mut Causes<'_>, report: &mut Report) {
    if let Some(op) = causes.by_revision.get(&revision) {
        if is_effect(op, &change.events) {
            change.cause = Some(op.call);
            check_answer(op, state, report);
        } else {
            report.add(Rule::LostWrite, || format!("revision {revision} has {:?} instead of {op:?}", change.events));
        }
        return;
    }
    let Some(first) = change.events.first() else { return };
    if first.put {
        let Some(op) = causes.by_value.get(first.kv.value.as_str()).copied() else {
            report.add(Rule::Unexplained, || format!("revision {revision}: nobody asked for {:?}", change.events));
            return;
        };
        explain_put(revision, change, op, state, causes, report);
        return;
    }
    let key = first.kv.key.as_str();
    let lease = state.get(key).map_or(0, |kv| kv.lease);
    if lease != 0 {
        change.lease = Some(lease);
        change.cause = causes.revocations.get(&lease).copied().filter(|call| *call < change.seen);
        return;
    }
    let call = causes.deletes.get_mut(key).and_then(Vec::pop);
    match call {
        Some(call) if change.events.len() == 1 => change.cause = Some(call),
        _ => report.add(Rule::Unexplained, || format!("revision {revision}: nobody asked for {:?}", change.events)),
    }
}

fn explain_put<'a>(
    revision: i64,
    change: &mut Change,
    op: &'a Op,
    state: &State,
    causes: &mut Causes<'a>,
    report: &mut Report,
) {
    change.cause = Some(op.call);
    if !is_effect(op, &change.events) {
        report.add(Rule::Effect, || format!("revision {revision} has {:?}, asked was {op:?}", change.events));
    }
    if !matches!(op.outcome, Outcome::Unknown(_)) {
        report.add(Rule::Effect, || format!("revision {revision} is of an operation that ended otherwise: {op:?}"));
    }
    let earlier = op.value().and_then(|value| causes.effects.insert(value, revision));
    if let Some(earlier) = earlier {
        report.add(Rule::Effect, || format!("at {earlier} and again at {revision}: {op:?}"));
    }
    if let Action::Cas { key, expected, .. } = &op.action
        && state.get(key).map_or(0, |kv| kv.modified) != *expected
    {
        report.add(Rule::Compare, || format!("revision {revision}, state {:?}: {op:?}", state.get(key)));
    }
}

/// Compares the answer of an operation that changed keys with the state before it.
fn check_answer(op: &Op, state: &State, report: &mut Report) {
    let Some(answer) = op.answer() else { return };
    let prev = |key: &String| state.get(key).cloned().into_iter().collect::<Vec<_>>();
    match &op.action {
        Action::Put { key, want_prev: true, .. } if answer.prev != prev(key) => {
            report.add(Rule::WrongKeyValue, || format!("before it was {:?}: {op:?}", state.get(key)));
        }
        Action::Delete { key } if answer.prev != prev(key) || answer.deleted != 1 => {
            report.add(Rule::WrongKeyValue, || format!("before it was {:?}: {op:?}", state.get(key)));
        }
        Action::Cas { key, expected, .. } if state.get(key).map_or(0, |kv| kv.modified) != *expected => {
            report.add(Rule::Compare, || format!("before it was {:?}: {op:?}", state.get(key)));
        }
        _ => {}
    }
}

/// Compares the answer of an operation that changed nothing with the state at its revision.
fn check_unchanging(op: &Op, answer: &Answer, state: &State, report: &mut Report) {
    match &op.action {
        Action::Get { key, prefix, .. } => {
            let right: Vec<&KeyValue> = if *prefix {
                state.range(key.clone()..).take_while(|(found, _)| found.starts_with(key)).map(|(_, kv)| kv).collect()
            } else {
                state.get(key).into_iter().collect()
            };
            if !answer.kvs.iter().eq(right.iter().copied()) {
                report.add(Rule::WrongRead, || format!("the state was {right:?}: {op:?}"));
            }
        }
        Action::Delete { key } => {
            if state.contains_key(key) || !answer.prev.is_empty() {
                report.add(Rule::WrongRead, || format!("the state was {:?}: {op:?}", state.get(key)));
            }
        }
        Action::Cas { key, expected, .. } => {
            let found = state.get(key);
            if found.map_or(0, |kv| kv.modified) == *expected {
                report.add(Rule::Compare, || format!("the state was {found:?}: {op:?}"));
            }
            if !answer.kvs.iter().eq(found) {
                report.add(Rule::WrongRead, || format!("the state was {found:?}: {op:?}"));
            }
        }
        Action::Put { .. } | Action::PutBoth { .. } => {}
    }
}

/// Applies one event and checks its key-values; `compacted` is `None` while the state is not wholly known.
fn apply(revision: i64, event: &Event, state: &mut State, compacted: Option<i64>, report: &mut Report) {
    let key = &event.kv.key;
    let before = state.get(key).cloned();
    let after = event.put.then(|| KeyValue {
        key: key.clone(),
        value: event.kv.value.clone(),
        create: before.as_ref().map_or(revision, |kv| kv.create),
        modified: revision,
        version: before.as_ref().map_or(1, |kv| kv.version + 1),
        lease: event.kv.lease,
    });
    if let Some(compacted) = compacted {
        if after.as_ref().is_some_and(|after| *after != event.kv) {
            report.add(Rule::WrongKeyValue, || format!("revision {revision}: {:?} instead of {after:?}", event.kv));
        }
        // What came before is gone when it was compacted before the event was told.
        let gone = event.prev.is_none() && revision <= compacted + 1;
        if event.prev != before && !gone {
            report.add(Rule::WrongKeyValue, || {
                format!("revision {revision} of {key}: previous {:?} instead of {before:?}", event.prev)
            });
        }
        if !event.put && before.is_none() {
            report.add(Rule::WrongKeyValue, || format!("revision {revision} deletes {key}, which is absent"));
        }
    }
    match after {
        // What the server says is what later answers have to agree with.
        Some(_) => state.insert(key.clone(), event.kv.clone()),
        None => state.remove(key),
    };
}
