//! Ranges that are not built in memory but read while they are sent.
//!
//! What a range takes meanwhile: 40 bytes for each of its keys, and a handful of pieces. It also keeps the database from
//! using the space again of what was deleted since, so a client that does not read is not waited for.

use super::status::{read_status, refused, status};
use crate::blocking;
use crate::listen::StreamedMessage;
use crate::node::Node;
use api::encoded::RangeResponse;
use api::error::Error;
use api::etcdserverpb::RangeRequest;
use bytes::Bytes;
use prost::Message;
use std::sync::Arc;
use std::time::Duration;
use store::LargeRange;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tonic::{Code, Response, Status};

/// Largest answer, bytes of key-values, that is built in memory.
pub(crate) const BUILT_BYTES: usize = 4 << 20;

/// The same for whoever can take nothing else.
pub(crate) const BUILT_BYTES_AT_MOST: usize = 128 << 20;

/// Large ranges at the same time.
const AT_ONCE: usize = 64;

/// How long one waits for its turn.
const TURN: Duration = Duration::from_secs(10);

/// A client that takes no piece for so long is given up.
const STALL: Duration = Duration::from_secs(30);

/// Bytes read at once, and pieces that wait for the connection.
const PIECE_BYTES: usize = 256 << 10;
const PIECES_WAITING: usize = 2;

/// Makes large answers. Clones share the bound.
#[derive(Clone)]
pub(crate) struct LargeRanges(Arc<Semaphore>);

impl Default for LargeRanges {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE)))
    }
}

impl LargeRanges {
    /// Answers a range that takes more than it may in memory.
    pub(crate) async fn answer(&self, node: &Node, request: RangeRequest) -> Result<Response<RangeResponse>, Status> {
        let turn = tokio::time::timeout(TURN, Arc::clone(&self.0).acquire_owned()).await;
        let Ok(Ok(permit)) = turn else { return Err(status(Error::TooManyRequests)) };
        let reader = node.reader().clone();
        let prepared = blocking::run(move || reader.large_range(&request)).await;
        let prepared = prepared.map_err(|_| status(Error::Stopped))?.map_err(read_status)?;
        let Some(large) = prepared else {
            return Err(too_large("it cannot be sorted by value; ask for a part of it, or sort it at the client"));
        };
        let header = RangeResponse { header: Some(node.header(large.revision)), ..RangeResponse::default() };
        let end = RangeResponse { more: large.more, count: large.count, ..RangeResponse::default() };
        let (header, end) = (header.encode_to_vec(), end.encode_to_vec());
        let Ok(length) = u32::try_from(header.len() as u64 + large.encoded_len() + end.len() as u64) else {
            return Err(too_large("gRPC carries no message of 4 GiB; ask for a part of it"));
        };
        let (pieces, receiver) = mpsc::channel(PIECES_WAITING);
        // Ends with the answer, or when the client is gone or has stopped reading.
        tokio::spawn(send(large, header, end, pieces, permit));
        let mut response = Response::new(RangeResponse::default());
        StreamedMessage::new(length, receiver).put_into(response.extensions_mut());
        Ok(response)
    }
}

/// The answer is refused for its size.
pub(crate) fn too_large(why: &str) -> Status {
    refused(Code::ResourceExhausted, format!("etcdserver: the answer is too large: {why}"))
}

async fn send(
    mut large: LargeRange,
    mut piece: Vec<u8>,
    end: Vec<u8>,
    pieces: mpsc::Sender<Bytes>,
    _permit: OwnedSemaphorePermit,
) {
    let mut more = true;
    while more {
        let read = blocking::run(move || {
            let more = large.read(PIECE_BYTES, &mut piece);
            (large, piece, more)
        });
        // In either case the client gets less than was announced, and an error.
        let Ok((range, mut gathered, read)) = read.await else { return };
        more = match read {
            Ok(more) => more,
            Err(fault) => {
                tracing::error!(error = %fault, "cannot read the store");
                return;
            }
        };
        large = range;
        if !more {
            gathered.extend(&end);
        }
        match tokio::time::timeout(STALL, pieces.send(gathered.into())).await {
            Ok(Ok(())) => piece = Vec::with_capacity(PIECE_BYTES + PIECE_BYTES / 4),
            Ok(Err(_)) => return,
            Err(_) => {
                tracing::warn!(waited = ?STALL, "gave up a large range: its client does not read");
                return;
            }
        }
    }
}
