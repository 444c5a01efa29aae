//! Fuzz target: JSON of clients, messages of services, and streams of texts however they arrive.

use super::read::read;
use super::split::{Splitter, TooLarge};
use super::write::Writer;
use crate::fuzz_target::recoder;
use ::fuzz::{Memory, Target};
use api::descriptor::{Field, Kind, METHODS, Message};
use bytes::Bytes;
use std::fmt::Write as _;

/// The number of a method, what the text is, and the text.
pub(crate) const GATEWAY: Target = Target {
    name: "gateway",
    seeds,
    run,
    // As for requests in binary form, and three characters can be an element of a list.
    memory: Memory { base: 1 << 20, per_byte: 1024 },
};

/// Values of a stream may have so many bytes.
const VALUE_BYTES: usize = 2000;

fn run(input: &[u8]) {
    let [number, how, text @ ..] = input else { return };
    let method = &METHODS[usize::from(*number) % METHODS.len()];
    match how % 4 {
        0 => from_json(method.input, text),
        1 => from_json(method.output, text),
        2 => from_binary(method.output, text),
        _ => stream(text, usize::from(how / 4) + 1),
    }
}

/// What is read is a message, and the same once it was written and read again.
fn from_json(message: &'static Message, text: &[u8]) {
    let mut bytes = Vec::new();
    if read(text, message, &mut bytes).is_ok() {
        from_binary(message, &bytes);
        let recode = recoder(message.name).expect("every message has one");
        assert!(recode(&bytes).is_some(), "what was read is no {}", message.name);
    }
}

fn from_binary(message: &'static Message, bytes: &[u8]) {
    let recode = recoder(message.name).expect("every message has one");
    // As services send it.
    let Some(bytes) = recode(bytes) else { return };
    let text = written(message, &bytes, usize::MAX);
    let mut again = Vec::new();
    read(&text, message, &mut again).expect("what was written can be read");
    assert_eq!(recode(&again).as_ref(), Some(&bytes), "{}: {}", message.name, String::from_utf8_lossy(&text));
    assert_eq!(written(message, &bytes, 10), text, "{} in pieces", message.name);
}

/// The text, put together from pieces of at least so many bytes.
fn written(message: &'static Message, bytes: &[u8], piece: usize) -> Vec<u8> {
    let mut writer = Writer::new(message, Bytes::copy_from_slice(bytes)).expect("it is a message");
    let mut text = Vec::new();
    loop {
        let enough = text.len().saturating_add(piece);
        if writer.write(&mut text, enough).expect("it is a message") {
            return text;
        }
    }
}

/// The values of a stream are the same however they arrive.
fn stream(text: &[u8], step: usize) {
    assert_eq!(values(text, step), values(text, usize::MAX), "in steps of {step}");
}

/// The values, and then what is left, or that one is too large.
fn values(text: &[u8], step: usize) -> (Vec<Bytes>, Result<Option<Bytes>, TooLarge>) {
    let mut splitter = Splitter::new(VALUE_BYTES);
    let mut values = Vec::new();
    for arrived in text.chunks(step) {
        splitter.feed(arrived);
        loop {
            match splitter.next() {
                Ok(Some(value)) => values.push(value),
                Ok(None) => break,
                Err(error) => return (values, Err(error)),
            }
        }
    }
    let left = splitter.finish();
    (values, Ok(left))
}

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (number, method) in METHODS.iter().enumerate() {
        for (how, message) in [(0, method.input), (1, method.output)] {
            seeds.extend(example_texts(message).iter().map(|text| [&[number as u8, how], text.as_bytes()].concat()));
        }
        seeds.extend(examples(method.output).iter().map(|bytes| [&[number as u8, 2], &**bytes].concat()));
    }
    seeds.push(b"\x00\x1f{\"a\":{\"b\":[1,\"}\\\"\"]}} {} null\n\"x y\"".to_vec());
    seeds
}

/// Messages with every field set, in binary form: one for each alternative of a oneof.
pub(crate) fn examples(message: &'static Message) -> Vec<Vec<u8>> {
    let binary = |text: &String| {
        let mut bytes = Vec::new();
        read(text.as_bytes(), message, &mut bytes).expect("an example is valid");
        bytes
    };
    example_texts(message).iter().map(binary).collect()
}

/// Levels of messages within messages in an example.
const DEPTH: usize = 4;

fn example_texts(message: &'static Message) -> Vec<String> {
    // More than any oneof has members.
    let mut texts: Vec<_> = (0..6).map(|choice| example(message, choice, DEPTH)).collect();
    texts.dedup();
    texts
}

/// A message with every field, the `choice`th of each oneof.
fn example(message: &Message, choice: usize, depth: usize) -> String {
    let mut text = String::from("{");
    let mut fields: Vec<&Field> = Vec::new();
    for field in message.fields {
        let others: Vec<_> = message.fields.iter().filter(|other| other.oneof == field.oneof).collect();
        if field.oneof.is_none() || others[choice % others.len()].name == field.name {
            fields.push(field);
        }
    }
    for field in fields {
        let value = match &field.kind {
            Kind::Bool => "true".to_owned(),
            Kind::Int32 | Kind::Uint32 => "7".to_owned(),
            Kind::Int64 | Kind::Uint64 => "\"12345\"".to_owned(),
            Kind::String => "\"te\\u0020xt\"".to_owned(),
            Kind::Bytes => "\"a2V5\"".to_owned(),
            Kind::Enum(kind) => format!("\"{}\"", kind.values[choice % kind.values.len()].0),
            Kind::Message(_) if depth == 0 => continue,
            Kind::Message(message) => example(message, choice, depth - 1),
        };
        let comma = if text.len() > 1 { "," } else { "" };
        let value = if field.is_repeated { format!("[{value},{value}]") } else { value };
        write!(text, "{comma}\"{}\":{value}", field.name).expect("a String grows");
    }
    text + "}"
}
