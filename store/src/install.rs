//! Puts a received snapshot in the place of the store's content.
//!
//! The file is durable before; here it gets its name, the name is made durable, and memory and database are exchanged
//! under the lock. Before the rename a crash leaves the old store, after it the new one: both are the state at some
//! position of the log, and the log is purged only later.
//!
//! Who was reading goes on: a view of the old database stays valid as long as somebody holds it, and a read that takes
//! the lock again notices by the generation that the state is another one. A flush is waited for, because what it copied
//! from the old memory must not meet the new one. A defragmentation is not: its copy is thrown away.

use crate::apply::Writer;
use crate::command::Position;
use crate::error::Fault;
use crate::lease::Lease;
use crate::mvcc::state::{Revisions, State};
use crate::snapshot::receive::Received;
use api::etcdserverpb::{AlarmMember, AlarmType};
use std::sync::Arc;

/// What an installed snapshot changed, for whoever keeps something beside the store.
#[derive(Debug)]
pub struct Installed {
    /// The last log entry that the store contains; it is durable.
    pub position: Position,
    /// The raft layer's membership at that entry.
    pub membership: Vec<u8>,
    /// The store revision.
    pub revision: i64,
    /// The last compaction, -1 for none.
    pub compacted: i64,
    /// Every granted lease by id.
    pub leases: Vec<(i64, Lease)>,
    /// All raised alarms.
    pub alarms: Vec<AlarmMember>,
    /// What was in the place before.
    pub replaced: Replaced,
}

/// The content that was replaced. Dropping it takes time with its size: do that where blocking is allowed.
pub struct Replaced {
    _content: (State, Arc<Revisions>),
}

impl std::fmt::Debug for Replaced {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replaced").finish_non_exhaustive()
    }
}

/// Why a received snapshot was not installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The store contains the snapshot's last log entry already. Nothing was changed.
    #[error("the snapshot ends at log index {}, the store has applied {}", received.index, applied.index)]
    NotNewer {
        /// The last log entry of the snapshot.
        received: Position,
        /// The last applied log entry.
        applied: Position,
    },
    /// This member must stop: the old file or the new one is in place.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl Writer {
    /// Replaces the store's content by a received snapshot. Blocking: a flush under way is waited for, and the directory
    /// is synced. Readers wait only for the exchange.
    ///
    /// # Errors
    /// [`InstallError::NotNewer`] for a snapshot that says nothing new; a fault.
    pub fn install(&mut self, received: Received) -> Result<Installed, InstallError> {
        let shared = &self.shared;
        let Received { mut state, on_disk, file } = received;
        let applied = shared.state.read().applied;
        if state.applied.index <= applied.index {
            return Err(InstallError::NotNewer { received: state.applied, applied });
        }
        let leases = state.leases.iter().map(|(id, lease)| (id, lease.clone())).collect();
        let alarms = state.alarms.list(AlarmType::None as i32);
        let (position, membership) = (state.applied, state.membership.clone());
        let (revision, compacted) = (state.revision, state.compacted);

        // Until the end: nothing of the old store may be flushed once the new file is in place.
        let writing = shared.writing.lock();
        file.place(&shared.path)?;
        shared.options.disk.sync_directory(&shared.path)?;
        let replaced = {
            let mut current = shared.state.write();
            state.generation = current.generation + 1;
            state.v2.replace(&current.v2);
            let old_state = std::mem::replace(&mut *current, *state);
            // Under the same lock, so that nobody looks for what the new index names in the old database.
            let old_on_disk = std::mem::replace(&mut *shared.on_disk.write(), Arc::new(on_disk));
            *shared.durable.lock() = (position, membership.clone());
            shared.gauges.publish(&current);
            Replaced { _content: (old_state, old_on_disk) }
        };
        drop(writing);
        Ok(Installed { position, membership, revision, compacted, leases, alarms, replaced })
    }
}
