//! Key-value requests.

use super::{Generator, UNKNOWN_LEASE};
use crate::op::{chosen_lease, current};
use crate::pair::World;
use api::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
    compare::{CompareResult, TargetUnion},
    request_op,
};
use bytes::Bytes;
use rand::Rng;

/// Keys of three prefixes, with the bytes where orders and prefixes have their edges.
///
/// At most 12 keys exist (these and `big`): beyond that etcd's sort is not stable, and the order of keys that
/// are equal in the sort target says nothing.
const KEYS: [&[u8]; 11] =
    [b"a", b"a\0", b"a\xff", b"ab", b"a/", b"a/1", b"a/\xff\xff", b"b", b"\0", b"\xff", b"\xff\xff"];
const VALUES: [&[u8]; 8] = [b"", b"1", b"2", b"3", b"10", b"\0", b"\xff\xfe", b"a longer value"];

/// One more than `--max-txn-ops`.
const TOO_MANY_OPS: usize = 129;
const MAX_DEPTH: u32 = 3;

impl Generator {
    pub(super) fn key(&mut self) -> Bytes {
        if self.rng.random_bool(0.005) {
            return Bytes::new();
        }
        Bytes::from_static(self.pick(&KEYS))
    }

    /// A key and a range end, of every kind that the API gives a meaning to.
    pub(super) fn key_range(&mut self) -> (Bytes, Bytes) {
        let key = self.key();
        let end = match self.rng.random_range(0..20) {
            0..7 => Bytes::new(),
            7..12 => prefix_end(&key),
            12..15 => Bytes::from_static(b"\0"),
            15..17 => self.key(),
            17 => key.clone(),
            18 => [&key[..], b"\0"].concat().into(),
            _ => return (Bytes::from_static(b"\0"), Bytes::from_static(b"\0")),
        };
        (key, end)
    }

    fn value(&mut self) -> Bytes {
        if self.rng.random_bool(0.02) {
            return vec![b'v'; self.rng.random_range(100..5_000)].into();
        }
        Bytes::from_static(self.pick(&VALUES))
    }

    pub(super) fn put(&mut self, world: &World) -> PutRequest {
        let ignore_value = self.rng.random_bool(0.07);
        let ignore_lease = self.rng.random_bool(0.07);
        let bad = self.rng.random_bool(0.1);
        let value = if ignore_value && !bad { Bytes::new() } else { self.value() };
        let leased = self.rng.random_bool(0.3) && (!ignore_lease || bad);
        PutRequest {
            key: self.key(),
            value,
            lease: if leased { self.attachable_lease(world) } else { 0 },
            prev_kv: self.rng.random_bool(0.3),
            ignore_value,
            ignore_lease,
        }
    }

    fn attachable_lease(&mut self, world: &World) -> i64 {
        if self.attach_chosen {
            return self.lease(world);
        }
        self.lease(&World { chosen_leases: 0, ..world.clone() })
    }

    pub(super) fn delete(&mut self) -> DeleteRangeRequest {
        let (key, range_end) = self.key_range();
        // Wide deletes would keep the store empty.
        let range_end = if self.rng.random_bool(0.5) { Bytes::new() } else { range_end };
        DeleteRangeRequest { key, range_end, prev_kv: self.rng.random_bool(0.4) }
    }

    pub(super) fn range(&mut self) -> RangeRequest {
        let (key, range_end) = self.key_range();
        let mut request = RangeRequest {
            key,
            range_end,
            revision: self.revision(),
            limit: if self.rng.random_bool(0.3) { self.pick(&[1, 2, 3, 5, 1_000, -1, i64::MAX]) } else { 0 },
            serializable: self.rng.random_bool(0.2),
            keys_only: self.rng.random_bool(0.1),
            count_only: self.rng.random_bool(0.1),
            ..RangeRequest::default()
        };
        if self.rng.random_bool(0.35) {
            request.sort_order = self.rng.random_range(0..3);
            request.sort_target = self.rng.random_range(0..5);
        }
        if self.rng.random_bool(0.15) {
            let bounds = [
                &mut request.min_mod_revision,
                &mut request.max_mod_revision,
                &mut request.min_create_revision,
                &mut request.max_create_revision,
            ];
            for bound in bounds {
                if self.rng.random_bool(0.4) {
                    *bound = current(-self.rng.random_range(0..40));
                }
            }
        }
        request
    }

    pub(super) fn txn(&mut self, world: &World, depth: u32) -> TxnRequest {
        if self.rng.random_bool(0.01) {
            return self.crowded_txn();
        }
        let compares = self.rng.random_range(0..4);
        let compare = (0..compares).map(|_| self.compare(world)).collect();
        TxnRequest { compare, success: self.branch(world, depth), failure: self.branch(world, depth) }
    }

    fn branch(&mut self, world: &World, depth: u32) -> Vec<RequestOp> {
        let ops = self.rng.random_range(0..4);
        (0..ops).map(|_| self.request_op(world, depth)).collect()
    }

    fn request_op(&mut self, world: &World, depth: u32) -> RequestOp {
        let request = match self.rng.random_range(0..100) {
            0..40 => request_op::Request::RequestPut(self.put(world)),
            40..70 => request_op::Request::RequestRange(self.range()),
            70..85 => request_op::Request::RequestDeleteRange(self.delete()),
            85..99 if depth < MAX_DEPTH => request_op::Request::RequestTxn(self.txn(world, depth + 1)),
            99 => return RequestOp { request: None },
            _ => request_op::Request::RequestRange(RangeRequest { key: self.key(), ..Default::default() }),
        };
        RequestOp { request: Some(request) }
    }

    fn crowded_txn(&mut self) -> TxnRequest {
        let many = TOO_MANY_OPS - usize::from(self.rng.random_bool(0.5));
        let delete = |n: usize| {
            let key = format!("many/{n}").into();
            let request = request_op::Request::RequestDeleteRange(DeleteRangeRequest { key, ..Default::default() });
            RequestOp { request: Some(request) }
        };
        let ops: Vec<RequestOp> = (0..many).map(delete).collect();
        match self.rng.random_range(0..4) {
            0 => TxnRequest { success: ops, ..Default::default() },
            1 => TxnRequest { failure: ops, ..Default::default() },
            2 => {
                let compare = Compare { key: "a".into(), ..Default::default() };
                TxnRequest { compare: vec![compare; many], ..Default::default() }
            }
            _ => {
                let inner = TxnRequest { success: ops, ..Default::default() };
                let nested = RequestOp { request: Some(request_op::Request::RequestTxn(inner)) };
                TxnRequest { success: vec![nested], ..Default::default() }
            }
        }
    }

    fn compare(&mut self, world: &World) -> Compare {
        let (key, range_end) = self.key_range();
        let range_end = if self.rng.random_bool(0.7) { Bytes::new() } else { range_end };
        let revision = if self.rng.random_bool(0.3) { 0 } else { current(-self.rng.random_range(0..30)) };
        let target = self.rng.random_range(0..5);
        // Sometimes the value is of another kind than the target, or missing.
        let kind = if self.rng.random_bool(0.03) { self.rng.random_range(0..6) } else { target };
        let target_union = match kind {
            0 => Some(TargetUnion::Version(self.rng.random_range(0..4))),
            1 => Some(TargetUnion::CreateRevision(revision)),
            2 => Some(TargetUnion::ModRevision(revision)),
            3 => Some(TargetUnion::Value(self.value())),
            4 => {
                let lease = self.pick(&[0, 0, UNKNOWN_LEASE]);
                Some(TargetUnion::Lease(if lease == 0 { 0 } else { self.attachable_lease(world) }))
            }
            _ => None,
        };
        let mut result = self.rng.random_range(0..4);
        if matches!(target_union, Some(TargetUnion::Lease(lease)) if lease >= chosen_lease(0)) {
            // Which of two ids that the servers chose is the larger one is chance.
            result = self.pick(&[CompareResult::Equal as i32, CompareResult::NotEqual as i32]);
        }
        Compare { result, target, key, target_union, range_end }
    }
}

/// The end of the range of keys that start with `prefix`, as clients compute it.
fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end.into();
        }
    }
    Bytes::from_static(b"\0")
}
