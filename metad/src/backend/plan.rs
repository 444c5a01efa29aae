//! How a write is cut into transactions that etcd takes. One is enough for most. More are announced by a marker, a key
//! with a lease beside the data: who follows the data shows nothing of them before the last one has taken the marker
//! away.

use crate::values::Leaves;
use api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use api::etcdserverpb::{Compare, DeleteRangeRequest, PutRequest, RequestOp, TxnRequest};
use bytes::Bytes;
use client::message::{self, op};

/// Operations that etcd takes in one transaction, unless it is told otherwise.
const MAX_OPERATIONS: usize = 128;
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
}

impl Op {
    fn len(&self) -> usize {
        match self {
            Self::Put { key, value } => key.len() + value.len(),
            Self::Delete { first, end } => first.len() + end.len(),
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
        }
    }
}

/// Deletes of `surplus` keys, which are sorted, as few as can be: those with nothing between them that stays go as one
/// range. `puts` stay, and so does what is below `barrier`.
pub(super) fn deletes(surplus: &[Vec<u8>], puts: &Leaves, barrier: &[u8]) -> Vec<Op> {
    let stays_between = |first: &Vec<u8>, last: &Vec<u8>| {
        puts.range::<Vec<u8>, _>(first..last).next().is_some()
            || (first.as_slice() < barrier && barrier < last.as_slice())
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
        Self::Staged(parts)
    }
}

/// A transaction of some operations, under conditions.
pub(super) fn transaction(ops: Vec<Op>, compare: Vec<Compare>, lease: i64) -> TxnRequest {
    TxnRequest { compare, success: ops.into_iter().map(|op| op.request(lease)).collect(), failure: Vec::new() }
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
        };
        ops.iter().map(shown).collect()
    }

    #[test]
    fn what_goes_together_is_one_range_and_what_stays_is_in_none() {
        let puts: Leaves = keys(&["/b", "/d"]).into_iter().map(|key| (key, Vec::new())).collect();
        let ops = deletes(&keys(&["/a", "/aa", "/c", "/e", "/f", "/g"]), &puts, b"/f/x");
        assert_eq!(shown(&ops), ["/a../aa0", "/c..", "/e../f0", "/g.."]);
        assert!(deletes(&[], &puts, b"").is_empty());
    }

    #[test]
    fn large_writes_are_staged() {
        let put = |number: usize, len| Op::Put { key: number.to_string().into_bytes(), value: vec![0; len] };
        let of = |count, len| match Plan::of((0..count).map(|number| put(number, len)).collect()) {
            Plan::One(ops) => vec![ops.len()],
            Plan::Staged(parts) => parts.iter().map(Vec::len).collect(),
        };
        assert_eq!(of(128, 10), [128]);
        assert_eq!(of(129, 10), [127, 2]);
        assert_eq!(of(3, 600_000), [1, 1, 1]);
        assert_eq!(of(4, 400_000), [2, 2]);
    }
}
