//! One watcher of all keys, which starts again behind the last revision that it was told.

use super::client::key_value;
use super::{CALL_DEADLINE, Connection, RETRY_PAUSE, Shared};
use crate::Client;
use crate::history::{Event, Said, WatchLog, WatchRecord};
use api::etcdserverpb::watch_request::RequestUnion;
use api::etcdserverpb::{WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse};
use bytes::Bytes;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

const PROGRESS_EVERY: Duration = Duration::from_millis(300);
/// Progress requests that the server did not read; a full queue skips one.
const REQUEST_QUEUE: usize = 4;
/// Without any response, not even to a progress request, the stream is dead.
const SILENCE: Duration = Duration::from_secs(5);

/// Watches, first at one endpoint, until it was told everything up to the revision that `until` says at the end.
pub(super) async fn run(
    shared: Shared,
    number: usize,
    endpoint: usize,
    mut until: watch::Receiver<Option<i64>>,
) -> WatchLog {
    let mut log = WatchLog { name: format!("watcher {number}"), records: Vec::new() };
    let mut connection = Connection::new(&shared.endpoints, endpoint);
    let mut next = 1;
    let mut ends = until.clone();
    while !reached(&until, next) {
        if let Some(client) = connection.client().await {
            tokio::select! {
                () = follow(&shared, client, &mut next, &mut log, &until) => {}
                // A watcher that has been told everything by now has nothing to wait for.
                _ = ends.changed() => continue,
            }
        }
        connection.lost(true);
        // The end of the wait is the end of the load, or the pause.
        drop(tokio::time::timeout(RETRY_PAUSE, until.changed()).await);
    }
    log
}

fn reached(until: &watch::Receiver<Option<i64>>, next: i64) -> bool {
    until.borrow().is_some_and(|end| next > end)
}

/// Follows one stream until it ends.
async fn follow(
    shared: &Shared,
    client: Client,
    next: &mut i64,
    log: &mut WatchLog,
    until: &watch::Receiver<Option<i64>>,
) {
    let (requests, queue) = mpsc::channel(REQUEST_QUEUE);
    let create = WatchCreateRequest {
        key: Bytes::from_static(b"\0"),
        range_end: Bytes::from_static(b"\0"),
        start_revision: *next,
        prev_kv: true,
        ..Default::default()
    };
    let send = |request| requests.try_send(WatchRequest { request_union: Some(request) });
    if send(RequestUnion::CreateRequest(create)).is_err() {
        return;
    }
    let mut service = client.watch.clone();
    let started = tokio::time::timeout(CALL_DEADLINE, service.watch(ReceiverStream::new(queue))).await;
    let Ok(Ok(responses)) = started else { return };
    let mut responses = responses.into_inner();
    let mut progress = tokio::time::interval(PROGRESS_EVERY);
    let mut silence = tokio::time::interval_at(tokio::time::Instant::now() + SILENCE, SILENCE);
    while !reached(until, *next) {
        tokio::select! {
            response = responses.message() => {
                let Ok(Some(response)) = response else { return };
                silence.reset();
                if !take(shared.now(), &response, next, log) {
                    return;
                }
            }
            _ = progress.tick() => {
                // A full queue has one already.
                drop(send(RequestUnion::ProgressRequest(WatchProgressRequest {})));
            }
            _ = silence.tick() => return,
        }
    }
}

/// Records one response. False when the stream is of no more use.
fn take(at: u64, response: &WatchResponse, next: &mut i64, log: &mut WatchLog) -> bool {
    let header = response.header.as_ref().map_or(0, |header| header.revision);
    let mut record = |said| log.records.push(WatchRecord { at, said });
    if response.canceled {
        if response.compact_revision > 0 {
            record(Said::Compacted(response.compact_revision));
            *next = (*next).max(response.compact_revision);
        }
        return false;
    }
    if response.created {
        record(Said::Created(*next));
    } else if response.events.is_empty() {
        record(Said::Progress(header));
    } else {
        let events: Vec<Event> = response
            .events
            .iter()
            .map(|event| Event {
                put: event.r#type == 0,
                kv: event.kv.as_ref().map(key_value).unwrap_or_default(),
                prev: event.prev_kv.as_ref().map(key_value),
            })
            .collect();
        // The checker hears of an event that goes back; the next start must not.
        let last = events.iter().map(|event| event.kv.modified).max().unwrap_or(0);
        *next = (*next).max(last + 1);
        record(Said::Events(header, events));
    }
    true
}
