//! What answers are made of.

use serde::{Deserialize, Deserializer};
use std::fmt;

/// A key of the tree: a file with a value, or a directory.
#[derive(Clone, Default, Deserialize, PartialEq, Eq)]
#[serde(default, rename_all = "camelCase")]
pub struct Node {
    /// Its path from the root, with a slash at the beginning and none at the end; empty for the root.
    pub key: String,
    /// The value of a file. None for a directory, and where an answer leaves values out.
    pub value: Option<String>,
    /// Whether it is a directory.
    pub dir: bool,
    /// When it expires, in the form of RFC 3339; None for never.
    pub expiration: Option<String>,
    /// Seconds until then, rounded up.
    pub ttl: Option<i64>,
    /// The children of a directory, as far as they were asked for. Hidden ones are not listed.
    #[serde(deserialize_with = "or_empty")]
    pub nodes: Vec<Self>,
    /// Index of the last change.
    pub modified_index: u64,
    /// Index of the creation.
    pub created_index: u64,
}

/// Without the value.
impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("key", &self.key)
            .field("value_len", &self.value.as_ref().map(String::len))
            .field("dir", &self.dir)
            .field("ttl", &self.ttl)
            .field("nodes", &self.nodes)
            .field("modified_index", &self.modified_index)
            .field("created_index", &self.created_index)
            .finish_non_exhaustive()
    }
}

/// What a request did, or what a watch saw.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// `get`, `set`, `create`, `update`, `delete`, `compareAndSwap`, `compareAndDelete` or `expire`.
    pub action: String,
    /// The node after it. Without a value if it is gone, or if none was wanted.
    #[serde(default)]
    pub node: Node,
    /// The node before it, if there was one.
    #[serde(default)]
    pub prev_node: Option<Node>,
}

/// An answer about a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// What was done.
    pub event: Event,
    /// Index of the whole store: a watch that misses nothing starts behind it.
    pub index: u64,
}

/// A member of the cluster.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default, rename_all = "camelCase")]
pub struct Member {
    /// Hexadecimal.
    pub id: String,
    /// Empty until it has started for the first time.
    pub name: String,
    /// Where other members reach it.
    #[serde(rename = "peerURLs", deserialize_with = "or_empty")]
    pub peer_urls: Vec<String>,
    /// Where clients reach it; none until it has started.
    #[serde(rename = "clientURLs", deserialize_with = "or_empty")]
    pub client_urls: Vec<String>,
}

/// A list that some servers leave out, and some write as null.
fn or_empty<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}
