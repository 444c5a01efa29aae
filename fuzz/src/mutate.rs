//! Changes inputs as a bad disk, a bad client or an attacker would: bits, lengths, pieces that are gone, doubled or of
//! another input.

use rand::Rng;
use rand::rngs::StdRng;

/// Changes made to one input, at most.
const CHANGES: usize = 8;

/// Integers that lengths and counts go wrong at.
const INTERESTING: [u64; 16] = [
    0,
    1,
    2,
    0x7f,
    0x80,
    0xff,
    0x100,
    0x7fff,
    0xffff,
    0x10000,
    0x7fff_ffff,
    0xffff_ffff,
    0x1_0000_0000,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
];

/// Changes `input` in one to [`CHANGES`] places. It grows to no more than `most` bytes.
pub(crate) fn mutate(random: &mut StdRng, input: &mut Vec<u8>, others: &[Vec<u8>], most: usize) {
    for _ in 0..random.random_range(1..=CHANGES) {
        change(random, input, others);
    }
    input.truncate(most);
}

fn change(random: &mut StdRng, input: &mut Vec<u8>, others: &[Vec<u8>]) {
    if input.is_empty() {
        input.push(random.random());
        return;
    }
    let at = random.random_range(0..input.len());
    let some = random.random_range(1..=64.min(input.len() - at));
    match random.random_range(0..10) {
        0 | 1 => input[at] ^= 1 << random.random_range(0..8),
        2 => input[at] = random.random(),
        3 | 4 => overwrite_integer(random, &mut input[at..]),
        5 => input.truncate(at),
        6 => drop(input.drain(at..at + some)),
        7 => {
            let piece = input[at..at + some].to_vec();
            let to = random.random_range(0..=input.len());
            drop(input.splice(to..to, piece));
        }
        8 => input[at..at + some].fill(if random.random() { 0 } else { random.random() }),
        _ => {
            let other = &others[random.random_range(0..others.len())];
            let from = random.random_range(0..=other.len());
            let to = random.random_range(from..=other.len());
            drop(input.splice(at..at + some, other[from..to].iter().copied()));
        }
    }
}

fn overwrite_integer(random: &mut StdRng, place: &mut [u8]) {
    let mut integer = INTERESTING[random.random_range(0..INTERESTING.len())];
    if random.random_range(0..4) == 0 {
        integer = integer.wrapping_add(random.random_range(0..16)).wrapping_sub(8);
    }
    let width = [1, 2, 4, 8][random.random_range(0..4)].min(place.len());
    if random.random() {
        place[..width].copy_from_slice(&integer.to_le_bytes()[..width]);
    } else {
        place[..width].copy_from_slice(&integer.to_be_bytes()[8 - width..]);
    }
}
