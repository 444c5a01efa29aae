//! etcd's buckets as typed records, for etcd 3.3 to 3.6 and what is known of later ones.
//!
//! Buckets of many records ([`Change`], [`Lease`], alarms, users, roles, [`Member`], [`RemovedMember`]) are iterators;
//! those of a few settings ([`Meta`], [`Auth`], [`Cluster`]) are read as a whole. A bucket that is not there, because
//! the etcd that wrote the file does not know it, reads as an empty one. Both directions are here, so that what is
//! read can be written again.

mod auth;
mod change;
mod hash;
mod lease;
mod membership;
mod meta;

pub use auth::Auth;
pub use change::{Change, Revision};
pub use hash::{BucketSummary, HashKv, Summary};
pub use lease::Lease;
pub use membership::{Cluster, Downgrade, Member, RemovedMember};
pub use meta::{ConfState, Meta};

use crate::database::{Database, Entries, Entry};
use crate::error::Error;
use crate::write::Writer;
use bytes::Bytes;
use std::marker::PhantomData;

/// A record of a bucket that has many.
pub trait Record: Sized {
    /// The bucket's name.
    const BUCKET: &'static str;

    /// Reads a record.
    ///
    /// # Errors
    /// When etcd does not write it so.
    fn from_entry(key: &Bytes, value: &Bytes) -> Result<Self, RecordFault>;

    /// The key and the value.
    fn to_entry(&self) -> (Bytes, Bytes);
}

/// The settings in a bucket that has few.
pub trait Settings: Default {
    /// The bucket's name.
    const BUCKET: &'static str;

    /// Takes one setting. One that is not known is left out.
    ///
    /// # Errors
    /// When etcd does not write it so.
    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), RecordFault>;

    /// The settings that there are, in key order.
    fn entries(&self) -> Vec<(&'static str, Vec<u8>)>;
}

/// What is wrong with a record.
#[derive(Debug, thiserror::Error)]
pub enum RecordFault {
    /// The key has another length.
    #[error("a key of {0} bytes")]
    KeyLength(usize),
    /// The key is not written as etcd writes it.
    #[error("a key that is no {0}")]
    Key(&'static str),
    /// The value is not what the key says.
    #[error("{what}: {len} bytes are no such value")]
    Value {
        /// The setting.
        what: &'static str,
        /// Length of the value.
        len: usize,
    },
    /// The value is no message.
    #[error("a value that cannot be decoded: {0}")]
    Decode(#[from] prost::DecodeError),
    /// The value is not the JSON that it should be. Of the value only the place is told.
    #[error("a value that is not the JSON expected, at column {column}")]
    Json {
        /// Where.
        column: usize,
    },
    /// Key and value are of different things.
    #[error("key and value have different {0}")]
    Mismatch(&'static str),
}

impl From<serde_json::Error> for RecordFault {
    fn from(error: serde_json::Error) -> Self {
        Self::Json { column: error.column() }
    }
}

/// The records of one bucket, in key order. Ends after the first error.
pub struct Records<'a, R> {
    entries: Option<Entries<'a>>,
    record: PhantomData<R>,
}

impl<R> Records<'_, R> {
    /// As [`Entries::pages_read`]; 0 behind an error, and of a bucket that is not there.
    pub fn pages_read(&self) -> u64 {
        self.entries.as_ref().map_or(0, Entries::pages_read)
    }
}

impl<R: Record> Iterator for Records<'_, R> {
    type Item = Result<R, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let record = self.entries.as_mut()?.next()?.and_then(|Entry { key, value, page }| {
            R::from_entry(&key, &value).map_err(|fault| Error::Record { page, bucket: R::BUCKET, fault })
        });
        if record.is_err() {
            self.entries = None;
        }
        Some(record)
    }
}

impl Database {
    /// The records of a bucket.
    ///
    /// # Errors
    /// When the way to the bucket is damaged.
    pub fn records<R: Record>(&self) -> Result<Records<'_, R>, Error> {
        Ok(Records { entries: self.bucket(R::BUCKET)?, record: PhantomData })
    }

    /// The settings in a bucket.
    ///
    /// # Errors
    /// When the bucket is damaged, or has what etcd does not write.
    pub fn settings<S: Settings>(&self) -> Result<S, Error> {
        let mut settings = S::default();
        for entry in self.bucket(S::BUCKET)?.into_iter().flatten() {
            let Entry { key, value, page } = entry?;
            settings.set(&key, &value).map_err(|fault| Error::Record { page, bucket: S::BUCKET, fault })?;
        }
        Ok(settings)
    }
}

impl Writer {
    /// Writes a bucket of records, which must be in key order.
    ///
    /// # Errors
    /// As [`Writer::put`], and the first error among the records.
    pub fn records<R: Record>(&mut self, records: impl IntoIterator<Item = Result<R, Error>>) -> Result<(), Error> {
        self.bucket(R::BUCKET)?;
        for record in records {
            let (key, value) = record?.to_entry();
            self.put(&key, &value)?;
        }
        Ok(())
    }

    /// Writes a bucket of settings.
    ///
    /// # Errors
    /// As [`Writer::put`].
    pub fn settings<S: Settings>(&mut self, settings: &S) -> Result<(), Error> {
        self.bucket(S::BUCKET)?;
        settings.entries().iter().try_for_each(|(key, value)| self.put(key.as_bytes(), value))
    }
}

/// A big endian integer that is all of a value.
fn read_u64(what: &'static str, value: &[u8]) -> Result<u64, RecordFault> {
    let bytes = value.try_into().map_err(|_| RecordFault::Value { what, len: value.len() })?;
    Ok(u64::from_be_bytes(bytes))
}

/// Text that is all of a value.
fn read_text(what: &'static str, value: &[u8]) -> Result<String, RecordFault> {
    let text = std::str::from_utf8(value).map_err(|_| RecordFault::Value { what, len: value.len() })?;
    Ok(text.to_owned())
}

/// JSON of a message made of plain fields.
fn write_json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("invariant: plain fields with names make JSON")
}
