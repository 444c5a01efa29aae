//! What ends a call before its service does: the client's deadline, and the loss of the leader.
//!
//! A client says `grpc-timeout` for the first and `hasleader: true` for the second (clientv3's `WithRequireLeader`):
//! then a call is refused while this member knows no leader, and a stream ends when the leader is lost. The front asks
//! [`Interrupt::of`] for every gRPC call and polls what it gives beside the service; a call that asks for neither costs
//! two look-ups of headers, and a timer is only made for one that has to wait.

use crate::v3::status::status;
use api::error::Error;
use http::{HeaderMap, HeaderName};
use parking_lot::Mutex;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;

static TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
static REQUIRE_LEADER: HeaderName = HeaderName::from_static("hasleader");

/// Looks without a leader until streams that require one are ended. etcd's figure.
const LOOKS_WITHOUT_LEADER: u32 = 3;

/// The most digits that gRPC allows in a timeout.
const TIMEOUT_DIGITS: usize = 8;

/// Knows whether there is a leader, and ends the streams that require one.
pub struct LeaderGate {
    has_leader: Box<dyn Fn() -> bool + Send + Sync>,
    /// Cancelled when the leader is lost, and replaced for the streams that come later.
    lost: Mutex<CancellationToken>,
}

impl fmt::Debug for LeaderGate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaderGate").finish_non_exhaustive()
    }
}

impl LeaderGate {
    /// Asks `has_leader` for each call that requires a leader; it must not block.
    pub fn new(has_leader: impl Fn() -> bool + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { has_leader: Box::new(has_leader), lost: Mutex::default() })
    }

    /// Looks every `interval`, and ends streams after three looks without a leader. Runs until the member stops.
    pub async fn watch(self: Arc<Self>, interval: Duration, stop: CancellationToken) {
        let mut missed = 0;
        loop {
            tokio::select! {
                () = tokio::time::sleep(interval) => {}
                () = stop.cancelled() => return,
            }
            missed = if (self.has_leader)() { 0 } else { missed + 1 };
            if missed == LOOKS_WITHOUT_LEADER {
                tracing::warn!("no leader, ending the streams that require one");
                std::mem::take(&mut *self.lost.lock()).cancel();
            }
        }
    }
}

/// What may end one call.
#[derive(Debug, Default)]
pub(super) struct Interrupt {
    deadline: Option<Instant>,
    /// Waits for the deadline, once somebody has to.
    timer: Option<Pin<Box<Sleep>>>,
    leader_lost: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl Interrupt {
    /// Reads what the client asks for.
    ///
    /// # Errors
    /// The answer to a call that requires a leader while there is none, or whose timeout cannot be read.
    pub(super) fn of(headers: &HeaderMap, is_unary: bool, gate: &LeaderGate) -> Result<Self, Status> {
        let mut interrupt = Self::default();
        if let Some(text) = headers.get(&TIMEOUT) {
            let Some(timeout) = timeout(text.as_bytes()) else {
                return Err(Status::internal(format!("malformed grpc-timeout: {text:?}")));
            };
            // A moment that the clock cannot name never comes.
            interrupt.deadline = Instant::now().checked_add(timeout);
        }
        if headers.get(&REQUIRE_LEADER).is_some_and(|value| value == "true") {
            if !(gate.has_leader)() {
                return Err(status(Error::NoLeader));
            }
            if !is_unary {
                interrupt.leader_lost = Some(Box::pin(gate.lost.lock().clone().cancelled_owned()));
            }
        }
        Ok(interrupt)
    }

    /// True if nothing but the service ends the call.
    pub(super) fn is_never(&self) -> bool {
        self.deadline.is_none() && self.leader_lost.is_none()
    }

    /// Ready with the status of a call that has to end. To be polled when the service has nothing to say.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        if let Some(deadline) = self.deadline {
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
            if timer.as_mut().poll(cx).is_ready() {
                return Poll::Ready(status(Error::DeadlineExceeded));
            }
        }
        match &mut self.leader_lost {
            Some(lost) => lost.as_mut().poll(cx).map(|()| status(Error::NoLeader)),
            None => Poll::Pending,
        }
    }
}

/// Reads a number of at most eight digits and a unit.
pub(crate) fn timeout(text: &[u8]) -> Option<Duration> {
    let (unit, digits) = text.split_last()?;
    if digits.is_empty() || digits.len() > TIMEOUT_DIGITS || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
    match unit {
        b'n' => Some(Duration::from_nanos(number)),
        b'u' => Some(Duration::from_micros(number)),
        b'm' => Some(Duration::from_millis(number)),
        b'S' => Some(Duration::from_secs(number)),
        b'M' => Some(Duration::from_secs(number * 60)),
        b'H' => Some(Duration::from_secs(number * 3600)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        for (text, expected) in [
            ("1n", Some(Duration::from_nanos(1))),
            ("20u", Some(Duration::from_micros(20))),
            ("300m", Some(Duration::from_millis(300))),
            ("5S", Some(Duration::from_secs(5))),
            ("2M", Some(Duration::from_mins(2))),
            ("99999999H", Some(Duration::from_hours(99_999_999))),
            ("999999999n", None),
            ("5", None),
            ("S", None),
            ("", None),
            ("5s", None),
            ("-5S", None),
        ] {
            assert_eq!(timeout(text.as_bytes()), expected, "{text}");
        }
    }
}
