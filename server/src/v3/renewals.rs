//! Renewals of leases on their way to a leader that is another member.
//!
//! Ten thousand clients may keep their leases alive through one member, and each has one renewal under way at most. What
//! comes while the leader is being asked is the next question: a few questions at a time, of many leases each, in the place
//! of one for each client. So no number of clients makes the leader refuse one.

use crate::node::{Node, peer_failure};
use api::cleatpb::LeaseRenewRequest;
use api::error::Error;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::{Semaphore, oneshot};

/// Leases in one question. The leader looks each of them up under a lock that is short.
const LEASES_ASKED: usize = 1000;

/// Questions at a time: one more than what a leader that answers slowly needs.
const ASKED_AT_ONCE: usize = 4;

/// Questions about one lease that the leader has to wait for, at a time. Others wait here, and the leader is never asked
/// for more than it takes.
const ASKED_ALONE: usize = 64;

/// Renewals that wait. More are refused: a member has not as many connections.
const WAITING: usize = 1 << 20;

/// The answer about a lease that the leader would have had to wait for.
pub(crate) const UNDER_WAY: i64 = -1;

/// See the module. Clones share everything.
#[derive(Clone)]
pub(crate) struct Renewals {
    node: Node,
    state: Arc<Mutex<State>>,
    alone: Arc<Semaphore>,
}

type Answer = Result<i64, Error>;

#[derive(Default)]
struct State {
    waiting: VecDeque<(i64, oneshot::Sender<Answer>)>,
    /// Tasks that ask.
    asking: usize,
}

impl Renewals {
    pub(crate) fn new(node: Node) -> Self {
        Self { node, state: Arc::default(), alone: Arc::new(Semaphore::new(ASKED_ALONE)) }
    }

    /// Renews a lease at the leader, and returns its time to live; 0 if it is gone.
    ///
    /// # Errors
    /// What became of the question. It may be asked again.
    pub(crate) async fn renew(&self, id: i64) -> Answer {
        let (answer, answered) = oneshot::channel();
        let asks = {
            let mut state = self.state.lock();
            if state.waiting.len() >= WAITING {
                return Err(Error::TooManyRequests);
            }
            state.waiting.push_back((id, answer));
            let asks = state.asking < ASKED_AT_ONCE;
            state.asking += usize::from(asks);
            asks
        };
        if asks {
            let renewals = self.clone();
            // Detached on purpose: each question has a deadline, and the task ends when nothing waits.
            tokio::spawn(async move { while renewals.ask_next().await {} });
        }
        match answered.await.unwrap_or(Err(Error::Stopped))? {
            // By itself, so that nobody waits for it who need not.
            UNDER_WAY => {
                let _turn = self.alone.acquire().await.map_err(|_| Error::Stopped)?;
                Ok(self.ask(vec![id], true).await?.first().copied().unwrap_or(0))
            }
            ttl => Ok(ttl),
        }
    }

    /// Asks about what waits. False if nothing does; then the task is counted no more.
    async fn ask_next(&self) -> bool {
        let mut asked = Vec::new();
        {
            let mut state = self.state.lock();
            while asked.len() < LEASES_ASKED
                && let Some((id, answer)) = state.waiting.pop_front()
            {
                // Who has left renews nothing.
                if !answer.is_closed() {
                    asked.push((id, answer));
                }
            }
            if asked.is_empty() {
                state.asking -= 1;
                return false;
            }
        }
        let ids = asked.iter().map(|(id, _)| *id).collect();
        match self.ask(ids, false).await {
            Ok(ttls) => {
                for ((_, answer), ttl) in asked.into_iter().zip(ttls) {
                    answer.send(Ok(ttl)).ok();
                }
            }
            Err(error) => {
                for (_, answer) in asked {
                    answer.send(Err(error)).ok();
                }
            }
        }
        true
    }

    async fn ask(&self, ids: Vec<i64>, waits: bool) -> Result<Vec<i64>, Error> {
        let mut leader = self.node.watch_leader();
        leader.mark_unchanged();
        let peer = self.node.leading_peer()?;
        let asked_for = ids.len();
        let asked = async {
            tokio::select! {
                biased;
                answer = peer.lease_renew(LeaseRenewRequest { ids, waits }) => {
                    // One that says less is no leader that this member knows: a TTL of 0 would end a lease that lives.
                    let whole = answer.map_err(|error| peer_failure(&error))?;
                    if whole.ttls.len() == asked_for { Ok(whole.ttls) } else { Err(Error::LeaderChanged) }
                }
                // The one that was asked may never answer.
                _ = leader.changed() => Err(Error::LeaderChanged),
            }
        };
        tokio::time::timeout(self.node.limits().request_timeout, asked).await.unwrap_or(Err(Error::Timeout))
    }
}
