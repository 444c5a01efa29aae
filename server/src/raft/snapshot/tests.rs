//! Both sides, without a connection between them.

use super::*;
use crate::raft::double::Double;
use crate::raft::types::Vote;

/// Receives for a leader that waits, with work that takes so long, and returns what the leader got.
async fn receive(work: Duration) -> (Result<Vote, PeerError>, Duration) {
    let begun = Instant::now();
    let (receipts, answers) = mpsc::channel(PIECES_WAITING);
    let receiver = tokio::spawn(async move {
        at_work(&receipts, 7, tokio::time::sleep(work)).await;
        let done = Some(wire::to_ballot(&Vote::new_committed(3, 1)));
        drop(send_receipt(&receipts, SnapshotReceipt { done, ..Default::default() }).await);
    });
    let mut answers = ReceiverStream::new(answers).boxed();
    let ended = installed(&mut answers).await;
    receiver.await.unwrap();
    (ended, begun.elapsed())
}

#[tokio::test(start_paused = true)]
async fn a_receiver_at_work_is_waited_for() {
    for work in [Duration::from_millis(10), STALL * 20] {
        let (ended, took) = receive(work).await;
        assert_eq!(ended, Ok(Vote::new_committed(3, 1)));
        assert!((work..work + Duration::from_secs(1)).contains(&took), "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_says_nothing_is_given_up() {
    let (_receipts, answers) = mpsc::channel(PIECES_WAITING);
    let begun = Instant::now();
    let ended = installed(&mut ReceiverStream::new(answers).boxed()).await;
    assert!(matches!(ended, Err(PeerError::Lost(_))), "{ended:?}");
    assert_eq!(begun.elapsed(), STALL);
}

#[tokio::test(start_paused = true)]
async fn work_goes_on_without_a_leader_that_listens() {
    let (receipts, answers) = mpsc::channel(PIECES_WAITING);
    // One that takes nothing while there is room for a few receipts only, then one that is gone.
    at_work(&receipts, 7, tokio::time::sleep(STALL * 10)).await;
    assert_eq!(receipts.capacity(), 0);
    drop(answers);
    at_work(&receipts, 7, tokio::time::sleep(STALL * 10)).await;
}

/// A store whose last entry is of that term.
fn store_of(term: u64) -> (tempfile::TempDir, Reader) {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, mut flusher, reader) =
        store::open(&dir.path().join("store.redb"), store::Options::default()).unwrap();
    let position = Position { term, index: 7 };
    writer.apply([store::Entry { position, commands: &[], membership: None }]).unwrap();
    flusher.flush().unwrap();
    (dir, reader)
}

fn source(reader: &Reader) -> (SnapshotSource, Arc<Parked>) {
    let parked = Arc::new(Parked::default());
    let position = reader.durable().0;
    let outgoing = Outgoing { reader: reader.clone(), parked: Arc::clone(&parked), position };
    (SnapshotSource::Outgoing(outgoing), parked)
}

#[tokio::test]
async fn a_deposed_leader_sends_nothing_of_the_next_ones_entries() {
    let (_dir, reader) = store_of(3);
    for (term, expected) in [(2, "later leader"), (3, "nobody is there")] {
        let (source, _) = source(&reader);
        let sent = send(2, Arc::new(Double::default()), Vote::new_committed(term, 1), source).await;
        let error = sent.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[tokio::test]
async fn a_snapshot_of_a_later_leader_never_reaches_raft() {
    let (dir, reader) = store_of(3);
    for (term, is_refused) in [(2, true), (3, false)] {
        let mut snapshot = reader.snapshot().unwrap();
        let mut taking = Taking {
            database: dir.path().join("other.redb"),
            options: store::Options::default(),
            traffic: PeersTraffic::detached(1),
            import: None,
            received: 0,
        };
        while let Some(frame) = snapshot.next_frame().unwrap() {
            taking.feed(SnapshotPiece { data: frame.into(), ..SnapshotPiece::default() }).await.unwrap();
        }
        let finished = taking
            .finish(&Vote::new_committed(term, 1), Instant::now())
            .await
            .map(|installing| installing.meta.last_log_id);
        assert_eq!(matches!(&finished, Err(PeerError::Invalid(_))), is_refused, "term {term}: {finished:?}");
    }
}

/// A receiver that takes what it is sent and breaks off.
fn breaks_off(pieces: BoxStream<'static, SnapshotPiece>) -> Answers<SnapshotReceipt> {
    let progress = Progress::default().encode().into();
    let first = SnapshotReceipt { progress, ..SnapshotReceipt::default() };
    let broken = pieces.skip(1).take(1).map(|_| Err(lost("the connection broke")));
    futures::stream::iter([Ok(first)]).chain(broken).boxed()
}

#[tokio::test(start_paused = true)]
async fn a_sender_goes_on_with_its_snapshot_after_attempts_that_did_not_begin() {
    let (_dir, reader) = store_of(3);
    let vote = Vote::new_committed(3, 1);
    let away: Arc<dyn PeerApi> = Arc::new(Double::default());
    let there: Arc<dyn PeerApi> = Arc::new(Double { on_snapshot: Some(Box::new(breaks_off)), ..Double::default() });
    let (first, parked) = source(&reader);
    send(2, Arc::clone(&away), vote, first.clone()).await.unwrap_err();
    assert_eq!(parked.look(), None, "nobody has the beginning of it");
    send(2, there, vote, first.clone()).await.unwrap_err();
    let position = reader.durable().0;
    for _ in 0..3 {
        tokio::time::sleep(KEPT / 4).await;
        assert_eq!(parked.look().map(|(at, _)| at), Some(position));
        send(2, Arc::clone(&away), vote, first.clone()).await.unwrap_err();
    }
    assert!(parked.0.lock().is_some());
    // Without anybody who looks.
    tokio::time::sleep(KEPT / 4 + Duration::from_millis(10)).await;
    assert!(parked.0.lock().is_none(), "attempts do not make it younger");
}

#[tokio::test(start_paused = true)]
async fn an_import_that_nobody_goes_on_with_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let parked: Arc<ParkedImport> = Arc::default();
    let import = Receiving::begin(&dir.path().join("store.redb"), store::Options::default()).await.unwrap();
    park_import(&parked, Arc::clone(&parked).lock_owned().await, import);
    tokio::time::sleep(KEPT / 2).await;
    // Another attempt, which fails as well.
    let mut place = Arc::clone(&parked).lock_owned().await;
    let (import, _) = place.take().unwrap();
    park_import(&parked, place, import);
    tokio::time::sleep(KEPT / 2 + Duration::from_millis(10)).await;
    assert!(parked.lock().await.is_some(), "it is younger than that");
    tokio::time::sleep(KEPT / 2).await;
    assert!(parked.lock().await.is_none());
}
