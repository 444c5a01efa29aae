//! What the calendar says. In a simulation it goes with the simulation's time.

use std::time::{SystemTime, UNIX_EPOCH};

/// Nanoseconds since 1970.
pub(crate) fn unix_nanos() -> i64 {
    #[cfg(test)]
    if let Some(now) = crate::simulation::runtime::unix_seconds() {
        return now as i64 * 1_000_000_000;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // Until 2262.
    i64::try_from(now.as_nanos()).unwrap_or(i64::MAX)
}

/// Seconds since 1970.
pub(crate) fn unix_seconds() -> u64 {
    #[cfg(test)]
    if let Some(now) = crate::simulation::runtime::unix_seconds() {
        return now;
    }
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
