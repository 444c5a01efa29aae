//! Go's `encoding/json`: what it takes, what it refuses in which words, and how it writes.

use crate::template::{ANYS, MAP, Object, Text, Value};
use go::json::{Escapes, Json};
use go::strconv;
use std::collections::BTreeMap;

/// Lists and objects within each other.
const MAX_DEPTH: usize = 500;

/// What a document is decoded into.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Into {
    Map,
    List,
    Anything,
}

/// Decodes a document. The error is Go's text: what is no JSON is told before what is no such value.
pub(super) fn decode(text: &[u8], into: Into) -> Result<Value, String> {
    let document = go::json::unmarshal(text, MAX_DEPTH)?;
    let (wanted, empty) = match into {
        Into::Anything => return value(document),
        Into::Map => (MAP, Json::Map(Vec::new())),
        Into::List => (ANYS, Json::List(Vec::new())),
    };
    match document.kind() {
        "null" => value(empty),
        kind if kind == empty.kind() => value(document),
        kind => Err(format!("json: cannot unmarshal {kind} into Go value of type {wanted}")),
    }
}

/// What a template computes with. Of entries with the same name the last one counts.
fn value(document: Json) -> Result<Value, String> {
    Ok(match document {
        Json::Null => Value::Nil,
        Json::Bool(truth) => Value::Bool(truth),
        Json::Number(number) => {
            let refusal = |_| format!("json: cannot unmarshal number {number} into Go value of type float64");
            Value::Float(strconv::parse_float(number.as_bytes()).map_err(refusal)?)
        }
        Json::Text(text) => Value::from(text),
        Json::List(items) => Value::list(ANYS, items.into_iter().map(value).collect::<Result<_, _>>()?),
        Json::Map(entries) => {
            let entry = |(name, entry): (String, Json)| Ok((Text::from(name.into_bytes()), value(entry)?));
            Value::map(entries.into_iter().map(entry).collect::<Result<BTreeMap<_, _>, String>>()?)
        }
    })
}

/// Encodes a value; with an indent, over several lines.
pub(super) fn encode(value: &Value, indent: Option<&str>) -> Result<String, String> {
    let mut out = String::new();
    write(&mut out, value, indent, 0)?;
    Ok(out)
}

fn write(out: &mut String, value: &Value, indent: Option<&str>, depth: usize) -> Result<(), String> {
    super::fits(out.len() as u128)?;
    match value {
        Value::Absent | Value::Nil => out.push_str("null"),
        Value::Bool(truth) => out.push_str(if *truth { "true" } else { "false" }),
        Value::Int(number) | Value::Int64(number) => out.push_str(&number.to_string()),
        Value::Byte(byte) => out.push_str(&byte.to_string()),
        Value::Float(number) if !number.is_finite() => {
            let shown = strconv::format_float(*number, 'g', None);
            return Err(format!("json: unsupported value: {shown}"));
        }
        Value::Float(number) => out.push_str(&float(*number)),
        Value::Text(text) => write_string(out, text),
        Value::List(list) => {
            let items = list.to_vec();
            return write_all(out, ('[', ']'), indent, depth, items.iter().map(|item| (None, item)));
        }
        Value::Map(map) => {
            let entries = map.entries.iter().map(|(key, value)| (Some(&**key), value));
            return write_all(out, ('{', '}'), indent, depth, entries);
        }
        Value::Object(object) => return write_object(out, &**object, indent, depth),
        Value::Complex(..) | Value::Function(_) => {
            return Err(format!("json: unsupported type: {}", value.type_name()));
        }
    }
    Ok(())
}

fn write_object(out: &mut String, object: &dyn Object, indent: Option<&str>, depth: usize) -> Result<(), String> {
    if let Some(text) = super::time::rfc3339(object) {
        write_string(out, text.as_bytes());
        return Ok(());
    }
    if let Some(number) = object.integer() {
        out.push_str(&number.to_string());
        return Ok(());
    }
    let fields = object.fields();
    write_all(out, ('{', '}'), indent, depth, fields.iter().map(|(name, value)| (Some(name.as_bytes()), value)))
}

fn write_all<'v>(
    out: &mut String,
    (open, close): (char, char),
    indent: Option<&str>,
    depth: usize,
    parts: impl Iterator<Item = (Option<&'v [u8]>, &'v Value)>,
) -> Result<(), String> {
    out.push(open);
    let line = |out: &mut String, depth: usize| {
        if let Some(indent) = indent {
            out.push('\n');
            out.push_str(&indent.repeat(depth));
        }
    };
    let mut is_empty = true;
    for (key, value) in parts {
        if !is_empty {
            out.push(',');
        }
        is_empty = false;
        line(out, depth + 1);
        if let Some(key) = key {
            write_string(out, key);
            out.push_str(if indent.is_some() { ": " } else { ":" });
        }
        write(out, value, indent, depth + 1)?;
    }
    if !is_empty {
        line(out, depth);
    }
    out.push(close);
    Ok(())
}

/// Without an exponent, unless it would be long.
fn float(number: f64) -> String {
    let magnitude = number.abs();
    if magnitude != 0.0 && !(1e-6..1e21).contains(&magnitude) {
        let text = strconv::format_float(number, 'e', None);
        // Go writes `e-9` here, and not `e-09`.
        return text.replace("e-0", "e-");
    }
    strconv::format_float(number, 'f', None)
}

fn write_string(out: &mut String, text: &[u8]) {
    go::json::push_string(out, text, Escapes::Short);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_come_in_gos_order() {
        let number = "json: cannot unmarshal number 1e999 into Go value of type float64";
        for (text, into, expected) in [
            ("[1e999", Into::Anything, "unexpected end of JSON input"),
            ("{\"a\":1e999}x", Into::Map, "invalid character 'x' after top-level value"),
            ("[1e999]", Into::Map, "json: cannot unmarshal array into Go value of type map[string]interface {}"),
            ("1e999", Into::List, "json: cannot unmarshal number into Go value of type []interface {}"),
            ("[1e999]", Into::List, number),
            ("{\"a\":1e999,\"a\":1}", Into::Map, number),
            ("1e999", Into::Anything, number),
        ] {
            assert_eq!(decode(text.as_bytes(), into).err().as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn null_is_an_empty_map_or_list() {
        for (into, expected) in [(Into::Map, "{}"), (Into::List, "[]"), (Into::Anything, "null")] {
            assert_eq!(encode(&decode(b" null ", into).unwrap(), None).unwrap(), expected);
        }
        let value = decode(br#"{"b":"\b\f\u0001","a":1,"a":[2.50]}"#, Into::Map).unwrap();
        assert_eq!(encode(&value, None).unwrap(), r#"{"a":[2.5],"b":"\b\f\u0001"}"#);
    }
}
