//! The clock that leases are counted by. In a simulation every member has one of its own, which runs fast or slow.

use tokio::time::Instant;

/// Clones are the same clock.
#[derive(Clone, Debug, Default)]
pub(crate) struct SteadyClock {
    #[cfg(test)]
    drift: Option<Drift>,
}

/// How a clock differs from the simulation's time.
#[cfg(test)]
#[derive(Clone, Copy, Debug)]
struct Drift {
    began: Instant,
    rate: f64,
}

impl SteadyClock {
    /// A clock that counts `rate` seconds in a second, from now on.
    #[cfg(test)]
    pub(crate) fn at_rate(rate: f64) -> Self {
        Self { drift: Some(Drift { began: Instant::now(), rate }) }
    }

    #[allow(clippy::unused_self, reason = "the test build's half uses it")]
    pub(crate) fn now(&self) -> Instant {
        let now = Instant::now();
        #[cfg(test)]
        if let Some(Drift { began, rate }) = self.drift {
            return began + now.saturating_duration_since(began).mul_f64(rate);
        }
        now
    }

    /// Waits until this clock says `at`.
    #[allow(clippy::unused_self, reason = "the test build's half uses it")]
    pub(crate) async fn sleep_until(&self, at: Instant) {
        #[cfg(test)]
        if let Some(Drift { began, rate }) = self.drift {
            // Rounded up, or whoever was woken would find that it is not time yet.
            let wait = at.saturating_duration_since(began).div_f64(rate) + std::time::Duration::from_micros(1);
            return tokio::time::sleep_until(began + wait).await;
        }
        tokio::time::sleep_until(at).await;
    }
}
