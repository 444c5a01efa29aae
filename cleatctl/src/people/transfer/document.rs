//! YAML and JSON: one map of keys, or maps within maps where keys have slashes.
//!
//! A value that is no text is written as `{"$base64": "..."}`. Scalars of YAML that look like numbers or truth are taken as
//! they are written.

use super::{BYTES_MAX, Entries, Entry};
use crate::people::text;
use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

/// The mark of a value that is no text.
const BINARY: &str = "$base64";

/// Maps within maps: more levels than keys have that somebody wrote, and no more than a thread's stack has room for while they
/// are read.
const DEPTH_MAX: usize = 32;

/// Characters in which a reader of YAML must find the end of a key, by YAML's own rule.
const YAML_KEY_CHARS_MAX: usize = 1024;

/// What is written.
enum Node<'a> {
    Value(&'a [u8]),
    Map(BTreeMap<&'a str, Self>),
}

/// One map of keys; with `is_nested`, the parts of keys are maps within maps.
fn arrange(entries: &[Entry], is_nested: bool) -> Result<Node<'_>> {
    let mut root = BTreeMap::new();
    for (key, value) in entries {
        let shown = || text::show(key);
        let name = std::str::from_utf8(key).ok().with_context(|| {
            format!("the key {} is no text, which YAML and JSON cannot have; --format dir takes any key", shown())
        })?;
        let mut parts: Vec<&str> = if is_nested { name.split('/').collect() } else { vec![name] };
        ensure!(parts.len() <= DEPTH_MAX, "the key {} has more than {DEPTH_MAX} parts; leave --nested out", shown());
        let last = parts.pop().unwrap_or_default();
        // Alone in its map it would be read as the mark.
        ensure!(
            parts.is_empty() || last != BINARY,
            "{} ends like the mark of binary values; leave --nested out",
            shown()
        );
        let mut map = &mut root;
        for part in parts {
            match map.entry(part).or_insert_with(|| Node::Map(BTreeMap::new())) {
                Node::Map(inner) => map = inner,
                Node::Value(_) => bail!("{} stands below a key of that name; leave --nested out", shown()),
            }
        }
        ensure!(
            map.insert(last, Node::Value(value)).is_none(),
            "{} is a key, and there are keys below it; leave --nested out",
            shown()
        );
    }
    Ok(Node::Map(root))
}

/// The text of a JSON file.
///
/// # Errors
/// A key is no text, or is what others are below of while they are nested.
pub(super) fn to_json(entries: &[Entry], is_nested: bool) -> Result<String> {
    fn json(node: &Node<'_>) -> serde_json::Value {
        match node {
            Node::Value(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => text.into(),
                Err(_) => serde_json::json!({ BINARY: BASE64.encode(bytes) }),
            },
            Node::Map(map) => map.iter().map(|(name, node)| ((*name).to_owned(), json(node))).collect(),
        }
    }
    Ok(format!("{:#}\n", json(&arrange(entries, is_nested)?)))
}

/// The text of a YAML file.
///
/// # Errors
/// As [`to_json`]; a key is longer than YAML has them.
pub(super) fn to_yaml(entries: &[Entry], is_nested: bool) -> Result<String> {
    if entries.is_empty() {
        return Ok("{}\n".to_owned());
    }
    let mut yaml = String::new();
    if let Node::Map(map) = arrange(entries, is_nested)? {
        write_map(&map, 0, &mut yaml)?;
    }
    Ok(yaml)
}

fn write_map(map: &BTreeMap<&str, Node<'_>>, indent: usize, yaml: &mut String) -> Result<()> {
    for (name, node) in map {
        let key = scalar(name);
        ensure!(
            key.chars().count() <= YAML_KEY_CHARS_MAX,
            "the key {} is too long for YAML, which takes {YAML_KEY_CHARS_MAX} characters; use another --format",
            text::cut(&text::show(name.as_bytes()), 100, true)
        );
        text::push(yaml, format_args!("{:indent$}{key}:", ""));
        match node {
            Node::Map(inner) => {
                yaml.push('\n');
                write_map(inner, indent + 2, yaml)?;
            }
            Node::Value(bytes) => match std::str::from_utf8(bytes) {
                Ok(value) if is_block(value) => write_block(value, indent + 2, yaml),
                Ok(value) => text::push(yaml, format_args!(" {}\n", scalar(value))),
                Err(_) => text::push(yaml, format_args!(" {{{BINARY:?}: {:?}}}\n", BASE64.encode(bytes))),
            },
        }
    }
    Ok(())
}

/// A text as it is where every reader of YAML takes it for one, else in quotes: what JSON escapes, YAML does, too.
fn scalar(value: &str) -> String {
    const WORDS: [&str; 9] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let is_plain = value.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/' || c == '_')
        && value.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '/' | '_' | '-' | '.' | ' '))
        && !value.ends_with(' ')
        && !WORDS.contains(&value.to_ascii_lowercase().as_str());
    if is_plain {
        return value.to_owned();
    }
    let mut quoted = String::with_capacity(value.len() + 2);
    quoted.push('"');
    for c in value.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            // Line breaks and marks of YAML that are not shown.
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}') => {
                text::push(&mut quoted, format_args!("\\u{:04x}", u32::from(c)));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// True for texts of several lines that stand as they are below their key.
fn is_block(value: &str) -> bool {
    let is_shown = |c: char| c == '\n' || !(c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}'));
    value.trim_end_matches('\n').contains('\n')
        && value.chars().all(is_shown)
        && value.split('\n').all(|line| !line.starts_with(' ') && !line.ends_with(' '))
        && !value.starts_with('\n')
}

fn write_block(value: &str, indent: usize, yaml: &mut String) {
    let body = value.trim_end_matches('\n');
    yaml.push_str(match value.len() - body.len() {
        0 => " |-\n",
        1 => " |\n",
        _ => " |+\n",
    });
    for line in body.split('\n') {
        let line_indent = if line.is_empty() { 0 } else { indent };
        text::push(yaml, format_args!("{:line_indent$}{line}\n", ""));
    }
    for _ in 1..value.len() - body.len() {
        yaml.push('\n');
    }
}

/// What is read: a map, a text, or something else that stands there as it is written.
enum Read<N> {
    Map(Vec<(String, N)>),
    Text(String),
    Scalar(String),
    Nothing,
}

struct ReadVisitor<N>(PhantomData<N>);

impl<'de, N: Deserialize<'de>> Visitor<'de> for ReadVisitor<N> {
    type Value = Read<N>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text or a map")
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Read::Text(text.to_owned()))
    }

    fn visit_bool<E>(self, truth: bool) -> Result<Self::Value, E> {
        Ok(Read::Scalar(truth.to_string()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
        Ok(Read::Scalar(number.to_string()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
        Ok(Read::Scalar(number.to_string()))
    }

    fn visit_i128<E>(self, number: i128) -> Result<Self::Value, E> {
        Ok(Read::Scalar(number.to_string()))
    }

    fn visit_u128<E>(self, number: u128) -> Result<Self::Value, E> {
        Ok(Read::Scalar(number.to_string()))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        // Its digits are lost: only who has the source knows them.
        Ok(Read::Scalar(String::new()))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Read::Nothing)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<Self::Value, A::Error> {
        Err(A::Error::custom("a list cannot be the value of a key; write it as a text in quotes"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Read::Map(entries))
    }
}

/// A node of JSON.
struct Json(Read<Self>);

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ReadVisitor(PhantomData)).map(Self)
    }
}

/// A node of YAML, with its place.
struct Yaml(Read<Spanned<Self>>);

impl<'de> Deserialize<'de> for Yaml {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ReadVisitor(PhantomData)).map(Self)
    }
}

/// Reads a JSON file.
///
/// # Errors
/// It is not one, or has something that is no value; nothing of what is in it is shown.
pub(super) fn from_json(text: &str) -> Result<Entries> {
    // serde's text of an error may show a value.
    let Json(root) = serde_json::from_str(text).map_err(|error| {
        let what = if error.is_data() { error.to_string() } else { "it is no JSON".to_owned() };
        let what = what.split(" at line ").next().unwrap_or_default().to_owned();
        anyhow::anyhow!("line {}, column {}: {what}", error.line(), error.column())
    })?;
    let mut entries = Entries::default();
    collect_json(root, None, &mut entries)?;
    Ok(entries)
}

fn collect_json(node: Read<Json>, key: Option<String>, entries: &mut Entries) -> Result<()> {
    match (node, key) {
        (Read::Map(map), key) => match binary(&map, |node| match &node.0 {
            Read::Text(text) => Some(text),
            _ => None,
        }) {
            Some(encoded) if key.is_some() => entries.add(name(key)?, decoded(encoded)?),
            _ => map
                .into_iter()
                .try_for_each(|(part, node)| collect_json(node.0, Some(joined(key.as_deref(), &part)), entries)),
        },
        (Read::Scalar(text), key) if text.is_empty() => {
            bail!("the value of {} is a number with a point; write it in quotes", text::show(&name(key)?))
        }
        (Read::Text(text) | Read::Scalar(text), key) => entries.add(name(key)?, text.into_bytes()),
        (Read::Nothing, key) => bail!("{} has no value; write \"\" for an empty one", text::show(&name(key)?)),
    }
}

/// Reads a YAML file.
///
/// # Errors
/// As [`from_json`].
pub(super) fn from_yaml(text: &str) -> Result<Entries> {
    // The size of the file, which was looked at, is the limit: everything in it takes a byte. Anchors and aliases keep the
    // parser's own limits.
    let budget = serde_saphyr::budget! {
        max_events: BYTES_MAX,
        max_nodes: BYTES_MAX,
        max_total_scalar_bytes: BYTES_MAX,
        max_depth: DEPTH_MAX + 1,
        simple_key_max_lookahead: YAML_KEY_CHARS_MAX + 1,
    };
    let options = serde_saphyr::options! { with_snippet: false, budget: budget };
    let root: Spanned<Yaml> =
        serde_saphyr::from_str_with_options(text, options).map_err(|error| anyhow::anyhow!("{error}"))?;
    let mut entries = Entries::default();
    collect_yaml(root, None, text, &mut entries)?;
    Ok(entries)
}

fn collect_yaml(node: Spanned<Yaml>, key: Option<String>, source: &str, entries: &mut Entries) -> Result<()> {
    let place = node.defined;
    match (node.value.0, key) {
        (Read::Map(map), key) => match binary(&map, |node| match &node.value.0 {
            Read::Text(text) => Some(text),
            _ => None,
        }) {
            Some(encoded) if key.is_some() => entries.add(name(key)?, decoded(encoded)?),
            _ => map
                .into_iter()
                .try_for_each(|(part, node)| collect_yaml(node, Some(joined(key.as_deref(), &part)), source, entries)),
        },
        (Read::Text(text), key) => entries.add(name(key)?, text.into_bytes()),
        (Read::Scalar(_), key) => {
            let written = place.span().byte_offset().zip(place.span().byte_len()).and_then(|(from, length)| {
                let from = usize::try_from(from).ok()?;
                source.get(from..from + usize::try_from(length).ok()?)
            });
            let name = name(key)?;
            match written {
                Some(written) => entries.add(name, written.trim().as_bytes().to_vec()),
                None => bail!("line {}: write the value of {} in quotes", place.line(), text::show(&name)),
            }
        }
        (Read::Nothing, None) => Ok(()),
        (Read::Nothing, Some(key)) => {
            bail!("line {}: {} has no value; write \"\" for an empty one", place.line(), text::show(key.as_bytes()))
        }
    }
}

/// What stands behind the mark of a value that is no text.
fn binary<'a, N>(map: &'a [(String, N)], text: impl Fn(&'a N) -> Option<&'a String>) -> Option<&'a str> {
    match map {
        [(mark, value)] if mark == BINARY => text(value).map(String::as_str),
        _ => None,
    }
}

fn decoded(encoded: &str) -> Result<Vec<u8>> {
    BASE64.decode(encoded).with_context(|| format!("what stands behind {BINARY} is no base64"))
}

fn joined(key: Option<&str>, part: &str) -> String {
    key.map_or_else(|| part.to_owned(), |key| format!("{key}/{part}"))
}

fn name(key: Option<String>) -> Result<Vec<u8>> {
    key.map(String::into_bytes).context("the document is no map of keys and values")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::people::snapshots::assert_recorded;

    fn listed(entries: Entries) -> Vec<(String, String)> {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        entries.sorted().unwrap().into_iter().map(|(key, value)| (text(key), text(value))).collect()
    }

    #[test]
    fn what_is_written_is_read_again() {
        let entries = super::super::tests::difficult();
        let (yaml, json) = (to_yaml(&entries, false).unwrap(), to_json(&entries, false).unwrap());
        assert_recorded("export-yaml", &yaml);
        assert_recorded("export-json", &json);
        assert_eq!(from_yaml(&yaml).unwrap().sorted().unwrap(), entries);
        assert_eq!(from_json(&json).unwrap().sorted().unwrap(), entries);
        for entries in [Vec::new(), vec![(b"k".to_vec(), vec![0xff])], vec![(Vec::new(), b"x".to_vec())]] {
            assert_eq!(from_yaml(&to_yaml(&entries, false).unwrap()).unwrap().sorted().unwrap(), entries);
            assert_eq!(from_json(&to_json(&entries, false).unwrap()).unwrap().sorted().unwrap(), entries);
        }
    }

    #[test]
    fn every_single_value_is_read_again() {
        let mut alphabet: Vec<char> = (0..0x100).filter_map(char::from_u32).collect();
        alphabet.extend(['\u{2028}', '\u{feff}', '漢', '😀']);
        for first in alphabet {
            for rest in ["", "x", " x", "\nx", "\n", "\n\n", ": x"] {
                let value = format!("{first}{rest}");
                let entries = vec![(value.clone().into_bytes(), value.into_bytes())];
                assert_eq!(from_yaml(&to_yaml(&entries, false).unwrap()).unwrap().sorted().unwrap(), entries);
            }
        }
    }

    #[test]
    fn what_is_much_long_or_deep_is_read_again() {
        let same = |entries: &[Entry], is_nested| {
            let (yaml, json) = (to_yaml(entries, is_nested).unwrap(), to_json(entries, is_nested).unwrap());
            // No text of a failed comparison: it would be megabytes.
            assert!(from_yaml(&yaml).unwrap().sorted().unwrap() == entries);
            assert!(from_json(&json).unwrap().sorted().unwrap() == entries);
        };
        // More nodes than the parser of YAML takes by itself.
        same(&(0..130_000).map(|n| (format!("k{n:06}").into_bytes(), b"v".to_vec())).collect::<Vec<_>>(), false);
        let deep = |parts: usize| vec![(vec!["d"; parts].join("/").into_bytes(), b"v".to_vec())];
        same(&deep(DEPTH_MAX), true);
        for written in [to_yaml(&deep(DEPTH_MAX + 1), true), to_json(&deep(DEPTH_MAX + 1), true)] {
            assert!(written.unwrap_err().to_string().ends_with("leave --nested out"));
        }
        let long = |c: char, count: usize| vec![(c.to_string().repeat(count).into_bytes(), b"v".to_vec())];
        same(&long('k', YAML_KEY_CHARS_MAX), false);
        same(&long('ü', YAML_KEY_CHARS_MAX - 2), false);
        let error = to_yaml(&long('ü', YAML_KEY_CHARS_MAX - 1), false).unwrap_err().to_string();
        assert!(error.contains("is too long for YAML") && error.len() < 400, "{error}");
    }

    #[test]
    fn nested_maps_are_keys_with_slashes() {
        let entries: Vec<Entry> =
            [("/app/db/host", "db1"), ("/app/db/port", "5432"), ("/app/name", "web"), ("top", "x")]
                .map(|(key, value)| (key.into(), value.into()))
                .into();
        let (yaml, json) = (to_yaml(&entries, true).unwrap(), to_json(&entries, true).unwrap());
        assert_recorded("export-yaml-nested", &yaml);
        assert_recorded("export-json-nested", &json);
        assert_eq!(from_yaml(&yaml).unwrap().sorted().unwrap(), entries);
        assert_eq!(from_json(&json).unwrap().sorted().unwrap(), entries);
        for keys in [["a", "a/b"], ["a/b", "a"]] {
            let entries: Vec<Entry> = keys.map(|key| (key.into(), b"v".to_vec())).into();
            assert!(to_yaml(&entries, true).unwrap_err().to_string().contains("leave --nested out"));
        }
        let mark = [("a/$base64".into(), b"v".to_vec())];
        assert!(to_json(&mark, true).unwrap_err().to_string().contains("leave --nested out"));
    }

    #[test]
    fn scalars_are_taken_as_they_are_written() {
        let yaml = "port: 8080\nmode: 0644\nratio: 1.10\nbig: 123456789012345678901234567890\nhex: 0x1F\non: yes\n\
                    truth: True  # comment\ndb:\n  host: db1\n  empty: \"\"\ndate: 2024-01-01\n";
        let expected = [
            ("big", "123456789012345678901234567890"),
            ("date", "2024-01-01"),
            ("db/empty", ""),
            ("db/host", "db1"),
            ("hex", "0x1F"),
            ("mode", "0644"),
            ("on", "yes"),
            ("port", "8080"),
            ("ratio", "1.10"),
            ("truth", "True"),
        ];
        let expected: Vec<_> = expected.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        assert_eq!(listed(from_yaml(yaml).unwrap()), expected);
        let json = r#"{"a": {"b": 12, "c": true, "d": "x"}}"#;
        let expected = [("a/b", "12"), ("a/c", "true"), ("a/d", "x")];
        let expected: Vec<_> = expected.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        assert_eq!(listed(from_json(json).unwrap()), expected);
    }

    #[test]
    fn errors_name_the_place_and_show_no_value() {
        for (text, expected) in [
            ("a: [1, 2]\n", "a list cannot be the value of a key"),
            ("a: 1\na: 2\n", "duplicate"),
            ("a:\n  b:\n", "line 2: a/b has no value; write \"\" for an empty one"),
            ("hunter2\n", "the document is no map of keys and values"),
            ("a: \"hunter2\n", "line"),
            ("a: {$base64: \"hunter2!\"}\n", "what stands behind $base64 is no base64"),
        ] {
            let error = from_yaml(text).and_then(Entries::sorted).unwrap_err().to_string();
            assert!(error.contains(expected) && !error.contains("hunter2"), "{text}: {error}");
        }
        for (text, expected) in [
            (r#"{"a": [1]}"#, "line 1, column 7: a list cannot be the value of a key"),
            (r#"{"a": 1.5}"#, "the value of a is a number with a point"),
            (r#"{"a": null}"#, "a has no value"),
            (r#"{"a": "hunter2""#, "line 1, column 15: it is no JSON"),
            (r#""hunter2""#, "the document is no map"),
            (r#"{"a": 1, "a": 2}"#, "the key a is there twice"),
        ] {
            let error = from_json(text).and_then(Entries::sorted).unwrap_err().to_string();
            assert!(error.contains(expected) && !error.contains("hunter2"), "{text}: {error}");
        }
    }
}
