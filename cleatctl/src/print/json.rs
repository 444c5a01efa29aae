//! JSON as Go's encoder writes etcd's types: fields in their order, bytes in base64, numbers as numbers, and nothing of a
//! field that is empty.
//!
//! A message is written straight from its encoding and its description, so that every answer has this format.

use api::descriptor::{Field, Kind, Message};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use go::json::Escapes;
use prost::encoding::{WireType, decode_key, decode_varint};

/// A JSON text that grows.
#[derive(Default)]
pub(crate) struct Json {
    pub(crate) text: String,
    /// A comma is due before the next member or element.
    has_before: bool,
}

impl Json {
    pub(crate) fn raw(&mut self, text: &str) {
        self.comma();
        self.text.push_str(text);
    }

    fn comma(&mut self) {
        if std::mem::replace(&mut self.has_before, true) {
            self.text.push(',');
        }
    }

    /// `{...}` or `[...]`.
    fn enclosed(&mut self, ends: [char; 2], inner: impl FnOnce(&mut Self)) {
        self.comma();
        self.text.push(ends[0]);
        self.has_before = false;
        inner(self);
        self.text.push(ends[1]);
        self.has_before = true;
    }

    pub(crate) fn object(&mut self, inner: impl FnOnce(&mut Self)) {
        self.enclosed(['{', '}'], inner);
    }

    pub(crate) fn array(&mut self, inner: impl FnOnce(&mut Self)) {
        self.enclosed(['[', ']'], inner);
    }

    /// The name of a member; its value comes next.
    pub(crate) fn name(&mut self, name: &str) {
        self.comma();
        string(&mut self.text, name);
        self.text.push(':');
        self.has_before = false;
    }

    pub(crate) fn member(&mut self, name: &str, value: impl std::fmt::Display) {
        self.name(name);
        self.raw(&value.to_string());
    }

    pub(crate) fn member_string(&mut self, name: &str, value: &str) {
        self.name(name);
        self.element(value);
    }

    /// A text in an array.
    pub(crate) fn element(&mut self, text: &str) {
        self.comma();
        string(&mut self.text, text);
    }
}

/// A text in quotes, with the escapes of etcdctl's Go.
pub(crate) fn string(out: &mut String, text: &str) {
    go::json::push_string(out, text.as_bytes(), Escapes::Hex);
}

/// A message, from what it looks like and its encoding. What is no such message ends the text early.
pub(crate) fn message(description: &'static Message, bytes: &[u8]) -> String {
    let mut json = Json::default();
    write_message(&mut json, description, bytes);
    json.text
}

/// One occurrence of a field.
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

fn write_message(json: &mut Json, description: &'static Message, bytes: &[u8]) {
    let values = values(bytes);
    json.object(|json| {
        let mut oneofs = Vec::new();
        for field in description.fields {
            if let Some(oneof) = field.oneof {
                // Go has one member for all of them.
                if !oneofs.contains(&oneof) {
                    oneofs.push(oneof);
                    write_oneof(json, description, oneof, &values);
                }
                continue;
            }
            if is_later(description.name, field.number) {
                continue;
            }
            let of_field = values.iter().filter(|(number, _)| *number == field.number).map(|(_, value)| value);
            let of_field: Vec<_> = of_field.collect();
            let Some(last) = of_field.last() else { continue };
            json.name(field.name);
            if field.is_repeated {
                json.array(|json| of_field.iter().for_each(|value| write_value(json, field, value)));
            } else {
                write_value(json, field, last);
            }
        }
    });
}

/// True for fields that etcd has since 3.6, and etcdctl 3.4 does not print.
fn is_later(message: &str, number: u32) -> bool {
    matches!((message, number), ("etcdserverpb.StatusResponse", 11..) | ("etcdserverpb.HashKVResponse", 4..))
}

fn write_oneof(json: &mut Json, description: &'static Message, oneof: u8, values: &[(u32, Value<'_>)]) {
    let fields = || description.fields.iter().filter(|field| field.oneof == Some(oneof));
    // The only oneof among the answers is that of a transaction's operations.
    json.name("Response");
    let set = fields().find_map(|field| {
        let value = values.iter().find(|(number, _)| *number == field.number)?;
        Some((field, &value.1))
    });
    match set {
        Some((field, value)) => json.object(|json| {
            json.name(&go_name(field.name));
            write_value(json, field, value);
        }),
        None => json.raw("null"),
    }
}

/// `response_range` as `ResponseRange`.
fn go_name(name: &str) -> String {
    let capital = |word: &str| word[..1].to_uppercase() + &word[1..];
    name.split('_').filter(|word| !word.is_empty()).map(capital).collect()
}

fn write_value(json: &mut Json, field: &Field, value: &Value<'_>) {
    let text = match (&field.kind, value) {
        (Kind::Message(inner), Value::Bytes(bytes)) => return write_message(json, inner, bytes),
        (Kind::String, Value::Bytes(bytes)) => {
            let mut text = String::new();
            string(&mut text, &String::from_utf8_lossy(bytes));
            text
        }
        (Kind::Bytes, Value::Bytes(bytes)) => format!("\"{}\"", STANDARD.encode(bytes)),
        (Kind::Bool, Value::Number(number)) => (*number != 0).to_string(),
        (Kind::Int32 | Kind::Int64 | Kind::Enum(_), Value::Number(number)) => number.cast_signed().to_string(),
        (_, Value::Number(number)) => number.to_string(),
        (_, Value::Bytes(_)) => "null".to_owned(),
    };
    json.raw(&text);
}

/// The fields of an encoded message in their order.
fn values(mut bytes: &[u8]) -> Vec<(u32, Value<'_>)> {
    let mut values = Vec::new();
    while let Ok((number, wire)) = decode_key(&mut bytes) {
        let value = match wire {
            WireType::Varint => decode_varint(&mut bytes).ok().map(Value::Number),
            WireType::LengthDelimited => decode_varint(&mut bytes).ok().and_then(|length| {
                let (value, rest) = bytes.split_at_checked(usize::try_from(length).ok()?)?;
                bytes = rest;
                Some(Value::Bytes(value))
            }),
            // The API has no others.
            _ => None,
        };
        match value {
            Some(value) => values.push((number, value)),
            None => break,
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::message;
    use crate::print::output;
    use api::etcdserverpb::{RangeResponse, ResponseHeader, ResponseOp, TxnResponse, response_op};
    use api::mvccpb::KeyValue;
    use prost::Message as _;

    #[test]
    fn answers_look_like_etcdctls() {
        let header = ResponseHeader { revision: 18, ..ResponseHeader::default() };
        let kv = KeyValue { key: "k".into(), value: "v\n".into(), version: 2, ..KeyValue::default() };
        let range = RangeResponse { header: Some(header), kvs: vec![kv], more: false, count: 1 };
        let text = r#"{"header":{"revision":18},"kvs":[{"key":"aw==","version":2,"value":"dgo="}],"count":1}"#;
        assert_eq!(message(output("/etcdserverpb.KV/Range"), &range.encode_to_vec()), text);

        let responses = [Some(response_op::Response::ResponseRange(range)), None];
        let responses = responses.map(|response| ResponseOp { response }).to_vec();
        let txn = TxnResponse { header: Some(ResponseHeader::default()), succeeded: true, responses };
        let expected = format!(
            r#"{{"header":{{}},"succeeded":true,"responses":[{{"Response":{{"ResponseRange":{text}}}}},{{"Response":null}}]}}"#
        );
        assert_eq!(message(output("/etcdserverpb.KV/Txn"), &txn.encode_to_vec()), expected);
        assert_eq!(message(output("/etcdserverpb.KV/Range"), b"\x0a\xff"), "{}");
    }
}
