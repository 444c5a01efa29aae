//! The filter alone: recorded and made-up bytes, in reads of all sizes.

use super::*;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// The header block of `etcdctl endpoint status` of etcd 3.4.23; its authority is `http://127.0.0.1:56479`.
const RECORDED: &str = "8386459760a924882d9dcb6571afa066a925a87510ac6e48d36a3f\
    41909d29aee30c044eae05c0b86e36e34ebf\
    5f8b1d75d0620d263d4c4d65647a8b9acac8b4c7602bb2caecff40027465864d833505b11f40899acac8b24d494f6a7f8613efbcf361b7\
    408d25062d495875996ee5b1063d5f03332e34";
/// The part of it that is the URL, and what it should be.
const RECORDED_URL: &str = "909d29aee30c044eae05c0b86e36e34ebf";
const RECORDED_AUTHORITY: &str = "0f3132372e302e302e313a3536343739";

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u32> = hex.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
}

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags, 0, 0, 0, 1]);
    frame.extend(payload);
    frame
}

fn headers(block: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, block)
}

fn authority(value: &str) -> Vec<u8> {
    let mut block = vec![0x83, 0x86, 0x41];
    put_string(&mut block, value.as_bytes());
    block
}

/// What the filter makes of bytes that come and go in pieces of the sizes that `size` gives.
fn filtered(input: &[u8], mut size: impl FnMut() -> usize) -> Vec<u8> {
    let mut filter = AuthorityFilter::default();
    let mut output = Vec::new();
    let mut drain = |filter: &mut AuthorityFilter, len: usize| {
        let mut room = vec![0; len];
        let mut buf = ReadBuf::new(&mut room);
        while filter.read(&mut buf) {
            output.extend_from_slice(buf.filled());
            buf.clear();
        }
    };
    let mut rest = input;
    while !rest.is_empty() {
        let (piece, later) = rest.split_at(size().min(rest.len()));
        filter.feed(piece);
        assert!(filter.held.len() + filter.ready.len() <= 2 * (FRAME_HEAD_BYTES + MAX_FRAME_BYTES) + piece.len());
        rest = later;
        drain(&mut filter, size());
    }
    filter.finish();
    drain(&mut filter, size());
    assert!(filter.is_over());
    output
}

fn whole(input: &[u8]) -> Vec<u8> {
    filtered(input, || input.len().max(1))
}

#[test]
fn a_recorded_client_is_corrected_at_every_read_size() {
    let settings = [frame(4, 0, &[]), frame(4, 1, &[])].concat();
    let data = frame(0, 1, &[0; 5]);
    let corrected_block = RECORDED.replace(RECORDED_URL, RECORDED_AUTHORITY);
    let input = [settings.clone(), headers(&bytes(RECORDED)), data.clone()].concat();
    let expected = [settings, headers(&bytes(&corrected_block)), data].concat();
    assert_ne!(input, expected);
    for size in 1..=input.len() {
        assert_eq!(filtered(&input, || size), expected, "reads of {size}");
    }
}

#[test]
fn later_urls_are_corrected_and_the_rest_passes() {
    let url = authority("http://127.0.0.1:2379");
    let right = authority("127.0.0.1:2379");
    let large = frame(0, 0, &vec![0x41; 60_000]);
    // A reference to the table, padding and priority, a block that goes on in another frame.
    let reference = headers(&[0x83, 0x86, 0xbe]);
    let padded = |block: &[u8]| {
        let payload = [&[3, 0, 0, 0, 0, 16], block, &[0; 3]].concat();
        frame(HEADERS, END_HEADERS | PADDED | PRIORITY, &payload)
    };
    let part = frame(HEADERS, 0, &url);
    let end = frame(9, END_HEADERS, &[0x84]);
    let input =
        [headers(&url), large.clone(), reference.clone(), padded(&url), part.clone(), end.clone(), headers(&url)];
    let expected = [headers(&right), large, reference, padded(&right), part, end, headers(&right)];
    assert_eq!(whole(&input.concat()), expected.concat());
}

#[test]
fn the_representation_stays() {
    for first in [0x41, 0x01, 0x11] {
        let mut url = authority("https://host/path");
        let mut right = authority("host");
        (url[2], right[2]) = (first, first);
        assert_eq!(whole(&headers(&url)), headers(&right));
    }
}

#[test]
fn everything_else_passes_unchanged() {
    let url = headers(&authority("http://a"));
    let cases = [
        ("a plain authority ends the filter", [headers(&authority("localhost:2379")), url.clone()].concat()),
        ("so do headers without one", [headers(&[0x83, 0x86]), url.clone()].concat()),
        ("and headers in several frames", [frame(HEADERS, 0, &authority("http://a")), url.clone()].concat()),
        ("and headers that are too large", [headers(&vec![0x82; MAX_FRAME_BYTES + 1]), url.clone()].concat()),
        ("padding beyond the frame", frame(HEADERS, END_HEADERS | PADDED, &[0xff, 0x41, 1, b'a'])),
        ("priority cut short", frame(HEADERS, END_HEADERS | PRIORITY, &[0; 4])),
        ("no block", headers(&[])),
        ("a string beyond the block", headers(&[0x41, 0x30, b'a'])),
        ("a frame cut short", url[..url.len() - 1].to_vec()),
        ("a head cut short", url[..5].to_vec()),
        ("nothing", Vec::new()),
    ];
    for (name, input) in cases {
        assert_eq!(whole(&input), input, "{name}");
        assert_eq!(filtered(&input, || 1), input, "{name}, byte by byte");
    }
}

#[test]
fn the_filter_is_over_after_the_first_plain_authority() {
    let mut filter = AuthorityFilter::default();
    filter.feed(&[frame(4, 0, &[]), headers(&authority("localhost:2379")), frame(0, 0, &[7; 9])].concat());
    let mut room = [0; 100];
    assert!(!filter.is_over() && filter.read(&mut ReadBuf::new(&mut room)) && filter.is_over());
}

#[test]
fn authorities_in_urls_and_paths() {
    let cases = [
        ("http://127.0.0.1:2379", Some("127.0.0.1:2379")),
        ("https://[::1]:2379/", Some("[::1]:2379")),
        ("http://a?b", Some("a")),
        ("unix:///run/etcd.sock", Some("unix")),
        ("/run/etcd.sock", Some("unix")),
        ("/s", None),
        ("etcd.sock", None),
        ("unix://localhost:123", Some("localhost:123")),
        ("a://", Some("unix")),
        ("://a", None),
        ("a/b://c", None),
        ("localhost:2379", None),
        ("[::1]:2379", None),
        ("", None),
    ];
    for (value, expected) in cases {
        assert_eq!(authority_in(value.as_bytes()), expected.map(str::as_bytes), "{value}");
    }
}

#[test]
fn a_correction_that_would_not_fit_a_frame_is_not_made() {
    // "a://" and zeros, whose codes have five bits; without the coding, the frame would be too long.
    let mut coded = bytes("1dc6180000");
    coded.extend([0; 10_243]);
    let mut block = vec![0x41];
    put_string(&mut block, &coded);
    block[1] |= 0x80;
    assert!(find_authority(&block).is_some_and(|found| found.value.len() > MAX_FRAME_BYTES));
    let input = headers(&block);
    assert!(input.len() < MAX_FRAME_BYTES);
    assert_eq!(whole(&input), input);
}

#[test]
fn random_bytes_pass_in_any_pieces() {
    for seed in 0..3000 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut input = Vec::new();
        // Mostly well-formed frames, so that the walk of the blocks is reached; at times the frame itself is garbage.
        for _ in 0..random.random_range(1..6) {
            let mut payload = vec![0; random.random_range(0..60)];
            random.fill(&mut payload[..]);
            match random.random_range(0..4) {
                0 => input.extend(payload),
                1 => input.extend(frame(random.random_range(0..10), random.random(), &payload)),
                2 => input.extend(frame(HEADERS, random.random::<u8>() | END_HEADERS, &payload)),
                _ => {
                    let mut block = bytes(RECORDED);
                    let at = random.random_range(0..block.len());
                    block[at] ^= random.random::<u8>() & random.random::<u8>();
                    input.extend(headers(&block));
                }
            }
        }
        let expected = whole(&input);
        let pieces = filtered(&input, || random.random_range(1..20));
        assert_eq!(pieces, expected, "seed {seed}");
    }
}
