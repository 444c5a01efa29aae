//! openraft's own suite, and what it does not cover: reading from disk, bounds, errors, restarts.

use super::*;
use crate::raft::types::{EntryContent, Outcomes, Payload, SnapshotMeta, StoredMembership, log_id};
use api::cleatpb::{Batch, Command, command::Op};
use api::etcdserverpb::PutRequest;
use openraft::alias::{SnapshotOf, StoredMembershipOf};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkV2};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse};
use openraft::storage::{EntryResponder, IOFlushed, RaftSnapshotBuilder, RaftStateMachine, StorageHelper};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt;
use openraft::{Snapshot, StorageError};
use std::future::Future;
use std::time::Duration;
use tempfile::TempDir;

/// A state machine that knows its position and membership, all that the suite asks of one.
#[derive(Clone, Default)]
struct Positioned(Arc<Mutex<SnapshotMeta>>, Option<SnapshotMeta>);

impl RaftSnapshotBuilder<TypeConfig> for Positioned {
    type SnapshotData = ();

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<TypeConfig, ()>> {
        Ok(Snapshot { meta: self.0.lock().clone(), snapshot: () })
    }
}

impl RaftStateMachine<TypeConfig> for Positioned {
    type SnapshotData = ();
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembershipOf<TypeConfig>)> {
        let meta = self.0.lock();
        Ok((meta.last_log_id, meta.last_membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            let mut meta = self.0.lock();
            meta.last_log_id = Some(entry.log_id);
            if let EntryContent::Membership(membership) = entry.payload {
                meta.last_membership = StoredMembership::new(Some(entry.log_id), membership);
            }
            if let Some(responder) = responder {
                responder.send(Outcomes::default());
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.1 = Some(self.0.lock().clone());
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, (): ()) -> io::Result<()> {
        *self.0.lock() = meta.clone();
        self.1 = Some(meta.clone());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf<TypeConfig, ()>>> {
        Ok(self.1.clone().map(|meta| Snapshot { meta, snapshot: () }))
    }
}

fn options(segment_bytes: u64, memory_bytes: usize) -> LogStoreOptions {
    LogStoreOptions { segment_bytes, memory_bytes, ..Default::default() }
}

struct Build(MakeOptions);
type MakeOptions = fn() -> LogStoreOptions;

impl StoreBuilder<TypeConfig, LogStore, Positioned, TempDir> for Build {
    async fn build(&self) -> Result<(TempDir, LogStore, Positioned), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        let store = LogStore::open(&dir.path().join("member/wal"), (self.0)()).unwrap();
        Ok((dir, store, Positioned::default()))
    }
}

fn suite(options: MakeOptions) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async { Suite::test_all(Build(options)).await }).unwrap();
}

#[test]
fn openraft_suite_passes_in_memory() {
    suite(|| options(256 << 10, 64 << 20));
}

#[test]
fn openraft_suite_passes_on_disk_with_tiny_segments() {
    suite(|| options(512, 0));
}

fn put(index: u64, value_bytes: usize) -> Entry {
    let put = PutRequest {
        key: format!("key-{index}").into_bytes().into(),
        value: vec![index as u8; value_bytes].into(),
        ..Default::default()
    };
    let command = Command { header: None, op: Some(Op::Put(put)) };
    Entry {
        log_id: log_id(1, index),
        payload: EntryContent::Normal(Payload::new(Batch { commands: vec![command], origin: None })),
    }
}

async fn append(store: &mut LogStore, entries: Vec<Entry>) -> io::Result<()> {
    let (done, durable) = TypeConfig::oneshot();
    store.append(entries, IOFlushed::signal(done)).await?;
    durable.await.unwrap()
}

#[tokio::test]
async fn entries_beyond_the_memory_bound_are_read_from_disk() {
    let dir = tempfile::tempdir().unwrap();
    let entries: Vec<Entry> = (0..500).map(|index| put(index, 300)).collect();
    let mut store = LogStore::open(dir.path(), options(16 << 10, 20_000)).unwrap();
    for chunk in entries.chunks(7) {
        append(&mut store, chunk.to_vec()).await.unwrap();
    }
    {
        let recent = store.log.recent.lock();
        assert!(recent.bytes <= 20_000 + 8 * 600, "{} bytes kept", recent.bytes);
        assert!(recent.entries.len() > 10 && recent.entries.len() < 100);
    }
    let mut reader = store.get_log_reader().await;
    assert_eq!(reader.try_get_log_entries(..).await.unwrap(), entries);
    assert_eq!(reader.try_get_log_entries(10..=20).await.unwrap(), entries[10..=20]);
    let streamed: Vec<Entry> = reader.entries_stream(3..499).await.map(|e| e.unwrap()).collect().await;
    assert_eq!(streamed, entries[3..499]);
    let limited = reader.limited_get_log_entries(0, 500).await.unwrap();
    assert_eq!(limited[..], entries[..limited.len()]);
    drop((store, reader));

    let mut store = LogStore::open(dir.path(), options(16 << 10, 20_000)).unwrap();
    let mut reader = store.get_log_reader().await;
    assert_eq!(reader.try_get_log_entries(..).await.unwrap(), entries);
    append(&mut store, vec![put(500, 3)]).await.unwrap();
    assert_eq!(reader.try_get_log_entries(499..).await.unwrap(), [entries[499].clone(), put(500, 3)]);
}

#[tokio::test]
async fn one_read_is_bounded_but_never_empty() {
    let dir = tempfile::tempdir().unwrap();
    for memory in [0, 64 << 20] {
        let mut store = LogStore::open(&dir.path().join(memory.to_string()), options(1 << 20, memory)).unwrap();
        let entries: Vec<Entry> = (0..6).map(|index| put(index, 600 << 10)).collect();
        append(&mut store, entries.clone()).await.unwrap();
        append(&mut store, vec![put(6, 3 << 20)]).await.unwrap();
        let mut reader = store.get_log_reader().await;
        assert_eq!(reader.limited_get_log_entries(0, 7).await.unwrap(), entries[..1]);
        assert_eq!(reader.limited_get_log_entries(6, 7).await.unwrap().len(), 1);
        assert_eq!(reader.entries_stream(0..7).await.count().await, 7);
    }
}

/// What a crash leaves: the log on its disk, and where its database is.
#[tokio::test]
async fn a_log_that_the_database_has_overtaken_goes_on_behind_it() {
    let entry = |term, index| Entry { log_id: log_id(term, index), ..put(index, 100) };
    // The log: 0 to 9 of term 1, then an end of term 3. The vote is of term 5.
    for (name, purged, applied, left) in [
        ("as far", None, log_id(3, 12), (None, log_id(3, 13))),
        ("behind", None, log_id(1, 8), (None, log_id(3, 13))),
        ("purged up to there", Some(log_id(1, 8)), log_id(1, 8), (Some(log_id(1, 8)), log_id(3, 13))),
        ("ahead", None, log_id(5, 20), (Some(log_id(5, 20)), log_id(5, 20))),
        ("a later leader replaced the end", None, log_id(5, 10), (Some(log_id(5, 10)), log_id(5, 10))),
        ("so, after a purge", Some(log_id(1, 8)), log_id(5, 10), (Some(log_id(5, 10)), log_id(5, 10))),
        ("by an entry of an earlier term", None, log_id(2, 11), (Some(log_id(2, 11)), log_id(2, 11))),
        ("at its last entry", None, log_id(5, 13), (Some(log_id(5, 13)), log_id(5, 13))),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut store = LogStore::open(dir.path(), options(1 << 10, 0)).unwrap();
        store.save_vote(&Vote::new_committed(5, 1)).await.unwrap();
        append(&mut store, (0..10).map(|index| entry(1, index)).collect()).await.unwrap();
        append(&mut store, (10..14).map(|index| entry(3, index)).collect()).await.unwrap();
        if let Some(purged) = purged {
            store.purge(purged).await.unwrap();
        }
        drop(store);

        // What is dropped stays so, also when the next start comes before anything else is written.
        for _ in 0..2 {
            let mut store = LogStore::open(dir.path(), options(1 << 10, 0)).unwrap();
            store.check_follows(dir.path(), dir.path(), Some(applied)).unwrap();
            store.follow(Some(applied)).await.unwrap();
            let meta = SnapshotMeta { last_log_id: Some(applied), ..SnapshotMeta::default() };
            let mut machine = Positioned(Arc::new(Mutex::new(meta.clone())), Some(meta));
            let state = StorageHelper::new(&mut store, &mut machine).with_id(1).get_initial_state().await;
            assert!(state.is_ok(), "{name}: {state:?}");
            let LogState { last_purged_log_id, last_log_id } = store.get_log_state().await.unwrap();
            assert_eq!((last_purged_log_id, last_log_id), (left.0, Some(left.1)), "{name}");
        }
        let mut store = LogStore::open(dir.path(), options(1 << 10, 0)).unwrap();
        let next = entry(5, left.1.index + 1);
        append(&mut store, vec![next.clone()]).await.unwrap();
        let mut reader = store.get_log_reader().await;
        let read = reader.try_get_log_entries(next.log_id.index - 1..).await.unwrap();
        assert_eq!(read.last(), Some(&next), "{name}");
    }
}

#[tokio::test]
async fn vote_committed_and_purged_positions_survive_restart_and_purge() {
    let dir = tempfile::tempdir().unwrap();
    let vote = Vote::new_committed(7, u64::MAX);
    {
        let mut store = LogStore::open(dir.path(), options(4 << 10, 0)).unwrap();
        store.save_vote(&vote).await.unwrap();
        for index in 0..200 {
            append(&mut store, vec![put(index, 100)]).await.unwrap();
            store.save_committed(Some(log_id(1, index))).await.unwrap();
        }
        store.purge(log_id(1, 198)).await.unwrap();
    }
    for _ in 0..2 {
        let mut store = LogStore::open(dir.path(), options(4 << 10, 0)).unwrap();
        let mut reader = store.get_log_reader().await;
        assert_eq!(reader.read_vote().await.unwrap(), Some(vote));
        assert_eq!(store.read_committed().await.unwrap(), Some(log_id(1, 199)));
        let state = store.get_log_state().await.unwrap();
        assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(log_id(1, 198)), Some(log_id(1, 199))));
        assert_eq!(reader.try_get_log_entries(..).await.unwrap(), [put(199, 100)]);
    }
}

#[tokio::test]
async fn truncated_entries_stay_gone_and_are_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let replacement = Entry { log_id: log_id(2, 51), payload: EntryContent::Blank };
    let mut expected: Vec<Entry> = (0..=50).map(|index| put(index, 50)).collect();
    expected.push(replacement.clone());
    {
        let mut store = LogStore::open(dir.path(), options(2 << 10, 0)).unwrap();
        append(&mut store, (0..100).map(|index| put(index, 50)).collect()).await.unwrap();
        store.truncate_after(Some(log_id(1, 50))).await.unwrap();
        append(&mut store, vec![replacement]).await.unwrap();
        let mut reader = store.get_log_reader().await;
        assert_eq!(reader.try_get_log_entries(..).await.unwrap(), expected);
    }
    let mut store = LogStore::open(dir.path(), options(2 << 10, 0)).unwrap();
    let mut reader = store.get_log_reader().await;
    assert_eq!(reader.try_get_log_entries(..).await.unwrap(), expected);
}

/// A cluster of one has nobody to reach.
struct Nobody;

impl openraft::RaftNetworkFactory<TypeConfig> for Nobody {
    type Network = Self;

    async fn new_client(&mut self, _target: u64, _peer: &crate::raft::types::Peer) -> Self {
        Self
    }
}

fn nobody() -> Unreachable<TypeConfig> {
    Unreachable::new(&io::Error::other("nobody"))
}

impl RaftNetworkV2<TypeConfig> for Nobody {
    type SnapshotData = ();

    async fn append_entries(
        &mut self,
        _: AppendEntriesRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        Err(nobody().into())
    }

    async fn vote(
        &mut self,
        _: VoteRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        Err(nobody().into())
    }

    async fn full_snapshot(
        &mut self,
        _: Vote,
        _: SnapshotOf<TypeConfig, ()>,
        _: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        Err(nobody().into())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_raft_node_keeps_its_writes_over_restarts() {
    const WRITES: u64 = 300;
    let deadline = Some(Duration::from_secs(20));
    let dir = tempfile::tempdir().unwrap();
    let config = openraft::Config {
        heartbeat_interval: 50,
        election_timeout_min: 150,
        election_timeout_max: 300,
        snapshot_policy: openraft::SnapshotPolicy::Never,
        ..Default::default()
    };
    let config = Arc::new(config.validate().unwrap());
    let mut written = 0;
    for start in 0..3 {
        let store = LogStore::open(dir.path(), options(16 << 10, 5_000)).unwrap();
        let machine = Positioned::default();
        let raft = crate::raft::types::Raft::new(1, Arc::clone(&config), Nobody, store, machine.clone()).await.unwrap();
        if start == 0 {
            raft.initialize(std::collections::BTreeMap::from([(1, crate::raft::types::Peer::default())]))
                .await
                .unwrap();
        }
        raft.wait(deadline).current_leader(1, "leads").await.unwrap();
        let writes = (0..WRITES).map(|write| {
            let EntryContent::Normal(payload) = put(write, 100).payload else { unreachable!() };
            raft.client_write(payload)
        });
        for result in futures::future::join_all(writes).await {
            let index = result.unwrap().log_id.index;
            written = index.max(written);
        }
        assert!(written >= (start + 1) * WRITES);
        let metrics = raft.metrics().borrow_watched().clone();
        assert_eq!(metrics.last_log_index, Some(written));
        assert_eq!(machine.0.lock().last_log_id.map(|id| id.index), Some(written));
        raft.shutdown().await.unwrap();
        drop(raft);
    }
    let mut store = LogStore::open(dir.path(), options(16 << 10, 5_000)).unwrap();
    let mut reader = store.get_log_reader().await;
    let entries = reader.try_get_log_entries(..).await.unwrap();
    assert_eq!(entries.iter().map(|e| e.log_id.index).collect::<Vec<_>>(), (0..=written).collect::<Vec<_>>());
    let puts = entries.iter().filter(|entry| matches!(entry.payload, EntryContent::Normal(_))).count();
    assert_eq!(puts as u64, 3 * WRITES);
}

#[tokio::test]
async fn a_hole_in_the_log_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = LogStore::open(dir.path(), options(64 << 10, 0)).unwrap();
    append(&mut store, vec![put(0, 1), put(1, 1)]).await.unwrap();
    for entries in [vec![put(3, 1)], vec![put(1, 1)], vec![put(2, 1), put(4, 1)]] {
        let error = append(&mut store, entries).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
