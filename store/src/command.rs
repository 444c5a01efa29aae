//! What goes into the state machine and what comes out.

use crate::error::Rejection;
use crate::v2;
use api::cleatpb::Command;
use api::encoded::{DeleteRangeResponse, KeyValue, PutResponse, TxnResponse};
use api::etcdserverpb::AlarmMember;
use std::sync::Arc;

/// A position in the replicated log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Term of the leader that proposed the entry.
    pub term: u64,
    /// Index of the entry.
    pub index: u64,
}

/// One committed log entry.
#[derive(Debug)]
pub struct Entry<'a> {
    /// Where the entry stands in the log.
    pub position: Position,
    /// The commands it carries, in order; empty for entries that raft itself needs.
    pub commands: &'a [Command],
    /// The encoded membership, when the entry changes it. The store keeps it and does not look inside.
    pub membership: Option<Vec<u8>>,
}

/// The answer to one command.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Store revision after the command.
    pub revision: i64,
    /// What the command answers, or why it was refused.
    pub result: Result<Reply, Rejection>,
}

/// The body of an accepted command's answer. Headers of the outer response are left to the server.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// To a put.
    Put(PutResponse),
    /// To a delete.
    DeleteRange(DeleteRangeResponse),
    /// To a transaction.
    Txn(TxnResponse),
    /// To a compaction.
    Compaction,
    /// To a lease grant: the lease's TTL in seconds.
    LeaseGrant {
        /// The granted lease.
        id: i64,
        /// Seconds.
        ttl: i64,
    },
    /// To a lease revocation.
    LeaseRevoke,
    /// To a lease checkpoint.
    LeaseCheckpoint,
    /// To an alarm request: the alarms it concerned.
    Alarm(Vec<AlarmMember>),
    /// To the publication of a member's attributes.
    MemberAttributes,
    /// To the removal of a member.
    MemberRemoved,
    /// To a login: a token may be given for it.
    Authentication {
        /// Index of the log entry, which the token names.
        index: u64,
        /// The auth revision at that entry.
        auth_revision: u64,
    },
    /// To a change of users, roles or the authentication.
    Auth,
    /// To a request of the v2 API.
    V2(Box<v2::Answer>),
    /// To a command without an operation.
    Nothing,
}

/// What a batch of entries did.
#[derive(Debug, Default)]
pub struct Applied {
    /// For each entry the outcomes of its commands, in order.
    pub outcomes: Vec<Vec<Outcome>>,
    /// The changes of keys, in revision order.
    pub changes: Vec<Change>,
    /// What else the server must know of.
    pub notices: Vec<Notice>,
    /// Changes of the v2 API's tree, in the order of their indexes.
    pub v2: Vec<v2::Told>,
}

/// All changes of one revision, shared by every watcher.
pub type Change = Arc<RevisionEvents>;

/// The events of one revision.
#[derive(Clone, Debug)]
pub struct RevisionEvents {
    /// The main revision.
    pub revision: i64,
    /// The changed keys in the order of their sub revisions.
    pub events: Vec<KeyEvent>,
}

/// One changed key.
#[derive(Clone, Debug)]
pub struct KeyEvent {
    /// True for a delete, false for a put.
    pub deleted: bool,
    /// The key-value as watchers see it: after a put, or key and `mod_revision` of a delete.
    pub kv: KeyValue,
    /// True when the put created the key, so that there is no previous key-value.
    pub created: bool,
}

impl KeyEvent {
    /// The changed key.
    pub fn key(&self) -> &[u8] {
        // Invariant: the store encoded these bytes itself.
        self.kv.fields().map_or(&[], |fields| fields.key)
    }
}

/// Changes that are not key events but concern the server's other parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A lease was granted, with its TTL in seconds.
    LeaseGranted {
        /// The lease.
        id: i64,
        /// Seconds.
        ttl: i64,
    },
    /// A lease was revoked.
    LeaseRevoked {
        /// The lease.
        id: i64,
    },
    /// A lease's remaining time was checkpointed.
    LeaseCheckpointed {
        /// The lease.
        id: i64,
        /// Seconds.
        remaining_ttl: i64,
    },
    /// A compaction was scheduled.
    Compacted {
        /// Everything below is gone.
        revision: i64,
    },
    /// The set of alarms changed.
    AlarmsChanged,
    /// A user may have a token.
    Authenticated {
        /// The user.
        user: String,
        /// What the token is known by; nobody can make the token of it.
        token_sum: Box<[u8]>,
        /// Index of the log entry, which the token names.
        index: u64,
    },
    /// A user's tokens are worth nothing any more.
    TokensRevoked {
        /// The user.
        user: String,
    },
    /// Requests need no user any more; all tokens are forgotten.
    AuthDisabled,
}
