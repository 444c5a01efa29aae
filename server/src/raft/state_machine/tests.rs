//! Applying waits for a disk that does not keep up.

use super::*;
use crate::raft::types::Payload;
use api::cleatpb::Batch;
use api::etcdserverpb::PutRequest;

struct Nobody;

impl Observer for Nobody {
    fn applied(&self, _: &Applied, _: Duration) {}
    fn installed(&self, _: i64) {}
}

fn puts(indexes: std::ops::Range<u64>, value_bytes: usize) -> Vec<EntryResponder<TypeConfig>> {
    let entry = |index| {
        let put = PutRequest { key: "k".into(), value: vec![b'v'; value_bytes].into(), ..Default::default() };
        let commands = vec![Command { header: None, op: Some(Op::Put(put)) }];
        let payload = EntryContent::Normal(Payload::new(Batch { commands, origin: None }));
        (Entry { log_id: log_id(1, index), payload }, None)
    };
    indexes.map(entry).collect()
}

async fn apply(machine: &mut StateMachine, entries: Vec<EntryResponder<TypeConfig>>) -> io::Result<()> {
    machine.apply(futures::stream::iter(entries.into_iter().map(Ok))).await
}

#[tokio::test(start_paused = true)]
async fn what_is_applied_and_not_in_the_database_is_bounded() {
    const HELD: usize = 1 << 20;
    const VALUE: usize = 256 << 10;
    // Longer than any look at the room takes, while the clock stands still otherwise.
    const LONG: Duration = Duration::from_mins(1);
    let dir = tempfile::tempdir().unwrap();
    let (writer, mut flusher, reader) = store::open(&dir.path().join("db"), store::Options::default()).unwrap();
    let forwards = Arc::new(Forwards::new(1, 1, 0));
    let mut machine = StateMachine::new(writer, reader.clone(), Box::new(Nobody), forwards).holding_at(HELD);
    apply(&mut machine, puts(0..6, VALUE)).await.unwrap();
    assert!(reader.tail_bytes() > HELD);
    {
        // More than one batch by its bytes, and all of it has to wait.
        let mut applying = std::pin::pin!(apply(&mut machine, puts(6..100, VALUE)));
        assert!(tokio::time::timeout(LONG, &mut applying).await.is_err());
        assert_eq!(reader.applied().0.index, 6);
        flusher.flush().unwrap();
        assert!(tokio::time::timeout(LONG, &mut applying).await.is_err(), "one batch fills the room again");
        let applied = reader.applied().0.index;
        assert!((7..100).contains(&applied), "{applied}");
        assert!(reader.tail_bytes() < HELD + 2 * APPLY_BATCH_BYTES + APPLY_UNCOUNTED * VALUE);
        while tokio::time::timeout(LONG, &mut applying).await.is_err() {
            flusher.flush().unwrap();
        }
    }
    assert_eq!(reader.applied().0.index, 100);
}
