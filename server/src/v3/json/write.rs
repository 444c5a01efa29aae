//! Writes the binary form of a message as protobuf's JSON form, in etcd's spelling.
//!
//! Names are those of the `.proto` files, 64-bit integers are strings, bytes are base64 with padding, enums are names, and
//! what has its default is left out. There is no tree in between: a [`Writer`] holds the message as it came, and where
//! its fields are. So a large answer can be written piece by piece, and is never in memory as a whole text.

use api::descriptor::{Field, Kind, Message};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf as _, Bytes};
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use std::fmt;
use std::io::Write as _;
use std::ops::Range;

/// One occurrence of a field.
#[derive(Debug)]
struct Record {
    field: &'static Field,
    value: Value,
}

#[derive(Debug)]
enum Value {
    Varint(u64),
    /// Where the bytes are.
    Bytes(Range<usize>),
}

/// Why a message can not be written; only a service that answers with something else than it says could cause it.
#[derive(Debug)]
pub(super) struct Malformed(&'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the response is no {}", self.0)
    }
}

impl std::error::Error for Malformed {}

/// Writes one message.
#[derive(Debug)]
pub(super) struct Writer {
    bytes: Bytes,
    records: Vec<Record>,
    /// The record to write next.
    next: usize,
    is_empty: bool,
}

impl Writer {
    /// Looks where the fields of the message are.
    ///
    /// # Errors
    /// The bytes are no such message.
    pub(super) fn new(message: &'static Message, bytes: Bytes) -> Result<Self, Malformed> {
        let records = records(message, &bytes).ok_or(Malformed(message.name))?;
        Ok(Self { bytes, records, next: 0, is_empty: true })
    }

    /// Appends some more of the text: until `out` has `enough` bytes, or to the end, which is true.
    ///
    /// # Errors
    /// A message within the message is malformed.
    pub(super) fn write(&mut self, out: &mut Vec<u8>, enough: usize) -> Result<bool, Malformed> {
        if self.next == 0 {
            out.push(b'{');
        }
        while let Some(record) = self.records.get(self.next) {
            let number_at = |index: usize| self.records.get(index).map(|record| record.field.number);
            let is_first = self.next == 0 || number_at(self.next - 1) != Some(record.field.number);
            let is_last = number_at(self.next + 1) != Some(record.field.number);
            if record.field.is_repeated {
                if is_first {
                    put_name(record.field, &mut self.is_empty, out);
                    out.push(b'[');
                } else {
                    out.push(b',');
                }
                put_value(record, &self.bytes, out)?;
                if is_last {
                    out.push(b']');
                }
            } else if is_last && !record.is_default() {
                // Of a field that is there twice, the last one counts.
                put_name(record.field, &mut self.is_empty, out);
                put_value(record, &self.bytes, out)?;
            }
            self.next += 1;
            if out.len() >= enough {
                return Ok(false);
            }
        }
        out.push(b'}');
        Ok(true)
    }
}

/// Appends a whole message.
fn write_message(message: &'static Message, bytes: Bytes, out: &mut Vec<u8>) -> Result<(), Malformed> {
    Writer::new(message, bytes)?.write(out, usize::MAX).map(drop)
}

/// Finds the fields that are known, in the order of their numbers, which is the one they come in. None if the bytes are no
/// message.
fn records(message: &'static Message, bytes: &[u8]) -> Option<Vec<Record>> {
    let mut found = Vec::new();
    let mut rest = bytes;
    while rest.has_remaining() {
        let (number, wire_type) = decode_key(&mut rest).ok()?;
        let field = message.fields.iter().find(|field| field.number == number);
        match (field, wire_type) {
            (Some(field), WireType::Varint) => {
                found.push(Record { field, value: Value::Varint(decode_varint(&mut rest).ok()?) });
            }
            (Some(field), WireType::LengthDelimited) => {
                let length = usize::try_from(decode_varint(&mut rest).ok()?).ok()?;
                let start = bytes.len() - rest.len();
                let end = start.checked_add(length).filter(|end| *end <= bytes.len())?;
                if matches!(field.kind, Kind::String | Kind::Bytes | Kind::Message(_)) {
                    found.push(Record { field, value: Value::Bytes(start..end) });
                } else {
                    let mut packed = &bytes[start..end];
                    while packed.has_remaining() {
                        found.push(Record { field, value: Value::Varint(decode_varint(&mut packed).ok()?) });
                    }
                }
                rest = &bytes[end..];
            }
            _ => skip_field(wire_type, number, &mut rest, DecodeContext::default()).ok()?,
        }
    }
    if !found.is_sorted_by_key(|record| record.field.number) {
        found.sort_by_key(|record| record.field.number);
    }
    Some(found)
}

impl Record {
    /// True if the field says no more than its absence. A member of a oneof does, and so does an empty message.
    fn is_default(&self) -> bool {
        let is_default = match &self.value {
            Value::Varint(number) => *number == 0,
            Value::Bytes(place) => place.is_empty(),
        };
        is_default && self.field.oneof.is_none() && !matches!(self.field.kind, Kind::Message(_))
    }
}

/// Appends the name of a field, with the comma before it.
fn put_name(field: &Field, is_first: &mut bool, out: &mut Vec<u8>) {
    if !std::mem::take(is_first) {
        out.push(b',');
    }
    out.push(b'"');
    out.extend_from_slice(field.name.as_bytes());
    out.extend_from_slice(b"\":");
}

fn put_value(record: &Record, bytes: &Bytes, out: &mut Vec<u8>) -> Result<(), Malformed> {
    let Record { field, value } = record;
    match (&field.kind, value) {
        (Kind::Bool, Value::Varint(value)) => put(out, *value != 0),
        (Kind::Int32, Value::Varint(value)) => put(out, *value as i32),
        (Kind::Uint32, Value::Varint(value)) => put(out, *value as u32),
        (Kind::Int64, Value::Varint(value)) => put(out, format_args!("\"{}\"", *value as i64)),
        (Kind::Uint64, Value::Varint(value)) => put(out, format_args!("\"{value}\"")),
        (Kind::Enum(kind), Value::Varint(value)) => match kind.name_of(*value as i32) {
            Some(name) => put(out, format_args!("\"{name}\"")),
            None => put(out, *value as i32),
        },
        (Kind::String, Value::Bytes(place)) => {
            let text = std::str::from_utf8(&bytes[place.clone()]).map_err(|_| Malformed(field.name))?;
            // A string has no reason to fail, and a vector takes everything.
            serde_json::to_writer(out, text).map_err(|_| Malformed(field.name))?;
        }
        (Kind::Bytes, Value::Bytes(place)) => put_base64(&bytes[place.clone()], out),
        (Kind::Message(message), Value::Bytes(place)) => write_message(message, bytes.slice(place.clone()), out)?,
        _ => return Err(Malformed(field.name)),
    }
    Ok(())
}

fn put(out: &mut Vec<u8>, value: impl fmt::Display) {
    write!(out, "{value}").expect("invariant: a vector takes everything");
}

fn put_base64(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    let written = STANDARD.encode_slice(bytes, &mut out[start..]).expect("invariant: there is room for all of it");
    out.truncate(start + written);
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::descriptor::method;
    use api::etcdserverpb::{
        AlarmMember, AlarmResponse, DeleteRangeResponse, HashKvResponse, LeaseTimeToLiveResponse, Member,
        MemberListResponse, RangeResponse, ResponseHeader, ResponseOp, TxnResponse, WatchCreateRequest, WatchResponse,
        response_op,
    };
    use api::mvccpb::{Event, KeyValue};
    use prost::Message as _;

    fn header() -> ResponseHeader {
        ResponseHeader { cluster_id: u64::MAX, member_id: 2, revision: -3, raft_term: 0 }
    }

    fn json(path: &str, message: &impl prost::Message) -> String {
        text(method(path).unwrap().output, message.encode_to_vec())
    }

    fn text(message: &'static Message, bytes: Vec<u8>) -> String {
        let mut out = Vec::new();
        assert!(Writer::new(message, bytes.into()).unwrap().write(&mut out, usize::MAX).unwrap());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_type_is_written_as_etcd_writes_it() {
        let kv = KeyValue { key: "a".into(), create_revision: 1, value: "ÿþ".into(), ..Default::default() };
        let range =
            RangeResponse { header: Some(header()), kvs: vec![kv.clone(), KeyValue::default()], more: true, count: 2 };
        let expected = r#"{"header":{"cluster_id":"18446744073709551615","member_id":"2","revision":"-3"},"kvs":[{"key":"YQ==","create_revision":"1","value":"w7/Dvg=="},{}],"more":true,"count":"2"}"#;
        assert_eq!(json("/etcdserverpb.KV/Range", &range), expected);

        let hash = HashKvResponse { hash: u32::MAX, compact_revision: -1, ..Default::default() };
        let expected = r#"{"hash":4294967295,"compact_revision":"-1"}"#;
        assert_eq!(json("/etcdserverpb.Maintenance/HashKV", &hash), expected);

        let events =
            vec![Event { r#type: 1, kv: Some(kv), prev_kv: None }, Event { r#type: 7, kv: None, prev_kv: None }];
        let watch = WatchResponse {
            watch_id: -1,
            canceled: true,
            cancel_reason: "a\"<\n".into(),
            events,
            ..Default::default()
        };
        let expected = r#"{"watch_id":"-1","canceled":true,"cancel_reason":"a\"<\n","events":[{"type":"DELETE","kv":{"key":"YQ==","create_revision":"1","value":"w7/Dvg=="}},{"type":7}]}"#;
        assert_eq!(json("/etcdserverpb.Watch/Watch", &watch), expected);

        let member =
            Member { id: 5, name: "n".into(), peer_urls: vec!["a".into(), String::new()], ..Default::default() };
        let list = MemberListResponse { header: None, members: vec![member] };
        let expected = r#"{"members":[{"ID":"5","name":"n","peerURLs":["a",""]}]}"#;
        assert_eq!(json("/etcdserverpb.Cluster/MemberList", &list), expected);

        let alarms = AlarmResponse { header: None, alarms: vec![AlarmMember { member_id: 1, alarm: 1 }] };
        assert_eq!(
            json("/etcdserverpb.Maintenance/Alarm", &alarms),
            r#"{"alarms":[{"memberID":"1","alarm":"NOSPACE"}]}"#
        );

        let keys = vec!["k".into(), "".into()];
        let ttl = LeaseTimeToLiveResponse { id: 1, ttl: -1, granted_ttl: 9, keys, ..Default::default() };
        let expected = r#"{"ID":"1","TTL":"-1","grantedTTL":"9","keys":["aw==",""]}"#;
        assert_eq!(json("/etcdserverpb.Lease/LeaseTimeToLive", &ttl), expected);
    }

    #[test]
    fn oneofs_and_empty_messages_are_there() {
        let delete = response_op::Response::ResponseDeleteRange(DeleteRangeResponse::default());
        let nested = TxnResponse { header: Some(ResponseHeader::default()), ..Default::default() };
        let nested = response_op::Response::ResponseTxn(nested);
        let responses = [delete, nested].map(|response| ResponseOp { response: Some(response) }).to_vec();
        let txn = TxnResponse { responses, ..Default::default() };
        let expected = r#"{"responses":[{"response_delete_range":{}},{"response_txn":{"header":{}}}]}"#;
        assert_eq!(json("/etcdserverpb.KV/Txn", &txn), expected);
        assert_eq!(json("/etcdserverpb.KV/Txn", &TxnResponse::default()), "{}");
    }

    #[test]
    fn lists_may_be_packed_and_fields_in_any_order_and_unknown() {
        let watch = method("/etcdserverpb.Watch/Watch").unwrap().input;
        let Kind::Message(create) = watch.fields[0].kind else { panic!("{watch:?}") };
        let request = WatchCreateRequest { filters: vec![0, 1, 9], key: "a".into(), ..Default::default() };
        let mut bytes = vec![0x30, 1];
        bytes.extend(request.encode_to_vec());
        // An unknown fixed-width field, a key again, another list element by itself.
        bytes.extend([0xfd, 1, 1, 2, 3, 4, 0x0a, 1, b'b', 0x28, 1]);
        let expected = r#"{"key":"Yg==","filters":["NOPUT","NODELETE",9,"NODELETE"],"prev_kv":true}"#;
        assert_eq!(text(create, bytes), expected);
    }

    #[test]
    fn a_large_message_comes_in_pieces() {
        let kvs =
            (0..1000).map(|n| KeyValue { key: vec![b'k'; n % 50].into(), version: n as i64, ..Default::default() });
        let range = RangeResponse { header: Some(header()), kvs: kvs.collect(), more: true, count: 1 };
        let whole = json("/etcdserverpb.KV/Range", &range);
        let output = method("/etcdserverpb.KV/Range").unwrap().output;
        let mut writer = Writer::new(output, range.encode_to_vec().into()).unwrap();
        let mut pieces = Vec::new();
        loop {
            let mut piece = Vec::new();
            let is_end = writer.write(&mut piece, 1000).unwrap();
            pieces.push(String::from_utf8(piece).unwrap());
            if is_end {
                break;
            }
        }
        assert_eq!(pieces.concat(), whole);
        assert!(pieces.iter().all(|piece| piece.len() < 1200), "{}", pieces.len());
    }

    #[test]
    fn damaged_messages_are_refused() {
        let output = method("/etcdserverpb.KV/Range").unwrap().output;
        // Cut off, of another type within, not UTF-8.
        assert!(Writer::new(output, Bytes::from_static(&[0x12, 5, 1])).is_err());
        let mut writer = Writer::new(output, Bytes::from_static(&[0x10, 5])).unwrap();
        assert!(writer.write(&mut Vec::new(), usize::MAX).is_err());
        let watch = method("/etcdserverpb.Watch/Watch").unwrap().output;
        let mut writer = Writer::new(watch, Bytes::from_static(&[0x32, 1, 0xff])).unwrap();
        assert!(writer.write(&mut Vec::new(), usize::MAX).is_err());
    }
}
