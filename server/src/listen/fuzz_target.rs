//! Fuzz target: what a connection says before anybody knows who it is.

use super::authority::AuthorityFilter;
use super::frame::MessageCounter;
use super::hpack::{find_authority, put_string};
use super::interrupt::timeout;
use ::fuzz::{Memory, Target};
use tokio::io::ReadBuf;

/// How many bytes arrive at a time, and the bytes behind the preface of an HTTP/2 connection.
pub(crate) const HTTP2: Target = Target { name: "http2", seeds, run, memory: Memory { base: 1 << 20, per_byte: 32 } };

/// Bytes that a gRPC message may have.
const MESSAGE_BYTES: usize = 1000;

fn run(input: &[u8]) {
    let Some((&step, bytes)) = input.split_first() else { return };
    let step = usize::from(step) + 1;
    let whole = filtered(bytes, usize::MAX);
    assert!(filtered(bytes, step) == whole, "frames are the same in steps of {step}");
    // An authority is corrected by a shorter one.
    assert!(whole.len() <= bytes.len(), "the filter adds nothing");
    if let Some(found) = find_authority(bytes) {
        assert!(found.place.end <= bytes.len() && found.place.start < found.place.end, "{found:?}");
    }
    assert_eq!(counted(bytes, step), counted(bytes, usize::MAX), "messages are the same in steps of {step}");
    timeout(bytes);
}

/// What hyper gets to read.
fn filtered(bytes: &[u8], step: usize) -> Vec<u8> {
    let mut filter = AuthorityFilter::default();
    let mut out = Vec::new();
    let mut read = |filter: &mut AuthorityFilter| {
        let mut room = [0; 64];
        loop {
            let mut buffer = ReadBuf::new(&mut room);
            if !filter.read(&mut buffer) {
                break;
            }
            out.extend_from_slice(buffer.filled());
        }
    };
    for arrived in bytes.chunks(step) {
        filter.feed(arrived);
        read(&mut filter);
    }
    filter.finish();
    read(&mut filter);
    assert!(filter.is_over(), "the end is the end");
    out
}

/// The messages of a body, None if one is too large.
fn counted(bytes: &[u8], step: usize) -> Option<u64> {
    let mut counter = MessageCounter::default();
    bytes.chunks(step).map(|arrived| counter.feed(arrived, MESSAGE_BYTES).ok()).sum()
}

fn seeds() -> Vec<Vec<u8>> {
    let frame = |kind: u8, flags: u8, payload: &[u8]| {
        let len = (payload.len() as u32).to_be_bytes();
        [&len[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    };
    let mut block = b"\x83\x86\x41".to_vec();
    put_string(&mut block, b"http://127.0.0.1:2379");
    let named = b"\x40\x0a:authority\x03a/b".to_vec();
    let huffman = b"\x40\x88\xb8\x3b\x53\x39\xec\x32\x7d\x7f\x03a/b".to_vec();
    let padded = [&[2, 0, 0, 0, 0, 16][..], &block, &[0, 0]].concat();
    let settings = frame(4, 0, &[0, 3, 0, 0, 0, 100]);
    vec![
        [&[7][..], &settings, &frame(1, 4, &block), &frame(0, 1, &[0, 0, 0, 0, 2, 1, 2])].concat(),
        [&[0][..], &settings, &frame(1, 4 | 8 | 32, &padded), &frame(1, 4, &named)].concat(),
        [&[255][..], &frame(1, 4, &huffman), &settings].concat(),
        [&[3][..], &named].concat(),
        b"\x02\x00\x00\x00\x00\x03abc\x00\x00\x00\x00\x00".to_vec(),
        b"\x0199999999H".to_vec(),
    ]
}
