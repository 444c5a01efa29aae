//! Transactions: one compare with one put, or a fill with many puts each.

use api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use api::etcdserverpb::request_op::Request;
use api::etcdserverpb::{Compare, PutRequest, RangeRequest, RequestOp, TxnRequest};
use bytes::Bytes;
use rand::rngs::SmallRng;

use super::keys::KeySpace;
use super::unary::{Check, RequestSource};
use crate::connection::{CallError, frame};
use crate::wire;

/// `TxnResponse.succeeded`.
const SUCCEEDED_FIELD: u32 = 2;

/// Makes transactions that compare a key's version and put the key; the compare always holds.
pub(crate) struct CompareAndPut {
    /// Which keys.
    pub(crate) keys: KeySpace,
    /// The value of every put.
    pub(crate) value: Bytes,
}

impl RequestSource for CompareAndPut {
    fn path(&self) -> &'static str {
        "/etcdserverpb.KV/Txn"
    }

    fn request(&self, call: u64, random: &mut SmallRng) -> Bytes {
        let key = self.keys.key(self.keys.choose(call, random));
        let holds_always = Compare {
            result: CompareResult::Greater.into(),
            target: CompareTarget::Version.into(),
            key: key.clone(),
            target_union: Some(TargetUnion::Version(-1)),
            ..Default::default()
        };
        let range = RangeRequest { key: key.clone(), ..Default::default() };
        frame(&TxnRequest {
            compare: vec![holds_always],
            success: vec![put(key, self.value.clone())],
            failure: vec![RequestOp { request: Some(Request::RequestRange(range)) }],
        })
    }

    fn check(&self) -> Check<'_> {
        Check::Message(Box::new(|message| check_succeeded(&message)))
    }
}

/// Makes transactions of many puts in a row, to fill a key space.
pub(crate) struct Fill {
    /// Which keys, taken in order and again from the first.
    pub(crate) keys: KeySpace,
    /// The value of every put.
    pub(crate) value: Bytes,
    /// Puts of one transaction.
    pub(crate) puts: u64,
}

impl RequestSource for Fill {
    fn path(&self) -> &'static str {
        "/etcdserverpb.KV/Txn"
    }

    fn operations_per_call(&self) -> u64 {
        self.puts
    }

    fn request(&self, call: u64, _random: &mut SmallRng) -> Bytes {
        let first = call * self.puts;
        let put = |offset| put(self.keys.key((first + offset) % self.keys.count), self.value.clone());
        frame(&TxnRequest { success: (0..self.puts).map(put).collect(), ..Default::default() })
    }

    fn check(&self) -> Check<'_> {
        Check::Message(Box::new(|message| check_succeeded(&message)))
    }
}

fn put(key: Bytes, value: Bytes) -> RequestOp {
    RequestOp { request: Some(Request::RequestPut(PutRequest { key, value, ..Default::default() })) }
}

fn check_succeeded(message: &[u8]) -> Result<(), CallError> {
    match wire::fields(message).find(|(field, _)| *field == SUCCEEDED_FIELD) {
        Some((_, wire::Value::Number(1))) => Ok(()),
        _ => Err(CallError::Unexpected("the transaction's compare did not hold".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn a_fill_covers_the_key_space() {
        let keys = KeySpace { prefix: Bytes::from_static(b"k"), key_size: 5, count: 6, is_sequential: true };
        let fill = Fill { keys, value: Bytes::from_static(b"v"), puts: 4 };
        let keys_of = |call| {
            let framed = fill.request(call, &mut SmallRng::seed_from_u64(0));
            let txn = TxnRequest::decode(&framed[5..]).expect("a transaction");
            txn.success.into_iter().map(|op| match op.request {
                Some(Request::RequestPut(put)) => String::from_utf8_lossy(&put.key).into_owned(),
                other => panic!("not a put: {other:?}"),
            })
        };
        assert_eq!(keys_of(0).collect::<Vec<_>>(), ["k0000", "k0001", "k0002", "k0003"]);
        assert_eq!(keys_of(1).collect::<Vec<_>>(), ["k0004", "k0005", "k0000", "k0001"]);
    }
}
