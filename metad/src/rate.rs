//! How many requests a second one source may make.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::IpAddr;
use tokio::time::Instant;

/// Sources that are counted. When there are more, those that have been quiet for a second are forgotten; if all are
/// busy the new one is let in uncounted.
const MAX_SOURCES: usize = 65_536;

/// Counts requests. A source that was quiet may make those of one second at once.
#[derive(Debug)]
pub(crate) struct Limit {
    /// 0 for any.
    per_second: u32,
    sources: Mutex<HashMap<IpAddr, Allowance>>,
}

#[derive(Debug)]
struct Allowance {
    left: f64,
    at: Instant,
}

impl Limit {
    pub(crate) fn new(per_second: u32) -> Self {
        Self { per_second, sources: Mutex::default() }
    }

    /// Counts a request; false if it is one too many.
    pub(crate) fn take(&self, source: IpAddr) -> bool {
        if self.per_second == 0 {
            return true;
        }
        let (now, most) = (Instant::now(), f64::from(self.per_second));
        let mut sources = self.sources.lock();
        if sources.len() >= MAX_SOURCES && !sources.contains_key(&source) {
            sources.retain(|_, allowance| now.duration_since(allowance.at).as_secs_f64() < 1.0);
            if sources.len() >= MAX_SOURCES {
                return true;
            }
        }
        let allowance = sources.entry(source).or_insert(Allowance { left: most, at: now });
        let passed = now.duration_since(allowance.at).as_secs_f64();
        allowance.left = (allowance.left + passed * most).min(most);
        allowance.at = now;
        let is_allowed = allowance.left >= 1.0;
        if is_allowed {
            allowance.left -= 1.0;
        }
        is_allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::advance;

    #[tokio::test(start_paused = true)]
    async fn a_source_has_its_share_of_each_second() {
        let limit = Limit::new(10);
        let (one, two) = ("1.1.1.1".parse().unwrap(), "2.2.2.2".parse().unwrap());
        let taken = |source, times: usize| (0..times).filter(|_| limit.take(source)).count();
        assert_eq!((taken(one, 20), taken(two, 5)), (10, 5));
        advance(Duration::from_millis(500)).await;
        assert_eq!(taken(one, 20), 5);
        advance(Duration::from_mins(1)).await;
        assert_eq!(taken(one, 20), 10);
        let unlimited = Limit::new(0);
        assert!((0..1000).all(|_| unlimited.take(one)));
    }
}
