//! Reads single fields of a protobuf message without decoding the rest.
//!
//! Watch events arrive by the hundred thousand a second; decoding each into owned messages would cost the generator more
//! than the server spends on sending them. Malformed input ends the iteration.

/// A field's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    /// A varint, or a fixed-width number as it is on the wire.
    Number(u64),
    /// A string, bytes or a message.
    Bytes(&'a [u8]),
}

/// The fields of `message` in their order on the wire.
pub(crate) fn fields(mut message: &[u8]) -> impl Iterator<Item = (u32, Value<'_>)> {
    std::iter::from_fn(move || {
        let tag = varint(&mut message)?;
        let value = match tag & 7 {
            0 => Value::Number(varint(&mut message)?),
            1 => Value::Number(u64::from_le_bytes(*take_array(&mut message)?)),
            2 => {
                let length = usize::try_from(varint(&mut message)?).ok()?;
                let (bytes, rest) = message.split_at_checked(length)?;
                message = rest;
                Value::Bytes(bytes)
            }
            5 => Value::Number(u32::from_le_bytes(*take_array(&mut message)?).into()),
            _ => return None,
        };
        Some(((tag >> 3) as u32, value))
    })
}

/// The bytes of the first field `number`.
pub(crate) fn bytes_field(message: &[u8], number: u32) -> Option<&[u8]> {
    fields(message).find_map(|(field, value)| match value {
        Value::Bytes(bytes) if field == number => Some(bytes),
        _ => None,
    })
}

fn take_array<'a, const N: usize>(bytes: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (array, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(array)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use api::etcdserverpb::WatchResponse;
    use api::mvccpb::{Event, KeyValue};
    use bytes::Bytes;
    use prost::Message as _;

    use super::*;

    #[test]
    fn fields_agree_with_the_encoder() {
        let kv = KeyValue { key: Bytes::from_static(b"k"), value: Bytes::from_static(b"value"), ..Default::default() };
        let event = Event { kv: Some(kv), ..Default::default() };
        let response =
            WatchResponse { watch_id: 300, created: true, events: vec![event.clone(), event], ..Default::default() };
        let bytes = response.encode_to_vec();
        let seen: Vec<_> = fields(&bytes).collect();
        assert_eq!(seen[0], (2, Value::Number(300)));
        assert_eq!(seen[1], (3, Value::Number(1)));
        assert_eq!(seen.len(), 4);
        let value = bytes_field(&bytes, 11).and_then(|event| bytes_field(event, 2)).and_then(|kv| bytes_field(kv, 5));
        assert_eq!(value, Some(&b"value"[..]));
    }

    #[test]
    fn malformed_input_ends() {
        assert_eq!(fields(&[0x0a, 200, 1]).count(), 0);
        assert_eq!(fields(&[0xff; 20]).count(), 0);
        assert_eq!(fields(&[0x0b]).count(), 0);
    }
}
