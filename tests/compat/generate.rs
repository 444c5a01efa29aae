//! Makes up the next request from a seed.
//!
//! Keys, values and ids come from small alphabets, so that requests meet each other's effects; every option of
//! every request is drawn with some probability, bad ones included. What is drawn depends only on the seed and
//! on etcd's answers so far.

mod kv;
mod wire;

use crate::concurrency::calls;
use crate::op::{Op, chosen_lease, compacted, current, this_member};
use crate::pair::World;
use crate::side::SLOTS;
use api::etcdserverpb::{AlarmRequest, CompactionRequest, LeaseGrantRequest, WatchCreateRequest};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use std::collections::VecDeque;

/// Lease ids that sequences grant themselves.
const LEASES: [i64; 7] = [1, 2, 3, 0x1234, 7_000_000_000_000, i64::MAX, -5];
/// Never granted.
const UNKNOWN_LEASE: i64 = 404;
/// Granted and revoked within consecutive requests only, because it would expire.
const SHORT_LEASE: i64 = 555;
const MAX_TTL: i64 = 9_000_000_000;

/// Draws requests.
pub(crate) struct Generator {
    rng: StdRng,
    /// Requests that follow the last one in any case.
    next: VecDeque<Op>,
    /// Attaching leases with chosen ids makes stored bytes differ between servers, hence their hashes.
    attach_chosen: bool,
}

impl Generator {
    /// A generator of one sequence.
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let attach_chosen = rng.random_bool(0.5);
        Self { rng, next: VecDeque::new(), attach_chosen }
    }

    /// The next request.
    pub(crate) fn next(&mut self, world: &World) -> Op {
        if let Some(op) = self.next.pop_front() {
            return op;
        }
        match self.rng.random_range(0..1000) {
            0..250 => Op::Put(self.put(world)),
            250..480 => Op::Range(self.range()),
            480..570 => Op::Delete(self.delete()),
            570..730 => Op::Txn(self.txn(world, 0)),
            730..740 => self.concurrency(),
            740..755 => self.compact(world),
            755..790 => self.grant(),
            790..805 => Op::Revoke(self.lease(world)),
            805..835 => Op::TimeToLive { id: self.lease(world), keys: self.rng.random_bool(0.6) },
            835..840 => Op::Leases,
            840..855 => self.keep_alive(world),
            855..865 => self.hash_kv(),
            865..910 => self.watch_create(),
            910..930 => Op::WatchCancel { slot: self.slot(), id: self.watch_id() },
            930..940 => Op::WatchProgress(self.slot()),
            940..944 => Op::WatchOpen(self.slot()),
            944..947 => Op::WatchNothing(self.slot()),
            947..950 => Op::Members,
            950..953 => Op::Status,
            953..960 => self.alarm(),
            960..961 => Op::Defragment,
            961..967 => self.bad_cluster_change(),
            967..990 => self.bad_bytes(),
            _ => self.oversized(),
        }
    }

    fn slot(&mut self) -> usize {
        self.rng.random_range(0..SLOTS)
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        *from.choose(&mut self.rng).expect("alphabets are not empty")
    }

    /// A lease id, mostly one that exists.
    fn lease(&mut self, world: &World) -> i64 {
        match self.rng.random_range(0..20) {
            0 => UNKNOWN_LEASE,
            1..6 if world.chosen_leases > 0 => chosen_lease(self.rng.random_range(0..world.chosen_leases)),
            _ => self.pick(&LEASES),
        }
    }

    /// A revision to read at, 0 for the newest.
    fn revision(&mut self) -> i64 {
        match self.rng.random_range(0..40) {
            0..24 => 0,
            24..32 => current(-self.rng.random_range(0..12)),
            32..34 => current(-self.rng.random_range(0..200)),
            34 => current(self.rng.random_range(1..3)),
            35 => compacted(0),
            36 => compacted(1),
            37 => compacted(-1),
            38 => self.pick(&[-1, -100, i64::MIN, 1, 2]),
            _ => self.pick(&[i64::MAX, current(1_000)]),
        }
    }

    fn compact(&mut self, _: &World) -> Op {
        let revision = match self.rng.random_range(0..20) {
            0 => 0,
            1 => current(1),
            2 => compacted(0),
            3 => compacted(-1),
            4 => self.pick(&[-1, i64::MAX, 1]),
            5 => current(0),
            _ => current(-self.rng.random_range(1..30)),
        };
        Op::Compact(CompactionRequest { revision, physical: self.rng.random_bool(0.5) })
    }

    fn grant(&mut self) -> Op {
        let ttl = match self.rng.random_range(0..20) {
            0 => self.pick(&[MAX_TTL, MAX_TTL + 1, i64::MAX]),
            1 => {
                let id = SHORT_LEASE;
                self.next.extend([Op::TimeToLive { id, keys: true }, Op::KeepAlive(vec![id]), Op::Revoke(id)]);
                let ttl = self.pick(&[0, 1, -1, i64::MIN]);
                return Op::Grant(LeaseGrantRequest { ttl, id });
            }
            _ => self.rng.random_range(1_000..100_000),
        };
        let id = if self.rng.random_bool(0.25) { 0 } else { self.pick(&LEASES) };
        Op::Grant(LeaseGrantRequest { ttl, id })
    }

    /// Calls that wait for nobody.
    fn concurrency(&mut self) -> Op {
        let lease = if self.rng.random_bool(0.1) { UNKNOWN_LEASE } else { self.pick(&LEASES) };
        self.next.extend(calls(&mut self.rng, lease, current));
        self.next.pop_front().expect("there are some calls")
    }

    fn keep_alive(&mut self, world: &World) -> Op {
        let ids = (0..self.rng.random_range(1..4)).map(|_| self.lease(world)).collect();
        Op::KeepAlive(ids)
    }

    fn hash_kv(&mut self) -> Op {
        if self.attach_chosen {
            return Op::Leases;
        }
        Op::HashKv(self.revision())
    }

    fn watch_id(&mut self) -> i64 {
        self.rng.random_range(0..8)
    }

    fn watch_create(&mut self) -> Op {
        let (key, range_end) = self.key_range();
        let start_revision = match self.rng.random_range(0..20) {
            0..8 => 0,
            8..13 => current(1 - self.rng.random_range(0..20)),
            13..15 => current(self.rng.random_range(2..6)),
            15 => compacted(0),
            16 => compacted(-1),
            17 => compacted(1),
            18 => self.pick(&[1, 2]),
            _ => self.pick(&[-1, -7]),
        };
        let filters = match self.rng.random_range(0..10) {
            0 => vec![0],
            1 => vec![1],
            2 => vec![0, 1],
            3 => vec![7],
            _ => Vec::new(),
        };
        let watch_id = if self.rng.random_bool(0.7) { 0 } else { self.rng.random_range(1..8) };
        let request = WatchCreateRequest {
            key,
            range_end,
            start_revision,
            progress_notify: self.rng.random_bool(0.2),
            filters,
            prev_kv: self.rng.random_bool(0.4),
            watch_id,
            fragment: self.rng.random_bool(0.3),
        };
        Op::WatchCreate { slot: self.slot(), request }
    }

    /// Reads alarms, or raises one, meets it with a few requests and takes it back.
    fn alarm(&mut self) -> Op {
        let get = |alarm| Op::Alarm(AlarmRequest { action: 0, member_id: 0, alarm });
        let kind = self.rng.random_range(0..3);
        if self.rng.random_bool(0.7) {
            return get(kind);
        }
        let (alarm, member_id) = (self.pick(&[1, 1, 2]), this_member());
        let set = |action| Op::Alarm(AlarmRequest { action, member_id, alarm });
        let world = World::default();
        for _ in 0..6 {
            let op = match self.rng.random_range(0..5) {
                0 => Op::Put(self.put(&world)),
                1 => Op::Txn(self.txn(&world, 0)),
                2 => self.grant(),
                3 => Op::Delete(self.delete()),
                _ => Op::Range(self.range()),
            };
            self.next.push_back(op);
        }
        self.next.extend([Op::Status, get(0), set(2), set(2)]);
        set(1)
    }
}
