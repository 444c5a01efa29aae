//! What is known about the stores, which are the same, from etcd's answers.

use super::answer::Answer;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// A file, as far as it was seen.
#[derive(Clone, Debug, Default)]
struct File {
    value: String,
    modified_index: u64,
}

/// Index and files of the store.
#[derive(Clone, Debug, Default)]
pub(crate) struct World {
    index: u64,
    files: BTreeMap<String, File>,
}

impl World {
    /// Learns from an answer of etcd.
    pub(crate) fn learn(&mut self, answer: &Answer) {
        let index = answer.header("x-etcd-index").and_then(|index| index.parse().ok());
        self.index = self.index.max(index.unwrap_or_default());
        let Ok(event) = serde_json::from_str::<Value>(&answer.body) else { return };
        let node = &event["node"];
        let Some(key) = node["key"].as_str() else { return };
        if matches!(event["action"].as_str(), Some("delete" | "compareAndDelete" | "expire")) {
            let below = format!("{key}/");
            self.files.retain(|file, _| file != key && !file.starts_with(&below));
        } else if let (Some(value), Some(modified_index)) = (node["value"].as_str(), node["modifiedIndex"].as_u64()) {
            self.files.insert(key.to_owned(), File { value: value.to_owned(), modified_index });
        }
    }

    /// Keys of files.
    pub(crate) fn files(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// Fills in the placeholders that are the same for both servers.
    pub(crate) fn fill(&self, text: &str) -> String {
        let mut filled = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('@') {
            filled.push_str(before);
            let Some((name, behind)) = after.split_once('@') else {
                filled.push('@');
                rest = after;
                continue;
            };
            match self.value(name) {
                Some(value) => filled.push_str(&value),
                None => {
                    // Of the server.
                    write!(filled, "@{name}@").unwrap_or_default();
                }
            }
            rest = behind;
        }
        filled + rest
    }

    fn value(&self, name: &str) -> Option<String> {
        let file = || self.files.get(&name[1..]).cloned().unwrap_or_default();
        match name.bytes().next()? {
            b'I' if name.len() == 1 => Some(self.index.to_string()),
            b'I' => Some(self.index.saturating_add_signed(name[1..].parse().ok()?).to_string()),
            b'M' => Some(file().modified_index.max(1).to_string()),
            b'V' => Some(encode(file().value.as_bytes())),
            _ => None,
        }
    }
}

/// A text for a query or a form.
pub(crate) fn encode(text: &[u8]) -> String {
    let mut encoded = String::new();
    for byte in text {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => encoded.push(char::from(*byte)),
            byte => write!(encoded, "%{byte:02X}").unwrap_or_default(),
        }
    }
    encoded
}
