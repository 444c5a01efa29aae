//! Who waits for changes of the tree, by the path that is watched.
//!
//! A change is written as JSON once, for all who get it. It goes to the watchers of its own path, to recursive ones of the
//! directories above, and when a directory goes, to those of every node that goes with it. Whoever waits for one event is
//! forgotten with it; a stream that does not read is cut, and so are those that are behind when all together hold too much.

use super::json;
use super::stream::{self, Account};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use store::Reader;
use store::v2::{AUTH, Event, Refusal, Scan, Told};
use tokio::sync::oneshot;

/// Watchers at a time. More are refused with "too many requests".
const WATCHERS_MAX: usize = 65_536;

/// See the module.
#[derive(Default)]
pub(crate) struct Hub {
    watchers: Mutex<Watchers>,
    /// Those that are there, and those that are about to be.
    count: AtomicUsize,
    /// All that ever came.
    requests: AtomicU64,
    /// Of the events that are on their way.
    account: Account,
}

#[derive(Default)]
struct Watchers {
    /// By path, in the order in which they came.
    by_path: HashMap<Box<[u8]>, BTreeMap<u64, Watcher>>,
    next_id: u64,
    /// Nobody waits any more.
    closed: bool,
}

struct Watcher {
    recursive: bool,
    /// Events before this index were seen.
    since: u64,
    sink: Sink,
}

enum Sink {
    Once(Option<oneshot::Sender<Bytes>>),
    Stream(stream::Sender),
    /// Is told of nothing, and ends with the others.
    Silent(#[expect(dead_code, reason = "its end is what is noticed")] oneshot::Sender<Bytes>),
}

/// What a watcher waits for.
pub(super) enum Wait {
    /// It is there.
    Ready(Bytes),
    /// One event.
    Once(Place, oneshot::Receiver<Bytes>),
    /// All that follow.
    Stream(Place, stream::Receiver),
    /// It is there, and nothing follows. In etcd a stream that begins in the past stays open then.
    Last(Bytes, Place, oneshot::Receiver<Bytes>),
}

/// A watcher's place, given back when it is dropped.
pub(super) struct Place {
    hub: Arc<Hub>,
    path: Box<[u8]>,
    id: u64,
}

/// Why nobody can wait.
pub(super) enum WatchError {
    /// The tree refuses.
    Refused(Refusal),
    /// Too many do.
    TooMany,
}

impl Hub {
    /// Watchers that wait.
    pub(super) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Watchers that came since the start.
    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Begins to watch `path` from the index `since` on, 0 for what comes next.
    pub(super) fn watch(
        self: &Arc<Self>,
        reader: &Reader,
        path: &[u8],
        (recursive, stream): (bool, bool),
        since: u64,
    ) -> Result<(Wait, Scan), WatchError> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        // Before the tree is looked at: whoever applies what comes behind that look sees that somebody waits.
        if self.count.fetch_add(1, Ordering::SeqCst) >= WATCHERS_MAX {
            self.count.fetch_sub(1, Ordering::SeqCst);
            return Err(WatchError::TooMany);
        }
        let mut watchers = self.watchers.lock();
        let scan = match reader.v2_scan(path, recursive, since) {
            Ok(scan) if scan.event.is_none() || stream => scan,
            found => {
                drop(watchers);
                self.count.fetch_sub(1, Ordering::SeqCst);
                let scan = found.map_err(WatchError::Refused)?;
                let event = scan.event.as_deref().map(written).unwrap_or_default();
                return Ok((Wait::Ready(event.into()), scan));
            }
        };
        let id = watchers.next_id;
        watchers.next_id += 1;
        let place = Place { hub: Arc::clone(self), path: path.into(), id };
        let (sink, wait) = match &scan.event {
            Some(event) => {
                let (sender, receiver) = oneshot::channel();
                (Sink::Silent(sender), Wait::Last(written(event).into(), place, receiver))
            }
            None if stream => {
                let (sender, receiver) = stream::channel();
                (Sink::Stream(sender), Wait::Stream(place, receiver))
            }
            None => {
                let (sender, receiver) = oneshot::channel();
                (Sink::Once(Some(sender)), Wait::Once(place, receiver))
            }
        };
        if watchers.closed {
            // Without its sink it ends at once.
            self.count.fetch_sub(1, Ordering::SeqCst);
        } else {
            let watcher = Watcher { recursive, since: scan.since, sink };
            watchers.by_path.entry(path.into()).or_default().insert(id, watcher);
        }
        Ok((wait, scan))
    }

    /// Tells of changes, in the order of their indexes. Does not block.
    pub(crate) fn publish(&self, told: &[Told]) {
        if told.is_empty() || self.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut watchers = self.watchers.lock();
        // Before anything is handed on: who reads has had the time to take what came before.
        let mut gone = if self.account.is_overdrawn() { watchers.cut_those_behind() } else { 0 };
        for told in told {
            let mut event = Outgoing { account: &self.account, event: &told.event, written: None };
            if told.event.node.key.starts_with(AUTH.as_bytes()) {
                // Somebody may not see any more what it waits for; who may asks again.
                gone += watchers.clear();
                continue;
            }
            if told.event.action.removes() {
                for path in told.removed.iter().chain([&told.event.node.key]) {
                    gone += watchers.tell(path, &mut event, true);
                }
            }
            for path in ancestors(&told.event.node.key) {
                gone += watchers.tell(path, &mut event, false);
            }
        }
        drop(watchers);
        self.count.fetch_sub(gone, Ordering::SeqCst);
    }

    /// Ends all waits, and those that begin from now on: the member stops.
    pub(crate) fn close(&self) {
        let gone = {
            let mut watchers = self.watchers.lock();
            watchers.closed = true;
            watchers.clear()
        };
        self.count.fetch_sub(gone, Ordering::SeqCst);
    }

    /// Ends all waits: the tree is another one now, and what lies between is not known.
    pub(crate) fn replaced(&self) {
        let gone = self.watchers.lock().clear();
        self.count.fetch_sub(gone, Ordering::SeqCst);
    }
}

fn written(event: &Event) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    json::event(&mut out, event, true);
    out
}

/// An event, and its JSON once somebody needs it.
struct Outgoing<'a> {
    account: &'a Account,
    event: &'a Event,
    written: Option<Bytes>,
}

impl Outgoing<'_> {
    fn bytes(&mut self) -> Bytes {
        self.written.get_or_insert_with(|| self.account.hold(written(self.event))).clone()
    }
}

impl Watchers {
    /// Tells the watchers of a path; returns how many are gone.
    fn tell(&mut self, path: &[u8], event: &mut Outgoing<'_>, removed: bool) -> usize {
        let Some(watchers) = self.by_path.get_mut(path) else { return 0 };
        let before = watchers.len();
        let is_own = *event.event.node.key == *path;
        if !is_own && is_hidden(path, &event.event.node.key) {
            return 0;
        }
        let index = event.event.index();
        watchers.retain(|_, watcher| {
            let wants = (watcher.recursive || is_own || removed) && index >= watcher.since;
            !wants || watcher.sink.send(event)
        });
        let gone = before - watchers.len();
        if watchers.is_empty() {
            self.by_path.remove(path);
        }
        gone
    }

    /// Ends the streams whose connections did not take all that they were told; returns how many.
    fn cut_those_behind(&mut self) -> usize {
        let mut gone = 0;
        self.by_path.retain(|_, watchers| {
            watchers.retain(|_, watcher| {
                let Sink::Stream(sender) = &watcher.sink else { return true };
                if sender.is_behind() {
                    sender.cut();
                    gone += 1;
                    return false;
                }
                true
            });
            !watchers.is_empty()
        });
        if gone > 0 {
            tracing::warn!(streams = gone, "v2: ended streams that are behind: all together hold too many events");
        }
        gone
    }

    fn clear(&mut self) -> usize {
        std::mem::take(&mut self.by_path).values().map(BTreeMap::len).sum()
    }
}

impl Sink {
    /// Hands an event over; false when it was the last one.
    fn send(&mut self, event: &mut Outgoing<'_>) -> bool {
        match self {
            Self::Once(sender) => {
                if let Some(sender) = sender.take() {
                    // It may have left.
                    drop(sender.send(event.bytes()));
                }
                false
            }
            Self::Stream(sender) => sender.send(event.bytes()),
            Self::Silent(_) => true,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut watchers = self.hub.watchers.lock();
        let Some(those) = watchers.by_path.get_mut(&self.path) else { return };
        if those.remove(&self.id).is_some() {
            if those.is_empty() {
                watchers.by_path.remove(&self.path);
            }
            drop(watchers);
            self.hub.count.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// The root, the directories on the way, and the path itself.
fn ancestors(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let ends = path.iter().enumerate().skip(1).filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
    let all = ends.chain([path.len()]).map(|end| &path[..end]);
    [&b"/"[..]].into_iter().chain(all.filter(|path| *path != b"/"))
}

/// True if a part of `key` below the watched path begins with an underscore.
fn is_hidden(watched: &[u8], key: &[u8]) -> bool {
    // A watched path may be deeper than the directory that goes.
    key.get(watched.len()..).is_some_and(|rest| {
        let at_root = watched == b"/" && rest.first() == Some(&b'_');
        at_root || rest.windows(2).any(|pair| pair == b"/_")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v2::stream::{BYTES_MAX, EVENTS_MAX};
    use std::task::{Context, Poll, Waker};
    use store::v2::{Action, NodeView};
    use tokio::sync::oneshot::error::TryRecvError;

    fn told(index: u64, value: &str) -> Told {
        let value = Some(value.as_bytes().to_vec().into());
        let node = NodeView { key: (*b"/1/k").into(), value, modified_index: index, ..NodeView::default() };
        let event = Event { action: Action::Set, node, prev_node: None, is_refresh: false };
        Told { event: Arc::new(event), removed: Vec::new() }
    }

    fn with_reader(test: impl FnOnce(&Arc<Hub>, &Reader)) {
        let directory = tempfile::tempdir().unwrap();
        let (_writer, _flusher, reader) = store::open(&directory.path().join("db"), store::Options::default()).unwrap();
        test(&Arc::default(), &reader);
    }

    fn watch(hub: &Arc<Hub>, reader: &Reader, stream: bool) -> Wait {
        hub.watch(reader, b"/1/k", (false, stream), 0).unwrap_or_else(|_| panic!("it is refused")).0
    }

    fn next(events: &mut stream::Receiver) -> Poll<Option<Bytes>> {
        events.poll_next(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_stream_that_does_not_read_is_cut() {
        let values = [("v".repeat(1 << 20), BYTES_MAX >> 20), ("v".to_owned(), EVENTS_MAX)];
        for (value, kept) in values {
            with_reader(|hub, reader| {
                let Wait::Stream(_place, mut events) = watch(hub, reader, true) else { panic!("a stream") };
                let mut sent = 0;
                while hub.len() == 1 {
                    sent += 1;
                    assert!(sent <= EVENTS_MAX + 1, "it is never cut");
                    hub.publish(&[told(sent as u64 + 10, &value)]);
                }
                assert!((kept - 1..=kept + 1).contains(&sent), "{sent} of {} bytes", value.len());
                let mut taken = 0;
                while let Poll::Ready(Some(_)) = next(&mut events) {
                    taken += 1;
                }
                assert_eq!((taken + 1, next(&mut events)), (sent, Poll::Ready(None)));
            });
        }
    }

    #[test]
    fn a_stream_that_reads_gets_all() {
        with_reader(|hub, reader| {
            let Wait::Stream(_place, mut events) = watch(hub, reader, true) else { panic!("a stream") };
            for index in 0..3 * EVENTS_MAX {
                hub.publish(&[told(index as u64 + 10, &"v".repeat(1 << 20))]);
                assert!(matches!(next(&mut events), Poll::Ready(Some(_))));
            }
            assert_eq!(hub.len(), 1);
        });
    }

    #[test]
    fn streams_that_are_behind_are_cut_when_all_hold_too_much() {
        with_reader(|_, reader| {
            let (streams, room) = (20, 1 << 20);
            let hub = &Arc::new(Hub { account: Account::new(room), ..Hub::default() });
            let mut slow: Vec<_> = (0..streams)
                .map(|n| {
                    let path = format!("/1/{n}");
                    let Ok((Wait::Stream(place, events), _)) = hub.watch(reader, path.as_bytes(), (false, true), 0)
                    else {
                        panic!("a stream")
                    };
                    (place, events)
                })
                .collect();
            let Wait::Stream(_place, mut events) = watch(hub, reader, true) else { panic!("a stream") };
            let value = "v".repeat(room / 50);
            let mut index = 10;
            let mut publish = |key: &str| {
                let mut change = told(index, &value);
                Arc::make_mut(&mut change.event).node.key = key.as_bytes().into();
                hub.publish(&[change]);
                index += 1;
            };
            for n in (0..streams).flat_map(|n| [n; 7]) {
                publish(&format!("/1/{n}"));
                assert!(hub.account.bytes() <= room + room / 20);
                publish("/1/k");
                assert!(matches!(next(&mut events), Poll::Ready(Some(_))), "who reads is not cut");
            }
            let cut = slow.iter_mut().map(|(_, events)| next(events)).filter(|next| *next == Poll::Ready(None)).count();
            assert!(cut >= streams / 2, "{cut}");
            drop(slow);
            assert_eq!((hub.account.bytes(), hub.len()), (0, 1));
        });
    }

    #[test]
    fn what_is_one_clients_own_answer_cuts_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let (mut writer, _flusher, reader) =
            store::open(&directory.path().join("db"), store::Options::default()).unwrap();
        let request = api::cleatpb::V2Request {
            method: api::cleatpb::v2_request::Method::Set as i32,
            path: "/1/k".into(),
            value: "v".repeat(1 << 10).into(),
            ..Default::default()
        };
        let op = Some(api::cleatpb::command::Op::V2(request));
        let commands = [api::cleatpb::Command { header: None, op }];
        let position = store::Position { term: 1, index: 1 };
        writer.apply([store::Entry { position, commands: &commands, membership: None }]).unwrap();
        let hub = Arc::new(Hub::default());
        for stream in [false, true] {
            let Ok((wait, _)) = hub.watch(&reader, b"/1/k", (false, stream), reader.v2_index()) else {
                panic!("refused")
            };
            assert!(matches!(&wait, Wait::Ready(event) | Wait::Last(event, ..) if event.len() > 1 << 10));
            assert_eq!(hub.account.bytes(), 0);
        }
    }

    #[test]
    fn all_waits_end_with_the_member() {
        with_reader(|hub, reader| {
            let waits = [watch(hub, reader, true), watch(hub, reader, false)];
            assert_eq!(hub.len(), 2);
            hub.close();
            for wait in waits.into_iter().chain([watch(hub, reader, true), watch(hub, reader, false)]) {
                match wait {
                    Wait::Stream(_, mut events) => assert_eq!(next(&mut events), Poll::Ready(None)),
                    Wait::Once(_, mut event) => assert_eq!(event.try_recv(), Err(TryRecvError::Closed)),
                    Wait::Ready(_) | Wait::Last(..) => panic!("nothing is there"),
                }
            }
            assert_eq!(hub.len(), 0);
        });
    }

    #[test]
    fn a_change_of_users_ends_all_waits() {
        with_reader(|hub, reader| {
            let Wait::Once(_place, mut event) = watch(hub, reader, false) else { panic!("one event") };
            let mut change = told(11, "");
            Arc::make_mut(&mut change.event).node.key = (*b"/2/users/u").into();
            hub.publish(&[change]);
            assert_eq!((event.try_recv(), hub.len()), (Err(TryRecvError::Closed), 0));
        });
    }

    #[test]
    fn a_path_is_below_all_its_directories() {
        let all = |path: &'static [u8]| ancestors(path).map(|path| str::from_utf8(path).unwrap()).collect::<Vec<_>>();
        assert_eq!(all(b"/1/a/b"), ["/", "/1", "/1/a", "/1/a/b"]);
        assert_eq!(all(b"/1"), ["/", "/1"]);
    }

    #[test]
    fn what_is_hidden_depends_on_where_one_looks() {
        for (watched, key, hidden) in [
            ("/1", "/1/_a", true),
            ("/1", "/1/a/_b/c", true),
            ("/1/a", "/1/a/_b", true),
            ("/1/_a", "/1/_a/b", false),
            ("/1/a", "/1/a", false),
            ("/1", "/1/a_b/c", false),
            ("/1/a/b/c", "/1/a", false),
        ] {
            assert_eq!(is_hidden(watched.as_bytes(), key.as_bytes()), hidden, "{watched} {key}");
        }
    }
}
