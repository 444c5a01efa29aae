//! JSON as Go's `encoding/json` reads and writes it: bodies are refused in its words, and answers have its escapes.

use go::json::{Escapes, Json};

/// Lists and objects within each other.
const MAX_DEPTH: usize = 200;

/// Reads the first value of a body; what follows it is not looked at. The error is Go's text.
pub(crate) fn decode(text: &[u8]) -> Result<Json, String> {
    go::json::decode_first(text, MAX_DEPTH)
}

/// Writes a text with its quotes, as the Go of metad does.
pub(crate) fn write_text(out: &mut Vec<u8>, text: &[u8]) {
    go::json::write_string(out, text, Escapes::Hex);
}

/// The same document over several lines, as Go's `MarshalIndent` with two blanks has it.
pub(crate) fn indented(compact: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(compact.len() * 2);
    let (mut depth, mut in_text, mut is_escaped) = (0_usize, false, false);
    let line = |out: &mut Vec<u8>, depth: usize| {
        out.push(b'\n');
        out.extend(std::iter::repeat_n(b' ', 2 * depth));
    };
    for (at, &byte) in compact.iter().enumerate() {
        if in_text {
            out.push(byte);
            (is_escaped, in_text) = (byte == b'\\' && !is_escaped, byte != b'"' || is_escaped);
            continue;
        }
        match byte {
            b'{' | b'[' => {
                out.push(byte);
                depth += 1;
                if !matches!(compact.get(at + 1), Some(b'}' | b']')) {
                    line(&mut out, depth);
                }
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                if !matches!(at.checked_sub(1).map(|before| compact[before]), Some(b'{' | b'[')) {
                    line(&mut out, depth);
                }
                out.push(byte);
            }
            b',' => {
                out.push(byte);
                line(&mut out, depth);
            }
            b':' => out.extend_from_slice(b": "),
            byte => {
                in_text = byte == b'"';
                out.push(byte);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_have_a_depth() {
        assert_eq!(decode(&vec![b'['; 100_000]), Err("exceeded max depth".to_owned()));
        assert_eq!(decode(&[b'['; MAX_DEPTH]), Err("unexpected EOF".to_owned()));
    }

    #[test]
    fn indents_are_gos() {
        let out = String::from_utf8(indented(br#"{"a":{},"b":[],"c":[{"x":"{,:\"\\"},1]}"#)).unwrap();
        let expected =
            "{\n  \"a\": {},\n  \"b\": [],\n  \"c\": [\n    {\n      \"x\": \"{,:\\\"\\\\\"\n    },\n    1\n  ]\n}";
        assert_eq!(out, expected);
    }
}
