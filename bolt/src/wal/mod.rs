//! etcd's write-ahead log, read only: what a member has accepted that its database may not have yet.
//!
//! ```text
//! member/wal/<sequence>-<index of its first entry>.wal, both 16 hexadecimal digits
//!   frame     u64: the record's length in the low 56 bits; if the top bit is set, bits 56 to 58 are padding bytes
//!   record    walpb.Record: type, CRC-32C of the data of all records so far, data
//! ```
//!
//! Every segment begins with a record that has the checksum so far. The last one is longer than what it holds: a length
//! of 0 is its end. An entry with an index that was there before replaces that one and all behind it.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz_target;
mod log;
mod message;
mod record;

pub use log::{Bounds, Entries, Log, LogEntry, Torn};
pub use message::{
    ClusterMemberAttrSetRequest, ClusterVersionSetRequest, ConfChange, ConfChangeSingle, ConfChangeV2,
    DowngradeInfoSetRequest, HardState, InternalAuthenticateRequest, InternalRaftRequest, MemberAttributes, Metadata,
    Payload, RequestHeader, V2Request,
};
pub use record::LogFault;
