//! The stream of the Snapshot RPC, and how a client goes on with one after its connection broke.
//!
//! etcd's request has no place for that, so it is agreed on in metadata, which clients that do not know it neither send
//! nor see:
//!
//! ```text
//! request   cleat-snapshot: new              whoever asks may go on later
//!           cleat-snapshot: ID:OFFSET        has OFFSET bytes of the snapshot ID
//! answer    cleat-snapshot: ID:OFFSET        the stream has the bytes behind OFFSET; 0 means from the beginning
//! ```
//!
//! A snapshot that somebody may go on with stays open for a while after its last stream has ended. Its bytes are always
//! the same, so a part of it is made again by reading it from the beginning and leaving out what the client has: the
//! SHA-256 at the end covers all of it. While a snapshot is open the database cannot use the space again of what was
//! deleted since, so there are few of them, and not for long.
//!
//! The same holds while one is being sent, and a thread is held besides: few streams are sent at one time, and a client
//! that takes nothing is not waited for.

use super::status::{fault_status, status};
use api::error::Error;
use api::etcdserverpb::{ResponseHeader, SnapshotResponse};
use bytes::Bytes;
use parking_lot::Mutex;
use prometheus::Histogram;
use rand::Rng as _;
use sha2::{Digest, Sha256};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use store::Fault;
use store::snapshot::Snapshot;
use tokio::runtime::Handle;
use tokio::sync::mpsc::error::SendTimeoutError;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::{Response, Status};

/// What is asked and answered, see above.
const METADATA: &str = "cleat-snapshot";

/// Bytes in one message. etcd's size.
const CHUNK: usize = 32 << 10;

/// Messages that wait for the connection.
const CHUNKS_WAITING: usize = 16;

/// Streams that are sent at one time; a further one is refused. Each has a thread of the blocking pool to itself.
const STREAMS_MAX: usize = 16;

/// A client that takes nothing of a stream for so long is given up.
const STALL: Duration = Duration::from_mins(1);

/// Snapshots that are kept open for clients that may come back. A further one takes the place of the one that has waited
/// longest; while all of them are being sent, it cannot be gone on with.
const KEPT_MAX: usize = 4;

/// How long one is kept after its last stream has ended.
const KEPT_FOR: Duration = Duration::from_mins(1);

/// How often it is looked for those that have been kept long enough.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// A snapshot with what its streams have in common. Clones are the same.
#[derive(Clone)]
pub(crate) struct Source {
    snapshot: Arc<Snapshot>,
    header: ResponseHeader,
    /// Length of the stream without the hash, once the first stream has begun.
    bytes: Arc<OnceLock<u64>>,
}

impl Source {
    pub(crate) fn new(snapshot: Snapshot, header: ResponseHeader) -> Self {
        Self { snapshot: Arc::new(snapshot), header, bytes: Arc::default() }
    }

    /// Reads everything once, the first time; None if the client went away meanwhile.
    fn bytes(&self, chunks: &mpsc::Sender<Result<SnapshotResponse, Status>>) -> Result<Option<u64>, Fault> {
        if let Some(bytes) = self.bytes.get() {
            return Ok(Some(*bytes));
        }
        let (mut snapshot, mut bytes) = (self.snapshot.again(), 0);
        while let Some(frame) = snapshot.next_frame()? {
            if chunks.is_closed() {
                return Ok(None);
            }
            bytes += frame.len() as u64;
        }
        Ok(Some(*self.bytes.get_or_init(|| bytes)))
    }

    /// Sends what is behind `offset`, and at last the SHA-256 of everything. Ends early when the client is gone. Blocking,
    /// within a runtime.
    ///
    /// # Errors
    /// A fault; a client that takes nothing for as long as `stall`.
    fn send(
        &self,
        offset: u64,
        chunks: &mpsc::Sender<Result<SnapshotResponse, Status>>,
        stall: Duration,
    ) -> Result<(), Status> {
        let fault = |fault| fault_status(&fault);
        let Some(bytes) = self.bytes(chunks).map_err(fault)? else { return Ok(()) };
        let (mut snapshot, runtime) = (self.snapshot.again(), Handle::current());
        let (mut digest, mut at) = (Sha256::new(), 0);
        // False when the client is gone.
        let send = |blob: Bytes, remaining_bytes| {
            let response =
                SnapshotResponse { header: Some(self.header), remaining_bytes, blob, version: String::new() };
            match runtime.block_on(chunks.send_timeout(Ok(response), stall)) {
                Ok(()) => Ok(true),
                Err(SendTimeoutError::Closed(_)) => Ok(false),
                Err(SendTimeoutError::Timeout(_)) => Err(status(Error::Timeout)),
            }
        };
        while let Some(frame) = snapshot.next_frame().map_err(fault)? {
            digest.update(&frame);
            let begin = at;
            at += frame.len() as u64;
            if at <= offset {
                if chunks.is_closed() {
                    return Ok(());
                }
                continue;
            }
            let mut rest = Bytes::from(frame);
            drop(rest.split_to(offset.saturating_sub(begin) as usize));
            while !rest.is_empty() {
                let chunk = rest.split_to(rest.len().min(CHUNK));
                if !send(chunk, bytes - at + rest.len() as u64)? {
                    return Ok(());
                }
            }
        }
        send(Bytes::copy_from_slice(&digest.finalize()), 0).map(drop)
    }
}

/// What a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// A snapshot, and nothing else: etcd's clients.
    Plain,
    /// A snapshot that it may go on with.
    New,
    /// What is behind `offset` of one that it has begun with, if that is there yet; a new one otherwise.
    Rest { id: u128, offset: u64 },
}

impl Wish {
    /// Reads it from a request. What cannot be read is no place in any snapshot that this member has sent.
    pub(crate) fn of(metadata: &MetadataMap) -> Self {
        let Some(value) = metadata.get(METADATA) else { return Self::Plain };
        let place = value.to_str().ok().and_then(|text| text.split_once(':'));
        let place = place.and_then(|(id, offset)| Some((u128::from_str_radix(id, 16).ok()?, offset.parse().ok()?)));
        place.map_or(Self::New, |(id, offset)| Self::Rest { id, offset })
    }
}

struct Kept {
    id: u128,
    source: Source,
    /// Streams of it that are being sent.
    streams: usize,
    /// When it is dropped, unless it is being sent.
    until: Instant,
}

/// The snapshots that clients may go on with, and the streams of all.
pub(crate) struct Snapshots {
    kept: Mutex<Vec<Kept>>,
    /// A permit for each stream.
    streams: Arc<Semaphore>,
}

impl Default for Snapshots {
    fn default() -> Self {
        Self { kept: Mutex::default(), streams: Arc::new(Semaphore::new(STREAMS_MAX)) }
    }
}

/// A stream that counts for its snapshot until it is dropped.
struct Counted {
    snapshots: Arc<Snapshots>,
    id: u128,
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(kept) = self.snapshots.kept.lock().iter_mut().find(|kept| kept.id == self.id) {
            kept.streams -= 1;
            kept.until = Instant::now() + KEPT_FOR;
        }
    }
}

impl Snapshots {
    /// Begins without any, and a task that drops them in time.
    pub(crate) fn start(tasks: &TaskTracker, stop: CancellationToken) -> Arc<Self> {
        let snapshots = Arc::<Self>::default();
        tasks.spawn(Arc::clone(&snapshots).forget_old(stop));
        snapshots
    }

    /// The snapshot that a client has begun with, unless it is gone or shorter than what the client has.
    pub(crate) fn find(&self, id: u128, offset: u64) -> Option<Source> {
        let has = |source: &Source| source.bytes.get().is_some_and(|bytes| offset <= *bytes);
        let kept = self.kept.lock();
        kept.iter().find(|kept| kept.id == id && has(&kept.source)).map(|kept| kept.source.clone())
    }

    /// Keeps a snapshot, or does not where there is no place. Returns its id.
    pub(crate) fn keep(&self, source: &Source) -> Option<u128> {
        let mut kept = self.kept.lock();
        if kept.len() >= KEPT_MAX {
            let waiting = kept.iter().enumerate().filter(|(_, kept)| kept.streams == 0);
            let oldest = waiting.min_by_key(|(_, kept)| kept.until).map(|(at, _)| at)?;
            kept.swap_remove(oldest);
        }
        let id = rand::rng().random();
        kept.push(Kept { id, source: source.clone(), streams: 0, until: Instant::now() + KEPT_FOR });
        Some(id)
    }

    /// Begins to send a snapshot from `offset` on. A stream too many has nothing but the refusal in it.
    pub(crate) fn send(
        self: &Arc<Self>,
        source: Source,
        (id, offset): (Option<u128>, u64),
        seconds: Histogram,
    ) -> Response<ReceiverStream<Result<SnapshotResponse, Status>>> {
        // One place more, for the error that ends a stream whose client takes nothing.
        let (chunks, stream) = mpsc::channel(CHUNKS_WAITING + 1);
        let mut response = Response::new(ReceiverStream::new(stream));
        let Ok(last) = chunks.clone().try_reserve_owned() else { return response };
        let Ok(permit) = Arc::clone(&self.streams).try_acquire_owned() else {
            drop(last.send(Err(status(Error::TooManyRequests))));
            if let Some(id) = id {
                self.forget_unsent(id);
            }
            return response;
        };
        let place = id.and_then(|id| AsciiMetadataValue::try_from(format!("{id:032x}:{offset}")).ok());
        if let Some(place) = place {
            response.metadata_mut().insert(METADATA, place);
        }
        let counted = id.and_then(|id| self.count(id));
        tokio::task::spawn_blocking(move || {
            let _counted = (counted, permit);
            let _timer = seconds.start_timer();
            if let Err(status) = source.send(offset, &chunks, STALL) {
                drop(last.send(Err(status)));
            }
        });
        response
    }

    /// Drops a snapshot of which nobody has anything.
    fn forget_unsent(&self, id: u128) {
        let is_unsent = |kept: &Kept| kept.streams == 0 && kept.source.bytes.get().is_none();
        self.kept.lock().retain(|kept| kept.id != id || !is_unsent(kept));
    }

    fn count(self: &Arc<Self>, id: u128) -> Option<Counted> {
        let mut kept = self.kept.lock();
        kept.iter_mut().find(|kept| kept.id == id)?.streams += 1;
        Some(Counted { snapshots: Arc::clone(self), id })
    }

    fn forget(&self, now: Instant) {
        self.kept.lock().retain(|kept| kept.streams > 0 || kept.until > now);
    }

    /// Drops the snapshots that were kept long enough, and all of them at the end of the member.
    async fn forget_old(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = tokio::time::sleep(LOOK_INTERVAL) => self.forget(Instant::now()),
            }
        }
        self.kept.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A store with this many keys.
    fn source(keys: usize) -> (tempfile::TempDir, Source) {
        use api::cleatpb::{Command, command::Op};
        use api::etcdserverpb::PutRequest;
        use store::{Entry, Options, Position};
        let dir = tempfile::tempdir().unwrap();
        let (mut writer, mut flusher, reader) = store::open(&dir.path().join("db"), Options::default()).unwrap();
        for n in 0..keys {
            let put = PutRequest { key: format!("k{n}").into(), value: vec![7; 500].into(), ..PutRequest::default() };
            let commands = [Command { header: None, op: Some(Op::Put(put)) }];
            let position = Position { term: 1, index: n as u64 + 1 };
            writer.apply([Entry { position, commands: &commands, membership: None }]).unwrap();
        }
        flusher.flush().unwrap();
        (dir, Source::new(reader.snapshot().unwrap(), ResponseHeader::default()))
    }

    /// Everything that is sent from an offset on.
    async fn sent(snapshots: &Arc<Snapshots>, source: &Source, place: (Option<u128>, u64)) -> Vec<SnapshotResponse> {
        use tokio_stream::StreamExt as _;
        let seconds = Histogram::with_opts(prometheus::HistogramOpts::new("a", "b")).unwrap();
        let mut stream = snapshots.send(source.clone(), place, seconds).into_inner();
        let mut messages = Vec::new();
        while let Some(message) = stream.next().await {
            messages.push(message.unwrap());
        }
        messages
    }

    fn bytes(messages: &[SnapshotResponse]) -> Vec<u8> {
        messages.iter().flat_map(|message| message.blob.to_vec()).collect()
    }

    #[tokio::test]
    async fn every_rest_of_a_stream_is_the_end_of_it() {
        let (_dir, source) = source(300);
        let snapshots = Arc::<Snapshots>::default();
        let id = snapshots.keep(&source).unwrap();
        assert!(snapshots.find(id, 0).is_none(), "nothing of it was sent");
        let whole = bytes(&sent(&snapshots, &source, (Some(id), 0)).await);
        let length = whole.len() as u64 - 32;
        assert!(whole.len() > 3 * CHUNK && length.is_multiple_of(512));
        for offset in [0, 1, 11, 12, 13, CHUNK as u64, 100_001, length - 1, length] {
            let found = snapshots.find(id, offset).unwrap();
            let rest = sent(&snapshots, &found, (Some(id), offset)).await;
            assert!(bytes(&rest) == whole[offset as usize..], "{offset}");
            let first = &rest[0];
            assert_eq!(first.remaining_bytes, (length - offset).saturating_sub(first.blob.len() as u64), "{offset}");
            assert_eq!(rest.last().unwrap().remaining_bytes, 0);
        }
        assert!(snapshots.find(id, length + 1).is_none());
        assert!(snapshots.find(id + 1, 0).is_none());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn streams_that_nobody_reads_are_few_and_end() {
        let (_dir, source) = source(3000);
        let snapshots = Arc::<Snapshots>::default();
        let seconds = Histogram::with_opts(prometheus::HistogramOpts::new("a", "b")).unwrap();
        let streams: Vec<_> =
            (0..STREAMS_MAX).map(|_| snapshots.send(source.clone(), (None, 0), seconds.clone()).into_inner()).collect();
        let id = snapshots.keep(&source).unwrap();
        let refused = snapshots.send(source.clone(), (Some(id), 0), seconds.clone());
        assert!(refused.metadata().get(METADATA).is_none());
        let mut refused = refused.into_inner().into_inner();
        let error = refused.recv().await.unwrap().unwrap_err();
        assert_eq!(error.message(), Error::TooManyRequests.text());
        assert!(refused.recv().await.is_none());
        // Whose clients are gone make place.
        drop(streams);
        let all = snapshots.streams.acquire_many(u32::try_from(STREAMS_MAX).unwrap()).await.unwrap();
        drop(all);
        assert_eq!(sent(&snapshots, &source, (None, 0)).await.last().unwrap().remaining_bytes, 0);
        // One that is there and takes nothing.
        let (chunks, _stream) = mpsc::channel(1);
        let stalled = tokio::task::spawn_blocking(move || source.send(0, &chunks, Duration::from_millis(5)));
        assert_eq!(stalled.await.unwrap().unwrap_err().message(), Error::Timeout.text());
    }

    #[tokio::test]
    async fn nothing_is_read_for_a_client_that_is_gone() {
        let (_dir, source) = source(10);
        let (chunks, stream) = mpsc::channel(1);
        drop(stream);
        assert!(source.bytes(&chunks).unwrap().is_none() && source.bytes.get().is_none());
    }

    #[tokio::test]
    async fn few_are_kept_and_not_for_long() {
        let (_dir, source) = source(1);
        let snapshots = Arc::<Snapshots>::default();
        let ids: Vec<u128> = (0..KEPT_MAX).map(|_| snapshots.keep(&source).unwrap()).collect();
        let counted: Vec<Counted> = ids[1..].iter().map(|id| snapshots.count(*id).unwrap()).collect();
        let next = snapshots.keep(&source).unwrap();
        assert!(snapshots.count(ids[0]).is_none(), "it made place");
        let last = snapshots.count(next).unwrap();
        assert!(snapshots.keep(&source).is_none(), "all are being sent");
        snapshots.forget(Instant::now() + 2 * KEPT_FOR);
        assert_eq!(snapshots.kept.lock().len(), KEPT_MAX);
        drop((counted, last));
        snapshots.forget(Instant::now());
        assert_eq!(snapshots.kept.lock().len(), KEPT_MAX);
        snapshots.forget(Instant::now() + 2 * KEPT_FOR);
        assert!(snapshots.kept.lock().is_empty());
    }

    #[test]
    fn wishes_are_read() {
        let id = 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef;
        for (value, wish) in [
            (None, Wish::Plain),
            (Some("new"), Wish::New),
            (Some(""), Wish::New),
            (Some("0123456789abcdef0123456789abcdef:77"), Wish::Rest { id, offset: 77 }),
            (Some("0123456789abcdef0123456789abcdef:-1"), Wish::New),
            (Some("f0123456789abcdef0123456789abcdef:1"), Wish::New),
            (Some("x:1"), Wish::New),
        ] {
            let mut metadata = MetadataMap::new();
            if let Some(value) = value {
                metadata.insert(METADATA, value.parse().unwrap());
            }
            assert_eq!(Wish::of(&metadata), wish, "{value:?}");
        }
    }
}
