//! The walk that removes compacted history, in steps short enough that nobody waits for one.

use super::state::{Shared, State};

/// Steps that are left out one after the other while a hash of the history is made. Compactions under way end some day,
/// whoever asks for hashes all the time.
const SKIPPED_MAX: u32 = 10_000;

/// A walk through the index. Owned by the flush.
#[derive(Default)]
pub(crate) struct Walk {
    /// Of the state that this is about.
    generation: u64,
    /// The revision being compacted to, and the last key visited.
    current: Option<(i64, Box<[u8]>)>,
    /// Steps left out since the last one.
    skipped: u32,
    /// A walk that is done, once the flush has deleted what it dropped.
    pub(crate) done: Option<i64>,
}

impl Walk {
    /// Starts over when an installed snapshot has taken the state's place.
    pub(crate) fn follow(&mut self, state: &State) {
        if self.generation != state.generation {
            *self = Self { generation: state.generation, ..Self::default() };
        }
    }

    /// Visits up to `keys` keys, or none while a hash is made: that may take long, and who walks also flushes. Returns
    /// false when there is nothing to do.
    pub(crate) fn step(&mut self, shared: &Shared, keys: usize) -> bool {
        let free = shared.history.try_lock();
        if free.is_none() && self.skipped < SKIPPED_MAX {
            self.skipped += 1;
            return true;
        }
        let _history = free.unwrap_or_else(|| shared.history.lock());
        self.skipped = 0;
        let mut state = shared.state.write();
        self.follow(&state);
        let (target, cursor) = match self.current.take() {
            Some(current) => current,
            None if state.compacted > state.compaction_finished.max(self.done.unwrap_or(-1)) => {
                (state.compacted, Box::default())
            }
            None => return false,
        };
        let (dropped, next) = state.index.compact(target, &cursor, keys);
        state.dropped.extend(dropped);
        match next {
            Some(cursor) => self.current = Some((target, cursor)),
            None => self.done = Some(target),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::SKIPPED_MAX;
    use crate::command::{Entry, Position};
    use crate::open::from_database;
    use crate::{Flusher, Options, Writer};
    use api::cleatpb::Command;
    use api::cleatpb::command::Op;
    use api::etcdserverpb::{CompactionRequest, PutRequest};
    use redb::Database;
    use redb::backends::InMemoryBackend;
    use std::path::Path;
    use std::sync::Arc;

    #[test]
    fn a_step_does_not_wait_for_a_hash() {
        let database = Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
        let shared = Arc::new(from_database(database, Path::new("memory"), Options::default()).unwrap());
        let (mut writer, mut flusher) = (Writer { shared: Arc::clone(&shared) }, Flusher::new(Arc::clone(&shared)));
        let put = || Op::Put(PutRequest { key: "a".into(), ..Default::default() });
        let ops = [put(), put(), Op::Compaction(CompactionRequest { revision: 3, physical: false })];
        for (index, op) in (1..).zip(ops) {
            let commands = [Command { header: None, op: Some(op) }];
            let position = Position { term: 1, index };
            writer.apply([Entry { position, commands: &commands, membership: None }]).unwrap();
        }
        let hashing = shared.history.lock();
        for _ in 0..SKIPPED_MAX {
            assert!(flusher.compact_step(10), "it is still to be done");
        }
        // What else the same thread does goes on.
        assert_eq!(flusher.flush().unwrap().compaction_finished, None);
        drop(hashing);
        while flusher.compact_step(10) {}
        assert_eq!(flusher.flush().unwrap().compaction_finished, Some(3));
    }
}
