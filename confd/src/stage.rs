//! Files on their way to their place: made beside it with their final mode and owner, compared, and renamed.

use crate::resource::Resource;
use rustix::fs::{AtFlags, FallocateFlags, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use std::fs::{File, Metadata};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Tries for a name that is not there yet.
const NAME_TRIES: usize = 16;
/// Longest destination that is compared or shown.
const MAX_FILE_BYTES: u64 = 1 << 30;

/// A rendered file beside its destination. It is removed when this is dropped, unless it got its place or is kept.
#[derive(Debug)]
pub(crate) struct Staged {
    pub(crate) path: PathBuf,
    keeps: bool,
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.keeps {
            // It may have its place already.
            let _may_be_gone = std::fs::remove_file(&self.path);
        }
    }
}

/// A file that did not get its place.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub(crate) struct InstallError {
    error: io::Error,
    /// True if the destination is certainly as it was.
    pub(crate) is_untouched: bool,
}

impl InstallError {
    fn untouched(error: io::Error) -> Self {
        Self { error, is_untouched: true }
    }
}

impl From<io::Error> for InstallError {
    /// The destination may be another one.
    fn from(error: io::Error) -> Self {
        Self { error, is_untouched: false }
    }
}

impl From<InstallError> for io::Error {
    fn from(error: InstallError) -> Self {
        error.error
    }
}

/// What a destination should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// What is different about a destination, as confd tells it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) reasons: Vec<String>,
    /// What is there now; None without a file.
    pub(crate) old: Option<OldFile>,
}

/// A file as it was. The Debug output has no content.
#[derive(PartialEq, Eq)]
pub(crate) struct OldFile {
    pub(crate) content: Vec<u8>,
    pub(crate) attributes: Attributes,
}

impl std::fmt::Debug for OldFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { content, attributes } = self;
        f.debug_struct("OldFile").field("len", &content.len()).field("attributes", attributes).finish()
    }
}

/// What there is instead of a file that can be replaced.
fn refuse(dest: &Path, metadata: &Metadata) -> io::Result<()> {
    if metadata.is_dir() {
        return Err(io::Error::other(format!("{} is a directory", dest.display())));
    }
    if !metadata.is_file() && !metadata.is_symlink() {
        return Err(io::Error::other(format!("{} is no regular file", dest.display())));
    }
    Ok(())
}

impl Attributes {
    /// From the resource, and where it says nothing from the file that is there and this process.
    pub(crate) fn of(resource: &Resource) -> io::Result<Self> {
        let mode = match (resource.mode, std::fs::metadata(&resource.dest)) {
            (Some(mode), _) => mode,
            (None, Ok(metadata)) => metadata.permissions().mode() & 0o7777,
            (None, Err(error)) if error.kind() == io::ErrorKind::NotFound => 0o644,
            (None, Err(error)) => return Err(error),
        };
        let uid = resource.uid.unwrap_or_else(|| rustix::process::geteuid().as_raw());
        let gid = resource.gid.unwrap_or_else(|| rustix::process::getegid().as_raw());
        Ok(Self { mode, uid, gid })
    }
}

/// What has to change about the destination; none if it is as it should be.
pub(crate) fn compare(dest: &Path, content: &[u8], wanted: Attributes) -> io::Result<Option<Difference>> {
    let mut difference = Difference::default();
    let metadata = match std::fs::symlink_metadata(dest) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some(difference)),
        Err(error) => return Err(error),
    };
    refuse(dest, &metadata)?;
    // A link is looked through, as confd does, and replaced when something differs. What it leads to may be a pipe, which
    // must not be waited for.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut file = match rustix::fs::open(dest, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Ok(Some(difference)),
        Err(error) => return Err(error.into()),
    };
    let metadata = file.metadata()?;
    refuse(dest, &metadata)?;
    let shown = dest.display();
    if metadata.uid() != wanted.uid {
        difference.reasons.push(format!("{shown} has UID {} should be {}", metadata.uid(), wanted.uid));
    }
    if metadata.gid() != wanted.gid {
        difference.reasons.push(format!("{shown} has GID {} should be {}", metadata.gid(), wanted.gid));
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if mode != wanted.mode {
        difference.reasons.push(format!("{shown} has mode {mode:04o} should be {:04o}", wanted.mode));
    }
    if metadata.len() > MAX_FILE_BYTES {
        return Err(io::Error::other(format!("{shown} is larger than {MAX_FILE_BYTES} bytes")));
    }
    let mut old = Vec::new();
    file.read_to_end(&mut old)?;
    if old != content {
        difference.reasons.push(format!("{shown} has other content than it should have"));
    }
    let attributes = Attributes { mode, uid: metadata.uid(), gid: metadata.gid() };
    difference.old = Some(OldFile { content: old, attributes });
    Ok(Some(difference).filter(|difference| !difference.reasons.is_empty()))
}

impl Staged {
    /// Writes what was rendered into a new file in the destination's directory, durably.
    pub(crate) fn write(dest: &Path, content: &[u8], wanted: Attributes) -> io::Result<Self> {
        let (directory, name) = parts(dest)?;
        let name: String =
            name.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' }).collect();
        for _ in 0..NAME_TRIES {
            let path = directory.join(format!(".{name}{}", rand::random::<u32>()));
            // Nobody else has it open, and no link leads elsewhere. Until it is complete only its owner may read it.
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
            let opened = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR);
            let file = match opened {
                Ok(file) => File::from(file),
                Err(Errno::EXIST) => continue,
                Err(error) => return Err(named(&error.into(), &path)),
            };
            let staged = Self { path, keeps: false };
            Self::fill(file, content, wanted).map_err(|error| named(&error, &staged.path))?;
            return Ok(staged);
        }
        Err(io::Error::other(format!("no free name for a new file in {}", directory.display())))
    }

    fn fill(mut file: File, content: &[u8], wanted: Attributes) -> io::Result<()> {
        file.write_all(content)?;
        let metadata = file.metadata()?;
        let id = |current: u32, wanted: u32| (current != wanted).then_some(wanted);
        let (uid, gid) = (id(metadata.uid(), wanted.uid), id(metadata.gid(), wanted.gid));
        if uid.is_some() || gid.is_some() {
            // Before the mode, because a new owner takes special bits away.
            rustix::fs::fchown(&file, uid.map(Uid::from_raw), gid.map(Gid::from_raw))?;
        }
        rustix::fs::fchmod(&file, Mode::from_raw_mode(wanted.mode))?;
        file.sync_all()
    }

    /// Gives the file its place. Where it is mounted by itself, as `/etc/hosts` in a container, it is written in place.
    pub(crate) fn install(self, dest: &Path, content: &[u8], wanted: Attributes) -> Result<(), InstallError> {
        let untouched = InstallError::untouched;
        let (directory, _) = parts(dest).map_err(untouched)?;
        let sync = || File::open(directory)?.sync_all();
        if let Ok(metadata) = std::fs::symlink_metadata(dest) {
            refuse(dest, &metadata).map_err(untouched)?;
        }
        match rustix::fs::rename(&self.path, dest) {
            Ok(()) => {
                self.keep();
                sync().map_err(InstallError::from)
            }
            Err(Errno::BUSY | Errno::XDEV) => {
                // What was noted about the file has to be on the disk before the file is another one.
                sync().map_err(untouched)?;
                write_in_place(dest, content, wanted)
            }
            Err(error) => Err(untouched(named(&error.into(), dest))),
        }
    }

    /// Leaves the file where it is.
    pub(crate) fn keep(mut self) {
        self.keeps = true;
    }
}

/// Writes into a file that cannot be replaced. Room is taken before anything is changed, and what went wrong all the same is
/// undone; only a process that is killed meanwhile leaves a part of each, which the next round repairs.
fn write_in_place(dest: &Path, content: &[u8], wanted: Attributes) -> Result<(), InstallError> {
    let untouched = InstallError::untouched;
    let mut file = File::options().read(true).write(true).open(dest).map_err(untouched)?;
    let len = u64::try_from(content.len()).map_err(io::Error::other).map_err(untouched)?;
    match rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, len.max(1)) {
        // Not every file system can.
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
        Err(error) => return Err(untouched(named(&error.into(), dest))),
    }
    let mut old = Vec::new();
    file.read_to_end(&mut old).map_err(untouched)?;
    let overwrite = |file: &mut File, content: &[u8]| {
        file.rewind()?;
        file.write_all(content)?;
        file.set_len(u64::try_from(content.len()).map_err(io::Error::other)?)
    };
    if let Err(error) = overwrite(&mut file, content) {
        overwrite(&mut file, &old).map_err(|second| io::Error::other(format!("{error}, and it is torn: {second}")))?;
        return Err(untouched(named(&error, dest)));
    }
    let metadata = file.metadata()?;
    if metadata.uid() != wanted.uid || metadata.gid() != wanted.gid {
        let (uid, gid) = (Uid::from_raw(wanted.uid), Gid::from_raw(wanted.gid));
        rustix::fs::fchown(&file, Some(uid), Some(gid)).map_err(io::Error::from)?;
    }
    rustix::fs::fchmod(&file, Mode::from_raw_mode(wanted.mode)).map_err(io::Error::from)?;
    Ok(file.sync_all()?)
}

/// Notes on the disk that the destination's reload command has not run since it changed. True if that is new.
pub(crate) fn mark(dest: &Path) -> io::Result<bool> {
    let path = marker_of(dest)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
    match rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR) {
        Ok(_) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(error) => Err(named(&error.into(), &path)),
    }
}

/// True if [`mark`] was called, by this process or one that was killed, and [`unmark`] was not.
pub(crate) fn is_marked(dest: &Path) -> bool {
    marker_of(dest).is_ok_and(|path| std::fs::symlink_metadata(path).is_ok())
}

/// The reload command has run.
pub(crate) fn unmark(dest: &Path) -> io::Result<()> {
    let path = marker_of(dest)?;
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(named(&error, &path)),
        _ => Ok(()),
    }
}

fn marker_of(dest: &Path) -> io::Result<PathBuf> {
    let (directory, name) = parts(dest)?;
    Ok(directory.join(format!(".{name}.reload")))
}

/// Keeps what is there now as `DEST.bak`; true if there was something.
pub(crate) fn back_up(dest: &Path) -> io::Result<bool> {
    let backup = backup_of(dest);
    let mut temporary = backup.clone().into_os_string();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(named(&error, &temporary)),
        _ => {}
    }
    // A second name for the same file costs nothing; the destination is replaced and never changed.
    match rustix::fs::linkat(rustix::fs::CWD, dest, rustix::fs::CWD, &temporary, AtFlags::empty()) {
        Ok(()) => {}
        Err(Errno::NOENT) => return Ok(false),
        Err(_) => drop(std::fs::copy(dest, &temporary)?),
    }
    std::fs::rename(&temporary, &backup)?;
    Ok(true)
}

/// Where [`back_up`] keeps the file.
pub(crate) fn backup_of(dest: &Path) -> PathBuf {
    let mut path = dest.as_os_str().to_owned();
    path.push(".bak");
    PathBuf::from(path)
}

fn parts(dest: &Path) -> io::Result<(&Path, String)> {
    match (dest.parent(), dest.file_name()) {
        (Some(directory), Some(name)) => Ok((directory, name.to_string_lossy().into_owned())),
        _ => Err(io::Error::other(format!("{} is no path of a file", dest.display()))),
    }
}

fn named(error: &io::Error, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
