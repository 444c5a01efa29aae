//! Cleat's replicated state machine.
//!
//! Deterministic and synchronous: it knows no clock, no randomness, no network and no raft library. Everything that
//! depends on those is decided by whoever proposes a [`api::cleatpb::Command`] and travels inside it, so that the
//! same log gives the same state on every member.
//!
//! [`open`] gives three handles on one store:
//!
//! - [`Writer`] applies committed log entries, and installs a snapshot in place of them. There is one.
//! - [`Flusher`] brings what was applied to the database file, and removes compacted history. There is one.
//! - [`Reader`] answers everything else. Clone it freely.
//!
//! [`snapshot::Snapshot`] and [`Import`] are the two ends of the stream that brings a member the whole store.
//!
//! Failures are of two kinds, see [`error`].

mod alarm;
mod apply;
mod auth;
mod blocks;
pub mod command;
mod disk;
pub mod error;
mod filling;
mod flush;
#[cfg(any(test, fuzzing))]
pub mod fuzz_target;
mod install;
mod lease;
mod members;
mod mvcc;
mod open;
#[cfg(test)]
mod power_loss;
mod reader;
mod rebuild;
mod renew;
mod schema;
pub mod snapshot;
#[cfg(test)]
mod stalled_disk;
pub mod v2;

pub use apply::{MAX_LEASE_TTL, Writer};
pub use auth::change::password_sum;
pub use auth::permit::Asked;
pub use auth::{Password, ROOT};
pub use command::{Applied, Change, Entry, KeyEvent, Notice, Outcome, Position, Reply, RevisionEvents};
pub use disk::{Disk, Medium};
pub use error::{Fault, ReadError, Rejection};
pub use flush::{Flushed, Flusher};
pub use install::{InstallError, Installed, Replaced};
pub use lease::Lease;
pub use mvcc::events::Past;
pub use mvcc::hash::HashKv;
pub use mvcc::key_range::{KeyRange, RangeEnd};
pub use mvcc::large::LargeRange;
pub use mvcc::revision::Revision;
pub use mvcc::txn::is_read_only;
pub use reader::{Reader, Status};
pub use rebuild::{Rebuild, StoredChange};
/// What a file of a [`Medium`] answers.
pub use redb::{BackendError, StorageBackend};
pub use renew::{Renewed, renew};
pub use snapshot::progress::Progress;
pub use snapshot::receive::{Import, Received};

use std::path::Path;
use std::sync::Arc;

/// Where the store is kept, and the memory that it may use beside its index.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where its files are.
    pub disk: Disk,
    /// Key-values kept in memory for reads, bytes.
    pub cache_bytes: usize,
    /// The database's own page cache, bytes.
    pub database_cache_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { disk: Disk::FILE_SYSTEM, cache_bytes: 48 << 20, database_cache_bytes: 16 << 20 }
    }
}

/// Opens the database file, or creates it, verifies its checksums and rebuilds the index from it. Blocking: about a
/// second for a million keys, half of it for the checksums.
///
/// # Errors
/// A file that is not a database, of another format, damaged or open elsewhere.
pub fn open(path: &Path, options: Options) -> Result<(Writer, Flusher, Reader), Fault> {
    let shared = Arc::new(open::open(path, options)?);
    Ok((Writer { shared: Arc::clone(&shared) }, Flusher::new(Arc::clone(&shared)), Reader { shared }))
}
