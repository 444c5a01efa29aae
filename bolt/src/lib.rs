//! etcd's files: the database (a bbolt file, also as a snapshot of etcdctl) and the write-ahead log of a member.
//!
//! - [`Database`] reads a file, [`Writer`] makes one that etcd takes. Both stream: memory does not grow with the file.
//! - [`etcd`] has etcd's buckets as types, and the hashes that etcd computes over them.
//! - [`Member`] is the data directory of a member that does not run: its database, and what its log ([`wal`]) has
//!   beyond it.
//!
//! Damage is an error that names the page or the place in the log. It is never a panic, a loop without an end, or
//! memory that a length field asks for and the file does not back. What has no checksum cannot be told from damage,
//! though: bbolt has checksums for its two meta pages alone, so only a snapshot's SHA-256 proves a file whole.
//!
//! Nothing here changes an etcd file.

pub mod etcd;
pub mod wal;

mod database;
mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzz_target;
mod member;
mod page;
#[cfg(test)]
mod tests;
mod walk;
mod write;

pub use database::{Buckets, Check, Database, Entries, Entry, OpenOptions, Snapshot};
pub use error::{Damage, Error, MetaFault, WriteFault};
pub use member::{Member, Pending};
pub use write::{MAX_KEY_BYTES, MAX_VALUE_BYTES, WriteOptions, Writer};
