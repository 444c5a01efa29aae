//! The watchers of one client stream: requests in, responses out.
//!
//! The owner (`v3/watch.rs`) polls this from one task and sends what [`WatchStream::pop`] gives, in that order. So
//! the order in which responses are queued here is the order that the client sees, and these rules hold:
//!
//! - Nothing above the hub's revision is ever sent. What an unsynced watcher reads from the store is cut there.
//! - A progress response carries a hub revision that was read together with emptying the mailbox, after the mail.
//! - All events of one revision for one watcher are in one response, or in fragments that follow each other.
//!
//! Unsynced watchers are caught up together: one read of history serves all of the stream's.

use super::hub::{Hub, Kinds, Mail, Mailbox};
use super::index::{Index, WatchedRange};
use super::outbox::Outbox;
use api::encoded::{Event, KeyValue, WatchResponse};
use api::etcdserverpb::watch_create_request::FilterType;
use api::etcdserverpb::{ResponseHeader, WatchCreateRequest};
use std::collections::HashMap;
use std::sync::Arc;
use store::{Change, Fault, KeyRange, ReadError, Reader};

/// Makes a response header for a store revision.
pub(crate) type MakeHeader = Arc<dyn Fn(i64) -> ResponseHeader + Send + Sync>;

/// Bytes of history read in one step for a stream's unsynced watchers.
const HISTORY_BYTES: usize = 1 << 20;

/// Events found in one step, each counted for each watcher; one revision may exceed it. Bounds a stream's memory when
/// many watchers match the same history.
const HISTORY_EVENTS: usize = 1 << 14;

/// In place of the id of a watcher that was not created, and of the whole stream.
const NO_WATCHER: i64 = -1;

struct Watcher {
    slot: u32,
    range: WatchedRange,
    kinds: Kinds,
    prev_kv: bool,
    fragment: bool,
    progress_notify: bool,
    /// First revision that the client wants.
    first: i64,
    /// Events were sent since the last progress interval began.
    active: bool,
    /// The response in the outbox that takes more events.
    open: u64,
}

/// The watchers of one client stream.
pub(crate) struct WatchStream {
    hub: Arc<Hub>,
    reader: Reader,
    header: MakeHeader,
    mailbox: Arc<Mailbox>,
    mail: Mail,
    watchers: HashMap<i64, Watcher>,
    next_id: i64,
    /// Watchers that ask for progress.
    notifying: usize,
    /// Unsynced watchers, and the revision that each goes on from.
    behind: HashMap<i64, i64>,
    /// Whether the next step of history serves the watcher that is furthest behind, or the one that is nearest: the
    /// first must not wait for ever, the second not for the first.
    oldest_first: bool,
    outbox: Outbox,
    previous: Previous,
    progress_requested: bool,
    /// The highest revision that a created response named.
    named: i64,
}

impl WatchStream {
    /// A stream without watchers. Responses of watchers that ask for fragments are split at `fragment_bytes`.
    pub(crate) fn new(hub: Arc<Hub>, reader: Reader, header: MakeHeader, fragment_bytes: usize) -> Self {
        hub.stats().streams.add(1);
        Self {
            previous: Previous::new(reader.clone()),
            hub,
            reader,
            header,
            mailbox: Arc::default(),
            mail: Mail::default(),
            watchers: HashMap::new(),
            next_id: 0,
            notifying: 0,
            behind: HashMap::new(),
            oldest_first: false,
            outbox: Outbox::new(fragment_bytes),
            progress_requested: false,
            named: 0,
        }
    }

    /// The next response to send.
    pub(crate) fn pop(&mut self) -> Option<WatchResponse> {
        self.outbox.pop()
    }

    /// True while a watcher has history to read: call [`Self::catch_up`].
    pub(crate) fn has_unsynced(&self) -> bool {
        !self.behind.is_empty()
    }

    /// True while a progress request waits for all watchers to be synced: call [`Self::settle_progress`] again.
    pub(crate) fn progress_pending(&self) -> bool {
        self.progress_requested
    }

    /// True when a watcher wants to hear of progress by itself.
    pub(crate) fn notifies_progress(&self) -> bool {
        self.notifying > 0
    }

    /// Waits until the mailbox may have something for [`Self::collect`]. Cancellation safe.
    pub(crate) async fn filled(&self) {
        self.mailbox.filled().await;
    }

    /// Answers a create request with a refusal.
    pub(crate) fn refuse(&mut self, reason: impl Into<String>) {
        let header = Some((self.header)(self.reader.revision()));
        let cancel_reason = reason.into();
        self.outbox.push(WatchResponse {
            header,
            watch_id: NO_WATCHER,
            created: true,
            canceled: true,
            cancel_reason,
            ..Default::default()
        });
    }

    /// Creates a watcher, or refuses as etcd does.
    /// The answer is its id, none if there is no watcher.
    pub(crate) fn create(&mut self, request: &WatchCreateRequest) -> Option<i64> {
        let Some(range) = WatchedRange::new(&request.key, &request.range_end) else {
            self.refuse("mvcc: watcher range is empty");
            return None;
        };
        if request.watch_id != 0 && self.watchers.contains_key(&request.watch_id) {
            self.refuse("mvcc: duplicate watch ID provided on the WatchStream");
            return None;
        }
        let watch_id = if request.watch_id == 0 { self.free_id() } else { request.watch_id };
        let (compacted, current) = self.reader.compacted_and_revision();
        if request.start_revision < 0 {
            // As in etcd 3.4, which takes it for a revision compacted long ago.
            self.push_created(watch_id, current);
            self.push_compacted(watch_id, compacted);
            return None;
        }
        let unwanted = |filter: FilterType| request.filters.contains(&(filter as i32));
        let kinds = Kinds { puts: !unwanted(FilterType::Noput), deletes: !unwanted(FilterType::Nodelete) };
        let first = (request.start_revision != 0).then_some(request.start_revision);
        let (slot, at, unsynced) = self.hub.register(&self.mailbox, &range, watch_id, kinds, first, current);
        let watcher = Watcher {
            slot,
            range,
            kinds,
            prev_kv: request.prev_kv,
            fragment: request.fragment,
            progress_notify: request.progress_notify,
            first: first.unwrap_or(at + 1),
            active: false,
            open: 0,
        };
        self.notifying += usize::from(watcher.progress_notify);
        self.watchers.insert(watch_id, watcher);
        if let Some(from) = unsynced {
            self.behind.insert(watch_id, from);
        }
        self.push_created(watch_id, at);
        Some(watch_id)
    }

    /// Ends every watcher that `is_permitted` has a reason against. What waits for the client is not sent to it any more,
    /// but for the answer to its creation.
    pub(crate) fn retain(&mut self, mut is_permitted: impl FnMut(i64, KeyRange<'_>) -> Result<(), String>) {
        let refused: Vec<(i64, String)> = (self.watchers.iter())
            .filter_map(|(id, watcher)| is_permitted(*id, watcher.range.as_asked()).err().map(|reason| (*id, reason)))
            .collect();
        for (watch_id, cancel_reason) in refused {
            self.forget(watch_id);
            self.outbox.withdraw(watch_id);
            let header = Some((self.header)(self.reader.revision()));
            let response = WatchResponse { header, watch_id, canceled: true, cancel_reason, ..Default::default() };
            self.outbox.push(response);
        }
    }

    /// Ends a watcher; an unknown one is ignored.
    pub(crate) fn cancel(&mut self, watch_id: i64) {
        if self.forget(watch_id) {
            let header = Some((self.header)(self.reader.revision()));
            self.outbox.push(WatchResponse { header, watch_id, canceled: true, ..Default::default() });
        }
    }

    /// Takes a progress request. It is answered by this call or a later one of [`Self::settle_progress`].
    ///
    /// # Errors
    /// A fault of the store.
    pub(crate) fn request_progress(&mut self) -> Result<(), Fault> {
        self.progress_requested = true;
        self.settle_progress()
    }

    /// Answers a waiting progress request if every watcher is synced and has reached its first revision.
    ///
    /// # Errors
    /// A fault of the store.
    pub(crate) fn settle_progress(&mut self) -> Result<(), Fault> {
        if !self.progress_requested {
            return Ok(());
        }
        let revision = self.collect()?;
        let reached = self.watchers.values().all(|watcher| watcher.first <= revision + 1);
        if reached && self.behind.is_empty() && revision >= self.named {
            self.progress_requested = false;
            self.push_progress(NO_WATCHER, revision);
        }
        Ok(())
    }

    /// Ends a progress interval: tells each watcher that asked for it, and had no event in it, how far it is.
    ///
    /// # Errors
    /// A fault of the store.
    pub(crate) fn notify_progress(&mut self) -> Result<(), Fault> {
        let revision = self.collect()?;
        let mut quiet = Vec::new();
        for (watch_id, watcher) in &mut self.watchers {
            let synced = watcher.first <= revision + 1 && !self.behind.contains_key(watch_id);
            if watcher.progress_notify && !watcher.active && synced && revision >= self.named {
                quiet.push(*watch_id);
            }
            watcher.active = false;
        }
        for watch_id in quiet {
            self.push_progress(watch_id, revision);
        }
        Ok(())
    }

    /// Turns the mail into responses, and answers the hub's revision at which the mailbox was emptied.
    ///
    /// # Errors
    /// A fault of the store, when previous key-values are read.
    pub(crate) fn collect(&mut self) -> Result<i64, Fault> {
        let mut mail = std::mem::take(&mut self.mail);
        let revision = self.hub.collect(&self.mailbox, &mut mail);
        for item in mail.items.drain(..) {
            let Some(watcher) = self.watchers.get_mut(&item.watch_id) else { continue };
            let response = self.outbox.open(&mut watcher.open, item.watch_id, watcher.fragment);
            for position in item.matches.positions() {
                response.add(self.previous.event(&item.change, *position, watcher.prev_kv)?);
            }
            response.seal(&self.header, item.change.revision);
            watcher.active = true;
            self.hub.stats().events.add(item.matches.positions().len());
        }
        for behind in mail.behind.drain(..) {
            self.behind.insert(behind.watch_id, behind.from);
        }
        self.mail = mail;
        Ok(revision)
    }

    /// Reads one step of history for the unsynced watchers. Not cancellation safe, except by dropping the stream.
    ///
    /// # Errors
    /// A fault of the store.
    pub(crate) async fn catch_up(&mut self) -> Result<(), Fault> {
        // The mail of a watcher that fell behind lies below what is read now.
        self.collect()?;
        let missed = self.choose_missed();
        let permit = Arc::clone(self.hub.history()).acquire_owned().await;
        let reader = self.reader.clone();
        let read = crate::blocking::run(move || {
            let history = read_history(&reader, &missed);
            drop(permit);
            (missed, history)
        });
        match read.await {
            Ok((missed, Ok(History::Read(read)))) => self.take_history(&missed, read),
            Ok((missed, Ok(History::Compacted(compacted)))) => {
                for watcher in missed.iter().filter(|watcher| watcher.next < compacted) {
                    self.forget(watcher.watch_id);
                    self.push_compacted(watcher.watch_id, compacted);
                }
            }
            Ok((_, Err(fault))) => return Err(fault),
            // The runtime stops, and this task with it at its next wait.
            Err(_) => tokio::task::yield_now().await,
        }
        Ok(())
    }

    /// The watchers that the next step of history can serve: those that miss its beginning or something later.
    fn choose_missed(&mut self) -> Vec<Missed> {
        self.oldest_first = !self.oldest_first;
        let nexts = self.behind.values().copied();
        let from = if self.oldest_first { nexts.min() } else { nexts.max() }.unwrap_or(0);
        (self.behind.iter())
            .filter(|(_, next)| **next >= from)
            .filter_map(|(watch_id, next)| {
                let Watcher { slot, range, kinds, prev_kv, .. } = self.watchers.get(watch_id)?;
                let range = range.clone();
                Some(Missed { watch_id: *watch_id, slot: *slot, range, kinds: *kinds, prev_kv: *prev_kv, next: *next })
            })
            .collect()
    }

    fn take_history(&mut self, missed: &[Missed], read: Read) {
        let complete = read.next > read.current;
        let synced = if complete {
            self.hub.synchronize(missed.iter().map(|watcher| watcher.slot), read.next - 1)
        } else {
            Err(self.hub.revision())
        };
        let (Ok(published) | Err(published)) = synced;
        for found in read.found.into_iter().filter(|found| found.revision <= published) {
            let Some(watcher) = self.watchers.get_mut(&found.watch_id) else { continue };
            self.hub.stats().events.add(found.events.len());
            let response = self.outbox.open(&mut watcher.open, found.watch_id, watcher.fragment);
            found.events.into_iter().for_each(|event| response.add(event));
            response.seal(&self.header, found.revision);
            watcher.active = true;
        }
        for watcher in missed {
            if synced.is_ok() {
                self.behind.remove(&watcher.watch_id);
            } else {
                self.behind.insert(watcher.watch_id, watcher.next.max(read.next.min(published + 1)));
            }
        }
    }

    fn free_id(&mut self) -> i64 {
        while self.watchers.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        self.next_id - 1
    }

    fn forget(&mut self, watch_id: i64) -> bool {
        let Some(watcher) = self.watchers.remove(&watch_id) else { return false };
        self.hub.remove(watcher.slot);
        self.notifying -= usize::from(watcher.progress_notify);
        self.behind.remove(&watch_id);
        true
    }

    fn push_created(&mut self, watch_id: i64, revision: i64) {
        self.named = self.named.max(revision);
        let header = Some((self.header)(revision));
        self.outbox.push(WatchResponse { header, watch_id, created: true, ..Default::default() });
    }

    /// etcd leaves the revision out of this header.
    fn push_compacted(&mut self, watch_id: i64, compact_revision: i64) {
        let header = Some((self.header)(0));
        self.outbox.push(WatchResponse { header, watch_id, canceled: true, compact_revision, ..Default::default() });
    }

    fn push_progress(&mut self, watch_id: i64, revision: i64) {
        let header = Some((self.header)(revision));
        self.outbox.push(WatchResponse { header, watch_id, ..Default::default() });
    }
}

impl Drop for WatchStream {
    fn drop(&mut self) {
        // Emptied first, so that forgetting each watcher finds no mail to look through.
        self.hub.collect(&self.mailbox, &mut Mail::default());
        for watcher in self.watchers.values() {
            self.hub.remove(watcher.slot);
        }
        self.hub.stats().streams.sub(1);
    }
}

/// Makes events, and looks up the key-values before them.
struct Previous {
    reader: Reader,
    /// The last lookup: many watchers of a stream often want the same.
    last: Option<(Change, u32, Option<KeyValue>)>,
}

impl Previous {
    fn new(reader: Reader) -> Self {
        Self { reader, last: None }
    }

    fn event(&mut self, change: &Change, position: u32, prev_kv: bool) -> Result<Event, Fault> {
        let event = &change.events[position as usize];
        let prev_kv = if prev_kv && !event.created { self.before(change, position)? } else { None };
        Ok(Event { kind: i32::from(event.deleted), kv: Some(event.kv.clone()), prev_kv })
    }

    fn before(&mut self, change: &Change, position: u32) -> Result<Option<KeyValue>, Fault> {
        if let Some((of, at, kv)) = &self.last
            && Arc::ptr_eq(of, change)
            && *at == position
        {
            return Ok(kv.clone());
        }
        let kv = self.reader.previous(change.events[position as usize].key(), change.revision)?;
        self.last = Some((Arc::clone(change), position, kv.clone()));
        Ok(kv)
    }
}

/// An unsynced watcher, as the thread that reads history sees it.
struct Missed {
    watch_id: i64,
    slot: u32,
    range: WatchedRange,
    kinds: Kinds,
    prev_kv: bool,
    next: i64,
}

/// The events of one revision for one watcher.
struct Found {
    watch_id: i64,
    revision: i64,
    events: Vec<Event>,
}

struct Read {
    found: Vec<Found>,
    /// Everything below was read.
    next: i64,
    /// The store revision at the time.
    current: i64,
}

enum History {
    Read(Read),
    /// The oldest revision that somebody asked for is gone; what is left begins here.
    Compacted(i64),
}

/// Reads one step of history from the oldest revision that any of the watchers misses. Blocking.
fn read_history(reader: &Reader, missed: &[Missed]) -> Result<History, Fault> {
    let from = missed.iter().map(|watcher| watcher.next).min().unwrap_or(0);
    let past = match reader.past(from, HISTORY_BYTES) {
        Ok(past) => past,
        Err(ReadError::Rejected(_)) => return Ok(History::Compacted(reader.compacted_and_revision().0)),
        Err(ReadError::Fault(fault)) => return Err(fault),
    };
    let mut index = Index::default();
    for (at, watcher) in missed.iter().enumerate().filter(|(_, watcher)| watcher.next < past.next) {
        index.insert(&watcher.range, at as u32);
    }
    let mut previous = Previous::new(reader.clone());
    let mut read = Read { found: Vec::new(), next: past.next, current: past.current };
    let (mut matched, mut events) = (Vec::new(), 0);
    for change in past.changes {
        if events >= HISTORY_EVENTS {
            read.next = change.revision;
            break;
        }
        index.matches(&change, &mut matched, |at, event| {
            let watcher = &missed[at as usize];
            change.revision >= watcher.next && watcher.kinds.wants(event.deleted)
        });
        events += matched.len();
        for positions in matched.chunk_by(|a, b| a.0 == b.0) {
            let watcher = &missed[positions[0].0 as usize];
            let events: Result<_, Fault> =
                (positions.iter()).map(|(_, position)| previous.event(&change, *position, watcher.prev_kv)).collect();
            read.found.push(Found { watch_id: watcher.watch_id, revision: change.revision, events: events? });
        }
    }
    Ok(History::Read(read))
}

#[cfg(test)]
mod tests;
