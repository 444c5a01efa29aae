//! What can be wrong with a file, a data directory, or with what is to be written.

use crate::etcd::RecordFault;
use crate::wal::LogFault;
use bytes::Bytes;
use std::io;
use std::path::{Path, PathBuf};

/// Why a file was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// Of what.
        path: PathBuf,
        /// Its words.
        source: io::Error,
    },
    /// A process has the database open.
    #[error("{} is in use by a running process: stop it, or take a snapshot from it", path.display())]
    InUse {
        /// The database.
        path: PathBuf,
    },
    /// The SHA-256 behind a snapshot is not that of its bytes.
    #[error("the snapshot's bytes are not those that its SHA-256 was made of: the file is damaged")]
    Digest,
    /// Neither meta page can be used.
    #[error("no bbolt database: meta page 0: {first}; meta page 1: {second}")]
    NoMeta {
        /// What is wrong with page 0.
        first: MetaFault,
        /// What is wrong with page 1.
        second: MetaFault,
    },
    /// One meta page is damaged, so it is not known which transaction was the last.
    #[error("meta page {page}: {fault}: what the other one describes may be older than the last transaction")]
    OneMeta {
        /// 0 or 1.
        page: u64,
        /// What is wrong with it.
        fault: MetaFault,
    },
    /// The file ends before its last page.
    #[error("the file is cut: it has {pages} pages of {page_size} bytes, and {has} bytes")]
    Truncated {
        /// Pages that belong to the database.
        pages: u64,
        /// Size of a page.
        page_size: u32,
        /// Length of the file, without the SHA-256 of a snapshot.
        has: u64,
    },
    /// A page is damaged.
    #[error("page {page}: {damage}")]
    Page {
        /// Its number.
        page: u64,
        /// What is wrong.
        damage: Damage,
    },
    /// More buckets than any etcd makes.
    #[error("more than {limit} buckets: this is no database of etcd")]
    TooManyBuckets {
        /// How many are read.
        limit: usize,
    },
    /// A bucket of etcd holds what etcd does not write.
    #[error("page {page}: bucket {bucket}: {fault}")]
    Record {
        /// The leaf page, 0 for a bucket inside the page of its parent.
        page: u64,
        /// The bucket.
        bucket: &'static str,
        /// What is wrong.
        fault: RecordFault,
    },
    /// The hash is wanted at a revision whose history was compacted.
    #[error("revision {revision} has been compacted: the last compaction was at {compacted}")]
    Compacted {
        /// What was asked for.
        revision: i64,
        /// The last compaction.
        compacted: i64,
    },
    /// The hash is wanted at a revision that the file does not have.
    #[error("revision {revision} is in the future: the last one is {current}")]
    FutureRevision {
        /// What was asked for.
        revision: i64,
        /// The last revision.
        current: i64,
    },
    /// An entry or bucket that cannot be written.
    #[error("cannot write this: {0}")]
    Write(#[from] WriteFault),
    /// The write-ahead log is damaged or incomplete.
    #[error("{}: {fault}", path.display())]
    Log {
        /// The segment, or the directory of all.
        path: PathBuf,
        /// What is wrong.
        fault: LogFault,
    },
    /// The log has a snapshot that the database does not have.
    #[error(
        "the database has applied index {applied}, the log begins behind a snapshot at {snapshot}, and {} is not there",
        path.display()
    )]
    SnapshotMissing {
        /// What the database has.
        applied: u64,
        /// What the log needs.
        snapshot: u64,
        /// Where the snapshot's database would be.
        path: PathBuf,
    },
}

impl Error {
    /// What the file system said of a path.
    pub(crate) fn io(path: &Path) -> impl Fn(io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.to_owned(), source }
    }

    /// Adds the number of the page to what is wrong with it.
    pub(crate) fn page(page: u64) -> impl Fn(Damage) -> Self {
        move |damage| Self::Page { page, damage }
    }

    /// Adds the log's path to what is wrong with it.
    pub(crate) fn log(path: &Path) -> impl Fn(LogFault) -> Self + '_ {
        move |fault| Self::Log { path: path.to_owned(), fault }
    }
}

/// What is wrong with a meta page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetaFault {
    /// The file ends before it.
    #[error("the file ends before it")]
    Missing,
    /// The page does not say that it is a meta page.
    #[error("the page has number {id} and flags {flags:#x}")]
    Header {
        /// The number it has.
        id: u64,
        /// What it says it is.
        flags: u16,
    },
    /// No bbolt database, or one of a machine with another byte order.
    #[error("the magic number is {0:#010x}")]
    Magic(u32),
    /// Another format.
    #[error("the format has version {0}, not 2")]
    Version(u32),
    /// The checksum is not that of the fields.
    #[error("the checksum does not match")]
    Checksum,
    /// No size that a page can have.
    #[error("the page size is {0}")]
    PageSize(u32),
    /// The two meta pages are of different databases.
    #[error("the page size is {0}, that of the other meta page is not")]
    OtherPageSize(u32),
}

/// What is wrong with a page.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// Something refers to a page that the database does not have.
    #[error("is referred to, but the database has pages 2 to {}", pages.saturating_sub(1))]
    OutOfRange {
        /// Pages of the database.
        pages: u64,
    },
    /// The page says that it is another one.
    #[error("has the number {found}")]
    OtherId {
        /// What it says.
        found: u64,
    },
    /// Not the kind of page that is expected here.
    #[error("has the flags {flags:#x} of another kind of page")]
    Kind {
        /// What it says it is.
        flags: u16,
    },
    /// More bytes than a reader takes into memory.
    #[error("spans {bytes} bytes, more than the limit of {limit}")]
    TooLarge {
        /// The page with its overflow.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// The page with its overflow ends behind the database.
    #[error("has {overflow} overflow pages, more than there are")]
    Overflow {
        /// What it says.
        overflow: u32,
    },
    /// The elements are not as many as there is room for.
    #[error("has {count} elements, which is not what is in the page")]
    Elements {
        /// What it says.
        count: u64,
    },
    /// An element's bytes are not behind those of the element before, or not inside the page.
    #[error("element {index} does not begin where the one before ends, or is not inside the page")]
    Element {
        /// Its place.
        index: usize,
    },
    /// A key of no bytes.
    #[error("element {index} has an empty key")]
    EmptyKey {
        /// Its place.
        index: usize,
    },
    /// An element of a kind that does not belong here.
    #[error("element {index} has the flags {flags:#x}")]
    Flags {
        /// Its place.
        index: usize,
        /// What it says it is.
        flags: u32,
    },
    /// A page that leads nowhere.
    #[error("has no elements")]
    NoElements,
    /// The second way to the same page: a cycle, or two owners.
    #[error("is referred to twice")]
    Twice,
    /// Keys do not ascend, or are not between those of the branch above.
    #[error("element {index} is out of order")]
    Order {
        /// Its place.
        index: usize,
    },
    /// More levels than a tree can have.
    #[error("is more than {limit} levels deep")]
    Depth {
        /// Most levels.
        limit: usize,
    },
    /// The value that describes a bucket is none.
    #[error("element {index} describes no bucket: {damage}")]
    Bucket {
        /// Its place.
        index: usize,
        /// What is wrong.
        damage: Box<Self>,
    },
    /// The description of a bucket is cut.
    #[error("too few bytes")]
    Short,
    /// A bucket inside a bucket of etcd.
    #[error("bucket {} has a nested bucket {}: etcd has none", Name(bucket), Name(name))]
    Nested {
        /// The outer bucket.
        bucket: Bytes,
        /// The nested one.
        name: Bytes,
    },
    /// On the list of free pages, and used.
    #[error("is used and on the list of free pages")]
    FreeInUse,
    /// On the list of free pages twice.
    #[error("is on the list of free pages twice")]
    FreeTwice,
    /// Neither used nor on the list of free pages.
    #[error("is neither used nor on the list of free pages")]
    Lost,
}

/// Most bytes of a bucket's name in a message.
const NAME_SHOWN: usize = 64;

/// Shows the name of a bucket, whatever bytes it has.
struct Name<'a>(&'a Bytes);

impl std::fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "\"{}\"", self.0[..self.0.len().min(NAME_SHOWN)].escape_ascii())
    }
}

/// Why something was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteFault {
    /// A key of no bytes.
    #[error("an empty key")]
    EmptyKey,
    /// A key that bbolt does not take.
    #[error("a key of {len} bytes, more than {limit}")]
    LargeKey {
        /// Its length.
        len: usize,
        /// The longest.
        limit: usize,
    },
    /// A value that is too long.
    #[error("a value of {len} bytes, more than {limit}")]
    LargeValue {
        /// Its length.
        len: usize,
        /// The longest.
        limit: usize,
    },
    /// Keys have to ascend.
    #[error("a key that is not behind the one before it")]
    Order,
    /// Keys belong to a bucket.
    #[error("a key before any bucket")]
    NoBucket,
    /// Every bucket is written once.
    #[error("a bucket for the second time")]
    Twice,
    /// More buckets than are read.
    #[error("more than {limit} buckets")]
    TooManyBuckets {
        /// Most buckets.
        limit: usize,
    },
    /// No size that a page can have.
    #[error("pages of {0} bytes")]
    PageSize(u32),
}
