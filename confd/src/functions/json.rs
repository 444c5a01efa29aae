//! Go's `encoding/json`: what it takes, what it refuses in which words, and how it writes.

use crate::template::{ANYS, MAP, Object, Text, Value, strconv};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

/// Lists and objects within each other.
const MAX_DEPTH: usize = 500;

/// What a document is decoded into.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Into {
    Map,
    List,
    Anything,
}

/// Decodes a document. The error is Go's text.
pub(super) fn decode(text: &[u8], into: Into) -> Result<Value, String> {
    let mut decoder = Decoder { text, at: 0, depth: 0 };
    let value = decoder.document()?;
    let kind = match &value {
        Value::Map(_) => "object",
        Value::List(_) => "array",
        Value::Text(_) => "string",
        Value::Bool(_) => "bool",
        Value::Nil => "null",
        _ => "number",
    };
    match (into, kind) {
        (Into::Map, "null") => Ok(Value::map(BTreeMap::new())),
        (Into::List, "null") => Ok(Value::list(ANYS, Vec::new())),
        (Into::Map, "object") | (Into::List, "array") | (Into::Anything, _) => Ok(value),
        _ => {
            let wanted = if into == Into::Map { MAP } else { ANYS };
            Err(format!("json: cannot unmarshal {kind} into Go value of type {wanted}"))
        }
    }
}

struct Decoder<'t> {
    text: &'t [u8],
    at: usize,
    depth: usize,
}

impl Decoder<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    /// What Go says about the byte at hand.
    fn invalid<T>(&self, context: &str) -> Result<T, String> {
        let Some(byte) = self.peek() else { return Err("unexpected end of JSON input".to_owned()) };
        let shown = match byte {
            b'\'' => "'\\''".to_owned(),
            b'"' => "'\"'".to_owned(),
            // Go takes each byte for a character.
            byte => {
                let quoted = strconv::quote(char::from(byte).to_string().as_bytes());
                format!("'{}'", &quoted[1..quoted.len() - 1])
            }
        };
        Err(format!("invalid character {shown} {context}"))
    }

    fn document(&mut self) -> Result<Value, String> {
        let value = self.value()?;
        self.skip_space();
        if self.at < self.text.len() {
            return self.invalid("after top-level value");
        }
        Ok(value)
    }

    fn value(&mut self) -> Result<Value, String> {
        self.skip_space();
        match self.peek() {
            Some(b'{') => self.nested(Self::object),
            Some(b'[') => self.nested(Self::array),
            Some(b'"') => Ok(Value::from(self.string()?)),
            Some(b't') => self.literal("true", Value::Bool(true)),
            Some(b'f') => self.literal("false", Value::Bool(false)),
            Some(b'n') => self.literal("null", Value::Nil),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => self.invalid("looking for beginning of value"),
        }
    }

    fn nested(&mut self, read: impl FnOnce(&mut Self) -> Result<Value, String>) -> Result<Value, String> {
        if self.depth >= MAX_DEPTH {
            return Err("exceeded max depth".to_owned());
        }
        self.depth += 1;
        self.at += 1;
        let value = read(self);
        self.depth -= 1;
        value
    }

    fn object(&mut self) -> Result<Value, String> {
        let mut entries: BTreeMap<Text, Value> = BTreeMap::new();
        self.skip_space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Value::map(entries));
        }
        loop {
            self.skip_space();
            if self.peek() != Some(b'"') {
                return self.invalid("looking for beginning of object key string");
            }
            let key = Arc::from(self.string()?);
            self.skip_space();
            if self.peek() != Some(b':') {
                return self.invalid("after object key");
            }
            self.at += 1;
            let value = self.value()?;
            entries.insert(key, value);
            self.skip_space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok(Value::map(entries));
                }
                _ => return self.invalid("after object key:value pair"),
            }
        }
    }

    fn array(&mut self) -> Result<Value, String> {
        let mut items = Vec::new();
        self.skip_space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Value::list(ANYS, items));
        }
        loop {
            items.push(self.value()?);
            self.skip_space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    return Ok(Value::list(ANYS, items));
                }
                _ => return self.invalid("after array element"),
            }
        }
    }

    fn literal(&mut self, word: &str, value: Value) -> Result<Value, String> {
        self.at += 1;
        for expected in word.bytes().skip(1) {
            if self.peek() != Some(expected) {
                return self.invalid(&format!("in literal {word} (expecting '{}')", char::from(expected)));
            }
            self.at += 1;
        }
        Ok(value)
    }

    fn number(&mut self) -> Result<Value, String> {
        let begin = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits(),
            _ => return self.invalid("in numeric literal"),
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            if !matches!(self.peek(), Some(b'0'..=b'9')) {
                return self.invalid("after decimal point in numeric literal");
            }
            self.digits();
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            if !matches!(self.peek(), Some(b'0'..=b'9')) {
                return self.invalid("in exponent of numeric literal");
            }
            self.digits();
        }
        let text = &self.text[begin..self.at];
        strconv::parse_float(text).map(Value::Float).map_err(|_| {
            let number = String::from_utf8_lossy(text);
            format!("json: cannot unmarshal number {number} into Go value of type float64")
        })
    }

    fn digits(&mut self) {
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
    }

    fn string(&mut self) -> Result<Vec<u8>, String> {
        self.at += 1;
        let mut out = Vec::new();
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    // Bytes that are not UTF-8 become U+FFFD.
                    return Ok(match String::from_utf8(out) {
                        Ok(text) => text.into_bytes(),
                        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned().into_bytes(),
                    });
                }
                Some(b'\\') => {
                    self.at += 1;
                    self.escape(&mut out)?;
                }
                Some(byte @ b' '..) => {
                    out.push(byte);
                    self.at += 1;
                }
                _ => return self.invalid("in string literal"),
            }
        }
    }

    fn escape(&mut self, out: &mut Vec<u8>) -> Result<(), String> {
        let byte = match self.peek() {
            Some(byte @ (b'"' | b'\\' | b'/')) => byte,
            Some(b'b') => 8,
            Some(b'f') => 12,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'u') => {
                self.at += 1;
                let c = self.character()?;
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                return Ok(());
            }
            _ => return self.invalid("in string escape code"),
        };
        out.push(byte);
        self.at += 1;
        Ok(())
    }

    /// Behind `\u`. Half of a surrogate pair is U+FFFD.
    fn character(&mut self) -> Result<char, String> {
        let first = self.hexadecimal()?;
        if (0xd800..0xdc00).contains(&first) && self.text[self.at..].starts_with(b"\\u") {
            let before = self.at;
            self.at += 2;
            let second = self.hexadecimal()?;
            if (0xdc00..0xe000).contains(&second) {
                let code = 0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                return Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            self.at = before;
        }
        Ok(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    fn hexadecimal(&mut self) -> Result<u32, String> {
        let mut code = 0;
        for _ in 0..4 {
            let Some(digit) = self.peek().and_then(|byte| char::from(byte).to_digit(16)) else {
                return self.invalid("in \\u hexadecimal character escape");
            };
            code = code * 16 + digit;
            self.at += 1;
        }
        Ok(code)
    }
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
    out.push('"');
    for chunk in text.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\x08' => out.push_str("\\b"),
                '\x0c' => out.push_str("\\f"),
                '<' | '>' | '&' | '\0'..' ' | '\u{2028}' | '\u{2029}' => {
                    // Cannot fail: it writes to a string.
                    let _infallible = write!(out, "\\u{:04x}", u32::from(c));
                }
                c => out.push(c),
            }
        }
        if !chunk.invalid().is_empty() {
            out.push_str(&"\\ufffd".repeat(chunk.invalid().len()));
        }
    }
    out.push('"');
}
