//! The Watch service: one response stream for each call, which is at the same time the reader of its requests.
//!
//! There is no task of our own behind a stream. The connection polls the response stream when the client can take
//! more, and that poll reads requests, takes mail out of the hub, and reads history for watchers that are behind. A
//! client that does not read is thus not served, and costs no more than its bounded mailbox. When the client goes
//! away the stream is dropped, and its watchers with it.

use super::status::{as_text, fault_status, status};
use crate::auth::{Auth, Credentials};
use crate::metrics::WatchSendMetrics;
use crate::node::Node;
use crate::watch::hub::Hub;
use crate::watch::stream::WatchStream;
use api::encoded::WatchResponse;
use api::error::Error;
use api::etcdserverpb::watch_request::RequestUnion;
use api::etcdserverpb::{WatchCreateRequest, WatchRequest};
use api::server::watch_server::Watch;
use futures::{FutureExt, Stream};
use prometheus::IntCounter;
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use store::{Asked, KeyRange};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

/// What etcd adds to the request limit for the frames around it: responses above the sum are fragmented.
const FRAGMENT_OVERHEAD: usize = 512 << 10;

/// How soon a progress request is looked at again while a watcher is not synced, or not at its first revision.
const PROGRESS_RETRY: Duration = Duration::from_millis(100);

pub(crate) struct WatchService {
    pub(crate) node: Node,
    pub(crate) auth: Auth,
    pub(crate) hub: Arc<Hub>,
    /// How often quiet watchers are told their progress.
    pub(crate) progress_interval: Duration,
    pub(crate) stop: CancellationToken,
    /// Requests that could not be received.
    pub(crate) failures: IntCounter,
    /// How long responses take to be sent.
    pub(crate) sending: WatchSendMetrics,
}

type Responses = Pin<Box<dyn Stream<Item = Result<WatchResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Watch for WatchService {
    type WatchStream = Responses;

    async fn watch(&self, request: Request<Streaming<WatchRequest>>) -> Result<Response<Self::WatchStream>, Status> {
        let node = self.node.clone();
        let header = Arc::new(move |revision| node.header(revision));
        let fragment_bytes = self.node.limits().request_bytes + FRAGMENT_OVERHEAD;
        // Spread over time, so that streams opened together do not report together.
        let interval = self.progress_interval.mul_f64(1.0 + 0.1 * rand::random::<f64>());
        let changes = self.auth.watch_revision();
        let session = Box::new(Session {
            credentials: Credentials::of(&request),
            checked: self.auth.revision(),
            users: HashMap::new(),
            auth: self.auth.clone(),
            changes,
            requests: Some(request.into_inner()),
            failures: self.failures.clone(),
            watching: WatchStream::new(Arc::clone(&self.hub), self.node.reader().clone(), header, fragment_bytes),
            interval,
            next_progress: Instant::now() + interval,
            stop: self.stop.clone(),
            ended: false,
        });
        let sending = Sending { metrics: self.sending.clone(), last: None };
        let responses = futures::stream::unfold((session, sending), |(mut session, mut sending)| async move {
            sending.is_over();
            let response = session.next().await?;
            if let Ok(response) = &response {
                sending.begins(response);
            }
            Some((response, (session, sending)))
        });
        Ok(Response::new(Box::pin(responses)))
    }
}

/// The response that the connection has taken last. That it asks for the next says that it is done with this one: a client
/// that does not read keeps it waiting.
struct Sending {
    metrics: WatchSendMetrics,
    last: Option<(Sent, Instant)>,
}

/// What a response is about, as etcd's metrics tell them apart.
enum Sent {
    Events(usize),
    Control,
    Progress,
}

impl Sending {
    fn begins(&mut self, response: &WatchResponse) {
        let sent = match response.events.len() {
            0 if response.created || response.canceled => Sent::Control,
            0 => Sent::Progress,
            events => Sent::Events(events),
        };
        self.last = Some((sent, Instant::now()));
    }

    fn is_over(&mut self) {
        let Some((sent, began)) = self.last.take() else { return };
        let seconds = began.elapsed().as_secs_f64();
        match sent {
            Sent::Events(events) => {
                self.metrics.events_seconds.observe(seconds);
                self.metrics.per_event_seconds.observe(seconds / events as f64);
            }
            Sent::Control => self.metrics.control_seconds.observe(seconds),
            Sent::Progress => self.metrics.progress_seconds.observe(seconds),
        }
    }
}

/// One call.
struct Session {
    /// None after the client closed its side; the watchers go on.
    requests: Option<Streaming<WatchRequest>>,
    failures: IntCounter,
    watching: WatchStream,
    auth: Auth,
    credentials: Credentials,
    /// Who each watcher was created by; nobody for those that are not listed.
    users: HashMap<i64, Arc<str>>,
    /// The auth revision at which all watchers were permitted.
    checked: u64,
    changes: crate::sync::watch::Receiver<u64>,
    interval: Duration,
    next_progress: Instant,
    stop: CancellationToken,
    ended: bool,
}

impl Session {
    /// The next response; an error is the last.
    async fn next(&mut self) -> Option<Result<WatchResponse, Status>> {
        self.follow_permissions();
        if let Some(response) = self.watching.pop() {
            return Some(Ok(response));
        }
        if self.ended {
            return None;
        }
        match self.work().await {
            Ok(response) => Some(Ok(response)),
            Err(status) => {
                self.ended = true;
                Some(Err(status))
            }
        }
    }

    /// Works until there is a response.
    async fn work(&mut self) -> Result<WatchResponse, Status> {
        loop {
            if self.stop.is_cancelled() {
                return Err(status(Error::Stopped));
            }
            if self.next_progress <= Instant::now() {
                self.next_progress = Instant::now() + self.interval;
                self.watching.notify_progress().map_err(|fault| fault_status(&fault))?;
            }
            self.watching.settle_progress().map_err(|fault| fault_status(&fault))?;
            self.follow_permissions();
            if let Some(response) = self.watching.pop() {
                return Ok(response);
            }
            if self.watching.has_unsynced() {
                // Requests must not wait until a long history is read.
                if let Some(request) = receive(&mut self.requests).now_or_never() {
                    self.take(request).await?;
                } else {
                    self.watching.catch_up().await.map_err(|fault| fault_status(&fault))?;
                }
            } else {
                self.wait().await?;
            }
        }
    }

    /// Waits for a request, mail, or a point in time.
    async fn wait(&mut self) -> Result<(), Status> {
        let (stop, next_progress) = (self.stop.clone(), self.next_progress);
        let (notifies, pending) = (self.watching.notifies_progress(), self.watching.progress_pending());
        let Self { requests, watching, changes, .. } = self;
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            // The next step looks at what changed.
            _ = changes.changed() => {}
            request = receive(requests) => self.take(request).await?,
            () = watching.filled() => {
                watching.collect().map_err(|fault| fault_status(&fault))?;
            }
            () = tokio::time::sleep_until(next_progress), if notifies => {}
            () = tokio::time::sleep(PROGRESS_RETRY), if pending => {}
        }
        Ok(())
    }

    /// Carries out a request; none means that no more will come.
    async fn take(&mut self, request: Result<Option<WatchRequest>, Status>) -> Result<(), Status> {
        let request = request.inspect_err(|_| self.failures.inc())?;
        match request.map(|request| request.request_union) {
            None => self.requests = None,
            Some(Some(RequestUnion::CreateRequest(create))) => self.create(&create).await,
            Some(Some(RequestUnion::CancelRequest(cancel))) => {
                self.users.remove(&cancel.watch_id);
                self.watching.cancel(cancel.watch_id);
            }
            Some(Some(RequestUnion::ProgressRequest(_))) => {
                self.watching.request_progress().map_err(|fault| fault_status(&fault))?;
            }
            // As etcd, which logs and ignores it.
            Some(None) => {}
        }
        Ok(())
    }
}

impl Session {
    /// Creates a watcher, if the caller may read the interval that it asks for: as it came, before anything is made of it.
    async fn create(&mut self, create: &WatchCreateRequest) {
        // As in etcd, an empty key is the smallest one.
        let key = if create.key.is_empty() { &[0][..] } else { &create.key };
        let asked = Asked::Range(KeyRange::new(key, &create.range_end));
        let user = match self.auth.permit(&self.credentials, asked).await {
            Ok(header) => header.username,
            Err(error) => return self.watching.refuse(as_text(error)),
        };
        if let Some(watch_id) = self.watching.create(create)
            && !user.is_empty()
        {
            self.users.insert(watch_id, user.into());
        }
    }

    /// Ends the watchers whose permission was taken back. Called before anything is sent: what was written afterwards has
    /// not reached the client.
    fn follow_permissions(&mut self) {
        let now = self.auth.revision();
        if std::mem::replace(&mut self.checked, now) == now {
            return;
        }
        let (auth, users) = (&self.auth, &mut self.users);
        self.watching.retain(|watch_id, range| {
            let user = users.get(&watch_id).map_or("", |user| user);
            auth.may_still_read(user, range).map_err(|error| {
                users.remove(&watch_id);
                as_text(error)
            })
        });
    }
}

/// The next request; pends for ever once the client has closed its side. Cancellation safe.
async fn receive(requests: &mut Option<Streaming<WatchRequest>>) -> Result<Option<WatchRequest>, Status> {
    match requests {
        Some(requests) => requests.message().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
