//! Responses whose key-values are stored bytes.
//!
//! A key-value is encoded once, when it is applied. Range replies and watch events share those bytes and copy
//! them once, into the connection's buffer. On the wire these types equal their namesakes in
//! [`crate::etcdserverpb`]: a length-delimited message and a length-delimited byte string look the same.
//!
//! The types only encode. Decoding is the client's side, which has the plain types.

use crate::etcdserverpb::ResponseHeader;
use crate::mvccpb;
use bytes::{Buf, BufMut};
use prost::encoding::{
    DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint, encoded_len_varint, int64,
    skip_field,
};
use prost::{DecodeError, Message};
use std::sync::Arc;

/// A protobuf-encoded `mvccpb.KeyValue`, shared by everything that refers to it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct KeyValue(Arc<[u8]>);

/// The fields of a key-value about to be encoded.
#[derive(Clone, Copy, Default)]
pub struct KeyValueFields<'a> {
    /// The key.
    pub key: &'a [u8],
    /// Revision of the put that created this incarnation of the key.
    pub create_revision: i64,
    /// Revision of the last put.
    pub mod_revision: i64,
    /// Number of puts in this incarnation.
    pub version: i64,
    /// The value.
    pub value: &'a [u8],
    /// The attached lease, 0 for none.
    pub lease: i64,
}

impl KeyValueFields<'_> {
    fn encoded_len(&self) -> usize {
        let bytes = |b: &[u8]| if b.is_empty() { 0 } else { 1 + encoded_len_varint(b.len() as u64) + b.len() };
        let int = |v: i64| if v == 0 { 0 } else { 1 + encoded_len_varint(v as u64) };
        bytes(self.key)
            + int(self.create_revision)
            + int(self.mod_revision)
            + int(self.version)
            + bytes(self.value)
            + int(self.lease)
    }

    /// Encodes the fields in ascending order, defaults omitted: byte for byte what etcd stores.
    pub fn encode(&self) -> KeyValue {
        let mut out = Vec::with_capacity(self.encoded_len());
        put_bytes(1, self.key, &mut out);
        put_int(2, self.create_revision, &mut out);
        put_int(3, self.mod_revision, &mut out);
        put_int(4, self.version, &mut out);
        put_bytes(5, self.value, &mut out);
        put_int(6, self.lease, &mut out);
        KeyValue(out.into())
    }
}

fn put_bytes(tag: u32, value: &[u8], out: &mut Vec<u8>) {
    if !value.is_empty() {
        encode_key(tag, WireType::LengthDelimited, out);
        encode_varint(value.len() as u64, out);
        out.put_slice(value);
    }
}

fn put_int(tag: u32, value: i64, out: &mut Vec<u8>) {
    if value != 0 {
        int64::encode(tag, &value, out);
    }
}

impl KeyValue {
    /// Takes bytes that are an encoded `mvccpb.KeyValue`, as read from the store.
    pub fn from_stored(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    /// The encoded bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Reads the fields without copying.
    ///
    /// # Errors
    /// Fails when the bytes are no encoded `mvccpb.KeyValue`.
    pub fn fields(&self) -> Result<KeyValueFields<'_>, DecodeError> {
        fields(&self.0)
    }

    /// The plain message; key and value are copies.
    ///
    /// # Errors
    /// Fails when the bytes are no encoded `mvccpb.KeyValue`.
    pub fn to_message(&self) -> Result<mvccpb::KeyValue, DecodeError> {
        mvccpb::KeyValue::decode(&*self.0)
    }
}

impl std::fmt::Debug for KeyValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Values are secrets: only the size is shown.
        f.debug_tuple("KeyValue").field(&self.0.len()).finish()
    }
}

/// Reads the fields of an encoded `mvccpb.KeyValue` without copying.
///
/// # Errors
/// Fails when the bytes are no encoded `mvccpb.KeyValue`.
pub fn fields(mut rest: &[u8]) -> Result<KeyValueFields<'_>, DecodeError> {
    let mut out = KeyValueFields::default();
    while !rest.is_empty() {
        let (tag, wire_type) = decode_key(&mut rest)?;
        match (tag, wire_type) {
            (1 | 5, WireType::LengthDelimited) => {
                let len = decode_varint(&mut rest)? as usize;
                if len > rest.len() {
                    return Err(not_decodable());
                }
                let (value, tail) = rest.split_at(len);
                rest = tail;
                if tag == 1 { out.key = value } else { out.value = value }
            }
            (2 | 3 | 4 | 6, WireType::Varint) => {
                let value = decode_varint(&mut rest)? as i64;
                match tag {
                    2 => out.create_revision = value,
                    3 => out.mod_revision = value,
                    4 => out.version = value,
                    _ => out.lease = value,
                }
            }
            _ => skip_field(wire_type, tag, &mut rest, DecodeContext::default())?,
        }
    }
    Ok(out)
}

fn not_decodable() -> DecodeError {
    #[allow(deprecated, reason = "the only constructor that names no wire position")]
    DecodeError::new("not a stored key-value")
}

impl Message for KeyValue {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        buf.put_slice(&self.0);
    }

    fn merge_field(
        &mut self,
        _tag: u32,
        _wire_type: WireType,
        _buf: &mut impl Buf,
        _ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        Err(not_decodable())
    }

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Answer to a range.
#[derive(Clone, PartialEq, Message)]
pub struct RangeResponse {
    /// Revision that the answer was read at, and who answered.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// The keys found, empty for a count.
    #[prost(message, repeated, tag = "2")]
    pub kvs: Vec<KeyValue>,
    /// True when the limit cut the answer.
    #[prost(bool, tag = "3")]
    pub more: bool,
    /// Keys in the range, before filters and limit.
    #[prost(int64, tag = "4")]
    pub count: i64,
}

/// One chunk of a streamed range.
#[derive(Clone, PartialEq, Message)]
pub struct RangeStreamResponse {
    /// The chunk; only the last one has header, `more` and `count`.
    #[prost(message, optional, tag = "1")]
    pub range_response: Option<RangeResponse>,
}

/// Answer to a put.
#[derive(Clone, PartialEq, Message)]
pub struct PutResponse {
    /// Revision of the put, and who answered.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// The key-value before the put, when asked for and present.
    #[prost(message, optional, tag = "2")]
    pub prev_kv: Option<KeyValue>,
}

/// Answer to a delete.
#[derive(Clone, PartialEq, Message)]
pub struct DeleteRangeResponse {
    /// Revision after the delete, and who answered.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// Number of keys deleted.
    #[prost(int64, tag = "2")]
    pub deleted: i64,
    /// The deleted key-values in key order, when asked for.
    #[prost(message, repeated, tag = "3")]
    pub prev_kvs: Vec<KeyValue>,
}

/// Answer to one operation of a transaction.
#[derive(Clone, PartialEq, Message)]
pub struct ResponseOp {
    /// The answer by kind of operation.
    #[prost(oneof = "Response", tags = "1, 2, 3, 4")]
    pub response: Option<Response>,
}

/// The kinds of [`ResponseOp`].
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Response {
    /// To a range.
    #[prost(message, tag = "1")]
    Range(RangeResponse),
    /// To a put.
    #[prost(message, tag = "2")]
    Put(PutResponse),
    /// To a delete.
    #[prost(message, tag = "3")]
    DeleteRange(DeleteRangeResponse),
    /// To a nested transaction.
    #[prost(message, tag = "4")]
    Txn(TxnResponse),
}

/// Answer to a transaction.
#[derive(Clone, PartialEq, Message)]
pub struct TxnResponse {
    /// Revision after the transaction, and who answered.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// True when all comparisons held and the success branch ran.
    #[prost(bool, tag = "2")]
    pub succeeded: bool,
    /// One answer for each operation of the branch that ran.
    #[prost(message, repeated, tag = "3")]
    pub responses: Vec<ResponseOp>,
}

/// One change of a key.
#[derive(Clone, PartialEq, Message)]
pub struct Event {
    /// `mvccpb.Event.EventType`.
    #[prost(int32, tag = "1")]
    pub kind: i32,
    /// The key-value after the change; a delete has only key and `mod_revision`.
    #[prost(message, optional, tag = "2")]
    pub kv: Option<KeyValue>,
    /// The key-value before the change.
    #[prost(message, optional, tag = "3")]
    pub prev_kv: Option<KeyValue>,
}

/// A message of a watch stream.
#[derive(Clone, PartialEq, Message)]
pub struct WatchResponse {
    /// Store revision when the message was made, and who sent it.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// The watcher, or -1 for the whole stream.
    #[prost(int64, tag = "2")]
    pub watch_id: i64,
    /// Answers a create request.
    #[prost(bool, tag = "3")]
    pub created: bool,
    /// The watcher has ended.
    #[prost(bool, tag = "4")]
    pub canceled: bool,
    /// Oldest revision still watchable, when the watcher asked for an older one.
    #[prost(int64, tag = "5")]
    pub compact_revision: i64,
    /// Why the watcher has ended.
    #[prost(string, tag = "6")]
    pub cancel_reason: String,
    /// More responses of the same revision follow.
    #[prost(bool, tag = "7")]
    pub fragment: bool,
    /// The events in revision order.
    #[prost(message, repeated, tag = "11")]
    pub events: Vec<Event>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn encoded_types_equal_plain_ones_on_the_wire() {
        let plain_kv = mvccpb::KeyValue {
            key: Bytes::from_static(b"k"),
            create_revision: 2,
            mod_revision: 300,
            version: 3,
            value: Bytes::from_static(b"v"),
            lease: -7,
        };
        let kv =
            KeyValueFields { key: b"k", create_revision: 2, mod_revision: 300, version: 3, value: b"v", lease: -7 }
                .encode();
        assert_eq!(kv.as_bytes(), plain_kv.encode_to_vec());
        assert_eq!(kv.to_message().unwrap(), plain_kv);
        let fields = kv.fields().unwrap();
        assert_eq!((fields.key, fields.value, fields.lease), (&b"k"[..], &b"v"[..], -7));

        let header = Some(ResponseHeader { cluster_id: 1, member_id: 2, revision: 3, raft_term: 4 });
        let encoded = RangeResponse { header, kvs: vec![kv.clone()], more: true, count: 5 };
        let plain = crate::etcdserverpb::RangeResponse { header, kvs: vec![plain_kv.clone()], more: true, count: 5 };
        assert_eq!(encoded.encode_to_vec(), plain.encode_to_vec());

        let event = Event { kind: 1, kv: Some(kv.clone()), prev_kv: Some(kv) };
        let encoded = WatchResponse { header, watch_id: 1, events: vec![event], ..Default::default() };
        let event = mvccpb::Event { r#type: 1, kv: Some(plain_kv.clone()), prev_kv: Some(plain_kv) };
        let plain =
            crate::etcdserverpb::WatchResponse { header, watch_id: 1, events: vec![event], ..Default::default() };
        assert_eq!(encoded.encode_to_vec(), plain.encode_to_vec());
    }

    #[test]
    fn damaged_bytes_are_refused() {
        assert!(fields(&[0x0a, 0x7f, 1]).is_err());
    }
}
