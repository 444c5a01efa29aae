//! The bodies that pass a listener, wrapped to count messages and to see how a call ends.

use super::frame::{MessageCounter, TooLarge};
use super::gather::OpenCalls;
use super::interrupt::Interrupt;
use super::observe::Observed;
use crate::metrics::{Call, MethodMetrics};
use crate::steps;
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use prometheus::IntCounter;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tonic::{Code, Status};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a call that the JSON gateway makes.
pub type GatewayBody = UnsyncBoxBody<Bytes, BoxError>;

/// Where a gRPC request comes from.
#[derive(Debug)]
pub(super) enum Source {
    /// A connection.
    Connection(Incoming),
    /// The JSON gateway.
    Gateway(GatewayBody),
}

/// The body of a gRPC request: counts messages and refuses the ones that are too large before they are buffered.
#[derive(Debug)]
pub struct RequestBody {
    source: Source,
    messages: MessageCounter,
    max_message_bytes: usize,
    received: IntCounter,
}

impl RequestBody {
    pub(super) fn new(source: Source, max_message_bytes: usize, method: &MethodMetrics) -> Self {
        Self { source, messages: MessageCounter::default(), max_message_bytes, received: method.received.clone() }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let frame = match &mut this.source {
            Source::Connection(body) => ready!(Pin::new(body).poll_frame(cx)?),
            Source::Gateway(body) => ready!(Pin::new(body).poll_frame(cx)?),
        };
        let Some(frame) = frame else { return Poll::Ready(None) };
        if let Some(data) = frame.data_ref() {
            steps::received(data);
            match this.messages.feed(data, this.max_message_bytes) {
                Ok(0) => {}
                Ok(messages) => this.received.inc_by(messages),
                Err(TooLarge(length)) => {
                    let limit = this.max_message_bytes;
                    let text = format!("grpc: received message larger than max ({length} vs. {limit})");
                    return Poll::Ready(Some(Err(Status::resource_exhausted(text).into())));
                }
            }
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Connection(body) => body.is_end_stream(),
            Source::Gateway(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Connection(body) => body.size_hint(),
            Source::Gateway(body) => body.size_hint(),
        }
    }
}

/// The body of any response.
#[derive(Debug)]
pub enum ResponseBody {
    /// Of a call that is counted until its body ends.
    Grpc {
        /// What the service answers.
        inner: tonic::body::Body,
        /// Follows the messages in it.
        messages: Messages,
        /// The call.
        call: Call,
        /// What else is kept of it.
        observed: Option<Observed>,
        /// Held as long as the call is open.
        open: OpenCalls,
        /// What ends a stream before the service does.
        interrupt: Option<Box<StreamInterrupt>>,
    },
    /// Of a call that was refused, or is over.
    Nothing,
    /// Of everything else.
    Http(axum::body::Body),
}

/// What ends a stream before its service does.
#[derive(Debug)]
pub struct StreamInterrupt(Interrupt);

/// Follows the messages of a response.
#[derive(Debug, Default)]
pub struct Messages(MessageCounter);

impl ResponseBody {
    /// Wraps the answer of a service.
    pub(super) fn grpc(
        headers: &HeaderMap,
        inner: tonic::body::Body,
        (mut call, mut observed, open): (Call, Option<Observed>, OpenCalls),
        interrupt: Option<Interrupt>,
    ) -> Self {
        // An answer without messages carries its status in the headers.
        if let Some(code) = status_in(headers) {
            call.finish(code);
            if let Some(observed) = &mut observed {
                observed.end(code);
            }
        }
        let interrupt = interrupt.map(|interrupt| Box::new(StreamInterrupt(interrupt)));
        Self::Grpc { inner, messages: Messages::default(), call, observed, open, interrupt }
    }
}

fn trailers(status: &Status) -> Result<HeaderMap, Status> {
    let mut trailers = HeaderMap::new();
    status.add_header(&mut trailers)?;
    Ok(trailers)
}

fn status_in(headers: &HeaderMap) -> Option<Code> {
    headers.get(Status::GRPC_STATUS).map(|value| Code::from_bytes(value.as_bytes()))
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut *self {
            Self::Nothing => Poll::Ready(None),
            Self::Http(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Self::Grpc { inner, messages, call, observed, interrupt, .. } => {
                let frame = match (Pin::new(inner).poll_frame(cx)?, interrupt) {
                    (Poll::Ready(frame), _) => frame,
                    (Poll::Pending, None) => return Poll::Pending,
                    (Poll::Pending, Some(interrupt)) => {
                        let status = ready!(interrupt.0.poll(cx));
                        call.finish(status.code());
                        if let Some(observed) = observed {
                            observed.end(status.code());
                        }
                        // Drops the service's side of the stream.
                        *self = Self::Nothing;
                        return Poll::Ready(Some(Ok(Frame::trailers(trailers(&status)?))));
                    }
                };
                if let Some(frame) = &frame {
                    if let Some(data) = frame.data_ref() {
                        if let Some(observed) = observed {
                            observed.sends(data);
                        }
                        if let Ok(begun @ 1..) = messages.0.feed(data, usize::MAX) {
                            call.sent(begun);
                        }
                    } else if let Some(code) = frame.trailers_ref().and_then(status_in) {
                        call.finish(code);
                        if let Some(observed) = observed {
                            observed.end(code);
                        }
                    }
                }
                Poll::Ready(frame.map(Ok))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Nothing => true,
            Self::Http(body) => body.is_end_stream(),
            Self::Grpc { inner, .. } => inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Nothing => SizeHint::with_exact(0),
            Self::Http(body) => body.size_hint(),
            Self::Grpc { inner, .. } => inner.size_hint(),
        }
    }
}
