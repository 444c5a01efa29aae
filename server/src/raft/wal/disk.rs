//! The file system as the log sees it: directories, names, and files that are written and synced at offsets.
//!
//! Everything that the log does to a disk goes through here, so that the simulation (`crate::simulation`) can put a
//! disk in memory under the real code: one that is slow, tears writes and forgets at a crash what was not synced. The
//! product has the real file system only, and the compiler sees no choice.
//!
//! Not here: the database's file, which has a seam of its own in redb.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, FlockOperation};

use super::segment::{DIR_MODE, FILE_MODE};
#[cfg(test)]
use crate::simulation::disk::{SimulatedDisk, SimulatedFile};

/// Where a log is kept. The default is the file system.
#[derive(Clone, Default)]
pub struct Disk(Medium);

#[derive(Clone, Default)]
enum Medium {
    #[default]
    FileSystem,
    #[cfg(test)]
    Simulated(SimulatedDisk),
}

/// An open file of the log.
#[derive(Debug)]
pub(super) struct DiskFile(Handle);

#[derive(Debug)]
enum Handle {
    File(File),
    #[cfg(test)]
    Simulated(SimulatedFile),
}

/// Held while the log is open.
pub(super) enum Lock {
    /// An exclusive lock on the directory.
    File {
        /// Closing it releases the lock.
        _directory: File,
    },
    #[cfg(test)]
    Simulated,
}

#[cfg(test)]
impl From<SimulatedDisk> for Disk {
    fn from(disk: SimulatedDisk) -> Self {
        Self(Medium::Simulated(disk))
    }
}

impl Disk {
    /// The disk in memory, when this is one.
    #[cfg(test)]
    pub(super) fn simulated(&self) -> Option<&SimulatedDisk> {
        match &self.0 {
            Medium::FileSystem => None,
            Medium::Simulated(disk) => Some(disk),
        }
    }

    /// False while a write would have to be waited for by a task of the simulation, which cannot block.
    #[allow(clippy::unused_self, reason = "the test build's half uses it")]
    pub(super) fn answers_at_once(&self) -> bool {
        #[cfg(test)]
        if let Medium::Simulated(disk) = &self.0 {
            return disk.answers_at_once();
        }
        true
    }

    pub(super) fn is_dir(&self, path: &Path) -> bool {
        match &self.0 {
            Medium::FileSystem => path.is_dir(),
            #[cfg(test)]
            Medium::Simulated(_) => true,
        }
    }

    /// Creates a directory that only this user may enter.
    pub(super) fn create_dir(&self, path: &Path) -> io::Result<()> {
        match &self.0 {
            Medium::FileSystem => fs::DirBuilder::new().mode(DIR_MODE).create(path),
            #[cfg(test)]
            Medium::Simulated(_) => Ok(()),
        }
    }

    /// Locks a directory, or returns `None` when another process has.
    pub(super) fn lock(&self, dir: &Path) -> io::Result<Option<Lock>> {
        match &self.0 {
            Medium::FileSystem => {
                let directory = File::open(dir)?;
                match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
                    Ok(()) => Ok(Some(Lock::File { _directory: directory })),
                    Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
                    Err(error) => Err(error.into()),
                }
            }
            #[cfg(test)]
            Medium::Simulated(_) => Ok(Some(Lock::Simulated)),
        }
    }

    /// The paths in a directory.
    pub(super) fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        match &self.0 {
            Medium::FileSystem => fs::read_dir(dir)?.map(|item| item.map(|item| item.path())).collect(),
            #[cfg(test)]
            Medium::Simulated(disk) => disk.list(dir),
        }
    }

    /// Opens a file for reading, and for writing if asked.
    pub(super) fn open(&self, path: &Path, writable: bool) -> io::Result<DiskFile> {
        match &self.0 {
            Medium::FileSystem => File::options().read(true).write(writable).open(path).map(Handle::File),
            #[cfg(test)]
            Medium::Simulated(disk) => disk.open(path).map(Handle::Simulated),
        }
        .map(DiskFile)
    }

    /// Creates a file that only this user may read.
    pub(super) fn create_new(&self, path: &Path) -> io::Result<DiskFile> {
        match &self.0 {
            Medium::FileSystem => {
                let options = || File::options().read(true).write(true).create_new(true).mode(FILE_MODE).open(path);
                options().map(Handle::File)
            }
            #[cfg(test)]
            Medium::Simulated(disk) => disk.create_new(path).map(Handle::Simulated),
        }
        .map(DiskFile)
    }

    /// Opens a file for writes that bypass the page cache and are durable when they return.
    ///
    /// # Errors
    /// Among others, that the file system cannot do it.
    pub(super) fn open_direct(&self, path: &Path) -> io::Result<DiskFile> {
        match &self.0 {
            Medium::FileSystem => {
                let flags = rustix::fs::OFlags::DIRECT | rustix::fs::OFlags::DSYNC;
                // Invariant: the flags of open(2) are an int.
                File::options().write(true).custom_flags(flags.bits() as i32).open(path).map(Handle::File)
            }
            #[cfg(test)]
            Medium::Simulated(disk) => disk.open_direct(path).map(Handle::Simulated),
        }
        .map(DiskFile)
    }

    pub(super) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        match &self.0 {
            Medium::FileSystem => fs::rename(from, to),
            #[cfg(test)]
            Medium::Simulated(disk) => disk.rename(from, to),
        }
    }

    pub(super) fn remove_file(&self, path: &Path) -> io::Result<()> {
        match &self.0 {
            Medium::FileSystem => fs::remove_file(path),
            #[cfg(test)]
            Medium::Simulated(disk) => disk.remove_file(path),
        }
    }

    /// Makes names in a directory durable.
    pub(super) fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        match &self.0 {
            Medium::FileSystem => File::open(dir)?.sync_all(),
            #[cfg(test)]
            Medium::Simulated(disk) => disk.sync_names(),
        }
    }
}

impl DiskFile {
    pub(super) fn len(&self) -> io::Result<u64> {
        match &self.0 {
            Handle::File(file) => Ok(file.metadata()?.len()),
            #[cfg(test)]
            Handle::Simulated(file) => file.len(),
        }
    }

    pub(super) fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        match &self.0 {
            Handle::File(file) => file.read_exact_at(buf, offset),
            #[cfg(test)]
            Handle::Simulated(file) => file.read_exact_at(buf, offset),
        }
    }

    pub(super) fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        match &self.0 {
            Handle::File(file) => file.write_all_at(bytes, offset),
            #[cfg(test)]
            Handle::Simulated(file) => file.write_all_at(bytes, offset),
        }
    }

    pub(super) fn sync_data(&self) -> io::Result<()> {
        match &self.0 {
            Handle::File(file) => file.sync_data(),
            #[cfg(test)]
            Handle::Simulated(file) => file.sync(),
        }
    }

    pub(super) fn sync_all(&self) -> io::Result<()> {
        match &self.0 {
            Handle::File(file) => file.sync_all(),
            #[cfg(test)]
            Handle::Simulated(file) => file.sync(),
        }
    }

    /// Reserves room where the file system can; elsewhere writing allocates.
    ///
    /// # Errors
    /// There is no room.
    pub(super) fn reserve(&self, len: u64) -> io::Result<()> {
        match &self.0 {
            Handle::File(file) => match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, len) {
                Err(rustix::io::Errno::NOSPC) => Err(rustix::io::Errno::NOSPC.into()),
                Ok(()) | Err(_) => Ok(()),
            },
            #[cfg(test)]
            Handle::Simulated(file) => file.reserve(len),
        }
    }
}
