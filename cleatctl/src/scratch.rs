//! Temporary files: where they are made, and what to do where there is no room for them.

use crate::print;
use anyhow::{Context as _, Error, Result};
use server::offline::SnapshotError;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use store::Fault;

/// A directory that only this user can look into, and that is gone when this is dropped.
pub(crate) struct Scratch {
    directory: tempfile::TempDir,
    /// The system's directory for temporary files, or what `TMPDIR` names.
    parent: PathBuf,
}

impl Scratch {
    /// Makes one.
    ///
    /// # Errors
    /// It cannot be made: the error names the place and the remedy.
    pub(crate) fn new() -> Result<Self> {
        let parent = std::env::temp_dir();
        let directory = tempfile::Builder::new().prefix("cleatctl-").tempdir_in(&parent);
        let directory =
            directory.with_context(|| format!("cannot make a temporary directory {}", elsewhere(&parent)))?;
        Ok(Self { directory, parent })
    }

    /// A file in it, which is not made.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Leaves it where it is when this is dropped.
    pub(crate) fn keep(self) -> PathBuf {
        self.directory.keep()
    }

    /// The failure of what wrote into it: where there was no room, it says how much is needed, where, and the remedy.
    pub(crate) fn explain(&self, needed: Option<u64>, error: Error) -> Error {
        if !is_for_room(&error) {
            return error;
        }
        let needed = needed.map(|bytes| format!("that need {} or more ", print::bytes(bytes))).unwrap_or_default();
        error.context(format!("cannot write temporary files {needed}{}", elsewhere(&self.parent)))
    }
}

fn elsewhere(parent: &Path) -> String {
    format!("in {}; name another directory with TMPDIR", parent.display())
}

/// True if the place to write to was the reason, not what was to be written.
fn is_for_room(error: &Error) -> bool {
    let fault = match error.downcast_ref::<SnapshotError>() {
        Some(SnapshotError::Store(fault)) => Some(fault),
        _ => error.downcast_ref::<Fault>(),
    };
    let refused = fault.and_then(Fault::io_error).or_else(|| error.chain().find_map(|cause| cause.downcast_ref()));
    refused.is_some_and(|refused: &std::io::Error| {
        matches!(
            refused.kind(),
            ErrorKind::StorageFull
                | ErrorKind::QuotaExceeded
                | ErrorKind::FileTooLarge
                | ErrorKind::ReadOnlyFilesystem
                | ErrorKind::PermissionDenied
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn only_want_of_room_names_the_place() {
        let scratch = Scratch::new().unwrap();
        let fault = |kind: ErrorKind| Fault::Io { context: "copy".to_owned(), source: io::Error::from(kind) };
        let full = [
            Error::from(io::Error::from(ErrorKind::StorageFull)).context("cannot copy"),
            Error::from(fault(ErrorKind::StorageFull)),
            Error::from(SnapshotError::Store(fault(ErrorKind::QuotaExceeded))),
        ];
        for error in full {
            let told = scratch.explain(Some(3 << 20), error).to_string();
            assert!(told.starts_with("cannot write temporary files that need 3.1 MB or more in "), "{told}");
            assert!(told.ends_with("; name another directory with TMPDIR"), "{told}");
        }
        let damaged = Error::from(SnapshotError::Store(Fault::Snapshot("cut off".to_owned())));
        assert_eq!(scratch.explain(Some(1), damaged).to_string(), "unusable snapshot: cut off");
    }
}
