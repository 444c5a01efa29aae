//! Go's `encoding/json`: what it takes, what it refuses in which words, and how it writes strings.

use crate::{strconv, unicode};

/// A value of a document. Objects keep their order, in which Go reports what is wrong with them, and every entry.
#[derive(Clone, PartialEq)]
pub enum Json {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// As it was written; it may be too large for a number of Go.
    Number(String),
    /// Bytes that are not UTF-8, and halves of surrogate pairs, are U+FFFD.
    Text(String),
    /// An array.
    List(Vec<Self>),
    /// An object.
    Map(Vec<(String, Self)>),
}

impl Json {
    /// What Go calls it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "bool",
            Self::Number(_) => "number",
            Self::Text(_) => "string",
            Self::List(_) => "array",
            Self::Map(_) => "object",
        }
    }
}

/// Values are secrets of their owners.
impl std::fmt::Debug for Json {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.kind())
    }
}

/// Reads a document that is one value, as `json.Unmarshal` does. Lists and objects may be within each other `max_depth`
/// deep.
///
/// # Errors
/// Go's text.
pub fn unmarshal(text: &[u8], max_depth: usize) -> Result<Json, String> {
    let mut reader = Reader { text, at: 0, depth: 0, max_depth, end: UNMARSHAL_END };
    let value = reader.value()?;
    reader.skip_space();
    if reader.at < text.len() {
        return reader.invalid("after top-level value");
    }
    Ok(value)
}

/// Reads the first value of a text, as a `json.Decoder` does; what follows it is not looked at. Lists and objects may be
/// within each other `max_depth` deep.
///
/// # Errors
/// Go's text.
pub fn decode_first(text: &[u8], max_depth: usize) -> Result<Json, String> {
    let mut reader = Reader { text, at: 0, depth: 0, max_depth, end: "unexpected EOF" };
    reader.skip_space();
    if reader.peek().is_none() {
        return Err("EOF".to_owned());
    }
    reader.value()
}

const UNMARSHAL_END: &str = "unexpected end of JSON input";

struct Reader<'t> {
    text: &'t [u8],
    at: usize,
    depth: usize,
    max_depth: usize,
    /// What Go says of a text that ends too early.
    end: &'static str,
}

impl Reader<'_> {
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
        match self.peek() {
            None => Err(self.end.to_owned()),
            Some(byte) => Err(format!("invalid character {} {context}", quoted(byte))),
        }
    }

    /// The same where a space is as wrong: with one `json.Unmarshal` looks whether the text could have ended here.
    fn invalid_within<T>(&self, context: &str) -> Result<T, String> {
        if self.peek().is_none() && self.end == UNMARSHAL_END {
            return Err(format!("invalid character ' ' {context}"));
        }
        self.invalid(context)
    }

    fn value(&mut self) -> Result<Json, String> {
        self.skip_space();
        match self.peek() {
            Some(b'{') => self.nested(Self::object),
            Some(b'[') => self.nested(Self::array),
            Some(b'"') => Ok(Json::Text(self.string()?)),
            Some(b't') => self.literal("true", Json::Bool(true)),
            Some(b'f') => self.literal("false", Json::Bool(false)),
            Some(b'n') => self.literal("null", Json::Null),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => self.invalid("looking for beginning of value"),
        }
    }

    fn nested(&mut self, read: impl FnOnce(&mut Self) -> Result<Json, String>) -> Result<Json, String> {
        if self.depth >= self.max_depth {
            return Err("exceeded max depth".to_owned());
        }
        self.depth += 1;
        self.at += 1;
        let value = read(self);
        self.depth -= 1;
        value
    }

    fn object(&mut self) -> Result<Json, String> {
        let mut entries = Vec::new();
        self.skip_space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Json::Map(entries));
        }
        loop {
            self.skip_space();
            if self.peek() != Some(b'"') {
                return self.invalid("looking for beginning of object key string");
            }
            let key = self.string()?;
            self.skip_space();
            if self.peek() != Some(b':') {
                return self.invalid("after object key");
            }
            self.at += 1;
            entries.push((key, self.value()?));
            self.skip_space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok(Json::Map(entries));
                }
                _ => return self.invalid("after object key:value pair"),
            }
        }
    }

    fn array(&mut self) -> Result<Json, String> {
        let mut items = Vec::new();
        self.skip_space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Json::List(items));
        }
        loop {
            items.push(self.value()?);
            self.skip_space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    return Ok(Json::List(items));
                }
                _ => return self.invalid("after array element"),
            }
        }
    }

    fn literal(&mut self, word: &str, value: Json) -> Result<Json, String> {
        self.at += 1;
        for expected in word.bytes().skip(1) {
            if self.peek() != Some(expected) {
                return self.invalid_within(&format!("in literal {word} (expecting '{}')", char::from(expected)));
            }
            self.at += 1;
        }
        Ok(value)
    }

    fn number(&mut self) -> Result<Json, String> {
        let begin = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits(),
            _ => return self.invalid_within("in numeric literal"),
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            if !matches!(self.peek(), Some(b'0'..=b'9')) {
                return self.invalid_within("after decimal point in numeric literal");
            }
            self.digits();
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            if !matches!(self.peek(), Some(b'0'..=b'9')) {
                return self.invalid_within("in exponent of numeric literal");
            }
            self.digits();
        }
        Ok(Json::Number(String::from_utf8_lossy(&self.text[begin..self.at]).into_owned()))
    }

    fn digits(&mut self) {
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
    }

    fn string(&mut self) -> Result<String, String> {
        self.at += 1;
        let mut out = Vec::new();
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(unicode::chars(&out).map(|(c, _)| c).collect());
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
            _ => return self.invalid_within("in string escape code"),
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
                return self.invalid_within("in \\u hexadecimal character escape");
            };
            code = code * 16 + digit;
            self.at += 1;
        }
        Ok(code)
    }
}

/// Go takes each byte for a character.
fn quoted(byte: u8) -> String {
    strconv::quote_char(char::from(byte), false)
}

/// How the control characters are written that JSON has a short escape for, and Go had none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Escapes {
    /// `\b` and `\f`: as Go 1.22 and later.
    Short,
    /// `\u0008` and `\u000c`: as Go before that.
    Hex,
}

/// Appends a string with its quotes. Each byte that is not UTF-8 is written as `\ufffd`.
pub fn write_string(out: &mut Vec<u8>, text: &[u8], escapes: Escapes) {
    out.push(b'"');
    pieces(text, escapes, |piece| out.extend_from_slice(piece.as_bytes()));
    out.push(b'"');
}

/// [`write_string`] for a text that grows.
pub fn push_string(out: &mut String, text: &[u8], escapes: Escapes) {
    out.push('"');
    push_escaped(out, text, escapes);
    out.push('"');
}

/// [`push_string`] without the quotes.
pub fn push_escaped(out: &mut String, text: &[u8], escapes: Escapes) {
    pieces(text, escapes, |piece| out.push_str(piece));
}

/// What stays as it is goes on in long pieces.
fn pieces(text: &[u8], escapes: Escapes, mut write: impl FnMut(&str)) {
    for chunk in text.utf8_chunks() {
        let valid = chunk.valid();
        let mut written = 0;
        for (at, c) in valid.char_indices() {
            let escape = match c {
                '"' => "\\\"",
                '\\' => "\\\\",
                '\n' => "\\n",
                '\r' => "\\r",
                '\t' => "\\t",
                '\x08' if escapes == Escapes::Short => "\\b",
                '\x0c' if escapes == Escapes::Short => "\\f",
                '<' => "\\u003c",
                '>' => "\\u003e",
                '&' => "\\u0026",
                '\u{2028}' => "\\u2028",
                '\u{2029}' => "\\u2029",
                '\0'..' ' => "",
                _ => continue,
            };
            write(&valid[written..at]);
            written = at + c.len_utf8();
            if escape.is_empty() {
                write(&format!("\\u{:04x}", u32::from(c)));
            } else {
                write(escape);
            }
        }
        write(&valid[written..]);
        for _ in chunk.invalid() {
            write("\\ufffd");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEPTH: usize = 200;

    /// As Go 1.19 says it.
    #[test]
    fn what_is_wrong_is_said_in_gos_words() {
        for (body, expected) in [
            ("new_node6", "invalid character 'e' in literal null (expecting 'u')"),
            ("{\"a\" 1}", "invalid character '1' after object key"),
            ("{\"a\":1 2}", "invalid character '2' after object key:value pair"),
            ("{a}", "invalid character 'a' looking for beginning of object key string"),
            ("{\"a\":1,}", "invalid character '}' looking for beginning of object key string"),
            ("[1 2]", "invalid character '2' after array element"),
            ("'a'", "invalid character '\\'' looking for beginning of value"),
            ("\"\n\"", "invalid character '\\n' in string literal"),
            ("\"\\x\"", "invalid character 'x' in string escape code"),
            ("\"\\u00\"", "invalid character '\"' in \\u hexadecimal character escape"),
            ("-a", "invalid character 'a' in numeric literal"),
            ("1.a", "invalid character 'a' after decimal point in numeric literal"),
            ("1ea", "invalid character 'a' in exponent of numeric literal"),
            ("\u{e9}", "invalid character '\u{c3}' looking for beginning of value"),
            ("\u{80}", "invalid character '\u{c2}' looking for beginning of value"),
            ("\x7f", "invalid character '\\x7f' looking for beginning of value"),
            ("\\", "invalid character '\\\\' looking for beginning of value"),
        ] {
            assert_eq!(decode_first(body.as_bytes(), DEPTH), Err(expected.to_owned()), "{body:?}");
            assert_eq!(unmarshal(body.as_bytes(), DEPTH), Err(expected.to_owned()), "{body:?}");
        }
        for byte in [0x80, 0xa0, 0xad] {
            let expected = format!("invalid character '\\u{byte:04x}' looking for beginning of value");
            assert_eq!(decode_first(&[byte], DEPTH), Err(expected));
        }
    }

    #[test]
    fn the_end_has_the_words_of_each_function() {
        for (body, of_decoder, of_unmarshal) in [
            ("", "EOF", "unexpected end of JSON input"),
            (" \n", "EOF", "unexpected end of JSON input"),
            ("{\"a\":", "unexpected EOF", "unexpected end of JSON input"),
            ("{\"a", "unexpected EOF", "unexpected end of JSON input"),
            ("[1,", "unexpected EOF", "unexpected end of JSON input"),
            ("-", "unexpected EOF", "invalid character ' ' in numeric literal"),
            ("1.", "unexpected EOF", "invalid character ' ' after decimal point in numeric literal"),
            ("1e", "unexpected EOF", "invalid character ' ' in exponent of numeric literal"),
            ("1e-", "unexpected EOF", "invalid character ' ' in exponent of numeric literal"),
            ("[tr", "unexpected EOF", "invalid character ' ' in literal true (expecting 'u')"),
            ("\"\\", "unexpected EOF", "invalid character ' ' in string escape code"),
            ("\"\\u1", "unexpected EOF", "invalid character ' ' in \\u hexadecimal character escape"),
        ] {
            assert_eq!(decode_first(body.as_bytes(), DEPTH), Err(of_decoder.to_owned()), "{body:?}");
            assert_eq!(unmarshal(body.as_bytes(), DEPTH), Err(of_unmarshal.to_owned()), "{body:?}");
        }
    }

    #[test]
    fn the_depth_is_bounded() {
        let nested = |depth: usize| [vec![b'['; depth], vec![b']'; depth]].concat();
        for depth in [0, 1, 500] {
            assert!(unmarshal(&nested(depth.max(1)), depth.max(1)).is_ok());
            assert_eq!(unmarshal(&nested(depth + 1), depth), Err("exceeded max depth".to_owned()));
            assert_eq!(decode_first(&vec![b'['; 100_000], depth), Err("exceeded max depth".to_owned()));
        }
    }

    #[test]
    fn what_follows_the_first_value_is_an_error_of_unmarshal_alone() {
        for (body, value) in [
            ("\"a\" rubbish", Json::Text("a".to_owned())),
            ("12.50e1]", Json::Number("12.50e1".to_owned())),
            ("1 \"", Json::Number("1".to_owned())),
        ] {
            assert!(decode_first(body.as_bytes(), DEPTH) == Ok(value), "{body:?}");
            let error = unmarshal(body.as_bytes(), DEPTH).unwrap_err();
            assert!(error.ends_with("' after top-level value"), "{error}");
        }
        assert!(unmarshal(b" 1e999 \r\n", DEPTH) == Ok(Json::Number("1e999".to_owned())));
    }

    #[test]
    fn entries_keep_their_order_and_strings_are_utf_8() {
        let text = |text: &str| Json::Text(text.to_owned());
        let expected = vec![
            ("b".to_owned(), Json::List(vec![Json::Null, Json::Bool(true), Json::Bool(false)])),
            ("a".to_owned(), text("\u{1f600}\u{fffd}")),
            ("b".to_owned(), text("\"\\/\x08\x0c\n\r\t\u{e9}\u{fffd}\u{fffd}\u{fffd}")),
        ];
        let body = br#"{"b":[null,true,false], "a":"\ud83d\ude00\ud83d", "b":"\"\\\/\b\f\n\r\t\u00e9"#;
        let body = [&body[..], b"\xff\xe2\x80\"}"].concat();
        assert!(unmarshal(&body, DEPTH) == Ok(Json::Map(expected)));
    }

    #[test]
    fn strings_have_gos_escapes() {
        for (bytes, expected) in [
            (&b"plain"[..], r#""plain""#),
            (b"a\"b\\c\n\r\t", r#""a\"b\\c\n\r\t""#),
            (b"\x00\x08\x0c\x1f\x7f", "\"\\u0000\\u0008\\u000c\\u001f\x7f\""),
            (b"<a>&", r#""\u003ca\u003e\u0026""#),
            ("é\u{2028}\u{2029}😀".as_bytes(), "\"é\\u2028\\u2029😀\""),
            (b"a\xff\xfeb\xe2\x28", r#""a\ufffd\ufffdb\ufffd(""#),
            (
                b"<a&b> \"\\\n\t\x01\xff\xe2\x80\xa8\xc3\xa9",
                "\"\\u003ca\\u0026b\\u003e \\\"\\\\\\n\\t\\u0001\\ufffd\\u2028\u{e9}\"",
            ),
        ] {
            for (escapes, b, f) in [(Escapes::Hex, "\\u0008", "\\u000c"), (Escapes::Short, "\\b", "\\f")] {
                let expected = expected.replace("\\u0008", b).replace("\\u000c", f);
                let (mut out, mut text) = (b"x".to_vec(), "x".to_owned());
                write_string(&mut out, bytes, escapes);
                push_string(&mut text, bytes, escapes);
                assert_eq!((String::from_utf8(out).unwrap(), text), (format!("x{expected}"), format!("x{expected}")));
            }
        }
    }
}
