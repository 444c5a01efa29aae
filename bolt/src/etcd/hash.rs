//! Hashes and counts of a file, equal to those of etcd and etcdctl, to compare before and after.

use super::change::{Change, Revision};
use super::meta::Meta;
use super::{Record, RecordFault};
use crate::database::{Database, Entries};
use crate::error::Error;
use bytes::Bytes;
use std::collections::HashMap;

/// The hash of the history that an etcd answers which was started on the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashKv {
    /// CRC-32C as etcd computes it.
    pub hash: u32,
    /// The revision that was hashed.
    pub revision: i64,
    /// Revision of the store.
    pub current: i64,
    /// The last compaction, -1 for none.
    pub compacted: i64,
}

/// What `etcdctl snapshot status` says of a file, and what is in each bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// CRC-32C of the names and entries of all buckets.
    pub hash: u32,
    /// The last revision in the history, 0 without any.
    pub revision: i64,
    /// Entries of all buckets.
    pub entries: u64,
    /// Bytes of all pages.
    pub bytes: u64,
    /// In order of their names.
    pub buckets: Vec<BucketSummary>,
}

/// What is in one bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketSummary {
    /// Its name; etcd's are text.
    pub name: String,
    /// How many entries.
    pub entries: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
}

/// The last change of a key up to two revisions: the one that is hashed, and the last compaction.
#[derive(Clone, Copy, Default)]
struct Last {
    hashed: Option<Seen>,
    compacted: Option<Seen>,
}

#[derive(Clone, Copy)]
struct Seen {
    revision: Revision,
    is_tombstone: bool,
}

/// True when the change is the key's value at that time.
fn is_visible(last: Option<Seen>, revision: Revision) -> bool {
    last.is_some_and(|seen| seen.revision == revision && !seen.is_tombstone)
}

impl Database {
    /// CRC-32C of the literal `key`, then of each change up to `revision` (0 for the last) as it is stored. Of the
    /// changes up to the last compaction only those count that are still visible at `revision`; when no key exists
    /// at `revision`, those that a finished compaction keeps. So it is the same before and after a compaction has
    /// removed what it had to. Reads the history twice if there was a compaction, and has every key in memory then.
    ///
    /// # Errors
    /// A revision that was compacted or is in the future, and damage.
    pub fn hash_kv(&self, revision: i64) -> Result<HashKv, Error> {
        let compacted = self.settings::<Meta>()?.compacted().unwrap_or(-1);
        let (current, keys, any) = self.last_changes(revision, compacted)?;
        let current = current.max(compacted).max(1);
        let hashed = if revision == 0 { current } else { revision };
        if revision > current {
            return Err(Error::FutureRevision { revision, current });
        }
        if hashed < compacted {
            return Err(Error::Compacted { revision, compacted });
        }
        let mut hash = crc32c::crc32c(Change::BUCKET.as_bytes());
        for change in self.records::<Change>()? {
            let change = change?;
            if change.revision.main > hashed {
                break;
            }
            if change.revision.main <= compacted {
                let last = keys.get(change.fields().key).copied().unwrap_or_default();
                if !is_visible(if any { last.hashed } else { last.compacted }, change.revision) {
                    continue;
                }
            }
            let (key, value) = change.to_entry();
            hash = crc32c::crc32c_append(crc32c::crc32c_append(hash, &key), &value);
        }
        Ok(HashKv { hash, revision: hashed, current, compacted })
    }

    /// The last revision; and if there was a compaction, the last changes of each key, and whether any key exists
    /// at the revision that is hashed.
    fn last_changes(&self, revision: i64, compacted: i64) -> Result<(i64, HashMap<Box<[u8]>, Last>, bool), Error> {
        let mut current = 0;
        let mut keys: HashMap<Box<[u8]>, Last> = HashMap::new();
        for change in self.records::<Change>()? {
            let change = change?;
            current = change.revision.main;
            if compacted < 0 || revision > 0 && current > revision {
                continue;
            }
            let seen = Some(Seen { revision: change.revision, is_tombstone: change.is_tombstone });
            let key = change.fields().key;
            if !keys.contains_key(key) {
                keys.insert(key.into(), Last::default());
            }
            if let Some(last) = keys.get_mut(key) {
                last.hashed = seen;
                if current <= compacted {
                    last.compacted = seen;
                }
            }
        }
        let any = keys.values().any(|last| last.hashed.is_some_and(|seen| !seen.is_tombstone));
        Ok((current, keys, any))
    }

    /// Reads all buckets once.
    ///
    /// # Errors
    /// Damage, and a bucket whose name is not text.
    pub fn summary(&self) -> Result<Summary, Error> {
        self.summary_telling(&|_| {})
    }

    /// As [`Database::summary`], and tells how many bytes have been read, of [`Summary::bytes`]: free pages never are.
    ///
    /// # Errors
    /// As [`Database::summary`].
    pub fn summary_telling(&self, tell: &dyn Fn(u64)) -> Result<Summary, Error> {
        let bytes = self.pages() * u64::from(self.page_size());
        let mut summary = Summary { hash: crc32c::crc32c(b""), revision: 0, entries: 0, bytes, buckets: Vec::new() };
        let mut read = 0;
        for name in self.buckets() {
            let name = self.bucket_name(&name?)?;
            let mut hash = crc32c::crc32c_append(summary.hash, name.as_bytes());
            let mut bucket = BucketSummary { name, entries: 0, bytes: 0 };
            let (mut entries, before) = (self.bucket(&bucket.name)?, read);
            while let Some(entry) = entries.as_mut().and_then(Iterator::next) {
                let entry = entry?;
                let pages = entries.as_ref().map_or(0, Entries::pages_read);
                read = before + pages * u64::from(self.page_size());
                tell(read);
                hash = crc32c::crc32c_append(crc32c::crc32c_append(hash, &entry.key), &entry.value);
                bucket.entries += 1;
                bucket.bytes += (entry.key.len() + entry.value.len()) as u64;
                if bucket.name == Change::BUCKET {
                    let record = Change::from_entry(&entry.key, &entry.value);
                    let fail = |fault| Error::Record { page: entry.page, bucket: Change::BUCKET, fault };
                    summary.revision = record.map_err(fail)?.revision.main;
                }
            }
            summary.hash = hash;
            summary.entries += bucket.entries;
            summary.buckets.push(bucket);
        }
        Ok(summary)
    }

    fn bucket_name(&self, name: &Bytes) -> Result<String, Error> {
        let text = std::str::from_utf8(name).map(ToOwned::to_owned);
        text.map_err(|_| Error::Record { page: self.root(), bucket: "of buckets", fault: RecordFault::Key("text") })
    }
}
