//! What clients of a cluster did and saw, with times, as plain data.
//!
//! [`load`](crate::load) records a history, [`checker`](crate::checker) judges it. Times are nanoseconds of one
//! monotonic clock in the test process. Every value that is put is unique in its history, so that a value tells which
//! operation wrote it.

/// Nanoseconds since the history began.
pub type Nanos = u64;

/// One second in [`Nanos`].
pub const SECOND: Nanos = 1_000_000_000;

/// A key-value as a server showed it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: String,
    /// The value.
    pub value: String,
    /// Revision of its creation.
    pub create: i64,
    /// Revision of its last change.
    pub modified: i64,
    /// Changes since its creation.
    pub version: i64,
    /// The lease that it is attached to, or 0.
    pub lease: i64,
}

/// What an operation asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Put of one key, with the previous key-value if `want_prev`.
    Put {
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// Lease to attach, or 0.
        lease: i64,
        /// The previous key-value was asked for.
        want_prev: bool,
    },
    /// A transaction without a condition that puts one value to two keys.
    PutBoth {
        /// The keys, in the order of the requests.
        keys: [String; 2],
        /// The value of both.
        value: String,
    },
    /// Read of one key, or of all keys with a prefix.
    Get {
        /// The key or prefix.
        key: String,
        /// It is a prefix.
        prefix: bool,
        /// Answered by the member from what it has.
        serializable: bool,
    },
    /// Delete of one key, with the previous key-value.
    Delete {
        /// The key.
        key: String,
    },
    /// A transaction that puts a key if its mod revision is as expected, else reads it.
    Cas {
        /// The key.
        key: String,
        /// The expected mod revision, 0 for an absent key.
        expected: i64,
        /// The value that the key had at that revision.
        expected_value: Option<String>,
        /// The value to put.
        value: String,
    },
}

/// What a server answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Revision of the header.
    pub revision: i64,
    /// Key-values of a read, or of the read of a failed compare.
    pub kvs: Vec<KeyValue>,
    /// Previous key-values of a put or delete.
    pub prev: Vec<KeyValue>,
    /// The compare of a transaction held.
    pub succeeded: bool,
    /// Keys that a delete removed.
    pub deleted: i64,
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered.
    Ok(Answer),
    /// Nobody knows whether it took effect, now or later.
    Unknown(String),
    /// It did not take effect and never will.
    Failed(String),
}

/// One operation of one client.
#[derive(Clone, Debug)]
pub struct Op {
    /// Number of the client.
    pub client: usize,
    /// Endpoint that it asked.
    pub endpoint: String,
    /// When it was called.
    pub call: Nanos,
    /// When it returned.
    pub ret: Nanos,
    /// What was asked.
    pub action: Action,
    /// How it ended.
    pub outcome: Outcome,
}

impl Op {
    /// The answer, if there was one.
    pub fn answer(&self) -> Option<&Answer> {
        match &self.outcome {
            Outcome::Ok(answer) => Some(answer),
            Outcome::Unknown(_) | Outcome::Failed(_) => None,
        }
    }

    /// True for a read that promises the newest state.
    pub fn is_linearizable_read(&self) -> bool {
        matches!(self.action, Action::Get { serializable: false, .. })
    }

    /// True when it would change keys if it took effect.
    pub fn is_write(&self) -> bool {
        !matches!(self.action, Action::Get { .. })
    }

    /// The value that it puts.
    pub fn value(&self) -> Option<&str> {
        match &self.action {
            Action::Put { value, .. } | Action::PutBoth { value, .. } | Action::Cas { value, .. } => Some(value),
            Action::Get { .. } | Action::Delete { .. } => None,
        }
    }

    /// True when the answer says that keys were changed, at the answer's revision.
    pub fn changed(&self) -> bool {
        self.answer().is_some_and(|answer| match self.action {
            Action::Put { .. } | Action::PutBoth { .. } => true,
            Action::Get { .. } => false,
            Action::Delete { .. } => answer.deleted > 0,
            Action::Cas { .. } => answer.succeeded,
        })
    }
}

/// What was asked about a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseAction {
    /// A grant, or a keepalive that renewed the lease, with the granted time to live in seconds.
    Renew {
        /// Seconds.
        ttl: i64,
    },
    /// A revocation.
    Revoke,
}

/// One request about a lease.
#[derive(Clone, Debug)]
pub struct LeaseOp {
    /// The lease.
    pub lease: i64,
    /// When it was called.
    pub call: Nanos,
    /// When it returned.
    pub ret: Nanos,
    /// What was asked.
    pub action: LeaseAction,
    /// It was answered with success; else its outcome is unknown.
    pub confirmed: bool,
}

/// One change that a watcher was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// A put; else a delete, whose key-value has only the key and the mod revision.
    pub put: bool,
    /// The key-value after it.
    pub kv: KeyValue,
    /// The key-value before it.
    pub prev: Option<KeyValue>,
}

/// One response of a watch stream.
#[derive(Clone, Debug)]
pub struct WatchRecord {
    /// When it arrived.
    pub at: Nanos,
    /// What it said.
    pub said: Said,
}

/// What a watch response says.
#[derive(Clone, Debug)]
pub enum Said {
    /// The watcher was created (again), to start at a revision.
    Created(i64),
    /// Changes, with the revision of the header.
    Events(i64, Vec<Event>),
    /// Everything up to a revision has been told.
    Progress(i64),
    /// The start was compacted; the oldest revision that remains.
    Compacted(i64),
}

/// Everything one watcher of all keys was told, over all its streams.
#[derive(Clone, Debug, Default)]
pub struct WatchLog {
    /// Who it is, for messages.
    pub name: String,
    /// Responses in the order of arrival.
    pub records: Vec<WatchRecord>,
}

/// Faults of old versions of etcd, which this project has as its reference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KnownFaults {
    /// Progress answers run ahead of the events that they cover (before 3.4.25 and 3.5.8).
    pub early_progress: bool,
    /// A leader that was deposed without knowing it, as after a pause, confirms renewals of leases that its successor
    /// then ends (before 3.4.32 and 3.5.13; etcd's issue 15247).
    pub deposed_renewals: bool,
}

impl KnownFaults {
    /// Those of a version.
    pub fn of(version: &str) -> Self {
        let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
        let mut next = || parts.next().unwrap_or(0);
        let version = (next(), next(), next());
        let before = |old, new| version < (3, 4, old) || ((3, 5, 0)..(3, 5, new)).contains(&version);
        Self { early_progress: before(25, 8), deposed_renewals: before(32, 13) }
    }
}

/// A whole run, from an empty store.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Operations of all clients.
    pub ops: Vec<Op>,
    /// Requests about leases.
    pub leases: Vec<LeaseOp>,
    /// Watchers of all keys, from the beginning.
    pub watches: Vec<WatchLog>,
    /// Revision of the empty store, normally 1.
    pub start: i64,
    /// Revision when everything had ended.
    pub end: i64,
    /// Time at which `end` was read.
    pub ended: Nanos,
    /// The highest revision that was asked to be compacted, or 0.
    pub compacted: i64,
    /// When the last fault ended.
    pub settled: Nanos,
    /// What the version of the server is known to do wrong.
    pub known_faults: KnownFaults,
    /// Requests of retrying clients that failed for as long as a client normally retries.
    pub failed_requests: usize,
}

#[cfg(test)]
mod tests {
    use super::KnownFaults;

    #[test]
    fn faults_end_with_the_version_that_mended_them() {
        let cases = [
            ("3.4.23", true, true),
            ("3.4.25", false, true),
            ("3.4.32", false, false),
            ("3.5.7", true, true),
            ("3.5.8", false, true),
            ("3.5.21", false, false),
            ("3.6.0", false, false),
        ];
        for (version, early_progress, deposed_renewals) in cases {
            assert_eq!(KnownFaults::of(version), KnownFaults { early_progress, deposed_renewals }, "{version}");
        }
    }
}
