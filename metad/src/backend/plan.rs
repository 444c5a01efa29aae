//! How a write is cut into transactions that etcd takes. One is enough for most. More are announced by a marker, a key
//! with a lease beside the data (`stage.rs`).

use crate::values::Leaves;
use api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use api::etcdserverpb::response_op::Response;
use api::etcdserverpb::{Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, TxnResponse};
use api::mvccpb::KeyValue;
use bytes::Bytes;
use client::message::{self, op};

/// Operations of one transaction. etcd takes 128, unless it is told otherwise, and counts two that are within one of ours
/// with them.
const MAX_OPERATIONS: usize = 128 - 2;
/// Keys and values of one transaction; etcd takes half as much again in a request.
const MAX_BYTES: usize = 1 << 20;

/// A change of one key, or of a range of keys that are all to go.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Op {
    Put {
        key: Vec<u8>,
        value: Vec<u8>,
    },
    /// Keys from the first up to the end, which stays; without an end, one key.
    Delete {
        first: Vec<u8>,
        end: Vec<u8>,
    },
    /// The keys in some ranges, one or two; if there is none, one key. What hides a value goes without it.
    DeletePath {
        key: Vec<u8>,
        below: Vec<(Bytes, Bytes)>,
    },
}

impl Op {
    fn len(&self) -> usize {
        match self {
            Self::Put { key, value } => key.len() + value.len(),
            Self::Delete { first, end } => first.len() + end.len(),
            Self::DeletePath { key, below } => {
                key.len() + 2 * below.iter().map(|(first, end)| first.len() + end.len()).sum::<usize>()
            }
        }
    }

    fn request(self, lease: i64) -> RequestOp {
        match self {
            Self::Put { key, value } => op::put(PutRequest { lease, ..message::put(key, value) }),
            Self::Delete { first, end } => op::delete(DeleteRangeRequest {
                key: first.into(),
                range_end: end.into(),
                ..DeleteRangeRequest::default()
            }),
            Self::DeletePath { key, below } => {
                let delete = |(key, range_end)| {
                    op::delete(DeleteRangeRequest { key, range_end, ..DeleteRangeRequest::default() })
                };
                op::txn(TxnRequest {
                    compare: below.iter().cloned().map(is_empty).collect(),
                    success: vec![op::delete(message::delete(key))],
                    failure: below.into_iter().map(delete).collect(),
                })
            }
        }
    }
}

/// Deletes of `surplus` keys, which are sorted, as few as can be: those with nothing between them that stays go as one
/// range. `puts` stay, and so does what is in the range `reserved`.
pub(super) fn deletes(surplus: &[Vec<u8>], puts: &Leaves, reserved: &(Bytes, Bytes)) -> Vec<Op> {
    let stays_between = |first: &Vec<u8>, last: &Vec<u8>| {
        puts.range::<Vec<u8>, _>(first..last).next().is_some() || (*first < reserved.1 && reserved.0 < *last)
    };
    let mut ops = Vec::new();
    let mut rest = surplus;
    while let Some(first) = rest.first() {
        let run = rest.windows(2).take_while(|pair| !stays_between(&pair[0], &pair[1])).count() + 1;
        let end = if run == 1 { Vec::new() } else { message::after(&rest[run - 1]).to_vec() };
        ops.push(Op::Delete { first: first.clone(), end });
        rest = &rest[run..];
    }
    ops
}

/// The transactions of a write.
#[derive(Debug, PartialEq)]
pub(super) enum Plan {
    /// All at once.
    One(Vec<Op>),
    /// The first and the last of them write and delete the marker, too.
    Staged(Vec<Vec<Op>>),
}

impl Plan {
    pub(super) fn of(ops: Vec<Op>) -> Self {
        let mut parts: Vec<Vec<Op>> = Vec::new();
        let mut bytes = 0;
        // A place is kept for the marker.
        let is_one = ops.len() <= MAX_OPERATIONS && ops.iter().map(Op::len).sum::<usize>() <= MAX_BYTES;
        if is_one {
            return Self::One(ops);
        }
        for op in ops {
            let len = op.len();
            match parts.last_mut() {
                Some(part) if part.len() < MAX_OPERATIONS - 1 && bytes + len <= MAX_BYTES => {
                    bytes += len;
                    part.push(op);
                }
                _ => {
                    bytes = len;
                    parts.push(vec![op]);
                }
            }
        }
        match parts.len() {
            // One value that is larger than a transaction needs to be.
            0 | 1 => Self::One(parts.pop().unwrap_or_default()),
            _ => {
                // The largest first: if the store takes no requests of that size it refuses before anything is done.
                parts.sort_by_key(|part| std::cmp::Reverse(part.iter().map(Op::len).sum::<usize>()));
                Self::Staged(parts)
            }
        }
    }
}

/// A transaction of some operations, under conditions. If they do not hold it answers with the keys of `otherwise`.
pub(super) fn transaction(
    ops: Vec<Op>,
    compare: Vec<Compare>,
    lease: i64,
    otherwise: Option<RangeRequest>,
) -> TxnRequest {
    let success = ops.into_iter().map(|op| op.request(lease)).collect();
    TxnRequest { compare, success, failure: otherwise.map(op::range).into_iter().collect() }
}

/// Keys of a few markers below their directory.
pub(super) fn some_keys((key, range_end): (Bytes, Bytes)) -> RangeRequest {
    RangeRequest { key, range_end, limit: 8, keys_only: true, ..RangeRequest::default() }
}

/// The keys that a transaction found whose conditions did not hold.
pub(super) fn found(answer: &TxnResponse) -> impl Iterator<Item = &KeyValue> {
    answer.responses.iter().flat_map(|response| match &response.response {
        Some(Response::ResponseRange(range)) => range.kvs.as_slice(),
        _ => &[],
    })
}

/// True if a transaction has written or deleted a key.
pub(super) fn has_changed(answer: &TxnResponse) -> bool {
    answer.responses.iter().any(|response| match &response.response {
        Some(Response::ResponsePut(_)) => true,
        Some(Response::ResponseDeleteRange(deleted)) => deleted.deleted > 0,
        Some(Response::ResponseTxn(answer)) => has_changed(answer),
        _ => false,
    })
}

/// Holds while nothing in a range was written after a revision.
pub(super) fn unchanged_since((key, range_end): (Bytes, Bytes), revision: i64) -> Compare {
    Compare {
        result: CompareResult::Less.into(),
        target: CompareTarget::Mod.into(),
        key,
        range_end,
        target_union: Some(TargetUnion::ModRevision(revision + 1)),
    }
}

/// Holds while there is no key in a range.
pub(super) fn is_empty((key, range_end): (Bytes, Bytes)) -> Compare {
    Compare {
        result: CompareResult::Less.into(),
        target: CompareTarget::Create.into(),
        key,
        range_end,
        target_union: Some(TargetUnion::CreateRevision(1)),
    }
}

/// Holds while a key exists.
pub(super) fn exists(key: &[u8]) -> Compare {
    Compare {
        result: CompareResult::Greater.into(),
        target: CompareTarget::Create.into(),
        key: Bytes::copy_from_slice(key),
        range_end: Bytes::new(),
        target_union: Some(TargetUnion::CreateRevision(0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(keys: &[&str]) -> Vec<Vec<u8>> {
        keys.iter().map(|key| key.as_bytes().to_vec()).collect()
    }

    fn shown(ops: &[Op]) -> Vec<String> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace('\0', "0").clone();
        let shown = |op: &Op| match op {
            Op::Put { key, .. } => text(key),
            Op::Delete { first, end } => format!("{}..{}", text(first), text(end)),
            Op::DeletePath { key, .. } => format!("{}/", text(key)),
        };
        ops.iter().map(shown).collect()
    }

    #[test]
    fn what_goes_together_is_one_range_and_what_stays_is_in_none() {
        let puts: Leaves = keys(&["/b", "/d"]).into_iter().map(|key| (key, Vec::new())).collect();
        let ops = deletes(&keys(&["/a", "/aa", "/c", "/e", "/f", "/g"]), &puts, &message::prefix_range("/f/x/"));
        assert_eq!(shown(&ops), ["/a../aa0", "/c..", "/e../f0", "/g.."]);
        assert!(deletes(&[], &puts, &message::prefix_range("/f/x/")).is_empty());
    }

    /// What has changed nothing has no echo to wait for.
    #[test]
    fn an_answer_tells_whether_something_has_changed() {
        use api::etcdserverpb::{DeleteRangeResponse, PutResponse, RangeResponse, ResponseOp};
        let of = |response| TxnResponse {
            responses: vec![ResponseOp { response: Some(response) }],
            ..TxnResponse::default()
        };
        let deleted = |deleted| Response::ResponseDeleteRange(DeleteRangeResponse { deleted, ..Default::default() });
        assert!(has_changed(&of(Response::ResponsePut(PutResponse::default()))) && has_changed(&of(deleted(1))));
        assert!(!has_changed(&of(Response::ResponseRange(RangeResponse::default()))) && !has_changed(&of(deleted(0))));
        assert!(has_changed(&of(Response::ResponseTxn(of(deleted(2))))));
        assert!(!has_changed(&of(Response::ResponseTxn(of(deleted(0))))));
    }

    #[test]
    fn large_writes_are_staged() {
        let put = |number: usize, len| Op::Put { key: number.to_string().into_bytes(), value: vec![0; len] };
        let of = |count, len| match Plan::of((0..count).map(|number| put(number, len)).collect()) {
            Plan::One(ops) => vec![ops.len()],
            Plan::Staged(parts) => parts.iter().map(Vec::len).collect(),
        };
        assert_eq!(of(126, 10), [126]);
        assert_eq!(of(127, 10), [125, 2]);
        assert_eq!(of(3, 600_000), [1, 1, 1]);
        assert_eq!(of(4, 400_000), [2, 2]);
        assert_eq!(of(1, 1_200_000), [1]);
        assert_eq!(of(0, 0), [0]);
        // What may be too large for the store goes first.
        let mut ops: Vec<Op> = (0..200).map(|number| put(number, 10)).collect();
        ops.push(put(200, 1_400_000));
        let Plan::Staged(parts) = Plan::of(ops) else { panic!("one transaction") };
        assert_eq!(parts.iter().map(Vec::len).collect::<Vec<_>>(), [1, 125, 75]);
    }
}
