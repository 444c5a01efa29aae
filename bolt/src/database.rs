//! An open database file: its meta page, its pages, and the SHA-256 behind a snapshot.
//!
//! Pages are read with `pread` when a walk comes to them, and each walk comes to each page once. So there is no
//! cache, and memory holds the pages on the way from the root to the current leaf. A mapped file would need
//! `unsafe`, and a file that is cut or whose disk fails would kill the process.

use crate::error::{Damage, Error, MetaFault};
use crate::page::{FREELIST, HEADER, Header, MAX_PAGE_SIZE, META_BYTES, MIN_PAGE_SIZE, Meta, NO_FREELIST, Node, Root};
use crate::walk::{Visited, Walk};
use bytes::{Buf, Bytes, BytesMut};
use sha2::{Digest, Sha256};
use std::fs::{File, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Length of the SHA-256 behind a snapshot.
pub(crate) const DIGEST: u64 = 32;
/// The block that a database's size is a multiple of; a SHA-256 is what is beyond (etcdctl decides so).
const SECTOR: u64 = 512;
/// Bytes read at a time while the SHA-256 is computed.
const CHUNK: usize = 1 << 16;
/// Buckets that are read; etcd has 10.
pub(crate) const MAX_BUCKETS: usize = 1000;

/// How a file is read.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// Compute the SHA-256 of a snapshot that has one, which reads the whole file. True unless told otherwise.
    pub verify_digest: bool,
    /// Take the other meta page when one is damaged, as bbolt does. The file is then as it was at the last
    /// transaction, or at the one before; nothing tells which. False unless told otherwise.
    pub one_meta_is_enough: bool,
    /// Most bytes of one page with its overflow, which is read into memory. bbolt puts up to four entries into
    /// a page that are larger than it. 512 MiB unless told otherwise.
    pub max_page_bytes: u64,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { verify_digest: true, one_meta_is_enough: false, max_page_bytes: 512 << 20 }
    }
}

/// Whether a file ends with a SHA-256, as the snapshots of etcdctl do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Snapshot {
    /// It does not: a member's own file.
    WithoutDigest,
    /// It does, and the digest is that of the bytes.
    Verified,
    /// It does; nobody asked whether it is right.
    Unverified,
}

/// A database, open for reading.
#[derive(Debug)]
pub struct Database {
    file: File,
    path: PathBuf,
    meta: Meta,
    snapshot: Snapshot,
    options: OpenOptions,
}

/// A bucket's entry.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key. It is a slice of the page it was read from, and keeps all of it in memory, as the value does.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// The page it was read from, 0 for an inline bucket.
    pub page: u64,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Keys and values are secrets: only the sizes are shown.
        let (key, value) = (self.key.len(), self.value.len());
        f.debug_struct("Entry").field("key", &key).field("value", &value).field("page", &self.page).finish()
    }
}

/// The entries of one bucket in key order. Ends after the first error.
pub struct Entries<'a> {
    bucket: Bytes,
    walk: Walk<'a>,
}

/// The names of the buckets, in order. Ends after the first error.
pub struct Buckets<'a> {
    walk: Walk<'a>,
    count: usize,
}

/// What a check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Check {
    /// Pages that hold something, the two meta pages and the list of free pages among them.
    pub used: u64,
    /// Pages that hold nothing.
    pub free: u64,
    /// Whether the file has a list of free pages. etcd writes none.
    pub has_freelist: bool,
}

impl Database {
    /// Opens a snapshot, or the `db` of a member that does not run.
    ///
    /// # Errors
    /// [`Error::InUse`] while a process has it open, [`Error::Digest`] and others when the file is damaged.
    pub fn open(path: &Path, options: OpenOptions) -> Result<Self, Error> {
        let io = Error::io(path);
        let file = File::open(path).map_err(&io)?;
        match file.try_lock_shared() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::InUse { path: path.to_owned() }),
            // Some network file systems have no locks; bbolt cannot run on those.
            Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {}
            Err(TryLockError::Error(error)) => return Err(io(error)),
        }
        let len = file.metadata().map_err(&io)?.len();
        let (len, snapshot) = match len.checked_sub(DIGEST) {
            Some(content) if len % SECTOR == DIGEST => {
                if options.verify_digest {
                    let mut stored = [0; DIGEST as usize];
                    file.read_exact_at(&mut stored, content).map_err(&io)?;
                    if digest(&file, content).map_err(&io)? != stored {
                        return Err(Error::Digest);
                    }
                    (content, Snapshot::Verified)
                } else {
                    (content, Snapshot::Unverified)
                }
            }
            _ => (len, Snapshot::WithoutDigest),
        };
        let meta = choose(&file, path, len, options.one_meta_is_enough)?;
        if meta.pages.checked_mul(u64::from(meta.page_size)).is_none_or(|needed| needed > len) {
            return Err(Error::Truncated { pages: meta.pages, page_size: meta.page_size, has: len });
        }
        Ok(Self { file, path: path.to_owned(), meta, snapshot, options })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there was a SHA-256.
    pub fn snapshot(&self) -> Snapshot {
        self.snapshot
    }

    /// Bytes of a page.
    pub fn page_size(&self) -> u32 {
        self.meta.page_size
    }

    /// Pages of the database, used or free.
    pub fn pages(&self) -> u64 {
        self.meta.pages
    }

    /// The page that the bucket of buckets begins with.
    pub(crate) fn root(&self) -> u64 {
        self.meta.root
    }

    /// The entries of a bucket, none when there is no such bucket.
    ///
    /// # Errors
    /// When the way to the bucket is damaged.
    pub fn bucket(&self, name: &str) -> Result<Option<Entries<'_>>, Error> {
        let mut buckets = self.buckets();
        while let Some(found) = buckets.next_root() {
            let (bucket, root) = found?;
            if bucket == name.as_bytes() {
                let walk = Walk::new(self, root, Visited::new(self.pages()));
                return Ok(Some(Entries { bucket, walk }));
            }
        }
        Ok(None)
    }

    /// The names of the buckets.
    pub fn buckets(&self) -> Buckets<'_> {
        let root = Root::Page(self.meta.root);
        Buckets { walk: Walk::new(self, root, Visited::new(self.pages())), count: 0 }
    }

    /// Reads everything: every page is used once, or free, and all keys are in order.
    ///
    /// # Errors
    /// The first damage found.
    pub fn check(&self) -> Result<Check, Error> {
        let mut buckets = self.buckets();
        let free = self.free_pages(&mut buckets.walk.visited)?;
        while let Some(found) = buckets.next_root() {
            let (bucket, root) = found?;
            // Pages must not be shared between buckets either.
            let visited = std::mem::replace(&mut buckets.walk.visited, Visited::new(0));
            let mut entries = Entries { bucket, walk: Walk::new(self, root, visited) };
            entries.by_ref().try_for_each(|entry| entry.map(drop))?;
            buckets.walk.visited = entries.walk.visited;
        }
        let used = &buckets.walk.visited;
        if let Some(free) = &free {
            for page in 0..self.pages() {
                match (used.contains(page), free.contains(page)) {
                    (true, true) => return Err(Error::Page { page, damage: Damage::FreeInUse }),
                    (false, false) => return Err(Error::Page { page, damage: Damage::Lost }),
                    _ => {}
                }
            }
        }
        let count = used.count();
        Ok(Check { used: count, free: self.pages() - count, has_freelist: free.is_some() })
    }

    /// The list of free pages, none when it was not written. Takes note of the pages that hold the list, and of
    /// the meta pages.
    fn free_pages(&self, used: &mut Visited) -> Result<Option<Visited>, Error> {
        for page in 0..2.min(self.pages()) {
            used.visit(page, 1);
        }
        let list = self.meta.freelist;
        if list == NO_FREELIST {
            return Ok(None);
        }
        let fail = Error::page(list);
        let (header, mut bytes) = self.read(list, used)?;
        if header.flags != FREELIST {
            return Err(fail(Damage::Kind { flags: header.flags }));
        }
        bytes.advance(HEADER);
        let count = match header.count {
            u16::MAX => bytes.try_get_u64_le().map_err(|_| fail(Damage::Short))?,
            count => u64::from(count),
        };
        if count > bytes.len() as u64 / 8 {
            return Err(fail(Damage::Elements { count }));
        }
        let mut free = Visited::new(self.pages());
        for _ in 0..count {
            let page = bytes.get_u64_le();
            if !(2..self.pages()).contains(&page) {
                return Err(Error::Page { page, damage: Damage::OutOfRange { pages: self.pages() } });
            }
            if !free.visit(page, 1) {
                return Err(Error::Page { page, damage: Damage::FreeTwice });
            }
        }
        Ok(Some(free))
    }

    /// Reads and checks a branch or leaf page that was not visited before.
    pub(crate) fn node(&self, page: u64, visited: &mut Visited) -> Result<Node, Error> {
        let (_, bytes) = self.read(page, visited)?;
        Node::parse(page, bytes).map_err(Error::page(page))
    }

    /// Reads a page with its overflow.
    fn read(&self, page: u64, visited: &mut Visited) -> Result<(Header, Bytes), Error> {
        let fail = Error::page(page);
        let (pages, page_size) = (self.meta.pages, self.meta.page_size);
        if !(2..pages).contains(&page) {
            return Err(fail(Damage::OutOfRange { pages }));
        }
        let start = page * u64::from(page_size);
        let mut bytes = BytesMut::zeroed(page_size as usize);
        self.file.read_exact_at(&mut bytes, start).map_err(Error::io(&self.path))?;
        let header = bytes.first_chunk().map(Header::decode).expect("invariant: a page is longer than its header");
        if header.id != page {
            return Err(fail(Damage::OtherId { found: header.id }));
        }
        let span = u64::from(header.overflow) + 1;
        if span > pages - page {
            return Err(fail(Damage::Overflow { overflow: header.overflow }));
        }
        // Invariant: open() has seen that the file holds all pages, so the bytes asked for are there.
        let (all, limit) = (span * u64::from(page_size), self.options.max_page_bytes);
        if all > limit {
            return Err(fail(Damage::TooLarge { bytes: all, limit }));
        }
        if !visited.visit(page, span) {
            return Err(fail(Damage::Twice));
        }
        let first = bytes.len();
        bytes.resize(all as usize, 0);
        self.file.read_exact_at(&mut bytes[first..], start + first as u64).map_err(Error::io(&self.path))?;
        Ok((header, bytes.freeze()))
    }
}

impl Entries<'_> {
    /// Pages that have been read so far, of [`Database::pages`]: free ones and those of other buckets never are.
    pub fn pages_read(&self) -> u64 {
        self.walk.visited.count()
    }
}

impl Iterator for Entries<'_> {
    type Item = Result<Entry, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let found = self.walk.next()?;
        Some(found.and_then(|found| {
            let damage = match found.flags {
                0 => return Ok(Entry { key: found.key, value: found.value, page: found.page }),
                crate::page::BUCKET => Damage::Nested { bucket: self.bucket.clone(), name: found.key },
                flags => Damage::Flags { index: found.index, flags },
            };
            self.walk.end();
            Err(Error::Page { page: found.page, damage })
        }))
    }
}

impl Buckets<'_> {
    /// A name and where its tree begins.
    pub(crate) fn next_root(&mut self) -> Option<Result<(Bytes, Root), Error>> {
        let found = match self.walk.next()? {
            Ok(found) => found,
            Err(error) => return Some(Err(error)),
        };
        self.count += 1;
        let bucket = if self.count > MAX_BUCKETS {
            Err(Error::TooManyBuckets { limit: MAX_BUCKETS })
        } else if found.flags == crate::page::BUCKET {
            Root::decode(&found.value).map(|root| (found.key, root)).map_err(|damage| {
                let damage = Damage::Bucket { index: found.index, damage: Box::new(damage) };
                Error::Page { page: found.page, damage }
            })
        } else {
            let damage = Damage::Flags { index: found.index, flags: found.flags };
            Err(Error::Page { page: found.page, damage })
        };
        if bucket.is_err() {
            self.walk.end();
        }
        Some(bucket)
    }
}

impl Iterator for Buckets<'_> {
    type Item = Result<Bytes, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.next_root()?.map(|(name, _)| name))
    }
}

/// SHA-256 of the first bytes of a file.
pub(crate) fn digest(file: &File, len: u64) -> std::io::Result<[u8; DIGEST as usize]> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    let mut at = 0;
    while at < len {
        let chunk = &mut buffer[..(len - at).min(CHUNK as u64) as usize];
        file.read_exact_at(chunk, at)?;
        hash.update(&*chunk);
        at += chunk.len() as u64;
    }
    Ok(hash.finalize().into())
}

/// The meta page of the last transaction.
fn choose(file: &File, path: &Path, len: u64, one_is_enough: bool) -> Result<Meta, Error> {
    let first = read_meta(file, path, len, 0, 0)?;
    let second = match first {
        Ok(first) => read_meta(file, path, len, 1, u64::from(first.page_size))?.and_then(|second| {
            if second.page_size == first.page_size {
                Ok(second)
            } else {
                Err(MetaFault::OtherPageSize(second.page_size))
            }
        }),
        // Only the meta page that is lost would say where the other one is.
        Err(_) => find_second(file, path, len)?,
    };
    match (first, second) {
        (Ok(first), Ok(second)) => Ok(if first.txid > second.txid { first } else { second }),
        (Ok(meta), Err(_)) | (Err(_), Ok(meta)) if one_is_enough => Ok(meta),
        (Ok(_), Err(fault)) => Err(Error::OneMeta { page: 1, fault }),
        (Err(fault), Ok(_)) => Err(Error::OneMeta { page: 0, fault }),
        (Err(first), Err(second)) => Err(Error::NoMeta { first, second }),
    }
}

/// Looks for meta page 1 behind a first page of every size.
fn find_second(file: &File, path: &Path, len: u64) -> Result<Result<Meta, MetaFault>, Error> {
    let mut worst = Err(MetaFault::Missing);
    let mut size = MIN_PAGE_SIZE;
    while size <= MAX_PAGE_SIZE {
        match read_meta(file, path, len, 1, u64::from(size))? {
            Ok(meta) if meta.page_size == size => return Ok(Ok(meta)),
            Ok(meta) => worst = Err(MetaFault::OtherPageSize(meta.page_size)),
            // What is nearly a meta page says more than a place that has none.
            Err(MetaFault::Missing | MetaFault::Magic(_)) if worst != Err(MetaFault::Missing) => {}
            Err(fault) => worst = Err(fault),
        }
        size *= 2;
    }
    Ok(worst)
}

fn read_meta(file: &File, path: &Path, len: u64, page: u64, at: u64) -> Result<Result<Meta, MetaFault>, Error> {
    let mut bytes = [0; META_BYTES];
    if at + META_BYTES as u64 > len {
        return Ok(Err(MetaFault::Missing));
    }
    file.read_exact_at(&mut bytes, at).map_err(Error::io(path))?;
    Ok(Meta::decode(page, &bytes))
}
