//! Nodes, and the paths that lead to them.

use super::{NANOS_PER_SECOND, NodeView, OVERHEAD};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Children by name.
pub(super) type Children = BTreeMap<Arc<[u8]>, Node>;

/// A file or a directory. Its path is known to who walked there. A clone costs nothing and stays as it is: whoever changes
/// a directory that has clones copies that one level.
#[derive(Clone)]
pub(super) struct Node {
    pub(super) created_index: u64,
    pub(super) modified_index: u64,
    /// Nanoseconds since 1970; 0 for never.
    pub(super) expiration: i64,
    pub(super) content: Content,
}

#[derive(Clone)]
pub(super) enum Content {
    File(Bytes),
    Dir(Arc<Children>),
}

impl Node {
    pub(super) fn file(index: u64, expiration: i64, value: Bytes) -> Self {
        Self { created_index: index, modified_index: index, expiration, content: Content::File(value) }
    }

    pub(super) fn dir(index: u64, expiration: i64) -> Self {
        Self { created_index: index, modified_index: index, expiration, content: Content::Dir(Arc::default()) }
    }

    pub(super) fn children(&self) -> Option<&Arc<Children>> {
        match &self.content {
            Content::Dir(children) => Some(children),
            Content::File(_) => None,
        }
    }

    pub(super) fn children_mut(&mut self) -> Option<&mut Children> {
        match &mut self.content {
            Content::Dir(children) => Some(Arc::make_mut(children)),
            Content::File(_) => None,
        }
    }

    /// The value of a file.
    pub(super) fn value(&self) -> Option<&Bytes> {
        match &self.content {
            Content::File(value) => Some(value),
            Content::Dir(_) => None,
        }
    }

    pub(super) fn is_dir(&self) -> bool {
        self.children().is_some()
    }

    /// What it counts for in the quota, without what is in it.
    pub(super) fn bytes(&self, path: &[u8]) -> u64 {
        (path.len() + self.value().map_or(0, Bytes::len)) as u64 + OVERHEAD
    }

    /// What is said of it, without what is in it.
    pub(super) fn view(&self, path: &[u8], now: i64) -> NodeView {
        NodeView {
            key: path.into(),
            value: self.value().cloned(),
            is_dir: self.is_dir(),
            expiration: self.expiration,
            ttl: ttl(self.expiration, now),
            modified_index: self.modified_index,
            created_index: self.created_index,
        }
    }
}

/// Seconds until an expiration, rounded up; what is over has none or less than that.
fn ttl(expiration: i64, now: i64) -> i64 {
    if expiration == 0 {
        return 0;
    }
    let left = expiration.saturating_sub(now);
    left / NANOS_PER_SECOND + i64::from(left % NANOS_PER_SECOND > 0)
}

/// True for nodes that no listing shows: they are found by those who know their name.
pub(super) fn is_hidden(name: &[u8]) -> bool {
    name.first() == Some(&b'_')
}

/// The names along a path.
pub(super) fn names(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|name| !name.is_empty())
}

/// Appends a name to a path. The root is `/`.
pub(super) fn push(path: &mut Vec<u8>, name: &[u8]) {
    if path.last() != Some(&b'/') {
        path.push(b'/');
    }
    path.extend(name);
}

/// The path of the directory that a node is in, and the node's name; none for the root.
pub(super) fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = path.iter().rposition(|byte| *byte == b'/')?;
    let (parent, name) = (&path[..at], &path[at + 1..]);
    (!name.is_empty()).then_some((if parent.is_empty() { b"/" } else { parent }, name))
}
