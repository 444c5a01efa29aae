//! The data directory: who may read it, who uses it, and which format it has.
//!
//! [`DataDir::open`] is the first thing a starting member does with the disk; everything below the directory belongs
//! to `store` and `raft`. While a [`DataDir`] lives, no other process can open the same directory.

use rustix::fs::{FlockOperation, flock};
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// The format of everything below the directory. A release that cannot read the previous one changes it.
pub const FORMAT: u32 = 1;

const FORMAT_FILE: &str = "FORMAT";
const NEW_FORMAT_FILE: &str = "FORMAT.new";
const LOCK_FILE: &str = "LOCK";
/// What was set aside; the time follows, in seconds since 1970.
const REMOVED_PREFIX: &str = "removed-";
/// The same name as in etcd, so that backups and volume mounts need not be changed.
const MEMBER_DIR: &str = "member";
/// The same name as in etcd.
const FIXTURES_DIR: &str = "fixtures";
const PRIVATE_DIR: u32 = 0o700;
const PRIVATE_FILE: u32 = 0o600;
/// Everybody but the owner.
const OTHERS: u32 = 0o077;

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// It cannot be created, read or locked.
    #[error("cannot use data directory {}: {what}: {reason}{}", dir.display(), remedy(reason))]
    Io {
        /// The directory.
        dir: PathBuf,
        /// What failed.
        what: &'static str,
        /// Why.
        reason: io::Error,
    },
    /// Another process has it open.
    #[error(
        "data directory {} is used by another process{}: stop that one first, or name another directory with --data-dir",
        dir.display(),
        pid.as_ref().map(|pid| format!(" (pid {pid})")).unwrap_or_default()
    )]
    Locked {
        /// The directory.
        dir: PathBuf,
        /// The process, if it wrote its id.
        pid: Option<u32>,
    },
    /// It was written by a release with another format.
    #[error(
        "data directory {} has format {found}, this release reads format {FORMAT}: start the release that wrote it, \
         or restore a snapshot into a new directory",
        dir.display()
    )]
    OtherFormat {
        /// The directory.
        dir: PathBuf,
        /// Its format.
        found: String,
    },
    /// It is etcd's.
    #[error(
        "data directory {} belongs to etcd: name another directory with --data-dir; to take the keys along, make that one \
         with `cleatctl migrate from-etcd {}`",
        dir.display(), dir.display()
    )]
    Etcd {
        /// The directory.
        dir: PathBuf,
    },
    /// It has files, but not ours.
    #[error(
        "data directory {} is not empty and not a Cleat data directory (it has no {FORMAT_FILE} file): name another \
         directory with --data-dir",
        dir.display()
    )]
    Foreign {
        /// The directory.
        dir: PathBuf,
    },
    /// There is something else under that name.
    #[error("data directory {} is not a directory: name another one with --data-dir", dir.display())]
    NotADirectory {
        /// What was named.
        dir: PathBuf,
    },
}

/// A locked data directory of our format.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// The lock ends when the file is closed.
    _lock: File,
}

impl DataDir {
    /// Creates the directory if needed, makes it private, locks it and checks its format.
    ///
    /// # Errors
    /// [`DataDirError`]. What is not ours is not touched.
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        let failed = |what| move |reason| DataDirError::Io { dir: path.to_owned(), what, reason };
        check(path)?;
        make_private(path).map_err(failed("cannot make it private"))?;
        let lock = lock(path)?;
        if !path.join(FORMAT_FILE).exists() {
            write_format(path).map_err(failed("cannot write its format"))?;
        }
        make_private(&path.join(MEMBER_DIR)).map_err(failed("cannot make the member's directory"))?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// Keeps members away from a directory that is there, and changes nothing in it: for who only reads.
    ///
    /// # Errors
    /// As [`DataDir::open`].
    pub fn hold(path: &Path) -> Result<Self, DataDirError> {
        check(path)?;
        let failed = |reason| DataDirError::Io { dir: path.to_owned(), what: "cannot lock it", reason };
        // Without that file no member has ever run on it, and none can begin without making one.
        let file = match File::open(path.join(LOCK_FILE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => File::open(path),
            file => file,
        };
        let mut file = file.map_err(failed)?;
        take(path, &mut file)?;
        Ok(Self { path: path.to_owned(), _lock: file })
    }

    /// Where this member's log and store are; it exists.
    pub fn member(&self) -> PathBuf {
        self.path.join(MEMBER_DIR)
    }

    /// Where certificates are that this member makes for itself; it need not exist.
    pub fn fixtures(&self) -> PathBuf {
        self.path.join(FIXTURES_DIR)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Moves the data of a member that was removed out of the way, so that the next start is that of a new one. Only the
/// newest such data is kept. A log that is elsewhere (`--wal-dir`) stays beside its place. Returns where the rest is.
///
/// # Errors
/// Files cannot be renamed or deleted, as a log's directory that is a volume by itself; what was not moved is still in
/// use.
pub fn set_aside(path: &Path, wal_dir: Option<&Path>, now: u64) -> io::Result<PathBuf> {
    // First what can fail: without its log the database would be of no use, and this member no newcomer either.
    delete_older(path, REMOVED_PREFIX)?;
    let aside = path.join(format!("{REMOVED_PREFIX}{now}"));
    make_private(&aside)?;
    if let Some(wal_dir) = wal_dir {
        set_log_aside(wal_dir, now)?;
    }
    // First the database, and the log if it is there: a member with an identity and no data asks who it is.
    for name in [MEMBER_DIR, crate::bootstrap::FILE] {
        match std::fs::rename(path.join(name), aside.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            renamed => renamed?,
        }
    }
    File::open(path)?.sync_all()?;
    Ok(aside)
}

/// Gives the directory of a log another name beside its own.
fn set_log_aside(wal_dir: &Path, now: u64) -> io::Result<()> {
    let (Some(parent), Some(name)) = (parent_of(wal_dir), wal_dir.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let prefix = format!("{}.{REMOVED_PREFIX}", name.to_string_lossy());
    delete_older(parent, &prefix)?;
    match std::fs::rename(wal_dir, parent.join(format!("{prefix}{now}"))) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        renamed => renamed?,
    }
    sync_parent(wal_dir)
}

/// Deletes what was set aside before.
fn delete_older(dir: &Path, prefix: &str) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let is_time = |rest: &str| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit());
        if entry.file_name().to_string_lossy().strip_prefix(prefix).is_some_and(is_time) {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// Looks whether the directory is ours or can become ours, without changing anything: it may be somebody's home.
fn check(path: &Path) -> Result<(), DataDirError> {
    let dir = path.to_owned();
    let failed = |what| move |reason| DataDirError::Io { dir: path.to_owned(), what, reason };
    match std::fs::metadata(path) {
        Ok(metadata) if !metadata.is_dir() => return Err(DataDirError::NotADirectory { dir }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Ok(_) => {}
        Err(error) => return Err(failed("cannot look at it")(error)),
    }
    if is_etcds(path) {
        return Err(DataDirError::Etcd { dir });
    }
    match std::fs::read(path.join(FORMAT_FILE)) {
        Ok(text) => {
            let text = String::from_utf8_lossy(&text);
            let found = text.trim();
            if found.parse() == Ok(FORMAT) {
                return Ok(());
            }
            Err(DataDirError::OtherFormat { dir, found: found.chars().take(20).collect() })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if has_foreign_files(path).map_err(failed("cannot list it"))? {
                return Err(DataDirError::Foreign { dir });
            }
            Ok(())
        }
        Err(error) => Err(failed("cannot read its format")(error)),
    }
}

/// What to do about an error of the file system, as the end of a message; nothing where nobody knows.
pub(crate) fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; make room on that disk and start again, what was acknowledged is not lost"
        }
        _ => "",
    }
}

/// Creates a directory for its owner only, or takes the access of others away. Keys and password hashes are in it.
///
/// # Errors
/// If that is not possible, for example because another user owns it.
pub fn make_private(path: &Path) -> io::Result<()> {
    let metadata = match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new().recursive(true).mode(PRIVATE_DIR).create(path)?;
            return sync_parent(path);
        }
        other => other?,
    };
    if !metadata.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    let mode = metadata.permissions().mode();
    if mode & OTHERS != 0 {
        std::fs::set_permissions(path, Permissions::from_mode(mode & !OTHERS & 0o7777))?;
        tracing::warn!(
            dir = %path.display(),
            mode = %format_args!("{:o}", mode & 0o7777),
            "others had access to the data directory; it is private now"
        );
    }
    Ok(())
}

/// Makes a new directory survive a power cut.
fn sync_parent(path: &Path) -> io::Result<()> {
    parent_of(path).map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

/// The directory that a path is in; none for the root.
fn parent_of(path: &Path) -> Option<&Path> {
    let parent = path.parent()?;
    Some(if parent.as_os_str().is_empty() { Path::new(".") } else { parent })
}

fn lock(dir: &Path) -> Result<File, DataDirError> {
    let failed = |reason| DataDirError::Io { dir: dir.to_owned(), what: "cannot lock it", reason };
    let path = dir.join(LOCK_FILE);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(PRIVATE_FILE);
    let mut file = options.open(path).map_err(failed)?;
    take(dir, &mut file)?;
    let write_pid = |mut file: &File| {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    write_pid(&file).map_err(failed)?;
    Ok(file)
}

/// Takes the lock, or says who has it.
fn take(dir: &Path, file: &mut File) -> Result<(), DataDirError> {
    match flock(&*file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut pid = String::new();
            let read = file.take(32).read_to_string(&mut pid);
            let pid = read.ok().and_then(|_| pid.trim().parse().ok());
            Err(DataDirError::Locked { dir: dir.to_owned(), pid })
        }
        Err(errno) => Err(DataDirError::Io { dir: dir.to_owned(), what: "cannot lock it", reason: errno.into() }),
    }
}

/// True for a directory of etcd's, which is not touched at all.
fn is_etcds(dir: &Path) -> bool {
    let member = dir.join(MEMBER_DIR);
    let has_log_only = member.join("wal").exists() && !member.join("store.redb").exists();
    !dir.join(FORMAT_FILE).exists() && (member.join("snap/db").exists() || has_log_only)
}

/// True if there is anything that a start that was cut short cannot have left behind.
fn has_foreign_files(dir: &Path) -> io::Result<bool> {
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name();
        // A new ext4 volume has lost+found; another process may write the format at this moment.
        if ![LOCK_FILE, FORMAT_FILE, NEW_FORMAT_FILE, "lost+found"].iter().any(|known| name == *known) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn write_format(dir: &Path) -> io::Result<()> {
    let new = dir.join(NEW_FORMAT_FILE);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(PRIVATE_FILE).open(&new)?;
    writeln!(file, "{FORMAT}")?;
    file.sync_all()?;
    std::fs::rename(new, dir.join(FORMAT_FILE))?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    fn refused(path: &Path) -> String {
        DataDir::open(path).unwrap_err().to_string()
    }

    #[test]
    fn a_new_directory_is_private_and_can_be_reopened() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("a/b");
        let opened = DataDir::open(&path).unwrap();
        assert_eq!(opened.path(), path);
        assert_eq!(mode(&opened.member()), 0o700);
        std::fs::create_dir(opened.member().join("wal")).unwrap();
        assert_eq!(mode(&path), 0o700);
        assert_eq!(std::fs::read_to_string(path.join("FORMAT")).unwrap(), "1\n");
        drop(opened);
        DataDir::open(&path).unwrap();
    }

    #[test]
    fn access_of_others_is_taken_away() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::set_permissions(temp.path(), Permissions::from_mode(0o755)).unwrap();
        DataDir::open(temp.path()).unwrap();
        assert_eq!(mode(temp.path()), 0o700);
    }

    #[test]
    fn a_second_opener_is_told_who_has_it() {
        let temp = tempfile::tempdir().unwrap();
        let _first = DataDir::open(temp.path()).unwrap();
        let expected =
            format!("data directory {} is used by another process (pid {})", temp.path().display(), std::process::id());
        let refusal = refused(temp.path());
        assert!(refusal.starts_with(&expected) && refusal.contains("stop that one first"), "{refusal}");
    }

    #[test]
    fn other_formats_are_refused_with_advice() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join("FORMAT"), "2\n").unwrap();
        let refusal = refused(temp.path());
        assert!(refusal.contains("has format 2, this release reads format 1: start the release"), "{refusal}");
    }

    #[test]
    fn etcds_and_foreign_directories_are_refused() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(temp.path().join("member/snap")).unwrap();
        std::fs::write(temp.path().join("member/snap/db"), "").unwrap();
        let refusal = refused(temp.path());
        assert!(refusal.contains("belongs to etcd") && refusal.contains("--data-dir"), "{refusal}");
        assert!(!temp.path().join("LOCK").exists());

        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join("photo.jpg"), "").unwrap();
        std::fs::set_permissions(temp.path(), Permissions::from_mode(0o755)).unwrap();
        assert!(refused(temp.path()).contains("is not empty and not a Cleat data directory"));
        assert_eq!(mode(temp.path()), 0o755);
        assert!(!temp.path().join("LOCK").exists());

        let volume = tempfile::tempdir().unwrap();
        std::fs::create_dir(volume.path().join("lost+found")).unwrap();
        DataDir::open(volume.path()).unwrap();
    }

    #[test]
    fn what_was_removed_is_set_aside_once() {
        let temp = tempfile::tempdir().unwrap();
        drop(DataDir::open(temp.path()).unwrap());
        for now in [5, 6] {
            std::fs::write(temp.path().join("IDENTITY"), now.to_string()).unwrap();
            std::fs::write(temp.path().join("member/data"), "").unwrap();
            let aside = set_aside(temp.path(), None, now).unwrap();
            assert_eq!(std::fs::read_to_string(aside.join("IDENTITY")).unwrap(), now.to_string());
            assert!(aside.join("member/data").exists());
            assert!(!temp.path().join("IDENTITY").exists());
            drop(DataDir::open(temp.path()).unwrap());
        }
        assert!(!temp.path().join("removed-5").exists(), "only the newest is kept");
    }

    #[test]
    fn a_log_elsewhere_is_set_aside_beside_its_place() {
        let (temp, volume) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        drop(DataDir::open(temp.path()).unwrap());
        let wal = volume.path().join("wal");
        std::fs::create_dir(volume.path().join("wal.removed-by-hand")).unwrap();
        for now in [5, 6] {
            std::fs::create_dir(&wal).unwrap();
            std::fs::write(wal.join("segment"), now.to_string()).unwrap();
            std::fs::write(temp.path().join("IDENTITY"), "").unwrap();
            let aside = set_aside(temp.path(), Some(&wal), now).unwrap();
            assert!(aside.join("IDENTITY").exists() && !wal.exists());
            let log = volume.path().join(format!("wal.removed-{now}/segment"));
            assert_eq!(std::fs::read_to_string(log).unwrap(), now.to_string());
        }
        assert!(!volume.path().join("wal.removed-5").exists(), "only the newest is kept");
        assert!(volume.path().join("wal.removed-by-hand").exists(), "it is somebody else's");
        // What cannot be moved moves nothing.
        std::fs::write(temp.path().join("IDENTITY"), "").unwrap();
        assert!(set_aside(temp.path(), Some(Path::new("/")), 7).is_err());
        assert!(temp.path().join("IDENTITY").exists());
        assert_eq!(parent_of(Path::new("wal")), Some(Path::new(".")), "a relative one is below the working directory");
    }

    #[test]
    fn a_file_is_not_a_directory() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(refused(file.path()).contains("is not a directory"));
    }
}
