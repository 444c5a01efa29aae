//! Transactions: comparisons, then one of two lists of operations.
//!
//! All comparisons, those of nested transactions too, are decided on the state before the first operation. Then the
//! operations of the branches that will run are checked, so that nothing is written by a transaction that fails.
//! Both orders are etcd's and clients can see them.

use super::key_range::KeyRange;
use super::write::{ReadView, WriteTxn};
use crate::error::{Fault, ReadError, Rejection};
use api::encoded::{DeleteRangeResponse, KeyValueFields, PutResponse, Response, ResponseOp, TxnResponse};
use api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use api::etcdserverpb::request_op::Request;
use api::etcdserverpb::{Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, ResponseHeader, TxnRequest};
use std::cmp::Ordering;

/// The header inside a transaction's responses: only the revision.
#[allow(clippy::unnecessary_wraps, reason = "a message field is an `Option`")]
fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision, ..Default::default() })
}

/// Which branch every transaction takes, in the order in which they are met.
struct Path(Vec<bool>);

/// Runs a transaction.
///
/// # Errors
/// A rejection leaves the state as it was.
pub(crate) fn txn(write: &mut WriteTxn<'_>, request: &TxnRequest) -> Result<TxnResponse, ReadError> {
    let path = decide(&write.view(), request)?;
    let mut response = run(request, &mut path.0.iter().copied(), &mut |op| match op {
        Request::RequestPut(request) => Ok(Some(Response::Put(put(write, request)?))),
        Request::RequestDeleteRange(request) => Ok(Some(Response::DeleteRange(delete_range(write, request)?))),
        other => read_op(&write.view(), other),
    })?;
    response.header = header(write.view().revision());
    Ok(response)
}

/// Runs a transaction that only reads, see [`is_read_only`].
///
/// # Errors
/// A compacted or future revision; a fault.
pub(crate) fn read(view: &ReadView<'_>, request: &TxnRequest) -> Result<TxnResponse, ReadError> {
    let path = decide(view, request)?;
    run(request, &mut path.0.iter().copied(), &mut |op| read_op(view, op))
}

/// Chooses the branches and checks their operations.
fn decide(view: &ReadView<'_>, request: &TxnRequest) -> Result<Path, ReadError> {
    let mut path = Path(Vec::new());
    choose(view, request, &mut path)?;
    check(view, request, &path, check_put)?;
    check(view, request, &path, check_range)?;
    Ok(path)
}

fn branch(request: &TxnRequest, succeeded: bool) -> &[RequestOp] {
    if succeeded { &request.success } else { &request.failure }
}

fn choose(view: &ReadView<'_>, request: &TxnRequest, path: &mut Path) -> Result<(), Fault> {
    let mut succeeded = true;
    for compare in &request.compare {
        if !holds(view, compare)? {
            succeeded = false;
            break;
        }
    }
    path.0.push(succeeded);
    for op in branch(request, succeeded) {
        if let Some(Request::RequestTxn(nested)) = &op.request {
            choose(view, nested, path)?;
        }
    }
    Ok(())
}

type Check = fn(&ReadView<'_>, &Request) -> Result<(), Rejection>;

fn check(view: &ReadView<'_>, request: &TxnRequest, path: &Path, check: Check) -> Result<(), Rejection> {
    fn walk(
        view: &ReadView<'_>,
        request: &TxnRequest,
        branches: &mut impl Iterator<Item = bool>,
        check: Check,
    ) -> Result<(), Rejection> {
        for op in branch(request, branches.next().unwrap_or_default()) {
            match &op.request {
                Some(Request::RequestTxn(nested)) => walk(view, nested, branches, check)?,
                Some(other) => check(view, other)?,
                None => {}
            }
        }
        Ok(())
    }
    walk(view, request, &mut path.0.iter().copied(), check)
}

fn check_put(view: &ReadView<'_>, op: &Request) -> Result<(), Rejection> {
    let Request::RequestPut(put) = op else { return Ok(()) };
    if (put.ignore_value || put.ignore_lease) && !view.exists(&put.key) {
        return Err(Rejection::KeyNotFound);
    }
    if put.lease != 0 && view.state.leases.get(put.lease).is_none() {
        return Err(Rejection::LeaseNotFound);
    }
    Ok(())
}

fn check_range(view: &ReadView<'_>, op: &Request) -> Result<(), Rejection> {
    let Request::RequestRange(range) = op else { return Ok(()) };
    if range.revision == 0 {
        return Ok(());
    }
    if range.revision > view.state.revision {
        return Err(Rejection::FutureRevision);
    }
    // Negative revisions mean "latest" to a range of its own, but not here: etcd compares the number.
    if range.revision < view.state.compacted {
        return Err(Rejection::Compacted);
    }
    Ok(())
}

/// Runs the operations of the chosen branches; `operate` answers whatever is no transaction.
fn run(
    request: &TxnRequest,
    branches: &mut impl Iterator<Item = bool>,
    operate: &mut impl FnMut(&Request) -> Result<Option<Response>, ReadError>,
) -> Result<TxnResponse, ReadError> {
    let succeeded = branches.next().unwrap_or_default();
    let mut responses = Vec::new();
    for op in branch(request, succeeded) {
        let response = match &op.request {
            Some(Request::RequestTxn(request)) => {
                let mut nested = run(request, branches, operate)?;
                nested.header = Some(ResponseHeader::default());
                Some(Response::Txn(nested))
            }
            Some(other) => operate(other)?,
            None => None,
        };
        responses.push(ResponseOp { response });
    }
    Ok(TxnResponse { header: None, succeeded, responses })
}

/// Answers an operation that only reads.
fn read_op(view: &ReadView<'_>, op: &Request) -> Result<Option<Response>, ReadError> {
    let Request::RequestRange(request) = op else { return Ok(None) };
    let mut response = view.range(request)?;
    response.header = header(view.revision());
    Ok(Some(Response::Range(response)))
}

/// Puts a key, within a transaction or alone.
///
/// # Errors
/// `ignore_value` and `ignore_lease` need the key; a lease must have been granted.
pub(crate) fn put(write: &mut WriteTxn<'_>, request: &PutRequest) -> Result<PutResponse, ReadError> {
    if request.lease != 0 && write.state.leases.get(request.lease).is_none() {
        return Err(Rejection::LeaseNotFound.into());
    }
    let keep = request.ignore_value || request.ignore_lease;
    let previous = if keep || request.prev_kv { write.view().get(&request.key)? } else { None };
    if keep && previous.is_none() {
        return Err(Rejection::KeyNotFound.into());
    }
    let (mut value, mut lease) = (&*request.value, request.lease);
    if let Some(previous) = &previous {
        // Invariant: `get` checked that it decodes.
        let fields = previous.fields().unwrap_or_default();
        if request.ignore_value {
            value = fields.value;
        }
        if request.ignore_lease {
            lease = fields.lease;
        }
    }
    let revision = write.put(&request.key, value, lease);
    Ok(PutResponse { header: header(revision), prev_kv: previous.filter(|_| request.prev_kv) })
}

/// Deletes a range, within a transaction or alone.
pub(crate) fn delete_range(
    write: &mut WriteTxn<'_>,
    request: &DeleteRangeRequest,
) -> Result<DeleteRangeResponse, ReadError> {
    let mut prev_kvs = Vec::new();
    if request.prev_kv {
        let all = RangeRequest { key: request.key.clone(), range_end: request.range_end.clone(), ..Default::default() };
        prev_kvs = write.view().range(&all)?.kvs;
    }
    let deleted = write.delete_range(KeyRange::new(&request.key, &request.range_end));
    Ok(DeleteRangeResponse { header: header(write.view().revision()), deleted, prev_kvs })
}

/// True when a comparison holds: for every key of its range, or against the zero key-value when there is none.
fn holds(view: &ReadView<'_>, compare: &Compare) -> Result<bool, Fault> {
    let range = KeyRange::new(&compare.key, &compare.range_end);
    let mut any = false;
    for (key, entry) in view.state.index.range(range, None).filter(|(_, entry)| entry.is_live()) {
        any = true;
        let kv = view.shared.key_value(view.state, key, entry.last())?;
        if !matches(compare, &super::state::fields(kv.as_bytes())?) {
            return Ok(false);
        }
    }
    // A value is never equal, unequal, less or greater than one that does not exist.
    Ok(any || (compare.target != CompareTarget::Value as i32 && matches(compare, &KeyValueFields::default())))
}

fn matches(compare: &Compare, stored: &KeyValueFields<'_>) -> bool {
    let given = compare.target_union.as_ref();
    // A union of another kind than the target counts as zero, an unknown target as equal: etcd's behaviour.
    let order = match CompareTarget::try_from(compare.target) {
        Ok(CompareTarget::Value) => match given {
            Some(TargetUnion::Value(value)) => stored.value.cmp(value),
            _ => stored.value.cmp(&[]),
        },
        Ok(CompareTarget::Version) => stored.version.cmp(&match given {
            Some(TargetUnion::Version(version)) => *version,
            _ => 0,
        }),
        Ok(CompareTarget::Create) => stored.create_revision.cmp(&match given {
            Some(TargetUnion::CreateRevision(revision)) => *revision,
            _ => 0,
        }),
        Ok(CompareTarget::Mod) => stored.mod_revision.cmp(&match given {
            Some(TargetUnion::ModRevision(revision)) => *revision,
            _ => 0,
        }),
        Ok(CompareTarget::Lease) => stored.lease.cmp(&match given {
            Some(TargetUnion::Lease(lease)) => *lease,
            _ => 0,
        }),
        Err(_) => Ordering::Equal,
    };
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => order == Ordering::Equal,
        Ok(CompareResult::NotEqual) => order != Ordering::Equal,
        Ok(CompareResult::Greater) => order == Ordering::Greater,
        Ok(CompareResult::Less) => order == Ordering::Less,
        Err(_) => true,
    }
}

/// True when neither branch of the transaction, nested ones included, writes.
pub fn is_read_only(request: &TxnRequest) -> bool {
    request.success.iter().chain(&request.failure).all(|op| match &op.request {
        Some(Request::RequestTxn(nested)) => is_read_only(nested),
        Some(Request::RequestPut(_) | Request::RequestDeleteRange(_)) => false,
        Some(Request::RequestRange(_)) | None => true,
    })
}
