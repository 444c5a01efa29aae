//! Lets a connection wait for the other answers that are ready before it writes.
//!
//! An answer wakes its connection, and the runtime runs what was woken last first: under load a connection would
//! write each answer by itself, and the write is most of what an answer costs. So while other calls of the connection
//! are open, its first write of a turn is put off until the tasks that are ready have run. A lone call is never delayed.

use std::sync::Arc;
use std::task::Context;

/// The calls of one connection: everything that is open holds a clone.
#[derive(Clone, Debug, Default)]
pub struct OpenCalls(Arc<()>);

impl OpenCalls {
    /// The connection and its front hold one each.
    const WITHOUT_CALLS: usize = 2;

    fn are_several(&self) -> bool {
        Arc::strong_count(&self.0) > Self::WITHOUT_CALLS + 1
    }
}

/// Where a connection is in its turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Turn {
    /// Nothing was written since the connection last read.
    #[default]
    Begun,
    /// The write was put off; the next one is not.
    PutOff,
    /// Writes pass until the connection reads again: one turn reads first, then writes everything.
    Writing,
}

/// Decides when a connection writes.
#[derive(Debug, Default)]
pub(super) struct Gather {
    calls: OpenCalls,
    turn: Turn,
}

impl Gather {
    pub(super) fn new(calls: OpenCalls) -> Self {
        Self { calls, turn: Turn::Begun }
    }

    /// The connection reads.
    pub(super) fn reads(&mut self) {
        if self.turn == Turn::Writing {
            self.turn = Turn::Begun;
        }
    }

    /// True if a write must wait; the connection is then polled again behind the tasks that are ready.
    pub(super) fn puts_off(&mut self, cx: &Context<'_>) -> bool {
        let waits = self.turn == Turn::Begun && self.calls.are_several();
        if waits {
            self.turn = Turn::PutOff;
            cx.waker().wake_by_ref();
        } else {
            self.turn = Turn::Writing;
        }
        waits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    #[test]
    fn one_write_of_a_turn_waits_while_several_calls_are_open() {
        let calls = OpenCalls::default();
        let front = calls.clone();
        let mut gather = Gather::new(calls);
        let cx = Context::from_waker(Waker::noop());
        let first = front.clone();
        assert!(!gather.puts_off(&cx), "one call");
        gather.reads();
        let second = front.clone();
        assert!(gather.puts_off(&cx));
        gather.reads();
        assert!(!gather.puts_off(&cx), "only once");
        assert!(!gather.puts_off(&cx), "all of the turn's writes pass");
        gather.reads();
        assert!(gather.puts_off(&cx), "another turn");
        drop((first, second));
        gather.reads();
        assert!(!gather.puts_off(&cx));
        gather.reads();
        assert!(!gather.puts_off(&cx), "no calls");
    }
}
