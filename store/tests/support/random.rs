//! Random commands over few keys, so that they meet.

use super::{command, compaction, grant, revoke};
use api::cleatpb::Command;
use api::cleatpb::command::Op;
use api::etcdserverpb::compare::TargetUnion;
use api::etcdserverpb::request_op::Request;
use api::etcdserverpb::{
    Compare, DeleteRangeRequest, LeaseCheckpoint, LeaseCheckpointRequest, PutRequest, RangeRequest, RequestOp,
    TxnRequest,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const KEYS: [&[u8]; 9] = [b"\0", b"a", b"a\0", b"ab", b"b", b"c", b"d", b"e", b"\xff"];

pub(crate) struct Random {
    pub(crate) rng: StdRng,
    /// The last known revisions, to choose near them.
    pub(crate) revision: i64,
    pub(crate) compacted: i64,
}

impl Random {
    /// Seeded by `CLEAT_SEED`, or by chance; the seed is printed.
    pub(crate) fn new() -> Self {
        let seed = std::env::var("CLEAT_SEED")
            .or_else(|_| std::env::var("CLEAT_FIRST_SEED"))
            .map_or_else(|_| rand::rng().random(), |seed| seed.parse().unwrap());
        // Shown with a failure.
        eprintln!("CLEAT_SEED={seed}");
        Self { rng: StdRng::seed_from_u64(seed), revision: 1, compacted: -1 }
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.rng.random_range(0..bound)
    }

    /// True once in `n` times.
    pub(crate) fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// Every key that is chosen from.
    pub(crate) fn keys() -> impl Iterator<Item = &'static [u8]> {
        KEYS.into_iter()
    }

    pub(crate) fn key(&mut self) -> Vec<u8> {
        KEYS[self.below(KEYS.len())].to_vec()
    }

    /// The end of a range, by every convention.
    pub(crate) fn end(&mut self) -> Vec<u8> {
        match self.below(6) {
            0 => vec![0],
            1 | 2 => self.key(),
            _ => Vec::new(),
        }
    }

    /// A revision around what exists.
    pub(crate) fn near(&mut self) -> i64 {
        let oldest = (self.compacted - 2).max(1);
        self.rng.random_range(oldest..=self.revision.max(oldest) + 1)
    }

    /// A revision that can be read.
    pub(crate) fn readable(&mut self) -> i64 {
        self.rng.random_range(self.compacted.max(1)..=self.revision)
    }

    fn value(&mut self) -> Vec<u8> {
        vec![b'0' + self.below(4) as u8; self.below(5)]
    }

    fn lease(&mut self) -> i64 {
        if self.once_in(3) { 1 + self.below(4) as i64 } else { 0 }
    }

    fn put(&mut self) -> PutRequest {
        PutRequest {
            key: self.key().into(),
            value: self.value().into(),
            lease: self.lease(),
            prev_kv: self.once_in(3),
            ignore_value: self.once_in(8),
            ignore_lease: self.once_in(8),
        }
    }

    fn delete(&mut self) -> DeleteRangeRequest {
        DeleteRangeRequest { key: self.key().into(), range_end: self.end().into(), prev_kv: self.once_in(2) }
    }

    pub(crate) fn range(&mut self) -> RangeRequest {
        let bound = |random: &mut Self| if random.once_in(8) { random.near() } else { 0 };
        RangeRequest {
            key: self.key().into(),
            range_end: self.end().into(),
            limit: if self.once_in(3) { self.below(5) as i64 - 1 } else { 0 },
            revision: if self.once_in(2) { self.near() } else { 0 },
            sort_order: if self.once_in(2) { self.below(3) as i32 } else { 0 },
            sort_target: if self.once_in(2) { self.below(5) as i32 } else { 0 },
            keys_only: self.once_in(8),
            count_only: self.once_in(8),
            min_mod_revision: bound(self),
            max_mod_revision: bound(self),
            min_create_revision: bound(self),
            max_create_revision: bound(self),
            ..Default::default()
        }
    }

    fn compare(&mut self) -> Compare {
        let target = self.below(5) as i32;
        let operand = match target {
            0 => TargetUnion::Version(self.below(4) as i64),
            1 => TargetUnion::CreateRevision(self.near()),
            2 => TargetUnion::ModRevision(self.near()),
            3 => TargetUnion::Value(self.value().into()),
            _ => TargetUnion::Lease(self.lease()),
        };
        Compare {
            result: self.below(4) as i32,
            target,
            key: self.key().into(),
            range_end: self.end().into(),
            target_union: Some(operand),
        }
    }

    /// A transaction as the server admits it: no key is put twice, or put and deleted, in one branch.
    pub(crate) fn txn(&mut self, depth: usize, read_only: bool) -> TxnRequest {
        let mut keys: Vec<Vec<u8>> = KEYS.iter().map(|key| key.to_vec()).collect();
        self.branches(depth, read_only, &mut keys)
    }

    fn branches(&mut self, depth: usize, read_only: bool, keys: &mut Vec<Vec<u8>>) -> TxnRequest {
        TxnRequest {
            compare: (0..self.below(3)).map(|_| self.compare()).collect(),
            success: (0..self.below(4)).map(|_| self.request_op(depth, read_only, keys)).collect(),
            failure: (0..self.below(4)).map(|_| self.request_op(depth, read_only, keys)).collect(),
        }
    }

    fn request_op(&mut self, depth: usize, read_only: bool, keys: &mut Vec<Vec<u8>>) -> RequestOp {
        let request = match self.below(5) {
            0 if depth > 0 => Request::RequestTxn(self.branches(depth - 1, read_only, keys)),
            1 | 2 if !read_only && !keys.is_empty() => {
                let key = keys.swap_remove(self.below(keys.len()));
                Request::RequestPut(PutRequest { key: key.into(), ..self.put() })
            }
            3 if !read_only && !keys.is_empty() => {
                let key = keys.swap_remove(self.below(keys.len()));
                Request::RequestDeleteRange(DeleteRangeRequest { key: key.into(), ..Default::default() })
            }
            _ => {
                let revision = if self.once_in(4) { self.near() } else { 0 };
                Request::RequestRange(RangeRequest { revision, ..self.range() })
            }
        };
        RequestOp { request: Some(request) }
    }

    pub(crate) fn command(&mut self) -> Command {
        command(match self.below(20) {
            0..=7 => Op::Put(self.put()),
            8..=10 => Op::DeleteRange(self.delete()),
            11..=14 => Op::Txn(self.txn(2, false)),
            15 => compaction(self.near()),
            16 | 17 => grant(1 + self.below(4) as i64, 60),
            18 => revoke(1 + self.below(4) as i64),
            _ => Op::LeaseCheckpoint(LeaseCheckpointRequest {
                checkpoints: vec![LeaseCheckpoint { id: 1 + self.below(4) as i64, remaining_ttl: 9 }],
            }),
        })
    }
}
