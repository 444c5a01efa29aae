//! The walk that removes compacted history, in steps short enough that nobody waits for one.

use super::state::{Shared, State};

/// A walk through the index. Owned by the flush.
#[derive(Default)]
pub(crate) struct Walk {
    /// Of the state that this is about.
    generation: u64,
    /// The revision being compacted to, and the last key visited.
    current: Option<(i64, Box<[u8]>)>,
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

    /// Visits up to `keys` keys. Returns false when there is nothing to do.
    pub(crate) fn step(&mut self, shared: &Shared, keys: usize) -> bool {
        let _history = shared.history.lock();
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
