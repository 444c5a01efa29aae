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
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use prometheus::IntCounter;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tonic::{Code, Status};

/// How long the rest of a request is read that is answered already, and how much of it: twice the largest message that etcd
/// takes by itself.
const REST_DEADLINE: Duration = Duration::from_secs(1);
const REST_BYTES_MAX: usize = 4 << 20;

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
    /// Nowhere any more: the rest goes to nobody.
    Over,
}

impl Body for Source {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut *self {
            Self::Connection(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Self::Gateway(body) => Pin::new(body).poll_frame(cx),
            Self::Over => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Connection(body) => body.is_end_stream(),
            Self::Gateway(body) => body.is_end_stream(),
            Self::Over => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Connection(body) => body.size_hint(),
            Self::Gateway(body) => body.size_hint(),
            Self::Over => SizeHint::with_exact(0),
        }
    }
}

impl Source {
    /// Reads on, to nowhere, what belongs to a call that is answered already. Else the stream would be reset, and HTTP/2
    /// gives up a connection on which that is the rule: a client whose calls are refused would lose its other calls, too.
    /// Nobody waits for it, and it ends soon, whatever the client does.
    pub(super) fn read_on(self) {
        if self.is_end_stream() {
            return;
        }
        let mut rest = self;
        // Detached on purpose: it has a deadline.
        tokio::spawn(async move {
            let read = async {
                let mut bytes = 0;
                while let Some(Ok(frame)) = rest.frame().await {
                    bytes += frame.data_ref().map_or(0, Bytes::len);
                    if bytes > REST_BYTES_MAX {
                        return;
                    }
                }
            };
            tokio::time::timeout(REST_DEADLINE, read).await.ok();
        });
    }
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

    /// See [`Source::read_on`].
    pub(super) fn read_on(self) {
        self.source.read_on();
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let Some(frame) = ready!(Pin::new(&mut this.source).poll_frame(cx)?) else { return Poll::Ready(None) };
        if let Some(data) = frame.data_ref() {
            steps::received(data);
            match this.messages.feed(data, this.max_message_bytes) {
                Ok(0) => {}
                Ok(messages) => this.received.inc_by(messages),
                Err(TooLarge(length)) => {
                    std::mem::replace(&mut this.source, Source::Over).read_on();
                    let limit = this.max_message_bytes;
                    let text = format!("grpc: received message larger than max ({length} vs. {limit})");
                    return Poll::Ready(Some(Err(Status::resource_exhausted(text).into())));
                }
            }
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.source.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.source.size_hint()
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
