//! A new database that is being filled beside the one in use: by an import of a snapshot, or change by change.
//!
//! The rows go to it in many transactions, of which only the last one is durable: a file that was cut off is never looked
//! at again. Each fits into redb's cache; of one that does not, redb would read every page again for its checksum.

use crate::Options;
use crate::error::Fault;
use crate::flush;
use crate::open::Unnamed;
use redb::{Database, Durability, WriteTransaction};

/// The transaction, its database and the file. Dropped before it is committed, it leaves nothing behind.
pub(crate) struct Filling {
    /// Bytes that go into one transaction, and how many were in the file when this one began.
    step: u64,
    stepped_at: u64,
    // The order of the next three is the order in which they are given up.
    txn: Option<WriteTransaction>,
    database: Database,
    file: Unnamed,
}

impl Filling {
    /// Begins to fill a database.
    ///
    /// # Errors
    /// A fault.
    pub(crate) fn begin(database: Database, file: Unnamed, options: &Options) -> Result<Self, Fault> {
        let step = (options.database_cache_bytes / 4) as u64;
        Ok(Self { step, stepped_at: 0, txn: Some(flush::begin(&database)?), database, file })
    }

    /// The transaction that rows go to.
    ///
    /// # Errors
    /// A step has failed.
    pub(crate) fn txn(&self) -> Result<&WriteTransaction, Fault> {
        self.txn.as_ref().ok_or_else(over)
    }

    /// Begins the next transaction when this one is large enough: the changes so far have `stored_bytes`.
    ///
    /// # Errors
    /// A fault.
    pub(crate) fn step(&mut self, stored_bytes: u64) -> Result<(), Fault> {
        if stored_bytes - self.stepped_at < self.step {
            return Ok(());
        }
        self.stepped_at = stored_bytes;
        let mut txn = self.txn.take().ok_or_else(over)?;
        txn.set_durability(Durability::None)?;
        txn.commit()?;
        self.txn = Some(flush::begin(&self.database)?);
        Ok(())
    }

    /// Makes everything durable. The file still has to get its name.
    ///
    /// # Errors
    /// A fault.
    pub(crate) fn commit(self) -> Result<(Database, Unnamed), Fault> {
        self.txn.ok_or_else(over)?.commit()?;
        Ok((self.database, self.file))
    }
}

/// After a failure.
pub(crate) fn over() -> Fault {
    Fault::Snapshot("it was refused before".into())
}
