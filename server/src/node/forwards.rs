//! Batches that this member forwarded to the leader and whose outcomes it waits for.
//!
//! The leader answers a forwarded batch with no more than where it was committed. This member finds the outcomes when it
//! applies the entry itself, by the origin that travels in the batch, so that the state behind an answer is here when
//! the client reads it.
//!
//! An entry of a later term ends the wait: what an earlier leader took and did not commit by then is lost, or its fate
//! is not known any more.

use crate::raft::types::Outcomes;
use crate::sync::watch;
use api::cleatpb::Origin;
use api::error::Error;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Batches that wait. More are refused: each stands for up to a thousand commands.
const WAITING: usize = 4096;

type Answer = Result<Outcomes, Error>;

struct Waiting {
    /// Term of the leader it was sent to.
    term: u64,
    answer: oneshot::Sender<Answer>,
}

/// See the module. Shared by the node and the state machine.
pub(crate) struct Forwards {
    member_id: u64,
    run: u64,
    state: Mutex<State>,
    /// Index of the last applied entry, counted from 1.
    applied: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    sequence: u64,
    /// Term of the last applied entry.
    term: u64,
    waiting: BTreeMap<u64, Waiting>,
}

/// A place among those who wait; given up when dropped.
pub(crate) struct Place {
    forwards: Arc<Forwards>,
    sequence: u64,
    outcomes: oneshot::Receiver<Answer>,
}

impl Forwards {
    /// `run` tells this start of the member from earlier ones, whose entries may still come.
    pub(crate) fn new(member_id: u64, run: u64, applied: u64) -> Self {
        Self { member_id, run, state: Mutex::default(), applied: watch::Sender::new(applied) }
    }

    /// A new origin for a batch.
    pub(crate) fn origin(&self) -> Origin {
        let mut state = self.state.lock();
        state.sequence += 1;
        Origin { member_id: self.member_id, run: self.run, sequence: state.sequence }
    }

    /// Begins to wait for a batch that is sent to the leader of `term`.
    ///
    /// # Errors
    /// Too many wait.
    pub(crate) fn register(self: &Arc<Self>, origin: Origin, term: u64) -> Result<Place, Error> {
        let mut state = self.state.lock();
        if state.waiting.len() >= WAITING {
            return Err(Error::TooManyRequests);
        }
        let (answer, outcomes) = oneshot::channel();
        let term = term.max(state.term);
        state.waiting.insert(origin.sequence, Waiting { term, answer });
        Ok(Place { forwards: Arc::clone(self), sequence: origin.sequence, outcomes })
    }

    /// Tells who waits for the batch with this origin, if it is one of this member's.
    pub(crate) fn complete(&self, origin: Option<&Origin>, outcomes: Outcomes) {
        let Some(origin) = origin.filter(|o| o.member_id == self.member_id && o.run == self.run) else { return };
        if let Some(waiting) = self.state.lock().waiting.remove(&origin.sequence) {
            // The proposer may have stopped waiting.
            drop(waiting.answer.send(Ok(outcomes)));
        }
    }

    /// Ends the waits for leaders before `term`, whose first entry is applied now.
    pub(crate) fn enter_term(&self, term: u64) {
        let mut state = self.state.lock();
        if state.term >= term {
            return;
        }
        state.term = term;
        let is_over = |_: &u64, waiting: &mut Waiting| waiting.term < term;
        let over: Vec<Waiting> = state.waiting.extract_if(.., is_over).map(|(_, waiting)| waiting).collect();
        drop(state);
        for waiting in over {
            drop(waiting.answer.send(Err(Error::TimeoutLeaderLost)));
        }
    }

    /// Ends all waits: the entries were skipped, because a snapshot took their place.
    pub(crate) fn skip(&self) {
        let waiting = std::mem::take(&mut self.state.lock().waiting);
        for waiting in waiting.into_values() {
            drop(waiting.answer.send(Err(Error::TimeoutLeaderLost)));
        }
    }

    /// Publishes how far the log is applied.
    pub(crate) fn set_applied(&self, index: u64) {
        self.applied.send_if_modified(|before| std::mem::replace(before, index) != index);
    }

    /// Waits until the entry with this index, counted from 1, is applied. False when the member stops first. The caller
    /// bounds the wait.
    pub(crate) async fn wait_applied(&self, index: u64) -> bool {
        // Usually it is.
        if *self.applied.borrow() >= index {
            return true;
        }
        self.applied.subscribe().wait_for(|applied| *applied >= index).await.is_ok()
    }
}

impl Place {
    /// Waits for the outcomes. The caller bounds the wait.
    pub(crate) async fn outcomes(&mut self) -> Answer {
        (&mut self.outcomes).await.unwrap_or(Err(Error::Stopped))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.forwards.state.lock().waiting.remove(&self.sequence);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use store::{Outcome, Reply};

    fn outcomes(revision: i64) -> Outcomes {
        Outcomes { outcomes: vec![Outcome { revision, result: Ok(Reply::Nothing) }], ..Default::default() }
    }

    #[tokio::test]
    async fn outcomes_find_who_waits() {
        let forwards = Arc::new(Forwards::new(7, 1, 0));
        let (first, second) = (forwards.origin(), forwards.origin());
        let mut a = forwards.register(first, 3).unwrap();
        let mut b = forwards.register(second, 3).unwrap();
        forwards.complete(Some(&Origin { run: 2, ..second }), outcomes(8));
        forwards.complete(Some(&Origin { member_id: 8, ..second }), outcomes(8));
        forwards.complete(None, outcomes(8));
        forwards.complete(Some(&second), outcomes(9));
        assert_eq!(b.outcomes().await.unwrap().outcomes[0].revision, 9);
        forwards.enter_term(3);
        forwards.complete(Some(&first), outcomes(10));
        assert_eq!(a.outcomes().await.unwrap().outcomes[0].revision, 10);
        drop((a, b));
        assert!(forwards.state.lock().waiting.is_empty());
    }

    #[tokio::test]
    async fn a_later_term_ends_the_wait() {
        let forwards = Arc::new(Forwards::new(7, 1, 0));
        let mut old = forwards.register(forwards.origin(), 3).unwrap();
        let mut new = forwards.register(forwards.origin(), 4).unwrap();
        forwards.enter_term(4);
        assert_eq!(old.outcomes().await.err(), Some(Error::TimeoutLeaderLost));
        // Sent to a leader of a term that this member did not know yet.
        let mut late = forwards.register(forwards.origin(), 2).unwrap();
        forwards.enter_term(4);
        forwards.skip();
        assert_eq!(late.outcomes().await.err(), Some(Error::TimeoutLeaderLost));
        assert_eq!(new.outcomes().await.err(), Some(Error::TimeoutLeaderLost));
    }

    #[test]
    fn who_waits_is_bounded() {
        let forwards = Arc::new(Forwards::new(7, 1, 0));
        let places: Vec<_> = (0..WAITING).map(|_| forwards.register(forwards.origin(), 1).unwrap()).collect();
        assert_eq!(forwards.register(forwards.origin(), 1).err(), Some(Error::TooManyRequests));
        drop(places);
        assert!(forwards.register(forwards.origin(), 1).is_ok());
    }

    #[tokio::test]
    async fn applied_entries_are_waited_for() {
        let forwards = Arc::new(Forwards::new(7, 1, 4));
        assert!(forwards.wait_applied(4).await);
        let waiting = Arc::clone(&forwards);
        let waiter = tokio::spawn(async move { waiting.wait_applied(6).await });
        forwards.set_applied(5);
        forwards.set_applied(6);
        assert!(waiter.await.unwrap());
    }
}
