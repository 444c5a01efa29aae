//! What must hold, checked while it happens: against one history that all members' changes are entered into.
//!
//! - A revision holds the same changes on every member and in every life of it, and no write is done twice.
//! - An acknowledged write is in the history, at the revision that it was told, above every revision that anybody knew
//!   when it began.
//! - A linearizable read sees at least what anybody knew when it began, and exactly what the history holds at the
//!   revision that it names.
//! - A watcher sees every change from its start on, once and in order.
//! - A lease ends for its holder when so much time has passed since the last grant or keepalive was asked for that was
//!   promised then, by the clock of the member that proposes the end, and not earlier; or when the holder wants it.
//! - It ends once in every life of a member. Members that have applied as far hold the same leases, with the same keys,
//!   so its keys go at one revision everywhere. What nobody renews any more ends.
//! - A member that installed a snapshot holds what the history holds at the revision of the snapshot.
//!
//! The last two but one are looked at when all is well again ([`super::converge`]).

use super::report::{Kind, Tally, Trace, note};
use api::etcdserverpb::RangeRequest;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use store::{Applied, Change, Notice, Reader};
use tokio::time::Instant;

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) key: Vec<u8>,
    /// None for a delete.
    pub(crate) value: Option<Vec<u8>>,
}

/// A lease as its holder knows it.
#[derive(Default)]
struct Promise {
    /// When the last grant or keepalive was asked for that was answered, and the time that it promised.
    last: Option<(Instant, Duration)>,
    /// Proposals of a leader that takes the time for over.
    expiries: Vec<Expiry>,
    has_ended: bool,
    /// Its holder revoked it, or may have.
    given_up: bool,
}

/// A leader proposed the end of a lease.
#[derive(Clone, Copy)]
struct Expiry {
    at: Instant,
    /// Of the clock that said so.
    rate: f64,
}

impl Promise {
    /// What is wrong with the end of the lease: no clock had counted enough when its end was proposed.
    fn broken(&self) -> Option<String> {
        let (asked, ttl) = self.last.filter(|_| self.has_ended && !self.given_up)?;
        // What a clock counts is rounded.
        let counted = |expiry: &Expiry| {
            expiry.at.saturating_duration_since(asked).mul_f64(expiry.rate) + Duration::from_millis(1)
        };
        let most = self.expiries.iter().map(counted).max().unwrap_or_default();
        (most < ttl).then(|| format!("ended after {most:?} by the clock of a leader, {ttl:?} were promised"))
    }
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
    expired: u64,
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
    tally: Tally,
}

/// Counts of what clients did.
pub(crate) struct Counts {
    pub(crate) writes: u64,
    pub(crate) unknown: u64,
    pub(crate) reads: u64,
    pub(crate) events: u64,
    pub(crate) expired: u64,
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
                let value = shown(value);
                self.failures.push(format!("{value} was written at {before} and again at {revision}"));
            }
            self.keys.entry(key.clone()).or_default().insert(revision, value.clone());
        }
        self.changes.insert(revision, events);
    }

    /// Looks at a lease of which something was learned.
    fn judge(&mut self, id: i64) {
        if let Some(broken) = self.leases.get(&id).and_then(Promise::broken) {
            self.failures.push(format!("lease {id} {broken}"));
        }
    }

    fn at(&self, key: &[u8], revision: i64) -> Option<&[u8]> {
        self.keys.get(key)?.range(..=revision).next_back()?.1.as_deref()
    }
}

impl History {
    pub(crate) fn new(trace: Trace, tally: Tally) -> Self {
        Self { book: Arc::default(), trace, tally }
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
        let Book { writes, unknown, reads, events, expired, .. } = *book;
        Counts { writes, unknown, reads, events, expired }
    }

    /// The highest revision that anybody was told.
    pub(crate) fn known(&self) -> i64 {
        self.book.lock().known
    }

    /// Everything up to `revision` was applied somewhere.
    pub(crate) fn last(&self) -> i64 {
        self.book.lock().changes.keys().next_back().copied().unwrap_or(1)
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

    /// A member's content was replaced by a snapshot.
    pub(crate) fn installed(&self, member: u64, reader: &Reader) {
        let all = RangeRequest { key: vec![0].into(), range_end: vec![0].into(), ..RangeRequest::default() };
        let (answer, revision) = reader.range(&all).expect("the store works");
        note!(self.trace, "{member} installed a snapshot of revision {revision}");
        self.tally.count(Kind::InstalledSnapshot);
        let mut book = self.book.lock();
        let fields = answer.kvs.iter().map(|kv| kv.fields().expect("the store encoded it"));
        let found: BTreeMap<&[u8], &[u8]> = fields.map(|fields| (fields.key, fields.value)).collect();
        let due = book.keys.keys().filter_map(|key| Some((key.as_slice(), book.at(key, revision)?)));
        if found != due.collect() {
            let found = found.keys().map(|key| String::from_utf8_lossy(key)).collect::<Vec<_>>().join(" ");
            let text = format!("member {member} installed {found} at revision {revision}, which holds something else");
            book.failures.push(text);
        }
    }

    /// The clock of a leader, which runs at `rate`, took the time of a lease for over.
    pub(crate) fn expires(&self, member: u64, id: i64, rate: f64) {
        note!(self.trace, "lease {id} is over by the clock of {member}");
        self.book.lock().leases.entry(id).or_default().expiries.push(Expiry { at: Instant::now(), rate });
    }

    fn ended(&self, member: u64, id: i64) {
        note!(self.trace, "{member} applied the end of lease {id}");
        let mut book = self.book.lock();
        let promise = book.leases.entry(id).or_default();
        if std::mem::replace(&mut promise.has_ended, true) {
            return;
        }
        if let Some(Expiry { rate, .. }) = promise.expiries.last().filter(|_| !promise.given_up) {
            if *rate > 1.05 {
                self.tally.count(Kind::ExpiryByFastClock);
            } else if *rate < 1.0 {
                self.tally.count(Kind::ExpiryBySlowClock);
            }
        }
        book.expired += 1;
        book.judge(id);
    }

    /// A grant or keepalive that was asked for at `asked` promised `ttl` seconds.
    pub(crate) fn promised(&self, id: i64, asked: Instant, ttl: i64) {
        let mut book = self.book.lock();
        let promise = book.leases.entry(id).or_default();
        promise.last = promise.last.max(Some((asked, Duration::from_secs(ttl as u64))));
        book.judge(id);
    }

    /// The lease may end any time.
    pub(crate) fn gave_up(&self, id: i64) {
        self.book.lock().leases.entry(id).or_default().given_up = true;
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
            let show = |value: Option<&[u8]>| value.map_or("nothing".into(), shown);
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

/// A value without what only makes it long.
fn shown(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_end_matches(super::workload::PADDING).to_owned()
}

/// For people.
pub(crate) fn describe(events: &[Event]) -> String {
    let one = |Event { key, value }: &Event| {
        let key = String::from_utf8_lossy(key);
        let written = |value: &Vec<u8>| format!("{key}={}", shown(value));
        value.as_ref().map_or_else(|| format!("-{key}"), written)
    };
    events.iter().map(one).collect::<Vec<_>>().join(" ")
}
