//! Counts gRPC messages in a body by their five-byte prefixes, without copying or decoding.

/// A prefix: one byte of flags, four of length.
const PREFIX_BYTES: usize = 5;

/// Follows the messages of one body.
#[derive(Debug, Default)]
pub(super) struct MessageCounter {
    prefix: [u8; PREFIX_BYTES],
    prefix_len: usize,
    /// Bytes of the current message that have not been seen.
    remaining: usize,
}

/// A message is larger than allowed; its length.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLarge(pub(super) usize);

impl MessageCounter {
    /// Takes the next bytes of the body and returns how many messages began in them.
    ///
    /// # Errors
    /// [`TooLarge`] as soon as a prefix announces more than `limit` bytes.
    pub(super) fn feed(&mut self, mut data: &[u8], limit: usize) -> Result<u64, TooLarge> {
        let mut begun = 0;
        while !data.is_empty() {
            if self.remaining > 0 {
                let seen = self.remaining.min(data.len());
                self.remaining -= seen;
                data = &data[seen..];
                continue;
            }
            let seen = (PREFIX_BYTES - self.prefix_len).min(data.len());
            self.prefix[self.prefix_len..self.prefix_len + seen].copy_from_slice(&data[..seen]);
            self.prefix_len += seen;
            data = &data[seen..];
            if self.prefix_len == PREFIX_BYTES {
                let [_, length @ ..] = self.prefix;
                self.prefix_len = 0;
                self.remaining = u32::from_be_bytes(length) as usize;
                if self.remaining > limit {
                    return Err(TooLarge(self.remaining));
                }
                begun += 1;
            }
        }
        Ok(begun)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(length: usize) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend((length as u32).to_be_bytes());
        bytes.extend(std::iter::repeat_n(7, length));
        bytes
    }

    #[test]
    fn messages_are_counted_however_they_are_cut() {
        let body: Vec<u8> = [message(0), message(3), message(300), message(1)].concat();
        for step in 1..body.len() {
            let mut counter = MessageCounter::default();
            let total: u64 = body.chunks(step).map(|chunk| counter.feed(chunk, 300).unwrap()).sum();
            assert_eq!(total, 4, "step {step}");
        }
    }

    #[test]
    fn a_large_message_is_noticed_at_its_prefix() {
        let mut counter = MessageCounter::default();
        assert_eq!(counter.feed(&message(301)[..5], 300), Err(TooLarge(301)));
    }
}
