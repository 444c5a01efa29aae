//! What clients do, and the run that starts, measures and ends them.
//!
//! A [`Run`] has groups of clients; a group's [`Traffic`] prepares each client (connections, watchers, leases) and gives
//! the future that is the client's loop. [`run::execute`] owns the threads and the phases. The clients share a
//! [`Context`]: pace, recorder, stage and deadline. Every wait of a client ends with the run.

pub(crate) mod http;
pub(crate) mod keys;
pub(crate) mod lease;
pub(crate) mod mixed;
pub(crate) mod polls;
pub(crate) mod put;
pub(crate) mod range;
pub(crate) mod run;
pub(crate) mod txn;
pub(crate) mod unary;
pub(crate) mod watch;

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::watch as signal;
use tokio::time::{Instant, Sleep};

use crate::connection::{CallError, Connection, Endpoint};
use crate::http1;
use crate::measure::Recorder;

/// The loop of a prepared client; it ends when the run does, or when its connection is lost.
pub(crate) type ClientLoop = BoxFuture<'static, ()>;

/// What the clients of a group do, over connections of one kind.
pub(crate) trait Traffic<C = Connection>: Send + Sync {
    /// Prepares one client and returns its loop, which is started when all clients are prepared.
    fn prepare(&self, client: Client<C>) -> BoxFuture<'static, Result<ClientLoop, CallError>>;

    /// Whether the loops only end when they are dropped (watchers), so that nobody waits for them.
    fn is_passive(&self) -> bool {
        false
    }
}

/// What the clients of a group do, by what they speak.
pub(crate) enum Load {
    /// gRPC; clients share connections.
    Grpc(Arc<dyn Traffic>),
    /// HTTP/1.1; each client has a connection of its own.
    Http(Arc<dyn Traffic<http1::Connection>>),
}

impl Load {
    /// See [`Traffic::is_passive`].
    pub(crate) fn is_passive(&self) -> bool {
        match self {
            Self::Grpc(traffic) => traffic.is_passive(),
            Self::Http(traffic) => traffic.is_passive(),
        }
    }
}

/// A group of clients that do the same.
pub(crate) struct Group {
    /// The row's name in the table.
    pub(crate) name: String,
    /// What is counted, such as `put`.
    pub(crate) unit: &'static str,
    /// Connections that the clients share.
    pub(crate) connections: usize,
    /// Concurrent clients, each with one call at a time.
    pub(crate) clients: usize,
    /// Calls a second of all clients together; without it every client calls as fast as it can.
    pub(crate) rate: Option<f64>,
    /// Whether the operations count for CPU and bytes per operation.
    pub(crate) is_counted: bool,
    /// What the clients do.
    pub(crate) traffic: Load,
}

/// One measured run against one cluster.
pub(crate) struct Run {
    /// Where the connections go, in turn.
    pub(crate) endpoints: Vec<Endpoint>,
    /// Worker threads; each has its own runtime and connections.
    pub(crate) threads: usize,
    /// When a call counts as failed.
    pub(crate) deadline: Duration,
    /// The server's processes, when they run on this machine.
    pub(crate) server_pids: Vec<u32>,
    /// When the run ends.
    pub(crate) length: Length,
    /// The clients.
    pub(crate) groups: Vec<Group>,
}

/// When a run ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Length {
    /// After a warm-up that is not measured and a measured time.
    Time {
        /// Not measured.
        warmup: Duration,
        /// Measured.
        measured: Duration,
    },
    /// After so many calls of each group, all measured.
    Total(u64),
}

/// Where a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Stage {
    /// Clients call, nothing is recorded.
    Warmup = 0,
    /// Clients call and record.
    Measured = 1,
    /// Clients end after the call they are in.
    Over = 2,
}

/// The stage of a run, read by every client before and after each call.
pub(crate) struct StageCell(AtomicU8);

impl StageCell {
    pub(crate) fn new() -> Self {
        Self(AtomicU8::new(Stage::Warmup as u8))
    }

    pub(crate) fn set(&self, stage: Stage) {
        self.0.store(stage as u8, Ordering::Release);
    }

    pub(crate) fn is(&self, stage: Stage) -> bool {
        self.0.load(Ordering::Acquire) == stage as u8
    }
}

/// Hands out the calls of a group: their number, and when they should start.
pub(crate) struct Pace {
    next: AtomicU64,
    total: Option<u64>,
    interval: Option<Duration>,
    begin: OnceLock<Instant>,
}

impl Pace {
    pub(crate) fn new(total: Option<u64>, rate: Option<f64>) -> Self {
        let interval = rate.map(|rate| Duration::from_secs_f64(1.0 / rate));
        Self { next: AtomicU64::new(0), total, interval, begin: OnceLock::new() }
    }

    /// Whether calls have a moment when they are due.
    pub(crate) fn is_paced(&self) -> bool {
        self.interval.is_some()
    }

    /// Calls taken so far, for the progress bar.
    pub(crate) fn taken(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// Takes the next call: its number and, with a rate, the moment it is due; `None` when all are handed out.
    fn take(&self) -> Option<(u64, Option<Instant>)> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        if self.total.is_some_and(|total| number >= total) {
            return None;
        }
        let due = self.interval.map(|interval| *self.begin.get_or_init(Instant::now) + interval.mul_f64(number as f64));
        Some((number, due))
    }
}

/// What the clients of one group on one worker thread share.
pub(crate) struct Context {
    /// Shared with the group's clients on other threads.
    pub(crate) pace: Arc<Pace>,
    /// Of this thread only.
    pub(crate) recorder: Arc<Recorder>,
    /// Shared with the whole run.
    pub(crate) stage: Arc<StageCell>,
    /// Turns true when the run is over.
    pub(crate) over: signal::Receiver<bool>,
    /// When a call counts as failed.
    pub(crate) deadline: Duration,
}

impl Context {
    /// Waits for the client's turn and returns the call's number and the moment from which its latency counts; `None`
    /// when the run is over.
    ///
    /// With a rate, a call that starts late because the client was still busy counts from the moment it was due: the
    /// server's slowness is not hidden by fewer calls. A client that was free counts from its own start, so that the
    /// millisecond of the timer's resolution is not taken for the server's.
    pub(crate) async fn turn(&self) -> Option<(u64, Instant)> {
        if self.stage.is(Stage::Over) {
            return None;
        }
        let (number, due) = self.pace.take()?;
        let now = Instant::now();
        match due {
            Some(due) if due > now => {
                self.unless_over(tokio::time::sleep_until(due)).await?;
                Some((number, Instant::now()))
            }
            Some(due) => Some((number, due)),
            None => Some((number, now)),
        }
    }

    /// Waits for `future`, or returns `None` when the run is over before.
    pub(crate) async fn unless_over<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        let mut over = self.over.clone();
        tokio::select! {
            value = future => Some(value),
            _ = over.wait_for(|over| *over) => None,
        }
    }

    /// Records the outcome of `count` operations in the measured stage; false when the client cannot go on.
    pub(crate) async fn record<T>(&self, outcome: Result<T, CallError>, start: Instant, count: u64) -> bool {
        let is_measured = self.stage.is(Stage::Measured);
        match outcome {
            Ok(_) if is_measured => self.recorder.success(start.elapsed(), count),
            Ok(_) => {}
            Err(error) => {
                if is_measured || matches!(error, CallError::Lost(_)) {
                    self.recorder.failure(&error);
                }
                if matches!(error, CallError::Lost(_)) {
                    return false;
                }
                // A server that refuses at once is not to be flooded.
                return self.unless_over(tokio::time::sleep(Duration::from_millis(10))).await.is_some();
            }
        }
        true
    }
}

/// What a client is prepared from.
pub(crate) struct Client<C = Connection> {
    /// The connection. One of gRPC is shared with other clients of the group.
    pub(crate) connection: C,
    /// Where it goes.
    pub(crate) endpoint: Endpoint,
    /// The client's number in its group.
    pub(crate) index: usize,
    /// What it shares.
    pub(crate) context: Arc<Context>,
}

/// A deadline for one call after the other that costs no timer per call.
pub(crate) struct Watchdog {
    limit: Duration,
    sleep: Pin<Box<Sleep>>,
}

impl Watchdog {
    pub(crate) fn new(limit: Duration) -> Self {
        Self { limit, sleep: Box::pin(tokio::time::sleep(limit)) }
    }

    /// Waits for `call`, or fails it when it takes longer than the limit.
    pub(crate) async fn guard<T>(&mut self, call: impl Future<Output = Result<T, CallError>>) -> Result<T, CallError> {
        let mut call = pin!(call);
        let mut due = None;
        poll_fn(|cx| {
            if let Poll::Ready(outcome) = call.as_mut().poll(cx) {
                return Poll::Ready(outcome);
            }
            let due = *due.get_or_insert_with(|| Instant::now() + self.limit);
            // The timer is left from an earlier call; only when it fires is it moved to this call's deadline.
            while self.sleep.as_mut().poll(cx).is_ready() {
                if Instant::now() >= due {
                    return Poll::Ready(Err(CallError::Deadline(self.limit)));
                }
                self.sleep.as_mut().reset(due);
            }
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pace_hands_out_a_total() {
        let pace = Pace::new(Some(2), None);
        assert_eq!(pace.take(), Some((0, None)));
        assert_eq!(pace.take(), Some((1, None)));
        assert_eq!(pace.take(), None);
    }

    #[test]
    fn pace_spreads_calls_evenly() {
        let pace = Pace::new(None, Some(100.0));
        let due = |call: Option<(u64, Option<Instant>)>| call.and_then(|(_, due)| due).expect("a rate gives a moment");
        let first = due(pace.take());
        assert_eq!(due(pace.take()) - first, Duration::from_millis(10));
        assert_eq!(due(pace.take()) - first, Duration::from_millis(20));
    }

    #[tokio::test(start_paused = true)]
    async fn watchdog_fails_a_call_that_hangs() {
        let mut watchdog = Watchdog::new(Duration::from_secs(1));
        let slow = async {
            tokio::time::sleep(Duration::from_millis(700)).await;
            Ok(())
        };
        assert_eq!(watchdog.guard(slow).await, Ok(()));
        let begin = Instant::now();
        let hang = watchdog.guard(std::future::pending::<Result<(), CallError>>()).await;
        assert_eq!(hang, Err(CallError::Deadline(Duration::from_secs(1))));
        assert!(begin.elapsed() >= Duration::from_secs(1), "an earlier call's timer does not shorten this one's");
    }
}
