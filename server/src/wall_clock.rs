//! What the calendar says. In a simulation it goes with the simulation's time.

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since 1970.
pub(crate) fn unix_seconds() -> u64 {
    #[cfg(test)]
    if let Some(now) = crate::simulation::runtime::unix_seconds() {
        return now;
    }
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
