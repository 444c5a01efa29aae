//! Header compression (RFC 7541), as much as a gRPC client needs.
//!
//! The encoder puts every header of a request into the peer's table once and sends one byte for each from then on. The
//! decoder is complete: it keeps the table in step with the peer's and reads Huffman codes, whose table is derived from
//! the code lengths (the code is canonical).

use std::collections::VecDeque;
use std::sync::LazyLock;

use bytes::Bytes;

/// Size of both tables, and what an entry counts beyond its text.
pub(super) const TABLE_BYTES: usize = 4096;
const ENTRY_OVERHEAD: usize = 32;
/// Longest header text that is accepted.
const MAX_TEXT_BYTES: usize = 1 << 20;

/// Appendix A of the RFC: names and values of the fixed entries, from index 1.
const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];
const METHOD_POST: usize = 3;
const SCHEME_HTTP: usize = 6;

/// Appendix B of the RFC: bits of each byte's Huffman code.
#[rustfmt::skip]
const CODE_BITS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
];

/// The Huffman code by length: the first code of each length, how many there are, and their bytes in order.
struct Huffman {
    first: [u32; 31],
    count: [u32; 31],
    offset: [usize; 31],
    bytes: Vec<u8>,
}

static HUFFMAN: LazyLock<Huffman> = LazyLock::new(|| {
    let mut table = Huffman { first: [0; 31], count: [0; 31], offset: [0; 31], bytes: Vec::with_capacity(256) };
    let mut code = 0;
    for bits in 1..=30 {
        code <<= 1;
        table.first[bits] = code;
        table.offset[bits] = table.bytes.len();
        table.bytes.extend((0..=u8::MAX).filter(|byte| usize::from(CODE_BITS[usize::from(*byte)]) == bits));
        table.count[bits] = (table.bytes.len() - table.offset[bits]) as u32;
        code += table.count[bits];
    }
    table
});

fn decode_huffman(coded: &[u8]) -> Option<Bytes> {
    let table = &*HUFFMAN;
    let mut text = Vec::with_capacity(coded.len() * 2);
    let (mut code, mut bits) = (0_u32, 0_usize);
    for bit in coded.iter().flat_map(|byte| (0..8).rev().map(move |shift| byte >> shift & 1)) {
        code = code << 1 | u32::from(bit);
        bits += 1;
        if bits > 30 {
            return None;
        }
        if let Some(rank) = code.checked_sub(table.first[bits]).filter(|rank| *rank < table.count[bits]) {
            text.push(table.bytes[table.offset[bits] + rank as usize]);
            (code, bits) = (0, 0);
        }
    }
    // The rest is padding of up to seven one bits.
    (bits < 8 && code == (1 << bits) - 1).then(|| text.into())
}

/// Encodes the header blocks of requests.
pub(super) struct Encoder {
    /// Whether the peer's table can be used.
    is_indexing: bool,
    /// Whether the peer has to be told first that it is not used.
    must_announce: bool,
    /// Entries put into the peer's table, oldest first. Invariant: they fit into it, so none is ever evicted.
    inserted: Vec<(&'static str, Bytes)>,
    bytes: usize,
}

impl Encoder {
    /// `peer_table_bytes` is what the peer's settings allow.
    pub(super) fn new(peer_table_bytes: usize) -> Self {
        let is_indexing = peer_table_bytes >= TABLE_BYTES;
        Self { is_indexing, must_announce: !is_indexing, inserted: Vec::new(), bytes: 0 }
    }

    /// How many entries the peer's table has.
    pub(super) fn entries(&self) -> usize {
        self.inserted.len()
    }

    /// Appends the header block of a POST with `headers` to `block`.
    pub(super) fn encode<'a>(&mut self, headers: impl Iterator<Item = (&'static str, &'a Bytes)>, block: &mut Vec<u8>) {
        if std::mem::take(&mut self.must_announce) {
            write_number(block, 0x20, 5, 0);
        }
        write_number(block, 0x80, 7, METHOD_POST);
        write_number(block, 0x80, 7, SCHEME_HTTP);
        for (name, value) in headers {
            if let Some(position) = self.inserted.iter().position(|entry| entry.0 == name && entry.1 == value) {
                write_number(block, 0x80, 7, STATIC.len() + self.inserted.len() - position);
                continue;
            }
            let size = name.len() + value.len() + ENTRY_OVERHEAD;
            let is_inserted = self.is_indexing && self.bytes + size <= TABLE_BYTES;
            let static_name = STATIC.iter().position(|entry| entry.0 == name).map_or(0, |position| position + 1);
            let (first, bits) = if is_inserted { (0x40, 6) } else { (0, 4) };
            write_number(block, first, bits, static_name);
            if static_name == 0 {
                write_text(block, name.as_bytes());
            }
            write_text(block, value);
            if is_inserted {
                self.inserted.push((name, value.clone()));
                self.bytes += size;
            }
        }
    }
}

fn write_text(block: &mut Vec<u8>, text: &[u8]) {
    write_number(block, 0, 7, text.len());
    block.extend_from_slice(text);
}

/// Writes a number with a prefix of `bits`, the bits above being those of `first`.
fn write_number(block: &mut Vec<u8>, first: u8, bits: u8, mut number: usize) {
    let limit = (1 << bits) - 1;
    if number < limit {
        return block.push(first | number as u8);
    }
    block.push(first | limit as u8);
    number -= limit;
    while number >= 0x80 {
        block.push(number as u8 | 0x80);
        number >>= 7;
    }
    block.push(number as u8);
}

/// Decodes the header blocks of answers.
#[derive(Default)]
pub(super) struct Decoder {
    /// Newest first.
    table: VecDeque<(Bytes, Bytes)>,
    bytes: usize,
    /// What the peer has reduced the table to, if it has.
    limit: Option<usize>,
}

impl Decoder {
    /// Passes every header of `block` to `each`; `None` when the block is malformed, after which the table is not in
    /// step any more.
    pub(super) fn decode(&mut self, mut block: &[u8], mut each: impl FnMut(&[u8], &[u8])) -> Option<()> {
        while let Some(&first) = block.first() {
            if first & 0x80 != 0 {
                let (name, value) = self.entry(read_number(&mut block, 7)?)?;
                each(name, value);
            } else if first & 0xe0 == 0x20 {
                let limit = read_number(&mut block, 5)?;
                self.limit = Some(limit).filter(|limit| *limit <= TABLE_BYTES);
                self.limit?;
                self.evict(0);
            } else {
                let is_inserted = first & 0x40 != 0;
                let name = match read_number(&mut block, if is_inserted { 6 } else { 4 })? {
                    0 => read_text(&mut block)?,
                    index => Bytes::copy_from_slice(self.entry(index)?.0),
                };
                let value = read_text(&mut block)?;
                each(&name, &value);
                if is_inserted {
                    self.insert(name, value);
                }
            }
        }
        Some(())
    }

    fn entry(&self, index: usize) -> Option<(&[u8], &[u8])> {
        match STATIC.get(index.checked_sub(1)?) {
            Some((name, value)) => Some((name.as_bytes(), value.as_bytes())),
            None => self.table.get(index - 1 - STATIC.len()).map(|(name, value)| (&**name, &**value)),
        }
    }

    fn insert(&mut self, name: Bytes, value: Bytes) {
        let size = name.len() + value.len() + ENTRY_OVERHEAD;
        self.evict(size);
        if size <= self.limit() {
            self.bytes += size;
            self.table.push_front((name, value));
        }
    }

    /// Removes the oldest entries until `room` bytes fit.
    fn evict(&mut self, room: usize) {
        while self.bytes + room > self.limit() {
            let Some((name, value)) = self.table.pop_back() else { return };
            self.bytes -= name.len() + value.len() + ENTRY_OVERHEAD;
        }
    }

    fn limit(&self) -> usize {
        self.limit.unwrap_or(TABLE_BYTES)
    }
}

fn read_number(block: &mut &[u8], bits: u8) -> Option<usize> {
    let limit = (1 << bits) - 1;
    let (&first, mut rest) = block.split_first()?;
    let mut number = usize::from(first) & limit;
    if number == limit {
        let mut shift = 0;
        loop {
            let (&byte, after) = rest.split_first()?;
            rest = after;
            number += usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                break;
            }
            if shift > 28 {
                return None;
            }
        }
    }
    *block = rest;
    Some(number)
}

fn read_text(block: &mut &[u8]) -> Option<Bytes> {
    let is_huffman = block.first()? & 0x80 != 0;
    let length = read_number(block, 7)?;
    if length > MAX_TEXT_BYTES {
        return None;
    }
    let (text, rest) = block.split_at_checked(length)?;
    *block = rest;
    if is_huffman { decode_huffman(text) } else { Some(Bytes::copy_from_slice(text)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode_all(decoder: &mut Decoder, block: &[u8]) -> Option<Vec<(String, String)>> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut seen = Vec::new();
        decoder.decode(block, |name, value| seen.push((text(name), text(value)))).map(|()| seen)
    }

    /// Appendix C.6 of the RFC: responses with Huffman codes and, here without, evictions.
    #[test]
    fn the_standards_examples_are_decoded() {
        let mut decoder = Decoder::default();
        let block = [
            0x48, 0x82, 0x64, 0x02, 0x58, 0x85, 0xae, 0xc3, 0x77, 0x1a, 0x4b, 0x61, 0x96, 0xd0, 0x7a, 0xbe, 0x94, 0x10,
            0x54, 0xd4, 0x44, 0xa8, 0x20, 0x05, 0x95, 0x04, 0x0b, 0x81, 0x66, 0xe0, 0x82, 0xa6, 0x2d, 0x1b, 0xff, 0x6e,
            0x91, 0x9d, 0x29, 0xad, 0x17, 0x18, 0x63, 0xc7, 0x8f, 0x0b, 0x97, 0xc8, 0xe9, 0xae, 0x82, 0xae, 0x43, 0xd3,
        ];
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let rest = [
            pair("cache-control", "private"),
            pair("date", "Mon, 21 Oct 2013 20:13:21 GMT"),
            pair("location", "https://www.example.com"),
        ];
        let expected: Vec<_> = [pair(":status", "302")].into_iter().chain(rest.clone()).collect();
        assert_eq!(decode_all(&mut decoder, &block), Some(expected));
        assert_eq!(decoder.bytes, 222);
        let second = decode_all(&mut decoder, &[0x48, 0x83, 0x64, 0x0e, 0xff, 0xc1, 0xc0, 0xbf]);
        let expected: Vec<_> = [pair(":status", "307")].into_iter().chain(rest).collect();
        assert_eq!(second, Some(expected));
    }

    #[test]
    fn requests_shrink_to_a_byte_a_header() {
        let (mut encoder, mut decoder) = (Encoder::new(TABLE_BYTES), Decoder::default());
        let (path, agent) = (Bytes::from_static(b"/etcdserverpb.KV/Put"), Bytes::from_static(b"test"));
        let headers = [(":path", &path), ("user-agent", &agent), ("te", &agent)];
        let mut sizes = Vec::new();
        for _ in 0..3 {
            let mut block = Vec::new();
            encoder.encode(headers.into_iter(), &mut block);
            let decoded = decode_all(&mut decoder, &block).expect("a valid block");
            assert_eq!(decoded[0], (":method".to_owned(), "POST".to_owned()));
            assert_eq!(decoded[2], (":path".to_owned(), "/etcdserverpb.KV/Put".to_owned()));
            assert_eq!(decoded[4], ("te".to_owned(), "test".to_owned()));
            sizes.push(block.len());
        }
        assert_eq!(sizes[1..], [5, 5]);
        let other = Bytes::from_static(b"/etcdserverpb.KV/Range");
        let mut block = Vec::new();
        encoder.encode([(":path", &other), ("te", &agent)].into_iter(), &mut block);
        let decoded = decode_all(&mut decoder, &block).expect("a valid block");
        assert_eq!((&*decoded[2].1, &*decoded[3].0), ("/etcdserverpb.KV/Range", "te"));
    }

    #[test]
    fn a_peer_without_a_table_gets_literals() {
        let (mut encoder, mut decoder) = (Encoder::new(0), Decoder::default());
        let value = Bytes::from_static(b"x");
        for _ in 0..2 {
            let mut block = Vec::new();
            encoder.encode([("te", &value)].into_iter(), &mut block);
            assert!(decode_all(&mut decoder, &block).is_some_and(|seen| seen.len() == 3));
            assert!(decoder.table.is_empty());
        }
    }

    #[test]
    fn malformed_blocks_are_refused() {
        for block in [&[0xc0][..], &[0xff, 0xff], &[0x40, 0x05, b'a'], &[0x80], &[0x3f, 0xff, 0xff, 0x7f]] {
            assert_eq!(decode_all(&mut Decoder::default(), block), None, "{block:?}");
        }
        assert_eq!(decode_huffman(&[0x07]), Some(Bytes::from_static(b"0")));
        assert_eq!(decode_huffman(&[0x07, 0xff]), None, "more than seven bits of padding");
    }
}
