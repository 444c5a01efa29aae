//! Rules of time: what an answer had to include, and what it could not yet know.

use super::{Log, Report, Rule};
use crate::history::{History, LeaseAction, Nanos, Op};
use std::collections::BTreeMap;

/// A moment at which a revision was known to somebody.
struct Sight<'a> {
    revision: i64,
    call: Nanos,
    ret: Nanos,
    op: Option<&'a Op>,
}

/// Checks revisions against times.
pub(super) fn check(history: &History, log: &Log, report: &mut Report) {
    let answers = history.ops.iter().filter_map(|op| {
        let revision = op.answer()?.revision;
        Some(Sight { revision, call: op.call, ret: op.ret, op: Some(op) })
    });
    // A watcher learns of a revision like a read that ends when the event arrives.
    let events =
        log.iter().map(|(revision, change)| Sight { revision: *revision, call: 0, ret: change.seen, op: None });
    let ends: BTreeMap<i64, i64> =
        log.iter().filter_map(|(revision, change)| Some((change.lease?, *revision))).collect();
    // A confirmed revocation returned when its change had happened.
    let revocations =
        history.leases.iter().filter(|op| op.confirmed && op.action == LeaseAction::Revoke).filter_map(|op| {
            let revision = *ends.get(&op.lease)?;
            Some(Sight { revision, call: op.call, ret: op.ret, op: None })
        });
    let sights: Vec<Sight> = answers.chain(events).chain(revocations).collect();
    check_past(&sights, log, report);
    check_future(&sights, log, report);
}

/// Whoever was called after something was known to anybody answers with at least that.
fn check_past(sights: &[Sight], log: &Log, report: &mut Report) {
    let mut by_end: Vec<&Sight> = sights.iter().collect();
    by_end.sort_by_key(|sight| sight.ret);
    // Highest revision known at the end of each.
    let mut known = 0;
    let known: Vec<(Nanos, i64)> = by_end
        .iter()
        .map(|sight| {
            known = known.max(sight.revision);
            (sight.ret, known)
        })
        .collect();
    let known_before = |time: Nanos| match known.partition_point(|(ret, _)| *ret < time) {
        0 => 0,
        count => known[count - 1].1,
    };
    for sight in sights {
        let Some(op) = sight.op else { continue };
        let (past, revision) = (known_before(sight.call), sight.revision);
        let text = || format!("{op:?} began when revision {past} was known, and answered at {revision}");
        if op.is_linearizable_read() {
            if revision < past {
                report.add(Rule::StaleRead, text);
            }
        } else if op.is_write() {
            let least = if op.changed() { past + 1 } else { past };
            if revision < least {
                report.add(Rule::RealTime, text);
            }
        }
    }
    // Writes that were not answered, but took effect.
    for (revision, change) in log {
        if let Some(cause) = change.cause {
            let past = known_before(cause);
            if *revision <= past {
                report.add(Rule::RealTime, || format!("revision {revision} was asked for when {past} was known"));
            }
        }
    }
}

/// Nobody answers with a revision before the operation behind it, or behind one below it, was called.
fn check_future(sights: &[Sight], log: &Log, report: &mut Report) {
    let mut latest = 0;
    let possible: Vec<(i64, Nanos)> = log
        .iter()
        .map(|(revision, change)| {
            latest = latest.max(change.cause.unwrap_or(0));
            (*revision, latest)
        })
        .collect();
    let possible_from = |revision: i64| match possible.partition_point(|(known, _)| *known <= revision) {
        0 => 0,
        count => possible[count - 1].1,
    };
    let last = possible.last().map_or(i64::MAX, |(revision, _)| *revision);
    for sight in sights {
        let (revision, who) = (sight.revision, sight.op);
        if possible_from(revision) > sight.ret || revision > last {
            report.add(Rule::Future, || format!("revision {revision} was known too early, to {who:?}"));
        }
    }
}
