//! Rules of leases: no key goes early, late, or without the others of its lease.

use super::{Log, Report, Rule};
use crate::history::{History, LeaseAction, Nanos, SECOND};
use std::collections::{BTreeMap, BTreeSet};

/// How long after its time a lease may stay: a new leader grants every lease its whole time again, and the test
/// machine is busy.
const SLACK: Nanos = 20 * SECOND;
/// Clocks of client and server tick alike, but servers count in milliseconds.
const GRAIN: Nanos = 5_000_000;

/// What clients know of a lease.
#[derive(Debug, Default)]
struct Lease {
    /// Calls of the grant and of confirmed renewals, and the time to live in them.
    renewals: Vec<(Nanos, Nanos)>,
    /// The latest moment at which a renewal may have happened.
    last_possible: Nanos,
    ttl: Nanos,
    /// When a confirmed revocation returned.
    revoked: Option<Nanos>,
}

/// Checks the end of every lease.
pub(super) fn check(history: &History, log: &Log, report: &mut Report) {
    let mut leases: BTreeMap<i64, Lease> = BTreeMap::new();
    for op in &history.leases {
        let lease = leases.entry(op.lease).or_default();
        match op.action {
            LeaseAction::Renew { ttl } => {
                let ttl = ttl as Nanos * SECOND;
                lease.ttl = lease.ttl.max(ttl);
                lease.last_possible = lease.last_possible.max(op.ret);
                if op.confirmed {
                    lease.renewals.push((op.call, ttl));
                }
            }
            LeaseAction::Revoke if op.confirmed => lease.revoked = Some(op.ret),
            LeaseAction::Revoke => {}
        }
    }
    // Keys by lease, as the replay goes on.
    let mut attached: BTreeMap<i64, BTreeSet<&str>> = BTreeMap::new();
    let mut owner: BTreeMap<&str, i64> = BTreeMap::new();
    for (revision, change) in log {
        if let Some(id) = change.lease {
            let gone: BTreeSet<&str> = change.events.iter().map(|event| event.kv.key.as_str()).collect();
            let keys = attached.get(&id).cloned().unwrap_or_default();
            if gone != keys || change.events.iter().any(|event| event.put) {
                report.add(Rule::LeaseTorn, || {
                    format!("revision {revision}: lease {id:x} has {keys:?}, with it went {gone:?}")
                });
            }
            let lease = leases.get(&id);
            check_end(*revision, id, change.cause.is_some(), change.seen, lease, history, report);
        }
        for event in &change.events {
            let key = event.kv.key.as_str();
            if let Some(lease) = owner.remove(key) {
                attached.entry(lease).or_default().remove(key);
            }
            if event.put && event.kv.lease != 0 {
                owner.insert(key, event.kv.lease);
                attached.entry(event.kv.lease).or_default().insert(key);
            }
        }
    }
    for (key, id) in owner {
        let lease = leases.get(&id);
        let due = lease.map_or(0, |lease| lease.last_possible.max(history.settled) + lease.ttl + SLACK);
        if history.ended > due || lease.is_some_and(|lease| lease.revoked.is_some()) {
            report.add(Rule::LeaseLate, || format!("{key} of lease {id:x} is still there: {lease:?}"));
        }
    }
}

/// The end of one lease at a revision that a watcher was told at `seen`.
fn check_end(
    revision: i64,
    id: i64,
    was_revoked: bool,
    seen: Nanos,
    lease: Option<&Lease>,
    history: &History,
    report: &mut Report,
) {
    let Some(lease) = lease else {
        report.add(Rule::Unexplained, || format!("revision {revision}: nobody asked for lease {id:x}"));
        return;
    };
    // A renewal that was called later and succeeded found the lease alive, so it belongs to its life.
    let believed = if history.known_faults.deposed_renewals { 1 } else { lease.renewals.len() };
    let alive_until = lease.renewals.iter().take(believed).map(|(call, ttl)| call + ttl).max().unwrap_or(0);
    if !was_revoked && seen + GRAIN < alive_until {
        report.add(Rule::LeaseEarly, || format!("revision {revision} told at {seen}: lease {id:x} is {lease:?}"));
    }
    if seen > lease.last_possible.max(history.settled) + lease.ttl + SLACK {
        report.add(Rule::LeaseLate, || format!("revision {revision} told at {seen}: lease {id:x} is {lease:?}"));
    }
}
