//! The data directory of a member that does not run.
//!
//! The database lacks what the member had accepted and not yet applied, or applied and not yet written: etcd commits
//! its database every 100 ms, its log before it answers. [`Member::pending`] counts those entries and
//! [`Member::entries`] gives them out; whether to apply them is the caller's decision.

use crate::database::{Database, OpenOptions};
use crate::error::Error;
use crate::etcd::{self, Meta};
use crate::wal::{Entries, Log, Payload};
use std::path::Path;

/// Types of `raftpb.ConfChange`.
const ADD_VOTER: i32 = 0;
const CHANGE_MEMBER: i32 = 2;

/// A member's directory, open for reading. While this lives no etcd can open the database.
#[derive(Debug)]
pub struct Member {
    database: Database,
    log: Log,
    applied: u64,
    committed: u64,
}

/// What the log has and the database has not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    /// Committed entries.
    pub entries: u64,
    /// Those of them that may change keys, leases, alarms, users or roles. etcd up to 3.4 does not count others as
    /// applied, so there are often some of those left.
    pub changes: u64,
    /// Entries behind them of which this member did not know whether they were committed.
    pub unknown: u64,
}

impl Member {
    /// Opens `member/snap/db` and the log, which is in `member/wal` unless another directory is given.
    ///
    /// If the log has a snapshot that the database has not, the leader had sent it: its database is taken then, as
    /// etcd would on its next start.
    ///
    /// # Errors
    /// [`Error::InUse`] while the member runs; damage, and a log that does not reach back to the database.
    pub fn open(data_directory: &Path, log_directory: Option<&Path>, options: OpenOptions) -> Result<Self, Error> {
        let member = data_directory.join("member");
        let own = member.join("wal");
        let log_directory = log_directory.unwrap_or(&own);
        let snapshots = member.join("snap");
        let mut database = Database::open(&snapshots.join("db"), options.clone())?;
        let mut applied = applied(&database)?;
        let mut log = Log::open(log_directory, applied)?;
        let snapshot = log.bounds().snapshot;
        if snapshot > applied {
            let path = snapshots.join(format!("{snapshot:016x}.snap.db"));
            if !path.try_exists().map_err(Error::io(&path))? {
                return Err(Error::SnapshotMissing { applied, snapshot, path });
            }
            database = Database::open(&path, options)?;
            applied = self::applied(&database)?.max(snapshot);
            log = Log::open(log_directory, applied)?;
        }
        let bounds = log.bounds();
        let mut this = Self { database, log, applied, committed: applied.max(bounds.state.commit) };
        // An etcd that is its whole cluster acknowledges what is in its log, and notes only later that it is committed.
        if this.is_only_voter()? {
            this.committed = bounds.last;
        }
        Ok(this)
    }

    /// True when nobody else had to agree to any entry of the log, by the members that the database has and those
    /// that come and go in the log.
    fn is_only_voter(&self) -> Result<bool, Error> {
        let own = self.log.metadata().member_id;
        let mut is_member = false;
        for member in self.database.records::<etcd::Member>()? {
            if member?.id != own {
                return Ok(false);
            }
            is_member = true;
        }
        for entry in self.log.entries(self.log.bounds().last) {
            match entry?.payload {
                Payload::ConfChange(change) if change.r#type == CHANGE_MEMBER => {}
                Payload::ConfChange(change) if change.r#type == ADD_VOTER && change.node_id == own => is_member = true,
                Payload::ConfChange(_) | Payload::ConfChangeV2(_) => return Ok(false),
                Payload::Empty | Payload::Request(_) | Payload::V2(_) => (),
            }
        }
        Ok(is_member)
    }

    /// The database.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// The log behind the database.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Raft index of the last entry that the database has.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// Raft index of the last entry of which this member proves that it was committed. A majority may have agreed
    /// to more: see [`Pending::unknown`].
    pub fn committed(&self) -> u64 {
        self.committed
    }

    /// The committed entries that the database has not. The first ones may be in it in part: etcd writes the index
    /// of an entry together with a change of keys, and up to 3.4 only then.
    pub fn entries(&self) -> Entries<'_> {
        self.log.entries(self.committed)
    }

    /// Counts what is missing in the database.
    ///
    /// # Errors
    /// When an entry cannot be read.
    pub fn pending(&self) -> Result<Pending, Error> {
        let unknown = self.log.bounds().last.saturating_sub(self.committed);
        let mut pending = Pending { unknown, ..Pending::default() };
        for entry in self.entries() {
            pending.entries += 1;
            pending.changes += u64::from(entry?.payload.changes_the_store());
        }
        Ok(pending)
    }
}

/// What a database has applied, 0 for one that was never written to.
fn applied(database: &Database) -> Result<u64, Error> {
    Ok(database.settings::<Meta>()?.consistent_index.unwrap_or(0))
}
