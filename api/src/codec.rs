//! How the server's messages are decoded: as prost does it, after a look at what they would take.
//!
//! Two bytes are an operation of a transaction that has nothing in it, and a hundred times as much once it is decoded. So a
//! request that is small enough could still take hundreds of megabytes, before anybody can count its operations.

use crate::error::Error;
use crate::etcdserverpb::TxnRequest;
use bytes::Buf;
use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use std::any::TypeId;
use tonic::Status;
use tonic::codec::{BufferSettings, DecodeBuf, Decoder};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

/// Comparisons and operations of a transaction, nested ones included, above which it is refused without being decoded.
/// No server allows so many: `--max-txn-ops` bounds each list, and each nested transaction has what its parents left.
const TXN_PARTS_MAX: usize = 1 << 16;

/// Nested messages that prost decodes.
const DEPTH_MAX: usize = 100;

/// The codec of the services.
#[derive(Debug)]
pub struct Codec<T, U>(ProstCodec<T, U>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(ProstCodec::default())
    }
}

impl<T, U> tonic::codec::Codec for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = Bounded<U>;

    fn encoder(&mut self) -> Self::Encoder {
        self.0.encoder()
    }

    fn decoder(&mut self) -> Self::Decoder {
        Bounded(self.0.decoder())
    }
}

/// Decodes a message unless it would become far larger than it is.
#[derive(Debug)]
pub struct Bounded<U>(ProstDecoder<U>);

impl<U: Message + Default + 'static> Decoder for Bounded<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        let is_txn = TypeId::of::<U>() == TypeId::of::<TxnRequest>();
        if is_txn && has_too_many_parts(buf.chunk()) {
            return Err(Status::invalid_argument(Error::TooManyOps.to_string()));
        }
        self.0.decode(buf)
    }

    fn buffer_settings(&self) -> BufferSettings {
        self.0.buffer_settings()
    }
}

/// True if an encoded transaction has more than [`TXN_PARTS_MAX`] comparisons and operations. What is not one is left to
/// who decodes it.
pub fn has_too_many_parts(txn: &[u8]) -> bool {
    let mut left = TXN_PARTS_MAX;
    count_txn(txn, DEPTH_MAX, &mut left).is_none() && left == 0
}

/// Takes the parts of a transaction from `left`; None when there are not enough, or the bytes are no message.
fn count_txn(mut bytes: &[u8], depth: usize, left: &mut usize) -> Option<()> {
    while let Some((field, body)) = next(&mut bytes)? {
        if !matches!(field, 1..=3) {
            continue;
        }
        let Some(body) = body else { continue };
        if *left == 0 {
            return None;
        }
        *left -= 1;
        if field != 1 {
            count_op(body, depth.checked_sub(1)?, left)?;
        }
    }
    Some(())
}

/// An operation can be a transaction.
fn count_op(mut bytes: &[u8], depth: usize, left: &mut usize) -> Option<()> {
    while let Some((field, body)) = next(&mut bytes)? {
        if let (4, Some(body)) = (field, body) {
            count_txn(body, depth.checked_sub(1)?, left)?;
        }
    }
    Some(())
}

/// The next field, with its bytes if it has a length; the outer None is damage, the inner one the end.
fn next<'a>(bytes: &mut &'a [u8]) -> Option<Option<(u32, Option<&'a [u8]>)>> {
    if bytes.is_empty() {
        return Some(None);
    }
    let (field, wire) = decode_key(bytes).ok()?;
    if wire != WireType::LengthDelimited {
        skip_field(wire, field, bytes, DecodeContext::default()).ok()?;
        return Some(Some((field, None)));
    }
    let length = usize::try_from(decode_varint(bytes).ok()?).ok()?;
    let (body, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(Some((field, Some(body))))
}

#[cfg(test)]
mod tests {
    use super::{TXN_PARTS_MAX, has_too_many_parts};
    use crate::etcdserverpb::request_op::Request;
    use crate::etcdserverpb::{Compare, RangeRequest, RequestOp, TxnRequest};
    use prost::Message;

    fn nested(inner: TxnRequest) -> RequestOp {
        RequestOp { request: Some(Request::RequestTxn(inner)) }
    }

    #[test]
    fn every_list_at_every_depth_counts() {
        let half = TXN_PARTS_MAX / 2;
        let empty = |count| vec![RequestOp::default(); count];
        let of = |compare: usize, success, failure| TxnRequest {
            compare: vec![Compare::default(); compare],
            success: empty(success),
            failure: empty(failure),
        };
        for full in [of(TXN_PARTS_MAX, 0, 0), of(half, half, 0), of(0, half, half)] {
            assert!(!has_too_many_parts(&full.encode_to_vec()));
            let deeper = TxnRequest { success: vec![nested(full.clone())], ..TxnRequest::default() };
            assert!(has_too_many_parts(&deeper.encode_to_vec()), "the nested transaction is a part, too");
            let more = TxnRequest { failure: [full.failure, empty(1)].concat(), ..full };
            assert!(has_too_many_parts(&more.encode_to_vec()));
        }
    }

    #[test]
    fn what_is_large_is_not_many() {
        let key = vec![b'\x12'; 1 << 20].into();
        let range = Request::RequestRange(RangeRequest { key, ..RangeRequest::default() });
        let op = RequestOp { request: Some(range) };
        let txn = TxnRequest { success: vec![op], ..TxnRequest::default() };
        assert!(!has_too_many_parts(&txn.encode_to_vec()));
    }

    #[test]
    fn bytes_that_are_no_message_are_left_to_others() {
        assert!(!has_too_many_parts(&[0x12, 0xff]));
        assert!(!has_too_many_parts(&[0xff; 64]));
        let deep = (0..200).fold(TxnRequest::default(), |inner, _| TxnRequest {
            success: vec![nested(inner)],
            ..TxnRequest::default()
        });
        assert!(!has_too_many_parts(&deep.encode_to_vec()), "prost does not decode it");
    }
}
