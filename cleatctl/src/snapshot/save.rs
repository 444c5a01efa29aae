//! `snapshot save`: a download that survives broken connections, and the end of this process.
//!
//! What has come is in `FILE.part`; once it is whole, its hash right and the disk has it, it becomes `FILE`. Beside it
//! `FILE.part.id` names the snapshot that it is of, if the member can go on with it: after a broken connection, or when
//! the same command is given again. Otherwise, and with etcd, the download starts over.

use crate::context::Context;
use crate::failure::{Failure as Failed, code, text_of, whole};
use crate::{people, print, progress};
use anyhow::{Context as _, Result, bail};
use client::{Client, Download, SnapshotPlace};
use indicatif::ProgressBar;
use rustix::fs::OFlags;
use server::offline::SnapshotFile;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A member that sends nothing for so long is given up.
const STALL: Duration = Duration::from_secs(30);

/// The same for the first piece: the member reads its store first, to know how long the snapshot is and what it has sent.
const FIRST_STALL: Duration = Duration::from_mins(5);

/// Attempts in a row that bring nothing.
const TRIES: u32 = 6;

/// Attempts to go on, and to start over, before the connection counts as useless.
const RESUMES_MAX: u32 = 1000;
const STARTS_MAX: u32 = 3;

/// The pause before the first of [`TRIES`]; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// How often the part is opened again because another process finished or removed it meanwhile.
const OPENS_MAX: u32 = 5;

/// Only the owner may read what a store contains.
const PRIVATE_FILE: u32 = 0o600;

/// Stores a snapshot of the member behind the only endpoint in a file.
pub(super) async fn save(mut context: Context) -> Result<(), Failed> {
    let [file] = &*context.args else { return Err(Failed::bad_args("snapshot save expects one argument")) };
    let file = PathBuf::from(file);
    let is_etcdctl = context.is_etcdctl();
    let interrupted = |error: anyhow::Error| {
        let failed = match error.downcast_ref() {
            _ if !is_etcdctl => people::failure(error),
            // etcdctl says nothing beside the server's words.
            Some(refused @ client::Error::Answered { .. }) => Failed::new(code::INTERRUPTED, text_of(refused)),
            _ => Failed::from(error),
        };
        failed.with_code(code::INTERRUPTED)
    };
    context.discover().await?;
    let endpoints = context.endpoints();
    let [endpoint] = &*endpoints else {
        let all = endpoints.join(" ");
        let error = anyhow::anyhow!("snapshot must be requested to one selected node, not multiple [{all}]");
        return Err(interrupted(error));
    };
    // A user that is refused is a snapshot that was not made.
    let (client, _) = context.connect().await.map_err(|failure| match &failure.call {
        Some(_) => failure.with_code(code::INTERRUPTED),
        None => failure,
    })?;
    let started = Instant::now();
    let from = client::without_user(endpoint);
    let bytes = save_to(&client, &file, &from).await.map_err(interrupted)?;
    let took = started.elapsed();
    tell!("{} in {:.1} s from {from}", print::bytes(bytes), took.as_secs_f64());
    print::line(&format!("Snapshot saved at {}", file.display()))
}

async fn save_to(client: &Client, file: &Path, from: &str) -> Result<u64> {
    let mut part = Part::open(file)?;
    let whole = fetch(client, &mut part).await;
    let bytes = match whole {
        Ok(bytes) => bytes,
        Err(failure) => {
            let hint = part.leave(&failure);
            let error = failure.error.context(format!("cannot save a snapshot of {from}"));
            return Err(if let Some(hint) = hint { error.context(hint) } else { error });
        }
    };
    part.become_whole(file)?;
    Ok(bytes)
}

/// Why an attempt ended.
struct Failure {
    error: anyhow::Error,
    /// Another attempt may do better.
    may_pass: bool,
    /// What has come is known to be worth nothing.
    is_bad: bool,
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self { error, may_pass: false, is_bad: false }
    }
}

impl From<client::Error> for Failure {
    fn from(error: client::Error) -> Self {
        Self { may_pass: error.may_pass(), error: error.into(), is_bad: false }
    }
}

/// Brings a snapshot into the part, in as many attempts as it takes, and checks it. Returns how many bytes it has.
async fn fetch(client: &Client, part: &mut Part) -> Result<u64, Failure> {
    let progress = progress::bytes(None);
    let (mut tries, mut resumes, mut has_begun) = (0, 0, false);
    loop {
        let had = part.bytes;
        let attempt = fetch_rest(client, part, &progress).await;
        let failure = match attempt {
            Ok(()) => match SnapshotFile::open(&part.path, false) {
                Ok(_) => break,
                // What an earlier run or a crash of this machine left may be anything.
                Err(error) if part.has_earlier => {
                    progress.suspend(|| tell!("what was there of the snapshot is damaged ({error}); starting over"));
                    part.begin(None)?;
                    continue;
                }
                Err(error) => {
                    let error = anyhow::Error::from(error).context("what was received is not whole");
                    return Err(Failure { error, may_pass: false, is_bad: true });
                }
            },
            Err(failure) => failure,
        };
        has_begun |= part.bytes != had;
        tries = if part.bytes > had { 1 } else { tries + 1 };
        resumes += 1;
        // A member that never answered is down, or is none.
        let is_hopeless = !has_begun || tries >= TRIES || resumes >= RESUMES_MAX || part.starts >= STARTS_MAX;
        if !failure.may_pass || is_hopeless {
            progress.finish_and_clear();
            return Err(failure);
        }
        let what = format!("interrupted after {}: {}; trying again", print::bytes(part.bytes), whole(&failure.error));
        progress.suspend(|| people::say(&what));
        tokio::time::sleep(FIRST_PAUSE * 2_u32.pow(tries - 1)).await;
    }
    progress::finish(&progress);
    Ok(part.bytes)
}

/// One attempt: asks for what the part lacks, and writes it until the stream ends.
async fn fetch_rest(client: &Client, part: &mut Part, progress: &ProgressBar) -> Result<(), Failure> {
    let asked = part.place();
    // Until it is known how much there is.
    let mut waiting = progress.length().is_none().then(|| progress::running("waiting for the snapshot"));
    let mut download = client.snapshot(asked.as_ref()).await?;
    if asked.is_none() || download.place != asked {
        if part.bytes > 0 {
            let size = print::bytes(part.bytes);
            drop(waiting.take());
            progress.suspend(|| tell!("the member cannot go on behind the {size} that are there; starting over"));
        }
        part.begin(download.place.as_ref())?;
    } else {
        drop(waiting.take());
        progress.suspend(|| tell!("going on behind {}", print::bytes(part.bytes)));
    }
    let (mut remaining, mut stall) = (u64::MAX, FIRST_STALL);
    while let Some(piece) = next(&mut download, stall).await? {
        drop(waiting.take());
        part.write(&piece.blob)?;
        remaining = piece.remaining_bytes;
        stall = STALL;
        progress.set_length(part.bytes + remaining);
        progress.set_position(part.bytes);
    }
    if remaining > 0 {
        let error = anyhow::anyhow!("the stream has ended too early");
        return Err(Failure { error, may_pass: true, is_bad: false });
    }
    Ok(part.sync()?)
}

async fn next(
    download: &mut Download,
    stall: Duration,
) -> Result<Option<api::etcdserverpb::SnapshotResponse>, Failure> {
    if let Ok(next) = tokio::time::timeout(stall, download.next()).await {
        return Ok(next?);
    }
    let error = anyhow::anyhow!("no part of it has come for {} s", stall.as_secs());
    Err(Failure { error, may_pass: true, is_bad: false })
}

/// The file that a snapshot comes into.
struct Part {
    path: PathBuf,
    /// Names the snapshot that the file has a part of.
    id_path: PathBuf,
    file: File,
    bytes: u64,
    /// Which snapshot the member calls it, if it can go on.
    id: Option<String>,
    /// Some of the bytes are from an earlier run.
    has_earlier: bool,
    /// How often this run has started over.
    starts: u32,
}

impl Part {
    /// Opens the part of a file, with what an earlier run left of it.
    fn open(file: &Path) -> Result<Self> {
        let (path, id_path) = (beside(file, ".part"), beside(file, ".part.id"));
        let context = || format!("cannot write {}", path.display());
        let mut opens = 0;
        let opened = loop {
            let opened = match private().truncate(false).open(&path) {
                // etcdctl's words for the usual mistake.
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    let path = path.display();
                    bail!("could not open {path} (open {path}: no such file or directory)");
                }
                opened => opened.with_context(context)?,
            };
            match opened.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => bail!("{} is being written by another process", path.display()),
                Err(TryLockError::Error(error)) => return Err(error).with_context(context),
            }
            // Between the two, the process that had the lock may have made a finished snapshot of it.
            if is_at(&opened, &path).with_context(context)? {
                break opened;
            }
            opens += 1;
            if opens >= OPENS_MAX {
                bail!("{} is being replaced all the time by other processes", path.display());
            }
        };
        // Anything that is no id is as good as none.
        let id = std::fs::read_to_string(&id_path).ok().and_then(|id| format!("{}:0", id.trim()).parse().ok());
        let id = id.map(|place: SnapshotPlace| place.id);
        let bytes = if id.is_some() { opened.metadata().with_context(context)?.len() } else { 0 };
        let mut part = Self { path, id_path, file: opened, bytes, id, has_earlier: bytes > 0, starts: 0 };
        part.file.seek(SeekFrom::Start(bytes)).with_context(|| part.context())?;
        Ok(part)
    }

    fn context(&self) -> String {
        format!("cannot write {}", self.path.display())
    }

    /// What the member is asked to go on behind.
    fn place(&self) -> Option<SnapshotPlace> {
        let id = self.id.clone().filter(|_| self.bytes > 0)?;
        Some(SnapshotPlace { id, offset: self.bytes })
    }

    /// Empties the file for another snapshot, of which the next bytes are the first.
    fn begin(&mut self, place: Option<&SnapshotPlace>) -> Result<()> {
        self.starts += u32::from(self.bytes > 0);
        self.file.set_len(0).with_context(|| self.context())?;
        self.file.seek(SeekFrom::Start(0)).with_context(|| self.context())?;
        (self.bytes, self.has_earlier) = (0, false);
        self.id = place.map(|place| place.id.clone());
        let context = || format!("cannot write {}", self.id_path.display());
        let Some(id) = &self.id else { return remove(&self.id_path).with_context(context) };
        let mut file = private().truncate(true).open(&self.id_path);
        let written = file.as_mut().map_err(|error| anyhow::anyhow!("{error}")).map(|file| writeln!(file, "{id}"));
        Ok(written.with_context(context)??)
    }

    fn write(&mut self, blob: &[u8]) -> Result<()> {
        let written = self.file.write_all(blob);
        // However much of it was written, what counts is behind the last whole piece.
        written.with_context(|| self.context())?;
        self.bytes += blob.len() as u64;
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        self.file.sync_all().with_context(|| self.context())
    }

    /// Gives the part its name.
    fn become_whole(self, file: &Path) -> Result<()> {
        std::fs::rename(&self.path, file).with_context(|| format!("cannot write {}", file.display()))?;
        remove(&self.id_path).with_context(|| format!("cannot remove {}", self.id_path.display()))?;
        sync_directory(file)
    }

    /// Keeps what can be gone on with, and says so. Removes what cannot.
    fn leave(self, failure: &Failure) -> Option<String> {
        if !failure.is_bad && self.place().is_some() {
            let (path, size) = (self.path.display(), print::bytes(self.bytes));
            return Some(format!("{path} has {size} of it: give the same command again within a minute to go on"));
        }
        // Best effort: the next attempt begins anew.
        drop(remove(&self.path));
        drop(remove(&self.id_path));
        None
    }
}

/// The path of a file beside another one, named after it.
fn beside(file: &Path, ending: &str) -> PathBuf {
    let mut path = file.as_os_str().to_owned();
    path.push(ending);
    path.into()
}

/// Makes a file that is the owner's alone, and writes through no link that somebody else put in its place.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create(true).mode(PRIVATE_FILE).custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    options
}

/// True if a path still leads to an open file.
fn is_at(file: &File, path: &Path) -> std::io::Result<bool> {
    let opened = file.metadata()?;
    match std::fs::symlink_metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (opened.dev(), opened.ino())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes a file that need not be there.
fn remove(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn sync_directory(file: &Path) -> Result<()> {
    let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory).and_then(|directory| directory.sync_all()).with_context(|| format!("{}", directory.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;

    #[test]
    fn a_part_is_named_after_its_file_whatever_that_is_called() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(OsStr::from_bytes(b"a\xff"));
        drop(Part::open(&file).unwrap());
        assert!(dir.path().join(OsStr::from_bytes(b"a\xff.part")).exists());
    }

    #[test]
    fn no_link_is_written_through() {
        let dir = tempfile::tempdir().unwrap();
        let (file, other) = (dir.path().join("file"), dir.path().join("other"));
        std::fs::write(&other, "kept").unwrap();
        std::os::unix::fs::symlink(&other, beside(&file, ".part")).unwrap();
        assert!(Part::open(&file).is_err());
        std::fs::remove_file(beside(&file, ".part")).unwrap();
        std::os::unix::fs::symlink(&other, beside(&file, ".part.id")).unwrap();
        let place = SnapshotPlace { id: "ab".to_owned(), offset: 0 };
        assert!(Part::open(&file).unwrap().begin(Some(&place)).is_err());
        assert_eq!(std::fs::read(&other).unwrap(), b"kept");
    }

    #[test]
    fn a_file_that_got_another_name_is_no_part_any_more() {
        let dir = tempfile::tempdir().unwrap();
        let (part, file) = (dir.path().join("file.part"), dir.path().join("file"));
        let opened = private().truncate(false).open(&part).unwrap();
        assert!(is_at(&opened, &part).unwrap());
        std::fs::rename(&part, &file).unwrap();
        assert!(!is_at(&opened, &part).unwrap());
        std::fs::write(&part, "").unwrap();
        assert!(!is_at(&opened, &part).unwrap());
    }
}
