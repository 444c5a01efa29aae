//! A real store behind the hub; what each watcher is told is compared with the list of all events.

use super::*;
use crate::watch::hub::Hub;
use api::cleatpb::command::Op;
use api::cleatpb::{Batch, Command};
use api::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, PutRequest, RequestOp, TxnRequest, request_op::Request as RequestKind,
};
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use store::{Entry, Flusher, Import, Position, Writer};
use tempfile::TempDir;

struct Bench {
    writer: Writer,
    flusher: Flusher,
    reader: Reader,
    hub: Arc<Hub>,
    index: u64,
    /// Every event so far: revision, deleted, key.
    log: Vec<(i64, bool, Vec<u8>)>,
    dir: TempDir,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (writer, flusher, reader) = store::open(&dir.path().join("db"), store::Options::default()).unwrap();
        let hub = Arc::new(Hub::new(reader.revision()));
        Self { writer, flusher, reader, hub, index: 0, log: Vec::new(), dir }
    }

    /// Applies without publishing.
    fn apply(&mut self, op: Op) -> Vec<Change> {
        self.index += 1;
        let batch = Batch { commands: vec![Command { header: None, op: Some(op) }], origin: None };
        let position = Position { term: 1, index: self.index };
        let applied = self.writer.apply([Entry { position, commands: &batch.commands, membership: None }]).unwrap();
        for change in &applied.changes {
            for event in &change.events {
                self.log.push((change.revision, event.deleted, event.key().to_vec()));
            }
        }
        applied.changes
    }

    fn run(&mut self, op: Op) {
        let changes = self.apply(op);
        self.hub.publish(&changes);
    }

    /// Installs a snapshot of another store, without telling the hub.
    fn install(&mut self, leader: &mut Self) {
        leader.flusher.flush().unwrap();
        let mut snapshot = leader.reader.snapshot().unwrap();
        let mut import = Import::create(&self.dir.path().join("db"), &store::Options::default()).unwrap();
        while let Some(frame) = snapshot.next_frame().unwrap() {
            import.feed(&frame).unwrap();
        }
        let installed = self.writer.install(import.finish().unwrap()).unwrap();
        assert_eq!(installed.revision, leader.reader.revision());
        (self.index, self.log) = (leader.index, leader.log.clone());
    }

    fn put(&mut self, key: &str) {
        self.run(put(key));
    }

    fn stream(&self) -> WatchStream {
        let header = Arc::new(|revision| ResponseHeader { revision, ..Default::default() });
        WatchStream::new(Arc::clone(&self.hub), self.reader.clone(), header, 2048)
    }
}

fn put(key: &str) -> Op {
    let key = Bytes::copy_from_slice(key.as_bytes());
    Op::Put(PutRequest { key, value: Bytes::from_static(&[7; 100]), ..Default::default() })
}

fn delete(key: &str, end: &str) -> Op {
    let (key, range_end) = (Bytes::copy_from_slice(key.as_bytes()), Bytes::copy_from_slice(end.as_bytes()));
    Op::DeleteRange(DeleteRangeRequest { key, range_end, prev_kv: false })
}

fn puts(keys: impl IntoIterator<Item = String>) -> Op {
    let op = |key: String| RequestOp {
        request: Some(RequestKind::RequestPut(PutRequest { key: key.into(), ..Default::default() })),
    };
    Op::Txn(TxnRequest { success: keys.into_iter().map(op).collect(), ..Default::default() })
}

fn create(key: &str, range_end: &str, start_revision: i64) -> WatchCreateRequest {
    let (key, range_end) = (Bytes::copy_from_slice(key.as_bytes()), Bytes::copy_from_slice(range_end.as_bytes()));
    WatchCreateRequest { key, range_end, start_revision, ..Default::default() }
}

fn drain(stream: &mut WatchStream) -> Vec<WatchResponse> {
    std::iter::from_fn(|| stream.pop()).collect()
}

/// Serves the stream until it has nothing to do.
async fn settle(stream: &mut WatchStream) -> Vec<WatchResponse> {
    let mut responses = Vec::new();
    loop {
        stream.collect().unwrap();
        stream.settle_progress().unwrap();
        responses.append(&mut drain(stream));
        if !stream.has_unsynced() {
            return responses;
        }
        stream.catch_up().await.unwrap();
    }
}

fn revisions(responses: &[WatchResponse]) -> Vec<i64> {
    let events = responses.iter().flat_map(|response| &response.events);
    events.map(|event| event.kv.as_ref().unwrap().fields().unwrap().mod_revision).collect()
}

#[tokio::test]
async fn created_comes_first_and_events_follow() {
    let mut bench = Bench::new();
    bench.put("a");
    let mut stream = bench.stream();
    stream.create(&create("a", "", 0));
    bench.put("a");
    bench.put("b");
    bench.put("a");
    let responses = settle(&mut stream).await;
    assert_eq!((responses[0].created, responses[0].header.unwrap().revision), (true, 2));
    // What waits together shares a response.
    assert_eq!((responses.len(), revisions(&responses)), (2, vec![3, 5]));
    assert_eq!(responses[1].header.unwrap().revision, 5);
}

#[tokio::test]
async fn ids_are_the_clients_or_the_next_free_one() {
    let bench = Bench::new();
    let mut stream = bench.stream();
    let with_id = |watch_id| WatchCreateRequest { watch_id, ..create("a", "", 0) };
    for id in [1, 1, 0, 0, -7] {
        stream.create(&with_id(id));
    }
    stream.create(&create("b", "a", 0));
    stream.cancel(0);
    stream.cancel(99);
    stream.create(&with_id(0));
    let answers: Vec<_> = settle(&mut stream).await.iter().map(|r| (r.watch_id, r.created, r.canceled)).collect();
    let refused = (-1, true, true);
    assert_eq!(
        answers,
        [
            (1, true, false),
            refused,
            (0, true, false),
            (2, true, false),
            (-7, true, false),
            refused,
            (0, false, true),
            (3, true, false)
        ]
    );
}

#[tokio::test]
async fn a_start_in_the_future_hears_nothing_before_it() {
    let mut bench = Bench::new();
    let mut stream = bench.stream();
    stream.create(&WatchCreateRequest { progress_notify: true, ..create("a", "", 4) });
    stream.request_progress().unwrap();
    bench.put("a");
    stream.notify_progress().unwrap();
    assert_eq!(settle(&mut stream).await.len(), 1);
    bench.put("a");
    // Revision 3 is reached, 4 is the next.
    let responses = settle(&mut stream).await;
    assert_eq!((responses[0].watch_id, responses[0].header.unwrap().revision), (-1, 3));
    bench.put("a");
    assert_eq!(revisions(&settle(&mut stream).await), [4]);
}

#[tokio::test]
async fn a_compacted_start_is_cancelled_with_the_compacted_revision() {
    let mut bench = Bench::new();
    for _ in 0..4 {
        bench.put("a");
    }
    bench.run(Op::Compaction(CompactionRequest { revision: 4, physical: false }));
    let mut stream = bench.stream();
    for start in [3, 4, -1] {
        stream.create(&create("a", "", start));
    }
    let responses = settle(&mut stream).await;
    let of = |id| responses.iter().filter(move |response| response.watch_id == id);
    for id in [0, 2] {
        let last = of(id).next_back().unwrap();
        assert_eq!((last.canceled, last.compact_revision, last.header.unwrap().revision), (true, 4, 0), "{id}");
    }
    assert_eq!(revisions(&of(1).cloned().collect::<Vec<_>>()), [4, 5]);
    assert_eq!((bench.hub.stats().watchers.get(), bench.hub.stats().unsynced.get()), (1, 0));
}

#[tokio::test]
async fn filters_and_previous_values() {
    let mut bench = Bench::new();
    let mut stream = bench.stream();
    let filtered = |filter: FilterType| WatchCreateRequest { filters: vec![filter as i32], ..create("a", "", 0) };
    stream.create(&filtered(FilterType::Noput));
    stream.create(&filtered(FilterType::Nodelete));
    stream.create(&WatchCreateRequest { prev_kv: true, ..create("a", "", 0) });
    bench.put("a");
    bench.put("a");
    bench.run(delete("a", ""));
    let responses = settle(&mut stream).await;
    let of = |id| revisions(&responses.iter().filter(|r| r.watch_id == id).cloned().collect::<Vec<_>>());
    assert_eq!((of(0), of(1), of(2)), (vec![4], vec![2, 3], vec![2, 3, 4]));
    let previous: Vec<_> = (responses.iter().filter(|r| r.watch_id == 2))
        .flat_map(|r| &r.events)
        .map(|event| event.prev_kv.as_ref().map(|kv| kv.fields().unwrap().mod_revision))
        .collect();
    assert_eq!(previous, [None, Some(2), Some(3)]);
}

#[tokio::test]
async fn fragments_split_between_events_and_only_when_asked() {
    let mut bench = Bench::new();
    let mut stream = bench.stream();
    stream.create(&WatchCreateRequest { fragment: true, ..create("k", "l", 0) });
    stream.create(&create("k", "l", 0));
    bench.run(puts((0..300).map(|i| format!("k{i:04}"))));
    bench.put("k");
    let responses = settle(&mut stream).await;
    let fragments: Vec<_> = responses.iter().filter(|r| r.watch_id == 0 && !r.created).collect();
    assert!(fragments.len() > 2);
    let (last, before) = fragments.split_last().unwrap();
    assert!(before.iter().all(|r| r.fragment && prost::Message::encoded_len(*r) < 2048) && !last.fragment);
    assert_eq!(fragments.iter().map(|r| r.events.len()).sum::<usize>(), 301);
    let whole: Vec<_> = responses.iter().filter(|r| r.watch_id == 1 && !r.created).collect();
    assert_eq!((whole.len(), whole[0].events.len(), whole[0].fragment), (1, 301, false));
}

#[tokio::test]
async fn progress_goes_to_quiet_watchers_that_asked() {
    let mut bench = Bench::new();
    let mut stream = bench.stream();
    for (key, progress_notify) in [("a", true), ("b", true), ("c", false)] {
        stream.create(&WatchCreateRequest { progress_notify, ..create(key, "", 0) });
    }
    drain(&mut stream);
    bench.put("a");
    stream.notify_progress().unwrap();
    let responses = drain(&mut stream);
    assert_eq!(revisions(&responses[..1]), [2]);
    let rest: Vec<_> = responses[1..].iter().map(|r| (r.watch_id, r.header.unwrap().revision)).collect();
    assert_eq!(rest, [(1, 2)]);
    stream.notify_progress().unwrap();
    assert_eq!(drain(&mut stream).len(), 2);
}

#[tokio::test]
async fn progress_waits_for_unsynced_watchers_and_for_what_is_not_published() {
    let mut bench = Bench::new();
    for _ in 0..5 {
        bench.put("a");
    }
    let unpublished = bench.apply(put("a"));
    let mut stream = bench.stream();
    stream.create(&create("a", "", 2));
    stream.request_progress().unwrap();
    assert!(stream.progress_pending());
    // The store is ahead of the hub: what is not published is not sent.
    let early = settle(&mut stream).await;
    assert_eq!(revisions(&early), [2, 3, 4, 5, 6]);
    assert!(stream.progress_pending(), "revision 7 was named in the created response");
    bench.hub.publish(&unpublished);
    let late = settle(&mut stream).await;
    assert_eq!(revisions(&late), [7]);
    assert_eq!((late[1].watch_id, late[1].header.unwrap().revision), (-1, 7));
}

#[tokio::test]
async fn a_cancelled_watcher_leaves_no_mail() {
    let mut bench = Bench::new();
    let mut stream = bench.stream();
    stream.create(&WatchCreateRequest { watch_id: 5, ..create("a", "", 0) });
    bench.put("a");
    stream.cancel(5);
    stream.create(&WatchCreateRequest { watch_id: 5, ..create("a", "", 0) });
    assert_eq!(revisions(&settle(&mut stream).await), Vec::<i64>::new());
    assert_eq!(bench.hub.stats().pending.get(), 0);
    drop(stream);
    assert_eq!((bench.hub.stats().watchers.get(), bench.hub.stats().streams.get()), (0, 0));
}

/// A member and the leader that is ahead of it by the given puts of `a`.
fn behind_by(puts: usize) -> (Bench, Bench) {
    let (mut bench, mut leader) = (Bench::new(), Bench::new());
    for bench in [&mut bench, &mut leader] {
        bench.put("a");
        bench.put("b");
    }
    for _ in 0..puts {
        leader.put("a");
    }
    (bench, leader)
}

#[tokio::test]
async fn what_an_installed_snapshot_skips_is_read_from_history() {
    let (mut bench, mut leader) = behind_by(5);
    let mut stream = bench.stream();
    // From now on, from the middle of the gap, from its end, and from behind it.
    for start in [0, 6, 8, 9, 10] {
        stream.create(&WatchCreateRequest { progress_notify: true, ..create("a", "", start) });
    }
    drain(&mut stream);
    bench.install(&mut leader);
    // Nobody hears of the new content before the hub does.
    stream.request_progress().unwrap();
    stream.notify_progress().unwrap();
    let early = settle(&mut stream).await;
    assert!(early.iter().all(|response| response.header.unwrap().revision == 3), "{early:?}");
    bench.hub.replaced(8);
    bench.hub.replaced(8);
    stream.notify_progress().unwrap();
    let quiet: Vec<_> = drain(&mut stream).iter().map(|response| response.watch_id).collect();
    assert_eq!(quiet, [3], "only who starts at the next revision has all of it");
    let responses = settle(&mut stream).await;
    bench.put("a");
    bench.put("a");
    let late = settle(&mut stream).await;
    let of = |responses: &[WatchResponse], id| {
        revisions(&responses.iter().filter(|response| response.watch_id == id).cloned().collect::<Vec<_>>())
    };
    for (id, heard, next) in [
        (0, &[4, 5, 6, 7, 8][..], &[9, 10][..]),
        (1, &[6, 7, 8], &[9, 10]),
        (2, &[8], &[9, 10]),
        (3, &[], &[9, 10]),
        (4, &[], &[10]),
    ] {
        assert_eq!((of(&responses, id), of(&late, id)), (heard.to_vec(), next.to_vec()), "watcher {id}");
    }
    // The progress that was asked for follows the last watcher that it is about.
    assert_eq!((late[late.len() - 1].watch_id, late[late.len() - 1].header.unwrap().revision), (-1, 10));
    assert_eq!((bench.hub.stats().unsynced.get(), bench.hub.stats().pending.get()), (0, 0));
}

#[tokio::test]
async fn mail_from_before_an_installed_snapshot_comes_first() {
    let (mut bench, mut leader) = behind_by(0);
    let mut stream = bench.stream();
    stream.create(&create("a", "", 0));
    for bench in [&mut bench, &mut leader] {
        bench.put("a");
    }
    leader.put("a");
    bench.install(&mut leader);
    bench.hub.replaced(5);
    bench.put("a");
    assert_eq!(revisions(&settle(&mut stream).await), [4, 5, 6]);
}

#[tokio::test]
async fn a_gap_that_was_compacted_cancels() {
    let (mut bench, mut leader) = behind_by(5);
    let mut stream = bench.stream();
    for (key, start) in [("a", 0), ("a", 7), ("a", 9)] {
        stream.create(&create(key, "", start));
    }
    drain(&mut stream);
    leader.run(Op::Compaction(CompactionRequest { revision: 7, physical: false }));
    bench.install(&mut leader);
    bench.hub.replaced(8);
    bench.put("a");
    let responses = settle(&mut stream).await;
    let of = |id| responses.iter().filter(|response| response.watch_id == id).cloned().collect::<Vec<_>>();
    let cancelled = of(0);
    assert_eq!((cancelled.len(), cancelled[0].canceled, cancelled[0].compact_revision), (1, true, 7));
    assert_eq!((revisions(&of(1)), revisions(&of(2))), (vec![7, 8, 9], vec![9]));
}

/// What one watcher of the random tests should hear.
struct Expected {
    key: Vec<u8>,
    end: Vec<u8>,
    from: i64,
    kinds: Kinds,
    heard: Vec<(i64, bool, Vec<u8>)>,
    cancelled: bool,
}

impl Expected {
    fn hear(&mut self, response: &WatchResponse) {
        assert!(!self.cancelled, "nothing follows a cancellation");
        self.cancelled = response.canceled;
        let first = response.events.first().map(|event| event.kv.as_ref().unwrap().fields().unwrap().mod_revision);
        let last = self.heard.last().map_or(0, |(revision, ..)| *revision);
        assert!(first.is_none_or(|first| first > last), "a revision is in one response");
        for event in &response.events {
            let fields = event.kv.as_ref().unwrap().fields().unwrap();
            assert!(fields.mod_revision <= response.header.unwrap().revision);
            self.heard.push((fields.mod_revision, event.kind == 1, fields.key.to_vec()));
        }
    }

    fn wants(&self, event: &(i64, bool, Vec<u8>)) -> bool {
        let (revision, deleted, key) = event;
        let range = KeyRange::new(&self.key, &self.end);
        *revision >= self.from && range.contains(key) && self.kinds.wants(*deleted)
    }

    fn check(&self, log: &[(i64, bool, Vec<u8>)], up_to: i64) {
        let wanted: Vec<_> = log.iter().filter(|event| event.0 <= up_to && self.wants(event)).collect();
        let heard: Vec<_> = self.heard.iter().filter(|event| event.0 <= up_to).collect();
        assert_eq!(heard, wanted);
    }
}

fn random_op(random: &mut StdRng, bench: &Bench) -> Op {
    let key = |random: &mut StdRng| format!("k{}", random.random_range(0..12));
    match random.random_range(0..20) {
        0..12 => put(&key(random)),
        12..15 => {
            let first = random.random_range(0..6);
            puts((first..first + random.random_range(1..6)).map(|i| format!("k{i}")))
        }
        15..17 => delete(&key(random), ""),
        17..19 => delete(&key(random), "k5"),
        _ => {
            let revision = bench.reader.revision() - random.random_range(0..400);
            Op::Compaction(CompactionRequest { revision: revision.max(1), physical: false })
        }
    }
}

/// Random writes beside streams that are served now and then: each watcher hears exactly what it should.
#[tokio::test]
async fn every_watcher_hears_everything_once_in_order() {
    hear_random_writes(0).await;
}

/// The same on a member that falls behind now and then, and gets a snapshot of its leader.
#[tokio::test]
async fn every_watcher_hears_what_snapshots_skip() {
    hear_random_writes(150).await;
}

/// About every `snapshots` steps the member gets a snapshot, never for 0.
async fn hear_random_writes(snapshots: usize) {
    let seed = std::env::var("CLEAT_SEED").or_else(|_| std::env::var("CLEAT_FIRST_SEED"));
    let seed: u64 = seed.map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("CLEAT_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let (mut bench, mut leader) = (Bench::new(), Bench::new());
    let mut streams: Vec<(WatchStream, HashMap<i64, Expected>)> =
        (0..4).map(|_| (bench.stream(), HashMap::new())).collect();
    for step in 0..5_000_usize {
        let op = random_op(&mut random, &bench);
        leader.run(op.clone());
        bench.run(op);
        let mut replaced = None;
        if snapshots > 0 && random.random_range(0..snapshots) == 0 {
            for _ in 0..random.random_range(1..100) {
                let op = random_op(&mut random, &leader);
                leader.run(op);
            }
            bench.install(&mut leader);
            replaced = Some(bench.reader.revision());
        }
        if step % 50 == 0 {
            bench.flusher.flush().unwrap();
        }
        if step % 500 == 250 {
            let (stream, watchers) = &mut streams[random.random_range(0..4)];
            let (key, end) = [("k1", ""), ("k", "l"), ("k3", "k7"), ("k", "\0")][random.random_range(0..4)];
            let back = random.random_range(0..300);
            let from = (bench.reader.revision() + 5 - back).max(1);
            let mut request = create(key, end, from);
            let filter = random.random_range(0..4);
            request.filters.extend((filter < 2).then_some(filter));
            let kinds = Kinds { puts: filter != 0, deletes: filter != 1 };
            stream.create(&request);
            let (key, end) = (request.key.to_vec(), request.range_end.to_vec());
            let id = watchers.len() as i64;
            watchers.insert(id, Expected { key, end, from, kinds, heard: Vec::new(), cancelled: false });
        }
        for (number, (stream, watchers)) in streams.iter_mut().enumerate() {
            // The first is quick, the last hardly ever served.
            if random.random_range(0..1 + 20_usize.pow(number as u32)) == 0 {
                stream.request_progress().unwrap();
                if stream.has_unsynced() {
                    stream.catch_up().await.unwrap();
                }
                stream.collect().unwrap();
            }
            for response in drain(stream) {
                hear(&response, watchers, &bench.log);
            }
        }
        if let Some(revision) = replaced {
            bench.hub.replaced(revision);
        }
    }
    let current = bench.reader.revision();
    let mut cancelled = 0;
    for (stream, watchers) in &mut streams {
        for response in settle(stream).await {
            hear(&response, watchers, &bench.log);
        }
        for expected in watchers.values().filter(|expected| !expected.cancelled) {
            expected.check(&bench.log, current);
        }
        cancelled += watchers.values().filter(|expected| expected.cancelled).count();
    }
    println!("cancelled {cancelled}, unsynced {}", bench.hub.stats().unsynced.get());
    assert_eq!((bench.hub.stats().unsynced.get(), bench.hub.stats().pending.get()), (0, 0));
}

fn hear(response: &WatchResponse, watchers: &mut HashMap<i64, Expected>, log: &[(i64, bool, Vec<u8>)]) {
    if response.watch_id == -1 {
        let up_to = response.header.unwrap().revision;
        for expected in watchers.values().filter(|expected| !expected.cancelled) {
            expected.check(log, up_to);
            assert!(expected.heard.iter().all(|event| event.0 <= up_to), "progress is never behind the events");
        }
    } else {
        watchers.get_mut(&response.watch_id).unwrap().hear(response);
    }
}
