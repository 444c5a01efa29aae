//! The keys and values that workloads use: a fixed number of keys of one size, chosen in order or at random.

use bytes::{BufMut as _, Bytes, BytesMut};
use rand::rngs::SmallRng;
use rand::{Rng as _, RngCore as _, SeedableRng as _};

/// A set of keys: a prefix and a number in decimal, filled with zeros to one length.
#[derive(Clone, Debug)]
pub(crate) struct KeySpace {
    /// What every key starts with.
    pub(crate) prefix: Bytes,
    /// Length of a key.
    pub(crate) key_size: usize,
    /// How many keys there are.
    pub(crate) count: u64,
    /// Whether keys are taken in order instead of at random.
    pub(crate) is_sequential: bool,
}

impl KeySpace {
    /// Checks that the number fits behind the prefix.
    ///
    /// # Errors
    /// Names the shortest key size that fits.
    pub(crate) fn check(&self) -> Result<(), String> {
        let digits = self.count.saturating_sub(1).max(1).ilog10() as usize + 1;
        let needed = self.prefix.len() + digits;
        if self.count == 0 {
            return Err("--keys must be at least 1".to_owned());
        }
        if self.key_size < needed {
            return Err(format!("{} keys with this prefix need --key-size {needed} or more", self.count));
        }
        Ok(())
    }

    /// The key with number `index`.
    pub(crate) fn key(&self, mut index: u64) -> Bytes {
        let mut key = BytesMut::with_capacity(self.key_size);
        key.put_slice(&self.prefix);
        key.put_bytes(b'0', self.key_size.saturating_sub(self.prefix.len()));
        for digit in key[self.prefix.len()..].iter_mut().rev() {
            *digit = b'0' + (index % 10) as u8;
            index /= 10;
        }
        key.freeze()
    }

    /// The number of the key for call `call`.
    pub(crate) fn choose(&self, call: u64, random: &mut SmallRng) -> u64 {
        if self.is_sequential { call % self.count } else { random.random_range(0..self.count) }
    }
}

/// Random bytes that do not compress; the same for the same seed.
pub(crate) fn value(size: usize, seed: u64) -> Bytes {
    let mut bytes = vec![0; size];
    SmallRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(count: u64, key_size: usize) -> KeySpace {
        KeySpace { prefix: Bytes::from_static(b"bench/"), key_size, count, is_sequential: true }
    }

    #[test]
    fn keys_have_one_size_and_order() {
        let space = space(1_000, 12);
        assert_eq!(space.key(42), &b"bench/000042"[..]);
        let mut random = SmallRng::seed_from_u64(1);
        assert_eq!(space.choose(1_001, &mut random), 1);
        let shuffled = KeySpace { is_sequential: false, ..space };
        assert!((0..100).all(|call| shuffled.choose(call, &mut random) < 1_000));
    }

    #[test]
    fn too_short_keys_are_refused() {
        assert_eq!(space(1_000, 9).check(), Ok(()));
        let error = space(1_001, 9).check().expect_err("four digits do not fit");
        assert!(error.contains("--key-size 10"), "{error}");
        assert!(space(0, 30).check().is_err());
    }

    #[test]
    fn values_repeat_with_their_seed() {
        assert_eq!(value(256, 7), value(256, 7));
        assert_ne!(value(256, 7), value(256, 8));
    }
}
