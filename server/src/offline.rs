//! What is done to a data directory while no member uses it.
//!
//! [`begin`] makes the directory of a founder of a new cluster, with a store that comes from elsewhere: a snapshot
//! ([`SnapshotFile`]), or etcd. Every founder is made from the same file with the same flags but its name and directory. They begin as members do that were brought up to date by a
//! snapshot: at the first position of the new log, with its members known, so that whoever joins later gets the store
//! and not only what was logged since.

use crate::bootstrap::{self, Beginning, BootstrapError};
use crate::data_dir::{DataDir, DataDirError};
use crate::node::Identity;
use crate::raft::log_store::{LogStore, LogStoreOptions};
use crate::raft::types::{Membership, StoredMembership, Vote, encode_stored_membership, log_id};
use discovery::{InitialCluster, Me, ParseError, Source};
use openraft::storage::RaftLogStorage as _;
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use store::snapshot::Snapshot;
use store::{Fault, Position, Renewed};

/// What a snapshot's stream is padded to: whatever is behind the last whole block is its hash.
const BLOCK_BYTES: u64 = 512;
const HASH_BYTES: u64 = 32;

/// The term and index at which a restored cluster begins.
const BEGINNING: (u64, u64) = (1, 0);

/// The founder of a new cluster. Named like etcd's flags.
#[derive(Clone, Debug)]
pub struct Founder {
    /// The directory to make. It may exist if it is empty.
    pub data_dir: PathBuf,
    /// Where the log will be; below the data directory by default.
    pub wal_dir: Option<PathBuf>,
    /// The member's name.
    pub name: String,
    /// `name=url,...` of all founders.
    pub initial_cluster: String,
    /// What tells this cluster from others with the same members.
    pub initial_cluster_token: String,
    /// This member's peer URLs.
    pub initial_advertise_peer_urls: Vec<String>,
    /// Moves the revision up, see [`store::renew`].
    pub bump_revision: u64,
}

/// A member that was made.
#[derive(Clone, Copy, Debug)]
pub struct Begun {
    /// Of the new cluster. Made of the store too: founders that begin with different ones do not meet.
    pub cluster_id: u64,
    /// Of this member.
    pub member_id: u64,
    /// The store's numbers.
    pub store: Renewed,
}

/// Why a snapshot file is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// It cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// There is no hash behind the snapshot. The first half is etcd's text.
    #[error("snapshot missing hash but --skip-hash-check=false; it was cut off, or is a copy of a database")]
    NoHash,
    /// The hash is another one. The first half is etcd's text.
    #[error("expected sha256 {expected}, got {found}; the snapshot was damaged, take another one")]
    OtherHash {
        /// What the file says.
        expected: String,
        /// What its bytes give.
        found: String,
    },
    /// It is no snapshot, or the database cannot be written.
    #[error(transparent)]
    Store(#[from] Fault),
}

/// Why there is no new member. What was begun has been removed, but for what cannot be.
#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    /// The directory has something in it. The first half is etcd's text.
    #[error("data-dir {:?} exists; move it away, or name another one with --data-dir", .0)]
    Exists(PathBuf),
    /// The list of founders cannot be read.
    #[error("--initial-cluster: {0}")]
    List(#[from] ParseError),
    /// The flags do not say who this member is.
    #[error(transparent)]
    Cluster(#[from] discovery::Error),
    /// The directory cannot be made.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The identity cannot be written.
    #[error(transparent)]
    Identity(#[from] BootstrapError),
    /// The store cannot be read or written.
    #[error(transparent)]
    Store(#[from] Fault),
    /// The log cannot be begun.
    #[error("cannot begin the log in {}: {reason}", dir.display())]
    Log {
        /// Where.
        dir: PathBuf,
        /// Why.
        reason: String,
    },
}

/// A snapshot file that is what its hash says.
#[derive(Debug)]
pub struct SnapshotFile {
    file: File,
    path: PathBuf,
    /// Bytes of the stream, without the hash.
    pub bytes: u64,
}

impl SnapshotFile {
    /// Opens a file and checks its hash.
    ///
    /// # Errors
    /// It cannot be read, has no hash (unless that is to be skipped), or another one.
    pub fn open(path: &Path, skip_hash_check: bool) -> Result<Self, SnapshotError> {
        Self::open_telling(path, skip_hash_check, &|_| {})
    }

    /// As [`SnapshotFile::open`], and tells how many bytes have been read, of as many as the file has.
    ///
    /// # Errors
    /// As [`SnapshotFile::open`].
    pub fn open_telling(path: &Path, skip_hash_check: bool, tell: &dyn Fn(u64)) -> Result<Self, SnapshotError> {
        let failed = |source| SnapshotError::Read { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(failed)?;
        let len = file.metadata().map_err(failed)?.len();
        let has_hash = len % BLOCK_BYTES == HASH_BYTES;
        if !has_hash && !skip_hash_check {
            return Err(SnapshotError::NoHash);
        }
        let bytes = if has_hash { len - HASH_BYTES } else { len };
        let mut digest = Sha256::new();
        io::copy(&mut Telling { stream: (&file).take(bytes), bytes: 0, tell }, &mut digest).map_err(failed)?;
        let hash: [u8; 32] = digest.finalize().into();
        if has_hash {
            let mut expected = [0; 32];
            file.read_exact(&mut expected).map_err(failed)?;
            if expected != hash && !skip_hash_check {
                return Err(SnapshotError::OtherHash { expected: hex(&expected), found: hex(&hash) });
            }
        }
        file.seek(SeekFrom::Start(0)).map_err(failed)?;
        Ok(Self { file, path: path.to_owned(), bytes })
    }

    /// Brings the snapshot into a new database file, and tells how many bytes have been read, of [`SnapshotFile::bytes`].
    ///
    /// # Errors
    /// [`Fault`]: it is no snapshot, or the file cannot be written.
    pub fn import(&self, database: &Path, tell: &dyn Fn(u64)) -> Result<(), SnapshotError> {
        let failed = |source| SnapshotError::Read { path: self.path.clone(), source };
        let mut stream = &self.file;
        stream.seek(SeekFrom::Start(0)).map_err(failed)?;
        let stream = Telling { stream: stream.take(self.bytes), bytes: 0, tell };
        let stream = io::BufReader::with_capacity(1 << 20, stream);
        Ok(store::snapshot::import(stream, database, &store::Options::default())?)
    }
}

/// A stream that tells how many bytes have been read of it.
struct Telling<'a, R> {
    stream: R,
    bytes: u64,
    tell: &'a dyn Fn(u64),
}

impl<R: Read> Read for Telling<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.stream.read(buffer)?;
        self.bytes += read as u64;
        (self.tell)(self.bytes);
        Ok(read)
    }
}

/// Makes the data directory of a founder. `fill` makes the database at the path that it gets. Blocking, but for names that
/// are looked up.
///
/// # Errors
/// [`BeginError`], or what `fill` failed with; then the directory is as it was.
pub async fn begin<E: From<BeginError>>(
    founder: &Founder,
    fill: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<Begun, E> {
    let dir = &founder.data_dir;
    if !is_free(dir) || founder.wal_dir.as_ref().is_some_and(|dir| !is_free(dir)) {
        return Err(BeginError::Exists(dir.clone()).into());
    }
    let me = Me { name: founder.name.clone(), peer_urls: founder.initial_advertise_peer_urls.clone() };
    let listed = InitialCluster::parse(&founder.initial_cluster, &founder.initial_cluster_token);
    let source = Source::Static(listed.map_err(BeginError::from)?);
    let cluster = discovery::resolve(&source, &me, &discovery::Options::default()).await;
    let cluster = cluster.map_err(BeginError::from)?;
    let existed = dir.exists();
    let done = async {
        let data_dir = DataDir::open(dir).map_err(BeginError::from)?;
        fill(&database_in(&data_dir))?;
        Ok(begin_with(founder, &data_dir, &cluster).await?)
    };
    let done = done.await;
    if done.is_err() {
        remove(founder, existed);
    }
    done
}

fn database_in(data_dir: &DataDir) -> PathBuf {
    data_dir.member().join("store.redb")
}

/// Makes a member of the directory that has its database.
async fn begin_with(founder: &Founder, data_dir: &DataDir, cluster: &InitialCluster) -> Result<Begun, BeginError> {
    let database = database_in(data_dir);
    let mut beginning = bootstrap::found(cluster, &founder.name);
    // It is not to found the cluster: it begins with a log that says so.
    beginning.founds_alone = false;
    let (term, index) = BEGINNING;
    let members = Membership::new(vec![beginning.founders.keys().copied().collect()], beginning.founders.clone());
    let wal_dir = founder.wal_dir.clone().unwrap_or_else(|| data_dir.member().join("wal"));
    let no_log = |reason: String| BeginError::Log { dir: wal_dir.clone(), reason };
    let members = members.map_err(|error| no_log(error.to_string()))?;
    let stored = StoredMembership::new(Some(log_id(term, index)), members);
    let applied = Position { term, index: index + 1 };
    let membership = encode_stored_membership(&stored);
    let options = store::Options::default();
    let (store, snapshot) = store::renew(&database, (applied, &membership), founder.bump_revision, &options)?;
    beginning.identity.cluster_id = cluster_id(beginning.identity.cluster_id, snapshot)?;
    begin_log(&wal_dir, &beginning).await.map_err(no_log)?;
    bootstrap::write_settled(&founder.data_dir, &beginning)?;
    let Identity { cluster_id, member_id } = beginning.identity;
    Ok(Begun { cluster_id, member_id, store })
}

/// A log that goes on behind the beginning.
async fn begin_log(dir: &Path, beginning: &Beginning) -> Result<(), String> {
    let (term, index) = BEGINNING;
    let mut log = LogStore::open(dir, LogStoreOptions::default()).map_err(|error| error.to_string())?;
    let text = |error: io::Error| error.to_string();
    log.save_vote(&Vote::new(term, beginning.identity.member_id)).await.map_err(text)?;
    log.follow(Some(log_id(term, index))).await.map_err(text)
}

/// The id of the cluster that the flags name and the store begins: of all that the store's snapshot has.
fn cluster_id(named: u64, mut snapshot: Snapshot) -> Result<u64, Fault> {
    let mut digest = Sha256::new();
    digest.update(named.to_be_bytes());
    while let Some(frame) = snapshot.next_frame()? {
        digest.update(&frame);
    }
    let digest: [u8; 32] = digest.finalize().into();
    Ok(digest.iter().take(8).fold(0, |id, byte| id << 8 | u64::from(*byte)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// True if there is nothing in a directory, but for what a new file system has.
fn is_free(dir: &Path) -> bool {
    match dir.read_dir() {
        Ok(mut entries) => entries.all(|entry| entry.is_ok_and(|entry| entry.file_name() == "lost+found")),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// Removes what was begun. Best effort: what stays is refused at the next attempt.
fn remove(founder: &Founder, existed: bool) {
    let dir = &founder.data_dir;
    for made in ["member", "FORMAT", "FORMAT.new", "LOCK", "IDENTITY", "IDENTITY.new"] {
        let made = dir.join(made);
        drop(if made.is_dir() { std::fs::remove_dir_all(&made) } else { std::fs::remove_file(&made) });
    }
    if let Some(wal_dir) = &founder.wal_dir {
        drop(std::fs::remove_dir_all(wal_dir));
    }
    if !existed {
        drop(std::fs::remove_dir(dir));
    }
}
