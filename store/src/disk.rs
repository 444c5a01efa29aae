//! Where the files of the database are: the file system, or what a test puts in its place.
//!
//! redb asks for bytes of one file; this is about the files themselves, which the store creates beside the one in use,
//! renames and removes. A medium in memory below the same code lets a test lose power between any two steps of an
//! install. The product has the file system only.

use crate::error::Fault;
use redb::{BackendError, Builder, Database, DatabaseError, StorageBackend};
use std::fs::File;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Files that are not in the file system. Errors are those of the file system.
pub trait Medium: Send + Sync + 'static {
    /// True when there is a file of that name.
    fn exists(&self, path: &Path) -> bool;

    /// Opens a file, or creates it.
    ///
    /// # Errors
    /// It cannot be opened.
    fn open(&self, path: &Path) -> io::Result<Box<dyn StorageBackend>>;

    /// Gives a file another name, in the place of the file that has it.
    ///
    /// # Errors
    /// It cannot be renamed.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Takes a file's name away.
    ///
    /// # Errors
    /// There is none, or it cannot be removed.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// The paths in a directory.
    ///
    /// # Errors
    /// It cannot be read.
    fn list(&self, directory: &Path) -> io::Result<Vec<PathBuf>>;

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// They may not be durable.
    fn sync_directory(&self, directory: &Path) -> io::Result<()>;
}

/// Where files are kept. The default is the file system. Clones are the same.
#[derive(Clone, Default)]
pub struct Disk(Option<Arc<dyn Medium>>);

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Disk(medium)" } else { "Disk(file system)" })
    }
}

impl Disk {
    /// The file system.
    pub const FILE_SYSTEM: Self = Self(None);

    /// Keeps files on `medium`.
    pub fn on(medium: impl Medium) -> Self {
        Self(Some(Arc::new(medium)))
    }

    pub(crate) fn exists(&self, path: &Path) -> bool {
        self.0.as_ref().map_or_else(|| path.exists(), |medium| medium.exists(path))
    }

    /// Opens the database in a file, or creates both.
    pub(crate) fn create_database(&self, builder: &Builder, path: &Path) -> Result<Database, DatabaseError> {
        match &self.0 {
            None => builder.create(path),
            Some(medium) => builder.create_with_backend(Backend(medium.open(path)?)),
        }
    }

    /// Puts a file in the place of another one. The new name is durable after [`Self::sync_directory`].
    pub(crate) fn replace(&self, path: &Path, by: &Path) -> Result<(), Fault> {
        let replaced = self.0.as_ref().map_or_else(|| std::fs::rename(by, path), |medium| medium.rename(by, path));
        replaced.map_err(|source| Fault::Io { context: format!("replace {}", path.display()), source })
    }

    /// Removes a file, if there is one.
    pub(crate) fn remove_left(&self, path: &Path) -> Result<(), Fault> {
        let removed = self.0.as_ref().map_or_else(|| std::fs::remove_file(path), |medium| medium.remove(path));
        match removed {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(Fault::Io { context: format!("remove {}", path.display()), source })
            }
            _ => Ok(()),
        }
    }

    /// The files beside the one at `path`.
    pub(crate) fn beside(&self, path: &Path) -> Result<Vec<PathBuf>, Fault> {
        let directory = directory_of(path);
        let listed = match &self.0 {
            None => directory.read_dir().and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect()),
            Some(medium) => medium.list(directory),
        };
        listed.map_err(|source| Fault::Io { context: format!("read the directory {}", directory.display()), source })
    }

    /// Makes a new name in the directory of `path` durable.
    pub(crate) fn sync_directory(&self, path: &Path) -> Result<(), Fault> {
        let directory = directory_of(path);
        let synced = match &self.0 {
            None => File::open(directory).and_then(|directory| directory.sync_all()),
            Some(medium) => medium.sync_directory(directory),
        };
        synced.map_err(|source| Fault::Io { context: format!("sync {}", directory.display()), source })
    }
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// A file of a medium, for redb.
#[derive(Debug)]
struct Backend(Box<dyn StorageBackend>);

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.0.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.try_lock_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.unlock_range(start, end)
    }
}

#[cfg(test)]
mod tests {
    use super::Disk;
    use std::path::Path;

    #[test]
    fn a_file_of_the_working_directory_has_a_directory() {
        Disk::FILE_SYSTEM.sync_directory(Path::new("db")).unwrap();
    }
}
