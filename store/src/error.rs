//! The two kinds of failure, kept apart by type.
//!
//! A [`Rejection`] is a deterministic answer to a command: every member gives the same one, and the member goes on.
//! A [`Fault`] means that this member is broken (I/O, damaged data): it must stop and must not answer.

/// A deterministic answer "no" to a command or a read, with etcd's code and text.
pub type Rejection = api::error::Error;

/// This member can not go on: its disk failed or its data is damaged.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The database file could not be opened.
    #[error("cannot open the file: {0}{rest}", rest = remedy(self))]
    Open(redb::DatabaseError),
    /// The database could not be read or written.
    #[error("{0}{rest}", rest = remedy(self))]
    Database(#[from] redb::Error),
    /// A file of the data directory could not be read or written.
    #[error("{context}: {source}")]
    Io {
        /// What was being done, with the path.
        context: String,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// Stored bytes do not mean what they must mean.
    #[error("damaged data in table {table}: {reason}; restore the member from a snapshot or replace it")]
    Damaged {
        /// The table.
        table: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The database was written by another version of the software.
    #[error("the database has format {found}, this version reads format {expected}; use the release that wrote it")]
    Format {
        /// The format found.
        found: u64,
        /// The format this release writes.
        expected: u64,
    },
    /// A snapshot is incomplete, damaged or of another format.
    #[error("unusable snapshot: {0}")]
    Snapshot(String),
}

impl Fault {
    /// The operating system's part in it. redb reports a file that is not one of its own in the same form.
    pub fn io_error(&self) -> Option<&std::io::Error> {
        let error = match self {
            Self::Open(redb::DatabaseError::Storage(redb::StorageError::Io(error)))
            | Self::Database(redb::Error::Io(error))
            | Self::Io { source: error, .. } => Some(error),
            _ => None,
        };
        error.filter(|error| error.kind() != std::io::ErrorKind::InvalidData)
    }
}

/// A file that cannot be read is damaged unless the operating system says something else.
fn remedy(fault: &Fault) -> &'static str {
    if fault.io_error().is_some() { "" } else { "; restore the member from a snapshot or replace it" }
}

macro_rules! from_redb {
    ($($kind:ident),*) => {
        $(impl From<redb::$kind> for Fault {
            fn from(error: redb::$kind) -> Self {
                Self::Database(error.into())
            }
        })*
    };
}

from_redb!(TransactionError, TableError, StorageError, CommitError, CompactionError, SetDurabilityError);

/// Either a deterministic "no" or a broken member, for reads that can meet both.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The answer is no.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The member is broken.
    #[error(transparent)]
    Fault(#[from] Fault),
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Error, ErrorKind};

    #[test]
    fn what_is_damaged_is_to_be_restored_and_what_the_system_refuses_is_not() {
        let cases = [
            (Error::new(ErrorKind::InvalidData, "Not a redb database: magic number mismatch"), true),
            (Error::from_raw_os_error(28), false),
        ];
        for (error, is_damaged) in cases {
            let fault = Fault::Open(redb::DatabaseError::Storage(redb::StorageError::Io(error)));
            assert_eq!(fault.to_string().contains("restore the member"), is_damaged, "{fault}");
            assert_eq!(fault.io_error().is_none(), is_damaged, "{fault}");
        }
    }
}
