//! What must hold, checked while it happens: against one history that all members' changes are entered into.
//!
//! - A revision holds the same changes on every member and in every life of it, and no write is done twice.
//! - An acknowledged write is in the history, at the revision that it was told, above every revision that anybody knew
//!   when it began.
//! - A linearizable read sees at least what anybody knew when it began, and exactly what the history holds at the
//!   revision that it names.
//! - A watcher sees every change from its start on, once and in order.
//! - A lease does not end before the time that a grant or a keepalive promised.

use super::report::{Trace, note};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use store::{Applied, Change, Notice};
use tokio::time::Instant;

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) key: Vec<u8>,
    /// None for a delete.
    pub(crate) value: Option<Vec<u8>>,
}

/// A lease as its holder knows it.
struct Promise {
    /// The lease lives at least until then.
    until: Instant,
    ended: Option<Instant>,
    /// Its holder revoked it, or may have.
    given_up: bool,
}

#[derive(Default)]
struct Book {
    changes: BTreeMap<i64, Vec<Event>>,
    /// For each key its values by revision.
    keys: BTreeMap<Vec<u8>, BTreeMap<i64, Option<Vec<u8>>>>,
    /// Where each value was written. The workload writes no value twice.
    values: BTreeMap<Vec<u8>, i64>,
    /// The highest revision that a client was told.
    known: i64,
    leases: BTreeMap<i64, Promise>,
    /// Up to where each member's store is durable.
    durable: BTreeMap<u64, u64>,
    failures: Vec<String>,
    writes: u64,
    unknown: u64,
    reads: u64,
    events: u64,
}

/// See the module. Clones are the same history.
#[derive(Clone)]
pub(crate) struct History {
    book: Arc<Mutex<Book>>,
    trace: Trace,
}

/// Counts of what clients did.
pub(crate) struct Counts {
    pub(crate) writes: u64,
    pub(crate) unknown: u64,
    pub(crate) reads: u64,
    pub(crate) events: u64,
}

fn events(change: &Change) -> Vec<Event> {
    let event = |event: &store::KeyEvent| {
        let value = event.kv.fields().map_or_else(|_| Vec::new(), |fields| fields.value.to_vec());
        Event { key: event.key().to_vec(), value: (!event.deleted).then_some(value) }
    };
    change.events.iter().map(event).collect()
}

impl Book {
    fn enter(&mut self, revision: i64, events: Vec<Event>) {
        for Event { key, value } in &events {
            if let Some(value) = value
                && let Some(before) = self.values.insert(value.clone(), revision)
            {
                let value = String::from_utf8_lossy(value);
                self.failures.push(format!("{value} was written at {before} and again at {revision}"));
            }
            self.keys.entry(key.clone()).or_default().insert(revision, value.clone());
        }
        self.changes.insert(revision, events);
    }

    fn at(&self, key: &[u8], revision: i64) -> Option<&[u8]> {
        self.keys.get(key)?.range(..=revision).next_back()?.1.as_deref()
    }
}

impl History {
    pub(crate) fn new(trace: Trace) -> Self {
        Self { book: Arc::default(), trace }
    }

    pub(crate) fn fail(&self, what: String) {
        note!(self.trace, "FAILED {what}");
        self.book.lock().failures.push(what);
    }

    pub(crate) fn failures(&self) -> Vec<String> {
        self.book.lock().failures.clone()
    }

    pub(crate) fn counts(&self) -> Counts {
        let book = self.book.lock();
        Counts { writes: book.writes, unknown: book.unknown, reads: book.reads, events: book.events }
    }

    /// The highest revision that anybody was told.
    pub(crate) fn known(&self) -> i64 {
        self.book.lock().known
    }

    /// Everything up to `revision` was applied somewhere.
    pub(crate) fn last(&self) -> i64 {
        self.book.lock().changes.keys().next_back().copied().unwrap_or(1)
    }

    /// A member's store is durable up to an index; returns up to where all are.
    pub(crate) fn durable(&self, member: u64, index: u64) -> u64 {
        let mut book = self.book.lock();
        let before = book.durable.entry(member).or_default();
        *before = index.max(*before);
        book.durable.values().copied().min().unwrap_or(0)
    }

    /// A member applied a batch.
    pub(crate) fn applied(&self, member: u64, applied: &Applied) {
        for change in &applied.changes {
            let events = events(change);
            let revision = change.revision;
            note!(self.trace, "{member} applied {revision} {}", describe(&events));
            let mut book = self.book.lock();
            match book.changes.get(&revision) {
                Some(before) if *before == events => {}
                Some(before) => {
                    let (before, events) = (describe(before), describe(&events));
                    book.failures.push(format!("revision {revision} is {before}, and {events} on member {member}"));
                }
                None => book.enter(revision, events),
            }
        }
        for notice in &applied.notices {
            if let Notice::LeaseRevoked { id } = notice {
                self.ended(member, *id);
            }
        }
    }

    fn ended(&self, member: u64, id: i64) {
        note!(self.trace, "{member} applied the end of lease {id}");
        let mut book = self.book.lock();
        let Some(promise) = book.leases.get_mut(&id).filter(|promise| promise.ended.is_none()) else { return };
        let now = Instant::now();
        promise.ended = Some(now);
        let early = promise.until.saturating_duration_since(now);
        if !promise.given_up && early > Duration::ZERO {
            book.failures.push(format!("lease {id} ended {early:?} too early"));
        }
    }

    /// A grant or keepalive that was asked for at `asked` promised `ttl` seconds.
    pub(crate) fn promised(&self, id: i64, asked: Instant, ttl: i64) {
        let mut book = self.book.lock();
        let until = asked + Duration::from_secs(ttl as u64);
        let new = Promise { until: asked, ended: None, given_up: false };
        let promise = book.leases.entry(id).or_insert(new);
        promise.until = promise.until.max(until);
        let early = promise.ended.is_some_and(|ended| asked <= ended && ended < until) && !promise.given_up;
        if early {
            book.failures.push(format!("lease {id} had ended when it was given {ttl} s"));
        }
    }

    /// The lease may end any time.
    pub(crate) fn gave_up(&self, id: i64) {
        let now = Instant::now();
        let new = Promise { until: now, ended: None, given_up: true };
        self.book.lock().leases.entry(id).or_insert(new).given_up = true;
    }

    /// A write was acknowledged: at `revision` the history must hold `expected`, unless that is empty.
    pub(crate) fn wrote(&self, floor: i64, revision: i64, expected: &[Event]) {
        let mut book = self.book.lock();
        book.writes += 1;
        let is_newer = if expected.is_empty() { revision >= floor } else { revision > floor };
        if !is_newer {
            book.failures.push(format!("a write got revision {revision}, when {floor} was known before it began"));
        }
        if !expected.is_empty() && book.changes.get(&revision).is_none_or(|found| found != expected) {
            let found = book.changes.get(&revision).map_or_else(|| "nothing".to_owned(), |events| describe(events));
            let expected = describe(expected);
            book.failures.push(format!("{expected} was acknowledged at revision {revision}, which holds {found}"));
        }
        book.known = book.known.max(revision);
    }

    /// It is not known whether a write was done.
    pub(crate) fn lost_track(&self) {
        self.book.lock().unknown += 1;
    }

    /// A linearizable read of one key.
    pub(crate) fn read(&self, floor: i64, revision: i64, key: &[u8], value: Option<&[u8]>) {
        let mut book = self.book.lock();
        book.reads += 1;
        if revision < floor {
            book.failures.push(format!("a read saw revision {revision}, when {floor} was known before it began"));
        }
        if book.at(key, revision) != value {
            let show =
                |value: Option<&[u8]>| value.map_or("nothing".into(), |v| String::from_utf8_lossy(v).into_owned());
            let (key, value, should) = (String::from_utf8_lossy(key), show(value), show(book.at(key, revision)));
            let text = format!("a read of {key} at revision {revision} saw {value}, the history has {should}");
            book.failures.push(text);
        }
        book.known = book.known.max(revision);
    }

    /// A watcher of `member` got a change of one revision; `next` is the one that it should be.
    pub(crate) fn watched(&self, member: u64, next: i64, revision: i64, events: &[Event]) {
        let mut book = self.book.lock();
        book.events += 1;
        let expected = book.changes.range(next..).next().map(|(revision, events)| (*revision, events.clone()));
        if expected.as_ref().is_none_or(|(at, found)| (*at, found.as_slice()) != (revision, events)) {
            let events = describe(events);
            book.failures
                .push(format!("a watcher of member {member} got {events} at {revision}, due was {expected:?}"));
        }
    }
}

/// For people.
pub(crate) fn describe(events: &[Event]) -> String {
    let one = |Event { key, value }: &Event| {
        let key = String::from_utf8_lossy(key);
        value.as_ref().map_or_else(|| format!("-{key}"), |value| format!("{key}={}", String::from_utf8_lossy(value)))
    };
    events.iter().map(one).collect::<Vec<_>>().join(" ")
}
