//! Reading keys. What is large is encoded while it is sent: the tree keeps what was read as it was.

use super::error::KeyError;
use super::json;
use api::error::Error;
use axum::body::Body;
use bytes::Bytes;
use http_body::Frame;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use store::v2::Read;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Answers up to this size are built whole.
const SMALL_BYTES: usize = 1 << 20;

/// Larger ones at the same time. What each keeps in memory is what was changed since it was read, and of a directory the
/// whole table of it: names and pointers, 100 bytes for each node.
const AT_ONCE: usize = 8;

/// How long one waits for its turn.
const TURN: Duration = Duration::from_secs(10);

/// A client that takes no piece for so long is given up.
const STALL: Duration = Duration::from_secs(30);

/// Bytes encoded at once, and pieces that wait for the connection.
const PIECE_BYTES: usize = 64 << 10;
const PIECES_WAITING: usize = 2;

/// Makes listings.
pub(super) struct Listings(Arc<Semaphore>);

impl Default for Listings {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE)))
    }
}

impl Listings {
    /// The body of an answer to what was read, whole if it is small; the tree's index and the applied index of the log.
    /// What is large may have to wait for its turn. It keeps nothing of the tree meanwhile, and is read `again`.
    ///
    /// # Errors
    /// The refusal that was read, or too many are under way.
    pub(super) async fn body(
        &self,
        read: Read,
        again: impl FnOnce() -> Read,
        recursive: bool,
    ) -> Result<(Body, u64, u64), KeyError> {
        let Read { result, index, applied } = read;
        let mut listing = json::Listing::new(result?.walk(recursive));
        let mut first = Vec::with_capacity(128);
        if !listing.encode(&mut first, SMALL_BYTES) {
            return Ok((first.into(), index, applied));
        }
        if let Ok(permit) = Arc::clone(&self.0).try_acquire_owned() {
            return Ok((streamed(first, listing, permit), index, applied));
        }
        drop((listing, first));
        let turn = tokio::time::timeout(TURN, Arc::clone(&self.0).acquire_owned()).await;
        let Ok(Ok(permit)) = turn else { return Err(Error::TooManyRequests.into()) };
        let Read { result, index, applied } = again();
        let listing = json::Listing::new(result?.walk(recursive));
        Ok((streamed(Vec::new(), listing, permit), index, applied))
    }
}

/// A body that begins with `first`, and is encoded as its client reads.
fn streamed(first: Vec<u8>, listing: json::Listing, permit: OwnedSemaphorePermit) -> Body {
    let (pieces, receiver) = mpsc::channel(PIECES_WAITING);
    // Ends with the listing, or when the client is gone or has stopped reading.
    tokio::spawn(send(listing, pieces, permit));
    Body::new(ListingBody {
        first: Some(first.into()).filter(|first: &Bytes| !first.is_empty()),
        rest: receiver,
        is_over: false,
    })
}

/// A part of the answer.
struct Piece {
    bytes: Bytes,
    is_last: bool,
}

async fn send(mut listing: json::Listing, pieces: mpsc::Sender<Piece>, _permit: OwnedSemaphorePermit) {
    let mut is_last = false;
    while !is_last {
        let mut bytes = Vec::with_capacity(PIECE_BYTES + PIECE_BYTES / 4);
        is_last = !listing.encode(&mut bytes, PIECE_BYTES);
        match tokio::time::timeout(STALL, pieces.send(Piece { bytes: bytes.into(), is_last })).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return,
            Err(_) => return tracing::warn!(waited = ?STALL, "v2: gave up a listing: its client does not read"),
        }
    }
}

struct ListingBody {
    first: Option<Bytes>,
    rest: mpsc::Receiver<Piece>,
    is_over: bool,
}

impl http_body::Body for ListingBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        if self.is_over {
            return Poll::Ready(None);
        }
        if let Some(Piece { bytes, is_last }) = ready!(self.rest.poll_recv(cx)) {
            self.is_over = is_last;
            Poll::Ready(Some(Ok(Frame::data(bytes))))
        } else {
            self.is_over = true;
            // The client has a part of the answer: only the end of the connection can tell it.
            let reason = io::Error::new(io::ErrorKind::TimedOut, "the client does not read");
            Poll::Ready(Some(Err(reason)))
        }
    }

    fn is_end_stream(&self) -> bool {
        self.is_over && self.first.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::cleatpb::command::Op;
    use api::cleatpb::{Command, V2Request, v2_request::Method};
    use http_body_util::BodyExt as _;
    use store::v2::Walk;
    use store::{Entry, Options, Position, Reader, Writer};

    /// Sets so many files, in three directories.
    fn fill(writer: &mut Writer, reader: &Reader, files: usize, value: &str) {
        for n in 0..files {
            let request = V2Request {
                method: Method::Set as i32,
                path: format!("/1/d{}/{n:04}", n % 3).into(),
                value: value.to_owned().into(),
                ..V2Request::default()
            };
            let commands = [Command { header: None, op: Some(Op::V2(request)) }];
            let position = Position { term: 1, index: reader.applied().0.index + 1 };
            writer.apply([Entry { position, commands: &commands, membership: None }]).unwrap();
        }
    }

    fn walk(reader: &Reader, path: &str) -> Walk {
        reader.v2_get_again(path.as_bytes(), 0).result.unwrap().walk(true)
    }

    async fn body(listings: &Listings, reader: &Reader, path: &str) -> Result<(Body, u64), KeyError> {
        let read = || reader.v2_get_again(path.as_bytes(), 0);
        listings.body(read(), read, true).await.map(|(body, index, _)| (body, index))
    }

    #[test]
    fn the_pieces_of_a_listing_are_the_listing() {
        let directory = tempfile::tempdir().unwrap();
        let (mut writer, _flusher, reader) = store::open(&directory.path().join("db"), Options::default()).unwrap();
        fill(&mut writer, &reader, 7, &"v".repeat(100));
        let encoded = |path: &str, bytes: usize| {
            let (mut listing, mut pieces) = (json::Listing::new(walk(&reader, path)), Vec::new());
            loop {
                let mut piece = Vec::new();
                let more = listing.encode(&mut piece, bytes);
                pieces.push(String::from_utf8(piece).unwrap());
                if !more {
                    return pieces;
                }
            }
        };
        let whole = encoded("/1", 100_000);
        assert_eq!(whole.len(), 1);
        let json: serde_json::Value = serde_json::from_str(&whole[0]).unwrap();
        let names = |node: &serde_json::Value| {
            let nodes = node["nodes"].as_array().unwrap().iter();
            nodes.map(|node| node["key"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names(&json["node"]), ["/d0", "/d1", "/d2"]);
        assert_eq!(names(&json["node"]["nodes"][0]), ["/d0/0000", "/d0/0003", "/d0/0006"]);
        assert_eq!((&json["action"], &json["node"]["dir"]), (&"get".into(), &true.into()));
        for bytes in [1, 50, 120] {
            let pieces = encoded("/1", bytes);
            assert!(pieces.len() > 1);
            assert_eq!(pieces.concat(), whole[0]);
        }
        assert_eq!(encoded("/1/d0/0000", 50).len(), 1, "what is one node is one piece");
    }

    #[tokio::test(start_paused = true)]
    async fn large_listings_have_turns_and_are_given_up_when_nobody_reads() {
        let directory = tempfile::tempdir().unwrap();
        let (mut writer, _flusher, reader) = store::open(&directory.path().join("db"), Options::default()).unwrap();
        fill(&mut writer, &reader, 40, &"v".repeat(100_000));
        let listings = Listings(Arc::new(Semaphore::new(1)));
        let (mut slow, _) = body(&listings, &reader, "/1").await.ok().unwrap();
        assert!(slow.frame().await.unwrap().is_ok());
        // A small one needs no turn, another large one has none before the first is given up.
        let (small, _) = body(&listings, &reader, "/1/d0/0000").await.ok().unwrap();
        assert!(small.collect().await.unwrap().to_bytes().ends_with(b"}}\n"));
        assert!(body(&listings, &reader, "/1").await.is_err());
        tokio::time::sleep(STALL.saturating_sub(TURN + TURN / 2)).await;
        // Whoever waits gets what is there when its turn has come.
        let later = async {
            tokio::task::yield_now().await;
            fill(&mut writer, &reader, 40, &"w".repeat(100_000));
        };
        let (answer, ()) = tokio::join!(body(&listings, &reader, "/1"), later);
        let (next, index) = answer.ok().unwrap();
        let next: serde_json::Value = serde_json::from_slice(&next.collect().await.unwrap().to_bytes()).unwrap();
        assert_eq!(index, reader.v2_index());
        assert!(next["node"]["nodes"][2]["nodes"][0]["value"].as_str().unwrap().starts_with('w'));
        // Whoever reads on finds the answer cut off, and not ended.
        assert!(slow.collect().await.is_err());
    }
}
