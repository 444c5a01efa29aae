//! Watches that survive lost connections.
//!
//! A [`Watch`] has a gRPC stream of its own and no task: it works while [`Watch::next`] is polled, and what the caller
//! does not take waits in the connection's flow control, on the server. After a failure it connects again, at the
//! next endpoint, and asks for everything behind the last revision that it has handed out.

use crate::call::{Effect, pause};
use crate::client::{Client, Line, service};
use crate::error::Error;
use api::etcdserverpb::watch_client::WatchClient;
use api::etcdserverpb::watch_request::RequestUnion;
use api::etcdserverpb::{WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse};
use api::mvccpb::Event;
use bytes::Bytes;
use futures::StreamExt as _;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tonic::metadata::MetadataValue;
use tonic::{Request, Status, Streaming};

/// The id of an answer to a question about progress.
const OF_NO_WATCH: i64 = -1;

/// Questions about progress that wait; more would have the same answer.
const REQUESTS: usize = 4;

/// What to watch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchOptions {
    /// First key.
    pub key: Bytes,
    /// End of the range as in requests; empty means one key.
    pub range_end: Bytes,
    /// First revision to see; 0 means what comes after the watch is made.
    pub start_revision: i64,
    /// Deliver the replaced or deleted key-values, too.
    pub prev_kv: bool,
    /// Let the server tell from time to time how far a quiet watch is.
    pub progress_notify: bool,
}

/// What happened to the watched keys.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Events {
    /// Everything up to this revision has been delivered once `events` are seen. Where a watch that takes over from
    /// this one starts is the next revision.
    pub revision: i64,
    /// In the order of their revisions; all events of a revision come together. Empty for news about progress.
    pub events: Vec<Event>,
}

/// A watch of one key or range.
#[derive(Debug)]
pub struct Watch {
    client: Client,
    request: WatchCreateRequest,
    /// None after a failure, until [`Watch::next`] has connected again.
    open: Option<Open>,
    /// Failures since the last answer.
    failures: usize,
    /// When to connect again. Kept here, so that a caller that drops [`Watch::next`] again and again gets there.
    next_try: Option<Instant>,
}

/// A stream on which the server has confirmed the watch.
#[derive(Debug)]
struct Open {
    answers: Streaming<WatchResponse>,
    endpoint: String,
    /// Of the endpoint.
    index: usize,
    /// Requests on the same stream.
    requests: mpsc::Sender<WatchRequest>,
}

impl Client {
    /// Begins to watch. Returns when a server has confirmed it: what is written from then on is seen.
    ///
    /// # Errors
    /// As [`Client::range`]. That the start is compacted is the first thing that [`Watch::next`] says.
    pub async fn watch(&self, options: WatchOptions) -> Result<Watch, Error> {
        let request = WatchCreateRequest {
            key: options.key,
            range_end: options.range_end,
            start_revision: options.start_revision,
            prev_kv: options.prev_kv,
            progress_notify: options.progress_notify,
            ..WatchCreateRequest::default()
        };
        let mut watch = Watch { client: self.clone(), request, open: None, failures: 0, next_try: None };
        watch.open().await?;
        Ok(watch)
    }
}

impl Watch {
    /// The next events, however long that takes: connections that break are made again without an end, with pauses.
    /// Cancel safe: no event is lost when the future is dropped.
    ///
    /// # Errors
    /// [`Error::Compacted`] if the events that come next are gone: the caller reads the present state and watches
    /// from there. [`Error::WatchCanceled`] and [`Error::Answered`] if the server does not want this watch. After an
    /// error the watch is over.
    pub async fn next(&mut self) -> Result<Events, Error> {
        loop {
            let (answer, is_new) = self.answer().await?;
            if is_new {
                return Ok(Events { revision: self.request.start_revision - 1, events: answer.events });
            }
        }
    }

    /// The next answer with events, or with news about progress, old ones too, as the server sent it. It is what
    /// [`Watch::next`] comes from: a caller uses one of both.
    ///
    /// # Errors
    /// As [`Watch::next`].
    pub async fn next_answer(&mut self) -> Result<WatchResponse, Error> {
        loop {
            let (answer, is_new) = self.answer().await?;
            if is_new || answer.events.is_empty() {
                return Ok(answer);
            }
        }
    }

    /// Asks the server how far the watch is; the answer is one without events. Nothing is asked while the connection is
    /// lost, or while earlier questions wait.
    pub fn request_progress(&self) {
        let request = RequestUnion::ProgressRequest(WatchProgressRequest {});
        if let Some(open) = &self.open {
            drop(open.requests.try_send(WatchRequest { request_union: Some(request) }));
        }
    }

    /// The next answer, and whether it tells something that was not known.
    async fn answer(&mut self) -> Result<(WatchResponse, bool), Error> {
        loop {
            let Some(open) = &mut self.open else {
                self.reopen().await?;
                continue;
            };
            let lost = match open.answers.message().await {
                Ok(Some(answer)) => return self.take(answer),
                Ok(None) => Error::Lost {
                    endpoint: open.endpoint.clone(),
                    reason: "the stream has ended".to_owned(),
                    effect: Effect::Read,
                },
                Err(status) => Error::of_call(Effect::Read, &open.endpoint, &status),
            };
            if !lost.may_pass() {
                return Err(lost);
            }
            tracing::warn!(error = %lost, next_revision = self.request.start_revision, "lost a watch, making it again");
            self.client.leave(open.index);
            self.open = None;
        }
    }

    /// Connects again after a pause that grows with the failures.
    async fn reopen(&mut self) -> Result<(), Error> {
        let next_try = *self.next_try.get_or_insert_with(|| {
            self.failures += 1;
            Instant::now() + pause(self.failures)
        });
        sleep_until(next_try).await;
        let opened = self.open().await;
        self.next_try = None;
        match opened {
            Ok(()) => {
                tracing::info!(next_revision = self.request.start_revision, "watching again");
                Ok(())
            }
            Err(error) if error.may_pass() => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn open(&mut self) -> Result<(), Error> {
        let send = |line, request| async move { create(line, request).await };
        let ((answers, created, requests), connection) =
            self.client.call_telling(Effect::Read, self.request.clone(), send).await?;
        let (endpoint, index) = (connection.endpoint.clone(), connection.index);
        let Some(header) = created.header else {
            return Err(Error::Unexpected { endpoint, what: "no header" });
        };
        if created.canceled {
            return Err(ended(endpoint, created));
        }
        if self.request.start_revision == 0 {
            // From now on the beginning is known, whatever happens to the connection.
            self.request.start_revision = header.revision + 1;
        }
        self.open = Some(Open { answers, endpoint, index, requests });
        Ok(())
    }

    /// What an answer means, and how far the watch is with it.
    fn take(&mut self, answer: WatchResponse) -> Result<(WatchResponse, bool), Error> {
        self.failures = 0;
        if answer.canceled || answer.compact_revision != 0 {
            let endpoint = self.open.as_ref().map(|open| open.endpoint.clone());
            return Err(ended(endpoint.unwrap_or_default(), answer));
        }
        let header = answer.header.map_or(0, |header| header.revision);
        let newest = answer.events.iter().filter_map(|event| Some(event.kv.as_ref()?.mod_revision)).max();
        // A revision that the watch begins behind is no progress, and neither is one before what was delivered. The answer
        // to a question of the stream is of no watch: etcd 3.4 may send it ahead of events of earlier revisions.
        let revision = newest.unwrap_or(header);
        let is_new = revision >= self.request.start_revision && answer.watch_id != OF_NO_WATCH;
        if is_new {
            self.request.start_revision = revision + 1;
        }
        Ok((answer, is_new))
    }
}

/// Opens a stream, asks for the watch, and waits for the confirmation.
async fn create(
    line: Line,
    request: WatchCreateRequest,
) -> Result<(Streaming<WatchResponse>, WatchResponse, mpsc::Sender<WatchRequest>), Status> {
    let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(request)) };
    // The stream of requests stays open as long as its sender is there: its end would end the watch.
    let (sender, more) = mpsc::channel(REQUESTS);
    let more = futures::stream::unfold(more, |mut more| async { more.recv().await.map(|request| (request, more)) });
    let requests = futures::stream::iter([request]).chain(more);
    let mut requests = Request::new(requests);
    // A member that is cut off from its cluster ends the watch, instead of being silent.
    requests.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
    let mut client = service!(WatchClient, line);
    let mut answers = client.watch(requests).await?.into_inner();
    match answers.message().await? {
        Some(answer) => Ok((answers, answer, sender)),
        None => Err(Status::unavailable("the stream has ended")),
    }
}

/// Why the server ended a watch.
fn ended(endpoint: String, answer: WatchResponse) -> Error {
    let header = answer.header.unwrap_or_default();
    match answer.compact_revision {
        0 => Error::WatchCanceled { endpoint, reason: answer.cancel_reason, header },
        compact_revision => Error::Compacted { endpoint, compact_revision, header },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;
    use api::etcdserverpb::ResponseHeader;
    use api::mvccpb::KeyValue;

    #[tokio::test]
    async fn an_answer_of_no_watch_hides_no_event() {
        let client = Client::new(&Options { endpoints: vec!["a:1".to_owned()], ..Options::default() }).unwrap();
        let request = WatchCreateRequest { start_revision: 5, ..WatchCreateRequest::default() };
        let mut watch = Watch { client, request, open: None, failures: 0, next_try: None };
        let at = |revision| Some(ResponseHeader { revision, ..ResponseHeader::default() });
        let asked = WatchResponse { watch_id: OF_NO_WATCH, header: at(9), ..WatchResponse::default() };
        assert!(!watch.take(asked).unwrap().1 && watch.request.start_revision == 5);
        let kv = Some(KeyValue { mod_revision: 7, ..KeyValue::default() });
        let events = vec![Event { kv, ..Event::default() }];
        assert!(watch.take(WatchResponse { header: at(9), events, ..WatchResponse::default() }).unwrap().1);
        // What the server tells of the watch itself counts.
        assert!(watch.take(WatchResponse { header: at(9), ..WatchResponse::default() }).unwrap().1);
        assert_eq!(watch.request.start_revision, 10);
    }
}
