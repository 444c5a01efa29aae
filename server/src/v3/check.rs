//! What is checked of a request before anything is proposed: its shape. etcd's checks, in etcd's order.

use api::error::Error;
use api::etcdserverpb::range_request::{SortOrder, SortTarget};
use api::etcdserverpb::request_op::Request;
use api::etcdserverpb::{Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Included, Unbounded};
use store::{KeyRange, RangeEnd};

pub(crate) fn range(request: &RangeRequest) -> Result<(), Error> {
    if request.key.is_empty() {
        return Err(Error::EmptyKey);
    }
    // etcd up to 3.5 panics on an unknown target; 3.6 refuses both.
    if SortOrder::try_from(request.sort_order).is_err() || SortTarget::try_from(request.sort_target).is_err() {
        return Err(Error::InvalidSortOption);
    }
    Ok(())
}

/// What etcd's streamed range does not serve: whatever needs the whole answer before its first key.
pub(crate) fn range_stream(request: &RangeRequest) -> Result<(), &'static str> {
    let sorted = request.sort_order == SortOrder::Descend as i32 || request.sort_target != SortTarget::Key as i32;
    let filtered = request.min_mod_revision != 0
        || request.max_mod_revision != 0
        || request.min_create_revision != 0
        || request.max_create_revision != 0;
    if sorted || filtered {
        return Err("etcdserver: sorting and revision filters are not supported by RangeStream");
    }
    Ok(())
}

pub(crate) fn put(request: &PutRequest) -> Result<(), Error> {
    if request.key.is_empty() {
        return Err(Error::EmptyKey);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(Error::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(Error::LeaseProvided);
    }
    Ok(())
}

pub(crate) fn delete_range(request: &DeleteRangeRequest) -> Result<(), Error> {
    if request.key.is_empty() { Err(Error::EmptyKey) } else { Ok(()) }
}

/// Checks a transaction of at most `max_ops` operations in each list.
pub(crate) fn txn(request: &TxnRequest, max_ops: usize) -> Result<(), Error> {
    txn_shape(request, max_ops)?;
    // Both branches are checked, each for itself: only one of them will run.
    branch_writes(&request.success)?;
    branch_writes(&request.failure)?;
    Ok(())
}

fn txn_shape(request: &TxnRequest, max_ops: usize) -> Result<(), Error> {
    let ops = request.compare.len().max(request.success.len()).max(request.failure.len());
    if ops > max_ops {
        return Err(Error::TooManyOps);
    }
    for Compare { key, .. } in &request.compare {
        if key.is_empty() {
            return Err(Error::EmptyKey);
        }
    }
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            Some(Request::RequestRange(request)) => range(request)?,
            Some(Request::RequestPut(request)) => put(request)?,
            Some(Request::RequestDeleteRange(request)) => delete_range(request)?,
            // A nested transaction has what its parent left of the budget.
            Some(Request::RequestTxn(request)) => txn_shape(request, max_ops - ops)?,
            None => return Err(Error::KeyNotFound),
        }
    }
    Ok(())
}

/// The keys that a branch may put and the ranges that it may delete.
#[derive(Default)]
struct Writes<'a> {
    puts: BTreeSet<&'a [u8]>,
    deletes: Deletes<'a>,
}

/// Ranges that do not touch each other, from their first keys to the keys behind them. There may be tens of thousands in
/// nested transactions, and as many keys to look for.
#[derive(Default)]
struct Deletes<'a>(BTreeMap<Cow<'a, [u8]>, Cow<'a, [u8]>>);

impl<'a> Deletes<'a> {
    fn insert(&mut self, mut begin: Cow<'a, [u8]>, mut end: Cow<'a, [u8]>) {
        if end <= begin {
            return;
        }
        let before = self.0.range::<[u8], _>((Unbounded, Included(&*begin))).next_back();
        if let Some((earlier, reaches)) = before
            && *reaches >= begin
        {
            begin.clone_from(earlier);
        }
        // Each that is joined goes, so that all of them together cost no more than they were.
        while let Some((at, _)) = self.0.range::<[u8], _>((Included(&*begin), Included(&*end))).next() {
            let at = at.clone();
            let reaches = self.0.remove(&at);
            end = end.max(reaches.unwrap_or_default());
        }
        self.0.insert(begin, end);
    }

    fn contains(&self, key: &[u8]) -> bool {
        let before = self.0.range::<[u8], _>((Unbounded, Included(key))).next_back();
        before.is_some_and(|(_, end)| key < &**end)
    }

    fn extend(&mut self, mut other: Self) {
        if other.0.len() > self.0.len() {
            std::mem::swap(self, &mut other);
        }
        for (begin, end) in other.0 {
            self.insert(begin, end);
        }
    }
}

impl<'a> Writes<'a> {
    fn delete(&mut self, range: KeyRange<'a>) {
        // etcd reads the end "\0" literally here, so that deleting "everything from" overlaps with no put.
        match range.end {
            RangeEnd::Open => {}
            RangeEnd::Single => self.deletes.insert(range.key.into(), [range.key, b"\0"].concat().into()),
            RangeEnd::Before(end) => self.deletes.insert(range.key.into(), end.into()),
        }
    }

    fn put(&mut self, key: &'a [u8], allowed_twice: Option<&BTreeSet<&[u8]>>) -> Result<(), Error> {
        let twice = !self.puts.insert(key) && !allowed_twice.is_some_and(|allowed| allowed.contains(key));
        if twice || self.deletes.contains(key) {
            return Err(Error::DuplicateKey);
        }
        Ok(())
    }
}

/// Gathers what a branch may write: first its own deletes, then nested transactions in order, then its own puts.
/// The order is etcd's and decides which overlaps between nested transactions are found.
///
/// # Errors
/// A key would be put twice, or put and deleted, in one run of the branch.
fn branch_writes(ops: &[RequestOp]) -> Result<Writes<'_>, Error> {
    let mut writes = Writes::default();
    for op in ops {
        if let Some(Request::RequestDeleteRange(request)) = &op.request {
            writes.delete(KeyRange::new(&request.key, &request.range_end));
        }
    }
    for op in ops {
        if let Some(Request::RequestTxn(nested)) = &op.request {
            let success = branch_writes(&nested.success)?;
            let failure = branch_writes(&nested.failure)?;
            for key in &success.puts {
                writes.put(key, None)?;
            }
            for key in &failure.puts {
                // Only one of the two runs, so both may put the same key.
                writes.put(key, Some(&success.puts))?;
            }
            writes.deletes.extend(success.deletes);
            writes.deletes.extend(failure.deletes);
        }
    }
    for op in ops {
        if let Some(Request::RequestPut(request)) = &op.request {
            writes.put(&request.key, None)?;
        }
    }
    Ok(writes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn deletes_hold_what_their_ranges_hold() {
        let keys: Vec<Vec<u8>> =
            (0..64_u8).map(|n| vec![b'a' + n / 8, b'a' + n % 8][..=usize::from(n % 3 > 0)].to_vec()).collect();
        let mut seed = 1_u32;
        let mut next = |below: usize| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) as usize % below
        };
        for _ in 0..200 {
            let (mut deletes, mut ranges) = (Deletes::default(), Vec::new());
            for _ in 0..next(12) {
                let (begin, end) = (&keys[next(64)], &keys[next(64)]);
                let end = if next(3) == 0 { [begin, &b"\0"[..]].concat() } else { end.clone() };
                deletes.insert(begin.into(), end.clone().into());
                ranges.push((begin.clone(), end));
            }
            for key in &keys {
                let expected = ranges.iter().any(|(begin, end)| begin <= key && key < end);
                assert_eq!(deletes.contains(key), expected, "{key:?} in {ranges:?}");
            }
        }
    }

    fn put_op(key: &str) -> RequestOp {
        let request = PutRequest { key: Bytes::copy_from_slice(key.as_bytes()), ..Default::default() };
        RequestOp { request: Some(Request::RequestPut(request)) }
    }

    fn delete_op(key: &str, end: &str) -> RequestOp {
        let (key, range_end) = (Bytes::copy_from_slice(key.as_bytes()), Bytes::copy_from_slice(end.as_bytes()));
        RequestOp { request: Some(Request::RequestDeleteRange(DeleteRangeRequest { key, range_end, prev_kv: false })) }
    }

    fn nested(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> RequestOp {
        RequestOp { request: Some(Request::RequestTxn(TxnRequest { compare: vec![], success, failure })) }
    }

    #[test]
    fn overlapping_writes() {
        let duplicate = Err(Error::DuplicateKey);
        for (name, success, expected) in [
            ("put twice", vec![put_op("a"), put_op("a")], duplicate),
            ("put and delete", vec![put_op("b"), delete_op("a", "c")], duplicate),
            ("put beside delete", vec![put_op("c"), delete_op("a", "c")], Ok(())),
            ("delete twice", vec![delete_op("a", ""), delete_op("a", "c")], Ok(())),
            ("delete everything from", vec![put_op("c"), delete_op("a", "\0")], Ok(())),
            ("both branches of one nested", vec![nested(vec![put_op("a")], vec![put_op("a")])], Ok(())),
            ("two nested", vec![nested(vec![put_op("a")], vec![]), nested(vec![], vec![put_op("a")])], duplicate),
            ("nested and own", vec![nested(vec![put_op("a")], vec![]), put_op("a")], duplicate),
            (
                "put in one branch, delete in the other",
                vec![nested(vec![put_op("a")], vec![delete_op("a", "")])],
                Ok(()),
            ),
            ("nested put, own delete", vec![nested(vec![put_op("a")], vec![]), delete_op("a", "")], duplicate),
        ] {
            let request = TxnRequest { success, ..Default::default() };
            assert_eq!(txn(&request, 128), expected, "{name}");
        }
    }

    #[test]
    fn budget_of_operations() {
        let many = |n: usize| (0..n).map(|i| put_op(&format!("k{i}"))).collect::<Vec<_>>();
        let check = |success| txn(&TxnRequest { success, ..Default::default() }, 4);
        assert_eq!(check(many(4)), Ok(()));
        assert_eq!(check(many(5)), Err(Error::TooManyOps));
        assert_eq!(check(vec![nested(many(3), vec![])]), Ok(()));
        assert_eq!(check(vec![nested(many(4), vec![])]), Err(Error::TooManyOps));
        assert_eq!(check(vec![RequestOp { request: None }]), Err(Error::KeyNotFound));
    }
}
