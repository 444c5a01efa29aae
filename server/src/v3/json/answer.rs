//! Turns the answer of a gRPC call into that of an HTTP request: its messages into JSON, its status into an HTTP status.

use super::error;
use super::write::{Malformed, Writer};
use crate::listen::ResponseBody;
use crate::v3::status::failed;
use api::descriptor::{Message, Method};
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::{Buf as _, Bytes};
use futures::{Stream, StreamExt as _};
use http::{HeaderMap, HeaderValue, header};
use http_body_util::BodyExt as _;
use std::pin::pin;
use tonic::{Code, Status};

/// What a gRPC message has before it: flags and length.
pub(super) const PREFIX_BYTES: usize = 5;
/// An answer is written in pieces of about this size, so that a large one is never in memory as a whole text.
const PIECE_BYTES: usize = 64 << 10;
/// What etcd's gateway shows of the call behind the answer.
const GRPC_CONTENT_TYPE: (&str, &str) = ("grpc-metadata-content-type", "application/grpc");

/// Answers for a call.
pub(super) async fn answer(method: &'static Method, response: http::Response<ResponseBody>) -> Response {
    let (head, body) = response.into_parts();
    // A call without messages carries its status in the head.
    if let Some(status) = failure(&head.headers) {
        return error::answer(&status);
    }
    let answered =
        if method.is_server_stream { stream(method.output, body).await } else { unary(method.output, body).await };
    answered.unwrap_or_else(|status| error::answer(&status))
}

/// The status in headers or trailers, if it is a failure.
fn failure(headers: &HeaderMap) -> Option<Status> {
    Status::from_header_map(headers).filter(|status| status.code() != Code::Ok)
}

fn broken(error: &Malformed) -> Status {
    tracing::error!(%error, "cannot write a response as JSON");
    failed("the response can not be written as JSON")
}

fn ok(body: Body) -> Response {
    let kind = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    ([kind], [GRPC_CONTENT_TYPE], body).into_response()
}

async fn unary(message: &'static Message, body: ResponseBody) -> Result<Response, Status> {
    let mut messages = Messages::new(body);
    let Some(bytes) = messages.next().await? else { return Err(failed("the service gave no response")) };
    // The status comes behind the message, and counts.
    while messages.next().await?.is_some() {}
    let mut writer = Writer::new(message, bytes).map_err(|error| broken(&error))?;
    let mut piece = Vec::new();
    if writer.write(&mut piece, PIECE_BYTES).map_err(|error| broken(&error))? {
        return Ok(ok(piece.into()));
    }
    let rest = futures::stream::unfold(Some(writer), |writer| async {
        let mut writer = writer?;
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        match writer.write(&mut piece, PIECE_BYTES) {
            Ok(is_end) => Some((Ok(piece), (!is_end).then_some(writer))),
            Err(error) => Some((Err(broken(&error)), None)),
        }
    });
    Ok(ok(Body::from_stream(futures::stream::iter([Ok(piece)]).chain(rest))))
}

/// One line for each message. The head is sent with the first one, as in etcd: what fails before that has its own status.
async fn stream(message: &'static Message, body: ResponseBody) -> Result<Response, Status> {
    let mut lines = Box::pin(lines(message, Messages::new(body)));
    let first = match lines.next().await {
        None => return Ok(ok(Body::empty())),
        Some(first) => first?,
    };
    let rest = lines.map(|line| Ok::<_, Status>(line.unwrap_or_else(|status| error::last_line(&status).into_bytes())));
    Ok(ok(Body::from_stream(futures::stream::iter([Ok(first)]).chain(rest))))
}

/// The lines of a stream; an error is the last.
fn lines(message: &'static Message, messages: Messages) -> impl Stream<Item = Result<Vec<u8>, Status>> {
    futures::stream::unfold(Some(messages), move |messages| async move {
        let mut messages = messages?;
        match messages.next().await {
            Ok(None) => None,
            Ok(Some(bytes)) => match line(message, bytes) {
                Ok(line) => Some((Ok(line), Some(messages))),
                Err(error) => Some((Err(broken(&error)), None)),
            },
            Err(status) => Some((Err(status), None)),
        }
    })
}

fn line(message: &'static Message, bytes: Bytes) -> Result<Vec<u8>, Malformed> {
    let mut line = br#"{"result":"#.to_vec();
    Writer::new(message, bytes)?.write(&mut line, usize::MAX)?;
    line.extend_from_slice(b"}\n");
    Ok(line)
}

/// The messages in a gRPC response.
struct Messages {
    body: ResponseBody,
    /// What has arrived and was not taken.
    arrived: Bytes,
    is_over: bool,
}

impl Messages {
    fn new(body: ResponseBody) -> Self {
        Self { body, arrived: Bytes::new(), is_over: false }
    }

    /// The next message; none when the call has ended well.
    async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(message) = self.take() {
                return Ok(Some(message));
            }
            if self.is_over {
                return Ok(None);
            }
            let frame = pin!(self.body.frame()).await;
            match frame {
                None => self.is_over = true,
                Some(Err(error)) => return Err(Status::from_error(error)),
                Some(Ok(frame)) => match frame.into_data() {
                    // The services write whole messages, which are taken over as they are.
                    Ok(data) if self.arrived.is_empty() => self.arrived = data,
                    Ok(data) => self.arrived = [&self.arrived[..], &data].concat().into(),
                    Err(frame) => {
                        if let Some(status) = frame.trailers_ref().and_then(failure) {
                            return Err(status);
                        }
                    }
                },
            }
        }
    }

    fn take(&mut self) -> Option<Bytes> {
        let [_, length @ ..] = *self.arrived.first_chunk::<PREFIX_BYTES>()?;
        let length = u32::from_be_bytes(length) as usize;
        if self.arrived.len() - PREFIX_BYTES < length {
            return None;
        }
        self.arrived.advance(PREFIX_BYTES);
        Some(self.arrived.split_to(length))
    }
}
