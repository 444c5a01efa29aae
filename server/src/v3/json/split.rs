//! Finds the values in a stream of JSON texts that follow one another, as they arrive.
//!
//! Only what separates values is looked at: brackets and strings. Whether a value is JSON is for who reads it.

use bytes::{Buf as _, Bytes, BytesMut};

/// A value is larger than allowed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLarge;

/// Holds what has arrived of the value that is not complete, and what is behind the complete ones.
#[derive(Debug)]
pub(super) struct Splitter {
    buffer: BytesMut,
    /// How much of the buffer has been looked at; all of it belongs to one value.
    seen: usize,
    depth: usize,
    is_string: bool,
    is_escaped: bool,
    limit: usize,
}

impl Splitter {
    /// Values may have `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self { buffer: BytesMut::new(), seen: 0, depth: 0, is_string: false, is_escaped: false, limit }
    }

    /// Takes what has arrived. Take all values out before the next call: then no more than one of them is held.
    pub(super) fn feed(&mut self, arrived: &[u8]) {
        self.buffer.extend_from_slice(arrived);
    }

    /// The next value that is complete.
    ///
    /// # Errors
    /// [`TooLarge`]; then no more can be found.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, TooLarge> {
        if self.seen == 0 {
            let blank = self.buffer.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
            self.buffer.advance(blank);
        }
        while let Some(byte) = self.buffer.get(self.seen) {
            let byte = *byte;
            if self.depth == 0 && self.seen > 0 && !self.is_string && byte.is_ascii_whitespace() {
                // A value without brackets ends at a blank.
                return Ok(Some(self.take()));
            }
            self.seen += 1;
            if self.seen > self.limit {
                return Err(TooLarge);
            }
            if self.is_escaped {
                self.is_escaped = false;
            } else if self.is_string {
                self.is_string = byte != b'"';
                self.is_escaped = byte == b'\\';
            } else {
                match byte {
                    b'"' => self.is_string = true,
                    b'{' | b'[' => self.depth += 1,
                    b'}' | b']' => {
                        self.depth = self.depth.saturating_sub(1);
                        if self.depth == 0 {
                            return Ok(Some(self.take()));
                        }
                    }
                    _ => {}
                }
            }
        }
        Ok(None)
    }

    /// What is left when no more arrives: nothing, or a value that was cut off or has no brackets.
    pub(super) fn finish(&mut self) -> Option<Bytes> {
        (!self.buffer.is_empty()).then(|| self.buffer.split().freeze())
    }

    fn take(&mut self) -> Bytes {
        let value = self.buffer.split_to(self.seen).freeze();
        (self.seen, self.depth, self.is_string) = (0, 0, false);
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values of a text that arrives in steps, and the rest.
    fn split(text: &str, step: usize) -> (Vec<String>, Option<String>) {
        let text_of = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        let mut splitter = Splitter::new(100);
        let mut values = Vec::new();
        for arrived in text.as_bytes().chunks(step) {
            splitter.feed(arrived);
            while let Some(value) = splitter.next().unwrap() {
                values.push(text_of(value));
            }
        }
        (values, splitter.finish().map(text_of))
    }

    #[test]
    fn values_are_found_however_they_arrive() {
        let cases: [(&str, &[&str], Option<&str>); 10] = [
            ("", &[], None),
            (" \n\t ", &[], None),
            ("{}", &["{}"], None),
            (r#"{"a":{"b":[1]}}{"c":1} {}"#, &[r#"{"a":{"b":[1]}}"#, r#"{"c":1}"#, "{}"], None),
            (r#"{"a":"}{\"]"}  {"#, &[r#"{"a":"}{\"]"}"#], Some("{")),
            (r#"{"a":"\\"}{}"#, &[r#"{"a":"\\"}"#, "{}"], None),
            ("null\nnull", &["null"], Some("null")),
            (r#""a b" x"#, &[r#""a b""#], Some("x")),
            ("]{}", &["]", "{}"], None),
            (r#"{"a":1"#, &[], Some(r#"{"a":1"#)),
        ];
        for (text, values, rest) in cases {
            for step in 1..=text.len().max(1) {
                let (found, left) = split(text, step);
                assert_eq!(
                    (found, left.as_deref()),
                    (values.iter().map(ToString::to_string).collect(), rest),
                    "{text} {step}"
                );
            }
        }
    }

    #[test]
    fn a_value_that_is_too_large_is_an_error() {
        let mut splitter = Splitter::new(5);
        splitter.feed(b"{   } {    }");
        assert_eq!(splitter.next(), Ok(Some(Bytes::from_static(b"{   }"))));
        assert_eq!(splitter.next(), Err(TooLarge));
    }
}
