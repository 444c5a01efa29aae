//! The tree of the v2 API: what etcd calls its v2 store.
//!
//! It shares the log with the keys of v3 and nothing else: a tree of directories and files with an index of its own, which
//! grows by one with every change. Answers, refusals and the order of checks are those of etcd's `v2store`.
//!
//! - this file: what is answered, and what the outside sees;
//! - [`node`]: nodes and paths;
//! - [`tree`]: the operations;
//! - [`history`]: the last events, for watchers that come late;
//! - [`rows`]: the tables; [`read`]: what others ask; [`walk`]: listings.
//!
//! Time travels in the commands: when something expires is decided by whoever proposed it, and that it has expired by an
//! `EXPIRE` command with the leader's time, so that it goes at the same index on every member.

mod changed;
mod history;
mod node;
mod read;
pub(crate) mod rows;
mod tree;
mod walk;

#[cfg(test)]
mod tests;

pub(crate) use tree::Tree;
pub use walk::{Found, Step, Walk};

use api::cleatpb::V2Request;
use api::cleatpb::v2_request::Method;
use bytes::Bytes;
use std::fmt;
use std::sync::Arc;

/// The namespace of keys.
pub const KEYS: &str = "/1";

/// The namespace of users and roles.
pub const AUTH: &str = "/2";

/// Whether requests need a user: a file with `true` or `false`.
pub const AUTH_ENABLED: &str = "/2/enabled";

/// Namespaces that are always there. Nothing is written under the first: etcd has its members there, ours are elsewhere.
const NAMESPACES: [&str; 2] = ["0", "1"];

/// Index of a new tree. A new etcd of one member has written its member, the member's name and the cluster's version by
/// the time that it serves, so its clients begin there.
const FIRST_INDEX: u64 = 3;

/// Most parts of a path, its namespace included: what walks the tree does so on the stack.
const DEPTH_MAX: usize = 128;

/// Before this an expiration is taken for none, as in etcd: the beginning of 2000 in nanoseconds since 1970.
const EXPIRATION_MIN: i64 = 946_684_800 * NANOS_PER_SECOND;

const NANOS_PER_SECOND: i64 = 1_000_000_000;

/// What a node or an event costs beside its path and value, bytes: its place in the tree, and its row.
const OVERHEAD: u64 = 128;

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "named by etcd")]
pub enum Action {
    Set,
    Create,
    Update,
    CompareAndSwap,
    Delete,
    CompareAndDelete,
    Expire,
}

impl Action {
    const ALL: [Self; 7] = [
        Self::Set,
        Self::Create,
        Self::Update,
        Self::CompareAndSwap,
        Self::Delete,
        Self::CompareAndDelete,
        Self::Expire,
    ];

    /// As clients see it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Set => "set",
            Self::Create => "create",
            Self::Update => "update",
            Self::CompareAndSwap => "compareAndSwap",
            Self::Delete => "delete",
            Self::CompareAndDelete => "compareAndDelete",
            Self::Expire => "expire",
        }
    }

    fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.name() == name)
    }

    /// True when the node is gone.
    pub const fn removes(self) -> bool {
        matches!(self, Self::Delete | Self::CompareAndDelete | Self::Expire)
    }
}

/// What is said of a node.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct NodeView {
    /// Its path, with the namespace.
    pub key: Box<[u8]>,
    /// None for directories and for what was removed.
    pub value: Option<Bytes>,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// When it expires, nanoseconds since 1970; 0 for never.
    pub expiration: i64,
    /// Seconds that were left of that, rounded up.
    pub ttl: i64,
    /// Index of the last change.
    pub modified_index: u64,
    /// Index of its creation.
    pub created_index: u64,
}

/// Without its value, which may be a secret.
impl fmt::Debug for NodeView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = String::from_utf8_lossy(&self.key);
        f.debug_struct("NodeView")
            .field("key", &key)
            .field("modified_index", &self.modified_index)
            .finish_non_exhaustive()
    }
}

/// A change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What was done.
    pub action: Action,
    /// The node afterwards; of what was removed, key and indexes.
    pub node: NodeView,
    /// The node before.
    pub prev_node: Option<NodeView>,
    /// Just a new TTL: it is in the history, and nobody is told.
    pub is_refresh: bool,
}

impl Event {
    /// The tree's index after it.
    pub fn index(&self) -> u64 {
        self.node.modified_index
    }

    /// True when the node was not there before.
    pub fn creates(&self) -> bool {
        self.action == Action::Create || (self.action == Action::Set && self.prev_node.is_none())
    }
}

/// etcd's codes of the refusals that the tree decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
#[allow(missing_docs, reason = "named by etcd")]
pub enum Code {
    KeyNotFound = 100,
    CompareFailed = 101,
    NotFile = 102,
    NotDir = 104,
    KeyExists = 105,
    RootReadOnly = 107,
    DirNotEmpty = 108,
    InvalidField = 209,
    HistoryCleared = 401,
}

/// A refusal: etcd's code and cause, and the index at that moment.
#[derive(Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What kind.
    pub code: Code,
    /// A path with its namespace, or words. May hold values.
    pub cause: Box<[u8]>,
    /// The tree's index.
    pub index: u64,
}

impl fmt::Debug for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refusal").field("code", &self.code).field("index", &self.index).finish_non_exhaustive()
    }
}

/// What a change answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The event, or why there is none.
    pub result: Result<Arc<Event>, Refusal>,
    /// Index of the log entry.
    pub applied: u64,
}

/// A change as watchers are told of it.
#[derive(Clone, Debug)]
pub struct Told {
    /// The change.
    pub event: Arc<Event>,
    /// The paths of the nodes that went with a directory, each behind those in it.
    pub removed: Vec<Box<[u8]>>,
}

/// What is read.
#[derive(Debug)]
pub struct Read {
    /// The node, or why not.
    pub result: Result<Found, Refusal>,
    /// The tree's index.
    pub index: u64,
    /// The last applied log entry.
    pub applied: u64,
}

/// What a new watcher finds.
#[derive(Clone, Debug)]
pub struct Scan {
    /// The first event of the history that it wants.
    pub event: Option<Arc<Event>>,
    /// Without one, it waits for events from this index on.
    pub since: u64,
    /// The tree's index.
    pub index: u64,
    /// The last applied log entry.
    pub applied: u64,
}

/// How often what was done, and how often in vain. etcd's counters, with what they count by mistake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "named by etcd")]
pub struct Stats {
    pub gets: Count,
    pub recursive_gets: Count,
    pub sets: Count,
    pub deletes: Count,
    pub updates: Count,
    pub creates: Count,
    pub swaps: Count,
    pub compared_deletes: Count,
    pub expired: u64,
}

/// Of one kind of operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Count {
    pub succeeded: u64,
    pub failed: u64,
}

/// True for requests that add data. A new TTL does not, and whoever keeps its keys alive can go on when space is short.
pub(crate) fn grows(request: &V2Request) -> bool {
    !request.refresh && !matches!(request.method(), Method::Delete | Method::CompareAndDelete | Method::Expire)
}

impl Count {
    fn count(&mut self, success: bool) {
        *(if success { &mut self.succeeded } else { &mut self.failed }) += 1;
    }
}
