//! A watch: one JSON line for each event, made from the store's history when the connection asks for more.

use crate::failure::Failure;
use crate::resource::Resource;
use crate::selector::Selector;
use crate::server::{Shared, Signal};
use crate::store::{Event, Kind, in_namespace};
use bytes::Bytes;
use futures::Stream;
use http_body_util::StreamBody;
use hyper::body::Frame;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// The longest that a watch may last, whatever the client asks for.
const MAX_DURATION: Duration = Duration::from_mins(10);

/// What a client wants to watch.
pub(crate) struct Watch {
    pub(crate) resource: Resource,
    pub(crate) namespace: String,
    pub(crate) selector: Selector,
    /// Absent or 0: what is there first, as added.
    pub(crate) from: u64,
    /// A bookmark ends what is there (`sendInitialEvents`).
    pub(crate) marks_initial: bool,
    pub(crate) bookmarks: bool,
    /// Zero for the longest.
    pub(crate) duration: Duration,
}

/// A watch on its way.
struct Running {
    shared: Arc<Shared>,
    watch: Watch,
    position: u64,
    lines: VecDeque<Bytes>,
    /// Nothing follows the lines that wait.
    ended: bool,
    changed: watch::Receiver<Signal>,
    /// The disconnections that had been asked for at the start.
    cuts: u64,
    ends_at: Instant,
    bookmark_at: Instant,
}

/// The body of the answer to a watch.
pub(crate) fn body(
    shared: &Arc<Shared>,
    watch: Watch,
) -> StreamBody<impl Stream<Item = io::Result<Frame<Bytes>>> + use<>> {
    let mut changed = shared.signal.subscribe();
    let cuts = changed.borrow_and_update().cuts;
    let now = Instant::now();
    let duration = if watch.duration.is_zero() { MAX_DURATION } else { watch.duration.min(MAX_DURATION) };
    let mut running = Running {
        shared: Arc::clone(shared),
        position: watch.from,
        lines: VecDeque::new(),
        ended: false,
        changed,
        cuts,
        ends_at: now + duration,
        bookmark_at: now + shared.bookmark_interval,
        watch,
    };
    if running.watch.from == 0 {
        running.begin();
    }
    StreamBody::new(futures::stream::unfold(running, |mut running| async move {
        let next = running.next().await?;
        Some((next, running))
    }))
}

impl Running {
    /// What is there, as added.
    fn begin(&mut self) {
        let store = self.shared.store.lock();
        self.position = store.version();
        let Watch { resource, namespace, selector, .. } = &self.watch;
        let there: Vec<Arc<Value>> =
            store.list(resource, namespace, None, selector).map(|(_, object)| Arc::clone(object)).collect();
        drop(store);
        self.lines.extend(there.iter().map(|object| line("ADDED", object)));
        if self.watch.marks_initial {
            self.bookmark(true);
        }
    }

    async fn next(&mut self) -> Option<io::Result<Frame<Bytes>>> {
        loop {
            if self.changed.borrow_and_update().cuts != self.cuts {
                // An error instead of an end: the connection is cut in the middle of the answer.
                self.cuts = self.changed.borrow().cuts;
                self.lines.clear();
                self.ended = true;
                return Some(Err(io::Error::other("the test cut this watch")));
            }
            if let Some(line) = self.lines.pop_front() {
                return Some(Ok(Frame::data(line)));
            }
            if self.ended {
                return None;
            }
            self.catch_up();
            if !self.lines.is_empty() {
                continue;
            }
            let bookmark_at = if self.watch.bookmarks { self.bookmark_at } else { self.ends_at };
            tokio::select! {
                biased;
                () = self.shared.stop.cancelled() => return None,
                // Invariant: the sender lives as long as `shared`.
                _ = self.changed.changed() => {}
                () = tokio::time::sleep_until(self.ends_at) => return None,
                () = tokio::time::sleep_until(bookmark_at) => {
                    self.bookmark(false);
                    self.bookmark_at = Instant::now() + self.shared.bookmark_interval;
                }
            }
        }
    }

    fn catch_up(&mut self) {
        let since = self.shared.store.lock().since(self.position);
        match since {
            Ok((events, position)) => {
                let lines: Vec<Bytes> = events.iter().filter_map(|event| self.seen(event)).collect();
                self.lines.extend(lines);
                self.position = position;
            }
            Err(gone) => self.fail(&gone),
        }
    }

    fn fail(&mut self, failure: &Failure) {
        self.lines.push_back(line("ERROR", &failure.status()));
        self.ended = true;
    }

    /// An event as this watch sees it: what begins to match is added, what ceases to is deleted.
    fn seen(&self, event: &Event) -> Option<Bytes> {
        let Watch { resource, namespace, selector, .. } = &self.watch;
        let Event { key, kind, object, before, .. } = event;
        if key.group != resource.group || key.plural != resource.plural || !in_namespace(key, namespace) {
            return None;
        }
        let matched = before.as_ref().is_some_and(|before| selector.matches(before));
        let matches = *kind != Kind::Deleted && selector.matches(object);
        match (matched, matches) {
            (false, false) => None,
            (false, true) => Some(line("ADDED", object)),
            (true, true) => Some(line("MODIFIED", object)),
            (true, false) => {
                let mut last = before.as_deref()?.clone();
                last["metadata"]["resourceVersion"] = object["metadata"]["resourceVersion"].clone();
                Some(line("DELETED", &last))
            }
        }
    }

    fn bookmark(&mut self, initial: bool) {
        let mut metadata = json!({"resourceVersion": self.position.to_string(), "creationTimestamp": null});
        if initial {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let Resource { kind, .. } = &self.watch.resource;
        let object = json!({"kind": kind, "apiVersion": self.watch.resource.api_version(), "metadata": metadata});
        self.lines.push_back(line("BOOKMARK", &object));
    }
}

fn line(kind: &str, object: &Value) -> Bytes {
    Bytes::from(format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n"))
}
