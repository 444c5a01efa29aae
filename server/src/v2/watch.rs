//! The body of an answer that waits: polled by its connection, without a task of its own.

use super::hub::{Place, Wait};
use super::stream;
use bytes::Bytes;
use http_body::{Body, Frame};
use std::convert::Infallible;
use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::sync::oneshot;

/// See the module. Dropped with the connection, it stops waiting.
pub(super) struct WatchBody {
    source: Source,
    /// Keeps the watcher where events find it.
    _place: Option<Place>,
}

enum Source {
    Ready(Bytes),
    Once(oneshot::Receiver<Bytes>),
    Stream(stream::Receiver),
    /// One event, and then nothing until the wait is ended.
    Last(Bytes, oneshot::Receiver<Bytes>),
    Over,
}

impl WatchBody {
    pub(super) fn new(wait: Wait) -> Self {
        let (source, place) = match wait {
            Wait::Ready(event) => (Source::Ready(event), None),
            Wait::Once(place, event) => (Source::Once(event), Some(place)),
            Wait::Stream(place, events) => (Source::Stream(events), Some(place)),
            Wait::Last(event, place, end) => (Source::Last(event, end), Some(place)),
        };
        Self { source, _place: place }
    }
}

impl Body for WatchBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let event = match &mut self.source {
            Source::Ready(event) => Some(std::mem::take(event)),
            // Without an event the wait was ended: the client asks again.
            Source::Once(event) => ready!(Pin::new(event).poll(cx)).ok(),
            Source::Stream(events) => {
                let event = ready!(events.poll_next(cx));
                return Poll::Ready(event.map(|event| Ok(Frame::data(event))));
            }
            Source::Last(event, end) if event.is_empty() => ready!(Pin::new(end).poll(cx)).ok(),
            Source::Last(event, _) => return Poll::Ready(Some(Ok(Frame::data(std::mem::take(event))))),
            Source::Over => None,
        };
        self.source = Source::Over;
        Poll::Ready(event.map(|event| Ok(Frame::data(event))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.source, Source::Over)
    }
}
