//! The whole store, from the leader to a member that is too far behind for the log.
//!
//! The sender reads one view of its database, which blocks nobody; the receiver fills a new database beside the one in
//! use, which is exchanged at the end. Either side keeps what it has for a while after the connection broke: the next
//! attempt goes on there.
//!
//! ```text
//! leader    head ──────────────> frames ... ──────────────> last
//! follower        <── progress            <── receipts           <── installed
//! ```

use super::state_machine::{SnapshotSource, raft_position, raft_state};
use super::types::{SnapshotMeta, TypeConfig, Vote};
use super::wire;
use crate::node::Node;
use crate::peer::traffic::PeersTraffic;
use crate::peer::{Answers, PeerApi, PeerError};
use crate::storage::Receiving;
use api::cleatpb::{SnapshotHead, SnapshotPiece, SnapshotReceipt};
use api::error::Error;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt as _};
use openraft::alias::SnapshotOf;
use parking_lot::Mutex;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use store::snapshot::Snapshot;
use store::{Fault, Position, Progress, Reader};
use tokio::sync::{OwnedMutexGuard, mpsc};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

/// Pieces between the reading task and the connection, and between the connection and the writing one.
const PIECES_WAITING: usize = 8;

/// Frames of the store are gathered until a piece has this size: each piece is a message, and wakes a thread at either
/// end. In the simulation each frame is a piece, so that there is more to lose.
pub(crate) const PIECE_BYTES: usize = if cfg!(test) { 1 } else { 256 << 10 };

/// A receipt is sent after so many bytes, and the sender is never further ahead than the windows of the connection.
const RECEIPT_BYTES: u64 = 4 << 20;

/// A stream on which nothing arrives for so long is given up.
const STALL: Duration = Duration::from_secs(30);

/// The receiver says that it is at work so often: making a large snapshot durable may take longer than [`STALL`].
const AT_WORK_INTERVAL: Duration = Duration::from_secs(1);

/// How long an unfinished snapshot is kept for another attempt, by either side. The sender's database can not use space
/// again meanwhile.
const KEPT: Duration = Duration::from_mins(1);

/// A snapshot whose receiver was lost, for its return.
#[derive(Default)]
pub(crate) struct Parked(Mutex<Option<(Snapshot, Instant)>>);

impl Parked {
    /// Where the parked snapshot stands, if there is one that is not too old.
    pub(crate) fn look(&self) -> Option<(Position, Vec<u8>)> {
        self.give_up();
        self.0.lock().as_ref().map(|(snapshot, _)| (snapshot.position(), snapshot.membership().to_vec()))
    }

    /// Keeps a snapshot that has waited since then, and gives it up in time: nobody may ask for it again.
    fn park(self: &Arc<Self>, snapshot: Snapshot, since: Instant) {
        let before = self.0.lock().replace((snapshot, since));
        drop(before);
        let parked = Arc::downgrade(self);
        // Detached: it ends in time, and keeps nothing alive.
        tokio::spawn(async move {
            tokio::time::sleep_until(since + KEPT).await;
            if let Some(parked) = parked.upgrade() {
                parked.give_up();
            }
        });
    }

    /// Drops the snapshot if it is too old.
    fn give_up(&self) {
        // Not under the lock: it ends a transaction.
        let given_up = self.0.lock().take_if(|(_, since)| since.elapsed() >= KEPT);
        drop(given_up);
    }

    /// The parked snapshot and since when it waits, if it stands at `position`.
    fn take(&self, position: Position) -> Option<(Snapshot, Instant)> {
        self.0.lock().take_if(|(snapshot, _)| snapshot.position() == position)
    }
}

/// What the sender of a snapshot reads from.
#[derive(Clone)]
pub(crate) struct Outgoing {
    pub(crate) reader: Reader,
    pub(crate) parked: Arc<Parked>,
    /// What raft was told that the snapshot contains.
    pub(crate) position: Position,
}

fn about(fault: &Fault) -> PeerError {
    PeerError::Invalid(fault.to_string())
}

fn lost(what: &str) -> PeerError {
    PeerError::Lost(what.to_owned())
}

/// Sends a snapshot. Returns the newest ballot that the receiver knows: the leader's own when it was installed.
///
/// # Errors
/// The receiver was lost or refused, or the store cannot be read.
pub(crate) async fn send(
    target: u64,
    peer: Arc<dyn PeerApi>,
    vote: Vote,
    source: SnapshotSource,
) -> Result<Vote, PeerError> {
    let SnapshotSource::Outgoing(Outgoing { reader, parked, position }) = source else {
        return Err(PeerError::Invalid("a received snapshot is not sent on".to_owned()));
    };
    let (mut snapshot, parked_since) = match parked.take(position) {
        Some((snapshot, since)) => (snapshot, Some(since)),
        None => (reader.snapshot().map_err(|fault| about(&fault))?, None),
    };
    if !is_owned_by(&vote, snapshot.position().term) {
        return Err(lost("the store has entries of a later leader"));
    }
    let Begun { pieces, mut receipts, resumed_at } = match begin(&mut snapshot, &peer, &vote).await {
        Ok(begun) => begun,
        Err(error) => {
            if let Some(since) = parked_since {
                // As old as it was: a receiver that is away for long is not waited for.
                parked.park(snapshot, since);
            }
            return Err(error);
        }
    };
    tracing::info!(
        to = format_args!("{target:x}"),
        index = snapshot.position().index,
        resumed_at_bytes = resumed_at.unwrap_or_default(),
        "sending a snapshot"
    );
    let started = Instant::now();
    let reading = tokio::spawn(read_pieces(snapshot, pieces, resumed_at.is_none()));
    let ended = installed(&mut receipts).await;
    // Ends the reading task, which waits for room.
    drop(receipts);
    let snapshot = reading.await.map_err(|_| lost("the reading task ended"))??;
    match &ended {
        Ok(_) => tracing::info!(to = format_args!("{target:x}"), took = ?started.elapsed(), "sent a snapshot"),
        Err(error) => {
            tracing::warn!(to = format_args!("{target:x}"), %error, "a snapshot did not arrive, will go on with it");
            parked.park(snapshot, Instant::now());
        }
    }
    ended
}

/// A snapshot never has entries of a later leader than the one that sends it: openraft panics when it gets one. A leader
/// that was deposed, and has not noticed, may have applied what the next one sent.
fn is_owned_by(vote: &Vote, last_term: u64) -> bool {
    last_term <= vote.leader_id.term
}

/// A snapshot that the receiver waits for.
struct Begun {
    pieces: mpsc::Sender<SnapshotPiece>,
    receipts: Answers<SnapshotReceipt>,
    /// Where the receiver is, when it has the beginning of this snapshot.
    resumed_at: Option<u64>,
}

/// Announces a snapshot, and sets it to where the receiver is.
async fn begin(snapshot: &mut Snapshot, peer: &Arc<dyn PeerApi>, vote: &Vote) -> Result<Begun, PeerError> {
    let head = SnapshotHead {
        ballot: Some(wire::to_ballot(vote)),
        last: raft_position(snapshot.position()).map(wire::to_log_id),
        membership: wire::membership_bytes(snapshot.membership()),
    };
    let (pieces, stream) = mpsc::channel(PIECES_WAITING);
    let first = SnapshotPiece { head: Some(head), ..SnapshotPiece::default() };
    // Invariant: the channel was just made and has room.
    drop(pieces.try_send(first));
    let mut receipts = peer.install_snapshot(ReceiverStream::new(stream).boxed()).await?;
    let progress = next_receipt(&mut receipts).await?.progress;
    let progress = Progress::decode(&progress).unwrap_or_default();
    let goes_on = snapshot.resume_after(&progress).map_err(|fault| about(&fault))?;
    if !goes_on {
        // From the beginning: what the receiver has is of another snapshot.
        snapshot.resume_after(&Progress::default()).map_err(|fault| about(&fault))?;
    }
    Ok(Begun { pieces, receipts, resumed_at: goes_on.then(|| progress.bytes()) })
}

/// Waits for the last receipt, and returns the ballot in it.
async fn installed(receipts: &mut Answers<SnapshotReceipt>) -> Result<Vote, PeerError> {
    loop {
        if let SnapshotReceipt { done: Some(ballot), .. } = next_receipt(receipts).await? {
            return wire::from_ballot(Some(ballot)).map_err(|error| PeerError::Invalid(error.to_string()));
        }
    }
}

async fn next_receipt(receipts: &mut Answers<SnapshotReceipt>) -> Result<SnapshotReceipt, PeerError> {
    match tokio::time::timeout(STALL, receipts.next()).await {
        Ok(Some(receipt)) => receipt,
        Ok(None) => Err(lost("the receiver ended before it had installed the snapshot")),
        Err(_) => Err(lost("the receiver takes no more of the snapshot")),
    }
}

/// The next frames, [`PIECE_BYTES`] together; none at the end.
fn read_piece(snapshot: &mut Snapshot) -> Result<Option<Bytes>, Fault> {
    // The last frame that is added may be larger than the rest of the room.
    let mut piece = Vec::with_capacity(PIECE_BYTES + PIECE_BYTES / 4);
    while piece.len() < PIECE_BYTES
        && let Some(frame) = snapshot.next_frame()?
    {
        piece.extend(frame);
    }
    Ok((!piece.is_empty()).then(|| piece.into()))
}

/// Hands the frames to the connection until their end, or until nobody takes them, and gives the snapshot back.
async fn read_pieces(
    mut snapshot: Snapshot,
    pieces: mpsc::Sender<SnapshotPiece>,
    mut restarts: bool,
) -> Result<Snapshot, PeerError> {
    loop {
        let read = crate::blocking::run(move || {
            let data = read_piece(&mut snapshot);
            (snapshot, data)
        });
        let data;
        (snapshot, data) = read.await.map_err(|_| lost("the reading thread ended"))?;
        let Some(data) = data.map_err(|fault| about(&fault))? else { break };
        let piece = SnapshotPiece { data, restarts, ..SnapshotPiece::default() };
        restarts = false;
        if pieces.send(piece).await.is_err() {
            return Ok(snapshot);
        }
    }
    drop(pieces.send(SnapshotPiece { is_last: true, ..SnapshotPiece::default() }).await);
    Ok(snapshot)
}

/// Receives snapshots, one at a time.
pub(crate) struct Receiver {
    database: PathBuf,
    options: store::Options,
    traffic: Arc<PeersTraffic>,
    /// The unfinished import and since when nobody works on it; locked during one.
    parked: Arc<ParkedImport>,
}

type ParkedImport = tokio::sync::Mutex<Option<(Receiving, Instant)>>;

/// Keeps an unfinished import in its place, and gives it up in time: it holds an index as large as the store's, and a file.
fn park_import(
    parked: &Arc<ParkedImport>,
    mut place: OwnedMutexGuard<Option<(Receiving, Instant)>>,
    import: Receiving,
) {
    *place = Some((import, Instant::now()));
    let parked = Arc::downgrade(parked);
    // Detached: it ends in time, and keeps nothing alive.
    tokio::spawn(async move {
        tokio::time::sleep(KEPT).await;
        let Some(parked) = parked.upgrade() else { return };
        // One that is being worked on is not parked.
        if let Ok(mut place) = parked.try_lock() {
            place.take_if(|(_, since)| since.elapsed() >= KEPT);
        }
    });
}

type Installing = SnapshotOf<TypeConfig, SnapshotSource>;

impl Receiver {
    /// `database` is the file of the store; the received one is built beside it.
    pub(crate) fn new(database: PathBuf, options: store::Options, traffic: Arc<PeersTraffic>) -> Self {
        Self { database, options, traffic, parked: Arc::default() }
    }

    /// Takes a snapshot and installs it.
    ///
    /// # Errors
    /// Another one is being received. Later errors come in the answers.
    pub(crate) fn receive(
        &self,
        node: Node,
        pieces: BoxStream<'static, SnapshotPiece>,
    ) -> Result<Answers<SnapshotReceipt>, PeerError> {
        let busy = PeerError::Refused(Error::TooManyRequests);
        let mut slot = Arc::clone(&self.parked).try_lock_owned().map_err(|_| busy)?;
        let import = slot.take().filter(|(_, since)| since.elapsed() < KEPT).map(|(import, _)| import);
        let (receipts, answers) = mpsc::channel(PIECES_WAITING);
        let parked = Arc::clone(&self.parked);
        let (database, options, traffic) = (self.database.clone(), self.options.clone(), Arc::clone(&self.traffic));
        // Detached: it ends with the stream, and with the answers' receiver.
        tokio::spawn(async move {
            let mut taking = Taking { database, options, traffic, import, received: 0 };
            let taken = taking.run(&node, pieces, &receipts).await;
            if let Err(error) = &taken {
                tracing::warn!(%error, "a snapshot was not received");
            }
            if let Some(import) = taking.import.take() {
                park_import(&parked, slot, import);
            }
            if let Err(error) = taken {
                drop(receipts.send(Err(error)).await);
            }
        });
        Ok(ReceiverStream::new(answers).boxed())
    }
}

/// A snapshot on its way into the store.
struct Taking {
    database: PathBuf,
    options: store::Options,
    traffic: Arc<PeersTraffic>,
    /// None before the first piece, and after it failed.
    import: Option<Receiving>,
    received: u64,
}

type Receipts = mpsc::Sender<Result<SnapshotReceipt, PeerError>>;

impl Taking {
    async fn run(
        &mut self,
        node: &Node,
        mut pieces: BoxStream<'static, SnapshotPiece>,
        receipts: &Receipts,
    ) -> Result<(), PeerError> {
        let head = next_piece(&mut pieces).await?.head.ok_or_else(|| PeerError::Invalid("no head".to_owned()))?;
        let vote = wire::from_ballot(head.ballot).map_err(|error| PeerError::Invalid(error.to_string()))?;
        let counted = self.traffic.receives_snapshot(vote.leader_id.voted_for);
        let began = Instant::now();
        let progress = match &mut self.import {
            Some(import) => import.rewind().unwrap_or_default(),
            None => Progress::default(),
        };
        send_receipt(receipts, SnapshotReceipt { progress: progress.encode().into(), ..Default::default() }).await?;
        let mut told = 0;
        loop {
            let piece = next_piece(&mut pieces).await?;
            if piece.is_last {
                break;
            }
            self.received += piece.data.len() as u64;
            at_work(receipts, self.received, self.feed(piece)).await?;
            if self.received - told >= RECEIPT_BYTES {
                told = self.received;
                send_receipt(receipts, SnapshotReceipt { received_bytes: told, ..Default::default() }).await?;
            }
        }
        let snapshot = at_work(receipts, self.received, self.finish(&vote, began)).await?;
        tracing::info!(snapshot = %snapshot.meta, bytes = self.received, "received a snapshot");
        let stopped = |_| PeerError::Refused(Error::Stopped);
        let installing = node.raft().install_full_snapshot(vote, snapshot);
        let answer = at_work(receipts, self.received, installing).await.map_err(stopped)?;
        counted.done();
        let done = Some(wire::to_ballot(&answer.vote));
        send_receipt(receipts, SnapshotReceipt { done, ..Default::default() }).await
    }

    async fn feed(&mut self, piece: SnapshotPiece) -> Result<(), PeerError> {
        let mut import = match self.import.take().filter(|_| !piece.restarts) {
            Some(import) => import,
            None => Receiving::begin(&self.database, self.options.clone()).await.map_err(|fault| about(&fault))?,
        };
        // After a fault the import is over.
        import.feed(piece.data).await.map_err(|fault| about(&fault))?;
        self.import = Some(import);
        Ok(())
    }

    async fn finish(&mut self, vote: &Vote, began: Instant) -> Result<Installing, PeerError> {
        let import = self.import.take().ok_or_else(|| PeerError::Invalid("nothing was sent".to_owned()))?;
        let arrived = Instant::now();
        let received = import.finish().await.map_err(|fault| about(&fault))?;
        self.traffic.saved_snapshot(began.elapsed(), arrived.elapsed());
        if !is_owned_by(vote, received.position().term) {
            return Err(PeerError::Invalid("the snapshot has entries of a later leader than its sender".to_owned()));
        }
        let (last_log_id, last_membership) = raft_state(received.position(), received.membership())
            .map_err(|error| PeerError::Invalid(error.to_string()))?;
        let meta = SnapshotMeta { last_log_id, last_membership };
        Ok(Installing { meta, snapshot: SnapshotSource::Received(Arc::new(Mutex::new(Some(received)))) })
    }
}

async fn next_piece(pieces: &mut BoxStream<'static, SnapshotPiece>) -> Result<SnapshotPiece, PeerError> {
    match tokio::time::timeout(STALL, pieces.next()).await {
        Ok(Some(piece)) => Ok(piece),
        Ok(None) => Err(lost("the leader ended before the snapshot did")),
        Err(_) => Err(lost("the leader sends no more of the snapshot")),
    }
}

/// Tells the leader now and then that this member is at work, until the work is done. The work goes on without a leader
/// that listens: what was received is good for this member.
async fn at_work<T>(receipts: &Receipts, received_bytes: u64, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    loop {
        match tokio::time::timeout(AT_WORK_INTERVAL, &mut work).await {
            Ok(done) => return done,
            // Where there is no room, receipts are on their way.
            Err(_) => drop(receipts.try_send(Ok(SnapshotReceipt { received_bytes, ..Default::default() }))),
        }
    }
}

async fn send_receipt(receipts: &Receipts, receipt: SnapshotReceipt) -> Result<(), PeerError> {
    match tokio::time::timeout(STALL, receipts.send(Ok(receipt))).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(lost("the leader takes no receipts")),
    }
}

#[cfg(test)]
mod tests;
