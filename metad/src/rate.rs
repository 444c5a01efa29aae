//! How many requests a second one source may make.

use crate::address::Source;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

/// Sources that are counted by themselves. Those that come when there are more share one allowance.
const MAX_SOURCES: usize = 65_536;
/// After so long without a request a source may make those of one second again, so it need not be known.
const FORGOTTEN: Duration = Duration::from_secs(1);

/// Counts requests. A source that was quiet may make those of one second at once.
#[derive(Debug)]
pub(crate) struct Limit {
    /// 0 for any.
    per_second: u32,
    counts: Mutex<Counts>,
}

#[derive(Debug)]
struct Counts {
    /// Of sources that have asked since the turn.
    now: HashMap<Source, Allowance>,
    /// Of those that have asked before, and not since. They are forgotten all together.
    before: HashMap<Source, Allowance>,
    turn: Instant,
    others: Allowance,
}

#[derive(Debug)]
struct Allowance {
    left: f64,
    at: Instant,
}

impl Allowance {
    fn take(&mut self, now: Instant, most: f64) -> bool {
        let passed = now.duration_since(self.at).as_secs_f64();
        self.left = (self.left + passed * most).min(most);
        self.at = now;
        let is_allowed = self.left >= 1.0;
        if is_allowed {
            self.left -= 1.0;
        }
        is_allowed
    }
}

impl Limit {
    pub(crate) fn new(per_second: u32) -> Self {
        let now = Instant::now();
        let others = Allowance { left: per_second.into(), at: now };
        let counts = Counts { now: HashMap::new(), before: HashMap::new(), turn: now, others };
        Self { per_second, counts: Mutex::new(counts) }
    }

    /// Counts a request; false if it is one too many.
    pub(crate) fn take(&self, source: Source) -> bool {
        if self.per_second == 0 {
            return true;
        }
        let (now, most) = (Instant::now(), f64::from(self.per_second));
        let mut counts = self.counts.lock();
        let counts = &mut *counts;
        let age = now.duration_since(counts.turn);
        if age >= FORGOTTEN {
            std::mem::swap(&mut counts.now, &mut counts.before);
            counts.now.clear();
            if age >= 2 * FORGOTTEN {
                counts.before.clear();
            }
            counts.turn = now;
        }
        if !counts.now.contains_key(&source) {
            let allowance = counts.before.remove(&source);
            if allowance.is_none() && counts.now.len() >= MAX_SOURCES {
                return counts.others.take(now, most);
            }
            counts.now.insert(source, allowance.unwrap_or(Allowance { left: most, at: now }));
        }
        counts.now.get_mut(&source).is_none_or(|allowance| allowance.take(now, most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use tokio::time::advance;

    fn taken(limit: &Limit, source: &str, times: usize) -> usize {
        let source = Source::new(source.parse().unwrap(), false);
        (0..times).filter(|_| limit.take(source)).count()
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_has_its_share_of_each_second() {
        let limit = Limit::new(10);
        assert_eq!((taken(&limit, "1.1.1.1", 20), taken(&limit, "2.2.2.2", 5)), (10, 5));
        // It is known across the turn.
        for _ in 0..10 {
            advance(Duration::from_millis(500)).await;
            assert_eq!(taken(&limit, "1.1.1.1", 20), 5);
        }
        advance(Duration::from_mins(1)).await;
        assert_eq!((taken(&limit, "1.1.1.1", 20), taken(&limit, "2.2.2.2", 20)), (10, 10));
        assert_eq!(taken(&Limit::new(0), "1.1.1.1", 1000), 1000);
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_of_one_network_are_one_source() {
        let limit = Limit::new(10);
        let all: usize = (0..100).map(|host| taken(&limit, &format!("2001:db8:0:1::{host:x}"), 1)).sum();
        assert_eq!((all, taken(&limit, "2001:db8:0:2::1", 20)), (10, 10));
        // Those that are known to be different ones are not.
        let pod = "2001:db8:0:1::1".parse().unwrap();
        assert!(limit.take(Source::new(pod, true)));
    }

    #[tokio::test(start_paused = true)]
    async fn more_sources_than_are_counted_share_one_allowance() {
        let limit = Limit::new(10);
        let source = |number: usize| Source::new(Ipv4Addr::from(u32::try_from(number).unwrap()).into(), false);
        assert!((0..MAX_SOURCES).all(|number| limit.take(source(number))));
        let more = (MAX_SOURCES..MAX_SOURCES + 1000).filter(|number| limit.take(source(*number))).count();
        assert_eq!(more, 10);
        // Who was there before has its own.
        assert_eq!((0..20).filter(|_| limit.take(source(7))).count(), 9);
        advance(Duration::from_secs(3)).await;
        assert!(limit.take(source(MAX_SOURCES)));
        let counts = limit.counts.lock();
        assert_eq!((counts.now.len(), counts.before.len()), (1, 0));
    }
}
