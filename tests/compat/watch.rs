//! One watch stream and everything that came over it, sorted by watcher.
//!
//! How events are batched into responses is the server's choice, so events are kept as one sequence per
//! watcher. What a response must guarantee whatever the batching is checked here, on arrival.

use api::etcdserverpb::{WatchRequest, WatchResponse};
use api::mvccpb::Event;
use harness::Client;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// Requests wait when the server does not read.
const REQUEST_QUEUE: usize = 16;

/// What one watcher has received since it was created.
#[derive(Debug, Default)]
pub(crate) struct WatcherLog {
    pub(crate) events: Vec<Event>,
    /// The response that ended it, without events.
    pub(crate) canceled: Option<WatchResponse>,
    last_was_fragment: bool,
}

/// What a stream has received.
#[derive(Debug, Default)]
pub(crate) struct StreamLog {
    /// Answers to create requests that nobody took yet, in order.
    pub(crate) created: VecDeque<WatchResponse>,
    /// Answers to progress requests that nobody took yet.
    pub(crate) progress: VecDeque<WatchResponse>,
    /// Watchers in the order of their creation.
    pub(crate) watchers: Vec<WatcherLog>,
    live: HashMap<i64, usize>,
    /// Broken promises: batching, order, events of unknown watchers.
    pub(crate) violations: Vec<String>,
    /// How the stream ended.
    pub(crate) ended: Option<Status>,
}

impl StreamLog {
    fn receive(&mut self, mut response: WatchResponse) {
        if response.created {
            if !response.canceled {
                self.live.insert(response.watch_id, self.watchers.len());
                self.watchers.push(WatcherLog::default());
            }
            self.created.push_back(response);
            return;
        }
        if response.watch_id == -1 && response.events.is_empty() {
            self.progress.push_back(response);
            return;
        }
        let Some(index) = self.live.get(&response.watch_id).copied() else {
            self.violations.push(format!("response for unknown watcher {}", response.watch_id));
            return;
        };
        let watcher = &mut self.watchers[index];
        self.violations.extend(watcher.broken_promise(&response));
        watcher.last_was_fragment = response.fragment;
        watcher.events.append(&mut response.events);
        if response.canceled {
            self.live.remove(&response.watch_id);
            watcher.canceled = Some(response);
        }
    }
}

fn mod_revision(event: &Event) -> i64 {
    event.kv.as_ref().map_or(0, |kv| kv.mod_revision)
}

impl WatcherLog {
    fn broken_promise(&self, response: &WatchResponse) -> Option<String> {
        let first = mod_revision(response.events.first()?);
        let newest = mod_revision(response.events.last()?);
        let known = self.events.last().map_or(0, mod_revision);
        let header = response.header.as_ref().map_or(0, |header| header.revision);
        if header < newest {
            return Some(format!("header revision {header} below the event at {newest}"));
        }
        if first < known {
            return Some(format!("event at {first} after an event at {known}"));
        }
        if first == known && !self.last_was_fragment {
            return Some(format!("changes of revision {first} split over responses without `fragment`"));
        }
        None
    }
}

#[derive(Debug, Default)]
struct Shared {
    log: Mutex<StreamLog>,
    changed: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, StreamLog> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An open watch stream; closed on drop.
#[derive(Debug)]
pub(crate) struct Stream {
    requests: mpsc::Sender<WatchRequest>,
    shared: Arc<Shared>,
    reader: JoinHandle<()>,
}

impl Stream {
    /// Opens a stream and collects what comes.
    pub(crate) fn open(client: &Client) -> Self {
        let (requests, queue) = mpsc::channel(REQUEST_QUEUE);
        let shared = Arc::new(Shared::default());
        let reader = tokio::spawn(read(client.clone(), ReceiverStream::new(queue), Arc::clone(&shared)));
        Self { requests, shared, reader }
    }

    /// Sends a request; a stream that has ended ignores it.
    pub(crate) async fn send(&self, request: WatchRequest) {
        if self.requests.send(request).await.is_err() {
            self.shared.changed.notify_waiters();
        }
    }

    /// Looks at what has come.
    pub(crate) fn log(&self) -> MutexGuard<'_, StreamLog> {
        self.shared.lock()
    }

    /// Waits until `found` returns something or the limit passes.
    pub(crate) async fn wait<T>(
        &self,
        limit: Duration,
        mut found: impl FnMut(&mut StreamLog) -> Option<T>,
    ) -> Option<T> {
        let waiting = async {
            loop {
                let changed = self.shared.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if let Some(value) = found(&mut self.shared.lock()) {
                    return value;
                }
                changed.await;
            }
        };
        tokio::time::timeout(limit, waiting).await.ok()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

async fn read(mut client: Client, requests: ReceiverStream<WatchRequest>, shared: Arc<Shared>) {
    let ended = match client.watch.watch(requests).await {
        Err(status) => status,
        Ok(response) => {
            let mut responses = response.into_inner();
            loop {
                match responses.message().await {
                    Ok(Some(response)) => {
                        shared.lock().receive(response);
                        shared.changed.notify_waiters();
                    }
                    Ok(None) => break Status::ok("end of stream"),
                    Err(status) => break status,
                }
            }
        }
    };
    shared.lock().ended = Some(ended);
    shared.changed.notify_waiters();
}
