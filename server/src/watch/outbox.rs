//! Responses of one stream that wait to be sent, in order.
//!
//! Events of several revisions for one watcher share a response while it waits and is small; events of one revision
//! are never parted, except into fragments for clients that can put them together again.

use super::stream::MakeHeader;
use api::encoded::{Event, WatchResponse};
use prost::Message;
use std::collections::VecDeque;

/// A response of this size takes no further revision. Small, because clients of other languages refuse responses
/// above 4 MiB by default, and because a response is encoded in one piece.
const SHARED_BYTES: usize = 128 << 10;

/// Bytes of an event beside its key-values.
const EVENT_OVERHEAD: usize = 16;

pub(crate) struct Waiting {
    response: WatchResponse,
    bytes: usize,
    fragment: bool,
}

impl Waiting {
    /// Adds an event; [`Self::seal`] follows when the revision is complete.
    pub(crate) fn add(&mut self, event: Event) {
        let kvs = event.kv.iter().chain(&event.prev_kv);
        self.bytes += EVENT_OVERHEAD + kvs.map(|kv| kv.as_bytes().len()).sum::<usize>();
        self.response.events.push(event);
    }

    /// Ends a revision.
    pub(crate) fn seal(&mut self, header: &MakeHeader, revision: i64) {
        self.response.header = Some(header(revision));
    }
}

#[derive(Default)]
pub(crate) struct Outbox {
    waiting: VecDeque<Waiting>,
    /// Number of the first waiting response; numbers begin at 1.
    first: u64,
    /// Responses below this number take no more events.
    closed: u64,
    fragment_bytes: usize,
}

impl Outbox {
    pub(crate) fn new(fragment_bytes: usize) -> Self {
        Self { waiting: VecDeque::new(), first: 1, closed: 1, fragment_bytes }
    }

    /// Queues a response without events. Nothing that is queued before it grows any more, so that it stays true.
    pub(crate) fn push(&mut self, response: WatchResponse) {
        self.waiting.push_back(Waiting { response, bytes: 0, fragment: false });
        self.closed = self.first + self.waiting.len() as u64;
    }

    /// Takes back the events of a watcher that were not sent.
    pub(crate) fn withdraw(&mut self, watch_id: i64) {
        self.waiting.retain(|waiting| waiting.response.watch_id != watch_id || waiting.response.events.is_empty());
        // Positions have changed, so nothing that waits may grow any more.
        self.closed = self.first + self.waiting.len() as u64;
    }

    /// The response that takes a watcher's next revision. `open` is the watcher's note of where that is.
    pub(crate) fn open(&mut self, open: &mut u64, watch_id: i64, fragment: bool) -> &mut Waiting {
        let at = (*open >= self.first.max(self.closed)).then(|| (*open - self.first) as usize);
        let at = at.filter(|at| self.waiting.get(*at).is_some_and(|waiting| waiting.bytes < SHARED_BYTES));
        let at = at.unwrap_or_else(|| {
            let response = WatchResponse { watch_id, ..Default::default() };
            self.waiting.push_back(Waiting { response, bytes: 0, fragment });
            self.waiting.len() - 1
        });
        *open = self.first + at as u64;
        &mut self.waiting[at]
    }

    /// Takes the next response, or the next fragment of it.
    pub(crate) fn pop(&mut self) -> Option<WatchResponse> {
        let waiting = self.waiting.front_mut()?;
        if waiting.fragment
            && let Some(fragment) = split(&mut waiting.response, self.fragment_bytes)
        {
            // What is left must not grow: it belongs together with what is sent now.
            waiting.bytes = SHARED_BYTES;
            return Some(fragment);
        }
        self.first += 1;
        self.waiting.pop_front().map(|waiting| waiting.response)
    }
}

/// Takes as many events off a response as fit into `bytes`, at least one; none when all of them fit.
fn split(response: &mut WatchResponse, bytes: usize) -> Option<WatchResponse> {
    if response.events.len() < 2 || response.encoded_len() < bytes {
        return None;
    }
    let (header, watch_id) = (response.header, response.watch_id);
    let mut fragment = WatchResponse { header, watch_id, fragment: true, ..Default::default() };
    let mut size = fragment.encoded_len();
    let mut fit = 0;
    for event in &response.events {
        let len = event.encoded_len();
        size += 1 + prost::length_delimiter_len(len) + len;
        if fit > 0 && size >= bytes {
            break;
        }
        fit += 1;
    }
    if fit == response.events.len() {
        return None;
    }
    let rest = response.events.split_off(fit);
    fragment.events = std::mem::replace(&mut response.events, rest);
    Some(fragment)
}
