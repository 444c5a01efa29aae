//! A gRPC answer that is sent while it is made, because the whole would take too much memory.
//!
//! gRPC sends a message behind its length, and the generated services encode all of it first. A service that is asked by
//! this listener may answer with a [`StreamedMessage`] among the extensions of its (empty) response instead; the front
//! puts it in the place of the body.

use bytes::{BufMut, Bytes, BytesMut};
use http::{Extensions, HeaderMap};
use http_body::{Body, Frame};
use parking_lot::Mutex;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::sync::mpsc;
use tonic::Status;

/// Among a request's extensions: its answer may be a [`StreamedMessage`].
#[derive(Clone, Copy, Debug)]
pub struct MayStream;

/// One message, piece by piece.
#[derive(Debug)]
pub struct StreamedMessage {
    /// Bytes that are still to come.
    left: u64,
    prefix: Option<Bytes>,
    pieces: mpsc::Receiver<Bytes>,
    is_over: bool,
}

/// What travels in the extensions of a response, which must be `Clone`.
#[derive(Clone)]
struct Carried(Arc<Mutex<Option<StreamedMessage>>>);

impl StreamedMessage {
    /// A message of `length` bytes. When its maker gives up, the call ends with an error.
    pub fn new(length: u32, pieces: mpsc::Receiver<Bytes>) -> Self {
        let mut prefix = BytesMut::with_capacity(5);
        // Not compressed.
        prefix.put_u8(0);
        prefix.put_u32(length);
        Self { left: u64::from(length), prefix: Some(prefix.freeze()), pieces, is_over: false }
    }

    /// Makes the message the body of a response.
    pub fn put_into(self, extensions: &mut Extensions) {
        extensions.insert(Carried(Arc::new(Mutex::new(Some(self)))));
    }

    /// The body of a response, if it has one.
    pub(super) fn take_from(extensions: &mut Extensions) -> Option<Self> {
        extensions.remove::<Carried>().and_then(|carried| carried.0.lock().take())
    }
}

impl Body for StreamedMessage {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(prefix) = self.prefix.take() {
            return Poll::Ready(Some(Ok(Frame::data(prefix))));
        }
        if self.is_over {
            return Poll::Ready(None);
        }
        if self.left > 0
            && let Some(piece) = ready!(self.pieces.poll_recv(cx))
            && let Some(left) = self.left.checked_sub(piece.len() as u64)
        {
            self.left = left;
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        self.is_over = true;
        if self.left > 0 {
            // The client has a part of the message: only the end of the stream can tell it.
            return Poll::Ready(Some(Err(Status::aborted("the answer could not be read to its end"))));
        }
        let mut trailers = HeaderMap::new();
        Status::ok("").add_header(&mut trailers)?;
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.is_over
    }
}

#[cfg(test)]
mod tests {
    use super::StreamedMessage;
    use bytes::Bytes;
    use http_body_util::BodyExt;
    use tokio::sync::mpsc;

    async fn collect(length: u32, pieces: &[&'static str]) -> Result<(Bytes, bool), tonic::Status> {
        let (send, receive) = mpsc::channel(10);
        for piece in pieces {
            send.send(Bytes::from_static(piece.as_bytes())).await.unwrap();
        }
        drop(send);
        let mut extensions = http::Extensions::new();
        StreamedMessage::new(length, receive).put_into(&mut extensions);
        let body = StreamedMessage::take_from(&mut extensions).unwrap();
        assert!(StreamedMessage::take_from(&mut extensions).is_none());
        let collected = body.collect().await?;
        let is_ok = collected.trailers().is_some_and(|trailers| trailers["grpc-status"] == "0");
        Ok((collected.to_bytes(), is_ok))
    }

    #[tokio::test]
    async fn a_message_is_whole_or_an_error() {
        assert_eq!(collect(5, &["ab", "cde"]).await.unwrap(), (Bytes::from_static(b"\0\0\0\0\x05abcde"), true));
        assert_eq!(collect(0, &[]).await.unwrap(), (Bytes::from_static(b"\0\0\0\0\0"), true));
        assert!(collect(5, &["ab", "cd"]).await.is_err());
        assert!(collect(5, &["ab", "cdef"]).await.is_err());
    }
}
