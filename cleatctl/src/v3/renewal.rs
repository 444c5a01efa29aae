//! A lease that is kept alive, by the rules of etcd's client library: what cannot be reached may be back before the time of
//! the lease has passed, and then it is over for whoever holds it.

use api::etcdserverpb::LeaseKeepAliveResponse;
use client::{Client, Error};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Renewals within the time of a lease.
const RENEWALS: u32 = 3;

/// The shortest and the longest time between two renewals.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_hours(1);

/// After a failure, which has taken its time already unless it came at once.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(100);

/// The longest time that a lease is taken to have: clocks go no further.
const TTL_MAX: Duration = Duration::from_hours(24 * 365 * 100);

/// Times of calls are whole ones of these where there are some: errors name them.
const LIMIT_UNIT_MS: u64 = 100;

/// The renewals of one lease.
pub(super) struct Renewal {
    client: Client,
    lease: i64,
    /// When to ask next.
    next: Instant,
    /// When the lease is over if nothing is heard until then.
    end: Instant,
}

/// What a renewal came to.
pub(super) enum Renewed {
    /// The lease has its full time again.
    Alive(LeaseKeepAliveResponse),
    /// The server has it no more.
    Gone,
    /// Its time has passed without an answer: why there was none, if it was asked for.
    Unheard(Option<Error>),
}

impl Renewal {
    /// Of a lease that has so much time left; the first answer tells more. The first question is asked at once.
    pub(super) fn new(client: Client, lease: i64, left: Duration) -> Self {
        let now = Instant::now();
        Self { client, lease, next: now, end: now + left.min(TTL_MAX) }
    }

    /// Of a lease that was granted just now: the first question has time.
    pub(super) fn granted(client: Client, lease: i64, ttl: Duration) -> Self {
        let renewal = Self::new(client, lease, ttl);
        Self { next: renewal.next + pause(ttl), ..renewal }
    }

    /// Renews the lease when it is time to, however often that has to be tried. Once it is over there is no more to do.
    ///
    /// # Errors
    /// The server does not want to renew it, which asking again does not change.
    pub(super) async fn next(&mut self) -> Result<Renewed, Error> {
        sleep_until(self.next.min(self.end)).await;
        let mut unheard = None;
        loop {
            let asked = Instant::now();
            let left = self.end.saturating_duration_since(asked);
            if left.is_zero() {
                return Ok(Renewed::Unheard(unheard));
            }
            match self.client.within(limit(left)).keep_alive_once(self.lease).await {
                Ok(answer) if answer.ttl <= 0 => return Ok(Renewed::Gone),
                Ok(answer) => {
                    let ttl = Duration::from_secs(answer.ttl.unsigned_abs()).min(TTL_MAX);
                    // The time runs since some moment of the call: before its beginning the server had not seen it.
                    (self.next, self.end) = (asked + pause(ttl), asked + ttl);
                    return Ok(Renewed::Alive(answer));
                }
                Err(error) if error.may_pass() => {
                    // The last call may be short of time: that is not the reason.
                    if unheard.is_none() || !matches!(error, Error::Timeout { .. }) {
                        unheard = Some(error);
                    }
                    sleep_until(self.end.min(Instant::now() + PAUSE_AFTER_FAILURE)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// How long a call may take of the time that is left.
fn limit(left: Duration) -> Duration {
    let units = u64::try_from(left.as_millis()).unwrap_or(u64::MAX) / LIMIT_UNIT_MS;
    if units == 0 { left } else { Duration::from_millis(units * LIMIT_UNIT_MS) }
}

fn pause(ttl: Duration) -> Duration {
    (ttl / RENEWALS).clamp(PAUSE_MIN, PAUSE_MAX)
}
