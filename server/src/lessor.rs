//! When leases expire: the clock that only the leader runs.
//!
//! The store knows which leases exist ([`store::Reader::leases`]); this knows, while this member leads, until when
//! each of them lives. The state machine tells it of grants and revocations ([`Lessor::observe`]), keepalives push an
//! expiry forward in memory ([`Lessor::renew`]), and [`Lessor::run`] proposes the revocation of what has expired.
//! Nothing expires but by an applied revocation, so every member agrees on which keys are gone.
//!
//! A new leader does not know the keepalives that the old one answered, so [`Lessor::promote`] gives every lease its
//! full time again, or the rest of it that was checkpointed, and spreads what would expire at once.
//!
//! Order of locks: [`Lessor::promote`] reads the store under the lessor's lock. The state machine must not hold the
//! store's lock when it calls [`Lessor::observe`].

use crate::steady_clock::SteadyClock;
use api::cleatpb::command::Op;
use api::error::Error;
use api::etcdserverpb::{LeaseCheckpoint, LeaseCheckpointRequest, LeaseRevokeRequest};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use store::{Lease, Notice, Outcome};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Revocations proposed a second. Each is a log entry that may delete many keys.
const REVOKES_PER_SECOND: u32 = 1000;

/// Revocations that may follow each other without a pause.
const REVOKES_AT_ONCE: u32 = 100;

/// Proposals under way.
const IN_FLIGHT: usize = 16;

/// After how long a failed proposal is tried again.
const RETRY: Duration = Duration::from_secs(3);

/// How often the remaining time of a long lease is written down.
const CHECKPOINT_INTERVAL: Duration = Duration::from_mins(5);

/// Leases in one checkpoint entry.
const CHECKPOINTS_IN_ENTRY: usize = 1000;

/// Leases that may expire in a second after a promotion: below the rate of revocations, so that others are not held up.
const SMOOTH_PER_SECOND: usize = 750;

/// How the lessor proposes a command as the leader of a term, and of no other: what a leader finds that was deposed while
/// it slept must not reach the log of the next one, who may have renewed the lease.
pub(crate) type Propose = Box<dyn Fn(Op, u64) -> BoxFuture<'static, Result<Outcome, Error>> + Send + Sync>;

/// The life of one lease.
struct Clock {
    ttl: i64,
    /// Checkpointed rest, 0 when a new leader should start from the full time. Not 0 either when that is not known.
    remaining_ttl: i64,
    /// A checkpoint is under way, so `remaining_ttl` is about to change. Renewals wait.
    is_checkpointing: bool,
    expiry: Instant,
    /// When the remaining time is next written down.
    checkpoint: Instant,
    /// The one entry of `State::due` that counts for this lease.
    scheduled: Instant,
}

#[derive(Default)]
struct State {
    /// The term in which this member leads.
    leading: Option<u64>,
    leases: HashMap<i64, Clock>,
    /// When to look at a lease again: never later than it has to be, often earlier, because a keepalive only moves
    /// `Clock::expiry`.
    due: BinaryHeap<Reverse<(Instant, i64)>>,
}

/// What became of a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Renewal {
    /// The lease has so many seconds again.
    Done(i64),
    /// A checkpoint has to be undone first.
    Checkpointed,
    /// Its revocation or a checkpoint is under way.
    UnderWay,
}

/// What the clock has found to do.
#[derive(Debug, Default, PartialEq)]
struct Step {
    expired: Vec<i64>,
    checkpoints: Vec<LeaseCheckpoint>,
    /// When there will be more to do.
    wake: Option<Instant>,
}

/// See the module.
pub(crate) struct Lessor {
    state: Mutex<State>,
    clock: SteadyClock,
    election_timeout: Duration,
    /// The clock has to look again.
    rescheduled: Notify,
    /// A lease is gone, a checkpoint has ended, or leadership changed.
    settled: Notify,
    stats: LessorStats,
}

/// Counts since the start, for the metrics.
#[derive(Default)]
pub(crate) struct LessorStats {
    renewed: AtomicU64,
    expired: AtomicU64,
}

impl LessorStats {
    /// Keepalives that gave a lease its full time again.
    pub(crate) fn renewed(&self) -> u64 {
        self.renewed.load(Ordering::Relaxed)
    }

    /// Leases that expired and were revoked for it.
    pub(crate) fn expired(&self) -> u64 {
        self.expired.load(Ordering::Relaxed)
    }
}

fn seconds(ttl: i64) -> Duration {
    Duration::from_secs(ttl.max(0) as u64)
}

impl Clock {
    fn new(ttl: i64, remaining_ttl: i64, expiry: Instant, now: Instant) -> Self {
        let checkpoint = now + CHECKPOINT_INTERVAL;
        Self { ttl, remaining_ttl, is_checkpointing: false, expiry, checkpoint, scheduled: now }
    }

    fn next_look(&self) -> Instant {
        self.expiry.min(self.checkpoint)
    }
}

impl State {
    fn schedule(&mut self, id: i64, at: Instant) {
        if let Some(clock) = self.leases.get_mut(&id) {
            clock.scheduled = at;
            self.due.push(Reverse((at, id)));
        }
    }

    /// Takes what is due, at most `revokes` expired leases.
    fn step(&mut self, now: Instant, revokes: usize) -> Step {
        let mut step = Step::default();
        while let Some(Reverse((at, id))) = self.due.peek().copied() {
            if at > now || step.expired.len() >= revokes || step.checkpoints.len() >= CHECKPOINTS_IN_ENTRY {
                step.wake = Some(at);
                break;
            }
            self.due.pop();
            let Some(clock) = self.leases.get_mut(&id).filter(|clock| clock.scheduled == at) else { continue };
            if clock.expiry <= now {
                // Not scheduled again: the revocation's outcome does that.
                step.expired.push(id);
                continue;
            }
            if clock.checkpoint <= now {
                let left = (clock.expiry - now).as_secs() as i64;
                if left < clock.ttl {
                    step.checkpoints.push(LeaseCheckpoint { id, remaining_ttl: left.max(1) });
                    clock.is_checkpointing = true;
                }
                clock.checkpoint = now + CHECKPOINT_INTERVAL;
            }
            let next = clock.next_look();
            self.schedule(id, next);
        }
        step
    }
}

/// Delays expiries so that no more than the smooth rate fall into any second.
fn smooth(expiries: &mut [(Instant, i64)]) {
    expiries.sort_unstable();
    for at in SMOOTH_PER_SECOND..expiries.len() {
        let earliest = expiries[at - SMOOTH_PER_SECOND].0 + Duration::from_secs(1);
        expiries[at].0 = expiries[at].0.max(earliest);
    }
}

impl Lessor {
    /// A lessor that does not lead yet.
    pub(crate) fn new(election_timeout: Duration, clock: SteadyClock) -> Self {
        let (rescheduled, settled, stats) = (Notify::new(), Notify::new(), LessorStats::default());
        Self { state: Mutex::default(), clock, election_timeout, rescheduled, settled, stats }
    }

    pub(crate) fn stats(&self) -> &LessorStats {
        &self.stats
    }

    /// The shortest time to live that is granted, seconds: a new leader must be found before a lease expires.
    pub(crate) fn minimum_ttl(&self) -> i64 {
        self.election_timeout.mul_f64(1.5).as_secs_f64().ceil() as i64
    }

    /// Begins to lead in a term. `leases` reads the store's leases; it is called under the lessor's lock, so that no grant or
    /// revocation falls between.
    pub(crate) fn promote(&self, term: u64, leases: impl FnOnce() -> Vec<(i64, Lease)>) {
        let now = self.clock.now();
        let mut state = self.state.lock();
        let leases: HashMap<i64, Lease> = leases().into_iter().collect();
        let rest = |lease: &Lease| if lease.remaining_ttl > 0 { lease.remaining_ttl } else { lease.ttl };
        let mut expiries: Vec<(Instant, i64)> =
            leases.iter().map(|(id, lease)| (now + seconds(rest(lease)) + self.election_timeout, *id)).collect();
        smooth(&mut expiries);
        *state = State { leading: Some(term), ..State::default() };
        for (expiry, id) in expiries {
            let lease = &leases[&id];
            let clock = Clock::new(lease.ttl, lease.remaining_ttl, expiry, now);
            let at = clock.next_look();
            state.leases.insert(id, clock);
            state.schedule(id, at);
        }
        drop(state);
        self.rescheduled.notify_one();
        self.settled.notify_waiters();
    }

    /// Ceases to lead: forgets everything.
    pub(crate) fn demote(&self) {
        *self.state.lock() = State::default();
        self.settled.notify_waiters();
    }

    /// Follows what was applied. Called by the state machine, on every member; does not wait.
    pub(crate) fn observe(&self, notices: &[Notice]) {
        if notices.is_empty() {
            return;
        }
        let mut state = self.state.lock();
        if state.leading.is_none() {
            return;
        }
        let (mut sooner, mut gone) = (false, false);
        for notice in notices {
            match *notice {
                Notice::LeaseGranted { id, ttl } => {
                    let now = self.clock.now();
                    let clock = Clock::new(ttl, 0, now + seconds(ttl), now);
                    let at = clock.next_look();
                    sooner |= state.due.peek().is_none_or(|Reverse((first, _))| at < *first);
                    state.leases.insert(id, clock);
                    state.schedule(id, at);
                }
                Notice::LeaseRevoked { id } => gone |= state.leases.remove(&id).is_some(),
                Notice::LeaseCheckpointed { id, remaining_ttl } => {
                    if let Some(clock) = state.leases.get_mut(&id) {
                        clock.remaining_ttl = remaining_ttl;
                    }
                }
                _ => {}
            }
        }
        drop(state);
        if sooner {
            self.rescheduled.notify_one();
        }
        if gone {
            self.settled.notify_waiters();
        }
    }

    /// Gives a lease its full time again, and returns that time in seconds. The caller has made sure that this member
    /// still leads in `term`. A revocation or a checkpoint of the lease that is under way is waited for: the caller bounds
    /// the wait.
    ///
    /// # Errors
    /// [`Error::LeaseNotFound`]; [`Error::NotLeader`]; what the proposal says that undoes a checkpoint.
    pub(crate) async fn renew(&self, id: i64, term: u64, propose: &Propose) -> Result<i64, Error> {
        loop {
            let mut settled = std::pin::pin!(self.settled.notified());
            settled.as_mut().enable();
            match self.renew_at_once(id, term)? {
                Renewal::Done(ttl) => return Ok(ttl),
                Renewal::Checkpointed => {
                    // Else a new leader would give the lease only the rest, while the client counts on the whole.
                    // The clock learns of it when it is applied: another one may have followed before the answer.
                    let outcome = propose(checkpoint(vec![LeaseCheckpoint { id, remaining_ttl: 0 }]), term).await?;
                    outcome.result?;
                }
                Renewal::UnderWay => settled.await,
            }
        }
    }

    /// As [`Self::renew`], if nothing has to be waited for.
    ///
    /// # Errors
    /// [`Error::LeaseNotFound`]; [`Error::NotLeader`].
    pub(crate) fn renew_at_once(&self, id: i64, term: u64) -> Result<Renewal, Error> {
        let mut state = self.state.lock();
        if state.leading != Some(term) {
            return Err(Error::NotLeader);
        }
        let now = self.clock.now();
        let Some(clock) = state.leases.get_mut(&id) else { return Err(Error::LeaseNotFound) };
        if clock.expiry <= now || clock.is_checkpointing {
            return Ok(Renewal::UnderWay);
        }
        if clock.remaining_ttl != 0 {
            return Ok(Renewal::Checkpointed);
        }
        clock.expiry = now + seconds(clock.ttl);
        self.stats.renewed.fetch_add(1, Ordering::Relaxed);
        Ok(Renewal::Done(clock.ttl))
    }

    /// Waits until this member's lessor leads, and returns in which term. Cancellation safe; the caller bounds the wait.
    pub(crate) async fn promoted(&self) -> u64 {
        loop {
            let mut settled = std::pin::pin!(self.settled.notified());
            settled.as_mut().enable();
            if let Some(term) = self.state.lock().leading {
                return term;
            }
            settled.await;
        }
    }

    /// The granted and the remaining time of a lease in seconds; none when it does not exist or has expired.
    ///
    /// # Errors
    /// [`Error::NotLeader`].
    pub(crate) fn remaining(&self, id: i64, term: u64) -> Result<Option<(i64, i64)>, Error> {
        let state = self.state.lock();
        if state.leading != Some(term) {
            return Err(Error::NotLeader);
        }
        let now = self.clock.now();
        let alive = state.leases.get(&id).filter(|clock| clock.expiry > now);
        Ok(alive.map(|clock| (clock.ttl, (clock.expiry - now).as_secs() as i64)))
    }

    /// The leases by expiry, the next to expire first; none when this member does not lead.
    pub(crate) fn by_expiry(&self) -> Option<Vec<i64>> {
        let mut leases: Vec<(Instant, i64)> = {
            let state = self.state.lock();
            state.leading.map(|_| state.leases.iter().map(|(id, clock)| (clock.expiry, *id)).collect())?
        };
        leases.sort_unstable();
        Some(leases.into_iter().map(|(_, id)| id).collect())
    }

    /// Looks at a lease again after its revocation failed. One that is gone was forgotten when that was applied, which
    /// is before the answer: what has its id now was granted since, and lives.
    fn revocation_ended(&self, id: i64, outcome: Result<Outcome, Error>) {
        let outcome = outcome.and_then(|outcome| outcome.result);
        self.stats.expired.fetch_add(u64::from(outcome.is_ok()), Ordering::Relaxed);
        let Err(error) = outcome else { return };
        if error != Error::LeaseNotFound {
            tracing::warn!(lease_id = format_args!("{id:x}"), %error, "cannot revoke an expired lease, will retry");
        }
        let now = self.clock.now();
        let mut state = self.state.lock();
        // One that has not expired is scheduled already.
        if state.leases.get(&id).is_some_and(|clock| clock.expiry <= now) {
            state.schedule(id, now + RETRY);
        }
    }

    /// Revokes what expires and writes checkpoints, while this member leads. Ends at `stop`.
    pub(crate) async fn run(&self, propose: Propose, stop: CancellationToken) {
        let mut under_way: FuturesUnordered<BoxFuture<'static, Ended>> = FuturesUnordered::new();
        let mut allowance = Allowance::new(self.clock.now());
        loop {
            let room = IN_FLIGHT - under_way.len().min(IN_FLIGHT);
            if room > 0 {
                let now = self.clock.now();
                let (term, step) = {
                    let mut state = self.state.lock();
                    let step = state.step(now, room.min(allowance.at(now)));
                    // Without a term there are no leases.
                    (state.leading.unwrap_or_default(), step)
                };
                allowance.take(step.expired.len());
                for id in step.expired {
                    // The store knows a lease by its id alone. Who revokes it and grants the id again while this is on
                    // its way to raft's task, a matter of microseconds, finds the new lease revoked: it ends too early
                    // once, as if its clock were slow, and on all members alike.
                    let revoked = propose(Op::LeaseRevoke(LeaseRevokeRequest { id }), term);
                    under_way.push(Box::pin(async move { Ended::Revocation(id, revoked.await) }));
                }
                if !step.checkpoints.is_empty() {
                    let written = propose(checkpoint(step.checkpoints.clone()), term);
                    let ended = async move { Ended::Checkpoint(term, step.checkpoints, written.await.map(drop)) };
                    under_way.push(Box::pin(ended));
                }
                if step.wake.is_some_and(|wake| wake <= now) && under_way.len() < IN_FLIGHT {
                    // Something is due that the allowance does not cover yet.
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(Allowance::REFILL) => {}
                        Some(ended) = under_way.next() => self.end(ended),
                    }
                    continue;
                }
                let far = now + CHECKPOINT_INTERVAL;
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    () = self.clock.sleep_until(step.wake.unwrap_or(far).min(far)), if under_way.len() < IN_FLIGHT => {}
                    () = self.rescheduled.notified() => {}
                    Some(ended) = under_way.next() => self.end(ended),
                }
            } else {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    Some(ended) = under_way.next() => self.end(ended),
                }
            }
        }
    }

    fn end(&self, ended: Ended) {
        match ended {
            Ended::Revocation(id, outcome) => self.revocation_ended(id, outcome),
            Ended::Checkpoint(term, checkpoints, written) => self.checkpoint_ended(term, &checkpoints, written),
        }
    }

    /// Lets renewals go on. After a failure the checkpoint may be applied all the same, so they have to undo it.
    fn checkpoint_ended(&self, term: u64, checkpoints: &[LeaseCheckpoint], written: Result<(), Error>) {
        let mut state = self.state.lock();
        // The clocks of a later term know nothing of it.
        if state.leading == Some(term) {
            for LeaseCheckpoint { id, remaining_ttl } in checkpoints {
                let Some(clock) = state.leases.get_mut(id) else { continue };
                clock.is_checkpointing = false;
                if written.is_err() {
                    clock.remaining_ttl = *remaining_ttl;
                }
            }
        }
        drop(state);
        self.settled.notify_waiters();
        if let Err(error) = written {
            // The next interval writes a newer one.
            tracing::warn!(%error, "cannot checkpoint leases");
        }
    }
}

/// A proposal of the clock that has ended.
enum Ended {
    Revocation(i64, Result<Outcome, Error>),
    Checkpoint(u64, Vec<LeaseCheckpoint>, Result<(), Error>),
}

fn checkpoint(checkpoints: Vec<LeaseCheckpoint>) -> Op {
    Op::LeaseCheckpoint(LeaseCheckpointRequest { checkpoints })
}

/// How many revocations may be proposed now.
struct Allowance {
    left: f64,
    since: Instant,
}

impl Allowance {
    /// How long to wait when nothing is left.
    const REFILL: Duration = Duration::from_millis(20);

    fn new(now: Instant) -> Self {
        Self { left: f64::from(REVOKES_AT_ONCE), since: now }
    }

    fn at(&mut self, now: Instant) -> usize {
        let gained = now.duration_since(self.since).as_secs_f64() * f64::from(REVOKES_PER_SECOND);
        self.left = (self.left + gained).min(f64::from(REVOKES_AT_ONCE));
        self.since = now;
        self.left as usize
    }

    fn take(&mut self, revokes: usize) {
        self.left -= revokes as f64;
    }
}

#[cfg(test)]
mod tests;
