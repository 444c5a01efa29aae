//! Values as text: Go's `fmt`, with its verbs, flags and marks for mistakes.
//!
//! [`sprint`] is what an action prints; [`sprintf`] is in `verbs.rs` and its numbers in `numbers.rs`.

mod numbers;
mod verbs;

use super::value::Value;
use go::{strconv, unicode};
use std::fmt::Write as _;

pub use verbs::sprintf;

/// Longest text that is printed. Widths, and lists that hold the same list again and again, can make much of little; what
/// is longer ends somewhere behind this, and is refused as too large.
const MAX_BYTES: usize = 256 << 20;

/// What stands between `%` and the verb.
#[derive(Clone, Copy, Debug, Default)]
struct Flags {
    width: Option<usize>,
    precision: Option<usize>,
    minus: bool,
    plus: bool,
    sharp: bool,
    space: bool,
    zero: bool,
    /// `%+v`
    plus_v: bool,
    /// `%#v`
    sharp_v: bool,
}

struct Printer {
    out: Vec<u8>,
    flags: Flags,
    /// While the mark of a mistake is printed, types print without their own methods.
    in_mistake: bool,
    /// Bytes behind which nothing more is printed.
    limit: usize,
}

impl Default for Printer {
    fn default() -> Self {
        Self { out: Vec::new(), flags: Flags::default(), in_mistake: false, limit: MAX_BYTES }
    }
}

/// Prints values with spaces between two that are not strings.
pub fn sprint(values: &[Value]) -> Vec<u8> {
    let mut printer = Printer::default();
    let mut after_text = true;
    for value in values {
        let is_text = matches!(value, Value::Text(_));
        if !is_text && !after_text {
            printer.out.push(b' ');
        }
        printer.value(value, 'v');
        after_text = is_text;
    }
    printer.out
}

/// Prints one value to the end of a text, until that is longer than the limit.
pub(super) fn append(out: &mut Vec<u8>, value: &Value, limit: usize) {
    if let Value::Text(text) = value {
        out.extend_from_slice(text);
        return;
    }
    let mut printer = Printer { out: std::mem::take(out), limit, ..Printer::default() };
    printer.value(value, 'v');
    *out = printer.out;
}

/// Prints values with spaces between all, and a new line.
pub(super) fn sprintln(values: &[Value]) -> Vec<u8> {
    let mut printer = Printer::default();
    for (number, value) in values.iter().enumerate() {
        if number > 0 {
            printer.out.push(b' ');
        }
        printer.value(value, 'v');
    }
    printer.out.push(b'\n');
    printer.out
}

impl Printer {
    /// A whole argument.
    fn value(&mut self, value: &Value, verb: char) {
        match (value, verb) {
            (Value::Absent | Value::Nil, 'T' | 'v') => self.pad(b"<nil>"),
            // `w` is a verb of Errorf alone: it fits nothing, nor what is in it.
            (Value::Absent | Value::Nil, _) | (Value::List(_) | Value::Map(_) | Value::Object(_), 'w') => {
                self.mistake(value, verb);
            }
            (_, 'T') => self.text(value.type_name().as_bytes(), 's'),
            _ => self.part(value, verb),
        }
    }

    /// An argument or what is in it.
    fn part(&mut self, value: &Value, verb: char) {
        if self.out.len() > self.limit {
            return;
        }
        match value {
            Value::Absent | Value::Nil if self.flags.sharp_v => self.out.extend_from_slice(b"interface {}(nil)"),
            Value::Absent | Value::Nil => self.out.extend_from_slice(b"<nil>"),
            Value::Bool(truth) if matches!(verb, 't' | 'v') => self.pad(if *truth { b"true" } else { b"false" }),
            Value::Int(number) | Value::Int64(number) => {
                if !self.integer(*number, false, verb) {
                    self.mistake(value, verb);
                }
            }
            Value::Byte(byte) => {
                if !self.integer(i64::from(*byte), true, verb) {
                    self.mistake(value, verb);
                }
            }
            Value::Float(number) => {
                if !self.float(*number, verb) {
                    self.mistake(value, verb);
                }
            }
            Value::Complex(real, imaginary) => {
                if !self.complex(*real, *imaginary, verb) {
                    self.mistake(value, verb);
                }
            }
            Value::Text(text) if matches!(verb, 'v' | 's' | 'x' | 'X' | 'q') => self.text(text, verb),
            Value::List(list) => self.list(list.type_name, &list.to_vec(), verb),
            Value::Map(map) => self.map(map, verb),
            Value::Object(object) => self.object(value, &**object, verb),
            // Go shows an address, which is another one in every run.
            Value::Function(_) if verb == 'v' => self.pad(b"0x0"),
            Value::Bool(_) | Value::Text(_) | Value::Function(_) => self.mistake(value, verb),
        }
    }

    /// A verb that does not fit: `%!d(string=x)`.
    fn mistake(&mut self, value: &Value, verb: char) {
        self.in_mistake = true;
        self.out.extend_from_slice(b"%!");
        self.push(verb);
        self.out.push(b'(');
        if value.is_nil() {
            self.out.extend_from_slice(b"<nil>");
        } else {
            self.out.extend_from_slice(value.type_name().as_bytes());
            self.out.push(b'=');
            self.part(value, 'v');
        }
        self.out.push(b')');
        self.in_mistake = false;
    }

    fn list(&mut self, type_name: &str, items: &[Value], verb: char) {
        let (open, between, close) = if self.flags.sharp_v {
            self.out.extend_from_slice(type_name.as_bytes());
            (b'{', b", ".as_slice(), b'}')
        } else {
            (b'[', b" ".as_slice(), b']')
        };
        self.out.push(open);
        for (number, item) in items.iter().enumerate() {
            if self.out.len() > self.limit {
                return;
            }
            if number > 0 {
                self.out.extend_from_slice(between);
            }
            self.part(item, verb);
        }
        self.out.push(close);
    }

    fn map(&mut self, map: &super::value::Map, verb: char) {
        let (between, close) = if self.flags.sharp_v {
            self.out.extend_from_slice(map.type_name.as_bytes());
            self.out.push(b'{');
            (b", ".as_slice(), b'}')
        } else {
            self.out.extend_from_slice(b"map[");
            (b" ".as_slice(), b']')
        };
        for (number, (key, value)) in map.entries.iter().enumerate() {
            if self.out.len() > self.limit {
                return;
            }
            if number > 0 {
                self.out.extend_from_slice(between);
            }
            self.part(&Value::Text(key.clone()), verb);
            self.out.push(b':');
            self.part(value, verb);
        }
        self.out.push(close);
    }

    fn object(&mut self, value: &Value, object: &dyn super::value::Object, verb: char) {
        if !self.in_mistake
            && matches!(verb, 'v' | 's' | 'x' | 'X' | 'q')
            && let Some(text) = object.string()
        {
            self.text(text.as_bytes(), verb);
            return;
        }
        if let Some(number) = object.integer() {
            if !self.integer(number, false, verb) {
                self.mistake(value, verb);
            }
            return;
        }
        if object.is_pointer() {
            self.out.push(b'&');
        }
        if self.flags.sharp_v {
            self.out.extend_from_slice(object.type_name().trim_start_matches('*').as_bytes());
        }
        self.out.push(b'{');
        for (number, (name, field)) in object.fields().into_iter().enumerate() {
            if number > 0 {
                self.out.extend_from_slice(if self.flags.sharp_v { b", " } else { b" " });
            }
            if self.flags.plus_v || self.flags.sharp_v {
                self.out.extend_from_slice(name.as_bytes());
                self.out.push(b':');
            }
            self.part(&field, verb);
        }
        self.out.push(b'}');
    }

    fn text(&mut self, text: &[u8], verb: char) {
        match verb {
            'x' | 'X' => self.hexadecimal(text, verb),
            'q' => self.quoted(text),
            _ if self.flags.sharp_v => self.quoted(text),
            _ => {
                let text = self.truncated(text);
                self.pad(text);
            }
        }
    }

    /// As many characters as the precision allows.
    fn truncated<'a>(&self, text: &'a [u8]) -> &'a [u8] {
        let Some(precision) = self.flags.precision else { return text };
        let width: usize = unicode::chars(text).take(precision).map(|(_, width)| width).sum();
        &text[..width]
    }

    fn quoted(&mut self, text: &[u8]) {
        let text = self.truncated(text);
        if self.flags.sharp && strconv::can_backquote(text) {
            self.pad(&[b"`", text, b"`"].concat());
        } else if self.flags.plus {
            self.pad(strconv::quote_ascii(text).as_bytes());
        } else {
            self.pad(strconv::quote(text).as_bytes());
        }
    }

    /// `%x` of a string.
    fn hexadecimal(&mut self, text: &[u8], verb: char) {
        let length = self.flags.precision.map_or(text.len(), |precision| precision.min(text.len()));
        let prefix = if verb == 'x' { "0x" } else { "0X" };
        let mut out = String::new();
        for (number, byte) in text[..length].iter().enumerate() {
            if number > 0 && self.flags.space {
                out.push(' ');
            }
            if self.flags.sharp && (number == 0 || self.flags.space) {
                out.push_str(prefix);
            }
            // Cannot fail: it writes to a string.
            let _infallible = if verb == 'x' { write!(out, "{byte:02x}") } else { write!(out, "{byte:02X}") };
        }
        self.pad(out.as_bytes());
    }

    fn push(&mut self, c: char) {
        self.out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    }

    /// Writes with the padding that the width asks for, which counts characters.
    fn pad(&mut self, text: &[u8]) {
        let missing = self.flags.width.map_or(0, |width| width.saturating_sub(unicode::count(text)));
        if self.flags.minus {
            self.out.extend_from_slice(text);
            self.padding(missing, b' ');
        } else {
            self.padding(missing, if self.flags.zero { b'0' } else { b' ' });
            self.out.extend_from_slice(text);
        }
    }

    fn padding(&mut self, count: usize, byte: u8) {
        self.out.resize(self.out.len() + count, byte);
    }
}
