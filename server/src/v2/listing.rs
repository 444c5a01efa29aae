//! Reading keys. What is large waits for its turn, and is encoded while it is sent.

use super::{V2, json};
use crate::blocking;
use api::error::Error;
use axum::body::Body;
use bytes::Bytes;
use http_body::Frame;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use store::v2::{Listing, NodeView, Read};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Nodes that are listed at once, by anybody.
const SMALL_NODES: usize = 1_000;

/// Larger listings at the same time: each has the tree's nodes, without their values, in memory until it is sent, and is
/// made while nothing is applied.
const AT_ONCE: usize = 4;

/// How long one waits for its turn.
const TURN: Duration = Duration::from_secs(10);

/// Bytes encoded at once.
const PIECE_BYTES: usize = 64 << 10;

/// Makes listings. A client that does not read its own is given up by its connection.
pub(super) struct Listings(Arc<Semaphore>);

impl Default for Listings {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE)))
    }
}

impl Listings {
    /// What is at a path, a clean one with its namespace, and the turn that it has to keep if it is large; `now` is what TTLs
    /// are counted from.
    pub(super) async fn read(
        &self,
        v2: &V2,
        path: &[u8],
        recursive: bool,
        now: i64,
    ) -> Result<(Read, Option<OwnedSemaphorePermit>), Error> {
        let small = Listing { recursive, nodes_at_most: SMALL_NODES };
        if let Some(read) = v2.node.reader().v2_get(path, now, small) {
            return Ok((read, None));
        }
        let turn = tokio::time::timeout(TURN, Arc::clone(&self.0).acquire_owned()).await;
        let Ok(Ok(permit)) = turn else { return Err(Error::TooManyRequests) };
        let (reader, path) = (v2.node.reader().clone(), path.to_vec());
        let read = blocking::run(move || {
            let all = Listing { recursive, nodes_at_most: usize::MAX };
            reader.v2_get(&path, now, all)
        });
        match read.await {
            Ok(Some(read)) => Ok((read, Some(permit))),
            // Invariant: there is nothing that is more than everything.
            Ok(None) | Err(_) => Err(Error::Stopped),
        }
    }
}

/// The body of an answer: whole if it is small.
pub(super) fn body(view: NodeView, permit: Option<OwnedSemaphorePermit>) -> Body {
    let mut listing = json::Listing::new(view);
    let mut first = Vec::with_capacity(128);
    if listing.encode(&mut first, PIECE_BYTES) {
        Body::new(ListingBody { first: Some(first.into()), rest: Some(listing), _permit: permit })
    } else {
        first.into()
    }
}

/// Encodes what the connection asks for.
struct ListingBody {
    first: Option<Bytes>,
    /// None once everything was taken.
    rest: Option<json::Listing>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl http_body::Body for ListingBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        let Some(rest) = &mut self.rest else { return Poll::Ready(None) };
        let mut piece = Vec::with_capacity(PIECE_BYTES + PIECE_BYTES / 4);
        if !rest.encode(&mut piece, PIECE_BYTES) {
            self.rest = None;
        }
        Poll::Ready(Some(Ok(Frame::data(piece.into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_none()
    }
}
