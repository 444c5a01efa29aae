//! Watches that survive lost connections.
//!
//! A [`Watch`] has one long poll at a time and no task: it works while [`Watch::next`] is polled. Each poll asks for the
//! first event since the last one that was handed out, so that nothing is lost in between while the server remembers it:
//! the last 1000 events of the whole store.

use super::client::Client;
use super::error::{Error, code, unread};
use super::keys::{Get, path};
use super::node::{Event, Response};
use crate::call::pause;
use crate::http::{Call, Opened, Server};
use http::Method;
use http_body_util::BodyExt as _;
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout_at};

/// A poll is made again after this time, so that a server that vanished silently is noticed.
const MAX_POLL: Duration = Duration::from_mins(5);
/// One event is two values at most, written as JSON.
const MAX_EVENT_BYTES: usize = 64 << 20;

/// What a watch hands out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Something happened to a watched key.
    Event(Event),
    /// The events that come next are no longer known. This is how things are now, recursively if the watch is; None if
    /// the key is not there. The watch goes on behind it.
    Present(Option<Response>),
}

/// A watch of one key, or of everything below it.
#[derive(Debug)]
pub struct Watch {
    client: Client,
    key: String,
    recursive: bool,
    /// First index to see; None until the first poll has told.
    next_index: Option<u64>,
    poll: Option<Poll>,
    /// Failures since the last answer.
    failures: usize,
    /// When to poll again. Kept here, so that a caller that drops [`Watch::next`] again and again gets there.
    next_try: Option<Instant>,
}

/// A poll that the server has accepted.
#[derive(Debug)]
struct Poll {
    opened: Opened,
    server: Server,
    /// Of the server.
    place: usize,
    arrived: Vec<u8>,
    /// When to give it up.
    end: Instant,
}

impl Client {
    /// Begins to watch a key: events behind this index, or what comes once the server knows of the watch. Nothing is sent
    /// before [`Watch::next`].
    pub fn watch(&self, key: &str, recursive: bool, after_index: Option<u64>) -> Watch {
        Watch {
            client: self.clone(),
            key: key.to_owned(),
            recursive,
            next_index: after_index.map(|index| index + 1),
            poll: None,
            failures: 0,
            next_try: None,
        }
    }
}

impl Watch {
    /// The next change, however long that takes: polls that break are made again without an end, with pauses. Cancel safe:
    /// no event is lost when the future is dropped.
    ///
    /// # Errors
    /// [`Error::Answered`] and [`Error::Refused`] if the server does not want this watch.
    pub async fn next(&mut self) -> Result<Change, Error> {
        loop {
            match self.next_event().await {
                Ok(response) => return Ok(Change::Event(response.event)),
                Err(error) if error.is(code::EVENT_INDEX_CLEARED) => match self.present().await {
                    Err(error) if error.may_pass() => self.failed(&error),
                    present => return present,
                },
                Err(error) => return Err(error),
            }
        }
    }

    /// As [`Watch::next`], for who cannot do with less than every event. The index is the server's when the poll was made that
    /// the event answers.
    ///
    /// # Errors
    /// As [`Watch::next`]; [`code::EVENT_INDEX_CLEARED`] if the events that come next are no longer known.
    pub async fn next_event(&mut self) -> Result<Response, Error> {
        loop {
            let Some(poll) = &mut self.poll else {
                match self.open().await {
                    Ok(()) => {}
                    Err(error) if error.may_pass() || error.is(code::WATCHER_CLEARED) => self.failed(&error),
                    Err(error) => return Err(error),
                }
                continue;
            };
            let frame = match timeout_at(poll.end, poll.opened.body.frame()).await {
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(error))) => {
                    tracing::debug!(%error, "a poll broke, making it again");
                    self.client.leave(poll.place);
                    self.poll = None;
                    self.pause();
                    continue;
                }
                // Without an event: the server had none until now, and forgot the watch.
                Ok(None) => {
                    self.poll = None;
                    self.pause();
                    continue;
                }
                // Not even the index that the answer began with is behind us: what the server then sent of an event may be
                // lost with the connection.
                Err(_) => {
                    self.poll = None;
                    continue;
                }
            };
            poll.arrived.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
            let Some(event) = poll.event().transpose() else { continue };
            let index = index_of(&poll.opened);
            // Whatever it is, the poll is over: who asks again after an error gets an answer to another one.
            self.poll = None;
            let event = event.inspect_err(|_| self.pause())?;
            self.failures = 0;
            self.next_index = Some(event.node.modified_index + 1);
            return Ok(Response { index: index.unwrap_or(event.node.modified_index), event });
        }
    }

    /// Polls, after a pause that grows with the failures.
    async fn open(&mut self) -> Result<(), Error> {
        if let Some(time) = self.next_try {
            sleep_until(time).await;
        }
        let mut query = vec![("wait", "true".to_owned())];
        if self.recursive {
            query.push(("recursive", "true".to_owned()));
        }
        query.extend(self.next_index.map(|index| ("waitIndex", index.to_string())));
        let call = Call::new(Method::GET, path(&self.key, query), None);
        let (server, place) = self.client.current();
        let opened = match self.client.open(&server, &call).await {
            Ok(opened) if opened.status.is_success() => opened,
            refused => {
                let answer = self.client.collect(&server, refused.inspect_err(|_| self.client.leave(place))?).await?;
                if answer.status.is_server_error() {
                    self.client.leave(place);
                }
                return Err(Error::of_answer(&server, &answer));
            }
        };
        self.next_try = None;
        if self.next_index.is_none() {
            // From here on nothing is missed, if this poll breaks before it has an event.
            self.next_index = index_of(&opened).map(|index| index + 1);
        }
        self.poll = Some(Poll { opened, server, place, arrived: Vec::new(), end: Instant::now() + MAX_POLL });
        Ok(())
    }

    fn failed(&mut self, error: &Error) {
        tracing::warn!(%error, next_index = self.next_index, "a poll failed, making it again");
        self.pause();
    }

    /// Lets the next poll wait, the longer the more have failed.
    fn pause(&mut self) {
        self.failures += 1;
        self.next_try = Some(Instant::now() + pause(self.failures));
    }

    /// Reads how things are, and goes on from there.
    async fn present(&mut self) -> Result<Change, Error> {
        let options = Get { recursive: self.recursive, sorted: true, quorum: true };
        let (present, index) = match self.client.get(&self.key, options).await {
            Ok(response) => {
                let index = response.index;
                (Some(response), index)
            }
            Err(Error::Answered { code: code::KEY_NOT_FOUND, index, .. }) => (None, index),
            Err(error) => return Err(error),
        };
        self.next_index = Some(index + 1);
        self.failures = 0;
        Ok(Change::Present(present))
    }
}

/// The server's index when it began to answer.
fn index_of(opened: &Opened) -> Option<u64> {
    opened.headers.get("x-etcd-index").and_then(|index| index.to_str().ok()?.parse().ok())
}

impl Poll {
    /// The event, once all of it has arrived.
    fn event(&self) -> Result<Option<Event>, Error> {
        let unreadable = |text: &str| Error::Refused {
            endpoint: self.server.to_string(),
            status: self.opened.status.as_u16(),
            text: text.to_owned(),
        };
        if self.arrived.len() > MAX_EVENT_BYTES {
            return Err(unreadable("an event that is too long"));
        }
        if !self.arrived.ends_with(b"\n") {
            return Ok(None);
        }
        serde_json::from_slice(&self.arrived).map(Some).map_err(|error| unreadable(&unread("event", &error)))
    }
}
