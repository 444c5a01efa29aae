//! Reads protobuf's JSON form straight into the binary form.
//!
//! The grammar is `serde_json`'s, whose limit on nesting bounds the stack (127 levels; etcd's deepest request in use has
//! six). Accepted is what etcd accepts: both spellings of a field's name, integers as numbers or strings, enums as names or
//! numbers, bytes in either alphabet of base64 with or without padding, null for what is not set; unknown fields are
//! skipped. Beyond that etcd's releases differ. Refused here, as in 3.6 and later: a field that is given twice, two
//! members of a oneof, null inside a list. Only the first value is read, what follows is not looked at.
//!
//! Errors name the field and never show a value: it may be a password.

use api::descriptor::{Field, Kind, Message};
use base64::Engine as _;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use prost::encoding::{WireType, encode_key, encode_varint};
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Number;
use std::borrow::Cow;
use std::fmt;

/// As Go's decoders, which let everything pass that says which bytes are meant.
const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_allow_trailing_bits(true)
    .with_decode_padding_mode(DecodePaddingMode::Indifferent);
const BASE64: GeneralPurpose = GeneralPurpose::new(&STANDARD, LENIENT);
const BASE64_URL: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, LENIENT);

/// `serde_json` may be off by the last bit of a floating-point number. Below this that bit is less than a quarter.
const EXACT_FLOATS: f64 = (1_u64 << 50) as f64;

/// Appends the message that the JSON text stands for. No text at all is the message without fields, as in etcd.
///
/// # Errors
/// The text is no JSON, or does not fit the message.
pub(super) fn read(json: &[u8], message: &'static Message, out: &mut Vec<u8>) -> serde_json::Result<()> {
    if json.iter().all(u8::is_ascii_whitespace) {
        return Ok(());
    }
    MessageSeed { message, out }.deserialize(&mut serde_json::Deserializer::from_slice(json))
}

/// Reads a message, without its length.
struct MessageSeed<'a> {
    message: &'static Message,
    out: &'a mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for MessageSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for MessageSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object for {}", self.message.name)
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    // The usual error would show the text.
    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        Err(E::custom(format_args!("a string, expected an object for {}", self.message.name)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen: u64 = 0;
        let mut oneofs: u64 = 0;
        while let Some(Name(name)) = map.next_key_seed(Name(Cow::Borrowed("")))? {
            let mut fields = self.message.fields.iter().enumerate();
            let Some((index, field)) = fields.find(|(_, field)| field.name == name || field.json_name == name) else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if seen & 1 << index != 0 {
                return Err(A::Error::custom(format_args!("field {} is given twice", field.name)));
            }
            seen |= 1 << index;
            let is_set = map.next_value_seed(ValueSeed { field, is_element: false, out: self.out })?;
            if let (true, Some(oneof)) = (is_set, field.oneof) {
                if oneofs & 1 << oneof != 0 {
                    return Err(A::Error::custom(format_args!(
                        "field {}: another one of the same oneof is given",
                        field.name
                    )));
                }
                oneofs |= 1 << oneof;
            }
        }
        Ok(())
    }
}

/// A key of an object, borrowed if it can be.
struct Name<'de>(Cow<'de, str>);

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = Name<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Name<'de>, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_borrowed_str<E: Error>(self, name: &'de str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Borrowed(name)))
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Owned(name.to_owned())))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// Reads the value of a field, or one element of its list. False if it is null.
struct ValueSeed<'a> {
    field: &'static Field,
    is_element: bool,
    out: &'a mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for ValueSeed<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl ValueSeed<'_> {
    fn refused<E: Error>(&self, what: impl fmt::Display) -> E {
        E::custom(format_args!("field {}: {what}", self.field.name))
    }

    fn unexpected<E: Error>(&self, found: &str) -> E {
        let expected = match self.field.kind {
            _ if self.field.is_repeated && !self.is_element => "a list",
            Kind::Bool => "true or false",
            Kind::Int32 | Kind::Uint32 | Kind::Int64 | Kind::Uint64 => "an integer",
            Kind::String => "a string",
            Kind::Bytes => "a string in base64",
            Kind::Enum(_) => "a name or a number",
            Kind::Message(_) => "an object",
        };
        self.refused(format_args!("{found}, expected {expected}"))
    }

    /// What a single value needs: an element of a list, or a field that is none.
    fn single<E: Error>(&self, found: &str) -> Result<(), E> {
        if self.field.is_repeated && !self.is_element { Err(self.unexpected(found)) } else { Ok(()) }
    }

    fn put_varint(&mut self, value: u64) {
        encode_key(self.field.number, WireType::Varint, self.out);
        encode_varint(value, self.out);
    }

    fn put_bytes(&mut self, value: &[u8]) {
        encode_key(self.field.number, WireType::LengthDelimited, self.out);
        encode_varint(value.len() as u64, self.out);
        self.out.extend_from_slice(value);
    }

    /// An integer, however it was written.
    fn put_integer<E: Error>(&mut self, number: i128) -> Result<bool, E> {
        let (fits, wire) = match self.field.kind {
            Kind::Int32 | Kind::Enum(_) => (i32::try_from(number).is_ok(), number as i64 as u64),
            Kind::Int64 => (i64::try_from(number).is_ok(), number as i64 as u64),
            Kind::Uint32 => (u32::try_from(number).is_ok(), number as u64),
            Kind::Uint64 => (u64::try_from(number).is_ok(), number as u64),
            _ => return Err(self.unexpected("a number")),
        };
        if !fits {
            return Err(self.refused("the number is out of range"));
        }
        self.put_varint(wire);
        Ok(true)
    }
}

/// The integer that a floating-point number is, if it is one without any doubt.
fn exact(number: f64) -> Option<i128> {
    (number.fract() == 0.0 && number.abs() < EXACT_FLOATS).then_some(number as i128)
}

/// The integer in a string: a JSON number and nothing around it.
fn integer(text: &str) -> Option<i128> {
    if text.bytes().any(|byte| byte.is_ascii_whitespace()) {
        return None;
    }
    let number: Number = serde_json::from_str(text).ok()?;
    number.as_i128().or_else(|| number.as_f64().and_then(exact))
}

/// Decodes either alphabet. Line breaks between the digits are no part of it, as in Go.
fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let text: Cow<'_, str> =
        if text.contains(['\r', '\n']) { text.replace(['\r', '\n'], "").into() } else { text.into() };
    let engine = if text.contains(['-', '_']) { &BASE64_URL } else { &BASE64 };
    engine.decode(&*text).ok()
}

impl<'de> Visitor<'de> for ValueSeed<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a value for {}", self.field.name)
    }

    fn visit_unit<E: Error>(self) -> Result<bool, E> {
        if self.is_element { Err(self.unexpected("null")) } else { Ok(false) }
    }

    fn visit_bool<E: Error>(mut self, value: bool) -> Result<bool, E> {
        self.single("a boolean")?;
        if !matches!(self.field.kind, Kind::Bool) {
            return Err(self.unexpected("a boolean"));
        }
        self.put_varint(u64::from(value));
        Ok(true)
    }

    fn visit_i64<E: Error>(mut self, number: i64) -> Result<bool, E> {
        self.single("a number")?;
        self.put_integer(number.into())
    }

    fn visit_u64<E: Error>(mut self, number: u64) -> Result<bool, E> {
        self.single("a number")?;
        self.put_integer(number.into())
    }

    fn visit_f64<E: Error>(mut self, number: f64) -> Result<bool, E> {
        self.single("a number")?;
        match exact(number) {
            Some(number) => self.put_integer(number),
            None => Err(self.unexpected("a number")),
        }
    }

    fn visit_str<E: Error>(mut self, text: &str) -> Result<bool, E> {
        self.single("a string")?;
        match self.field.kind {
            Kind::String => self.put_bytes(text.as_bytes()),
            Kind::Bytes => match decode_base64(text) {
                Some(bytes) => self.put_bytes(&bytes),
                None => return Err(self.refused("this is no base64")),
            },
            Kind::Enum(kind) => match kind.number(text) {
                Some(number) => return self.put_integer(number.into()),
                None => return Err(self.refused(format_args!("this is no name of {}", kind.name))),
            },
            Kind::Int32 | Kind::Int64 | Kind::Uint32 | Kind::Uint64 => match integer(text) {
                Some(number) => return self.put_integer(number),
                None => return Err(self.unexpected("a string without one")),
            },
            Kind::Bool | Kind::Message(_) => return Err(self.unexpected("a string")),
        }
        Ok(true)
    }

    fn visit_map<A: MapAccess<'de>>(mut self, map: A) -> Result<bool, A::Error> {
        self.single("an object")?;
        let Kind::Message(message) = self.field.kind else { return Err(self.unexpected("an object")) };
        // Its length comes first, so it is put together elsewhere.
        let mut inner = Vec::new();
        MessageSeed { message, out: &mut inner }.visit_map(map)?;
        self.put_bytes(&inner);
        Ok(true)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<bool, A::Error> {
        if self.is_element || !self.field.is_repeated {
            return Err(self.unexpected("a list"));
        }
        while list.next_element_seed(ValueSeed { field: self.field, is_element: true, out: &mut *self.out })?.is_some()
        {
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
