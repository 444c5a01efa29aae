//! Reads just enough of an HPACK header block (RFC 7541) to find a literal `:authority` in it.
//!
//! `authority` calls this. It keeps no dynamic table and so does not see an `:authority` that is an index into one,
//! and it decodes only what an authority or a URL can hold. hyper does the real decoding afterwards.

use std::ops::Range;

const AUTHORITY: &[u8] = b":authority";
/// Index of `:authority` in the static table.
const AUTHORITY_INDEX: usize = 1;
/// Seven bits each; enough for any length within a frame.
const MAX_INTEGER_CONTINUATIONS: u32 = 4;

/// A literal `:authority` of a header block.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Authority {
    /// Where its value is in the block, with the length before it.
    pub(super) place: Range<usize>,
    /// The value, decoded.
    pub(super) value: Vec<u8>,
}

/// Finds the first literal `:authority`. None as well if the block is malformed before it, or if the value cannot be
/// an authority.
pub(super) fn find_authority(block: &[u8]) -> Option<Authority> {
    let mut reader = Reader { block, at: 0 };
    loop {
        match *block.get(reader.at)? {
            // Indexed, from either table.
            0x80.. => drop(reader.integer(7)?),
            // A new size of the dynamic table.
            0x20..=0x3f => drop(reader.integer(5)?),
            // A literal: to be indexed, not to be indexed, never to be indexed.
            first => {
                let index = reader.integer(if first >= 0x40 { 6 } else { 4 })?;
                let named = if index == 0 { reader.string()?.is_authority() } else { index == AUTHORITY_INDEX };
                let start = reader.at;
                let value = reader.string()?;
                if named {
                    return Some(Authority { place: start..reader.at, value: value.decode()? });
                }
            }
        }
    }
}

/// Appends a string without Huffman coding.
pub(super) fn put_string(out: &mut Vec<u8>, text: &[u8]) {
    if text.len() < 0x7f {
        out.push(text.len() as u8);
    } else {
        out.push(0x7f);
        let mut rest = text.len() - 0x7f;
        while rest >= 0x80 {
            out.push(0x80 | (rest & 0x7f) as u8);
            rest >>= 7;
        }
        out.push(rest as u8);
    }
    out.extend_from_slice(text);
}

struct Reader<'a> {
    block: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.block.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    /// An integer that begins in the low `bits` of the next byte.
    fn integer(&mut self, bits: u32) -> Option<usize> {
        let full = (1 << bits) - 1;
        let mut value = usize::from(self.byte()?) & full;
        if value < full {
            return Some(value);
        }
        for continuation in 0..MAX_INTEGER_CONTINUATIONS {
            let byte = self.byte()?;
            value += usize::from(byte & 0x7f) << (7 * continuation);
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn string(&mut self) -> Option<Text<'a>> {
        let is_huffman = *self.block.get(self.at)? >= 0x80;
        let len = self.integer(7)?;
        let bytes = self.block.get(self.at..)?.get(..len)?;
        self.at += len;
        Some(Text { bytes, is_huffman })
    }
}

/// A string as it is in the block.
struct Text<'a> {
    bytes: &'a [u8],
    is_huffman: bool,
}

impl Text<'_> {
    fn is_authority(&self) -> bool {
        // Huffman coding makes this name shorter, so no long name needs decoding.
        self.bytes.len() <= AUTHORITY.len() && self.decode().is_some_and(|name| name == AUTHORITY)
    }

    fn decode(&self) -> Option<Vec<u8>> {
        if self.is_huffman { decode_huffman(self.bytes) } else { Some(self.bytes.to_vec()) }
    }
}

/// The Huffman codes of up to 15 bits: the first code of each length, and its symbols. Within a length, codes follow
/// one another. Longer codes are backslash, control characters and bytes beyond ASCII, which no authority holds.
const CODES: [(u16, &[u8]); 16] = [
    (0, b""),
    (0, b""),
    (0, b""),
    (0, b""),
    (0, b""),
    (0, b"012aceiost"),
    (0x14, b" %-./3456789=A_bdfghlmnpru"),
    (0x5c, b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz"),
    (0xf8, b"&*,;XZ"),
    (0, b""),
    (0x3f8, b"!\"()?"),
    (0x7fa, b"'+|"),
    (0xffa, b"#>"),
    (0x1ff8, b"\0$@[]~"),
    (0x3ffc, b"^}"),
    (0x7ffc, b"<`{"),
];

fn decode_huffman(coded: &[u8]) -> Option<Vec<u8>> {
    let mut text = Vec::with_capacity(coded.len() * 8 / 5);
    let (mut code, mut bits) = (0_u16, 0_usize);
    for byte in coded {
        for shift in (0..8).rev() {
            code = code << 1 | u16::from(byte >> shift & 1);
            bits += 1;
            let (first, symbols) = CODES.get(bits)?;
            if let Some(symbol) = code.checked_sub(*first).and_then(|nth| symbols.get(usize::from(nth))) {
                text.push(*symbol);
                (code, bits) = (0, 0);
            }
        }
    }
    // The last byte is filled up with ones.
    (bits < 8 && code == (1 << bits) - 1).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u32> = hex.chars().filter_map(|digit| digit.to_digit(16)).collect();
        digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
    }

    #[test]
    fn huffman_vectors_of_the_rfc() {
        // RFC 7541, C.4 and C.6.
        let cases = [
            ("f1e3c2e5f23a6ba0ab90f4ff", "www.example.com"),
            ("a8eb10649cbf", "no-cache"),
            ("25a849e95ba97d7f", "custom-key"),
            ("25a849e95bb8e8b4bf", "custom-value"),
            ("6402", "302"),
            ("aec3771a4b", "private"),
            ("d07abe941054d444a8200595040b8166e082a62d1bff", "Mon, 21 Oct 2013 20:13:21 GMT"),
            ("9d29ad171863c78f0b97c8e9ae82ae43d3", "https://www.example.com"),
            (
                "94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
                "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
            ),
            ("", ""),
        ];
        for (coded, text) in cases {
            let decoded = decode_huffman(&bytes(coded)).map(|text| String::from_utf8(text).unwrap());
            assert_eq!(decoded.as_deref(), Some(text));
        }
    }

    #[test]
    fn huffman_codes_are_consecutive() {
        let mut next = 0;
        for (bits, (first, symbols)) in CODES.iter().enumerate() {
            next <<= 1;
            if !symbols.is_empty() {
                assert_eq!(*first, next, "{bits} bits");
                assert!(symbols.is_sorted(), "{bits} bits");
                next += symbols.len() as u16;
            }
        }
        // One code is left for all the longer ones.
        assert_eq!(next, 0x7fff);
        let symbols: usize = CODES.iter().map(|(_, symbols)| symbols.len()).sum();
        assert_eq!(symbols, (b' '..=b'~').count(), "NUL, and printable ASCII without the backslash");
    }

    #[test]
    fn huffman_refuses_wrong_padding_and_long_codes() {
        // A byte of padding, padding with zeros, the backslash.
        for coded in ["1fff", "18", "fffe1f"] {
            assert_eq!(decode_huffman(&bytes(coded)), None, "{coded}");
        }
    }

    #[test]
    fn finds_the_authority_in_every_representation() {
        let cases = [
            ("by index, indexed", "8286 41 03 612f62 84", 3..7),
            ("by index, not indexed", "8286 01 03 612f62 84", 3..7),
            ("by index, never indexed", "8286 11 03 612f62 84", 3..7),
            ("after a size update", "3fe11f 41 03 612f62", 4..8),
            ("after an unknown literal", "40 01 78 01 79 41 03 612f62", 6..10),
            ("after a long index", "7f 81 01 01 79 41 03 612f62", 6..10),
            ("by name", "40 0a 3a617574686f72697479 03 612f62", 12..16),
            ("by name, huffman", "40 88 b83b5339ec327d7f 03 612f62", 10..14),
        ];
        for (name, block, place) in cases {
            let found = find_authority(&bytes(block));
            assert_eq!(found, Some(Authority { place, value: b"a/b".to_vec() }), "{name}");
        }
    }

    #[test]
    fn finds_nothing_in_other_and_malformed_blocks() {
        let cases = [
            ("empty", ""),
            ("no authority", "828684"),
            ("another literal", "44 01 2f"),
            ("value cut short", "41 03 612f"),
            ("length cut short", "41 7f ff"),
            ("length too large", "41 7f ffffffffffffff 01"),
            ("huffman cut short", "41 82 18 00"),
            ("name missing", "40"),
        ];
        for (name, block) in cases {
            assert_eq!(find_authority(&bytes(block)), None, "{name}");
        }
    }

    #[test]
    fn long_strings_come_back() {
        for len in [0, 1, 126, 127, 128, 254, 255, 300, 16_000] {
            let mut block = vec![0x41];
            put_string(&mut block, &vec![b'a'; len]);
            let found = find_authority(&block).unwrap();
            assert_eq!((found.place, found.value.len()), (1..block.len(), len));
        }
    }
}
