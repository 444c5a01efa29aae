//! Short ways to write the common requests. They are plain messages: what is not said here is set on the result.

use api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use api::etcdserverpb::{Compare, DeleteRangeRequest, PutRequest, RangeRequest};
use bytes::{BufMut, Bytes, BytesMut};

/// One key.
pub fn get(key: impl Into<Bytes>) -> RangeRequest {
    RangeRequest { key: key.into(), ..RangeRequest::default() }
}

/// All keys with a prefix.
pub fn get_prefix(prefix: impl Into<Bytes>) -> RangeRequest {
    let (key, range_end) = prefix_range(prefix);
    RangeRequest { key, range_end, ..RangeRequest::default() }
}

/// A key and its value, without a lease.
pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> PutRequest {
    PutRequest { key: key.into(), value: value.into(), ..PutRequest::default() }
}

/// One key.
pub fn delete(key: impl Into<Bytes>) -> DeleteRangeRequest {
    DeleteRangeRequest { key: key.into(), ..DeleteRangeRequest::default() }
}

/// All keys with a prefix.
pub fn delete_prefix(prefix: impl Into<Bytes>) -> DeleteRangeRequest {
    let (key, range_end) = prefix_range(prefix);
    DeleteRangeRequest { key, range_end, ..DeleteRangeRequest::default() }
}

/// `key` and `range_end` that mean all keys with a prefix; the empty prefix means every key.
pub fn prefix_range(prefix: impl Into<Bytes>) -> (Bytes, Bytes) {
    let prefix = prefix.into();
    let key = if prefix.is_empty() { Bytes::from_static(b"\0") } else { prefix.clone() };
    let end = match prefix.iter().rposition(|&byte| byte != u8::MAX) {
        Some(last) => {
            let mut end = BytesMut::from(&prefix[..=last]);
            end[last] += 1;
            end.freeze()
        }
        // Nothing is above: to the end of all keys.
        None => Bytes::from_static(b"\0"),
    };
    (key, end)
}

/// The first key behind this one.
pub fn after(key: &[u8]) -> Bytes {
    let mut next = BytesMut::with_capacity(key.len() + 1);
    next.put_slice(key);
    next.put_u8(0);
    next.freeze()
}

/// Operations of a transaction.
pub mod op {
    use api::etcdserverpb::request_op::Request;
    use api::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};

    /// Reads.
    pub fn range(request: RangeRequest) -> RequestOp {
        RequestOp { request: Some(Request::RequestRange(request)) }
    }

    /// Writes.
    pub fn put(request: PutRequest) -> RequestOp {
        RequestOp { request: Some(Request::RequestPut(request)) }
    }

    /// Deletes.
    pub fn delete(request: DeleteRangeRequest) -> RequestOp {
        RequestOp { request: Some(Request::RequestDeleteRange(request)) }
    }

    /// Compares once more.
    pub fn txn(request: TxnRequest) -> RequestOp {
        RequestOp { request: Some(Request::RequestTxn(request)) }
    }
}

/// Holds while the key does not exist.
pub fn is_absent(key: impl Into<Bytes>) -> Compare {
    created_at(key, 0)
}

/// Holds while the key is the one that was created at this revision.
pub fn created_at(key: impl Into<Bytes>, revision: i64) -> Compare {
    equal(key, CompareTarget::Create, TargetUnion::CreateRevision(revision))
}

/// Holds while the key is as it was written at this revision.
pub fn modified_at(key: impl Into<Bytes>, revision: i64) -> Compare {
    equal(key, CompareTarget::Mod, TargetUnion::ModRevision(revision))
}

fn equal(key: impl Into<Bytes>, target: CompareTarget, value: TargetUnion) -> Compare {
    Compare {
        result: CompareResult::Equal.into(),
        target: target.into(),
        key: key.into(),
        range_end: Bytes::new(),
        target_union: Some(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_ranges() {
        let cases: [(&[u8], &[u8], &[u8]); 5] = [
            (b"a/", b"a/", b"a0"),
            (b"", b"\0", b"\0"),
            (b"a\xff\xff", b"a\xff\xff", b"b"),
            (b"\xff", b"\xff", b"\0"),
            (b"\0", b"\0", b"\x01"),
        ];
        for (prefix, key, end) in cases {
            let prefix = Bytes::copy_from_slice(prefix);
            let expected = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(end));
            assert_eq!(prefix_range(prefix.clone()), expected, "{prefix:?}");
        }
        assert_eq!(after(b"a"), b"a\0".as_slice());
    }
}
