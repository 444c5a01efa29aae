//! How many requests a second one user may make (`--user-rate-limit`), so that a client gone wild takes its own share only.
//!
//! `listen` asks for every call that a user makes, over gRPC and as JSON alike. A bucket belongs to a user; to the address
//! that a call comes from, if it names none, as all calls do while requests need no user. The user `root` has no limit: who
//! is to end an overload must be able to. Neither have renewals of leases, which keep what the others share alive, nor
//! health checks (`listen/front.rs`).
//!
//! A bucket is one number, the time at which it is full again (GCRA): a request moves it on by its share of a second, and is
//! refused where that is further ahead than the burst allows.

use crate::config::RateLimit;
use crate::metrics::OverloadMetrics;
use parking_lot::Mutex;
use prometheus::IntCounter;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Buckets that are kept. Full ones are forgotten first, since a new one is full; callers beyond it share one.
const BUCKETS_MAX: usize = 1 << 16;

/// Full buckets are looked for once in this time.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Refusals are logged once in this time, whoever was refused.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// The bits of an IPv6 address that one customer of a network usually has.
const IPV6_PREFIX: u32 = 64;

/// The user without a limit.
const ROOT: &str = "root";

/// Whose bucket it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Asker {
    /// A user, by its name.
    User(Arc<str>),
    /// An address; of IPv6 the network.
    Address(IpAddr),
    /// Who comes over a unix socket.
    Local,
    /// All for whom there is no bucket left.
    Others,
}

impl Asker {
    /// The asker behind an address; none means a unix socket.
    pub(crate) fn at(address: Option<IpAddr>) -> Self {
        match address.map(|address| address.to_canonical()) {
            Some(IpAddr::V6(address)) => {
                let network = address.to_bits() >> (Ipv6Addr::BITS - IPV6_PREFIX) << (Ipv6Addr::BITS - IPV6_PREFIX);
                Self::Address(Ipv6Addr::from_bits(network).into())
            }
            Some(address) => Self::Address(address),
            None => Self::Local,
        }
    }
}

impl std::fmt::Display for Asker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::User(name) => write!(f, "user {name}"),
            Self::Address(IpAddr::V6(network)) => write!(f, "network {network}/{IPV6_PREFIX}"),
            Self::Address(address) => write!(f, "address {address}"),
            Self::Local => f.write_str("unix socket"),
            Self::Others => f.write_str("too many users and addresses to tell apart"),
        }
    }
}

/// See the module.
pub(crate) struct RateLimits {
    limit: RateLimit,
    /// A request's share of a second.
    share: Duration,
    /// How far ahead a bucket may be.
    ahead_max: Duration,
    state: Mutex<State>,
    refused: IntCounter,
}

#[derive(Default)]
struct State {
    /// When each bucket is full again.
    full_at: HashMap<Asker, Instant>,
    /// When full buckets were looked for.
    swept: Option<Instant>,
    logged: Option<Instant>,
    /// Refusals since.
    unlogged: u64,
}

impl RateLimits {
    pub(crate) fn new(limit: RateLimit, metrics: &OverloadMetrics) -> Self {
        let share = Duration::from_secs(1) / limit.per_second.max(1);
        let ahead_max = share * limit.burst.max(1);
        Self { limit, share, ahead_max, state: Mutex::default(), refused: metrics.rate_limited.clone() }
    }

    /// Whether somebody may make one more request. A refusal is counted and, once in a while, logged.
    pub(crate) fn admits(&self, asker: Asker) -> bool {
        self.admits_at(asker, Instant::now())
    }

    fn admits_at(&self, asker: Asker, now: Instant) -> bool {
        if matches!(&asker, Asker::User(name) if **name == *ROOT) {
            return true;
        }
        let mut state = self.state.lock();
        let asker = state.bucket(asker, now);
        let full_at = state.full_at.get(&asker).map_or(now, |at| (*at).max(now)) + self.share;
        if full_at - now <= self.ahead_max {
            state.full_at.insert(asker, full_at);
            return true;
        }
        self.refused.inc();
        state.unlogged += 1;
        if state.logged.is_none_or(|at| now.duration_since(at) >= LOG_INTERVAL) {
            state.logged = Some(now);
            let refused = std::mem::take(&mut state.unlogged);
            drop(state);
            tracing::warn!(
                %asker,
                refused,
                user_rate_limit = self.limit.per_second,
                user_rate_limit_burst = self.limit.burst,
                "refused requests above the rate of --user-rate-limit; this is the last one"
            );
        }
        false
    }
}

impl State {
    /// The asker whose bucket is to be used.
    fn bucket(&mut self, asker: Asker, now: Instant) -> Asker {
        if self.full_at.len() < BUCKETS_MAX || self.full_at.contains_key(&asker) {
            return asker;
        }
        // Not for each of a crowd.
        if self.swept.is_none_or(|at| now.duration_since(at) >= SWEEP_INTERVAL) {
            self.swept = Some(now);
            self.full_at.retain(|_, at| *at > now);
        }
        if self.full_at.len() < BUCKETS_MAX { asker } else { Asker::Others }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    fn limits(per_second: u32, burst: u32) -> RateLimits {
        RateLimits::new(RateLimit { per_second, burst }, &Metrics::new(false).unwrap().overload)
    }

    fn user(name: &str) -> Asker {
        Asker::User(name.into())
    }

    #[test]
    fn a_burst_and_then_the_rate() {
        let limits = limits(10, 3);
        let now = Instant::now();
        let admitted = |asker: &str, at: Duration, requests: usize| {
            (0..requests).filter(|_| limits.admits_at(user(asker), now + at)).count()
        };
        assert_eq!(admitted("ann", Duration::ZERO, 10), 3);
        assert_eq!(admitted("ann", Duration::from_millis(99), 10), 0);
        assert_eq!(admitted("ann", Duration::from_millis(100), 10), 1);
        assert_eq!(admitted("bob", Duration::from_millis(100), 10), 3, "another user");
        // Two seconds are worth twenty, and the bucket holds three.
        assert_eq!(admitted("ann", Duration::from_secs(2), 10), 3);
        assert_eq!(admitted("root", Duration::ZERO, 1000), 1000);
        assert_eq!(limits.refused.get(), 7 + 10 + 9 + 7 + 7);
    }

    #[test]
    fn addresses_are_networks_where_one_customer_has_many() {
        let at = |address: &str| Asker::at(Some(address.parse().unwrap()));
        assert_eq!(at("2001:db8:1:2:3:4:5:6"), at("2001:db8:1:2::9"));
        assert_ne!(at("2001:db8:1:2::9"), at("2001:db8:1:3::9"));
        assert_eq!(at("::ffff:10.0.0.1"), at("10.0.0.1"));
        assert_ne!(at("10.0.0.1"), at("10.0.0.2"));
        assert_eq!(Asker::at(None), Asker::Local);
        assert_eq!(at("2001:db8:1:2::9").to_string(), "network 2001:db8:1:2::/64");
    }

    #[test]
    fn buckets_are_bounded_and_full_ones_forgotten() {
        let limits = limits(1, 2);
        let now = Instant::now();
        for n in 0..BUCKETS_MAX as u32 {
            assert!(limits.admits_at(Asker::Address(n.to_be_bytes().into()), now));
        }
        let late = |n: u32, at| limits.admits_at(Asker::Address((BUCKETS_MAX as u32 + n).to_be_bytes().into()), at);
        // They share one.
        assert_eq!((0..10).filter(|n| late(*n, now)).count(), 2);
        assert!(limits.state.lock().full_at.len() <= BUCKETS_MAX + 1);
        // After a pause everybody has one again.
        let later = now + Duration::from_secs(3);
        assert_eq!((0..10).filter(|n| late(*n, later)).count(), 10);
        assert!(limits.state.lock().full_at.len() <= 11);
    }
}
