//! The keys that a template sees: those of its resource, without the prefix.

use crate::functions::clean_path;
use crate::template::Text;
use std::collections::BTreeMap;
use std::ops::Bound;

/// Keys and values in ascending order of bytes. Its Debug output has no values.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Keys {
    entries: BTreeMap<Text, Text>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("len", &self.entries.len()).finish_non_exhaustive()
    }
}

impl Keys {
    /// Adds a key as it is.
    pub fn insert(&mut self, key: impl Into<Text>, value: impl Into<Text>) {
        self.entries.insert(key.into(), value.into());
    }

    /// Adds a key of the store, whose prefix goes: what templates see begins with a slash, and has no empty part.
    pub fn insert_below(&mut self, prefix: &[u8], key: &[u8], value: Text) {
        let rest = key.strip_prefix(prefix).unwrap_or(key);
        self.entries.insert(Text::from(clean_path(&[b"/", rest].concat())), value);
    }

    /// The value of a key.
    pub fn get(&self, key: &[u8]) -> Option<&Text> {
        self.entries.get(key)
    }

    /// A key and its value.
    pub fn entry(&self, key: &[u8]) -> Option<(&Text, &Text)> {
        self.entries.get_key_value(key)
    }

    /// All keys.
    pub fn iter(&self) -> impl Iterator<Item = (&Text, &Text)> {
        self.entries.iter()
    }

    /// The keys that are not before one.
    pub fn from(&self, first: &[u8]) -> impl Iterator<Item = (&Text, &Text)> + use<'_> {
        self.entries.range::<[u8], _>((Bound::Included(first), Bound::Unbounded))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True without keys.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}
